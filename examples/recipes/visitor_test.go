package recipes

import (
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
)

// A visitor sends requests as one browser does, to https://example.com.
type visitor struct {
	app     http.Handler
	jar     http.CookieJar
	address *url.URL
	header  http.Header
}

func newVisitor(t *testing.T, app http.Handler) *visitor {
	t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	return &visitor{app, jar, &url.URL{Scheme: "https", Host: "example.com"}, http.Header{"Sec-Fetch-Mode": {"navigate"}}}
}

// copy is another browser with the same cookies, such as a thief's.
func (v *visitor) copy(t *testing.T) *visitor {
	t.Helper()
	other := newVisitor(t, v.app)
	other.jar.SetCookies(v.address, v.jar.Cookies(v.address))
	return other
}

// send sends a form, and requires an answer's status and something of its body or Location.
func (v *visitor) send(t *testing.T, request string, form url.Values, status int, want string) *httptest.ResponseRecorder {
	t.Helper()
	method, path, _ := strings.Cut(request, " ")
	r := httptest.NewRequestWithContext(t.Context(), method, v.address.String()+path, strings.NewReader(form.Encode()))
	r.RequestURI = path
	r.Header = v.header.Clone()
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for _, cookie := range v.jar.Cookies(v.address) {
		r.AddCookie(cookie)
	}
	w := httptest.NewRecorder()
	v.app.ServeHTTP(w, r)
	v.jar.SetCookies(v.address, w.Result().Cookies())
	require.Equal(t, status, w.Code, "%s: %s", request, w.Body)
	require.Contains(t, w.Header().Get("Location")+" "+w.Body.String(), want, request)
	return w
}

func form(fields ...string) url.Values {
	values := url.Values{}
	for i := 0; i < len(fields); i += 2 {
		values.Set(fields[i], fields[i+1])
	}
	return values
}

// end logs a user out everywhere, as another node does.
func end(t *testing.T, store *pgsession.Store, user string) {
	t.Helper()
	ended, err := store.DeleteByUser(t.Context(), user)
	require.NoError(t, err)
	require.EqualValues(t, 1, ended)
}
