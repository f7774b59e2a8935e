package faults_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/test"
)

// readOnly makes a connection refuse writes, as those of a server do that was demoted.
const readOnly = `SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY`

// TestConnections_GivenUp calls every operation while every connection of the pool is read-only or
// has lost its prepared statements. The operation must connect anew, or prepare anew, and succeed.
func TestConnections_GivenUp(t *testing.T) {
	t.Parallel()
	for change, statement := range map[string]string{
		"read-only":      readOnly,
		"DISCARD ALL":    `DISCARD ALL`,
		"DEALLOCATE ALL": `DEALLOCATE ALL`,
	} {
		for _, places := range []int{0, 1} {
			t.Run(fmt.Sprintf("%s/WithCoalescing(%d)", change, places), func(t *testing.T) {
				t.Parallel()
				other := test.NewTracedStore(t, nil, 1)
				pool := pgtest.Pool(t, func(config *pgxpool.Config) {
					config.MaxConns = 12 // more than the attempts of a call
					config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement
					config.ConnConfig.RuntimeParams["search_path"] = other.Pool.Config().ConnConfig.RuntimeParams["search_path"]
				})
				for name := range test.Operations(other, pgsession.NewID()) {
					s := (&test.Store{Store: nil, Pool: pool, Clock: other.Clock}).Node(test.NewCrypto(t, test.Key), pgsession.WithCoalescing(places))
					newCall := func() func() error {
						id := other.Begin(t, test.Ann(1), time.Hour)
						require.NoError(t, other.KeyValue().Put(t.Context(), "k", nil, time.Hour))
						return func() error { return test.Operations(s, id)[name](t.Context()) }
					}
					if statement != readOnly {
						onEach(t, pool, func(*pgxpool.Conn) { require.NoError(t, newCall()(), name) })
					}
					call := newCall()
					fill(t, pool, statement)
					require.NoError(t, call(), name)
				}
			})
		}
	}
}

// TestConnections_GivenUp_Together has several writes meet connections that are read-only, before
// the first of them has been refused. The pool gives its connections up once, and all writes are
// sent again.
func TestConnections_GivenUp_Together(t *testing.T) {
	t.Parallel()
	const connections = 4
	s := test.NewTracedStore(t, nil, connections, pgsession.WithCoalescing(0))
	var ids [connections]pgsession.ID
	for i := range ids {
		ids[i] = s.Begin(t, test.Ann(0), time.Hour)
	}
	fill(t, s.Pool, readOnly)
	held := s.LockTable(t)
	errs := make(chan error, connections)
	for _, id := range ids {
		go func() { errs <- s.Save(t.Context(), id, test.Ann(1), time.Hour) }()
	}
	held.WaitFor(t, connections)
	held.Release(t)
	for range ids {
		require.NoError(t, <-errs)
	}
}

// TestConnections_OnceOnly has the first attempt of a compare-and-swap fail and the second succeed.
// It must then say that it has, or the caller does it twice.
func TestConnections_OnceOnly(t *testing.T) {
	t.Parallel()
	newReadOnly := func(t *testing.T) (*test.Store, pgsession.ID) {
		t.Parallel()
		s := test.NewTracedStore(t, nil, 2)
		id := s.Begin(t, test.Ann(0), time.Hour)
		fill(t, s.Pool, readOnly)
		return s, id
	}
	t.Run("Update", func(t *testing.T) {
		s, id := newReadOnly(t)
		require.NoError(t, test.Err(s.Update(t.Context(), test.Unloaded(id), 0, test.Increment)))
		require.Equal(t, 1, s.Number(t, id))
	})
	t.Run("Renew", func(t *testing.T) {
		s, id := newReadOnly(t)
		renewed, err := s.Renew(t.Context(), test.Unloaded(id), 0, test.LogIn(test.Ann(5)))
		require.NoError(t, err)
		require.Equal(t, 5, s.Number(t, renewed.ID))
	})
}

// TestConnections_SentAgain has the server roll back a write at its commit, after it has answered
// what it wrote. The write is sent again, and the first answer does not count.
func TestConnections_SentAgain(t *testing.T) {
	pgtest.NotDistributed(t, "its trigger counts with a sequence, and the shards have none")
	t.Parallel()
	type call func(t *testing.T, g *test.Turnstile, x, y pgsession.ID) error
	shared := func(name string) call {
		return func(t *testing.T, g *test.Turnstile, x, y pgsession.ID) error {
			run := func(id pgsession.ID) func() error {
				return func() error { return test.Operations(g.Store, id)[name](t.Context()) }
			}
			errs, _ := g.Together(t, run(g.Begin(t, test.Ann(1), time.Hour)), run(x), run(y))
			require.NoError(t, errs[1])
			return errs[0]
		}
	}
	alone := func(name string) call {
		return func(t *testing.T, g *test.Turnstile, x, _ pgsession.ID) error {
			return test.Operations(g.Store, x)[name](t.Context())
		}
	}
	counts := func(count func(ctx context.Context, g *test.Turnstile) (int64, error)) call {
		return func(t *testing.T, g *test.Turnstile, _, _ pgsession.ID) error {
			n, err := count(t.Context(), g)
			require.EqualValues(t, 1, n)
			return err
		}
	}
	const (
		ended   = `UPDATE sessions SET user_key = NULL, sealed = NULL, version = version + 1 WHERE key = $1`
		removed = `DELETE FROM sessions WHERE key = $1`
		renewed = `UPDATE sessions SET expires_at = expires_at + interval '1 day' WHERE key = $1`
	)
	for name, c := range map[string]struct {
		meanwhile string // what becomes of x between the attempts
		call      call
		want      error
	}{
		"save":             {ended, shared("save"), pgsession.ErrRevoked},
		"put":              {ended, shared("put"), pgsession.ErrRevoked},
		"touch":            {removed, shared("touch"), pgsession.ErrNotFound},
		"touch alone":      {removed, alone("touch"), pgsession.ErrNotFound},
		"revoke":           {ended, alone("revoke"), pgsession.ErrRevoked},
		"revoke/RevokeAny": {ended, alone("revoke/RevokeAny"), pgsession.ErrRevoked},
		"reseal": {ended, counts(func(ctx context.Context, g *test.Turnstile) (int64, error) {
			return g.Node(test.NewCrypto(t, test.OtherKey, test.Key)).Reseal(ctx)
		}), nil},
		"clean up": {renewed, counts(func(ctx context.Context, g *test.Turnstile) (int64, error) {
			g.Clock.Advance(2 * time.Hour)
			return g.CleanupExpired(ctx)
		}), nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := test.NewTurnstile(t, test.Encrypted)
			x, y := g.Begin(t, test.Ann(1), time.Hour), g.Begin(t, test.Ann(1), time.Hour)
			test.RunScript(t, g.Pool, fmt.Sprintf(`CREATE SEQUENCE attempts;
				CREATE FUNCTION fail_once() RETURNS trigger LANGUAGE plpgsql AS $$
				BEGIN
					IF old.key = '\x%s' AND nextval('attempts') = 1 THEN
						RAISE 'could not serialize access' USING ERRCODE = 'serialization_failure';
					END IF;
					RETURN NULL;
				END $$;
				CREATE CONSTRAINT TRIGGER fail_once AFTER UPDATE OR DELETE ON sessions
				DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail_once()`, x.Handle()))
			var failures atomic.Int64
			g.Traced.End = func(_ string, err error) {
				var server *pgconn.PgError
				if errors.As(err, &server) && server.Code == "40001" {
					failures.Add(1)
					if _, err := g.Pool.Exec(t.Context(), c.meanwhile, test.RowKey(x)); err != nil {
						t.Error(err)
					}
				}
			}
			require.ErrorIs(t, c.call(t, g, x, y), c.want)
			require.EqualValues(t, 1, failures.Load())
		})
	}
}

// TestConnections_UnknownOutcome cuts the connection in the middle of a write. Nobody knows whether
// the write took effect, and a second one could undo what others have written since. So the callers
// get the error, and it is not sent again.
func TestConnections_UnknownOutcome(t *testing.T) {
	pgtest.NotDistributed(t, "its trigger counts with a sequence, and the shards have none")
	t.Parallel()
	for _, name := range append(writesOf, "clean up", "delete all") {
		for _, shared := range []bool{false, true} {
			if shared && !slices.Contains([]string{"save", "put", "touch", "delete"}, name) {
				continue
			}
			t.Run(fmt.Sprintf("%s/%t", name, shared), func(t *testing.T) {
				t.Parallel()
				g := test.NewTurnstile(t, test.Encrypted)
				first, x, y := g.Begin(t, test.Ann(1), time.Hour), g.Begin(t, test.Ann(1), time.Hour), g.Begin(t, test.Ann(1), time.Hour)
				require.NoError(t, g.KeyValue().Put(t.Context(), "k", nil, time.Hour))
				switch name {
				case "clean up":
					g.Clock.Advance(2 * time.Hour)
				case "reseal":
					g.Store = g.Node(test.NewCrypto(t, test.OtherKey, test.Key))
				}
				// Of several calls, the first to be sent succeeds.
				test.RunScript(t, g.Pool, fmt.Sprintf(`CREATE SEQUENCE attempts;
					CREATE FUNCTION end_once() RETURNS trigger LANGUAGE plpgsql AS $$
					BEGIN
						IF old.key <> '\x%s' AND nextval('attempts') = 1 THEN
							PERFORM pg_terminate_backend(pg_backend_pid()), pg_sleep(60);
						END IF;
						RETURN CASE TG_OP WHEN 'DELETE' THEN old ELSE new END;
					END $$;
					CREATE TRIGGER end_once BEFORE UPDATE OR DELETE ON sessions FOR EACH ROW EXECUTE FUNCTION end_once()`, first.Handle()))
				run := func(id pgsession.ID) func() error {
					return func() error { return test.Operations(g.Store, id)[name](t.Context()) }
				}
				errs := []error{nil}
				if shared {
					errs, _ = g.Together(t, run(first), run(x), run(y))
				} else {
					errs[0] = run(x)()
				}
				for _, err := range errs {
					var server *pgconn.PgError
					require.ErrorAs(t, err, &server)
					require.Equal(t, "57P01", server.Code)
				}
				var attempts int
				require.NoError(t, g.Pool.QueryRow(t.Context(), `SELECT last_value FROM attempts`).Scan(&attempts))
				require.Equal(t, 1, attempts)
			})
		}
	}
}

// A limited connection breaks when so many bytes have come, once.
type limited struct {
	net.Conn
	left *atomic.Int64
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if l.left.Add(int64(-n)) < 0 {
		l.left.Store(math.MaxInt64)
		return 0, errors.Join(io.ErrUnexpectedEOF, l.Conn.Close())
	}
	return n, err
}

// TestConnections_CutShort cuts the connection when half of a list has come. The list is read
// again, and no session comes twice.
func TestConnections_CutShort(t *testing.T) {
	t.Parallel()
	const sessions, size = 4, 50 << 10
	var left atomic.Int64
	left.Store(math.MaxInt64)
	pool := pgtest.Pool(t, func(config *pgxpool.Config) {
		dial := config.ConnConfig.DialFunc
		config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			return &limited{conn, &left}, err
		}
	})
	s := test.NewStoreOn(t, pool, test.Encrypted)
	for range sessions {
		s.Begin(t, test.Ann(make([]byte, size)), time.Hour)
	}
	for name, list := range map[string]func() (int, error){
		"FindByUser": func() (int, error) {
			found, err := s.FindByUser(t.Context(), "ann", 0)
			return len(found), err
		},
		"All": func() (n int, last error) {
			for _, err := range s.All(t.Context()) {
				n, last = n+1, err
			}
			return n, last
		},
	} {
		left.Store(sessions * size / 2)
		n, err := list()
		require.NoError(t, err, name)
		require.Equal(t, sessions, n, name)
		require.Greater(t, left.Load(), int64(sessions*size), "it was cut")
	}
}

// onEach makes all of the pool's connections, and calls do while each is the only one that is free.
func onEach(t *testing.T, pool *pgxpool.Pool, do func(*pgxpool.Conn)) {
	t.Helper()
	held := make([]*pgxpool.Conn, pool.Config().MaxConns)
	acquire := func(i int) {
		var err error
		held[i], err = pool.Acquire(t.Context())
		require.NoError(t, err)
	}
	for i := range held {
		acquire(i)
	}
	for i, conn := range held {
		conn.Release()
		do(conn)
		acquire(i)
	}
	for _, conn := range held {
		conn.Release()
	}
}

// TestConnections_ReadOnlyForGood has a server that stays read-only. Writes return its error. They
// do not make the store connect anew at each call.
func TestConnections_ReadOnlyForGood(t *testing.T) {
	t.Parallel()
	usual := test.NewStore(t)
	id := usual.Begin(t, test.Ann(1), time.Hour)
	way := newNetwork()
	pool := pgtest.Pool(t, func(config *pgxpool.Config) {
		config.MaxConns = 2
		config.ConnConfig.RuntimeParams["search_path"] = usual.Pool.Config().ConnConfig.RuntimeParams["search_path"]
		config.ConnConfig.RuntimeParams["default_transaction_read_only"] = "on"
		way.configure(config)
	})
	s := (&test.Store{Store: nil, Pool: pool, Clock: usual.Clock}).Node(test.NewCrypto(t, test.Key))
	began := time.Now()
	for range 100 {
		err := s.Save(t.Context(), id, test.Ann(2), time.Hour)
		var server *pgconn.PgError
		require.ErrorAs(t, err, &server)
		require.Equal(t, "25006", server.Code)
	}
	// Two at a time, at the beginning and once a second.
	require.LessOrEqual(t, way.dialed.Load(), 2*(2+int64(time.Since(began)/time.Second)))
	require.Equal(t, 1, s.Number(t, id), "it can be read")
}

// TestConnections_NewPrimary demotes a server and promotes its standby. The pool's connections to
// the old one live on, and the store must come to the new one by target_session_attrs.
func TestConnections_NewPrimary(t *testing.T) {
	t.Parallel()
	pgtest.RequireBinaries(t)
	ctx := t.Context()
	primary, err := pgtest.StartCluster(ctx, t.Logf, pgtest.ClusterOptions{})
	require.NoError(t, err)
	t.Cleanup(primary.Stop)
	standby, err := pgtest.StandbyOf(ctx, primary, "standby", pgtest.ClusterOptions{})
	require.NoError(t, err)
	t.Cleanup(standby.Stop)
	pool, err := pgxpool.New(ctx, fmt.Sprintf("host=%s,%s port=%d,%d user=postgres dbname=postgres target_session_attrs=read-write pool_max_conns=4",
		primary.Host(), standby.Host(), primary.Port(), standby.Port()))
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	s := &test.Store{Store: test.Open(pool), Pool: pool, Clock: nil}
	require.NoError(t, s.Init(ctx))
	id := s.Begin(t, test.Ann(0), time.Hour)
	fill(t, pool, "")
	test.RequireHealth(t, s.Store, pgsession.Healthy)

	admin, err := pgx.Connect(ctx, primary.URL())
	require.NoError(t, err)
	defer admin.Close(context.Background())
	var lsn string
	require.NoError(t, admin.QueryRow(ctx, `SELECT pg_current_wal_lsn()::text`).Scan(&lsn))
	requireReplayed(t, standby, lsn)
	require.NoError(t, standby.Promote(ctx))
	// What the pool is connected to refuses writes from now on.
	_, err = admin.Exec(ctx, `ALTER SYSTEM SET default_transaction_read_only = on`)
	require.NoError(t, err)
	_, err = admin.Exec(ctx, `SELECT pg_reload_conf()`)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		var value string
		err := pool.QueryRow(ctx, `SHOW transaction_read_only`).Scan(&value)
		return err == nil && value == "on"
	}, test.Patience, time.Millisecond)

	errs := test.Many(20, func() error { return test.Err(s.Update(ctx, test.Unloaded(id), 0, test.Increment)) })
	for range 20 {
		require.NoError(t, <-errs)
	}
	require.Equal(t, 20, s.Number(t, id))
	require.NoError(t, test.Examine(ctx, s.Store).Err)
	var host string
	require.NoError(t, pool.QueryRow(ctx, `SHOW unix_socket_directories`).Scan(&host))
	require.Equal(t, standby.Host(), host)
}

func requireReplayed(t *testing.T, standby *pgtest.Cluster, lsn string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), standby.URL())
	require.NoError(t, err)
	defer conn.Close(context.Background())
	require.Eventually(t, func() bool {
		var replayed bool
		err := conn.QueryRow(t.Context(), `SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn`, lsn).Scan(&replayed)
		return err == nil && replayed
	}, test.Patience, time.Millisecond)
}
