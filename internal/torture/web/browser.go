package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A browser visits each application in a tab.
type browser struct {
	number int
	web    *web
	client *http.Client
	jar    http.CookieJar
	tabs   []*tab
}

// A tab is one application in one browser, with a session of its own. What it asks for comes in
// bursts of parallel requests.
type tab struct {
	number  int
	browser *browser
	app     *application
	users   []string // those of whom somebody logs in here
	token   string   // of a browser that is a program

	mu    sync.Mutex
	tried map[string]bool // the users who tried to log in

	served sync.WaitGroup // the requests that have reached a handler, also those whose client has gone
	moved  atomic.Int64   // how often the session was known to have got another id
	old    []remembered

	// What the next page must show, if it is certain.
	certain bool
	shows   view
	before  string // the burst before
	ends    int    // of the user's sessions, as oracle.endsOf says
}

// remembered are the cookies that a tab had at some time.
type remembered struct {
	cookies []*http.Cookie
	root    int64
	moved   int64
}

func (t *tab) String() string {
	return fmt.Sprintf("browser %d, %s", t.browser.number, t.app.name)
}

func (t *tab) tries(user string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tried[user] = true
}

func (t *tab) hasTried(user string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tried[user]
}

func newBrowser(w *web, number int) *browser {
	jar, err := cookiejar.New(nil)
	must(err)
	b := &browser{number: number, web: w, jar: jar}
	b.client = &http.Client{Transport: w.transport, Jar: jar}
	for _, app := range w.apps {
		t := newTab(b, app)
		// A user has several browsers, and a browser is lent to somebody else at times.
		t.users = []string{userName(app.group, number), userName(app.group, number+1)}
		t.number = len(w.tabs)
		b.tabs, w.tabs = append(b.tabs, t), append(w.tabs, t)
	}
	return b
}

func newTab(b *browser, app *application) *tab {
	return &tab{browser: b, app: app, tried: make(map[string]bool)}
}

// A request is one of a burst, and its answer.
type request struct {
	page   string
	user   string
	hangUp bool

	started chan struct{} // closed when a handler has the request
	asked   int64
	token   string
	status  int // 0: no answer
	view    view
}

// isDone reports whether the page has said that what was asked for is done.
func (q *request) isDone() bool { return q.status == http.StatusOK }

// isRefused reports whether nothing was done.
func (q *request) isRefused() bool {
	return q.status == http.StatusConflict || q.status == http.StatusUnauthorized
}

// ask sends a request and judges its page.
func (t *tab) ask(ctx context.Context, q *request, random *rand.Rand, cookies []*http.Cookie) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	q.started = make(chan struct{})
	if q.hangUp {
		patience := time.Duration(random.IntN(12_000)) * time.Microsecond
		go func() {
			select {
			case <-q.started:
				pause(ctx, patience)
				cancel()
			case <-ctx.Done():
			}
		}()
	}
	method := http.MethodPost
	if q.page == "" || q.page == pollPage {
		method = http.MethodGet
	}
	r, err := http.NewRequestWithContext(ctx, method, t.browser.web.url+"/"+t.app.name+"/"+q.page, nil)
	must(err)
	r.Header.Set("Tab", strconv.Itoa(t.number))
	r.Header.Set("Request", t.browser.web.expect(q))
	r.Header.Set("Pause", strconv.Itoa(random.IntN(8)*random.IntN(3_000)))
	r.Header.Set("User", q.user)
	client := t.browser.client
	switch {
	case t.app.isBearer && cookies != nil:
		r.Header.Set("Authorization", "Bearer "+cookies[0].Value)
	case t.app.isBearer:
		r.Header.Set("Authorization", "Bearer "+t.token)
	case cookies != nil:
		client = &http.Client{Transport: client.Transport}
		for _, cookie := range cookies {
			r.AddCookie(cookie)
		}
	}
	q.asked = t.browser.web.oracle.tick()
	response, err := client.Do(r)
	if err != nil {
		return
	}
	defer response.Body.Close()
	q.status = response.StatusCode
	if !q.isDone() {
		return
	}
	if err := json.NewDecoder(response.Body).Decode(&q.view); err != nil {
		q.status = 0
		return
	}
	o := t.browser.web.oracle
	o.judge(t, q.page, q.view, q.asked)
	q.token = response.Header.Get("Token")
	if n, _ := strconv.ParseInt(response.Header.Get("Number"), 10, 64); n != 0 {
		o.acknowledge(q.view.Root, n)
	}
}

// look asks for the page until it comes.
func (t *tab) look(ctx context.Context, random *rand.Rand) (view, bool) {
	for ctx.Err() == nil {
		q := request{}
		t.ask(ctx, &q, random, nil)
		if q.isDone() {
			return q.view, true
		}
		pause(ctx, 20*time.Millisecond)
	}
	return view{}, false
}

func (t *tab) run(ctx context.Context, random *rand.Rand) {
	o := t.browser.web.oracle
	ends := make(map[string]int)
	for _, user := range t.users {
		ends[user] = o.endsOf(user)
	}
	before, ok := t.look(ctx, random)
	if !ok {
		return
	}
	if t.certain && o.endsOf(t.shows.User) == t.ends && (before.Root != t.shows.Root || before.User != t.shows.User) {
		o.complain(&o.lost, t, "the session is not there any more: %+v; it was %+v, before%s", before, t.shows, t.before)
	}
	t.remember(before)
	t.useOld(ctx, random)
	burst := t.newBurst(before, random)
	var parallel sync.WaitGroup
	for _, q := range burst {
		own := rand.New(rand.NewPCG(random.Uint64(), 0))
		parallel.Go(func() { t.ask(ctx, q, own, nil) })
	}
	parallel.Wait()
	t.served.Wait()
	t.conclude(before, burst, ends)
}

func (t *tab) newBurst(before view, random *rand.Rand) (burst []*request) {
	for range 1 + random.IntN(4) {
		q := &request{page: appendPage, hangUp: random.IntN(8) == 0}
		switch n := random.IntN(20); {
		case n < 4:
			q.page = []string{"", pollPage}[n%2]
		case n < 7 || before.User == "" && n < 9:
			q.page, q.user = logInPage, t.users[random.IntN(10)/9]
			t.tries(q.user)
		case n < 10 && t.app.isBearer:
			continue // a token keeps its id
		case n < 10:
			q.page = renewPage
		case n < 11 || len(before.Numbers) > 30:
			q.page = logOutPage
		}
		burst = append(burst, q)
	}
	return burst
}

// conclude says what the next page must show. It is not certain after some bursts: of two log-ins,
// for instance, the later answer decides which cookie stays.
func (t *tab) conclude(before view, burst []*request, ends map[string]int) {
	o := t.browser.web.oracle
	t.before = ""
	if t.app.isBearer {
		t.concludeBearer(before, burst, ends)
		return
	}
	if before.Root == 0 && slices.ContainsFunc(burst, (*request).isRefused) {
		t.forget() // the answer with a new cookie was lost
	}
	for _, q := range burst {
		t.before += fmt.Sprintf("\n\t%s %s, asked for at %d: %d %+v", q.page, q.user, q.asked, q.status, q.view)
	}
	moves, logIns, logOuts, uncertain := 0, 0, 0, false
	after := before
	for _, q := range burst {
		switch q.page {
		case logInPage, renewPage:
			if q.page == logInPage {
				logIns++
			}
			moves++
			if q.isDone() {
				t.moved.Add(1)
				if q.page == logInPage {
					after.User = q.user
				}
			} else {
				uncertain = uncertain || !q.isRefused()
			}
			uncertain = uncertain || q.page == logInPage && before.User != "" && q.user != before.User
		case logOutPage:
			logOuts++
			if q.isDone() {
				t.moved.Add(1)
			}
		}
	}
	// A guest's log-out beside a log-in comes before it, or after it and ends nothing.
	if moves == 0 || t.app.isExact && (before.User != "" || logIns == 0) {
		for _, q := range burst {
			if q.page == logOutPage && q.isDone() {
				o.end(before.Root)
			}
		}
	}
	unmoved := o.endsOf(before.User) == ends[before.User]
	t.certain = before.Root != 0 && !uncertain && logOuts == 0 && (logIns == 0 || moves == 1) && (moves == 0 || t.app.isExact) && unmoved
	t.shows, t.ends = after, ends[after.User]
	if !t.certain {
		return
	}
	for _, q := range burst {
		switch {
		case q.page == appendPage && q.isDone() && q.view.Root != before.Root:
			o.complain(&o.lost, t, "a number was stored in a session of its own: %+v; before: %+v", q.view, before)
		case q.page == logInPage && q.isDone() && q.view.Root != before.Root:
			o.complain(&o.lost, t, "a log-in did not keep the session: %+v; before: %+v", q.view, before)
		case q.isRefused() && moves == 0:
			o.complain(&o.refused, t, "%q was refused, though nothing has ended the session: %+v", q.page, before)
		}
	}
}

// concludeBearer is conclude for a program. Its next token is one of those that it got.
func (t *tab) concludeBearer(before view, burst []*request, ends map[string]int) {
	o := t.browser.web.oracle
	isOver := false
	for _, q := range burst {
		if q.page == logOutPage && q.isDone() && before.Root != 0 {
			o.end(before.Root)
			t.moved.Add(1)
		}
		isOver = isOver || q.page == logOutPage
	}
	t.certain, t.shows, t.ends = before.Root != 0 && !isOver && o.endsOf(before.User) == ends[before.User], before, ends[before.User]
	for _, q := range burst {
		switch {
		case q.page == appendPage && q.isDone() && q.view.Root != before.Root:
			o.complain(&o.lost, t, "a number was stored in a session of its own: %+v; before: %+v", q.view, before)
		case q.isRefused() && t.certain:
			o.complain(&o.refused, t, "%q was refused, though nothing has ended the session: %+v", q.page, before)
		}
	}
	for _, q := range burst {
		if q.token != "" {
			t.token, t.certain = q.token, false
		}
	}
}

// forget clears the tab's cookies.
func (t *tab) forget() {
	at, err := url.Parse(t.browser.web.url)
	must(err)
	var cleared []*http.Cookie
	for _, cookie := range t.cookies() {
		cleared = append(cleared, &http.Cookie{Name: cookie.Name, Path: "/", MaxAge: -1, Secure: true})
	}
	t.browser.jar.SetCookies(at, cleared)
}

// cookies returns those that the tab has, or its token as one.
func (t *tab) cookies() (own []*http.Cookie) {
	if t.app.isBearer {
		return []*http.Cookie{{Value: t.token}}
	}
	at, err := url.Parse(t.browser.web.url)
	must(err)
	for _, cookie := range t.browser.jar.Cookies(at) {
		if strings.Contains(cookie.Name, t.app.name) {
			own = append(own, cookie)
		}
	}
	return own
}

func (t *tab) remember(v view) {
	own := t.cookies()
	if len(own) == 0 || v.Root == 0 {
		return
	}
	t.old = append(t.old, remembered{own, v.Root, t.moved.Load()})
	if len(t.old) > 8 {
		t.old = t.old[1:]
	}
}

// useOld asks for pages with cookies that a thief or a restored browser has: they open nothing
// after the session has moved, and nothing at any time under the name of another application's
// cookie.
func (t *tab) useOld(ctx context.Context, random *rand.Rand) {
	if len(t.old) == 0 {
		return
	}
	o := t.browser.web.oracle
	old := t.old[random.IntN(len(t.old))]
	page := []string{"", "", appendPage, renewPage}[random.IntN(4)]
	if random.IntN(2) == 0 {
		q, moved := request{page: ""}, t.moved.Load()
		t.ask(ctx, &q, random, old.cookies)
		if q.isDone() && !t.app.isBearer && old.moved < moved && q.view.Root == old.root {
			o.complain(&o.revived, t, "cookies from before the session moved open it: %+v", q.view)
		}
		return
	}
	other := t.browser.tabs[random.IntN(len(t.browser.tabs))]
	if other == t {
		return
	}
	var renamed []*http.Cookie
	for _, cookie := range old.cookies {
		for _, prefix := range []string{"", "__Host-", "__Secure-"} {
			for _, suffix := range []string{"", "-guest"} {
				renamed = append(renamed, &http.Cookie{Name: prefix + other.app.name + suffix, Value: cookie.Value})
			}
		}
	}
	q := request{page: page}
	other.ask(ctx, &q, random, renamed)
	if q.isDone() && (q.view.User != "" || q.view.Root == old.root) {
		o.complain(&o.crossed, other, "a cookie of %s opens a session: %+v", t.app.name, q.view)
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
