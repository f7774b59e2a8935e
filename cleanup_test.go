package pgsession_test

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
)

// A gate is a slog.Handler that says when something is logged, and waits to be told to
// go on.
type gate chan struct{}

func (g gate) Enabled(context.Context, slog.Level) bool { return true }
func (g gate) WithAttrs([]slog.Attr) slog.Handler       { return g }
func (g gate) WithGroup(string) slog.Handler            { return g }

func (g gate) Handle(context.Context, slog.Record) error {
	<-g
	<-g
	return nil
}

func isSweep(sql string) bool { return strings.Contains(sql, "ORDER BY s.expires_hour") }

func TestStore_CleanupExpired(t *testing.T) {
	t.Parallel()
	hour := epoch.Truncate(time.Hour)
	for name, expiry := range map[string]time.Time{
		"within the hour":          epoch.Add(10 * time.Minute),
		"on the hour":              hour.Add(time.Hour),
		"just before the hour":     hour.Add(time.Hour - time.Microsecond),
		"just after the hour":      hour.Add(time.Hour + time.Microsecond),
		"on the hour, over a year": hour.AddDate(1, 0, 0),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for name, s := range bothStores(t) {
				id := s.create(t, ann(1), expiry.Sub(epoch))
				s.clock.Set(expiry.Add(-time.Microsecond))
				require.Zero(t, s.cleanUp(t), name)
				require.Equal(t, 1, s.count(t, id), name)
				s.clock.Set(expiry)
				require.EqualValues(t, 1, s.cleanUp(t), name)
				require.Zero(t, s.rows(t, "true"), name)
				require.Zero(t, s.cleanUp(t), name)
			}
		})
	}
	t.Run("nothing else", func(t *testing.T) {
		t.Parallel()
		s := newStore(t)
		live := s.create(t, ann(1), 2*time.Hour)
		s.create(t, ann(2), time.Hour)
		require.NoError(t, s.KeyValue().Put(t.Context(), "k", nil, time.Hour))
		s.clock.Advance(time.Hour)
		require.EqualValues(t, 2, s.cleanUp(t))
		require.Equal(t, 1, s.rows(t, `key = $1`, key(live)))
		require.Equal(t, 1, s.rows(t, "true"))
	})
}

// TestStore_CleanupExpired_Batches has a trigger count what each transaction removes.
func TestStore_CleanupExpired_Batches(t *testing.T) {
	pgtest.NotDistributed(t, "Citus refuses its trigger with a transition table")
	t.Parallel()
	for name, rows := range map[string]int{"one": 1, "a batch": 1000, "a batch and one": 1001, "a sweep": 10_000, "more than two sweeps": 23_456} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			s.expire(t, rows)
			live := s.create(t, ann(1), time.Hour)
			runScript(t, s.pool, `
				CREATE TABLE removals (transaction bigint, rows bigint);
				CREATE FUNCTION count_removals() RETURNS trigger LANGUAGE plpgsql AS $$
				BEGIN
					INSERT INTO removals SELECT txid_current(), count(*) FROM removed;
					RETURN NULL;
				END $$;
				CREATE TRIGGER count_removals AFTER DELETE ON sessions REFERENCING OLD TABLE AS removed
					FOR EACH STATEMENT EXECUTE FUNCTION count_removals()`)
			require.EqualValues(t, rows, s.cleanUp(t))
			require.Equal(t, 1, s.rows(t, "true"))
			s.load(t, live)

			var total, largest, transactions int
			require.NoError(t, s.pool.QueryRow(t.Context(), `
				SELECT sum(rows), max(rows), count(*)
				FROM (SELECT sum(rows) AS rows FROM removals GROUP BY transaction) AS t`).Scan(&total, &largest, &transactions))
			require.Equal(t, rows, total)
			require.LessOrEqual(t, largest, 1000)
			require.Equal(t, (rows+999)/1000, transactions)
			require.EqualValues(t, rows, s.Stats().Cleaned)
		})
	}
}

// TestStore_CleanupExpired_ErrorHalfway breaks the second batch.
func TestStore_CleanupExpired_ErrorHalfway(t *testing.T) {
	pgtest.NotDistributed(t, "there are no batches")
	t.Parallel()
	var removals atomic.Int32
	var ctx context.Context
	var cancel context.CancelFunc
	s := newTracedStore(t, &tracer{start: func(_ context.Context, sql string) {
		if strings.Contains(sql, "DELETE FROM") && removals.Add(1) == 3 {
			cancel()
		}
	}}, 8)
	s.expire(t, 5000)
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	removed, err := s.CleanupExpired(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.EqualValues(t, 2000, removed, "what was removed before the error")
	require.EqualValues(t, 2000, s.Stats().Cleaned)
	require.Zero(t, s.Stats().LastCleanup, "it did not succeed")
	require.EqualValues(t, 3000, s.cleanUp(t))
}

func TestStore_CleanupExpired_ManyNodes(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	const rows, nodes = 15_000, 4
	s.expire(t, rows)
	var removed [nodes]int64
	var errs [nodes]error
	var group sync.WaitGroup
	for i := range nodes {
		node := s.node(newCrypto(t, testKey))
		group.Go(func() { removed[i], errs[i] = node.CleanupExpired(t.Context()) })
	}
	group.Wait()
	require.NoError(t, errors.Join(errs[:]...))
	total := int64(0)
	for _, n := range removed {
		total += n
	}
	require.EqualValues(t, rows, total, "each row is removed once, and counted once")
	require.Zero(t, s.rows(t, "true"))
}

// TestStore_CleanupExpired_SparesTheLive makes an expired session live again after the sweep has seen it.
// No operation does that. A clock that is set back, and a touch by its time, do.
func TestStore_CleanupExpired_SparesTheLive(t *testing.T) {
	t.Parallel()
	var revive func()
	s := newTracedStore(t, &tracer{start: func(_ context.Context, sql string) {
		if strings.Contains(sql, "DELETE FROM") {
			revive()
		}
	}}, 8)
	id, gone := s.create(t, ann(1), time.Minute), s.create(t, ann(1), time.Minute)
	s.clock.Advance(time.Hour)
	revive = func() {
		s.sql(t, `UPDATE sessions SET expires_at = $2, version = version + 1 WHERE key = $1`, key(id), s.clock.Now().Add(time.Hour))
	}
	require.EqualValues(t, 1, s.cleanUp(t))
	require.Equal(t, 1, s.count(t, id))
	require.Zero(t, s.rows(t, `key = $1`, key(gone)))
}

// TestStore_CleanupExpired_HeldRows leaves rows that others hold to a later run, and goes on behind them.
func TestStore_CleanupExpired_HeldRows(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.expire(t, 12_000) // more than one look reads
	const heldRows = 1500
	held := s.lock(t, `key IN (SELECT key FROM sessions ORDER BY key LIMIT $1)`, heldRows)
	require.EqualValues(t, 12_000-heldRows, s.cleanUp(t))
	require.Equal(t, heldRows, s.rows(t, "true"))
	held.waitFor(t, 0)
	held.release(t)
	require.EqualValues(t, heldRows, s.cleanUp(t))
}

// TestStore_CleanupExpired_ServerClock has a server whose clock is an hour behind the node's, by a function
// that hides the server's own. What is live by the server's clock
// stays, unless a test moves the clock.
func TestStore_CleanupExpired_ServerClock(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.sql(t, `CREATE FUNCTION statement_timestamp() RETURNS timestamptz STABLE RETURN pg_catalog.statement_timestamp() - interval '1 hour'`)
	s.sql(t, `INSERT INTO sessions (key, version, created_at, expires_at, idle_timeout)
		SELECT i::text::bytea, 1, '2020-01-01Z', now() - i * interval '30 minutes', '1 hour' FROM generate_series(1, 3) AS i`)
	pool := nodePool(t, s.pool.Config().ConnConfig.RuntimeParams["search_path"]+", pg_catalog", nil)
	removed, err := storeOn(pool).CleanupExpired(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 2, removed)
	require.Equal(t, 1, s.rows(t, `key = '1'`))
	removed, err = storeOn(pool, pgsession.WithClock(shifted(0))).CleanupExpired(t.Context())
	require.NoError(t, err)
	require.Zero(t, removed, "a clock that wraps the machine's is not believed either")
	removed, err = storeOn(pool, pgsession.WithClock(pgsession.NewManualClock(time.Now()))).CleanupExpired(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, removed, "a manual clock is believed")
}

// TestStore_CleanupExpired_HostileRows plants more rows than a sweep reads at once, with times that no
// store writes.
func TestStore_CleanupExpired_HostileRows(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		expiresAt string
		removed   int64
	}{
		"for ever":    {`'infinity'`, 0},
		"since ever":  {`'-infinity'`, 12_000},
		"in 4713 BC":  {`'4713-01-01 BC'`, 12_000},
		"in 294276":   {`'294276-12-31'`, 0},
		"in the hour": {`'2026-03-14 15:00:01Z'`, 12_000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			s.sql(t, `INSERT INTO sessions (key, sealed, version, created_at, expires_at, idle_timeout)
				SELECT sha256(convert_to(i::text, 'UTF8')), '\x01', 1, '2020-01-01Z', `+test.expiresAt+`, '1 hour'
				FROM generate_series(1, 12000) AS i`)
			mine := s.expired(t)
			require.Equal(t, test.removed+1, s.cleanUp(t))
			require.Zero(t, s.rows(t, `key = $1`, key(mine)), "what has expired goes all the same")
		})
	}
	t.Run("keys of any length", func(t *testing.T) {
		t.Parallel()
		s := newStore(t)
		s.sql(t, `INSERT INTO sessions (key, version, created_at, expires_at, idle_timeout)
			SELECT convert_to(repeat('k', i), 'UTF8'), i, 'infinity', '2020-01-01Z', '1 hour' FROM generate_series(0, 100) AS i`)
		require.EqualValues(t, 101, s.cleanUp(t))
	})
}

// TestStore_SpawnCleanup_WholeHours waits for a sweep that begins after the rows are there, and for its end.
func TestStore_SpawnCleanup_WholeHours(t *testing.T) {
	t.Parallel()
	sweeps := make(chan struct{})
	ended, end := context.WithCancel(t.Context())
	defer end()
	s := newTracedStore(t, &tracer{start: func(_ context.Context, sql string) {
		if isSweep(sql) {
			select {
			case sweeps <- struct{}{}:
			case <-ended.Done():
			}
		}
	}}, 8)
	hour := epoch.Truncate(time.Hour).Add(2 * time.Hour) // 17:00
	for _, expiry := range []time.Time{
		hour.Add(-time.Hour), hour.Add(-time.Microsecond), hour, hour.Add(time.Microsecond), hour.Add(30 * time.Minute), hour.Add(time.Hour),
	} {
		s.create(t, ann(1), expiry.Sub(epoch))
	}
	cleanup := s.SpawnCleanup(t.Context(), time.Millisecond)
	defer cleanup.Stop()
	defer end()
	for _, step := range []struct {
		now  time.Time
		left int
	}{
		{hour.Add(-time.Hour - time.Microsecond), 6},
		{hour.Add(-time.Hour), 6}, // one has expired, and its hour is not over
		{hour.Add(-time.Microsecond), 6},
		{hour, 4},
		{hour.Add(45 * time.Minute), 4},
		{hour.Add(time.Hour - time.Microsecond), 4},
		{hour.Add(time.Hour), 1},
		{hour.Add(2 * time.Hour), 0},
	} {
		s.clock.Set(step.now)
		<-sweeps // may have read the clock before
		<-sweeps
		<-sweeps // the one before has ended
		require.Equal(t, step.left, s.rows(t, "true"), step.now)
	}
	s.clock.Set(epoch)
	<-sweeps
	<-sweeps // by the time before, none is under way
	s.create(t, ann(1), time.Microsecond)
	s.clock.Set(epoch.Add(time.Microsecond))
	<-sweeps
	<-sweeps
	<-sweeps
	require.Equal(t, 1, s.rows(t, "true"))
	require.EqualValues(t, 1, s.cleanUpBeside(t, sweeps), "CleanupExpired takes the hour's own too")
}

// cleanUpBeside is cleanUp where a trace holds each sweep until it is received.
func (f *fixture) cleanUpBeside(t testing.TB, sweeps <-chan struct{}) int64 {
	t.Helper()
	done := make(chan struct{})
	var removed int64
	var err error
	go func() {
		defer close(done)
		removed, err = f.CleanupExpired(t.Context())
	}()
	for {
		select {
		case <-sweeps:
		case <-done:
			require.NoError(t, err)
			return removed
		}
	}
}

func TestStore_SpawnCleanup_Panics(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for _, interval := range []time.Duration{0, -1, -time.Hour} {
		require.Panics(t, func() { s.SpawnCleanup(t.Context(), interval) })
	}
}

func TestStore_SpawnCleanup_Log(t *testing.T) {
	t.Parallel()
	log := newRecorder()
	swept := make(chan struct{}, 1000)
	s := newTracedStore(t, &tracer{end: func(sql string, _ error) {
		if isSweep(sql) {
			swept <- struct{}{}
		}
	}}, 8, pgsession.WithLogger(slog.New(log)))
	log.forget()

	t.Run("nothing for nothing", func(t *testing.T) {
		s.create(t, ann(1), time.Hour)
		cleanup := s.SpawnCleanup(t.Context(), time.Millisecond)
		for range 5 {
			<-swept
		}
		cleanup.Stop()
		require.Empty(t, log)
		require.Equal(t, 1, s.rows(t, "true"))
		require.Equal(t, epoch, s.Stats().LastCleanup)
	})
	t.Run("a failure, and then a success", func(t *testing.T) {
		s.sql(t, `ALTER TABLE sessions RENAME TO elsewhere`)
		s.clock.Advance(2 * time.Hour)
		cleanup := s.SpawnCleanup(t.Context(), 10*time.Millisecond)
		defer cleanup.Stop()
		for range 2 {
			warning := <-log
			require.Equal(t, slog.LevelWarn, warning.Level)
			require.Equal(t, "pgsession: clean-up failed", warning.Message)
			require.Contains(t, attributes(warning)["error"], "pgsession: clean up: ")
			require.Contains(t, attributes(warning)["error"], "42P01")
			require.Equal(t, "0", attributes(warning)["removed"])
		}
		s.sql(t, `ALTER TABLE elsewhere RENAME TO sessions`)
		success := <-log
		for success.Level == slog.LevelWarn {
			success = <-log
		}
		require.Equal(t, slog.LevelDebug, success.Level)
		require.Equal(t, "pgsession: clean-up", success.Message)
		require.Equal(t, "1", attributes(success)["removed"])
		require.Equal(t, []string{"removed", "took"}, slices.Sorted(maps.Keys(attributes(success))))
		require.Zero(t, s.rows(t, "true"))
	})
	t.Run("nothing for a cancellation", func(t *testing.T) {
		s.expire(t, 1)
		s.clock.Advance(time.Hour)
		holder := s.lockTable(t)
		ctx, cancel := context.WithCancel(t.Context())
		cleanup := s.SpawnCleanup(ctx, time.Millisecond)
		holder.waitFor(t, 1)
		cancel()
		cleanup.Stop()
		require.Empty(t, log)
	})
}

func TestCleanup_Stop(t *testing.T) {
	t.Parallel()
	t.Run("twice", func(t *testing.T) {
		t.Parallel()
		cleanup := newStore(t).SpawnCleanup(t.Context(), time.Hour)
		cleanup.Stop()
		cleanup.Stop()
	})
	t.Run("concurrently", func(t *testing.T) {
		t.Parallel()
		cleanup := newStore(t).SpawnCleanup(t.Context(), time.Millisecond)
		var group sync.WaitGroup
		for range 10 {
			group.Go(cleanup.Stop)
		}
		group.Wait()
	})
	t.Run("after its context's end", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		cleanup := newStore(t).SpawnCleanup(ctx, time.Millisecond)
		cancel()
		cleanup.Stop()
	})
	t.Run("of one among several", func(t *testing.T) {
		t.Parallel()
		swept := make(chan struct{}, 1000)
		s := newTracedStore(t, &tracer{end: func(sql string, _ error) {
			if isSweep(sql) {
				select {
				case swept <- struct{}{}:
				default:
				}
			}
		}}, 8)
		one, other := s.SpawnCleanup(t.Context(), time.Hour), s.SpawnCleanup(t.Context(), time.Millisecond)
		one.Stop()
		<-swept
		other.Stop()
	})
	t.Run("while a sweep waits for a lock", func(t *testing.T) {
		t.Parallel()
		s := newStore(t)
		s.expire(t, 3)
		s.clock.Advance(time.Hour)
		holder := s.lockTable(t)
		cleanup := s.SpawnCleanup(t.Context(), time.Millisecond)
		holder.waitFor(t, 1)
		started := time.Now()
		cleanup.Stop()
		require.Less(t, time.Since(started), 10*time.Second, "it does not wait for the sweep's own timeout")
	})
}

// TestStore_SpawnCleanup_Schedule runs hours of clean-ups, by a clock of the test's own,
// against a server that does not answer: each run is seen by its attempt to connect, and
// by its warning.
func TestStore_SpawnCleanup_Schedule(t *testing.T) {
	t.Parallel()
	const interval = time.Hour
	t.Run("begins within the interval, and keeps it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			pool := brokenPool(t, func(context.Context) {})
			started := time.Now()
			firsts := make(map[time.Duration]bool)
			for range 20 {
				log := newRecorder()
				cleanup := storeOn(pool, pgsession.WithLogger(slog.New(log))).SpawnCleanup(t.Context(), interval)
				began := time.Now()
				first := (<-log).Time
				require.LessOrEqual(t, first.Sub(began), interval+time.Second)
				require.InDelta(t, interval, (<-log).Time.Sub(first), float64(time.Second))
				require.InDelta(t, 2*interval, (<-log).Time.Sub(first), float64(time.Second))
				cleanup.Stop()
				firsts[first.Sub(began).Truncate(time.Second)] = true
			}
			require.Greater(t, len(firsts), 10, "nodes that start together do not sweep together")
			require.Greater(t, time.Since(started), 20*2*interval)
		})
	})
	t.Run("ends with its context", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			log := newRecorder()
			ctx, cancel := context.WithCancel(t.Context())
			storeOn(brokenPool(t, func(context.Context) {}), pgsession.WithLogger(slog.New(log))).SpawnCleanup(ctx, interval)
			<-log
			cancel()
			synctest.Wait()
			<-time.After(24 * time.Hour)
			require.Empty(t, log)
		})
	})
	t.Run("a context that has ended", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			log := newRecorder()
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			cleanup := storeOn(brokenPool(t, func(context.Context) {}), pgsession.WithLogger(slog.New(log))).SpawnCleanup(ctx, 1)
			cleanup.Stop()
			require.Empty(t, log)
		})
	})
	t.Run("Stop waits", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			log := make(gate)
			cleanup := storeOn(brokenPool(t, func(context.Context) {}), pgsession.WithLogger(slog.New(log))).SpawnCleanup(t.Context(), interval)
			log <- struct{}{} // a run has come to its warning
			stopped := make(chan struct{})
			go func() {
				defer close(stopped)
				cleanup.Stop()
			}()
			synctest.Wait()
			select {
			case <-stopped:
				require.Fail(t, "the run under way has not ended")
			default:
			}
			log <- struct{}{}
			<-stopped
		})
	})
	t.Run("never overlaps", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			log := newRecorder()
			var running, most, runs atomic.Int32
			pool := brokenPool(t, func(context.Context) {
				most.Store(max(most.Load(), running.Add(1)))
				runs.Add(1)
				<-time.After(10 * time.Second)
				running.Add(-1)
			})
			cleanup := storeOn(pool, pgsession.WithLogger(slog.New(log)), pgsession.WithTimeout(0)).SpawnCleanup(t.Context(), time.Second)
			var times []time.Time
			for range 10 {
				times = append(times, (<-log).Time)
			}
			cleanup.Stop()
			require.EqualValues(t, 1, most.Load())
			require.GreaterOrEqual(t, runs.Load(), int32(10))
			for i := range times[1:] {
				require.InDelta(t, 11*time.Second, times[i+1].Sub(times[i]), float64(time.Second), "a long run delays the next")
			}
		})
	})
	t.Run("a server that hangs", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			log := newRecorder()
			pool := brokenPool(t, func(ctx context.Context) { <-ctx.Done() })
			started := time.Now()
			cleanup := storeOn(pool, pgsession.WithLogger(slog.New(log))).SpawnCleanup(t.Context(), time.Second)
			warning := <-log
			require.Equal(t, slog.LevelWarn, warning.Level)
			require.LessOrEqual(t, warning.Time.Sub(started), 7*time.Second)
			cleanup.Stop()
		})
	})
}
