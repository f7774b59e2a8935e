package fiberstore

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"time"

	"github.com/gofiber/fiber/v3"
	"github.com/gofiber/fiber/v3/log"

	"github.com/pgsession/pgsession"
)

var _ fiber.Storage = (*Sessions)(nil)

// A Sessions is a fiber.Storage for fiber's session middleware. The row of a session lies under
// pgsession.DeriveID of fiber's session id, so the table does not show the id.
//
// A session that was ended stays ended, whatever the requests do that were running. A request may
// save under an id that it loaded, or that fiber made for it. It saves only what it changed, key by
// key: requests that change different keys of one session at once lose nothing, and a request that
// changes nothing overwrites nothing. If two change the same key, the last one wins.
//
// This works for calls with the request's fiber.Ctx, as the middleware and Store.Get make them. A
// session from Store.GetByID has no Ctx, so its Save replaces all values.
//
// Make it with [NewSessions]; the zero Sessions is of no use. It is safe for concurrent use, but
// calls with the same fiber.Ctx must follow one another.
type Sessions struct{ store *pgsession.Store }

// NewSessions returns the storage for session.Config. The application calls Init and SpawnCleanup of
// the store, and its FindByUser, DeleteByUser, Revoke and so on where it needs them.
func NewSessions(store *pgsession.Store) *Sessions { return &Sessions{store} }

// A request is what a storage knows of the request that a fiber.Ctx stands for.
type request struct {
	seen map[pgsession.Handle]*seen
	left *seen // the session that it deleted: Regenerate goes on with its values under a new id
}

// A seen is a session as the request last loaded or stored it.
type seen struct {
	*pgsession.Session
	values       []byte
	endedByOther bool // it was already over when the request deleted it
}

// request returns an empty one for a context that is not, or no longer, a request's.
func (s *Sessions) request(ctx context.Context) *request {
	if known, ok := ctx.Value(s).(*request); ok {
		return known
	}
	r := &request{seen: make(map[pgsession.Handle]*seen)}
	if c, ok := ctx.(fiber.Ctx); ok && c.RequestCtx() != nil {
		c.Locals(s, r)
	}
	return r
}

// GetWithContext returns the encoded values of a live session, and nil if there is none or if it does
// not open. Errors are those of the database and of the context, and [pgsession.ErrDecode] for a
// session that was not written here.
func (s *Sessions) GetWithContext(ctx context.Context, sessionID string) ([]byte, error) {
	id := pgsession.DeriveID(sessionID)
	loaded, err := s.store.Load(requestContext(ctx), id)
	switch {
	case errors.Is(err, pgsession.ErrNotFound):
		return nil, nil
	case doesNotOpen(err):
		log.Errorw("fiberstore: a session does not open", "session", id.Handle(), "error", err)
		return nil, nil
	case err != nil:
		return nil, err
	}
	encoded, err := pgsession.Decode[[]byte](loaded)
	if err != nil {
		return nil, err
	}
	s.request(ctx).seen[id.Handle()] = &seen{Session: loaded, values: encoded}
	return encoded, nil
}

// SetWithContext stores a session until the expiration has passed. An expiration of 0 means 100
// years; fiber never passes it. An empty id or value is ignored, as fiber asks for.
//
// If the request loaded the session and changed nothing, only its expiry moves, and that only once a
// tenth of the time is gone. Such a session may be over by then, which is no error.
//
// If nothing is stored, SetWithContext takes the cookie with the id out of the response, where fiber
// has put it. The browser keeps the cookie that it has, which may be a later log-in's.
//
// Errors: [pgsession.ErrNotFound] if the session ended while the request ran, and then nothing is
// stored ([pgsession.ErrRevoked], which is also ErrNotFound, if it was deleted);
// [pgsession.ErrUserChanged], [pgsession.ErrConflict], [pgsession.ErrInvalidTTL],
// [pgsession.ErrTooLarge], and those of the database and of the context.
func (s *Sessions) SetWithContext(ctx context.Context, sessionID string, encoded []byte, expiration time.Duration) error {
	if sessionID == "" || len(encoded) == 0 {
		return nil
	}
	isStored, err := s.set(ctx, pgsession.DeriveID(sessionID), encoded, ttlOf(expiration))
	if !isStored {
		withholdCookie(ctx, sessionID)
	}
	return err
}

func (s *Sessions) set(ctx context.Context, id pgsession.ID, encoded []byte, ttl time.Duration) (isStored bool, err error) {
	r, mine := s.request(ctx), decodeValues(encoded)
	before := r.seen[id.Handle()]
	switch {
	case before == nil:
		err = s.create(ctx, r, id, encoded, mine, ttl)
	case ttl == before.IdleTimeout && mine.isSame(decodeValues(before.values)):
		expiresAt, err := s.store.Touch(requestContext(ctx), before.Session, 0)
		return err == nil && expiresAt.After(before.ExpiresAt), ignoreNotFound(err)
	default:
		err = s.replace(ctx, r, id, encoded, mine, ttl)
	}
	return err == nil, err
}

func (s *Sessions) create(ctx context.Context, r *request, id pgsession.ID, encoded []byte, mine values, ttl time.Duration) error {
	data := pgsession.Data{UserID: mine.user(), Values: encoded}
	switch {
	case r.left == nil:
	case r.left.endedByOther:
		// What the ended session held must not live on under a new id.
		own := make(values)
		decodeValues(r.left.values).merge(mine, own)
		kept, err := own.encode()
		if err != nil {
			return err
		}
		data.UserID, data.Values = own.user(), kept
	case r.left.UserID == data.UserID && !r.left.EndsAt.IsZero():
		data.Lifetime = max(time.Until(r.left.EndsAt), 1) // the log-in goes on
	}
	created, err := s.store.CreateAs(requestContext(ctx), id, data, ttl)
	switch {
	case errors.Is(err, pgsession.ErrExists):
		return s.replace(ctx, r, id, encoded, mine, ttl)
	case err != nil:
		return err
	}
	r.seen[id.Handle()] = &seen{Session: created, values: encoded}
	return nil
}

func (s *Sessions) replace(ctx context.Context, r *request, id pgsession.ID, encoded []byte, mine values, ttl time.Duration) error {
	before := r.seen[id.Handle()]
	session := &pgsession.Session{Handle: id.Handle()}
	if before != nil {
		session = before.Session
	}
	stored, err := s.store.Update(requestContext(ctx), session, ttl, func(current *pgsession.Session) (any, error) {
		if mine.user() != current.UserID {
			return nil, pgsession.ErrUserChanged
		}
		theirs, err := pgsession.Decode[[]byte](current)
		if err != nil || before == nil || bytes.Equal(theirs, before.values) {
			return encoded, err
		}
		base, merged := decodeValues(before.values), decodeValues(theirs)
		if base == nil || merged == nil || mine == nil {
			return encoded, nil
		}
		base.merge(mine, merged)
		return merged.encode()
	})
	if err != nil {
		return err
	}
	r.seen[id.Handle()] = &seen{Session: stored, values: encoded}
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

// DeleteWithContext ends a session for good. Deleting one that is not there is no error. If a request
// deletes a session that another one has ended since it loaded it, and goes on under a new id, as
// Regenerate does, then the new session gets only what the request itself changed. Errors are
// [pgsession.ErrConflict], and those of the database and of the context; the session may then live on.
func (s *Sessions) DeleteWithContext(ctx context.Context, sessionID string) error {
	handle := pgsession.DeriveID(sessionID).Handle()
	err := s.store.RevokeAny(requestContext(ctx), handle)
	r := s.request(ctx)
	if ended := r.seen[handle]; ended != nil && ended != r.left {
		ended.endedByOther = errors.Is(err, pgsession.ErrNotFound)
		r.left = ended
	}
	return ignoreNotFound(err)
}

// ResetWithContext ends all sessions for good. Errors are those of the database and of the context;
// some of the sessions may be over then.
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
