// Command scs counts a visitor's visits, before and after a log-in, with github.com/alexedwards/scs.
package main

import (
	"html/template"
	"log"
	"net/http"

	"github.com/alexedwards/scs/v2"

	"github.com/pgsession/pgsession"
	scsstore "github.com/pgsession/pgsession/adapters/scs"
)

var page = template.Must(template.New("").Parse(`<p>Hello {{or .User "guest"}}, this is visit {{.Visits}}.
	<form method=post><input name=name value=ann><button formaction=/login>Log in</button><button formaction=/logout>Log out</button></form>`))

func main() {
	sessions := scs.New()
	sessions.Store = scsstore.New(pgsession.InMemory(), "session")
	sessions.Codec = scsstore.UserCodec(sessions.Codec, "userID")
	sessions.ErrorFunc = scsstore.Error

	http.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		visits := sessions.GetInt(r.Context(), "visits") + 1
		sessions.Put(r.Context(), "visits", visits)
		page.Execute(w, map[string]any{"User": sessions.GetString(r.Context(), "userID"), "Visits": visits})
	})
	http.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) { // check a password first
		if err := sessions.RenewToken(r.Context()); err != nil {
			scsstore.Error(w, r, err)
			return
		}
		sessions.Put(r.Context(), "userID", r.FormValue("name"))
		http.Redirect(w, r, "/", http.StatusSeeOther)
	})
	http.HandleFunc("POST /logout", func(w http.ResponseWriter, r *http.Request) {
		if err := sessions.Destroy(r.Context()); err != nil {
			scsstore.Error(w, r, err)
			return
		}
		http.Redirect(w, r, "/", http.StatusSeeOther)
	})
	app := http.NewCrossOriginProtection().Handler(scsstore.LoadAndSave(sessions, http.DefaultServeMux))
	log.Fatal(http.ListenAndServe("localhost:8080", app))
}
