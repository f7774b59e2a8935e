package main

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m, nil) }

func TestVisits(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	keys, err := pgsession.NewCrypto(pgsession.GenerateKey())
	require.NoError(t, err)
	store := pgsession.New(pool, keys)
	require.NoError(t, store.Init(t.Context()))
	pgtest.AfterInit(t, pool, "sessions")
	server := httptest.NewServer(visits(store))
	defer server.Close()

	ann, bob := newBrowser(t), newBrowser(t)
	get := func(browser *http.Client) (status int, body string) {
		response, err := browser.Get(server.URL)
		require.NoError(t, err)
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		return response.StatusCode, string(text)
	}
	for _, visit := range []struct {
		browser *http.Client
		want    string
	}{{ann, "Visits: 1\n"}, {ann, "Visits: 2\n"}, {bob, "Visits: 1\n"}, {ann, "Visits: 3\n"}} {
		status, body := get(visit.browser)
		require.Equal(t, http.StatusOK, status)
		require.Equal(t, visit.want, body)
	}

	pool.Close()
	status, _ := get(ann)
	require.Equal(t, http.StatusServiceUnavailable, status)
}

func newBrowser(t *testing.T) *http.Client {
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	return &http.Client{Jar: jar}
}
