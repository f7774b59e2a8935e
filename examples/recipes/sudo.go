package recipes

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/httpsession"
)

// Sudo asks for the password again before what matters, if it was given more than 15 minutes ago.
func Sudo(store *pgsession.Store, isPassword func(user, password string) bool, setPassword func(user, password string) error, now func() time.Time) http.Handler {
	type values struct {
		PasswordAt time.Time `json:"password_at,omitzero"`
	}
	sessions := httpsession.New[values](store, httpsession.WithLogInPage("/login"))
	given := func(v *values) error { v.PasswordAt = now(); return nil }
	sudo := func(next http.Handler) http.Handler {
		return sessions.RequireUser(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch isFresh := now().Sub(sessions.Get(r).Values.PasswordAt) < 15*time.Minute; {
			case isFresh:
				next.ServeHTTP(w, r)
			case r.Method == http.MethodGet:
				http.Redirect(w, r, "/confirm?next="+url.QueryEscape(r.RequestURI), http.StatusSeeOther)
			default:
				http.Error(w, "Please give your password again, and then repeat this.", http.StatusForbidden)
			}
		}))
	}
	answer := func(w http.ResponseWriter, r *http.Request, err error) {
		if err != nil {
			sessions.Error(w, r, err)
			return
		}
		http.Redirect(w, r, httpsession.NextPage(r), http.StatusSeeOther)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) { // check the password first, and limit tries
		answer(w, r, sessions.LogIn(w, r, r.PostFormValue("user"), given))
	})
	mux.Handle("POST /confirm", sessions.RequireUser(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isPassword(sessions.Get(r).UserID, r.PostFormValue("password")) { // limit tries here too
			http.Error(w, "This password is wrong.", http.StatusForbidden)
			return
		}
		answer(w, r, sessions.RenewID(w, r, given)) // an id that was stolen before does not gain the right
	})))
	mux.Handle("POST /password", sudo(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		this := sessions.Get(r)
		err := setPassword(this.UserID, r.PostFormValue("new"))
		if err == nil { // after the password: a log-in with the old one fails from then on
			_, err = store.DeleteByUser(context.WithoutCancel(r.Context()), this.UserID, this.Handle)
		}
		if err == nil { // after the others: if the browser hangs up, they are ended all the same
			err = sessions.RenewID(w, r, nil)
		}
		answer(w, r, err)
	})))
	mux.Handle("/account/delete", sudo(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "Really?")
	})))
	return http.NewCrossOriginProtection().Handler(sessions.Handler(mux))
}
