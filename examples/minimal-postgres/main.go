// Command minimal-postgres counts for each visitor, before and after a log-in, in a PostgreSQL that
// DATABASE_URL names.
package main

import (
	"context"
	"html/template"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/httpsession"
)

func main() {
	type visitor struct{ Count int }
	page := template.Must(template.New("").Parse(`<p>Hello {{or .UserID "guest"}}, you have counted to {{.Values.Count}}.
		<form method=post><input name=name value=ann><button formaction=/login>Log in</button><button formaction=/logout>Log out</button><button formaction=/count>Count</button></form>`))
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	check(err)
	keys, err := pgsession.ParseKeyRing(os.Getenv("SESSION_KEYS")) // openssl rand -hex 32 prints one
	check(err)
	store := pgsession.New(pool, keys)
	check(store.Init(ctx))
	store.SpawnCleanup(ctx, 10*time.Minute)

	sessions := httpsession.New[visitor](store) // Safari needs WithPlainHTTP on localhost
	redirect := func(w http.ResponseWriter, r *http.Request, err error) {
		if err != nil {
			sessions.Error(w, r, err)
			return
		}
		http.Redirect(w, r, "/", http.StatusSeeOther)
	}
	http.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "private")
		page.Execute(w, sessions.Get(r))
	})
	http.HandleFunc("POST /count", func(w http.ResponseWriter, r *http.Request) {
		redirect(w, r, sessions.Update(w, r, func(v *visitor) error { v.Count++; return nil }))
	})
	http.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		redirect(w, r, sessions.LogIn(w, r, r.FormValue("name"), nil)) // check a password first
	})
	http.HandleFunc("POST /logout", func(w http.ResponseWriter, r *http.Request) { redirect(w, r, sessions.LogOut(w, r)) })
	app := http.NewCrossOriginProtection().Handler(sessions.Handler(http.DefaultServeMux))
	server := http.Server{Addr: "localhost:8080", Handler: app, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second}
	check(server.ListenAndServe())
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
