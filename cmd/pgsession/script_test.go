package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
)

// The scripts run these commands beside pgsession: app is an application that uses the store, and
// psql runs a statement.
func TestMain(m *testing.M) {
	testscript.Main(withServer{m}, map[string]func(){
		"pgsession": func() {
			if now := os.Getenv("NOW"); now != "" {
				clock = pgsession.NewManualClock(parse(now))
			}
			main()
		},
		"app":  application,
		"psql": psql,
	})
}

type withServer struct{ *testing.M }

func (m withServer) Run() int { return pgtest.Run(m.M, nil) }

// TestScripts runs testdata/*.txtar, each with a schema and keys of its own. With UPDATE_SCRIPTS=1
// it writes what the commands print into the scripts.
func TestScripts(t *testing.T) {
	t.Parallel()
	server, err := pgtest.Shared()
	require.NoError(t, err)
	testscript.Run(t, testscript.Params{
		Dir:           "testdata",
		UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
		Cmds:          map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
		Condition: func(name string) (bool, error) {
			if name != "distributed" {
				return false, errors.New("no such condition")
			}
			return pgtest.IsDistributed(), nil
		},
		Setup: func(env *testscript.Env) error {
			schema := "cli_" + strings.ToLower(rand.Text())
			if err := execute(server.URL(), `CREATE SCHEMA `+schema); err != nil {
				return err
			}
			env.Defer(func() { require.NoError(t, execute(server.URL(), `DROP SCHEMA `+schema+` CASCADE`)) })
			env.Setenv("DATABASE_URL", withSearchPath(t, server.URL(), schema))
			env.Setenv("KEY1", strings.Repeat("1", 64))
			env.Setenv("KEY2", strings.Repeat("2", 64))
			env.Setenv("SESSION_KEYS", env.Getenv("KEY1"))
			env.Setenv("PGSESSION_TEST_AFTER_INIT", os.Getenv("PGSESSION_TEST_AFTER_INIT"))
			return nil
		},
	})
}

func withSearchPath(t testing.TB, address, schema string) string {
	t.Helper()
	u, err := url.Parse(address)
	require.NoError(t, err)
	query := u.Query()
	query.Set("search_path", schema)
	if mode := os.Getenv("PGSESSION_TEST_QUERY_MODE"); mode != "" {
		query.Set("default_query_exec_mode", mode)
	}
	u.RawQuery = query.Encode()
	return u.String()
}

func execute(address, sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql)
	return err
}

// exits CODE COMMAND ARG... runs a command that ends with that exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	var exit *exec.ExitError
	err := ts.Exec(args[1], args[2:]...)
	if !errors.As(err, &exit) || strconv.Itoa(exit.ExitCode()) != args[0] || neg {
		ts.Fatalf("wanted exit code %s, not %v", args[0], err)
	}
}

// psql SQL prints the rows of a statement, if it has any.
func psql() {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, os.Getenv("DATABASE_URL"))
	must(err)
	result, err := conn.Query(ctx, os.Args[1])
	must(err)
	for result.Next() {
		values, err := result.Values()
		must(err)
		fmt.Println(values...)
	}
	must(result.Err())
}

// application uses the store that DATABASE_URL, SESSION_KEYS and NOW describe:
//
//	app login USER N [AGE]   logs in N times, a minute apart, the last time AGE before NOW
//	app guest N              creates N guests' sessions
//	app bytes N              creates N guests' sessions that hold bytes
//	app entry N              puts N entries in the key/value view
//	app load USER N          says whether the N-th session of the user opens
//	app init                 says what Init logs, and Health of a store that has met all rows
func application() {
	ctx := context.Background()
	now := time.Now()
	if text := os.Getenv("NOW"); text != "" {
		now = parse(text)
	}
	manual := pgsession.NewManualClock(now)
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	must(err)
	var store *pgsession.Store
	if os.Getenv("PLAINTEXT") != "" {
		store = pgsession.Plaintext(pool, pgsession.WithClock(manual))
	} else {
		crypto, err := pgsession.ParseKeyRing(os.Getenv("SESSION_KEYS"))
		must(err)
		store = pgsession.New(pool, crypto, pgsession.WithClock(manual))
	}
	switch args := os.Args[2:]; os.Args[1] {
	case "login", "guest":
		user, name := "", "guest"
		if os.Args[1] == "login" {
			user, args = args[0], args[1:]
			name = user
		}
		n, age := number(args[0]), time.Duration(0)
		if len(args) > 1 {
			age, err = time.ParseDuration(args[1])
			must(err)
		}
		for i := range n {
			manual.Set(now.Add(-age - time.Duration(n-1-i)*time.Minute))
			id := sessionID(name, i+1)
			values := map[string]any{"device": fmt.Sprintf("browser %d", i+1), "cart": []string{"tea"}}
			_, err := store.CreateAs(ctx, id, pgsession.Data{UserID: user, Values: values}, 12*time.Hour)
			must(err)
			fmt.Println(id.Handle())
		}
	case "bytes":
		for i := range number(args[0]) {
			_, err := store.CreateAs(ctx, sessionID("bytes", i+1), pgsession.Data{Values: []byte{0, 1, 2}}, time.Hour)
			must(err)
		}
	case "entry":
		for i := range number(args[0]) {
			must(store.KeyValue().Put(ctx, fmt.Sprint("entry ", i+1), []byte("value"), time.Hour))
		}
	case "load":
		session, err := store.Load(ctx, sessionID(args[0], number(args[1])))
		if err != nil {
			fmt.Println(err)
			break
		}
		fmt.Println("live:", session.UserID)
	case "init":
		must(store.Init(ctx))
		if after := os.Getenv("PGSESSION_TEST_AFTER_INIT"); after != "" {
			_, err := pool.Exec(ctx, fmt.Sprintf(after, "sessions"))
			if err == nil || !strings.Contains(err.Error(), "already distributed") {
				must(err)
			}
			must(store.Init(ctx))
		}
		for session, err := range store.All(ctx) {
			must(err)
			_ = session
		}
		health := store.Health(ctx)
		fmt.Println(health.Status)
		for _, reason := range health.Reasons {
			fmt.Println(reason)
		}
	default:
		panic(os.Args[1])
	}
}

// sessionID is the same in each run, so that handles are.
func sessionID(name string, n int) pgsession.ID {
	return pgsession.DeriveID(fmt.Sprint(name, " ", n))
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func number(text string) int {
	n, err := strconv.Atoi(text)
	must(err)
	return n
}

func parse(text string) time.Time {
	t, err := time.Parse(time.RFC3339, text)
	must(err)
	return t
}
