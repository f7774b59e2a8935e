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
		session, err := store.Update(r.Context(), id, time.Hour, increment)
		if errors.Is(err, pgsession.ErrNotFound) {
			session, err = store.Create(r.Context(), pgsession.Data{Values: 1}, time.Hour)
		}
		var count int
		if err == nil {
			err = session.Decode(&count)
		}
		if err != nil { // an outage: the cookie stays, nobody is logged out
			http.Error(w, "Please try again.", http.StatusServiceUnavailable)
			return
		}
		http.SetCookie(w, &http.Cookie{Name: "session", Value: session.ID.Token(), Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode})
		fmt.Fprintf(w, "Visits: %d\n", count)
	}
}

// increment may run several times, each time on what is stored then.
func increment(session *pgsession.Session) (any, error) {
	count, err := pgsession.Decode[int](session)
	return count + 1, err
}
