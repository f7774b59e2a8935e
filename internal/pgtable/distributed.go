package pgtable

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsession/pgsession/internal/rows"
)

// A table may be distributed by key over several machines, with the extension Citus, at any time. A
// statement with key = $n then goes to the one shard that has the key, and is what it is on one
// machine. Others differ:
//
//   - One that names several keys goes to several shards, and a write commits there in two phases. It
//     costs more than a statement for each key, so writes share no statement. Loads do.
//   - It cannot skip rows that others hold, so it waits for them.
//   - No snapshot spans the shards. A look at all of them may miss a session that is moved meanwhile,
//     so Renew leaves in the tombstone where they moved it, and EndByUser and EndAll go there.
//
// The table finds out with Init and Examine, and when the server refuses a statement that it would
// not refuse otherwise: those for several calls, since they skip held rows, and those with
// refusedIfDistributed. Until then nothing but the speed of shared loads differs.

// refusedIfDistributed is true. Citus refuses it in a write, since the function is volatile.
const refusedIfDistributed = `clock_timestamp() IS NOT NULL`

const (
	// hasCitus is true in a database that has the extension. distributedSQL fails in any other.
	hasCitus       = `to_regclass('pg_dist_partition') IS NOT NULL`
	distributedSQL = `SELECT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = to_regclass($1) AND partmethod = 'h')`
)

func (t *Table) isDistributed() bool { return t.sql.Load().distributed }

// look finds out how the table is laid out.
func (t *Table) look(ctx context.Context) error {
	return t.runOnce(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		var citus bool
		if err := conn.QueryRow(ctx, `SELECT `+hasCitus).Scan(&citus); err != nil {
			return err
		}
		return t.lookOn(ctx, conn, citus)
	})
}

// lookOn is look on a connection, if it is known whether the database has Citus.
func (t *Table) lookOn(ctx context.Context, conn *pgx.Conn, citus bool) error {
	distributed := false
	if citus {
		if err := conn.QueryRow(ctx, distributedSQL, t.name.Sanitize()).Scan(&distributed); err != nil {
			return err
		}
	}
	if before := t.sql.Load(); before.distributed != distributed {
		t.sql.CompareAndSwap(before, newStatements(t.name, t.config.Plaintext, distributed))
	}
	return nil
}

// wasLaidOutAnew reports whether the server refused a statement of sent because the table has been
// distributed since. Another statement takes its place.
func (t *Table) wasLaidOutAnew(ctx context.Context, sent *statements, err error) bool {
	if server := serverError(err); server == nil || server.Code != featureNotSupported || server.Routine == replannedRoutine {
		return false
	}
	if t.sql.Load() == sent {
		t.look(ctx) // after an error the answer is no
	}
	return t.sql.Load() != sent
}

// distribute changes the statements that differ on a distributed table.
func (s *statements) distribute(fill func(string) string) {
	s.distributed = true
	s.loadMany = fill(loadAnySQL)
	s.removeExpired = fill(strings.NewReplacer(skipLocked, "", hideListLength, "").Replace(removeExpiredSQL))
	s.renew = fill(leavingTrace(renewSQL, `coalesce($6::bytea, '') || '\x00'::bytea || $5::bytea`))
}

const loadAnySQL = `
	SELECT ` + columns + `
	FROM sessions AS s
	WHERE s.key = ANY($1::bytea[])`

// leavingTrace returns a statement that moves a session with a tombstone whose user_key is movedTo: the user's
// key, a zero and the new row's key. It lies beside the user's sessions in the index. No statement takes it for a
// user's key, since they ask for sessions, and this is a tombstone.
func leavingTrace(sql, movedTo string) string {
	return strings.NewReplacer(` AND `+refusedIfDistributed, "", `user_key = NULL`, `user_key = `+movedTo).Replace(sql)
}

// movedToSuffix is how many bytes stand behind the user's key.
const movedToSuffix = 1 + rows.KeySize

// movedKey returns where a session was moved, by its tombstone's user_key. It is nil if it was not.
func movedKey(userKey []byte) []byte {
	if len(userKey) < movedToSuffix {
		return nil
	}
	return userKey[len(userKey)-rows.KeySize:]
}

// endDistributed ends a user's sessions in a distributed table, or all if userKeys is nil.
//
// What it reads is no snapshot. But a session that was there before is either read, or there is a
// tombstone in its place that tells where it was moved. The sessions are read first, so that one that
// is moved later is followed.
func (t *Table) endDistributed(ctx context.Context, userKeys [][]byte, spared list[[]byte], keep int, begunBefore time.Time) (live int64, err error) {
	keys, err := t.readForEnd(ctx, userKeys, spared, keep, begunBefore)
	if err != nil {
		return 0, err
	}
	var ended atomic.Int64
	err = forEach(ctx, keys, func(key []byte) error {
		wasLive, err := t.endWhereMoved(ctx, key, userKeys)
		if wasLive {
			ended.Add(1)
		}
		return err
	})
	return ended.Load(), err
}

// forEach calls do for each element, for a few at once, so that one that waits holds up the others no more
// than it must. It does what it can before it returns the first error.
func forEach[E any](ctx context.Context, elements []E, do func(E) error) error {
	const atOnce = 4
	var (
		mu    sync.Mutex
		next  int
		first error
		group sync.WaitGroup
	)
	take := func(err error) (i int, more bool) {
		mu.Lock()
		defer mu.Unlock()
		first = cmp.Or(first, err, ctx.Err())
		i, next = next, next+1
		return i, i < len(elements) && ctx.Err() == nil
	}
	for range min(atOnce, len(elements)) {
		group.Go(func() {
			for i, more := take(nil); more; i, more = take(do(elements[i])) {
			}
		})
	}
	group.Wait()
	return first
}

// readForEnd returns the keys of sessions, and those where sessions were moved, but for the ones that
// are spared.
func (t *Table) readForEnd(ctx context.Context, userKeys [][]byte, spared list[[]byte], keep int, begunBefore time.Time) (keys [][]byte, err error) {
	moves := make(map[string][]byte) // from one key to another
	if userKeys == nil {
		if keys, err = t.readKeys(ctx, func(s *statements) string { return s.allKeys }, timestamp(begunBefore)); err == nil {
			err = t.readMoves(ctx, moves, nil, nil)
		}
	} else {
		keys, err = t.readKeys(ctx, func(s *statements) string { return s.keysOfUser }, userKeys, spared, t.now(), keep)
		for _, userKey := range userKeys {
			if err == nil {
				err = t.readMoves(ctx, moves, append(slices.Clone(userKey), 0), append(slices.Clone(userKey), 1))
			}
		}
	}
	if keep > 0 || !begunBefore.IsZero() {
		return keys, err // where a session was moved may be one of those to keep
	}
	for _, to := range moves {
		isSpared := slices.ContainsFunc(spared, func(other []byte) bool { return bytes.Equal(to, other) })
		if moves[string(to)] == nil && !isSpared { // otherwise it was moved further
			keys = append(keys, to)
		}
	}
	return keys, err
}

// readMoves adds the moves that tombstones with a user_key in that range tell.
func (t *Table) readMoves(ctx context.Context, moves map[string][]byte, from, to []byte) error {
	return t.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		result, err := conn.Query(ctx, t.sql.Load().moves, from, to)
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

const (
	keysOfUserSQL = `
	SELECT s.key
	FROM sessions AS s
	WHERE s.user_key = ANY($1::bytea[]) AND ` + stored + ` AND s.key <> ALL($2::bytea[]) AND ($4 = 0 OR s.expires_at > $3)
	ORDER BY ` + newestFirst + `
	OFFSET $4`

	movesSQL = `
	SELECT s.key, s.user_key
	FROM sessions AS s
	WHERE s.user_key >= coalesce($1, ''::bytea) AND ($2::bytea IS NULL OR s.user_key < $2) AND NOT ` + stored + `
`
)

// endWhereMoved ends the session at key, or where it was moved. It reports whether it ended a live one. A
// session of another user it leaves alone, unless userKeys is nil.
func (t *Table) endWhereMoved(ctx context.Context, key []byte, userKeys [][]byte) (live bool, err error) {
	awaited := false // whether an insert at key was waited for
	for pass := 0; ; pass++ {
		at, err := t.endOrFollow(ctx, key, userKeys)
		moved := movedKey(at.userKey)
		switch {
		case err != nil:
			return false, err
		case at.ended:
			return at.live, nil
		case !at.present && awaited:
			return false, nil // it was removed
		case !at.present:
			awaited = true
			if err := t.awaitInsert(ctx, key); err != nil {
				return false, err
			}
		case at.stored && at.ours: // a trigger of the table's owner may let nothing be ended
			if err := waitFromPass(ctx, patience+pass); err != nil {
				return false, err
			}
		case at.stored || moved == nil:
			return false, nil
		default:
			key, awaited = moved, false // at once: whoever moves the session must not get ahead
		}
	}
}

// A place is what endOrFollow found at a key.
type place struct {
	present, stored, ours, live, ended bool
	userKey                            []byte
}

func (t *Table) endOrFollow(ctx context.Context, key []byte, userKeys [][]byte) (at place, err error) {
	err = t.writeRow(ctx, enderTurn(key), func(ctx context.Context, conn *pgx.Conn) error {
		at = place{}
		result, err := conn.Query(ctx, t.sql.Load().endOrFollow, t.now(), key, userKeys)
		if err != nil {
			return err
		}
		_, err = pgx.ForEachRow(result, []any{&at.stored, &at.ours, &at.live, &at.userKey, &at.ended}, func() error {
			at.present = true
			return nil
		})
		return err
	})
	return at, err
}

const endOrFollowSQL = `
	WITH pgsession_held AS (
		SELECT s.key, ` + stored + ` AS stored, $3::bytea[] IS NULL OR coalesce(s.user_key = ANY($3::bytea[]), false) AS ours,
			` + live + ` AS live, s.user_key
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
	SELECT held.stored, held.ours, held.live, held.user_key, EXISTS (SELECT FROM pgsession_ended)
	FROM pgsession_held AS held`

// awaitInsert waits for a transaction that has inserted a row at key and not committed: it has on the
// other shard, where it left the tombstone that led here. If a machine has crashed meanwhile, that is until
// Citus has settled it. Nothing is written.
func (t *Table) awaitInsert(ctx context.Context, key []byte) error {
	return t.writeRow(ctx, enderTurn(key), func(ctx context.Context, conn *pgx.Conn) error {
		now := t.now()
		batch := new(pgx.Batch)
		batch.Queue(`BEGIN`)
		batch.Queue(t.sql.Load().probe, now, key, rows.TombstoneExpiry(now))
		batch.Queue(`ROLLBACK`)
		return conn.SendBatch(ctx, batch).Close()
	})
}

const probeSQL = `
	INSERT INTO sessions AS s (key, version, created_at, expires_at, idle_timeout)
	VALUES ($2, 1, $1, $3, '1 hour')
	ON CONFLICT (key) DO NOTHING`

// enderTurn is whose turn those wait for who end the session at key. It is another one than that of all other
// writers: behind one that moves the session, they would always come too late.
func enderTurn(key []byte) rows.Key {
	turn := turnOf(key)
	turn[0] ^= 0xff
	return turn
}
