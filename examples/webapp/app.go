package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/pgsession/pgsession"
)

const (
	maxBodySize = 16 << 10

	// requestTimeout ends a request that waits for the database, in time to say so.
	requestTimeout = 5 * time.Second
)

// An App is the application, but for its server.
type App struct {
	sessions *pgsession.Store
	accounts accounts
	secure   bool // the browser speaks TLS
	log      *slog.Logger
}

// NewApp returns the application's handler. Secure says that browsers reach it by TLS.
func NewApp(sessions *pgsession.Store, accounts accounts, secure bool, log *slog.Logger) http.Handler {
	a := &App{sessions: sessions, accounts: accounts, secure: secure, log: log}

	mux := http.NewServeMux()
	mux.Handle("GET /{$}", a.page(a.showNotes))
	mux.Handle("POST /notes", a.page(a.addNote))
	mux.Handle("POST /notes/remove", a.page(a.removeNote))
	mux.Handle("GET /login", a.page(a.showLogIn))
	mux.Handle("POST /login", a.page(a.logIn))
	mux.Handle("POST /logout", a.page(a.logOut))
	mux.Handle("GET /devices", a.page(a.showDevices))
	mux.Handle("POST /devices/revoke", a.page(a.revokeDevice))
	mux.Handle("POST /devices/revoke-others", a.page(a.revokeOtherDevices))
	mux.Handle("GET /healthz", sessions.HealthHandler())
	mux.HandleFunc("GET /static/{file}", serveStatic)
	mux.Handle("/", a.page(func(w http.ResponseWriter, _ *http.Request) error {
		return render(w, http.StatusNotFound, page{Name: "error", Title: "Not found", Content: failure{Text: "There is no such page."}})
	}))

	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(a.page(func(w http.ResponseWriter, _ *http.Request) error {
		return render(w, http.StatusForbidden, page{Name: "error", Title: "Refused", Content: failure{Text: "This form was sent from another site."}})
	}))
	return securityHeaders(http.MaxBytesHandler(protection.Handler(mux), maxBodySize))
}

func securityHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src 'self'; "+
			"form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		// Under no-referrer browsers send "Origin: null", and those that send no Sec-Fetch-Site would be refused their own forms.
		header.Set("Referrer-Policy", "same-origin")
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Cross-Origin-Opener-Policy", "same-origin")
		next.ServeHTTP(w, r)
	})
}

// page makes a handler of one that may fail.
func (a *App) page(handle func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
		defer cancel()
		r = r.WithContext(ctx)
		err := r.ParseForm()
		if err != nil {
			err = badRequest{err}
		} else {
			err = handle(w, r)
		}
		if err != nil {
			a.fail(w, r, err)
		}
	})
}

type badRequest struct{ error }

func (b badRequest) Unwrap() error { return b.error }

// fail answers a request that failed. Only ErrNotFound means that the visitor's session has ended; whatever else comes from the
// store is an outage, in which the cookie stays and nobody is told that they are logged out.
func (a *App) fail(w http.ResponseWriter, r *http.Request, err error) {
	status, title, content := http.StatusServiceUnavailable, "Something is out of order",
		failure{Text: "You have not been logged out: please try again in a moment."}
	var tooLarge *http.MaxBytesError
	var malformed badRequest
	switch {
	case errors.Is(err, pgsession.ErrNotFound):
		http.Redirect(w, r, "/login", http.StatusSeeOther)
		return
	case errors.Is(err, pgsession.ErrConflict):
		status, title, content = http.StatusConflict, "Try again", failure{Text: "Too much happened at the same time. Nothing was changed."}
	case errors.Is(err, pgsession.ErrTooLarge), errors.As(err, &tooLarge):
		status, title, content = http.StatusRequestEntityTooLarge, "Too much", failure{Text: "That is more than can be kept here. Nothing was changed."}
	case errors.As(err, &malformed):
		status, title, content = http.StatusBadRequest, "Not understood", failure{Text: "The form could not be read. Nothing was changed."}
	case errors.Is(err, pgsession.ErrTampered), errors.Is(err, pgsession.ErrUnknownKey), errors.Is(err, pgsession.ErrDecode):
		// It may come right, with the key or the release that is missing; until then the visitor may begin anew.
		content = failure{Text: "Your session cannot be read at the moment. You can try again later, or log out and begin anew.", MayLogOut: true}
	}
	if status == http.StatusServiceUnavailable {
		a.log.ErrorContext(r.Context(), "webapp: request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		w.Header().Set("Retry-After", "5")
	}
	if err := render(w, status, page{Name: "error", Title: title, Content: content}); err != nil {
		a.log.ErrorContext(r.Context(), "webapp: render", "error", err)
		http.Error(w, title, status)
	}
}
