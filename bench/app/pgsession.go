package app

import (
	"net/http"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/httpsession"
)

// OnHTTPSession is the application on httpsession.
func OnHTTPSession(store *pgsession.Store, at Hook) http.Handler {
	type values struct {
		Items []string
		Count int
	}
	sessions := httpsession.New[values](store)
	answer := func(w http.ResponseWriter, r *http.Request, err error) {
		if err != nil {
			sessions.Error(w, r, err)
			return
		}
		session := sessions.Get(r)
		write(w, Page{session.UserID, session.Values.Items, session.Values.Count})
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, r, nil)
	})
	mux.HandleFunc("POST /add", func(w http.ResponseWriter, r *http.Request) {
		at("add", w, r)
		err := sessions.Update(w, r, func(v *values) error {
			v.Items = append(v.Items, r.FormValue("item"))
			return nil
		})
		at("added", w, r)
		answer(w, r, err)
	})
	mux.HandleFunc("POST /count", func(w http.ResponseWriter, r *http.Request) {
		answer(w, r, sessions.Update(w, r, func(v *values) error { v.Count++; return nil }))
	})
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		answer(w, r, sessions.LogIn(w, r, r.FormValue("user"), nil))
	})
	mux.HandleFunc("POST /logout", func(w http.ResponseWriter, r *http.Request) {
		answer(w, r, sessions.LogOut(w, r))
	})
	return sessions.Handler(mux)
}
