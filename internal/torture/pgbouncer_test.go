//go:build pgbouncer

package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/test"
)

// startPgBouncer starts a PgBouncer in transaction mode, with few servers for many clients, and
// returns its URL.
func startPgBouncer(t *testing.T, cluster *pgtest.Cluster) string {
	t.Helper()
	program := findPgBouncer()
	require.NotEmpty(t, program, "there is no pgbouncer on this machine: apt-get install pgbouncer")
	server, err := url.Parse(cluster.URL())
	require.NoError(t, err)
	password, _ := server.User.Password()

	port, err := pgtest.FreePort()
	require.NoError(t, err)
	folder, err := os.MkdirTemp("/tmp", "torture-pgbouncer-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(folder)) })
	configuration := filepath.Join(folder, "pgbouncer.ini")
	require.NoError(t, os.WriteFile(configuration, fmt.Appendf(nil, `[databases]
postgres = host=127.0.0.1 port=%d dbname=postgres user=postgres password=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
max_client_conn = 200
`, cluster.Port(), password, port), 0o600))

	command := exec.Command(program, configuration)
	command.SysProcAttr = &syscall.SysProcAttr{}
	if os.Geteuid() == 0 { // it refuses to run as root
		account, err := user.Lookup("nobody")
		require.NoError(t, err)
		uid, err := strconv.Atoi(account.Uid)
		require.NoError(t, err)
		gid, err := strconv.Atoi(account.Gid)
		require.NoError(t, err)
		for _, path := range []string{folder, configuration} {
			require.NoError(t, os.Chown(path, uid, gid))
		}
		command.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	output, err := command.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	t.Cleanup(func() {
		require.NoError(t, command.Process.Signal(syscall.SIGINT))
		command.Wait()
	})
	lines := bufio.NewScanner(output)
	var said []string
	for lines.Scan() {
		said = append(said, lines.Text())
		if strings.Contains(lines.Text(), "process up") {
			t.Log(lines.Text())
			go io.Copy(io.Discard, output)
			return (&url.URL{Scheme: "postgres", User: url.User("postgres"), Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)),
				Path: "/postgres", RawQuery: "sslmode=disable"}).String()
		}
	}
	require.Fail(t, "pgbouncer does not start", strings.Join(said, "\n"))
	return ""
}

func findPgBouncer() string {
	for _, name := range []string{"pgbouncer", "/usr/sbin/pgbouncer"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// Every operation through PgBouncer in transaction mode, where one connection's statements go to
// several servers.
func TestPgBouncer(t *testing.T) {
	t.Parallel()
	cluster := startCluster(t, nil)
	address := startPgBouncer(t, cluster)
	for name, mode := range map[string]pgx.QueryExecMode{
		"exec":            pgx.QueryExecModeExec,
		"simple_protocol": pgx.QueryExecModeSimpleProtocol,
		"cache_describe":  pgx.QueryExecModeCacheDescribe,
	} {
		for kind, open := range map[string]test.Opener{"sealed": test.Encrypted, "plaintext": pgsession.Plaintext} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				t.Parallel()
				config, err := pgxpool.ParseConfig(address)
				require.NoError(t, err)
				config.MaxConns = 8
				config.ConnConfig.DefaultQueryExecMode = mode
				pool, err := pgxpool.NewWithConfig(t.Context(), config)
				require.NoError(t, err)
				t.Cleanup(pool.Close)
				table := name + "_" + kind
				clock := pgsession.NewManualClock(test.Epoch)
				store := open(pool, pgsession.WithTable(table), pgsession.WithClock(clock), pgsession.WithCoalescing(1), test.Quiet(), test.Patient())
				test.RequireAll(t, "init", 4, func(int) error { return store.Init(t.Context()) })
				test.Exercise(t, &test.Store{Store: store, Pool: pool, Clock: clock, Table: table}, nil)
			})
		}
	}
}
