package httpsession

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/bridge"
)

// A Session is what the session of a request is when [Manager.Get] or [Manager.Reload] returns it.
// It is a snapshot: changing it changes nothing that is stored. It may be shared between
// goroutines, and so may the maps, slices and pointers in its Values, which therefore must not be
// changed. It holds no secret that opens the session.
type Session[V any] struct {
	Handle    pgsession.Handle // names the session in lists and logs; zero if there is none
	UserID    string           // "" for a guest
	CreatedAt time.Time        // when this log-in began
	ExpiresAt time.Time        // when the session ends unless it is used
	EndsAt    time.Time        // when it ends however much it is used; zero: never

	// IdleTimeout is how long the session may be idle. A page that counts down begins with it.
	IdleTimeout time.Duration

	Values V

	// Ended says that the request has the cookie of a user whose session is over: it expired, or
	// was logged out elsewhere. The rest is zero, as for a guest. A page may say "please log in
	// again". Guests who never logged in do not see it, nor does a request whose session has just
	// got another id.
	Ended bool
}

// A snapshot is a session as it is stored. Its values are decoded by the first Get.
type snapshot[V any] struct {
	stored   *pgsession.Session // nil: there is none
	ended    bool
	hasMoved bool               // the session goes on under another id: the visitor has its cookie, or will soon
	over     *pgsession.Session // what stored was before this request found it over

	once   sync.Once
	values V
}

func (s *snapshot[V]) session(ctx context.Context, m *Manager[V], st *requestState[V]) Session[V] {
	if s.stored == nil {
		return Session[V]{Ended: s.ended}
	}
	s.once.Do(func() {
		var isReadable bool
		if s.values, isReadable = m.decode(ctx, s.stored); !isReadable && !st.unreadable.Swap(true) {
			m.tell(ctx, Event{Kind: ValuesUnreadable, Handle: s.stored.Handle, UserID: s.stored.UserID})
		}
	})
	return Session[V]{
		Handle:      s.stored.Handle,
		UserID:      s.stored.UserID,
		CreatedAt:   s.stored.CreatedAt,
		ExpiresAt:   s.stored.ExpiresAt,
		EndsAt:      s.stored.EndsAt,
		IdleTimeout: s.stored.IdleTimeout,
		Values:      s.values,
	}
}

// A requestState is what the requests of one visit to a Handler share: the request itself, and
// those that middleware makes of it.
type requestState[V any] struct {
	current atomic.Pointer[snapshot[V]]
	none    snapshot[V] // what current is at first
	outage  error       // why the session is not known; nil if it is
	passive bool        // the request prolongs nothing

	unreadable atomic.Bool // it was told that values begin anew

	turn       chan struct{}      // of the calls that write: there is room for the one that has it
	hasTurn    sync.Once          // the channel is made
	isChanging atomic.Bool        // a change function runs, in its call's turn
	stored     *pgsession.Session // as it was last seen alive; it may have ended since; nil: there is none
	others     []pgsession.ID     // of further cookies, unless their sessions are known to be over
	cookies    uint               // the places of names that the request came with, or its response sets
	userEnded  bool               // the session was a user's, and this request has found it over
	guestEnded bool               // the session was a guest's, and a log-in, most likely, has ended it
	events     []Event            // to be told when the call that writes has ended
}

// A requestContext is the context of a request that came through a Handler.
type requestContext[V any] struct {
	context.Context
	m  *Manager[V]
	st *requestState[V]
}

// innermost is the key under which a request's context has its requestContext, and the first of them
// if the request came through Handlers of several Managers.
type innermost struct{}

func (c *requestContext[V]) Value(key any) any {
	switch key {
	case any(c.m):
		return c.st
	case innermost{}:
		return c
	}
	return c.Context.Value(key)
}

func (c *requestContext[V]) outer() context.Context { return c.Context }

func (c *requestContext[V]) check(ctx context.Context, userID string) error {
	current := c.st.current.Load()
	stored := cmp.Or(current.stored, current.over)
	if stored == nil || stored.UserID != userID {
		return nil
	}
	_, err := c.m.store.Load(ctx, stored.ID)
	return err
}

// checkUser returns an error if ctx is that of a request with a session of a user's which has ended
// meanwhile, whichever Manager's it is.
func checkUser(ctx context.Context, userID string) error {
	for request := ctx; ; {
		c, ok := request.Value(innermost{}).(interface {
			check(ctx context.Context, userID string) error
			outer() context.Context
		})
		if !ok {
			return nil
		}
		if err := c.check(ctx, userID); err != nil {
			return err
		}
		request = c.outer()
	}
}

// set notes which session the request has; nil is none.
func (st *requestState[V]) set(stored *pgsession.Session) {
	st.stored, st.guestEnded = stored, false
	st.current.Store(&snapshot[V]{stored: stored})
}

// setValues is set with values that are known already. They are the snapshot's from now on.
func (st *requestState[V]) setValues(stored *pgsession.Session, values V) {
	st.set(stored)
	current := st.current.Load()
	current.once.Do(func() { current.values = values })
}

// setEnded notes that the session is over. It stays there, so that no later call of this request
// begins another session: the response to a log-in in parallel may have set a newer cookie.
func (st *requestState[V]) setEnded(err error) {
	hasMoved := bridge.HasMoved(err)
	isUser, isKnown := st.stored.UserID != "" && !hasMoved, st.userEnded
	st.userEnded = isUser || isKnown
	st.current.Store(&snapshot[V]{ended: isUser, hasMoved: hasMoved, over: st.stored})
	if isUser && !isKnown {
		st.events = append(st.events, Event{Kind: endedBy(err), Handle: st.stored.Handle, UserID: st.stored.UserID})
	}
}

// tellUnreadable notes that values begin anew, once.
func (st *requestState[V]) tellUnreadable(stored *pgsession.Session) {
	if !st.unreadable.Swap(true) {
		st.events = append(st.events, Event{Kind: ValuesUnreadable, Handle: stored.Handle, UserID: stored.UserID})
	}
}

var errInChange = errors.New("httpsession: a change function called a method of its Manager; it must only change the values that it is given")

// turnPatience is how long a call waits for its turn if neither its context nor
// [pgsession.WithTimeout] sets a limit.
const turnPatience = 5 * time.Second

// enter begins a call that writes. The caller must call leave. The calls of a request take turns. If
// a call has to wait, the wait and its work together have the time of one operation: the change
// function of the call before it may be waiting for it.
func (m *Manager[V]) enter(ctx context.Context, r *http.Request) (st *requestState[V], bounded context.Context, leave func(), err error) {
	st = m.state(r)
	if st.outage != nil {
		return nil, nil, nil, st.outage
	}
	st.hasTurn.Do(func() { st.turn = make(chan struct{}, 1) })
	cancel := func() {}
	select {
	case st.turn <- struct{}{}:
	default:
		if st.isChanging.Load() && isCalledByChange() {
			return nil, nil, nil, errInChange
		}
		if ctx, cancel, err = m.await(ctx, st); err != nil {
			return nil, nil, nil, err
		}
	}
	return st, ctx, func() { cancel(); m.leave(r, st) }, nil
}

// await waits for a call's turn, and returns the context for its work.
func (m *Manager[V]) await(ctx context.Context, st *requestState[V]) (context.Context, context.CancelFunc, error) {
	bounded, cancel := bridge.Within(ctx, m.store)
	waiting, stop := bounded, context.CancelFunc(func() {})
	if _, ok := bounded.Deadline(); !ok {
		waiting, stop = context.WithTimeout(bounded, turnPatience)
	}
	defer stop()
	select {
	case st.turn <- struct{}{}:
		return bounded, cancel, nil
	case <-waiting.Done():
		cancel()
		return nil, nil, fmt.Errorf("%w: another call of this request is still at work: %w", pgsession.ErrConflict, waiting.Err())
	}
}

func (m *Manager[V]) leave(r *http.Request, st *requestState[V]) {
	events := st.events
	st.events = nil
	<-st.turn
	for _, event := range events {
		m.tell(r.Context(), event)
	}
}

// call runs a change function.
func (st *requestState[V]) call(change func(*V) error, values *V) error {
	st.isChanging.Store(true)
	defer st.isChanging.Store(false)
	return callChange(func() error { return change(values) })
}

// callChange is on the stack of every change function.
//
//go:noinline
func callChange(change func() error) error { return change() }

// isCalledByChange reports whether this goroutine runs a change function.
func isCalledByChange() bool {
	callers := make([]uintptr, 64)
	n := runtime.Callers(1, callers)
	for n == len(callers) {
		callers = make([]uintptr, 2*n)
		n = runtime.Callers(1, callers)
	}
	for frames := runtime.CallersFrames(callers[:n]); ; {
		frame, more := frames.Next()
		if strings.HasSuffix(frame.Function, "/httpsession.callChange") {
			return true
		}
		if !more {
			return false
		}
	}
}
