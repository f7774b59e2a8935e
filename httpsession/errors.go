package httpsession

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/bridge"
)

const retryAfterSeconds = "5"

// Programming errors.
var (
	errNoUserID = errors.New("httpsession: the user id is empty")
	errBearer   = errors.New("httpsession: a Manager WithBearer has no log-in, and its sessions keep their ids; IssueToken makes a token")
	errNoBearer = errors.New("httpsession: IssueToken is for a Manager WithBearer")
	errBegun    = errors.New("httpsession: the response has begun, so that it can set no cookie; call this before the first byte")
)

// Error answers a request for which Update, LogIn, RenewID or LogOut returned err, as
// [WithErrorHandler] says. Like [http.Error] it does not end the request: the handler returns after
// it.
//
// By default the answer is plain text:
//   - 409 Conflict for [pgsession.ErrNotFound], since the session ended while the request ran; a
//     Manager [WithBearer] answers 401 instead
//   - 503 Service Unavailable with Retry-After if the database could not do its work, and for
//     [pgsession.ErrConflict]. This is logged as an error, unless the client has gone.
//   - 500 Internal Server Error for [pgsession.ErrTooLarge], [pgsession.ErrEncode] and
//     [pgsession.ErrUnreadable], which are logged as well
//   - 500 Internal Server Error for any other error, such as one that a change function returned.
//     That one is the application's, and so is its log line.
func (m *Manager[V]) Error(w http.ResponseWriter, r *http.Request, err error) {
	m.errorHandler(w, r, err)
}

func (m *Manager[V]) handleError(w http.ResponseWriter, r *http.Request, err error) {
	outage := bridge.Outage(err)
	switch {
	case outage != nil || errors.Is(err, pgsession.ErrConflict):
		m.logFailure(r, cmp.Or(outage, pgsession.ErrConflict))
		w.Header().Set("Retry-After", retryAfterSeconds)
		http.Error(w, "Please try again in a moment.", http.StatusServiceUnavailable)
	case errors.Is(err, pgsession.ErrNotFound):
		if m.bearer {
			m.unauthorized(w, r)
			return
		}
		http.Error(w, "Your session has changed. Please reload the page.", http.StatusConflict)
	default:
		for _, known := range []error{pgsession.ErrTooLarge, pgsession.ErrEncode, pgsession.ErrTampered, pgsession.ErrUnknownKey} {
			if errors.Is(err, known) {
				m.logFailure(r, known)
				http.Error(w, "This cannot be stored.", http.StatusInternalServerError)
				return
			}
		}
		http.Error(w, "Something went wrong.", http.StatusInternalServerError)
	}
}

// logFailure logs an error of the store's. The application may have wrapped it with values, and
// that text is not for the log.
func (m *Manager[V]) logFailure(r *http.Request, err error) {
	if r.Context().Err() == nil { // otherwise the client has gone
		m.log(r.Context(), slog.LevelError, "httpsession: a request failed", slog.Any("error", err))
	}
}

// log logs a message, which is one of few, unless it did so within the last second.
func (m *Manager[V]) log(ctx context.Context, level slog.Level, message string, attrs ...any) {
	m.logs.Log(ctx, m.logger, level, message, attrs...)
}
