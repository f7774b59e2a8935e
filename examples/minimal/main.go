// Command minimal counts each visitor's visits.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pgsession/pgsession"
)

func main() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	check(err)
	keys, err := pgsession.ParseKeyRing(os.Getenv("SESSION_KEYS")) // openssl rand -hex 32
	check(err)
	store := pgsession.New(pool, keys)
	check(store.Init(ctx))
	store.SpawnCleanup(ctx, 10*time.Minute)
	check(http.ListenAndServe("localhost:8080", visits(store)))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func visits(store *pgsession.Store) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var id pgsession.ID // the zero ID names no session
		if cookie, err := r.Cookie("session"); err == nil {
			id, _ = pgsession.ParseID(cookie.Value)
		}
		_, err := store.Load(r.Context(), id)
		if errors.Is(err, pgsession.ErrNotFound) {
			id, err = store.Create(r.Context(), pgsession.Data{Values: 0}, time.Hour)
		}
		var count int
		if err == nil {
			err = store.Update(r.Context(), id, time.Hour, func(session *pgsession.Session) (any, error) {
				err := session.Decode(&count)
				return count + 1, err
			})
		}
		if err != nil { // an outage: the cookie stays, nobody is logged out
			http.Error(w, "Please try again.", http.StatusServiceUnavailable)
			return
		}
		http.SetCookie(w, &http.Cookie{Name: "session", Value: id.Token(), Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode})
		fmt.Fprintf(w, "Visits: %d\n", count+1)
	}
}
