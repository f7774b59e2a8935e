package pgsession

import (
	"bytes"
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsession/pgsession/internal/coalesce"
)

const (
	// maxBatch bounds the calls that share one statement.
	maxBatch = 256

	// maxShared bounds the payload of a write that shares one: maxBatch of them stay
	// far below the gigabyte that PostgreSQL takes for a parameter.
	maxShared = 1 << 20
)

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

// defaultPlaces was measured (bench/sidebyside -places): the optimum is broad. With 16
// connections and 256 callers on a socket, 1, 2, 3 and 4 places gave 2.9, 3.4, 3.5 and
// 3.2 times the loads of a store that does not coalesce; with 16 callers, who might each
// have a connection, 0.97, 1.26, 1.18 and 1.03 times. Over a network of 2 ms, where more
// places hide more of it, 2, 3 and 4 gave 8.5, 8.8 and 9.5 times with 256 callers, and
// 0.88, 0.93 and 0.94 times with 16.
func defaultPlaces(pool *pgxpool.Pool) int { return min(max(2, int(pool.Config().MaxConns)/5), 8) }

func newGroup[C, R any](places int, one func(context.Context, C) (R, error), many func(context.Context, []C, func(int, R)) error, runAgain func(error) bool) *coalesce.Group[C, R] {
	return coalesce.New(coalesce.Config[C, R]{
		Places:   places,
		MaxBatch: maxBatch,
		RunAgain: runAgain,
		Run: func(ctx context.Context, calls []C, answer func(int, R)) error {
			if len(calls) > 1 {
				return many(ctx, calls, answer)
			}
			result, err := one(ctx, calls[0])
			if err == nil {
				answer(0, result)
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

// loadBatch answers each call as soon as its row has come: the rest of the statement can
// change nothing in it.
func (s *Store) loadBatch(ctx context.Context, handles []Handle, answer func(int, *Session)) error {
	named := make(map[Handle]int, len(handles))
	for i, handle := range handles {
		named[handle] = i
	}
	now, oldest := s.times()
	err := s.retryRead(ctx, func() error {
		return s.query(ctx, now, func(session *Session) {
			i, ok := named[session.Handle]
			if !ok {
				return
			}
			if len(named) < len(handles) { // several may have asked for it, and get one each
				for j := range i {
					if handles[j] == session.Handle {
						own := *session
						answer(j, &own)
					}
				}
			}
			answer(i, session)
		}, s.text(loadBatchSQL), now, oldest, keysOf(handles))
	})
	if err != nil {
		return err
	}
	for i := range handles {
		answer(i, nil) // no row has come for those that are left
	}
	return nil
}

var loadBatchSQL = newStatement(`
	SELECT {columns}
	FROM (SELECT * FROM unnest($3::bytea[]) {few}) AS asked (key)
	JOIN {sessions} AS s ON s.key = asked.key
	WHERE {live}`)

// A list is a parameter that pgx encodes without reflection.
type list[T any] = pgtype.FlatArray[T]

func keysOf(handles []Handle) list[[]byte] {
	keys := make(list[[]byte], len(handles))
	for i := range handles {
		keys[i] = handles[i].sum[:]
	}
	return keys
}

func (s *Store) saveBatch(ctx context.Context, rows []row, answer func(int, bool)) error {
	return s.writeBatch(ctx, saveBatchSQL, rows, answer)
}

// A session whose row lies under a former key of its user's is left alone, and its
// caller saves it by itself. The list that is locked is all that the UPDATE joins:
// with another one beside it, some plans compare each row of both.
var saveBatchSQL = newStatement(`
	WITH pgsession_new AS (
		SELECT new.key, new.user_key, new.n::int AS n
		FROM {sessions} AS s
		JOIN ` + newRows + ` ON new.key = s.key
		WHERE {live} AND s.user_key IS NOT DISTINCT FROM new.user_key
		ORDER BY s.key
		{lock}
	)
	UPDATE {sessions} AS s
	SET {payload} = {new payload}, {other} = NULL, version = {next}, expires_at = {new expires_at}, expires_hour = {new expires_hour}
	FROM pgsession_new AS new
	WHERE s.key = new.key AND {live} AND s.user_key IS NOT DISTINCT FROM new.user_key
	RETURNING s.key`)

func (s *Store) putBatch(ctx context.Context, rows []row, answer func(int, bool)) error {
	versions := make([]int64, len(rows))
	for i := range versions {
		versions[i] = firstVersion()
	}
	return s.writeBatch(ctx, putBatchSQL, rows, answer, versions)
}

var putBatchSQL = newStatement(`
	INSERT INTO {sessions} AS s (key, user_key, {payload}, version, created_at, expires_at, expires_hour)
	SELECT new.key, new.user_key, {new payload}, ($10::bigint[])[new.n], $1, {new expires_at}, {new expires_hour}
	FROM ` + newRows + `
	ORDER BY new.key
	ON CONFLICT (key) DO UPDATE
	SET user_key = excluded.user_key, {payload} = excluded.{payload}, {other} = NULL, version = {next},
		created_at = CASE WHEN {live} THEN s.created_at ELSE excluded.created_at END,
		expires_at = excluded.expires_at, expires_hour = excluded.expires_hour
	WHERE {stored} AND (NOT ({live}) OR s.user_key IS NOT DISTINCT FROM excluded.user_key)
	RETURNING s.key`)

// newRows are the rows of a batch as a table, from the parameters that writeBatch
// gives; what has a fixed size costs less as the n-th element of its list. The payloads
// are pieces of one parameter: pgx would copy the elements of a large array several
// times.
const (
	newRows        = `(SELECT * FROM unnest($3::bytea[], $4::bytea[]) WITH ORDINALITY {few}) AS new (key, user_key, n)`
	newExpiresAt   = `($5::timestamptz[])[new.n]`
	newExpiresHour = `($6::timestamptz[])[new.n]`
	newPayload     = `substring($9::bytea FROM ($7::int[])[new.n] FOR ($8::int[])[new.n])`
)

// writeBatch answers for each row whether it was written. Of several rows for one
// session the last is, as if the others had come just before it; which is only true
// of those that name the same user.
func (s *Store) writeBatch(ctx context.Context, sql statement, rows []row, answer func(int, bool), more ...any) error {
	last := make(map[Handle]int, len(rows))
	for i, r := range rows {
		last[r.handle] = i
	}
	total := 0
	for _, i := range last {
		total += len(rows[i].payload)
	}
	now, oldest := s.times()
	var (
		keys     = make(list[[]byte], 0, len(last))
		userKeys = make(list[[]byte], 0, len(last))
		expires  = make(list[time.Time], 0, len(last))
		hours    = make(list[time.Time], 0, len(last))
		starts   = make([]int32, 0, len(last))
		sizes    = make([]int32, 0, len(last))
		payloads = make([]byte, 0, total)
	)
	for i, r := range rows {
		if last[r.handle] != i {
			continue
		}
		at := expiry(now, r.ttl)
		keys, userKeys = append(keys, rows[i].handle.sum[:]), append(userKeys, r.userKey)
		expires, hours = append(expires, at), append(hours, hourAfter(at))
		starts, sizes = append(starts, int32(1+len(payloads))), append(sizes, int32(len(r.payload))) // SQL counts from 1
		payloads = append(payloads, r.payload...)
	}
	written, err := s.returnedKeys(ctx, sql, append([]any{now, oldest, keys, userKeys, expires, hours, starts, sizes, payloads}, more...)...)
	if err != nil {
		return err
	}
	for i, r := range rows {
		answer(i, written[r.handle] && bytes.Equal(r.userKey, rows[last[r.handle]].userKey))
	}
	return nil
}

// returnedKeys runs a statement that returns keys.
func (s *Store) returnedKeys(ctx context.Context, sql statement, args ...any) (map[Handle]bool, error) {
	returned := make(map[Handle]bool)
	err := s.retry(ctx, func() error {
		rows, err := s.pool.Query(ctx, s.text(sql), args...)
		if err != nil {
			return err
		}
		clear(returned)
		var handle Handle
		key := pgtype.PreallocBytes(handle.sum[:])
		_, err = pgx.ForEachRow(rows, []any{&key}, func() error {
			returned[handle] = true
			return nil
		})
		return err
	})
	return returned, err
}

func (s *Store) touchBatch(ctx context.Context, touches []touch, answer func(int, touched)) error {
	now, oldest := s.times()
	longest := make(map[Handle]touch, len(touches))
	for _, t := range touches {
		if longest[t.handle].ttl < t.ttl {
			longest[t.handle] = t
		}
	}
	var (
		keys                       list[[]byte]
		expires, hours, worthwhile list[time.Time]
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
	if err != nil {
		return err
	}
	for i, t := range touches {
		answer(i, found[t.handle])
	}
	return nil
}

var touchBatchSQL = newStatement(`
	WITH pgsession_new AS (
		SELECT *
		FROM unnest($3::bytea[], $4::timestamptz[], $5::timestamptz[], $6::timestamptz[])
			AS new (key, expires_at, expires_hour, worthwhile)
		{few}
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
	SELECT s.key, s.expires_at > new.worthwhile OR s.key IN (SELECT extended.key FROM pgsession_extended AS extended)
	FROM {sessions} AS s
	JOIN pgsession_new AS new ON new.key = s.key
	WHERE {live}`)

func (s *Store) deleteBatch(ctx context.Context, handles []Handle, answer func(int, struct{})) error {
	if _, _, err := s.endBatch(ctx, keysOf(handles), nil); err != nil {
		return err
	}
	for i := range handles {
		answer(i, struct{}{})
	}
	return nil
}
