// Package examples_test runs the example programs, as they are, but for the address that they listen
// on.
package examples_test

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m, nil) }

func TestPrograms_InMemory(t *testing.T) {
	t.Parallel()
	for _, folder := range []string{"minimal", "chi", "echo", "gin", "scs", "gorilla", "fiber"} {
		t.Run(folder, func(t *testing.T) {
			t.Parallel()
			site := start(t, folder, "DATABASE_URL=")
			requireCounts(t, site)
			if slices.Contains([]string{"chi", "echo", "gin"}, folder) { // what the middleware refuses, no handler answers
				response, err := http.Get(site + "/account")
				require.NoError(t, err)
				require.NoError(t, response.Body.Close())
				require.Equal(t, http.StatusUnauthorized, response.StatusCode)
			}
		})
	}
}

func TestPrograms_PostgreSQL(t *testing.T) {
	t.Parallel()
	for _, folder := range []string{"minimal-postgres", "fiber"} {
		t.Run(folder, func(t *testing.T) {
			t.Parallel()
			pool := pgtest.Pool(t)
			requireCounts(t, start(t, folder, "DATABASE_URL="+pgtest.URL(t, pool), "SESSION_KEYS="+pgsession.GenerateKey().Secret()))
			var rows int
			require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM sessions`).Scan(&rows))
			require.Positive(t, rows)
		})
	}
}

const address = "localhost:8080"

// start builds the program in a folder, which listens on another address then, runs it with an
// environment, and returns its URL.
func start(t *testing.T, folder string, environment ...string) string {
	t.Helper()
	file, err := filepath.Abs(filepath.Join(folder, "main.go"))
	require.NoError(t, err)
	source, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(source), address))
	port, err := pgtest.FreePort()
	require.NoError(t, err)
	free := net.JoinHostPort("localhost", strconv.Itoa(port))
	temporary := t.TempDir()
	changed, overlay, program := filepath.Join(temporary, "main.go"), filepath.Join(temporary, "overlay.json"), filepath.Join(temporary, "program")
	require.NoError(t, os.WriteFile(changed, []byte(strings.ReplaceAll(string(source), address, free)), 0o600))
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{file: changed}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(overlay, replace, 0o600))
	output, err := exec.Command("go", "build", "-overlay", overlay, "-o", program, "./"+folder).CombinedOutput()
	require.NoError(t, err, string(output))

	command := exec.Command(program)
	command.Env = append(os.Environ(), environment...)
	command.Stdout, command.Stderr = t.Output(), t.Output()
	require.NoError(t, command.Start())
	ended := make(chan struct{})
	go func() {
		_ = command.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = command.Process.Kill()
		<-ended
	})
	waitUntilReady(t, free, ended)
	return "http://" + free
}

// waitUntilReady asks again and again, since the programs do not say when they are ready.
func waitUntilReady(t *testing.T, address string, ended <-chan struct{}) {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return
		}
		select {
		case <-ticker.C:
		case <-ended:
			require.FailNow(t, "the program has ended")
		case <-t.Context().Done():
			require.NoError(t, t.Context().Err())
		}
	}
}

// requireCounts lets two browsers count, and requires that GET changes nothing.
func requireCounts(t *testing.T, site string) {
	t.Helper()
	ann, bob := newBrowser(t), newBrowser(t)
	for _, visit := range []struct {
		browser *http.Client
		post    string // "" to load the page
		want    string
	}{
		{ann, "", "Hello guest, you have counted to 0."},
		{ann, "/count", "Hello guest, you have counted to 1."},
		{ann, "", "Hello guest, you have counted to 1."},
		{bob, "", "Hello guest, you have counted to 0."},
		{ann, "/login", "Hello &lt;ann&gt;, you have counted to 1."},
		{ann, "/count", "Hello &lt;ann&gt;, you have counted to 2."},
		{bob, "/count", "Hello guest, you have counted to 1."},
		{ann, "/logout", "Hello guest, you have counted to 0."},
	} {
		var response *http.Response
		var err error
		if visit.post == "" {
			response, err = visit.browser.Get(site)
		} else {
			response, err = visit.browser.PostForm(site+visit.post, url.Values{"name": {"<ann>"}})
		}
		require.NoError(t, err)
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusOK, response.StatusCode)
		require.Contains(t, string(body), visit.want)
		require.Contains(t, response.Header.Get("Content-Type"), "text/html")
		require.Equal(t, "private", response.Header.Get("Cache-Control"))
	}
	requireRefusesOtherSites(t, site+"/count")
}

// requireRefusesOtherSites sends a form from another site.
func requireRefusesOtherSites(t *testing.T, address string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, address, nil)
	require.NoError(t, err)
	request.Header.Set("Sec-Fetch-Site", "cross-site")
	response, err := http.DefaultTransport.RoundTrip(request)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusForbidden, response.StatusCode)
	require.Empty(t, response.Cookies())
}

// newBrowser returns a client that counts http://localhost as secure, as Chrome, Firefox and Edge
// do.
func newBrowser(t *testing.T) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	return &http.Client{Jar: browserJar{jar}}
}

type browserJar struct{ jar *cookiejar.Jar }

func (j browserJar) Cookies(u *url.URL) []*http.Cookie { return j.jar.Cookies(secure(u)) }

func (j browserJar) SetCookies(u *url.URL, cookies []*http.Cookie) {
	j.jar.SetCookies(secure(u), cookies)
}

func secure(u *url.URL) *url.URL {
	if u.Hostname() != "localhost" && u.Hostname() != "127.0.0.1" {
		return u
	}
	changed := *u
	changed.Scheme = "https"
	return &changed
}
