package httpsession_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/httpsession"
)

func TestCookie_Attributes(t *testing.T) {
	t.Parallel()
	const secure = "Path=/; HttpOnly; Secure; SameSite=Lax"
	for name, tc := range map[string]struct {
		url    string
		plain  bool // WithPlainHTTP
		cookie http.Cookie
		name   string
		want   string // behind name and token
	}{
		"https":                  {url: "https://example.com/", name: "__Host-session", want: secure},
		"http, behind a proxy":   {url: "http://example.com/", name: "__Host-session", want: secure},
		"https on loopback":      {url: "https://localhost:8443/", name: "__Host-session", want: secure},
		"http on localhost":      {url: "http://localhost:8080/", name: "__Host-session", want: secure},
		"nginx's default":        {url: "http://127.0.0.1:8080/", name: "__Host-session", want: secure},
		"name":                   {url: "https://example.com/", cookie: http.Cookie{Name: "sid"}, name: "__Host-sid", want: secure},
		"domain":                 {url: "https://www.example.com/", cookie: http.Cookie{Domain: "example.com"}, name: "__Secure-session", want: "Path=/; Domain=example.com; HttpOnly; Secure; SameSite=Lax"},
		"path":                   {url: "https://example.com/app/", cookie: http.Cookie{Path: "/app"}, name: "__Secure-session", want: "Path=/app; HttpOnly; Secure; SameSite=Lax"},
		"strict":                 {url: "https://example.com/", cookie: http.Cookie{SameSite: http.SameSiteStrictMode}, name: "__Host-session", want: "Path=/; HttpOnly; Secure; SameSite=Strict"},
		"partitioned":            {url: "https://example.com/", cookie: http.Cookie{Partitioned: true}, name: "__Host-session", want: secure + "; Partitioned"},
		"what is ignored":        {url: "https://example.com/", cookie: http.Cookie{Value: "x", MaxAge: 60, Expires: time.Now(), Raw: "x"}, name: "__Host-session", want: secure},
		"plain HTTP":             {url: "http://localhost:8080/", plain: true, name: "session", want: "Path=/; HttpOnly; SameSite=Lax"},
		"plain HTTP, a network":  {url: "http://192.168.1.7/", plain: true, name: "session", want: "Path=/; HttpOnly; SameSite=Lax"},
		"plain HTTP, a path":     {url: "http://localhost/app/", plain: true, cookie: http.Cookie{Path: "/app"}, name: "session", want: "Path=/app; HttpOnly; SameSite=Lax"},
		"plain HTTP, but TLS":    {url: "https://localhost/", plain: true, name: "__Host-session", want: secure},
		"plain HTTP, none":       {url: "http://localhost/", plain: true, cookie: http.Cookie{SameSite: http.SameSiteNoneMode}, name: "__Host-session", want: "Path=/; HttpOnly; Secure; SameSite=None"},
		"plain HTTP, partitions": {url: "http://localhost/", plain: true, cookie: http.Cookie{Partitioned: true}, name: "__Host-session", want: secure + "; Partitioned"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opts := []httpsession.Option{httpsession.WithCookie(tc.cookie), httpsession.WithLogger(new(logs).logger())}
			if tc.plain {
				opts = append(opts, httpsession.WithPlainHTTP())
			}
			m := httpsession.New[Values](pgsession.InMemory(), opts...)
			var cookies []*http.Cookie
			do := func(call func(w http.ResponseWriter, r *http.Request)) string {
				w, r := httptest.NewRecorder(), httptest.NewRequest("POST", tc.url, nil)
				for _, cookie := range cookies {
					r.AddCookie(cookie)
				}
				m.Handler(http.HandlerFunc(call)).ServeHTTP(w, r)
				cookies = w.Result().Cookies()
				return w.Header().Get("Set-Cookie")
			}
			guest := do(func(w http.ResponseWriter, r *http.Request) { require.NoError(t, m.Update(w, r, nil)) })
			require.Equal(t, fmt.Sprintf("%s-guest=%s; %s", tc.name, cookies[0].Value, tc.want), guest)
			require.NoError(t, cookies[0].Valid())
			user := do(func(w http.ResponseWriter, r *http.Request) {
				require.NotZero(t, m.Get(r).Handle, "the cookie is read where it was set")
				require.NoError(t, m.LogIn(w, r, "ann", nil))
			})
			require.Equal(t, fmt.Sprintf("%s=%s; %s", tc.name, cookies[0].Value, tc.want), user)
			do(func(w http.ResponseWriter, r *http.Request) {
				require.Equal(t, "ann", m.Get(r).UserID)
				require.NoError(t, m.LogOut(w, r))
			})
			require.Equal(t, -1, cookies[0].MaxAge)
			require.Equal(t, tc.name, cookies[0].Name)
		})
	}
}

// What a developer over plain HTTP should know is logged once.
func TestCookie_Hint(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		url, header string
		opts        []httpsession.Option
		want        string
	}{
		"loopback":            {url: "http://127.0.0.1:8080/", want: "to this machine"},
		"loopback, IPv6":      {url: "http://[::1]:8080/", want: "to this machine"},
		"localhost":           {url: "http://LocalHost.:8080/", want: "to this machine"},
		"below localhost":     {url: "http://shop.localhost/", want: "to this machine"},
		"an address":          {url: "http://192.168.1.7/", want: "to an address"},
		"looks like":          {url: "http://localhost.example.com/"},
		"a name":              {url: "http://example.com/"},
		"TLS":                 {url: "https://localhost/"},
		"through a proxy":     {url: "http://127.0.0.1/", header: "X-Forwarded-Proto"},
		"for somebody else":   {url: "http://127.0.0.1/", header: "X-Forwarded-For"},
		"the option is there": {url: "http://127.0.0.1/", opts: []httpsession.Option{httpsession.WithPlainHTTP()}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			logs := new(logs)
			m := httpsession.New[Values](pgsession.InMemory(), append(tc.opts, httpsession.WithLogger(logs.logger()))...)
			for range 3 {
				r := httptest.NewRequest("POST", tc.url, nil)
				if tc.header != "" {
					r.Header.Set(tc.header, "192.0.2.1")
				}
				m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					require.NoError(t, m.LogIn(w, r, "ann", nil))
				})).ServeHTTP(httptest.NewRecorder(), r)
			}
			if tc.want == "" {
				require.Empty(t, logs.String())
				return
			}
			require.Equal(t, 1, strings.Count(logs.String(), "WithPlainHTTP"))
			require.Contains(t, logs.String(), tc.want)
		})
	}
}

func TestManager_CookieNames(t *testing.T) {
	t.Parallel()
	store := pgsession.InMemory()
	require.Equal(t, []string{"__Host-session", "__Secure-session", "__Host-session-guest", "__Secure-session-guest"},
		httpsession.New[Values](store).CookieNames())
	require.ElementsMatch(t, []string{"__Host-sid", "__Secure-sid", "sid", "__Host-sid-guest", "__Secure-sid-guest", "sid-guest"},
		httpsession.New[Values](store, httpsession.WithPlainHTTP(), httpsession.WithCookie(http.Cookie{Name: "sid", Domain: "example.com"})).CookieNames())
	require.Empty(t, httpsession.New[Values](store, httpsession.WithBearer()).CookieNames())
}

// A name without the prefix proves nothing about who set the cookie.
func TestCookie_WithoutPrefix(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		f.Manager = httpsession.New[Values](f.store)
		b := newBrowser(t, httptest.NewTLSServer(f.Handler(f.app())))
		b.do("POST /login?user=ann")
		planted := b.another()
		planted.Jar.SetCookies(b.address(), []*http.Cookie{{Name: "session", Value: b.token("__Host-session")}})
		require.Zero(t, planted.get())
		require.Equal(t, "ann", b.get().UserID)
	})
}

// An outsider of the token's purpose has nothing: each of these tokens is alive, and is put under
// the names of the Manager's cookies.
func TestCookie_IssuedForAnotherPurpose(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		for name, issue := range map[string]func(t *testing.T, f *fixture) pgsession.ID{
			"bare store": func(t *testing.T, f *fixture) pgsession.ID {
				stored, err := f.store.Create(t.Context(), pgsession.Data{UserID: "ann", Values: Values{Count: 1}}, time.Hour)
				require.NoError(t, err)
				return stored.ID
			},
			"another Manager": func(t *testing.T, f *fixture) pgsession.ID { return f.plant(t, "admin", "ann").ID },
			"half a log-in":   func(t *testing.T, f *fixture) pgsession.ID { return f.plant(t, "session-pending", "ann").ID },
			"a bearer token": func(t *testing.T, f *fixture) pgsession.ID {
				issued, err := httpsession.New[Values](f.store, httpsession.WithBearer()).IssueToken(t.Context(), "ann", Values{})
				require.NoError(t, err)
				id, err := pgsession.ParseID(issued)
				require.NoError(t, err)
				return id
			},
		} {
			t.Run(name, func(t *testing.T) {
				f := newFixture(t)
				b := f.serve(t, f.app())
				id := issue(t, f)
				for _, cookie := range f.CookieNames() {
					b.Jar.SetCookies(b.address(), []*http.Cookie{{Name: cookie, Value: id.Token()}})
				}
				require.Empty(t, b.get().UserID)
				before := f.count(t)
				b.do("POST /logout")
				require.Equal(t, before, f.count(t), "it is not this Manager's to end")
			})
		}
	})
}

// A guest's token under the user's name, and a user's under the guest's, are nobody's, and end with
// the next log-in or log-out.
func TestCookie_UnderTheOtherName(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		for _, end := range []string{"POST /login?user=bob", "POST /logout"} {
			for cookie, user := range map[string]string{"session": "", "session-guest": "ann"} {
				f := newFixture(t)
				b := f.serve(t, f.app())
				b.Jar.SetCookies(b.address(), []*http.Cookie{{Name: cookie, Value: f.plant(t, "session", user).ID.Token()}})
				require.Zero(t, b.get())
				b.do(end)
				sessions, err := f.store.FindByUser(t.Context(), "ann", 0)
				require.NoError(t, err)
				require.Empty(t, sessions)
			}
		}
	})
}

// A token under both names is one session: a log-in moves it and does not end it first.
func TestCookie_UnderBothNames(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		b := f.serve(t, f.app())
		b.do("POST /add?item=pen")
		b.Jar.SetCookies(b.address(), []*http.Cookie{{Name: "session", Value: b.token("session-guest")}})
		require.Equal(t, []string{"pen"}, b.get().Values.Cart)
		require.Equal(t, []string{"pen"}, b.do("POST /login?user=ann").session(t).Values.Cart)
		require.Equal(t, []string{"pen"}, b.get().Values.Cart)
	})
}

// Browsers send the cookie of the longer path first.
func TestCookie_OfAnotherPath(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		for name, old := range map[string]func(t *testing.T, f *fixture) string{
			"of another library": func(*testing.T, *fixture) string { return "MTczNDU2Nzg5MHxEWDhFQVFM" },
			"never stored":       func(*testing.T, *fixture) string { return pgsession.NewIDFor("session").Token() },
			"ended": func(t *testing.T, f *fixture) string {
				stored := f.plant(t, "session", "old")
				require.NoError(t, f.store.Delete(t.Context(), stored.ID))
				return stored.ID.Token()
			},
			"does not open": func(t *testing.T, f *fixture) string {
				stored := f.plant(t, "session", "old")
				f.tamper(stored.Handle)
				return stored.ID.Token()
			},
			"of a guest":      func(t *testing.T, f *fixture) string { return f.plant(t, "session", "").ID.Token() },
			"of another user": func(t *testing.T, f *fixture) string { return f.plant(t, "session", "old").ID.Token() },
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
				stored := f.plant(t, "session", fmt.Sprint("old", i))
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
		require.Zero(t, f.count(t))
	})
}

// Cookies that somebody else has put before the user's own hide nothing, whatever they are, and a
// log-out ends all that are alive.
func TestCookie_Tossed(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		b := f.serve(t, f.app())
		b.do("POST /login?user=ann")
		b.do("POST /login?user=ann")
		toss := func(r *http.Request) {
			own := r.Header.Get("Cookie")
			r.Header.Del("Cookie")
			for i := range 15 {
				ended, alive := f.plant(t, "session", "eve"), f.plant(t, "session", "")
				require.NoError(t, f.store.Delete(t.Context(), ended.ID))
				for _, value := range []string{"garbage", pgsession.NewIDFor("session").Token(), pgsession.NewIDFor("session").Token(), ended.ID.Token(), alive.ID.Token(), fmt.Sprint(i)} {
					r.AddCookie(&http.Cookie{Name: "session", Value: value})
				}
			}
			r.Header.Set("Cookie", r.Header.Get("Cookie")+"; "+own)
		}
		require.Equal(t, "ann", b.do("GET /session", toss).session(t).UserID)
		_, err := f.store.DeleteByUser(t.Context(), "ann")
		require.NoError(t, err)
		_, err = f.store.DeleteAll(t.Context())
		require.NoError(t, err)
		b.do("POST /login?user=ann")
		require.Equal(t, http.StatusOK, b.do("POST /logout", toss).StatusCode)
		require.Zero(t, f.count(t))
	})
}

// A client that sends more tokens than any browser keeps is refused: each costs a query.
func TestCookie_TooMany(t *testing.T) {
	t.Parallel()
	f := newInMemory(t)
	b := f.serve(t, f.app())
	send := func(n int) (response, int64) {
		before := f.store.Stats().Loads
		answer := b.do("GET /session", func(r *http.Request) {
			for range n {
				r.AddCookie(&http.Cookie{Name: "session", Value: "garbage"})
				r.AddCookie(&http.Cookie{Name: "session", Value: pgsession.NewID().Token()})
			}
		})
		return answer, f.store.Stats().Loads - before
	}
	answer, loads := send(256)
	require.Equal(t, http.StatusOK, answer.StatusCode)
	require.EqualValues(t, 256, loads)
	answer, loads = send(257)
	require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, answer.StatusCode)
	require.Zero(t, loads)
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

// A release changes the cookie's Domain or Path, and is rolled back later. Users stay logged in
// through both. One who logs out in between stays logged out, and has no cookie left that says
// "ended".
func TestCookie_OtherAttributes(t *testing.T) {
	t.Parallel()
	none := http.Cookie{}
	for name, tc := range map[string]struct {
		before, after http.Cookie
		plainHTTP     bool
	}{
		"a domain":                 {none, http.Cookie{Domain: "example.com"}, false},
		"a path":                   {none, http.Cookie{Path: "/app"}, false},
		"no domain":                {http.Cookie{Domain: "example.com"}, none, false},
		"no domain, host":          {http.Cookie{Domain: "www.example.com"}, none, false},
		"no path":                  {http.Cookie{Path: "/app"}, none, false},
		"a wider domain":           {http.Cookie{Domain: "www.example.com"}, http.Cookie{Domain: "example.com"}, false},
		"a host's domain":          {http.Cookie{Domain: "example.com"}, http.Cookie{Domain: "www.example.com"}, false},
		"a domain, no path":        {http.Cookie{Path: "/app"}, http.Cookie{Domain: "example.com"}, false},
		"a path, no domain":        {http.Cookie{Domain: "example.com"}, http.Cookie{Path: "/app"}, false},
		"both":                     {none, http.Cookie{Domain: "example.com", Path: "/app"}, false},
		"neither":                  {http.Cookie{Domain: "example.com", Path: "/app"}, none, false},
		"a domain, and a path":     {http.Cookie{Path: "/app"}, http.Cookie{Domain: "example.com", Path: "/app"}, false},
		"no domain, but a path":    {http.Cookie{Domain: "example.com", Path: "/app"}, http.Cookie{Path: "/app"}, false},
		"a domain, but no path":    {http.Cookie{Domain: "example.com", Path: "/app"}, http.Cookie{Domain: "example.com"}, false},
		"a path, over plain HTTP":  {none, http.Cookie{Path: "/app"}, true},
		"no path, over plain HTTP": {http.Cookie{Path: "/app"}, none, true},
	} {
		t.Run(name, func(t *testing.T) {
			store := pgsession.InMemory()
			fixtureOf := func(c http.Cookie) *fixture {
				f := &fixture{store: store, logs: new(logs)}
				opts := []httpsession.Option{httpsession.WithCookie(c), httpsession.WithLogger(f.logs.logger())}
				if tc.plainHTTP {
					opts = append(opts, httpsession.WithPlainHTTP())
				}
				f.Manager = httpsession.New[Values](store, opts...)
				return f
			}
			before, after := fixtureOf(tc.before), fixtureOf(tc.after)
			serving := before
			handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				http.StripPrefix("/app", serving.Handler(serving.app())).ServeHTTP(w, r)
			})
			newServer, address := httptest.NewTLSServer, "https://www.example.com"
			if tc.plainHTTP {
				newServer, address = httptest.NewServer, "http://www.example.com"
			}
			b := newBrowser(t, newServer(handler))
			b.url = address + "/app" // httptest's client leads every name to the server

			b.do("POST /add?item=pen")
			serving = after
			require.Equal(t, []string{"pen"}, b.get().Values.Cart, "a guest keeps the cart")
			serving = before
			b.do("POST /login?user=ann")
			serving = after
			require.Equal(t, "ann", b.get().UserID)
			b.do("POST /login?user=ann")
			require.Equal(t, "ann", b.get().UserID)
			serving = before
			require.Equal(t, "ann", b.get().UserID, "rolled back")
			serving = after
			b.do("POST /logout")
			for _, release := range []*fixture{after, before} {
				serving = release
				require.Zero(t, b.get())
			}
			require.Zero(t, before.count(t))
			for _, release := range []*fixture{after, before} {
				serving = release
				require.Equal(t, http.StatusOK, b.do("POST /add?item=ink").StatusCode, "a guest again")
				require.Equal(t, []string{"ink"}, b.get().Values.Cart)
				b.do("POST /logout")
			}
		})
	}
}
