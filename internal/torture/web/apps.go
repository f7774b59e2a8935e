package main

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alexedwards/scs/v2"
	"github.com/gofiber/fiber/v3"
	"github.com/gofiber/fiber/v3/middleware/adaptor"
	"github.com/gofiber/fiber/v3/middleware/recover"
	"github.com/gofiber/fiber/v3/middleware/session"
	"github.com/gorilla/sessions"

	"github.com/pgsession/pgsession"
	fiberstore "github.com/pgsession/pgsession/adapters/fiber"
	gorillastore "github.com/pgsession/pgsession/adapters/gorilla"
	scsstore "github.com/pgsession/pgsession/adapters/scs"
	"github.com/pgsession/pgsession/httpsession"
)

// The application is the same for each framework, written as its documentation tells to. Its pages:
//
//	GET  /        shows the session
//	GET  /poll    the same, from a script that polls: with httpsession it is Passive
//	POST /append  appends a number
//	POST /login   logs a user in, or issues a token
//	POST /renew   moves the session to a new id
//	POST /logout  ends the session
//
// Each waits between the load of the session and its change.
const (
	pollPage   = "poll"
	appendPage = "append"
	logInPage  = "login"
	renewPage  = "renew"
	logOutPage = "logout"
)

const ttl = time.Hour

// An application is several handlers, on nodes of their own or of several releases.
type application struct {
	name  string
	group string // of its users
	nodes []http.Handler

	newNode func(w *web, store *pgsession.Store, node int) http.Handler

	// isBearer says that requests have a token in a header, and no cookie.
	isBearer bool

	// isExact says that the visitor keeps a session that gets another id beside other requests, and
	// that a log-out beside them is told to be done only if it is. With scs and fiber, the answer of
	// a request that has changed the session before puts the old id back if it arrives late, and a
	// log-out cannot be told apart from a change of the id.
	isExact bool

	// showsStored says that the page of a log-in shows the session as it is stored. With the other
	// frameworks it shows what the request has, and of two log-ins of one guest the later one gets
	// nothing of the guest's.
	showsStored bool
}

// The groups of users.
const (
	everybody = "user"
	members   = "member" // each has one session at most
	robots    = "robot"  // with tokens
)

var groups = []string{everybody, members, robots}

// A visit is what a request's headers say beside its session.
type visit struct {
	tab  *tab
	user string // to log in
}

// visit waits for as long as the request says: its session is loaded by then.
func (w *web) visit(header func(string) string) visit {
	pause, _ := strconv.Atoi(header("Pause"))
	time.Sleep(time.Duration(pause) * time.Microsecond)
	return visit{w.tab(header("Tab")), header("User")}
}

func (w *web) tab(text string) *tab {
	number, err := strconv.Atoi(text)
	must(err)
	return w.tabs[number]
}

func respond(w http.ResponseWriter, v view) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

// The values of two releases of the application on httpsession. The first does not know the field
// of the second.
type (
	first struct {
		Root  int64   `json:"root,omitempty"`
		Named string  `json:"named,omitempty"`
		Even  []int64 `json:"even,omitempty"`
	}
	second struct {
		first
		Odd []int64 `json:"odd,omitempty"`
	}
)

func (v *first) base() *first   { return v }
func (v *first) add(n int64)    { v.Even = append(v.Even, n) }
func (v *first) all() []int64   { return v.Even }
func (v *first) seesOdd() bool  { return false }
func (v *second) seesOdd() bool { return true }
func (v *second) all() []int64  { return slices.Concat(v.Even, v.Odd) }
func (v *second) add(n int64) {
	if n%2 == 0 {
		v.first.add(n)
		return
	}
	v.Odd = append(v.Odd, n)
}

type release[V any] interface {
	*V
	base() *first
	add(n int64)
	all() []int64
	seesOdd() bool
}

func newHTTPSession[V any, R release[V]](web *web, store *pgsession.Store, name string, options ...httpsession.Option) http.Handler {
	m := httpsession.New[V](store, append([]httpsession.Option{
		httpsession.WithLogger(slog.New(slog.DiscardHandler)), httpsession.WithCookie(http.Cookie{Name: name}), httpsession.WithTTL(ttl),
	}, options...)...)
	isLimited, isBearer := name == clubName, name == apiName
	o := web.oracle
	show := func(s httpsession.Session[V]) view {
		v := R(&s.Values)
		return view{User: s.UserID, Named: v.base().Named, Root: v.base().Root, Numbers: v.all(), SeesOdd: v.seesOdd()}
	}
	mux := http.NewServeMux()
	handle := func(page string, do func(w http.ResponseWriter, r *http.Request, visit visit, before view) error) {
		mux.HandleFunc("/"+page, func(w http.ResponseWriter, r *http.Request) {
			before := show(m.Get(r))
			if err := do(w, r, web.visit(r.Header.Get), before); err != nil {
				m.Error(w, r, err)
				return
			}
			respond(w, show(m.Get(r)))
		})
	}
	begin := func(values *V, visit visit) *first {
		v := R(values).base()
		if v.Root == 0 {
			v.Root = o.newRoot(visit.tab)
		}
		return v
	}
	for _, page := range []string{"", pollPage} {
		handle(page, func(http.ResponseWriter, *http.Request, visit, view) error { return nil })
	}
	handle(appendPage, func(w http.ResponseWriter, r *http.Request, visit visit, before view) error {
		n := o.newNumber(visit.tab, before.User, before.SeesOdd)
		w.Header().Set("Number", strconv.FormatInt(n, 10))
		return m.Update(w, r, func(v *V) error {
			begin(v, visit)
			R(v).add(n)
			return nil
		})
	})
	handle(logInPage, func(w http.ResponseWriter, r *http.Request, visit visit, before view) (err error) {
		change := func(v *V) error {
			begin(v, visit).Named = visit.user
			return nil
		}
		switch {
		case isBearer:
			var values V
			change(&values)
			token, err := m.IssueToken(r.Context(), visit.user, values)
			w.Header().Set("Token", token)
			return err
		case isLimited:
			o.endAll(visit.user, func() error {
				if err = m.LogIn(w, r, visit.user, change); err != nil {
					return err
				}
				found, err := store.FindByUser(r.Context(), visit.user, 0)
				isAlone := len(found) == 1 && found[0].Handle == m.Get(r).Handle
				if err == nil && (!isAlone || before.User == visit.user) {
					err = errors.New("the database failed, or there is another log-in, or this one went on")
				}
				return err
			})
		default:
			err = m.LogIn(w, r, visit.user, change)
		}
		// A user's session goes on, or the log-in is refused because the session was ended while
		// the request ran.
		if after := show(m.Get(r)); err == nil && before.User == visit.user && after.Root != before.Root {
			o.complain(&o.revived, visit.tab, "a log-in began a session in place of one that was ended: %+v; before: %+v", after, before)
		}
		return err
	})
	handle(renewPage, func(w http.ResponseWriter, r *http.Request, _ visit, _ view) error { return m.RenewID(w, r, nil) })
	handle(logOutPage, func(w http.ResponseWriter, r *http.Request, _ visit, _ view) error { return m.LogOut(w, r) })
	all := http.NewServeMux()
	all.Handle("/", m.Handler(mux))
	all.Handle("/"+pollPage, m.Passive(mux))
	return all
}

// Where values are a map, the user is kept under the first of these keys, and each number has one
// of its own.
const (
	userKey      = "user"
	namedKey     = "named"
	rootKey      = "root"
	numberPrefix = "#"
)

func (v *view) addKey(key any) {
	if text, ok := strings.CutPrefix(key.(string), numberPrefix); ok {
		n, err := strconv.ParseInt(text, 10, 64)
		must(err)
		v.Numbers = append(v.Numbers, n)
	}
}

func statusOf(err error) int {
	if errors.Is(err, pgsession.ErrNotFound) {
		return http.StatusConflict
	}
	return http.StatusServiceUnavailable
}

func newSCS(web *web, store *pgsession.Store, name string) http.Handler {
	o := web.oracle
	m := scs.New()
	m.Store = scsstore.New(store, name)
	m.Codec = scsstore.UserCodec(m.Codec, userKey)
	m.ErrorFunc = func(w http.ResponseWriter, _ *http.Request, err error) { http.Error(w, "", statusOf(err)) }
	m.Cookie.Name, m.Cookie.Secure = name, true
	m.Lifetime = ttl
	mux := http.NewServeMux()
	handle := func(page string, do func(w http.ResponseWriter, r *http.Request, visit visit) error) {
		mux.HandleFunc("/"+page, func(w http.ResponseWriter, r *http.Request) {
			ctx := r.Context()
			if err := do(w, r, web.visit(r.Header.Get)); err != nil {
				http.Error(w, "", statusOf(err))
				return
			}
			v := view{User: m.GetString(ctx, userKey), Named: m.GetString(ctx, namedKey), Root: m.GetInt64(ctx, rootKey), SeesOdd: true}
			for _, key := range m.Keys(ctx) {
				v.addKey(key)
			}
			respond(w, v)
		})
	}
	begin := func(r *http.Request, visit visit) {
		if m.GetInt64(r.Context(), rootKey) == 0 {
			m.Put(r.Context(), rootKey, o.newRoot(visit.tab))
		}
	}
	for _, page := range []string{"", pollPage} {
		handle(page, func(http.ResponseWriter, *http.Request, visit) error { return nil })
	}
	handle(appendPage, func(w http.ResponseWriter, r *http.Request, visit visit) error {
		n := strconv.FormatInt(o.newNumber(visit.tab, m.GetString(r.Context(), userKey), true), 10)
		w.Header().Set("Number", n)
		begin(r, visit)
		m.Put(r.Context(), numberPrefix+n, true)
		return nil
	})
	handle(logInPage, func(_ http.ResponseWriter, r *http.Request, visit visit) error {
		move := m.RenewToken
		if user := m.GetString(r.Context(), userKey); user != "" && user != visit.user {
			move = m.Destroy // one user's values are not for another
		}
		if err := move(r.Context()); err != nil {
			return err
		}
		begin(r, visit)
		m.Put(r.Context(), userKey, visit.user)
		m.Put(r.Context(), namedKey, visit.user)
		return nil
	})
	handle(renewPage, func(_ http.ResponseWriter, r *http.Request, _ visit) error { return m.RenewToken(r.Context()) })
	handle(logOutPage, func(_ http.ResponseWriter, r *http.Request, _ visit) error { return m.Destroy(r.Context()) })
	return scsstore.LoadAndSave(m, mux)
}

func newGorilla(web *web, store *pgsession.Store, name string) http.Handler {
	o := web.oracle
	all := gorillastore.New(store, gorillastore.WithUserKey(userKey))
	mux := http.NewServeMux()
	handle := func(page string, do func(w http.ResponseWriter, visit visit, s *sessions.Session)) {
		mux.HandleFunc("/"+page, func(w http.ResponseWriter, r *http.Request) {
			s, err := all.Get(r, name)
			if err == nil {
				visit := web.visit(r.Header.Get)
				if do != nil {
					do(w, visit, s)
					err = s.Save(r, w)
				}
			}
			if err != nil {
				http.Error(w, "", statusOf(err))
				return
			}
			v := view{SeesOdd: true}
			if s.Options.MaxAge >= 0 {
				v.User, _ = s.Values[userKey].(string)
				v.Named, _ = s.Values[namedKey].(string)
				v.Root, _ = s.Values[rootKey].(int64)
				for key := range s.Values {
					v.addKey(key)
				}
			}
			respond(w, v)
		})
	}
	begin := func(s *sessions.Session, visit visit) {
		if s.Values[rootKey] == nil {
			s.Values[rootKey] = o.newRoot(visit.tab)
		}
	}
	handle("", nil)
	handle(pollPage, nil)
	handle(appendPage, func(w http.ResponseWriter, visit visit, s *sessions.Session) {
		user, _ := s.Values[userKey].(string)
		n := strconv.FormatInt(o.newNumber(visit.tab, user, true), 10)
		w.Header().Set("Number", n)
		begin(s, visit)
		s.Values[numberPrefix+n] = true
	})
	handle(logInPage, func(_ http.ResponseWriter, visit visit, s *sessions.Session) {
		if user, _ := s.Values[userKey].(string); user != "" && user != visit.user {
			clear(s.Values) // one user's values are not for another
		}
		begin(s, visit)
		s.Values[userKey], s.Values[namedKey], s.ID = visit.user, visit.user, ""
	})
	handle(renewPage, func(_ http.ResponseWriter, _ visit, s *sessions.Session) { s.ID = "" })
	handle(logOutPage, func(_ http.ResponseWriter, _ visit, s *sessions.Session) { s.Options.MaxAge = -1 })
	return mux
}

func newFiber(web *web, store *pgsession.Store, name string) http.Handler {
	o := web.oracle
	fail := func(c fiber.Ctx, err error) error { return c.Status(statusOf(err)).SendString("") }
	app := fiber.New(fiber.Config{ErrorHandler: fail})
	app.Use(recover.New())
	all := fiberstore.NewSessions(store, name)
	app.Use(session.New(session.Config{
		Storage:        all,
		Extractor:      all.Extractor(),
		ErrorHandler:   func(c fiber.Ctx, err error) { fail(c, err) },
		CookieHTTPOnly: true, CookieSecure: true, IdleTimeout: ttl,
	}))
	handle := func(page string, do func(c fiber.Ctx, visit visit, s *session.Middleware) error) {
		app.All("/"+name+"/"+page, func(c fiber.Ctx) error {
			s := session.FromContext(c)
			if err := do(c, web.visit(func(name string) string { return c.Get(name) }), s); err != nil {
				return err
			}
			v := view{User: fiberstore.User(s), SeesOdd: true}
			v.Named, _ = s.Get(namedKey).(string)
			v.Root, _ = s.Get(rootKey).(int64)
			for _, key := range s.Keys() {
				if _, ok := key.(string); ok {
					v.addKey(key)
				}
			}
			return c.JSON(v)
		})
	}
	begin := func(s *session.Middleware, visit visit) {
		if s.Get(rootKey) == nil {
			s.Set(rootKey, o.newRoot(visit.tab))
		}
	}
	for _, page := range []string{"", pollPage} {
		handle(page, func(fiber.Ctx, visit, *session.Middleware) error { return nil })
	}
	handle(appendPage, func(c fiber.Ctx, visit visit, s *session.Middleware) error {
		n := strconv.FormatInt(o.newNumber(visit.tab, fiberstore.User(s), true), 10)
		c.Set("Number", n)
		begin(s, visit)
		s.Set(numberPrefix+n, true)
		return nil
	})
	handle(logInPage, func(_ fiber.Ctx, visit visit, s *session.Middleware) error {
		move := s.Regenerate
		if user := fiberstore.User(s); user != "" && user != visit.user {
			move = s.Reset // one user's values are not for another
		}
		if err := move(); err != nil {
			return err
		}
		begin(s, visit)
		s.Set(namedKey, visit.user)
		return fiberstore.SetUser(s, visit.user)
	})
	handle(renewPage, func(_ fiber.Ctx, _ visit, s *session.Middleware) error { return s.Regenerate() })
	handle(logOutPage, func(_ fiber.Ctx, _ visit, s *session.Middleware) error { return s.Destroy() })
	return adaptor.FiberApp(app)
}
