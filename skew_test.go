package pgsession_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
)

// TestClocks_NodeAhead has one node whose clock is a day ahead of the server's, by functions that hide the
// server's own. It may not remove what lives by the server's clock, and warns before it could.
func TestClocks_NodeAhead(t *testing.T) {
	t.Parallel()
	s := newStore(t, pgsession.WithClock(pgsession.SystemClock{}))
	for _, function := range []string{"statement_timestamp", "clock_timestamp"} {
		s.sql(t, `CREATE FUNCTION `+function+`() RETURNS timestamptz STABLE RETURN pg_catalog.`+function+`() - interval '1 day'`)
	}
	schema := s.pool.Config().ConnConfig.RuntimeParams["search_path"]
	log := newRecorder()
	ahead := pgsession.New(nodePool(t, schema+", pg_catalog", nil), newCrypto(t, testKey), pgsession.WithLogger(slog.New(log)))
	require.NoError(t, ahead.Init(t.Context()))
	require.Contains(t, (<-log).Message, warnsOfClock)
	requireHealth(t, ahead, pgsession.Degraded, isSkewed+"24h0m0s")

	// By the node's clock these are over, by the server's they live or are tombstones that still count.
	s.sql(t, `INSERT INTO sessions (key, sealed, version, created_at, expires_at, idle_timeout)
		SELECT sha256(convert_to(i::text, 'UTF8')), CASE WHEN i % 2 = 0 THEN '\x01'::bytea END, 1, now(), now() - i * interval '1 hour', '1 hour'
		FROM generate_series(1, 23) AS i`)
	for name, cleanUp := range map[string]func() (int64, error){
		"CleanupExpired": func() (int64, error) { return ahead.CleanupExpired(t.Context()) },
		"PruneExpired":   func() (int64, error) { return ahead.KeyValue().PruneExpired(t.Context()) },
		"SpawnCleanup": func() (int64, error) {
			before := ahead.Stats()
			cleanup := ahead.SpawnCleanup(t.Context(), time.Millisecond)
			defer cleanup.Stop()
			require.Eventually(t, func() bool { return ahead.Stats().LastCleanup.After(before.LastCleanup) }, patience, time.Millisecond)
			return ahead.Stats().Cleaned - before.Cleaned, nil
		},
	} {
		removed, err := cleanUp()
		require.NoError(t, err, name)
		require.Zero(t, removed, name)
	}
	s.sql(t, `UPDATE sessions SET expires_at = now() - interval '2 days' WHERE key = sha256('1')`)
	removed, err := ahead.CleanupExpired(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, removed, "over by both")
	require.Equal(t, 22, s.rows(t, "true"))
}

// TestClocks_NodeBehind has one node whose clock is a day behind. It removes no more than is over by its own.
func TestClocks_NodeBehind(t *testing.T) {
	t.Parallel()
	s := newStore(t, pgsession.WithClock(pgsession.SystemClock{}))
	s.sql(t, `CREATE FUNCTION statement_timestamp() RETURNS timestamptz STABLE RETURN pg_catalog.statement_timestamp() + interval '1 day'`)
	pool := nodePool(t, s.pool.Config().ConnConfig.RuntimeParams["search_path"]+", pg_catalog", nil)
	id := s.create(t, ann(1), time.Hour)
	removed, err := storeOn(pool).CleanupExpired(t.Context())
	require.NoError(t, err)
	require.Zero(t, removed)
	s.load(t, id)
}
