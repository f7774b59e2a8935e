package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/pgsession/pgsession/bench/internal/measure"
	"github.com/pgsession/pgsession/bench/internal/server"
)

// A loadResult is a contender's figures with so many clients, each a list with a figure a round. The
// requests go to the handler without a network, so that its work and the store's are what is measured.
type loadResult struct {
	Contender      string    `json:"contender"`
	Request        string    `json:"request"`
	Clients        int       `json:"clients"`
	PerSecond      []float64 `json:"requests_per_second"`
	P99            []float64 `json:"p99_ms"`
	ServerMicros   []float64 `json:"server_cpu_us_per_request"`
	ClientMicros   []float64 `json:"client_cpu_us_per_request"`
	Allocs         []float64 `json:"allocations_per_request"`
	PerSecondToSCS float64   `json:"requests_per_second_to_scs,omitempty"` // the median of the rounds' ratios
	P99ToSCS       float64   `json:"p99_to_scs,omitempty"`
	ServerCPUToSCS float64   `json:"server_cpu_to_scs,omitempty"`
	ClientCPUToSCS float64   `json:"client_cpu_to_scs,omitempty"`
}

// An entrant has sessions of users.
type entrant struct {
	contender
	handler http.Handler
	cookies [][]*http.Cookie
}

func (made *report) load(ctx context.Context, postgres *server.Server, p plan, contenders []contender) error {
	var entrants []*entrant
	for _, c := range contenders {
		config, err := postgres.Config(p.connections)
		if err != nil {
			return err
		}
		pool, err := pgxpool.NewWithConfig(ctx, config)
		if err != nil {
			return err
		}
		defer pool.Close()
		e := &entrant{contender: c, cookies: make([][]*http.Cookie, p.sessions)}
		if e.handler, err = c.open(pool, func(string, http.ResponseWriter, *http.Request) {}); err != nil {
			return err
		}
		group, _ := errgroup.WithContext(ctx)
		group.SetLimit(p.connections)
		for i := range e.cookies {
			group.Go(func() error { return e.logIn(ctx, i) })
		}
		if err := group.Wait(); err != nil {
			return err
		}
		entrants = append(entrants, e)
	}
	admin, err := pgxpool.New(ctx, postgres.URL)
	if err != nil {
		return err
	}
	defer admin.Close()
	if _, err := admin.Exec(ctx, `VACUUM ANALYZE`); err != nil {
		return err
	}
	conn, err := admin.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	if err := postgres.PrepareWAL(ctx, conn.Conn(), p.walBytes); err != nil {
		return err
	}
	for _, request := range []string{"GET /", "POST /count"} {
		for _, clients := range p.callers {
			if err := made.turns(ctx, postgres, p, entrants, request, clients); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *entrant) logIn(ctx context.Context, i int) error {
	for _, target := range []string{fmt.Sprintf("/login?user=user-%d", i), "/add?item=pen", "/add?item=ink"} {
		r := e.request(ctx, "POST", target, i)
		w := httptest.NewRecorder()
		e.handler.ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			return fmt.Errorf("%s: %d %s", target, w.Code, w.Body)
		}
		if set := w.Result().Cookies(); len(set) > 0 {
			e.cookies[i] = set
		}
	}
	return nil
}

func (e *entrant) request(ctx context.Context, method, target string, session int) *http.Request {
	r := httptest.NewRequestWithContext(ctx, method, "http://localhost"+target, nil)
	for _, cookie := range e.cookies[session] {
		r.AddCookie(cookie)
	}
	return r
}

func (made *report) turns(ctx context.Context, postgres *server.Server, p plan, entrants []*entrant, request string, clients int) error {
	var method, target string
	if _, err := fmt.Sscan(request, &method, &target); err != nil {
		return err
	}
	results := make([]loadResult, len(entrants))
	for round := range p.rounds {
		for n := range entrants {
			at := (n + round) % len(entrants)
			e, result := entrants[at], &results[at]
			*result = loadResult{e.Name, request, clients, result.PerSecond, result.P99, result.ServerMicros, result.ClientMicros, result.Allocs, 0, 0, 0, 0}
			serverBefore, err := postgres.CPU()
			if err != nil {
				return err
			}
			clientBefore := measure.CPU()
			load := measure.Load{Callers: clients, WarmUp: p.length / 4, Length: p.length, Seed: uint64(round)}
			measured, err := load.Run(ctx, func(ctx context.Context, random *rand.Rand) error {
				w := httptest.NewRecorder()
				e.handler.ServeHTTP(w, e.request(ctx, method, target, random.IntN(len(e.cookies))))
				if w.Code != http.StatusOK {
					return fmt.Errorf("%s: %d %s", request, w.Code, w.Body)
				}
				return nil
			})
			if err != nil {
				return err
			}
			client := measure.CPU() - clientBefore
			serverAfter, err := postgres.CPU()
			if err != nil {
				return err
			}
			result.PerSecond = append(result.PerSecond, measured.Throughput)
			result.P99 = append(result.P99, float64(measured.P99)/float64(time.Millisecond))
			result.ServerMicros = append(result.ServerMicros, micros(serverAfter.Since(serverBefore), measured.Calls))
			result.ClientMicros = append(result.ClientMicros, micros(client, measured.Calls))
			result.Allocs = append(result.Allocs, measured.Allocs)
		}
	}
	scs := results[slices.IndexFunc(results, func(r loadResult) bool { return r.Contender == "scs" })]
	for i := range results {
		r := &results[i]
		r.PerSecondToSCS, r.P99ToSCS = ratio(r.PerSecond, scs.PerSecond), ratio(r.P99, scs.P99)
		r.ServerCPUToSCS, r.ClientCPUToSCS = ratio(r.ServerMicros, scs.ServerMicros), ratio(r.ClientMicros, scs.ClientMicros)
	}
	made.Loads = append(made.Loads, results...)
	return nil
}

func micros(d time.Duration, calls int) float64 {
	return float64(d) / float64(time.Microsecond) / float64(calls)
}

func ratio(figures, reference []float64) float64 {
	var ratios []float64
	for i := range figures {
		ratios = append(ratios, figures[i]/reference[i])
	}
	return measure.Median(ratios)
}

func (made report) print(w io.Writer) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer table.Flush()
	half := len(made.Cases) / 2
	fmt.Fprintf(table, "case\t%s\t%s\n", made.Cases[0].Contender, made.Cases[half].Contender)
	for i, one := range made.Cases[:half] {
		fmt.Fprintf(table, "%s\t%s\t%s\n", one.Case, one.Outcome, made.Cases[half+i].Outcome)
	}
	fmt.Fprintln(table, "\nstatements\t\t")
	for _, request := range requests {
		fmt.Fprintf(table, "%s\t%d\t%d\n", request, made.Requests[0].Statements[request], made.Requests[1].Statements[request])
	}
	fmt.Fprintln(table, "\nrequest\tclients\tcontender\tper second\tp99 ms\tserver µs\tclient µs\tallocations\tto scs\tp99\tserver\tclient")
	for _, r := range made.Loads {
		fmt.Fprintf(table, "%s\t%d\t%s\t%.0f\t%.2f\t%.1f\t%.1f\t%.0f\t%.2f\t%.2f\t%.2f\t%.2f\n", r.Request, r.Clients, r.Contender,
			measure.Median(r.PerSecond), measure.Median(r.P99), measure.Median(r.ServerMicros), measure.Median(r.ClientMicros), measure.Median(r.Allocs),
			r.PerSecondToSCS, r.P99ToSCS, r.ServerCPUToSCS, r.ClientCPUToSCS)
	}
}
