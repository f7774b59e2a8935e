package httpsession_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/httpsession"
	"github.com/pgsession/pgsession/internal/bridge"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/rows"
	"github.com/pgsession/pgsession/internal/test"
	"github.com/pgsession/pgsession/pgsessiontest"
)

func TestMain(m *testing.M) {
	pgtest.Main(m, func() error { return goleak.Find() })
}

// patience is how long a test waits for what never takes long.
const patience = 30 * time.Second

var (
	epoch     = time.Date(2031, 3, 14, 15, 9, 26, 535_897_000, time.UTC)
	errOutage = errors.New("no database")
)

// Values are what the sessions of these tests hold.
type Values struct {
	Count int             `json:"count"`
	Cart  []string        `json:"cart,omitempty"`
	Set   map[string]bool `json:"set,omitempty"`
	Flash string          `json:"flash,omitempty"`
}

type session = httpsession.Session[Values]

// A fixture is a store of one kind, and a Manager on it.
type fixture struct {
	*httpsession.Manager[Values]
	store   *pgsession.Store
	clock   *pgsession.ManualClock
	logs    *logs
	outage  func(on bool)
	tamper  func(pgsession.Handle)
	onWrite func(fails bool) // nil in memory
}

// A makeFixture makes fixtures of one kind.
type makeFixture func(t testing.TB, opts ...httpsession.Option) *fixture

// onEach runs a test on the table in memory and on PostgreSQL.
func onEach(t *testing.T, run func(t *testing.T, newFixture makeFixture)) {
	t.Parallel()
	for name, newFixture := range map[string]makeFixture{"memory": newInMemory, "postgres": newOnPostgreSQL} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t, newFixture)
		})
	}
}

func newFixture(store *pgsession.Store, clock *pgsession.ManualClock, opts []httpsession.Option) *fixture {
	f := &fixture{store: store, clock: clock, logs: new(logs)}
	logger := f.logs.logger()
	f.Manager = httpsession.New[Values](store, append([]httpsession.Option{httpsession.WithLogger(logger), httpsession.WithPlainHTTP()}, opts...)...)
	return f
}

func newInMemory(t testing.TB, opts ...httpsession.Option) *fixture {
	clock := pgsession.NewManualClock(epoch)
	store := pgsessiontest.New(pgsession.WithClock(clock))
	f := newFixture(store.Store, clock, opts)
	f.outage = func(on bool) {
		if on {
			store.FailWith(errOutage)
		} else {
			store.FailWith(nil)
		}
	}
	f.tamper = func(h pgsession.Handle) {
		var key rows.Key
		_, err := hex.Decode(key[:rows.KeySize], []byte(h.String()))
		require.NoError(t, err)
		table := bridge.Memory(store.Store)
		row, err := table.Load(t.Context(), key)
		require.NoError(t, err)
		row.Malformed = true
		table.Set(row)
	}
	return f
}

func newOnPostgreSQL(t testing.TB, opts ...httpsession.Option) *fixture {
	pool := pgtest.Pool(t)
	clock := pgsession.NewManualClock(epoch)
	store := test.OpenTable(t, pool, "sessions", pgsession.WithClock(clock))
	sql := func(sql string, args ...any) {
		_, err := pool.Exec(t.Context(), sql, append([]any{pgx.QueryExecModeExec}, args...)...)
		require.NoError(t, err)
	}
	f := newFixture(store, clock, opts)
	f.outage = func(on bool) {
		if on {
			sql(`ALTER TABLE sessions RENAME TO hidden`)
		} else {
			sql(`ALTER TABLE hidden RENAME TO sessions`)
		}
	}
	f.tamper = func(h pgsession.Handle) {
		sql(`UPDATE sessions SET sealed = set_byte(sealed, 40, get_byte(sealed, 40) # 1) WHERE encode(key, 'hex') = $1`, h.String())
	}
	f.onWrite = func(fails bool) {
		if !fails {
			sql(`DROP TRIGGER refuse ON sessions`)
			return
		}
		sql(`CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''not today''; END'`)
		sql(`CREATE TRIGGER refuse BEFORE UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION refuse()`)
	}
	return f
}

// logs collects what is logged.
type logs struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logs) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// plant stores a session as one of a Manager with a cookie's name, and returns it.
func (f *fixture) plant(t testing.TB, cookieName, userID string) *pgsession.Session {
	t.Helper()
	data := pgsession.Data{UserID: userID, Values: Values{Count: 5}}
	stored, err := f.store.CreateAs(t.Context(), pgsession.NewIDFor(cookieName), data, time.Hour)
	require.NoError(t, err)
	return stored
}

// app returns an application with routes for what the tests do most. A test adds its own.
func (f *fixture) app() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /session", f.write)
	mux.HandleFunc("POST /add", func(w http.ResponseWriter, r *http.Request) {
		err := f.Update(w, r, func(v *Values) error {
			v.Count++
			if item := r.FormValue("item"); item != "" {
				v.Cart = append(v.Cart, item)
			}
			return nil
		})
		f.answer(w, r, err)
	})
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		var opts []httpsession.LogInOption
		if r.FormValue("remember") != "" {
			opts = append(opts, httpsession.Remember())
		}
		f.answer(w, r, f.LogIn(w, r, r.FormValue("user"), nil, opts...))
	})
	mux.HandleFunc("POST /renew", func(w http.ResponseWriter, r *http.Request) {
		f.answer(w, r, f.RenewID(w, r, func(v *Values) error { v.Count++; return nil }))
	})
	mux.HandleFunc("POST /logout", func(w http.ResponseWriter, r *http.Request) { f.answer(w, r, f.LogOut(w, r)) })
	return mux
}

func (f *fixture) answer(w http.ResponseWriter, r *http.Request, err error) {
	if err != nil {
		f.Error(w, r, err)
		return
	}
	f.write(w, r)
}

// write answers with the session as Get shows it.
func (f *fixture) write(w http.ResponseWriter, r *http.Request) {
	s := f.Get(r)
	if err := json.NewEncoder(w).Encode(wire{s, s.Handle.String()}); err != nil {
		panic(err)
	}
}

// wire is a Session in a response. A zero Handle has no form of its own in JSON.
type wire struct {
	session
	Handle string
}

// A browser has a cookie jar and visits one server.
type browser struct {
	*http.Client
	t   testing.TB
	url string
}

// serve starts a server of handler behind the Manager and returns a browser for it.
func (f *fixture) serve(t testing.TB, handler http.Handler) *browser {
	return newBrowser(t, httptest.NewServer(f.Handler(handler)))
}

func newBrowser(t testing.TB, server *httptest.Server) *browser {
	t.Cleanup(server.Close)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0) // for the panics
	return (&browser{t: t, url: server.URL, Client: server.Client()}).another()
}

// another returns a browser for the same server, with a jar of its own.
func (b *browser) another() *browser {
	jar, err := cookiejar.New(nil)
	require.NoError(b.t, err)
	client := *b.Client
	client.Jar = jar
	client.Timeout = patience
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &browser{&client, b.t, b.url}
}

// stale returns a tab that has the cookies of b as they are now, and will not see newer ones: the
// requests that it sends were on their way before.
func (b *browser) stale() *browser {
	stale := b.another()
	stale.Jar.SetCookies(b.address(), b.cookies())
	return stale
}

func (b *browser) address() *url.URL {
	address, err := url.Parse(b.url)
	require.NoError(b.t, err)
	return address
}

func (b *browser) cookies() []*http.Cookie { return b.Jar.Cookies(b.address()) }

// token returns the value of the cookie with a name, or "".
func (b *browser) token(name string) string {
	for _, cookie := range b.cookies() {
		if cookie.Name == name {
			return cookie.Value
		}
	}
	return ""
}

func (b *browser) id(name string) pgsession.ID {
	id, err := pgsession.ParseIDFor("session", b.token(name))
	require.NoError(b.t, err)
	return id
}

type response struct {
	*http.Response
	body string
}

// setCookies returns what the response sets, without attributes and tokens. A cookie that is cleared
// under several attributes is there once.
func (r response) setCookies() []string {
	var set []string
	for _, cookie := range r.Cookies() {
		switch {
		case cookie.MaxAge < 0:
			set = append(set, "clear "+cookie.Name)
		default:
			set = append(set, "set "+cookie.Name)
		}
	}
	return slices.Compact(set)
}

func (r response) session(t testing.TB) session {
	require.Equal(t, http.StatusOK, r.StatusCode, r.body)
	var w wire
	require.NoError(t, json.Unmarshal([]byte(r.body), &w))
	w.session.Handle, _ = pgsession.ParseHandle(w.Handle)
	return w.session
}

// do sends a request such as "GET /session".
func (b *browser) do(request string, change ...func(*http.Request)) response {
	b.t.Helper()
	r, err := b.try(request, change...)
	require.NoError(b.t, err)
	return r
}

func (b *browser) try(request string, change ...func(*http.Request)) (response, error) {
	method, path, _ := strings.Cut(request, " ")
	r, err := http.NewRequestWithContext(b.t.Context(), method, b.url+path, nil)
	if err != nil {
		return response{}, err
	}
	for _, apply := range change {
		apply(r)
	}
	answer, err := b.Do(r)
	if err != nil {
		return response{}, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return response{answer, string(body)}, err
}

// get returns the session as GET /session shows it.
func (b *browser) get() session {
	b.t.Helper()
	return b.do("GET /session").session(b.t)
}

// A gate stops a handler until the test lets it go on.
type gate struct{ entered, leave chan struct{} }

// await returns when a handler waits at the gate.
func (g gate) await(t testing.TB) {
	t.Helper()
	receive(t, g.entered)
}

// receive fails the test instead of waiting forever.
func receive[T any](t testing.TB, from <-chan T) (received T) {
	t.Helper()
	select {
	case received = <-from:
	case <-time.After(patience):
		require.FailNow(t, "nothing came")
	}
	return received
}

// newGate has room for all handlers of a test, so that none is stuck after a failure.
func newGate() gate { return gate{make(chan struct{}, 100), make(chan struct{}, 100)} }

func (g gate) wait(r *http.Request) {
	g.entered <- struct{}{}
	select {
	case <-g.leave:
	case <-r.Context().Done(): // the test has failed
	}
}
