package pgsession_test

import (
	"context"
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
	"github.com/pgsession/pgsession/internal/test"
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
	hour := test.Epoch.Truncate(time.Hour)
	for name, expiry := range map[string]time.Time{
		"within the hour":          test.Epoch.Add(10 * time.Minute),
		"on the hour":              hour.Add(time.Hour),
		"just before the hour":     hour.Add(time.Hour - time.Microsecond),
		"just after the hour":      hour.Add(time.Hour + time.Microsecond),
		"on the hour, over a year": hour.AddDate(1, 0, 0),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for name, s := range test.BothStores(t) {
				id := s.Begin(t, test.Ann(1), expiry.Sub(test.Epoch))
				s.Clock.Set(expiry.Add(-time.Microsecond))
				require.Zero(t, s.MustCleanUp(t), name)
				require.Equal(t, 1, s.Number(t, id), name)
				s.Clock.Set(expiry)
				require.EqualValues(t, 1, s.MustCleanUp(t), name)
				require.Zero(t, s.CountRows(t, "true"), name)
				require.Zero(t, s.MustCleanUp(t), name)
			}
		})
	}
	t.Run("nothing else", func(t *testing.T) {
		t.Parallel()
		s := test.NewStore(t)
		live := s.Begin(t, test.Ann(1), 2*time.Hour)
		s.Begin(t, test.Ann(2), time.Hour)
		require.NoError(t, s.KeyValue().Put(t.Context(), "k", nil, time.Hour))
		s.Clock.Advance(time.Hour)
		require.EqualValues(t, 2, s.MustCleanUp(t))
		require.Equal(t, 1, s.CountRows(t, `key = $1`, test.RowKey(live)))
		require.Equal(t, 1, s.CountRows(t, "true"))
	})
}

// TestStore_CleanupExpired_Batches has a trigger count what each transaction removes.
func TestStore_CleanupExpired_Batches(t *testing.T) {
	pgtest.NotDistributed(t, "Citus refuses its trigger with a transition table")
	t.Parallel()
	for name, rows := range map[string]int{"one": 1, "a batch": 1000, "a batch and one": 1001, "a sweep": 10_000, "more than two sweeps": 23_456} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := test.NewStore(t)
			s.AddExpired(t, rows)
			live := s.Begin(t, test.Ann(1), time.Hour)
			test.RunScript(t, s.Pool, `
				CREATE TABLE removals (transaction bigint, rows bigint);
				CREATE FUNCTION count_removals() RETURNS trigger LANGUAGE plpgsql AS $$
				BEGIN
					INSERT INTO removals SELECT txid_current(), count(*) FROM removed;
					RETURN NULL;
				END $$;
				CREATE TRIGGER count_removals AFTER DELETE ON sessions REFERENCING OLD TABLE AS removed
					FOR EACH STATEMENT EXECUTE FUNCTION count_removals()`)
			require.EqualValues(t, rows, s.MustCleanUp(t))
			require.Equal(t, 1, s.CountRows(t, "true"))
			s.MustLoad(t, live)

			var total, largest, transactions int
			require.NoError(t, s.Pool.QueryRow(t.Context(), `
				SELECT sum(rows), max(rows), count(*)
				FROM (SELECT sum(rows) AS rows FROM removals GROUP BY transaction) AS t`).Scan(&total, &largest, &transactions))
			require.Equal(t, rows, total)
			require.LessOrEqual(t, largest, 1000)
			require.Equal(t, (rows+999)/1000, transactions)
			require.EqualValues(t, rows, s.Stats().Cleaned)
		})
	}
}

// TestStore_SpawnCleanup_WholeHours waits for a sweep that begins after the rows are there, and for
// its end.
func TestStore_SpawnCleanup_WholeHours(t *testing.T) {
	t.Parallel()
	sweeps := make(chan struct{})
	ended, end := context.WithCancel(t.Context())
	defer end()
	s := test.NewTracedStore(t, &test.Tracer{Start: func(_ context.Context, sql string) {
		if isSweep(sql) {
			select {
			case sweeps <- struct{}{}:
			case <-ended.Done():
			}
		}
	}}, 8)
	hour := test.Epoch.Truncate(time.Hour).Add(2 * time.Hour) // 17:00
	for _, expiry := range []time.Time{
		hour.Add(-time.Hour), hour.Add(-time.Microsecond), hour, hour.Add(time.Microsecond), hour.Add(30 * time.Minute), hour.Add(time.Hour),
	} {
		s.Begin(t, test.Ann(1), expiry.Sub(test.Epoch))
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
		s.Clock.Set(step.now)
		<-sweeps // may have read the clock before
		<-sweeps
		<-sweeps // the one before has ended
		require.Equal(t, step.left, s.CountRows(t, "true"), step.now)
	}
	s.Clock.Set(test.Epoch)
	<-sweeps
	<-sweeps // by the time before, none is under way
	s.Begin(t, test.Ann(1), time.Microsecond)
	s.Clock.Set(test.Epoch.Add(time.Microsecond))
	<-sweeps
	<-sweeps
	<-sweeps
	require.Equal(t, 1, s.CountRows(t, "true"))
	require.EqualValues(t, 1, cleanUpBeside(t, s, sweeps), "CleanupExpired takes the hour's own too")
}

// cleanUpBeside is cleanUp where a trace holds each sweep until it is received.
func cleanUpBeside(t testing.TB, s *test.Store, sweeps <-chan struct{}) int64 {
	t.Helper()
	done := make(chan struct{})
	var removed int64
	var err error
	go func() {
		defer close(done)
		removed, err = s.CleanupExpired(t.Context())
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
	s := test.NewStore(t)
	for _, interval := range []time.Duration{0, -1, -time.Hour} {
		require.Panics(t, func() { s.SpawnCleanup(t.Context(), interval) })
	}
}

func TestStore_SpawnCleanup_Log(t *testing.T) {
	t.Parallel()
	log := test.NewRecorder()
	swept := make(chan struct{}, 1000)
	s := test.NewTracedStore(t, &test.Tracer{End: func(sql string, _ error) {
		if isSweep(sql) {
			swept <- struct{}{}
		}
	}}, 8, pgsession.WithLogger(slog.New(log)))
	log.Forget()

	t.Run("nothing for nothing", func(t *testing.T) {
		s.Begin(t, test.Ann(1), time.Hour)
		cleanup := s.SpawnCleanup(t.Context(), time.Millisecond)
		for range 5 {
			<-swept
		}
		cleanup.Stop()
		require.Empty(t, log)
		require.Equal(t, 1, s.CountRows(t, "true"))
		require.Equal(t, test.Epoch, s.Stats().LastCleanup)
	})
	t.Run("a failure, and then a success", func(t *testing.T) {
		s.SQL(t, `ALTER TABLE sessions RENAME TO elsewhere`)
		s.Clock.Advance(2 * time.Hour)
		cleanup := s.SpawnCleanup(t.Context(), 10*time.Millisecond)
		defer cleanup.Stop()
		for range 2 {
			warning := <-log
			require.Equal(t, slog.LevelWarn, warning.Level)
			require.Equal(t, "pgsession: clean-up failed", warning.Message)
			require.Contains(t, test.Attributes(warning)["error"], "pgsession: clean up: ")
			require.Contains(t, test.Attributes(warning)["error"], "42P01")
			require.Equal(t, "0", test.Attributes(warning)["removed"])
		}
		s.SQL(t, `ALTER TABLE elsewhere RENAME TO sessions`)
		success := <-log
		for success.Level == slog.LevelWarn {
			success = <-log
		}
		require.Equal(t, slog.LevelDebug, success.Level)
		require.Equal(t, "pgsession: clean-up", success.Message)
		require.Equal(t, "1", test.Attributes(success)["removed"])
		require.Equal(t, []string{"removed", "took"}, slices.Sorted(maps.Keys(test.Attributes(success))))
		require.Zero(t, s.CountRows(t, "true"))
	})
	t.Run("nothing for a cancellation", func(t *testing.T) {
		s.AddExpired(t, 1)
		s.Clock.Advance(time.Hour)
		holder := s.LockTable(t)
		ctx, cancel := context.WithCancel(t.Context())
		cleanup := s.SpawnCleanup(ctx, time.Millisecond)
		holder.WaitFor(t, 1)
		cancel()
		cleanup.Stop()
		require.Empty(t, log)
	})
}

func TestCleanup_Stop(t *testing.T) {
	t.Parallel()
	t.Run("twice", func(t *testing.T) {
		t.Parallel()
		cleanup := test.NewStore(t).SpawnCleanup(t.Context(), time.Hour)
		cleanup.Stop()
		cleanup.Stop()
	})
	t.Run("concurrently", func(t *testing.T) {
		t.Parallel()
		cleanup := test.NewStore(t).SpawnCleanup(t.Context(), time.Millisecond)
		var group sync.WaitGroup
		for range 10 {
			group.Go(cleanup.Stop)
		}
		group.Wait()
	})
	t.Run("after its context's end", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		cleanup := test.NewStore(t).SpawnCleanup(ctx, time.Millisecond)
		cancel()
		cleanup.Stop()
	})
	t.Run("of one among several", func(t *testing.T) {
		t.Parallel()
		swept := make(chan struct{}, 1000)
		s := test.NewTracedStore(t, &test.Tracer{End: func(sql string, _ error) {
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
		s := test.NewStore(t)
		s.AddExpired(t, 3)
		s.Clock.Advance(time.Hour)
		holder := s.LockTable(t)
		cleanup := s.SpawnCleanup(t.Context(), time.Millisecond)
		holder.WaitFor(t, 1)
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
			pool := test.BrokenPool(t, func(context.Context) {})
			started := time.Now()
			firsts := make(map[time.Duration]bool)
			for range 20 {
				log := test.NewRecorder()
				cleanup := test.Open(pool, pgsession.WithLogger(slog.New(log))).SpawnCleanup(t.Context(), interval)
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
			log := test.NewRecorder()
			ctx, cancel := context.WithCancel(t.Context())
			test.Open(test.BrokenPool(t, func(context.Context) {}), pgsession.WithLogger(slog.New(log))).SpawnCleanup(ctx, interval)
			<-log
			cancel()
			synctest.Wait()
			<-time.After(24 * time.Hour)
			require.Empty(t, log)
		})
	})
	t.Run("a context that has ended", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			log := test.NewRecorder()
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			cleanup := test.Open(test.BrokenPool(t, func(context.Context) {}), pgsession.WithLogger(slog.New(log))).SpawnCleanup(ctx, 1)
			cleanup.Stop()
			require.Empty(t, log)
		})
	})
	t.Run("Stop waits", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			log := make(gate)
			cleanup := test.Open(test.BrokenPool(t, func(context.Context) {}), pgsession.WithLogger(slog.New(log))).SpawnCleanup(t.Context(), interval)
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
			log := test.NewRecorder()
			var running, most, runs atomic.Int32
			pool := test.BrokenPool(t, func(context.Context) {
				most.Store(max(most.Load(), running.Add(1)))
				runs.Add(1)
				<-time.After(10 * time.Second)
				running.Add(-1)
			})
			cleanup := test.Open(pool, pgsession.WithLogger(slog.New(log)), pgsession.WithTimeout(0)).SpawnCleanup(t.Context(), time.Second)
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
			log := test.NewRecorder()
			pool := test.BrokenPool(t, func(ctx context.Context) { <-ctx.Done() })
			started := time.Now()
			cleanup := test.Encrypted(pool, pgsession.WithLogger(slog.New(log))).SpawnCleanup(t.Context(), time.Second)
			warning := <-log
			require.Equal(t, slog.LevelWarn, warning.Level)
			require.LessOrEqual(t, warning.Time.Sub(started), 7*time.Second)
			cleanup.Stop()
		})
	})
}
