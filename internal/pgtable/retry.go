package pgtable

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsession/pgsession/internal/backoff"
	"github.com/pgsession/pgsession/internal/deadline"
	"github.com/pgsession/pgsession/internal/rows"
)

// maxAttempts bounds how often a statement is sent that the server rolled back, or that was never
// sent.
const maxAttempts = 10

// The SQLSTATEs that make a difference (PostgreSQL manual, appendix A).
const (
	uniqueViolation      = "23505"
	readOnlyTransaction  = "25006"
	undefinedStatement   = "26000"
	serializationFailure = "40001"
	deadlockDetected     = "40P01"
	tooManyConnections   = "53300"
	lockNotAvailable     = "55P03"
	queryCanceled        = "57014"
	featureNotSupported  = "0A000"
	duplicateTable       = "42P07"
	undefinedTable       = "42P01"
	undefinedColumn      = "42703"
	internalError        = "XX000"

	classConnectionException  = "08"
	classProgramLimitExceeded = "54"
	classShutdown             = "57P"
)

// replannedRoutine refuses a prepared statement whose result has changed.
const replannedRoutine = "RevalidateCachedQuery"

// refusedByJSONB are the SQLSTATEs with which jsonb refuses a text.
var refusedByJSONB = []string{
	"22003", // numeric_value_out_of_range
	"22021", // character_not_in_repertoire
	"22P02", // invalid_text_representation
	"22P05", // untranslatable_character
}

// run runs a statement on a connection of the pool, and again if the error allows it.
func (d *database) run(ctx context.Context, allowed func(error) bool, do func(ctx context.Context, conn *pgx.Conn) error) error {
	for attempt := 1; ; attempt++ {
		began := time.Now()
		err := d.runOnce(ctx, do)
		state := sqlState(err)
		switch {
		case err == nil || ctx.Err() != nil:
			return err
		case state == tooManyConnections:
			// Nothing was sent. A call waits for the server's connections as it does for the pool's.
			if backoff.Wait(ctx, attempt) != nil {
				return err
			}
		case attempt >= maxAttempts:
			return err
		case state == undefinedStatement || d.isDemoted(err, began):
			continue // on another connection
		case isRefused(err):
			d.onRefusal(ctx)
			return err
		case !allowed(err) || backoff.Wait(ctx, attempt) != nil:
			return err
		}
	}
}

// errNoConnection says that a call waited for the pool until its time was over.
var errNoConnection = errors.New("no connection to be had: every connection of the pool is in use, by statements that wait " +
	"or by code that holds a connection while it calls the store, or a new one could not be made")

// runOnce sends nothing if the caller has gone. The pool itself stops waiting a moment later, with
// ctx.
func (d *database) runOnce(ctx context.Context, do func(ctx context.Context, conn *pgx.Conn) error) error {
	caller := deadline.Caller(ctx)
	if err := caller.Err(); err != nil {
		return err
	}
	conn, err := d.pool.Acquire(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", errNoConnection, err)
		}
		return err
	}
	defer release(conn)
	if err := caller.Err(); err != nil {
		return err
	}
	err = do(ctx, conn.Conn())
	if sqlState(err) == undefinedStatement {
		// Somebody's DISCARD ALL or DEALLOCATE removed the prepared statements of this connection,
		// which pgx takes to be there. Nothing was run. The connection goes back to the top of the
		// pool's stack, so that the next attempt most likely gets it, and not another one like it.
		if conn.Conn().DeallocateAll(ctx) != nil {
			conn.Conn().Close(ctx)
		}
	}
	return err
}

// hungAfter is how long a connection may take to close before the pool may replace it.
const hungAfter = 500 * time.Millisecond

// release gives a connection back to the pool. pgx closes one whose call ran out of time in the
// background, and takes 15 seconds if the other side is silent. The pool would count it for so
// long, and so have no connection left for the next calls.
func release(conn *pgxpool.Conn) {
	if !conn.Conn().IsClosed() {
		conn.Release()
		return
	}
	go func() {
		timer := time.NewTimer(hungAfter)
		defer timer.Stop()
		select {
		case <-conn.Conn().PgConn().CleanupDone():
			conn.Release()
		case <-timer.C:
			cancelUntilClosed(conn.Hijack().PgConn())
		}
	}()
}

// cancelUntilClosed asks the server to end what runs on a connection that pgx is closing. The one
// request that pgx sends comes to nothing if it overtakes the statement. The server might then wait
// for a lock, and write at last what its caller gave up long before.
func cancelUntilClosed(conn *pgconn.PgConn) {
	ticker := time.NewTicker(4 * hungAfter)
	defer ticker.Stop()
	for {
		ctx, cancel := context.WithTimeout(context.Background(), hungAfter)
		conn.CancelRequest(ctx) // if that fails, the next one may reach the server
		cancel()
		select {
		case <-conn.CleanupDone():
			return
		case <-ticker.C:
		}
	}
}

// resetInterval is how long the pool is left alone after it was reset. A server that stays
// read-only does not see a new connection for each call.
const resetInterval = time.Second

// isDemoted reports whether a statement that began then was refused by a server that has become
// read-only, and may be sent again on another connection.
func (d *database) isDemoted(err error, began time.Time) bool {
	return sqlState(err) == readOnlyTransaction && d.giveUpConnections(began)
}

// giveUpConnections reports whether the pool has given up its connections since then. New ones find
// the new primary if the connection string has several hosts and target_session_attrs.
func (d *database) giveUpConnections(since time.Time) bool {
	d.resetting.Lock()
	defer d.resetting.Unlock()
	switch {
	case d.lastReset.After(since):
		return true
	case time.Since(d.lastReset) < resetInterval:
		return false
	}
	d.lastReset = time.Now()
	d.pool.Reset()
	return true
}

// serverError returns what the server answered, or nil.
func serverError(err error) *pgconn.PgError {
	if err == nil {
		return nil // errors.As would allocate
	}
	var server *pgconn.PgError
	errors.As(err, &server)
	return server
}

func sqlState(err error) string {
	if server := serverError(err); server != nil {
		return server.Code
	}
	return ""
}

// isFatal reports whether the server closed the connection with this answer, or lost its own
// connection to the machine that has the row. PgBouncer answers for a server that it has lost, and
// leaves the unlocalized severity out.
func isFatal(server *pgconn.PgError) bool {
	severity := cmp.Or(server.SeverityUnlocalized, server.Severity)
	return severity == "FATAL" || severity == "PANIC" || strings.HasPrefix(server.Code, classConnectionException) ||
		strings.HasPrefix(server.Code, classShutdown)
}

// leftNoTrace reports whether a statement certainly changed nothing and may succeed when it is sent
// again: the server rolled it back for the sake of another transaction, or it was never sent.
func leftNoTrace(err error) bool {
	server := serverError(err)
	if server == nil {
		return pgconn.SafeToRetry(err)
	}
	switch server.Code {
	case serializationFailure, deadlockDetected, tooManyConnections:
		return true
	case featureNotSupported:
		return server.Routine == replannedRoutine // the plan is from before a change of the table
	}
	return false
}

// isRefused reports whether the server does not support a statement.
func isRefused(err error) bool {
	server := serverError(err)
	return server != nil && server.Code == featureNotSupported && server.Routine != replannedRoutine
}

// leftNoTraceOrReads is leftNoTrace for a statement that only reads: a lost connection does no
// harm.
func leftNoTraceOrReads(err error) bool { return leftNoTrace(err) || isConnectionLost(err) }

// tookNoEffect reports whether a statement that failed certainly changed nothing: the server rolled
// it back and said so, or it was never sent. After any other failure the outcome is unknown.
func tookNoEffect(err error) bool {
	if server := serverError(err); server != nil {
		return !isFatal(server)
	}
	return pgconn.SafeToRetry(err)
}

// isConnectionLost reports whether an established connection broke, or the server closed it. A
// connection that could not be made is an outage, which is reported at once.
func isConnectionLost(err error) bool {
	if server := serverError(err); server != nil {
		return isFatal(server)
	}
	var connecting *pgconn.ConnectError
	var network *net.OpError
	return !errors.As(err, &connecting) &&
		(errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed))
}

// explain adds to an error of the database what is known about its cause. Caller is the context
// that the caller gave.
func (d *database) explain(caller context.Context, err error) error {
	if err == nil {
		return nil
	}
	state := sqlState(err)
	switch {
	case errors.Is(err, context.DeadlineExceeded) && !isOver(caller):
		return fmt.Errorf("no answer within %s (WithTimeout): %w", d.config.Timeout, err)
	case state == undefinedTable:
		return fmt.Errorf("there is no table %s; call Init at start-up: %w", d.config.Name, err)
	case state == undefinedColumn:
		return fmt.Errorf("table %s: %w; Init tells what differs: %w", d.config.Name, rows.ErrSchema, err)
	case d.config.Plaintext && (slices.Contains(refusedByJSONB, state) || strings.HasPrefix(state, classProgramLimitExceeded)):
		return fmt.Errorf("%w: jsonb refuses them (SQLSTATE %s)", rows.ErrPayload, state)
	}
	return err
}

// isOver reports whether a caller's context has ended, other than by the store's own timeout.
func isOver(caller context.Context) bool {
	caller = deadline.Caller(caller) // it may be from Within
	// A statement ends at its caller's deadline, perhaps a moment before the caller's context does.
	end, ok := caller.Deadline()
	return caller.Err() != nil || ok && !time.Now().Before(end)
}
