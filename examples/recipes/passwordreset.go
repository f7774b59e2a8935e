package recipes

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/pgsession/pgsession"
)

// PasswordReset sends a link that works once, for 30 minutes.
func PasswordReset(store *pgsession.Store, send func(user, link string), setPassword func(user, password string) error) http.Handler {
	entries := store.KeyValue()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /forgotten", func(w http.ResponseWriter, r *http.Request) {
		user, token := r.PostFormValue("user"), rand.Text() // 130 random bits: nothing that can be guessed, such as the user's name
		if err := entries.Put(r.Context(), "reset:"+token, []byte(user), 30*time.Minute); err != nil {
			http.Error(w, "Please try again.", http.StatusServiceUnavailable)
			return
		}
		send(user, "https://example.com/reset#"+token) // after the #, so that no log and no Referer has it; a script fills the form
		fmt.Fprint(w, "If there is such a user, a link is on its way.")
	})
	mux.HandleFunc("POST /reset", func(w http.ResponseWriter, r *http.Request) {
		ctx := context.WithoutCancel(r.Context()) // a hang-up must not leave the thief's sessions
		user, err := entries.Take(ctx, "reset:"+r.PostFormValue("token"))
		if errors.Is(err, pgsession.ErrNotFound) {
			http.Error(w, "This link was used, or is too old.", http.StatusGone)
			return
		}
		if err == nil {
			err = setPassword(string(user), r.PostFormValue("password"))
		}
		if err == nil { // after the password: a log-in with the old one fails from then on
			_, err = store.DeleteByUser(ctx, string(user))
		}
		if err != nil {
			http.Error(w, "Please ask for a new link.", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, "Please log in with the new password.") // a second factor is asked for there
	})
	return http.NewCrossOriginProtection().Handler(mux)
}
