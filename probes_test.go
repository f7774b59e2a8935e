package pgsession_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
)

// The reasons of a store that should be looked at, and what Init logs.
const (
	isUnopened   = "rows were met that no key of the ring opens"
	isEnded      = "the clean-up has ended with the context"
	warnsOfKeys  = "pgsession: none of the sessions that were looked at opens"
	warnsOfClock = "pgsession: " + isSkewed
)

// A watched context tells when somebody waits for its end.
type watched struct {
	context.Context
	once  *sync.Once
	asked *sync.WaitGroup
}

func (w watched) Done() <-chan struct{} {
	w.once.Do(w.asked.Done)
	return w.Context.Done()
}

// TestHealthHandler_OneLook has 300 probes come while a look is under way, and half of the clients hang up, that
// of the first probe among them. They share the look, and cancel nothing.
func TestHealthHandler_OneLook(t *testing.T) {
	t.Parallel()
	var arrived, leave chan struct{}
	var armed atomic.Bool
	traced := &tracer{start: func(context.Context, string) {
		if armed.CompareAndSwap(true, false) {
			close(arrived)
			<-leave
		}
	}}
	s := newTracedStore(t, traced, 4, pgsession.WithClock(pgsession.SystemClock{}))
	before := traced.roundTrips.Load()
	require.Equal(t, http.StatusOK, probe(t, s.Store))
	const probes = 300
	oneLook := traced.roundTrips.Load() - before
	connections := s.pool.Stat().NewConnsCount()

	handler := s.HealthHandler()
	arrived, leave = make(chan struct{}), make(chan struct{})
	armed.Store(true)
	before = traced.roundTrips.Load()
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
	require.Equal(t, oneLook, traced.roundTrips.Load()-before)
	require.Equal(t, connections, s.pool.Stat().NewConnsCount(), "no connection was lost")
}

// TestHealthHandler_ALookASecond probes over and over, by a clock that the test moves.
func TestHealthHandler_ALookASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var looks atomic.Int64
		s := storeOn(brokenPool(t, func(context.Context) { looks.Add(1) }))
		handler := s.HealthHandler()
		for range 300 {
			response := httptest.NewRecorder()
			handler.ServeHTTP(response, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/health", nil))
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
		log := newRecorder()
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
			require.Contains(t, attributes(record)["reason"], isEnded)
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
	log := newRecorder()
	pool := pgtest.Pool(t)
	require.NoError(t, storeOn(pool).Init(t.Context()))
	s := storeOn(pool, pgsession.WithClock(clock), pgsession.WithLogger(slog.New(log)))
	handler := s.HealthHandler()
	seen := s.Health(t.Context()).Reasons[0]
	require.Eventually(t, func() bool { // two looks
		handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/health", nil))
		return s.Health(t.Context()).Reasons[0] != seen
	}, patience, 300*time.Millisecond)
	clock.Advance(-time.Hour)
	began := time.Now()
	require.Eventually(t, func() bool {
		handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/health", nil))
		return time.Since(began) > 1200*time.Millisecond
	}, patience, 300*time.Millisecond)
	require.Len(t, log, 1)
}

// TestHealth_UnknownKey has a store with a wrong key ring meet rows, in each way to read them.
func TestHealth_UnknownKey(t *testing.T) {
	t.Parallel()
	s := newStore(t, pgsession.WithClock(pgsession.SystemClock{}))
	id := s.create(t, ann(1), time.Hour)
	require.NoError(t, s.KeyValue().Put(t.Context(), "k", nil, time.Hour))
	for name, read := range map[string]func(other *fixture) error{
		"Load":   func(other *fixture) error { return second(other.Load(t.Context(), id)) },
		"Update": func(other *fixture) error { return second(other.Update(t.Context(), at(id), 0, keep(1))) },
		"Renew":  func(other *fixture) error { return second(other.Renew(t.Context(), at(id), 0, login(bob))) },
		"Get":    func(other *fixture) error { return second(other.KeyValue().Get(t.Context(), "k")) },
		"Reseal": func(other *fixture) error { return second(other.Reseal(t.Context())) },
		"All": func(other *fixture) error {
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
			other := s.node(newCrypto(t, pgsession.GenerateKey()), pgsession.WithClock(pgsession.SystemClock{}))
			requireHealth(t, other.Store, pgsession.Healthy)
			require.ErrorIs(t, read(other), pgsession.ErrUnknownKey)
			requireHealth(t, other.Store, pgsession.Degraded, isUnopened)
			requireHealth(t, s.Store, pgsession.Healthy)
		})
	}
	t.Run("Init", func(t *testing.T) {
		t.Parallel()
		other := s.node(newCrypto(t, pgsession.GenerateKey()), pgsession.WithClock(pgsession.SystemClock{}))
		require.NoError(t, other.Init(t.Context()))
		requireHealth(t, other.Store, pgsession.Degraded, isUnopened)
	})
	t.Run("Take", func(t *testing.T) { // removes it
		t.Parallel()
		require.NoError(t, s.KeyValue().Put(t.Context(), "code", nil, time.Hour))
		other := s.node(newCrypto(t, pgsession.GenerateKey()), pgsession.WithClock(pgsession.SystemClock{}))
		require.ErrorIs(t, second(other.KeyValue().Take(t.Context(), "code")), pgsession.ErrUnknownKey)
		requireHealth(t, other.Store, pgsession.Degraded, isUnopened)
	})
}

// TestInit_Warns of what would do damage later.
func TestInit_Warns(t *testing.T) {
	t.Parallel()
	s := newStore(t, pgsession.WithClock(pgsession.SystemClock{}))
	wrong, clock := newCrypto(t, pgsession.GenerateKey()), pgsession.WithClock(pgsession.SystemClock{})
	requireWarnings := func(crypto *pgsession.Crypto, clock pgsession.Option, messages ...string) {
		t.Helper()
		log := newRecorder()
		require.NoError(t, pgsession.New(s.pool, crypto, clock, pgsession.WithLogger(slog.New(log))).Init(t.Context()))
		require.Len(t, log, len(messages))
		for _, message := range messages {
			record := <-log
			require.Equal(t, slog.LevelWarn, record.Level)
			require.Contains(t, record.Message, message)
		}
	}
	requireWarnings(wrong, clock) // of an empty table
	s.ended(t)
	requireWarnings(wrong, clock) // a tombstone needs no key
	for range 120 {
		s.create(t, ann(1), time.Hour)
	}
	requireWarnings(newCrypto(t, testKey), clock)
	requireWarnings(newCrypto(t, otherKey, testKey), clock)
	requireWarnings(wrong, clock, warnsOfKeys)
	for _, ahead := range []time.Duration{10 * time.Second, -10 * time.Second, 24 * time.Hour} {
		requireWarnings(newCrypto(t, testKey), pgsession.WithClock(shifted(ahead)), warnsOfClock)
	}
	requireWarnings(newCrypto(t, testKey), pgsession.WithClock(shifted(4*time.Second)))
	requireWarnings(wrong, pgsession.WithClock(shifted(10*time.Second)), warnsOfClock, warnsOfKeys)

	// Of those that are looked at, one opens: a rotation, and not a wrong key.
	require.NoError(t, second(s.DeleteAll(t.Context())))
	s.create(t, ann(1), time.Hour)
	require.NoError(t, second(pgsession.New(s.pool, wrong, clock).Create(t.Context(), ann(1), time.Hour)))
	requireWarnings(wrong, clock)
}

// TestHealth_EndedCleanup spawns the clean-up under a context that ends before the process does.
func TestHealth_EndedCleanup(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t, func(config *pgxpool.Config) { config.MaxConns = 2 })
	onServer := storeOn(pool)
	require.NoError(t, onServer.Init(t.Context()))
	for name, s := range map[string]*pgsession.Store{"a table": onServer, "in memory": pgsession.InMemory(quiet())} {
		requireHealth(t, s, pgsession.Healthy)
		startUp, cancel := context.WithCancel(t.Context())
		cleanup := s.SpawnCleanup(startUp, time.Hour)
		requireHealth(t, s, pgsession.Healthy)
		cancel()
		cleanup.Stop() // waits for its end
		requireHealth(t, s, pgsession.Degraded, isEnded)

		again := s.SpawnCleanup(t.Context(), time.Hour)
		requireHealth(t, s, pgsession.Healthy)
		again.Stop()
		requireHealth(t, s, pgsession.Healthy)

		startUp, cancel = context.WithCancel(t.Context())
		one, other := s.SpawnCleanup(startUp, time.Hour), s.SpawnCleanup(t.Context(), time.Hour)
		cancel()
		one.Stop()
		requireHealth(t, s, pgsession.Healthy)
		other.Stop()
		requireHealth(t, s, pgsession.Healthy)
		require.NoError(t, s.Check(t.Context()), name)
	}
}
