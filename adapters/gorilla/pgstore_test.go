package gorillastore_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/securecookie"
	"github.com/gorilla/sessions"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	gorillastore "github.com/pgsession/pgsession/adapters/gorilla"
	"github.com/pgsession/pgsession/internal/test"
	"github.com/pgsession/pgsession/move"
)

var codecs = securecookie.CodecsFromPairs([]byte("the key of the application's pgstore"))

// pgstore does what antonlindstrom/pgstore does.
type pgstore struct{ pool *pgxpool.Pool }

func newPGStore(t testing.TB, pool *pgxpool.Pool) pgstore {
	t.Helper()
	_, err := pool.Exec(t.Context(), `CREATE TABLE http_sessions (
		id          BIGSERIAL PRIMARY KEY,
		key         BYTEA,
		data        BYTEA,
		created_on  TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP,
		modified_on TIMESTAMPTZ,
		expires_on  TIMESTAMPTZ)`)
	require.NoError(t, err)
	return pgstore{pool}
}

func (p pgstore) Get(r *http.Request, name string) (*sessions.Session, error) {
	return sessions.GetRegistry(r).Get(p, name)
}

func (p pgstore) New(r *http.Request, name string) (*sessions.Session, error) {
	session := sessions.NewSession(p, name)
	session.Options, session.IsNew = &sessions.Options{Path: "/", MaxAge: 86400 * 30}, true
	cookie, err := r.Cookie(name)
	if err != nil {
		return session, nil
	}
	if err = securecookie.DecodeMulti(name, cookie.Value, &session.ID, codecs...); err != nil {
		return session, err
	}
	var data []byte
	err = p.pool.QueryRow(r.Context(), `SELECT data FROM http_sessions WHERE key = $1`, []byte(session.ID)).Scan(&data)
	if err == nil {
		err = securecookie.DecodeMulti(name, string(data), &session.Values, codecs...)
	}
	session.IsNew = err != nil
	return session, err
}

func (p pgstore) Save(r *http.Request, w http.ResponseWriter, session *sessions.Session) error {
	if session.Options.MaxAge < 0 {
		_, err := p.pool.Exec(r.Context(), `DELETE FROM http_sessions WHERE key = $1`, []byte(session.ID))
		http.SetCookie(w, sessions.NewCookie(session.Name(), "", session.Options))
		return err
	}
	if session.ID == "" {
		session.ID = rand.Text() + rand.Text()
	}
	data, err := securecookie.EncodeMulti(session.Name(), session.Values, codecs...)
	if err != nil {
		return err
	}
	sql := `UPDATE http_sessions SET data = $2, modified_on = now(), expires_on = $3 WHERE key = $1`
	if session.IsNew {
		sql = `INSERT INTO http_sessions (key, data, modified_on, expires_on) VALUES ($1, $2, now(), $3)`
	}
	expiry := time.Now().Add(time.Duration(session.Options.MaxAge) * time.Second)
	if _, err := p.pool.Exec(r.Context(), sql, []byte(session.ID), []byte(data), expiry); err != nil {
		return err
	}
	cookie, err := securecookie.EncodeMulti(session.Name(), session.ID, codecs...)
	http.SetCookie(w, sessions.NewCookie(session.Name(), cookie, session.Options))
	return err
}

// A change from pgstore to ours: the stores of the releases that follow each other.
type moving struct {
	*fixture
	table     *move.Table
	old       sessions.Store
	one, two  *gorillastore.Store
	converter move.Convert
}

func newMoving(t *testing.T) moving {
	t.Helper()
	f := newFixture(t)
	m := moving{fixture: f, old: newPGStore(t, f.pool), table: move.FromGorilla(f.pool, "http_sessions")}
	release := func(p gorillastore.PGStore) *gorillastore.Store {
		p.Codecs = codecs
		return gorillastore.New(f.sealed, gorillastore.WithUserKey("user"), gorillastore.WithPGStore(p))
	}
	m.one = release(gorillastore.PGStore{Table: m.table, Names: []string{sessionName}, Stay: true})
	m.two = release(gorillastore.PGStore{Table: m.table, Names: []string{sessionName}})
	m.Store = release(gorillastore.PGStore{})
	m.converter = m.two.Convert
	return m
}

func (m moving) move(t *testing.T) move.Progress {
	t.Helper()
	progress, err := move.Import(t.Context(), m.sealed, m.table, m.converter, nil)
	require.NoError(t, err)
	return progress
}

func (m moving) oldRows(t *testing.T) (n int) {
	t.Helper()
	require.NoError(t, m.pool.QueryRow(t.Context(), `SELECT count(*) FROM http_sessions`).Scan(&n))
	return n
}

// Instances of two releases that follow each other serve one browser in turn.
func TestPGStore_TwoReleases(t *testing.T) {
	t.Parallel()
	for name, pair := range map[string]func(moving) [2]sessions.Store{
		"pgstore and step 1": func(m moving) [2]sessions.Store { return [2]sessions.Store{m.old, m.one} },
		"steps 1 and 2":      func(m moving) [2]sessions.Store { return [2]sessions.Store{m.one, m.two} },
		"steps 2 and 3":      func(m moving) [2]sessions.Store { return [2]sessions.Store{m.two, m.Store} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMoving(t)
			stores := pair(m)
			old, b := newBrowser(), newBrowser()
			old.logIn(t, m.old, "ann")
			if name == "steps 2 and 3" {
				m.move(t) // step 3 comes after it
			}
			for i := range 4 {
				for j, b := range []*browser{old, b} {
					store, other := stores[(i+j)%2], stores[(i+j+1)%2]
					b.change(t, store, func(s *sessions.Session) { s.Values["user"], s.Values[i] = "ann", i })
					require.Equal(t, i, b.see(t, other).Values[i])
				}
			}
			require.Len(t, old.see(t, stores[0]).Values, 5)
			require.Len(t, b.see(t, stores[1]).Values, 5)
			for i, b := range []*browser{old, b} {
				before := b.clone()
				b.logOut(t, stores[i])
				require.Empty(t, b.cookies)
				for _, store := range stores {
					session, _ := store.Get(before.request().Request, sessionName) // pgstore returns an error
					require.True(t, session.IsNew)
				}
			}
			require.Zero(t, m.oldRows(t))
			require.Empty(t, m.user(t, "ann"))
		})
	}
}

func TestPGStore_Moved(t *testing.T) {
	t.Parallel()
	m, b := newMoving(t), newBrowser()
	b.change(t, m.old, func(s *sessions.Session) { s.Values["user"], s.Values["cart"] = "ann", &cart{[]string{"tea"}} })
	require.Equal(t, move.Progress{Moved: 1, Total: 1}, m.move(t))
	require.Zero(t, m.oldRows(t))
	require.Len(t, m.user(t, "ann"), 1)

	// A session that nobody has saved since keeps its cookie.
	require.Equal(t, &cart{[]string{"tea"}}, b.see(t, m).Values["cart"])
	before := b.clone()
	set := b.set(t, m, "k", 1)
	_, err := parse(set[sessionName].Value)
	require.NoError(t, err)
	require.Equal(t, 2592000, set[sessionName].MaxAge)
	require.Equal(t, &cart{[]string{"tea"}}, b.see(t, m).Values["cart"])
	require.True(t, before.see(t, m).IsNew, "the old cookie opens nothing")
	require.Len(t, m.user(t, "ann"), 1)

	// The new table shows nothing.
	var row string
	require.NoError(t, m.pool.QueryRow(t.Context(), `SELECT string_agg(s::text || encode(sealed, 'escape'), '') FROM sessions s`).Scan(&row))
	require.NotContains(t, row, "tea")
	require.NotContains(t, row, "ann")
	require.NotContains(t, row, b.cookies[sessionName])
}

// A session moves while a request has it.
func TestPGStore_MovesMeanwhile(t *testing.T) {
	t.Parallel()
	for _, step := range []int{1, 2} {
		m, b := newMoving(t), newBrowser()
		store := []*gorillastore.Store{m.one, m.two}[step-1]
		b.logIn(t, m.old, "ann")
		changing, leaving := b.request(), b.clone().request()
		session, ends := changing.get(t, store), leaving.get(t, store)
		m.move(t)
		session.Values["k"] = 1
		changing.save(t, session)
		changing.respond()
		require.Equal(t, map[any]any{"user": "ann", "k": 1}, b.see(t, store).Values)

		ends.Options.MaxAge = -1
		require.ErrorIs(t, ends.Save(leaving.Request, leaving.ResponseRecorder), pgsession.ErrRevoked, "the session goes on")
		require.Len(t, m.user(t, "ann"), 1)
		b.logOut(t, store)
		require.Empty(t, m.user(t, "ann"))
		session.Values["k"] = 2
		require.ErrorIs(t, session.Save(changing.Request, changing.ResponseRecorder), pgsession.ErrRevoked)
	}
}

// A log-out while a session moves ends it, and a slow request does not bring it back.
func TestPGStore_LogOut(t *testing.T) {
	t.Parallel()
	for _, moved := range []bool{false, true} {
		m, b := newMoving(t), newBrowser()
		b.logIn(t, m.old, "ann")
		leaving, slow := b.request(), b.clone().request()
		ends, session := leaving.get(t, m.one), slow.get(t, m.two)
		if moved {
			m.move(t)
		}
		ends.Options.MaxAge = -1
		leaving.save(t, ends)
		session.Values["k"] = 1
		require.ErrorIs(t, session.Save(slow.Request, slow.ResponseRecorder), pgsession.ErrNotFound)
		require.Empty(t, slow.respond())
		require.Zero(t, m.oldRows(t))
		require.Empty(t, m.user(t, "ann"))
	}
}

// An import that was killed has left a row marked.
func TestPGStore_KilledImport(t *testing.T) {
	t.Parallel()
	m, b := newMoving(t), newBrowser()
	b.logIn(t, m.old, "ann")
	mark := func() {
		_, err := m.pool.Exec(t.Context(), `UPDATE http_sessions SET key = 'moving:' || key`)
		require.NoError(t, err)
	}
	mark()
	require.Equal(t, "ann", b.see(t, m.one).Values["user"])
	b.set(t, m.one, "k", 1)
	require.Equal(t, 1, b.see(t, m.two).Values["k"])
	require.Zero(t, m.oldRows(t))

	b = newBrowser()
	b.logIn(t, m.old, "bob")
	mark()
	before := b.clone()
	b.logOut(t, m.one)
	require.Zero(t, m.oldRows(t))
	require.True(t, before.see(t, m.two).IsNew)

	// A row that is still there does not bring back what has ended in the new table.
	b = newBrowser()
	b.logIn(t, m.old, "cid")
	_, err := m.pool.Exec(t.Context(), `CREATE TABLE copy AS TABLE http_sessions`)
	require.NoError(t, err)
	before = b.clone()
	m.move(t)
	b.logOut(t, m.two)
	_, err = m.pool.Exec(t.Context(), `INSERT INTO http_sessions TABLE copy`)
	require.NoError(t, err)
	require.True(t, before.see(t, m.two).IsNew)
}

// A session moves after it was not found in the new table, and before the old one is asked.
func TestPGStore_MovesBetween(t *testing.T) {
	t.Parallel()
	m, b := newMoving(t), newBrowser()
	b.logIn(t, m.old, "ann")
	config := m.pool.Config()
	atFirst := sync.OnceFunc(func() { m.move(t) })
	config.ConnConfig.Tracer = &test.Tracer{Start: func(context.Context, string) { atFirst() }}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	defer pool.Close()
	store := gorillastore.New(m.sealed, gorillastore.WithPGStore(gorillastore.PGStore{Codecs: codecs, Table: move.FromGorilla(pool, "http_sessions"), Names: []string{sessionName}}))
	require.Equal(t, "ann", b.see(t, store).Values["user"])
}

func TestPGStore_ForeignCookie(t *testing.T) {
	t.Parallel()
	m, b := newMoving(t), newBrowser()
	b.logIn(t, m.old, "ann")
	var key string
	require.NoError(t, m.pool.QueryRow(t.Context(), `SELECT convert_from(key, 'UTF8') FROM http_sessions`).Scan(&key))
	forged, err := securecookie.EncodeMulti(sessionName, key, securecookie.CodecsFromPairs([]byte("another key"))...)
	require.NoError(t, err)
	for _, value := range []string{key, forged} {
		b.cookies[sessionName] = value
		require.True(t, b.see(t, m.two).IsNew)
		m.move(t)
		require.True(t, b.see(t, m.two).IsNew)
		b.clone().logOut(t, m.two)
		require.Len(t, m.user(t, "ann"), 1)
	}
}

func TestStore_Convert_Names(t *testing.T) {
	t.Parallel()
	m, b := newMoving(t), newBrowser()
	b.logIn(t, m.old, "ann")
	convert := func(names ...string) move.Convert {
		p := gorillastore.PGStore{Codecs: codecs, Table: m.table, Names: names}
		return gorillastore.New(m.sealed, gorillastore.WithUserKey("user"), gorillastore.WithPGStore(p)).Convert
	}
	m.converter = convert("another")
	progress := m.move(t)
	require.Equal(t, int64(1), progress.Left)
	require.ErrorIs(t, progress.Reason, pgsession.ErrDecode)
	require.Equal(t, "ann", b.see(t, m.two).Values["user"])
	m.converter = convert("another", sessionName)
	require.Equal(t, int64(1), m.move(t).Moved)
}

// Clients go on while the releases follow each other and the sessions move. None is logged out, and
// no change that was acknowledged is lost.
func TestPGStore_NoDowntime(t *testing.T) {
	t.Parallel()
	m := newMoving(t)
	const clients = 30
	browsers := make([]*browser, clients)
	counts := make([]int, clients)
	for i := range browsers {
		browsers[i] = newBrowser()
		browsers[i].logIn(t, m.old, fmt.Sprint("user", i))
	}
	// traffic lets each client change its session on the given instances until it has made some
	// changes and meanwhile has ended.
	traffic := func(instances []sessions.Store, meanwhile func()) {
		var ended atomic.Bool
		var running sync.WaitGroup
		for i, b := range browsers {
			running.Go(func() {
				for n := 0; n < 6 || !ended.Load(); n++ {
					r := b.request()
					session, err := instances[(n+i)%len(instances)].Get(r.Request, sessionName)
					if err != nil {
						t.Error(err)
						return
					}
					if got, _ := session.Values["count"].(int); got != counts[i] || session.Values["user"] != fmt.Sprint("user", i) {
						t.Errorf("client %d has %v after %d changes", i, session.Values, counts[i])
						return
					}
					session.Values["count"] = counts[i] + 1
					if err := session.Save(r.Request, r.ResponseRecorder); err != nil {
						t.Error(err)
						return
					}
					r.respond()
					counts[i]++
				}
			})
		}
		meanwhile()
		ended.Store(true)
		running.Wait()
	}
	nothing := func() {}
	traffic([]sessions.Store{m.old, m.one}, nothing)
	traffic([]sessions.Store{m.one, m.two}, nothing)
	traffic([]sessions.Store{m.two, m.two}, func() {
		ctx, kill := context.WithCancel(t.Context())
		_, err := move.Import(ctx, m.sealed, m.table, func(row move.Row) (pgsession.ID, pgsession.Data, time.Time, error) {
			kill()
			return m.converter(row)
		}, nil)
		require.ErrorIs(t, err, context.Canceled)
		m.move(t)
	})
	traffic([]sessions.Store{m.two, m.Store}, nothing)
	traffic([]sessions.Store{m.Store}, nothing)
	require.Zero(t, m.oldRows(t))
	for i, b := range browsers {
		require.Equal(t, counts[i], b.see(t, m).Values["count"])
		b.logOut(t, m)
		require.Empty(t, m.user(t, fmt.Sprint("user", i)))
	}
}
