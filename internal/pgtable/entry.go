package pgtable

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsession/pgsession/internal/rows"
)

func (t *Table) PutEntry(ctx context.Context, w rows.Write) error {
	return t.writeRow(ctx, w.Key, func(ctx context.Context, conn *pgx.Conn) error {
		now := t.now()
		row := w.Begin(now)
		tag, err := conn.Exec(ctx, t.text(putEntrySQL), t.rowArgs(now, &row)...)
		if err == nil && tag.RowsAffected() == 0 {
			return errSwallowed
		}
		return err
	})
}

var putEntrySQL = register(insertRow + `
	ON CONFLICT (key) DO UPDATE
	SET (created_at, ` + rowColumns + `) = (excluded.created_at, ` + excludedValues + `)`)

func (t *Table) RemoveEntry(ctx context.Context, key rows.Key) error {
	isThere := func(row rows.Row) bool { return row.State != rows.Absent }
	return t.removeEntry(ctx, key, isThere, func(ctx context.Context, conn *pgx.Conn) (bool, error) {
		tag, err := conn.Exec(ctx, t.text(removeEntrySQL), key.Bytes())
		return tag.RowsAffected() > 0, err
	})
}

var removeEntrySQL = register(`
	DELETE FROM sessions AS s
	WHERE s.key = $1`)

func (t *Table) TakeEntry(ctx context.Context, key rows.Key) (taken rows.Row, err error) {
	isThere := func(row rows.Row) bool { return row.IsLive(t.now()) }
	err = t.removeEntry(ctx, key, isThere, func(ctx context.Context, conn *pgx.Conn) (bool, error) {
		taken, err = queryRow(ctx, conn, t.text(takeEntrySQL), t.now(), key.Bytes())
		return taken.State != rows.Absent, err
	})
	return taken, err
}

var takeEntrySQL = register(`
	DELETE FROM sessions AS s
	WHERE s.key = $2 AND ` + live + `
	RETURNING ` + columns)

// removeEntry runs a statement that removes an entry until it has removed one, or there is none.
func (t *Table) removeEntry(ctx context.Context, key rows.Key, isThere func(rows.Row) bool,
	remove func(ctx context.Context, conn *pgx.Conn) (removed bool, err error)) error {
	return t.operate(ctx, func(ctx context.Context) error {
		for range maxAttempts {
			var removed bool
			err := t.inTurn(ctx, key, func() error {
				return t.run(ctx, leftNoTrace, func(ctx context.Context, conn *pgx.Conn) (err error) {
					removed, err = remove(ctx, conn)
					return err
				})
			})
			if err != nil || removed {
				return err
			}
			row, err := t.loads.Do(ctx, time.Time{}, key)
			if err != nil || !isThere(row) {
				return err
			}
		}
		return errSwallowed
	})
}
