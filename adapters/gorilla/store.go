// Package gorillastore lets an application that uses github.com/gorilla/sessions keep its sessions in a
// [pgsession.Store]. The application changes the line that makes its store.
//
//	store := gorillastore.New(sealed, gorillastore.WithUserKey("user_id"))
//
// The browser gets a random token, and no value. The values are encoded by encoding/gob, as by gorilla's own
// stores, so the application registers types of its own by [gob.Register] as before.
//
// # Log-in and log-out
//
// [WithUserKey] names the key under which the application keeps the user's id. If the value under that key
// changes, Save moves the session to a new token, which is the defence against session fixation, and the old
// token opens nothing. Save also does so if the application has set Session.ID to "". A negative
// Options.MaxAge ends the session for good: no request that is still running brings it back.
//
// # Requests that overlap
//
// Save writes the keys that the request has changed, added or deleted since it loaded the session, and keeps
// what other requests have done to other keys. If two requests change one key, the later Save wins. A counter
// that must be exact belongs in the database, or in [pgsession.Store.Update].
//
// # If the database cannot be asked
//
// Get returns an error and an empty session, and Save refuses to store that session. So an outage logs nobody
// out, even if the application ignores the error of Get.
//
// # Cookies
//
// Unlike gorilla's stores, Save sets the cookie only if the token is new, or if a tenth of its life has
// passed. So a slow response does not put the old cookie back after a log-in. With [WithUserKey] guests have
// a cookie of their own, named as the session with the suffix "-guest", so that no response to a guest
// replaces the cookie of a log-in that happened meanwhile.
package gorillastore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
	"weak"

	"github.com/gorilla/sessions"

	"github.com/pgsession/pgsession"
)

const (
	defaultMaxAge = 30 * 24 * time.Hour
	defaultTTL    = 12 * time.Hour
	guestSuffix   = "-guest"

	// maxSameName bounds the cookies of one name that are looked up, since each may cost a query.
	maxSameName = 4
)

// An Option changes how a [Store] behaves.
type Option func(*Store)

// WithUserKey sets the key of Session.Values that holds the user's id. Its value becomes the UserID of the
// stored session, so that [pgsession.Store.FindByUser] and [pgsession.Store.DeleteByUser] find it: a string
// as it is, and anything else as [fmt.Sprint] prints it. A session without a value, or with "", is a guest's.
// Without this option all sessions are guests'.
func WithUserKey(key any) Option { return func(s *Store) { s.userKey = key } }

// WithTTL sets how long a session with a MaxAge of 0 may be idle. Its cookie lasts as long as the browser
// runs. The default is 12 hours. WithTTL panics if ttl is not positive.
func WithTTL(ttl time.Duration) Option {
	if ttl <= 0 {
		panic("gorillastore: WithTTL: not positive")
	}
	return func(s *Store) { s.ttl = ttl }
}

// WithLogger sets the logger for sessions that do not open. The default, also for nil, is [slog.Default].
func WithLogger(logger *slog.Logger) Option { return func(s *Store) { s.logger = logger } }

// A Store is a [sessions.Store] that keeps sessions in a [pgsession.Store]. It is made by [New] and safe for
// concurrent use. As in gorilla's stores, one [sessions.Session] belongs to one request.
type Store struct {
	// Options are those that a session begins with. The default is the path "/", a MaxAge of 30 days, Secure,
	// HttpOnly and SameSite=Lax. A positive MaxAge is how long a session may be idle, in seconds. Change
	// Options before the first request.
	Options *sessions.Options

	store    *pgsession.Store
	userKey  any
	ttl      time.Duration
	logger   *slog.Logger
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
	return s
}

// loaded is what the store knows of a [sessions.Session] beside its exported fields.
type loaded struct {
	session *pgsession.Session // nil if nothing is stored in store yet
	cookie  string             // the name of the cookie that names the session; "" if there is none
	values  []byte             // the values as this request last saw them stored, encoded
	oldKey  string             // the key of a pgstore session; "" for one of ours
	inOld   bool               // the session is still in pgstore's table
	err     error              // why the session could not be loaded
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

// Get returns the session of a request, and the same one each time that it is called for this request. Its
// errors are those of [Store.New], and one for a name that is no cookie name.
func (s *Store) Get(r *http.Request, name string) (*sessions.Session, error) {
	return sessions.GetRegistry(r).Get(s, name)
}

// New loads the session that the request's cookie names. If there is none, or it has expired or was ended,
// New returns an empty session with IsNew. So it does for a session that does not open
// ([pgsession.ErrTampered], [pgsession.ErrUnknownKey]), which is logged as an error.
//
// Session.ID is the [pgsession.Handle] of a stored session, which may be shown and logged, and "" for a new
// one. Session.Options.MaxAge is the one that the session was last saved with.
//
// Errors: [pgsession.ErrDecode] if the values cannot be decoded, for instance since a type is not registered;
// those of the database. The session that comes with an error is empty, and [Store.Save] refuses it.
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
		session.ID = pgsession.DeriveID(l.oldKey).Handle().String()
	case l.session != nil:
		session.ID = l.session.Handle.String()
		options.MaxAge = s.maxAge(l.session)
	}
	s.remember(session, &l)
	return session, err
}

// load returns the first live session that a cookie names, with its values. If there is none, both are zero.
func (s *Store) load(r *http.Request, name string) (loaded, map[any]any, error) {
	for _, cookie := range s.cookies(r, name) {
		l, values, err := s.loadCookie(r.Context(), name, cookie)
		switch {
		case err == nil:
			l.cookie = cookie.Name
			return l, values, nil
		case errors.Is(err, pgsession.ErrTampered), errors.Is(err, pgsession.ErrUnknownKey):
			s.logger.ErrorContext(r.Context(), "gorillastore: session does not open", "error", err)
		case !errors.Is(err, pgsession.ErrNotFound):
			return loaded{err: err}, nil, err
		}
	}
	return loaded{}, nil, nil
}

func (s *Store) loadCookie(ctx context.Context, name string, cookie *http.Cookie) (loaded, map[any]any, error) {
	id, err := pgsession.ParseID(cookie.Value)
	if err != nil {
		return s.loadOld(ctx, name, cookie.Value)
	}
	return s.loadID(ctx, name, id)
}

func (s *Store) loadID(ctx context.Context, name string, id pgsession.ID) (loaded, map[any]any, error) {
	session, err := s.store.Load(ctx, id)
	if err != nil {
		return loaded{}, nil, err
	}
	encoded, err := encodedValues(session)
	if err != nil {
		return loaded{}, nil, err
	}
	values, err := decode(name, encoded)
	return loaded{session: session, values: encoded}, values, err
}

// cookies returns the cookies that may name the session, a user's before a guest's.
func (s *Store) cookies(r *http.Request, name string) (found []*http.Cookie) {
	for _, name := range s.cookieNames(name) {
		named := r.CookiesNamed(name)
		found = append(found, named[:min(len(named), maxSameName)]...)
	}
	return found
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

// Save stores the session, and sets or clears its cookie if that is due. So it must be called before the
// first byte of the response. It keeps what other requests have stored meanwhile under keys that this
// request did not change. Session.Values stays as the application made it.
//
// A session that is new gets a token. One whose user has changed, or whose ID is no longer the one that the
// store gave it, moves to a new token. With a negative Options.MaxAge the session ends and its cookie is
// cleared, also if it could not be loaded. If ending it fails, the cookie stays.
//
// Errors: that of [Store.New], if it returned one; [pgsession.ErrNotFound] if the session was ended or has
// expired since it was loaded, and then the cookie stays as it is; [pgsession.ErrEncode] if gob cannot encode
// the values; [pgsession.ErrTooLarge], [pgsession.ErrConflict], [pgsession.ErrInvalidTTL]; those of the
// database.
func (s *Store) Save(r *http.Request, w http.ResponseWriter, session *sessions.Session) error {
	l := s.recall(session)
	if session.Options.MaxAge < 0 {
		return s.end(r, w, session, l)
	}
	if l.err != nil {
		return fmt.Errorf("gorillastore: not saved, since it was not loaded: %w", l.err)
	}
	values, err := encode(session.Name(), session.Values)
	if err != nil {
		return err
	}
	if l.inOld || s.pgstore.Stay && l.session == nil {
		done, err := s.saveOld(r.Context(), w, session, &l, values)
		if err != nil || done {
			return err
		}
	}
	userID, ttl := s.userID(session.Values), s.ttlOf(session.Options.MaxAge)
	merged := func(stored *pgsession.Session) ([]byte, error) {
		return merge(session.Name(), l.values, values, session.Values, stored)
	}
	setCookie := true
	var stored *pgsession.Session
	switch {
	case l.session == nil:
		stored, err = s.store.Create(r.Context(), pgsession.Data{UserID: userID, Values: values}, ttl)
	case l.oldKey != "" || session.ID != l.session.Handle.String() || userID != l.session.UserID:
		stored, err = s.store.Renew(r.Context(), l.session, ttl, func(stored *pgsession.Session) (pgsession.Data, error) {
			values, err := merged(stored)
			return pgsession.Data{UserID: userID, Values: values}, err
		})
	default:
		if ttl == l.session.IdleTimeout && l.session.Remaining() >= ttl-ttl/10 {
			ttl, setCookie = 0, false
		}
		stored, err = s.store.Update(r.Context(), l.session, ttl, func(stored *pgsession.Session) (any, error) {
			return merged(stored)
		})
	}
	if err != nil {
		return err
	}
	if setCookie {
		cookie := session.Name()
		if s.userKey != nil && userID == "" {
			cookie += guestSuffix
		}
		s.setCookie(w, sessions.NewCookie(cookie, stored.ID.Token(), session.Options))
		if l.cookie != "" && l.cookie != cookie {
			s.clearCookie(w, l.cookie, session.Options)
		}
		l.cookie = cookie
	}
	session.ID = stored.Handle.String()
	s.remember(session, &loaded{session: stored, cookie: l.cookie, values: values})
	return nil
}

// end ends the sessions that the request's cookies name and the one that this request has stored. It goes on
// if the client hangs up.
func (s *Store) end(r *http.Request, w http.ResponseWriter, session *sessions.Session, l loaded) error {
	ctx := context.WithoutCancel(r.Context())
	var ids []pgsession.ID
	oldKeys := []string{l.oldKey}
	for _, cookie := range s.cookies(r, session.Name()) {
		if id, err := pgsession.ParseID(cookie.Value); err == nil {
			ids = append(ids, id)
		} else {
			oldKeys = append(oldKeys, s.pgstore.key(session.Name(), cookie.Value))
		}
	}
	for _, key := range oldKeys {
		if err := s.endOld(ctx, session.Name(), key); err != nil {
			return err
		}
		ids = append(ids, pgsession.DeriveID(key))
	}
	if l.session != nil {
		ids = append(ids, l.session.ID)
	}
	for _, id := range ids {
		if err := s.store.Delete(ctx, id); err != nil {
			return err
		}
	}
	for _, cookie := range s.cookieNames(session.Name()) {
		s.clearCookie(w, cookie, session.Options)
	}
	return nil
}

func (s *Store) clearCookie(w http.ResponseWriter, name string, options *sessions.Options) {
	cleared := *options
	cleared.MaxAge = -1
	s.setCookie(w, sessions.NewCookie(name, "", &cleared))
}

// setCookie sets a cookie, in place of one of that name that the response sets already.
func (s *Store) setCookie(w http.ResponseWriter, cookie *http.Cookie) {
	header := w.Header()
	header["Set-Cookie"] = slices.DeleteFunc(header["Set-Cookie"], func(line string) bool {
		return strings.HasPrefix(line, cookie.Name+"=")
	})
	http.SetCookie(w, cookie)
	header.Set("Cache-Control", "no-store")
}
