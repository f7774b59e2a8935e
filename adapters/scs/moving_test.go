package scsstore_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alexedwards/scs/pgxstore"
	"github.com/alexedwards/scs/v2"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	scsstore "github.com/pgsession/pgsession/adapters/scs"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/test"
	"github.com/pgsession/pgsession/move"
)

var (
	idleSessions = flag.Int("sessions", 3000, "TestMoving_Traffic: how many sessions are moved beside those of the clients")
	clients      = flag.Int("clients", 50, "TestMoving_Traffic: how many clients there are at once")
)

var userCodec = scsstore.UserCodec(scs.GobCodec{}, "userID")

// oldTable makes scs's table, as the README of its pgxstore does.
func oldTable(t testing.TB, pool *pgxpool.Pool) *move.Table {
	t.Helper()
	_, err := pool.Exec(t.Context(), `CREATE TABLE sessions (token TEXT PRIMARY KEY, data BYTEA NOT NULL, expiry TIMESTAMPTZ NOT NULL);
		CREATE INDEX sessions_expiry_idx ON sessions (expiry)`, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	return move.FromSCS(pool, "sessions")
}

// requireNothingReadable looks at the columns as a thief of the table would.
func requireNothingReadable(t testing.TB, pool *pgxpool.Pool, secrets ...string) {
	t.Helper()
	result, err := pool.Query(t.Context(), `SELECT to_jsonb(s)::text || encode(key, 'escape') || coalesce(encode(user_key, 'escape'), '') || encode(sealed, 'escape') FROM `+table+` AS s WHERE sealed IS NOT NULL`)
	require.NoError(t, err)
	rows, err := pgx.CollectRows(result, pgx.RowTo[string])
	require.NoError(t, err)
	require.NotEmpty(t, rows)
	all := strings.Join(rows, "\n")
	for _, secret := range secrets {
		require.NotContains(t, all, secret)
	}
}

func count(t testing.TB, pool *pgxpool.Pool, where string) (n int) {
	t.Helper()
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM `+where).Scan(&n))
	return n
}

// A moving is a site whose sessions lie in scs's table, with an instance of the application.
type moving struct {
	*app
	pool *pgxpool.Pool
	from *move.Table
}

func newMoving(t testing.TB, createInOld bool) *moving {
	t.Helper()
	pool := pgtest.Pool(t)
	from := oldTable(t, pool)
	return &moving{newApp(t, newStore(t, pool), scsstore.WithMoving(scsstore.Moving{From: from, Codec: userCodec, CreateInOld: createInOld})), pool, from}
}

func (m *moving) convert(row move.Row) (pgsession.ID, pgsession.Data, time.Time, error) {
	return m.Store.(*scsstore.Store).Convert(row)
}

// visitor returns a browser whose session the old code made.
func (m *moving) visitor(t testing.TB, values map[string]any) *browser {
	t.Helper()
	manager := scs.New()
	manager.Store = pgxstore.NewWithCleanupInterval(m.pool, 0)
	server := httptest.NewServer(manager.LoadAndSave(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for key, value := range values {
			manager.Put(r.Context(), key, value)
		}
	})))
	defer server.Close()
	b := m.newBrowser(t)
	b.site = server.URL
	b.ok("/")
	b.site = m.url // cookies do not tell ports apart
	return b
}

// The states that a session may be in, by what an import has done before it was killed.
var states = map[string]func(t testing.TB, m *moving, token string){
	"in the old table": func(testing.TB, *moving, string) {},
	"marked":           mark,
	"in both": func(t testing.TB, m *moving, token string) {
		_, err := m.pool.Exec(t.Context(), `INSERT INTO sessions SELECT 'copy:' || token, data, expiry FROM sessions WHERE token = $1`, token)
		require.NoError(t, err)
		mark(t, m, token)
		require.NoError(t, m.from.Finish(t.Context(), m.store, token, m.convert))
		_, err = m.pool.Exec(t.Context(), `UPDATE sessions SET token = 'moving:' || $1::text WHERE token = 'copy:' || $1::text`, token)
		require.NoError(t, err)
	},
	"in the new table": func(t testing.TB, m *moving, token string) { m.importAll(t) },
}

func mark(t testing.TB, m *moving, token string) {
	t.Helper()
	tag, err := m.pool.Exec(t.Context(), `UPDATE sessions SET token = 'moving:' || token WHERE token = $1`, token)
	require.NoError(t, err)
	require.EqualValues(t, 1, tag.RowsAffected())
}

func (m *moving) importAll(t testing.TB) {
	t.Helper()
	_, err := move.Import(t.Context(), m.store, m.from, m.convert, nil)
	require.NoError(t, err)
	require.Zero(t, count(t, m.pool, "sessions"))
}

// onEachState runs a test with a session of ann in each state. The function disturb brings it
// there, and may be called before or in the middle of a request.
func onEachState(t *testing.T, test func(t *testing.T, m *moving, ann *browser, disturb func())) {
	t.Parallel()
	for name, bring := range states {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMoving(t, true)
			ann := m.visitor(t, map[string]any{"userID": "ann", "n": "1"})
			test(t, m, ann, func() { bring(t, m, ann.token()) })
		})
	}
}

func TestMoving_Change(t *testing.T) {
	onEachState(t, func(t *testing.T, m *moving, ann *browser, disturb func()) {
		disturb()
		require.Equal(t, "n=1 userID=ann", ann.ok("/get"))
		all, err := m.Store.(*scsstore.Store).All()
		require.NoError(t, err)
		require.Contains(t, all, ann.token())
		ann.ok("/put?key=n&value=2")
		require.Equal(t, "n=2 userID=ann", ann.ok("/get"))
		m.importAll(t)
		require.Equal(t, "n=2 userID=ann", ann.ok("/get"))
		require.Equal(t, "ann", load(t, m.store, ann.token()).UserID)
		requireNothingReadable(t, m.pool, ann.token(), "ann")
	})
}

// The session moves while a request is under way.
func TestMoving_ChangeMeanwhile(t *testing.T) {
	onEachState(t, func(t *testing.T, m *moving, ann *browser, disturb func()) {
		slow := m.during(ann.same(), func(w http.ResponseWriter, r *http.Request) { m.Put(r.Context(), "n", "2") }, disturb)
		require.Equal(t, http.StatusOK, slow.status)
		require.Equal(t, "n=2 userID=ann", ann.ok("/get"))
		m.importAll(t)
		require.Equal(t, "n=2 userID=ann", ann.ok("/get"))
	})
}

func TestMoving_LogOutIsFinal(t *testing.T) {
	onEachState(t, func(t *testing.T, m *moving, ann *browser, disturb func()) {
		begun, goOn := m.held("/slow", func(w http.ResponseWriter, r *http.Request) { m.Put(r.Context(), "n", "2") })
		renewing, renew := m.held("/renew", func(w http.ResponseWriter, r *http.Request) { require.NoError(t, m.RenewToken(r.Context())) })
		late := ann.same()
		slow := ann.same().inBackground("/slow")
		<-begun
		renewed := ann.same().inBackground("/renew")
		<-renewing
		disturb()
		ann.ok("/logout")
		goOn()
		renew()
		require.Equal(t, http.StatusConflict, (<-slow).status)
		require.Equal(t, http.StatusConflict, (<-renewed).status)
		require.Empty(t, late.ok("/get"))
		m.importAll(t)
		require.Empty(t, late.ok("/get"))
	})
}

func TestMoving_RenewToken(t *testing.T) {
	for _, createInOld := range []bool{true, false} {
		t.Run(fmt.Sprint(createInOld), func(t *testing.T) {
			t.Parallel()
			m := newMoving(t, createInOld)
			ann := m.visitor(t, map[string]any{"n": "1"})
			old := ann.same()
			ann.ok("/login?user=ann")
			require.Empty(t, old.ok("/get"))
			require.Equal(t, "n=1 userID=ann", ann.ok("/get"))
			_, inOld, err := m.from.Load(t.Context(), ann.token())
			require.NoError(t, err)
			require.Equal(t, createInOld, inOld)
			ann.ok("/put?key=n&value=2")
			m.importAll(t)
			require.Equal(t, "n=2 userID=ann", ann.ok("/get"))
		})
	}
}

func TestMoving_UserChanged(t *testing.T) {
	t.Parallel()
	m := newMoving(t, true)
	victim := m.visitor(t, map[string]any{"n": "1"})
	require.Equal(t, http.StatusInternalServerError, victim.get("/put?key=userID&value=victim").status)
	require.Equal(t, "n=1", victim.ok("/get"))
}

// An instance is a running copy of the application that counts, at some release.
func newInstance(t testing.TB, store scs.Store, middleware func(*scs.SessionManager, http.Handler) http.Handler) string {
	manager := scs.New()
	manager.Store = store
	manager.ErrorFunc = func(w http.ResponseWriter, _ *http.Request, err error) {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
	if _, ours := store.(*scsstore.Store); ours {
		manager.Codec = scsstore.UserCodec(manager.Codec, "userID")
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/count", func(w http.ResponseWriter, r *http.Request) {
		n := manager.GetInt(r.Context(), "n") + 1
		manager.Put(r.Context(), "n", n)
		fmt.Fprint(w, n)
	})
	mux.HandleFunc("/login", func(w http.ResponseWriter, r *http.Request) {
		if err := manager.RenewToken(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		manager.Put(r.Context(), "userID", r.FormValue("user"))
		fmt.Fprint(w, manager.GetInt(r.Context(), "n"))
	})
	mux.HandleFunc("/logout", func(w http.ResponseWriter, r *http.Request) {
		if err := manager.Destroy(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("/show", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, manager.GetInt(r.Context(), "n")) })
	server := httptest.NewServer(middleware(manager, mux))
	t.Cleanup(server.Close)
	return server.URL
}

// traffic is what clients do, each one request after the other, on any instance that runs.
type traffic struct {
	t         testing.TB
	instances atomic.Pointer[[]string]
	requests  atomic.Int64
	moved     atomic.Int64 // log-outs
	stop      atomic.Bool
	mu        sync.Mutex
	ended     []string // tokens of sessions that were logged out, or renewed
	problems  []string
}

func (tr *traffic) problem(format string, args ...any) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.problems = append(tr.problems, fmt.Sprintf(format, args...))
}

func (tr *traffic) end(token string) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.ended = append(tr.ended, token)
}

// switchTo puts instances in the place of those that ran, and waits for some requests. A request
// that is under way on another instance ends there, as with a graceful stop.
func (tr *traffic) switchTo(instances ...string) {
	tr.instances.Store(&instances)
	goal := tr.requests.Load() + int64(*clients)*10
	require.Eventually(tr.t, func() bool { return tr.requests.Load() >= goal }, 10*patience, time.Millisecond)
}

// client counts, logs in and logs out, and wants each answer to be what it was told before.
func (tr *traffic) client(name string) {
	b := (&app{}).newBrowser(tr.t)
	counted := 0
	for i := 0; !tr.stop.Load(); i++ {
		path, want := "/count", strconv.Itoa(counted+1)
		switch rand.N(20) {
		case 0:
			path, want = "/login?user="+name, strconv.Itoa(counted)
		case 1:
			path, want = "/logout", ""
		case 2, 3, 4:
			path, want = "/show", strconv.Itoa(counted)
		}
		instances := *tr.instances.Load()
		b.site = instances[rand.N(len(instances))]
		token := b.token()
		got := b.get(path)
		if got.status != http.StatusOK || got.body != want {
			tr.problem("%s after %d requests: %s gave %d %q, and not %q", name, i, path, got.status, got.body, want)
			return
		}
		switch path {
		case "/count":
			counted++
		case "/logout":
			counted = 0
			tr.moved.Add(1)
		}
		if token != "" && b.token() != token {
			tr.end(token)
		}
		tr.requests.Add(1)
	}
}

// The three deploys that the README describes, under traffic, with an import that is cancelled and
// resumed.
func TestMoving_Traffic(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	from := oldTable(t, pool)
	store := newStore(t, pool)
	idle := addIdle(t, pool)

	release0 := func() string {
		return newInstance(t, pgxstore.NewWithCleanupInterval(pool, 0), func(m *scs.SessionManager, next http.Handler) http.Handler { return m.LoadAndSave(next) })
	}
	release := func(opts ...scsstore.Option) string {
		return newInstance(t, scsstore.New(store, realm, opts...), scsstore.LoadAndSave)
	}
	release1 := func() string {
		return release(scsstore.WithMoving(scsstore.Moving{From: from, Codec: userCodec, CreateInOld: true}))
	}
	release2 := func() string { return release(scsstore.WithMoving(scsstore.Moving{From: from, Codec: userCodec})) }
	release3 := func() string { return release() }

	tr := &traffic{t: t}
	tr.instances.Store(&[]string{release0()})
	var running sync.WaitGroup
	for i := range *clients {
		running.Go(func() { tr.client(fmt.Sprint("client-", i)) })
	}
	stop := func() {
		tr.stop.Store(true)
		running.Wait()
	}
	t.Cleanup(stop)

	tr.switchTo(release0(), release0())
	tr.switchTo(release0(), release1())
	tr.switchTo(release1(), release1())
	require.Zero(t, count(t, pool, table+` WHERE sealed IS NOT NULL AND expires_at > now() + interval '10 minutes'`), "none begins there")
	tr.switchTo(release1(), release2())
	require.Positive(t, count(t, pool, table))

	// The import runs beside instances of both releases.
	started := time.Now()
	ctx, cancel := context.WithCancel(t.Context())
	convert := scsstore.New(store, realm, scsstore.WithMoving(scsstore.Moving{From: from, Codec: userCodec})).Convert
	_, err := move.Import(ctx, store, from, convert, func(move.Progress) { cancel() })
	require.ErrorIs(t, err, context.Canceled)
	left := count(t, pool, "sessions")
	done, err := move.Import(t.Context(), store, from, convert, move.Bar(t.Output()))
	require.NoError(t, err)
	require.Zero(t, done.Left)
	t.Logf("imported %d sessions in %v, the last %d after an import that did not end; %d requests and %d log-outs so far",
		*idleSessions, time.Since(started).Round(time.Millisecond), left, tr.requests.Load(), tr.moved.Load())

	tr.switchTo(release2(), release2())
	_, err = move.Import(t.Context(), store, from, convert, nil)
	require.NoError(t, err)
	require.Zero(t, count(t, pool, "sessions"))
	tr.switchTo(release2(), release3())
	last := release3()
	tr.switchTo(last)
	stop()

	require.Empty(t, tr.problems)
	manager := scs.New()
	manager.Store = scsstore.New(store, realm)
	for _, token := range tr.ended {
		_, found, err := manager.Store.Find(token)
		require.NoError(t, err)
		require.False(t, found, "a session is back")
	}
	for token, want := range idle {
		ctx, err := manager.Load(t.Context(), token)
		require.NoError(t, err)
		require.Equal(t, want, manager.GetInt(ctx, "n"))
	}
	for token := range idle {
		requireNothingReadable(t, pool, token, "client-")
		break
	}
	require.Zero(t, count(t, pool, "sessions"))
	t.Logf("%d requests, %d sessions ended, %d idle ones moved", tr.requests.Load(), len(tr.ended), len(idle))
}

// addIdle stores sessions of visitors who do nothing meanwhile, and returns their counters by
// token.
func addIdle(t testing.TB, pool *pgxpool.Pool) map[string]int {
	t.Helper()
	idle := map[string]int{}
	var rows [][]any
	deadline := time.Now().Add(24 * hour).UTC()
	for n := range *idleSessions {
		token := "idle-" + pgsession.NewID().Token()
		b, err := scs.GobCodec{}.Encode(deadline, map[string]any{"n": n, "userID": fmt.Sprint("user-", n)})
		require.NoError(t, err)
		rows = append(rows, []any{token, b, deadline})
		idle[token] = n
	}
	_, err := pool.CopyFrom(t.Context(), pgx.Identifier{"sessions"}, []string{"token", "data", "expiry"}, pgx.CopyFromRows(rows))
	require.NoError(t, err)
	return idle
}

// A session that moves after the store was asked, and before the old table is, is found.
func TestMoving_Find_Meanwhile(t *testing.T) {
	t.Parallel()
	m := newMoving(t, false)
	ann := m.visitor(t, map[string]any{"n": "1"})
	traced := m.pool.Config()
	onLoad := sync.OnceFunc(func() { m.importAll(t) })
	traced.ConnConfig.Tracer = &test.Tracer{Start: func(_ context.Context, sql string) {
		if strings.Contains(sql, "token = ANY") && strings.Contains(sql, "SELECT") {
			onLoad()
		}
	}}
	pool, err := pgxpool.NewWithConfig(t.Context(), traced)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	s := scsstore.New(m.store, realm, scsstore.WithMoving(scsstore.Moving{From: move.FromSCS(pool, "sessions"), Codec: userCodec}))
	_, found, err := s.Find(ann.token())
	require.NoError(t, err)
	require.True(t, found)
}

// A session that was ended in the store is over, even if an instance from before deploy 1 writes it
// to the old table again.
func TestMoving_Find_Ended(t *testing.T) {
	t.Parallel()
	m := newMoving(t, false)
	ann := m.newBrowser(t)
	ann.ok("/login?user=ann")
	late := ann.same()
	token := ann.token()
	ann.ok("/logout")
	b, err := m.Codec.Encode(time.Now().Add(hour), map[string]any{"n": "1"})
	require.NoError(t, err)
	require.NoError(t, pgxstore.NewWithCleanupInterval(m.pool, 0).Commit(token, b, time.Now().Add(hour)))
	require.Empty(t, late.ok("/get"))
}
