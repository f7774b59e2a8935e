package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// An operation is a kind of request.
type operation struct {
	name, method, path string
	begin              func(b *testing.B, s *site) (cookies []string) // a new session for each call; nil: the users' sessions
}

var (
	page     = operation{"page", "GET", "/", nil}
	change   = operation{"change", "POST", "/count", nil}
	newCalls = []operation{
		{"login", "POST", "/login", func(b *testing.B, s *site) []string { return s.begin(b, b.N, "/add?item=pen") }},
		{"first-login", "POST", "/login", func(b *testing.B, s *site) []string { return make([]string, b.N) }},
		{"logout", "POST", "/logout", func(b *testing.B, s *site) []string { return s.begin(b, b.N, "/login?user=user-") }},
	}
)

// call makes a request for a session's user. The session is the user's own, unless there is another
// cookie.
func (op operation) call(ctx context.Context, s *site, user int, cookie string) error {
	name := fmt.Sprint("user-", user)
	switch op.path {
	case "/login":
		return s.do(ctx, op.method, op.path+"?user="+name, cookie, name)
	case "/logout":
		return s.do(ctx, op.method, op.path, cookie, `"User":""`)
	}
	return s.do(ctx, op.method, op.path, cookie, name)
}

// BenchmarkHTTP is what requests cost: to read the session, to change it, a guest's log-in, a
// log-in without a session before it, a log-out.
func BenchmarkHTTP(b *testing.B) {
	for _, op := range []operation{page, change} {
		for _, keys := range []choice{uniform, zipf, one} {
			eachSite(b, name("op", op.name, "keys", keys), func(b *testing.B, s *site, clients int) {
				choose := keys.among(users)
				measure(b, s.pool, s.table, clients, func(random *rand.Rand, _ int) error {
					user := choose(random)
					return op.call(context.Background(), s, user, s.cookies[user])
				})
			})
		}
	}
	for _, op := range newCalls {
		eachSite(b, name("op", op.name, "keys", "new"), func(b *testing.B, s *site, clients int) {
			cookies := op.begin(b, s)
			measure(b, s.pool, s.table, clients, func(_ *rand.Rand, n int) error {
				return op.call(context.Background(), s, n%users, cookies[n])
			})
		})
	}
}

func eachSite(b *testing.B, prefix string, run func(b *testing.B, s *site, clients int)) {
	for _, clients := range clientCounts {
		for _, s := range openSites(b) {
			b.Run(prefix+"/"+name("clients", clients, "store", s.name), func(b *testing.B) {
				run(b, s, clients)
			})
		}
	}
}

// BenchmarkHangUps is what eight clients get while others hang up: their contexts end before they
// are answered. scs's store does not look at the context.
func BenchmarkHangUps(b *testing.B) {
	const clients, patience = 8, 300 * time.Microsecond
	for _, op := range []operation{page, change} {
		for _, perSecond := range []int{0, 300, 1000} {
			for _, s := range openSites(b) {
				b.Run(name("op", op.name, "hangups", perSecond, "store", s.name), func(b *testing.B) {
					begun := s.Stat().NewConnsCount()
					stop := every(perSecond, func() bool {
						ctx, cancel := context.WithCancel(context.Background())
						defer time.AfterFunc(rand.N(patience), cancel).Stop()
						user := rand.IntN(users)
						op.call(ctx, s, user, s.cookies[user])
						return ctx.Err() != nil
					})
					measure(b, s.pool, s.table, clients, func(random *rand.Rand, _ int) error {
						user := random.IntN(users)
						return op.call(context.Background(), s, user, s.cookies[user])
					})
					hungUp := stop()
					b.ReportMetric(float64(hungUp)/b.Elapsed().Seconds(), "hangups/s")
					b.ReportMetric(float64(s.Stat().NewConnsCount()-begun)/b.Elapsed().Seconds(), "conns/s")
				})
			}
		}
	}
}

// every does something so many times a second, until it is stopped. Then it returns how many did
// happen.
func every(perSecond int, do func() bool) (stop func() (happened int64)) {
	if perSecond == 0 {
		return func() int64 { return 0 }
	}
	var (
		running sync.WaitGroup
		count   atomic.Int64
		done    = make(chan struct{})
	)
	running.Go(func() {
		ticker := time.NewTicker(time.Second / time.Duration(perSecond))
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				running.Go(func() {
					if do() {
						count.Add(1)
					}
				})
			case <-done:
				return
			}
		}
	})
	return func() int64 {
		close(done)
		running.Wait()
		return count.Load()
	}
}

// BenchmarkLockedRow is what 16 clients get whose sessions are free, while another transaction
// holds the row of one session. In the state "wanted", 50 more clients want to change that session.
// An open transaction costs something by itself, since dead rows stay: so compare "wanted" with
// "held".
func BenchmarkLockedRow(b *testing.B) {
	const clients, wanting, patience = 16, 50, time.Second
	for _, state := range []string{"free", "held", "wanted"} {
		b.Run(name("row", state), func(b *testing.B) {
			s := ourSite(b)
			locked := s.begin(b, 1, "/login?user=locked-")[0]
			if state != "free" {
				tx, err := admin.Begin(b.Context())
				require.NoError(b, err)
				defer tx.Rollback(context.Background())
				_, err = tx.Exec(b.Context(), `SELECT FROM `+s.table+` WHERE key = (SELECT key FROM `+s.table+` ORDER BY created_at DESC LIMIT 1) FOR UPDATE`)
				require.NoError(b, err)
			}
			if state == "wanted" {
				ctx, cancel := context.WithCancel(b.Context())
				var callers sync.WaitGroup
				for range wanting {
					callers.Go(func() {
						for ctx.Err() == nil {
							ctx, cancel := context.WithTimeout(ctx, patience)
							if s.do(ctx, "POST", "/count", locked, "") == nil {
								b.Error("a change of the locked row came through")
							}
							cancel()
						}
					})
				}
				defer callers.Wait()
				defer cancel()
			}
			measure(b, s.pool, s.table, clients, func(random *rand.Rand, _ int) error {
				user := random.IntN(users)
				return change.call(context.Background(), s, user, s.cookies[user])
			})
		})
	}
}
