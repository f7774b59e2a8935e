package pgtest_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pgsession/pgsession/internal/pgtest"
)

const (
	deadline = 2 * time.Minute
	interval = 20 * time.Millisecond
)

// TestMain also plays the programs that the tests here start as processes of their own.
func TestMain(m *testing.M) {
	switch os.Getenv("PGTEST_PROGRAM") {
	case "":
		pgtest.Main(m, func() error { return goleak.Find() })
	case "serve":
		serve()
	case "leak":
		pgtest.Main(m, func() error { return errors.New("a goroutine is left") })
	case "bare machine":
		pgtest.HideServers()
		_, err := pgtest.Start(context.Background(), nil)
		fmt.Println(err)
	}
}

// serve starts a server, says where, and waits to be killed.
func serve() {
	server, err := pgtest.Start(context.Background(), nil)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(server.Kind(), server.URL())
	select {}
}

func program(t *testing.T, name string, environment ...string) *exec.Cmd {
	t.Helper()
	command := exec.CommandContext(t.Context(), os.Args[0])
	command.Env = append(append(os.Environ(), "PGTEST_PROGRAM="+name), environment...)
	return command
}

func TestStart_KilledProcessLeavesNothing(t *testing.T) {
	t.Parallel()
	pgtest.RequireBinaries(t)
	tests := []struct {
		name  string
		until string // the file that is there when the process is killed
	}{
		{"before initdb", "."},
		{"during initdb", "data/PG_VERSION"},
		{"during start-up", "log"},
		{"as it starts", "data/postmaster.pid"},
		{"when it accepts connections", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			parent, err := os.MkdirTemp("/tmp", "killed-") // t.TempDir's parents are closed to the server's user
			require.NoError(t, err)
			t.Cleanup(func() { os.RemoveAll(parent) })
			require.NoError(t, os.Chmod(parent, 0o755))
			process := program(t, "serve", "PGSESSION_TEST_SERVER=local", "TMPDIR="+parent)
			output, err := process.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, process.Start())

			if test.until == "" {
				_, err := bufio.NewReader(output).ReadString('\n')
				require.NoError(t, err)
			} else {
				require.Eventually(t, func() bool { return exists(filepath.Join(parent, "pgtest-*", test.until)) }, deadline, time.Millisecond)
			}
			var postmaster int
			if test.until == "" {
				postmaster = postmasterPID(t, parent)
			}
			require.NoError(t, process.Process.Kill())
			require.Error(t, process.Wait())

			require.Eventually(t, func() bool { return !exists(filepath.Join(parent, "*")) }, deadline, interval)
			if postmaster != 0 {
				require.Eventually(t, func() bool { return gone(postmaster) }, deadline, interval)
			}
		})
	}
}

// TestStart_KilledProcessStopsItsServer runs on whatever this machine's tests run on, Docker
// included.
func TestStart_KilledProcessStopsItsServer(t *testing.T) {
	t.Parallel()
	process := program(t, "serve")
	output, err := process.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, process.Start())
	scanner := bufio.NewScanner(output)
	require.True(t, scanner.Scan())
	kind, address, found := strings.Cut(scanner.Text(), " ")
	require.True(t, found, scanner.Text())
	require.NoError(t, connectOnce(t, address))
	require.NoError(t, process.Process.Kill())
	require.Error(t, process.Wait())

	if kind == "url" {
		require.NoError(t, connectOnce(t, address), "it is not ours to stop")
		return
	}
	require.Eventually(t, func() bool { return connectOnce(t, address) != nil }, deadline, interval)
}

func connectOnce(t *testing.T, address string) error {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), address)
	if err != nil {
		return err
	}
	return conn.Close(t.Context())
}

func exists(pattern string) bool {
	matches, err := filepath.Glob(pattern)
	return err == nil && len(matches) > 0
}

func postmasterPID(t *testing.T, parent string) int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(parent, "pgtest-*", "data", "postmaster.pid"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	content, err := os.ReadFile(files[0])
	require.NoError(t, err)
	first, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(first)
	require.NoError(t, err)
	require.False(t, gone(pid))
	return pid
}

func gone(pid int) bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

func TestStart_StopRemovesEverything(t *testing.T) {
	t.Parallel()
	pgtest.RequireBinaries(t)
	cluster, err := pgtest.StartCluster(t.Context(), t.Logf, pgtest.ClusterOptions{})
	require.NoError(t, err)
	folder := filepath.Dir(cluster.DataDir())
	require.DirExists(t, folder)
	cluster.Stop()
	require.NoDirExists(t, folder)
	cluster.Stop()
	_, err = pgx.Connect(t.Context(), cluster.URL())
	require.Error(t, err)
}

func TestStart_BareMachine(t *testing.T) {
	t.Parallel()
	empty := t.TempDir()
	message, err := program(t, "bare machine", "PATH="+empty,
		"PGSESSION_DATABASE_URL=", "PGSESSION_PG_BIN=", "PGSESSION_TEST_SERVER=").CombinedOutput()
	require.NoError(t, err)
	for _, way := range []string{"PGSESSION_DATABASE_URL=postgres://", "PGSESSION_PG_BIN=", "apt-get install postgresql", "Docker"} {
		require.Contains(t, string(message), way)
	}
}

func TestStart_AsAsked(t *testing.T) {
	shared := pgtest.Pool(t).Config().ConnString()
	absent, err := url.Parse(shared)
	require.NoError(t, err)
	absent.Path = "/absent"
	tests := []struct {
		name, server, url, binaries string
		kind, err                   string
	}{
		{name: "URL first", url: shared, kind: "url"},
		{name: "URL alone", server: "url", url: shared, kind: "url"},
		{name: "URL missing", server: "url", err: "PGSESSION_DATABASE_URL is empty"},
		{name: "URL of a database that is not there", url: absent.String(), err: `database "absent" does not exist`},
		{name: "folder without binaries", binaries: "/", err: "PGSESSION_PG_BIN=/ holds no initdb"},
		{name: "unknown", server: "oracle", err: `"oracle"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("PGSESSION_TEST_SERVER", test.server)
			t.Setenv("PGSESSION_DATABASE_URL", test.url)
			t.Setenv("PGSESSION_PG_BIN", test.binaries)
			var log strings.Builder
			server, err := pgtest.Start(t.Context(), func(format string, args ...any) { fmt.Fprintf(&log, format, args...) })
			if test.err != "" {
				require.ErrorContains(t, err, test.err)
				return
			}
			require.NoError(t, err)
			defer server.Stop()
			require.Equal(t, test.kind, server.Kind())
			require.Contains(t, log.String(), "PGSESSION_DATABASE_URL")
		})
	}
}

func TestStart_NewestPackage(t *testing.T) {
	root := t.TempDir()
	for _, version := range []string{"9.6", "15", "17", "18"} {
		folder := filepath.Join(root, version, "bin")
		require.NoError(t, os.MkdirAll(folder, 0o755))
		for _, name := range []string{"initdb", "postgres"} {
			if version == "18" && name == "postgres" {
				continue // a client's package without the server
			}
			require.NoError(t, os.WriteFile(filepath.Join(folder, name), nil, 0o755))
		}
	}
	link := filepath.Join(root, "path")
	require.NoError(t, os.Mkdir(link, 0o755))
	require.NoError(t, os.Symlink(filepath.Join(root, "15", "bin", "initdb"), filepath.Join(link, "initdb")))
	tests := []struct {
		name, path, asked, want string
	}{
		{name: "newest with a server", want: "17"},
		{name: "PATH before packages", path: link, want: "15"},
		{name: "asked for", path: link, asked: filepath.Join(root, "9.6", "bin"), want: "9.6"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("PATH", test.path)
			t.Setenv("PGSESSION_PG_BIN", test.asked)
			folder, err := pgtest.FindBinaries(filepath.Join(root, "*", "bin"))
			require.NoError(t, err)
			require.Equal(t, filepath.Join(root, test.want, "bin"), folder)
		})
	}
}

func TestMain_Check(t *testing.T) {
	t.Parallel()
	command := program(t, "leak")
	command.Args = append(command.Args, "-test.run=^$")
	output, err := command.CombinedOutput()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 1, exit.ExitCode())
	require.Contains(t, string(output), "a goroutine is left")
}
