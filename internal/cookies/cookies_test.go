package cookies_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession/internal/cookies"
)

func TestSet(t *testing.T) {
	w := httptest.NewRecorder()
	http.SetCookie(w, &http.Cookie{Name: "sessions", Value: "other"})
	cookies.Set(w, &http.Cookie{Name: "session", Value: "first"})
	cookies.Set(w, &http.Cookie{Name: "session", Value: "second", Path: "/"})
	require.Equal(t, []string{"sessions=other", "session=second; Path=/"}, w.Header()["Set-Cookie"])
	require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
}

func TestClearOthers(t *testing.T) {
	t.Parallel()
	for address, want := range map[string][]string{
		"https://localhost/":               nil,
		"https://127.0.0.1:8080/a":         {"Path=/a"},
		"https://WWW.Example.com.:8443/a/": {"Path=/a", "Path=/; Domain=www.example.com", "Path=/a; Domain=www.example.com", "Path=/; Domain=example.com", "Path=/a; Domain=example.com"},
		"https://a.b.c.d.e/":               {"Path=/; Domain=a.b.c.d.e", "Path=/; Domain=b.c.d.e", "Path=/; Domain=c.d.e"},
		"https://localhost/1/2/3/4":        {"Path=/1", "Path=/1/2", "Path=/1/2/3"},
		"https://localhost//":              nil,
		// What net/http would log, and leave out.
		"https://a_b.example.com/x;y/z": {"Path=/; Domain=example.com"},
	} {
		w := httptest.NewRecorder()
		cookies.ClearOthers(w, httptest.NewRequest("GET", address, nil), http.Cookie{Name: "session", Path: "/", Value: "secret"})
		var got []string
		for _, line := range w.Header()["Set-Cookie"] {
			line, ok := strings.CutPrefix(line, "session=; ")
			require.True(t, ok)
			line, ok = strings.CutSuffix(line, "; Max-Age=0")
			require.True(t, ok)
			got = append(got, line)
		}
		require.Equal(t, want, got, address)
	}
}
