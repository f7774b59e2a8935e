//go:build pgbouncer

package main

import (
	"bufio"
	"context"
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
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
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
		for _, kind := range []string{"sealed", "plaintext"} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				t.Parallel()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				config, err := pgxpool.ParseConfig(address)
				require.NoError(t, err)
				config.MaxConns = 8
				config.ConnConfig.DefaultQueryExecMode = mode
				pool, err := pgxpool.NewWithConfig(ctx, config)
				require.NoError(t, err)
				t.Cleanup(pool.Close)
				crypto, err := pgsession.NewCrypto(pgsession.GenerateKey())
				require.NoError(t, err)
				clock := pgsession.NewManualClock(time.Now())
				options := []pgsession.Option{pgsession.WithTable(name + "_" + kind), pgsession.WithClock(clock), pgsession.WithCoalescing(1)}
				store := pgsession.New(pool, crypto, options...)
				if kind == "plaintext" {
					store = pgsession.Plaintext(pool, options...)
				}
				everyOperation(t, ctx, store, crypto, clock)
			})
		}
	}
}

func everyOperation(t *testing.T, ctx context.Context, store *pgsession.Store, crypto *pgsession.Crypto, clock *pgsession.ManualClock) {
	t.Helper()
	var nodes sync.WaitGroup
	for range 4 {
		nodes.Go(func() {
			if err := store.Init(ctx); err != nil {
				t.Errorf("init: %v", err)
			}
		})
	}
	nodes.Wait()
	require.NoError(t, store.Init(ctx))

	created, err := store.Create(ctx, pgsession.Data{}, time.Hour)
	require.NoError(t, err)
	id, next := created.ID, pgsession.NewID()
	ann := pgsession.Data{UserID: "ann", Values: map[string]int{"visits": 1}}
	require.NoError(t, store.Cycle(ctx, id, next, ann, time.Hour))
	require.ErrorIs(t, store.Cycle(ctx, id, pgsession.NewID(), ann, time.Hour), pgsession.ErrRevoked)
	require.ErrorIs(t, store.Cycle(ctx, next, next, ann, time.Hour), pgsession.ErrExists)
	require.NoError(t, store.Save(ctx, next, ann, time.Hour))
	loaded, err := store.Load(ctx, next)
	require.NoError(t, err)
	_, err = store.Touch(ctx, loaded, 2*time.Hour)
	require.NoError(t, err)
	_, err = store.Update(ctx, loaded, 0, func(s *pgsession.Session) (any, error) {
		visits, err := pgsession.Decode[map[string]int](s)
		visits["visits"]++
		return visits, err
	})
	require.NoError(t, err)
	loaded, err = store.Load(ctx, next)
	require.NoError(t, err)
	visits, err := pgsession.Decode[map[string]int](loaded)
	require.NoError(t, err)
	require.Equal(t, map[string]int{"visits": 2}, visits)
	require.ErrorIs(t, store.Put(ctx, id, ann, time.Hour), pgsession.ErrRevoked)
	renewed, err := store.Renew(ctx, loaded, 0, func(s *pgsession.Session) (pgsession.Data, error) { return s.Data(), nil })
	require.NoError(t, err)
	next = renewed.ID
	_, err = store.Touch(ctx, renewed, 0)
	require.NoError(t, err)
	_, err = store.CreateAs(ctx, next, ann, time.Hour)
	require.ErrorIs(t, err, pgsession.ErrExists)
	found, err := store.FindByUser(ctx, "ann", 0)
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.NoError(t, store.Revoke(ctx, "ann", next.Handle()))
	require.NoError(t, store.Delete(ctx, next))
	require.ErrorIs(t, store.RevokeAny(ctx, next.Handle()), pgsession.ErrRevoked)

	// Many at once, so that calls share statements.
	var callers sync.WaitGroup
	for range 24 {
		callers.Go(func() {
			id := pgsession.NewID()
			for _, err := range []error{
				store.Put(ctx, id, ann, time.Hour), store.Save(ctx, id, ann, time.Hour),
			} {
				if err != nil {
					t.Errorf("beside others: %v", err)
				}
			}
			s, err := store.Load(ctx, id)
			if err != nil {
				t.Errorf("load beside others: %v", err)
				return
			}
			if _, err := store.Touch(ctx, s, 2*time.Hour); err != nil {
				t.Errorf("touch beside others: %v", err)
			}
			other := pgsession.NewID()
			if err := store.Cycle(ctx, id, other, ann, time.Hour); err != nil {
				t.Errorf("cycle beside others: %v", err)
			}
			if err := store.Delete(ctx, id); err != nil {
				t.Errorf("delete beside others: %v", err)
			}
		})
	}
	callers.Wait()
	stats := store.Stats()
	t.Logf("%+v", stats)

	listed := 0
	for _, err := range store.All(ctx) {
		require.NoError(t, err)
		listed++
	}
	require.Equal(t, 24, listed)
	require.NoError(t, crypto.SetKeys(pgsession.GenerateKey()))
	_, err = store.Reseal(ctx) // the old key is gone: every sealed row is told
	if err != nil {
		require.ErrorIs(t, err, pgsession.ErrUnknownKey)
	}

	entries := store.KeyValue()
	require.NoError(t, entries.Put(ctx, "state", []byte{1, 0, 2}, time.Hour))
	value, err := entries.Get(ctx, "state")
	require.NoError(t, err)
	require.Equal(t, []byte{1, 0, 2}, value)
	value, err = entries.Take(ctx, "state")
	require.NoError(t, err)
	require.Equal(t, []byte{1, 0, 2}, value)
	_, err = entries.Take(ctx, "state")
	require.ErrorIs(t, err, pgsession.ErrNotFound)
	require.NoError(t, entries.Delete(ctx, "state"))

	for i := range 3 {
		_, err := store.Create(ctx, pgsession.Data{UserID: "bob", Values: i}, time.Hour)
		require.NoError(t, err)
	}
	ended, err := store.DeleteByUser(ctx, "bob")
	require.NoError(t, err)
	require.EqualValues(t, 3, ended)
	require.NoError(t, store.Check(ctx))
	_, err = store.DeleteAll(ctx)
	require.NoError(t, err)
	clock.Advance(24 * time.Hour)
	removed, err := store.CleanupExpired(ctx)
	require.NoError(t, err)
	require.Positive(t, removed)
	cleanup := store.SpawnCleanup(ctx, time.Millisecond)
	cleanup.Stop()
}
