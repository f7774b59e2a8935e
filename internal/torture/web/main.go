// Program web lets browsers collide in applications on httpsession and on the adapters for scs,
// gorilla and fiber: several applications and two releases on one table, two nodes, parallel
// requests, log-ins, log-outs everywhere, clients that hang up and connections that are cut. It ends
// with status 1 if a page shows what it must not: a session that was ended, another's user or
// values, or a session without a change that was acknowledged.
//
//	go run ./web -duration 10m -seed 42
//
// Every page is judged by that (oracle.go). Two more rules hold from one burst of requests to the
// next (tab.conclude): the session is still there, and a log-out that said it was done has ended it.
// They are not applied where what must come is not certain:
//
//   - The session need not be there after a log-out, a log-out everywhere, a second log-in or one as
//     another user, and if a request failed that gives the session another id: the answer with the
//     new cookie may be lost.
//   - With scs, gorilla and fiber, the page of a log-in does not tell whose the session is.
//   - A guest's log-out beside a log-in may end nothing: the log-in may have come first.
//   - With scs and fiber, neither rule holds for a burst in which the session gets another id. Both
//     send the cookie with each answer that has changed the session, so an answer from before that
//     arrives late puts the old id back. And they delete an id for a log-out and for a new id alike.
//   - If a user may have one session, the one before it is over only if the database did not fail
//     just after the log-in.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/httpsession"
	"github.com/pgsession/pgsession/internal/pgtest"
)

func main() {
	var o options
	flag.DurationVar(&o.duration, "duration", time.Minute, "how long to run")
	flag.Uint64Var(&o.seed, "seed", 0, "what random choices follow from; 0 for another at each run")
	flag.StringVar(&o.only, "only", "", "the applications, with commas between; all if it is empty")
	flag.BoolVar(&o.patient, "patient", false, "go on after something wrong")
	flag.BoolVar(&o.memory, "memory", false, "on a store in memory")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	summary, err := run(ctx, o)
	fmt.Println(summary)
	if err != nil {
		fmt.Println("FAILED:", err)
		os.Exit(1)
	}
}

type options struct {
	duration time.Duration
	seed     uint64
	memory   bool
	patient  bool
	only     string
}

// The names of the applications on httpsession, and of their cookies.
const (
	shopName  = "shop"
	adminName = "admin"
	clubName  = "club" // WithMaxSessions(1)
	apiName   = "api"  // WithBearer
)

const (
	nodes    = 2
	users    = 4
	browsers = 8
)

// A web is the applications and those who visit them.
type web struct {
	oracle    *oracle
	stores    []*pgsession.Store // of the nodes
	apps      []*application
	tabs      []*tab
	url       string
	transport http.RoundTripper

	requests, ended, cut atomic.Int64
	expected             sync.Map // requests that no handler has yet, by what their header Request says
}

func run(ctx context.Context, o options) (summary string, err error) {
	for o.seed == 0 {
		o.seed = rand.Uint64() >> 1
	}
	fmt.Printf("torture of the web: seed %d\n", o.seed)
	w := &web{oracle: newOracle()}
	if err := w.choose(o.only); err != nil {
		return "", err
	}
	cut, stop, err := w.openStores(ctx, o.memory)
	if err != nil {
		return "", err
	}
	defer stop()
	for _, app := range w.apps {
		for node, store := range w.stores {
			app.nodes = append(app.nodes, app.newNode(w, store, node))
		}
	}
	server := httptest.NewUnstartedServer(w)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // of clients that hang up
	server.StartTLS()
	defer server.Close()
	w.url = server.URL
	w.transport = &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, MaxIdleConnsPerHost: 4 * browsers}

	ctx, cancel := context.WithTimeout(ctx, o.duration)
	defer cancel()
	var visitors sync.WaitGroup
	for i := range browsers {
		// A user has several browsers, and a browser is lent to somebody else at times.
		b := newBrowser(w, i)
		random := rand.New(rand.NewPCG(o.seed, uint64(i)))
		visitors.Go(func() {
			for ctx.Err() == nil {
				b.tabs[random.IntN(len(b.tabs))].run(ctx, random)
				if _, n := w.oracle.wrong(); n > 0 && !o.patient {
					cancel()
				}
			}
		})
	}
	random := rand.New(rand.NewPCG(o.seed, browsers))
	visitors.Go(func() { w.endUsers(ctx, random) })
	visitors.Go(func() { cut(ctx) })
	visitors.Wait()
	w.checkLimit(context.WithoutCancel(ctx))
	text, n := w.oracle.wrong()
	if n > 0 {
		err = errors.New(text)
	}
	return fmt.Sprintf("web: %d requests, %d log-outs everywhere, %d connections cut: %s; seed %d",
		w.requests.Load(), w.ended.Load(), w.cut.Load(), w.oracle.counts(), o.seed), err
}

func userName(group string, i int) string { return fmt.Sprintf("%s-%d", group, i%users) }

// checkLimit counts the sessions of those who may have one, after one more log-in: the database may
// have failed just after the last one.
func (w *web) checkLimit(ctx context.Context) {
	for _, app := range w.apps {
		if app.name != clubName {
			continue
		}
		b := newBrowser(w, 0)
		for i := range users {
			for _, t := range b.tabs {
				if t.app != app {
					continue
				}
				q := request{page: logInPage, user: userName(members, i)}
				t.tries(q.user)
				t.ask(ctx, &q, rand.New(rand.NewPCG(0, 0)), nil)
				found, err := w.stores[0].FindByUser(ctx, q.user, 0)
				must(err)
				if q.isDone() && len(found) > 1 {
					w.oracle.complain(&w.oracle.revived, t, "%s has %d sessions", q.user, len(found))
				}
			}
		}
	}
}

// openStores returns what cuts connections of the stores to the database.
func (w *web) openStores(ctx context.Context, memory bool) (cut func(context.Context), stop func(), err error) {
	options := []pgsession.Option{pgsession.WithTimeout(3 * time.Second)}
	if memory {
		store := pgsession.InMemory(options...)
		for range nodes {
			w.stores = append(w.stores, store)
		}
		return func(context.Context) {}, func() {}, nil
	}
	cluster, err := pgtest.StartCluster(ctx, nil, pgtest.ClusterOptions{})
	if err != nil {
		return nil, nil, err
	}
	key := pgsession.GenerateKey()
	var pools []*pgxpool.Pool
	stop = func() {
		for _, pool := range pools {
			pool.Close()
		}
		cluster.Stop()
	}
	for range nodes {
		pool, err := pgxpool.New(ctx, cluster.URL())
		if err != nil {
			stop()
			return nil, nil, err
		}
		pools = append(pools, pool)
		crypto, err := pgsession.NewCrypto(key)
		must(err)
		w.stores = append(w.stores, pgsession.New(pool, crypto, options...))
	}
	if err := w.stores[0].Init(ctx); err != nil {
		stop()
		return nil, nil, err
	}
	return func(ctx context.Context) {
		for ctx.Err() == nil {
			pause(ctx, 300*time.Millisecond)
			_, err := pools[0].Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE pid <> pg_backend_pid() AND backend_type = 'client backend' ORDER BY (state = 'active') DESC, random() LIMIT 1`)
			if err == nil {
				w.cut.Add(1)
			}
		}
	}, stop, nil
}

// choose chooses the applications that there are: those that are named, with commas between, or
// all.
func (w *web) choose(only string) error {
	w.apps = []*application{
		{name: shopName, group: everybody, isExact: true, showsStored: true, newNode: func(w *web, store *pgsession.Store, node int) http.Handler {
			if node == 0 {
				return newHTTPSession[first](w, store, shopName)
			}
			return newHTTPSession[second](w, store, shopName)
		}},
		{name: adminName, group: everybody, isExact: true, showsStored: true, newNode: onHTTPSession(adminName)},
		{name: clubName, group: members, isExact: true, showsStored: true, newNode: onHTTPSession(clubName, httpsession.WithMaxSessions(1))},
		{name: apiName, group: robots, isBearer: true, showsStored: true, newNode: onHTTPSession(apiName, httpsession.WithBearer())},
	}
	// Two of each framework, on one store.
	for _, framework := range []struct {
		names   []string
		newNode func(*web, *pgsession.Store, string) http.Handler
		isExact bool
	}{
		{[]string{"scs", "desk"}, newSCS, false}, {[]string{"gorilla", "goods"}, newGorilla, true}, {[]string{"fiber", "forum"}, newFiber, false},
	} {
		for _, name := range framework.names {
			w.apps = append(w.apps, &application{name: name, group: everybody, isExact: framework.isExact,
				newNode: func(w *web, store *pgsession.Store, _ int) http.Handler { return framework.newNode(w, store, name) }})
		}
	}
	if only == "" {
		return nil
	}
	var all []string
	byName := make(map[string]*application)
	for _, app := range w.apps {
		all, byName[app.name] = append(all, app.name), app
	}
	w.apps = nil
	for _, name := range strings.Split(only, ",") {
		app := byName[name]
		if app == nil {
			return fmt.Errorf("-only: there is no application %q; there are %s", name, strings.Join(all, ", "))
		}
		w.apps = append(w.apps, app)
	}
	return nil
}

func onHTTPSession(name string, options ...httpsession.Option) func(*web, *pgsession.Store, int) http.Handler {
	return func(w *web, store *pgsession.Store, _ int) http.Handler {
		return newHTTPSession[first](w, store, name, options...)
	}
}

// expect returns what the header Request of a request says.
func (w *web) expect(q *request) string {
	name := fmt.Sprint(w.requests.Add(1))
	w.expected.Store(name, q)
	return name
}

// ServeHTTP sends a request to any node of its application.
func (w *web) ServeHTTP(writer http.ResponseWriter, r *http.Request) {
	q, ok := w.expected.LoadAndDelete(r.Header.Get("Request"))
	if !ok {
		return // it was sent again
	}
	served := &w.tab(r.Header.Get("Tab")).served
	served.Add(1)
	defer served.Done()
	close(q.(*request).started)
	for _, app := range w.apps {
		prefix := "/" + app.name
		if len(r.URL.Path) > len(prefix) && r.URL.Path[:len(prefix)] == prefix {
			http.StripPrefix(prefix, app.nodes[rand.IntN(len(app.nodes))]).ServeHTTP(writer, r)
			return
		}
	}
	http.NotFound(writer, r)
}

// endUsers logs users out everywhere, one after another.
func (w *web) endUsers(ctx context.Context, random *rand.Rand) {
	for ctx.Err() == nil {
		pause(ctx, time.Duration(random.IntN(150))*time.Millisecond)
		user, store := userName(groups[random.IntN(len(groups))], random.IntN(users)), w.stores[random.IntN(nodes)]
		err := w.oracle.endAll(user, func() error {
			_, err := store.DeleteByUser(ctx, user)
			return err
		})
		if err == nil {
			w.ended.Add(1)
		}
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
