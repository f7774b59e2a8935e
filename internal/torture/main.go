// Program torture lets several nodes collide on a few sessions, while the server, the network and
// the pools break, and checks what they saw: each history against a sequential model of a store,
// for linearizability. It ends with status 1 when a history has no explanation, and prints the
// smallest part of it that has none.
//
//	go run . -duration 10m -seed 42
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/jackc/pgx/v5"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
)

const table = "torture"

func main() {
	var o options
	flag.DurationVar(&o.duration, "duration", time.Minute, "how long to run")
	flag.Uint64Var(&o.seed, "seed", 0, "what random choices follow from; 0 for another at each run")
	flag.StringVar(&o.coalescing, "coalescing", "mixed", "on, off or mixed")
	flag.StringVar(&o.faults, "faults", "on", "on, off, or a part of the names of those that are wanted, which then come less often")
	flag.StringVar(&o.profile, "profile", "mixed", "the mix of operations; mixed is another one in each round")
	flag.BoolVar(&o.citus, "citus", false, "on a Citus of this machine's binaries, with a coordinator and two workers")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	summary, err := run(ctx, o, func(text string) { fmt.Println(text) })
	fmt.Println(summary)
	if err != nil {
		fmt.Println("FAILED:", err)
		os.Exit(1)
	}
}

type options struct {
	duration            time.Duration
	seed                uint64
	coalescing, profile string
	faults              string
	citus               bool
}

// A torture is one run.
type torture struct {
	seed       uint64
	faults     bool
	fast, slow []fault
	coalescing string
	profiles   []profile // of which each round takes one
	print      func(string)

	cluster *pgtest.Cluster
	citus   *pgtest.Citus // nil on one server; otherwise cluster is its coordinator

	wantedFaults string

	nodes    []*node
	clock    *timeline
	rotation rotation
	checking *checking

	ballast ballast
	books   *books // nil without faults

	operations, errors, conflicts, written, rounds atomic.Int64
	durations                                      durations
	stalls                                         stalls
	brokenNetwork                                  switched
	readOnly                                       switched // some connections of the nodes
	injected                                       tally
	violations                                     atomic.Int64
	fail                                           context.CancelFunc
	ended                                          func() bool
}

// A tally counts by kind.
type tally struct {
	mu     sync.Mutex
	counts map[string]int
}

func (t *tally) add(kind string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counts == nil {
		t.counts = make(map[string]int)
	}
	t.counts[kind]++
}

func (t *tally) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var kinds []string
	for kind, count := range t.counts {
		kinds = append(kinds, fmt.Sprintf("%s %d", kind, count))
	}
	slices.Sort(kinds)
	return fmt.Sprint(kinds)
}

func run(ctx context.Context, o options, print func(string)) (summary string, err error) {
	for o.seed == 0 {
		o.seed = rand.Uint64() >> 1
	}
	t := &torture{seed: o.seed, faults: o.faults != "off", coalescing: o.coalescing, print: print, wantedFaults: o.faults}
	print(fmt.Sprintf("torture: seed %d, profile %s, coalescing %s, faults %s", o.seed, o.profile, o.coalescing, o.faults))
	if t.profiles = profilesOf(o.profile); len(t.profiles) == 0 {
		return "", fmt.Errorf("no profile %q", o.profile)
	}
	t.fast, t.slow = faultsOf(faults, o.faults), faultsOf(slowFaults, o.faults)
	if t.faults && len(t.fast)+len(t.slow) == 0 && !o.citus {
		return "", fmt.Errorf("no fault %q", o.faults)
	}
	if !slices.Contains([]string{"on", "off", "mixed"}, o.coalescing) {
		return "", fmt.Errorf("coalescing %q", o.coalescing)
	}
	if err := t.start(ctx, o.citus); err != nil {
		return "", err
	}
	defer t.stop()

	ctx, t.fail = context.WithCancel(ctx)
	defer t.fail()
	t.ended = func() bool { return ctx.Err() != nil }
	go t.stalls.watch(ctx)
	if t.faults {
		if err := t.openBooks(ctx); err != nil {
			return "", err
		}
	}
	started := time.Now()
	progress := time.NewTicker(10 * time.Second)
	defer progress.Stop()
	random := rand.New(rand.NewPCG(o.seed, 0))
	for number := 1; time.Since(started) < o.duration && ctx.Err() == nil; number++ {
		if err = t.runRound(ctx, number, random); err != nil {
			break
		}
		t.rounds.Add(1)
		if t.books != nil && t.books.wrong() > 0 {
			break
		}
		if t.profiles[0].unchecked && !t.faults {
			// The server has broken a deadlock: no need to go on.
			if n, err := t.deadlocks(); err == nil && n > 0 {
				break
			}
		}
		select {
		case <-progress.C:
			print(fmt.Sprintf("%4.0fs %s", time.Since(started).Seconds(), t.progress()))
		default:
		}
	}
	if ctx.Err() != nil {
		err = nil // a violation has ended the run, or the user
	}
	t.checking.finish()
	summary = t.progress()
	if t.books != nil {
		text, wrong, booksErr := t.books.close()
		summary += text
		t.violations.Add(int64(wrong))
		err = errors.Join(err, booksErr)
	}
	deadlocks, deadlocksErr := t.deadlocks()
	err = errors.Join(err, deadlocksErr)
	summary += fmt.Sprintf("; deadlocks seen by the server: %d; keys rotated: %d; seed %d", deadlocks, t.rotation.done, o.seed)
	if n := t.violations.Load(); n > 0 {
		err = errors.Join(err, fmt.Errorf("%d violations", n))
	}
	if t.profiles[0].unchecked && !t.faults && deadlocks > 0 {
		err = errors.Join(err, fmt.Errorf("%d deadlocks, among statements that should not wait for each other", deadlocks))
	}
	return summary, err
}

func (t *torture) start(ctx context.Context, citus bool) (err error) {
	if citus {
		err = t.startCitus(ctx)
	} else {
		t.cluster, err = pgtest.StartCluster(ctx, nil, pgtest.ClusterOptions{TCP: true, Settings: map[string]string{"deadlock_timeout": "50ms"}})
	}
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			t.stop()
		}
	}()
	t.clock = newTimeline(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC))
	t.rotation.current = pgsession.GenerateKey()
	for i := range 3 {
		var settings map[string]string
		if t.faults && i == 2 {
			settings = map[string]string{"statement_timeout": "60ms", "lock_timeout": "25ms"}
		}
		n, err := newNode(ctx, t.cluster.URL(), t.rotation.current, t.faults, settings)
		if err != nil {
			return err
		}
		t.nodes = append(t.nodes, n)
	}
	t.checking = newChecking(t)
	if err := pgsession.New(t.nodes[0].pool, t.nodes[0].crypto, pgsession.WithTable(table)).Init(ctx); err != nil {
		return err
	}
	return t.distribute(ctx, table)
}

func (t *torture) stop() {
	for _, n := range t.nodes {
		n.pool.Close()
		if network := n.network.Load(); network != nil {
			network.Stop()
		}
	}
	t.cluster.Stop()
	if t.citus != nil {
		t.citus.Stop()
	}
}

// withCoalescing returns a store's option, or none for the default, with which the number of
// statements in flight varies.
func (t *torture) withCoalescing(random *rand.Rand) []pgsession.Option {
	switch t.coalescing {
	case "on":
		return []pgsession.Option{pgsession.WithCoalescing(1)}
	case "off":
		return []pgsession.Option{pgsession.WithCoalescing(0)}
	}
	if n := random.IntN(4); n < 3 {
		return []pgsession.Option{pgsession.WithCoalescing(n)}
	}
	return nil
}

// report counts a violation, prints it and ends the run.
func (t *torture) report(text string) {
	t.violations.Add(1)
	t.print("VIOLATION (seed " + fmt.Sprint(t.seed) + "): " + text)
	t.fail()
}

// complain reports what a call returned, unless the run has ended: calls then fail as they should.
func (t *torture) complain(text string) {
	if t.ended == nil || !t.ended() {
		t.report(text)
	}
}

func (t *torture) progress() string {
	return fmt.Sprintf("rounds %d, operations %d, errors %d, conflicts %d, %s, faults %s, histories %d, undecided %s, violations %d",
		t.rounds.Load(), t.operations.Load(), t.errors.Load(), t.conflicts.Load(), &t.durations, &t.injected, t.checking.checked.Load(), &t.checking.undecided, t.violations.Load())
}

// deadlocks returns how many the server has broken.
func (t *torture) deadlocks() (n int64, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, n := range t.nodes {
		n.pool.Reset()
	}
	err = t.administer(ctx, func(conn *pgx.Conn) error {
		for { // a backend reports what it counted when it ends
			var left int
			if err := conn.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE application_name = $1`, application).Scan(&left); err != nil {
				return err
			}
			if left == 0 {
				break
			}
			pause(ctx, 5*time.Millisecond)
		}
		return conn.QueryRow(ctx, `SELECT sum(deadlocks) FROM pg_stat_database`).Scan(&n)
	})
	return n, err
}

// checking checks histories while the next round runs.
type checking struct {
	torture   *torture
	queue     chan checkable
	done      chan struct{}
	checked   atomic.Int64
	undecided tally // by profile
}

type checkable struct {
	round *round
	group *group
}

func newChecking(t *torture) *checking {
	c := &checking{torture: t, queue: make(chan checkable, 64), done: make(chan struct{})}
	go func() {
		defer close(c.done)
		for next := range c.queue {
			c.check(next)
		}
	}()
	return c
}

func (c *checking) add(r *round, g *group) { c.queue <- checkable{r, g} }

func (c *checking) finish() {
	close(c.queue)
	<-c.done
}

// maxSearch bounds the search through one history. Nearly all take some milliseconds.
const maxSearch = 3 * time.Second

func (c *checking) check(next checkable) {
	if c.torture.violations.Load() > 0 {
		return // one will do
	}
	defer c.checked.Add(1)
	switch next.group.history.check(maxSearch) {
	case porcupine.Unknown:
		c.undecided.add(next.round.profile.name)
	case porcupine.Illegal:
		smallest := shrink(next.group.history.operations, time.Now().Add(30*time.Second))
		c.torture.report(fmt.Sprintf("round %d (%s), group %d: no order of these calls explains what they returned (%d of %d):\n%s",
			next.round.number, next.round.profile.name, next.group.name, len(smallest), len(next.group.history.operations), describe(smallest)))
	}
}
