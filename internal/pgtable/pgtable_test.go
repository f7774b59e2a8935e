package pgtable

import (
	"context"
	"crypto/rand"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/rows"
)

func TestMain(m *testing.M) { pgtest.Main(m, nil) }

var epoch = time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)

// newTable returns a table in a schema of its own, whose time stands still.
func newTable(t *testing.T, configure ...func(*pgxpool.Config)) *Table {
	t.Helper()
	table := New(Config{Pool: pgtest.Pool(t, configure...), Name: "sessions", Now: func() time.Time { return epoch }, Timeout: time.Minute, MaxInFlight: -1})
	require.NoError(t, table.Init(t.Context()))
	pgtest.AfterInit(t, table.pool, "sessions")
	return table
}

// key returns a key that sorts as b does.
func key(b byte) (key rows.Key) {
	key[0] = b
	return key
}

func write(b byte) rows.Write {
	return rows.Write{Key: key(b), Payload: []byte{b}, TTL: time.Hour}
}

// insert begins sessions and returns their rows as they are seen.
func insert(t *testing.T, table *Table, keys ...byte) (seen []rows.Row) {
	t.Helper()
	for _, b := range keys {
		row, outcome, err := table.Insert(t.Context(), write(b))
		require.NoError(t, err)
		require.Equal(t, rows.OK, outcome)
		seen = append(seen, row)
	}
	return seen
}

// inOneStatement makes changes and returns their answers. The zero answer is that of a change which
// its caller has to make alone.
func inOneStatement(t *testing.T, table *Table, k *kind, changes ...*change) []answer {
	t.Helper()
	answers := make([]answer, len(changes))
	require.NoError(t, table.changeMany(t.Context(), k, changes, func(i int, a answer) { answers[i] = a }))
	return answers
}

func states(t *testing.T, table *Table, keys ...byte) (states []rows.State) {
	t.Helper()
	for _, b := range keys {
		row, err := table.Load(t.Context(), key(b))
		require.NoError(t, err)
		states = append(states, row.State)
	}
	return states
}

// TestRenewMany_TakenKey moves sessions in one statement. One whose new key is taken, by a session
// or by a tombstone, stays where it is, and is left to its caller.
func TestRenewMany_TakenKey(t *testing.T) {
	pgtest.NotDistributed(t, "writes share no statement")
	t.Parallel()
	table := newTable(t)
	seen := insert(t, table, 1, 2, 3, 4)
	insert(t, table, 12, 13)
	_, err := table.End(t.Context(), key(13))
	require.NoError(t, err)
	var changes []*change
	for _, row := range seen {
		changes = append(changes, &change{seen: row, w: write(10 + row.Key[0])})
	}
	held, err := table.pool.Begin(t.Context())
	require.NoError(t, err)
	defer held.Rollback(context.Background())
	_, err = held.Exec(t.Context(), `UPDATE sessions SET version = version + 1 WHERE key = $1`, changes[1].w.Key.Bytes())
	require.NoError(t, err, "another transaction changes the row that is there")
	answers := inOneStatement(t, table, renewKind, changes...)
	require.Equal(t, answer{}, answers[1])
	require.Equal(t, answer{}, answers[2])
	require.NoError(t, held.Rollback(t.Context()))
	for _, i := range []int{0, 3} {
		require.True(t, answers[i].known)
		found, err := table.Load(t.Context(), changes[i].w.Key)
		require.NoError(t, err)
		require.Equal(t, answers[i].row, found)
	}
	require.Equal(t, []rows.State{rows.Ended, rows.Stored, rows.Stored, rows.Ended}, states(t, table, 1, 2, 3, 4))
	for _, c := range changes[1:3] {
		_, outcome, err := table.Renew(t.Context(), c.seen, c.w)
		require.NoError(t, err)
		require.Equal(t, rows.Exists, outcome)
	}
}

// TestRenewMany_SameKey moves two sessions to one key, which fails as a whole. Each caller then
// moves its own, and one of them succeeds.
func TestRenewMany_SameKey(t *testing.T) {
	pgtest.NotDistributed(t, "writes share no statement")
	t.Parallel()
	table := newTable(t)
	seen := insert(t, table, 1, 2, 3)
	changes := []*change{{seen: seen[0], w: write(9)}, {seen: seen[1], w: write(9)}, {seen: seen[2], w: write(13)}}
	err := table.changeMany(t.Context(), renewKind, changes, func(int, answer) { t.Error("answered") })
	require.Equal(t, uniqueViolation, sqlState(err))
	require.True(t, tookNoEffect(err), "so that each caller goes on alone")
	require.Equal(t, []rows.State{rows.Stored, rows.Stored, rows.Stored, rows.Absent}, states(t, table, 1, 2, 3, 9))
}

// TestChangeMany_Held has another transaction hold one of the rows. It is skipped, and the others
// are changed, and not held for longer.
func TestChangeMany_Held(t *testing.T) {
	pgtest.NotDistributed(t, "writes share no statement")
	t.Parallel()
	for _, k := range []*kind{saveKind, putKind, swapKind, renewKind, touchKind, endKind, resealKind} {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			table := newTable(t)
			seen := insert(t, table, 1, 2, 3)
			held, err := table.pool.Begin(t.Context())
			require.NoError(t, err)
			defer held.Rollback(context.Background())
			_, err = held.Exec(t.Context(), `SELECT FROM sessions WHERE key = $1 FOR UPDATE`, seen[1].Key.Bytes())
			require.NoError(t, err)
			var changes []*change
			for _, row := range seen {
				c := &change{w: write(row.Key[0])}
				c.w.TTL *= 2
				if k == swapKind || k == renewKind || k == resealKind {
					c.seen = row
				}
				if k == renewKind {
					c.w.Key[0] += 10
				}
				changes = append(changes, c)
			}
			answers := inOneStatement(t, table, k, changes...)
			require.Equal(t, answer{}, answers[1])
			require.True(t, answers[0].known && answers[2].known)
			_, err = table.pool.Exec(t.Context(), `SELECT FROM sessions WHERE key <> $1 FOR UPDATE NOWAIT`, seen[1].Key.Bytes())
			require.NoError(t, err)
		})
	}
}

// TestRun_TooManyConnections has a role that may have fewer connections than its pool. Calls wait
// for them, as they would for the pool's, and no longer than the time that they have.
func TestRun_TooManyConnections(t *testing.T) {
	pgtest.NotDistributed(t, "the coordinator's connections are those of its role")
	t.Parallel()
	const limit, callers = 2, 64
	owner := newTable(t)
	ctx := t.Context()
	var schema string
	require.NoError(t, owner.pool.QueryRow(ctx, `SELECT current_schema()`).Scan(&schema))
	role := "test_" + strings.ToLower(rand.Text())
	for _, sql := range []string{
		`CREATE ROLE ` + role + ` LOGIN PASSWORD 'secret' CONNECTION LIMIT 2`,
		`GRANT USAGE ON SCHEMA ` + schema + ` TO ` + role,
		`GRANT ALL ON sessions TO ` + role,
	} {
		_, err := owner.pool.Exec(ctx, sql)
		require.NoError(t, err)
	}
	t.Cleanup(func() {
		for _, sql := range []string{`DROP OWNED BY ` + role, `DROP ROLE ` + role} {
			_, err := owner.pool.Exec(context.Background(), sql)
			require.NoError(t, err)
		}
	})
	asRole := func(connections int32) *pgxpool.Pool {
		return pgtest.Pool(t, func(config *pgxpool.Config) {
			config.ConnConfig.User, config.ConnConfig.Password = role, "secret"
			config.ConnConfig.RuntimeParams["search_path"] = schema
			config.MaxConns = connections
		})
	}
	table := New(Config{Pool: asRole(8), Name: "sessions", Now: owner.config.Now, Timeout: time.Minute})
	var group sync.WaitGroup
	for b := range byte(callers) {
		group.Go(func() {
			for range 5 {
				_, err := table.Put(ctx, write(b))
				require.NoError(t, err)
				_, err = table.Load(ctx, key(b))
				require.NoError(t, err)
			}
		})
	}
	group.Wait()

	table.pool.Close()
	other := asRole(limit)
	for range limit {
		require.Eventually(t, func() bool {
			conn, err := other.Acquire(ctx)
			if err == nil {
				t.Cleanup(conn.Release)
			}
			return err == nil
		}, time.Minute, time.Millisecond, "once the server has seen the others go")
	}
	table = New(Config{Pool: asRole(1), Name: "sessions", Now: owner.config.Now, Timeout: 300 * time.Millisecond})
	began := time.Now()
	_, err := table.Load(ctx, key(1))
	require.Error(t, err)
	require.GreaterOrEqual(t, time.Since(began), 200*time.Millisecond)
	require.Less(t, time.Since(began), 5*time.Second)
}

// TestMany_KeepsPlans wants the server to keep the plan of each statement for several rows,
// however few, since to plan it anew costs more than to run it. The plan goes through the index,
// however few sessions there are, since there may be more before the server looks again.
func TestMany_KeepsPlans(t *testing.T) {
	pgtest.NotDistributed(t, "the plans are those of the machines with the shards")
	t.Parallel()
	const rowsThere, keptAfter = 1000, 5
	table := newTable(t, func(config *pgxpool.Config) {
		config.MaxConns = 1
		config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement
	})
	ctx := t.Context()
	_, err := table.pool.Exec(ctx, `
		INSERT INTO sessions (key, sealed, version, created_at, expires_at, idle_timeout)
		SELECT sha256(i::text::bytea), '0', 1, $1, $2, '1 hour' FROM generate_series(1, $3::int) AS i`, epoch, epoch.Add(time.Hour), rowsThere)
	require.NoError(t, err)
	_, err = table.pool.Exec(ctx, `ANALYZE sessions`)
	require.NoError(t, err)
	scans := func() (n int) {
		_, err := table.pool.Exec(ctx, `SELECT pg_stat_force_next_flush()`)
		require.NoError(t, err)
		require.NoError(t, table.pool.QueryRow(ctx, `SELECT seq_scan FROM pg_stat_user_tables WHERE relid = 'sessions'::regclass`).Scan(&n))
		return n
	}
	requireKept := func(many statement, name string) {
		var generic, custom int
		require.NoError(t, table.pool.QueryRow(ctx, `SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement = $1`,
			table.text(many)).Scan(&generic, &custom), name)
		require.Equal(t, []int{1, keptAfter}, []int{generic, custom}, name)
	}
	before := scans()
	next := byte(0)
	for _, k := range []*kind{saveKind, putKind, swapKind, renewKind, insertKind, touchKind, endKind, resealKind} {
		for range keptAfter + 1 {
			next += 2
			seen := insert(t, table, next-1, next)
			var changes []*change
			for _, row := range seen {
				c := &change{w: write(row.Key[0])}
				c.w.TTL *= 2
				switch k {
				case swapKind, resealKind:
					c.seen = row
				case renewKind:
					c.seen, c.w.Key[1] = row, 1
				case insertKind, putKind:
					c.w.Key[1] = 2
				}
				changes = append(changes, c)
			}
			for _, a := range inOneStatement(t, table, k, changes...) {
				require.Equal(t, answer{known: true, row: a.row}, a, k.name)
			}
		}
		requireKept(k.many, k.name)
	}
	for range keptAfter + 1 {
		require.NoError(t, table.loadMany(ctx, []rows.Key{key(1), key(2)}, func(int, rows.Row) {}))
	}
	requireKept(loadManySQL, "load")
	require.Equal(t, before, scans())
}

// LoadOutcomes says of each row what Row.Load says.
func TestLoadOutcomes(t *testing.T) {
	t.Parallel()
	table := newTable(t)
	insert(t, table, 1, 2, 3, 4)
	keys := []rows.Key{key(1), key(2), key(3), key(4), key(5), {}}
	for _, ended := range keys[2:4] {
		_, err := table.End(t.Context(), ended)
		require.NoError(t, err)
	}
	for _, expired := range []rows.Key{keys[1], keys[3]} {
		_, err := table.pool.Exec(t.Context(), `UPDATE sessions SET expires_at = $1 WHERE key = $2`, epoch, expired.Bytes())
		require.NoError(t, err)
	}
	outcomes, err := table.LoadOutcomes(t.Context(), keys)
	require.NoError(t, err)
	require.Equal(t, []rows.Outcome{rows.OK, rows.NotFound, rows.Revoked, rows.Revoked, rows.NotFound, rows.NotFound}, outcomes)
	for i, key := range keys {
		row, err := table.Load(t.Context(), key)
		require.NoError(t, err)
		require.Equal(t, row.Load(epoch), outcomes[i])
	}
}
