package pgtest_test

import (
	"testing"

	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	pgtest.Main(m, func() error { return goleak.Find() })
}

func TestSchema(t *testing.T) {
	t.Parallel()
	pool, schema := pgtest.Schema(t)
	var current string
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT current_schema()`).Scan(&current))
	require.Equal(t, schema, current)
}
