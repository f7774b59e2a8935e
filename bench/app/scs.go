package app

import (
	"net/http"
	"time"

	"github.com/alexedwards/scs/pgxstore"
	"github.com/alexedwards/scs/v2"
	"github.com/jackc/pgx/v5/pgxpool"
)

// OnSCS is the application on scs, as scs's README shows it.
func OnSCS(pool *pgxpool.Pool, at Hook) http.Handler {
	sessions := scs.New()
	sessions.Store = pgxstore.NewWithCleanupInterval(pool, 0)
	sessions.Lifetime = 12 * time.Hour
	sessions.ErrorFunc = func(w http.ResponseWriter, _ *http.Request, err error) {
		http.Error(w, err.Error(), http.StatusInternalServerError) // the default logs it, too
	}
	answer := func(w http.ResponseWriter, r *http.Request, err error) {
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		ctx := r.Context()
		items, _ := sessions.Get(ctx, "items").([]string)
		write(w, Page{sessions.GetString(ctx, "user"), items, sessions.GetInt(ctx, "count")})
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, r, nil)
	})
	mux.HandleFunc("POST /add", func(w http.ResponseWriter, r *http.Request) {
		at("add", w, r)
		items, _ := sessions.Get(r.Context(), "items").([]string)
		sessions.Put(r.Context(), "items", append(items, r.FormValue("item")))
		at("added", w, r)
		answer(w, r, nil)
	})
	mux.HandleFunc("POST /count", func(w http.ResponseWriter, r *http.Request) {
		sessions.Put(r.Context(), "count", sessions.GetInt(r.Context(), "count")+1)
		answer(w, r, nil)
	})
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		err := sessions.RenewToken(r.Context())
		sessions.Put(r.Context(), "user", r.FormValue("user"))
		answer(w, r, err)
	})
	mux.HandleFunc("POST /logout", func(w http.ResponseWriter, r *http.Request) {
		answer(w, r, sessions.Destroy(r.Context()))
	})
	return sessions.LoadAndSave(mux)
}
