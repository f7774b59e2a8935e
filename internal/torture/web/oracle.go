package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// A view is what a page shows of its session.
type view struct {
	User    string  `json:"user"`    // whose the session is; "" for a guest
	Named   string  `json:"named"`   // the user that the last log-in wrote into the values
	Root    int64   `json:"root"`    // names the session across log-ins and new ids; 0 if it has no values
	Numbers []int64 `json:"numbers"` // each from one append
	SeesOdd bool    `json:"sees_odd"`
}

// An oracle knows what was acknowledged and what was ended, and judges each page by that:
//
//   - revived: a page shows a session that had ended before the page was asked for;
//   - crossed: a page shows a user, or a number, of another browser, application or user;
//   - lost: a page does not show a number that was acknowledged before the page was asked for.
type oracle struct {
	mu      sync.Mutex
	now     int64 // counts events
	last    int64 // root or number that was given out
	roots   map[int64]*root
	numbers map[int64]number
	ends    map[string]int // how often all sessions of a user began, and ceased, to be ended

	revived, crossed, lost, refused []string
}

// A root is a session, from the first value to its end, under whatever ids.
type root struct {
	tab     *tab
	users   map[string]int64 // since when a page was known to show it logged in
	numbers map[int64]int64  // when they were acknowledged
	ended   int64            // when it was known to be over; 0 if it is not
	events  []string         // what became known of it
}

// note keeps what became known of a session lately.
func (r *root) note(now int64, format string, args ...any) {
	r.events = append(r.events, fmt.Sprintf("%d: ", now)+fmt.Sprintf(format, args...))
	if len(r.events) > 30 {
		r.events = r.events[1:]
	}
}

type number struct {
	tab  *tab
	user string // who appended it; "" for a guest
}

func newOracle() *oracle {
	return &oracle{roots: make(map[int64]*root), numbers: make(map[int64]number), ends: make(map[string]int)}
}

// tick returns the present, which no other event has.
func (o *oracle) tick() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.now++
	return o.now
}

// newRoot names a session that gets its first values.
func (o *oracle) newRoot(t *tab) int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.last++
	o.roots[o.last] = &root{tab: t, users: make(map[string]int64), numbers: make(map[int64]int64)}
	return o.last
}

// newNumber returns one that a user's page is about to append. A release that knows no odd numbers
// appends even ones.
func (o *oracle) newNumber(t *tab, user string, mayBeOdd bool) int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.last++
	if o.last%2 == 1 && !mayBeOdd {
		o.last++
	}
	o.numbers[o.last] = number{t, user}
	return o.last
}

// acknowledge notes that a page has said that a number is stored.
func (o *oracle) acknowledge(rootID, n int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.now++
	if r := o.roots[rootID]; r != nil {
		r.numbers[n] = o.now
		r.note(o.now, "number %d is acknowledged", n)
	}
}

// end notes that a session is over. No page that is asked for from now on may show it.
func (o *oracle) end(rootID int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.now++
	if r := o.roots[rootID]; r != nil && r.ended == 0 {
		r.ended = o.now
		r.note(o.now, "logged out")
	}
}

// endAll calls do, which ends all sessions of a user. Those that were known to be the user's before
// it are over after it.
func (o *oracle) endAll(user string, do func() error) error {
	o.mu.Lock()
	o.ends[user]++
	var theirs []*root
	o.now++
	for _, r := range o.roots {
		if r.users[user] != 0 && r.ended == 0 {
			theirs = append(theirs, r)
			r.note(o.now, "is being logged out everywhere")
		}
	}
	o.mu.Unlock()
	err := do()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ends[user]++
	o.now++
	for _, r := range theirs {
		if err == nil && r.ended == 0 {
			r.ended = o.now
			r.note(o.now, "is logged out everywhere")
		}
	}
	return err
}

func (o *oracle) endsOf(user string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.ends[user]
}

// judge looks at a page that was asked for at a time.
func (o *oracle) judge(t *tab, what string, v view, asked int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.now++
	say := func(list *[]string, format string, args ...any) {
		text := fmt.Sprintf("%s: %s: ", t, what) + fmt.Sprintf(format, args...) + fmt.Sprintf("; the page, asked for at %d: %+v", asked, v)
		if r := o.roots[v.Root]; r != nil {
			text += "\n\t" + strings.Join(r.events, "\n\t")
		}
		*list = append(*list, text)
	}
	if v.User != "" && (!t.hasTried(v.User) || v.Named != v.User) {
		say(&o.crossed, "it shows a user who did not log in here")
	}
	for _, n := range v.Numbers {
		if of := o.numbers[n]; of.tab != t || of.user != "" && of.user != v.User {
			say(&o.crossed, "it shows number %d, which %q appended in %s", n, of.user, of.tab)
		}
	}
	if v.Root == 0 {
		return
	}
	r := o.roots[v.Root]
	if r != nil {
		r.note(o.now, "%s, asked for at %d by %s: user %q, numbers %v", cmp.Or(what, "look"), asked, t, v.User, v.Numbers)
	}
	if r == nil || r.tab != t {
		say(&o.crossed, "it shows a session of another browser or application")
		return
	}
	if r.ended != 0 && r.ended < asked {
		say(&o.revived, "it shows a session that was over at %d", r.ended)
	}
	learns := t.app.showsStored || what != logInPage && what != renewPage
	if learns && v.User != "" && r.users[v.User] == 0 {
		r.users[v.User] = o.now
	}
	for n, acknowledged := range r.numbers {
		if acknowledged < asked && (n%2 == 0 || v.SeesOdd) && !slices.Contains(v.Numbers, n) {
			say(&o.lost, "it does not show number %d, which was acknowledged at %d", n, acknowledged)
		}
	}
}

// complain notes what judge cannot see.
func (o *oracle) complain(list *[]string, t *tab, format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	*list = append(*list, fmt.Sprintf("%s: ", t)+fmt.Sprintf(format, args...))
}

// wrong returns all that was found.
func (o *oracle) wrong() (text string, n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var lines []string
	for _, found := range []struct {
		kind string
		list []string
	}{{"REVIVED", o.revived}, {"CROSSED", o.crossed}, {"LOST", o.lost}, {"REFUSED", o.refused}} {
		n += len(found.list)
		for _, line := range found.list[:min(5, len(found.list))] {
			lines = append(lines, found.kind+": "+line)
		}
	}
	return strings.Join(lines, "\n"), n
}

func (o *oracle) counts() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return fmt.Sprintf("%d revived, %d crossed, %d lost, %d refused without a reason", len(o.revived), len(o.crossed), len(o.lost), len(o.refused))
}
