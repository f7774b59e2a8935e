package main

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
)

// reseal and seal that were interrupted or killed go on when they are run again, and no session is
// lost.
func TestSealing_Resumes(t *testing.T) {
	t.Parallel()
	oldKey, newKey := pgsession.GenerateKey(), pgsession.GenerateKey()
	for _, command := range []string{"reseal", "seal"} {
		for name, signal := range map[string]syscall.Signal{"interrupted": syscall.SIGINT, "terminated": syscall.SIGTERM, "killed": syscall.SIGKILL} {
			t.Run(command+" "+name, func(t *testing.T) {
				t.Parallel()
				pool, schema := pgtest.Schema(t)
				ids := fill(t, pool, command, oldKey)
				held, err := pool.Begin(t.Context())
				require.NoError(t, err)
				defer held.Rollback(context.WithoutCancel(t.Context()))
				_, err = held.Exec(t.Context(), `SELECT FROM sessions WHERE key = (SELECT key FROM sessions ORDER BY key DESC LIMIT 1) FOR UPDATE`)
				require.NoError(t, err)

				var stderr bytes.Buffer
				run := pgsessionCommand(t, schema, newKey.Secret()+","+oldKey.Secret(), command)
				run.Stderr = &stderr
				require.NoError(t, run.Start())
				waitForBlocked(t, pool)
				require.NoError(t, run.Process.Signal(signal))
				require.Error(t, run.Wait())
				if signal != syscall.SIGKILL {
					require.Equal(t, exitFailed, run.ProcessState.ExitCode())
					require.Contains(t, stderr.String(), "pgsession: interrupted after 1199 rows; run it again to go on\n")
				}
				require.NoError(t, held.Rollback(t.Context()))

				again := pgsessionCommand(t, schema, newKey.Secret()+","+oldKey.Secret(), command)
				output, err := again.CombinedOutput()
				require.NoError(t, err, "%s", output)
				require.Contains(t, string(output), ", 0 left\n") // a killed one's last statement may still have taken effect
				keys, err := pgsession.NewCrypto(newKey)
				require.NoError(t, err)
				store := pgsession.New(pool, keys)
				for _, id := range ids {
					session, err := store.Load(t.Context(), id)
					require.NoError(t, err)
					require.Equal(t, "alice", session.UserID)
				}
			})
		}
	}
}

// A command that waits for the server ends when it is interrupted. It says of nothing that it is
// unhealthy.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"count", "check"} {
		t.Run(command, func(t *testing.T) {
			pool, schema := pgtest.Schema(t)
			require.NoError(t, pgsession.New(pool, crypto(t)).Init(t.Context()))
			held, err := pool.Begin(t.Context())
			require.NoError(t, err)
			defer held.Rollback(context.WithoutCancel(t.Context()))
			_, err = held.Exec(t.Context(), `LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE`)
			require.NoError(t, err)
			var stdout, stderr bytes.Buffer
			run := pgsessionCommand(t, schema, "", command)
			run.Stdout, run.Stderr = &stdout, &stderr
			require.NoError(t, run.Start())
			waitForBlocked(t, pool)
			require.NoError(t, run.Process.Signal(os.Interrupt))
			require.Error(t, run.Wait())
			require.Equal(t, exitFailed, run.ProcessState.ExitCode())
			require.Equal(t, "pgsession: interrupted\n", stderr.String())
			require.Empty(t, stdout.String())
		})
	}
}

func crypto(t *testing.T) *pgsession.Crypto {
	t.Helper()
	keys, err := pgsession.NewCrypto(pgsession.GenerateKey())
	require.NoError(t, err)
	return keys
}

// fill creates sessions under a key, or in plaintext.
func fill(t *testing.T, pool *pgxpool.Pool, command string, key pgsession.Key) (ids []pgsession.ID) {
	t.Helper()
	keys, err := pgsession.NewCrypto(key)
	require.NoError(t, err)
	store := pgsession.New(pool, keys)
	if command == "seal" {
		store = pgsession.Plaintext(pool, pgsession.WithLogger(slog.New(slog.DiscardHandler)))
	}
	require.NoError(t, store.Init(t.Context()))
	for range 1200 {
		session, err := store.Create(t.Context(), pgsession.Data{UserID: "alice", Values: 1}, time.Hour)
		require.NoError(t, err)
		ids = append(ids, session.ID)
	}
	return ids
}

// pgsessionCommand is this test's binary, which TestMain makes the command by its name.
func pgsessionCommand(t *testing.T, schema, keys string, args ...string) *exec.Cmd {
	t.Helper()
	server, err := pgtest.Shared()
	require.NoError(t, err)
	program, err := os.Executable()
	require.NoError(t, err)
	command := exec.CommandContext(t.Context(), program, args...)
	command.Args[0] = "pgsession"
	command.Env = append(os.Environ(), "DATABASE_URL="+withSearchPath(t, server.URL(), schema)+"&application_name="+schema+"_cli", "SESSION_KEYS="+keys)
	return command
}

// waitForBlocked returns when the command waits for a row.
func waitForBlocked(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	name := pool.Config().ConnConfig.RuntimeParams["application_name"] + "_cli"
	require.Eventually(t, func() bool {
		var waiting int
		err := pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'`, name).Scan(&waiting)
		return err == nil && waiting == 1
	}, 30*time.Second, time.Millisecond)
}
