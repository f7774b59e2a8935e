package recipes

import (
	"errors"
	"net/http"
	"time"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/httpsession"
)

// SecondFactor asks for a password, and then for a code. In between the visitor is a guest.
func SecondFactor(store *pgsession.Store, isPassword, isCode func(user, secret string) bool, passwordChangedAt func(user string) time.Time) http.Handler {
	type values struct {
		Cart     []string  `json:"cart,omitempty"`
		Pending  string    `json:"pending,omitempty"` // who has given the password
		Since    time.Time `json:"since,omitzero"`    // when
		Remember bool      `json:"remember,omitempty"`
		Tries    int       `json:"tries,omitempty"`
	}
	sessions := httpsession.New[values](store)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		user := r.PostFormValue("user")
		if !isPassword(user, r.PostFormValue("password")) {
			http.Error(w, "This name and password do not go together.", http.StatusUnauthorized)
			return
		}
		setPending := func(v *values) error {
			*v = values{Cart: v.Cart, Pending: user, Since: time.Now(), Remember: r.PostFormValue("remember") != ""}
			return nil
		}
		// Under a new id: somebody who has planted the guest's cookie must not be half logged in.
		err := sessions.RenewID(w, r, setPending)
		if errors.Is(err, pgsession.ErrNotFound) { // there was no session
			err = sessions.Update(w, r, setPending)
		}
		if err != nil {
			sessions.Error(w, r, err)
			return
		}
		http.Redirect(w, r, "/code", http.StatusSeeOther)
	})
	errPassword := errors.New("the password first")
	mux.HandleFunc("POST /code", func(w http.ResponseWriter, r *http.Request) {
		if sessions.Get(r).Values.Pending == "" { // an Update would begin a session
			http.Error(w, "Please give your password first.", http.StatusUnauthorized)
			return
		}
		var pending values
		err := sessions.Update(w, r, func(v *values) error {
			if v.Pending == "" || v.Tries >= 5 || time.Since(v.Since) > 5*time.Minute ||
				passwordChangedAt(v.Pending).After(v.Since) { // a guest's session, which DeleteByUser does not end
				return errPassword
			}
			v.Tries++ // before the code is looked at, so that requests in parallel gain nothing
			pending = *v
			return nil
		})
		switch {
		case errors.Is(err, errPassword):
			http.Error(w, "Please give your password again.", http.StatusUnauthorized)
			return
		case err == nil && !isCode(pending.Pending, r.PostFormValue("code")):
			http.Error(w, "This code is wrong.", http.StatusUnauthorized)
			return
		case err == nil:
			var options []httpsession.LogInOption
			if pending.Remember {
				options = append(options, httpsession.Remember())
			}
			err = sessions.LogIn(w, r, pending.Pending, func(v *values) error { *v = values{Cart: v.Cart}; return nil }, options...)
		}
		if err != nil {
			sessions.Error(w, r, err)
			return
		}
		http.Redirect(w, r, "/account", http.StatusSeeOther)
	})
	mux.Handle("/account", sessions.RequireUser(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte("The account of " + sessions.Get(r).UserID))
	})))
	return http.NewCrossOriginProtection().Handler(sessions.Handler(mux))
}
