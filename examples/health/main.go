// Command health shows a store's health by two health libraries, for probes and for operators.
package main

import (
	"log"
	"net/http"
	"time"

	"github.com/alexliesenfeld/health"
	healthgo "github.com/hellofresh/health-go/v5"

	"github.com/pgsession/pgsession"
)

func main() {
	store := pgsession.InMemory()
	checker, ready := readiness(store)
	defer checker.Stop()
	forOperators, err := status(store)
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /readyz", ready)
	mux.Handle("GET /status", forOperators)
	server := &http.Server{Addr: "localhost:8080", Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second}
	log.Print(server.ListenAndServe())
}

// readiness is a handler on github.com/alexliesenfeld/health. The checker runs until it is stopped.
func readiness(store *pgsession.Store) (health.Checker, http.Handler) {
	checker := health.NewChecker(
		health.WithDisabledDetails(), // they hold the database's error
		health.WithPeriodicCheck(5*time.Second, 0, health.Check{Name: "sessions", Check: store.Check}),
	)
	return checker, health.NewHandler(checker)
}

// status is a handler on github.com/hellofresh/health-go, for a port that strangers do not reach.
func status(store *pgsession.Store) (http.Handler, error) {
	checks, err := healthgo.New(healthgo.WithChecks(healthgo.Config{
		Name:    "sessions",
		Timeout: 3 * time.Second, // longer than Check may take, or its goroutine stays
		Check:   store.Check,
	}))
	if err != nil {
		return nil, err
	}
	return checks.Handler(), nil
}
