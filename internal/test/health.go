package test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/bridge"
)

// How the reasons of a degraded store begin.
const (
	IsSkewed     = "the clocks of application and server differ by "
	IsNotDurable = "synchronous_commit is "
)

// Examine is the store's Health, but it gives a slow machine its time.
func Examine(ctx context.Context, s *pgsession.Store) pgsession.Health {
	return bridge.Health(ctx, s, Patience).(pgsession.Health)
}

// RequireHealth wants a store that works, for these reasons.
func RequireHealth(t testing.TB, s *pgsession.Store, want pgsession.Status, reasons ...string) {
	t.Helper()
	health := Examine(t.Context(), s)
	require.Equal(t, want, health.Status, "%v", health)
	require.NoError(t, health.Err)
	require.Len(t, health.Reasons, len(reasons), "%v", health)
	for i, reason := range reasons {
		require.Contains(t, health.Reasons[i], reason)
	}
}

// RequireUnhealthy wants a store that does not work, and returns why. The look must end in time.
func RequireUnhealthy(t testing.TB, s *pgsession.Store) error {
	t.Helper()
	started := time.Now()
	health := s.Health(t.Context())
	require.Less(t, time.Since(started), 2*time.Second+Slack)
	require.Equal(t, pgsession.Unhealthy, health.Status, "%v", health)
	require.Error(t, health.Err)
	require.Equal(t, []string{health.Err.Error()}, health.Reasons)
	require.True(t, strings.HasPrefix(health.Err.Error(), "pgsession: health: "), health.Err)
	return health.Err
}

// Probe asks the store's health endpoint, and returns the status code.
func Probe(t testing.TB, s *pgsession.Store) int {
	t.Helper()
	response := httptest.NewRecorder()
	request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/health", nil)
	s.HealthHandler().ServeHTTP(response, request)
	return response.Code
}
