// Command sidebyside compares this library with others that keep sessions in
// PostgreSQL, and with bare pgx: one server, one number of connections, one data set,
// in turns within one run. Read the figures as ratios; they are medians of rounds.
//
//	go run ./sidebyside -quick
//
// It starts a PostgreSQL of its own, unless PGSESSION_DATABASE_URL names one, whose
// database must be empty. It prints a table, and writes the figures as JSON and
// charts as SVG to the folder -out.
package main

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

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
		fmt.Fprintln(os.Stderr, "sidebyside:", err)
		os.Exit(1)
	}
}

// A plan is what to measure.
type plan struct {
	connections, sessions, rounds int
	warmUp, length                time.Duration // of a contender's turn
	cases                         []testCase
	only                          []string // contenders; all where empty
	inFlight                      []int
	checkpoints                   bool
	profiles                      string
	similar                       bool
	redraw                        string
}

// A testCase is one line-up of all contenders.
type testCase struct {
	size      int
	roundTrip time.Duration // added; 0 is the server's own socket
	operation string
	callers   int
}

const (
	opLoad = "load"
	opSave = "save"
)

func (c testCase) network() string {
	if c.roundTrip == 0 {
		return "socket"
	}
	return c.roundTrip.String() + " round trip"
}

func (c testCase) String() string {
	return fmt.Sprintf("%s, %d bytes, %s, %d callers", c.operation, c.size, c.network(), c.callers)
}

func product(sizes []int, roundTrips []time.Duration, operations []string, callers []int) (cases []testCase) {
	for _, size := range sizes {
		for _, roundTrip := range roundTrips {
			for _, operation := range operations {
				for _, n := range callers {
					cases = append(cases, testCase{size, roundTrip, operation, n})
				}
			}
		}
	}
	return cases
}

func parsePlan() (p plan, out string, err error) {
	var (
		quick       = flag.Bool("quick", false, "the essential cases only, for about a minute")
		full        = flag.Bool("full", false, "every case, for about an hour")
		size        = flag.String("size", "", "bytes a value: a list, such as 256,1024,4096")
		latency     = flag.String("latency", "", "added round trips: a list, such as 0,2ms")
		operation   = flag.String("operation", "", "a list of load, save")
		callers     = flag.String("callers", "", "a list, such as 1,16,64,256")
		only        = flag.String("only", "", "a list of contenders, by name")
		inFlight    = flag.String("inflight", "", "compares settings of WithCoalescing with the first contender instead: a list, such as 0,1,2,4,8")
		sessions    = flag.Int("sessions", 0, "sessions in each table")
		rounds      = flag.Int("rounds", 0, "rounds, of which the median counts")
		length      = flag.Duration("length", 0, "how long a contender's turn is, after the warm-up")
		connections = flag.Int("connections", 16, "connections in each pool")
		profiles    = flag.String("profiles", "", "a folder to write CPU and heap profiles to, for each case and contender")
	)
	flag.BoolVar(&p.similar, "similar", false, "saves change a value's first bytes only, and not all of it")
	flag.StringVar(&p.redraw, "redraw", "", "measures nothing, and prints and draws the JSON of an earlier run")
	flag.StringVar(&out, "out", "out", "the folder to write to")
	flag.Parse()
	if flag.NArg() > 0 {
		return p, "", fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}

	operations, everyCaller := []string{opLoad, opSave}, []int{1, 16, 64, 256}
	p.connections, p.profiles, p.checkpoints = *connections, *profiles, !*quick
	p.sessions, p.rounds, p.warmUp, p.length = 100_000, 5, 60*time.Millisecond, 300*time.Millisecond
	milliseconds := func(ms ...time.Duration) []time.Duration {
		for i := range ms {
			ms[i] *= time.Millisecond
		}
		return ms
	}
	p.cases = slices.Concat(
		product([]int{1024}, milliseconds(0, 2), operations, everyCaller),
		product([]int{1024}, milliseconds(1, 5), operations, []int{64}),
		product([]int{256, 4096}, milliseconds(0), operations, []int{1, 64}),
	)
	switch {
	case *quick && *full:
		return p, "", errors.New("either -quick or -full")
	case *quick:
		p.sessions, p.rounds, p.warmUp, p.length = 10_000, 3, 40*time.Millisecond, 150*time.Millisecond
		p.cases = product([]int{1024}, milliseconds(0, 2), operations, []int{1, 64, 256})
	case *full:
		p.rounds, p.length = 7, 500*time.Millisecond
		p.cases = product([]int{256, 1024, 4096}, milliseconds(0, 1, 2, 5), operations, everyCaller)
	}
	if *size+*latency+*operation+*callers != "" {
		sizes, roundTrips := []int{1024}, milliseconds(0)
		if err := errors.Join(
			parseList(*size, &sizes, strconv.Atoi), parseList(*latency, &roundTrips, parseLatency),
			parseList(*callers, &everyCaller, strconv.Atoi), parseList(*operation, &operations, parseOperation),
		); err != nil {
			return p, "", err
		}
		p.cases, p.checkpoints = product(sizes, roundTrips, operations, everyCaller), false
	}
	for _, c := range p.cases {
		if c.size < minSize || c.callers < 1 {
			return p, "", fmt.Errorf("a value has at least %d bytes, and there is at least one caller", minSize)
		}
	}
	if *sessions > 0 {
		p.sessions = *sessions
	}
	if *rounds > 0 {
		p.rounds = *rounds
	}
	if *length > 0 {
		p.length = *length
	}
	return p, out, errors.Join(
		parseList(*only, &p.only, func(name string) (string, error) { return name, nil }), parseList(*inFlight, &p.inFlight, strconv.Atoi))
}

func parseLatency(s string) (time.Duration, error) {
	if s == "0" {
		return 0, nil
	}
	return time.ParseDuration(s)
}

func parseOperation(s string) (string, error) {
	if s != opLoad && s != opSave {
		return "", fmt.Errorf("no operation %q", s)
	}
	return s, nil
}

// parseList leaves the list as it is where the text is empty.
func parseList[T any](text string, list *[]T, parse func(string) (T, error)) error {
	if text == "" {
		return nil
	}
	*list = nil
	// A contender's name may hold a comma: there, semicolons stand between.
	separator := ","
	if strings.Contains(text, ";") {
		separator = ";"
	}
	for part := range strings.SplitSeq(text, separator) {
		item, err := parse(strings.TrimSpace(part))
		if err != nil {
			return err
		}
		*list = append(*list, item)
	}
	return nil
}

func run(ctx context.Context) (err error) {
	p, out, err := parsePlan()
	if err != nil {
		return err
	}
	for _, folder := range []string{out, p.profiles} {
		if folder == "" {
			continue
		}
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
	}
	if p.redraw != "" {
		report, err := readReport(p.redraw)
		if err != nil {
			return err
		}
		report.print(os.Stdout)
		return report.draw(out)
	}
	b, err := newBench(ctx, p)
	if err != nil {
		return err
	}
	defer b.close()

	report := b.describe(ctx)
	for _, size := range sizesOf(p.cases) {
		if err := b.measureSize(ctx, size, report); err != nil {
			return err
		}
		// What was measured is kept, whatever comes after.
		if err := report.write(filepath.Join(out, "sidebyside.json")); err != nil {
			return err
		}
	}
	report.print(os.Stdout)
	return report.draw(out)
}

func sizesOf(cases []testCase) (sizes []int) {
	for _, c := range cases {
		if !slices.Contains(sizes, c.size) {
			sizes = append(sizes, c.size)
		}
	}
	return sizes
}

// A bench is a server, and who measures it.
type bench struct {
	plan
	server  *server.Server
	admin   *pgx.Conn // never in the way of what is measured
	crypto  *pgsession.Crypto
	sent    server.Statements
	version int
	done    int
	started time.Time
}

func newBench(ctx context.Context, p plan) (_ *bench, err error) {
	b := &bench{plan: p, started: time.Now()}
	if b.server, err = server.Start(ctx, nil); err != nil {
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
	if err := b.admin.QueryRow(ctx, `SELECT current_setting('server_version_num')::int`).Scan(&b.version); err != nil {
		return nil, err
	}
	b.crypto, err = pgsession.NewCrypto(pgsession.GenerateKey())
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

func (b *bench) measureSize(ctx context.Context, size int, report *report) error {
	data, err := newDataSet(b.sessions, size, b.similar)
	if err != nil {
		return err
	}
	all := contenders(data, b.crypto)
	if b.inFlight != nil {
		all = append(all[:1:1], withInFlight(data, b.crypto, b.inFlight)...)
	}
	if len(b.only) > 0 {
		all = slices.DeleteFunc(all, func(c contender) bool { return !slices.Contains(b.only, c.name) })
	}
	if len(all) == 0 {
		return fmt.Errorf("no contender is named so")
	}
	if err := b.prepareWAL(ctx, size, len(all)); err != nil {
		return err
	}
	if err := b.fill(ctx, data, all); err != nil {
		return err
	}
	var roundTrips []time.Duration
	for _, c := range b.cases {
		if c.size == size && !slices.Contains(roundTrips, c.roundTrip) {
			roundTrips = append(roundTrips, c.roundTrip)
		}
	}
	for _, roundTrip := range roundTrips {
		results, err := b.measureNetwork(ctx, data, all, roundTrip)
		if err != nil {
			return err
		}
		report.Results = append(report.Results, results...)
	}
	if b.checkpoints {
		results, err := b.measureCheckpoints(ctx, data, all)
		if err != nil {
			return err
		}
		report.Checkpoints = append(report.Checkpoints, results...)
	}
	for _, c := range all {
		if _, err := b.admin.Exec(ctx, `DROP TABLE IF EXISTS `+pgx.Identifier{c.table}.Sanitize()); err != nil {
			return err
		}
	}
	return nil
}

// measureCheckpoints counts the WAL of saves that follow a checkpoint: the first
// change of a page then writes all of it. Of the sessions, in random order, so many in
// a hundred are saved once.
func (b *bench) measureCheckpoints(ctx context.Context, data *dataSet, all []contender) (results []checkpointResult, err error) {
	pools, closePools, err := b.connect(ctx, 0)
	if err != nil {
		return nil, err
	}
	defer closePools()
	for _, percent := range []int{1, 10, 100} {
		saved := rand.Perm(data.sessions)[:data.sessions*percent/100]
		for _, c := range all {
			b.progress("WAL of %d saves after a checkpoint: %s", len(saved), c.name)
			if _, err := b.admin.Exec(ctx, `CHECKPOINT`); err != nil {
				return nil, err
			}
			before, err := server.WAL(ctx, b.admin)
			if err != nil {
				return nil, err
			}
			target, seed := c.open(pools), rand.Uint64()
			err = each(ctx, len(saved), func(ctx context.Context, i int) error {
				return target.save(ctx, saved[i], data.value(saved[i], seed+uint64(i)))
			})
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			after, err := server.WAL(ctx, b.admin)
			if err != nil {
				return nil, err
			}
			results = append(results, checkpointResult{data.size, float64(percent) / 100, c.name, float64(after-before) / float64(len(saved))})
		}
	}
	return results, nil
}

// prepareWAL makes room for what the saves will write, with some to spare.
func (b *bench) prepareWAL(ctx context.Context, size, contenders int) error {
	const bytesPerSecond = 64 << 20
	var saving time.Duration
	for _, c := range b.cases {
		if c.size == size && c.operation == opSave {
			saving += time.Duration(contenders*b.rounds) * (b.warmUp + b.length)
		}
	}
	room := int64(saving.Seconds()*bytesPerSecond) + int64(2*contenders*b.sessions*size)
	b.progress("prepare %d MB of log", room>>20)
	return b.server.PrepareWAL(ctx, b.admin, room)
}

func (b *bench) fill(ctx context.Context, data *dataSet, all []contender) error {
	pools, closePools, err := b.connect(ctx, 0)
	if err != nil {
		return err
	}
	defer closePools()
	for _, c := range all {
		if c.fill == nil {
			continue
		}
		b.progress("fill %q with %d sessions of %d bytes", c.name, b.sessions, data.size)
		if err := c.fill(ctx, pools); err != nil {
			return fmt.Errorf("fill %s: %w", c.name, err)
		}
		if _, err := b.admin.Exec(ctx, `VACUUM (ANALYZE) `+pgx.Identifier{c.table}.Sanitize()); err != nil {
			return err
		}
	}
	return nil
}

// connect opens the pools, through a proxy where there is a round trip to add.
func (b *bench) connect(ctx context.Context, roundTrip time.Duration) (c connections, closeAll func(), err error) {
	var closers []func() error
	closeAll = func() {
		for _, closer := range slices.Backward(closers) {
			closer()
		}
	}
	defer func() {
		if err != nil {
			closeAll()
		}
	}()
	config, err := b.server.Config(b.connections)
	if err != nil {
		return c, nil, err
	}
	config.ConnConfig.Tracer = &b.sent
	if roundTrip > 0 {
		network, address, err := b.server.Address()
		if err != nil {
			return c, nil, err
		}
		far, err := proxy.Start(roundTrip, network, address)
		if err != nil {
			return c, nil, err
		}
		closers = append(closers, far.Stop)
		config.ConnConfig.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "tcp", far.Address)
		}
	}
	if c.pgx, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return c, nil, err
	}
	closers = append(closers, func() error { c.pgx.Close(); return nil })
	c.sql = stdlib.OpenDB(*config.ConnConfig)
	c.sql.SetMaxOpenConns(b.connections)
	c.sql.SetMaxIdleConns(b.connections)
	closers = append(closers, c.sql.Close)
	return c, closeAll, c.sql.PingContext(ctx)
}

func (b *bench) measureNetwork(ctx context.Context, data *dataSet, all []contender, roundTrip time.Duration) ([]result, error) {
	pools, closePools, err := b.connect(ctx, roundTrip)
	if err != nil {
		return nil, err
	}
	defer closePools()
	targets := make([]target, len(all))
	for i, c := range all {
		targets[i] = c.open(pools)
	}
	var results []result
	for _, testCase := range b.cases {
		if testCase.size != data.size || testCase.roundTrip != roundTrip {
			continue
		}
		b.done++
		b.progress("%d of %d: %s", b.done, len(b.cases), testCase)
		measured, err := b.measureCase(ctx, testCase, data, all, targets, pools)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", testCase, err)
		}
		results = append(results, measured...)
	}
	return results, nil
}

// measureCase gives each contender its turn, and that so many times, in another order
// each time.
func (b *bench) measureCase(ctx context.Context, testCase testCase, data *dataSet, all []contender, targets []target, pools connections) ([]result, error) {
	turns := make([][]turn, len(all))
	heapOnly := make([]float64, len(all))
	for i, c := range all {
		if err := verify(ctx, data, targets[i]); err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	updates := func() (figures [][2]int64, err error) {
		if err := b.flushStatistics(ctx, pools); err != nil {
			return nil, err
		}
		for _, c := range all {
			updated, hot, err := server.Updates(ctx, b.admin, c.table)
			if err != nil {
				return nil, err
			}
			figures = append(figures, [2]int64{updated, hot})
		}
		return figures, nil
	}
	before, err := updates()
	if err != nil {
		return nil, err
	}
	for round := range b.rounds {
		for i := range all {
			i := (i + round) % len(all)
			profile, err := b.startProfile(testCase, all[i].name, round)
			if err != nil {
				return nil, err
			}
			one, err := b.takeTurn(ctx, testCase, data, targets[i], b.seed(round), b.length)
			for length := 2 * b.length; errors.Is(err, measure.ErrTooShort) && length <= 16*b.length; length *= 2 {
				b.progress("%s: nothing within %s, so again for longer", all[i].name, length/2)
				one, err = b.takeTurn(ctx, testCase, data, targets[i], b.seed(round), length)
			}
			profile()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", all[i].name, err)
			}
			turns[i] = append(turns[i], one)
		}
	}
	after, err := updates()
	if err != nil {
		return nil, err
	}
	for i := range all {
		if updated := after[i][0] - before[i][0]; updated > 0 {
			heapOnly[i] = float64(after[i][1]-before[i][1]) / float64(updated)
		}
	}
	reference := turns[max(slices.IndexFunc(all, func(c contender) bool { return c.name == scsPgx }), 0)]
	results := make([]result, len(all))
	for i, c := range all {
		results[i] = summarize(testCase, c.name, turns[i], reference, heapOnly[i])
	}
	return results, nil
}

// seed is the same for all contenders in one round, and never comes again: who saves
// the same value once more writes less WAL.
func (b *bench) seed(round int) uint64 { return uint64(b.done)<<32 + uint64(round) }

// verify saves a value and loads it again.
func verify(ctx context.Context, data *dataSet, t target) error {
	session := rand.IntN(data.sessions)
	stamp := rand.Uint64()
	if err := t.save(ctx, session, data.value(session, stamp)); err != nil {
		return err
	}
	value, err := t.load(ctx, session)
	if err != nil {
		return err
	}
	if string(value) != string(data.value(session, stamp)) {
		return errors.New("loads something else than was saved")
	}
	return nil
}

// flushStatistics makes all connections report what they did.
func (b *bench) flushStatistics(ctx context.Context, c connections) error {
	if b.version < 150000 {
		return nil
	}
	for _, conn := range c.pgx.AcquireAllIdle(ctx) {
		_, err := conn.Exec(ctx, server.FlushStatistics)
		conn.Release()
		if err != nil {
			return err
		}
	}
	var open []*sql.Conn
	defer func() {
		for _, conn := range open {
			conn.Close()
		}
	}()
	for range c.sql.Stats().Idle {
		conn, err := c.sql.Conn(ctx)
		if err != nil {
			return err
		}
		open = append(open, conn)
		if _, err := conn.ExecContext(ctx, server.FlushStatistics); err != nil {
			return err
		}
	}
	return nil
}

// A turn is what a contender did in one round.
type turn struct {
	measure.Result
	statements, wal           float64 // a call
	serverSeconds, ownSeconds float64 // of CPU a call
}

func (b *bench) takeTurn(ctx context.Context, testCase testCase, data *dataSet, t target, seed uint64, length time.Duration) (one turn, err error) {
	call := func(ctx context.Context, random *rand.Rand) error {
		session := random.IntN(data.sessions)
		value, err := t.load(ctx, session)
		if err != nil {
			return err
		}
		return data.check(session, value)
	}
	if testCase.operation == opSave {
		call = func(ctx context.Context, random *rand.Rand) error {
			session := random.IntN(data.sessions)
			return t.save(ctx, session, data.value(session, random.Uint64()))
		}
	}
	sent := b.sent.Count()
	wal, err := server.WAL(ctx, b.admin)
	if err != nil {
		return one, err
	}
	cpu, err := b.server.CPU()
	if err != nil {
		return one, err
	}
	own := measure.CPU()
	load := measure.Load{Callers: testCase.callers, WarmUp: b.warmUp, Length: length, Seed: seed}
	if one.Result, err = load.Run(ctx, call); err != nil {
		return one, err
	}
	own = measure.CPU() - own
	cpuAfter, err := b.server.CPU()
	if err != nil {
		return one, err
	}
	walAfter, err := server.WAL(ctx, b.admin)
	if err != nil {
		return one, err
	}
	calls := float64(one.Calls)
	one.statements = float64(b.sent.Count()-sent) / calls
	one.wal = float64(walAfter-wal) / calls
	one.serverSeconds, one.ownSeconds = cpuAfter.Since(cpu).Seconds()/calls, own.Seconds()/calls
	return one, nil
}

// startProfile profiles a contender's turns in one round of several, so that the
// figures of the others stay as they are; what it returns ends it.
func (b *bench) startProfile(testCase testCase, contender string, round int) (stop func(), err error) {
	if b.profiles == "" || round != b.rounds/2 {
		return func() {}, nil
	}
	name := fmt.Sprintf("%s-%s-%d-%s-%d", strings.NewReplacer(" ", "_", ",", "").Replace(contender),
		testCase.operation, testCase.size, testCase.roundTrip, testCase.callers)
	file, err := os.Create(filepath.Join(b.profiles, name+".cpu.pprof"))
	if err != nil {
		return nil, err
	}
	heapBefore, err := os.Create(filepath.Join(b.profiles, name+".heap0.pprof"))
	if err != nil {
		return nil, err
	}
	writeHeap(heapBefore)
	if err := pprof.StartCPUProfile(file); err != nil {
		return nil, err
	}
	return func() {
		pprof.StopCPUProfile()
		file.Close()
		if after, err := os.Create(filepath.Join(b.profiles, name+".heap.pprof")); err == nil {
			writeHeap(after)
		}
	}, nil
}

func writeHeap(to io.WriteCloser) {
	pprof.Lookup("allocs").WriteTo(to, 0)
	to.Close()
}
