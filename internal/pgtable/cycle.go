package pgtable

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgsession/pgsession/internal/rows"
)

// Cycle is part of [rows.Table].
func (t *Table) Cycle(ctx context.Context, from rows.Key, w rows.Write) (outcome rows.Outcome, err error) {
	sealed, data := t.payload(w.Payload)
	version := rows.NewVersion()
	err = t.operate(ctx, func(ctx context.Context) error {
		var doubt error // of an attempt that Citus may yet have committed
		for range maxAttempts {
			var (
				cycled bool
				begun  rows.Row
			)
			err := t.runAlone(ctx, from, func(ctx context.Context, conn *pgx.Conn) error {
				begun = w.Begin(t.now())
				begun.Version = version
				tag, err := conn.Exec(ctx, t.sql.Load().cycle, begun.CreatedAt, from[:], w.Key[:], w.UserKey, w.OtherUserKeys,
					begun.Version, timestamp(begun.EndsAt), interval(w.TTL), w.Leaving, sealed, data)
				cycled = tag.RowsAffected() > 0
				return err
			})
			outcome, cycled, err = t.explainMove(ctx, begun, cycled, err)
			switch {
			case sqlState(err) == internalError && t.isDistributed():
				doubt = err // or the row that was in the way has been removed since
				continue
			case err != nil || cycled:
				return err
			case outcome != rows.OK:
				return doubt
			}
			row, err := t.load(ctx, from)
			if err != nil {
				return err
			}
			if _, _, outcome = rows.Cycle(row, rows.Row{}, w, t.now()); outcome != rows.OK {
				return doubt
			}
		}
		outcome = rows.Changed
		return doubt
	})
	return outcome, err
}

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

// The row at the old key becomes a tombstone in the same statement in which the new row is made, so
// that no snapshot shows both live, or neither, and the server never holds the old row while it waits
// for the client. created_at and ends_at pass through the tombstone, since RETURNING gives new values.
const cycleSQL = `
	WITH pgsession_ended AS (
		UPDATE sessions AS s
		SET ` + tombstone + `,
			created_at = CASE WHEN ` + sameUser + ` THEN s.created_at ELSE $1 END,
			ends_at = CASE WHEN ` + sameUser + ` THEN s.ends_at ELSE $7::timestamptz END
		WHERE s.key = $2 AND ` + live + ` AND (s.user_key IS NULL OR s.user_key = $9::bytea OR ` + sameUser + `) AND ` + refusedIfDistributed + `
		RETURNING s.created_at, s.ends_at
	)
	INSERT INTO sessions AS s (key, user_key, version, created_at, expires_at, ends_at, idle_timeout, sealed, data)
	SELECT $3::bytea, $4::bytea, $6::bigint, ended.created_at, least($1::timestamptz + $8::interval, ended.ends_at), ended.ends_at, $8::interval,
		$10::bytea, convert_from($11::bytea, 'UTF8')::jsonb
	FROM pgsession_ended AS ended`

const sameUser = `(s.user_key IS NOT DISTINCT FROM $4::bytea OR coalesce(s.user_key = ANY($5::bytea[]), false))`

// Renew is part of [rows.Table].
func (t *Table) Renew(ctx context.Context, seen rows.Row, w rows.Write) (row rows.Row, outcome rows.Outcome, err error) {
	sealed, data := t.payload(w.Payload)
	err = t.operate(ctx, func(ctx context.Context) error {
		var renewed bool
		err := t.runAlone(ctx, seen.Key, func(ctx context.Context, conn *pgx.Conn) error {
			now := t.now()
			row = seen.Move(w, now)
			tag, err := conn.Exec(ctx, t.sql.Load().renew, now, seen.Key[:], seen.Version, seen.CreatedAt,
				row.Key[:], row.UserKey, row.Version, row.CreatedAt, row.ExpiresAt, timestamp(row.EndsAt), interval(row.IdleTimeout), sealed, data)
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
