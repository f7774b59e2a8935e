package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/bench/internal/measure"
)

const (
	timeToLive      = 24 * time.Hour
	sessionsPerUser = 4 // of the sample's users
)

// A sizeResult is what was measured at one size of the table.
type sizeResult struct {
	Sessions                int        `json:"sessions"`
	Load                    operation  `json:"load"`
	Save                    operation  `json:"save"`
	FindByUser              operation  `json:"find_by_user"` // four sessions
	ExpiredRows             int64      `json:"expired_rows"`
	CleanupExpiredMicros    float64    `json:"cleanup_expired_us_per_row"`
	BackgroundCleanupMicros float64    `json:"background_cleanup_us_per_row"`
	Bytes                   []relation `json:"bytes"`
}

type operation struct {
	PerSecond float64 `json:"calls_per_second"`
	P50       float64 `json:"p50_ms"`
	P99       float64 `json:"p99_ms"`
}

// A relation is the table or one of its indexes.
type relation struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"`
}

// A filler grows a table.
type filler struct {
	*bench
	store *pgsession.Store
	clock *pgsession.ManualClock
	size  int // rows so far
	ids   []pgsession.ID
	value []byte
}

func (b *bench) grow(ctx context.Context, report *report) error {
	// The middle of an hour, so that the clean-ups meet live sessions in it.
	clock := pgsession.NewManualClock(time.Now().UTC().Truncate(time.Hour).Add(30 * time.Minute))
	f := &filler{bench: b, clock: clock, store: pgsession.New(b.pool, b.crypto, pgsession.WithClock(clock)), value: make([]byte, b.value)}
	rand.Read(f.value)
	if err := f.store.Init(ctx); err != nil {
		return err
	}
	if err := f.createSample(ctx); err != nil {
		return err
	}
	for _, size := range b.sizes {
		result, err := f.measure(ctx, size)
		if err != nil {
			return fmt.Errorf("%d sessions: %w", size, err)
		}
		report.Sizes = append(report.Sizes, result)
	}
	b.progress("explain every statement at %d sessions", f.size)
	var err error
	report.Plans, err = f.explainAll(ctx)
	return err
}

func (f *filler) createSample(ctx context.Context) error {
	f.ids = make([]pgsession.ID, f.sample)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(f.connections)
	for i := range f.ids {
		group.Go(func() error {
			created, err := f.store.Create(ctx, f.data(i), timeToLive)
			if err == nil {
				f.ids[i] = created.ID
			}
			return err
		})
	}
	f.size = f.sample
	return group.Wait()
}

func (f *filler) data(i int) pgsession.Data {
	return pgsession.Data{UserID: "user-" + strconv.Itoa(i/sessionsPerUser), Values: f.value}
}

func (f *filler) measure(ctx context.Context, size int) (result sizeResult, err error) {
	f.progress("fill the table up to %d sessions", size)
	if err := f.fill(ctx, size-f.size, false); err != nil {
		return result, err
	}
	f.size = size
	if _, err := f.admin.Exec(ctx, `VACUUM (ANALYZE) sessions`); err != nil {
		return result, err
	}
	f.progress("measure at %d sessions", size)
	result.Sessions = size
	calls := []struct {
		to   *operation
		call func(context.Context, *mathrand.Rand) error
	}{
		{&result.Load, func(ctx context.Context, random *mathrand.Rand) error {
			session, err := f.store.Load(ctx, f.ids[random.IntN(len(f.ids))])
			if err != nil {
				return err
			}
			return f.check(session)
		}},
		{&result.Save, func(ctx context.Context, random *mathrand.Rand) error {
			i := random.IntN(len(f.ids))
			return f.store.Save(ctx, f.ids[i], f.data(i), timeToLive)
		}},
		{&result.FindByUser, func(ctx context.Context, random *mathrand.Rand) error {
			sessions, err := f.store.FindByUser(ctx, f.data(random.IntN(len(f.ids))).UserID, 10)
			if err == nil && len(sessions) != sessionsPerUser {
				err = fmt.Errorf("found %d sessions of a user's %d", len(sessions), sessionsPerUser)
			}
			return err
		}},
	}
	for _, c := range calls {
		load := measure.Load{Callers: f.callers, WarmUp: f.length / 5, Length: f.length}
		figures, err := load.Run(ctx, c.call)
		if err != nil {
			return result, err
		}
		*c.to = operation{figures.Throughput, figures.P50.Seconds() * 1000, figures.P99.Seconds() * 1000}
	}
	if result.Bytes, err = relations(ctx, f.admin, "sessions"); err != nil {
		return result, err
	}
	return result, f.measureCleanup(ctx, &result)
}

func (f *filler) check(session *pgsession.Session) error {
	value, err := pgsession.Decode[[]byte](session)
	if err == nil && !bytes.Equal(value, f.value) {
		err = fmt.Errorf("not the value that was saved")
	}
	return err
}

// fill adds rows that the store could have written: of the same sizes, at random
// places of each index, every twentieth a tombstone, and living up to a day; or, of
// the hours before, expired ones.
func (f *filler) fill(ctx context.Context, rows int, expired bool) error {
	now := f.clock.Now()
	sealed := f.value
	if err := f.admin.QueryRow(ctx, `SELECT sealed FROM sessions WHERE sealed IS NOT NULL LIMIT 1`).Scan(&sealed); err != nil {
		return err
	}
	const batch = 100_000
	for done := 0; done < rows; done += batch {
		// Nobody waits for what can be filled again.
		_, err := f.admin.Exec(ctx, `SET synchronous_commit = off`)
		if err != nil {
			return err
		}
		_, err = f.admin.Exec(ctx, `
			INSERT INTO sessions (key, user_key, sealed, version, created_at, expires_at, idle_timeout)
			SELECT sha256(uuid_send(gen_random_uuid())),
				CASE WHEN i % 20 > 0 THEN sha256(uuid_send(gen_random_uuid())) END, CASE WHEN i % 20 > 0 THEN $2::bytea END,
				1 + (random() * 4e15)::bigint, $3::timestamptz - interval '1 hour', row.expires_at,
				interval '24 hours'
			FROM generate_series(1, $1) AS i,
				LATERAL (SELECT $3::timestamptz + (random() * CASE WHEN $4 THEN -7200 ELSE 86400 END + i * 0) * interval '1 second'
					- CASE WHEN $4 THEN interval '1 hour' ELSE interval '0' END) AS row (expires_at)`,
			min(batch, rows-done), sealed, now, expired)
		if err != nil {
			return err
		}
		if done > 0 && done%1_000_000 == 0 {
			f.progress("%d of %d rows", done, rows)
		}
	}
	return nil
}

// measureCleanup removes expired rows in both ways: those of whole hours in the
// background, and all that have expired at once.
func (f *filler) measureCleanup(ctx context.Context, result *sizeResult) error {
	result.ExpiredRows = int64(f.expired)
	if err := f.fill(ctx, f.expired, true); err != nil {
		return err
	}
	start := time.Now()
	removed, err := f.store.CleanupExpired(ctx)
	if err != nil {
		return err
	}
	if removed < int64(f.expired) {
		return fmt.Errorf("the clean-up removed %d rows of %d", removed, f.expired)
	}
	result.CleanupExpiredMicros = time.Since(start).Seconds() * 1e6 / float64(removed)

	if err := f.fill(ctx, f.expired, true); err != nil {
		return err
	}
	before := f.store.Stats().Cleaned
	start = time.Now()
	cleanup := f.store.SpawnCleanup(ctx, time.Millisecond)
	defer cleanup.Stop()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for f.store.Stats().Cleaned < before+int64(f.expired) {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if time.Since(start) > 10*time.Minute {
			return fmt.Errorf("the clean-up removed %d rows of %d", f.store.Stats().Cleaned-before, f.expired)
		}
	}
	result.BackgroundCleanupMicros = time.Since(start).Seconds() * 1e6 / float64(f.expired)
	return nil
}

// relations returns the sizes of a table, TOAST included, and of its indexes.
func relations(ctx context.Context, conn *pgx.Conn, table string) ([]relation, error) {
	rows, err := conn.Query(ctx, `
		SELECT 'table', pg_table_size(to_regclass($1::text))
		UNION ALL
		(SELECT 'index on ' || (SELECT string_agg(a.attname, ', ' ORDER BY a.attnum) FROM pg_attribute AS a WHERE a.attrelid = i.indexrelid),
			pg_relation_size(i.indexrelid)
		FROM pg_index AS i
		WHERE i.indrelid = to_regclass($1::text)
		ORDER BY i.indexrelid)`, table)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[relation])
}

func printSizes(to io.Writer, results []sizeResult) {
	fmt.Fprintln(to)
	table := tabwriter.NewWriter(to, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(table, "sessions\tload/s\tp50 ms\tp99 ms\tsave/s\tp50 ms\tp99 ms\tfind/s\tp50 ms\tp99 ms\tµs/expired row\tin background\t")
	for _, r := range results[0].Bytes {
		fmt.Fprintf(table, "%s MB\t", r.Name)
	}
	fmt.Fprintln(table)
	for _, r := range results {
		fmt.Fprintf(table, "%d\t", r.Sessions)
		for _, o := range []operation{r.Load, r.Save, r.FindByUser} {
			fmt.Fprintf(table, "%.0f\t%.2f\t%.2f\t", o.PerSecond, o.P50, o.P99)
		}
		fmt.Fprintf(table, "%.1f\t%.1f\t", r.CleanupExpiredMicros, r.BackgroundCleanupMicros)
		for _, relation := range r.Bytes {
			fmt.Fprintf(table, "%.1f\t", float64(relation.Bytes)/1e6)
		}
		fmt.Fprintln(table)
	}
	table.Flush()
}
