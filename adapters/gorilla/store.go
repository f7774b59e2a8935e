// Package gorillastore lets an application that uses github.com/gorilla/sessions keep its sessions
// in a [pgsession.Store]. The application changes the line that makes its store.
//
//	store := gorillastore.New(sealed, gorillastore.WithUserKey("user_id"))
//
// The browser gets a random token, and no value. The values are encoded by encoding/gob, as by
// gorilla's own stores, so the application registers types of its own by [gob.Register] as before.
// A token opens sessions of its own name only: that of [Store.Get], which is the cookie's too. User
// ids are the table's, for all names.
//
// # Log-in and log-out
//
// [WithUserKey] names the key under which the application keeps the user's id. If the value under
// that key changes, Save moves the session to a new token, which is the defence against session
// fixation, and the old token opens nothing. Save also does so if the application has set
// Session.ID to "". A negative Options.MaxAge ends the session for good: no request that is still
// running brings it back.
//
// # Requests that overlap
//
// Save writes the keys that the request has changed, added or deleted since it loaded the session,
// and keeps what other requests have done to other keys. If two requests change one key, the later
// Save wins. A counter that must be exact belongs in the database, or in [pgsession.Store.Update].
//
// During a deploy an older release may not know the type of a value, or not all of its fields. Its
// Get leaves out what it does not know, and its Save keeps that as it is stored, unless the request
// sets that key.
//
// # If the database cannot be asked
//
// Get returns an error and an empty session, and Save refuses to store that session. So an outage
// logs nobody out, even if the application ignores the error of Get.
//
// # Cookies
//
// Unlike gorilla's stores, Save sets the cookie only if the token is new, or if a tenth of its life
// has passed. So a slow response does not put the old cookie back after a log-in. With
// [WithUserKey] guests have a cookie of their own, named as the session with the suffix "-guest",
// so that no response to a guest replaces the cookie of a log-in that happened meanwhile. No other
// session may have that name.
package gorillastore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"sync"
	"time"
	"weak"

	"github.com/gorilla/sessions"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/bridge"
	"github.com/pgsession/pgsession/internal/cookies"
	"github.com/pgsession/pgsession/internal/quiet"
	"github.com/pgsession/pgsession/internal/sessionmap"
)

const (
	defaultMaxAge = 30 * 24 * time.Hour
	defaultTTL    = 12 * time.Hour
	guestSuffix   = "-guest"

	// maxCookies bounds the cookies that are looked up, since each may cost a query.
	maxCookies = 32
)

// purposeOf returns the purpose of the ids of sessions of a name.
func purposeOf(name string) string { return "gorilla " + name }

// An Option changes how a [Store] behaves.
type Option func(*Store)

// WithUserKey sets the key of Session.Values that holds the user's id. Its value becomes the UserID
// of the stored session, so that [pgsession.Store.FindByUser] and [pgsession.Store.DeleteByUser]
// find it: a string as it is, and anything else as [fmt.Sprint] prints it. A session without a
// value, or with "", is a guest's. Without this option all sessions are guests'. Those from before
// it was added go on as guests', and FindByUser and DeleteByUser find them after their next Save.
func WithUserKey(key any) Option { return func(s *Store) { s.userKey = key } }

// WithTTL sets how long a session with a MaxAge of 0 may be idle. Its cookie lasts as long as the
// browser runs. The default is 12 hours. WithTTL panics if ttl is not positive.
func WithTTL(ttl time.Duration) Option {
	if ttl <= 0 {
		panic("gorillastore: WithTTL: not positive")
	}
	return func(s *Store) { s.ttl = ttl }
}

// WithLogger sets the logger for sessions and values that do not open, a line a second at most. The
// default, also for nil, is [slog.Default].
func WithLogger(logger *slog.Logger) Option { return func(s *Store) { s.logger = logger } }

// A Store is a [sessions.Store] that keeps sessions in a [pgsession.Store]. It is made by [New] and
// safe for concurrent use. As in gorilla's stores, one [sessions.Session] belongs to one request.
type Store struct {
	// Options are those that a session begins with. The default is the path "/", a MaxAge of 30
	// days, Secure, HttpOnly and SameSite=Lax. A positive MaxAge is how long a session may be idle,
	// in seconds. Change Options before the first request.
	Options *sessions.Options

	store    *pgsession.Store
	userKey  any
	ttl      time.Duration
	logger   *slog.Logger
	logs     quiet.Limiter
	pgstore  PGStore  // zero unless sessions of antonlindstrom/pgstore are accepted
	sessions sync.Map // weak.Pointer[sessions.Session] to *loaded
}

// New returns a Store that keeps its sessions in store. It panics if store is nil.
func New(store *pgsession.Store, opts ...Option) *Store {
	if store == nil {
		panic("gorillastore: nil store")
	}
	s := &Store{
		Options: &sessions.Options{
			Path: "/", MaxAge: int(defaultMaxAge.Seconds()), Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode,
		},
		store: store,
		ttl:   defaultTTL,
	}
	for _, apply := range opts {
		apply(s)
	}
	if s.logger == nil {
		s.logger = slog.Default()
	}
	if s.pgstore.Table != nil {
		s.pgstore.Table.EndWith(store, s.Convert)
	}
	return s
}

// loaded is what the store knows of a [sessions.Session] beside its exported fields.
type loaded struct {
	session *pgsession.Session // nil if nothing is stored in store yet
	cookie  string             // the name of the cookie that names the session; "" if there is none
	values  []byte             // the values as this request last saw them stored, encoded
	oldKey  string             // the key of a pgstore session; "" for one of ours
	inOld   bool               // the session is still in pgstore's table
	ended   string             // the guest's cookie, if its session was ended: a log-in may have moved it
	err     error              // why the session could not be loaded

	// isOver says that another request has just given the session another token, or that this
	// request has ended it. A session that this request began would take the place of the visitor's
	// own, or would never be seen, or would bring back the user who has logged out.
	isOver bool
}

// remember keeps l as long as session is reachable.
func (s *Store) remember(session *sessions.Session, l *loaded) {
	key := weak.Make(session)
	if _, known := s.sessions.Swap(key, l); !known {
		runtime.AddCleanup(session, func(key weak.Pointer[sessions.Session]) { s.sessions.Delete(key) }, key)
	}
}

func (s *Store) recall(session *sessions.Session) loaded {
	if l, ok := s.sessions.Load(weak.Make(session)); ok {
		return *l.(*loaded)
	}
	return loaded{} // made by sessions.NewSession
}

// Get returns the session of a request, and the same one each time that it is called for this
// request. Its errors are those of [Store.New], and one for a name that is no cookie name.
func (s *Store) Get(r *http.Request, name string) (*sessions.Session, error) {
	return sessions.GetRegistry(r).Get(s, name)
}

// New loads the session that the request's cookie names, or the first that is live, if there are
// several such cookies. If there is none, or it has expired or was ended, New returns an empty
// session with IsNew. So it does for a session that does not open ([pgsession.ErrUnreadable]),
// which is logged as an error.
//
// Session.ID is the [pgsession.Handle] of a stored session, which may be shown and logged, and ""
// for a new one. Session.Options.MaxAge is the one that the session was last saved with.
//
// Errors: [pgsession.ErrDecode] if what is stored is not what a Store has encoded, or if the user's
// id is of a type that is not registered; one of its own if there are more than 32 cookies of the
// name; those of the database. The session that comes with an error is empty, and [Store.Save]
// refuses it.
func (s *Store) New(r *http.Request, name string) (*sessions.Session, error) {
	session := sessions.NewSession(s, name)
	options := *s.Options
	session.Options = &options
	l, values, err := s.load(r, name)
	session.IsNew = values == nil
	if values != nil {
		session.Values = values
	}
	switch {
	case l.oldKey != "":
		session.ID = oldID(name, l.oldKey).Handle().String()
	case l.session != nil:
		session.ID = l.session.Handle.String()
		options.MaxAge = s.maxAge(l.session)
	}
	s.remember(session, &l)
	return session, err
}

// load returns the first live session that a cookie names, with its values. If there is none, both
// are zero.
func (s *Store) load(r *http.Request, name string) (loaded, map[any]any, error) {
	named, err := s.cookies(r, name)
	if err != nil {
		return loaded{err: err}, nil, err
	}
	var over loaded
	for _, cookie := range named {
		if over.isOver && s.userKey != nil && cookie.name != name {
			continue // the user's cookie hides the guest's
		}
		l, values, err := s.loadCookie(r.Context(), name, cookie)
		switch {
		case err == nil:
			l.cookie = cookie.name
			return l, values, nil
		case errors.Is(err, pgsession.ErrUnreadable):
			s.logs.Log(r.Context(), s.logger, slog.LevelError, "gorillastore: session does not open", "error", err)
		case !errors.Is(err, pgsession.ErrNotFound):
			return loaded{err: err}, nil, err
		case bridge.HasMoved(err):
			over.isOver = true
		case errors.Is(err, pgsession.ErrRevoked) && s.userKey != nil && cookie.name != name:
			over.ended = cookie.name
		}
	}
	return over, nil, nil
}

func (s *Store) loadCookie(ctx context.Context, name string, cookie cookie) (loaded, map[any]any, error) {
	if cookie.oldKey != "" {
		return s.loadOld(ctx, name, cookie.oldKey)
	}
	return s.loadID(ctx, cookie.id)
}

func (s *Store) loadID(ctx context.Context, id pgsession.ID) (loaded, map[any]any, error) {
	session, err := s.store.Load(ctx, id)
	if err != nil {
		return loaded{}, nil, err
	}
	encoded, err := pgsession.Decode[[]byte](session)
	if err != nil {
		return loaded{}, nil, err
	}
	values, leftOut, err := sessionmap.Gob.Decode(encoded)
	if err != nil {
		return loaded{}, nil, err
	}
	if leftOut > 0 {
		if session.UserID != "" && s.userKey != nil && s.userID(values) == "" {
			return loaded{}, nil, fmt.Errorf("%w: the user's id", pgsession.ErrDecode)
		}
		s.logs.Log(ctx, s.logger, slog.LevelWarn, "gorillastore: "+sessionmap.LeftOut)
	}
	return loaded{session: session, values: encoded}, values, nil
}

// A cookie names a session.
type cookie struct {
	name   string
	id     pgsession.ID
	oldKey string // "" unless it is a cookie of pgstore
}

// cookies returns the cookies that may name the session, a user's before a guest's. What is no
// token is not among them. Browsers send several cookies of one name if these were set for several
// paths or domains.
func (s *Store) cookies(r *http.Request, name string) (found []cookie, err error) {
	seen := map[pgsession.Handle]bool{}
	for _, cookieName := range s.cookieNames(name) {
		for _, named := range r.CookiesNamed(cookieName) {
			c := cookie{name: cookieName}
			if c.id, err = pgsession.ParseIDFor(purposeOf(name), named.Value); err != nil {
				if c.oldKey = s.pgstore.key(name, named.Value); c.oldKey == "" {
					continue
				}
				c.id = oldID(name, c.oldKey)
			}
			if !seen[c.id.Handle()] {
				found = append(found, c)
			}
			seen[c.id.Handle()] = true
		}
	}
	if len(found) > maxCookies {
		return nil, fmt.Errorf("gorillastore: %d cookies name the session", len(found))
	}
	return found, nil
}

func (s *Store) cookieNames(name string) []string {
	if s.userKey == nil {
		return []string{name}
	}
	return []string{name, name + guestSuffix}
}

// userID returns the user that values name.
func (s *Store) userID(values map[any]any) string {
	if value := values[s.userKey]; value != nil {
		return fmt.Sprint(value)
	}
	return ""
}

// ttlOf returns how long a session with a MaxAge that is not negative may be idle.
func (s *Store) ttlOf(maxAge int) time.Duration {
	if maxAge == 0 {
		return s.ttl
	}
	return time.Duration(maxAge) * time.Second
}

// maxAge returns the MaxAge with which a session was last saved.
func (s *Store) maxAge(session *pgsession.Session) int {
	switch session.IdleTimeout {
	case s.ttlOf(max(s.Options.MaxAge, 0)):
		return s.Options.MaxAge
	case s.ttl:
		return 0
	}
	return int(session.IdleTimeout.Seconds())
}

// Save stores the session, and sets or clears its cookie if that is due. So it must be called
// before the first byte of the response. It keeps what other requests have stored meanwhile under
// keys that this request did not change. Session.Values stays as the application made it. Save has
// the time of one operation, [pgsession.WithTimeout].
//
// A session that is new gets a token. One whose user has changed, or whose ID is no longer the one
// that the store gave it, moves to a new token. If the user has changed, the sessions of the
// request's other cookies of that name end, such as that of a cookie for another path. With a
// negative Options.MaxAge all of them end and the cookie is cleared, also if the session could not
// be loaded. If ending them fails, the cookie stays.
//
// Errors: that of [Store.New], if it returned one; [pgsession.ErrNotFound] if the session was ended
// or has expired since it was loaded, and then the cookie stays as it is; [pgsession.ErrRevoked],
// which is that too, if a guest's session was ended before it was loaded, since a log-in may have
// moved it, and then the guest's cookie is cleared; the same, with no cookie cleared and also from a
// log-out, if another request has just moved the session to a new token, under which it goes on;
// [pgsession.ErrEncode] if gob cannot encode the values, or could not decode them again;
// [pgsession.ErrTooLarge], [pgsession.ErrConflict], [pgsession.ErrInvalidTTL]; those of the database.
func (s *Store) Save(r *http.Request, w http.ResponseWriter, session *sessions.Session) error {
	l := s.recall(session)
	if session.Options.MaxAge < 0 {
		return s.end(r, w, session, l)
	}
	if l.err != nil {
		return fmt.Errorf("gorillastore: not saved, since it was not loaded: %w", l.err)
	}
	ctx, cancel := bridge.Within(r.Context(), s.store)
	defer cancel()
	values, err := sessionmap.Gob.Encode(session.Values)
	if err != nil {
		return err
	}
	if l.inOld || s.pgstore.Stay && l.session == nil {
		done, err := s.saveOld(ctx, w, session, &l, values)
		if err != nil || done {
			return err
		}
	}
	userID, ttl := s.userID(session.Values), s.ttlOf(session.Options.MaxAge)
	if s.userKey == nil && l.session != nil {
		userID = l.session.UserID // another release may know the key
	}
	switch {
	case l.isOver:
		return pgsession.ErrRevoked
	case l.ended != "" && userID == "":
		cookies.ClearOthers(w, r, *s.clearCookie(w, l.ended, session.Options))
		return pgsession.ErrRevoked
	}
	if l.session == nil && userID != "" || l.session != nil && userID != l.session.UserID {
		if err := s.endOthers(ctx, r, session.Name(), l); err != nil {
			return err
		}
	}
	stored, isDue, err := s.keep(ctx, session, l, userID, values, ttl)
	if err != nil {
		return err
	}
	if isDue {
		cookie := session.Name()
		if s.userKey != nil && userID == "" {
			cookie += guestSuffix
		}
		cookies.Set(w, sessions.NewCookie(cookie, stored.ID.Token(), session.Options))
		if l.cookie != "" && l.cookie != cookie {
			s.clearCookie(w, l.cookie, session.Options)
		}
		l.cookie = cookie
	}
	session.ID = stored.Handle.String()
	s.remember(session, &loaded{session: stored, cookie: l.cookie, values: values})
	return nil
}

// keep stores the session's values, which values has encoded. It reports whether a cookie is due.
func (s *Store) keep(ctx context.Context, session *sessions.Session, l loaded, userID string, values []byte, ttl time.Duration) (stored *pgsession.Session, isDue bool, err error) {
	create := func(values []byte) (*pgsession.Session, bool, error) {
		id := pgsession.NewIDFor(purposeOf(session.Name()))
		stored, err := s.store.CreateAs(ctx, id, pgsession.Data{UserID: userID, Values: values}, ttl)
		return stored, true, err
	}
	before := l.session
	switch {
	case before == nil:
		return create(values)
	case l.oldKey != "" || session.ID != before.Handle.String() || userID != before.UserID:
		stored, err = s.store.Renew(ctx, before, ttl, func(stored *pgsession.Session) (pgsession.Data, error) {
			if before.UserID != "" && before.UserID != userID {
				return pgsession.Data{UserID: userID, Values: values}, nil // one user's values are not for another
			}
			merged, err := merge(l.values, stored, session.Values)
			return pgsession.Data{UserID: userID, Values: merged}, err
		})
		if before.UserID != "" || userID == "" || !errors.Is(err, pgsession.ErrNotFound) || bridge.HasMoved(err) {
			return stored, true, err
		}
		// Another request of the guest has logged in, or out, and has taken the values along.
		if values, err = sessionmap.Gob.Merge(l.values, nil, session.Values); err != nil {
			return nil, false, err
		}
		return create(values)
	}
	stored, keptTTL := before, ttl
	if ttl == before.IdleTimeout {
		keptTTL = 0
	}
	merged, err := sessionmap.Gob.Merge(l.values, l.values, session.Values)
	if err == nil && (keptTTL != 0 || !bytes.Equal(merged, l.values)) {
		stored, err = s.store.Update(ctx, before, keptTTL, func(stored *pgsession.Session) (any, error) {
			return merge(l.values, stored, session.Values)
		})
	}
	if err != nil || keptTTL != 0 {
		return stored, true, err
	}
	expiresAt, err := s.store.Touch(ctx, stored, ttl)
	return stored, expiresAt.After(stored.ExpiresAt), err
}

func merge(base []byte, stored *pgsession.Session, ours map[any]any) ([]byte, error) {
	theirs, err := pgsession.Decode[[]byte](stored)
	if err != nil {
		return nil, err
	}
	return sessionmap.Gob.Merge(base, theirs, ours)
}

// end ends the sessions that the request's cookies name and the one that this request has stored.
// It goes on if the client hangs up.
func (s *Store) end(r *http.Request, w http.ResponseWriter, session *sessions.Session, l loaded) error {
	ctx, cancel := bridge.Within(context.WithoutCancel(r.Context()), s.store)
	defer cancel()
	if err := s.endOthers(ctx, r, session.Name(), l); err != nil {
		return err
	}
	if err := s.endOld(ctx, session.Name(), l.oldKey); err != nil {
		return err
	}
	own := oldID(session.Name(), l.oldKey)
	if l.session != nil {
		own = l.session.ID
	}
	if err := bridge.End(ctx, s.store, own); err != nil {
		return err
	}
	for _, cookie := range s.cookieNames(session.Name()) {
		s.clearCookie(w, cookie, session.Options)
	}
	if l.session != nil {
		l.isOver = true
		s.remember(session, &l)
	}
	return nil
}

// endOthers ends the sessions that the request's cookies name, except for l.
func (s *Store) endOthers(ctx context.Context, r *http.Request, name string, l loaded) error {
	named, err := s.cookies(r, name)
	if err != nil {
		return err
	}
	for _, c := range named {
		if l.session != nil && c.id.Handle() == l.session.Handle || l.oldKey != "" && c.oldKey == l.oldKey {
			continue
		}
		if err := s.endOld(ctx, name, c.oldKey); err != nil {
			return err
		}
		// The request itself may have moved it.
		if err := bridge.End(ctx, s.store, c.id); err != nil && !(l.session != nil && bridge.HasMoved(err)) {
			return err
		}
	}
	return nil
}

func (s *Store) clearCookie(w http.ResponseWriter, name string, options *sessions.Options) *http.Cookie {
	cleared := *options
	cleared.MaxAge = -1
	cookie := sessions.NewCookie(name, "", &cleared)
	cookies.Set(w, cookie)
	return cookie
}
