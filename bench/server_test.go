package bench

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession/internal/pgtest"
)

var roundTrip = flag.Duration("rtt", 0, "a network between the stores and the server: how long a round trip takes, such as 2ms")

const connections = 16 // of each pool

// settings are those of a small production server. There is no checkpoint while a benchmark runs,
// since the first change of a page after one writes the whole page to the log; and no autovacuum,
// which would disturb one store and not the other. The tables are vacuumed before each benchmark.
var settings = map[string]string{
	"fsync":              "on",
	"full_page_writes":   "on",
	"shared_buffers":     "1GB",
	"max_connections":    "300",
	"checkpoint_timeout": "1h",
	"max_wal_size":       "16GB",
	"min_wal_size":       "8GB",
	"autovacuum":         "off",
}

// reusedLog is how many bytes of log segments are there to write over, as on a server that has run
// for a while. A new segment must first be filled with zeros, and all that is committed meanwhile
// waits.
const reusedLog = 2 << 30

var (
	server *pgtest.Cluster
	admin  *pgxpool.Pool // never in the way of what is measured
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctx := context.Background()
	slog.SetDefault(slog.New(slog.DiscardHandler)) // of requests that fail, which is what is measured
	logf := func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
	var err error
	if server, err = pgtest.StartCluster(ctx, logf, pgtest.ClusterOptions{Settings: settings}); err != nil {
		logf("%v", err)
		return 1
	}
	defer server.Stop()
	if admin, err = pgxpool.New(ctx, server.URL()); err != nil {
		logf("%v", err)
		return 1
	}
	defer admin.Close()
	return m.Run()
}

// describe prints what benchstat tells runs apart by, once.
func describe(b *testing.B) {
	if isDescribed.Swap(true) {
		return
	}
	var version string
	require.NoError(b, admin.QueryRow(b.Context(), `SHOW server_version_num`).Scan(&version))
	fmt.Printf("postgresql: %s\nrtt: %s\nrows: %d\n", version, *roundTrip, *otherRows)
}

var isDescribed atomic.Bool

// reuseLog writes the log that later benchmarks write over.
func reuseLog(b *testing.B) {
	const message = 1 << 20
	_, err := admin.Exec(b.Context(), `SELECT pg_logical_emit_message(false, '', repeat(' ', $1)) FROM generate_series(1, $2)`, message, reusedLog/message)
	require.NoError(b, err)
	_, err = admin.Exec(b.Context(), `CHECKPOINT`)
	require.NoError(b, err)
}

func vacuum(tb testing.TB, table string) {
	_, err := admin.Exec(tb.Context(), `VACUUM (ANALYZE) `+table)
	require.NoError(tb, err)
}

// A pool counts the statements that it sends.
type pool struct {
	*pgxpool.Pool
	sent *counter
}

// newPool returns a pool with all its connections, which have the parameters. onNotice may be nil.
func newPool(tb testing.TB, parameters map[string]string, onNotice pgconn.NoticeHandler) pool {
	config, err := pgxpool.ParseConfig(server.URL())
	require.NoError(tb, err)
	p := pool{sent: new(counter)}
	config.MaxConns, config.MinConns, config.MaxConnLifetime = connections, connections, 24*time.Hour
	config.ConnConfig.Tracer, config.ConnConfig.OnNotice = p.sent, onNotice
	maps.Copy(config.ConnConfig.RuntimeParams, parameters)
	if dial := config.ConnConfig.DialFunc; *roundTrip > 0 {
		config.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			return &farConn{Conn: conn}, err
		}
	}
	p.Pool, err = pgxpool.NewWithConfig(context.Background(), config)
	require.NoError(tb, err)
	var all []*pgxpool.Conn
	for range connections {
		conn, err := p.Acquire(tb.Context())
		require.NoError(tb, err)
		all = append(all, conn)
	}
	for _, conn := range all {
		conn.Release()
	}
	return p
}

// A farConn is a connection over a network: the answer to what was written comes a round trip
// later.
type farConn struct {
	net.Conn
	asked atomic.Bool
}

func (c *farConn) Write(p []byte) (int, error) {
	c.asked.Store(true)
	return c.Conn.Write(p)
}

func (c *farConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.asked.Swap(false) {
		time.Sleep(*roundTrip)
	}
	return n, err
}

// A counter is a pgx tracer that counts statements.
type counter struct{ atomic.Int64 }

func (c *counter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	c.Add(1)
	return ctx
}

func (*counter) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// A usage is what was used up to a moment.
type usage struct {
	client, server time.Duration // of the processors
	log            int64         // bytes
	statements     int64
}

func used(b *testing.B, p pool) (u usage) {
	require.NoError(b, admin.QueryRow(b.Context(), `SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint`).Scan(&u.log))
	var self syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &self))
	u.client, u.server, u.statements = time.Duration(self.Utime.Nano()+self.Stime.Nano()), serverCPU(b), p.sent.Load()
	return u
}

// report tells testing what each of the benchmark's calls used since before.
func (before usage) report(b *testing.B, p pool) {
	after := used(b, p)
	perCall := func(n float64, unit string) { b.ReportMetric(n/float64(b.N), unit) }
	perCall(float64(after.client-before.client), "client-ns/op")
	if after.server > 0 {
		perCall(float64(after.server-before.server), "server-ns/op")
	}
	perCall(float64(after.log-before.log), "WAL-B/op")
	perCall(float64(after.statements-before.statements), "stmts/op")
}

// serverCPU returns how long the server's processes have run, and 0 if there is no Linux to tell.
func serverCPU(b *testing.B) (sum time.Duration) {
	pidFile, err := os.ReadFile(filepath.Join(server.DataDir(), "postmaster.pid"))
	require.NoError(b, err)
	postmaster, _, _ := strings.Cut(string(pidFile), "\n")
	children, err := os.ReadFile(fmt.Sprintf("/proc/%[1]s/task/%[1]s/children", postmaster))
	if err != nil {
		return 0
	}
	number := func(s string) time.Duration {
		n, err := strconv.ParseInt(s, 10, 64)
		require.NoError(b, err)
		return time.Duration(n)
	}
	for _, pid := range strings.Fields(string(children)) {
		schedule, err := os.ReadFile("/proc/" + pid + "/schedstat")
		if err != nil {
			continue // it has just ended
		}
		sum += number(strings.Fields(string(schedule))[0]) // nanoseconds
	}
	status, err := os.ReadFile("/proc/" + postmaster + "/stat")
	require.NoError(b, err)
	ended := strings.Fields(string(status[bytes.LastIndexByte(status, ')'):])) // after the name, which may have blanks
	const tick = time.Second / 100
	return sum + (number(ended[14])+number(ended[15]))*tick // cutime and cstime of proc(5)
}
