package bench

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/bench/app"
)

var reverse = flag.Bool("reverse", false, "the stores take their turns the other way round")

// users is how many have a session that is called.
const users = 20_000

// A site is the application on one of the libraries. Requests go to its handler, without a network.
type site struct {
	pool
	name, table, insert string
	handler             http.Handler
	cookies             []string // of the users
}

// createSCS is what scs's README says.
const createSCS = `
	CREATE TABLE sessions (token TEXT PRIMARY KEY, data BYTEA NOT NULL, expiry TIMESTAMPTZ NOT NULL);
	CREATE INDEX sessions_expiry_idx ON sessions (expiry)`

var opened struct {
	sync.Once
	sites []*site
}

// openSites opens them once, which takes some seconds.
func openSites(b *testing.B) []*site {
	opened.Do(func() {
		ours, scs := &site{name: "pgsession", table: "pgsession", insert: insertOurs}, &site{name: "scs", table: "sessions", insert: insertSCS}
		keys, err := pgsession.NewCrypto(pgsession.GenerateKey())
		require.NoError(b, err)
		_, err = admin.Exec(b.Context(), createSCS)
		require.NoError(b, err)
		require.NoError(b, pgsession.New(admin, keys, pgsession.WithTable(ours.table)).Init(b.Context()))
		open := func(synchronousCommit string) {
			parameters := map[string]string{"synchronous_commit": synchronousCommit}
			ours.pool, scs.pool = newPool(b, parameters, nil), newPool(b, parameters, nil)
			ours.handler = app.OnHTTPSession(pgsession.New(ours.Pool, keys, pgsession.WithTable(ours.table)), app.NoHook)
			scs.handler = app.OnSCS(scs.Pool, app.NoHook)
		}
		opened.sites = []*site{scs, ours}
		open("off")
		for _, s := range opened.sites {
			s.cookies = s.begin(b, users, "/login", "user=user-")
			all(b, users, func(i int) error { return s.do(context.Background(), "POST", "/add", "item=pen", s.cookies[i], "") })
			fill(b, s.insert, s.table, *otherRows, time.Now(), time.Now().Add(12*time.Hour))
			vacuum(b, s.table)
			s.Close()
		}
		open("on")
		reuseLog(b)
		describe(b)
		if *reverse {
			slices.Reverse(opened.sites)
		}
	})
	return opened.sites
}

func ourSite(b *testing.B) *site {
	sites := openSites(b)
	return sites[slices.IndexFunc(sites, func(s *site) bool { return s.table == "pgsession" })]
}

// begin makes so many sessions by a request each, and returns their cookies.
func (s *site) begin(tb testing.TB, n int, path, query string) []string {
	cookies := make([]string, n)
	all(tb, n, func(i int) error {
		w := response{header: http.Header{}}
		s.handler.ServeHTTP(&w, newRequest(context.Background(), "POST", path, query+strconv.Itoa(i), ""))
		cookies[i], _, _ = strings.Cut(w.header.Get("Set-Cookie"), ";")
		return w.check(path, "")
	})
	return cookies
}

// do makes a request, and wants an answer that contains the words.
func (s *site) do(ctx context.Context, method, path, query, cookie, words string) error {
	ctx, cancel := context.WithCancel(ctx) // net/http gives each request one
	defer cancel()
	w := response{header: http.Header{}}
	s.handler.ServeHTTP(&w, newRequest(ctx, method, path, query, cookie))
	return w.check(path, words)
}

// newRequest costs less than httptest's, which parses one.
func newRequest(ctx context.Context, method, path, query, cookie string) *http.Request {
	r := http.Request{
		Method: method, URL: &url.URL{Path: path, RawQuery: query}, Host: "localhost",
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Body: http.NoBody,
	}
	if cookie != "" {
		r.Header["Cookie"] = []string{cookie}
	}
	return r.WithContext(ctx)
}

// A response is a http.ResponseWriter that keeps what it gets.
type response struct {
	header http.Header
	status int
	body   []byte
}

func (w *response) Header() http.Header { return w.header }

func (w *response) WriteHeader(status int) { w.status = status }

func (w *response) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	w.body = append(w.body, p...)
	return len(p), nil
}

func (w *response) check(path, words string) error {
	if w.status != http.StatusOK || !bytes.Contains(w.body, []byte(words)) {
		return fmt.Errorf("%s: %d %s", path, w.status, w.body)
	}
	return nil
}
