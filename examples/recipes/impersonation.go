package recipes

import (
	"fmt"
	"net/http"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/httpsession"
)

// Impersonation lets administrators see the application as a user does. The session stays the
// administrator's.
func Impersonation(store *pgsession.Store, isAdmin func(user string) bool) http.Handler {
	type values struct {
		ActingAs string `json:"acting_as,omitempty"`
	}
	sessions := httpsession.New[values](store)
	mayImpersonate := sessions.Require(func(s httpsession.Session[values]) bool { return isAdmin(s.UserID) })
	// Pages show what belongs to subject. UserID is who does it, for logs and for the audit trail.
	subject := func(s httpsession.Session[values]) string {
		if s.Values.ActingAs != "" && isAdmin(s.UserID) { // asked again: the role may be gone
			return s.Values.ActingAs
		}
		return s.UserID
	}
	act := func(as func(*http.Request) string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			user := as(r)
			if isAdmin(user) {
				http.Error(w, "Administrators cannot be impersonated.", http.StatusForbidden)
				return
			}
			// Not Update: the new id ends the streams that show the other user.
			err := sessions.RenewID(w, r, func(v *values) error { v.ActingAs = user; return nil })
			if err != nil {
				sessions.Error(w, r, err)
				return
			}
			http.Redirect(w, r, "/", http.StatusSeeOther)
		})
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) { // check a password first
		change := func(v *values) error { v.ActingAs = ""; return nil }
		if err := sessions.LogIn(w, r, r.PostFormValue("user"), change); err != nil {
			sessions.Error(w, r, err)
		}
	})
	mux.Handle("POST /act", mayImpersonate(act(func(r *http.Request) string { return r.PostFormValue("as") })))
	mux.Handle("POST /act/stop", mayImpersonate(act(func(*http.Request) string { return "" })))
	mux.Handle("GET /", sessions.RequireUser(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := sessions.Get(r)
		fmt.Fprintf(w, "orders of %s, for %s", subject(s), s.UserID)
	})))
	mux.Handle("POST /password", sessions.RequireUser(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s := sessions.Get(r); subject(s) != s.UserID {
			http.Error(w, "Not on behalf of somebody else.", http.StatusForbidden)
		}
	})))
	return http.NewCrossOriginProtection().Handler(sessions.Handler(mux))
}
