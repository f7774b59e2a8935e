package pgsession

import (
	"bytes"
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsession/pgsession/internal/coalesce"
)

// maxBatch bounds the calls that share one statement.
const maxBatch = 256

// shared are the groups in which concurrent calls share statements: the operations
// on one session that are called most.
type shared struct {
	loads   *coalesce.Group[Handle, *Session]
	saves   *coalesce.Group[row, bool]
	puts    *coalesce.Group[row, bool]
	touches *coalesce.Group[touch, touched]
	deletes *coalesce.Group[Handle, struct{}]
}

func (s *Store) newShared(places int) shared {
	return shared{
		loads:   newGroup(places, s.load, s.loadBatch, func(error) bool { return true }),
		saves:   newGroup(places, s.save, s.saveBatch, tookNoEffect),
		puts:    newGroup(places, s.put, s.putBatch, tookNoEffect),
		touches: newGroup(places, s.touch, s.touchBatch, tookNoEffect),
		deletes: newGroup(places, s.delete, s.deleteBatch, tookNoEffect),
	}
}

// defaultPlaces was measured for pools of 4 to 32 connections, on a socket and over a
// network: the optimum is broad. One place alone lets every call wait a whole round trip
// for the one before, and more than 8 gain nothing, and cost the server.
func defaultPlaces(pool *pgxpool.Pool) int { return min(max(2, int(pool.Config().MaxConns)/4), 8) }

func newGroup[C, R any](places int, one func(context.Context, C) (R, error), many func(context.Context, []C) ([]R, error), runAgain func(error) bool) *coalesce.Group[C, R] {
	return coalesce.New(coalesce.Config[C, R]{
		Places:   places,
		MaxBatch: maxBatch,
		RunAgain: runAgain,
		Run: func(ctx context.Context, calls []C, results []coalesce.Result[R]) (err error) {
			if len(calls) == 1 {
				results[0].Value, err = one(ctx, calls[0])
				return err
			}
			values, err := many(ctx, calls)
			for i := range values {
				results[i].Value = values[i]
			}
			return err
		},
	})
}

// tookNoEffect reports whether a statement that failed certainly changed nothing:
// the server rolled it back and said so, or it was never sent. After any other
// failure the outcome is unknown, and a second run could undo what came after the
// first.
func tookNoEffect(err error) bool {
	if server := serverError(err); server != nil {
		return !isFatal(server)
	}
	return pgconn.SafeToRetry(err)
}

func (s *Store) loadBatch(ctx context.Context, handles []Handle) ([]*Session, error) {
	now, oldest := s.times()
	found, err := s.list(ctx, now, s.sql[loadBatchSQL], now, oldest, keysOf(handles))
	if err != nil {
		return nil, err
	}
	byHandle := make(map[Handle]*Session, len(found))
	for _, session := range found {
		byHandle[session.Handle] = session
	}
	sessions := make([]*Session, len(handles))
	for i, handle := range handles {
		if session := byHandle[handle]; session != nil {
			own := *session
			sessions[i] = &own
		}
	}
	return sessions, nil
}

var loadBatchSQL = newStatement(`
	SELECT {columns}
	FROM {sessions} AS s
	WHERE s.key = ANY($3::bytea[]) AND {live}`)

func keysOf(handles []Handle) [][]byte {
	keys := make([][]byte, len(handles))
	for i := range handles {
		keys[i] = handles[i].sum[:]
	}
	return keys
}

func (s *Store) saveBatch(ctx context.Context, rows []row) ([]bool, error) {
	return s.writeBatch(ctx, saveBatchSQL, rows)
}

// A session whose row lies under a former key of its user's is left alone, and its
// caller saves it by itself.
var saveBatchSQL = newStatement(`
	WITH pgsession_held AS (
		SELECT s.key
		FROM {sessions} AS s
		WHERE s.key = ANY($3::bytea[]) AND {live}
		ORDER BY s.key
		{lock}
	)
	UPDATE {sessions} AS s
	SET user_key = new.user_key, {payload} = new.payload, {other} = NULL, version = {next},
		expires_at = new.expires_at, expires_hour = new.expires_hour
	FROM pgsession_held AS held, {new}
	WHERE s.key = held.key AND s.key = new.key AND {live} AND s.user_key IS NOT DISTINCT FROM new.user_key
	RETURNING s.key`)

func (s *Store) putBatch(ctx context.Context, rows []row) ([]bool, error) {
	return s.writeBatch(ctx, putBatchSQL, rows)
}

var putBatchSQL = newStatement(`
	INSERT INTO {sessions} AS s (key, user_key, {payload}, version, created_at, expires_at, expires_hour)
	SELECT new.key, new.user_key, new.payload, new.version, $1, new.expires_at, new.expires_hour
	FROM {new}
	ORDER BY new.key
	ON CONFLICT (key) DO UPDATE
	SET user_key = excluded.user_key, {payload} = excluded.{payload}, {other} = NULL, version = {next},
		created_at = CASE WHEN {live} THEN s.created_at ELSE excluded.created_at END,
		expires_at = excluded.expires_at, expires_hour = excluded.expires_hour
	WHERE {stored} AND (NOT ({live}) OR s.user_key IS NOT DISTINCT FROM excluded.user_key)
	RETURNING s.key`)

// newRows are the rows of a batch as a table, from the parameters that writeBatch
// gives.
const newRows = `unnest($3::bytea[], $4::bytea[], $5::{type}[], $6::bigint[], $7::timestamptz[], $8::timestamptz[])
		AS new (key, user_key, payload, version, expires_at, expires_hour)`

// writeBatch reports for each row whether it was written. Of several rows for one
// session the last is, as if the others had come just before it; which is only true
// of those that name the same user.
func (s *Store) writeBatch(ctx context.Context, sql statement, rows []row) ([]bool, error) {
	last := make(map[Handle]row, len(rows))
	for _, r := range rows {
		last[r.handle] = r
	}
	now, oldest := s.times()
	var (
		keys     = make([][]byte, 0, len(last))
		userKeys = make([][]byte, 0, len(last))
		payloads = make([]any, 0, len(last))
		versions = make([]int64, 0, len(last))
		expires  = make([]time.Time, 0, len(last))
		hours    = make([]time.Time, 0, len(last))
	)
	for handle, r := range last {
		at := expiry(now, r.ttl)
		keys, userKeys, payloads = append(keys, handle.sum[:]), append(userKeys, r.userKey), append(payloads, r.payload)
		versions, expires, hours = append(versions, firstVersion()), append(expires, at), append(hours, hourAfter(at))
	}
	writtenKeys, err := s.returnedKeys(ctx, sql, now, oldest, keys, userKeys, s.codec.array(payloads), versions, expires, hours)
	if err != nil {
		return nil, err
	}
	written := make([]bool, len(rows))
	for i, r := range rows {
		written[i] = writtenKeys[r.handle] && bytes.Equal(r.userKey, last[r.handle].userKey)
	}
	return written, nil
}

// returnedKeys runs a statement that returns keys.
func (s *Store) returnedKeys(ctx context.Context, sql statement, args ...any) (map[Handle]bool, error) {
	var keys [][]byte
	err := s.retry(ctx, func() (err error) {
		keys, err = s.queryKeys(ctx, sql, args...)
		return err
	})
	returned := make(map[Handle]bool, len(keys))
	for _, key := range keys {
		returned[Handle{[32]byte(key)}] = true
	}
	return returned, err
}

func (s *Store) touchBatch(ctx context.Context, touches []touch) ([]touched, error) {
	now, oldest := s.times()
	longest := make(map[Handle]touch, len(touches))
	for _, t := range touches {
		if longest[t.handle].ttl < t.ttl {
			longest[t.handle] = t
		}
	}
	var (
		keys                       [][]byte
		expires, hours, worthwhile []time.Time
	)
	for handle, t := range longest {
		at, worth := t.expiries(now)
		keys, expires, hours, worthwhile = append(keys, handle.sum[:]), append(expires, at), append(hours, hourAfter(at)), append(worthwhile, worth)
	}
	found := make(map[Handle]touched, len(longest))
	err := s.retry(ctx, func() error {
		rows, err := s.pool.Query(ctx, s.text(touchBatchSQL), now, oldest, keys, expires, hours, worthwhile)
		if err != nil {
			return err
		}
		clear(found)
		var (
			key        []byte
			longEnough bool
		)
		_, err = pgx.ForEachRow(rows, []any{&key, &longEnough}, func() error {
			found[Handle{[32]byte(key)}] = foundLive(longEnough)
			return nil
		})
		return err
	})
	outcomes := make([]touched, len(touches))
	for i, t := range touches {
		outcomes[i] = found[t.handle]
	}
	return outcomes, err
}

var touchBatchSQL = newStatement(`
	WITH pgsession_new AS (
		SELECT new.key, new.expires_at, new.expires_hour, new.worthwhile
		FROM unnest($3::bytea[], $4::timestamptz[], $5::timestamptz[], $6::timestamptz[])
			AS new (key, expires_at, expires_hour, worthwhile)
	), pgsession_held AS (
		SELECT s.key, new.expires_at, new.expires_hour, new.worthwhile
		FROM {sessions} AS s
		JOIN pgsession_new AS new ON new.key = s.key
		WHERE {live} AND s.expires_at <= new.worthwhile
		ORDER BY s.key
		{lock}
	), pgsession_extended AS (
		UPDATE {sessions} AS s
		SET version = {next}, expires_at = held.expires_at, expires_hour = held.expires_hour
		FROM pgsession_held AS held
		WHERE s.key = held.key AND {live} AND s.expires_at <= held.worthwhile
		RETURNING s.key
	)
	SELECT s.key, s.expires_at > new.worthwhile OR EXISTS (SELECT FROM pgsession_extended AS extended WHERE extended.key = s.key)
	FROM {sessions} AS s
	JOIN pgsession_new AS new ON new.key = s.key
	WHERE {live}`)

func (s *Store) deleteBatch(ctx context.Context, handles []Handle) ([]struct{}, error) {
	_, _, err := s.endBatch(ctx, keysOf(handles), nil)
	return nil, err
}
