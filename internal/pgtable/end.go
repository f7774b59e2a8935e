package pgtable

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsession/pgsession/internal/backoff"
	"github.com/pgsession/pgsession/internal/rows"
)

const (
	// batchSize is how many rows one statement ends or removes.
	batchSize = 1000

	// patience is how many passes EndByUser and EndAll make before they begin to back off, because
	// sessions keep moving.
	patience = 100
)

// End is part of [rows.Table].
func (t *Table) End(ctx context.Context, key rows.Key) error {
	deadline := t.deadline()
	if !t.isDistributed() {
		ended, err := t.shared.ends.Do(ctx, deadline, key)
		if err != nil || ended {
			return t.explain(ctx, err)
		}
	}
	bounded, cancel := t.deadlines.WithGrace(ctx, deadline)
	defer cancel()
	_, err := t.takeTurn(bounded, key, func() (bool, error) { return t.end(bounded, key) })
	return t.explain(ctx, err)
}

// end always returns true: there is no session at the key any more.
func (t *Table) end(ctx context.Context, key rows.Key) (bool, error) {
	return true, t.run(ctx, leftNoTrace, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, t.sql.Load().end, t.now(), key.Bytes())
		return err
	})
}

const endSQL = `
	UPDATE sessions AS s
	SET ` + tombstone + `
	WHERE s.key = $2 AND ` + stored

func (t *Table) endShared(ctx context.Context, keys []rows.Key, answer func(int, bool)) error {
	left := make(map[rows.Key]bool)
	err := t.run(ctx, leftNoTrace, func(ctx context.Context, conn *pgx.Conn) error {
		clear(left)
		seen, err := t.endMany(ctx, conn, keyList(keys))
		for _, row := range seen {
			if !row.ended {
				left[turnOf(row.key)] = true
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	for i, key := range keys {
		answer(i, !left[key])
	}
	return nil
}

// An endedRow is a session that was seen. If it was not ended, somebody else held its row, or ended
// it first.
type endedRow struct {
	key         []byte
	ended, live bool
}

func collectEnded(result pgx.Rows, err error) (seen []endedRow, _ error) {
	if err != nil {
		return nil, err
	}
	var row endedRow
	_, err = pgx.ForEachRow(result, []any{&row.key, &row.ended, &row.live}, func() error {
		seen = append(seen, endedRow{slices.Clone(row.key), row.ended, row.live})
		return nil
	})
	return seen, err
}

// endMany ends the sessions at those keys whose rows nobody holds.
func (t *Table) endMany(ctx context.Context, conn *pgx.Conn, keys list[[]byte]) ([]endedRow, error) {
	return collectEnded(conn.Query(ctx, t.sql.Load().endMany, t.now(), keys))
}

const endManySQL = `
	WITH pgsession_seen AS (
		SELECT s.key
		FROM (SELECT * FROM unnest($2::bytea[]) ` + hideListLength + `) AS given (key)
		JOIN sessions AS s ON s.key = given.key
		WHERE ` + stored + `
	), ` + endSeen

// endSeen ends the sessions of pgsession_seen whose rows nobody holds.
const endSeen = `pgsession_held AS (
		SELECT s.key, ` + live + ` AS live
		FROM sessions AS s
		JOIN pgsession_seen AS seen ON seen.key = s.key
		WHERE ` + stored + `
		` + skipLocked + `
	), pgsession_ended AS (
		UPDATE sessions AS s
		SET ` + tombstone + `
		FROM pgsession_held AS held
		WHERE s.key = held.key AND ` + stored + `
		RETURNING s.key, held.live
	)
	SELECT seen.key, ended.key IS NOT NULL, coalesce(ended.live, false)
	FROM pgsession_seen AS seen
	LEFT JOIN pgsession_ended AS ended ON ended.key = seen.key`

// Revoke is part of [rows.Table].
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
			row, err := t.load(ctx, key)
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

// revoke waits for the row's lock, and reports whether it ended a session and whether that was live.
func (t *Table) revoke(ctx context.Context, key []byte, userKeys [][]byte) (ended, live bool, err error) {
	err = t.runInTurn(ctx, turnOf(key), func(ctx context.Context, conn *pgx.Conn) error {
		ended, live = false, false
		result, err := conn.Query(ctx, t.sql.Load().revoke, t.now(), key, userKeys)
		if err != nil {
			return err
		}
		_, err = pgx.ForEachRow(result, []any{&live}, func() error {
			ended = true
			return nil
		})
		return err
	})
	return ended, live, err
}

// turnOf returns whose turn a call for a row waits for. A hostile row may have a key of another length.
func turnOf(key []byte) (turn rows.Key) {
	copy(turn[:], key)
	return turn
}

const revokeSQL = `
	WITH pgsession_held AS (
		SELECT s.key, ` + live + ` AS live
		FROM sessions AS s
		WHERE s.key = $2 AND ` + stored + ` AND ($3::bytea[] IS NULL OR s.user_key = ANY($3::bytea[]))
		FOR UPDATE OF s
	)
	UPDATE sessions AS s
	SET ` + tombstone + `
	FROM pgsession_held AS held
	WHERE s.key = $2 AND s.key = held.key
	RETURNING held.live`

// EndByUser is part of [rows.Table]. It ends what it can get at once, then waits for the rows that
// others hold, and looks again until every session that it saw was ended by itself: one that was not
// may have been moved to a key that was not seen.
func (t *Table) EndByUser(ctx context.Context, userKeys [][]byte, except []rows.Key, keep int) (live int64, err error) {
	spared := keyList(except)
	err = t.operate(ctx, func(ctx context.Context) error {
		for pass := 0; ; pass++ {
			if err := waitFromPass(ctx, pass); err != nil {
				return err
			}
			if t.isDistributed() {
				n, err := t.endDistributed(ctx, userKeys, spared, keep, time.Time{})
				live += n
				return err
			}
			seen, err := t.endPage(ctx, userKeys, spared, keep)
			if err != nil {
				if t.isDistributed() {
					continue // the server refused that
				}
				return err
			}
			all, n, err := t.endLeft(ctx, seen, userKeys)
			live += n
			if err != nil || all && len(seen) < batchSize && !t.isDistributed() {
				return err
			}
		}
	})
	return live, err
}

// waitFromPass lets others go on while sessions keep moving, or a trigger of the table's owner lets
// none be ended.
func waitFromPass(ctx context.Context, pass int) error {
	if pass < patience {
		return nil
	}
	return backoff.Wait(ctx, 1)
}

func (t *Table) endPage(ctx context.Context, userKeys [][]byte, spared list[[]byte], keep int) (seen []endedRow, err error) {
	err = t.run(ctx, leftNoTrace, func(ctx context.Context, conn *pgx.Conn) error {
		seen, err = collectEnded(conn.Query(ctx, t.sql.Load().endByUser, t.now(), userKeys, spared, batchSize, keep))
		return err
	})
	return seen, err
}

const endByUserSQL = `
	WITH pgsession_seen AS (
		SELECT s.key
		FROM sessions AS s
		WHERE s.user_key = ANY($2::bytea[]) AND ` + stored + ` AND s.key <> ALL($3::bytea[]) AND ($5 = 0 OR s.expires_at > $1)
		ORDER BY ` + newestFirst + `
		LIMIT $4 OFFSET $5
	), ` + endSeen

// endLeft ends one by one those that were seen and not ended. It reports whether this ended all, and
// how many of them and of the others were live.
func (t *Table) endLeft(ctx context.Context, seen []endedRow, userKeys [][]byte) (all bool, live int64, err error) {
	all = true
	for _, row := range seen {
		if row.live {
			live++
		}
	}
	for _, row := range seen {
		if row.ended {
			continue
		}
		ended, wasLive, err := t.revoke(ctx, row.key, userKeys)
		if err != nil {
			return false, live, err
		}
		if wasLive {
			live++
		}
		all = all && ended
	}
	return all, live, nil
}

// EndAll is part of [rows.Table]. It works as EndByUser does, and holds all keys in memory: sessions
// that are moved meanwhile would escape from a look at one page after the other.
func (t *Table) EndAll(ctx context.Context, begunBefore time.Time) (live int64, err error) {
	for pass := 0; ; pass++ {
		if err := waitFromPass(ctx, pass); err != nil {
			return live, err
		}
		if t.isDistributed() {
			n, err := t.endDistributed(ctx, nil, nil, 0, begunBefore)
			return live + n, err
		}
		keys, err := t.readKeys(ctx, func(s *statements) string { return s.allKeys }, timestamp(begunBefore))
		if err != nil {
			return live, err
		}
		done := true
		for batch := range slices.Chunk(keys, batchSize) {
			all, n, err := t.endBatch(ctx, batch)
			live += n
			if err != nil && !t.isDistributed() {
				return live, err
			}
			done = done && all
		}
		if done && !t.isDistributed() {
			return live, nil
		}
	}
}

// endBatch ends the sessions at keys that were read before. One that is not there any more may have
// been moved.
func (t *Table) endBatch(ctx context.Context, keys [][]byte) (all bool, live int64, err error) {
	err = t.operate(ctx, func(ctx context.Context) error {
		var seen []endedRow
		err := t.run(ctx, leftNoTrace, func(ctx context.Context, conn *pgx.Conn) (err error) {
			seen, err = t.endMany(ctx, conn, keys)
			return err
		})
		if err != nil {
			return err
		}
		all, live, err = t.endLeft(ctx, seen, nil)
		all = all && len(seen) == len(keys)
		return err
	})
	return all, live, err
}

// readKeys runs a statement that reads keys.
func (t *Table) readKeys(ctx context.Context, sql func(*statements) string, args ...any) (keys [][]byte, err error) {
	err = t.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		result, err := conn.Query(ctx, sql(t.sql.Load()), args...)
		if err != nil {
			return err
		}
		keys, err = pgx.CollectRows(result, pgx.RowTo[[]byte])
		return err
	})
	return keys, err
}

const allKeysSQL = `
	SELECT s.key
	FROM sessions AS s
	WHERE ` + stored + ` AND ` + hasHandle + ` AND ($1::timestamptz IS NULL OR s.created_at < $1)`
