package main

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m, nil) }

// The demo application's tests use the database that they are told of, as a copy of it does.
func TestWebappOnPostgreSQL(t *testing.T) {
	databaseURL := pgtest.URL(t, pgtest.Pool(t))
	command := exec.Command("go", "test", "-count=1", "../webapp")
	command.Env = append(os.Environ(), "WEBAPP_TEST_DATABASE_URL="+databaseURL)
	output, err := command.CombinedOutput()
	require.NoError(t, err, string(output))
}

func TestRun_StopsTheServerAfterTheCommand(t *testing.T) {
	if os.Getenv("PGSESSION_DATABASE_URL") != "" {
		t.Setenv("PGSESSION_DATABASE_URL", "") // that server is not ours to stop
		pgtest.RequireBinaries(t)
	}
	t.Setenv("DATABASE_URL", "")
	t.Setenv("SESSION_KEYS", "")
	reader, writer := io.Pipe()
	signals, ended := make(chan os.Signal), make(chan error, 1)
	script := `trap 'kill $!; exit 3' TERM; echo "$DATABASE_URL"; echo "$SESSION_KEYS"; sleep 600 & wait`
	go func() { ended <- run(signals, []string{"sh", "-c", script}, writer, t.Output()) }()
	lines := bufio.NewScanner(reader)
	require.True(t, lines.Scan())
	databaseURL := lines.Text()
	require.True(t, lines.Scan())
	require.Equal(t, "random", lines.Text())
	conn, err := pgx.Connect(t.Context(), databaseURL)
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))

	signals <- os.Interrupt // of which the command hears from the terminal
	signals <- syscall.SIGTERM
	var exit *exec.ExitError
	require.ErrorAs(t, <-ended, &exit)
	require.Equal(t, 3, exit.ExitCode())
	_, err = pgx.Connect(t.Context(), databaseURL)
	require.Error(t, err)
}

func TestRun_UsesTheDatabaseThatIsNamed(t *testing.T) {
	t.Setenv("DATABASE_URL", "postgres://somewhere/else")
	t.Setenv("SESSION_KEYS", "secret")
	var stdout, stderr bytes.Buffer
	require.NoError(t, run(nil, []string{"sh", "-c", `echo "$DATABASE_URL $SESSION_KEYS"`}, &stdout, &stderr))
	require.Equal(t, "postgres://somewhere/else secret\n", stdout.String())
	require.Equal(t, 1, strings.Count(stderr.String(), "using the database that DATABASE_URL names"))
}

func TestRun_Refuses(t *testing.T) {
	t.Setenv("DATABASE_URL", "postgres://somewhere/else")
	require.ErrorContains(t, run(nil, nil, io.Discard, io.Discard), "usage: withpostgres COMMAND")
	require.ErrorIs(t, run(nil, []string{"/no/such/command"}, io.Discard, io.Discard), os.ErrNotExist)
}
