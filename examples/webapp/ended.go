package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/pgsession/pgsession/httpsession"
)

// streamInterval is how often a page learns how long its session has left.
var streamInterval = 30 * time.Second

// stream tells a page how many seconds its session has left, and when it has ended. It does not
// prolong the session.
func (a *App) stream(w http.ResponseWriter, r *http.Request) {
	watched := a.sessions.Watch(r)
	control := http.NewResponseController(w)
	// The server's time-outs are for pages.
	if control.SetReadDeadline(time.Time{}) != nil || control.SetWriteDeadline(time.Time{}) != nil {
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	tell := func(event string, data any) error {
		fmt.Fprintf(w, "event: %s\ndata: %v\n\n", event, data)
		return control.Flush()
	}
	ticker := time.NewTicker(streamInterval)
	defer ticker.Stop()
	for {
		// In an outage the stream goes on: an error does not say that the session is over.
		if session, err := a.sessions.Reload(r); err == nil {
			if session.UserID == "" {
				_ = tell("ended", "")
				return
			}
			if tell("left", int(session.ExpiresAt.Sub(a.now()).Round(time.Second).Seconds())) != nil {
				return
			}
		}
		select {
		case <-a.stopping.Done():
			return
		case <-watched.Done():
			if r.Context().Err() == nil {
				_ = tell("ended", "")
			}
			return
		case <-ticker.C:
		}
	}
}

// stay is for the button "Stay logged in": the request itself prolongs the session.
func (a *App) stay(w http.ResponseWriter, _ *http.Request) error {
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// showEnded is where a page goes when its session has ended. The layout says why.
func (a *App) showEnded(w http.ResponseWriter, r *http.Request) error {
	if a.sessions.Get(r).UserID != "" { // it has a new id, or there was another log-in
		return a.redirect(w, r, "/", "")
	}
	return a.show(w, r, http.StatusOK, page{Name: "ended", Title: "You are logged out"})
}

type endReasonKey struct{}

// withEndReason makes room for the reason why a request's session has ended.
func withEndReason(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), endReasonKey{}, new(string))))
	})
}

// noteEnd is told of what happens to sessions.
func noteEnd(ctx context.Context, event httpsession.Event) {
	reason, ok := ctx.Value(endReasonKey{}).(*string)
	switch {
	case !ok:
	case event.Kind == httpsession.EndedByOthers:
		*reason = fmt.Sprintf("You were logged out from elsewhere, or by a log-in on more than %d devices.", maxDevices)
	case event.Kind == httpsession.Expired:
		*reason = "Your session has ended."
	}
}

func endReason(r *http.Request) string {
	reason, _ := r.Context().Value(endReasonKey{}).(*string)
	if reason == nil {
		return ""
	}
	return *reason
}
