package main

import (
	"encoding/json"
	"net/http"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/httpsession"
)

// withPgsession is the application on httpsession.
func withPgsession(store *pgsession.Store, during step) http.Handler {
	type values struct {
		Items map[string]bool
		Count int
	}
	sessions := httpsession.New[values](store)
	answer := func(w http.ResponseWriter, r *http.Request, err error) {
		if err != nil {
			sessions.Error(w, r, err)
			return
		}
		session := sessions.Get(r)
		json.NewEncoder(w).Encode(page{session.UserID, session.Values.Items, session.Values.Count})
	}
	add := func(item string) func(*values) error {
		return func(v *values) error {
			if v.Items == nil {
				v.Items = map[string]bool{}
			}
			v.Items[item] = true
			return nil
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, r, nil)
	})
	mux.HandleFunc("POST /add", func(w http.ResponseWriter, r *http.Request) {
		during("add", w, r)
		err := sessions.Update(w, r, add(r.FormValue("item")))
		during("added", w, r)
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
