// Command minimal counts a visitor's visits, before and after a log-in.
package main

import (
	"html/template"
	"log"
	"net/http"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/httpsession"
)

func main() {
	type visitor struct{ Visits int }
	page := template.Must(template.New("").Parse(`<p>Hello {{or .UserID "guest"}}, this is visit {{.Values.Visits}}.
		<form method=post><input name=name value=ann><button formaction=/login>Log in</button><button formaction=/logout>Log out</button></form>`))
	sessions := httpsession.New[visitor](pgsession.InMemory())
	redirect := func(w http.ResponseWriter, r *http.Request, err error) {
		if err != nil {
			sessions.Error(w, r, err)
			return
		}
		http.Redirect(w, r, "/", http.StatusSeeOther)
	}
	http.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		if err := sessions.Update(w, r, func(v *visitor) error { v.Visits++; return nil }); err != nil {
			sessions.Error(w, r, err)
			return
		}
		page.Execute(w, sessions.Get(r))
	})
	http.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		redirect(w, r, sessions.LogIn(w, r, r.FormValue("name"), nil)) // check a password first
	})
	http.HandleFunc("POST /logout", func(w http.ResponseWriter, r *http.Request) {
		redirect(w, r, sessions.LogOut(w, r))
	})
	app := http.NewCrossOriginProtection().Handler(sessions.Handler(http.DefaultServeMux))
	log.Fatal(http.ListenAndServe("localhost:8080", app))
}
