package recipes

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/httpsession"
)

// IdleWarning lets a page count down. Asking for what is left keeps nobody logged in; the button
// "stay logged in" does.
func IdleWarning(store *pgsession.Store, now func() time.Time) http.Handler {
	sessions := httpsession.New[struct{}](store, httpsession.WithTTL(30*time.Minute))
	left := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := sessions.Get(r)
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{
			"logged_in": s.UserID != "", "ended": s.Ended, "seconds": max(0, int(s.ExpiresAt.Sub(now()).Seconds())),
		})
	})
	mux := http.NewServeMux()
	mux.Handle("GET /left", sessions.Passive(left))
	mux.Handle("POST /stay", sessions.RequireUser(left)) // the request itself prolongs the session
	mux.Handle("POST /login", sessions.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := sessions.LogIn(w, r, r.PostFormValue("user"), nil); err != nil { // check a password first
			sessions.Error(w, r, err)
		}
	})))
	return http.NewCrossOriginProtection().Handler(mux)
}
