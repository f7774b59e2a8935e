// Command gorilla counts a visitor's visits, before and after a log-in, with gorilla/sessions.
package main

import (
	"html/template"
	"log"
	"net/http"

	"github.com/gorilla/sessions"

	"github.com/pgsession/pgsession"
	gorillastore "github.com/pgsession/pgsession/adapters/gorilla"
)

var page = template.Must(template.New("").Parse(`<p>Hello {{or .user "guest"}}, this is visit {{.visits}}.
	<form method=post><input name=name value=ann><button formaction=/login>Log in</button><button formaction=/logout>Log out</button></form>`))

func main() {
	store := gorillastore.New(pgsession.InMemory(), gorillastore.WithUserKey("user"))
	store.Options.Secure = false // for http://localhost; leave it out behind TLS

	// handle lets a function change the session, and saves it before the answer begins.
	handle := func(pattern string, change func(*http.Request, *sessions.Session), answer func(http.ResponseWriter, *http.Request, *sessions.Session)) {
		http.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			session, err := store.Get(r, "session")
			if err == nil {
				change(r, session)
				err = session.Save(r, w)
			}
			if err != nil {
				log.Print(err)
				http.Error(w, "Please try again.", http.StatusServiceUnavailable)
				return
			}
			answer(w, r, session)
		})
	}
	back := func(w http.ResponseWriter, r *http.Request, _ *sessions.Session) {
		http.Redirect(w, r, "/", http.StatusSeeOther)
	}
	handle("GET /{$}", func(_ *http.Request, session *sessions.Session) {
		visits, _ := session.Values["visits"].(int)
		session.Values["visits"] = visits + 1
	}, func(w http.ResponseWriter, _ *http.Request, session *sessions.Session) {
		page.Execute(w, map[string]any{"user": session.Values["user"], "visits": session.Values["visits"]})
	})
	handle("POST /login", func(r *http.Request, session *sessions.Session) {
		session.Values["user"] = r.FormValue("name") // check a password first
	}, back)
	handle("POST /logout", func(_ *http.Request, session *sessions.Session) {
		session.Options.MaxAge = -1
	}, back)
	log.Fatal(http.ListenAndServe("localhost:8080", http.NewCrossOriginProtection().Handler(http.DefaultServeMux)))
}
