package httpsession

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgsession/pgsession"
)

// A Session is what the session of a request is when [Manager.Get] or [Manager.Reload] returns it. It is a
// snapshot: changing it changes nothing that is stored. It may be shared between goroutines, and so may
// the maps, slices and pointers in its Values, which therefore must not be changed. It holds no secret
// that opens the session.
type Session[V any] struct {
	Handle    pgsession.Handle // names the session in lists and logs; zero if there is none
	UserID    string           // "" for a guest
	CreatedAt time.Time        // when this log-in began
	ExpiresAt time.Time        // when the session ends unless it is used
	EndsAt    time.Time        // when it ends however much it is used; zero: never
	Values    V

	// Ended says that the request has a cookie whose session is over: it expired, or was logged out
	// elsewhere. The rest is zero, as for a guest. A page may say "please log in again".
	Ended bool
}

// A snapshot is a session as it is stored. Its values are decoded by the first Get.
type snapshot[V any] struct {
	stored *pgsession.Session // nil: there is none
	ended  bool

	once   sync.Once
	values V
}

func (s *snapshot[V]) session(ctx context.Context, m *Manager[V]) Session[V] {
	if s.stored == nil {
		return Session[V]{Ended: s.ended}
	}
	s.once.Do(func() { s.values = m.decode(ctx, s.stored) })
	return Session[V]{
		Handle:    s.stored.Handle,
		UserID:    s.stored.UserID,
		CreatedAt: s.stored.CreatedAt,
		ExpiresAt: s.stored.ExpiresAt,
		EndsAt:    s.stored.EndsAt,
		Values:    s.values,
	}
}

// decode returns a session's values, newly decoded.
func (m *Manager[V]) decode(ctx context.Context, stored *pgsession.Session) V {
	values, err := pgsession.Decode[V](stored)
	if err == nil {
		return values
	}
	m.logger.WarnContext(ctx, "httpsession: values of a session do not decode, and begin anew", "session", stored.Handle, "error", err)
	var zero V
	return zero
}

// A requestState is what the requests of one visit to a Handler share: the request itself, and those that
// middleware makes of it.
type requestState[V any] struct {
	current atomic.Pointer[snapshot[V]]

	mu      sync.Mutex         // serialises the calls that write
	stored  *pgsession.Session // as it was last seen alive; it may have ended since; nil: there is none
	others  []pgsession.ID     // of further cookies, unless their sessions are known to be over
	cookies [2]bool            // by owner: whether the request came with that cookie, or its response sets it
}

// set notes which session the request has; nil is none.
func (st *requestState[V]) set(stored *pgsession.Session) {
	st.stored = stored
	st.current.Store(&snapshot[V]{stored: stored})
}

func (st *requestState[V]) userID() string {
	if stored := st.current.Load().stored; stored != nil {
		return stored.UserID
	}
	return ""
}

// setEnded notes that the session is over. It stays there, so that no later call of this request begins
// another session: the response to a log-in in parallel may have set a newer cookie.
func (st *requestState[V]) setEnded() { st.current.Store(&snapshot[V]{ended: true}) }
