package httpsession

import (
	"context"
	"net/http"
	"strings"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/bridge"
)

// bearerPurpose begins the purpose of tokens. It has a colon, which no cookie's name has, so it
// differs from the purpose of every cookie.
const bearerPurpose = "bearer:"

// IssueToken returns a new API token of a user's, for a Manager [WithBearer]. It begins a session
// with the values, which requests with the token have: an API's scopes, for instance. The token
// lives as long as [WithTTL] says, or with [Remember] as [WithRemember] says. Show it once: the
// table does not hold it. [pgsession.Store.FindByUser] lists a user's tokens by their handles, and
// Revoke ends one.
//
// IssueToken does not know of the request in which it is called. That one's user may have been
// logged out since it came: reading a slow form takes long. So call [Manager.Reload] of the Manager
// that knows the user just before, and issue no token if it shows no user. LogIn needs no such
// call.
//
// Errors: one of its own if userID is empty, or if the Manager is not WithBearer;
// [pgsession.ErrNotFound] if ctx is that of a request whose session, of any Manager, was the same
// user's and has ended meanwhile; [pgsession.ErrTooLarge], [pgsession.ErrEncode].
func (m *Manager[V]) IssueToken(ctx context.Context, userID string, values V, opts ...LogInOption) (token string, err error) {
	if !m.bearer {
		return "", errNoBearer
	}
	if userID == "" {
		return "", errNoUserID
	}
	encoded, _, err := encode(values)
	if err != nil {
		return "", err
	}
	l := m.logIn(opts)
	within, cancel := bridge.Within(ctx, m.store)
	defer cancel()
	stored, err := m.store.CreateAs(within, pgsession.NewIDFor(m.purpose), pgsession.Data{UserID: userID, Lifetime: l.lifetime, Values: encoded}, l.ttl)
	if err != nil {
		return "", err
	}
	if err := checkUser(within, userID); err != nil {
		m.store.Delete(context.WithoutCancel(within), stored.ID) // if that fails: nobody knows the token
		return "", err
	}
	m.limit(within, stored, false)
	m.tell(ctx, Event{Kind: SessionBegun, Handle: stored.Handle, UserID: userID})
	return stored.ID.Token(), nil
}

// bearerToken returns the token in a request's header (RFC 6750, 2.1).
func (m *Manager[V]) bearerToken(r *http.Request) []token {
	scheme, text, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	id, err := pgsession.ParseIDFor(m.purpose, strings.TrimSpace(text))
	if err != nil || !strings.EqualFold(scheme, "Bearer") {
		return nil
	}
	return []token{{id: id}}
}

// unauthorized answers a request without a valid token (RFC 6750, 3).
func (m *Manager[V]) unauthorized(w http.ResponseWriter, r *http.Request) {
	challenge := "Bearer"
	if r.Header.Get("Authorization") != "" {
		challenge = `Bearer error="invalid_token"`
	}
	w.Header().Set("WWW-Authenticate", challenge)
	w.Header().Set("Cache-Control", "no-store")
	http.Error(w, "A valid token is needed.", http.StatusUnauthorized)
}
