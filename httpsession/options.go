package httpsession

import (
	"log/slog"
	"net/http"
	"net/url"
	"time"
)

const (
	defaultTTL              = 12 * time.Hour
	defaultRememberTTL      = 30 * 24 * time.Hour
	defaultRememberLifetime = 90 * 24 * time.Hour
)

// An Option changes how a [Manager] behaves. It is given to [New], which panics for an option that only a
// programming error gives.
type Option func(*options)

type options struct {
	ttl              time.Duration
	rememberTTL      time.Duration
	rememberLifetime time.Duration
	cookie           cookie
	logInPage        *url.URL // nil: none
	errorHandler     func(w http.ResponseWriter, r *http.Request, err error)
	logger           *slog.Logger
}

func newOptions(opts []Option) options {
	o := options{
		ttl:              defaultTTL,
		rememberTTL:      defaultRememberTTL,
		rememberLifetime: defaultRememberLifetime,
		cookie:           newCookie(http.Cookie{}),
		logger:           slog.Default(),
	}
	for _, opt := range opts {
		opt(&o)
	}
	return o
}

// WithTTL sets how long a session may be idle before it ends. The default is 12 hours. A ttl that is not
// positive panics. To end sessions some time after the log-in however much they are used, give the store
// [pgsession.WithAbsoluteLifetime].
func WithTTL(ttl time.Duration) Option {
	return func(o *options) {
		if ttl <= 0 {
			panic("httpsession: WithTTL: ttl must be positive")
		}
		o.ttl = ttl
	}
}

// WithRemember sets how long a session that [Remember] asks for may be idle, and when it ends at the
// latest, counted from the log-in. The default is 30 and 90 days. A lifetime of 0 leaves the end to
// [pgsession.WithAbsoluteLifetime]. A ttl that is not positive, or a negative lifetime, panics.
func WithRemember(ttl, lifetime time.Duration) Option {
	return func(o *options) {
		if ttl <= 0 || lifetime < 0 {
			panic("httpsession: WithRemember: ttl must be positive, and lifetime not negative")
		}
		o.rememberTTL, o.rememberLifetime = ttl, lifetime
	}
}

// WithCookie sets the cookie's Name (the default is "session"), Path ("/"), Domain (none: this host alone),
// SameSite (Lax) and Partitioned. With Secure the cookie is Secure for loopback hosts too. Browsers accept
// Partitioned and SameSite=None only with Secure, so these imply it. The other fields are ignored.
//
// The name gets the prefix __Host- or __Secure-, and for a guest the suffix -guest. A name that has such a
// prefix already panics, and so does a cookie that browsers would refuse.
func WithCookie(c http.Cookie) Option {
	cookie := newCookie(c)
	return func(o *options) { o.cookie = cookie }
}

// WithLogInPage lets [Manager.RequireUser] redirect guests to a page, such as "/login", instead of
// answering 401. The page finds in [NextPage] where the visitor wanted to go. A page that is no URL panics.
func WithLogInPage(page string) Option {
	parsed, err := url.Parse(page)
	if err != nil || page == "" {
		panic("httpsession: WithLogInPage: not a URL")
	}
	return func(o *options) { o.logInPage = parsed }
}

// WithErrorHandler sets what answers a request if the store fails: [Manager.Handler] calls it instead of the
// application, and [Manager.Error] calls it for handlers. The default answers in plain text: 409 Conflict if
// err is [pgsession.ErrNotFound], since the session ended while the request ran; 500 Internal Server Error
// if it is [pgsession.ErrTooLarge] or [pgsession.ErrEncode]; and otherwise 503 Service Unavailable with
// Retry-After. It logs all but the first. A function of your own must not tell a visitor "you are logged
// out", since the session may well be alive.
func WithErrorHandler(handle func(w http.ResponseWriter, r *http.Request, err error)) Option {
	return func(o *options) { o.errorHandler = handle }
}

// WithLogger sets the logger for sessions that do not open, values that begin anew and failures of the
// store. The default, also for nil, is [slog.Default].
func WithLogger(logger *slog.Logger) Option {
	return func(o *options) {
		if logger != nil {
			o.logger = logger
		}
	}
}

// A LogInOption changes one [Manager.LogIn].
type LogInOption func(*logIn)

type logIn struct {
	remember      bool
	ttl, lifetime time.Duration
	cookieAge     time.Duration // 0: as long as the browser runs
}

// Remember makes the log-in outlast the browser, as [WithRemember] says. It is what the box "remember me"
// of a log-in form stands for.
func Remember() LogInOption {
	return func(l *logIn) { l.remember = true }
}
