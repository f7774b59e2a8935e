package pgtable

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/pgsession/pgsession/internal/rows"
)

var errNotStored = errors.New("INSERT succeeded but stored no row; a trigger or rule of the table may have swallowed it")

// Insert is part of [rows.Table].
func (t *Table) Insert(ctx context.Context, w rows.Write) (row rows.Row, outcome rows.Outcome, err error) {
	sealed, data := t.payload(w.Payload)
	err = t.write(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		row = w.Begin(t.now())
		tag, err := conn.Exec(ctx, t.sql.Load().insert, w.Key.Bytes(), w.UserKey, row.Version, row.CreatedAt,
			row.ExpiresAt, timestamp(row.EndsAt), interval(row.IdleTimeout), sealed, data)
		if err == nil && tag.RowsAffected() == 0 {
			return errNotStored
		}
		return err
	})
	if sqlState(err) == uniqueViolation {
		return rows.Row{}, rows.Exists, nil
	}
	return row, rows.OK, err
}

const insertSQL = `
	INSERT INTO sessions AS s (key, user_key, version, created_at, expires_at, ends_at, idle_timeout, sealed, data)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, convert_from($9, 'UTF8')::jsonb)`
