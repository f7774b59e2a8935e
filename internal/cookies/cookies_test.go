package cookies_test

import (
	"net/http"
	"net/http/httptest"
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
