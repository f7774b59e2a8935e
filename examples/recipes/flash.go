package recipes

import (
	"fmt"
	"net/http"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/httpsession"
)

// Flash shows a message on the next page, once, also if two pages load at the same time.
func Flash(store *pgsession.Store) http.Handler {
	type values struct {
		Flash string `json:"flash,omitempty"`
	}
	sessions := httpsession.New[values](store)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /save", func(w http.ResponseWriter, r *http.Request) {
		if err := sessions.Update(w, r, func(v *values) error { v.Flash = "Saved."; return nil }); err != nil {
			sessions.Error(w, r, err)
			return
		}
		http.Redirect(w, r, "/", http.StatusSeeOther)
	})
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		var flash string
		if sessions.Get(r).Values.Flash != "" { // pages without a message write nothing
			err := sessions.Update(w, r, func(v *values) error { flash, v.Flash = v.Flash, ""; return nil })
			if err != nil {
				sessions.Error(w, r, err)
				return
			}
		}
		fmt.Fprintf(w, "message %q", flash)
	})
	return http.NewCrossOriginProtection().Handler(sessions.Handler(mux))
}
