// Command webapp is a small web application: notes, a log-in, the user's devices, pages for
// administrators, and pages that close when their session ends. To begin an application with it,
// copy this folder: it needs nothing else of its repository.
//
// Sessions are in the PostgreSQL that DATABASE_URL names, sealed with SESSION_KEYS. With neither
// they are in memory.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsession/pgsession"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C does not wait
	if err := run(ctx, os.Args[1:], os.Getenv, os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "webapp:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends.
func run(ctx context.Context, args []string, getenv func(string) string, output io.Writer) error {
	flags := flag.NewFlagSet("webapp", flag.ContinueOnError)
	flags.SetOutput(output)
	addr := flags.String("addr", "localhost:8080", "the `address` to listen on, or only its port")
	cert := flags.String("cert", "", "a `file` with the TLS certificate")
	metrics := flags.String("metrics", "", "the `address` for the store's metrics, which strangers must not reach, or only its port; none by default")
	key := flags.String("key", "", "a `file` with the certificate's key")
	if err := flags.Parse(args); err != nil {
		return err
	}
	hasTLS := *cert != "" || *key != ""

	listener, err := listen(*addr)
	if err != nil {
		return err
	}
	defer listener.Close()
	var metricsListener net.Listener
	if *metrics != "" {
		if metricsListener, err = listen(*metrics); err != nil {
			return err
		}
		defer metricsListener.Close()
	}
	log := slog.New(slog.NewTextHandler(output, nil))
	store, atRestart, closeStore, err := openStore(ctx, getenv, log)
	if err != nil {
		return err
	}
	defer closeStore()

	server := newServer(NewApp(ctx, store, demoAccounts(), time.Now, log), log)
	served := make(chan error, 2)
	if metricsListener != nil {
		metricsServer := newServer(metricsOf(store), log)
		defer metricsServer.Close()
		go func() { served <- metricsServer.Serve(metricsListener) }()
	}
	go func() {
		if hasTLS {
			served <- server.ServeTLS(listener, *cert, *key)
		} else {
			served <- server.Serve(listener)
		}
	}()
	fmt.Fprintf(output, "webapp: ready at %s: log in as %s with the password %s. %s\n",
		siteURL(listener, hasTLS), demoUsers[0].Name, demoUsers[0].Password, atRestart)

	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	fmt.Fprintln(output, "webapp: stopping, after the requests that are under way")
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return server.Shutdown(grace)
}

func newServer(handler http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
}

// metricsOf serves the store's counters as JSON. For Prometheus and OpenTelemetry pgsession has
// adapters.
func metricsOf(store *pgsession.Store) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(store.Stats()) // an error means that the client has gone
	})
}

func listen(addr string) (net.Listener, error) {
	if !strings.Contains(addr, ":") {
		addr = "localhost:" + addr
	}
	listener, err := net.Listen("tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("another program listens on %s: choose another port, with -addr 8081 or make demo ADDR=8081", addr)
	case err != nil:
		return nil, fmt.Errorf("-addr needs a port, such as 8081, or a host and a port, such as localhost:8081: %w", err)
	}
	return listener, nil
}

func siteURL(listener net.Listener, hasTLS bool) string {
	scheme := "http"
	if hasTLS {
		scheme = "https"
	}
	address := listener.Addr().(*net.TCPAddr)
	host := address.IP.String()
	if address.IP.IsLoopback() || address.IP.IsUnspecified() {
		host = "localhost"
	}
	return fmt.Sprintf("%s://%s", scheme, net.JoinHostPort(host, fmt.Sprint(address.Port)))
}

// absoluteLifetime ends a session that is not remembered, however much it is used.
const absoluteLifetime = 7 * 24 * time.Hour

// openStore returns the store, and a sentence that says what a restart does to it. Half a
// configuration is an error: a server that was meant to have a database must not forget its
// sessions silently.
func openStore(ctx context.Context, getenv func(string) string, log *slog.Logger) (store *pgsession.Store, atRestart string, closeStore func(), err error) {
	databaseURL, keys := getenv("DATABASE_URL"), getenv("SESSION_KEYS")
	options := []pgsession.Option{pgsession.WithAbsoluteLifetime(absoluteLifetime), pgsession.WithLogger(log)}
	closePool := func() {}
	switch {
	case databaseURL == "" && keys == "":
		store = pgsession.InMemory(options...)
		atRestart = "Sessions are in memory, so a restart forgets them all: set DATABASE_URL and SESSION_KEYS to keep them."
	case databaseURL == "" || keys == "":
		return nil, "", nil, errors.New("set both DATABASE_URL and SESSION_KEYS, or neither: " +
			"a key is 64 hex digits, as `openssl rand -hex 32` prints, and SESSION_KEYS=random makes one for this run")
	default:
		atRestart = "Sessions are in PostgreSQL, so a restart keeps them."
		if keys == "random" {
			keys = pgsession.GenerateKey().Secret()
			atRestart = "Sessions are in PostgreSQL, under a key for this run alone, so a restart forgets them all."
		}
		crypto, err := pgsession.ParseKeyRing(keys)
		if err != nil {
			return nil, "", nil, fmt.Errorf("SESSION_KEYS: %w", err)
		}
		pool, err := pgxpool.New(ctx, databaseURL)
		if err != nil {
			return nil, "", nil, fmt.Errorf("DATABASE_URL: %w", err)
		}
		closePool = pool.Close
		store = pgsession.New(pool, crypto, options...)
	}
	if err := store.Init(ctx); err != nil {
		closePool()
		return nil, "", nil, err
	}
	// Not under ctx: clean-up goes on while the last requests are served, and Stop waits for it.
	cleanup := store.SpawnCleanup(context.WithoutCancel(ctx), 10*time.Minute)
	return store, atRestart, func() { cleanup.Stop(); closePool() }, nil
}
