package pgtable

import (
	"bytes"
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgsession/pgsession/internal/coalesce"
	"github.com/pgsession/pgsession/internal/rows"
)

// Save is part of [rows.Table].
func (t *Table) Save(ctx context.Context, w rows.Write) (rows.Outcome, error) {
	return t.replace(ctx, w, t.shared.saves, t.save, rows.Row.Save)
}

// replace is Save or Put: it shares a statement if it may, and tells why nothing was written by the
// rule.
func (t *Table) replace(ctx context.Context, w rows.Write, group *coalesce.Group[rows.Write, bool],
	one func(context.Context, rows.Write) (bool, error),
	rule func(rows.Row, rows.Write, time.Time) (rows.Row, rows.Outcome)) (rows.Outcome, error) {
	deadline := t.deadline()
	shares := len(w.Payload) <= maxSharedPayload && !t.isDistributed()
	if shares {
		written, err := group.Do(ctx, deadline, w)
		if err != nil || written {
			return rows.OK, t.explain(ctx, err)
		}
	}
	bounded, cancel := t.deadlines.WithGrace(ctx, deadline)
	defer cancel()
	outcome, err := t.replaceAlone(bounded, w, shares, one, rule)
	return outcome, t.explain(ctx, err)
}

func (t *Table) replaceAlone(ctx context.Context, w rows.Write, refused bool,
	one func(context.Context, rows.Write) (bool, error),
	rule func(rows.Row, rows.Write, time.Time) (rows.Row, rows.Outcome)) (rows.Outcome, error) {
	for range maxAttempts {
		if refused {
			row, err := t.load(ctx, w.Key)
			if err != nil {
				return rows.OK, err
			}
			if _, outcome := rule(row, w, t.now()); outcome != rows.OK {
				return outcome, nil
			}
		}
		written, err := t.takeTurn(ctx, w.Key, func() (bool, error) { return one(ctx, w) })
		if err != nil || written {
			return rows.OK, err
		}
		refused = true // the row has changed since it was loaded
	}
	return rows.Changed, nil
}

// takeTurn runs a statement that waits for a row's lock when no other call for the row does.
func (t *Table) takeTurn(ctx context.Context, key rows.Key, run func() (bool, error)) (bool, error) {
	if err := t.waits.enter(ctx, key); err != nil {
		return false, err
	}
	defer t.waits.leave(key)
	return run()
}

// save reports whether the row was live, the user's, and so written.
func (t *Table) save(ctx context.Context, w rows.Write) (written bool, err error) {
	sealed, data := t.payload(w.Payload)
	err = t.run(ctx, leftNoTrace, func(ctx context.Context, conn *pgx.Conn) error {
		now := t.now()
		tag, err := conn.Exec(ctx, t.sql.Load().save, now, w.Key.Bytes(), w.UserKey, w.OtherUserKeys, now.Add(w.TTL), interval(w.TTL), sealed, data)
		written = tag.RowsAffected() > 0
		return err
	})
	return written, err
}

const saveSQL = `
	UPDATE sessions AS s
	SET user_key = $3, sealed = $7, data = convert_from($8, 'UTF8')::jsonb, version = ` + nextVersion + `,
		expires_at = least($5::timestamptz, s.ends_at), idle_timeout = $6
	WHERE s.key = $2 AND ` + live + ` AND (s.user_key IS NOT DISTINCT FROM $3 OR s.user_key = ANY($4::bytea[]))`

func (t *Table) saveMany(ctx context.Context, writes []rows.Write, answer func(int, bool)) error {
	return t.replaceMany(ctx, func(s *statements) string { return s.saveMany }, writes, answer, nil)
}

// A row that lies under another key of its user's is left alone, and its caller saves it by itself.
// The list that is locked is all that the UPDATE joins: with another one beside it, some plans
// compare each row of both.
const saveManySQL = `
	WITH pgsession_new AS (
		SELECT new.key, new.user_key, new.n::int AS n
		FROM sessions AS s
		JOIN ` + newRows + ` ON new.key = s.key
		WHERE ` + live + ` AND s.user_key IS NOT DISTINCT FROM new.user_key
		` + skipLocked + `
	)
	UPDATE sessions AS s
	SET sealed = ` + newSealed + `, data = ` + newData + `, version = ` + nextVersion + `,
		expires_at = least(` + newExpiresAt + `, s.ends_at), idle_timeout = ` + newTTL + `
	FROM pgsession_new AS new
	WHERE s.key = new.key AND ` + live + ` AND s.user_key IS NOT DISTINCT FROM new.user_key
	RETURNING s.key`

// newRows are the writes of a batch as a table, from the parameters that replaceMany gives. What has
// a fixed size costs less as the n-th element of its list. The payloads are pieces of one parameter:
// pgx would copy the elements of a large array several times.
const (
	newRows      = `(SELECT * FROM unnest($2::bytea[], $3::bytea[]) WITH ORDINALITY ` + hideListLength + `) AS new (key, user_key, n)`
	newTTL       = `($4::bigint[])[new.n] * interval '1 microsecond'`
	newExpiresAt = `$1::timestamptz + ` + newTTL
	newSealed    = `substring($7::bytea FROM ($5::int[])[new.n] FOR ($6::int[])[new.n])`
	newData      = `convert_from(substring($8::bytea FROM ($5::int[])[new.n] FOR ($6::int[])[new.n]), 'UTF8')::jsonb`
)

// replaceMany answers for each write whether it was done. Of several writes for one row the last is
// done, as if the others had come just before it. That is only true of those that name the same user and
// the same end, which the first of several Puts decides.
// More returns the parameters that only this statement has, for the writes that are done.
func (t *Table) replaceMany(ctx context.Context, sql func(*statements) string, writes []rows.Write, answer func(int, bool),
	more func(done []int, now time.Time) []any) error {
	last := make(map[rows.Key]int, len(writes))
	for i, w := range writes {
		last[w.Key] = i
	}
	total := 0
	done := make([]int, 0, len(last))
	for i, w := range writes {
		if last[w.Key] == i {
			done = append(done, i)
			total += len(w.Payload)
		}
	}
	var (
		keys     = make(list[[]byte], 0, len(last))
		userKeys = make(list[[]byte], 0, len(last))
		ttls     = make(list[int64], 0, len(last))
		starts   = make(list[int32], 0, len(last))
		sizes    = make(list[int32], 0, len(last))
		payloads = make([]byte, 0, total)
	)
	for _, i := range done {
		w := &writes[i]
		keys, userKeys, ttls = append(keys, w.Key.Bytes()), append(userKeys, w.UserKey), append(ttls, w.TTL.Microseconds())
		starts, sizes = append(starts, int32(1+len(payloads))), append(sizes, int32(len(w.Payload))) // SQL counts from 1
		payloads = append(payloads, w.Payload...)
	}
	sealed, data := t.payload(payloads)
	written := make(map[rows.Key]bool, len(last))
	err := t.run(ctx, leftNoTrace, func(ctx context.Context, conn *pgx.Conn) error {
		clear(written)
		now := t.now()
		args := []any{now, keys, userKeys, ttls, starts, sizes, sealed, data}
		if more != nil {
			args = append(args, more(done, now)...)
		}
		result, err := conn.Query(ctx, sql(t.sql.Load()), args...)
		if err != nil {
			return err
		}
		var key rows.Key
		scanned := pgtype.PreallocBytes(key[:rows.KeySize])
		_, err = pgx.ForEachRow(result, []any{&scanned}, func() error {
			written[key] = true
			return nil
		})
		return err
	})
	if err != nil {
		return err
	}
	for i, w := range writes {
		last := &writes[last[w.Key]]
		answer(i, written[w.Key] && bytes.Equal(w.UserKey, last.UserKey) && w.Lifetime == last.Lifetime)
	}
	return nil
}

// Swap is part of [rows.Table].
func (t *Table) Swap(ctx context.Context, seen rows.Row, w rows.Write) (row rows.Row, outcome rows.Outcome, err error) {
	sealed, data := t.payload(w.Payload)
	err = t.writeRow(ctx, seen.Key, func(ctx context.Context, conn *pgx.Conn) error {
		now := t.now()
		row = seen.Replace(w, now)
		tag, err := conn.Exec(ctx, t.sql.Load().swap, now, seen.Key.Bytes(), seen.Version, seen.CreatedAt,
			row.UserKey, row.Version, row.ExpiresAt, interval(row.IdleTimeout), sealed, data)
		outcome = rows.OK // an attempt before this one may have failed
		if tag.RowsAffected() == 0 {
			outcome = rows.Changed
		}
		return err
	})
	return row, outcome, err
}

const swapSQL = `
	UPDATE sessions AS s
	SET user_key = $5, version = $6, expires_at = $7, idle_timeout = $8, sealed = $9, data = convert_from($10, 'UTF8')::jsonb
	WHERE s.key = $2 AND ` + live + ` AND s.version = $3 AND s.created_at = $4`
