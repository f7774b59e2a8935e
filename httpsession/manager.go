package httpsession

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"sync"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/quiet"
)

// A Manager gives requests their sessions, each with values of type V. It is made by [New] and safe
// for concurrent use.
//
// A Manager accepts only tokens of its own: their purpose is the cookie's name, as [WithCookie]
// says. So an application that needs two kinds of sessions makes two Managers with different names.
// User ids belong to the table. If "ann" is one person among customers and another one among the
// staff, give each realm a table of its own: FindByUser and DeleteByUser find both otherwise.
type Manager[V any] struct {
	options
	store   *pgsession.Store
	shape   *shape
	hasList bool // the shape has
	cookies cookies
	purpose string // of the ids
	logs    quiet.Limiter
	hints   sync.Map // those that were logged
}

// New returns a Manager of sessions that store keeps. V is the application's own type for what a
// session holds, a struct with JSON tags as a rule. New panics if store is nil, or if nothing of V
// would be stored because it has no exported field.
func New[V any](store *pgsession.Store, opts ...Option) *Manager[V] {
	if store == nil {
		panic("httpsession: New: nil store")
	}
	m := &Manager[V]{options: newOptions(opts), store: store, shape: checkedShape[V]()}
	m.hasList = m.shape.hasList(make(map[*shape]bool))
	m.cookies = newCookies(checkedCookie(m.cookie), m.plainHTTP)
	m.purpose = m.cookies.base
	if m.bearer {
		m.purpose = bearerPurpose + m.purpose
	}
	if m.binding != nil && !isObjectOrNull[V]() {
		panic("httpsession: New: WithBinding needs values that are a JSON object")
	}
	if m.errorHandler == nil {
		m.errorHandler = m.handleError
	}
	return m
}

// CookieNames returns the names of all cookies that the Manager reads: those of users and of
// guests, with each prefix, and without one [WithPlainHTTP]. A gateway must not pass these cookies
// on to services behind it. A Manager [WithBearer] has none.
func (m *Manager[V]) CookieNames() (names []string) {
	if m.bearer {
		return nil
	}
	for _, name := range m.cookies.overTLS {
		names = append(names, name.text)
	}
	return names
}

// Handler loads the session of each request before it calls next, and prolongs the session's life
// if that is due. A request without a cookie costs no I/O. If the store fails, next is not called:
// see [WithErrorHandler]. It is middleware of the usual form. Routes that need no session, such as
// static files, are best left out of it. Inside another Handler of the same Manager it does
// nothing.
//
// If a request has several cookies of the Manager's, users' count before guests', and of each kind
// the first whose session is alive. A request with more than 256 different tokens is answered 431,
// since each costs a query. A session that does not open ([pgsession.ErrUnreadable]) is logged as
// an error and leaves a guest.
func (m *Manager[V]) Handler(next http.Handler) http.Handler { return m.handler(next, false) }

// Passive is Handler for requests that come by themselves, such as polling, countdowns, and streams
// that reconnect: it never prolongs a session, so that a page which is merely open does not keep
// its user logged in. It goes outside of Handler and RequireUser, and panics inside of them, where
// the session was prolonged already:
//
//	mux.Handle("GET /poll", sessions.Passive(poll))
//	mux.Handle("/", sessions.Handler(pages))
func (m *Manager[V]) Passive(next http.Handler) http.Handler { return m.handler(next, true) }

func (m *Manager[V]) handler(next http.Handler, passive bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if st := m.lookup(r); st != nil {
			switch {
			case st.outage != nil:
				m.handleError(w, r, st.outage)
				return
			case passive && !st.passive:
				panic("httpsession: Passive is inside of Handler or RequireUser, which have prolonged the session already; route to it past them")
			}
			next.ServeHTTP(w, r)
			return
		}
		st := &requestState[V]{passive: passive}
		st.current.Store(&st.none)
		r = r.WithContext(&requestContext[V]{r.Context(), m, st})
		switch err := m.begin(w, r, st); err {
		case nil:
			next.ServeHTTP(w, r)
		case errTooManyTokens:
			http.Error(w, "Too many session cookies.", http.StatusRequestHeaderFieldsTooLarge)
		default:
			st.outage = err
			m.errorHandler(w, r, err)
		}
	})
}

func (m *Manager[V]) lookup(r *http.Request) *requestState[V] {
	st, _ := r.Context().Value(m).(*requestState[V])
	return st
}

// state panics if there is none. Without that, a forgotten Handler would make every visitor a
// guest.
func (m *Manager[V]) state(r *http.Request) *requestState[V] {
	st := m.lookup(r)
	if st == nil {
		panic("httpsession: the request did not come through Manager.Handler; wrap the application in it, and use the request that it passes on")
	}
	return st
}

// Get returns the session of the request as it was loaded, or as Update, LogIn, RenewID, LogOut or
// Reload left it. A guest without a session has the zero Session. Get does no I/O. It panics, as
// all methods that take a request, if the request did not come through [Manager.Handler] or one
// that includes it.
func (m *Manager[V]) Get(r *http.Request) Session[V] {
	st := m.state(r)
	return st.current.Load().session(r.Context(), m, st)
}

// Reload loads the session of the request anew. Handlers that go on for long may call it now and
// then, and end if the session has another user or none: the user may have logged out, or in again,
// elsewhere. [Manager.Watch] tells them without asking. An error means that the store could not be
// asked, and not that the session is over.
//
// Reload does not prolong the session, so that a page which is merely open does not keep its user
// logged in. Update prolongs it.
func (m *Manager[V]) Reload(r *http.Request) (Session[V], error) {
	st, ctx, leave, err := m.enter(r.Context(), r)
	if err != nil {
		return Session[V]{}, err
	}
	defer leave()
	if st.stored == nil {
		return m.Get(r), nil
	}
	stored, err := m.store.Load(ctx, st.stored.ID)
	switch {
	case err == nil:
		st.set(stored)
	case errors.Is(err, pgsession.ErrNotFound):
		st.setEnded(err)
	case errors.Is(err, pgsession.ErrUnreadable):
		m.logUnreadable(r.Context(), st.stored.Handle, err)
		st.current.Store(&snapshot[V]{})
	default:
		return Session[V]{}, err
	}
	return m.Get(r), nil
}

// Watch returns the request's context, which also ends soon after the session does, on whatever
// node that happens: see [pgsession.Store.Watch]. It is for event streams and web sockets. If the
// session's id changes, by RenewID in another tab for instance, the context ends too, and the
// client connects again with the new cookie. For a visitor without a session it is the request's
// context.
//
// It ends with the request, so there is nothing to cancel.
func (m *Manager[V]) Watch(r *http.Request) context.Context {
	current := m.state(r).current.Load()
	stored := cmp.Or(current.stored, current.over)
	if stored == nil {
		return r.Context()
	}
	watched, cancel := m.store.Watch(r.Context(), stored.Handle)
	context.AfterFunc(r.Context(), cancel)
	return watched
}
