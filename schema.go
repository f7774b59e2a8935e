package pgsession

import (
	"context"
	"errors"
	"log/slog"

	"github.com/pgsession/pgsession/internal/pgtable"
	"github.com/pgsession/pgsession/internal/rows"
)

// Schema returns the SQL that [Store.Init] runs if there is no table, for migration tools. It panics for
// a name for which [WithTable] does.
func Schema(table string) string {
	name, err := pgtable.ParseName(table)
	if err != nil {
		panic(err.Error())
	}
	return pgtable.Schema(name)
}

// Init creates the table with its indexes, or checks the one that is there and creates the indexes that
// it lacks. It may run at every start-up, on all nodes at once. If nothing is missing, it needs no right
// to create. It returns [ErrSchema], and what differs, for a table that is not as [Schema] makes it, for
// one whose rows row level security hides, and if this role lacks a privilege on it. Columns that were
// added do no harm if they may be null or have a default. It also returns an error, which names the
// cure, if a setting changes how values are written as text.
//
// It never makes writers queue for longer than a moment, and ends within [WithTimeout]. If the table is
// in use, or too large for its missing index to be built in that time, the error says what to run by hand.
//
// It logs a warning if none of some sessions that it looks at opens under the store's keys, and if the
// clocks of application and server differ.
func (s *Store) Init(ctx context.Context) error {
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

// warn tells at start-up what would do damage later. What it cannot find out, the health check tells.
func (s *Store) warn(ctx context.Context) {
	if condition, err := s.table.Examine(ctx); err == nil && condition.Clock.Abs() > maxClockSkew {
		s.logger.LogAttrs(ctx, slog.LevelWarn, "pgsession: "+clockReason(condition.Clock.Abs()))
	}
	sample, err := s.table.Page(ctx, rows.Key{}, sampleSize)
	if err != nil || len(sample) == 0 {
		return
	}
	for _, row := range sample {
		if s.session(row, s.now()).broken == nil {
			return
		}
	}
	s.logger.LogAttrs(ctx, slog.LevelWarn, "pgsession: none of the sessions that were looked at opens: is this the right key ring?",
		slog.Int("sessions", len(sample)))
}
