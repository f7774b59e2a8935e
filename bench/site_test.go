package bench

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
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
			s.cookies = s.begin(b, users, "/login?user=user-")
			all(b, users, func(i int) error { return s.do(context.Background(), "POST", "/add?item=pen", s.cookies[i], "") })
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
func (s *site) begin(tb testing.TB, n int, target string) []string {
	cookies := make([]string, n)
	all(tb, n, func(i int) error {
		w, err := s.ask(context.Background(), "POST", target+strconv.Itoa(i), "")
		cookies[i], _, _ = strings.Cut(w.Header().Get("Set-Cookie"), ";")
		return err
	})
	return cookies
}

// do makes a request, and wants an answer that contains the words.
func (s *site) do(ctx context.Context, method, target, cookie, words string) error {
	ctx, cancel := context.WithCancel(ctx) // net/http gives each request one
	defer cancel()
	w, err := s.ask(ctx, method, target, cookie)
	if err == nil && !bytes.Contains(w.Body.Bytes(), []byte(words)) {
		err = fmt.Errorf("%s: %s, and not %s", target, w.Body, words)
	}
	return err
}

// ask makes a request, and wants status 200.
func (s *site) ask(ctx context.Context, method, target, cookie string) (*httptest.ResponseRecorder, error) {
	r := httptest.NewRequestWithContext(ctx, method, target, nil)
	if cookie != "" {
		r.Header.Set("Cookie", cookie)
	}
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		return w, fmt.Errorf("%s: %d %s", target, w.Code, w.Body)
	}
	return w, nil
}
