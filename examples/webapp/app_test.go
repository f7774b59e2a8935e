package main

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m, nil) }

const (
	alicesPassword = "white-rabbit-42"
	bobsPassword   = "yellow-digger-17"
	firefox        = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
	safari         = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1"
)

// testAccounts hashes the passwords once: it takes its time.
var testAccounts = sync.OnceValue(demoAccounts)

// A site is the application on a server and a table of its own.
type site struct {
	*httptest.Server
	pool  *pgxpool.Pool
	store *pgsession.Store
	clock *pgsession.ManualClock
}

func newSite(t *testing.T, pool *pgxpool.Pool, secure bool) *site {
	t.Helper()
	crypto, err := pgsession.NewCrypto(pgsession.GenerateKey())
	require.NoError(t, err)
	log := slog.New(slog.DiscardHandler)
	clock := pgsession.NewManualClock(time.Now())
	store := pgsession.New(pool, crypto, pgsession.WithClock(clock), pgsession.WithLogger(log), pgsession.WithAbsoluteLifetime(absoluteLifetime))
	require.NoError(t, store.Init(t.Context()))
	pgtest.AfterInit(t, pool, "sessions")
	server := httptest.NewUnstartedServer(NewApp(store, testAccounts(), secure, log))
	if secure {
		server.StartTLS()
	} else {
		server.Start()
	}
	t.Cleanup(server.Close)
	return &site{server, pool, store, clock}
}

func (s *site) liveSessions(t *testing.T) (count int) {
	t.Helper()
	for _, err := range s.store.All(t.Context()) {
		require.NoError(t, err)
		count++
	}
	return count
}

func (s *site) handles(t *testing.T, userID string) (handles []string) {
	t.Helper()
	sessions, err := s.store.FindByUser(t.Context(), userID, 0)
	require.NoError(t, err)
	for _, session := range sessions {
		handles = append(handles, session.Handle.String())
	}
	return handles
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
	client := s.Client()
	return &browser{s, &http.Client{Transport: client.Transport, Jar: jar}, userAgent}
}

// An answer is a response, with its body read.
type answer struct {
	*http.Response
	body string
}

func (a answer) path() string { return a.Request.URL.Path }

func (b *browser) do(t *testing.T, method, path string, form url.Values, headers ...string) answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, b.URL+path, strings.NewReader(form.Encode()))
	require.NoError(t, err)
	request.Header.Set("User-Agent", b.userAgent)
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

func (b *browser) logIn(t *testing.T, name, password string) answer {
	t.Helper()
	answer := b.post(t, "/login", "name", name, "password", password)
	require.Equal(t, http.StatusOK, answer.StatusCode, answer.body)
	require.Contains(t, answer.body, "Welcome, "+name)
	return answer
}

// token returns the session cookie's value, "" without one.
func (b *browser) token(t *testing.T) string {
	t.Helper()
	address, err := url.Parse(b.URL)
	require.NoError(t, err)
	for _, cookie := range b.client.Jar.Cookies(address) {
		if cookie.Name == "session" || cookie.Name == "__Host-session" {
			return cookie.Value
		}
	}
	return ""
}

func (b *browser) id(t *testing.T) pgsession.ID {
	t.Helper()
	id, err := pgsession.ParseID(b.token(t))
	require.NoError(t, err)
	return id
}

func requireEnded(t *testing.T, s *site, id pgsession.ID) {
	t.Helper()
	_, err := s.store.Load(t.Context(), id)
	require.ErrorIs(t, err, pgsession.ErrNotFound)
}

func TestNotes_GuestHasNoSessionBeforeTheFirst(t *testing.T) {
	t.Parallel()
	s := newSite(t, pgtest.Pool(t), false)
	guest := s.newBrowser(t, firefox)
	for _, path := range []string{"/", "/login", "/devices"} {
		answer := guest.get(t, path)
		require.Equal(t, http.StatusOK, answer.StatusCode)
		require.Empty(t, answer.Header.Values("Set-Cookie"))
	}
	require.Contains(t, guest.get(t, "/").body, "No notes yet")
	require.Zero(t, s.liveSessions(t))

	require.Contains(t, guest.post(t, "/notes", "text", "milk & honey").body, "milk &amp; honey")
	require.Equal(t, 1, s.liveSessions(t))
	id := guest.id(t)
	answer := guest.post(t, "/notes", "text", "bread")
	require.Contains(t, answer.body, "milk")
	require.Contains(t, answer.body, "bread")
	require.Equal(t, id, guest.id(t))
}

func TestNotes_Remove(t *testing.T) {
	t.Parallel()
	s := newSite(t, pgtest.Pool(t), false)
	guest := s.newBrowser(t, firefox)
	guest.post(t, "/notes", "text", "first")
	page := guest.post(t, "/notes", "text", "second").body
	found := regexp.MustCompile(`id="note-(\w+)">first<`).FindStringSubmatch(page)
	require.NotNil(t, found)
	page = guest.post(t, "/notes/remove", "id", found[1]).body
	require.NotContains(t, page, "first")
	require.Contains(t, page, "second")
}

func TestNotes_Refused(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		text    string
		status  int
		problem string
	}{
		"empty":    {" ", http.StatusUnprocessableEntity, "Write something first."},
		"too long": {strings.Repeat("ä", maxNoteLength+1), http.StatusUnprocessableEntity, "That is too long for a note."},
		"no room":  {"one more", http.StatusUnprocessableEntity, "There is no room for more notes."},
		"huge":     {strings.Repeat("a", maxBodySize+1), http.StatusRequestEntityTooLarge, "That is more than can be kept here."},
	}
	s := newSite(t, pgtest.Pool(t), false)
	guest := s.newBrowser(t, firefox)
	for range maxNotes {
		require.Equal(t, http.StatusOK, guest.post(t, "/notes", "text", strings.Repeat("<", maxNoteLength)).StatusCode)
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			answer := guest.post(t, "/notes", "text", test.text)
			require.Equal(t, test.status, answer.StatusCode)
			require.Contains(t, answer.body, test.problem)
		})
	}
}

func TestNotes_NoneIsLostInARace(t *testing.T) {
	t.Parallel()
	s := newSite(t, pgtest.Pool(t), false)
	guest := s.newBrowser(t, firefox)
	guest.post(t, "/notes", "text", "begin")
	var group sync.WaitGroup
	for range 10 {
		group.Go(func() { guest.post(t, "/notes", "text", "at once") })
	}
	group.Wait()
	require.Equal(t, 10, strings.Count(guest.get(t, "/").body, ">at once<"))
}

func TestLogIn_GuestsNotesComeAlongUnderANewID(t *testing.T) {
	t.Parallel()
	s := newSite(t, pgtest.Pool(t), false)
	b := s.newBrowser(t, firefox)
	b.post(t, "/notes", "text", "from before")
	guest := b.id(t)
	require.Contains(t, b.get(t, "/login").body, "Your note comes along.")
	answer := b.logIn(t, "alice", alicesPassword)
	require.Contains(t, answer.body, "from before")
	require.NotEqual(t, guest, b.id(t))
	requireEnded(t, s, guest)
	require.Equal(t, []string{b.id(t).Handle().String()}, s.handles(t, "alice"))
	require.NotContains(t, b.get(t, "/").body, "Welcome", "said once")
	require.Equal(t, "/", b.get(t, "/login").path(), "nothing to log in to")
}

func TestLogIn_AnotherUsersNotesStayBehind(t *testing.T) {
	t.Parallel()
	s := newSite(t, pgtest.Pool(t), false)
	b := s.newBrowser(t, firefox)
	b.logIn(t, "alice", alicesPassword)
	b.post(t, "/notes", "text", "alice's alone")
	alices := b.id(t)
	require.NotContains(t, b.logIn(t, "bob", bobsPassword).body, "alice")
	requireEnded(t, s, alices)
}

func TestLogIn_Refused(t *testing.T) {
	t.Parallel()
	cases := map[string]struct{ name, password string }{
		"wrong password":         {"alice", bobsPassword},
		"no such user":           {"carol", alicesPassword},
		"no such user, no hash":  {"carol", "opens nothing"},
		"nothing":                {"", ""},
		"user names are exact":   {"Alice", alicesPassword},
		"password over 72 bytes": {"alice", strings.Repeat("a", 100)},
	}
	s := newSite(t, pgtest.Pool(t), false)
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			b := s.newBrowser(t, firefox)
			answer := b.post(t, "/login", "name", test.name, "password", test.password)
			require.Equal(t, http.StatusUnauthorized, answer.StatusCode)
			require.Contains(t, answer.body, "This name and password do not go together.")
			require.Empty(t, b.token(t))
		})
	}
	require.Zero(t, s.liveSessions(t))
}

func TestLogIn_PlantedIDIsNotAdopted(t *testing.T) {
	t.Parallel()
	s := newSite(t, pgtest.Pool(t), false)
	b := s.newBrowser(t, firefox)
	planted := pgsession.NewID()
	b.plant(t, planted)
	b.logIn(t, "alice", alicesPassword)
	require.NotEqual(t, planted, b.id(t))
	requireEnded(t, s, planted)
}

func (b *browser) plant(t *testing.T, id pgsession.ID) {
	t.Helper()
	address, err := url.Parse(b.URL)
	require.NoError(t, err)
	b.client.Jar.SetCookies(address, []*http.Cookie{{Name: "session", Value: id.Token(), Path: "/"}})
}

func TestLogOut(t *testing.T) {
	t.Parallel()
	s := newSite(t, pgtest.Pool(t), false)
	b := s.newBrowser(t, firefox)
	b.logIn(t, "alice", alicesPassword)
	user := b.id(t)

	b.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	b.post(t, "/logout")
	farewell := b.id(t)
	require.NotEqual(t, user, farewell)
	requireEnded(t, s, user)
	session, err := s.store.Load(t.Context(), farewell)
	require.NoError(t, err)
	require.Empty(t, session.UserID)

	answer := b.get(t, "/")
	require.Contains(t, answer.body, "You are logged out.")
	require.Contains(t, answer.body, "You are a guest without a session")
	require.Empty(t, b.token(t))
	require.Zero(t, s.liveSessions(t))
	require.NotContains(t, b.get(t, "/").body, "You are logged out.")
}

func TestDevices_Revoke(t *testing.T) {
	t.Parallel()
	s := newSite(t, pgtest.Pool(t), false)
	laptop, phone := s.newBrowser(t, firefox), s.newBrowser(t, safari)
	laptop.logIn(t, "alice", alicesPassword)
	s.clock.Advance(time.Hour)
	phone.logIn(t, "alice", alicesPassword)
	phones := phone.id(t).Handle().String()

	page := laptop.get(t, "/devices").body
	require.Regexp(t, `(?s)Safari on iPhone.*Firefox on Linux</span> <span class="badge">This device`, page)
	require.Equal(t, 1, strings.Count(page, "This device"))
	require.Contains(t, page, phones)
	require.NotContains(t, page, phone.token(t))

	require.Contains(t, laptop.post(t, "/devices/revoke", "handle", phones).body, "The device is logged out.")
	require.Contains(t, laptop.post(t, "/devices/revoke", "handle", phones).body, "That device is not logged in any more.")
	require.Contains(t, laptop.post(t, "/devices/revoke", "handle", "none").body, "That device is not logged in any more.")
	answer := phone.get(t, "/")
	require.Equal(t, "/login", answer.path())
	require.Contains(t, answer.body, "Your session has ended.")
	require.Empty(t, phone.token(t), "the cookie goes with the session")
	require.NotContains(t, phone.get(t, "/login").body, "ended")
}

func TestDevices_RevokeThisOne(t *testing.T) {
	t.Parallel()
	s := newSite(t, pgtest.Pool(t), false)
	b := s.newBrowser(t, firefox)
	b.logIn(t, "alice", alicesPassword)
	answer := b.post(t, "/devices/revoke", "handle", b.id(t).Handle().String())
	require.Equal(t, "/login", answer.path())
	require.Empty(t, b.token(t))
	require.Zero(t, s.liveSessions(t))
}

func TestDevices_OfOthersAreOutOfReach(t *testing.T) {
	t.Parallel()
	s := newSite(t, pgtest.Pool(t), false)
	alice, bob, guest := s.newBrowser(t, firefox), s.newBrowser(t, safari), s.newBrowser(t, firefox)
	alice.logIn(t, "alice", alicesPassword)
	bob.logIn(t, "bob", bobsPassword)
	guest.post(t, "/notes", "text", "kept")
	handle := alice.id(t).Handle().String()
	require.NotContains(t, bob.get(t, "/devices").body, handle)
	require.Contains(t, bob.post(t, "/devices/revoke", "handle", handle).body, "That device is not logged in any more.")
	for _, path := range []string{"/devices/revoke", "/devices/revoke-others"} {
		require.Equal(t, "/login", guest.post(t, path, "handle", handle).path())
	}
	require.Equal(t, "/devices", alice.get(t, "/devices").path())
	require.Contains(t, guest.get(t, "/").body, "kept", "a guest who strays keeps the notes")
}

func TestDevices_LogOutEverywhereElse(t *testing.T) {
	t.Parallel()
	s := newSite(t, pgtest.Pool(t), false)
	here, there, elsewhere, bob := s.newBrowser(t, firefox), s.newBrowser(t, safari), s.newBrowser(t, ""), s.newBrowser(t, firefox)
	for _, b := range []*browser{here, there, elsewhere} {
		b.logIn(t, "alice", alicesPassword)
	}
	bob.logIn(t, "bob", bobsPassword)
	require.Contains(t, here.post(t, "/devices/revoke-others").body, "2 other devices are logged out.")
	require.Equal(t, "/login", there.get(t, "/").path())
	require.Equal(t, "/login", elsewhere.get(t, "/").path())
	require.Contains(t, here.get(t, "/devices").body, "You are logged in nowhere else.")
	require.Equal(t, "/devices", bob.get(t, "/devices").path())
}

func TestSession_ThatDoesNotOpen(t *testing.T) {
	t.Parallel()
	s := newSite(t, pgtest.Pool(t), false)
	whole, broken := s.newBrowser(t, firefox), s.newBrowser(t, safari)
	whole.logIn(t, "alice", alicesPassword)
	broken.logIn(t, "alice", alicesPassword)
	id := broken.id(t)
	tag, err := s.pool.Exec(t.Context(), `UPDATE sessions SET sealed = set_byte(sealed, 40, get_byte(sealed, 40) # 1) WHERE encode(key, 'hex') = $1`, id.Handle().String())
	require.NoError(t, err)
	require.EqualValues(t, 1, tag.RowsAffected())

	answer := broken.get(t, "/")
	require.Equal(t, http.StatusServiceUnavailable, answer.StatusCode)
	require.Contains(t, answer.body, "Your session cannot be read")
	require.Contains(t, answer.body, `action="/logout"`)
	require.Equal(t, id, broken.id(t))
	require.Contains(t, broken.post(t, "/logout").body, "You are logged out.")
	requireEnded(t, s, id)
}

func TestDevices_OneThatDoesNotOpenCanBeRevoked(t *testing.T) {
	t.Parallel()
	s := newSite(t, pgtest.Pool(t), false)
	whole, broken := s.newBrowser(t, firefox), s.newBrowser(t, safari)
	whole.logIn(t, "alice", alicesPassword)
	broken.logIn(t, "alice", alicesPassword)
	handle := broken.id(t).Handle().String()
	_, err := s.pool.Exec(t.Context(), `UPDATE sessions SET sealed = '\x01' WHERE encode(key, 'hex') = $1`, handle)
	require.NoError(t, err)
	require.Contains(t, whole.get(t, "/devices").body, "A session that cannot be read")
	whole.post(t, "/devices/revoke", "handle", handle)
	require.Equal(t, "/login", broken.get(t, "/").path())
}

func TestSession_StaysAliveAndExpires(t *testing.T) {
	t.Parallel()
	s := newSite(t, pgtest.Pool(t), false)
	b := s.newBrowser(t, firefox)
	b.logIn(t, "alice", alicesPassword)
	require.Empty(t, b.get(t, "/").Header.Values("Set-Cookie"), "nothing to gain yet")
	for range 3 {
		s.clock.Advance(sessionTTL - time.Minute)
		answer := b.get(t, "/devices")
		require.Equal(t, "/devices", answer.path())
		require.Contains(t, answer.Header.Get("Set-Cookie"), "Max-Age=43200", "the cookie lives as long as the session")
	}
	s.clock.Advance(sessionTTL)
	require.Equal(t, "/login", b.get(t, "/devices").path())
	require.Empty(t, b.token(t))
}

func TestCookie(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		secure bool
		want   string
	}{
		"clear": {false, `^session=[\w-]{43}; Path=/; Max-Age=43200; HttpOnly; SameSite=Lax$`},
		"TLS":   {true, `^__Host-session=[\w-]{43}; Path=/; Max-Age=43200; HttpOnly; Secure; SameSite=Lax$`},
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, pgtest.Pool(t), test.secure)
			b := s.newBrowser(t, firefox)
			b.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
			answer := b.post(t, "/login", "name", "alice", "password", alicesPassword)
			require.Len(t, answer.Header.Values("Set-Cookie"), 1)
			require.Regexp(t, test.want, answer.Header.Get("Set-Cookie"))
			require.Contains(t, b.get(t, "/").body, "You are alice")
		})
	}
}

func TestOutage_LogsNobodyOut(t *testing.T) {
	t.Parallel()
	pgtest.RequireBinaries(t)
	cluster, err := pgtest.StartCluster(t.Context(), t.Logf, pgtest.ClusterOptions{})
	require.NoError(t, err)
	t.Cleanup(cluster.Stop)
	pool, err := pgxpool.New(t.Context(), cluster.URL())
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	s := newSite(t, pool, false)
	b := s.newBrowser(t, firefox)
	b.logIn(t, "alice", alicesPassword)
	b.post(t, "/notes", "text", "still here")
	id := b.id(t)

	require.NoError(t, cluster.StopImmediate())
	for _, request := range []struct{ method, path string }{
		{http.MethodGet, "/"},
		{http.MethodGet, "/login"},
		{http.MethodGet, "/devices"},
		{http.MethodGet, "/healthz"},
		{http.MethodPost, "/notes"},
		{http.MethodPost, "/notes/remove"},
		{http.MethodPost, "/login"},
		{http.MethodPost, "/logout"},
		{http.MethodPost, "/devices/revoke"},
		{http.MethodPost, "/devices/revoke-others"},
	} {
		answer := b.do(t, request.method, request.path, url.Values{"text": {"x"}})
		require.Equal(t, http.StatusServiceUnavailable, answer.StatusCode, "%v", request)
		require.Empty(t, answer.Header.Values("Set-Cookie"))
		require.NotContains(t, answer.body, `href="/login"`)
		if request.path != "/healthz" {
			require.Contains(t, answer.body, "You have not been logged out")
		}
	}
	require.NoError(t, cluster.Restart(context.WithoutCancel(t.Context())))
	answer := b.get(t, "/")
	require.Equal(t, http.StatusOK, answer.StatusCode)
	require.Contains(t, answer.body, "still here")
	require.Contains(t, answer.body, "You are alice")
	require.Equal(t, id, b.id(t))
	require.JSONEq(t, `{"status":"healthy"}`, b.get(t, "/healthz").body)
}

func TestRequests_FromOtherSitesAreRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t, pgtest.Pool(t), false)
	b := s.newBrowser(t, firefox)
	b.logIn(t, "alice", alicesPassword)
	for name, headers := range map[string][]string{
		"by Sec-Fetch-Site": {"Sec-Fetch-Site", "cross-site"},
		"by Origin":         {"Origin", "https://example.com"},
	} {
		t.Run(name, func(t *testing.T) {
			answer := b.do(t, http.MethodPost, "/logout", nil, headers...)
			require.Equal(t, http.StatusForbidden, answer.StatusCode)
			require.Contains(t, answer.body, "This form was sent from another site.")
		})
	}
	require.Contains(t, b.get(t, "/").body, "You are alice")
}

func TestRequests_Malformed(t *testing.T) {
	t.Parallel()
	s := newSite(t, pgtest.Pool(t), false)
	require.Equal(t, http.StatusBadRequest, s.newBrowser(t, firefox).get(t, "/?%zz").StatusCode)
	require.Equal(t, http.StatusNotFound, s.newBrowser(t, firefox).get(t, "/nowhere").StatusCode)
	require.Equal(t, http.StatusNotFound, s.newBrowser(t, firefox).get(t, "/static/nothing").StatusCode)
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	s := newSite(t, pgtest.Pool(t), false)
	b := s.newBrowser(t, firefox)
	stylesheet := regexp.MustCompile(`/static/style\.css\?\w+`).FindString(b.get(t, "/").body)
	require.NotEmpty(t, stylesheet)
	for path, caching := range map[string]string{
		"/": "no-store", "/login": "no-store", "/devices": "no-store", "/nowhere": "no-store", "/healthz": "no-store",
		stylesheet: "public, max-age=86400", "/static/icon.svg": "public, max-age=86400",
	} {
		header := b.get(t, path).Header
		require.Equal(t, caching, header.Get("Cache-Control"), path)
		require.Contains(t, header.Get("Content-Security-Policy"), "default-src 'none'; style-src 'self'")
		require.Contains(t, header.Get("Content-Security-Policy"), "frame-ancestors 'none'")
		require.Equal(t, "same-origin", header.Get("Referrer-Policy"))
		require.Equal(t, "nosniff", header.Get("X-Content-Type-Options"))
	}
	require.Equal(t, "text/css; charset=utf-8", b.get(t, stylesheet).Header.Get("Content-Type"))
}

func TestBrowserName(t *testing.T) {
	t.Parallel()
	for userAgent, want := range map[string]string{
		firefox: "Firefox on Linux",
		safari:  "Safari on iPhone",
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Safari/537.36 Edg/138.0.0.0":     "Edge on Windows",
		"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Safari/537.36":             "Chrome on Mac",
		"Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Mobile Safari/537.36":                   "Chrome on Android",
		"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Safari/537.36 OPR/120.0.0.0":               "Opera on Linux",
		"Mozilla/5.0 (iPad; CPU OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/138.0.0.0 Mobile/15E148 Safari/604.1": "Chrome on iPad",
		"curl/8.14.1": "curl",
		"":            "Unknown browser",
	} {
		require.Equal(t, want, browserName(userAgent), userAgent)
	}
}

func TestAccounts_UnknownNameTakesAsLong(t *testing.T) {
	t.Parallel()
	accounts := testAccounts()
	duration := func(name string) time.Duration {
		started := time.Now()
		require.False(t, accounts.accepts(name, "wrong"))
		return time.Since(started)
	}
	// Without the work it takes less than a thousandth.
	require.Greater(t, duration("carol"), duration("alice")/10)
}
