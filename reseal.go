package pgsession

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgsession/pgsession/internal/rows"
)

// resealPasses bounds how often Reseal looks again for rows that were written under it.
const resealPasses = 10

// Reseal seals the rows that lie under another key anew, under the primary key, and returns how
// many. It is the last step of a rotation before the old key is removed: see [Crypto]. It works
// beside all other operations, in transactions of at most 500 rows and a few MiB, and may be run
// again after an error. With an error, the number says how many rows were resealed before it. In a
// store that is not encrypted it does nothing. To find the next rows, a statement may have to read
// all that lie under the primary key already. With millions of those, that takes longer than the
// default of [WithTimeout] allows.
//
// Errors: [ErrUnknownKey] or [ErrTampered], with the number of rows that do not open (these stay as
// they are, and all others are resealed); [ErrConflict] if a node without the new primary keeps
// sealing under an old key.
func (s *Store) Reseal(ctx context.Context) (int64, error) { return s.reseal(ctx, nil) }

// reseal calls report, which may be nil, after each page, with the number of rows resealed so far.
func (s *Store) reseal(ctx context.Context, report func(resealed int64)) (resealed int64, err error) {
	defer s.stats.observe(opReseal, time.Now(), &err)
	if s.crypto == nil {
		return 0, nil
	}
	r := resealing{store: s, operation: "reseal", codec: s.codec, report: report}
	r.page = func(after rows.Key) ([]rows.Row, error) {
		return s.table.PageToReseal(ctx, after, pageSize, s.crypto.primaryID())
	}
	return r.run(ctx)
}

// sealPlaintext seals the rows that a store made by [Plaintext] has left in the table, expired ones
// and entries of a [KeyValue] too. It believes what lies there. Otherwise it works as reseal does.
// Package cmd/pgsession calls it.
func (s *Store) sealPlaintext(ctx context.Context, report func(sealed int64)) (int64, error) {
	r := resealing{store: s, operation: "seal", codec: plainCodec{}, report: report}
	r.page = func(after rows.Key) ([]rows.Row, error) {
		return s.table.PageToSeal(ctx, after, pageSize)
	}
	return r.run(ctx)
}

// A resealing seals rows anew, in place.
type resealing struct {
	store     *Store
	operation string
	codec     codec // that opens the rows
	page      func(after rows.Key) ([]rows.Row, error)
	report    func(resealed int64) // may be nil

	resealed int64
	pass     resealPass
}

type resealPass struct {
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

func (r *resealing) run(ctx context.Context) (int64, error) {
	for range resealPasses {
		r.pass = resealPass{}
		if err := r.pages(ctx); err != nil {
			return r.resealed, wrap(r.operation, err)
		}
		if r.pass.overtaken == 0 {
			return r.resealed, r.pass.unopened()
		}
	}
	return r.resealed, ErrConflict
}

func (r *resealing) pages(ctx context.Context) error {
	for page, err := range pages(r.page) {
		if err == nil {
			err = r.reseal(ctx, page)
		}
		if err != nil {
			return err
		}
		if r.report != nil {
			r.report(r.resealed)
		}
	}
	return nil
}

func (r *resealing) reseal(ctx context.Context, page []rows.Row) error {
	resealed := make([]rows.Resealed, 0, len(page))
	for _, row := range page {
		userID, v, err := r.codec.decode(row)
		r.store.stats.open(err)
		switch {
		case errors.Is(err, ErrUnknownKey):
			r.pass.unknown++
			continue
		case err != nil:
			r.pass.tampered++
			continue
		}
		userKey, payload, err := r.store.codec.encode(row.Key, userID, v)
		if err != nil {
			return err
		}
		resealed = append(resealed, rows.Resealed{Seen: row, UserKey: userKey, Payload: payload})
	}
	swapped, err := r.store.table.Reseal(ctx, resealed)
	r.resealed += swapped
	r.pass.overtaken += int64(len(resealed)) - swapped
	return err
}
