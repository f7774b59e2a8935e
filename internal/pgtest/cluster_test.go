package pgtest_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession/internal/pgtest"
)

func startCluster(t *testing.T, options pgtest.ClusterOptions) *pgtest.Cluster {
	t.Helper()
	pgtest.RequireBinaries(t)
	cluster, err := pgtest.StartCluster(t.Context(), t.Logf, options)
	require.NoError(t, err)
	t.Cleanup(cluster.Stop)
	return cluster
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func execute(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	_, err := conn.Exec(t.Context(), sql)
	require.NoError(t, err)
}

func query[T any](t *testing.T, conn *pgx.Conn, sql string) (value T) {
	t.Helper()
	require.NoError(t, conn.QueryRow(t.Context(), sql).Scan(&value))
	return value
}

func TestCluster_DeathAndRestart(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		end  func(*pgtest.Cluster) error
	}{
		{"Kill", (*pgtest.Cluster).Kill},
		{"StopImmediate", (*pgtest.Cluster).StopImmediate},
		{"StopImmediate twice", func(c *pgtest.Cluster) error {
			if err := c.StopImmediate(); err != nil {
				return err
			}
			return c.StopImmediate()
		}},
		{"Restart alone", func(*pgtest.Cluster) error { return nil }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			cluster := startCluster(t, pgtest.ClusterOptions{Settings: map[string]string{"fsync": "on", "full_page_writes": "on"}})
			conn := connect(t, cluster.URL())
			require.Equal(t, "on", query[string](t, conn, `SHOW fsync`))
			execute(t, conn, `CREATE TABLE kept (id int); INSERT INTO kept VALUES (1)`)
			// Busy, it does not look whether its postmaster lives.
			busy := connect(t, cluster.URL())
			backend := int(query[int32](t, busy, `SELECT pg_backend_pid()`))
			ended := make(chan error, 1)
			go func() {
				_, err := busy.Exec(context.Background(), `SELECT count(*) FROM generate_series(1, 1e10)`)
				ended <- err
			}()
			require.Eventually(t, func() bool {
				var active bool
				err := conn.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND query LIKE '%1e10%')`, backend).Scan(&active)
				return err == nil && active
			}, deadline, interval)

			require.NoError(t, test.end(cluster))
			if test.name != "Restart alone" {
				// Its parent dead, whoever adopts it takes a moment to notice that it has ended.
				require.Eventually(t, func() bool { return gone(backend) }, deadline, interval)
				_, err := pgx.Connect(t.Context(), cluster.URL())
				require.Error(t, err)
			}
			before := cluster.URL()
			require.NoError(t, cluster.Restart(t.Context()))
			require.Error(t, <-ended)
			require.Equal(t, before, cluster.URL())
			require.Equal(t, 1, query[int](t, connect(t, cluster.URL()), `SELECT id FROM kept`))
		})
	}
}

func TestCluster_StopAfterKill(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, pgtest.ClusterOptions{})
	require.NoError(t, cluster.Kill())
	require.Error(t, cluster.Kill(), "there is nothing left to kill")
	cluster.Stop()
	require.NoDirExists(t, filepath.Dir(cluster.DataDir()))
}

func TestCluster_TCP(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, pgtest.ClusterOptions{TCP: true})
	require.Equal(t, "127.0.0.1", cluster.Host())
	conn := connect(t, cluster.URL())
	require.Equal(t, cluster.Port(), int(conn.Config().Port))
	require.Equal(t, "127.0.0.1", query[string](t, conn, `SELECT host(inet_server_addr())`))

	config := conn.Config()
	config.Password = "guessed"
	_, err := pgx.ConnectConfig(t.Context(), config)
	var refusal *pgconn.PgError
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, "28P01", refusal.Code, "another user of this machine must not get in")
}

// What asks for any port, another test's listener or a client, must not get one that FreePort
// returned and that its program does not listen on yet.
func TestFreePort(t *testing.T) {
	t.Parallel()
	given := map[int]bool{}
	for range 1000 {
		port, err := pgtest.FreePort()
		require.NoError(t, err)
		require.False(t, given[port])
		require.Less(t, port, 32_768)
		given[port] = true
	}
}

func TestCluster_SocketIsPrivate(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, pgtest.ClusterOptions{})
	info, err := os.Stat(cluster.Host())
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
}

func TestCluster_BadSetting(t *testing.T) {
	t.Parallel()
	pgtest.RequireBinaries(t)
	_, err := pgtest.StartCluster(t.Context(), t.Logf, pgtest.ClusterOptions{Settings: map[string]string{"no_such_setting": "1"}})
	require.ErrorContains(t, err, `unrecognized configuration parameter "no_such_setting"`)
}

func TestStandbyOf_FailOver(t *testing.T) {
	t.Parallel()
	primary := startCluster(t, pgtest.ClusterOptions{TCP: true})
	standby, err := pgtest.StandbyOf(t.Context(), primary, "second", pgtest.ClusterOptions{TCP: true})
	require.NoError(t, err)
	t.Cleanup(standby.Stop)

	conn := connect(t, primary.URL())
	execute(t, conn, `ALTER SYSTEM SET synchronous_standby_names = 'second'`)
	execute(t, conn, `SELECT pg_reload_conf()`)
	require.Eventually(t, func() bool {
		var state string
		err := conn.QueryRow(t.Context(), `SELECT sync_state FROM pg_stat_replication`).Scan(&state)
		return err == nil && state == "sync"
	}, deadline, interval)
	execute(t, conn, `CREATE TABLE kept (id int)`)
	execute(t, conn, `INSERT INTO kept VALUES (1)`)
	require.NoError(t, primary.Kill())

	successor := connect(t, standby.URL())
	require.True(t, query[bool](t, successor, `SELECT pg_is_in_recovery()`))
	require.NoError(t, standby.Promote(t.Context()))
	require.False(t, query[bool](t, successor, `SELECT pg_is_in_recovery()`))
	require.Equal(t, 1, query[int](t, successor, `SELECT id FROM kept`))
	execute(t, successor, `INSERT INTO kept VALUES (2)`)
}

func TestCluster_CancelledStartLeavesNothing(t *testing.T) {
	t.Parallel()
	pgtest.RequireBinaries(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	cluster, err := pgtest.StartCluster(ctx, t.Logf, pgtest.ClusterOptions{})
	require.Error(t, err)
	require.Nil(t, cluster)
}

func TestCluster_UnfitTemporaryFolder(t *testing.T) {
	closed := t.TempDir()
	require.NoError(t, os.Chmod(closed, 0o700))
	deep := filepath.Join("/tmp", "pgtest-"+strings.Repeat("deep", 20))
	require.NoError(t, os.MkdirAll(deep, 0o755))
	t.Cleanup(func() { os.RemoveAll(deep) })
	tests := []struct{ name, folder string }{
		{"closed to the server's user", closed},
		{"too long for a socket", deep},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("TMPDIR", test.folder)
			cluster := startCluster(t, pgtest.ClusterOptions{})
			require.Equal(t, 1, query[int](t, connect(t, cluster.URL()), `SELECT 1`))
		})
	}
}
