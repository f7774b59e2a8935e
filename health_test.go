package pgsession_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/test"
)

// isEnded is the reason of a store whose clean-up has ended with its context.
const isEnded = "the clean-up has ended with the context"

func TestStore_Health_Healthy(t *testing.T) {
	t.Parallel()
	pool, schema := pgtest.Schema(t)
	s := test.Open(pool)
	require.NoError(t, s.Init(t.Context()))
	test.RequireHealth(t, s, pgsession.Healthy)
	require.NoError(t, test.Err(s.Create(t.Context(), test.Ann(1), time.Hour)))
	test.RequireHealth(t, s, pgsession.Healthy)
	require.NoError(t, s.Check(t.Context()))

	t.Run("plaintext", func(t *testing.T) {
		test.RequireHealth(t, pgsession.Plaintext(pool, test.Quiet()), pgsession.Healthy)
	})
	t.Run("with a clean-up", func(t *testing.T) {
		cleanup := s.SpawnCleanup(t.Context(), time.Hour)
		defer cleanup.Stop()
		test.RequireHealth(t, s, pgsession.Healthy)
	})
	t.Run("one free connection", func(t *testing.T) {
		test.HoldConnections(t, pool, pool.Config().MaxConns-1)
		test.RequireHealth(t, s, pgsession.Healthy)
	})
	t.Run("a pool of one", func(t *testing.T) {
		one := pgtest.Pool(t, func(config *pgxpool.Config) {
			config.ConnConfig.RuntimeParams["search_path"] = schema
			config.MaxConns = 1
		})
		test.RequireHealth(t, test.Open(one), pgsession.Healthy)
	})
	t.Run("remote_apply", func(t *testing.T) {
		test.RequireHealth(t, test.Open(test.NodePool(t, schema, map[string]string{"synchronous_commit": "remote_apply"})), pgsession.Healthy)
	})
	t.Run("a role with the application's rights", func(t *testing.T) {
		role, params := test.NewRole(t, pool, schema)
		test.RunScript(t, pool, `GRANT SELECT, INSERT, UPDATE, DELETE ON sessions TO `+role)
		test.RequireHealth(t, test.Open(test.NodePool(t, schema, params)), pgsession.Healthy)
	})
}

func TestStore_HealthHandler(t *testing.T) {
	t.Parallel()
	pool, schema := pgtest.Schema(t)
	require.NoError(t, test.Open(pool).Init(t.Context()))
	serve := func(ctx context.Context, pool *pgxpool.Pool, opts ...pgsession.Option) (*httptest.ResponseRecorder, test.Recorder) {
		log := test.NewRecorder()
		s := test.Open(pool, append(opts, pgsession.WithLogger(slog.New(log)))...)
		response := httptest.NewRecorder()
		s.HealthHandler().ServeHTTP(response, httptest.NewRequestWithContext(ctx, http.MethodGet, "/health", nil))
		return response, log
	}
	for name, c := range map[string]struct {
		params map[string]string
		opts   []pgsession.Option
		code   int
		status string
		logged []string
	}{
		"healthy":  {nil, nil, http.StatusOK, "healthy", nil},
		"degraded": {map[string]string{"synchronous_commit": "off"}, nil, http.StatusOK, "degraded", []string{test.IsNotDurable + "off"}},
		"degraded twice": {map[string]string{"synchronous_commit": "off"}, []pgsession.Option{pgsession.WithClock(test.Shifted(time.Hour))},
			http.StatusOK, "degraded", []string{test.IsNotDurable + "off", test.IsSkewed}},
		"unhealthy": {nil, []pgsession.Option{pgsession.WithTable("internals")}, http.StatusServiceUnavailable, "unhealthy", []string{"42P01"}},
	} {
		t.Run(name, func(t *testing.T) {
			response, log := serve(t.Context(), test.NodePool(t, schema, c.params), c.opts...)
			require.Equal(t, c.code, response.Code)
			require.Equal(t, "application/json", response.Header().Get("Content-Type"))
			require.Equal(t, "no-store", response.Header().Get("Cache-Control"))
			require.Equal(t, `{"status":"`+c.status+`"}`, strings.TrimSpace(response.Body.String()), "and nothing else")
			require.True(t, json.Valid(response.Body.Bytes()))
			require.Len(t, log, len(c.logged))
			for _, reason := range c.logged {
				record := <-log
				require.Equal(t, slog.LevelWarn, record.Level)
				require.Equal(t, "pgsession: "+c.status, record.Message)
				require.Contains(t, test.Attributes(record)["reason"], reason)
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

// A watched context tells when it is first waited for.
type watched struct {
	context.Context
	once  *sync.Once
	asked *sync.WaitGroup
}

func (w watched) Done() <-chan struct{} {
	w.once.Do(w.asked.Done)
	return w.Context.Done()
}

// TestHealthHandler_OneLook has 300 probes come while a look is under way, and half of the clients
// hang up, that of the first probe among them. They share the look, and cancel nothing.
func TestHealthHandler_OneLook(t *testing.T) {
	t.Parallel()
	var arrived, leave chan struct{}
	var armed atomic.Bool
	traced := &test.Tracer{Start: func(context.Context, string) {
		if armed.CompareAndSwap(true, false) {
			close(arrived)
			<-leave
		}
	}}
	s := test.NewTracedStore(t, traced, 4, pgsession.WithClock(pgsession.SystemClock{}))
	before := traced.RoundTrips.Load()
	require.Equal(t, pgsession.Healthy, s.Health(t.Context()).Status)
	const probes = 300
	oneLook := traced.RoundTrips.Load() - before
	connections := s.Pool.Stat().NewConnsCount()

	handler := s.HealthHandler()
	arrived, leave = make(chan struct{}), make(chan struct{})
	armed.Store(true)
	before = traced.RoundTrips.Load()
	ctx, hangUp := context.WithCancel(t.Context())
	var joined, gone, answered sync.WaitGroup
	joined.Add(probes)
	responses := make([]*httptest.ResponseRecorder, probes)
	for i := range responses {
		parent, done := t.Context(), &answered
		if i%2 == 0 {
			parent, done = ctx, &gone
		}
		request := httptest.NewRequestWithContext(watched{parent, new(sync.Once), &joined}, http.MethodGet, "/health", nil)
		responses[i] = httptest.NewRecorder()
		done.Go(func() { handler.ServeHTTP(responses[i], request) })
		if i == 0 {
			<-arrived
		}
	}
	joined.Wait()
	hangUp()
	gone.Wait()
	close(leave)
	answered.Wait()
	for i, response := range responses {
		if i%2 == 0 {
			require.Empty(t, response.Body.String())
		} else {
			require.JSONEq(t, `{"status":"healthy"}`, response.Body.String())
		}
	}
	require.Equal(t, oneLook, traced.RoundTrips.Load()-before)
	require.Equal(t, connections, s.Pool.Stat().NewConnsCount(), "no connection was lost")
}

// TestHealthHandler_ALookASecond probes over and over, by a clock that the test moves. All handlers
// of a store share the looks.
func TestHealthHandler_ALookASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var looks atomic.Int64
		s := test.Open(test.BrokenPool(t, func(context.Context) { looks.Add(1) }))
		for range 300 {
			response := httptest.NewRecorder()
			s.HealthHandler().ServeHTTP(response, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/health", nil))
			require.Equal(t, http.StatusServiceUnavailable, response.Code)
			time.Sleep(10 * time.Millisecond)
		}
		require.EqualValues(t, 3, looks.Load())
	})
}

// TestHealthHandler_Log probes for a long time, in which a reason begins and ends.
func TestHealthHandler_Log(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := test.NewRecorder()
		s := pgsession.InMemory(pgsession.WithLogger(slog.New(log)))
		handler := s.HealthHandler()
		probeFor := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
				handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/health", nil))
			}
		}
		requireLogged := func(level slog.Level, message string) {
			t.Helper()
			require.Len(t, log, 1)
			record := <-log
			require.Equal(t, level, record.Level)
			require.Equal(t, message, record.Message)
			require.Contains(t, test.Attributes(record)["reason"], isEnded)
		}
		probeFor(time.Minute)
		require.Empty(t, log)
		for range 2 {
			ctx, cancel := context.WithCancel(t.Context())
			s.SpawnCleanup(ctx, time.Hour)
			cancel()
			synctest.Wait()
			probeFor(time.Minute)
			requireLogged(slog.LevelWarn, "pgsession: degraded")

			cleanup := s.SpawnCleanup(t.Context(), 2*time.Hour)
			probeFor(time.Minute)
			requireLogged(slog.LevelInfo, "pgsession: no longer")
			cleanup.Stop()
			probeFor(time.Minute)
			require.Empty(t, log)
		}
	})
}

// TestHealthHandler_ChangingNumbers has a reason whose number is another at each look.
func TestHealthHandler_ChangingNumbers(t *testing.T) {
	t.Parallel()
	clock := pgsession.NewManualClock(time.Now().Add(-time.Hour))
	log := test.NewRecorder()
	pool := pgtest.Pool(t)
	require.NoError(t, test.Open(pool).Init(t.Context()))
	s := test.Open(pool, pgsession.WithClock(clock), pgsession.WithLogger(slog.New(log)))
	handler := s.HealthHandler()
	seen := s.Health(t.Context()).Reasons[0]
	require.Eventually(t, func() bool { // two looks
		handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/health", nil))
		return s.Health(t.Context()).Reasons[0] != seen
	}, test.Patience, 300*time.Millisecond)
	clock.Advance(-time.Hour)
	began := time.Now()
	require.Eventually(t, func() bool {
		handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/health", nil))
		return time.Since(began) > 1200*time.Millisecond
	}, test.Patience, 300*time.Millisecond)
	require.Len(t, log, 1)
}

// TestHealth_EndedCleanup spawns the clean-up under a context that ends before the process does.
func TestHealth_EndedCleanup(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t, func(config *pgxpool.Config) { config.MaxConns = 2 })
	onServer := test.Open(pool)
	require.NoError(t, onServer.Init(t.Context()))
	for name, s := range map[string]*pgsession.Store{"a table": onServer, "in memory": pgsession.InMemory(test.Quiet())} {
		test.RequireHealth(t, s, pgsession.Healthy)
		startUp, cancel := context.WithCancel(t.Context())
		cleanup := s.SpawnCleanup(startUp, time.Hour)
		test.RequireHealth(t, s, pgsession.Healthy)
		cancel()
		cleanup.Stop() // waits for its end
		test.RequireHealth(t, s, pgsession.Degraded, isEnded)

		again := s.SpawnCleanup(t.Context(), time.Hour)
		test.RequireHealth(t, s, pgsession.Healthy)
		again.Stop()
		test.RequireHealth(t, s, pgsession.Healthy)

		startUp, cancel = context.WithCancel(t.Context())
		one, other := s.SpawnCleanup(startUp, time.Hour), s.SpawnCleanup(t.Context(), time.Hour)
		cancel()
		one.Stop()
		test.RequireHealth(t, s, pgsession.Healthy)
		other.Stop()
		test.RequireHealth(t, s, pgsession.Healthy)
		require.NoError(t, s.Check(t.Context()), name)
	}
}
