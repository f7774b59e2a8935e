package pgsession_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
)

// How the reasons of a degraded store begin.
const (
	isExhausted   = "every connection of the pool is in use"
	isLate        = "the clean-up has not succeeded for three intervals"
	isSkewed      = "the clocks of application and server differ by "
	isNotDurable  = "synchronous_commit is "
	generousLimit = 6 * time.Second // the promise is 2, and the machine may be slow
)

func examine(t testing.TB, s *pgsession.Store) pgsession.Health {
	t.Helper()
	started := time.Now()
	health := s.Health(t.Context())
	require.Less(t, time.Since(started), generousLimit)
	return health
}

// requireHealth wants a store that works, for these reasons.
func requireHealth(t testing.TB, s *pgsession.Store, want pgsession.Status, reasons ...string) {
	t.Helper()
	health := examine(t, s)
	require.Equal(t, want, health.Status, "%v", health)
	require.NoError(t, health.Err)
	require.Len(t, health.Reasons, len(reasons), "%v", health)
	for i, reason := range reasons {
		require.Contains(t, health.Reasons[i], reason)
	}
	require.NoError(t, s.Check(t.Context()))
}

func requireUnhealthy(t testing.TB, s *pgsession.Store) error {
	t.Helper()
	health := examine(t, s)
	require.Equal(t, pgsession.Unhealthy, health.Status, "%v", health)
	require.Error(t, health.Err)
	require.Equal(t, []string{health.Err.Error()}, health.Reasons)
	require.True(t, strings.HasPrefix(health.Err.Error(), "pgsession: health: "), health.Err)
	return health.Err
}

// A shifted clock is ahead of the machine's.
type shifted time.Duration

func (s shifted) Now() time.Time { return time.Now().Add(time.Duration(s)) }

func TestStore_Health_Healthy(t *testing.T) {
	t.Parallel()
	pool, schema := pgtest.Schema(t)
	s := storeOn(pool)
	require.NoError(t, s.Init(t.Context()))
	requireHealth(t, s, pgsession.Healthy)
	require.NoError(t, second(s.Create(t.Context(), ann(1), time.Hour)))
	requireHealth(t, s, pgsession.Healthy)

	t.Run("plaintext", func(t *testing.T) {
		requireHealth(t, pgsession.Plaintext(pool, quiet()), pgsession.Healthy)
	})
	t.Run("with a clean-up", func(t *testing.T) {
		cleanup := s.SpawnCleanup(t.Context(), time.Hour)
		defer cleanup.Stop()
		requireHealth(t, s, pgsession.Healthy)
	})
	t.Run("one free connection", func(t *testing.T) {
		holdConnections(t, pool, pool.Config().MaxConns-1)
		requireHealth(t, s, pgsession.Healthy)
	})
	t.Run("a pool of one", func(t *testing.T) {
		one := pgtest.Pool(t, func(config *pgxpool.Config) {
			config.ConnConfig.RuntimeParams["search_path"] = schema
			config.MaxConns = 1
		})
		requireHealth(t, storeOn(one), pgsession.Healthy)
	})
	t.Run("remote_apply", func(t *testing.T) {
		requireHealth(t, storeOn(nodePool(t, schema, map[string]string{"synchronous_commit": "remote_apply"})), pgsession.Healthy)
	})
	t.Run("a role with the application's rights", func(t *testing.T) {
		role, params := newRole(t, pool, schema)
		runScript(t, pool, `GRANT SELECT, INSERT, UPDATE, DELETE ON sessions TO `+role)
		requireHealth(t, storeOn(nodePool(t, schema, params)), pgsession.Healthy)
	})
}

func TestStore_Health_Degraded(t *testing.T) {
	t.Parallel()
	_, schema := pgtest.Schema(t)
	require.NoError(t, storeOn(nodePool(t, schema, nil)).Init(t.Context()))

	for _, level := range []string{"off", "local", "remote_write"} {
		t.Run("synchronous_commit "+level, func(t *testing.T) {
			s := storeOn(nodePool(t, schema, map[string]string{"synchronous_commit": level}))
			requireHealth(t, s, pgsession.Degraded, isNotDurable+level+":")
		})
	}
	for name, test := range map[string]struct {
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
			s := storeOn(nodePool(t, schema, nil), pgsession.WithClock(shifted(test.ahead)))
			if test.skewed {
				requireHealth(t, s, pgsession.Degraded, isSkewed)
			} else {
				requireHealth(t, s, pgsession.Healthy)
			}
		})
	}
	t.Run("a clock that stands still", func(t *testing.T) {
		clock := pgsession.NewManualClock(time.Now().Add(-time.Hour))
		s := storeOn(nodePool(t, schema, nil), pgsession.WithClock(clock))
		requireHealth(t, s, pgsession.Degraded, isSkewed+"1h0m")
		clock.Advance(2 * time.Hour)
		requireHealth(t, s, pgsession.Degraded, isSkewed)
	})
	t.Run("a connection that falls free", func(t *testing.T) {
		waits := &tracer{}
		pool := pgtest.Pool(t, func(config *pgxpool.Config) {
			config.ConnConfig.RuntimeParams["search_path"] = schema
			config.ConnConfig.Tracer = waits
			config.MaxConns = 2
		})
		holdConnections(t, pool, 1)
		last, err := pool.Acquire(t.Context())
		require.NoError(t, err)
		release := last.Release
		waits.acquire.Store(&release)
		health := examine(t, storeOn(pool, pgsession.WithClock(shifted(time.Hour))))
		require.Equal(t, pgsession.Degraded, health.Status)
		require.Len(t, health.Reasons, 2)
		require.Equal(t, isExhausted, health.Reasons[0])
		require.Contains(t, health.Reasons[1], isSkewed)
	})
	t.Run("an unlogged table", func(t *testing.T) {
		s := newStore(t, pgsession.WithClock(pgsession.SystemClock{}))
		requireHealth(t, s.Store, pgsession.Healthy)
		s.sql(t, `ALTER TABLE sessions SET UNLOGGED`)
		requireHealth(t, s.Store, pgsession.Degraded, "unlogged")
	})
	t.Run("a clean-up without the right to DELETE", func(t *testing.T) {
		pool, schema := pgtest.Schema(t)
		require.NoError(t, storeOn(pool).Init(t.Context()))
		role, params := newRole(t, pool, schema)
		runScript(t, pool, `GRANT SELECT, INSERT, UPDATE ON sessions TO `+role)
		s := storeOn(nodePool(t, schema, params))
		requireHealth(t, s, pgsession.Healthy)
		cleanup := s.SpawnCleanup(t.Context(), time.Hour)
		requireHealth(t, s, pgsession.Degraded, "lacks the privilege DELETE")
		cleanup.Stop()
		requireHealth(t, s, pgsession.Healthy)
	})
	t.Run("several at once", func(t *testing.T) {
		s := storeOn(nodePool(t, schema, map[string]string{"synchronous_commit": "off"}), pgsession.WithClock(shifted(time.Hour)))
		requireHealth(t, s, pgsession.Degraded, isNotDurable+"off:", isSkewed)
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
		pool, log := nodePool(t, schema, params), newRecorder()
		s := storeOn(pool, append(opts, pgsession.WithLogger(slog.New(log)))...)
		require.NoError(t, s.Init(t.Context()))
		runScript(t, pool, `
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
		requireHealth(t, s, pgsession.Degraded, isLate)
		requireHealth(t, storeOn(pool), pgsession.Healthy) // another store's
		for range 9 {
			fine := s.SpawnCleanup(t.Context(), time.Hour)
			defer fine.Stop()
		}
		requireHealth(t, s, pgsession.Degraded, isLate) // one of ten
		runScript(t, pool, `DROP TRIGGER refuse ON sessions`)
		require.Eventually(t, func() bool { return s.Health(context.Background()).Status == pgsession.Healthy }, 30*time.Second, interval/10)
	})
	t.Run("until it is stopped", func(t *testing.T) {
		t.Parallel()
		_, s, cleanup := newLateStore(t, nil)
		requireHealth(t, s, pgsession.Degraded, isLate)
		cleanup.Stop()
		requireHealth(t, s, pgsession.Healthy)
	})
	t.Run("and more", func(t *testing.T) {
		t.Parallel()
		_, s, _ := newLateStore(t, map[string]string{"synchronous_commit": "local"}, pgsession.WithClock(shifted(time.Hour)))
		requireHealth(t, s, pgsession.Degraded, isNotDurable+"local:", isLate, isSkewed)
	})
}

func TestStore_Health_Unhealthy(t *testing.T) {
	t.Parallel()
	newSchema := func(t *testing.T) (*pgxpool.Pool, string) {
		t.Parallel()
		pool, schema := pgtest.Schema(t)
		require.NoError(t, storeOn(pool).Init(t.Context()))
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
		closed := nodePool(t, schema, nil)
		closed.Close()
		s := storeOn(closed)
		requireUnhealthy(t, s)
		require.Error(t, s.Check(t.Context()))
	})
	t.Run("a missing table", func(t *testing.T) {
		pool, _ := newSchema(t)
		runScript(t, pool, `DROP TABLE sessions`)
		s := storeOn(pool)
		err := requireUnhealthy(t, s)
		requireCode(t, err, "42P01")
		require.Contains(t, err.Error(), "call Init")
		require.EqualError(t, s.Check(t.Context()), err.Error())
		require.NoError(t, s.Init(t.Context()))
		requireHealth(t, s, pgsession.Healthy)
	})
	for _, column := range []string{"key", "user_key", "data", "sealed", "version", "created_at", "expires_at", "ends_at", "idle_timeout", "expires_hour"} {
		t.Run("no column "+column, func(t *testing.T) {
			pool, _ := newSchema(t)
			runScript(t, pool, `ALTER TABLE sessions DROP `+column+` CASCADE`)
			for _, s := range []*pgsession.Store{storeOn(pool), pgsession.Plaintext(pool, quiet())} {
				err := requireUnhealthy(t, s)
				require.ErrorIs(t, err, pgsession.ErrSchema)
				requireCode(t, err, "42703")
			}
		})
	}
	t.Run("no right to read", func(t *testing.T) {
		pool, schema := newSchema(t)
		_, params := newRole(t, pool, schema)
		requireCode(t, requireUnhealthy(t, storeOn(nodePool(t, schema, params))), "42501")
	})
	for _, privilege := range []string{"INSERT", "UPDATE"} {
		t.Run("no right to "+privilege, func(t *testing.T) {
			pool, schema := newSchema(t)
			role, params := newRole(t, pool, schema)
			runScript(t, pool, `GRANT SELECT, INSERT, UPDATE, DELETE ON sessions TO `+role+`; REVOKE `+privilege+` ON sessions FROM `+role)
			err := requireUnhealthy(t, storeOn(nodePool(t, schema, params)))
			require.ErrorContains(t, err, "lacks the privilege "+privilege+" on the table")
		})
	}
	t.Run("row level security", func(t *testing.T) {
		pool, schema := newSchema(t)
		role, params := newRole(t, pool, schema)
		runScript(t, pool, `GRANT SELECT, INSERT, UPDATE, DELETE ON sessions TO `+role+`; ALTER TABLE sessions ENABLE ROW LEVEL SECURITY`)
		require.ErrorContains(t, requireUnhealthy(t, storeOn(nodePool(t, schema, params))), "row level security hides rows")
		requireHealth(t, storeOn(pool), pgsession.Healthy) // the owner sees all
	})
	t.Run("an exhausted pool", func(t *testing.T) {
		pool, _ := newSchema(t)
		s := storeOn(pool)
		release := holdConnections(t, pool, pool.Config().MaxConns)
		require.ErrorIs(t, requireUnhealthy(t, s), context.DeadlineExceeded)
		release()
		requireHealth(t, s, pgsession.Healthy)
	})
	t.Run("a cancelled context", func(t *testing.T) {
		pool, _ := newSchema(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		health := storeOn(pool).Health(ctx)
		require.Equal(t, pgsession.Unhealthy, health.Status)
		require.ErrorIs(t, health.Err, context.Canceled)
		require.ErrorIs(t, storeOn(pool).Check(ctx), context.Canceled)
	})
	t.Run("read-only", func(t *testing.T) {
		_, schema := newSchema(t)
		s := storeOn(nodePool(t, schema, map[string]string{"default_transaction_read_only": "on"}))
		require.ErrorContains(t, requireUnhealthy(t, s), "cannot write")
		require.ErrorContains(t, s.Check(t.Context()), "cannot write")
	})
	t.Run("no server", func(t *testing.T) {
		t.Parallel()
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		require.NoError(t, listener.Close())
		requireUnhealthy(t, storeOn(poolTo(t, listener.Addr())))
	})
	t.Run("a server that never says a word", func(t *testing.T) {
		t.Parallel()
		listener, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts
		require.NoError(t, err)
		t.Cleanup(func() { listener.Close() })
		requireUnhealthy(t, storeOn(poolTo(t, listener.Addr())))
	})
	t.Run("a server that falls silent", func(t *testing.T) {
		_, schema := newSchema(t)
		var silent atomic.Bool
		s := storeOn(pgtest.Pool(t, func(config *pgxpool.Config) {
			config.ConnConfig.RuntimeParams["search_path"] = schema
			dial := config.ConnConfig.DialFunc
			config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := dial(ctx, network, addr)
				return silenced{conn, &silent}, err
			}
		}))
		requireHealth(t, s, pgsession.Healthy)
		silent.Store(true)
		require.ErrorIs(t, requireUnhealthy(t, s), context.DeadlineExceeded)
		silent.Store(false)
		requireHealth(t, s, pgsession.Healthy)
	})
	t.Run("a locked table", func(t *testing.T) {
		pool, _ := newSchema(t)
		s := &fixture{Store: storeOn(pool), pool: pool}
		held := s.lockTable(t)
		require.ErrorIs(t, requireUnhealthy(t, s.Store), context.DeadlineExceeded)
		held.release(t)
		requireHealth(t, s.Store, pgsession.Healthy)
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
		return storeOn(pool)
	}
	onPrimary := connect(primary)
	require.NoError(t, onPrimary.Init(ctx))
	session, err := onPrimary.Create(ctx, ann(1), time.Hour)
	require.NoError(t, err)
	standby, err := pgtest.StandbyOf(ctx, primary, "standby", pgtest.ClusterOptions{})
	require.NoError(t, err)
	t.Cleanup(standby.Stop)

	s := connect(standby)
	require.NoError(t, second(s.Load(ctx, session.ID)), "it can be read")
	require.NoError(t, s.Init(ctx), "which needs to create nothing")
	require.ErrorContains(t, requireUnhealthy(t, s), "in recovery")
	require.Error(t, s.Check(ctx))
	requireHealth(t, onPrimary, pgsession.Healthy)

	require.NoError(t, primary.StopImmediate())
	requireUnhealthy(t, onPrimary)
	require.NoError(t, standby.Promote(ctx))
	requireHealth(t, s, pgsession.Healthy)
}

func TestStore_HealthHandler(t *testing.T) {
	t.Parallel()
	pool, schema := pgtest.Schema(t)
	require.NoError(t, storeOn(pool).Init(t.Context()))
	serve := func(ctx context.Context, pool *pgxpool.Pool, opts ...pgsession.Option) (*httptest.ResponseRecorder, recorder) {
		log := newRecorder()
		s := storeOn(pool, append(opts, pgsession.WithLogger(slog.New(log)))...)
		response := httptest.NewRecorder()
		s.HealthHandler().ServeHTTP(response, httptest.NewRequestWithContext(ctx, http.MethodGet, "/health", nil))
		return response, log
	}
	for name, test := range map[string]struct {
		params map[string]string
		opts   []pgsession.Option
		code   int
		status string
		logged []string
	}{
		"healthy":  {nil, nil, http.StatusOK, "healthy", nil},
		"degraded": {map[string]string{"synchronous_commit": "off"}, nil, http.StatusOK, "degraded", []string{isNotDurable + "off"}},
		"degraded twice": {map[string]string{"synchronous_commit": "off"}, []pgsession.Option{pgsession.WithClock(shifted(time.Hour))},
			http.StatusOK, "degraded", []string{isNotDurable + "off", isSkewed}},
		"unhealthy": {nil, []pgsession.Option{pgsession.WithTable("internals")}, http.StatusServiceUnavailable, "unhealthy", []string{"42P01"}},
	} {
		t.Run(name, func(t *testing.T) {
			response, log := serve(t.Context(), nodePool(t, schema, test.params), test.opts...)
			require.Equal(t, test.code, response.Code)
			require.Equal(t, "application/json", response.Header().Get("Content-Type"))
			require.Equal(t, "no-store", response.Header().Get("Cache-Control"))
			require.Equal(t, `{"status":"`+test.status+`"}`, strings.TrimSpace(response.Body.String()), "and nothing else")
			require.True(t, json.Valid(response.Body.Bytes()))
			require.Len(t, log, len(test.logged))
			for _, reason := range test.logged {
				record := <-log
				require.Equal(t, slog.LevelWarn, record.Level)
				require.Equal(t, "pgsession: "+test.status, record.Message)
				require.Contains(t, attributes(record)["reason"], reason)
			}
		})
	}
	t.Run("a client that has gone", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		response, log := serve(ctx, pool)
		require.Empty(t, response.Body.String())
		require.Empty(t, log, "is no news")
	})
}

func TestStore_Stats(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	ctx := t.Context()
	want := pgsession.Stats{}
	require.Equal(t, want, countsOf(s.Stats()))
	requireStats := func(what string) {
		t.Helper()
		require.Equal(t, want, countsOf(s.Stats()), what)
	}
	id := s.create(t, ann(1), time.Hour)
	want.Saves++
	requireStats("Create")
	s.load(t, id)
	want.Loads, want.Hits = want.Loads+1, want.Hits+1
	requireStats("Load")
	for _, absent := range []pgsession.ID{{}, pgsession.NewID()} {
		require.Error(t, second(s.Load(ctx, absent)))
		want.Loads++
	}
	requireStats("Load of none")
	require.NoError(t, s.Save(ctx, id, ann(2), time.Hour))
	want.Saves++
	requireStats("Save")
	require.Error(t, s.Save(ctx, pgsession.NewID(), ann(2), time.Hour))
	require.Error(t, s.Save(ctx, id, guest, time.Hour))
	require.Error(t, s.Save(ctx, id, ann(2), 0))
	require.Error(t, second(s.Create(ctx, ann(2), 0)))
	requireStats("writes that fail")
	put := pgsession.DeriveID("a framework's token")
	require.NoError(t, s.Put(ctx, put, ann(1), time.Hour))
	want.Saves++
	requireStats("Put")
	require.NoError(t, second(s.Update(ctx, at(id), 0, keep(3))))
	want.Loads, want.Hits, want.Saves = want.Loads+1, want.Hits+1, want.Saves+1
	requireStats("Update")
	calls := 0
	require.NoError(t, second(s.Update(ctx, at(id), 0, func(*pgsession.Session) (any, error) {
		if calls++; calls <= 2 {
			require.NoError(t, s.Save(ctx, id, ann(4), time.Hour))
		}
		return 5, nil
	})))
	want.Loads, want.Hits, want.Saves, want.Conflicts = want.Loads+3, want.Hits+3, want.Saves+3, want.Conflicts+2
	requireStats("Update against others")
	require.NoError(t, second(s.Update(ctx, at(id), 0, keep(5))))
	want.Loads, want.Hits = want.Loads+1, want.Hits+1
	requireStats("Update of nothing")
	next := pgsession.NewID()
	require.NoError(t, s.Cycle(ctx, id, next, ann(5), time.Hour))
	want.Saves++
	requireStats("Cycle")
	require.Error(t, s.Cycle(ctx, id, pgsession.NewID(), ann(5), time.Hour))
	requireStats("Cycle of none")
	require.ErrorIs(t, s.Save(ctx, id, ann(6), time.Hour), pgsession.ErrNotFound)
	require.ErrorIs(t, s.Put(ctx, id, ann(6), time.Hour), pgsession.ErrRevoked)
	want.Revoked += 2
	requireStats("writes to a tombstone")
	require.NoError(t, s.KeyValue().Put(ctx, "k", []byte("v"), time.Hour))
	requireEntry(t, s.KeyValue(), "k", []byte("v"))
	want.Saves, want.Loads, want.Hits = want.Saves+1, want.Loads+1, want.Hits+1
	requireStats("KeyValue")

	s.sql(t, `UPDATE sessions SET sealed = sealed || '\x00' WHERE key = $1`, key(next))
	require.ErrorIs(t, second(s.Load(ctx, next)), pgsession.ErrTampered)
	want.Loads, want.Tampered = want.Loads+1, want.Tampered+1
	requireStats("a tampered row")
	s.sql(t, `UPDATE sessions SET sealed = substring(sealed FROM 1 FOR 1) || '\x00000000' || substring(sealed FROM 6) WHERE key = $1`, key(put))
	require.ErrorIs(t, second(s.Load(ctx, put)), pgsession.ErrUnknownKey)
	want.Loads, want.UnknownKey = want.Loads+1, want.UnknownKey+1
	requireStats("a row under an unknown key")
	found, err := s.FindByUser(ctx, "ann", 0)
	require.NoError(t, err)
	require.Len(t, found, 2)
	want.Tampered, want.UnknownKey = want.Tampered+1, want.UnknownKey+1
	requireStats("a list that meets them")
	require.EqualValues(t, 2, s.Stats().Operations["load"].Unreadable)

	require.Zero(t, s.cleanUp(t))
	want.LastCleanup = epoch
	requireStats("a clean-up of nothing")
	require.Positive(t, s.Stats().LastCleanupDuration)
	s.clock.Advance(2 * time.Hour)
	require.EqualValues(t, 4, s.cleanUp(t))
	want.Cleaned, want.LastCleanup = 4, epoch.Add(2*time.Hour)
	requireStats("a clean-up")

	t.Run("each session of a shared statement counts", func(t *testing.T) {
		id := s.create(t, ann(1), time.Hour)
		want.Saves++
		before := s.Stats().Sharing["load"]
		holder := s.lockTable(t)
		const callers = 20
		var group sync.WaitGroup
		for range callers {
			group.Go(func() {
				if err := second(s.Load(ctx, id)); err != nil {
					t.Error(err)
				}
			})
		}
		// The calls that do not wait in the server queue, to share statements.
		require.Eventually(t, func() bool { return s.Waiting() > 0 }, patience, time.Millisecond)
		holder.release(t)
		group.Wait()
		want.Loads, want.Hits = want.Loads+callers, want.Hits+callers
		requireStats("Load in company")
		after := s.Stats().Sharing["load"]
		require.EqualValues(t, callers, after.Calls-before.Calls)
		require.Less(t, after.Statements-before.Statements, int64(callers))
	})
	require.Equal(t, pgsession.Stats{}, storeOn(s.pool).Stats(), "of one store")
}
