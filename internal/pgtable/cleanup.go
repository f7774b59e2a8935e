package pgtable

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// lookSize is how many keys of expired rows are read before they are removed in batches. It is more
// than a batch, since each look at the current hour reads what is still live in it again.
const lookSize = 10 * batchSize

// RemoveExpired is part of [rows.Table].
func (t *Table) RemoveExpired(ctx context.Context, wholeHours bool) (removed int64, err error) {
	bound := t.now()
	if wholeHours {
		bound = bound.Truncate(time.Hour).Add(-time.Microsecond)
	}
	held := list[[]byte]{} // rows that somebody holds: another node's clean-up, most likely
	for {
		keys, err := t.readKeys(ctx, func(s *statements) string { return s.expiredKeys },
			bound, t.config.ServerClockToo, held, lookSize)
		if err != nil {
			return removed, err
		}
		for batch := range slices.Chunk(keys, batchSize) {
			gone, err := t.removeExpired(ctx, bound, batch)
			if err != nil {
				return removed, err
			}
			removed += int64(len(gone))
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

// expiredBound is when a row must have expired to be removed: $1, which is by the store's clock, and
// if $2 is true by the server's as well, so that a node with a wrong clock removes no live session.
const expiredBound = `least($1::timestamptz, CASE WHEN $2::boolean THEN statement_timestamp() END)`

// Without the ORDER BY, a generic plan reads the whole table.
const expiredKeysSQL = `
	SELECT s.key
	FROM sessions AS s
	WHERE s.expires_hour <= ` + expiredBound + ` AND s.expires_at <= ` + expiredBound + ` AND s.key <> ALL($3::bytea[])
	ORDER BY s.expires_hour
	LIMIT $4`

func (t *Table) removeExpired(ctx context.Context, bound time.Time, keys [][]byte) (gone map[string]bool, err error) {
	err = t.write(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		gone = make(map[string]bool, len(keys))
		result, err := conn.Query(ctx, t.sql.Load().removeExpired, bound, t.config.ServerClockToo, list[[]byte](keys))
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
	return gone, err
}

// The expiry is judged again under the lock: a session may have been touched since its key was read.
const removeExpiredSQL = `
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
