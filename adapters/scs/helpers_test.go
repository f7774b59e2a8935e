package scsstore_test

import (
	"context"
	"crypto/rand"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/alexedwards/scs/v2"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pgsession/pgsession"
	scsstore "github.com/pgsession/pgsession/adapters/scs"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/test"
)

func TestMain(m *testing.M) {
	// scs.New starts a goroutine of its default store, which the store that replaces it leaves
	// running.
	ofSCS := goleak.IgnoreTopFunction("github.com/alexedwards/scs/v2/memstore.(*MemStore).startCleanup")
	pgtest.Main(m, func() error { return goleak.Find(ofSCS) })
}

const (
	table = "app_sessions"
	realm = "web"

	// patience is how long a test waits for what never takes long, on a machine that does much else.
	patience = time.Minute
)

func newStore(t testing.TB, pool *pgxpool.Pool, opts ...pgsession.Option) *pgsession.Store {
	t.Helper()
	return test.OpenTable(t, pool, table, opts...)
}

// onEach runs a test on PostgreSQL and in memory.
func onEach(t *testing.T, run func(t *testing.T, store *pgsession.Store)) {
	t.Parallel()
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		run(t, newStore(t, pgtest.Pool(t)))
	})
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		run(t, pgsession.InMemory())
	})
}

// An app is a site with a manager. Its handler is a test's function for each path.
type app struct {
	*scs.SessionManager
	store *pgsession.Store
	url   string
	mux   *http.ServeMux
}

func newApp(t testing.TB, store *pgsession.Store, opts ...scsstore.Option) *app {
	t.Helper()
	a := newSite(t, store, scsstore.New(store, realm, opts...), scsstore.LoadAndSave)
	a.Codec = scsstore.UserCodec(a.Codec, "userID")
	a.ErrorFunc = scsstore.Error
	return a
}

func newSite(t testing.TB, store *pgsession.Store, of scs.Store, middleware func(*scs.SessionManager, http.Handler) http.Handler) *app {
	t.Helper()
	a := &app{SessionManager: scs.New(), store: store, mux: http.NewServeMux()}
	a.Store = of
	server := httptest.NewServer(middleware(a.SessionManager, a.mux))
	t.Cleanup(server.Close)
	a.url = server.URL
	a.on("/get", func(w http.ResponseWriter, r *http.Request) {
		var text []string
		for _, key := range a.Keys(r.Context()) {
			text = append(text, key+"="+a.GetString(r.Context(), key))
		}
		io.WriteString(w, strings.Join(text, " "))
	})
	a.on("/put", func(w http.ResponseWriter, r *http.Request) {
		a.Put(r.Context(), r.FormValue("key"), r.FormValue("value"))
	})
	a.on("/remove", func(w http.ResponseWriter, r *http.Request) { a.Remove(r.Context(), r.FormValue("key")) })
	a.on("/login", func(w http.ResponseWriter, r *http.Request) {
		require.NoError(t, a.RenewToken(r.Context()))
		a.Put(r.Context(), "userID", r.FormValue("user"))
	})
	a.on("/logout", func(w http.ResponseWriter, r *http.Request) { require.NoError(t, a.Destroy(r.Context())) })
	return a
}

func (a *app) on(path string, handle http.HandlerFunc) { a.mux.HandleFunc(path, handle) }

// held registers a handler that waits in the middle of a request. It returns when a request has
// begun, and lets it go on.
func (a *app) held(path string, handle http.HandlerFunc) (begun <-chan struct{}, goOn func()) {
	entered, release := make(chan struct{}), make(chan struct{})
	a.on(path, func(w http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		<-release
		handle(w, r)
	})
	return entered, func() { close(release) }
}

// A browser keeps cookies.
type browser struct {
	t      testing.TB
	client *http.Client
	site   string
}

func (a *app) newBrowser(t testing.TB) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	return &browser{t, &http.Client{Jar: jar, Transport: http.DefaultTransport}, a.url}
}

// same returns another window of the same browser, with the cookies it has now.
func (b *browser) same() *browser {
	jar, err := cookiejar.New(nil)
	require.NoError(b.t, err)
	site, err := url.Parse(b.site)
	require.NoError(b.t, err)
	jar.SetCookies(site, b.client.Jar.Cookies(site))
	return &browser{b.t, &http.Client{Jar: jar, Transport: http.DefaultTransport}, b.site}
}

type answer struct {
	status int
	body   string
	cookie string // "" if none was set
}

func (b *browser) get(path string) answer {
	b.t.Helper()
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, b.site+path, nil)
	require.NoError(b.t, err)
	response, err := b.client.Do(request)
	require.NoError(b.t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(b.t, err)
	return answer{response.StatusCode, string(body), response.Header.Get("Set-Cookie")}
}

func (b *browser) ok(path string) string {
	b.t.Helper()
	got := b.get(path)
	require.Equal(b.t, http.StatusOK, got.status, got.body)
	return got.body
}

func (b *browser) token() string {
	site, err := url.Parse(b.site)
	require.NoError(b.t, err)
	for _, cookie := range b.client.Jar.Cookies(site) {
		return cookie.Value
	}
	return ""
}

// inBackground gets a page, and returns the answer when there is one.
func (b *browser) inBackground(path string) <-chan answer {
	got := make(chan answer, 1)
	go func() { got <- b.get(path) }()
	return got
}

// during does something in the middle of a browser's request, which handle answers after that.
func (a *app) during(b *browser, handle http.HandlerFunc, do func()) answer {
	path := "/" + rand.Text()
	begun, goOn := a.held(path, handle)
	slow := b.inBackground(path)
	<-begun
	do()
	goOn()
	return <-slow
}

// idOf returns the id of a session of the name that these tests use.
func idOf(token string) pgsession.ID { return pgsession.DeriveID(`scs "web"` + token) }

func load(t testing.TB, store *pgsession.Store, token string) *pgsession.Session {
	t.Helper()
	session, err := store.Load(t.Context(), idOf(token))
	require.NoError(t, err)
	return session
}

const hour = time.Hour
