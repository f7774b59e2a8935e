package scsstore

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/alexedwards/scs/v2"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/move"
)

// LoadAndSave is the middleware of a manager whose Store is a [*Store]: use it instead of the
// manager's method of that name. It remembers for each request what the request found, so that its
// commits keep the changes of other requests and bring nothing back that was ended; see
// [Store.CommitCtx]. It panics if the manager's Store is another.
func LoadAndSave(manager *scs.SessionManager, next http.Handler) http.Handler {
	storeOf(manager)
	handler := manager.LoadAndSave(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler.ServeHTTP(w, r.WithContext(NewContext(r.Context(), manager)))
	})
}

// NewContext is for code that calls the manager's Load and Commit itself: what LoadAndSave does for a
// request, it does for the work that is done with the context. It panics if the manager's Store is
// not a [*Store].
func NewContext(ctx context.Context, manager *scs.SessionManager) context.Context {
	s := storeOf(manager)
	return context.WithValue(ctx, requestKey{s}, &request{codec: manager.Codec, found: map[string]found{}})
}

func storeOf(manager *scs.SessionManager) *Store {
	s, ok := manager.Store.(*Store)
	if !ok {
		panic("scsstore: the manager's Store is not a *scsstore.Store")
	}
	return s
}

// Error is an ErrorFunc for a SessionManager. It answers 409 Conflict if the session ended while the
// request ran, 500 Internal Server Error if the application is to blame (the user changed without a
// RenewToken, the values are too large), and otherwise 503 Service Unavailable with Retry-After,
// since then the visitor may still be logged in. It logs all but the first.
func Error(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, pgsession.ErrNotFound) {
		http.Error(w, "Your session has ended. Please reload the page.", http.StatusConflict)
		return
	}
	slog.ErrorContext(r.Context(), "scsstore: a session was not loaded or not saved", "error", err)
	if errors.Is(err, pgsession.ErrUserChanged) || errors.Is(err, pgsession.ErrTooLarge) {
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Retry-After", "5")
	http.Error(w, "Please try again.", http.StatusServiceUnavailable)
}

type requestKey struct{ store *Store }

// A request is what one request knows of the store.
type request struct {
	codec scs.Codec

	mu            sync.Mutex
	found         map[string]found // by token
	ended         found            // the last session that the request ended
	endedByOthers bool             // that session was over already
}

// found is a session as a request found it, or as it last saved it.
type found struct {
	data    []byte
	session *pgsession.Session // nil: in the old table
}

// requestOf returns the request that ctx belongs to, or nil.
func requestOf(ctx context.Context, s *Store) *request {
	r, _ := ctx.Value(requestKey{s}).(*request)
	return r
}

func (r *request) remember(token string, f found) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.found[token] = f
}

// A change is what one Commit of a request stores.
type change struct {
	*Store
	*request
	token  string
	userID string // "" without UserCodec
	data   []byte
	expiry time.Time
}

func (c change) commit(ctx context.Context) error {
	base, ok := c.found[c.token]
	if !ok {
		return c.create(ctx)
	}
	before, err := decode(c.codec, base.data)
	if err != nil {
		return err
	}
	if before.userID != c.userID {
		return errUserChanged
	}
	if base.session == nil {
		moved, err := c.replaceInOld(ctx)
		if err != nil || !moved {
			return err
		}
	}
	return c.update(ctx, base, before)
}

// create begins a session under a token that scs has just made. If the session that it goes on with
// was ended by somebody else, it is refused: it would bring that one back.
func (c change) create(ctx context.Context) error {
	data := pgsession.Data{UserID: c.userID, Values: seal(c.token, c.data)}
	if ended := c.ended; ended.data != nil {
		before, err := decode(c.codec, ended.data)
		if err != nil {
			return err
		}
		now, err := decode(c.codec, c.data)
		if err != nil {
			return err
		}
		if c.endedByOthers && now.carriesOn(before) {
			return pgsession.ErrRevoked
		}
		if c.userID != "" && c.userID == before.userID && ended.session != nil && !ended.session.EndsAt.IsZero() {
			data.Lifetime = max(time.Until(ended.session.EndsAt), 1) // the same log-in
		}
	}
	if c.moving.CreateInOld {
		err := c.moving.From.Insert(ctx, move.Row{Token: c.token, Data: c.data, Expiry: c.expiry})
		if err == nil {
			c.found[c.token] = found{data: c.data}
		}
		return err
	}
	session, err := c.store.CreateAs(ctx, pgsession.DeriveID(c.token), data, time.Until(c.expiry))
	if err == nil {
		c.found[c.token] = found{data: c.data, session: session}
	}
	return err
}

// replaceInOld changes a session in the old table, or makes sure that it has moved.
func (c change) replaceInOld(ctx context.Context) (moved bool, err error) {
	replaced, err := c.moving.From.Replace(ctx, move.Row{Token: c.token, Data: c.data, Expiry: c.expiry})
	if err != nil {
		return false, err
	}
	if replaced {
		c.found[c.token] = found{data: c.data}
		return false, nil
	}
	return true, c.moving.From.Finish(ctx, c.store, c.token, Converter(c.codec))
}

// update changes a session in the store, whose data was before when it was loaded.
func (c change) update(ctx context.Context, base found, before decoded) error {
	session := base.session
	if session == nil {
		session = &pgsession.Session{ID: pgsession.DeriveID(c.token)}
	}
	ours, err := decode(c.codec, c.data)
	if err != nil {
		return err
	}
	if ours.isSame(before) {
		_, err := c.store.Touch(ctx, session, time.Until(c.expiry))
		return err
	}
	for ttl := time.Until(c.expiry); ; ttl = 0 {
		updated, err := c.store.Update(ctx, session, ttl, func(stored *pgsession.Session) (any, error) {
			return c.merge(stored, base.data, before, ours, ttl)
		})
		if errors.Is(err, errKeepExpiry) {
			continue
		}
		if err != nil {
			return err
		}
		c.found[c.token] = found{data: c.data, session: updated}
		return nil
	}
}

// merge returns what is to be stored if another request has changed the session since it was before.
func (c change) merge(stored *pgsession.Session, base []byte, before, ours decoded, ttl time.Duration) (any, error) {
	data, ok := open(stored, c.token)
	if !ok {
		return nil, pgsession.ErrDecode
	}
	if bytes.Equal(data, base) {
		return seal(c.token, c.data), nil
	}
	theirs, err := decode(c.codec, data)
	if err != nil {
		return nil, err
	}
	if ttl != 0 && ours.deadline.Equal(before.deadline) && !theirs.deadline.Equal(before.deadline) {
		return nil, errKeepExpiry
	}
	result := merged(before, ours, theirs)
	encoded, err := c.codec.Encode(result.deadline, result.values)
	_, encoded = splitUser(encoded)
	return seal(c.token, encoded), err
}
