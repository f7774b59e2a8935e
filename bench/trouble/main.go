// Command trouble measures whether one caller's trouble stays with that caller: a row that another
// transaction holds, and large values. Read the figures as ratios; they are medians of rounds, in
// which all take turns.
//
//	go run ./trouble -rounds 3
//
// It starts a PostgreSQL of its own, unless PGSESSION_DATABASE_URL names one, whose database must be
// empty. It prints tables, and writes the figures as JSON to the folder -out.
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/bench/internal/measure"
	"github.com/pgsession/pgsession/bench/internal/proxy"
	"github.com/pgsession/pgsession/bench/internal/server"
)

func main() {
	proxy.Main()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "trouble:", err)
		os.Exit(1)
	}
}

const timeToLive = 24 * time.Hour

// A plan is what to measure.
type plan struct {
	rounds      int
	length      time.Duration // of a turn, after the warm-up
	connections int
	roundTrip   time.Duration // added by a proxy

	locked       bool // measure beside a locked row
	sessions     int
	others       int           // callers of other rows
	lockedCalls  int           // callers of the locked row
	callPatience time.Duration // after which a caller of the locked row gives up, and calls again

	sizes   []int // bytes a value
	callers int
	bytes   int // in the table, about
	pages   bool

	walBytes int64 // prepared for each second of saves
}

func defaultPlan() plan {
	return plan{
		locked: true, sessions: 20_000, others: 20, lockedCalls: 50, callPatience: time.Second,
		sizes: []int{1 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20}, bytes: 64 << 20, pages: true,
		walBytes: 128 << 20,
	}
}

func parsePlan() (p plan, out string, err error) {
	p = defaultPlan()
	sizes := flag.String("sizes", "1,16,64,256,1024", "KiB a value, a list; empty: only the locked row")
	flag.BoolVar(&p.locked, "locked", true, "measure beside a locked row")
	flag.BoolVar(&p.pages, "pages", true, "measure All and Reseal at each size")
	flag.IntVar(&p.rounds, "rounds", 7, "rounds, of which the median counts; rounds in which other programs use the processors are repeated")
	flag.DurationVar(&p.length, "length", time.Second, "how long a turn is, after the warm-up; longer for large values")
	flag.IntVar(&p.connections, "connections", 16, "connections in each pool")
	flag.IntVar(&p.callers, "callers", 256, "concurrent callers with large values")
	flag.DurationVar(&p.roundTrip, "latency", 0, "an added round trip, such as 2ms")
	flag.StringVar(&out, "out", "out", "the folder to write to")
	flag.Parse()
	if flag.NArg() > 0 {
		return p, "", fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	p.sizes = nil
	if *sizes == "" {
		return p, out, nil
	}
	for part := range strings.SplitSeq(*sizes, ",") {
		size, err := strconv.Atoi(strings.TrimSpace(part))
		if err != nil || size < 1 {
			return p, "", fmt.Errorf("-sizes: %q is no number of KiB", part)
		}
		p.sizes = append(p.sizes, size<<10)
	}
	return p, out, nil
}

func run(ctx context.Context) error {
	p, out, err := parsePlan()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	b, err := newBench(ctx, p)
	if err != nil {
		return err
	}
	defer b.close()
	report, err := b.measure(ctx)
	report.print(os.Stdout)
	if err != nil {
		return err
	}
	return report.write(filepath.Join(out, "trouble.json"))
}

// measure returns what it has measured so far even with an error.
func (b *bench) measure(ctx context.Context) (*report, error) {
	report := &report{Environment: b.environment(ctx)}
	defer func() { report.Environment.Disturbance = measure.Median(b.disturbances) }()
	if b.locked {
		results, err := b.measureLocked(ctx)
		if err != nil {
			return report, err
		}
		report.Locked = results
	}
	for _, size := range b.sizes {
		results, pages, err := b.measureSize(ctx, size)
		if err != nil {
			return report, fmt.Errorf("%d KiB: %w", size>>10, err)
		}
		report.Sizes = append(report.Sizes, results...)
		report.Pages = append(report.Pages, pages...)
	}
	return report, nil
}

// A bench is a server, and who measures it.
type bench struct {
	plan
	server  *server.Server
	admin   *pgx.Conn
	key     pgsession.Key
	crypto  *pgsession.Crypto
	random  []byte // of which all values are parts
	started time.Time

	disturbances []float64 // of the rounds that count
}

// maxValue is more than any value has.
const maxValue = 2 << 20

func newBench(ctx context.Context, p plan) (_ *bench, err error) {
	b := &bench{plan: p, started: time.Now(), key: pgsession.GenerateKey(), random: make([]byte, 2*maxValue)}
	rand.NewChaCha8([32]byte{}).Read(b.random)
	// The turns begin with a VACUUM each, so that none meets the autovacuum.
	if b.server, err = server.Start(ctx, map[string]string{"autovacuum": "off"}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if b.admin, err = pgx.Connect(ctx, b.server.URL); err != nil {
		return nil, err
	}
	b.crypto, err = pgsession.NewCrypto(b.key)
	return b, err
}

func (b *bench) close() {
	if b.admin != nil {
		b.admin.Close(context.Background())
	}
	b.server.Stop()
}

func (b *bench) progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%6s  %s\n", time.Since(b.started).Round(time.Second), fmt.Sprintf(format, args...))
}

// value returns random bytes, others at nearly each call.
func (b *bench) value(size int, random uint64) []byte {
	return b.random[int(random%uint64(len(b.random)-size)):][:size]
}

// A contender is a store with a pool of its own.
type contender struct {
	name  string
	store *pgsession.Store
	pool  *pgxpool.Pool
	sent  *server.Statements
	close func()
}

const (
	shared = "shared"
	alone  = "alone"
)

// connect opens a store that shares statements and one that does not, on one table.
func (b *bench) connect(ctx context.Context, table string, opts ...pgsession.Option) (both []contender, closeAll func(), err error) {
	closeAll = func() {
		for _, c := range both {
			c.close()
		}
	}
	for _, name := range []string{shared, alone} {
		opts := append([]pgsession.Option{pgsession.WithTable(table)}, opts...)
		if name == alone {
			opts = append(opts, pgsession.WithCoalescing(0))
		}
		c := contender{name: name, sent: new(server.Statements)}
		if c.pool, c.close, err = b.connectPool(ctx, name, c.sent); err != nil {
			closeAll()
			return nil, nil, err
		}
		c.store = pgsession.New(c.pool, b.crypto, opts...)
		both = append(both, c)
	}
	return both, closeAll, nil
}

// connectPool opens a pool, through a proxy if there is a round trip to add. Its connections have
// the name, and are open already.
func (b *bench) connectPool(ctx context.Context, name string, sent *server.Statements) (*pgxpool.Pool, func(), error) {
	config, err := b.server.Config(b.connections)
	if err != nil {
		return nil, nil, err
	}
	config.ConnConfig.Tracer = sent
	config.ConnConfig.RuntimeParams["application_name"] = name
	stopProxy := func() error { return nil }
	if b.roundTrip > 0 {
		network, address, err := b.server.Address()
		if err != nil {
			return nil, nil, err
		}
		far, err := proxy.Start(b.roundTrip, network, address)
		if err != nil {
			return nil, nil, err
		}
		stopProxy = far.Stop
		config.ConnConfig.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "tcp", far.Address)
		}
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		stopProxy()
		return nil, nil, err
	}
	closePool := func() {
		pool.Close()
		stopProxy()
	}
	for open := make([]*pgxpool.Conn, 0, b.connections); len(open) < b.connections; {
		conn, err := pool.Acquire(ctx)
		if err != nil {
			closePool()
			return nil, nil, err
		}
		defer conn.Release()
		open = append(open, conn)
	}
	return pool, closePool, nil
}

// fill makes the table, and returns the ids of that many sessions in it.
func (b *bench) fill(ctx context.Context, store *pgsession.Store, table string, sessions, size int) ([]pgsession.ID, error) {
	b.progress("fill %q with %d sessions of %d bytes", table, sessions, size)
	if err := store.Init(ctx); err != nil {
		return nil, err
	}
	ids := make([]pgsession.ID, sessions)
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(64)
	for i := range ids {
		group.Go(func() error {
			ids[i] = pgsession.NewID()
			return store.Put(groupCtx, ids[i], pgsession.Data{Values: b.value(size, rand.Uint64())}, timeToLive)
		})
	}
	return ids, group.Wait()
}

// settle makes every turn find the table in the same state.
func (b *bench) settle(ctx context.Context, table string) error {
	_, err := b.admin.Exec(ctx, `VACUUM (ANALYZE) `+table)
	return err
}

// prepareWAL makes room for what so long a time of saves writes, and for what was written before.
func (b *bench) prepareWAL(ctx context.Context, saves time.Duration) error {
	room := int64(saves.Seconds() * float64(b.walBytes))
	b.progress("prepare %d MB of log", room>>20)
	return b.server.PrepareWAL(ctx, b.admin, room)
}

// A sampler calls something again and again until it is stopped.
type sampler struct {
	done    chan struct{}
	running sync.WaitGroup
}

func sample(interval time.Duration, take func()) (stop func()) {
	s := &sampler{done: make(chan struct{})}
	s.running.Go(func() {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				take()
			case <-s.done:
				return
			}
		}
	})
	return func() {
		close(s.done)
		s.running.Wait()
	}
}
