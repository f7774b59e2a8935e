package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
)

var expiredRows = flag.Int("expired", 50_000, "how many expired rows the clean-up has to remove")

// Many expired rows, two nodes that sweep them, and traffic that goes on: on live sessions, and on
// expired ones that are put anew as soon as they are gone, while the sweeps still have their keys.
func TestCleanup_BesideTraffic(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	cluster := startCluster(t, map[string]string{"max_wal_size": "4GB"})
	newStore := func(clock pgsession.Clock, crypto *pgsession.Crypto) (*pgsession.Store, *pgxpool.Pool) {
		config, err := pgxpool.ParseConfig(cluster.URL())
		require.NoError(t, err)
		config.MaxConns = 8
		pool, err := pgxpool.NewWithConfig(ctx, config)
		require.NoError(t, err)
		t.Cleanup(pool.Close)
		return pgsession.New(pool, crypto, pgsession.WithClock(clock)), pool
	}
	crypto, err := pgsession.NewCrypto(pgsession.GenerateKey())
	require.NoError(t, err)
	start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	clock := pgsession.NewManualClock(start)
	traffic, pool := newStore(clock, crypto)
	require.NoError(t, traffic.Init(ctx))

	var live, revenants []*pgsession.Session
	for i := range 400 {
		ttl, group := 1000*time.Hour, &live
		if i%2 == 1 {
			ttl, group = time.Duration(1+rand.N(90*60))*time.Second, &revenants
		}
		s, err := traffic.Create(ctx, pgsession.Data{UserID: "ann", Values: i}, ttl)
		require.NoError(t, err)
		*group = append(*group, s)
	}
	_, err = pool.Exec(ctx, `
		INSERT INTO sessions (key, sealed, version, created_at, expires_at, idle_timeout)
		SELECT sha256(i::text::bytea), sha256(i::text::bytea), i, $1, at, interval '1 hour'
		FROM generate_series(1, $2::int) AS i, LATERAL (SELECT $1::timestamptz + (i % 7200 + 1) * interval '1 second' AS at) AS expiry`, start, *expiredRows)
	require.NoError(t, err)
	_, err = pool.Exec(ctx, `VACUUM ANALYZE sessions`)
	require.NoError(t, err)
	clock.Advance(150 * time.Minute) // past all but the live

	alone := make([]time.Duration, 0, 4000)
	for range 4000 {
		alone = append(alone, timedSave(t, traffic, live[rand.IntN(len(live))].ID))
	}

	sweeping, cancel := context.WithCancel(ctx)
	defer cancel()
	var sweeps, callers sync.WaitGroup
	var removed [2]int64
	var failures [2]error
	for i := range 2 {
		store, _ := newStore(clock, crypto)
		sweeps.Go(func() { removed[i], failures[i] = store.CleanupExpired(ctx) })
	}
	var beside []time.Duration
	callers.Go(func() {
		for sweeping.Err() == nil || len(beside) < 100 {
			beside = append(beside, timedSave(t, traffic, live[rand.IntN(len(live))].ID))
		}
	})
	problems := make(chan error, 100)
	callers.Go(func() {
		for _, s := range live {
			if _, err := traffic.Touch(ctx, s, 2000*time.Hour); err != nil {
				problems <- fmt.Errorf("touch: %w", err)
			}
		}
	})
	callers.Go(func() {
		for _, s := range revenants {
			// Until its row is removed, nothing begins anew under the id.
			err := pgsession.ErrNotFound
			for errors.Is(err, pgsession.ErrNotFound) && sweeping.Err() == nil {
				err = traffic.Put(ctx, s.ID, pgsession.Data{UserID: "ann", Values: "anew"}, time.Hour)
			}
			if err != nil && !errors.Is(err, pgsession.ErrNotFound) {
				problems <- fmt.Errorf("put: %w", err)
			}
		}
	})
	sweeps.Wait()
	cancel()
	callers.Wait()
	close(problems)
	for err := range problems {
		require.NoError(t, err)
	}
	require.NoError(t, errors.Join(failures[:]...))

	// A sweep leaves a row that a refused Put holds at the moment.
	_, err = traffic.CleanupExpired(ctx)
	require.NoError(t, err)
	for _, s := range revenants {
		require.NoError(t, traffic.Put(ctx, s.ID, pgsession.Data{UserID: "ann", Values: "anew"}, time.Hour))
	}
	for _, s := range slices.Concat(live, revenants) {
		_, err := traffic.Load(ctx, s.ID)
		require.NoError(t, err)
	}
	var left int
	require.NoError(t, pool.QueryRow(ctx, `SELECT count(*) FROM sessions WHERE expires_at <= $1`, clock.Now()).Scan(&left))
	require.Zero(t, left)
	t.Logf("two sweeps removed %d and %d rows; p99 of a save: %v alone, %v beside them, %.1f times", removed[0], removed[1],
		p99(alone), p99(beside), float64(p99(beside))/float64(p99(alone)))
}

func timedSave(t *testing.T, store *pgsession.Store, id pgsession.ID) time.Duration {
	started := time.Now()
	if err := store.Save(t.Context(), id, pgsession.Data{UserID: "ann", Values: 1}, 1000*time.Hour); err != nil {
		t.Errorf("save: %v", err)
	}
	return time.Since(started)
}

func p99(durations []time.Duration) time.Duration {
	slices.Sort(durations)
	return durations[len(durations)*99/100]
}
