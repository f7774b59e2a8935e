package httpsession_test

import (
	"fmt"
	"net/http"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/httpsession"
)

// Visitor is what a session holds.
type Visitor struct {
	Visits int `json:"visits"`
}

// A whole program: a page that counts visits, a log-in and a log-out. The count goes through the
// log-in. In production the store is one that pgsession.New made, and the log-in checks a password.
func Example() {
	sessions := httpsession.New[Visitor](pgsession.InMemory())
	mux := http.NewServeMux()

	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		err := sessions.Update(w, r, func(v *Visitor) error {
			v.Visits++
			return nil
		})
		if err != nil {
			sessions.Error(w, r, err)
			return
		}
		s := sessions.Get(r)
		fmt.Fprintf(w, "Hello %q, this is visit %d.\n", s.UserID, s.Values.Visits)
	})
	mux.HandleFunc("POST /log-in", func(w http.ResponseWriter, r *http.Request) {
		if err := sessions.LogIn(w, r, r.FormValue("user"), nil); err != nil {
			sessions.Error(w, r, err)
			return
		}
		http.Redirect(w, r, "/", http.StatusSeeOther)
	})
	mux.HandleFunc("POST /log-out", func(w http.ResponseWriter, r *http.Request) {
		if err := sessions.LogOut(w, r); err != nil {
			sessions.Error(w, r, err)
			return
		}
		http.Redirect(w, r, "/", http.StatusSeeOther)
	})

	app := http.NewCrossOriginProtection().Handler(sessions.Handler(mux))
	// In a program: log.Fatal(http.ListenAndServe("localhost:8080", app))
	visit(app, "GET /", "GET /", "POST /log-in?user=ann", "GET /", "POST /log-out", "GET /")
	// Output:
	// GET /: Hello "", this is visit 1.
	// GET /: Hello "", this is visit 2.
	// POST /log-in?user=ann: 303 /
	// GET /: Hello "ann", this is visit 3.
	// POST /log-out: 303 /
	// GET /: Hello "", this is visit 1.
}
