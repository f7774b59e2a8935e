package main

import (
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsession/pgsession/bench/internal/server"
)

var discardLog = log.New(io.Discard, "", 0)

// A requestResult is how many statements, each a round trip, requests send to the database.
type requestResult struct {
	Contender  string           `json:"contender"`
	Statements map[string]int64 `json:"statements"` // by request
}

var requests = []string{"GET / without a cookie", "GET /", "POST /add", "POST /login", "POST /logout"}

func (made *report) countStatements(ctx context.Context, postgres *server.Server, c contender) error {
	config, err := postgres.Config(4)
	if err != nil {
		return err
	}
	var sent server.Statements
	config.ConnConfig.Tracer = &sent
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	handler, err := c.open(pool, func(string, http.ResponseWriter, *http.Request) {})
	if err != nil {
		return err
	}
	served := httptest.NewServer(handler)
	defer served.Close()
	b := (&site{Server: served}).newBrowser()
	result := requestResult{c.Name, map[string]int64{}}
	count := func(name, method, path string) {
		before := sent.Count()
		b.do(method, path)
		result.Statements[name] = sent.Count() - before
	}
	count("GET / without a cookie", "GET", "/")
	b.do("POST", "/add?item=pen")
	count("POST /login", "POST", "/login?user=ann")
	count("GET /", "GET", "/")
	count("POST /add", "POST", "/add?item=ink")
	count("POST /logout", "POST", "/logout")
	made.Requests = append(made.Requests, result)
	return nil
}
