// Command tail shows what the slowest loads wait for, with as many callers as share statements.
//
//	go run ./tail
//
// For each load it tells how long it waited for a place among the statements in flight, and how long its
// statement then ran until the answer. Of the statement it tells how long the server's process worked and how
// long it was ready to work and waited for a core, from /proc (Linux only). The rest is the client: its own work,
// and its waits for a core. It prints both for all loads and for the slowest hundredth, and writes a
// runtime/trace to the folder -out for `go tool trace`.
package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/trace"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/bench/internal/measure"
	"github.com/pgsession/pgsession/bench/internal/server"
)

func main() {
	var p plan
	flag.IntVar(&p.sessions, "sessions", 100_000, "sessions in the table")
	flag.IntVar(&p.callers, "callers", 256, "concurrent callers")
	flag.IntVar(&p.connections, "connections", 16, "connections in the pool")
	flag.DurationVar(&p.length, "length", 3*time.Second, "how long to load")
	flag.StringVar(&p.out, "out", "out", "the folder to write to")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	loads, err := p.run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "tail:", err)
		os.Exit(1)
	}
	report(os.Stdout, loads)
}

type plan struct {
	sessions, callers, connections int
	length                         time.Duration
	out                            string
}

// A load is what is known about one.
type load struct {
	began, ended time.Time
	statement    *statement
}

// A statement is what is known about one.
type statement struct {
	began, ended   time.Time
	process        uint32
	calls          int
	before         schedule
	working, ready time.Duration // of the server's process
}

func (p plan) run(ctx context.Context) ([]load, error) {
	s, err := server.Start(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer s.Stop()
	config, err := s.Config(p.connections)
	if err != nil {
		return nil, err
	}
	seen := &tracer{latest: make(map[string]*statement)}
	config.ConnConfig.Tracer = seen
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	crypto, err := pgsession.NewCrypto(pgsession.GenerateKey())
	if err != nil {
		return nil, err
	}
	store := pgsession.New(pool, crypto)
	if err := store.Init(ctx); err != nil {
		return nil, err
	}
	ids, err := p.fill(ctx, store)
	if err != nil {
		return nil, err
	}
	if _, err := pool.Exec(ctx, `VACUUM (ANALYZE) sessions`); err != nil {
		return nil, err
	}

	if err := os.MkdirAll(p.out, 0o755); err != nil {
		return nil, err
	}
	file, err := os.Create(filepath.Join(p.out, "tail.trace"))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var (
		mu    sync.Mutex
		loads []load
	)
	run := measure.Load{Callers: p.callers, WarmUp: p.length / 5, Length: p.length}
	traced := sync.OnceValue(func() error { return trace.Start(file) })
	_, err = run.Run(ctx, func(ctx context.Context, random *rand.Rand) error {
		if err := traced(); err != nil {
			return err
		}
		id := ids[random.IntN(len(ids))]
		began := time.Now()
		_, err := store.Load(ctx, id.ID)
		ended := time.Now()
		one := load{began, ended, seen.of(id.key)}
		if one.statement != nil && !one.statement.began.Before(began) {
			mu.Lock()
			defer mu.Unlock()
			loads = append(loads, one)
		}
		return err
	})
	trace.Stop()
	return loads, err
}

type session struct {
	pgsession.ID
	key string
}

func (p plan) fill(ctx context.Context, store *pgsession.Store) ([]session, error) {
	ids := make([]session, p.sessions)
	value := make([]byte, 1024)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(p.connections)
	for i := range ids {
		group.Go(func() error {
			created, err := store.Create(ctx, pgsession.Data{UserID: fmt.Sprint("user-", i), Values: value}, 24*time.Hour)
			if err != nil {
				return err
			}
			key, err := hex.DecodeString(created.Handle.String())
			ids[i] = session{created.ID, string(key)}
			return err
		})
	}
	return ids, group.Wait()
}

// A tracer watches the statements of a pool, and which of them loads a row.
type tracer struct {
	mu     sync.Mutex
	latest map[string]*statement // by a row's key
}

func (t *tracer) of(key string) *statement {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.latest[key]
}

type statementKey struct{}

// TraceQueryStart implements [pgx.QueryTracer].
func (t *tracer) TraceQueryStart(ctx context.Context, conn *pgx.Conn, query pgx.TraceQueryStartData) context.Context {
	keys := keysOf(query.Args)
	if len(keys) == 0 {
		return ctx
	}
	s := &statement{process: conn.PgConn().PID(), calls: len(keys)}
	s.before, s.began = scheduleOf(s.process), time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, key := range keys {
		t.latest[string(key)] = s
	}
	return context.WithValue(ctx, statementKey{}, s)
}

// TraceQueryEnd implements [pgx.QueryTracer].
func (t *tracer) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) {
	s, ok := ctx.Value(statementKey{}).(*statement)
	if !ok {
		return
	}
	after := scheduleOf(s.process)
	s.ended, s.working, s.ready = time.Now(), after.working-s.before.working, after.ready-s.before.ready
}

// keysOf returns the keys of a load's statement, which has no other parameter.
func keysOf(args []any) [][]byte {
	if len(args) != 1 {
		return nil
	}
	switch arg := args[0].(type) {
	case []byte:
		return [][]byte{arg}
	case pgtype.FlatArray[[]byte]:
		return arg
	}
	return nil
}

// A schedule is how long a process has worked so far, and has been ready to and waited for a core.
type schedule struct{ working, ready time.Duration }

// scheduleOf reads Linux's /proc/PID/schedstat. It is zero where there is none.
func scheduleOf(process uint32) (s schedule) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", process))
	if err == nil {
		fmt.Sscan(string(content), &s.working, &s.ready)
	}
	return s
}

func report(to io.Writer, loads []load) {
	// A load whose statement has ended since its answer; the last ones' may not have.
	loads = slices.DeleteFunc(loads, func(l load) bool { return l.statement.ended.IsZero() })
	if len(loads) == 0 {
		fmt.Fprintln(to, "no load was measured")
		return
	}
	slices.SortFunc(loads, func(a, b load) int { return cmp.Compare(a.ended.Sub(a.began), b.ended.Sub(b.began)) })
	table := tabwriter.NewWriter(to, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "loads\tslower than ms\tms\twaited for a place\tuntil the answer\tstatement ms\tcalls\tserver worked\tserver waited for a core\tthe rest: client\t")
	for _, of := range []struct {
		name string
		from int
	}{{"all", 0}, {"slower half", len(loads) / 2}, {"slowest tenth", len(loads) * 9 / 10}, {"slowest hundredth", len(loads) * 99 / 100}} {
		some := loads[of.from:]
		mean := func(figure func(load) float64) (sum float64) {
			for _, l := range some {
				sum += figure(l)
			}
			return sum / float64(len(some))
		}
		meanMS := func(figure func(load) time.Duration) float64 {
			return mean(func(l load) float64 { return figure(l).Seconds() * 1000 })
		}
		fmt.Fprintf(table, "%s\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.0f\t%.2f\t%.2f\t%.2f\t\n", of.name,
			some[0].ended.Sub(some[0].began).Seconds()*1000,
			meanMS(func(l load) time.Duration { return l.ended.Sub(l.began) }),
			meanMS(func(l load) time.Duration { return l.statement.began.Sub(l.began) }),
			meanMS(func(l load) time.Duration { return l.ended.Sub(l.statement.began) }),
			meanMS(func(l load) time.Duration { return l.statement.ended.Sub(l.statement.began) }),
			mean(func(l load) float64 { return float64(l.statement.calls) }),
			meanMS(func(l load) time.Duration { return l.statement.working }),
			meanMS(func(l load) time.Duration { return l.statement.ready }),
			meanMS(func(l load) time.Duration {
				return l.statement.ended.Sub(l.statement.began) - l.statement.working - l.statement.ready
			}))
	}
	table.Flush()
}
