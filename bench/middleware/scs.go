package main

import (
	"encoding/gob"
	"encoding/json"
	"net/http"
	"time"

	"github.com/alexedwards/scs/pgxstore"
	"github.com/alexedwards/scs/v2"
	"github.com/jackc/pgx/v5/pgxpool"
)

// withSCS is the application on scs, as its README shows it.
func withSCS(pool *pgxpool.Pool, during step) http.Handler {
	gob.Register(map[string]bool{})
	sessions := scs.New()
	sessions.Store = pgxstore.NewWithCleanupInterval(pool, 0)
	sessions.Lifetime = 12 * time.Hour
	answer := func(w http.ResponseWriter, r *http.Request, err error) {
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		ctx := r.Context()
		items, _ := sessions.Get(ctx, "items").(map[string]bool)
		json.NewEncoder(w).Encode(page{sessions.GetString(ctx, "user"), items, sessions.GetInt(ctx, "count")})
	}
	add := func(r *http.Request, item string) {
		items, _ := sessions.Get(r.Context(), "items").(map[string]bool)
		if items == nil {
			items = map[string]bool{}
		}
		items[item] = true
		sessions.Put(r.Context(), "items", items)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, r, nil)
	})
	mux.HandleFunc("POST /add", func(w http.ResponseWriter, r *http.Request) {
		during("add", w, r)
		add(r, r.FormValue("item"))
		during("added", w, r)
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
