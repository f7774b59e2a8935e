package httpsession

import (
	"context"
	"errors"
	"net/http"

	"github.com/pgsession/pgsession"
)

// LogIn makes the visitor a user: it moves the session to a new id, which was unknown before,
// and sets the cookie. The application has checked the password, or whatever it asks for, before that.
//
// The function change changes the values as in [Manager.Update], and may be nil. It gets the values of the
// guest, or those of the same user. If another user was logged in, it gets the zero V. If the same user
// was logged in, that log-in goes on, and CreatedAt and EndsAt stay. LogIn ends the sessions of all other
// cookies of the name that the browser sent, for example of one for another path.
//
// Call LogIn before the first byte of the response. Errors: one of its own if userID is empty; those of
// change; [pgsession.ErrTooLarge], also for a user id of over 1,000 bytes; [pgsession.ErrEncode];
// [pgsession.ErrConflict]. After an error the visitor has the same session and cookie as before.
func (m *Manager[V]) LogIn(w http.ResponseWriter, r *http.Request, userID string, change func(*V) error, opts ...LogInOption) error {
	st := m.state(r)
	if userID == "" {
		return errors.New("httpsession: log in: the user id is empty")
	}
	l := logIn{ttl: m.ttl}
	for _, opt := range opts {
		opt(&l)
	}
	if l.remember {
		l.ttl, l.lifetime, l.cookieAge = m.rememberTTL, m.rememberLifetime, rememberedAge
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if err := m.endOthers(r.Context(), st); err != nil {
		return err
	}
	stored, err := m.renewOrCreate(r.Context(), st.stored, userID, l, change)
	if err != nil {
		return err
	}
	m.cookie.set(w, r, user, stored.ID.Token(), l.cookieAge)
	st.cookies[user] = true
	if st.cookies[guest] {
		m.cookie.clear(w, r, guest)
	}
	st.set(stored)
	return nil
}

func (m *Manager[V]) renewOrCreate(ctx context.Context, before *pgsession.Session, userID string, l logIn, change func(*V) error) (*pgsession.Session, error) {
	if before != nil {
		stored, err := m.renew(ctx, before, userID, l, change)
		if !errors.Is(err, pgsession.ErrNotFound) && !doesNotOpen(err) {
			return stored, err
		}
	}
	return m.create(ctx, userID, l.ttl, l.lifetime, change)
}

func (m *Manager[V]) renew(ctx context.Context, before *pgsession.Session, userID string, l logIn, change func(*V) error) (*pgsession.Session, error) {
	return m.store.Renew(ctx, before, l.ttl, func(stored *pgsession.Session) (pgsession.Data, error) {
		if stored.UserID != "" && stored.UserID != userID {
			stored = nil // one user's values are not for another
		}
		values, err := m.changed(ctx, stored, change)
		return pgsession.Data{UserID: userID, Lifetime: l.lifetime, Values: values}, err
	})
}

// LogOut ends the session for good and then clears the cookies of the request. It ends whatever session a
// cookie names, also one that does not open. It goes on if the client hangs up. Other sessions of the user live on:
// [pgsession.Store.DeleteByUser] ends them. An Update afterwards begins a session for a guest, to say
// "you are logged out" on the next page for instance.
//
// Call LogOut before the first byte of the response. After an error, which comes from the database, the
// cookie stays and the visitor may still be logged in: do not tell them otherwise.
func (m *Manager[V]) LogOut(w http.ResponseWriter, r *http.Request) error {
	st := m.state(r)
	st.mu.Lock()
	defer st.mu.Unlock()
	ctx := context.WithoutCancel(r.Context())
	if err := m.endOthers(ctx, st); err != nil {
		return err
	}
	if st.stored != nil {
		if err := m.store.Delete(ctx, st.stored.ID); err != nil {
			return err
		}
	}
	for of, has := range st.cookies {
		if has { // otherwise a response in parallel may be setting one
			m.cookie.clear(w, r, owner(of))
		}
	}
	st.set(nil)
	return nil
}

func (m *Manager[V]) endOthers(ctx context.Context, st *requestState[V]) error {
	for _, id := range st.others {
		if err := m.store.Delete(ctx, id); err != nil {
			return err
		}
	}
	st.others = nil
	return nil
}
