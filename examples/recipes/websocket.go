package recipes

import (
	"context"
	"net/http"

	"github.com/coder/websocket"

	"github.com/pgsession/pgsession/httpsession"
)

// SessionEnded is the close code that tells a page not to connect again (4000 to 4999 are the
// application's, RFC 6455, 7.4.2).
const SessionEnded websocket.StatusCode = 4001

// WebSocket answers a user's messages until the session ends. Accept refuses connections from other
// sites.
func WebSocket[V any](sessions *httpsession.Manager[V], answer func(user string, message []byte) []byte) http.Handler {
	return sessions.Passive(sessions.RequireUser(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return // it has answered
		}
		defer conn.CloseNow()
		// Not conn.Read(watched): that would close the connection without a code.
		stop := context.AfterFunc(sessions.Watch(r), func() { conn.Close(SessionEnded, "the session has ended") })
		defer stop()
		for {
			kind, message, err := conn.Read(r.Context())
			if err != nil || conn.Write(r.Context(), kind, answer(sessions.Get(r).UserID, message)) != nil {
				return
			}
		}
	})))
}
