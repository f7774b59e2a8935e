package faults_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/test"
)

// TestClocks_NodeAhead has one node whose clock is a day ahead of the server's, by functions that
// hide the server's own. It may not remove what lives by the server's clock, and warns before it
// could.
func TestClocks_NodeAhead(t *testing.T) {
	t.Parallel()
	s := test.NewStore(t, pgsession.WithClock(pgsession.SystemClock{}))
	for _, function := range []string{"statement_timestamp", "clock_timestamp"} {
		s.SQL(t, `CREATE FUNCTION `+function+`() RETURNS timestamptz STABLE RETURN pg_catalog.`+function+`() - interval '1 day 30 seconds'`)
	}
	schema := s.Pool.Config().ConnConfig.RuntimeParams["search_path"]
	log := test.NewRecorder()
	ahead := pgsession.New(test.NodePool(t, schema+", pg_catalog", nil), test.NewCrypto(t, test.Key), pgsession.WithLogger(slog.New(log)))
	require.NoError(t, ahead.Init(t.Context()))
	require.Contains(t, (<-log).Message, warnsOfClock)
	test.RequireHealth(t, ahead, pgsession.Degraded, test.IsSkewed+"24h0m")

	// By the node's clock these are over, by the server's they live or are tombstones that still
	// count.
	s.SQL(t, `INSERT INTO sessions (key, sealed, version, created_at, expires_at, idle_timeout)
		SELECT sha256(convert_to(i::text, 'UTF8')), CASE WHEN i % 2 = 0 THEN '\x01'::bytea END, 1, now(), now() - i * interval '1 hour', '1 hour'
		FROM generate_series(1, 23) AS i`)
	for name, cleanUp := range map[string]func() (int64, error){
		"CleanupExpired": func() (int64, error) { return ahead.CleanupExpired(t.Context()) },
		"PruneExpired":   func() (int64, error) { return ahead.KeyValue().PruneExpired(t.Context()) },
		"SpawnCleanup": func() (int64, error) {
			before := ahead.Stats()
			cleanup := ahead.SpawnCleanup(t.Context(), time.Millisecond)
			defer cleanup.Stop()
			require.Eventually(t, func() bool { return ahead.Stats().LastCleanup.After(before.LastCleanup) }, test.Patience, time.Millisecond)
			return ahead.Stats().Cleaned - before.Cleaned, nil
		},
	} {
		removed, err := cleanUp()
		require.NoError(t, err, name)
		require.Zero(t, removed, name)
	}
	s.SQL(t, `UPDATE sessions SET expires_at = now() - interval '2 days' WHERE key = sha256('1')`)
	removed, err := ahead.CleanupExpired(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, removed, "over by both")
	require.Equal(t, 22, s.CountRows(t, "true"))
}

// TestClocks_NodeBehind has one node whose clock is a day behind. It removes no more than is over
// by its own.
func TestClocks_NodeBehind(t *testing.T) {
	t.Parallel()
	s := test.NewStore(t, pgsession.WithClock(pgsession.SystemClock{}))
	s.SQL(t, `CREATE FUNCTION statement_timestamp() RETURNS timestamptz STABLE RETURN pg_catalog.statement_timestamp() + interval '1 day'`)
	pool := test.NodePool(t, s.Pool.Config().ConnConfig.RuntimeParams["search_path"]+", pg_catalog", nil)
	id := s.Begin(t, test.Ann(1), time.Hour)
	removed, err := test.Open(pool).CleanupExpired(t.Context())
	require.NoError(t, err)
	require.Zero(t, removed)
	s.MustLoad(t, id)
}

// TestStore_CleanupExpired_ErrorHalfway has the caller go while the second batch is removed. It is
// the last, and counts if the server has removed it in time.
func TestStore_CleanupExpired_ErrorHalfway(t *testing.T) {
	pgtest.NotDistributed(t, "there are no batches")
	t.Parallel()
	var removals atomic.Int32
	var ctx context.Context
	var cancel context.CancelFunc
	s := test.NewTracedStore(t, &test.Tracer{Start: func(_ context.Context, sql string) {
		if strings.Contains(sql, "DELETE FROM") && removals.Add(1) == 2 {
			cancel()
		}
	}}, 8)
	s.AddExpired(t, 5000)
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	removed, err := s.CleanupExpired(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.Contains(t, []int64{1000, 2000}, removed, "what was removed before the error")
	require.Equal(t, removed, s.Stats().Cleaned)
	require.Zero(t, s.Stats().LastCleanup, "it did not succeed")
	// A statement that was given up may have taken effect all the same.
	require.Contains(t, []int64{5000 - removed, 4000 - removed}, int64(s.MustCleanUp(t)))
}

// TestStore_CleanupExpired_ServerClock has a server whose clock is an hour behind the node's, by a
// function that hides the server's own. What is live by the server's clock stays, unless a test
// moves the clock.
func TestStore_CleanupExpired_ServerClock(t *testing.T) {
	t.Parallel()
	s := test.NewStore(t)
	s.SQL(t, `CREATE FUNCTION statement_timestamp() RETURNS timestamptz STABLE RETURN pg_catalog.statement_timestamp() - interval '1 hour'`)
	s.SQL(t, `INSERT INTO sessions (key, version, created_at, expires_at, idle_timeout)
		SELECT i::text::bytea, 1, '2020-01-01Z', now() - i * interval '30 minutes', '1 hour' FROM generate_series(1, 3) AS i`)
	pool := test.NodePool(t, s.Pool.Config().ConnConfig.RuntimeParams["search_path"]+", pg_catalog", nil)
	removed, err := test.Open(pool).CleanupExpired(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 2, removed)
	require.Equal(t, 1, s.CountRows(t, `key = '1'`))
	removed, err = test.Open(pool, pgsession.WithClock(test.Shifted(0))).CleanupExpired(t.Context())
	require.NoError(t, err)
	require.Zero(t, removed, "a clock that wraps the machine's is not believed either")
	removed, err = test.Open(pool, pgsession.WithClock(pgsession.NewManualClock(time.Now()))).CleanupExpired(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, removed, "a manual clock is believed")
}

// TestStore_CleanupExpired_HostileRows plants more rows than a sweep reads at once, with times that
// no store writes.
func TestStore_CleanupExpired_HostileRows(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
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
			s := test.NewStore(t)
			s.SQL(t, `INSERT INTO sessions (key, sealed, version, created_at, expires_at, idle_timeout)
				SELECT sha256(convert_to(i::text, 'UTF8')), '\x01', 1, '2020-01-01Z', `+c.expiresAt+`, '1 hour'
				FROM generate_series(1, 12000) AS i`)
			mine := s.Expired(t)
			require.Equal(t, c.removed+1, s.MustCleanUp(t))
			require.Zero(t, s.CountRows(t, `key = $1`, test.RowKey(mine)), "what has expired goes all the same")
		})
	}
	t.Run("keys of any length", func(t *testing.T) {
		t.Parallel()
		s := test.NewStore(t)
		s.SQL(t, `INSERT INTO sessions (key, version, created_at, expires_at, idle_timeout)
			SELECT convert_to(repeat('k', i), 'UTF8'), i, 'infinity', '2020-01-01Z', '1 hour' FROM generate_series(0, 100) AS i`)
		require.EqualValues(t, 101, s.MustCleanUp(t))
	})
}

// TestLocks_CleanUp runs each kind of clean-up while rows are locked. It removes the others.
func TestLocks_CleanUp(t *testing.T) {
	t.Parallel()
	for name, cleanUp := range map[string]func(s *test.Store) (int64, error){
		"CleanupExpired": func(s *test.Store) (int64, error) { return s.CleanupExpired(t.Context()) },
		"PruneExpired":   func(s *test.Store) (int64, error) { return s.KeyValue().PruneExpired(t.Context()) },
		"SpawnCleanup": func(s *test.Store) (int64, error) {
			before := s.Stats()
			cleanup := s.SpawnCleanup(t.Context(), time.Millisecond)
			defer cleanup.Stop()
			for s.Stats().LastCleanup.Equal(before.LastCleanup) {
				if err := t.Context().Err(); err != nil {
					return 0, err
				}
			}
			return s.Stats().Cleaned - before.Cleaned, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := test.NewStore(t)
			for run := range 2 {
				s.AddExpired(t, 50)
				s.Clock.Advance(2 * time.Hour)
				held := s.Lock(t, `key = (SELECT key FROM sessions ORDER BY key LIMIT 1)`)
				removed, err := cleanUp(s)
				require.NoError(t, err, run)
				require.EqualValues(t, 49, removed, run)
				require.Equal(t, 1, s.CountRows(t, "true"))
				held.WaitFor(t, 0)
				held.Release(t)
				s.Clock.Advance(2 * time.Hour)
				removed, err = cleanUp(s)
				require.NoError(t, err, run)
				require.EqualValues(t, 1, removed, run)
			}
		})
	}
}

// TestLocks_CleanUp_ManyHeld locks more rows than one look reads. The clean-up removes what lies
// behind them, and ends.
func TestLocks_CleanUp_ManyHeld(t *testing.T) {
	pgtest.NotDistributed(t, "it takes a statement for each row there")
	t.Parallel()
	s := test.NewStore(t)
	const rows, free = 11_000, 10
	s.AddExpired(t, rows)
	s.Lock(t, `key IN (SELECT key FROM sessions ORDER BY key LIMIT $1)`, rows-free)
	ctx, cancel := context.WithTimeout(t.Context(), test.Patience)
	defer cancel()
	removed, err := s.CleanupExpired(ctx)
	require.NoError(t, err)
	require.EqualValues(t, free, removed)
}

func TestStore_CleanupExpired_ManyNodes(t *testing.T) {
	t.Parallel()
	s := test.NewStore(t)
	const rows, nodes = 15_000, 4
	s.AddExpired(t, rows)
	var removed [nodes]int64
	var errs [nodes]error
	var group sync.WaitGroup
	for i := range nodes {
		node := s.Node(test.NewCrypto(t, test.Key))
		group.Go(func() { removed[i], errs[i] = node.CleanupExpired(t.Context()) })
	}
	group.Wait()
	require.NoError(t, errors.Join(errs[:]...))
	total := int64(0)
	for _, n := range removed {
		total += n
	}
	require.EqualValues(t, rows, total, "each row is removed once, and counted once")
	require.Zero(t, s.CountRows(t, "true"))
}

// TestStore_CleanupExpired_SparesTheLive makes an expired session live again after the sweep has
// seen it. No operation does that. A clock that is set back, and a touch by its time, do.
func TestStore_CleanupExpired_SparesTheLive(t *testing.T) {
	t.Parallel()
	var revive func()
	s := test.NewTracedStore(t, &test.Tracer{Start: func(_ context.Context, sql string) {
		if strings.Contains(sql, "DELETE FROM") {
			revive()
		}
	}}, 8)
	id, gone := s.Begin(t, test.Ann(1), time.Minute), s.Begin(t, test.Ann(1), time.Minute)
	s.Clock.Advance(time.Hour)
	revive = func() {
		s.SQL(t, `UPDATE sessions SET expires_at = $2, version = version + 1 WHERE key = $1`, test.RowKey(id), s.Clock.Now().Add(time.Hour))
	}
	require.EqualValues(t, 1, s.MustCleanUp(t))
	require.Equal(t, 1, s.Number(t, id))
	require.Zero(t, s.CountRows(t, `key = $1`, test.RowKey(gone)))
}
