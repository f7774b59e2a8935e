package pgtable

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgsession/pgsession/internal/rows"
)

// A found session is one that was there when the shards were read. Only its key, CreatedAt and
// Version are known.
type foundSession struct {
	key []byte
	row rows.Row
}

// endByUser ends all sessions that it finds, or all but the newest.
func (t distributed) endByUser(ctx context.Context, userKeys [][]byte, except []rows.Key, keep int) (live int64, err error) {
	found, moves := make(map[string]foundSession), make(map[string][]byte)
	err = t.readSessions(ctx, found, sessionsOfUserSQL, t.now(), list[[]byte](userKeys), keep > 0)
	for _, userKey := range userKeys {
		if err == nil {
			err = t.readMoves(ctx, moves, append(slices.Clone(userKey), 0), append(slices.Clone(userKey), 1))
		}
	}
	if err == nil {
		err = t.follow(ctx, found, moves, func(at place) bool { return keep == 0 || at.live })
	}
	if err == nil && keep > 0 {
		err = t.settleMoves(ctx, found)
	}
	if err != nil {
		return 0, err
	}
	sessions := slices.DeleteFunc(newest(found), func(s foundSession) bool { return slices.Contains(except, keyOf(s.key)) })
	return t.endFound(ctx, sessions[min(keep, len(sessions)):], userKeys, except)
}

// endAll ends all sessions that it finds. One that a log-in moves at the same time is ended too.
func (t distributed) endAll(ctx context.Context, begunBefore time.Time) (live int64, err error) {
	found, moves := make(map[string]foundSession), make(map[string][]byte)
	err = t.readSessions(ctx, found, allSessionsSQL, timestamp(begunBefore))
	if err == nil {
		err = t.readMoves(ctx, moves, nil, nil)
	}
	if err == nil {
		err = t.follow(ctx, found, moves, func(at place) bool {
			return begunBefore.IsZero() || at.row.CreatedAt.Before(begunBefore)
		})
	}
	if err != nil {
		return 0, err
	}
	return t.endFound(ctx, slices.Collect(maps.Values(found)), nil, nil)
}

var (
	sessionsOfUserSQL = register(`
	SELECT s.key, s.created_at, s.version
	FROM sessions AS s
	WHERE s.user_key = ANY($2::bytea[]) AND ` + stored + ` AND (NOT $3 OR s.expires_at > $1)`)

	allSessionsSQL = register(`
	SELECT s.key, s.created_at, s.version
	FROM sessions AS s
	WHERE ` + stored + ` AND ` + hasHandle + ` AND ($1::timestamptz IS NULL OR s.created_at < $1)`)
)

// readSessions adds the sessions that a statement finds.
func (t distributed) readSessions(ctx context.Context, found map[string]foundSession, sql statement, args ...any) error {
	return t.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		result, err := conn.Query(ctx, t.text(sql), args...)
		if err != nil {
			return err
		}
		var (
			key     []byte
			begun   pgtype.Timestamptz
			version int64
		)
		_, err = pgx.ForEachRow(result, []any{&key, &begun, &version}, func() error {
			found[string(key)] = foundSession{slices.Clone(key), newFoundRow(key, begun, version)}
			return nil
		})
		return err
	})
}

func newFoundRow(key []byte, begun pgtype.Timestamptz, version int64) rows.Row {
	row := rows.Row{Key: keyOf(key), Version: version}
	row.CreatedAt = readTime(&row, begun)
	return row
}

// readMoves adds the moves, from one key to another, that are recorded in tombstones with a
// user_key in that range.
func (t distributed) readMoves(ctx context.Context, moves map[string][]byte, from, to []byte) error {
	return t.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		result, err := conn.Query(ctx, t.text(movesSQL), from, to)
		if err != nil {
			return err
		}
		var key, userKey []byte
		_, err = pgx.ForEachRow(result, []any{&key, &userKey}, func() error {
			if to := movedKey(userKey); to != nil {
				moves[string(key)] = slices.Clone(to)
			}
			return nil
		})
		return err
	})
}

var movesSQL = register(`
	SELECT s.key, s.user_key
	FROM sessions AS s
	WHERE s.user_key >= coalesce($1, ''::bytea) AND ($2::bytea IS NULL OR s.user_key < $2) AND NOT ` + stored)

// follow removes from found the sessions that have moved, and adds each under its new key, if it is
// to be ended there. What reads several shards is no snapshot. But a session that was there before
// is either found, or a tombstone in its place tells where it was moved, since the tombstones were
// read after the sessions.
func (t distributed) follow(ctx context.Context, found map[string]foundSession, moves map[string][]byte, wanted func(place) bool) error {
	for from, to := range moves {
		delete(found, from)
		if _, isFound := found[string(to)]; isFound || moves[string(to)] != nil {
			continue
		}
		if err := t.take(ctx, found, to, wanted); err != nil {
			return err
		}
	}
	return nil
}

// settleMoves leaves each session in found once. While a move commits on two shards, the new row may
// show before the tombstone of the old one. Both have the same CreatedAt. So if sessions have the
// same CreatedAt, settleMoves waits for whoever holds their rows, and looks again.
func (t distributed) settleMoves(ctx context.Context, found map[string]foundSession) error {
	sessions := newest(found)
	for i, s := range sessions {
		isOther := func(other foundSession) bool { return !other.row.CreatedAt.Equal(s.row.CreatedAt) }
		if (i == 0 || isOther(sessions[i-1])) && (i == len(sessions)-1 || isOther(sessions[i+1])) {
			continue
		}
		if err := t.take(ctx, found, s.key, func(at place) bool { return at.live }); err != nil {
			return err
		}
	}
	return nil
}

// take looks where the session that was at a key is now. It adds it to found there, if it is wanted
// there, and removes it from the keys that it has left.
func (t distributed) take(ctx context.Context, found map[string]foundSession, key []byte, wanted func(place) bool) error {
	at, err := t.whereMoved(ctx, key, func(ctx context.Context, key []byte) (place, error) {
		at, err := t.endOrLook(ctx, key, list[[]byte]{}) // it is nobody's, so it is not ended
		if err == nil && !at.stored {
			delete(found, string(key))
		}
		return at, err
	})
	if err == nil && at.stored && wanted(at) {
		found[string(at.key)] = foundSession{at.key, at.row}
	}
	return err
}

func newest(found map[string]foundSession) []foundSession {
	return slices.SortedFunc(maps.Values(found), func(a, b foundSession) int { return rows.Newest(a.row, b.row) })
}

// endFound ends sessions, where they are or where they are moved meanwhile. It leaves alone those
// that are spared, and, unless userKeys is nil, those that lie under other keys than the user's.
func (t distributed) endFound(ctx context.Context, sessions []foundSession, userKeys [][]byte, spared []rows.Key) (live int64, err error) {
	var ended atomic.Int64
	err = forEach(ctx, sessions, func(_ int, s foundSession) error {
		at, err := t.whereMoved(ctx, s.key, func(ctx context.Context, key []byte) (place, error) {
			if slices.Contains(spared, keyOf(key)) {
				return place{present: true}, nil
			}
			return t.endOrLook(ctx, key, userKeys)
		})
		switch {
		case err != nil:
			return err
		case at.stored && at.ours && !at.ended:
			return errSwallowed
		case at.ended && at.live:
			ended.Add(1)
		}
		return nil
	})
	return ended.Load(), err
}

// A place is what endOrLook found at a key.
type place struct {
	key                                []byte
	present, stored, ours, live, ended bool
	userKey                            []byte
	row                                rows.Row // see newFoundRow
}

// whereMoved looks at a key, and then at each key to which the session was moved. It does not pause
// in between: otherwise a caller that keeps moving the session would stay ahead of it. It returns
// the last place.
func (t distributed) whereMoved(ctx context.Context, key []byte, look func(ctx context.Context, key []byte) (place, error)) (place, error) {
	awaited := false // whether an insert at key was waited for
	for {
		at, err := look(ctx, key)
		moved := movedKey(at.userKey)
		switch {
		case err != nil, at.stored, at.present && moved == nil, !at.present && awaited:
			return at, err
		case at.present:
			key, awaited = moved, false
		default:
			awaited = true
			if err := t.awaitInsert(ctx, key); err != nil {
				return place{}, err
			}
		}
	}
}

// endOrLook ends the session at a key if it lies under one of the user's keys, or if userKeys is
// nil, and returns what it found there.
func (t distributed) endOrLook(ctx context.Context, key []byte, userKeys list[[]byte]) (at place, err error) {
	err = t.writeRow(ctx, turnToEnd(key), func(ctx context.Context, conn *pgx.Conn) error {
		at = place{key: slices.Clone(key)}
		result, err := conn.Query(ctx, t.text(endOrLookSQL), t.now(), key, userKeys)
		if err != nil {
			return err
		}
		var (
			userKey []byte
			begun   pgtype.Timestamptz
			version int64
		)
		_, err = pgx.ForEachRow(result, []any{&at.stored, &at.ours, &at.live, &userKey, &begun, &version, &at.ended}, func() error {
			at.present, at.userKey, at.row = true, bytes.Clone(userKey), newFoundRow(key, begun, version)
			return nil
		})
		return err
	})
	return at, err
}

var endOrLookSQL = register(`
	WITH pgsession_held AS (
		SELECT s.key, ` + stored + ` AS stored, coalesce(` + isUsers + `, false) AS ours, ` + live + ` AS live,
			s.user_key, s.created_at, s.version
		FROM sessions AS s
		WHERE s.key = $2
		FOR UPDATE OF s
	), pgsession_ended AS (
		UPDATE sessions AS s
		SET ` + tombstone + `
		FROM pgsession_held AS held
		WHERE s.key = $2 AND s.key = held.key AND ` + stored + ` AND held.ours
		RETURNING s.key
	)
	SELECT held.stored, held.ours, held.live, held.user_key, held.created_at, held.version, EXISTS (SELECT FROM pgsession_ended)
	FROM pgsession_held AS held`)

// awaitInsert waits for a transaction that has inserted a row at key and not committed. It has
// committed on the other shard, where it left the tombstone that led here. If a machine has crashed
// meanwhile, it takes until Citus has settled the transaction. Nothing is written.
func (t distributed) awaitInsert(ctx context.Context, key []byte) error {
	return t.writeRow(ctx, turnToEnd(key), func(ctx context.Context, conn *pgx.Conn) error {
		now := t.now()
		batch := new(pgx.Batch)
		batch.Queue(`BEGIN`)
		batch.Queue(t.text(probeSQL), now, key, rows.TombstoneExpiry(now))
		batch.Queue(`ROLLBACK`)
		return conn.SendBatch(ctx, batch).Close()
	})
}

var probeSQL = register(`
	INSERT INTO sessions AS s (key, version, created_at, expires_at, idle_timeout)
	VALUES ($2, 1, $1, $3, '1 hour')
	ON CONFLICT (key) DO NOTHING`)

// turnToEnd returns the key of the turn in which calls wait that end the session at a key. It is
// not the turn of other writers: behind one that moves the session, they would always come too
// late.
func turnToEnd(key []byte) rows.Key {
	turn := keyOf(key)
	turn[0] ^= 0xff
	return turn
}
