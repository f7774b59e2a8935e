package recipes

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/pgsession/pgsession/httpsession"
)

// Stream sends a user's events until the session ends, on whatever node that happens. The
// EventSource of a page connects again when a stream breaks, so the stream is Passive: it prolongs
// nothing. After "ended" the page closes the EventSource. Streams end with the context stopping,
// since Shutdown of a http.Server would wait for them.
func Stream[V any](stopping context.Context, sessions *httpsession.Manager[V], events func(ctx context.Context, user string) <-chan string) http.Handler {
	return sessions.Passive(sessions.RequireUser(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		watched := sessions.Watch(r)
		control := http.NewResponseController(w)
		if control.SetReadDeadline(time.Time{}) != nil || control.SetWriteDeadline(time.Time{}) != nil {
			return // the server's time-outs are for pages
		}
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Cache-Control", "no-store")
		for from := events(watched, sessions.Get(r).UserID); control.Flush() == nil; {
			select {
			case data := <-from:
				fmt.Fprintf(w, "data: %s\n\n", data)
			case <-watched.Done():
				fmt.Fprint(w, "event: ended\ndata:\n\n")
				return
			case <-stopping.Done():
				return // the page connects again, to another node
			}
		}
	})))
}
