// Command scs counts for each visitor, before and after a log-in, with github.com/alexedwards/scs.
package main

import (
	"html/template"
	"log"
	"net/http"
	"time"

	"github.com/alexedwards/scs/v2"

	"github.com/pgsession/pgsession"
	scsstore "github.com/pgsession/pgsession/adapters/scs"
)

var page = template.Must(template.New("").Parse(`<p>Hello {{or .User "guest"}}, you have counted to {{.Count}}.
	<form method=post><input name=name value=ann><button formaction=/login>Log in</button><button formaction=/logout>Log out</button><button formaction=/count>Count</button></form>`))

func main() {
	sessions := scs.New()
	sessions.Store = scsstore.New(pgsession.InMemory(), "session")
	sessions.Codec = scsstore.UserCodec(sessions.Codec, "userID")
	sessions.ErrorFunc = scsstore.Error
	sessions.Cookie.Secure = true // Chrome, Firefox and Edge take it from http://localhost, Safari does not

	http.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "private")
		page.Execute(w, map[string]any{"User": sessions.GetString(r.Context(), "userID"), "Count": sessions.GetInt(r.Context(), "count")})
	})
	http.HandleFunc("POST /count", func(w http.ResponseWriter, r *http.Request) {
		sessions.Put(r.Context(), "count", sessions.GetInt(r.Context(), "count")+1)
		http.Redirect(w, r, "/", http.StatusSeeOther)
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
	server := http.Server{Addr: "localhost:8080", Handler: app, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second}
	log.Fatal(server.ListenAndServe())
}
