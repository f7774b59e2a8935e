package recipes

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/httpsession"
)

// APITokens lets users make tokens for scripts, list them and end them. Tokens have a table of
// their own, so that "your devices", "log out everywhere" and WithMaxSessions do not count them.
func APITokens(sessionStore, tokenStore *pgsession.Store) http.Handler {
	type token struct {
		Name   string   `json:"name"`
		Scopes []string `json:"scopes"`
	}
	const day = 24 * time.Hour
	sessions := httpsession.New[struct{}](sessionStore)
	tokens := httpsession.New[token](tokenStore, httpsession.WithBearer(), httpsession.WithMaxSessions(20),
		httpsession.WithRemember(30*day, 90*day)) // unused for 30 days, and 90 days in all

	pages := http.NewServeMux()
	pages.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) { // check a password first
		if err := sessions.LogIn(w, r, r.PostFormValue("user"), nil); err != nil {
			sessions.Error(w, r, err)
		}
	})
	pages.Handle("POST /tokens", sessions.RequireUser(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		made := token{Name: r.PostFormValue("name"), Scopes: []string{"orders:read"}}
		user, err := sessions.Reload(r) // the form may have come slowly, and the user logged out meanwhile
		if err == nil && user.UserID == "" {
			err = pgsession.ErrNotFound
		}
		var text string
		if err == nil {
			text, err = tokens.IssueToken(r.Context(), user.UserID, made, httpsession.Remember())
		}
		if err != nil {
			sessions.Error(w, r, err)
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		fmt.Fprint(w, text) // it cannot be shown again
	})))
	pages.Handle("GET /tokens", sessions.RequireUser(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		found, err := tokenStore.FindByUser(r.Context(), sessions.Get(r).UserID, 20)
		if err != nil {
			sessions.Error(w, r, err)
			return
		}
		for _, s := range found {
			kept, _ := pgsession.Decode[token](s) // one that does not decode can still be ended
			fmt.Fprintf(w, "%s %q until %s\n", s.Handle, kept.Name, s.ExpiresAt.Format(time.DateOnly))
		}
	})))
	pages.Handle("POST /tokens/{handle}/end", sessions.RequireUser(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handle, err := pgsession.ParseHandle(r.PathValue("handle"))
		if err == nil { // none of another user's
			err = tokenStore.Revoke(context.WithoutCancel(r.Context()), sessions.Get(r).UserID, handle)
		}
		if err != nil {
			sessions.Error(w, r, err)
			return
		}
		http.Redirect(w, r, "/tokens", http.StatusSeeOther)
	})))

	mayRead := tokens.Require(func(s httpsession.Session[token]) bool {
		return slices.Contains(s.Values.Scopes, "orders:read")
	})
	mux := http.NewServeMux()
	mux.Handle("/", http.NewCrossOriginProtection().Handler(sessions.Handler(pages)))
	mux.Handle("GET /api/orders", mayRead(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "orders of ", tokens.Get(r).UserID)
	})))
	return mux
}
