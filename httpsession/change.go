package httpsession

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/pgsession/pgsession"
)

// Update changes the values of the request's session. It calls change with the values as they are stored
// at that moment, and stores what change makes of them, unless change returns an error, which Update
// returns as it is. If another request changes the session at the same time, change is called again, with
// that request's values. So change must do nothing but change what it is given: it must not use values
// that Get returned before, nor call other methods of the Manager. A nil change changes nothing.
//
// If there is no session, or the one in the cookie is over, Update begins one for a guest and sets the
// cookie. That has to happen before the first byte of the response. Otherwise w is not used.
//
// Errors: those of change; [pgsession.ErrNotFound] if the session ended after the request had loaded it;
// [pgsession.ErrTooLarge], [pgsession.ErrEncode], [pgsession.ErrConflict], [pgsession.ErrTampered],
// [pgsession.ErrUnknownKey].
func (m *Manager[V]) Update(w http.ResponseWriter, r *http.Request, change func(*V) error) error {
	st := m.state(r)
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.stored == nil {
		stored, err := m.create(r.Context(), "", m.ttl, 0, change)
		if err != nil {
			return err
		}
		m.cookie.set(w, r, guest, stored.ID.Token(), 0)
		st.cookies[guest] = true
		st.set(stored)
		return nil
	}
	var changeErr error
	stored, err := m.store.Update(r.Context(), st.stored, 0, func(stored *pgsession.Session) (any, error) {
		var values V
		values, changeErr = m.changed(r.Context(), stored, change)
		return values, changeErr
	})
	if err != nil {
		if changeErr == nil && errors.Is(err, pgsession.ErrNotFound) {
			st.setEnded()
		}
		return err
	}
	m.touch(r.Context(), stored)
	st.set(stored)
	return nil
}

// changed returns a session's values, newly decoded, as change leaves them.
func (m *Manager[V]) changed(ctx context.Context, stored *pgsession.Session, change func(*V) error) (values V, err error) {
	if stored != nil {
		values = m.decode(ctx, stored)
	}
	if change != nil {
		err = change(&values)
	}
	return values, err
}

func (m *Manager[V]) create(ctx context.Context, userID string, ttl, lifetime time.Duration, change func(*V) error) (*pgsession.Session, error) {
	values, err := m.changed(ctx, nil, change)
	if err != nil {
		return nil, err
	}
	return m.store.Create(ctx, pgsession.Data{UserID: userID, Lifetime: lifetime, Values: values}, ttl)
}
