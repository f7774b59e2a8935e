package pgsession_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"flag"
	"log/slog"
	"maps"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/bridge"
	"github.com/pgsession/pgsession/internal/pgtest"
)

func TestMain(m *testing.M) {
	// A few seconds' worth of the property tests. -rapid.checks=1000 on the command line has the last word.
	if flag.Lookup("rapid.checks") != nil {
		if err := flag.Set("rapid.checks", "40"); err != nil {
			panic(err)
		}
	}
	// The tests wait for the server, or for time to pass, more than they compute: so more of them run at once than
	// there are processors, unless -parallel says how many.
	flag.Parse()
	if parallel := flag.Lookup("test.parallel"); parallel.Value.String() == parallel.DefValue {
		if err := parallel.Value.Set(strconv.Itoa(3 * runtime.GOMAXPROCS(0))); err != nil {
			panic(err)
		}
	}
	pgtest.Main(m, func() error { return goleak.Find() })
}

// patience is how long a test waits for what must happen. No test that passes waits so long.
const patience = 30 * time.Second

// epoch is when the tests' manual clocks start. It is not on an hour, so that the rounding of
// expires_hour shows.
var epoch = time.Date(2026, 3, 14, 15, 9, 26, 535_897_000, time.UTC)

// Sessions' data: ann's, with any values, another user's and a guest's.
func ann(values any) pgsession.Data { return pgsession.Data{UserID: "ann", Values: values} }

var (
	bob   = pgsession.Data{UserID: "bob", Values: 0}
	guest = pgsession.Data{Values: 0}
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// second returns the error of a call that returns something else before it.
func second[T any](_ T, err error) error { return err }

// patient lets the operations of a slow machine take their time. Tests of WithTimeout name one of their own.
func patient() pgsession.Option { return pgsession.WithTimeout(patience) }

// quiet is the option of a store that logs nothing.
func quiet() pgsession.Option { return pgsession.WithLogger(slog.New(slog.DiscardHandler)) }

// countsOf returns the counters that depend neither on the time nor on the kind of store.
func countsOf(stats pgsession.Stats) pgsession.Stats {
	stats.LastCleanupDuration, stats.BytesRead, stats.BytesWritten, stats.Operations, stats.Sharing = 0, 0, 0, nil, nil
	return stats
}

// A profile is values of several members.
type profile struct {
	Name  string
	Count int
}

// Keys.

var testKey = must(pgsession.ParseKey("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"))

func newCrypto(t testing.TB, primary pgsession.Key, others ...pgsession.Key) *pgsession.Crypto {
	t.Helper()
	crypto, err := pgsession.NewCrypto(primary, others...)
	require.NoError(t, err)
	return crypto
}

// Stores.

// A fixture is a store on a table of its own, under a clock that the test moves.
type fixture struct {
	*pgsession.Store
	pool  *pgxpool.Pool // nil if the table is in memory
	clock *pgsession.ManualClock
}

// An opener is pgsession.Plaintext, or encrypted.
type opener func(*pgxpool.Pool, ...pgsession.Option) *pgsession.Store

// encrypted opens a store under testKey.
func encrypted(pool *pgxpool.Pool, opts ...pgsession.Option) *pgsession.Store {
	return pgsession.New(pool, must(pgsession.NewCrypto(testKey)), opts...)
}

func newStore(t testing.TB, opts ...pgsession.Option) *fixture {
	t.Helper()
	return newFixture(t, pgtest.Pool(t), encrypted, opts)
}

func newPlaintextStore(t testing.TB, opts ...pgsession.Option) *fixture {
	t.Helper()
	return newFixture(t, pgtest.Pool(t), pgsession.Plaintext, opts)
}

// newTracedStore is newStore with a trace of its queries if traced is not nil, and a pool of so many connections.
func newTracedStore(t testing.TB, traced *tracer, connections int32, opts ...pgsession.Option) *fixture {
	t.Helper()
	pool := pgtest.Pool(t, func(config *pgxpool.Config) {
		if traced != nil {
			config.ConnConfig.Tracer = traced
		}
		config.MaxConns = connections
	})
	return newFixture(t, pool, encrypted, opts)
}

// newFixture opens a store on a pool and makes its table.
func newFixture(t testing.TB, pool *pgxpool.Pool, open opener, opts []pgsession.Option) *fixture {
	t.Helper()
	clock := pgsession.NewManualClock(epoch)
	store := open(pool, append([]pgsession.Option{pgsession.WithClock(clock), quiet(), patient()}, opts...)...)
	require.NoError(t, store.Init(t.Context()))
	pgtest.AfterInit(t, pool, "sessions")
	if pgtest.IsDistributed() {
		require.NoError(t, store.Init(t.Context()), "so that the store knows")
	}
	return &fixture{store, pool, clock}
}

// bothStores are the kinds of stores on PostgreSQL.
func bothStores(t testing.TB, opts ...pgsession.Option) map[string]*fixture {
	t.Helper()
	return map[string]*fixture{"encrypted": newStore(t, opts...), "plaintext": newPlaintextStore(t, opts...)}
}

// node returns another store on the fixture's table, as another node of the application has one.
func (f *fixture) node(crypto *pgsession.Crypto, opts ...pgsession.Option) *fixture {
	opts = append([]pgsession.Option{pgsession.WithClock(f.clock), quiet(), patient()}, opts...)
	return &fixture{pgsession.New(f.pool, crypto, opts...), f.pool, f.clock}
}

// storeOn returns a store by the machine's clock, without Init.
func storeOn(pool *pgxpool.Pool, opts ...pgsession.Option) *pgsession.Store {
	return encrypted(pool, append([]pgsession.Option{quiet()}, opts...)...)
}

// Sessions.

func (f *fixture) create(t testing.TB, data pgsession.Data, ttl time.Duration) pgsession.ID {
	t.Helper()
	session, err := f.Create(t.Context(), data, ttl)
	require.NoError(t, err)
	return session.ID
}

// ended makes a session and ends it.
func (f *fixture) ended(t testing.TB) pgsession.ID {
	t.Helper()
	id := f.create(t, ann(1), time.Hour)
	require.NoError(t, f.Delete(t.Context(), id))
	return id
}

// expired makes a session and lets the smallest unit of time pass, after which it is over.
func (f *fixture) expired(t testing.TB) pgsession.ID {
	t.Helper()
	id := f.create(t, ann(1), time.Microsecond)
	f.clock.Advance(time.Microsecond)
	return id
}

func (f *fixture) load(t testing.TB, id pgsession.ID) *pgsession.Session {
	t.Helper()
	session, err := f.Load(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, id.Handle(), session.Handle)
	return session
}

// count returns the values of a session that holds a number.
func (f *fixture) count(t testing.TB, id pgsession.ID) int {
	t.Helper()
	return decode[int](t, f.load(t, id))
}

func decode[T any](t testing.TB, session *pgsession.Session) T {
	t.Helper()
	v, err := pgsession.Decode[T](session)
	require.NoError(t, err)
	return v
}

// at returns a session made by hand, with which an operation begins by loading it.
func at(id pgsession.ID) *pgsession.Session {
	return &pgsession.Session{ID: id, Handle: id.Handle()}
}

// version returns what each write of a session changes.
func version(session *pgsession.Session) int64 { return bridge.Row(session).Version }

// keep is a change for Update that stores the same values, whatever was there.
func keep(values any) func(*pgsession.Session) (any, error) {
	return func(*pgsession.Session) (any, error) { return values, nil }
}

// increment is a change for Update of a session that holds a number.
func increment(session *pgsession.Session) (any, error) {
	n, err := pgsession.Decode[int](session)
	return n + 1, err
}

// login is a change for Renew that logs a user in.
func login(data pgsession.Data) func(*pgsession.Session) (pgsession.Data, error) {
	return func(*pgsession.Session) (pgsession.Data, error) { return data, nil }
}

func (f *fixture) cleanUp(t testing.TB) int64 {
	t.Helper()
	removed, err := f.CleanupExpired(t.Context())
	require.NoError(t, err)
	return removed
}

// requireErrors wants these errors of these calls, nil among them.
func requireErrors(t testing.TB, errs []error, want ...error) {
	t.Helper()
	require.Len(t, errs, len(want))
	for i := range want {
		require.ErrorIs(t, errs[i], want[i], "call %d", i)
	}
}

// requireEntry wants a value under a key.
func requireEntry(t testing.TB, kv *pgsession.KeyValue, key string, want []byte) {
	t.Helper()
	value, err := kv.Get(t.Context(), key)
	require.NoError(t, err)
	require.Equal(t, string(want), string(value))
}

func handles(sessions []*pgsession.Session) []pgsession.Handle {
	var found []pgsession.Handle
	for _, session := range sessions {
		found = append(found, session.Handle)
	}
	return found
}

// Rows.

// key returns the primary key of an id's row.
func key(id pgsession.ID) []byte { return must(hex.DecodeString(id.Handle().String())) }

// rows counts the rows that meet a condition.
func (f *fixture) rows(t testing.TB, condition string, args ...any) (n int) {
	t.Helper()
	require.NoError(t, f.pool.QueryRow(t.Context(), `SELECT count(*) FROM sessions AS s WHERE `+condition, args...).Scan(&n))
	return n
}

func (f *fixture) sql(t testing.TB, sql string, args ...any) {
	t.Helper()
	_, err := f.pool.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

// runScript runs SQL of any number of statements.
func runScript(t testing.TB, pool *pgxpool.Pool, sql string) {
	t.Helper()
	_, err := pool.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
}

// swallow has a trigger of the table's owner make the server do nothing and say that all is well.
func (f *fixture) swallow(t testing.TB, events string) {
	t.Helper()
	f.sql(t, `CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'`)
	f.sql(t, `CREATE TRIGGER swallow BEFORE `+events+` ON sessions FOR EACH ROW EXECUTE FUNCTION swallow()`)
}

// expire writes n rows that expired at the clock's time.
func (f *fixture) expire(t testing.TB, n int) {
	t.Helper()
	f.sql(t, `
		INSERT INTO sessions (key, sealed, version, created_at, expires_at, idle_timeout)
		SELECT sha256(convert_to(i::text, 'UTF8')), '\x01', 1, $1, $1, '1 hour'
		FROM generate_series(1, $2::int) AS i`, f.clock.Now(), n)
}

// Locks.

// A lock is what a transaction holds, on a connection that is not the pool's.
type lock struct {
	pgx.Tx
	pid     uint32
	waiting string // counts the statements that wait for it
}

// lock locks the rows that meet a condition, until the test's end if not released before.
func (f *fixture) lock(t testing.TB, condition string, args ...any) *lock {
	t.Helper()
	if !pgtest.IsDistributed() {
		return f.hold(t, `SELECT key FROM sessions WHERE `+condition+` FOR UPDATE`, args...)
	}
	// Citus locks the rows of one shard at a time.
	result, err := f.pool.Query(t.Context(), `SELECT key FROM sessions WHERE `+condition, args...)
	require.NoError(t, err)
	keys, err := pgx.CollectRows(result, pgx.RowTo[[]byte])
	require.NoError(t, err)
	held := f.hold(t, `SELECT`)
	for _, key := range keys {
		_, err := held.Exec(t.Context(), `SELECT key FROM sessions WHERE key = $1 FOR UPDATE`, key)
		require.NoError(t, err)
	}
	return held
}

func (f *fixture) lockTable(t testing.TB) *lock {
	t.Helper()
	return f.hold(t, `LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE`)
}

// hold runs a statement in a transaction that stays open.
func (f *fixture) hold(t testing.TB, sql string, args ...any) *lock {
	t.Helper()
	config := f.pool.Config().ConnConfig
	config.Tracer = nil
	conn, err := pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close(context.Background()) })
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
	waiting := `SELECT count(*) FROM pg_stat_activity WHERE $1::int = ANY(pg_blocking_pids(pid))`
	if pgtest.IsDistributed() {
		// Other tests wait too, while they distribute their tables.
		waiting = `SELECT count(DISTINCT pid) FROM pg_stat_activity JOIN (
			SELECT pid FROM pg_stat_activity WHERE $1::int = ANY(pg_blocking_pids(pid))
			UNION ALL
			SELECT citus_pid_for_gpid(waiting_gpid) FROM citus_lock_waits WHERE citus_pid_for_gpid(blocking_gpid) = $1::int) AS waiting USING (pid)
			WHERE application_name = current_setting('application_name')`
	}
	return &lock{tx, conn.PgConn().PID(), waiting}
}

// waitFor returns when so many statements wait for the lock.
func (l *lock) waitFor(t testing.TB, statements int) {
	t.Helper()
	require.Eventually(t, func() bool {
		// A transaction keeps what it has seen of the other sessions.
		_, err := l.Exec(t.Context(), `SELECT pg_stat_clear_snapshot()`)
		var waiting int
		if err == nil {
			err = l.QueryRow(t.Context(), l.waiting, int32(l.pid)).Scan(&waiting)
		}
		return err == nil && waiting == statements
	}, patience, time.Millisecond)
}

func (l *lock) release(t testing.TB) {
	t.Helper()
	require.NoError(t, l.Rollback(t.Context()))
}

// Pools.

// nodePool returns another pool on a test's schema, as another process of the application has one.
func nodePool(t testing.TB, schema string, params map[string]string) *pgxpool.Pool {
	t.Helper()
	return pgtest.Pool(t, func(config *pgxpool.Config) {
		maps.Copy(config.ConnConfig.RuntimeParams, params)
		config.ConnConfig.RuntimeParams["search_path"] = schema
	})
}

// brokenPool returns a pool without a server, for tests in a bubble of synctest: it calls connect
// instead of connecting, and fails.
func brokenPool(t testing.TB, connect func(ctx context.Context)) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig("postgres://nobody@192.0.2.1/nothing?sslmode=disable")
	require.NoError(t, err)
	config.ConnConfig.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		connect(ctx)
		return nil, errors.New("no server")
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// newRole makes a role that may use the schema and nothing in it. It returns the parameters of
// connections that act as the role.
func newRole(t testing.TB, pool *pgxpool.Pool, schema string) (role string, params map[string]string) {
	t.Helper()
	role = "test_" + strings.ToLower(rand.Text())
	runScript(t, pool, `CREATE ROLE `+role+`; GRANT USAGE ON SCHEMA `+schema+` TO `+role)
	t.Cleanup(func() {
		_, err := pool.Exec(context.Background(), `DROP OWNED BY `+role+`; DROP ROLE `+role, pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err)
	})
	return role, map[string]string{"role": role}
}

// holdConnections takes n connections of the pool, until the test's end if not released before.
func holdConnections(t testing.TB, pool *pgxpool.Pool, n int32) (release func()) {
	t.Helper()
	var held []*pgxpool.Conn
	release = func() {
		for _, conn := range held {
			conn.Release()
		}
		held = nil
	}
	t.Cleanup(release)
	for range n {
		conn, err := pool.Acquire(t.Context())
		require.NoError(t, err)
		held = append(held, conn)
	}
	return release
}

// Tracers and loggers.

// A tracer counts queries and batches, each of which is one round trip in pgx's query mode exec, and
// calls its functions around them.
type tracer struct {
	start func(ctx context.Context, sql string)
	end   func(sql string, err error)

	roundTrips atomic.Int64
	acquire    atomic.Pointer[func()] // called once, when a connection is asked for
}

type tracedSQL struct{}

func (tr *tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	tr.roundTrips.Add(1)
	if tr.start != nil {
		tr.start(ctx, data.SQL)
	}
	return context.WithValue(ctx, tracedSQL{}, data.SQL)
}

func (tr *tracer) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryEndData) {
	if tr.end != nil {
		tr.end(ctx.Value(tracedSQL{}).(string), data.Err)
	}
}

func (tr *tracer) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	tr.roundTrips.Add(1)
	return ctx
}

func (tr *tracer) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (tr *tracer) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

func (tr *tracer) TraceAcquireStart(ctx context.Context, _ *pgxpool.Pool, _ pgxpool.TraceAcquireStartData) context.Context {
	if asked := tr.acquire.Swap(nil); asked != nil {
		(*asked)()
	}
	return ctx
}

func (tr *tracer) TraceAcquireEnd(context.Context, *pgxpool.Pool, pgxpool.TraceAcquireEndData) {}

// A recorder is a slog.Handler that hands what is logged to a test.
type recorder chan slog.Record

func newRecorder() recorder { return make(recorder, 1000) }

func (r recorder) Enabled(context.Context, slog.Level) bool { return true }
func (r recorder) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r recorder) WithGroup(string) slog.Handler            { return r }

func (r recorder) Handle(_ context.Context, record slog.Record) error {
	select {
	case r <- record:
	default: // a full recorder holds nothing up
	}
	return nil
}

// forget drops what was logged until now, such as Init's warning that a manual clock is not the server's.
func (r recorder) forget() {
	for len(r) > 0 {
		<-r
	}
}

// attributes returns a record's attributes as text.
func attributes(record slog.Record) map[string]string {
	attributes := make(map[string]string)
	record.Attrs(func(attribute slog.Attr) bool {
		attributes[attribute.Key] = attribute.Value.String()
		return true
	})
	return attributes
}
