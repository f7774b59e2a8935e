// Command chi counts for each visitor, before and after a log-in, with the router chi.
package main

import (
	"html/template"
	"log"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/httpsession"
)

type visitor struct{ Count int }

var page = template.Must(template.New("").Parse(`<p>Hello {{or .UserID "guest"}}, you have counted to {{.Values.Count}}.
	<form method=post><input name=name value=ann><button formaction=/login>Log in</button><button formaction=/logout>Log out</button><button formaction=/count>Count</button></form>`))

func main() {
	sessions := httpsession.New[visitor](pgsession.InMemory()) // README.md shows a store in PostgreSQL
	redirect := func(w http.ResponseWriter, r *http.Request, err error) {
		if err != nil {
			sessions.Error(w, r, err)
			return
		}
		http.Redirect(w, r, "/", http.StatusSeeOther)
	}

	router := chi.NewRouter()
	router.Use(http.NewCrossOriginProtection().Handler, sessions.Handler) // chi takes net/http's middleware as it is
	router.Get("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "private")
		page.Execute(w, sessions.Get(r))
	})
	router.Post("/count", func(w http.ResponseWriter, r *http.Request) {
		redirect(w, r, sessions.Update(w, r, func(v *visitor) error { v.Count++; return nil }))
	})
	router.Post("/login", func(w http.ResponseWriter, r *http.Request) {
		redirect(w, r, sessions.LogIn(w, r, r.FormValue("name"), nil)) // check a password first
	})
	router.Post("/logout", func(w http.ResponseWriter, r *http.Request) {
		redirect(w, r, sessions.LogOut(w, r))
	})
	router.Group(func(users chi.Router) {
		users.Use(sessions.RequireUser)
		users.Get("/account", func(w http.ResponseWriter, r *http.Request) {
			page.Execute(w, sessions.Get(r))
		})
	})
	server := http.Server{Addr: "localhost:8080", Handler: router, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second}
	log.Fatal(server.ListenAndServe())
}
