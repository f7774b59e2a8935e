package move_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/bridge"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/test"
	"github.com/pgsession/pgsession/move"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(childURL); url != "" {
		importInChild(url)
	}
	pgtest.Main(m, func() error { return goleak.Find() })
}

var errUnreadable = errors.New("unreadable")

// raw keeps a row's bytes, and refuses some.
func raw(row move.Row) (pgsession.ID, pgsession.Data, time.Time, error) {
	if bytes.HasPrefix(row.Data, []byte("unreadable")) {
		return pgsession.ID{}, pgsession.Data{}, time.Time{}, errUnreadable
	}
	return pgsession.DeriveID(row.Token), pgsession.Data{Values: row.Data}, row.Expiry, nil
}

// The tables as the libraries' own documentation makes them.
const (
	scsTable = `CREATE TABLE sessions (token TEXT PRIMARY KEY, data BYTEA NOT NULL, expiry TIMESTAMPTZ NOT NULL);
		CREATE INDEX sessions_expiry_idx ON sessions (expiry)`
	gorillaTable = `CREATE TABLE http_sessions (id BIGSERIAL PRIMARY KEY, key BYTEA, data BYTEA,
		created_on TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP, modified_on TIMESTAMPTZ, expires_on TIMESTAMPTZ)`
	connectTable = `CREATE TABLE "session" ("sid" varchar NOT NULL COLLATE "default" PRIMARY KEY, "sess" json NOT NULL, "expire" timestamp(6) NOT NULL)`
)

func newStore(t testing.TB, pool *pgxpool.Pool, opts ...pgsession.Option) *pgsession.Store {
	t.Helper()
	return test.OpenTable(t, pool, "moved_sessions", opts...)
}

// newSCS returns a table with n sessions of the tokens token-0 and on.
func newSCS(t testing.TB, pool *pgxpool.Pool, n int) *move.Table {
	t.Helper()
	run(t, pool, scsTable)
	run(t, pool, `INSERT INTO sessions SELECT 'token-' || n, convert_to('value-' || n, 'UTF8'), now() + '1 hour' FROM generate_series(0, $1 - 1) AS n`, n)
	return move.FromSCS(pool, "sessions")
}

func run(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	_, err := pool.Exec(t.Context(), sql, append([]any{pgx.QueryExecModeSimpleProtocol}, args...)...)
	require.NoError(t, err)
}

func count(t testing.TB, pool *pgxpool.Pool, where string) (n int) {
	t.Helper()
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM `+where).Scan(&n))
	return n
}

func requireValue(t testing.TB, store *pgsession.Store, token, want string) {
	t.Helper()
	session, err := store.Load(t.Context(), pgsession.DeriveID(token))
	require.NoError(t, err, token)
	value, err := pgsession.Decode[[]byte](session)
	require.NoError(t, err)
	require.Equal(t, want, string(value))
}

func TestImport_Sources(t *testing.T) {
	t.Parallel()
	for name, source := range map[string]struct {
		ddl, table, insert, token string
		open                      func(*pgxpool.Pool, string) *move.Table
		convert                   move.Convert
		value                     string
	}{
		"scs": {scsTable, "sessions", `INSERT INTO sessions VALUES ($1, convert_to($2, 'UTF8'), $3)`, "token",
			move.FromSCS, raw, `{"secret":"tea"}`},
		"gorilla": {gorillaTable, "http_sessions", `INSERT INTO http_sessions (key, data, expires_on) VALUES (convert_to($1, 'UTF8'), convert_to($2, 'UTF8'), $3)`, "key",
			move.FromGorilla, raw, `{"secret":"tea"}`},
		"connect": {connectTable, "session", `INSERT INTO session VALUES ($1, $2::json, $3)`, "sid",
			move.FromConnect, move.JSON, `{"secret":"tea"}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, schema := pgtest.Schema(t)
			run(t, pool, source.ddl)
			expiry := time.Now().Add(time.Hour).Round(time.Second)
			for _, token := range []string{"Zeta", "alpha", "moved"} {
				run(t, pool, source.insert, token, source.value, expiry)
			}
			run(t, pool, source.insert, "over", source.value, time.Now().Add(-time.Hour))
			run(t, pool, source.insert, "forever", source.value, "infinity") // no store takes it
			store := newStore(t, pool)
			from := source.open(pool, schema+"."+source.table)

			require.NoError(t, from.Insert(t.Context(), move.Row{Token: "new", Data: []byte(source.value), Expiry: expiry}))
			row, found, err := from.Load(t.Context(), "new")
			require.NoError(t, err)
			require.True(t, found)
			require.JSONEq(t, source.value, string(row.Data))
			require.WithinDuration(t, expiry, row.Expiry, time.Millisecond)
			require.NotContains(t, fmt.Sprintf("%v %+v %#v %s", row, row, row, row), "tea")
			_, found, err = from.Load(t.Context(), "over")
			require.NoError(t, err)
			require.False(t, found)
			_, found, err = from.Load(t.Context(), "forever")
			require.NoError(t, err)
			require.True(t, found)

			done, err := move.Import(t.Context(), store, from, source.convert, nil)
			require.NoError(t, err)
			require.Equal(t, move.Progress{Moved: 4, Left: 1, Total: 5, Reason: pgsession.ErrInvalidTTL}, done)
			for _, token := range []string{"Zeta", "alpha", "moved", "new"} {
				session, err := store.Load(t.Context(), pgsession.DeriveID(token))
				require.NoError(t, err)
				require.WithinDuration(t, expiry, session.ExpiresAt, 10*time.Second)
			}
			all, err := from.All(t.Context())
			require.NoError(t, err)
			require.Len(t, all, 1)
			require.Equal(t, 2, count(t, pool, source.table)) // the one that is over, and the one that never is
			requireNothingReadable(t, pool, "Zeta", "alpha", "tea")
		})
	}
}

// requireNothingReadable looks at the columns as a thief of the table would.
func requireNothingReadable(t testing.TB, pool *pgxpool.Pool, secrets ...string) {
	t.Helper()
	result, err := pool.Query(t.Context(), `SELECT to_jsonb(m)::text || encode(key, 'escape') || coalesce(encode(user_key, 'escape'), '') || encode(sealed, 'escape') FROM moved_sessions AS m`)
	require.NoError(t, err)
	rows, err := pgx.CollectRows(result, pgx.RowTo[string])
	require.NoError(t, err)
	require.NotEmpty(t, rows)
	for _, row := range rows {
		for _, secret := range secrets {
			require.NotContains(t, row, secret)
		}
	}
}

func TestJSON(t *testing.T) {
	t.Parallel()
	_, data, _, err := move.JSON(move.Row{Token: "sid", Data: []byte(`{"user":7}`)})
	require.NoError(t, err)
	require.Equal(t, json.RawMessage(`{"user":7}`), data.Values)
}

// Rows that cannot be moved stay, and can still be used.
func TestImport_Left(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	from := newSCS(t, pool, 1200)
	run(t, pool, `UPDATE sessions SET data = 'unreadable' WHERE token = 'token-7'`)
	run(t, pool, `UPDATE sessions SET data = convert_to(repeat('x', 100), 'UTF8') WHERE token = 'token-8'`)
	store := newStore(t, pool, pgsession.WithMaxSize(50))
	var reports []move.Progress
	done, err := move.Import(t.Context(), store, from, raw, func(p move.Progress) { reports = append(reports, p) })
	require.NoError(t, err)
	require.EqualValues(t, 1198, done.Moved)
	require.EqualValues(t, 2, done.Left)
	require.EqualValues(t, 1200, done.Total)
	require.Error(t, done.Reason)
	require.GreaterOrEqual(t, len(reports), 3)
	require.Equal(t, 2, count(t, pool, `sessions WHERE token IN ('token-7', 'token-8')`))
	require.Equal(t, 2, count(t, pool, `sessions`))

	done, err = move.Import(t.Context(), test.OpenTable(t, pool, "larger_sessions"), from, raw, nil)
	require.NoError(t, err)
	require.EqualValues(t, 1, done.Left)
	require.ErrorIs(t, done.Reason, errUnreadable)
}

// A change that the application commits while the import waits for the row is moved with it.
func TestImport_ChangeMeanwhile(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	from := newSCS(t, pool, 3)
	store := newStore(t, pool)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `UPDATE sessions SET data = 'changed' WHERE token = 'token-1'`)
	require.NoError(t, err)

	imported := make(chan error, 1)
	go func() {
		_, err := move.Import(t.Context(), store, from, raw, nil)
		imported <- err
	}()
	require.Eventually(t, func() bool {
		return count(t, pool, `pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = current_setting('application_name')`) == 1
	}, 30*time.Second, time.Millisecond)
	require.NoError(t, tx.Commit(t.Context()))
	require.NoError(t, <-imported)
	requireValue(t, store, "token-1", "changed")
	require.Zero(t, count(t, pool, "sessions"))
}

// begin leaves rows as an import does that was killed before it created them in the store.
func begin(t testing.TB, pool *pgxpool.Pool) {
	t.Helper()
	run(t, pool, `UPDATE sessions SET token = 'moving:' || token`)
}

func TestImport_Resumes(t *testing.T) {
	t.Parallel()
	t.Run("killed before the session was created", func(t *testing.T) {
		t.Parallel()
		pool := pgtest.Pool(t)
		from, store := newSCS(t, pool, 2), newStore(t, pool)
		begin(t, pool)
		done, err := move.Import(t.Context(), store, from, raw, nil)
		require.NoError(t, err)
		require.EqualValues(t, 2, done.Moved)
		requireValue(t, store, "token-1", "value-1")
		require.Zero(t, count(t, pool, "sessions"))
	})
	t.Run("killed before the row was removed", func(t *testing.T) {
		t.Parallel()
		pool := pgtest.Pool(t)
		from, store := newSCS(t, pool, 2), newStore(t, pool)
		begin(t, pool)
		_, err := store.CreateAs(t.Context(), pgsession.DeriveID("token-0"), pgsession.Data{Values: []byte("newer")}, time.Hour)
		require.NoError(t, err)
		_, err = store.CreateAs(t.Context(), pgsession.DeriveID("token-1"), pgsession.Data{Values: []byte("ended")}, time.Hour)
		require.NoError(t, err)
		require.NoError(t, store.Delete(t.Context(), pgsession.DeriveID("token-1")))
		_, err = move.Import(t.Context(), store, from, raw, nil)
		require.NoError(t, err)
		requireValue(t, store, "token-0", "newer")
		_, err = store.Load(t.Context(), pgsession.DeriveID("token-1"))
		require.ErrorIs(t, err, pgsession.ErrRevoked)
		require.Zero(t, count(t, pool, "sessions"))
	})
	t.Run("cancelled", func(t *testing.T) {
		t.Parallel()
		pool := pgtest.Pool(t)
		from, store := newSCS(t, pool, 1200), newStore(t, pool)
		ctx, cancel := context.WithCancel(t.Context())
		_, err := move.Import(ctx, store, from, raw, func(move.Progress) { cancel() })
		require.ErrorIs(t, err, context.Canceled)
		left := count(t, pool, "sessions")
		require.Positive(t, left)
		require.Less(t, left, 1200)
		requireAllMoved(t, store, from, pool, 1200)
	})
	t.Run("a failure of the store", func(t *testing.T) {
		t.Parallel()
		pool := pgtest.Pool(t)
		from, store := newSCS(t, pool, 600), newStore(t, pool)
		run(t, pool, `ALTER TABLE moved_sessions RENAME TO away`)
		_, err := move.Import(t.Context(), store, from, raw, nil)
		require.Error(t, err)
		require.Equal(t, 600, count(t, pool, "sessions"))
		run(t, pool, `ALTER TABLE away RENAME TO moved_sessions`)
		requireAllMoved(t, store, from, pool, 600)
	})
}

func requireAllMoved(t testing.TB, store *pgsession.Store, from *move.Table, pool *pgxpool.Pool, n int) {
	t.Helper()
	_, err := move.Import(t.Context(), store, from, raw, nil)
	require.NoError(t, err)
	require.Zero(t, count(t, pool, "sessions"))
	require.Equal(t, n, count(t, pool, "moved_sessions"))
	for i := range n {
		requireValue(t, store, fmt.Sprint("token-", i), fmt.Sprint("value-", i))
	}
}

const childURL = "MOVE_TEST_URL"

// importInChild is an import in a process of its own, which says when it has moved the first batch.
func importInChild(url string) {
	ctx := context.Background()
	pool := test.Must(pgxpool.New(ctx, url))
	store := test.Open(pool, pgsession.WithTable("moved_sessions"))
	test.Must(move.Import(ctx, store, move.FromSCS(pool, "sessions"), raw, func(move.Progress) { fmt.Println("moved a batch") }))
	os.Exit(0)
}

func TestImport_Killed(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	const n = 20_000
	from, store := newSCS(t, pool, n), newStore(t, pool)

	program, err := os.Executable()
	require.NoError(t, err)
	child := exec.CommandContext(t.Context(), program)
	child.Env = append(os.Environ(), childURL+"="+pgtest.URL(t, pool))
	child.Stderr = os.Stderr
	output, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	_, err = bufio.NewReader(output).ReadString('\n')
	require.NoError(t, err)
	require.NoError(t, child.Process.Kill())
	require.Error(t, child.Wait())
	left := count(t, pool, "sessions")
	require.Positive(t, left)
	require.Less(t, left, n)

	_, err = move.Import(t.Context(), store, from, raw, nil)
	require.NoError(t, err)
	require.Zero(t, count(t, pool, "sessions"))
	require.Equal(t, n, count(t, pool, "moved_sessions"))
}

// A row that is being moved can be read, and neither changed nor ended where it was.
func TestTable_Marked(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	from, store := newSCS(t, pool, 2), newStore(t, pool)
	row := move.Row{Token: "token-0", Data: []byte("changed"), Expiry: time.Now().Add(2 * time.Hour)}
	replaced, err := from.Replace(t.Context(), row)
	require.NoError(t, err)
	require.True(t, replaced)
	require.NoError(t, from.Finish(t.Context(), store, "token-0", raw)) // nothing to do
	begin(t, pool)

	found, ok, err := from.Load(t.Context(), "token-0")
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, "changed", string(found.Data))
	all, err := from.All(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.True(t, strings.HasPrefix(all[0].Token, "token-"))

	row.Data = []byte("too late")
	replaced, err = from.Replace(t.Context(), row)
	require.NoError(t, err)
	require.False(t, replaced)
	deleted, err := from.Delete(t.Context(), "token-0")
	require.NoError(t, err)
	require.False(t, deleted)

	require.NoError(t, from.Finish(t.Context(), store, "token-0", raw))
	requireValue(t, store, "token-0", "changed")
	_, ok, err = from.Load(t.Context(), "token-0")
	require.NoError(t, err)
	require.False(t, ok)
	run(t, pool, `UPDATE sessions SET data = 'unreadable'`)
	require.ErrorIs(t, from.Finish(t.Context(), store, "token-1", raw), errUnreadable)
	replaced, err = from.Replace(t.Context(), move.Row{Token: "token-1", Data: []byte("changed"), Expiry: row.Expiry})
	require.NoError(t, err)
	require.True(t, replaced, "a row that cannot be moved can be changed again")
}

// A visitor chooses the token, and a row that is being moved lies under another one.
func TestTable_MarkInToken(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	from, store := newSCS(t, pool, 1), newStore(t, pool)
	begin(t, pool)
	const token = "moving:token-0"
	_, found, err := from.Load(t.Context(), token)
	require.NoError(t, err)
	require.False(t, found)
	row := move.Row{Token: token, Data: []byte("changed"), Expiry: time.Now().Add(time.Hour)}
	replaced, err := from.Replace(t.Context(), row)
	require.NoError(t, err)
	require.False(t, replaced)
	deleted, err := from.Delete(t.Context(), token)
	require.NoError(t, err)
	require.False(t, deleted)
	require.Error(t, from.Insert(t.Context(), row))
	require.NoError(t, from.Finish(t.Context(), store, token, raw))
	require.Equal(t, 1, count(t, pool, "sessions"))
}

// ofUser makes the part of a row's data before a dash its user.
func ofUser(row move.Row) (pgsession.ID, pgsession.Data, time.Time, error) {
	id, data, expiry, err := raw(row)
	data.UserID, _, _ = strings.Cut(string(row.Data), "-")
	return id, data, expiry, err
}

// Wherever a user's sessions are, and whatever an import has left behind, DeleteByUser ends them.
func TestTable_EndWith(t *testing.T) {
	t.Parallel()
	type prepared struct {
		store *pgsession.Store
		from  *move.Table
		pool  *pgxpool.Pool
	}
	for name, put := range map[string]func(t *testing.T, p prepared, token string){
		"in the table": func(*testing.T, prepared, string) {},
		"marked": func(t *testing.T, p prepared, token string) {
			run(t, p.pool, `UPDATE sessions SET token = 'moving:' || token WHERE token = $1`, token)
		},
		"marked, and in the store": func(t *testing.T, p prepared, token string) {
			row, _, err := p.from.Load(t.Context(), token)
			require.NoError(t, err)
			id, data, _, _ := ofUser(row)
			_, err = p.store.CreateAs(t.Context(), id, data, time.Hour)
			require.NoError(t, err)
			run(t, p.pool, `UPDATE sessions SET token = 'moving:' || token WHERE token = $1`, token)
		},
		"in the store": func(t *testing.T, p prepared, token string) {
			run(t, p.pool, `UPDATE sessions SET token = 'moving:' || token WHERE token = $1`, token)
			require.NoError(t, p.from.Finish(t.Context(), p.store, token, ofUser))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := pgtest.Pool(t)
			run(t, pool, scsTable)
			p := prepared{newStore(t, pool), move.FromSCS(pool, "sessions"), pool}
			p.from.EndWith(p.store, ofUser)
			all := map[string]string{"a": "ann-1", "b": "ann-2", "c": "bob-1", "d": "unreadable", "e": "-guest"}
			for token, data := range all {
				require.NoError(t, p.from.Insert(t.Context(), move.Row{Token: token, Data: []byte(data), Expiry: time.Now().Add(time.Hour)}))
				if data != "unreadable" {
					put(t, p, token)
				}
			}
			requireLive := func(live ...string) {
				t.Helper()
				for token := range all {
					_, err := p.store.Load(t.Context(), pgsession.DeriveID(token))
					_, inOld, loadErr := p.from.Load(t.Context(), token)
					require.NoError(t, loadErr)
					isLive := err == nil || inOld && !errors.Is(err, pgsession.ErrRevoked)
					require.Equal(t, slices.Contains(live, token), isLive, token)
				}
			}
			requireLive("a", "b", "c", "d", "e")

			ended, err := p.store.DeleteByUser(t.Context(), "ann", pgsession.DeriveID("b").Handle())
			require.NoError(t, err)
			require.EqualValues(t, 1, ended)
			requireLive("b", "c", "d", "e")
			ended, err = p.store.DeleteByUser(t.Context(), "")
			require.NoError(t, err)
			require.Zero(t, ended)
			ended, err = p.store.DeleteByUser(t.Context(), "ann")
			require.NoError(t, err)
			require.EqualValues(t, 1, ended)
			requireLive("c", "d", "e")
			_, err = move.Import(t.Context(), p.store, p.from, ofUser, nil)
			require.NoError(t, err)
			requireLive("c", "d", "e")

			ended, err = p.store.DeleteAll(t.Context())
			require.NoError(t, err)
			require.EqualValues(t, 3, ended)
			requireLive()
			run(t, pool, `DROP TABLE sessions`)
			_, err = p.store.DeleteByUser(t.Context(), "ann")
			require.ErrorContains(t, err, "42P01", "it does not say that it is done")
		})
	}
}

// DeleteByUser looks in the old table before and after it looks in the store: a session that moves
// in between, in either direction, is met in one place or the other.
func TestTable_EndWith_Between(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	from, store := newSCS(t, pool, 0), newStore(t, pool)
	insert := func(token string) error {
		return from.Insert(t.Context(), move.Row{Token: token, Data: []byte("ann-1"), Expiry: time.Now().Add(time.Hour)})
	}
	require.NoError(t, insert("to the store"))
	inStore, err := store.Create(t.Context(), pgsession.Data{UserID: "ann"}, time.Hour)
	require.NoError(t, err)
	whenEnded := func(want bool, do func() error) {
		bridge.EndElsewhere(store, func(context.Context, func(string, any) bool) (int64, error) {
			if _, err := store.Load(t.Context(), inStore.ID); errors.Is(err, pgsession.ErrRevoked) != want {
				return 0, nil
			}
			return 0, do()
		})
	}
	whenEnded(true, func() error {
		run(t, pool, `UPDATE sessions SET token = 'moving:' || token WHERE token = 'to the store'`)
		return from.Finish(t.Context(), store, "to the store", ofUser)
	})
	from.EndWith(store, ofUser)
	whenEnded(false, func() error { return insert("from the store") })

	ended, err := store.DeleteByUser(t.Context(), "ann")
	require.NoError(t, err)
	require.EqualValues(t, 3, ended)
	left, err := store.FindByUser(t.Context(), "ann", 0)
	require.NoError(t, err)
	require.Empty(t, left)
	require.Zero(t, count(t, pool, "sessions"))
}

// Users log out everywhere while their sessions move.
func TestTable_EndWith_Meanwhile(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	from, store := newSCS(t, pool, 0), newStore(t, pool)
	from.EndWith(store, ofUser)
	const users = 40
	run(t, pool, `INSERT INTO sessions SELECT 'token-' || n, convert_to('user' || n % $1 || '-x', 'UTF8'), now() + '1 hour' FROM generate_series(0, 1999) AS n`, users)
	var imported sync.WaitGroup
	imported.Go(func() {
		_, err := move.Import(t.Context(), store, from, ofUser, nil)
		assert.NoError(t, err)
	})
	for user := range users {
		ended, err := store.DeleteByUser(t.Context(), fmt.Sprint("user", user))
		require.NoError(t, err)
		require.LessOrEqual(t, ended, int64(2000/users))
		require.Zero(t, count(t, pool, fmt.Sprintf(`sessions WHERE data = 'user%d-x'`, user)))
	}
	imported.Wait()
	for session, err := range store.All(t.Context()) {
		require.NoError(t, err)
		require.Fail(t, "a session lives on", "%s", session.Handle)
	}
	require.Zero(t, count(t, pool, "sessions"))
}

// Neither Replace nor Load sees a session that is over.
func TestTable_Expired(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	from := newSCS(t, pool, 1)
	run(t, pool, `UPDATE sessions SET expiry = now()`)
	replaced, err := from.Replace(t.Context(), move.Row{Token: "token-0", Data: []byte("revived"), Expiry: time.Now().Add(time.Hour)})
	require.NoError(t, err)
	require.False(t, replaced)
}

// The default name of the store's table is that of scs.
func TestInit_TableOfSCS(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	newSCS(t, pool, 1)
	err := test.Open(pool).Init(t.Context())
	require.ErrorIs(t, err, pgsession.ErrSchema)
	require.ErrorContains(t, err, "sessions: ")
	require.ErrorContains(t, err, "column token is not ours")
	require.Equal(t, 1, count(t, pool, "sessions"))
	t.Log(err)

	require.NoError(t, test.Open(pool, pgsession.WithTable("app_sessions")).Init(t.Context()))
	run(t, pool, `ALTER TABLE sessions RENAME TO scs_sessions`)
	require.NoError(t, test.Open(pool).Init(t.Context()))
}

func TestBar(t *testing.T) {
	t.Parallel()
	var text bytes.Buffer
	report := move.Bar(&text) // no terminal
	report(move.Progress{Moved: 500, Total: 1200})
	report(move.Progress{Moved: 1000, Total: 1200})
	report(move.Progress{Moved: 1198, Left: 2, Total: 1200, Reason: errUnreadable})
	require.Equal(t, "sessions: 500 moved, 0 left, of 1200\nsessions: 1198 moved, 2 left, of 1200\n", text.String())
}
