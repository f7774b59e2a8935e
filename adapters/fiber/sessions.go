package fiberstore

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v3"
	"github.com/gofiber/fiber/v3/extractors"
	"github.com/gofiber/fiber/v3/log"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/bridge"
	"github.com/pgsession/pgsession/internal/handover"
	"github.com/pgsession/pgsession/internal/quiet"
	"github.com/pgsession/pgsession/internal/sessionmap"
)

var _ fiber.Storage = (*Sessions)(nil)

// A Sessions is a fiber.Storage for fiber's session middleware. The row of a session lies under
// pgsession.DeriveID of fiber's session id and the cookie's name, so the table does not show the
// id.
//
// A session that was ended stays ended, whatever the requests do that were running. A request may
// save under an id that it loaded, or that fiber made for it. It saves only what it changed, key by
// key: requests that change different keys of one session at once lose nothing, and a request that
// changes nothing overwrites nothing. If two change the same key, the last one wins. Values that
// this release does not know stay as they are stored, unless the request sets their keys.
//
// This works for calls with the request's fiber.Ctx, as the middleware and Store.Get make them. A
// session from Store.GetByID has no Ctx, so its Save replaces all values.
//
// Make it with [NewSessions]; the zero Sessions is of no use. It is safe for concurrent use, but
// calls with the same fiber.Ctx must follow one another.
type Sessions struct {
	store *pgsession.Store
	name  string
	logs  quiet.Limiter
}

// NewSessions returns the storage for session.Config. The name is that of the session's cookie:
//
//	sessions := fiberstore.NewSessions(store, "session_id")
//	app.Use(session.New(session.Config{Storage: sessions, Extractor: sessions.Extractor()}))
//
// An id opens sessions of its own name only. User ids are the table's, for all names. The
// application calls Init and SpawnCleanup of the store, and its FindByUser, DeleteByUser, Revoke
// and so on where it needs them. NewSessions panics if store is nil, or name is empty.
func NewSessions(store *pgsession.Store, name string) *Sessions {
	if store == nil || name == "" {
		panic("fiberstore: NewSessions: no store or no name")
	}
	return &Sessions{store: store, name: name}
}

func (s *Sessions) id(sessionID string) pgsession.ID {
	if sessionID == "" {
		return pgsession.ID{}
	}
	return pgsession.DeriveID("fiber " + strconv.Quote(s.name) + sessionID)
}

// Handle returns the handle of the session with fiber's session id. "Log out everywhere else"
// passes it to [pgsession.Store.DeleteByUser], so that this session is spared, also between a
// Regenerate and the end of the request. The context is the request's fiber.Ctx.
func (s *Sessions) Handle(ctx context.Context, sessionID string) pgsession.Handle {
	id := s.id(sessionID).Handle()
	if r := s.request(ctx); r.seen[id] == nil && !r.left.Handle().IsZero() {
		return r.left.Handle()
	}
	return id
}

// maxSameName bounds the cookies of one name that are looked up, since each costs a statement.
const maxSameName = 32

var errTooManyCookies = errors.New("fiberstore: too many cookies of the session's name")

// Extractor reads the session's cookie, as extractors.FromCookie does. Of several cookies of this
// name, as other hosts of the same domain can set them, it takes the first whose session is live.
// If there are more than 32, or the database cannot be asked, loading the session fails.
func (s *Sessions) Extractor() extractors.Extractor {
	return extractors.Extractor{Key: s.name, Source: extractors.SourceCookie, Extract: s.extract}
}

func (s *Sessions) extract(c fiber.Ctx) (string, error) {
	var ids []string
	for name, value := range c.Request().Header.Cookies() {
		if string(name) == s.name && len(value) > 0 {
			ids = append(ids, string(value))
		}
	}
	if len(ids) == 0 {
		return "", extractors.ErrNotFound
	}
	if len(ids) == 1 {
		return ids[0], nil
	}
	r := s.request(c)
	if len(ids) > maxSameName {
		r.refused = errTooManyCookies
		return ids[0], nil
	}
	var live []string
	for _, id := range ids {
		encoded, err := s.GetWithContext(c, id)
		if err != nil {
			return id, nil // fiber asks for it again
		}
		if encoded != nil {
			live = append(live, id)
		}
	}
	if len(live) == 0 {
		return ids[0], nil
	}
	r.others = live[1:]
	return live[0], nil
}

// A request is what a storage knows of the request that a fiber.Ctx stands for.
type request struct {
	sessions *Sessions
	seen     map[pgsession.Handle]*seen
	others   []string // the ids of further live sessions that its cookies name
	refused  error    // why no session can be loaded
	hasMoved bool     // another request has just given the session another id

	left   handover.Left // the session that it deleted: Regenerate goes on with its values under a new id
	before []byte        // the values of that one, as the request had seen them
}

// A seen is a session as the request last loaded or stored it.
type seen struct {
	*pgsession.Session
	values []byte
	isNew  bool // begun by this request, which sets its cookie
}

// request returns an empty one for a context that is not, or no longer, a request's.
func (s *Sessions) request(ctx context.Context) *request {
	if known, ok := ctx.Value(s).(*request); ok {
		return known
	}
	r := &request{sessions: s, seen: make(map[pgsession.Handle]*seen)}
	if c, ok := ctx.(fiber.Ctx); ok && c.RequestCtx() != nil {
		c.Locals(s, r)
	}
	return r
}

// Close ends a session that the request has left for good. Fasthttp calls it after the request.
func (r *request) Close() error {
	err := r.left.End(context.Background(), r.sessions.store)
	if err != nil {
		r.sessions.logs.By(log.Warnw, "fiberstore: "+handover.NotEnded, "error", err.Error())
	}
	return err
}

// GetWithContext returns the encoded values of a live session, and nil if there is none or if it
// does not open. Values that do not decode here are not among them. Errors are those of the
// database and of the context, and [pgsession.ErrDecode] for a session that was not written here.
func (s *Sessions) GetWithContext(ctx context.Context, sessionID string) ([]byte, error) {
	r, id := s.request(ctx), s.id(sessionID)
	if r.refused != nil {
		return nil, r.refused
	}
	loaded, err := s.store.Load(requestContext(ctx), id)
	switch {
	case errors.Is(err, pgsession.ErrNotFound):
		r.hasMoved = r.hasMoved || bridge.HasMoved(err)
		if found := r.seen[id.Handle()]; found != nil { // it has ended while the request ran
			r.left.IsOver, r.before = true, found.values
		}
		return nil, nil
	case errors.Is(err, pgsession.ErrUnreadable):
		s.logs.By(log.Errorw, "fiberstore: a session does not open", "session", id.String(), "error", err.Error())
		return nil, nil
	case err != nil:
		return nil, err
	}
	values, err := pgsession.Decode[[]byte](loaded)
	if err != nil {
		return nil, err
	}
	encoded, leftOut, err := sessionmap.Gob.InOne(values)
	if err != nil {
		return nil, err
	}
	if leftOut > 0 {
		s.logs.By(log.Warnw, "fiberstore: "+sessionmap.LeftOut)
	}
	r.seen[id.Handle()] = &seen{Session: loaded, values: values}
	return encoded, nil
}

// SetWithContext stores a session until the expiration has passed. An expiration of 0 means 100
// years; fiber never passes it. An empty id or value is ignored, as fiber asks for.
//
// If the request loaded the session and changed nothing, only its expiry moves, and that only once
// a tenth of the time is gone. Such a session may be over by then, which is no error.
//
// If nothing is stored, SetWithContext takes the cookie with the id out of the response, where
// fiber has put it. The browser keeps the cookie that it has, which may be a later log-in's.
//
// Errors: [pgsession.ErrNotFound] if the session ended while the request ran, and then nothing is
// stored ([pgsession.ErrRevoked], which is also ErrNotFound, if it was deleted, or if another
// request has just given it another id, unless this one logs a user in);
// [pgsession.ErrUserChanged]; [pgsession.ErrEncode] for values that would not decode again;
// [pgsession.ErrConflict], [pgsession.ErrInvalidTTL], [pgsession.ErrTooLarge], and those of the
// database and of the context.
func (s *Sessions) SetWithContext(ctx context.Context, sessionID string, encoded []byte, expiration time.Duration) error {
	if sessionID == "" || len(encoded) == 0 {
		return nil
	}
	mine, err := sessionmap.Gob.Unmarshal(encoded)
	if err != nil {
		err = fmt.Errorf("%w: values that would not decode again", pgsession.ErrEncode)
	}
	setsCookie := false
	if err == nil {
		bound, cancel := bridge.Within(requestContext(ctx), s.store)
		defer cancel()
		setsCookie, err = s.set(bound, s.request(ctx), s.id(sessionID), mine, ttlOf(expiration))
	}
	if !setsCookie {
		withholdCookie(ctx, sessionID)
	}
	return err
}

func (s *Sessions) set(ctx context.Context, r *request, id pgsession.ID, mine map[any]any, ttl time.Duration) (setsCookie bool, err error) {
	before := r.seen[id.Handle()]
	if before == nil {
		if r.hasMoved && r.left == (handover.Left{}) && userOf(mine) == "" {
			// A new session would take the place of the visitor's own.
			return false, refuseUnlessEmpty(mine)
		}
		err = s.create(ctx, r, id, mine, ttl)
		return err == nil, err
	}
	values, _, err := sessionmap.Gob.Decode(before.values)
	if err != nil {
		return false, err
	}
	if ttl != before.IdleTimeout || !reflect.DeepEqual(values, mine) {
		err = s.replace(ctx, r, before, mine, ttl)
		return err == nil, err
	}
	expiresAt, err := s.store.Touch(ctx, before.Session, 0)
	return err == nil && (before.isNew || expiresAt.After(before.ExpiresAt)), ignoreNotFound(err)
}

// sessionPackage is where the types of the keys are declared that fiber itself sets. It is not
// imported, so that fiber's own tests can run on this storage.
const sessionPackage = "github.com/gofiber/fiber/v3/middleware/session"

// refuseUnlessEmpty returns an error for values that the application has set.
func refuseUnlessEmpty(values map[any]any) error {
	for key := range values {
		if reflect.TypeOf(key).PkgPath() != sessionPackage {
			return pgsession.ErrRevoked
		}
	}
	return nil
}

func (s *Sessions) create(ctx context.Context, r *request, id pgsession.ID, mine map[any]any, ttl time.Duration) error {
	dataOf := func(values []byte, err error) (pgsession.Data, error) {
		return pgsession.Data{UserID: userOf(mine), Values: values}, err
	}
	err := r.left.Arrive(ctx, s.store, id, ttl,
		func() (pgsession.Data, error) { return dataOf(r.bring(mine)) },
		func() (pgsession.Data, error) { return dataOf(r.withoutBefore(mine)) })
	stored := &seen{Session: &pgsession.Session{ID: id, Handle: id.Handle(), IdleTimeout: ttl}, isNew: true}
	if errors.Is(err, pgsession.ErrExists) {
		return s.replace(ctx, r, stored, mine, ttl)
	}
	if err != nil {
		return err
	}
	if stored.values, err = sessionmap.Gob.Encode(mine); err != nil {
		return err
	}
	r.seen[id.Handle()] = stored
	r.left, r.before = handover.Left{}, nil
	return nil
}

// bring returns the values with what others have changed in the session that this one goes on with,
// and what is not known here.
func (r *request) bring(mine map[any]any) ([]byte, error) {
	before, _, err := sessionmap.Gob.Decode(r.before)
	if err != nil {
		return nil, err
	}
	goesOn := false
	for key := range before {
		_, isKept := mine[key]
		goesOn = goesOn || isKept
	}
	if r.left.Session == nil || !goesOn || userOf(before) != "" && userOf(before) != userOf(mine) {
		return sessionmap.Gob.Encode(mine)
	}
	theirs, err := pgsession.Decode[[]byte](r.left.Session)
	if err != nil {
		return nil, err
	}
	return sessionmap.Gob.Merge(r.before, theirs, mine)
}

// withoutBefore returns what the request itself has changed. If the session that was ended was of
// the same user, it returns an error.
func (r *request) withoutBefore(mine map[any]any) ([]byte, error) {
	before, _, err := sessionmap.Gob.Decode(r.before)
	if err != nil {
		return nil, err
	}
	if userOf(before) != "" && userOf(before) == userOf(mine) {
		return nil, pgsession.ErrRevoked
	}
	own, err := sessionmap.Gob.Merge(r.before, nil, mine)
	if err == nil && own == nil {
		own, err = sessionmap.Gob.Encode(nil)
	}
	return own, err
}

// replace stores a session that there is.
func (s *Sessions) replace(ctx context.Context, r *request, before *seen, mine map[any]any, ttl time.Duration) error {
	stored, err := s.store.Update(ctx, before.Session, ttl, func(current *pgsession.Session) (any, error) {
		if userOf(mine) != current.UserID {
			return nil, pgsession.ErrUserChanged
		}
		if before.values == nil { // not seen by this request
			return sessionmap.Gob.Encode(mine)
		}
		theirs, err := pgsession.Decode[[]byte](current)
		if err != nil {
			return nil, err
		}
		return sessionmap.Gob.Merge(before.values, theirs, mine)
	})
	if err != nil {
		return err
	}
	values, err := sessionmap.Gob.Encode(mine)
	if err != nil {
		return err
	}
	r.seen[stored.Handle] = &seen{Session: stored, values: values, isNew: before.isNew}
	return nil
}

func withholdCookie(ctx context.Context, sessionID string) {
	c, ok := ctx.(fiber.Ctx)
	if !ok || c.RequestCtx() == nil {
		return
	}
	var names []string
	for name, cookie := range c.Response().Header.Cookies() {
		if value, _, _ := strings.Cut(string(cookie), ";"); value == string(name)+"="+sessionID {
			names = append(names, string(name))
		}
	}
	for _, name := range names {
		c.Response().Header.DelCookie(name)
	}
}

// DeleteWithContext ends a session for good. Deleting one that is not there is no error. Errors are
// [pgsession.ErrConflict], and those of the database and of the context; the session may then live
// on.
//
// Fiber calls it for Destroy, Reset and Regenerate, and does not say which. So the user's log-in is
// kept until the request is over, under an id that nobody knows. Until then FindByUser lists it. If
// the session is ended in between, or was ended since the request loaded it, the new session gets
// only what the request itself changed, and [Sessions.SetWithContext] refuses one of the same user.
func (s *Sessions) DeleteWithContext(ctx context.Context, sessionID string) error {
	r := s.request(ctx)
	bound, cancel := bridge.Within(requestContext(ctx), s.store)
	defer cancel()
	for _, other := range r.others {
		if other == sessionID {
			continue
		}
		if err := ignoreNotFound(s.store.RevokeAny(bound, s.id(other).Handle())); err != nil {
			return err
		}
	}
	id := s.id(sessionID)
	found := r.seen[id.Handle()]
	if found == nil {
		return s.store.Delete(bound, id)
	}
	if err := r.left.End(bound, s.store); err != nil {
		return err
	}
	left, err := handover.Leave(bound, s.store, found.Session)
	if err == nil {
		r.left, r.before = left, found.values
		delete(r.seen, id.Handle())
	}
	return err
}

// ResetWithContext ends all sessions in the table for good, of every name. Errors are those of the
// database and of the context; some of the sessions may be over then.
func (s *Sessions) ResetWithContext(ctx context.Context) error {
	_, err := s.store.DeleteAll(requestContext(ctx))
	return err
}

// Get is [Sessions.GetWithContext] without a context.
func (s *Sessions) Get(sessionID string) ([]byte, error) {
	return s.GetWithContext(context.Background(), sessionID)
}

// Set is [Sessions.SetWithContext] without a context.
func (s *Sessions) Set(sessionID string, encoded []byte, expiration time.Duration) error {
	return s.SetWithContext(context.Background(), sessionID, encoded, expiration)
}

// Delete is [Sessions.DeleteWithContext] without a context.
func (s *Sessions) Delete(sessionID string) error {
	return s.DeleteWithContext(context.Background(), sessionID)
}

// Reset is [Sessions.ResetWithContext] without a context.
func (s *Sessions) Reset() error { return s.ResetWithContext(context.Background()) }

// Close does nothing: the pool is the application's. It returns nil.
func (s *Sessions) Close() error { return nil }
