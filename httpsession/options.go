package httpsession

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	defaultTTL              = 12 * time.Hour
	defaultRememberTTL      = 30 * 24 * time.Hour
	defaultRememberLifetime = 90 * 24 * time.Hour
)

// An Option changes how a [Manager] behaves. It is given to [New], which panics for an option that
// only a programming error gives.
type Option func(*options)

type options struct {
	ttl              time.Duration
	rememberTTL      time.Duration
	rememberLifetime time.Duration
	cookie           http.Cookie
	plainHTTP        bool
	bearer           bool
	maxSessions      int                        // 0: any number
	binding          func(*http.Request) string // nil: none
	onEvent          func(context.Context, Event)
	logInPage        *url.URL // nil: none
	errorHandler     func(w http.ResponseWriter, r *http.Request, err error)
	logger           *slog.Logger
}

func newOptions(opts []Option) options {
	o := options{
		ttl:              defaultTTL,
		rememberTTL:      defaultRememberTTL,
		rememberLifetime: defaultRememberLifetime,
		logger:           slog.Default(),
	}
	for _, opt := range opts {
		opt(&o)
	}
	if o.bearer && o.binding != nil {
		panic("httpsession: New: WithBinding needs a log-in, and a Manager WithBearer has none")
	}
	return o
}

// WithTTL sets how long a session may be idle before it ends. The default is 12 hours. A session is
// prolonged when it has a tenth of the ttl to gain, so most requests write nothing, and a session
// that was used may end after nine tenths of the ttl. For 20 minutes at least, set 23 minutes. A
// ttl that is not positive panics. To end sessions some time after the log-in however much they are
// used, give the store [pgsession.WithAbsoluteLifetime].
func WithTTL(ttl time.Duration) Option {
	return func(o *options) {
		if ttl <= 0 {
			panic("httpsession: WithTTL: ttl must be positive")
		}
		o.ttl = ttl
	}
}

// WithRemember sets how long a session that [Remember] asks for may be idle, and when it ends at
// the latest, counted from the log-in. The default is 30 and 90 days. A lifetime of 0 leaves the
// end to [pgsession.WithAbsoluteLifetime]. A ttl that is not positive, or a negative lifetime,
// panics.
//
// The cookie of such a session lasts for 400 days, which is the most that browsers keep one. It is
// set anew when the session is prolonged and began more than 200 days ago. A session counts as
// remembered if its idle timeout is this ttl, or is longer than [WithTTL]. So the two must differ.
func WithRemember(ttl, lifetime time.Duration) Option {
	return func(o *options) {
		if ttl <= 0 || lifetime < 0 {
			panic("httpsession: WithRemember: ttl must be positive, and lifetime not negative")
		}
		o.rememberTTL, o.rememberLifetime = ttl, lifetime
	}
}

// WithCookie sets the cookie's Name (the default is "session"), Path ("/"), Domain (none: this host
// alone), SameSite (Lax) and Partitioned. The other fields are ignored: the cookie is always
// HttpOnly, and Secure except as [WithPlainHTTP] says.
//
// The name gets the prefix __Host-, or __Secure- if there is a Domain or another Path, and for a
// guest the suffix -guest. Without them it is also the purpose of the Manager's ids
// ([pgsession.NewIDFor]): two Managers on one table need different names. So do two Managers of one
// site, since each reads and clears the cookies of its name. A name that has such a prefix or
// suffix already panics. So does a cookie that browsers would refuse or not send back, such as one
// with the Path "app".
//
// Cookies of both prefixes are read. So after a change of Domain or Path, users stay logged in.
// After a change of Name everybody is a guest, since cookies of the earlier name are not read.
// Their sessions live on until they expire or, for instance, "pgsession end --begun-before now"
// ends them.
func WithCookie(c http.Cookie) Option {
	c = checkedCookie(c)
	return func(o *options) { o.cookie = c }
}

// WithPlainHTTP lets the cookie go over plain HTTP: requests without TLS get it without Secure and
// without a prefix of its name. It is for Safari in development, for tests over HTTP, and for
// networks without TLS. Chrome, Firefox, Edge and curl need it nowhere on localhost. With
// SameSite=None or Partitioned it changes nothing, since browsers take these only with Secure.
//
// Do not set it behind a proxy that ends TLS: the proxy's requests have no TLS. Only with this
// option are cookies without a prefix read. So if it is taken away, or SameSite=None or Partitioned
// is added, users with such a cookie are guests, while their sessions live on until they expire.
func WithPlainHTTP() Option {
	return func(o *options) { o.plainHTTP = true }
}

// WithBearer makes a Manager of API tokens, which requests send in the header
// "Authorization: Bearer TOKEN". [Manager.IssueToken] makes them. Such a Manager reads and sets no
// cookies, and has no sessions of guests: without a valid token, [Manager.Update] returns
// [pgsession.ErrNotFound], and [Manager.RequireUser] answers 401 with WWW-Authenticate.
// [Manager.LogIn] and [Manager.RenewID] return an error, since no answer carries a token.
// [Manager.LogOut] ends the token's session.
//
// The name of [WithCookie] still tells two such Managers on one table apart.
func WithBearer() Option {
	return func(o *options) { o.bearer = true }
}

// WithMaxSessions sets how many sessions a user may have. [Manager.LogIn] and [Manager.IssueToken]
// end the oldest log-ins beyond that, by [pgsession.Store.LimitByUser]. The default is any number.
// If log-ins race, no more than n are left when the last one has returned. A log-in of the same
// user that goes on is as old as it was, but does not end itself. A visitor whose session was ended
// sees [Session.Ended].
//
// It counts all sessions of a user id in the table, whichever Manager made them. If the database
// fails just after a log-in, the log-in stands, a warning is logged, and the next log-in ends what
// is too much. An n below 1 panics.
func WithMaxSessions(n int) Option {
	return func(o *options) {
		if n < 1 {
			panic("httpsession: WithMaxSessions: n must be positive")
		}
		o.maxSessions = n
	}
}

// WithBinding binds sessions to something of the client, which of returns: the fingerprint of a
// client certificate, or the User-Agent. [Manager.LogIn] stores a keyed hash of it with the
// session, under a random key. A request for which of returns something else is a guest's, which is
// logged and is an [Event]. The session itself goes on, and ends if that request logs in or out.
// Sessions of guests are not bound, nor are those from before this option. The values must be a
// JSON object. By default nothing is bound.
//
// Do not bind to an IP address: those of mobile clients change. A User-Agent changes with each
// release of a browser, which logs its user out.
func WithBinding(of func(*http.Request) string) Option {
	return func(o *options) { o.binding = of }
}

// WithEvents sets a function that is told what happens to sessions, for an audit trail. It is
// called on the request's goroutine with the request's context, after the write and after the
// cookie is set. So it must be quick, and an error of its own changes nothing. A panic in it is
// logged, and the request goes on.
func WithEvents(handle func(context.Context, Event)) Option {
	return func(o *options) { o.onEvent = handle }
}

// WithLogInPage lets [Manager.RequireUser] redirect guests to a page, such as "/login", instead of
// answering 401. The page finds in [NextPage] where the visitor wanted to go. A page that is
// neither a path with a slash before it nor a whole URL panics.
func WithLogInPage(page string) Option {
	parsed, err := url.Parse(page)
	if err != nil || parsed.Host == "" && !strings.HasPrefix(parsed.Path, "/") {
		panic("httpsession: WithLogInPage: neither a path that begins with a slash nor a URL")
	}
	return func(o *options) { o.logInPage = parsed }
}

// WithErrorHandler sets what answers a request if the store fails: [Manager.Handler] calls it
// instead of the application, and [Manager.Error] calls it for handlers. [Manager.Error] says what
// the default does. A handler that replaces it must not say that the visitor is logged out, unless
// err is [pgsession.ErrNotFound].
//
// If Handler calls it, the visitor's session is not known. [Manager.Get] then returns the zero
// Session, as for a guest, and the calls that write return err.
func WithErrorHandler(handle func(w http.ResponseWriter, r *http.Request, err error)) Option {
	return func(o *options) { o.errorHandler = handle }
}

// WithLogger sets the logger for sessions that do not open, values that begin anew and failures of
// the store. The same trouble is logged once a second at most, with the number of times that it was
// left out before. The default, also for nil, is [slog.Default].
func WithLogger(logger *slog.Logger) Option {
	return func(o *options) {
		if logger != nil {
			o.logger = logger
		}
	}
}

// A LogInOption changes one [Manager.LogIn] or [Manager.IssueToken].
type LogInOption func(*logIn)

type logIn struct {
	remember      bool
	ttl, lifetime time.Duration
}

// isRemembered reports whether a log-in with Remember gave a session its idle timeout.
func (o *options) isRemembered(idleTimeout time.Duration) bool {
	return idleTimeout != o.ttl && (idleTimeout == o.rememberTTL || idleTimeout > o.ttl)
}

// Remember makes the log-in outlast the browser, as [WithRemember] says. It is what the box
// "remember me" of a log-in form stands for.
func Remember() LogInOption {
	return func(l *logIn) { l.remember = true }
}

func (o *options) logIn(opts []LogInOption) logIn {
	l := logIn{ttl: o.ttl}
	for _, opt := range opts {
		opt(&l)
	}
	if l.remember {
		l.ttl, l.lifetime = o.rememberTTL, o.rememberLifetime
	}
	return l
}
