// Package pgtest gives tests, examples and benchmarks a PostgreSQL.
//
// A test binary calls [Main] from its TestMain, and [Pool] or [Schema] in each test. A program
// calls [Start]. A test that kills the server, or needs a standby, starts a [Cluster] of its own.
//
// Start uses the first of these that is there, and logs which:
//
//  1. the server that PGSESSION_DATABASE_URL names, which is used as it is and never stopped;
//  2. PostgreSQL's binaries on this machine, from PGSESSION_PG_BIN, the PATH or the places where
//     packages put them, as a throw-away cluster on a socket in a temporary folder;
//  3. Docker, with the image PGSESSION_POSTGRES_IMAGE, default postgres:17-alpine.
//
// PGSESSION_TEST_SERVER=url, local or docker asks for one of them and no other, and citus for a
// Citus of the binaries on this machine.
//
// Nothing outlives the process, however it ends. A small shell holds the other end of a pipe and
// removes the server when the process is gone (see watchdog.go). With Docker, Ryuk of
// testcontainers does this, unless TESTCONTAINERS_RYUK_DISABLED is set.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// startTimeout is generous, since a standby may have to replay its log, and initdb is slow on a
	// busy machine.
	startTimeout = time.Minute
	pollInterval = 10 * time.Millisecond
)

// A Server is a PostgreSQL that accepts connections. It is safe for concurrent use.
type Server struct {
	kind string
	url  string
	stop func()
}

// URL returns a connection string for pgx, and for psql.
func (s *Server) URL() string { return s.url }

// Kind says where the server came from: "url", "local" or "docker".
func (s *Server) Kind() string { return s.kind }

// Stop removes the server and all its data, unless it is the one that PGSESSION_DATABASE_URL names.
// Calls after the first do nothing.
func (s *Server) Stop() { s.stop() }

// Start finds a server, as the package comment says, and returns when it accepts connections. If
// there is none, the error lists every way to get one. logf may be nil.
func Start(ctx context.Context, logf func(format string, args ...any)) (*Server, error) {
	if logf == nil {
		logf = func(string, ...any) {}
	}
	sources := []struct {
		kind, advice string
		start        func(context.Context, func(string, ...any)) (*Server, error)
	}{
		{"url", "name a running server: PGSESSION_DATABASE_URL=postgres://user:password@host:5432/database", startURL},
		{"local", "install PostgreSQL: apt-get install postgresql, dnf install postgresql-server, brew install postgresql@17; or PGSESSION_PG_BIN=/folder/of/initdb", startLocal},
		{"citus", "install Citus for the PostgreSQL on this machine: https://docs.citusdata.com", startCitus},
		{"docker", "start Docker, or install it: https://docs.docker.com/get-started/get-docker/", startDocker},
	}
	wanted := os.Getenv("PGSESSION_TEST_SERVER")
	var none []error
	for _, source := range sources {
		if wanted != "" && wanted != source.kind || wanted == "" && source.kind == "citus" {
			continue
		}
		server, err := source.start(ctx, logf)
		if err == nil {
			return server, nil
		}
		if !errors.Is(err, errAbsent) {
			// A server that is there and does not work is an error: another one must not replace it
			// unnoticed.
			return nil, fmt.Errorf("pgtest: %s: %w", source.kind, err)
		}
		none = append(none, fmt.Errorf("  %-6s  %s\n          (%w)", source.kind, source.advice, err))
	}
	if none == nil {
		return nil, fmt.Errorf("pgtest: PGSESSION_TEST_SERVER is %q, and can be url, local, citus or docker", wanted)
	}
	return nil, fmt.Errorf("pgtest: no PostgreSQL found; get one in any of these ways:\n%w", errors.Join(none...))
}

// errAbsent marks a source that this machine does not have, as opposed to one that fails.
var errAbsent = errors.New("not here")

func startURL(ctx context.Context, logf func(string, ...any)) (*Server, error) {
	url := os.Getenv("PGSESSION_DATABASE_URL")
	if url == "" {
		return nil, fmt.Errorf("%w: PGSESSION_DATABASE_URL is empty", errAbsent)
	}
	// The server should be running. This is long enough for a service that starts along with the
	// tests, and short enough for a mistyped address.
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	version, err := waitUntilReady(ctx, url, nil)
	if err != nil {
		return nil, err
	}
	logf("pgtest: PostgreSQL %s at PGSESSION_DATABASE_URL", version)
	return &Server{kind: "url", url: url, stop: func() {}}, nil
}

func startLocal(ctx context.Context, logf func(string, ...any)) (*Server, error) {
	cluster, err := StartCluster(ctx, logf, ClusterOptions{})
	if err != nil {
		return nil, err
	}
	return &Server{kind: "local", url: cluster.URL(), stop: cluster.Stop}, nil
}

// waitUntilReady returns the server's version once it answers. It gives up when gone is closed. It
// returns at once if the server answers and refuses.
func waitUntilReady(ctx context.Context, url string, gone <-chan struct{}) (version string, err error) {
	err = poll(ctx, gone, func(ctx context.Context) (isDone bool, err error) {
		version, err = serverVersion(ctx, url)
		var refusal *pgconn.PgError
		return err == nil || errors.As(err, &refusal) && refusal.Code != "57P03", err // cannot_connect_now: it is starting up
	})
	return version, err
}

// poll calls look until that is done, and returns its error. It gives up when gone is closed.
func poll(ctx context.Context, gone <-chan struct{}, look func(ctx context.Context) (isDone bool, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		isDone, err := look(ctx)
		if isDone {
			return err
		}
		select {
		case <-ticker.C:
		case <-gone:
			return errors.New("the server has ended")
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}

func serverVersion(ctx context.Context, url string) (version string, err error) {
	err = onConnection(ctx, url, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SHOW server_version`, pgx.QueryExecModeSimpleProtocol).Scan(&version)
	})
	return version, err
}

// onConnection calls do with a connection of its own.
func onConnection(ctx context.Context, url string, do func(conn *pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return do(conn)
}
