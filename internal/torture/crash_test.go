package main

import (
	"context"
	"flag"
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
)

var kills = flag.Int("kills", 5, "how often TestCrash kills the server")

func startCluster(t *testing.T, settings map[string]string) *pgtest.Cluster {
	t.Helper()
	pgtest.RequireBinaries(t)
	cluster, err := pgtest.StartCluster(t.Context(), t.Logf, pgtest.ClusterOptions{TCP: true, Settings: settings})
	require.NoError(t, err)
	t.Cleanup(cluster.Stop)
	return cluster
}

func startLedger(t *testing.T, url string) *ledger {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	crypto, err := pgsession.NewCrypto(pgsession.GenerateKey())
	require.NoError(t, err)
	store := pgsession.New(pool, crypto)
	require.NoError(t, store.Init(t.Context()))
	l := newLedger(store, "user")
	l.open(t.Context(), 8)
	t.Cleanup(l.stop)
	return l
}

func durable() map[string]string {
	return map[string]string{"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}
}

// What was acknowledged survives kill -9, and what was ended does too.
func TestCrash(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, durable())
	l := startLedger(t, cluster.URL())
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(*kills)*time.Minute)
	defer cancel()
	for kill := range *kills {
		require.NoError(t, l.grow(ctx, 200))
		require.NoError(t, cluster.Kill())
		require.NoError(t, cluster.Restart(ctx))
		lost, resurrected, err := l.verify(ctx)
		require.NoError(t, err)
		require.Zero(t, lost, "after kill %d", kill+1)
		require.Zero(t, resurrected, "after kill %d", kill+1)
	}
	require.NoError(t, l.grow(ctx, 200))
	lost, resurrected, err := l.close()
	require.NoError(t, err)
	require.Zero(t, lost)
	require.Zero(t, resurrected)
	require.NotEmpty(t, l.ended)
	t.Logf("%d kills, %d acknowledged saves of %d sessions, %d ended: none lost, none resurrected", *kills, l.saves, len(l.live), len(l.ended))
}

// The ledger can tell: a server that acknowledges before it writes does lose something.
func TestCrash_WithoutSynchronousCommit(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, map[string]string{"synchronous_commit": "off", "wal_writer_delay": "10s"})
	l := startLedger(t, cluster.URL())
	missing := 0
	for range 20 { // a kill may come just after the server has written
		require.NoError(t, l.grow(t.Context(), 50))
		require.NoError(t, cluster.Kill())
		require.NoError(t, cluster.Restart(t.Context()))
		require.NoError(t, l.store.Init(t.Context()), "the table itself may have been lost")
		lost, resurrected, err := l.verify(t.Context())
		require.NoError(t, err)
		if missing = lost + resurrected; missing > 0 {
			break
		}
	}
	require.Positive(t, missing)
}

// The same across a fail-over to a synchronous standby.
func TestFailOver(t *testing.T) {
	t.Parallel()
	primary := startCluster(t, durable())
	standby, err := pgtest.StandbyOf(t.Context(), primary, "standby", pgtest.ClusterOptions{TCP: true, Settings: durable()})
	require.NoError(t, err)
	t.Cleanup(standby.Stop)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	requireSynchronous(t, ctx, primary)

	both, err := url.Parse(primary.URL())
	require.NoError(t, err)
	both.Host = fmt.Sprintf("127.0.0.1:%d,127.0.0.1:%d", primary.Port(), standby.Port())
	query := both.Query()
	query.Set("target_session_attrs", "read-write")
	both.RawQuery = query.Encode()
	l := startLedger(t, both.String())

	require.NoError(t, l.grow(ctx, 300))
	require.NoError(t, primary.Kill())
	require.NoError(t, standby.Promote(ctx))
	require.NoError(t, l.grow(ctx, 300), "the pool finds the new primary")
	lost, resurrected, err := l.close()
	require.NoError(t, err)
	require.Zero(t, lost)
	require.Zero(t, resurrected)
	require.NotEmpty(t, l.ended)
	t.Logf("%d acknowledged saves of %d sessions, %d ended: none lost, none resurrected", l.saves, len(l.live), len(l.ended))
}

func requireSynchronous(t *testing.T, ctx context.Context, primary *pgtest.Cluster) {
	t.Helper()
	conn, err := pgx.Connect(ctx, primary.URL())
	require.NoError(t, err)
	defer conn.Close(context.WithoutCancel(ctx))
	for _, sql := range []string{`ALTER SYSTEM SET synchronous_standby_names = 'standby'`, `SELECT pg_reload_conf()`} {
		_, err = conn.Exec(ctx, sql)
		require.NoError(t, err)
	}
	for {
		var synchronous bool
		require.NoError(t, conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync')`).Scan(&synchronous))
		if synchronous {
			return
		}
		pause(ctx, 5*time.Millisecond)
	}
}
