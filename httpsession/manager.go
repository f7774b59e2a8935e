package httpsession

import (
	"context"
	"errors"
	"net/http"

	"github.com/pgsession/pgsession"
)

const retryAfterSeconds = "5"

// A Manager gives requests their sessions, each with values of type V. It is made by [New] and safe for
// concurrent use. An application that needs two kinds of sessions makes two Managers with different
// cookie names.
type Manager[V any] struct {
	options
	store *pgsession.Store
}

// New returns a Manager of sessions that store keeps. V is the application's own type for what a session
// holds, and has a form in JSON. It panics if store is nil.
func New[V any](store *pgsession.Store, opts ...Option) *Manager[V] {
	if store == nil {
		panic("httpsession: New: nil store")
	}
	m := &Manager[V]{options: newOptions(opts), store: store}
	if m.errorHandler == nil {
		m.errorHandler = m.handleError
	}
	return m
}

// Handler loads the session of each request before it calls next, and prolongs the session's life if that
// is due. A request without a cookie costs no I/O. If the store fails, next is not called: see
// [WithErrorHandler]. It is middleware of the usual form. Routes that need no session, such as static
// files, are best left out of it. Inside another Handler of the same Manager it does nothing.
//
// If the browser sends several cookies of the name, the first whose session is alive counts. A session
// that does not open ([pgsession.ErrTampered], [pgsession.ErrUnknownKey]) is logged as an error and leaves
// a guest.
func (m *Manager[V]) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m.lookup(r) != nil {
			next.ServeHTTP(w, r)
			return
		}
		st, err := m.begin(r)
		if err != nil {
			m.errorHandler(w, r, err)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), m, st)))
	})
}

func (m *Manager[V]) lookup(r *http.Request) *requestState[V] {
	st, _ := r.Context().Value(m).(*requestState[V])
	return st
}

// state panics if there is none. Without that, a forgotten Handler would make every visitor a guest.
func (m *Manager[V]) state(r *http.Request) *requestState[V] {
	st := m.lookup(r)
	if st == nil {
		panic("httpsession: the request did not come through Manager.Handler; wrap the application in it, and use the request that it passes on")
	}
	return st
}

// begin finds the session of a request.
func (m *Manager[V]) begin(r *http.Request) (*requestState[V], error) {
	ids, cookies := m.cookie.ids(r)
	st := &requestState[V]{cookies: cookies}
	ended := false
	for i, id := range ids {
		stored, err := m.store.Load(r.Context(), id)
		switch {
		case err == nil:
			m.touch(r.Context(), stored)
			st.others = append(st.others, ids[i+1:]...)
			st.set(stored)
			return st, nil
		case errors.Is(err, pgsession.ErrNotFound):
			ended = true
		case doesNotOpen(err):
			m.logBroken(r.Context(), id, err)
			st.others = append(st.others, id)
		default:
			return nil, err
		}
	}
	st.current.Store(&snapshot[V]{ended: ended})
	return st, nil
}

func doesNotOpen(err error) bool {
	return errors.Is(err, pgsession.ErrTampered) || errors.Is(err, pgsession.ErrUnknownKey)
}

func (m *Manager[V]) logBroken(ctx context.Context, id pgsession.ID, err error) {
	m.logger.ErrorContext(ctx, "httpsession: a session does not open, and its visitor is a guest", "session", id.Handle(), "error", err)
}

// touch prolongs a session if that is due.
func (m *Manager[V]) touch(ctx context.Context, stored *pgsession.Session) {
	expiresAt, err := m.store.Touch(ctx, stored, 0)
	switch {
	case err == nil:
		stored.ExpiresAt = expiresAt
	case ctx.Err() == nil && !errors.Is(err, pgsession.ErrNotFound):
		m.logger.WarnContext(ctx, "httpsession: a session was not prolonged", "session", stored.Handle, "error", err)
	}
}

// Get returns the session of the request as it was loaded, or as Update, LogIn, LogOut or Reload left it.
// A guest without a session has the zero Session. Get does no I/O. It panics, as all methods that take a
// request, if the request did not come through [Manager.Handler].
func (m *Manager[V]) Get(r *http.Request) Session[V] {
	return m.state(r).current.Load().session(r.Context(), m)
}

// Reload loads the session of the request anew. Handlers that go on for long, as streams and web sockets
// do, call it now and then, and end if the session has another user or [Session.Ended]: the user may
// have logged out, or in again, elsewhere. An error means that the store could not be asked, and not that
// the session is over.
//
// Reload does not prolong the session, so that a page which is merely open does not keep its user logged
// in. Update prolongs it.
func (m *Manager[V]) Reload(r *http.Request) (Session[V], error) {
	st := m.state(r)
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.stored == nil {
		return m.Get(r), nil
	}
	stored, err := m.store.Load(r.Context(), st.stored.ID)
	switch {
	case err == nil:
		st.set(stored)
	case errors.Is(err, pgsession.ErrNotFound):
		st.setEnded()
	case doesNotOpen(err):
		m.logBroken(r.Context(), st.stored.ID, err)
		st.current.Store(&snapshot[V]{})
	default:
		return Session[V]{}, err
	}
	return m.Get(r), nil
}

// Error answers a request for which Update, LogIn or LogOut returned err, as [WithErrorHandler] says. Like
// [http.Error] it does not end the request: the handler returns after it.
func (m *Manager[V]) Error(w http.ResponseWriter, r *http.Request, err error) {
	m.errorHandler(w, r, err)
}

func (m *Manager[V]) handleError(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, pgsession.ErrNotFound) {
		http.Error(w, "Your session has changed. Please reload the page.", http.StatusConflict)
		return
	}
	if r.Context().Err() == nil { // otherwise the client has gone
		m.logger.ErrorContext(r.Context(), "httpsession: a request failed", "error", err)
	}
	if errors.Is(err, pgsession.ErrTooLarge) || errors.Is(err, pgsession.ErrEncode) {
		http.Error(w, "This cannot be stored.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Retry-After", retryAfterSeconds)
	http.Error(w, "Please try again in a moment.", http.StatusServiceUnavailable)
}
