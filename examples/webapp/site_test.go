package main

import (
	"crypto/rand"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
)

// testDatabase makes the tests use that PostgreSQL, with a table for each test, instead of a store
// in memory.
var testDatabase = os.Getenv("WEBAPP_TEST_DATABASE_URL")

const (
	alicesPassword = "white-rabbit-42"
	bobsPassword   = "yellow-digger-17"
	adasPassword   = "paper-lantern-73"
	firefox        = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
	safari         = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1"

	soon = 15 * time.Second // a second, and what a busy machine takes
)

var (
	testKey      = pgsession.GenerateKey()
	testAccounts = sync.OnceValue(demoAccounts) // it takes its time to hash the passwords
	silent       = slog.New(slog.DiscardHandler)
)

// A site is the application on a server, with a store of its own.
type site struct {
	*httptest.Server
	store *pgsession.Store
	clock *pgsession.ManualClock
	app   atomic.Pointer[http.Handler]
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{clock: pgsession.NewManualClock(time.Now())}
	s.store = newStore(t, testDatabase, pgsession.WithClock(s.clock), pgsession.WithLogger(silent), pgsession.WithAbsoluteLifetime(absoluteLifetime))
	require.NoError(t, s.store.Init(t.Context()))
	s.serve(NewApp(t.Context(), s.store, testAccounts(), s.clock.Now, silent))
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*s.app.Load()).ServeHTTP(w, r) }))
	t.Cleanup(s.Close)
	return s
}

// serve replaces the application.
func (s *site) serve(app http.Handler) { s.app.Store(&app) }

// loseDatabase replaces the store by one whose server cannot be reached.
func (s *site) loseDatabase(t *testing.T) {
	t.Helper()
	store := newStore(t, "postgres://127.0.0.1:1/none", pgsession.WithLogger(silent))
	s.serve(NewApp(t.Context(), store, testAccounts(), s.clock.Now, silent))
}

func newStore(t *testing.T, databaseURL string, options ...pgsession.Option) *pgsession.Store {
	t.Helper()
	if databaseURL == "" {
		return pgsession.InMemory(options...)
	}
	crypto, err := pgsession.NewCrypto(testKey)
	require.NoError(t, err)
	config, err := pgxpool.ParseConfig(databaseURL)
	require.NoError(t, err)
	config.MaxConns = 4
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pgsession.New(pool, crypto, append(options, pgsession.WithTable("webapp_"+strings.ToLower(rand.Text())))...)
}

func (s *site) liveSessions(t *testing.T) (count int) {
	t.Helper()
	for _, err := range s.store.All(t.Context()) {
		require.NoError(t, err)
		count++
	}
	return count
}

// handle returns the handle of a user's only session.
func (s *site) handle(t *testing.T, userID string) string {
	t.Helper()
	found, err := s.store.FindByUser(t.Context(), userID, 0)
	require.NoError(t, err)
	require.Len(t, found, 1)
	return found[0].Handle.String()
}

// A browser keeps cookies and follows redirects.
type browser struct {
	*site
	client    *http.Client
	userAgent string
}

func (s *site) newBrowser(t *testing.T, userAgent string) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	return &browser{s, &http.Client{Transport: s.Client().Transport, Jar: secureJar{jar}}, userAgent}
}

// secureJar counts the test's own server as secure, as browsers do with localhost.
type secureJar struct{ *cookiejar.Jar }

func (j secureJar) Cookies(u *url.URL) []*http.Cookie { return j.Jar.Cookies(secure(u)) }

func (j secureJar) SetCookies(u *url.URL, cookies []*http.Cookie) {
	j.Jar.SetCookies(secure(u), cookies)
}

func secure(u *url.URL) *url.URL {
	changed := *u
	changed.Scheme = "https"
	return &changed
}

// An answer is a response, with its body read.
type answer struct {
	*http.Response
	body string
}

func (a answer) path() string { return a.Request.URL.RequestURI() }

func (b *browser) do(t *testing.T, method, path string, form url.Values, headers ...string) answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, b.URL+path, strings.NewReader(form.Encode()))
	require.NoError(t, err)
	request.Header.Set("User-Agent", b.userAgent)
	request.Header.Set("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")
	if method == http.MethodPost {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := b.client.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return answer{response, string(body)}
}

func (b *browser) get(t *testing.T, path string) answer {
	t.Helper()
	return b.do(t, http.MethodGet, path, nil)
}

func (b *browser) post(t *testing.T, path string, fields ...string) answer {
	t.Helper()
	form := url.Values{}
	for i := 0; i < len(fields); i += 2 {
		form.Set(fields[i], fields[i+1])
	}
	return b.do(t, http.MethodPost, path, form)
}

func (b *browser) logIn(t *testing.T, name, password string, fields ...string) answer {
	t.Helper()
	answer := b.post(t, "/login", append(fields, "name", name, "password", password)...)
	require.Equal(t, http.StatusOK, answer.StatusCode, answer.body)
	require.Contains(t, answer.body, "Welcome, "+name)
	return answer
}

// lockedBuffer is for a log.
type lockedBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
