package pgsession

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/pgsession/pgsession/internal/pgtable"
	"github.com/pgsession/pgsession/internal/rows"
)

// Schema returns the SQL that [Store.Init] runs if there is no table, for migration tools. It
// panics for a name for which [WithTable] panics.
func Schema(table string) string {
	name, err := pgtable.ParseName(table)
	if err != nil {
		panic(err.Error())
	}
	return pgtable.Schema(name)
}

// Init creates the table with its indexes, or checks the table that is there and creates the
// indexes that it lacks. It may run at every start-up, on all nodes at once. If nothing is missing,
// it needs no right to create. The table may have more columns, if they may be null or have a
// default.
//
// Init looks at up to 100 sessions. It logs a warning if none of them opens under the store's keys,
// if one is the other kind of store's (in plaintext, or sealed), and if the clocks of application
// and server differ by more than 5 seconds.
//
// Errors: [ErrSchema], and what differs, for a table that is not as [Schema] makes it, for one
// whose rows row level security hides from this role, and if this role lacks SELECT, INSERT or
// UPDATE on it. If a setting changes how values are written as text, Init returns an error that
// names the setting and the cure.
func (s *Store) Init(ctx context.Context) (err error) {
	defer s.stats.observe(opInit, time.Now(), &err)
	if err := s.table.Init(ctx); err != nil {
		if errors.Is(err, ErrSchema) {
			return err
		}
		return wrap("init", err)
	}
	s.warn(ctx)
	return nil
}

// sampleSize is how many sessions Init looks at.
const sampleSize = 100

// warn logs at start-up what would do damage later. If it cannot find out, it says nothing, and the
// health check does.
func (s *Store) warn(ctx context.Context) {
	if condition, err := s.table.Examine(ctx); err == nil && condition.Clock.Abs() > maxClockSkew {
		s.logger.LogAttrs(ctx, slog.LevelWarn, "pgsession: "+clockReason(condition.Clock.Abs()))
	}
	sample, err := s.table.Page(ctx, rows.Key{}, sampleSize)
	if err != nil || len(sample) == 0 {
		return
	}
	opens := false
	for _, row := range sample {
		switch s.session(row, s.now()).broken {
		case nil:
			opens = true
		case errPlaintextRow, errSealedRow:
			s.logger.LogAttrs(ctx, slog.LevelWarn, "pgsession: sessions "+s.otherKind())
			return
		}
	}
	if opens {
		return
	}
	s.logger.LogAttrs(ctx, slog.LevelWarn, "pgsession: none of the sessions that were looked at opens: is this the right key ring?",
		slog.Int("sessions", len(sample)))
}

// otherKind says what is wrong with rows of the other kind of store, and what to do.
func (s *Store) otherKind() string {
	if s.crypto == nil {
		return "are sealed, and this is a Plaintext store, which refuses them: give this node the keys, and pgsession.New"
	}
	return "lie in plaintext, and this store refuses them: " + sealHint
}
