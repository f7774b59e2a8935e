package pgtable

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsession/pgsession/internal/rows"
)

var (
	errReadOnly   = errors.New("the server is in recovery or read-only, and cannot write")
	errRowsHidden = errors.New("row level security hides rows from this role")
)

// Examine is part of [rows.Table]. It waits for a connection like any other call.
func (t *Table) Examine(ctx context.Context) (condition rows.Condition, err error) {
	if stat := t.pool.Stat(); stat.AcquiredConns() >= stat.MaxConns() {
		condition.Reasons = append(condition.Reasons, "every connection of the pool is in use")
	}
	if err := t.operate(ctx, t.checkSettings); err != nil {
		return rows.Condition{}, err
	}
	if err := t.operate(ctx, t.look); err != nil {
		return rows.Condition{}, err
	}
	var (
		serverTime                  time.Time
		synchronousCommit           string
		readOnly, unlogged, present bool
		rowsHidden                  bool
		missing                     []string
	)
	began := time.Now()
	err = t.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		before := t.now()
		err := conn.QueryRow(ctx, t.text(examineSQL), t.name.Sanitize()).
			Scan(&serverTime, &synchronousCommit, &readOnly, &unlogged, &rowsHidden, &missing, &present)
		condition.Clock = max(serverTime.Sub(t.now()), min(serverTime.Sub(before), 0))
		return err
	})
	switch {
	case err != nil:
		return rows.Condition{}, err
	case readOnly && t.giveUpConnections(began):
		// A node whose server was demoted may get health probes and no other requests.
		return t.Examine(ctx)
	case readOnly:
		return rows.Condition{}, errReadOnly
	case rowsHidden:
		return rows.Condition{}, errRowsHidden
	}
	condition.CannotDelete = slices.Contains(missing, "DELETE")
	if err := missingPrivileges(missing); err != nil {
		return rows.Condition{}, err
	}
	if synchronousCommit != "on" && synchronousCommit != "remote_apply" {
		condition.Reasons = append(condition.Reasons, fmt.Sprintf("synchronous_commit is %s: an acknowledged write may be lost", synchronousCommit))
	}
	if unlogged {
		condition.Reasons = append(condition.Reasons, "the table is unlogged: a crash empties it")
	}
	return condition, nil
}

// missingPrivileges returns an error for those that each store needs. DELETE is for the clean-up
// and the key/value view alone.
func missingPrivileges(missing []string) error {
	needed := slices.DeleteFunc(slices.Clone(missing), func(privilege string) bool { return privilege == "DELETE" })
	if len(needed) == 0 {
		return nil
	}
	return fmt.Errorf("this role lacks the privilege %[1]s on the table: GRANT %[1]s", strings.Join(needed, ", "))
}

// privilegesSQL are those that this role lacks on the table $1. Instead of the whole table, they
// may be granted on the columns: SELECT on all, since pages read s.*, the others on those that
// statements write.
var privilegesSQL = `ARRAY(
			SELECT privilege FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privilege
			WHERE NOT has_table_privilege($1::text, privilege) AND (privilege = 'DELETE' OR EXISTS (
				SELECT FROM pg_attribute AS a
				WHERE a.attrelid = to_regclass($1::text) AND a.attnum > 0 AND NOT a.attisdropped
					AND (privilege = 'SELECT' OR privilege = 'INSERT' AND a.attname = 'key'
						OR a.attname <> 'key' AND a.attname IN (` + namesOfColumns(false, `'`, `'`, `, `) + `))
					AND NOT has_column_privilege($1::text, a.attnum, privilege))))`

// The columns are named, so that a table without them is seen. clock_timestamp is compared with the
// store's clock, and judges no session.
var examineSQL = register(`
	SELECT clock_timestamp(), current_setting('synchronous_commit'),
		pg_is_in_recovery() OR current_setting('transaction_read_only')::bool,
		(SELECT c.relpersistence = 'u' FROM pg_class AS c WHERE c.oid = $1::text::regclass),
		row_security_active($1::text),
		` + privilegesSQL + `,
		EXISTS (SELECT ` + namesOfColumns(true, `s.`, ``, `, `) + ` FROM sessions AS s WHERE s.key = '')`)
