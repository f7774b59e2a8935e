package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsession/pgsession/bench/internal/server"
)

const parallel = 50

// A caseResult says what a contender did in one case.
type caseResult struct {
	Contender string `json:"contender"`
	Case      string `json:"case"`
	Outcome   string `json:"outcome"`
}

// A site is a contender's application on a server, with a database that can be taken away.
type site struct {
	*httptest.Server
	database *database

	mu    sync.Mutex
	steps map[string]func(w http.ResponseWriter, r *http.Request)
}

func (s *site) during(name string, w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	do := s.steps[name+" "+r.FormValue("item")]
	s.mu.Unlock()
	if do != nil {
		do(w, r)
	}
}

func (s *site) on(step, item string, do func(w http.ResponseWriter, r *http.Request)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.steps[step+" "+item] = do
}

// A browser has cookies.
type browser struct {
	http.Client
	address string
}

func (s *site) newBrowser() *browser {
	jar, _ := cookiejar.New(nil)
	return &browser{http.Client{Jar: jar, Timeout: time.Minute}, s.URL}
}

// copy returns a browser that has this one's cookies, and gets none of those set later.
func (b *browser) copy() *browser {
	address, _ := url.Parse(b.address)
	jar, _ := cookiejar.New(nil)
	jar.SetCookies(address, b.Jar.Cookies(address))
	return &browser{http.Client{Jar: jar, Timeout: time.Minute}, b.address}
}

func (b *browser) do(method, path string) (p page, status int) {
	r, err := http.NewRequest(method, b.address+path, nil)
	if err != nil {
		return page{}, 0
	}
	answer, err := b.Do(r)
	if err != nil {
		return page{}, 0
	}
	defer answer.Body.Close()
	if answer.StatusCode == http.StatusOK {
		if json.NewDecoder(answer.Body).Decode(&p) != nil {
			return page{}, 0 // the answer was cut short
		}
	}
	return p, answer.StatusCode
}

// A database refuses and breaks all connections while it is away.
type database struct {
	mu    sync.Mutex
	away  bool
	conns map[net.Conn]struct{}
}

func (d *database) dial(dial func(context.Context, string, string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.away {
			conn.Close()
			return nil, errors.New("the database is away")
		}
		d.conns[conn] = struct{}{}
		return conn, nil
	}
}

func (d *database) leave() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.away = true
	for conn := range d.conns {
		conn.Close()
	}
	clear(d.conns)
}

func (d *database) comeBack() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.away = false
}

func openSite(ctx context.Context, postgres *server.Server, c contender) (*site, func(), error) {
	config, err := postgres.Config(16)
	if err != nil {
		return nil, nil, err
	}
	s := &site{database: &database{conns: map[net.Conn]struct{}{}}, steps: map[string]func(http.ResponseWriter, *http.Request){}}
	config.ConnConfig.DialFunc = s.database.dial(config.ConnConfig.DialFunc)
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, nil, err
	}
	handler, err := c.open(pool, s.during)
	if err != nil {
		pool.Close()
		return nil, nil, err
	}
	s.Server = httptest.NewUnstartedServer(handler)
	s.Config.ErrorLog = discardLog
	s.Start()
	return s, func() { s.Close(); pool.Close() }, nil
}

func (made *report) runCases(ctx context.Context, postgres *server.Server, p plan, c contender) error {
	s, closeSite, err := openSite(ctx, postgres, c)
	if err != nil {
		return err
	}
	defer closeSite()
	for _, one := range []struct {
		name string
		run  func() string
	}{
		{"50 requests in parallel, each adds an item", s.addInParallel},
		{"50 requests in parallel, each adds one to a counter", s.countInParallel},
		{"a log-in while a request of the guest changes something", s.logInDuringChange},
		{"a log-out while a request changes something", s.logOutDuringChange},
		{fmt.Sprintf("the database is away for %s", p.outage), func() string { return s.outage(p.outage) }},
		{"the database goes away between load and change", s.outageDuringChange},
		{"a panic after a change", s.panicAfterChange},
		{"a change after the first byte of the answer", s.changeAfterFirstByte},
	} {
		made.Cases = append(made.Cases, caseResult{c.Name, one.name, one.run()})
	}
	return nil
}

// concurrently runs a request so many times at once, and returns how many were answered with 200.
func concurrently(n int, do func(i int) int) (acknowledged int) {
	var group sync.WaitGroup
	statuses := make([]int, n)
	for i := range n {
		group.Go(func() { statuses[i] = do(i) })
	}
	group.Wait()
	for _, status := range statuses {
		if status == http.StatusOK {
			acknowledged++
		}
	}
	return acknowledged
}

func (s *site) addInParallel() string {
	b := s.newBrowser()
	b.do("POST", "/login?user=ann")
	acknowledged := concurrently(parallel, func(i int) int { return status(b.do("POST", fmt.Sprint("/add?item=", i))) })
	p, _ := b.do("GET", "/")
	return fmt.Sprintf("%d acknowledged, %d lost", acknowledged, acknowledged-len(p.Items))
}

func (s *site) countInParallel() string {
	b := s.newBrowser()
	b.do("POST", "/login?user=ann")
	acknowledged := concurrently(parallel, func(int) int { return status(b.do("POST", "/count")) })
	p, _ := b.do("GET", "/")
	return fmt.Sprintf("%d acknowledged, %d lost", acknowledged, acknowledged-p.Count)
}

func status(_ page, status int) int { return status }

// overtaken lets meanwhile happen after a request has loaded its session and before it adds an item.
func (s *site) overtaken(b *browser, meanwhile func()) (status int) {
	s.on("add", "late", func(http.ResponseWriter, *http.Request) { meanwhile() })
	defer s.on("add", "late", nil)
	_, status = b.do("POST", "/add?item=late")
	return status
}

func (s *site) logInDuringChange() string {
	b := s.newBrowser()
	b.do("POST", "/add?item=pen")
	status := s.overtaken(b, func() { b.do("POST", "/login?user=ann") })
	p, _ := b.do("GET", "/")
	return fmt.Sprintf("%s; %s", change(status, p.Items["late"]), loggedIn(p.User == "ann"))
}

func (s *site) logOutDuringChange() string {
	b := s.newBrowser()
	b.do("POST", "/login?user=ann")
	stolen := b.copy()
	status := s.overtaken(b.copy(), func() { b.do("POST", "/logout") })
	p, _ := stolen.do("GET", "/")
	outcome := "the session is over"
	if p.User != "" {
		outcome = "THE SESSION IS ALIVE AGAIN"
	}
	return fmt.Sprintf("answered %d; %s", status, outcome)
}

func (s *site) outage(length time.Duration) string {
	b := s.newBrowser()
	b.do("POST", "/login?user=ann")
	b.do("POST", "/add?item=pen")
	s.database.leave()
	statuses := map[int]int{}
	for began := time.Now(); time.Since(began) < length; {
		statuses[status(b.do("GET", "/"))]++
		statuses[status(b.do("POST", "/count"))]++
		time.Sleep(50 * time.Millisecond)
	}
	s.database.comeBack()
	p, _ := b.do("GET", "/")
	return fmt.Sprintf("answered %v; afterwards %s", codes(statuses), loggedIn(p.User == "ann" && p.Items["pen"]))
}

func (s *site) outageDuringChange() string {
	b := s.newBrowser()
	b.do("POST", "/login?user=ann")
	status := s.overtaken(b, s.database.leave)
	s.database.comeBack()
	p, _ := b.do("GET", "/")
	return fmt.Sprintf("%s; %s", change(status, p.Items["late"]), loggedIn(p.User == "ann"))
}

func (s *site) panicAfterChange() string {
	b := s.newBrowser()
	b.do("POST", "/login?user=ann")
	s.on("added", "pen", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	defer s.on("added", "pen", nil)
	b.do("POST", "/add?item=pen")
	p, _ := b.do("GET", "/")
	if p.Items["pen"] {
		return "the change is kept"
	}
	return "the change is lost"
}

func (s *site) changeAfterFirstByte() string {
	b := s.newBrowser()
	b.do("POST", "/login?user=ann")
	s.on("add", "late", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
	})
	defer s.on("add", "late", nil)
	_, status := b.do("POST", "/add?item=late")
	p, _ := b.do("GET", "/")
	return change(status, p.Items["late"])
}

// change says what became of a change.
func change(status int, kept bool) string {
	switch {
	case status == http.StatusOK && !kept:
		return "acknowledged, and LOST"
	case kept:
		return fmt.Sprintf("answered %d, and kept", status)
	}
	return fmt.Sprintf("answered %d, and not kept", status)
}

func loggedIn(is bool) string {
	if is {
		return "the user is logged in"
	}
	return "THE USER IS LOGGED OUT"
}

func codes(statuses map[int]int) []int {
	var all []int
	for status := range maps.Keys(statuses) {
		all = append(all, status)
	}
	return all
}
