package pgtable

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsession/pgsession/internal/rows"
)

// distributed is the layout of a table that the extension Citus distributes by key over several
// machines. A statement with key = $n goes to the one shard that has the key, and is what it is on
// one machine. Others differ:
//
//   - One that names several keys goes to several shards, and a write commits there in two phases.
//     It costs more than a statement for each key, so writes share no statement. Loads do.
//   - It cannot skip rows that others hold, so it waits for them.
//   - No snapshot spans the shards. A look at all of them may miss a session that is moved
//     meanwhile. So Renew leaves in the tombstone where it moved the session, and EndByUser and
//     EndAll go there (distributed_end.go).
//
// A table may be distributed at any time. Init and Examine look at how it is laid out, and so does
// a call whose statement the server refuses. On a distributed table the server refuses statements
// that skip held rows, and those with whileLocal. All other statements for a table on one machine
// work there too. So until the store has noticed, only shared loads have another speed.
type distributed struct{ local }

// whileLocal is true. Citus refuses it in a write, since the function is volatile.
const whileLocal = `clock_timestamp() IS NOT NULL`

const (
	// hasCitus is true in a database that has the extension. distributedSQL fails in any other.
	hasCitus       = `to_regclass('pg_dist_partition') IS NOT NULL`
	distributedSQL = `SELECT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = to_regclass($1) AND partmethod = 'h')`
)

// look finds out how the table is laid out.
func (t *Table) look(ctx context.Context) error {
	return t.run(ctx, leftNoTraceOrReads, func(ctx context.Context, conn *pgx.Conn) error {
		var citus, isDistributed bool
		if err := conn.QueryRow(ctx, `SELECT `+hasCitus).Scan(&citus); err != nil {
			return err
		}
		if citus {
			if err := conn.QueryRow(ctx, distributedSQL, t.name.Sanitize()).Scan(&isDistributed); err != nil {
				return err
			}
		}
		if isDistributed {
			t.setLayout(distributed{local{t}})
		} else {
			t.setLayout(local{t})
		}
		return nil
	})
}

// change makes a change by itself.
func (t distributed) change(ctx context.Context, g group, c *change) (answer, error) {
	ctx, cancel := t.deadlines.WithGrace(ctx, t.deadline())
	defer cancel()
	return t.changeAlone(ctx, g.kind, c, false)
}

func (distributed) manyLoads() statement { return loadAnySQL }

var loadAnySQL = register(`
	SELECT ` + columns + `
	FROM sessions AS s
	WHERE s.key = ANY($1::bytea[])`)

// renew leaves a tombstone whose user_key is movedTo: the user's key, a zero and the new row's key.
// It lies beside the user's sessions in the index. No statement takes it for a user's key, since
// they ask for sessions, and this is a tombstone.
//
// Citus has no SQLSTATE for a row that is there under the new key, so this looks for it. If the row
// is the new one, the statement failed after it had committed.
func (t distributed) renew(ctx context.Context, c *change) (answer, error) {
	a, err := t.renewBy(ctx, renewAndTellSQL, c)
	if sqlState(err) != internalError {
		return a, err
	}
	found, lookErr := t.load(ctx, &c.w.Key)
	switch {
	case lookErr != nil || found.State == rows.Absent:
		return answer{}, err
	case found.Version == a.row.Version:
		return answer{known: true, row: a.row}, nil
	}
	return answer{known: true, outcome: rows.Exists}, nil
}

const movedTo = `coalesce($3::bytea, '') || '\x00'::bytea || $2::bytea`

var renewAndTellSQL = register(strings.NewReplacer(` AND `+whileLocal, "", `user_key = NULL`, `user_key = `+movedTo).Replace(renewText))

// movedToSuffix is how many bytes follow the user's key.
const movedToSuffix = 1 + rows.KeySize

// movedKey returns where a session was moved, by its tombstone's user_key. It is nil if it was not.
func movedKey(userKey []byte) []byte {
	if len(userKey) < movedToSuffix {
		return nil
	}
	return userKey[len(userKey)-rows.KeySize:]
}

// findByUser has one condition for all keys: each branch would be a statement for every shard.
func (t distributed) findByUser(ctx context.Context, userKeys [][]byte, limit int) ([]rows.Row, error) {
	return t.list(ctx, t.text(findByUserAnySQL), t.now(), limit, userKeys)
}

var findByUserAnySQL = register(`
	SELECT ` + columns + `
	FROM sessions AS s
	WHERE s.user_key = ANY($3::bytea[]) AND ` + live + ` AND ` + hasHandle + `
	ORDER BY ` + newestFirst + `
	LIMIT $2`)

// waitForHeld is how long one statement for many rows may wait for those that others hold, since it
// cannot skip them.
const waitForHeld = time.Second

func (t distributed) removeExpired(ctx context.Context, bound time.Time, keys [][]byte) (gone map[string]bool, err error) {
	some, cancel := context.WithTimeout(ctx, waitForHeld)
	defer cancel()
	if gone, err = t.removeKeys(some, removeAnyExpiredSQL, bound, list[[]byte](keys)); err == nil || ctx.Err() != nil {
		return gone, err
	}
	// Another transaction holds one of the rows, most likely.
	gone = make(map[string]bool, len(keys))
	var mu sync.Mutex
	for range 2 { // the first may meet what is left of the statement that was given up
		left := slices.DeleteFunc(slices.Clone(keys), func(key []byte) bool { return gone[string(key)] })
		err = forEach(ctx, left, func(_ int, key []byte) error {
			one, err := t.removeKeys(ctx, removeOneExpiredSQL, bound, key)
			mu.Lock()
			defer mu.Unlock()
			maps.Copy(gone, one)
			return err
		})
	}
	return gone, err
}

var removeAnyExpiredSQL = register(strings.NewReplacer(skipLocked, "", hideListLength, "").Replace(removeExpiredText))

var removeOneExpiredSQL = register(`
	WITH pgsession_held AS (
		SELECT s.key
		FROM sessions AS s
		WHERE s.key = $3 AND s.expires_at <= ` + expiredBound + `
		` + skipLocked + `
	)
	DELETE FROM sessions AS s
	USING pgsession_held AS held
	WHERE s.key = $3 AND s.key = held.key AND s.expires_at <= ` + expiredBound + `
	RETURNING s.key`)

func (t distributed) reseal(ctx context.Context, changes []*change, answers []answer) error {
	return forEach(ctx, changes, func(i int, c *change) error {
		return t.operate(ctx, func(ctx context.Context) (err error) {
			answers[i], err = t.changeAlone(ctx, resealKind, c, false)
			return err
		})
	})
}

// forEach calls do for each element, for a few at once, so that one that waits holds up the others
// no more than it must. It does what it can before it returns the first error.
func forEach[E any](ctx context.Context, elements []E, do func(i int, element E) error) error {
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
			for i, more := take(nil); more; i, more = take(do(i, elements[i])) {
			}
		})
	}
	group.Wait()
	return first
}
