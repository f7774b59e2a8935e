package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
)

// maxConns keeps the pools of many parallel tests within the server's max_connections.
const maxConns = 8

// shared is the test binary's server. The first test that needs one starts it, so that a fuzzing
// worker, or a run of one test without a database, does not wait for it.
var shared struct {
	sync.Mutex
	server *Server
	err    error
}

// Shared returns the server that all tests of a binary share, for examples, which have no
// testing.TB. Main stops it.
func Shared() (*Server, error) {
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil && shared.err == nil {
		shared.server, shared.err = Start(context.Background(), func(format string, args ...any) {
			fmt.Fprintf(os.Stderr, format+"\n", args...)
		})
	}
	return shared.server, shared.err
}

func sharedServer(t testing.TB) *Server {
	t.Helper()
	server, err := Shared()
	require.NoError(t, err)
	return server
}

// Main is for TestMain: it runs the tests, stops the server they shared and exits. If check is not
// nil, Main calls it after the server is gone, and an error of it fails the run. goleak.Find fits.
func Main(m *testing.M, check func() error) { os.Exit(Run(m, check)) }

// Run is Main, and returns the exit code instead of exiting.
func Run(m *testing.M, check func() error) (code int) {
	code = m.Run()
	shared.Lock()
	if shared.server != nil {
		shared.server.Stop()
	}
	if code == 0 && check != nil {
		err := check()
		// On a busy machine, what is about to end takes its time.
		for patience := time.Now().Add(5 * time.Second); err != nil && time.Now().Before(patience); {
			err = check()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	return code
}

// Schema makes a schema for this test alone, on the server that the test binary shares, and returns
// a pool whose search_path is that schema. When the test ends, the pool is closed and the schema
// dropped.
func Schema(t testing.TB) (pool *pgxpool.Pool, schema string) {
	t.Helper()
	config := poolConfig(t)
	schema = setNewSchema(t, config)
	return openPool(t, config), schema
}

// URL returns a connection string with which a program works in the schema of a test's pool.
func URL(t testing.TB, pool *pgxpool.Pool) string {
	t.Helper()
	server, schema := pool.Config().ConnString(), pool.Config().ConnConfig.RuntimeParams["search_path"]
	if !strings.Contains(server, "://") {
		return server + " search_path=" + schema
	}
	database, err := url.Parse(server)
	require.NoError(t, err)
	query := database.Query()
	query.Set("search_path", schema)
	database.RawQuery = query.Encode()
	return database.String()
}

// Pool is Schema for tests that do not need the schema's name, or need another configuration. The
// function configure may change everything, including the server's address. If it sets the
// search_path, no schema is made.
//
// PGSESSION_TEST_QUERY_MODE is the pool's default query mode, so that a whole suite can run under
// each. It is one of cache_statement, cache_describe, describe_exec, exec and simple_protocol.
func Pool(t testing.TB, configure ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	config := poolConfig(t)
	for _, apply := range configure {
		apply(config)
	}
	if config.ConnConfig.RuntimeParams["search_path"] == "" {
		setNewSchema(t, config)
	}
	return openPool(t, config)
}

var queryModes = map[string]pgx.QueryExecMode{
	"cache_statement": pgx.QueryExecModeCacheStatement,
	"cache_describe":  pgx.QueryExecModeCacheDescribe,
	"describe_exec":   pgx.QueryExecModeDescribeExec,
	"exec":            pgx.QueryExecModeExec,
	"simple_protocol": pgx.QueryExecModeSimpleProtocol,
}

func poolConfig(t testing.TB) *pgxpool.Config {
	t.Helper()
	config, err := pgxpool.ParseConfig(sharedServer(t).URL())
	require.NoError(t, err)
	config.MaxConns = maxConns
	if name := os.Getenv("PGSESSION_TEST_QUERY_MODE"); name != "" {
		require.Contains(t, queryModes, name, "PGSESSION_TEST_QUERY_MODE")
		config.ConnConfig.DefaultQueryExecMode = queryModes[name]
	}
	return config
}

func setNewSchema(t testing.TB, config *pgxpool.Config) (schema string) {
	t.Helper()
	schema = "test_" + strings.ToLower(rand.Text())
	administer(t, `CREATE SCHEMA `+schema)
	t.Cleanup(func() { administer(t, `DROP SCHEMA `+schema+` CASCADE`) })
	// In the startup message, so that it does not depend on the query mode.
	config.ConnConfig.RuntimeParams["search_path"] = schema
	if config.ConnConfig.RuntimeParams["application_name"] == "" {
		config.ConnConfig.RuntimeParams["application_name"] = schema // names this test's backends
	}
	return schema
}

// administer runs SQL on a connection of its own, straight to the server, whatever the test did to
// its pool.
func administer(t testing.TB, sql string) {
	t.Helper()
	limit := 2 * time.Minute
	if IsDistributed() {
		limit = 5 * time.Minute // a schema may have a thousand tables with their shards
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	require.NoError(t, onConnection(ctx, sharedServer(t).URL(), func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, sql)
		return err
	}))
}

func openPool(t testing.TB, config *pgxpool.Config) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// RequireBinaries is for tests that start a [Cluster]: they need PostgreSQL's programs on this
// machine, and a URL or Docker is not enough. Without the programs, the test fails in CI, which has
// them, and is skipped elsewhere.
func RequireBinaries(t testing.TB) {
	t.Helper()
	_, err := findBinaries()
	if errors.Is(err, errAbsent) && os.Getenv("CI") == "" {
		fmt.Fprintf(os.Stderr, "pgtest: NOT TESTED: %s needs PostgreSQL's programs on this machine: %v\n", t.Name(), err)
		t.Skip(err)
	}
	require.NoError(t, err)
}

// AfterInit runs the SQL in PGSESSION_TEST_AFTER_INIT, if there is any, with the table's name for
// each %s. Tests call it after Init, so that the suite can run on a table that was changed, for
// instance on a distributed one.
func AfterInit(t testing.TB, pool *pgxpool.Pool, table string) {
	t.Helper()
	sql := os.Getenv("PGSESSION_TEST_AFTER_INIT")
	if sql == "" {
		return
	}
	_, err := pool.Exec(t.Context(), strings.ReplaceAll(sql, "%s", table), pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
}

// IsDistributed reports whether [AfterInit] distributes tables, which is when the tests' own SQL
// must be what Citus takes.
func IsDistributed() bool {
	return strings.Contains(os.Getenv("PGSESSION_TEST_AFTER_INIT"), "create_distributed_table")
}

// NotDistributed skips a test that a distributed table cannot have: its own SQL is refused there,
// or it looks at what only one server has.
func NotDistributed(t testing.TB, why string) {
	t.Helper()
	if IsDistributed() {
		t.Skipf("not on a distributed table: %s", why)
	}
}
