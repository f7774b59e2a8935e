package pgtable

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgsession/pgsession/internal/rows"
)

// explainMove tells whether a statement failed because there was a row under the new key. Citus has no
// SQLSTATE for that, so this looks for the row. If it is the new one, the statement failed after it had
// committed.
func (t *Table) explainMove(ctx context.Context, to rows.Row, done bool, err error) (rows.Outcome, bool, error) {
	switch {
	case sqlState(err) == uniqueViolation:
		return rows.Exists, false, nil
	case sqlState(err) != internalError || !t.isDistributed():
		return rows.OK, done, err
	}
	found, lookErr := t.load(ctx, to.Key)
	switch {
	case lookErr != nil || found.State == rows.Absent:
		return rows.OK, false, err
	case found.Version == to.Version:
		return rows.OK, true, nil
	}
	return rows.Exists, false, nil
}

// Renew is part of [rows.Table].
func (t *Table) Renew(ctx context.Context, seen rows.Row, w rows.Write) (row rows.Row, outcome rows.Outcome, err error) {
	sealed, data := t.payload(w.Payload)
	err = t.operate(ctx, func(ctx context.Context) error {
		var renewed bool
		err := t.runInTurn(ctx, seen.Key, func(ctx context.Context, conn *pgx.Conn) error {
			now := t.now()
			row = seen.Move(w, now)
			tag, err := conn.Exec(ctx, t.sql.Load().renew, now, seen.Key.Bytes(), seen.Version, seen.CreatedAt,
				row.Key.Bytes(), row.UserKey, row.Version, row.CreatedAt, row.ExpiresAt, timestamp(row.EndsAt), interval(row.IdleTimeout), sealed, data)
			renewed = tag.RowsAffected() > 0
			return err
		})
		outcome, renewed, err = t.explainMove(ctx, row, renewed, err)
		if err == nil && !renewed && outcome == rows.OK {
			outcome = rows.Changed
		}
		return err
	})
	if outcome != rows.OK {
		return rows.Row{}, outcome, err
	}
	return row, outcome, err
}

// The row at the old key becomes a tombstone in the same statement in which the new row is made, so
// that no snapshot shows both live, or neither, and the server never holds the old row while it waits
// for the client.
const renewSQL = `
	WITH pgsession_ended AS (
		UPDATE sessions AS s
		SET ` + tombstone + `
		WHERE s.key = $2 AND ` + live + ` AND s.version = $3 AND s.created_at = $4 AND ` + refusedIfDistributed + `
		RETURNING s.key
	)
	INSERT INTO sessions AS s (key, user_key, version, created_at, expires_at, ends_at, idle_timeout, sealed, data)
	SELECT $5::bytea, $6::bytea, $7::bigint, $8::timestamptz, $9::timestamptz, $10::timestamptz, $11::interval,
		$12::bytea, convert_from($13::bytea, 'UTF8')::jsonb
	FROM pgsession_ended`
