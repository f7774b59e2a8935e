// Command growth shows how the store fares as its table grows, and whether the table
// stays as small as it should while sessions come and go.
//
//	go run ./growth -sizes 10000,100000 -hours 6
//
// At each size it measures Load, Save, FindByUser and the clean-up, and the table with
// its indexes; at the last one it explains every statement, and fails if one scans the
// whole table. Then it lets sessions live and end for some simulated hours, with
// autovacuum alone to keep order.
//
// It starts a PostgreSQL of its own, unless PGSESSION_DATABASE_URL names one, whose
// database must be empty. It prints tables, and writes the figures as JSON and a chart
// as SVG to the folder -out.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/bench/internal/server"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "growth:", err)
		os.Exit(1)
	}
}

type plan struct {
	sizes        []int
	sample       int // sessions that the store itself wrote
	expired      int // rows that each clean-up removes
	value        int // bytes
	callers      int
	length       time.Duration
	connections  int
	hours        int
	hour         time.Duration // of wall time, at least
	population   int
	storage      string
	naptimeInSec int
	redraw       string
	hashRounds   int
	explain      bool
}

func parsePlan() (p plan, out string, err error) {
	sizes := flag.String("sizes", "10000,100000,1000000,10000000", "how many sessions: a list")
	flag.IntVar(&p.sample, "sample", 2000, "how many of them are sealed by the store, and loaded")
	flag.IntVar(&p.expired, "expired", 5_000, "expired rows to clean up at each size")
	flag.IntVar(&p.value, "value", 512, "bytes a value")
	flag.IntVar(&p.callers, "callers", 16, "concurrent callers")
	flag.DurationVar(&p.length, "length", 3*time.Second, "how long to measure each operation at each size")
	flag.IntVar(&p.connections, "connections", 16, "connections in the pool")
	flag.IntVar(&p.hours, "hours", 24, "simulated hours of churn; 0 for none")
	flag.DurationVar(&p.hour, "hour", 15*time.Second, "how long a simulated hour takes, at least")
	flag.IntVar(&p.population, "population", 20_000, "live sessions during the churn")
	flag.StringVar(&p.storage, "storage", "", "storage parameters for the churn's table, such as 'fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02'")
	flag.IntVar(&p.hashRounds, "hash", 0, "compares the table without and with a hash index on key, so many times at each size")
	flag.BoolVar(&p.explain, "explain", true, "explains every statement at the largest size, for some ten minutes at 10 million")
	flag.IntVar(&p.naptimeInSec, "naptime", 1, "autovacuum_naptime in seconds: a simulated hour is short")
	flag.StringVar(&p.redraw, "redraw", "", "measures nothing, and prints and draws the JSON of earlier runs: a list, of which the last that has a part counts")
	flag.StringVar(&out, "out", "out", "the folder to write to")
	flag.Parse()
	if flag.NArg() > 0 {
		return p, "", fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	if *sizes == "" {
		return p, out, nil
	}
	for part := range strings.SplitSeq(*sizes, ",") {
		size, err := strconv.Atoi(strings.TrimSpace(part))
		if err != nil {
			return p, "", err
		}
		if size < p.sample || len(p.sizes) > 0 && size <= p.sizes[len(p.sizes)-1] {
			return p, "", errors.New("each size is larger than the one before, and not smaller than the sample")
		}
		p.sizes = append(p.sizes, size)
	}
	return p, out, nil
}

type report struct {
	Environment environment   `json:"environment"`
	Sizes       []sizeResult  `json:"sizes,omitempty"`
	HashRounds  []sizeResult  `json:"hash_rounds,omitempty"` // without and with a hash index, in turns
	Plans       []explanation `json:"plans,omitempty"`
	Churn       *churnResult  `json:"churn,omitempty"`
}

type environment struct {
	Date        time.Time         `json:"date"`
	Go          string            `json:"go"`
	Processors  int               `json:"processors"`
	PostgreSQL  string            `json:"postgresql"`
	Settings    map[string]string `json:"settings"`
	Connections int               `json:"connections"`
	Callers     int               `json:"callers"`
	ValueBytes  int               `json:"value_bytes"`
}

func (r *report) write(folder string) error {
	content, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, "growth.json"), append(content, '\n'), 0o644)
}

// A bench is a server, and who measures it.
type bench struct {
	plan
	server  *server.Server
	admin   *pgx.Conn
	admins  *pgxpool.Pool // to fill tables
	pool    *pgxpool.Pool
	crypto  *pgsession.Crypto
	seen    statements
	started time.Time
}

func run(ctx context.Context) error {
	p, out, err := parsePlan()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	if p.redraw != "" {
		return redraw(p.redraw, out)
	}
	b, err := newBench(ctx, p)
	if err != nil {
		return err
	}
	defer b.close()
	report := &report{}
	if report.Environment, err = b.environment(ctx); err != nil {
		return err
	}
	if len(p.sizes) > 0 {
		if err := b.grow(ctx, report); err != nil {
			return err
		}
		printSizes(os.Stdout, report.Sizes)
		if len(report.HashRounds) > 0 {
			printSizes(os.Stdout, report.HashRounds)
		}
		if err := report.write(out); err != nil {
			return err
		}
		if err := checkPlans(os.Stdout, report.Plans); err != nil {
			return err
		}
	}
	if p.hours > 0 {
		if report.Churn, err = b.churn(ctx); err != nil {
			return err
		}
		report.Churn.print(os.Stdout)
	}
	return errors.Join(report.write(out), report.draw(out))
}

func redraw(paths, out string) error {
	report := &report{}
	for path := range strings.SplitSeq(paths, ",") {
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(content, report); err != nil {
			return err
		}
	}
	if len(report.Sizes) > 0 {
		printSizes(os.Stdout, report.Sizes)
	}
	if report.Churn != nil {
		report.Churn.print(os.Stdout)
	}
	return report.draw(out)
}

func newBench(ctx context.Context, p plan) (b *bench, err error) {
	b = &bench{plan: p, started: time.Now()}
	b.server, err = server.Start(ctx, map[string]string{
		"autovacuum_naptime": strconv.Itoa(p.naptimeInSec),
		"max_wal_size":       "4GB", // the largest table is filled through it
	})
	if err != nil {
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
	config, err := b.server.Config(p.connections)
	if err != nil {
		return nil, err
	}
	admins := config.Copy()
	admins.MaxConns, admins.MinConns = int32(runtime.NumCPU()), 0
	admins.ConnConfig.RuntimeParams["synchronous_commit"] = "off" // nobody waits for what can be filled again
	if b.admins, err = pgxpool.NewWithConfig(ctx, admins); err != nil {
		return nil, err
	}
	config.ConnConfig.Tracer = &b.seen
	if b.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return nil, err
	}
	b.crypto, err = pgsession.NewCrypto(pgsession.GenerateKey())
	return b, err
}

func (b *bench) close() {
	if b.pool != nil {
		b.pool.Close()
	}
	if b.admins != nil {
		b.admins.Close()
	}
	if b.admin != nil {
		b.admin.Close(context.Background())
	}
	b.server.Stop()
}

func (b *bench) progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%6s  %s\n", time.Since(b.started).Round(time.Second), fmt.Sprintf(format, args...))
}

func (b *bench) environment(ctx context.Context) (environment, error) {
	env := environment{
		Date: time.Now().UTC().Truncate(time.Second), Go: runtime.Version(), Processors: runtime.NumCPU(), Settings: map[string]string{},
		Connections: b.connections, Callers: b.callers, ValueBytes: b.value,
	}
	for _, name := range []string{
		"server_version", "fsync", "synchronous_commit", "shared_buffers", "max_wal_size", "autovacuum_naptime", "autovacuum_vacuum_cost_delay",
		"autovacuum_vacuum_cost_limit", "autovacuum_vacuum_scale_factor", "autovacuum_vacuum_threshold", "autovacuum_max_workers",
	} {
		var value string
		if err := b.admin.QueryRow(ctx, `SELECT current_setting($1)`, name).Scan(&value); err != nil {
			return env, err
		}
		env.Settings[name] = value
	}
	env.PostgreSQL = env.Settings["server_version"]
	delete(env.Settings, "server_version")
	return env, nil
}
