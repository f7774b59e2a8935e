package pgtable

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsession/pgsession/internal/coalesce"
	"github.com/pgsession/pgsession/internal/rows"
)

const (
	// maxBatch bounds the calls that share one statement.
	maxBatch = 256

	// maxSharedPayload bounds the payload of a write that shares a statement.
	maxSharedPayload = 64 << 10

	// maxBatchBytes bounds the payloads of the calls that share one statement.
	maxBatchBytes = 1 << 20

	// defaultSlowAfter is when a statement stops counting towards MaxInFlight. It then waits for a lock,
	// or its connection hangs.
	defaultSlowAfter = 100 * time.Millisecond
)

// shared are the groups in which calls share statements.
type shared struct {
	loads   *coalesce.Group[rows.Key, rows.Row]
	saves   *coalesce.Group[rows.Write, bool] // false: not written, for whatever reason
	puts    *coalesce.Group[rows.Write, bool]
	touches *coalesce.Group[touchRequest, touchResult]
	ends    *coalesce.Group[rows.Key, bool] // false: not ended by this statement, though something is stored
}

func (t *Table) newShared() shared {
	keyOf := func(w rows.Write) rows.Key { return w.Key }
	sizeOf := func(w rows.Write) int { return len(w.Payload) }
	return shared{
		loads: coalesce.New(coalesce.Config[rows.Key, rows.Row]{
			MaxInFlight:   t.config.MaxInFlight,
			Limit:         t.limitInFlight,
			MaxBatch:      maxBatch,
			MaxBatchBytes: maxBatchBytes,
			Size:          func(rows.Key) int { return t.loadSize.estimate() },
			SlowAfter:     t.config.SlowAfter,
			Context:       t.deadlines.WithGrace,
			Run:           t.runLoads,
			RunAgain:      func(error) bool { return true },
		}),
		saves:   newWriteGroup(t, keyOf, sizeOf, t.save, t.saveMany),
		puts:    newWriteGroup(t, keyOf, sizeOf, t.put, t.putMany),
		touches: newWriteGroup(t, func(r touchRequest) rows.Key { return r.key }, nil, t.touch, t.touchMany),
		ends:    newWriteGroup(t, func(key rows.Key) rows.Key { return key }, nil, t.end, t.endShared),
	}
}

var errDistributed = errors.New("calls share no statement that writes a distributed table")

// newWriteGroup returns a group for calls that each write one row. A call by itself waits for the
// row's lock, if no other call for this row does. The statement for many skips the rows that others
// hold, and their calls get the zero R.
func newWriteGroup[C, R any](t *Table, keyOf func(C) rows.Key, sizeOf func(C) int,
	one func(context.Context, C) (R, error), many func(context.Context, []C, func(int, R)) error) *coalesce.Group[C, R] {
	return coalesce.New(coalesce.Config[C, R]{
		MaxInFlight:   t.config.MaxInFlight,
		Limit:         t.limitInFlight,
		MaxBatch:      maxBatch,
		MaxBatchBytes: maxBatchBytes,
		Size:          sizeOf,
		SlowAfter:     t.config.SlowAfter,
		Context:       t.deadlines.WithGrace,
		Run: func(ctx context.Context, calls []C, answer func(int, R)) error {
			if len(calls) == 1 {
				key := keyOf(calls[0])
				if t.waits.tryEnter(key) {
					defer t.waits.leave(key)
					result, err := one(ctx, calls[0])
					if err == nil {
						answer(0, result)
					}
					return err
				}
			}
			err := errDistributed
			if !t.isDistributed() {
				err = many(ctx, calls, answer)
			}
			// The error stays, so that a run that sent nothing is not taken for a fast one.
			if t.isDistributed() && (err == errDistributed || sqlState(err) == featureNotSupported) {
				for i := range calls {
					var alone R
					answer(i, alone)
				}
			}
			return err
		},
		RunAgain: tookNoEffect,
	})
}

// defaultInFlight returns how many statements of one kind may be in flight at most, and a function that
// lowers this number for a server that is near. The function's argument is how long the fastest of the
// latest statements took. It starts with an eighth of the pool's connections, at least 2, and adds one
// for each half of a millisecond, up to half of the connections and never more than 16.
//
// The figures are in docs/performance.md. If the server is near, statements compete for its processors,
// and few in flight are best. If it is far away, a statement mostly waits for the network, and more in
// flight make better use of the server.
//
// If connections depend on the context, calls share no statement: it has no single caller's.
func defaultInFlight(pool *pgxpool.Pool) (most int, limit func(fastest time.Duration) int) {
	if DependsOnContext(pool) {
		return 0, nil
	}
	config := pool.Config()
	least := min(max(2, int(config.MaxConns)/8), 8)
	most = min(max(least, int(config.MaxConns)/2), 16)
	return most, func(fastest time.Duration) int {
		return min(most, least+int(fastest/(500*time.Microsecond)))
	}
}

// DependsOnContext reports whether a pool has a hook that sees the caller's context. Such hooks choose
// tenants: the same statement means another table for another caller.
func DependsOnContext(pool *pgxpool.Pool) bool {
	config := pool.Config()
	//lint:ignore SA1019 a pool may still have it
	return config.BeforeAcquire != nil || config.PrepareConn != nil
}

// Sharing is part of [rows.Table].
func (t *Table) Sharing() map[string]rows.Sharing {
	s := &t.shared
	sharing := make(map[string]rows.Sharing)
	for kind, stats := range map[string]func() (calls, runs uint64){
		"load": s.loads.Stats, "save": s.saves.Stats, "put": s.puts.Stats, "touch": s.touches.Stats, "delete": s.ends.Stats,
	} {
		calls, runs := stats()
		sharing[kind] = rows.Sharing{Calls: int64(calls), Statements: int64(runs)}
	}
	return sharing
}

// Waiting returns how many calls wait to share a statement.
func (t *Table) Waiting() int {
	s := &t.shared
	return s.loads.Waiting() + s.saves.Waiting() + s.puts.Waiting() + s.touches.Waiting() + s.ends.Waiting()
}
