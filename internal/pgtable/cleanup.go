package pgtable

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// lookSize is how many keys of expired rows are read before they are removed in batches. It is more
// than a batch, since each look at the current hour reads what is still live in it again.
const lookSize = 10 * batchSize

func (t *Table) RemoveExpired(ctx context.Context, wholeHours bool, report func(int64)) (removed int64, err error) {
	bound := t.now()
	if wholeHours {
		bound = bound.Truncate(time.Hour).Add(-time.Microsecond)
	}
	held := list[[]byte]{} // rows that somebody holds: another node's clean-up, most likely
	for {
		keys, err := t.readKeys(ctx, expiredKeysSQL, bound, t.mayBeAhead(), held, lookSize)
		if err != nil {
			return removed, err
		}
		for batch := range slices.Chunk(keys, batchSize) {
			var gone map[string]bool
			err := t.onLayout(func(l layout) (err error) {
				gone, err = l.removeExpired(ctx, bound, batch)
				return err
			})
			removed += int64(len(gone))
			if err != nil {
				return removed, err
			}
			if report != nil {
				report(removed)
			}
			if len(gone) == len(batch) {
				continue
			}
			for _, key := range batch {
				if !gone[string(key)] {
					held = append(held, key)
				}
			}
		}
		if len(keys) < lookSize {
			return removed, nil
		}
	}
}

// expiredBound is the time by which a row must have expired to be removed: $1, the time of the
// store's clock, but at most $2 after the server's time. So a node with a wrong clock removes no
// live session.
const expiredBound = `least($1::timestamptz, statement_timestamp() + $2::interval)`

// mayBeAhead returns by how much the store's clock may be ahead of the server's.
func (t *Table) mayBeAhead() pgtype.Interval {
	if t.config.ServerClockToo {
		return pgtype.Interval{Valid: true}
	}
	return pgtype.Interval{Months: 12 * 10_000, Valid: true}
}

// Without the ORDER BY, a generic plan reads the whole table.
var expiredKeysSQL = register(`
	SELECT s.key
	FROM sessions AS s
	WHERE s.expires_hour <= ` + expiredBound + ` AND s.expires_at <= ` + expiredBound + ` AND s.key <> ALL($3::bytea[])
	ORDER BY s.expires_hour
	LIMIT $4`)

func (t local) removeExpired(ctx context.Context, bound time.Time, keys [][]byte) (gone map[string]bool, err error) {
	return t.removeKeys(ctx, removeExpiredSQL, bound, list[[]byte](keys))
}

// removeKeys runs a statement that removes rows and returns their keys.
func (t *Table) removeKeys(ctx context.Context, sql statement, bound time.Time, keys any) (gone map[string]bool, err error) {
	err = t.write(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		gone = make(map[string]bool)
		result, err := conn.Query(ctx, t.text(sql), bound, t.mayBeAhead(), keys)
		if err != nil {
			return err
		}
		var key []byte
		_, err = pgx.ForEachRow(result, []any{&key}, func() error {
			gone[string(key)] = true
			return nil
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return gone, nil
}

// The expiry is judged again under the lock: a session may have been touched since its key was
// read.
var removeExpiredSQL = register(removeExpiredText)

const removeExpiredText = `
	WITH pgsession_held AS (
		SELECT s.key
		FROM sessions AS s
		JOIN (SELECT * FROM unnest($3::bytea[]) ` + hideListLength + `) AS seen (key) ON seen.key = s.key
		WHERE s.expires_at <= ` + expiredBound + `
		` + skipLocked + `
	)
	DELETE FROM sessions AS s
	USING pgsession_held AS held
	WHERE s.key = held.key AND s.expires_at <= ` + expiredBound + `
	RETURNING s.key`
