package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/adminpages"
	"github.com/pgsession/pgsession/httpsession"
)

const (
	maxBodySize = 16 << 10

	// lastSeenInterval is how exactly "last seen" is known. Each user costs one write in that time.
	lastSeenInterval = 5 * time.Minute

	// maxDevices is how many sessions a user may have. A log-in beyond that ends the oldest.
	maxDevices = 3
)

// values is what a session holds.
type values struct {
	Notes    []note    `json:"notes,omitempty"`
	Flash    string    `json:"flash,omitempty"` // a message that the next page shows, once
	Browser  string    `json:"browser,omitempty"`
	LastSeen time.Time `json:"last_seen,omitzero"`
}

// An App is the application without its server.
type App struct {
	stopping context.Context // ends the streams, which a shutdown would wait for
	store    *pgsession.Store
	sessions *httpsession.Manager[values]
	accounts accounts
	now      func() time.Time
	log      *slog.Logger
}

// NewApp returns the application's handler. It serves event streams until ctx ends.
func NewApp(ctx context.Context, store *pgsession.Store, accounts accounts, now func() time.Time, log *slog.Logger) http.Handler {
	a := &App{stopping: ctx, store: store, accounts: accounts, now: now, log: log}
	a.sessions = httpsession.New[values](store, httpsession.WithLogInPage("/login"), httpsession.WithMaxSessions(maxDevices),
		httpsession.WithEvents(noteEnd), httpsession.WithErrorHandler(a.showOutage), httpsession.WithLogger(log))
	admin := adminpages.New(store, a.admin, adminpages.WithDevice(device), adminpages.WithAudit(a.audit), adminpages.WithLogger(log))
	go admin.Record(ctx)

	pages := http.NewServeMux()
	pages.Handle("GET /{$}", a.page(a.showNotes))
	pages.Handle("POST /notes", a.page(a.addNote))
	pages.Handle("POST /notes/remove", a.page(a.removeNote))
	pages.Handle("GET /login", a.page(a.showLogIn))
	pages.Handle("POST /login", a.page(a.logIn))
	pages.Handle("POST /logout", a.page(a.logOut))
	pages.Handle("GET /ended", a.page(a.showEnded))
	pages.Handle("POST /stay", a.forUsers(a.stay))
	pages.Handle("GET /devices", a.forUsers(a.showDevices))
	pages.Handle("POST /devices/log-out", a.forUsers(a.logOutDevice))
	pages.Handle("POST /devices/log-out-others", a.forUsers(a.logOutOthers))
	pages.Handle("/admin/sessions", a.forAdmins(func(w http.ResponseWriter, r *http.Request) error {
		admin.ServeHTTP(w, r)
		return nil
	}))
	pages.Handle("/", a.page(refuse(http.StatusNotFound, "Not found", "There is no such page.")))

	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(a.page(refuse(http.StatusForbidden, "Refused", "This form was sent from another site. Nothing was changed.")))

	mux := http.NewServeMux()
	mux.Handle("/", a.sessions.Handler(protection.Handler(pages)))
	mux.Handle("GET /events", a.sessions.Passive(http.HandlerFunc(a.stream)))
	mux.Handle("GET /healthz", store.HealthHandler())
	mux.HandleFunc("GET /static/{file}", serveStatic)
	return securityHeaders(http.MaxBytesHandler(withEndReason(mux), maxBodySize))
}

func securityHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "+
			"form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		// Under no-referrer, browsers that send no Sec-Fetch-Site send "Origin: null", and
		// CrossOriginProtection refuses that.
		header.Set("Referrer-Policy", "same-origin")
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Cross-Origin-Opener-Policy", "same-origin")
		if r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https" {
			header.Set("Strict-Transport-Security", "max-age=31536000")
		}
		next.ServeHTTP(w, r)
	})
}

// A handler returns an error if it has not answered.
type handler func(http.ResponseWriter, *http.Request) error

// page is for everybody.
func (a *App) page(handle handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		err := r.ParseForm()
		if err != nil && !errors.As(err, new(*http.MaxBytesError)) {
			err = refusal{http.StatusBadRequest, "Not understood", "The form could not be read. Nothing was changed."}
		}
		if err == nil {
			err = a.updateLastSeen(w, r)
		}
		if err == nil {
			err = handle(w, r)
		}
		if err != nil {
			a.showError(w, r, err)
		}
	})
}

// forUsers sends guests to the log-in page. If it is a form that they sent, they are told so
// instead.
func (a *App) forUsers(handle handler) http.Handler {
	users := a.sessions.RequireUser(a.page(handle))
	guestsForm := a.page(refuse(http.StatusUnauthorized, "Please log in", "You are not logged in. Nothing was changed."))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && a.sessions.Get(r).UserID == "" {
			guestsForm.ServeHTTP(w, r)
			return
		}
		users.ServeHTTP(w, r)
	})
}

func (a *App) forAdmins(handle handler) http.Handler {
	return a.forUsers(func(w http.ResponseWriter, r *http.Request) error {
		if _, ok := a.admin(r); !ok {
			return refusal{http.StatusForbidden, "Refused", "This page is for administrators."}
		}
		return handle(w, r)
	})
}

// admin says who an administrator is.
func (a *App) admin(r *http.Request) (operator string, ok bool) {
	operator = a.sessions.Get(r).UserID
	return operator, a.accounts[operator].IsAdmin
}

// audit is told what administrators do. A real application keeps that where they cannot change it.
func (a *App) audit(ctx context.Context, action adminpages.Action) {
	a.log.InfoContext(ctx, "webapp: audit", "operator", action.Operator, "action", action.Name, "user", action.UserID,
		"session", action.Handle, "ended", action.Ended, "failed", action.Err != nil)
}

func (a *App) updateLastSeen(w http.ResponseWriter, r *http.Request) error {
	session := a.sessions.Get(r)
	if session.UserID == "" || a.now().Sub(session.Values.LastSeen) < lastSeenInterval {
		return nil
	}
	return a.sessions.Update(w, r, func(v *values) error {
		v.LastSeen = a.now()
		return nil
	})
}

// redirect has the browser load a page, which shows a message if there is one.
func (a *App) redirect(w http.ResponseWriter, r *http.Request, path, message string) error {
	if message != "" {
		err := a.sessions.Update(w, r, func(v *values) error {
			v.Flash = message
			return nil
		})
		if err != nil {
			return err
		}
	}
	http.Redirect(w, r, path, http.StatusSeeOther)
	return nil
}

// A refusal is an error that the visitor can do something about.
type refusal struct {
	Status      int
	Title, Text string
}

func (r refusal) Error() string { return r.Title }

func refuse(status int, title, text string) handler {
	return func(http.ResponseWriter, *http.Request) error { return refusal{status, title, text} }
}

var outage = refusal{http.StatusServiceUnavailable, "Out of order", "You have not been logged out: please try again in a moment."}

// showError answers a request that failed.
func (a *App) showError(w http.ResponseWriter, r *http.Request, err error) {
	var problem refusal
	switch {
	case errors.As(err, &problem):
	case errors.Is(err, pgsession.ErrNotFound), errors.Is(err, pgsession.ErrConflict):
		problem = refusal{http.StatusConflict, "Try again", "This session was changed by another request, in another window for instance. Nothing was changed by this one."}
	case errors.Is(err, pgsession.ErrTooLarge), errors.As(err, new(*http.MaxBytesError)):
		problem = refusal{http.StatusRequestEntityTooLarge, "Too much", "That is more than can be kept here. Nothing was changed."}
	default:
		a.log.ErrorContext(r.Context(), "webapp: a request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		w.Header().Set("Retry-After", "5")
		problem = outage
	}
	session := a.sessions.Get(r)
	a.write(w, r, problem.Status, page{Name: "error", Title: problem.Title, Session: &session, Content: problem})
}

// showOutage answers a request whose session could not be loaded.
func (a *App) showOutage(w http.ResponseWriter, r *http.Request, err error) {
	a.log.ErrorContext(r.Context(), "webapp: a session was not loaded", "path", r.URL.Path, "error", err)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Retry-After", "5")
	a.write(w, r, outage.Status, page{Name: "error", Title: outage.Title, Content: outage})
}
