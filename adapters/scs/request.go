package scsstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/alexedwards/scs/v2"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/bridge"
	"github.com/pgsession/pgsession/internal/handover"
	"github.com/pgsession/pgsession/move"
)

// LoadAndSave is the middleware of a manager whose Store is a [*Store]: use it instead of the
// manager's method of that name. It remembers for each request what the request found, so that its
// commits keep the changes of other requests and bring nothing back that was ended; see
// [Store.CommitCtx]. Of several cookies of the manager's name, as other hosts of the same domain
// can set them, it takes the first whose session is live. It panics if the manager's Store is
// another.
func LoadAndSave(manager *scs.SessionManager, next http.Handler) http.Handler {
	storeOf(manager)
	handler := manager.LoadAndSave(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, end := NewContext(r.Context(), manager)
		defer end()
		ctx, err := choose(ctx, manager, r)
		if err != nil {
			manager.ErrorFunc(w, r, err)
			return
		}
		handler.ServeHTTP(w, r.WithContext(ctx))
	})
}

// NewContext is for code that calls the manager's Load and Commit itself: what LoadAndSave does for
// a request, it does for the work that is done with the context. Call end when that is done. It
// panics if the manager's Store is not a [*Store].
func NewContext(ctx context.Context, manager *scs.SessionManager) (_ context.Context, end func()) {
	s := storeOf(manager)
	r := &request{codec: manager.Codec, found: map[string]found{}}
	ctx = context.WithValue(ctx, requestKey{s}, r)
	return ctx, func() { r.end(ctx, s) }
}

func storeOf(manager *scs.SessionManager) *Store {
	s, ok := manager.Store.(*Store)
	if !ok {
		panic("scsstore: the manager's Store is not a *scsstore.Store")
	}
	return s
}

// maxSameName bounds the cookies of one name that are looked up, since each costs a statement.
const maxSameName = 32

var errTooManyCookies = errors.New("scsstore: too many cookies of the session's name")

// choose loads the session of a request that has several cookies of the manager's name.
func choose(ctx context.Context, manager *scs.SessionManager, r *http.Request) (context.Context, error) {
	cookies := r.CookiesNamed(manager.Cookie.Name)
	switch {
	case len(cookies) <= 1:
		return ctx, nil // the manager does it
	case len(cookies) > maxSameName:
		return nil, storeError{errTooManyCookies}
	}
	chosen := ctx
	for _, cookie := range cookies {
		loaded, err := manager.Load(ctx, cookie.Value)
		if err != nil {
			return nil, err
		}
		if chosen == ctx && manager.Token(loaded) != "" {
			chosen = loaded
		}
	}
	found := requestOf(ctx, storeOf(manager))
	found.cookies = slices.Collect(maps.Keys(found.found))
	return chosen, nil
}

// Handle returns the handle of the session that ctx belongs to. "Log out everywhere else" passes it
// to [pgsession.Store.DeleteByUser], so that this session is spared, also between a RenewToken and
// the end of the request. The handle of a session that is new in the request names it once that
// ends.
func Handle(ctx context.Context, manager *scs.SessionManager) pgsession.Handle {
	s, token := storeOf(manager), manager.Token(ctx)
	if r := requestOf(ctx, s); r != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		if kept := r.left.Handle(); !kept.IsZero() {
			return kept
		}
	}
	if manager.HashTokenInStore && token != "" {
		hash := sha256.Sum256([]byte(token))
		token = base64.RawURLEncoding.EncodeToString(hash[:])
	}
	return s.id(token).Handle()
}

// Error is an ErrorFunc for a SessionManager. It answers 409 Conflict if the session ended while
// the request ran, 500 Internal Server Error if the application is to blame (the user changed
// without a RenewToken, the values are too large or cannot be encoded), and otherwise 503 Service
// Unavailable with Retry-After, since then the visitor may still be logged in. It logs the last two
// kinds, a line a second at most, but not that a client has gone away.
func Error(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, pgsession.ErrNotFound) {
		http.Error(w, "Your session has ended. Please reload the page.", http.StatusConflict)
		return
	}
	if errors.Is(err, errTooManyCookies) {
		http.Error(w, "Please delete the cookies of this site.", http.StatusBadRequest)
		return
	}
	text, status := "scsstore: a session was not loaded or not saved", http.StatusServiceUnavailable
	for _, mistake := range []error{pgsession.ErrUserChanged, pgsession.ErrTooLarge, pgsession.ErrEncode} {
		if errors.Is(err, mistake) {
			text, status = "scsstore: a session cannot be saved as it is", http.StatusInternalServerError
		}
	}
	if !errors.Is(err, context.Canceled) {
		logs.Log(r.Context(), slog.Default(), slog.LevelError, text, "error", withoutValues(err))
	}
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "5")
	}
	http.Error(w, http.StatusText(status), status)
}

// withoutValues returns what may be logged of an error: all of the store's, and the type of one of
// a codec, whose text may quote values.
func withoutValues(err error) string {
	var ours storeError
	if errors.As(err, &ours) || errors.Is(err, pgsession.ErrEncode) || errors.Is(err, pgsession.ErrDecode) {
		return err.Error()
	}
	return fmt.Sprintf("the manager's codec failed with a %T", err)
}

type requestKey struct{ store *Store }

// A request is what one request knows of the store.
type request struct {
	codec scs.Codec

	mu      sync.Mutex
	found   map[string]found // by token
	cookies []string         // the tokens of those sessions that its cookies name, if these are several

	// hasMoved says that another request has just renewed the token with which this one came. A
	// session that this one began would take the place of the visitor's own.
	hasMoved bool

	left   handover.Left // the last session that the request left
	before []byte        // what that one held when the request found it; nil if there is none
	theirs []byte        // what it held when the request left it
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

func (r *request) noteMove() {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hasMoved = true
}

// leave ends a session, and the others that the request's cookies name.
func (r *request) leave(ctx context.Context, s *Store, token string) error {
	for _, other := range append(slices.Clone(r.cookies), token) {
		f, isFound := r.found[other]
		if other != token || !isFound {
			if _, err := s.end(ctx, other); err != nil {
				return err
			}
			continue
		}
		if err := r.left.End(ctx, s.store); err != nil {
			return err
		}
		left, err := r.hand(ctx, s, token, f)
		if err != nil {
			return err
		}
		r.left, r.before, r.theirs = left, f.data, f.data
		if left.Session != nil {
			if data, ok := s.open(left.Session, token); ok {
				r.theirs = data
			}
		}
		delete(r.found, token)
	}
	return nil
}

func (r *request) hand(ctx context.Context, s *Store, token string, f found) (handover.Left, error) {
	if f.session != nil {
		if _, err := s.endInOld(ctx, token); err != nil {
			return handover.Left{}, err
		}
		return handover.Leave(ctx, s.store, f.session)
	}
	values, err := decode(r.codec, f.data)
	if err != nil {
		return handover.Left{}, err
	}
	left, err := handover.Keep(ctx, s.store, userIn(r.codec, values))
	if err != nil {
		return handover.Left{}, err
	}
	wasLive, err := s.end(ctx, token)
	if !wasLive {
		err = errors.Join(err, left.End(ctx, s.store))
		left.IsOver = true
	}
	return left, err
}

// end ends a session that the request has left for good.
func (r *request) end(ctx context.Context, s *Store) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ctx, cancel := bridge.Within(context.WithoutCancel(ctx), s.store)
	defer cancel()
	if err := r.left.End(ctx, s.store); err != nil {
		logs.Log(ctx, slog.Default(), slog.LevelWarn, "scsstore: "+handover.NotEnded, "error", err)
	}
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

// stored returns what the store keeps of a session's data.
func (c change) stored(data []byte, err error) (pgsession.Data, error) {
	return pgsession.Data{UserID: c.userID, Values: seal(c.token, data)}, err
}

func (c change) commit(ctx context.Context) error {
	ours, err := decode(c.codec, c.data)
	if err != nil {
		return fmt.Errorf("%w: values that would not decode again", pgsession.ErrEncode)
	}
	base, ok := c.found[c.token]
	if !ok {
		return c.create(ctx, ours)
	}
	before, err := decode(c.codec, base.data)
	if err != nil {
		return err
	}
	if userIn(c.codec, before) != c.userID {
		return errUserChanged
	}
	if base.session == nil {
		isReplaced, err := c.replaceInOld(ctx, ours)
		if err != nil || isReplaced {
			return err
		}
		base.session = &pgsession.Session{ID: c.id(c.token)}
	}
	return c.update(ctx, base, before, ours)
}

// create begins a session under a token that scs has just made. If the session that it goes on with
// was ended by somebody else, it is refused: it would bring that one back.
func (c change) create(ctx context.Context, ours map[string]any) error {
	if c.hasMoved && c.left == (handover.Left{}) && c.userID == "" {
		return pgsession.ErrRevoked
	}
	if c.moving.CreateInOld {
		return c.createInOld(ctx, ours)
	}
	id := c.id(c.token)
	err := c.left.Arrive(ctx, c.store, id, time.Until(c.expiry),
		func() (pgsession.Data, error) { return c.stored(c.brought(ours)) },
		func() (pgsession.Data, error) { return c.stored(c.withoutBefore(ours)) })
	if err == nil {
		c.arrived(found{c.data, &pgsession.Session{ID: id, Handle: id.Handle()}})
	}
	return err
}

// brought returns the data with what others have changed in the session that this one goes on with,
// and what is not known here.
func (c change) brought(ours map[string]any) ([]byte, error) {
	before, err := decode(c.codec, c.before)
	if err != nil {
		return nil, err
	}
	if userBefore := userIn(c.codec, before); userBefore != "" && userBefore != c.userID || !shareKey(ours, before) {
		return c.data, nil
	}
	return merge(c.codec, c.before, c.theirs, ours)
}

func (c change) createInOld(ctx context.Context, ours map[string]any) error {
	values := ours
	if c.left.IsOver {
		without, err := c.withoutBefore(ours)
		if err != nil {
			return err
		}
		if values, err = decode(c.codec, without); err != nil {
			return err
		}
	}
	data, err := encodeForOld(c.codec, values)
	if err != nil {
		return err
	}
	wasOver := c.left.IsOver
	if err := c.moving.From.Insert(ctx, move.Row{Token: c.token, Data: data, Expiry: c.expiry}); err != nil {
		return err
	}
	// In this order, so that DeleteByUser meets the user's log-in in one place at least.
	err = c.left.End(ctx, c.store)
	if err == nil && c.left.IsOver && !wasOver {
		err = pgsession.ErrRevoked
	}
	if err != nil {
		_, deleteErr := c.moving.From.Delete(ctx, c.token)
		return errors.Join(err, deleteErr)
	}
	c.arrived(found{data: data})
	return nil
}

func (c change) arrived(f found) {
	c.found[c.token] = f
	c.left, c.before, c.theirs = handover.Left{}, nil, nil
}

// withoutBefore returns the data without what the session held that was ended. If the data goes on
// with that session, it returns an error.
func (c change) withoutBefore(ours map[string]any) ([]byte, error) {
	before, err := decode(c.codec, c.before)
	if err != nil {
		return nil, err
	}
	if carriesOn(ours, before, c.userID, userIn(c.codec, before)) {
		return nil, pgsession.ErrRevoked
	}
	return merge(c.codec, c.before, nil, ours)
}

// replaceInOld changes a session in the old table, or makes sure that it has moved.
func (c change) replaceInOld(ctx context.Context, ours map[string]any) (isReplaced bool, err error) {
	data, err := encodeForOld(c.codec, ours)
	if err != nil {
		return false, err
	}
	isReplaced, err = c.moving.From.Replace(ctx, move.Row{Token: c.token, Data: data, Expiry: c.expiry})
	if err != nil {
		return false, err
	}
	if isReplaced {
		c.found[c.token] = found{data: data}
		return true, nil
	}
	return false, c.moving.From.Finish(ctx, c.store, c.token, c.Convert)
}

// update changes a session in the store, whose values were before when it was loaded.
func (c change) update(ctx context.Context, base found, before, ours map[string]any) error {
	if reflect.DeepEqual(ours, before) {
		// The session as it was loaded might do, but scs sets the cookie again, so it must be live.
		_, err := c.store.Touch(ctx, &pgsession.Session{Handle: c.id(c.token).Handle()}, time.Until(c.expiry))
		return err
	}
	for ttl := time.Until(c.expiry); ; ttl = 0 {
		updated, err := c.store.Update(ctx, base.session, ttl, func(stored *pgsession.Session) (any, error) {
			theirs, ok := c.open(stored, c.token)
			if !ok {
				return nil, pgsession.ErrDecode
			}
			if ttl != 0 && !bytes.Equal(theirs, base.data) {
				values, err := decode(c.codec, theirs)
				if err != nil {
					return nil, err
				}
				if !isSameTime(values, before) && isSameTime(ours, before) {
					return nil, errKeepExpiry
				}
			}
			merged, err := merge(c.codec, base.data, theirs, ours)
			return seal(c.token, merged), err
		})
		if errors.Is(err, errKeepExpiry) {
			continue
		}
		if err == nil {
			c.found[c.token] = found{c.data, updated}
		}
		return err
	}
}

func isSameTime(values, others map[string]any) bool {
	return reflect.DeepEqual(values[deadlineKey], others[deadlineKey])
}
