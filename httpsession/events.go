package httpsession

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/pgsession/pgsession"
)

// An EventKind says what happened to a session.
type EventKind string

// The kinds of events.
const (
	SessionBegun     EventKind = "session begun"     // a guest's, or that of a token
	UserLoggedIn     EventKind = "user logged in"    // by LogIn
	IDChanged        EventKind = "id changed"        // by RenewID
	LoggedOut        EventKind = "logged out"        // by LogOut
	EndedByOthers    EventKind = "ended by others"   // found by a request of its user
	Expired          EventKind = "expired"           // found by a request of its user, or was never there
	BindingDiffered  EventKind = "binding differed"  // see WithBinding
	ValuesUnreadable EventKind = "values unreadable" // the session does not open, or its values begin anew
)

// An Event is something that happened to a session. See [WithEvents].
//
// EndedByOthers and Expired tell that a request met a session that was over. That happens once for
// each request that comes with the old cookie, or never. The UserID is known only if the session
// ended while the request ran.
type Event struct {
	Kind   EventKind
	Handle pgsession.Handle // of the session; if its id changed, the new one
	Before pgsession.Handle // UserLoggedIn, IDChanged: the handle before, zero if there was no session
	UserID string           // "" for a guest, and if it is not known
}

// endedBy returns the kind of event for an error that is ErrNotFound.
func endedBy(err error) EventKind {
	if errors.Is(err, pgsession.ErrRevoked) {
		return EndedByOthers
	}
	return Expired
}

// tell calls the application's function.
func (m *Manager[V]) tell(ctx context.Context, event Event) {
	if m.onEvent == nil {
		return
	}
	defer func() {
		if p := recover(); p != nil {
			m.log(ctx, slog.LevelError, "httpsession: the function of WithEvents panicked", slog.String("type", fmt.Sprintf("%T", p)))
		}
	}()
	m.onEvent(ctx, event)
}
