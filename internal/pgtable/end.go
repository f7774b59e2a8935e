package pgtable

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgsession/pgsession/internal/backoff"
	"github.com/pgsession/pgsession/internal/rows"
)

const (
	// batchSize is how many rows one statement ends or removes.
	batchSize = 1000

	// patience is how many passes EndByUser and EndAll make before they begin to wait in between,
	// because sessions keep moving.
	patience = 100
)

func (t *Table) End(ctx context.Context, key rows.Key) (rows.Row, error) {
	row, _, err := t.change(ctx, t.deletions, &change{w: rows.Write{Key: key}})
	return row, err
}

var endKind = &kind{
	name: "delete",
	one: func(ctx context.Context, t *Table, c *change) (answer, error) {
		return t.exec(ctx, endSQL, func(now time.Time) ([]any, rows.Row) { return []any{now, c.w.Key.Bytes()}, rows.Row{} })
	},
	many: endManySQL,
	args: func(_ *database, now time.Time, l *lists, _ []*change) []any {
		return []any{now, l.keys, list[[]byte](nil)}
	},
	becomes:     func(c *change, _ time.Time) rows.Row { return rows.Row{Key: c.w.Key} },
	answerOther: func(_, _ *change, _ rows.Row, _ time.Time) answer { return answer{known: true} },
	judge: func(row rows.Row, _ *change, _ time.Time) answer {
		return answer{known: row.State != rows.Stored, row: row}
	},
}

var endSQL = register(`
	UPDATE sessions AS s
	SET ` + tombstone + `
	WHERE s.key = $2 AND ` + stored)

// isUsers says that a row lies under one of a user's keys. All rows do if the parameter is NULL.
const isUsers = `($3::bytea[] IS NULL OR s.user_key = ANY($3::bytea[]))`

// It returns the expiry that each session had before.
var endManySQL = register(`
	WITH pgsession_held AS (
		SELECT s.key, s.expires_at
		FROM (SELECT * FROM unnest($2::bytea[]) ` + hideListLength + `) AS given (key)
		JOIN sessions AS s ON s.key = given.key
		WHERE ` + stored + ` AND ` + isUsers + `
		` + skipLocked + `
	)
	UPDATE sessions AS s
	SET ` + tombstone + `
	FROM pgsession_held AS held
	WHERE s.key = held.key AND ` + stored + `
	RETURNING s.key, held.expires_at`)

func (t *Table) Revoke(ctx context.Context, key rows.Key, userKeys [][]byte) (outcome rows.Outcome, err error) {
	err = t.operate(ctx, func(ctx context.Context) error {
		for range maxAttempts {
			ended, live, err := t.revoke(ctx, key.Bytes(), userKeys)
			switch {
			case err != nil || live:
				return err
			case ended:
				outcome = rows.Expired
				return nil
			}
			row, err := t.load(ctx, &key)
			if err != nil {
				return err
			}
			if _, outcome = row.Revoke(userKeys, t.now()); outcome != rows.OK && outcome != rows.Expired {
				return nil
			}
		}
		outcome = rows.Changed
		return nil
	})
	return outcome, err
}

// revoke waits for the row's lock, and reports whether it ended a session and whether that was
// live.
func (t *Table) revoke(ctx context.Context, key []byte, userKeys [][]byte) (ended, live bool, err error) {
	err = t.inTurn(ctx, keyOf(key), func() error {
		return t.run(ctx, leftNoTrace, func(ctx context.Context, conn *pgx.Conn) error {
			held := false
			ended, live = false, false
			result, err := conn.Query(ctx, t.text(revokeSQL), t.now(), key, list[[]byte](userKeys))
			if err != nil {
				return err
			}
			_, err = pgx.ForEachRow(result, []any{&live, &ended}, func() error {
				held = true
				return nil
			})
			if err == nil && held && !ended {
				err = errSwallowed
			}
			return err
		})
	})
	return ended, live, err
}

// keyOf returns the key under which calls for a row take turns. A row that an attacker has written
// may have a key of another length.
func keyOf(b []byte) (key rows.Key) {
	copy(key[:], b)
	return key
}

var revokeSQL = register(`
	WITH pgsession_held AS (
		SELECT s.key, ` + live + ` AS live
		FROM sessions AS s
		WHERE s.key = $2 AND ` + stored + ` AND ` + isUsers + `
		FOR UPDATE OF s
	), pgsession_ended AS (
		UPDATE sessions AS s
		SET ` + tombstone + `
		FROM pgsession_held AS held
		WHERE s.key = $2 AND s.key = held.key
		RETURNING s.key
	)
	SELECT held.live, EXISTS (SELECT FROM pgsession_ended)
	FROM pgsession_held AS held`)

func (t *Table) EndByUser(ctx context.Context, userKeys [][]byte, except []rows.Key, keep int) (live int64, err error) {
	ctx, cancel := t.Within(ctx)
	defer cancel()
	err = t.onLayout(func(l layout) error {
		n, err := l.endByUser(ctx, userKeys, except, keep)
		live += n
		return err
	})
	return live, err
}

func (t local) endByUser(ctx context.Context, userKeys [][]byte, except []rows.Key, keep int) (live int64, err error) {
	return t.endRead(ctx, userKeys, func() ([][]byte, error) {
		return t.readKeys(ctx, keysOfUserSQL, t.now(), list[[]byte](userKeys), keyList(except), keep)
	})
}

var keysOfUserSQL = register(`
	SELECT s.key
	FROM sessions AS s
	WHERE s.user_key = ANY($2::bytea[]) AND ` + stored + ` AND s.key <> ALL($3::bytea[]) AND ($4 = 0 OR s.expires_at > $1)
	ORDER BY ` + newestFirst + `
	OFFSET $4`)

// EndAll is part of [rows.Table]. It holds all keys in memory: sessions that are moved meanwhile
// would escape if it read one page after the other.
func (t *Table) EndAll(ctx context.Context, begunBefore time.Time) (live int64, err error) {
	err = t.onLayout(func(l layout) error {
		n, err := l.endAll(ctx, begunBefore)
		live += n
		return err
	})
	return live, err
}

func (t local) endAll(ctx context.Context, begunBefore time.Time) (live int64, err error) {
	return t.endRead(ctx, nil, func() ([][]byte, error) { return t.readKeys(ctx, allKeysSQL, timestamp(begunBefore)) })
}

var allKeysSQL = register(`
	SELECT s.key
	FROM sessions AS s
	WHERE ` + stored + ` AND ` + hasHandle + ` AND ($1::timestamptz IS NULL OR s.created_at < $1)`)

// readKeys runs a statement that reads keys.
func (t *Table) readKeys(ctx context.Context, sql statement, args ...any) (keys [][]byte, err error) {
	err = t.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		result, err := conn.Query(ctx, t.text(sql), args...)
		if err != nil {
			return err
		}
		keys, err = pgx.CollectRows(result, pgx.RowTo[[]byte])
		return err
	})
	return keys, err
}

// endRead ends the sessions whose keys read returns, and reads again until it has ended every
// session that it read. One that it did not end may have been moved to a key that was not read. It
// returns how many of them were live, also with an error.
func (t local) endRead(ctx context.Context, userKeys [][]byte, read func() ([][]byte, error)) (live int64, err error) {
	var skipped map[string]bool // keys of sessions that were read before and not ended
	for pass := 0; ; pass++ {
		if pass >= patience {
			if err := backoff.Wait(ctx, 1); err != nil {
				return live, err
			}
		}
		keys, err := read()
		if err != nil {
			return live, err
		}
		left := make(map[string]bool)
		for batch := range slices.Chunk(keys, batchSize) {
			err := t.operate(ctx, func(ctx context.Context) error {
				n, err := t.endBatch(ctx, batch, userKeys, skipped, left)
				live += n
				return err
			})
			if err != nil {
				return live, err
			}
		}
		if len(left) == 0 {
			return live, nil
		}
		skipped = left
	}
}

// endBatch ends at once the sessions that no other transaction holds. Then it waits for those that
// were skipped before. It adds the keys of sessions that it did not end to left.
func (t local) endBatch(ctx context.Context, keys [][]byte, userKeys [][]byte, skipped, left map[string]bool) (live int64, err error) {
	ended := make(map[string]bool, len(keys))
	err = t.run(ctx, leftNoTrace, func(ctx context.Context, conn *pgx.Conn) error {
		clear(ended)
		live = 0
		now := t.now()
		result, err := conn.Query(ctx, t.text(endManySQL), now, list[[]byte](keys), list[[]byte](userKeys))
		if err != nil {
			return err
		}
		var (
			key     []byte
			expires pgtype.Timestamptz
		)
		_, err = pgx.ForEachRow(result, []any{&key, &expires}, func() error {
			ended[string(key)] = true
			if readTime(new(rows.Row), expires).After(now) {
				live++
			}
			return nil
		})
		return err
	})
	for _, key := range keys {
		isEnded := ended[string(key)]
		if err == nil && !isEnded && skipped[string(key)] {
			var wasLive bool
			if isEnded, wasLive, err = t.revoke(ctx, key, userKeys); wasLive {
				live++
			}
		}
		if !isEnded {
			left[string(key)] = true
		}
	}
	return live, err
}
