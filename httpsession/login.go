package httpsession

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/bridge"
)

// LogIn makes the visitor a user: it moves the session to a new id, which was unknown before, and
// sets the cookie. The application has checked the password, or whatever it asks for, before that.
//
// The function change changes the values as in [Manager.Update]. It gets the values of the guest,
// or those of the same user. If another user was logged in, it gets the zero V. If it is nil, the
// values of the guest or the same user stay as they are stored. If the same user was logged in,
// that log-in goes on: CreatedAt stays, and EndsAt stays too, or comes nearer with [Remember].
// LogIn ends the sessions of all other cookies of the Manager's that the browser sent, for example
// of one for another path.
//
// Call LogIn before the first byte of the response, and before Hijack. Later it is an error, if the
// ResponseWriter is the server's own; of other ones LogIn cannot know, and the browser gets no
// cookie. The whole call is bounded by [pgsession.WithTimeout].
//
// Errors: [pgsession.ErrNotFound] if the request came with the session of a user who was logged out
// meanwhile; there is no new session then, since nobody has proven again who they are. The same if
// the session got another id in parallel, by RenewID or a LogIn of the same user: its values would
// be lost. If a guest's session ended, LogIn makes a new one. One of its own if userID is empty;
// those of change; [pgsession.ErrTooLarge], also for a user id of over 1,000 bytes;
// [pgsession.ErrEncode]; [pgsession.ErrConflict]. After an error the visitor has the same session
// and cookie as before.
func (m *Manager[V]) LogIn(w http.ResponseWriter, r *http.Request, userID string, change func(*V) error, opts ...LogInOption) error {
	if userID == "" {
		return errNoUserID
	}
	st, ctx, leave, err := m.enterToSetCookie(w, r)
	if err != nil {
		return err
	}
	defer leave()
	if st.userEnded || st.current.Load().hasMoved {
		return pgsession.ErrNotFound
	}
	if err := m.end(ctx, pgsession.ID{}, st.others); err != nil {
		return err
	}
	st.others = nil
	var (
		before pgsession.Handle
		goesOn bool
	)
	if st.stored != nil {
		before, goesOn = st.stored.Handle, st.stored.UserID == userID
	}
	l, c := m.logIn(opts), &revision[V]{m: m, st: st, change: change}
	stored, err := m.renewOrCreate(ctx, r, userID, l, c)
	if err != nil {
		return err
	}
	m.limit(ctx, stored, goesOn)
	m.replaceCookie(w, r, st, stored, l.remember)
	m.clearCookies(w, r, st, true)
	c.done(stored)
	st.events = append(st.events, Event{Kind: UserLoggedIn, Handle: stored.Handle, Before: before, UserID: userID})
	return nil
}

// enterToSetCookie is enter for a call that sets a cookie. Its context is that of the request,
// bounded as one operation of the store.
func (m *Manager[V]) enterToSetCookie(w http.ResponseWriter, r *http.Request) (st *requestState[V], ctx context.Context, leave func(), err error) {
	if m.bearer {
		return nil, nil, nil, errBearer
	}
	within, cancel := bridge.Within(r.Context(), m.store)
	st, ctx, end, err := m.enter(within, r)
	if err != nil {
		cancel()
		return nil, nil, nil, err
	}
	leave = func() { cancel(); end() }
	if hasBegun(w) {
		leave()
		return nil, nil, nil, errBegun
	}
	return st, ctx, leave, nil
}

func (m *Manager[V]) renewOrCreate(ctx context.Context, r *http.Request, userID string, l logIn, c *revision[V]) (*pgsession.Session, error) {
	before := c.st.stored
	if before == nil {
		return m.create(ctx, r, userID, l, c)
	}
	stored, err := m.store.Renew(ctx, before, l.ttl, func(stored *pgsession.Session) (pgsession.Data, error) {
		if stored.UserID != "" && stored.UserID != userID {
			stored = nil // one user's values are not for another
		}
		return m.data(ctx, r, userID, l, c, stored)
	})
	isOver := errors.Is(err, pgsession.ErrNotFound) && before.UserID == "" && !bridge.HasMoved(err)
	if errors.Is(err, pgsession.ErrUnreadable) { // other nodes may have its key
		if err := m.store.Delete(ctx, before.ID); err != nil {
			return nil, err
		}
		isOver = true
	}
	if isOver {
		return m.create(ctx, r, userID, l, c)
	}
	if err != nil {
		return nil, c.failed(err)
	}
	return stored, nil
}

// create begins a session.
func (m *Manager[V]) create(ctx context.Context, r *http.Request, userID string, l logIn, c *revision[V]) (*pgsession.Session, error) {
	data, err := m.data(ctx, r, userID, l, c, nil)
	if err != nil {
		return nil, err
	}
	return m.store.CreateAs(ctx, pgsession.NewIDFor(m.purpose), data, l.ttl)
}

// data returns what to store at a log-in, or for a guest if userID is empty.
func (m *Manager[V]) data(ctx context.Context, r *http.Request, userID string, l logIn, c *revision[V], before *pgsession.Session) (pgsession.Data, error) {
	values, err := c.apply(ctx, before)
	if err == nil && userID != "" && m.binding != nil {
		values, err = m.bind(r, values, c.isKnown)
	}
	return pgsession.Data{UserID: userID, Lifetime: l.lifetime, Values: values}, err
}

// limit ends the oldest log-ins of a session's user beyond the limit. A log-in that goes on may be
// the oldest, and is spared. It goes on if the client hangs up.
func (m *Manager[V]) limit(ctx context.Context, stored *pgsession.Session, goesOn bool) {
	if m.maxSessions == 0 {
		return
	}
	deadline, isBounded := ctx.Deadline()
	ctx = context.WithoutCancel(ctx)
	if isBounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline)
		defer cancel()
	}
	var err error
	if goesOn {
		err = bridge.LimitOthers(ctx, m.store, stored, m.maxSessions-1)
	} else {
		_, err = m.store.LimitByUser(ctx, stored.UserID, m.maxSessions)
	}
	if err != nil {
		m.log(ctx, slog.LevelWarn, "httpsession: a user may have more sessions than WithMaxSessions allows", slog.Any("error", err))
	}
}

// replaceCookie lets the response set the cookie of a session that has a new id, in place of all
// others of guests or of users.
func (m *Manager[V]) replaceCookie(w http.ResponseWriter, r *http.Request, st *requestState[V], stored *pgsession.Session, remembered bool) {
	age := time.Duration(0)
	if remembered {
		age = rememberedAge
	}
	isGuest := stored.UserID == ""
	m.clearCookies(w, r, st, isGuest)
	m.setCookie(w, r, st, stored.ID, isGuest, age)
}

// RenewID gives the session of the visitor, a guest or a user, a new id, and sets the cookie: an id
// that was known before opens nothing afterwards. It is for a change of the password, and for the
// step before a second factor. The user, the times and the values stay, except for what change
// changes, as in [Manager.Update]. RenewID is not a log-in, and begins nothing.
//
// Call it before the first byte of the response, as LogIn. Errors: [pgsession.ErrNotFound] if there
// is no session, it ended meanwhile, or it got another id in parallel; those of change;
// [pgsession.ErrTooLarge], [pgsession.ErrEncode], [pgsession.ErrConflict], [pgsession.ErrTampered],
// [pgsession.ErrUnknownKey].
func (m *Manager[V]) RenewID(w http.ResponseWriter, r *http.Request, change func(*V) error) error {
	st, ctx, leave, err := m.enterToSetCookie(w, r)
	if err != nil {
		return err
	}
	defer leave()
	before := st.stored
	if before == nil {
		return pgsession.ErrNotFound
	}
	c := &revision[V]{m: m, st: st, change: change}
	stored, err := m.store.Renew(ctx, before, 0, func(stored *pgsession.Session) (pgsession.Data, error) {
		values, err := c.apply(ctx, stored)
		return pgsession.Data{UserID: stored.UserID, Values: values}, err
	})
	if err != nil {
		return c.failed(err)
	}
	remembered := stored.UserID != "" && m.isRemembered(stored.IdleTimeout)
	m.replaceCookie(w, r, st, stored, remembered)
	c.done(stored)
	st.events = append(st.events, Event{Kind: IDChanged, Handle: stored.Handle, Before: before.Handle, UserID: stored.UserID})
	return nil
}

// LogOut ends the session for good and then clears the cookies of the request. It ends every
// session that a cookie of the Manager's names, also one that does not open. It goes on if the
// client hangs up, and is bounded by [pgsession.WithTimeout] as a whole. Other sessions of the user
// live on: [pgsession.Store.DeleteByUser] ends them. An Update afterwards begins a session for a
// guest, to say "you are logged out" on the next page for instance.
//
// Call LogOut before the first byte of the response. Later, the cookie stays and opens nothing.
//
// Errors: [pgsession.ErrNotFound] if the session got another id in parallel, by RenewID or a LogIn
// of the same user, and so goes on; those of the database. The cookie then stays and the visitor
// may still be logged in: do not tell them otherwise.
func (m *Manager[V]) LogOut(w http.ResponseWriter, r *http.Request) error {
	within, cancel := bridge.Within(context.WithoutCancel(r.Context()), m.store)
	defer cancel()
	st, ctx, leave, err := m.enter(within, r)
	if err != nil {
		return err
	}
	defer leave()
	if st.current.Load().hasMoved {
		return pgsession.ErrNotFound
	}
	var own pgsession.ID
	if st.stored != nil {
		own = st.stored.ID
	}
	if err := m.end(ctx, own, st.others); err != nil {
		return err
	}
	m.clearCookies(w, r, st, false)
	m.clearCookies(w, r, st, true)
	if st.stored != nil && st.current.Load().over == nil {
		st.events = append(st.events, Event{Kind: LoggedOut, Handle: st.stored.Handle, UserID: st.stored.UserID})
	}
	st.others = nil
	st.set(nil)
	return nil
}

// end ends the sessions of a request's cookies for good, all at once. The error is ErrNotFound if
// the request's own goes on under another id.
func (m *Manager[V]) end(ctx context.Context, own pgsession.ID, others []pgsession.ID) error {
	errs := make([]error, len(others)+1)
	var wg sync.WaitGroup
	for i, id := range others {
		wg.Go(func() { errs[i] = m.store.Delete(ctx, id) })
	}
	if !own.IsZero() {
		errs[len(others)] = bridge.End(ctx, m.store, own)
	}
	wg.Wait()
	return errors.Join(errs...)
}
