package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/bench/internal/measure"
	"github.com/pgsession/pgsession/bench/internal/server"
)

const (
	timeToLive      = 24 * time.Hour
	sessionsPerUser = 4 // of the sample's users
)

// A sizeResult is what was measured at one size of the table.
type sizeResult struct {
	Sessions                int        `json:"sessions"`
	HashIndex               bool       `json:"hash_index,omitempty"` // there is one on key, beside the primary key
	Load                    operation  `json:"load"`
	Load256                 operation  `json:"load_256_callers"`
	Save                    operation  `json:"save"`
	LogIn                   operation  `json:"log_in"`       // a new session
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
	WAL       float64 `json:"wal_bytes_per_call,omitempty"`
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

	mu       sync.Mutex
	loggedIn [][]byte // keys
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
		if err := f.fillUpTo(ctx, size); err != nil {
			return fmt.Errorf("fill the table up to %d sessions: %w", size, err)
		}
		if err := f.measureRounds(ctx, size, report); err != nil {
			return fmt.Errorf("%d sessions: %w", size, err)
		}
	}
	if !b.explain {
		return nil
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

// measureRounds measures once; or, to compare, several times without and with a hash index in turns.
func (f *filler) measureRounds(ctx context.Context, size int, report *report) error {
	for round := range max(1, f.hashRounds) {
		result, err := f.measure(ctx, size)
		if err != nil {
			return err
		}
		if round == 0 {
			report.Sizes = append(report.Sizes, result)
		}
		if f.hashRounds == 0 {
			continue
		}
		f.progress("build a hash index on %d sessions", size)
		if _, err := f.admin.Exec(ctx, `CREATE INDEX sessions_key_hash ON sessions USING hash (key)`); err != nil {
			return err
		}
		hashed, err := f.measure(ctx, size)
		if err != nil {
			return err
		}
		hashed.HashIndex = true
		report.HashRounds = append(report.HashRounds, result, hashed)
		if _, err := f.admin.Exec(ctx, `DROP INDEX sessions_key_hash`); err != nil {
			return err
		}
	}
	return nil
}

func (f *filler) measure(ctx context.Context, size int) (result sizeResult, err error) {
	if _, err := f.admin.Exec(ctx, `VACUUM (ANALYZE) sessions`); err != nil {
		return result, err
	}
	f.progress("measure at %d sessions", size)
	result.Sessions = size
	load := func(ctx context.Context, random *mathrand.Rand) error {
		session, err := f.store.Load(ctx, f.ids[random.IntN(len(f.ids))])
		if err != nil {
			return err
		}
		return f.check(session)
	}
	calls := []struct {
		to      *operation
		callers int
		call    func(context.Context, *mathrand.Rand) error
	}{
		{&result.Load, f.callers, load},
		{&result.Load256, 256, load},
		{&result.Save, f.callers, func(ctx context.Context, random *mathrand.Rand) error {
			i := random.IntN(len(f.ids))
			return f.store.Save(ctx, f.ids[i], f.data(i), timeToLive)
		}},
		{&result.FindByUser, f.callers, func(ctx context.Context, random *mathrand.Rand) error {
			sessions, err := f.store.FindByUser(ctx, f.data(random.IntN(len(f.ids))).UserID, 10)
			if err == nil && len(sessions) != sessionsPerUser {
				err = fmt.Errorf("found %d sessions of a user's %d", len(sessions), sessionsPerUser)
			}
			return err
		}},
		{&result.LogIn, f.callers, f.logIn},
	}
	for _, c := range calls {
		load := measure.Load{Callers: c.callers, WarmUp: f.length / 5, Length: f.length}
		before, err := server.WAL(ctx, f.admin)
		if err != nil {
			return result, err
		}
		figures, err := load.Run(ctx, c.call)
		if err != nil {
			return result, err
		}
		after, err := server.WAL(ctx, f.admin)
		if err != nil {
			return result, err
		}
		*c.to = operation{figures.Throughput, figures.P50.Seconds() * 1000, figures.P99.Seconds() * 1000, float64(after-before) / float64(figures.Calls)}
	}
	if result.Bytes, err = relations(ctx, f.admin, "sessions"); err != nil {
		return result, err
	}
	printSizes(os.Stderr, []sizeResult{result}) // what was measured is not lost if the clean-up fails
	if err := f.removeLogIns(ctx); err != nil {
		return result, err
	}
	return result, f.measureCleanup(ctx, &result)
}

func (f *filler) logIn(ctx context.Context, random *mathrand.Rand) error {
	created, err := f.store.Create(ctx, pgsession.Data{UserID: "new-" + strconv.Itoa(random.IntN(1e9)), Values: f.value}, timeToLive)
	if err != nil {
		return err
	}
	key, err := hex.DecodeString(created.Handle.String())
	f.mu.Lock()
	defer f.mu.Unlock()
	f.loggedIn = append(f.loggedIn, key)
	return err
}

// removeLogIns gives the table its size back.
func (f *filler) removeLogIns(ctx context.Context) error {
	_, err := f.admin.Exec(ctx, `DELETE FROM sessions WHERE key = ANY($1)`, f.loggedIn)
	f.loggedIn = nil
	if err != nil {
		return err
	}
	_, err = f.admin.Exec(ctx, `VACUUM (ANALYZE) sessions`)
	return err
}

func (f *filler) check(session *pgsession.Session) error {
	value, err := pgsession.Decode[[]byte](session)
	if err == nil && !bytes.Equal(value, f.value) {
		err = fmt.Errorf("not the value that was saved")
	}
	return err
}

// manyRows is how many rows are added without indexes, which are then built at once.
const manyRows = 2_000_000

func (f *filler) fillUpTo(ctx context.Context, size int) error {
	f.progress("fill the table up to %d sessions", size)
	rows := size - f.size
	f.size = size
	if rows < manyRows {
		return f.fill(ctx, rows, false)
	}
	rebuild, err := f.dropIndexes(ctx)
	if err != nil {
		return err
	}
	if err := f.fill(ctx, rows, false); err != nil {
		return err
	}
	for _, sql := range rebuild {
		f.progress("%s", sql)
		if _, err := f.admin.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

// dropIndexes returns the statements that build the indexes again.
func (f *filler) dropIndexes(ctx context.Context) (rebuild []string, err error) {
	found, err := f.admin.Query(ctx, `
		SELECT c.relname, i.indisprimary, pg_get_indexdef(i.indexrelid)
		FROM pg_index AS i
		JOIN pg_class AS c ON c.oid = i.indexrelid
		WHERE i.indrelid = 'sessions'::regclass
		ORDER BY i.indexrelid`)
	if err != nil {
		return nil, err
	}
	drop := []string{"SET maintenance_work_mem = '2GB'"}
	var (
		name, definition string
		isPrimary        bool
	)
	_, err = pgx.ForEachRow(found, []any{&name, &isPrimary, &definition}, func() error {
		if isPrimary {
			drop = append(drop, "ALTER TABLE sessions DROP CONSTRAINT "+name)
			rebuild = append(rebuild, "ALTER TABLE sessions ADD CONSTRAINT "+name+" PRIMARY KEY (key)")
		} else {
			drop = append(drop, "DROP INDEX "+name)
			rebuild = append(rebuild, definition)
		}
		return nil
	})
	for _, sql := range drop {
		if err == nil {
			_, err = f.admin.Exec(ctx, sql)
		}
	}
	return rebuild, err
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
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.NumCPU())
	for done := 0; done < rows; done += batch {
		group.Go(func() error {
			if done > 0 && done%5_000_000 == 0 {
				f.progress("%d of %d rows", done, rows)
			}
			_, err := f.admins.Exec(ctx, `
				INSERT INTO sessions (key, user_key, sealed, version, created_at, expires_at, idle_timeout)
				SELECT sha256(uuid_send(gen_random_uuid())),
					CASE WHEN i % 20 > 0 THEN sha256(uuid_send(gen_random_uuid())) END, CASE WHEN i % 20 > 0 THEN $2::bytea END,
					1 + (random() * 4e15)::bigint, $3::timestamptz - interval '1 hour', row.expires_at,
					interval '24 hours'
				FROM generate_series(1, $1) AS i,
					LATERAL (SELECT $3::timestamptz + (random() * CASE WHEN $4 THEN -7200 ELSE 86400 END + i * 0) * interval '1 second'
						- CASE WHEN $4 THEN interval '1 hour' ELSE interval '0' END) AS row (expires_at)`,
				min(batch, rows-done), sealed, now, expired)
			return err
		})
	}
	return group.Wait()
}

// measureCleanup removes expired rows in both ways: those of whole hours in the
// background, and all that have expired at once.
func (f *filler) measureCleanup(ctx context.Context, result *sizeResult) error {
	result.ExpiredRows = int64(f.expired)
	if err := f.fill(ctx, f.expired, true); err != nil {
		return err
	}
	// It reads all that expires within the hour, in one statement, which takes longer than WithTimeout allows
	// where millions do.
	patient := pgsession.New(f.pool, f.crypto, pgsession.WithClock(f.clock), pgsession.WithTimeout(0))
	start := time.Now()
	removed, err := patient.CleanupExpired(ctx)
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
	fmt.Fprint(table, "sessions\thash\tload/s\tp50 ms\tp99 ms\tload/s, 256\tp50 ms\tp99 ms\tsave/s\tp50 ms\tp99 ms\tfind/s\tp50 ms\tp99 ms\tlog-in/s\tp50 ms\tp99 ms\tWAL bytes: save\tlog-in\tµs/expired row\tin background\t")
	for _, r := range results[0].Bytes {
		fmt.Fprintf(table, "%s MB\t", r.Name)
	}
	fmt.Fprintln(table)
	for _, r := range results {
		fmt.Fprintf(table, "%d\t%t\t", r.Sessions, r.HashIndex)
		for _, o := range []operation{r.Load, r.Load256, r.Save, r.FindByUser, r.LogIn} {
			fmt.Fprintf(table, "%.0f\t%.2f\t%.2f\t", o.PerSecond, o.P50, o.P99)
		}
		fmt.Fprintf(table, "%.0f\t%.0f\t%.1f\t%.1f\t", r.Save.WAL, r.LogIn.WAL, r.CleanupExpiredMicros, r.BackgroundCleanupMicros)
		for _, relation := range r.Bytes {
			fmt.Fprintf(table, "%.1f\t", float64(relation.Bytes)/1e6)
		}
		fmt.Fprintln(table)
	}
	table.Flush()
}
