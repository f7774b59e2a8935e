package gorillastore_test

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/gorilla/sessions"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pgsession/pgsession"
	gorillastore "github.com/pgsession/pgsession/adapters/gorilla"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/test"
)

func TestMain(m *testing.M) { pgtest.Main(m, func() error { return goleak.Find() }) }

const (
	sessionName = "app"
	purpose     = "gorilla app"
)

func parse(token string) (pgsession.ID, error) { return pgsession.ParseIDFor(purpose, token) }

// A fixture is a store in a schema of its own.
type fixture struct {
	*gorillastore.Store
	sealed *pgsession.Store
	pool   *pgxpool.Pool
	clock  *pgsession.ManualClock
}

func newFixture(t *testing.T, opts ...gorillastore.Option) *fixture {
	t.Helper()
	pool := pgtest.Pool(t)
	clock := pgsession.NewManualClock(time.Now())
	sealed := test.OpenTable(t, pool, "sessions", pgsession.WithClock(clock))
	opts = append([]gorillastore.Option{gorillastore.WithUserKey("user")}, opts...)
	return &fixture{Store: gorillastore.New(sealed, opts...), sealed: sealed, pool: pool, clock: clock}
}

// outage takes the table away until the function that it returns is called.
func (f *fixture) outage(t *testing.T) (end func()) {
	t.Helper()
	execute := func(sql string) {
		_, err := f.pool.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	execute(`ALTER TABLE sessions RENAME TO away`)
	return func() { execute(`ALTER TABLE away RENAME TO sessions`) }
}

func (f *fixture) user(t *testing.T, userID string) []*pgsession.Session {
	t.Helper()
	found, err := f.sealed.FindByUser(t.Context(), userID, 0)
	require.NoError(t, err)
	return found
}

// A browser keeps cookies. Its requests and their responses may overlap in any order.
type browser struct{ cookies map[string]string }

func newBrowser() *browser { return &browser{cookies: map[string]string{}} }

// A request has reached the application, and its response has not reached the browser.
type request struct {
	*http.Request
	*httptest.ResponseRecorder
	browser *browser
}

func (b *browser) request() *request {
	r := httptest.NewRequest("GET", "https://example.com/", nil)
	for name, value := range b.cookies {
		r.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	return &request{r, httptest.NewRecorder(), b}
}

func (b *browser) clone() *browser { return &browser{maps.Clone(b.cookies)} }

func (r *request) get(t *testing.T, store sessions.Store) *sessions.Session {
	t.Helper()
	session, err := store.Get(r.Request, sessionName)
	require.NoError(t, err)
	return session
}

func (r *request) save(t *testing.T, session *sessions.Session) {
	t.Helper()
	require.NoError(t, session.Save(r.Request, r.ResponseRecorder))
}

func (r *request) setCookies() []*http.Cookie {
	return (&http.Response{Header: r.ResponseRecorder.Header()}).Cookies()
}

// respond lets the response reach the browser, and returns the cookies that it sets.
func (r *request) respond() map[string]*http.Cookie {
	set := map[string]*http.Cookie{}
	for _, cookie := range r.setCookies() {
		set[cookie.Name] = cookie
		if cookie.MaxAge < 0 {
			delete(r.browser.cookies, cookie.Name)
		} else {
			r.browser.cookies[cookie.Name] = cookie.Value
		}
	}
	return set
}

// change is a whole request that changes the session.
func (b *browser) change(t *testing.T, store sessions.Store, change func(*sessions.Session)) map[string]*http.Cookie {
	t.Helper()
	r := b.request()
	session := r.get(t, store)
	change(session)
	r.save(t, session)
	return r.respond()
}

func (b *browser) set(t *testing.T, store sessions.Store, key, value any) map[string]*http.Cookie {
	t.Helper()
	return b.change(t, store, func(s *sessions.Session) { s.Values[key] = value })
}

func (b *browser) logIn(t *testing.T, store sessions.Store, user any) { b.set(t, store, "user", user) }

func (b *browser) logOut(t *testing.T, store sessions.Store) map[string]*http.Cookie {
	t.Helper()
	return b.change(t, store, func(s *sessions.Session) { s.Options.MaxAge = -1 })
}

// see is a whole request that only reads.
func (b *browser) see(t *testing.T, store sessions.Store) *sessions.Session {
	t.Helper()
	r := b.request()
	session := r.get(t, store)
	r.respond()
	return session
}
