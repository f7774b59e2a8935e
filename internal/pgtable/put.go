package pgtable

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgsession/pgsession/internal/rows"
)

// Put is part of [rows.Table].
func (t *Table) Put(ctx context.Context, w rows.Write) (rows.Outcome, error) {
	return t.replace(ctx, w, t.shared.puts, t.put, rows.Row.Put)
}

// put reports whether there was no row, or a live one of the user's.
func (t *Table) put(ctx context.Context, w rows.Write) (written bool, err error) {
	sealed, data := t.payload(w.Payload)
	err = t.run(ctx, leftNoTrace, func(ctx context.Context, conn *pgx.Conn) error {
		begun := w.Begin(t.now())
		tag, err := conn.Exec(ctx, t.sql.Load().put, begun.CreatedAt, w.Key.Bytes(), w.UserKey, w.OtherUserKeys,
			begun.Version, begun.ExpiresAt, timestamp(begun.EndsAt), interval(begun.IdleTimeout), begun.CreatedAt.Add(w.TTL), sealed, data)
		written = tag.RowsAffected() > 0
		return err
	})
	return written, err
}

const putSQL = `
	INSERT INTO sessions AS s (key, user_key, version, created_at, expires_at, ends_at, idle_timeout, sealed, data)
	VALUES ($2, $3, $5, $1, $6, $7, $8, $10, convert_from($11, 'UTF8')::jsonb)
	ON CONFLICT (key) DO UPDATE
	SET user_key = excluded.user_key, sealed = excluded.sealed, data = excluded.data, version = ` + nextVersion + `,
		expires_at = least($9::timestamptz, s.ends_at), idle_timeout = excluded.idle_timeout
	WHERE ` + live + ` AND (s.user_key IS NOT DISTINCT FROM excluded.user_key OR s.user_key = ANY($4::bytea[]))`

func (t *Table) putMany(ctx context.Context, writes []rows.Write, answer func(int, bool)) error {
	more := func(done []int, now time.Time) []any {
		versions, ends := make(list[int64], len(done)), make(list[pgtype.Timestamptz], len(done))
		for n, i := range done {
			versions[n], ends[n] = rows.NewVersion(), timestamp(writes[i].EndsAt(now))
		}
		return []any{versions, ends}
	}
	return t.replaceMany(ctx, func(s *statements) string { return s.putMany }, writes, answer, more)
}

// ON CONFLICT DO NOTHING meets the rows that another statement has just inserted. Their callers put
// them by themselves. The SELECT reads the inserted keys first, so that the INSERT, which may wait for
// another's, runs before any row is locked.
//
// An insert waits for another statement that inserts or has updated the same key. So the inserts come in the
// order of their keys, and before the updates, which wait for nobody: the last SELECT reads them first.
// Otherwise two statements could wait for each other.
const putManySQL = `
	WITH pgsession_new AS (
		SELECT * FROM ` + newRows + `
	), pgsession_held AS (
		SELECT new.key, new.user_key, new.n::int AS n
		FROM sessions AS s
		JOIN pgsession_new AS new ON new.key = s.key
		WHERE ` + live + ` AND s.user_key IS NOT DISTINCT FROM new.user_key
		` + skipLocked + `
	), pgsession_saved AS (
		UPDATE sessions AS s
		SET sealed = ` + newSealed + `, data = ` + newData + `, version = ` + nextVersion + `,
			expires_at = least(` + newExpiresAt + `, s.ends_at), idle_timeout = ` + newTTL + `
		FROM pgsession_held AS new
		WHERE s.key = new.key AND ` + live + ` AND s.user_key IS NOT DISTINCT FROM new.user_key
		RETURNING s.key
	), pgsession_inserted AS (
		INSERT INTO sessions AS s (key, user_key, sealed, data, version, created_at, expires_at, ends_at, idle_timeout)
		SELECT new.key, new.user_key, ` + newSealed + `, ` + newData + `, ($9::bigint[])[new.n], $1,
			least(` + newExpiresAt + `, ` + newEndsAt + `), ` + newEndsAt + `, ` + newTTL + `
		FROM pgsession_new AS new
		WHERE NOT EXISTS (SELECT FROM sessions AS s WHERE s.key = new.key)
		ORDER BY new.key
		ON CONFLICT (key) DO NOTHING
		RETURNING s.key
	)
	SELECT inserted.key FROM pgsession_inserted AS inserted
	UNION ALL
	SELECT saved.key FROM pgsession_saved AS saved`

const newEndsAt = `($10::timestamptz[])[new.n]`
