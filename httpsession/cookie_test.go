package httpsession_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/httpsession"
)

func TestCookie_Attributes(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		url    string
		header string
		cookie http.Cookie
		want   string // behind name and token
		name   string
	}{
		"https":                   {url: "https://example.com/", name: "__Host-session", want: "Path=/; HttpOnly; Secure; SameSite=Lax"},
		"http, behind a proxy":    {url: "http://example.com/", name: "__Host-session", want: "Path=/; HttpOnly; Secure; SameSite=Lax"},
		"https on loopback":       {url: "https://localhost:8443/", name: "__Host-session", want: "Path=/; HttpOnly; Secure; SameSite=Lax"},
		"http on localhost":       {url: "http://localhost:8080/", name: "session", want: "Path=/; HttpOnly; SameSite=Lax"},
		"capitals and a dot":      {url: "http://LocalHost.:8080/", name: "session", want: "Path=/; HttpOnly; SameSite=Lax"},
		"http below localhost":    {url: "http://shop.localhost/", name: "session", want: "Path=/; HttpOnly; SameSite=Lax"},
		"http on 127.0.0.1":       {url: "http://127.0.0.1:8080/", name: "session", want: "Path=/; HttpOnly; SameSite=Lax"},
		"http on ::1":             {url: "http://[::1]:8080/", name: "session", want: "Path=/; HttpOnly; SameSite=Lax"},
		"http on ::1, no port":    {url: "http://[::1]/", name: "session", want: "Path=/; HttpOnly; SameSite=Lax"},
		"a name that looks like":  {url: "http://localhost.example.com/", name: "__Host-session", want: "Path=/; HttpOnly; Secure; SameSite=Lax"},
		"http on a private net":   {url: "http://192.168.1.2/", name: "__Host-session", want: "Path=/; HttpOnly; Secure; SameSite=Lax"},
		"loopback from a proxy":   {url: "http://127.0.0.1:8080/", header: "X-Forwarded-Proto", name: "__Host-session", want: "Path=/; HttpOnly; Secure; SameSite=Lax"},
		"loopback, forwarded for": {url: "http://127.0.0.1:8080/", header: "X-Forwarded-For", name: "__Host-session", want: "Path=/; HttpOnly; Secure; SameSite=Lax"},
		"name":                    {url: "https://example.com/", cookie: http.Cookie{Name: "sid"}, name: "__Host-sid", want: "Path=/; HttpOnly; Secure; SameSite=Lax"},
		"domain":                  {url: "https://www.example.com/", cookie: http.Cookie{Domain: "example.com"}, name: "__Secure-session", want: "Path=/; Domain=example.com; HttpOnly; Secure; SameSite=Lax"},
		"path":                    {url: "https://example.com/app/", cookie: http.Cookie{Path: "/app"}, name: "__Secure-session", want: "Path=/app; HttpOnly; Secure; SameSite=Lax"},
		"strict":                  {url: "https://example.com/", cookie: http.Cookie{SameSite: http.SameSiteStrictMode}, name: "__Host-session", want: "Path=/; HttpOnly; Secure; SameSite=Strict"},
		"none on loopback":        {url: "http://localhost/", cookie: http.Cookie{SameSite: http.SameSiteNoneMode}, name: "__Host-session", want: "Path=/; HttpOnly; Secure; SameSite=None"},
		"partitioned":             {url: "http://localhost/", cookie: http.Cookie{Partitioned: true}, name: "__Host-session", want: "Path=/; HttpOnly; Secure; SameSite=Lax; Partitioned"},
		"secure on loopback":      {url: "http://localhost/", cookie: http.Cookie{Secure: true}, name: "__Host-session", want: "Path=/; HttpOnly; Secure; SameSite=Lax"},
		"what is ignored":         {url: "https://example.com/", cookie: http.Cookie{Value: "x", MaxAge: 60, Expires: time.Now()}, name: "__Host-session", want: "Path=/; HttpOnly; Secure; SameSite=Lax"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newInMemory(t, httpsession.WithCookie(tc.cookie))
			var cookies []*http.Cookie
			do := func(call func(w http.ResponseWriter, r *http.Request)) string {
				w, r := httptest.NewRecorder(), httptest.NewRequest("POST", tc.url, nil)
				if tc.header != "" {
					r.Header.Set(tc.header, "192.0.2.1")
				}
				for _, cookie := range cookies {
					r.AddCookie(cookie)
				}
				f.Handler(http.HandlerFunc(call)).ServeHTTP(w, r)
				cookies = w.Result().Cookies()
				return w.Header().Get("Set-Cookie")
			}
			guest := do(func(w http.ResponseWriter, r *http.Request) { require.NoError(t, f.Update(w, r, nil)) })
			require.Equal(t, fmt.Sprintf("%s-guest=%s; %s", tc.name, cookies[0].Value, tc.want), guest)
			require.NoError(t, cookies[0].Valid())
			user := do(func(w http.ResponseWriter, r *http.Request) {
				require.NotZero(t, f.Get(r).Handle, "the cookie is read where it was set")
				require.NoError(t, f.LogIn(w, r, "ann", nil))
			})
			require.Equal(t, fmt.Sprintf("%s=%s; %s", tc.name, cookies[0].Value, tc.want), user)
			do(func(w http.ResponseWriter, r *http.Request) {
				require.Equal(t, "ann", f.Get(r).UserID)
				require.NoError(t, f.LogOut(w, r))
			})
			require.Equal(t, -1, cookies[0].MaxAge)
			require.Equal(t, tc.name, cookies[0].Name)
		})
	}
}

// A name without the prefix proves nothing about who set the cookie.
func TestCookie_WithoutPrefix(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		b := newBrowser(t, httptest.NewTLSServer(f.Handler(f.app())))
		b.do("POST /login?user=ann")
		planted := b.another()
		planted.Jar.SetCookies(b.address(), []*http.Cookie{{Name: "session", Value: b.token("__Host-session")}})
		require.Zero(t, planted.get())
		require.Equal(t, "ann", b.get().UserID)
	})
}

// Browsers send the cookie of the longer path first.
func TestCookie_OfAnotherPath(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		for name, old := range map[string]func(t *testing.T, f *fixture) string{
			"of another library": func(*testing.T, *fixture) string { return "MTczNDU2Nzg5MHxEWDhFQVFM" },
			"never stored":       func(*testing.T, *fixture) string { return pgsession.NewID().Token() },
			"ended": func(t *testing.T, f *fixture) string {
				stored, err := f.store.Create(t.Context(), pgsession.Data{UserID: "old"}, time.Hour)
				require.NoError(t, err)
				require.NoError(t, f.store.Delete(t.Context(), stored.ID))
				return stored.ID.Token()
			},
			"does not open": func(t *testing.T, f *fixture) string {
				stored, err := f.store.Create(t.Context(), pgsession.Data{UserID: "old"}, time.Hour)
				require.NoError(t, err)
				f.tamper(stored.Handle)
				return stored.ID.Token()
			},
			"of a guest": func(t *testing.T, f *fixture) string {
				stored, err := f.store.Create(t.Context(), pgsession.Data{Values: Values{Count: 5}}, time.Hour)
				require.NoError(t, err)
				return stored.ID.Token()
			},
			"of another user": func(t *testing.T, f *fixture) string {
				stored, err := f.store.Create(t.Context(), pgsession.Data{UserID: "old"}, time.Hour)
				require.NoError(t, err)
				return stored.ID.Token()
			},
		} {
			t.Run(name, func(t *testing.T) {
				f := newFixture(t)
				b := f.serve(t, http.StripPrefix("/app/x", f.app()))
				b.url += "/app/x"
				token := old(t, f)
				for _, path := range []string{"/app", "/app/x"} {
					b.Jar.SetCookies(b.address(), []*http.Cookie{{Name: "session", Value: token, Path: path}})
				}
				b.do("POST /add?item=pen")
				for range 2 {
					require.Equal(t, "ann", b.do("POST /login?user=ann").session(t).UserID)
					require.Equal(t, "ann", b.get().UserID)
				}
				b.do("POST /add")
				require.Equal(t, "ann", b.get().UserID)
				b.do("POST /logout")
				require.Empty(t, b.get().UserID)
				require.Zero(t, f.count(t), "nothing that the browser has a cookie of is left")
			})
		}
	})
}

// Two live sessions under one name: a log-in and a log-out leave neither.
func TestCookie_SeveralAlive(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		mux := f.app()
		half := func(call func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				f.outage(true)
				err := call(w, r)
				f.outage(false)
				require.Error(t, err)
				f.Error(w, r, err)
			}
		}
		mux.HandleFunc("POST /half/logout", half(f.LogOut))
		mux.HandleFunc("POST /half/login", half(func(w http.ResponseWriter, r *http.Request) error { return f.LogIn(w, r, "ann", nil) }))
		b := f.serve(t, http.StripPrefix("/app/x", mux))
		b.url += "/app/x"
		plant := func() {
			for i, path := range []string{"/app/x", "/app"} {
				stored, err := f.store.Create(t.Context(), pgsession.Data{UserID: fmt.Sprint("old", i)}, time.Hour)
				require.NoError(t, err)
				b.Jar.SetCookies(b.address(), []*http.Cookie{{Name: "session", Value: stored.ID.Token(), Path: path}})
			}
		}
		plant()
		require.Equal(t, "old0", b.get().UserID, "the most specific")
		b.do("POST /login?user=ann")
		require.Equal(t, "ann", b.get().UserID)
		plant()
		require.Equal(t, "old0", b.get().UserID)
		before := b.cookies()
		for _, request := range []string{"POST /half/login", "POST /half/logout"} {
			answer := b.do(request)
			require.Equal(t, http.StatusServiceUnavailable, answer.StatusCode)
			require.Empty(t, answer.setCookies())
		}
		require.Equal(t, before, b.cookies())
		require.Equal(t, "old0", b.get().UserID)
		b.do("POST /logout")
		require.Empty(t, b.get().UserID)
	})
}

// A client that sends very many cookies costs no more than a few queries.
func TestCookie_TooMany(t *testing.T) {
	t.Parallel()
	f := newInMemory(t)
	b := f.serve(t, f.app())
	before := f.store.Stats().Loads
	b.do("GET /session", func(r *http.Request) {
		for range 100 {
			r.AddCookie(&http.Cookie{Name: "session", Value: pgsession.NewID().Token()})
			r.AddCookie(&http.Cookie{Name: "session-guest", Value: pgsession.NewID().Token()})
		}
	})
	require.EqualValues(t, 8, f.store.Stats().Loads-before)
}

// Two sites below one domain share a cookie that names the domain.
func TestCookie_Domain(t *testing.T) {
	t.Parallel()
	f := newInMemory(t, httpsession.WithCookie(http.Cookie{Domain: "example.com"}))
	b := newBrowser(t, httptest.NewTLSServer(f.Handler(f.app())))
	b.url = "https://www.example.com" // httptest's client leads every name to the server
	b.do("POST /login?user=ann")
	b.url = "https://shop.example.com"
	require.Equal(t, "ann", b.get().UserID)
}
