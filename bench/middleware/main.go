// Command middleware compares one small application, written on httpsession and on scs's LoadAndSave with
// its pgxstore: what each loses when requests overlap and when the database goes away, what it sends to the
// database, and how many requests a second it answers.
//
//	go run ./middleware -rounds 5
//
// It starts a PostgreSQL of its own, unless PGSESSION_DATABASE_URL names one, whose database must be empty.
// It prints tables, and writes the figures as JSON to the folder -out.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/bench/internal/server"
)

// A page is what the application answers.
type page struct {
	User  string
	Items map[string]bool
	Count int
}

// A step is called by the application at named places of a request, so that others can be let in between.
type step func(name string, w http.ResponseWriter, r *http.Request)

// A contender makes the application. The source of its session handling is in a file of its own.
type contender struct {
	Name string
	open func(pool *pgxpool.Pool, during step) (http.Handler, error)
}

func contenders(ctx context.Context, keys *pgsession.Crypto) []contender {
	return []contender{
		{"httpsession", func(pool *pgxpool.Pool, during step) (http.Handler, error) {
			store := pgsession.New(pool, keys, pgsession.WithTable("pgsession_sessions"))
			return withPgsession(store, during), store.Init(ctx)
		}},
		{"scs", func(pool *pgxpool.Pool, during step) (http.Handler, error) {
			_, err := pool.Exec(ctx, `CREATE TABLE IF NOT EXISTS sessions (token text PRIMARY KEY, data bytea NOT NULL, expiry timestamptz NOT NULL)`)
			if err == nil {
				_, err = pool.Exec(ctx, `CREATE INDEX IF NOT EXISTS sessions_expiry_idx ON sessions (expiry)`)
			}
			return withSCS(pool, during), err
		}},
	}
}

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "middleware:", err)
		os.Exit(1)
	}
}

// A plan is what to measure.
type plan struct {
	outage      time.Duration
	rounds      int
	length      time.Duration // of a turn, after the warm-up
	connections int
	sessions    int
	callers     []int
	walBytes    int64
}

type report struct {
	Cases    []caseResult    `json:"cases"`
	Requests []requestResult `json:"statements"`
	Loads    []loadResult    `json:"loads"`
}

func run(ctx context.Context) error {
	p := plan{callers: []int{64, 256}, sessions: 10_000, walBytes: 512 << 20}
	flag.DurationVar(&p.outage, "outage", 5*time.Second, "how long the database is away")
	flag.IntVar(&p.rounds, "rounds", 5, "turns of each contender; 0: none")
	flag.DurationVar(&p.length, "length", 2*time.Second, "of a turn")
	flag.IntVar(&p.connections, "connections", 16, "of each pool")
	out := flag.String("out", "out", "a `folder` for the figures")
	flag.Parse()
	// The outage makes an error of every request.
	slog.SetDefault(slog.New(slog.DiscardHandler)) // the log package's too

	made, err := compare(ctx, p)
	if err != nil {
		return err
	}
	made.print(os.Stdout)
	content, err := json.MarshalIndent(made, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(*out, 0o777); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(*out, "middleware.json"), append(content, '\n'), 0o666)
}

func compare(ctx context.Context, p plan) (report, error) {
	postgres, err := server.Start(ctx, nil)
	if err != nil {
		return report{}, err
	}
	defer postgres.Stop()
	keys, err := pgsession.NewCrypto(pgsession.GenerateKey())
	if err != nil {
		return report{}, err
	}
	both := contenders(ctx, keys)
	var made report
	for _, c := range both {
		if err := made.runCases(ctx, postgres, p, c); err != nil {
			return report{}, fmt.Errorf("%s: %w", c.Name, err)
		}
		if err := made.countStatements(ctx, postgres, c); err != nil {
			return report{}, fmt.Errorf("%s: %w", c.Name, err)
		}
	}
	if p.rounds == 0 {
		return made, nil
	}
	return made, made.load(ctx, postgres, p, both)
}
