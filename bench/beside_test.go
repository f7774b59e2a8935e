package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/bench/app"
)

// TestBesideSCS is the table in docs/httpsession.md: what the applications lose when requests
// overlap, in an outage and at a panic, and how many statements they send.
func TestBesideSCS(t *testing.T) {
	document, err := os.ReadFile("../docs/httpsession.md")
	require.NoError(t, err)
	ours := newWebsite(t, "ours", func(pool *pgxpool.Pool, at app.Hook) http.Handler {
		keys, err := pgsession.NewCrypto(pgsession.GenerateKey())
		require.NoError(t, err)
		store := pgsession.New(pool, keys, pgsession.WithTimeout(time.Minute))
		require.NoError(t, store.Init(t.Context()))
		return app.OnHTTPSession(store, at)
	})
	scs := newWebsite(t, "scs", func(pool *pgxpool.Pool, at app.Hook) http.Handler {
		_, err := pool.Exec(t.Context(), createSCS)
		require.NoError(t, err)
		return app.OnSCS(pool, at)
	})
	for _, c := range []struct {
		name      string
		do        func(s *website) string
		ours, scs string
	}{
		{"50 requests in parallel, each adds an item", addInParallel, "all kept", "most lost, all acknowledged"},
		{"50 requests in parallel, each adds one to a counter", countInParallel, "all kept", "most lost, all acknowledged"},
		{"a log-in while a request of the guest changes something", logInMeanwhile,
			"that request gets 409; the user is logged in", "that request gets 200; the user is logged out again"},
		{"a log-out while a request changes something", logOutMeanwhile,
			"that request gets 409; the session is over", "that request gets 200; the session is alive again"},
		{"the database is away for a while", outage, "503; the user is logged in afterwards", "500; the user is logged in afterwards"},
		{"a panic after a change", panicAfterChange, "the change is kept", "the change is lost"},
		{"a change after the first byte of the answer", changeAfterFirstByte, "kept", "acknowledged, and lost"},
		{"statements for a page, a change, a log-in, a log-out", statements, "1, 2, 2, 2", "1, 2, 3, 2"},
	} {
		require.Equal(t, c.ours, c.do(ours), c.name)
		require.Equal(t, c.scs, c.do(scs), c.name)
		require.Contains(t, string(document), fmt.Sprintf("\n| %s | %s | %s |\n", c.name, c.ours, c.scs))
	}
}

const parallel = 50

func addInParallel(s *website) string {
	b := s.newBrowser()
	b.do("POST", "/login?user=ann")
	all(s.t, parallel, func(i int) error { return b.answered(http.StatusOK, "POST", fmt.Sprint("/add?item=", i)) })
	return kept(len(b.page().Items))
}

func countInParallel(s *website) string {
	b := s.newBrowser()
	b.do("POST", "/login?user=ann")
	all(s.t, parallel, func(int) error { return b.answered(http.StatusOK, "POST", "/count") })
	return kept(b.page().Count)
}

func kept(n int) string {
	switch {
	case n == parallel:
		return "all kept"
	case n < parallel/2:
		return "most lost, all acknowledged"
	}
	return fmt.Sprint(n, " kept")
}

func logInMeanwhile(s *website) string {
	b := s.newBrowser()
	b.do("POST", "/add?item=pen")
	status := s.addLate(b, func(http.ResponseWriter, *http.Request) { b.do("POST", "/login?user=ann") })
	outcome := "the user is logged out again"
	if p := b.page(); p.User == "ann" && !slices.Contains(p.Items, "late") {
		outcome = "the user is logged in"
	}
	return fmt.Sprintf("that request gets %d; %s", status, outcome)
}

func logOutMeanwhile(s *website) string {
	b := s.newBrowser()
	b.do("POST", "/login?user=ann")
	thief := b.copy()
	status := s.addLate(b.copy(), func(http.ResponseWriter, *http.Request) { b.do("POST", "/logout") })
	outcome := "the session is over"
	if thief.page().User == "ann" {
		outcome = "the session is alive again"
	}
	return fmt.Sprintf("that request gets %d; %s", status, outcome)
}

func outage(s *website) string {
	b := s.newBrowser()
	b.do("POST", "/login?user=ann")
	s.allowConnections(false)
	status, _ := b.do("GET", "/")
	require.NoError(s.t, b.answered(status, "POST", "/count"))
	s.allowConnections(true)
	outcome := "the user is logged out"
	if b.page().User == "ann" {
		outcome = "the user is logged in afterwards"
	}
	return fmt.Sprintf("%d; %s", status, outcome)
}

func panicAfterChange(s *website) string {
	b := s.newBrowser()
	b.do("POST", "/login?user=ann")
	s.at("added", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	b.do("POST", "/add?item=late")
	s.hook.Store(nil)
	if slices.Contains(b.page().Items, "late") {
		return "the change is kept"
	}
	return "the change is lost"
}

func changeAfterFirstByte(s *website) string {
	b := s.newBrowser()
	b.do("POST", "/login?user=ann")
	status := s.addLate(b, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusOK)
		require.NoError(s.t, http.NewResponseController(w).Flush())
	})
	switch isKept := slices.Contains(b.page().Items, "late"); {
	case isKept:
		return "kept"
	case status == http.StatusOK:
		return "acknowledged, and lost"
	}
	return fmt.Sprint("lost, and answered ", status)
}

func statements(s *website) string {
	b := s.newBrowser()
	count := func(method, path string) int64 {
		before := s.sent.Load()
		b.do(method, path)
		return s.sent.Load() - before
	}
	b.do("POST", "/add?item=pen")
	logIn := count("POST", "/login?user=ann")
	return fmt.Sprintf("%d, %d, %d, %d", count("GET", "/"), count("POST", "/add?item=ink"), logIn, count("POST", "/logout"))
}

// A website is an application with a server and a database of its own.
type website struct {
	*httptest.Server
	t        *testing.T
	database string
	sent     *counter
	hook     atomic.Pointer[app.Hook]
}

func newWebsite(t *testing.T, name string, open func(pool *pgxpool.Pool, at app.Hook) http.Handler) *website {
	s := &website{t: t, database: "beside_" + name, sent: new(counter)}
	for _, sql := range []string{`DROP DATABASE IF EXISTS %s (FORCE)`, `CREATE DATABASE %s`} {
		_, err := admin.Exec(t.Context(), fmt.Sprintf(sql, s.database))
		require.NoError(t, err)
	}
	config, err := pgxpool.ParseConfig(server.URL())
	require.NoError(t, err)
	config.MaxConns, config.ConnConfig.Database, config.ConnConfig.Tracer = connections, s.database, s.sent
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	s.Server = httptest.NewUnstartedServer(open(pool, func(step string, w http.ResponseWriter, r *http.Request) {
		if hook := s.hook.Load(); hook != nil {
			(*hook)(step, w, r)
		}
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// at makes requests do something at a step.
func (s *website) at(step string, do http.HandlerFunc) {
	hook := app.Hook(func(reached string, w http.ResponseWriter, r *http.Request) {
		if reached == step {
			do(w, r)
		}
	})
	s.hook.Store(&hook)
}

// addLate adds an item, and does something after the request has loaded its session.
func (s *website) addLate(b *browser, meanwhile http.HandlerFunc) (status int) {
	s.at("add", meanwhile)
	defer s.hook.Store(nil)
	status, _ = b.do("POST", "/add?item=late")
	return status
}

// allowConnections lets the database be there, or not.
func (s *website) allowConnections(allow bool) {
	_, err := admin.Exec(s.t.Context(), fmt.Sprintf(`ALTER DATABASE %s ALLOW_CONNECTIONS %t`, s.database, allow))
	require.NoError(s.t, err)
	if !allow {
		_, err = admin.Exec(s.t.Context(), `SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = $1`, s.database)
		require.NoError(s.t, err)
	}
}

// A browser has cookies.
type browser struct {
	http.Client
	address string
}

func (s *website) newBrowser() *browser {
	jar, _ := cookiejar.New(nil) // no options, no error
	return &browser{http.Client{Jar: jar}, s.URL}
}

// copy returns a browser with the cookies that this one has now.
func (b *browser) copy() *browser {
	address, _ := url.Parse(b.address)
	jar, _ := cookiejar.New(nil)
	jar.SetCookies(address, b.Jar.Cookies(address))
	return &browser{http.Client{Jar: jar}, b.address}
}

// do returns status 0 if there is no whole answer.
func (b *browser) do(method, path string) (status int, p app.Page) {
	r, err := http.NewRequest(method, b.address+path, nil)
	if err != nil {
		return 0, p
	}
	answer, err := b.Do(r)
	if err != nil {
		return 0, p
	}
	defer answer.Body.Close()
	if answer.StatusCode == http.StatusOK && json.NewDecoder(answer.Body).Decode(&p) != nil {
		return 0, p
	}
	return answer.StatusCode, p
}

func (b *browser) page() app.Page {
	_, p := b.do("GET", "/")
	return p
}

func (b *browser) answered(want int, method, path string) error {
	if status, _ := b.do(method, path); status != want {
		return fmt.Errorf("%s %s: %d", method, path, status)
	}
	return nil
}
