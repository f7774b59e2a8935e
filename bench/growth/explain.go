package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgsession/pgsession"
)

// statements keeps the statements that a pool sends, one example of each. It is a pgx
// tracer, for queries and batches.
type statements struct {
	mu      sync.Mutex
	keep    bool
	order   []string
	example map[string][]any
}

func (s *statements) see(sql string, args []any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.keep {
		return
	}
	if _, known := s.example[sql]; !known {
		s.order = append(s.order, sql)
	}
	// A batch's later examples are larger.
	s.example[sql] = args
}

func (s *statements) watch(keep bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keep = keep
	if s.example == nil {
		s.example = make(map[string][]any)
	}
}

// TraceQueryStart implements [pgx.QueryTracer].
func (s *statements) TraceQueryStart(ctx context.Context, _ *pgx.Conn, query pgx.TraceQueryStartData) context.Context {
	s.see(query.SQL, query.Args)
	return ctx
}

// TraceQueryEnd implements [pgx.QueryTracer].
func (*statements) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// TraceBatchStart implements [pgx.BatchTracer].
func (*statements) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return ctx
}

// TraceBatchQuery implements [pgx.BatchTracer].
func (s *statements) TraceBatchQuery(_ context.Context, _ *pgx.Conn, query pgx.TraceBatchQueryData) {
	s.see(query.SQL, query.Args)
}

// TraceBatchEnd implements [pgx.BatchTracer].
func (*statements) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

// An explanation is how the server runs one statement: at first, planned for its
// parameters, and from the seventh time on, with the plan that it keeps.
type explanation struct {
	SQL    string `json:"sql"`
	First  string `json:"first_plan"`
	Cached string `json:"cached_plan"`
}

// explainAll does once whatever the store can do with sessions, alone and in company,
// and explains what it sent. Left out are DeleteAll, which is about the whole table,
// and Init, which is not about its rows.
func (f *filler) explainAll(ctx context.Context) (all []explanation, err error) {
	// One statement in flight: whoever comes meanwhile shares the next.
	store := pgsession.New(f.pool, f.crypto, pgsession.WithClock(f.clock), pgsession.WithCoalescing(1))
	for _, step := range f.steps(ctx, store) {
		if err := f.keep(ctx); err != nil {
			return nil, err
		}
		f.seen.watch(true)
		if err := step(); err != nil {
			return nil, err
		}
		f.seen.watch(false)
		for _, sql := range f.seen.order[len(all):] {
			one := explanation{SQL: sql}
			if one.First, err = f.explain(ctx, sql, 0); err != nil {
				return nil, fmt.Errorf("%s: %w", sql, err)
			}
			if one.Cached, err = f.explain(ctx, sql, 6); err != nil {
				return nil, fmt.Errorf("%s: %w", sql, err)
			}
			all = append(all, one)
		}
	}
	return all, nil
}

// writtenColumns are all but expires_hour, which the server generates.
const writtenColumns = `key, user_key, data, sealed, version, created_at, expires_at, ends_at, idle_timeout`

// keep copies the rows that the next step may change, so that explain can put them
// back first.
func (f *filler) keep(ctx context.Context) error {
	if _, err := f.admin.Exec(ctx, `CREATE TEMPORARY TABLE IF NOT EXISTS kept (LIKE sessions)`); err != nil {
		return err
	}
	if _, err := f.admin.Exec(ctx, `TRUNCATE kept`); err != nil {
		return err
	}
	var handles []string
	for _, id := range f.ids {
		handles = append(handles, id.Handle().String())
	}
	_, err := f.admin.Exec(ctx, `
		INSERT INTO kept
		SELECT * FROM sessions WHERE key IN (SELECT decode(handle, 'hex') FROM unnest($1::text[]) AS handle)
		UNION ALL
		SELECT * FROM sessions WHERE expires_hour < $2`, handles, f.clock.Now())
	return err
}

func (f *filler) steps(ctx context.Context, store *pgsession.Store) []func() error {
	data := f.data(0)
	together := func(do func(ctx context.Context, i int) error) error {
		if err := do(ctx, 0); err != nil {
			return err
		}
		group, ctx := errgroup.WithContext(ctx)
		for range 4 {
			for i := range min(len(f.ids)/2, 250) {
				group.Go(func() error { return do(ctx, i) })
			}
		}
		return group.Wait()
	}
	absent := func(err error) error {
		if errors.Is(err, pgsession.ErrNotFound) {
			return nil
		}
		return err
	}
	return []func() error{
		func() error {
			return together(func(ctx context.Context, i int) error { _, err := store.Load(ctx, f.ids[i]); return err })
		},
		func() error {
			return together(func(ctx context.Context, i int) error { return store.Save(ctx, f.ids[i], f.data(i), timeToLive) })
		},
		func() error {
			return together(func(ctx context.Context, i int) error { return store.Put(ctx, f.ids[i], f.data(i), timeToLive) })
		},
		func() error {
			return together(func(ctx context.Context, i int) error { return store.Touch(ctx, f.ids[i], 2*timeToLive) })
		},
		func() error {
			_, err := store.Update(ctx, f.ids[0], timeToLive, func(*pgsession.Session) (any, error) { return f.value, nil })
			return err
		},
		func() error { _, err := store.FindByUser(ctx, data.UserID, 0); return err },
		func() error { return absent(store.Save(ctx, pgsession.NewID(), data, timeToLive)) },
		func() error {
			for _, err := range store.All(ctx) {
				return err // a page is enough
			}
			return errors.New("no session at all")
		},
		func() error {
			rotated, err := pgsession.NewCrypto(pgsession.GenerateKey())
			if err != nil {
				return err
			}
			// A look at the first page is enough.
			ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
			defer cancel()
			if _, err := pgsession.New(f.pool, rotated, pgsession.WithClock(f.clock)).Reseal(ctx); !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, pgsession.ErrUnknownKey) {
				return err
			}
			return nil
		},
		func() error { return store.Check(ctx) },
		func() error { return store.KeyValue().Put(ctx, "key", f.value, time.Hour) },
		func() error { _, err := store.KeyValue().Take(ctx, "key"); return err },
		func() error { return store.KeyValue().Delete(ctx, "key") },
		func() error {
			created, err := store.Create(ctx, data, timeToLive)
			if err != nil {
				return err
			}
			id := pgsession.NewID()
			if err := store.Cycle(ctx, created.ID, id, data, timeToLive); err != nil {
				return err
			}
			_, err = store.Renew(ctx, id, timeToLive, func(*pgsession.Session) (pgsession.Data, error) { return data, nil })
			return err
		},
		func() error {
			return together(func(ctx context.Context, i int) error { return store.Delete(ctx, f.ids[i]) })
		},
		func() error { return absent(store.Revoke(ctx, data.UserID, pgsession.NewID().Handle())) },
		func() error { _, err := store.DeleteByUser(ctx, f.data(len(f.ids)-1).UserID); return err },
		func() error { return f.fill(ctx, 2000, true) },
		func() error { _, err := store.CleanupExpired(ctx); return err },
	}
}

// explain runs the statement once more, after it was planned so many times, and takes
// its effects back.
func (f *filler) explain(ctx context.Context, sql string, planned int) (plan string, err error) {
	tx, err := f.admin.Begin(ctx)
	if err != nil {
		return "", err
	}
	defer f.admin.Exec(ctx, `DEALLOCATE explained`) // no rollback forgets it
	defer tx.Rollback(ctx)
	args := f.seen.example[sql]
	putBack := []string{
		`DELETE FROM sessions WHERE key IN (SELECT key FROM kept)`,
		`INSERT INTO sessions (` + writtenColumns + `) SELECT ` + writtenColumns + ` FROM kept`,
	}
	if strings.HasPrefix(strings.TrimSpace(sql), "INSERT") && !strings.Contains(sql, "ON CONFLICT") {
		putBack = append(putBack, fmt.Sprintf(`DELETE FROM sessions WHERE key = '\x%x'`, args[0]))
	}
	for _, statement := range append(putBack, `PREPARE explained AS `+sql) {
		if _, err := tx.Exec(ctx, statement, pgx.QueryExecModeSimpleProtocol); err != nil {
			return "", err
		}
	}
	execute := `EXECUTE explained`
	if len(args) > 0 {
		places := make([]string, len(args))
		for i := range args {
			places[i] = fmt.Sprintf("$%d", i+1)
		}
		execute += ` (` + strings.Join(places, ", ") + `)`
	}
	arguments := append([]any{pgx.QueryExecModeSimpleProtocol}, args...)
	for range planned {
		if _, err := tx.Exec(ctx, `EXPLAIN `+execute, arguments...); err != nil {
			return "", err
		}
	}
	rows, err := tx.Query(ctx, `EXPLAIN (ANALYZE, BUFFERS) `+execute, arguments...)
	if err != nil {
		return "", err
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return longArray.ReplaceAllString(strings.Join(lines, "\n"), "'{…}'"), err
}

var longArray = regexp.MustCompile(`'\{"[^}]*\}'`)

// checkPlans prints the plans, and fails if one reads the whole table. The health
// check may begin to, since it asks for one row, whichever.
func checkPlans(to io.Writer, plans []explanation) error {
	var scans []error
	for _, plan := range plans {
		fmt.Fprintf(to, "\n%s\n%s\n", strings.TrimSpace(plan.SQL), plan.First)
		if shape(plan.Cached) != shape(plan.First) {
			fmt.Fprintf(to, "later:\n%s\n", plan.Cached)
		}
		isHealthCheck := strings.Contains(plan.SQL, "pg_is_in_recovery")
		if !isHealthCheck && strings.Contains(plan.First+plan.Cached, "Seq Scan on sessions") {
			scans = append(scans, fmt.Errorf("sequential scan: %s", strings.TrimSpace(plan.SQL)))
		}
	}
	return errors.Join(scans...)
}

// shape is a plan without figures.
func shape(plan string) string {
	var nodes []string
	for line := range strings.Lines(plan) {
		if node, _, found := strings.Cut(line, "  (cost"); found {
			nodes = append(nodes, node)
		}
	}
	return strings.Join(nodes, "\n")
}
