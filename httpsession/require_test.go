package httpsession_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession/httpsession"
)

func TestManager_RequireUser(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		const (
			page    = "303 /login?lang=en&next=%2Fin%2Fsession%3Fa%3Db%26c%3Dd"
			html    = "Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"
			request = "GET /in/session?a=b&c=d"
		)
		opts := []httpsession.Option{httpsession.WithLogInPage("/login?lang=en")}
		for name, tc := range map[string]struct {
			opts    []httpsession.Option
			request string
			header  string
			want    string
		}{
			"no page":            {nil, request, html, "401 "},
			"no page, POST":      {nil, "POST /in/add", html, "401 "},
			"page":               {opts, request, "Sec-Fetch-Mode: navigate", page},
			"page, HEAD":         {opts, "HEAD /in/session?a=b&c=d", html, page},
			"page, old browser":  {opts, request, html, page},
			"page, script":       {opts, request, "Sec-Fetch-Mode: cors", "401 "},
			"page, script, html": {opts, request, "Sec-Fetch-Mode: cors\n" + html, "401 "},
			"page, POST":         {opts, "POST /in/add", "Sec-Fetch-Mode: navigate", "401 "},
			"nothing accepted":   {opts, request, "", "401 "},
			"curl":               {opts, request, "Accept: */*", "401 "},
			"JSON":               {opts, request, "Accept: application/json, text/plain, */*", "401 "},
			"event stream":       {opts, request, "Accept: text/event-stream", "401 "},
			"web socket":         {opts, request, "Upgrade: websocket\nConnection: Upgrade", "401 "},
			"web socket, HTML":   {opts, request, "Upgrade: websocket\n" + html, "401 "},
			"not quite HTML":     {opts, request, "Accept: text/html+json", "401 "},
		} {
			t.Run(name, func(t *testing.T) {
				f := newFixture(t, tc.opts...)
				mux := f.app()
				mux.Handle("/in/", http.StripPrefix("/in", f.RequireUser(f.app())))
				b := f.serve(t, mux)
				send := func() response {
					return b.do(tc.request, func(r *http.Request) {
						for _, line := range strings.Split(tc.header, "\n") {
							key, value, _ := strings.Cut(line, ": ")
							if key != "" {
								r.Header.Set(key, value)
							}
						}
					})
				}
				for range 2 { // without a session, and as a guest with one
					answer := send()
					require.Equal(t, tc.want, answer.Status[:4]+answer.Header.Get("Location"))
					require.Equal(t, "no-store", answer.Header.Get("Cache-Control"))
					require.Empty(t, answer.setCookies())
					b.do("POST /add")
				}
				b.do("POST /login?user=ann")
				require.Equal(t, http.StatusOK, send().StatusCode)
				_, err := f.store.DeleteAll(t.Context())
				require.NoError(t, err)
				require.Equal(t, tc.want[:3], send().Status[:3])
			})
		}
	})
}

// RequireUser around the whole application lets guests log in, and sends nobody in circles.
func TestManager_RequireUser_WholeApplication(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t, httpsession.WithLogInPage("/login"))
		mux := f.app()
		mux.HandleFunc("GET /login", func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("the log-in page")) })
		mux.Handle("/below/", http.StripPrefix("/below", mux))
		rewritten := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if path := r.Header.Get("X-Rewrite-URL"); path != "" { // as some gateways do
				r.URL.Path = path
			}
			f.RequireUser(mux).ServeHTTP(w, r)
		})
		b := newBrowser(t, httptest.NewServer(rewritten))
		asPage := func(r *http.Request) { r.Header.Set("Sec-Fetch-Mode", "navigate") }
		answer := b.do("GET /session", asPage)
		require.Equal(t, "/login?next=%2Fsession", answer.Header.Get("Location"))
		answer = b.do("GET /login?next=%2Fsession", asPage)
		require.Equal(t, "the log-in page", answer.body)
		for _, request := range []string{"POST /logout", "GET /login/", "GET //login", "GET /LOGIN", "POST /below/login?user=eve"} {
			require.NotEqual(t, http.StatusOK, b.do(request).StatusCode, request)
		}
		for from, to := range map[string]string{"GET /login": "/session", "GET /session": "/login", "GET /below/session": "/login"} {
			answer := b.do(from, asPage, func(r *http.Request) { r.Header.Set("X-Rewrite-URL", to) })
			require.NotEqual(t, http.StatusOK, answer.StatusCode, "%s as %s", from, to)
			if from == "GET /login" {
				require.Equal(t, http.StatusUnauthorized, answer.StatusCode, "not in circles")
			}
		}
		require.Equal(t, http.StatusOK, b.do("POST /login?user=ann&next=%2Fsession").StatusCode)
		require.Equal(t, "ann", b.get().UserID)
		require.Equal(t, http.StatusOK, b.do("POST /logout").StatusCode)
		require.Equal(t, http.StatusUnauthorized, b.do("GET /session").StatusCode)
	})
}

func TestManager_Require(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		hasPen := func(s session) bool {
			require.NotEmpty(t, s.UserID, "it is not called for guests")
			return slices.Contains(s.Values.Cart, "pen")
		}
		mux := f.app()
		mux.Handle("GET /pens", f.Require(hasPen)(f.app()))
		mux.HandleFunc("GET /pens/", f.write)
		b := f.serve(t, mux)
		get := func() int { return b.do("GET /pens").StatusCode }
		b.do("POST /add?item=pen")
		require.Equal(t, http.StatusUnauthorized, get(), "a guest, whatever the values are")
		b.do("POST /logout")
		b.do("POST /login?user=ann")
		require.Equal(t, http.StatusForbidden, get())
		require.Equal(t, "no-store", b.do("GET /pens").Header.Get("Cache-Control"))
		b.do("POST /add?item=pen")
		require.Equal(t, http.StatusNotFound, get(), "it got through")
		f.outage(true)
		defer f.outage(false)
		require.Equal(t, http.StatusServiceUnavailable, get())
	})
}

// RequireUser needs no Handler around it.
func TestManager_RequireUser_Alone(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		mux := http.NewServeMux()
		mux.Handle("POST /login", f.Handler(f.app()))
		mux.Handle("GET /session", f.RequireUser(f.app()))
		b := newBrowser(t, httptest.NewServer(mux))
		require.Equal(t, http.StatusUnauthorized, b.do("GET /session").StatusCode)
		b.do("POST /login?user=ann")
		require.Equal(t, "ann", b.get().UserID)
		f.outage(true)
		defer f.outage(false)
		require.Equal(t, http.StatusServiceUnavailable, b.do("GET /session").StatusCode)
	})
}

func TestNextPage(t *testing.T) {
	t.Parallel()
	for next, want := range map[string]string{
		"":                        "/",
		"/account?tab=2#top":      "/account?tab=2#top",
		"/":                       "/",
		"account":                 "/",
		"//evil.example":          "/",
		"///evil.example":         "/",
		`/\evil.example`:          "/",
		`\/evil.example`:          "/",
		"/\t/evil.example":        "/",
		"/\n/evil.example":        "/",
		" //evil.example":         "/",
		"https://evil.example/":   "/",
		"https:/evil.example/":    "/",
		"javascript:alert(1)":     "/",
		"/a//b":                   "/a//b",
		"/search?q=http://a.b//c": "/search?q=http://a.b//c",
		"/%5C/evil.example":       "/%5C/evil.example",
		"/\x7f/evil.example":      "/",
		"/caf\u00e9":              "/caf\u00e9",
		"/.//evil.example":        "/.//evil.example", // a path on this host
	} {
		r := httptest.NewRequest("GET", "/login?next="+url.QueryEscape(next), nil)
		require.Equal(t, want, httpsession.NextPage(r), next)
		r = httptest.NewRequest("POST", "/login", strings.NewReader(url.Values{"next": {next}}.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		require.Equal(t, want, httpsession.NextPage(r), next)
	}
}
