package httpsession

import (
	"context"
	"net/http"

	"github.com/pgsession/pgsession"
)

// Update changes the values of the request's session. It calls change with the values as they are
// stored at that moment, and stores what change makes of them, unless change returns an error,
// which Update returns as it is. If another request changes the session at the same time, change is
// called again, with that request's values. So change must do nothing but change what it is given:
// it must not use values that Get returned before. If it calls Update, LogIn, RenewID, LogOut or
// Reload, that call returns an error. Such a call of another goroutine of the request waits for the
// one that is at work, but no longer than its context and [pgsession.WithTimeout] allow, and is
// then [pgsession.ErrConflict]. A nil change writes no values.
//
// If there is no session, or the one in the cookie is over, Update begins one for a guest and sets
// the cookie. That has to happen before the first byte of the response, and is an error later, and
// once the connection is hijacked, if the ResponseWriter is the server's own; of other ones Update
// cannot know. For a session that exists, w is not used.
//
// Errors: those of change; [pgsession.ErrNotFound] if the session ended after the request had
// loaded it, or got another id in parallel, by a LogIn or a RenewID: nobody would see the change;
// [pgsession.ErrTooLarge]; [pgsession.ErrEncode], also for values that would not decode again;
// [pgsession.ErrConflict], [pgsession.ErrTampered], [pgsession.ErrUnknownKey].
func (m *Manager[V]) Update(w http.ResponseWriter, r *http.Request, change func(*V) error) error {
	st, ctx, leave, err := m.enter(r.Context(), r)
	if err != nil {
		return err
	}
	defer leave()
	c := &revision[V]{m: m, st: st, change: change}
	if st.stored == nil {
		return m.beginGuest(ctx, w, r, c)
	}
	stored, err := m.store.Update(ctx, st.stored, 0, func(stored *pgsession.Session) (any, error) {
		return c.apply(ctx, stored)
	})
	if err != nil {
		return c.failed(err)
	}
	m.prolong(ctx, nil, r, st, stored) // before other goroutines of the request see the session
	c.done(stored)
	return nil
}

// beginGuest begins the session of a guest.
func (m *Manager[V]) beginGuest(ctx context.Context, w http.ResponseWriter, r *http.Request, c *revision[V]) error {
	switch {
	case m.bearer || c.st.guestEnded || c.st.current.Load().hasMoved:
		return pgsession.ErrNotFound
	case hasBegun(w):
		return errBegun
	}
	stored, err := m.create(ctx, r, "", logIn{ttl: m.ttl}, c)
	if err != nil {
		return err
	}
	m.setCookie(w, r, c.st, stored.ID, true, 0)
	c.done(stored)
	c.st.events = append(c.st.events, Event{Kind: SessionBegun, Handle: stored.Handle})
	return nil
}
