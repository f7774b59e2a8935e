package pgtest_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession/internal/pgtest"
)

func TestSchema_IsTheTestsOwn(t *testing.T) {
	t.Parallel()
	var used string
	t.Run("used", func(t *testing.T) {
		var pool *pgxpool.Pool
		pool, used = pgtest.Schema(t)
		other, otherSchema := pgtest.Schema(t)
		require.NotEqual(t, used, otherSchema)
		for _, one := range []*pgxpool.Pool{pool, other} {
			_, err := one.Exec(t.Context(), `CREATE TABLE sessions (id int)`)
			require.NoError(t, err, "the same name, in two schemas")
		}
		var schema string
		require.NoError(t, pool.QueryRow(t.Context(), `SELECT schemaname FROM pg_tables WHERE tablename = 'sessions' AND schemaname = current_schema()`).Scan(&schema))
		require.Equal(t, used, schema)
	})
	var left int
	err := pgtest.Pool(t).QueryRow(t.Context(), `SELECT count(*) FROM pg_namespace WHERE nspname = $1`, used).Scan(&left)
	require.NoError(t, err)
	require.Zero(t, left)
}

func TestPool_Configure(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t, func(config *pgxpool.Config) {
		config.MaxConns = 1
		config.ConnConfig.RuntimeParams["search_path"] = "pg_catalog"
	})
	require.EqualValues(t, 1, pool.Config().MaxConns)
	var schema string
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT current_schema()`).Scan(&schema))
	require.Equal(t, "pg_catalog", schema)
}

func TestPool_QueryModes(t *testing.T) {
	modes := map[string]pgx.QueryExecMode{
		"":                pgx.QueryExecModeCacheStatement,
		"cache_statement": pgx.QueryExecModeCacheStatement,
		"cache_describe":  pgx.QueryExecModeCacheDescribe,
		"describe_exec":   pgx.QueryExecModeDescribeExec,
		"exec":            pgx.QueryExecModeExec,
		"simple_protocol": pgx.QueryExecModeSimpleProtocol,
	}
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			t.Setenv("PGSESSION_TEST_QUERY_MODE", name)
			pool, schema := pgtest.Schema(t)
			require.Equal(t, mode, pool.Config().ConnConfig.DefaultQueryExecMode)
			var current string
			require.NoError(t, pool.QueryRow(t.Context(), `SELECT current_schema() WHERE $1 = 1`, 1).Scan(&current))
			require.Equal(t, schema, current)
		})
	}
}

func TestAfterInit(t *testing.T) {
	pool := pgtest.Pool(t)
	_, err := pool.Exec(t.Context(), `CREATE TABLE sessions (id int)`)
	require.NoError(t, err)
	t.Setenv("PGSESSION_TEST_AFTER_INIT", `ALTER TABLE %s ADD first int; ALTER TABLE %s ADD second int`)
	pgtest.AfterInit(t, pool, "sessions")
	_, err = pool.Exec(t.Context(), `INSERT INTO sessions (id, first, second) VALUES (1, 2, 3)`)
	require.NoError(t, err)
	t.Setenv("PGSESSION_TEST_AFTER_INIT", "")
	pgtest.AfterInit(t, pool, "sessions")
}

func TestPool_KeepsDurableCommits(t *testing.T) {
	t.Parallel()
	var setting string
	require.NoError(t, pgtest.Pool(t).QueryRow(t.Context(), `SHOW synchronous_commit`).Scan(&setting))
	require.Equal(t, "on", setting)
}
