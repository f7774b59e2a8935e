package pgsession

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// resealPasses bounds how often Reseal looks again for rows that were written under
// it.
const resealPasses = 10

// Reseal seals anew, under the primary key, the rows that lie under another, and
// returns how many. It is the last step of a rotation before the old key is retired:
// see [Crypto]. It works beside all other operations, 500 rows a transaction, and may
// be run again after an error. It returns [ErrUnknownKey] or [ErrTampered], and how
// many, where rows do not open; they stay as they are, and all others are resealed. It
// returns [ErrConflict] where a node that it does not know of keeps sealing under an
// old key. In a plaintext store it does nothing.
func (s *Store) Reseal(ctx context.Context) (int64, error) {
	if s.crypto == nil {
		return 0, nil
	}
	var resealed int64
	for range resealPasses {
		pass, err := s.resealPass(ctx)
		resealed += pass.resealed
		if err != nil {
			return resealed, s.wrap("reseal", err)
		}
		if pass.overtaken == 0 {
			return resealed, pass.unopened()
		}
	}
	return resealed, ErrConflict
}

type resealPass struct {
	resealed  int64
	overtaken int64 // written by somebody else between the look and the swap
	tampered  int64
	unknown   int64
}

func (p resealPass) unopened() error {
	var errs []error
	if p.tampered > 0 {
		errs = append(errs, fmt.Errorf("%w: %d rows", ErrTampered, p.tampered))
	}
	if p.unknown > 0 {
		errs = append(errs, fmt.Errorf("%w: %d rows", ErrUnknownKey, p.unknown))
	}
	return errors.Join(errs...)
}

func (s *Store) resealPass(ctx context.Context) (pass resealPass, err error) {
	last := []byte{}
	for {
		page, err := s.rowsUnderOtherKeys(ctx, last)
		if err != nil || len(page) == 0 {
			return pass, err
		}
		last = page[len(page)-1].Key
		if err := s.resealPage(ctx, page, &pass); err != nil {
			return pass, err
		}
	}
}

type sealedRow struct {
	Key, UserKey, Sealed []byte
	Version              int64
	CreatedAt            pgtype.Timestamptz
}

func (s *Store) rowsUnderOtherKeys(ctx context.Context, after []byte) (page []sealedRow, err error) {
	primary := binary.BigEndian.AppendUint32(nil, s.crypto.primaryID())
	err = s.retryRead(ctx, func() error {
		rows, err := s.pool.Query(ctx, s.sql[otherKeysSQL], after, primary, pageSize)
		if err != nil {
			return err
		}
		page, err = pgx.CollectRows(rows, pgx.RowToStructByPos[sealedRow])
		return err
	})
	return page, err
}

// The key id is the payload's second to fifth byte.
var otherKeysSQL = newStatement(`
	SELECT s.key, s.user_key, s.sealed, s.version, s.created_at
	FROM {sessions} AS s
	WHERE s.key > $1 AND octet_length(s.key) = 32 AND s.sealed IS NOT NULL AND substring(s.sealed FROM 2 FOR 4) <> $2
	ORDER BY s.key
	LIMIT $3`)

func (s *Store) resealPage(ctx context.Context, page []sealedRow, pass *resealPass) error {
	var (
		keys, userKeys, payloads [][]byte
		versions                 []int64
		created                  []pgtype.Timestamptz
	)
	for _, row := range page {
		userID, kind, values, err := s.crypto.openRow(row.Sealed, row.Key, row.UserKey)
		switch {
		case errors.Is(err, ErrUnknownKey):
			pass.unknown++
			continue
		case err != nil:
			pass.tampered++
			continue
		}
		sealed, userKey, err := s.crypto.sealRow(userID, kind, values, row.Key)
		if err != nil {
			return err
		}
		keys, userKeys, payloads = append(keys, row.Key), append(userKeys, userKey), append(payloads, sealed)
		versions, created = append(versions, row.Version), append(created, row.CreatedAt)
	}
	swapped, err := s.exec(ctx, resealSQL, keys, userKeys, payloads, versions, created)
	if err != nil {
		return err
	}
	pass.resealed += swapped
	pass.overtaken += int64(len(keys)) - swapped
	return nil
}

var resealSQL = newStatement(`
	WITH pgsession_held AS (
		SELECT s.key
		FROM {sessions} AS s
		WHERE s.key = ANY($1::bytea[])
		ORDER BY s.key
		FOR UPDATE
	)
	UPDATE {sessions} AS s
	SET user_key = new.user_key, sealed = new.sealed, version = {next}
	FROM pgsession_held AS held, unnest($1::bytea[], $2::bytea[], $3::bytea[], $4::bigint[], $5::timestamptz[])
		AS new (key, user_key, sealed, version, created_at)
	WHERE s.key = held.key AND s.key = new.key AND s.sealed IS NOT NULL
		AND s.version = new.version AND s.created_at = new.created_at`)
