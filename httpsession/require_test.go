package httpsession_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession/httpsession"
)

func TestManager_RequireUser(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		const page = "303 /login?lang=en&next=%2Fin%2Fsession%3Fa%3Db%26c%3Dd"
		for name, tc := range map[string]struct {
			opts    []httpsession.Option
			request string
			mode    string
			want    string
		}{
			"no page":           {nil, "GET /in/session", "", "401 "},
			"no page, POST":     {nil, "POST /in/add", "", "401 "},
			"page":              {[]httpsession.Option{httpsession.WithLogInPage("/login?lang=en")}, "GET /in/session?a=b&c=d", "navigate", page},
			"page, HEAD":        {[]httpsession.Option{httpsession.WithLogInPage("/login?lang=en")}, "HEAD /in/session?a=b&c=d", "", page},
			"page, old browser": {[]httpsession.Option{httpsession.WithLogInPage("/login?lang=en")}, "GET /in/session?a=b&c=d", "", page},
			"page, script":      {[]httpsession.Option{httpsession.WithLogInPage("/login")}, "GET /in/session", "cors", "401 "},
			"page, POST":        {[]httpsession.Option{httpsession.WithLogInPage("/login")}, "POST /in/add", "navigate", "401 "},
		} {
			t.Run(name, func(t *testing.T) {
				f := newFixture(t, tc.opts...)
				mux := f.app()
				mux.Handle("/in/", http.StripPrefix("/in", f.RequireUser(f.app())))
				b := f.serve(t, mux)
				send := func() response {
					return b.do(tc.request, func(r *http.Request) {
						if tc.mode != "" {
							r.Header.Set("Sec-Fetch-Mode", tc.mode)
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
