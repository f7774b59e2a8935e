package pgtable

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgsession/pgsession/internal/rows"
)

// PutEntry is part of [rows.Table].
func (t *Table) PutEntry(ctx context.Context, w rows.Write) error {
	sealed, data := t.payload(w.Payload)
	return t.writeRow(ctx, w.Key, func(ctx context.Context, conn *pgx.Conn) error {
		begun := w.Begin(t.now())
		tag, err := conn.Exec(ctx, t.sql.Load().putEntry, begun.CreatedAt, w.Key.Bytes(), begun.Version, begun.ExpiresAt, interval(w.TTL), sealed, data)
		if err == nil && tag.RowsAffected() == 0 {
			return errNotStored
		}
		return err
	})
}

const putEntrySQL = `
	INSERT INTO sessions AS s (key, version, created_at, expires_at, idle_timeout, sealed, data)
	VALUES ($2, $3, $1, $4, $5, $6, convert_from($7, 'UTF8')::jsonb)
	ON CONFLICT (key) DO UPDATE
	SET user_key = NULL, sealed = excluded.sealed, data = excluded.data, version = ` + nextVersion + `,
		created_at = excluded.created_at, expires_at = excluded.expires_at, ends_at = NULL, idle_timeout = excluded.idle_timeout`

// RemoveEntry is part of [rows.Table].
func (t *Table) RemoveEntry(ctx context.Context, key rows.Key) error {
	return t.writeRow(ctx, key, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, t.sql.Load().removeEntry, key.Bytes())
		return err
	})
}

const removeEntrySQL = `
	DELETE FROM sessions AS s
	WHERE s.key = $1`

// TakeEntry is part of [rows.Table].
func (t *Table) TakeEntry(ctx context.Context, key rows.Key) (taken rows.Row, err error) {
	err = t.writeRow(ctx, key, func(ctx context.Context, conn *pgx.Conn) error {
		taken, err = queryRow(ctx, conn, t.sql.Load().takeEntry, t.now(), key.Bytes())
		return err
	})
	return taken, err
}

const takeEntrySQL = `
	DELETE FROM sessions AS s
	WHERE s.key = $2 AND ` + live + `
	RETURNING ` + columns + `
`
