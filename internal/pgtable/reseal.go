package pgtable

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgsession/pgsession/internal/rows"
)

// PageToReseal is part of [rows.Table].
func (t *Table) PageToReseal(ctx context.Context, after rows.Key, limit int, keyID [4]byte) ([]rows.Row, error) {
	return t.list(ctx, t.sql.Load().pageToReseal, after.Bytes(), keyID[:], limit, pageBytes)
}

// The key id is the payload's second to fifth byte.
const pageToResealSQL = `
	SELECT ` + columns + `
	FROM (
		SELECT s.*, ` + bytesBefore + `
		FROM (
			SELECT s.*
			FROM sessions AS s
			WHERE s.key > $1 AND ` + isOurs + ` AND s.sealed IS NOT NULL AND substring(s.sealed FROM 2 FOR 4) <> $2
			ORDER BY s.key
			LIMIT $3
		) AS s
	) AS s
	WHERE s.pgsession_bytes_before < $4
	ORDER BY s.key`

// PageToSeal is part of [rows.Table].
func (t *Table) PageToSeal(ctx context.Context, after rows.Key, limit int) ([]rows.Row, error) {
	return t.list(ctx, t.sql.Load().pageToSeal, after.Bytes(), limit, pageBytes)
}

// The columns are those of a plaintext store.
var pageToSealSQL = strings.ReplaceAll(`
	SELECT `+columns+`
	FROM (
		SELECT s.*, `+bytesBefore+`
		FROM (
			SELECT s.*
			FROM sessions AS s
			WHERE s.key > $1 AND `+isOurs+` AND s.data IS NOT NULL AND s.sealed IS NULL
			ORDER BY s.key
			LIMIT $2
		) AS s
	) AS s
	WHERE s.pgsession_bytes_before < $3
	ORDER BY s.key`, sealedColumns, plainColumns)

// Reseal is part of [rows.Table].
func (t *Table) Reseal(ctx context.Context, resealed []rows.Resealed) (swapped int64, err error) {
	if len(resealed) == 0 {
		return 0, nil
	}
	sql := t.sql.Load()
	done := make(map[rows.Key]bool, len(resealed))
	if !sql.distributed {
		err = t.write(ctx, func(ctx context.Context, conn *pgx.Conn) error {
			clear(done)
			return reseal(ctx, conn, sql.reseal, resealed, done)
		})
		if sql = t.sql.Load(); err != nil && !sql.distributed {
			return 0, err
		}
	}
	if sql.distributed {
		var mu sync.Mutex
		err = forEach(ctx, resealed, func(r rows.Resealed) error {
			written, err := t.resealOne(ctx, sql.resealOne, r)
			mu.Lock()
			defer mu.Unlock()
			if written {
				done[r.Seen.Key] = true
			}
			return err
		})
	}
	for i := range resealed { // what was held is done alone
		if key := resealed[i].Seen.Key; err == nil && !done[key] {
			done[key], err = t.resealOne(ctx, sql.resealWaiting, resealed[i])
		}
	}
	for _, written := range done {
		if written {
			swapped++
		}
	}
	return swapped, err
}

func (t *Table) resealOne(ctx context.Context, sql string, r rows.Resealed) (written bool, err error) {
	err = t.writeRow(ctx, r.Seen.Key, func(ctx context.Context, conn *pgx.Conn) error {
		tag, err := conn.Exec(ctx, sql, r.Seen.Key.Bytes(), r.Seen.Version, r.Seen.CreatedAt, r.UserKey, r.Payload)
		written = tag.RowsAffected() > 0
		return err
	})
	return written, err
}

const resealOneSQL = `
	WITH pgsession_held AS (
		SELECT s.key
		FROM sessions AS s
		WHERE s.key = $1 AND ` + stored + ` AND s.version = $2 AND s.created_at = $3
		` + skipLocked + `
	)
	UPDATE sessions AS s
	SET user_key = $4, sealed = $5, data = NULL, version = ` + nextVersion + `
	FROM pgsession_held AS held
	WHERE s.key = $1 AND s.key = held.key AND ` + stored + ` AND s.version = $2 AND s.created_at = $3`

var resealWaitingSQL = strings.ReplaceAll(resealOneSQL, skipLocked, "FOR UPDATE OF s")

// reseal adds the keys of the rows that it wrote to done.
func reseal(ctx context.Context, conn *pgx.Conn, sql string, resealed []rows.Resealed, done map[rows.Key]bool) error {
	var (
		keys, userKeys, payloads list[[]byte]
		versions                 list[int64]
		created                  list[time.Time]
	)
	for i := range resealed {
		r := &resealed[i]
		keys, userKeys, payloads = append(keys, r.Seen.Key.Bytes()), append(userKeys, r.UserKey), append(payloads, r.Payload)
		versions, created = append(versions, r.Seen.Version), append(created, r.Seen.CreatedAt)
	}
	result, err := conn.Query(ctx, sql, keys, userKeys, payloads, versions, created)
	if err != nil {
		return err
	}
	var scanned pgtype.DriverBytes
	_, err = pgx.ForEachRow(result, []any{&scanned}, func() error {
		key, _ := rows.ParseKey(scanned)
		done[key] = true
		return nil
	})
	return err
}

const resealSQL = `
	WITH pgsession_held AS (
		SELECT new.*
		FROM sessions AS s
		JOIN (SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bytea[], $4::bigint[], $5::timestamptz[]) ` + hideListLength + `)
			AS new (key, user_key, sealed, version, created_at) ON new.key = s.key
		WHERE ` + stored + ` AND s.version = new.version AND s.created_at = new.created_at
		` + skipLocked + `
	)
	UPDATE sessions AS s
	SET user_key = held.user_key, sealed = held.sealed, data = NULL, version = ` + nextVersion + `
	FROM pgsession_held AS held
	WHERE s.key = held.key AND ` + stored + ` AND s.version = held.version AND s.created_at = held.created_at
	RETURNING s.key`
