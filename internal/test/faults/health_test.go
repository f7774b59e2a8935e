package faults_test

import (
	"context"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/test"
)

// How the reasons of a degraded store begin.
const (
	isExhausted = "every connection of the pool is in use"
	isLate      = "the clean-up has not succeeded for three intervals"
	isUnopened  = "rows were met that no key of the ring opens"
)

// TestHealth_UnknownKey has a store with a wrong key ring meet rows, in each way to read them.
func TestHealth_UnknownKey(t *testing.T) {
	t.Parallel()
	s := test.NewStore(t, pgsession.WithClock(pgsession.SystemClock{}))
	id := s.Begin(t, test.Ann(1), time.Hour)
	require.NoError(t, s.KeyValue().Put(t.Context(), "k", nil, time.Hour))
	for name, read := range map[string]func(other *test.Store) error{
		"Load": func(other *test.Store) error { return test.Err(other.Load(t.Context(), id)) },
		"Update": func(other *test.Store) error {
			return test.Err(other.Update(t.Context(), test.Unloaded(id), 0, test.Keep(1)))
		},
		"Renew": func(other *test.Store) error {
			return test.Err(other.Renew(t.Context(), test.Unloaded(id), 0, test.LogIn(test.Bob)))
		},
		"Get":    func(other *test.Store) error { return test.Err(other.KeyValue().Get(t.Context(), "k")) },
		"Reseal": func(other *test.Store) error { return test.Err(other.Reseal(t.Context())) },
		"All": func(other *test.Store) error {
			for session, err := range other.All(t.Context()) {
				require.NoError(t, err)
				var v any
				return session.Decode(&v)
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			other := s.Node(test.NewCrypto(t, pgsession.GenerateKey()), pgsession.WithClock(pgsession.SystemClock{}))
			test.RequireHealth(t, other.Store, pgsession.Healthy)
			require.ErrorIs(t, read(other), pgsession.ErrUnknownKey)
			test.RequireHealth(t, other.Store, pgsession.Degraded, isUnopened)
			test.RequireHealth(t, s.Store, pgsession.Healthy)
		})
	}
	t.Run("Init", func(t *testing.T) {
		t.Parallel()
		other := s.Node(test.NewCrypto(t, pgsession.GenerateKey()), pgsession.WithClock(pgsession.SystemClock{}))
		require.NoError(t, other.Init(t.Context()))
		test.RequireHealth(t, other.Store, pgsession.Degraded, isUnopened)
	})
	t.Run("Take", func(t *testing.T) { // removes it
		t.Parallel()
		require.NoError(t, s.KeyValue().Put(t.Context(), "code", nil, time.Hour))
		other := s.Node(test.NewCrypto(t, pgsession.GenerateKey()), pgsession.WithClock(pgsession.SystemClock{}))
		require.ErrorIs(t, test.Err(other.KeyValue().Take(t.Context(), "code")), pgsession.ErrUnknownKey)
		test.RequireHealth(t, other.Store, pgsession.Degraded, isUnopened)
	})
}

func TestStore_Health_Degraded(t *testing.T) {
	t.Parallel()
	_, schema := pgtest.Schema(t)
	require.NoError(t, test.Open(test.NodePool(t, schema, nil)).Init(t.Context()))

	for _, level := range []string{"off", "local", "remote_write"} {
		t.Run("synchronous_commit "+level, func(t *testing.T) {
			s := test.Open(test.NodePool(t, schema, map[string]string{"synchronous_commit": level}))
			test.RequireHealth(t, s, pgsession.Degraded, test.IsNotDurable+level+":")
		})
	}
	for name, c := range map[string]struct {
		ahead  time.Duration
		skewed bool
	}{
		"a clock hardly ahead":  {4900 * time.Millisecond, false},
		"a clock hardly behind": {-4900 * time.Millisecond, false},
		"a clock ahead":         {10 * time.Second, true},
		"a clock behind":        {-10 * time.Second, true},
		"a clock years ahead":   {200 * 365 * 24 * time.Hour, true},
		"a clock years behind":  {-200 * 365 * 24 * time.Hour, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := test.Open(test.NodePool(t, schema, nil), pgsession.WithClock(test.Shifted(c.ahead)))
			if c.skewed {
				test.RequireHealth(t, s, pgsession.Degraded, test.IsSkewed)
			} else {
				test.RequireHealth(t, s, pgsession.Healthy)
			}
		})
	}
	t.Run("a clock that stands still", func(t *testing.T) {
		clock := pgsession.NewManualClock(time.Now().Add(-time.Hour))
		s := test.Open(test.NodePool(t, schema, nil), pgsession.WithClock(clock))
		test.RequireHealth(t, s, pgsession.Degraded, test.IsSkewed+"1h0m")
		clock.Advance(2 * time.Hour)
		test.RequireHealth(t, s, pgsession.Degraded, test.IsSkewed)
	})
	t.Run("a connection that falls free", func(t *testing.T) {
		waits := &test.Tracer{}
		pool := pgtest.Pool(t, func(config *pgxpool.Config) {
			config.ConnConfig.RuntimeParams["search_path"] = schema
			config.ConnConfig.Tracer = waits
			config.MaxConns = 2
		})
		test.HoldConnections(t, pool, 1)
		last, err := pool.Acquire(t.Context())
		require.NoError(t, err)
		release := last.Release
		waits.Acquire.Store(&release)
		health := test.Examine(t.Context(), test.Open(pool, pgsession.WithClock(test.Shifted(time.Hour))))
		require.Equal(t, pgsession.Degraded, health.Status)
		require.Len(t, health.Reasons, 2)
		require.Equal(t, isExhausted, health.Reasons[0])
		require.Contains(t, health.Reasons[1], test.IsSkewed)
	})
	t.Run("an unlogged table", func(t *testing.T) {
		s := test.NewStore(t, pgsession.WithClock(pgsession.SystemClock{}))
		test.RequireHealth(t, s.Store, pgsession.Healthy)
		s.SQL(t, `ALTER TABLE sessions SET UNLOGGED`)
		test.RequireHealth(t, s.Store, pgsession.Degraded, "unlogged")
	})
	t.Run("a clean-up without the right to DELETE", func(t *testing.T) {
		pool, schema := pgtest.Schema(t)
		require.NoError(t, test.Open(pool).Init(t.Context()))
		role, params := test.NewRole(t, pool, schema)
		test.RunScript(t, pool, `GRANT SELECT, INSERT, UPDATE ON sessions TO `+role)
		s := test.Open(test.NodePool(t, schema, params))
		test.RequireHealth(t, s, pgsession.Healthy)
		cleanup := s.SpawnCleanup(t.Context(), time.Hour)
		test.RequireHealth(t, s, pgsession.Degraded, "lacks the privilege DELETE")
		cleanup.Stop()
		test.RequireHealth(t, s, pgsession.Healthy)
	})
	t.Run("several at once", func(t *testing.T) {
		s := test.Open(test.NodePool(t, schema, map[string]string{"synchronous_commit": "off"}), pgsession.WithClock(test.Shifted(time.Hour)))
		test.RequireHealth(t, s, pgsession.Degraded, test.IsNotDurable+"off:", test.IsSkewed)
		require.NoError(t, s.Check(t.Context()))
	})
}

// TestStore_Health_LateCleanup has a trigger refuse what the clean-up does, in a table
// that can be read and written otherwise.
func TestStore_Health_LateCleanup(t *testing.T) {
	t.Parallel()
	const interval = 100 * time.Millisecond
	// newLateStore returns a store with a clean-up that is late.
	newLateStore := func(t *testing.T, params map[string]string, opts ...pgsession.Option) (*pgxpool.Pool, *pgsession.Store, *pgsession.Cleanup) {
		_, schema := pgtest.Schema(t)
		pool, log := test.NodePool(t, schema, params), test.NewRecorder()
		s := test.Open(pool, append(opts, pgsession.WithLogger(slog.New(log)))...)
		require.NoError(t, s.Init(t.Context()))
		test.RunScript(t, pool, `
			INSERT INTO sessions (key, version, created_at, expires_at, idle_timeout) VALUES ('k', 1, '2020-01-01Z', '2020-01-01Z', '1 hour');
			CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$;
			CREATE TRIGGER refuse BEFORE DELETE ON sessions FOR EACH ROW EXECUTE FUNCTION refuse()`)
		cleanup := s.SpawnCleanup(t.Context(), interval)
		t.Cleanup(cleanup.Stop)
		for range 5 { // the fifth comes four intervals after the first
			require.Equal(t, slog.LevelWarn, (<-log).Level)
		}
		return pool, s, cleanup
	}
	t.Run("until it succeeds", func(t *testing.T) {
		t.Parallel()
		pool, s, _ := newLateStore(t, nil)
		test.RequireHealth(t, s, pgsession.Degraded, isLate)
		test.RequireHealth(t, test.Open(pool), pgsession.Healthy) // another store's
		for range 9 {
			fine := s.SpawnCleanup(t.Context(), time.Hour)
			defer fine.Stop()
		}
		test.RequireHealth(t, s, pgsession.Degraded, isLate) // one of ten
		test.RunScript(t, pool, `DROP TRIGGER refuse ON sessions`)
		require.Eventually(t, func() bool { return s.Health(context.Background()).Status == pgsession.Healthy }, 30*time.Second, interval/10)
	})
	t.Run("until it is stopped", func(t *testing.T) {
		t.Parallel()
		_, s, cleanup := newLateStore(t, nil)
		test.RequireHealth(t, s, pgsession.Degraded, isLate)
		cleanup.Stop()
		test.RequireHealth(t, s, pgsession.Healthy)
	})
	t.Run("and more", func(t *testing.T) {
		t.Parallel()
		_, s, _ := newLateStore(t, map[string]string{"synchronous_commit": "local"}, pgsession.WithClock(test.Shifted(time.Hour)))
		test.RequireHealth(t, s, pgsession.Degraded, test.IsNotDurable+"local:", isLate, test.IsSkewed)
	})
}

func TestStore_Health_Unhealthy(t *testing.T) {
	t.Parallel()
	newSchema := func(t *testing.T) (*pgxpool.Pool, string) {
		t.Parallel()
		pool, schema := pgtest.Schema(t)
		require.NoError(t, test.Open(pool).Init(t.Context()))
		return pool, schema
	}
	requireCode := func(t *testing.T, err error, code string) {
		t.Helper()
		var server *pgconn.PgError
		require.ErrorAs(t, err, &server)
		require.Equal(t, code, server.Code)
	}
	t.Run("a closed pool", func(t *testing.T) {
		_, schema := newSchema(t)
		closed := test.NodePool(t, schema, nil)
		closed.Close()
		s := test.Open(closed)
		test.RequireUnhealthy(t, s)
		require.Error(t, s.Check(t.Context()))
	})
	t.Run("a missing table", func(t *testing.T) {
		pool, _ := newSchema(t)
		test.RunScript(t, pool, `DROP TABLE sessions`)
		s := test.Open(pool)
		err := test.RequireUnhealthy(t, s)
		requireCode(t, err, "42P01")
		require.Contains(t, err.Error(), "call Init")
		require.EqualError(t, s.Check(t.Context()), err.Error())
		require.NoError(t, s.Init(t.Context()))
		test.RequireHealth(t, s, pgsession.Healthy)
	})
	for _, column := range []string{"key", "user_key", "data", "sealed", "version", "created_at", "expires_at", "ends_at", "idle_timeout", "expires_hour"} {
		t.Run("no column "+column, func(t *testing.T) {
			pool, _ := newSchema(t)
			test.RunScript(t, pool, `ALTER TABLE sessions DROP `+column+` CASCADE`)
			for _, s := range []*pgsession.Store{test.Open(pool), pgsession.Plaintext(pool, test.Quiet())} {
				err := test.RequireUnhealthy(t, s)
				require.ErrorIs(t, err, pgsession.ErrSchema)
				requireCode(t, err, "42703")
			}
		})
	}
	t.Run("no right to read", func(t *testing.T) {
		pool, schema := newSchema(t)
		_, params := test.NewRole(t, pool, schema)
		requireCode(t, test.RequireUnhealthy(t, test.Open(test.NodePool(t, schema, params))), "42501")
	})
	for _, privilege := range []string{"INSERT", "UPDATE"} {
		t.Run("no right to "+privilege, func(t *testing.T) {
			pool, schema := newSchema(t)
			role, params := test.NewRole(t, pool, schema)
			test.RunScript(t, pool, `GRANT SELECT, INSERT, UPDATE, DELETE ON sessions TO `+role+`; REVOKE `+privilege+` ON sessions FROM `+role)
			err := test.RequireUnhealthy(t, test.Open(test.NodePool(t, schema, params)))
			require.ErrorContains(t, err, "lacks the privilege "+privilege+" on the table")
		})
	}
	t.Run("row level security", func(t *testing.T) {
		pool, schema := newSchema(t)
		role, params := test.NewRole(t, pool, schema)
		test.RunScript(t, pool, `GRANT SELECT, INSERT, UPDATE, DELETE ON sessions TO `+role+`; ALTER TABLE sessions ENABLE ROW LEVEL SECURITY`)
		require.ErrorContains(t, test.RequireUnhealthy(t, test.Open(test.NodePool(t, schema, params))), "row level security hides rows")
		test.RequireHealth(t, test.Open(pool), pgsession.Healthy) // the owner sees all
	})
	t.Run("an exhausted pool", func(t *testing.T) {
		pool, _ := newSchema(t)
		s := test.Open(pool)
		release := test.HoldConnections(t, pool, pool.Config().MaxConns)
		require.ErrorIs(t, test.RequireUnhealthy(t, s), context.DeadlineExceeded)
		release()
		test.RequireHealth(t, s, pgsession.Healthy)
	})
	t.Run("a cancelled context", func(t *testing.T) {
		pool, _ := newSchema(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		health := test.Open(pool).Health(ctx)
		require.Equal(t, pgsession.Unhealthy, health.Status)
		require.ErrorIs(t, health.Err, context.Canceled)
		require.ErrorIs(t, test.Open(pool).Check(ctx), context.Canceled)
	})
	t.Run("read-only", func(t *testing.T) {
		_, schema := newSchema(t)
		s := test.Open(test.NodePool(t, schema, map[string]string{"default_transaction_read_only": "on"}))
		require.ErrorContains(t, test.RequireUnhealthy(t, s), "cannot write")
		require.ErrorContains(t, s.Check(t.Context()), "cannot write")
	})
	t.Run("no server", func(t *testing.T) {
		t.Parallel()
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		require.NoError(t, listener.Close())
		test.RequireUnhealthy(t, test.Open(poolTo(t, listener.Addr())))
	})
	t.Run("a server that never says a word", func(t *testing.T) {
		t.Parallel()
		listener, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts
		require.NoError(t, err)
		t.Cleanup(func() { listener.Close() })
		test.RequireUnhealthy(t, test.Open(poolTo(t, listener.Addr())))
	})
	t.Run("a server that falls silent", func(t *testing.T) {
		_, schema := newSchema(t)
		var silent atomic.Bool
		s := test.Open(pgtest.Pool(t, func(config *pgxpool.Config) {
			config.ConnConfig.RuntimeParams["search_path"] = schema
			dial := config.ConnConfig.DialFunc
			config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := dial(ctx, network, addr)
				return silenced{conn, &silent}, err
			}
		}))
		test.RequireHealth(t, s, pgsession.Healthy)
		silent.Store(true)
		require.ErrorIs(t, test.RequireUnhealthy(t, s), context.DeadlineExceeded)
		silent.Store(false)
		test.RequireHealth(t, s, pgsession.Healthy)
	})
	t.Run("a locked table", func(t *testing.T) {
		pool, _ := newSchema(t)
		s := &test.Store{Store: test.Open(pool), Pool: pool}
		held := s.LockTable(t)
		require.ErrorIs(t, test.RequireUnhealthy(t, s.Store), context.DeadlineExceeded)
		held.Release(t)
		test.RequireHealth(t, s.Store, pgsession.Healthy)
	})
}

// poolTo returns a pool on an address where no PostgreSQL listens.
func poolTo(t testing.TB, address net.Addr) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), "postgres://nobody@"+address.String()+"/nothing?sslmode=disable")
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// A silenced connection loses what the server says.
type silenced struct {
	net.Conn
	silent *atomic.Bool
}

func (s silenced) Read(p []byte) (int, error) {
	for {
		n, err := s.Conn.Read(p)
		if err != nil || !s.silent.Load() {
			return n, err
		}
	}
}

// TestStore_Health_Standby asks a server in recovery, and again when it has been
// promoted.
func TestStore_Health_Standby(t *testing.T) {
	t.Parallel()
	pgtest.RequireBinaries(t)
	ctx := t.Context()
	primary, err := pgtest.StartCluster(ctx, t.Logf, pgtest.ClusterOptions{})
	require.NoError(t, err)
	t.Cleanup(primary.Stop)
	connect := func(cluster *pgtest.Cluster) *pgsession.Store {
		pool, err := pgxpool.New(ctx, cluster.URL())
		require.NoError(t, err)
		t.Cleanup(pool.Close)
		return test.Open(pool)
	}
	onPrimary := connect(primary)
	require.NoError(t, onPrimary.Init(ctx))
	session, err := onPrimary.Create(ctx, test.Ann(1), time.Hour)
	require.NoError(t, err)
	standby, err := pgtest.StandbyOf(ctx, primary, "standby", pgtest.ClusterOptions{})
	require.NoError(t, err)
	t.Cleanup(standby.Stop)

	s := connect(standby)
	require.NoError(t, test.Err(s.Load(ctx, session.ID)), "it can be read")
	require.NoError(t, s.Init(ctx), "which needs to create nothing")
	require.ErrorContains(t, test.RequireUnhealthy(t, s), "in recovery")
	require.Error(t, s.Check(ctx))
	test.RequireHealth(t, onPrimary, pgsession.Healthy)

	require.NoError(t, primary.StopImmediate())
	test.RequireUnhealthy(t, onPrimary)
	require.NoError(t, standby.Promote(ctx))
	test.RequireHealth(t, s, pgsession.Healthy)
}
