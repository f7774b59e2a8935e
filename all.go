package pgsession

import (
	"context"
	"iter"

	"github.com/pgsession/pgsession/internal/rows"
)

// pageSize is how many rows All and Reseal hold at most.
const pageSize = 500

// All returns every live session, in no useful order, for exports and audits. It reads pages of at
// most 500 sessions and a few MiB, and holds no connection between them, so the loop may call the
// store. A session that begins or ends at the same time may be missing. Sessions that do not open
// are included, as in [Store.FindByUser]. An error comes with a nil session and ends the sequence.
func (s *Store) All(ctx context.Context) iter.Seq2[*Session, error] {
	return func(yield func(*Session, error) bool) {
		var last rows.Key
		for {
			now := s.now()
			page, err := s.table.Page(ctx, last, pageSize)
			if err != nil {
				yield(nil, wrap("all", err))
				return
			}
			if len(page) == 0 {
				return
			}
			for _, row := range page {
				if !yield(s.session(row, now), nil) {
					return
				}
			}
			last = page[len(page)-1].Key
		}
	}
}

// DeleteAll ends every session, and returns how many were live. Sessions that move to a new id at
// the same time are ended; sessions that are created at the same time may stay. It holds all their
// keys in memory, 32 bytes a session. With an error, the number says how many sessions were ended
// before it.
func (s *Store) DeleteAll(ctx context.Context) (int64, error) {
	ended, err := s.table.EndAll(ctx)
	return ended, wrapIfAny("delete all", err)
}
