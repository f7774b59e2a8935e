package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/alexliesenfeld/health"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/doctest"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/test"
	"github.com/pgsession/pgsession/pgsessiontest"
)

func TestMain(m *testing.M) { pgtest.Main(m, func() error { return goleak.Find() }) }

var errAway = errors.New("dial tcp 10.1.2.3:5432: connection refused")

func newStore(t testing.TB) *pgsession.Store {
	t.Helper()
	return test.Open(pgtest.Pool(t))
}

func get(ctx context.Context, handler http.Handler) *httptest.ResponseRecorder {
	response := httptest.NewRecorder()
	handler.ServeHTTP(response, httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil))
	return response
}

// TestReadiness asks PostgreSQL: first there is no table, and then there is.
func TestReadiness(t *testing.T) {
	t.Parallel()
	store := newStore(t)
	require.Equal(t, http.StatusServiceUnavailable, probe(t, store).Code)
	require.NoError(t, store.Init(t.Context()))
	response := probe(t, store)
	require.Equal(t, http.StatusOK, response.Code)
	require.JSONEq(t, `{"status":"up"}`, response.Body.String())
}

// probe returns what readiness answers after its first check.
func probe(t testing.TB, store *pgsession.Store) (response *httptest.ResponseRecorder) {
	t.Helper()
	checker, handler := readiness(store)
	defer checker.Stop()
	require.Eventually(t, func() bool {
		response = get(t.Context(), handler)
		return response.Body.String() != "" && checker.Check(t.Context()).Status != health.StatusUnknown
	}, 30*time.Second, time.Millisecond)
	return get(t.Context(), handler)
}

func TestReadiness_Outage(t *testing.T) {
	t.Parallel()
	store := pgsessiontest.New()
	store.FailWith(errAway)
	response := probe(t, store.Store)
	require.Equal(t, http.StatusServiceUnavailable, response.Code)
	require.JSONEq(t, `{"status":"down"}`, response.Body.String(), "no internals")
}

// TestReadiness_ClientGone shows why the check is periodic: with WithCheck, the request of a client
// that has gone counts as an outage, for everybody, for a second.
func TestReadiness_ClientGone(t *testing.T) {
	t.Parallel()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	store := pgsessiontest.New()
	onRequest := health.NewHandler(health.NewChecker(health.WithCheck(health.Check{Name: "sessions", Check: store.Check})))
	get(gone, onRequest)
	require.Equal(t, http.StatusServiceUnavailable, get(t.Context(), onRequest).Code, "the store works")

	checker, periodic := readiness(store.Store)
	defer checker.Stop()
	require.Eventually(t, func() bool { return get(t.Context(), periodic).Code == http.StatusOK }, 30*time.Second, time.Millisecond)
	get(gone, periodic)
	require.Equal(t, http.StatusOK, get(t.Context(), periodic).Code)
	require.Equal(t, 1, checker.GetRunningPeriodicCheckCount(), "no request runs the check")
}

func TestStatus(t *testing.T) {
	t.Parallel()
	store := newStore(t)
	handler, err := status(store)
	require.NoError(t, err)
	response := get(t.Context(), handler)
	require.Equal(t, http.StatusServiceUnavailable, response.Code)
	require.Contains(t, response.Body.String(), "42P01", "it shows the error: there is no table")
	require.NoError(t, store.Init(t.Context()))
	response = get(t.Context(), handler)
	require.Equal(t, http.StatusOK, response.Code)
	require.Contains(t, response.Body.String(), `"status":"OK"`)
}

// TestReadme wants the README's code in this file.
func TestReadme(t *testing.T) {
	t.Parallel()
	snippets := doctest.Snippets(t, "README.md", "go")
	require.Len(t, snippets, 2)
	for _, s := range snippets {
		require.Contains(t, doctest.Read(t, "main.go"), s.Code)
	}
}
