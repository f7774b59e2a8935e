// Command webapp is a small web application whose sessions are in PostgreSQL: notes, a log-in, and a page of the user's devices.
//
// It takes its database from DATABASE_URL and its keys from SESSION_KEYS. Without DATABASE_URL it starts a throw-away PostgreSQL.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch err := run(ctx, os.Args[1:], os.Getenv, slog.Default()); {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "webapp:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends.
func run(ctx context.Context, args []string, getenv func(string) string, log *slog.Logger) error {
	flags := flag.NewFlagSet("webapp", flag.ContinueOnError)
	addr := flags.String("addr", "localhost:8080", "the `address` to listen on")
	cert := flags.String("cert", "", "a `file` with the TLS certificate")
	key := flags.String("key", "", "a `file` with the certificate's key")
	behindTLS := flags.Bool("behind-tls-proxy", false, "the browser speaks TLS, with a proxy in front")
	if err := flags.Parse(args); err != nil {
		return err
	}
	tls := *cert != "" || *key != ""

	listener, err := net.Listen("tcp", *addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s is taken by another program: choose another address, with -addr or make demo ADDR=localhost:8081", *addr)
	}
	if err != nil {
		return err
	}
	defer listener.Close()

	databaseURL, keyRing, stopDatabase, err := configure(ctx, getenv, log)
	if err != nil {
		return err
	}
	defer stopDatabase()
	pool, err := pgxpool.New(ctx, databaseURL)
	if err != nil {
		return err
	}
	defer pool.Close()

	sessions := pgsession.New(pool, keyRing, pgsession.WithAbsoluteLifetime(absoluteLifetime), pgsession.WithLogger(log))
	if err := sessions.Init(ctx); err != nil {
		return err
	}
	// Not under ctx: clean-up goes on while the last requests are served, and Stop waits for it.
	cleanup := sessions.SpawnCleanup(context.WithoutCancel(ctx), 10*time.Minute)
	defer cleanup.Stop()

	server := &http.Server{
		Handler:           NewApp(sessions, demoAccounts(), tls || *behindTLS, log),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() {
		if tls {
			served <- server.ServeTLS(listener, *cert, *key)
		} else {
			served <- server.Serve(listener)
		}
	}()
	log.Info("webapp: ready", "url", siteURL(listener, *addr, tls))

	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	log.Info("webapp: stopping")
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return server.Shutdown(grace)
}

// configure returns the database and the keys. Keys are made up for a throw-away database alone: elsewhere the sessions would
// not open after the next start.
func configure(ctx context.Context, getenv func(string) string, log *slog.Logger) (databaseURL string, keyRing *pgsession.Crypto, stop func(), err error) {
	databaseURL, stop = getenv("DATABASE_URL"), func() {}
	keys := getenv("SESSION_KEYS")
	if databaseURL != "" && keys == "" {
		return "", nil, nil, errors.New("DATABASE_URL needs SESSION_KEYS too: a key is 64 hex digits, as `openssl rand -hex 32` prints")
	}
	if keys == "" {
		keys = pgsession.GenerateKey().Secret()
	}
	if keyRing, err = pgsession.ParseKeyRing(keys); err != nil {
		return "", nil, nil, fmt.Errorf("SESSION_KEYS: %w", err)
	}
	if databaseURL == "" {
		server, err := pgtest.Start(ctx, func(format string, args ...any) { log.Info(fmt.Sprintf(format, args...)) })
		if err != nil {
			return "", nil, nil, err
		}
		databaseURL, stop = server.URL(), server.Stop
	}
	return databaseURL, keyRing, stop, nil
}

func siteURL(listener net.Listener, addr string, tls bool) string {
	scheme := "http"
	if tls {
		scheme = "https"
	}
	host, _, _ := net.SplitHostPort(addr)
	if host == "" {
		host = "localhost"
	}
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	return scheme + "://" + net.JoinHostPort(host, port)
}
