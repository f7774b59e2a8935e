package test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession/internal/pgtest"
)

// A Lock is what a transaction holds, on a connection that is not the pool's.
type Lock struct {
	pgx.Tx
	pid     uint32
	waiting string // counts the statements that wait for it
}

// Lock locks the rows that meet a condition, until the test's end if not released before.
func (s *Store) Lock(t testing.TB, condition string, args ...any) *Lock {
	t.Helper()
	query := `SELECT key FROM ` + s.table() + ` WHERE ` + condition
	if !pgtest.IsDistributed() {
		return s.Hold(t, query+` FOR UPDATE`, args...)
	}
	// Citus locks the rows of one shard at a time.
	result, err := s.Pool.Query(t.Context(), query, args...)
	require.NoError(t, err)
	keys, err := pgx.CollectRows(result, pgx.RowTo[[]byte])
	require.NoError(t, err)
	held := s.Hold(t, `SELECT`)
	for _, key := range keys {
		_, err := held.Exec(t.Context(), `SELECT key FROM `+s.table()+` WHERE key = $1 FOR UPDATE`, key)
		require.NoError(t, err)
	}
	return held
}

// LockTable locks the whole table, against reads too.
func (s *Store) LockTable(t testing.TB) *Lock {
	t.Helper()
	return s.Hold(t, `LOCK TABLE `+s.table()+` IN ACCESS EXCLUSIVE MODE`)
}

// Hold runs a statement in a transaction that stays open.
func (s *Store) Hold(t testing.TB, sql string, args ...any) *Lock {
	t.Helper()
	config := s.Pool.Config().ConnConfig
	config.Tracer = nil
	conn, err := pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close(context.Background()) })
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
	waiting := `SELECT count(*) FROM pg_stat_activity WHERE $1::int = ANY(pg_blocking_pids(pid))`
	if pgtest.IsDistributed() {
		// Other tests wait too, while they distribute their tables.
		waiting = `SELECT count(DISTINCT pid) FROM pg_stat_activity JOIN (
			SELECT pid FROM pg_stat_activity WHERE $1::int = ANY(pg_blocking_pids(pid))
			UNION ALL
			SELECT citus_pid_for_gpid(waiting_gpid) FROM citus_lock_waits
			WHERE citus_pid_for_gpid(blocking_gpid) = $1::int) AS waiting USING (pid)
			WHERE application_name = current_setting('application_name')`
	}
	return &Lock{tx, conn.PgConn().PID(), waiting}
}

// WaitFor returns when so many statements wait for the lock.
func (l *Lock) WaitFor(t testing.TB, statements int) {
	t.Helper()
	require.Eventually(t, func() bool {
		// A transaction keeps what it has seen of the other sessions.
		_, err := l.Exec(t.Context(), `SELECT pg_stat_clear_snapshot()`)
		var waiting int
		if err == nil {
			err = l.QueryRow(t.Context(), l.waiting, int32(l.pid)).Scan(&waiting)
		}
		return err == nil && waiting == statements
	}, Patience, time.Millisecond)
}

// Release ends the transaction.
func (l *Lock) Release(t testing.TB) {
	t.Helper()
	require.NoError(t, l.Rollback(t.Context()))
}

// WaitUntilGone waits until the backends of calls that gave up have ended. A statement that was on
// its way may take effect until then.
func (s *Store) WaitUntilGone(t testing.TB, held *Lock) {
	t.Helper()
	require.Eventually(t, func() bool {
		_, err := held.Exec(t.Context(), `SELECT pg_stat_clear_snapshot()`)
		var backends int32
		if err == nil {
			err = held.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity
				WHERE application_name = current_setting('application_name')
				AND pid <> pg_backend_pid()`).Scan(&backends)
		}
		stat := s.Pool.Stat()
		return err == nil && stat.AcquiredConns() == 0 && stat.ConstructingConns() == 0 && backends <= stat.TotalConns()
	}, Patience, time.Millisecond)
}
