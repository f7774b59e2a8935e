package httpsession

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"sync"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/bridge"
)

var errTooManyTokens = errors.New("httpsession: too many tokens")

// begin finds the session of a request.
func (m *Manager[V]) begin(w http.ResponseWriter, r *http.Request, st *requestState[V]) error {
	var tokens []token
	if m.bearer {
		tokens = m.bearerToken(r)
	} else {
		tokens, st.cookies = m.cookies.read(r, m.purpose)
	}
	if len(tokens) > maxTokens {
		return errTooManyTokens
	}
	ctx := r.Context()
	if len(tokens) > 1 {
		var cancel context.CancelFunc
		ctx, cancel = bridge.Within(ctx, m.store)
		defer cancel()
	}
	var (
		loads        []loaded // of all tokens but the first
		hasUserMoved bool
	)
	for i, t := range tokens {
		if hasUserMoved && t.isGuest {
			st.others = append(st.others, t.id) // the user's cookie hides it from the next request
			continue
		}
		var l loaded
		switch i {
		case 0:
			l.session, l.err = m.store.Load(ctx, t.id)
		case 1:
			loads = m.loadAll(ctx, tokens[1:])
			fallthrough
		default:
			l = loads[i-1]
		}
		switch {
		case l.err == nil && m.accepts(r, t, l.session):
			for _, other := range tokens[i+1:] {
				st.others = append(st.others, other.id)
			}
			st.others = slices.DeleteFunc(st.others, func(id pgsession.ID) bool { return id.Handle() == l.session.Handle })
			m.prolong(r.Context(), w, r, st, l.session)
			st.set(l.session)
			return nil
		case l.err == nil:
			st.others = append(st.others, t.id)
		case bridge.HasMoved(l.err):
			st.none.hasMoved = true
			hasUserMoved = hasUserMoved || !t.isGuest
		case errors.Is(l.err, pgsession.ErrNotFound) && t.isGuest:
			st.guestEnded = st.guestEnded || errors.Is(l.err, pgsession.ErrRevoked)
		case errors.Is(l.err, pgsession.ErrNotFound):
			st.none.ended = true
			m.tell(r.Context(), Event{Kind: endedBy(l.err), Handle: t.id.Handle()})
		case errors.Is(l.err, pgsession.ErrUnreadable):
			m.logUnreadable(r.Context(), t.id.Handle(), l.err)
			st.others = append(st.others, t.id)
		default:
			return l.err
		}
	}
	if st.guestEnded && !st.none.hasMoved {
		m.clearCookies(w, r, st, true)
	}
	return nil
}

// A loaded is the session of a token.
type loaded struct {
	session *pgsession.Session
	err     error
}

// loadAll loads the sessions of several tokens at once.
func (m *Manager[V]) loadAll(ctx context.Context, tokens []token) []loaded {
	loads := make([]loaded, len(tokens))
	var wg sync.WaitGroup
	for i, t := range tokens {
		wg.Go(func() { loads[i].session, loads[i].err = m.store.Load(ctx, t.id) })
	}
	wg.Wait()
	return loads
}

// accepts reports whether a live session is that of the request. A guest's session in the cookie of
// users was put there by hand, and so was a user's in the cookie of guests.
func (m *Manager[V]) accepts(r *http.Request, t token, stored *pgsession.Session) bool {
	if t.isGuest != (stored.UserID == "") {
		return false
	}
	if m.binding == nil || !m.isBoundElsewhere(r, bridge.Values(stored)) {
		return true
	}
	m.log(r.Context(), slog.LevelWarn, "httpsession: a session is bound to another client, and its visitor is a guest",
		slog.String("session", stored.Handle.String()))
	m.tell(r.Context(), Event{Kind: BindingDiffered, Handle: stored.Handle, UserID: stored.UserID})
	return false
}

func (m *Manager[V]) logUnreadable(ctx context.Context, handle pgsession.Handle, err error) {
	m.log(ctx, slog.LevelError, "httpsession: a session does not open, and its visitor is a guest",
		slog.String("session", handle.String()), slog.Any("error", err))
	m.tell(ctx, Event{Kind: ValuesUnreadable, Handle: handle})
}

// prolong lets a session live on if that is due, and sets the cookie of a remembered one anew.
func (m *Manager[V]) prolong(ctx context.Context, w http.ResponseWriter, r *http.Request, st *requestState[V], stored *pgsession.Session) {
	if st.passive {
		return
	}
	now := stored.ExpiresAt.Add(-stored.Remaining())
	before := stored.ExpiresAt
	m.touch(ctx, stored)
	if w != nil && stored.ExpiresAt.After(before) && stored.UserID != "" && m.isRemembered(stored.IdleTimeout) &&
		now.Sub(stored.CreatedAt) > rememberedAge/2 {
		m.setCookie(w, r, st, stored.ID, false, rememberedAge)
	}
}

// touch prolongs a session if that is due.
func (m *Manager[V]) touch(ctx context.Context, stored *pgsession.Session) {
	err := bridge.Touch(ctx, m.store, stored)
	if err != nil && ctx.Err() == nil && !errors.Is(err, pgsession.ErrNotFound) {
		m.log(ctx, slog.LevelWarn, "httpsession: a session was not prolonged",
			slog.String("session", stored.Handle.String()), slog.Any("error", err))
	}
}
