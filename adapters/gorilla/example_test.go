package gorillastore_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/pgsession/pgsession"
	gorillastore "github.com/pgsession/pgsession/adapters/gorilla"
)

// A log-in: the value under the user key changes, so that Save moves the session to a new token.
func Example() {
	store := gorillastore.New(pgsession.InMemory(), gorillastore.WithUserKey("user_id"))
	logIn := func(w http.ResponseWriter, r *http.Request) {
		session, err := store.Get(r, "session")
		if err == nil {
			session.Values["user_id"] = "ann" // after a check of the password
			err = session.Save(r, w)
		}
		if err != nil {
			http.Error(w, "Please try again.", http.StatusServiceUnavailable)
			return
		}
		http.Redirect(w, r, "/", http.StatusSeeOther)
	}

	w := httptest.NewRecorder()
	logIn(w, httptest.NewRequest("POST", "/login", nil))
	cookie := w.Result().Cookies()[0]
	fmt.Println(w.Code, cookie.Name, len(cookie.Value), cookie.Secure, cookie.HttpOnly)
	// Output: 303 session 43 true true
}
