package pgsession

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgsession/pgsession/internal/rows"
)

// resealPasses bounds how often Reseal looks again for rows that were written under it.
const resealPasses = 10

// Reseal seals the rows that lie under another key anew, under the primary key, and returns how
// many. It is the last step of a rotation before the old key is removed: see [Crypto]. It works
// beside all other operations, in transactions of at most 500 rows and a few MiB, and may be run
// again after an error. With an error, the number says how many rows were resealed before it. In a
// store that is not encrypted it does nothing.
//
// Errors: [ErrUnknownKey] or [ErrTampered], with the number of rows that do not open (these stay as
// they are, and all others are resealed); [ErrConflict] if a node without the new primary keeps
// sealing under an old key.
func (s *Store) Reseal(ctx context.Context) (int64, error) {
	if s.crypto == nil {
		return 0, nil
	}
	var resealed int64
	for range resealPasses {
		pass, err := s.resealPass(ctx)
		resealed += pass.resealed
		if err != nil {
			return resealed, wrap("reseal", err)
		}
		if pass.overtaken == 0 {
			return resealed, pass.unopened()
		}
	}
	return resealed, ErrConflict
}

type resealPass struct {
	resealed  int64
	overtaken int64 // written by another writer after they were read
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
	var last rows.Key
	for {
		page, err := s.table.PageToReseal(ctx, last, pageSize, s.crypto.primaryID())
		if err != nil || len(page) == 0 {
			return pass, err
		}
		last = page[len(page)-1].Key
		if err := s.resealPage(ctx, page, &pass); err != nil {
			return pass, err
		}
	}
}

func (s *Store) resealPage(ctx context.Context, page []rows.Row, pass *resealPass) error {
	resealed := make([]rows.Resealed, 0, len(page))
	for _, row := range page {
		userID, v, err := s.codec.decode(row)
		s.stats.open(err)
		switch {
		case errors.Is(err, ErrUnknownKey):
			pass.unknown++
			continue
		case err != nil:
			pass.tampered++
			continue
		}
		userKey, payload, err := s.codec.encode(row.Key, userID, v)
		if err != nil {
			return err
		}
		resealed = append(resealed, rows.Resealed{Seen: row, UserKey: userKey, Payload: payload})
	}
	swapped, err := s.table.Reseal(ctx, resealed)
	pass.resealed += swapped
	pass.overtaken += int64(len(resealed)) - swapped
	return err
}
