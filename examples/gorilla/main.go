// Command gorilla counts for each visitor, before and after a log-in, with gorilla/sessions.
package main

import (
	"html/template"
	"log"
	"net/http"
	"time"

	"github.com/gorilla/sessions"

	"github.com/pgsession/pgsession"
	gorillastore "github.com/pgsession/pgsession/adapters/gorilla"
)

var page = template.Must(template.New("").Parse(`<p>Hello {{or .user "guest"}}, you have counted to {{.count}}.
	<form method=post><input name=name value=ann><button formaction=/login>Log in</button><button formaction=/logout>Log out</button><button formaction=/count>Count</button></form>`))

func main() {
	store := gorillastore.New(pgsession.InMemory(), gorillastore.WithUserKey("user")) // Safari needs store.Options.Secure = false on localhost

	fail := func(w http.ResponseWriter, err error) {
		log.Print(err)
		http.Error(w, "Please try again.", http.StatusServiceUnavailable)
	}
	// handle lets a function change the session, and saves it before the answer begins.
	handle := func(pattern string, change func(*http.Request, *sessions.Session)) {
		http.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			session, err := store.Get(r, "session")
			if err == nil {
				change(r, session)
				err = session.Save(r, w)
			}
			if err != nil {
				fail(w, err)
				return
			}
			http.Redirect(w, r, "/", http.StatusSeeOther)
		})
	}
	http.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		session, err := store.Get(r, "session")
		if err != nil {
			fail(w, err)
			return
		}
		count, _ := session.Values["count"].(int)
		w.Header().Set("Cache-Control", "private")
		page.Execute(w, map[string]any{"user": session.Values["user"], "count": count})
	})
	handle("POST /count", func(_ *http.Request, session *sessions.Session) {
		count, _ := session.Values["count"].(int)
		session.Values["count"] = count + 1
	})
	handle("POST /login", func(r *http.Request, session *sessions.Session) {
		session.Values["user"] = r.FormValue("name") // check a password first
	})
	handle("POST /logout", func(_ *http.Request, session *sessions.Session) {
		session.Options.MaxAge = -1
	})
	server := http.Server{Addr: "localhost:8080", Handler: http.NewCrossOriginProtection().Handler(http.DefaultServeMux), ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second}
	log.Fatal(server.ListenAndServe())
}
