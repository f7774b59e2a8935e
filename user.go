package pgsession

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	defaultLimit = 100
	pageSize     = 500  // rows that All and Reseal hold at once
	batchSize    = 1000 // rows that one transaction writes
)

// FindByUser returns a user's live sessions, the newest log-in first, and at most
// limit of them; 100 where limit is 0 or less. Guests have no name to be found by:
// "" matches nobody. A session that does not open is listed too, so that it can be
// revoked: its Decode gives the error. Errors: [ErrTooLarge] for a user id that is
// too long.
func (s *Store) FindByUser(ctx context.Context, userID string, limit int) ([]*Session, error) {
	if len(userID) > maxUserIDSize {
		return nil, errUserIDTooLarge(userID)
	}
	keys := s.codec.userKeys(userID)
	if len(keys) == 0 {
		return nil, nil
	}
	if limit <= 0 {
		limit = defaultLimit
	}
	now, oldest := s.times()
	args := []any{now, oldest, limit}
	// One branch a key, each with an =, so that the index gives the order.
	branches := make([]string, len(keys))
	for i, key := range keys {
		args = append(args, key)
		branches[i] = fmt.Sprintf(findByUserKey, len(args))
	}
	sql := s.fill.Replace(fmt.Sprintf(findByUser, strings.Join(branches, " UNION ALL ")))
	sessions, err := s.list(ctx, now, sql, args...)
	if err != nil {
		return nil, s.wrap("find by user", err)
	}
	return sessions, nil
}

// The table's name is filled in last: it may hold anything.
const (
	findByUser = `
		SELECT {columns}
		FROM (%s) AS s
		ORDER BY s.created_at DESC, s.key
		LIMIT $3`

	findByUserKey = `
		(SELECT {columns}
		FROM {sessions} AS s
		WHERE s.user_key = $%d AND {live} AND {ours}
		ORDER BY s.created_at DESC, s.key
		LIMIT $3)`
)

func (s *Store) list(ctx context.Context, now time.Time, sql string, args ...any) (sessions []*Session, err error) {
	err = s.retryRead(ctx, func() error {
		sessions = nil
		return s.query(ctx, now, func(session *Session) { sessions = append(sessions, session) }, sql, args...)
	})
	return sessions, err
}

// DeleteByUser ends a user's sessions, but for those named: "log out everywhere
// else". It returns how many were live. A session that is cycled meanwhile is ended
// under its new id; one that a log-in creates meanwhile may stay. "" matches nobody.
// It goes on until none escapes, or ctx ends. Errors: [ErrTooLarge] for a user id that is
// too long. With an error, some of the sessions may have been ended: so many as the number
// says.
func (s *Store) DeleteByUser(ctx context.Context, userID string, except ...Handle) (int64, error) {
	if len(userID) > maxUserIDSize {
		return 0, errUserIDTooLarge(userID)
	}
	if userID == "" {
		return 0, nil
	}
	var ended int64
	for attempt := 0; ; attempt++ {
		if err := pauseWhereItDrags(ctx, attempt); err != nil {
			return ended, s.wrap("delete by user", err)
		}
		userKeys := s.codec.userKeys(userID)
		pass, err := s.endByUser(ctx, userKeys, keysOf(except))
		ended += pass.live
		if err != nil {
			return ended, s.wrap("delete by user", err)
		}
		// A session that is cycled between the look and the lock lives on under a
		// key that was not seen. So does one that is written under another key of
		// a ring that has just changed.
		if pass.ended == pass.seen && pass.seen < batchSize && slices.EqualFunc(userKeys, s.codec.userKeys(userID), bytes.Equal) {
			return ended, nil
		}
	}
}

// pauseWhereItDrags lets others go on where sessions keep escaping, or a trigger of the
// table's owner lets none be ended.
func pauseWhereItDrags(ctx context.Context, attempt int) error {
	if attempt < 100 {
		return nil
	}
	return pause(ctx, 1)
}

// endPass says how many sessions were seen, ended by this very statement, and live
// until then.
type endPass struct{ seen, ended, live int64 }

func (s *Store) endByUser(ctx context.Context, userKeys, spared [][]byte) (pass endPass, err error) {
	err = s.retry(ctx, func() error {
		now, oldest := s.times()
		grave := now.Add(tombstoneLife)
		return s.pool.QueryRow(ctx, s.text(endByUserSQL), now, oldest, userKeys, spared, batchSize, grave, hourAfter(grave)).
			Scan(&pass.seen, &pass.ended, &pass.live)
	})
	return pass, err
}

var endByUserSQL = newStatement(`
	WITH pgsession_seen AS (
		SELECT s.key
		FROM {sessions} AS s
		WHERE s.user_key = ANY($3::bytea[]) AND {stored} AND s.key <> ALL($4::bytea[])
		LIMIT $5
	), pgsession_held AS (
		SELECT s.key, {live} AS live
		FROM {sessions} AS s
		JOIN pgsession_seen AS seen ON seen.key = s.key
		WHERE s.user_key = ANY($3::bytea[]) AND {stored}
		ORDER BY s.key
		{lock}
	), pgsession_ended AS (
		UPDATE {sessions} AS s
		SET user_key = NULL, data = NULL, sealed = NULL, version = {next},
			expires_at = greatest(s.expires_at, $6), expires_hour = greatest(s.expires_hour, $7)
		FROM pgsession_held AS held
		WHERE s.key = held.key AND {stored}
		RETURNING held.live
	)
	SELECT (SELECT count(*) FROM pgsession_seen), count(*), count(*) FILTER (WHERE ended.live)
	FROM pgsession_ended AS ended`)

// endBatch leaves tombstones at those keys that hold a session of the user's, or of
// anybody's where userKeys is nil. It returns how many it left, and how many of
// those sessions were live.
func (s *Store) endBatch(ctx context.Context, keys list[[]byte], userKeys [][]byte) (ended int, live int64, err error) {
	err = s.retry(ctx, func() error {
		now, oldest := s.times()
		grave := now.Add(tombstoneLife)
		rows, err := s.pool.Query(ctx, s.text(endBatchSQL), now, oldest, keys, userKeys, grave, hourAfter(grave))
		if err != nil {
			return err
		}
		ended, live = 0, 0
		var wasLive bool
		_, err = pgx.ForEachRow(rows, []any{&wasLive}, func() error {
			ended++
			if wasLive {
				live++
			}
			return nil
		})
		return err
	})
	return ended, live, err
}

var endBatchSQL = newStatement(`
	WITH pgsession_held AS (
		SELECT s.key, {live} AS live
		FROM {sessions} AS s
		JOIN (SELECT * FROM unnest($3::bytea[]) {few}) AS given (key) ON given.key = s.key
		WHERE {stored} AND ($4::bytea[] IS NULL OR s.user_key = ANY($4::bytea[]))
		ORDER BY s.key
		{lock}
	)
	UPDATE {sessions} AS s
	SET user_key = NULL, data = NULL, sealed = NULL, version = {next},
		expires_at = greatest(s.expires_at, $5), expires_hour = greatest(s.expires_hour, $6)
	FROM pgsession_held AS held
	WHERE s.key = held.key AND {stored}
	RETURNING held.live`)

// readKeys runs a statement that reads keys.
func (s *Store) readKeys(ctx context.Context, sql statement, args ...any) (keys [][]byte, err error) {
	err = s.retryRead(ctx, func() error {
		keys, err = s.queryKeys(ctx, sql, args...)
		return err
	})
	return keys, err
}

func (s *Store) queryKeys(ctx context.Context, sql statement, args ...any) ([][]byte, error) {
	rows, err := s.pool.Query(ctx, s.text(sql), args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[[]byte])
}

// Revoke ends a user's session by its handle, as a page that lists the user's
// devices does: [Store.Delete] without the id. It returns [ErrNotFound] where the
// handle names no live session of that user's.
func (s *Store) Revoke(ctx context.Context, userID string, h Handle) error {
	if len(userID) > maxUserIDSize {
		return errUserIDTooLarge(userID)
	}
	if userID == "" {
		return ErrNotFound
	}
	return s.revoke(ctx, h, s.codec.userKeys(userID))
}

// RevokeAny ends a session by its handle, whoever's it is: for operators, and never
// for a handle that a user sent. It returns [ErrNotFound] where the handle names no
// live session.
func (s *Store) RevokeAny(ctx context.Context, h Handle) error {
	return s.revoke(ctx, h, nil)
}

func (s *Store) revoke(ctx context.Context, h Handle, userKeys [][]byte) error {
	_, live, err := s.endBatch(ctx, [][]byte{h.sum[:]}, userKeys)
	switch {
	case err != nil:
		return s.wrap("revoke", err)
	case live == 0:
		return ErrNotFound
	}
	return nil
}

// All returns every live session, in no useful order, for exports and audits. It
// reads in pages and holds no connection between them, so that the loop may call
// the store; a session that begins or ends meanwhile may be seen or not. Sessions
// that do not open are listed, as in [Store.FindByUser]. An error is given with a
// nil session, and ends the sequence.
func (s *Store) All(ctx context.Context) iter.Seq2[*Session, error] {
	return func(yield func(*Session, error) bool) {
		last := []byte{}
		for {
			now, oldest := s.times()
			page, err := s.list(ctx, now, s.sql[allSQL], now, oldest, last, pageSize)
			if err != nil {
				yield(nil, s.wrap("all", err))
				return
			}
			for _, session := range page {
				if !yield(session, nil) {
					return
				}
			}
			if len(page) < pageSize {
				return
			}
			last = bytes.Clone(page[len(page)-1].Handle.sum[:])
		}
	}
}

// A key of another length is not ours, and has no handle.
var allSQL = newStatement(`
	SELECT {columns}
	FROM {sessions} AS s
	WHERE s.key > $3 AND {live} AND {ours}
	ORDER BY s.key
	LIMIT $4`)

// DeleteAll ends every session, and returns how many were live: everybody is logged
// out. Sessions that are cycled meanwhile are ended, and those created meanwhile may
// stay, as in [Store.DeleteByUser]. It holds all their keys in memory, 32 bytes a
// session.
func (s *Store) DeleteAll(ctx context.Context) (int64, error) {
	var ended int64
	for attempt := 0; ; attempt++ {
		if err := pauseWhereItDrags(ctx, attempt); err != nil {
			return ended, s.wrap("delete all", err)
		}
		keys, err := s.readKeys(ctx, allKeysSQL)
		endedHere := 0
		for batch := range slices.Chunk(keys, batchSize) {
			var rows int
			var live int64
			if rows, live, err = s.endBatch(ctx, batch, nil); err != nil {
				break
			}
			endedHere += rows
			ended += live
		}
		if err != nil {
			return ended, s.wrap("delete all", err)
		}
		if endedHere == len(keys) { // otherwise some were cycled, to keys that were not seen
			return ended, nil
		}
	}
}

var allKeysSQL = newStatement(`
	SELECT s.key
	FROM {sessions} AS s
	WHERE {stored}`)
