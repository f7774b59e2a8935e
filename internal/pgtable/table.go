// Package pgtable keeps rows in a table of PostgreSQL: it is the [rows.Table] that applications use.
//
// One file holds one operation, with the statement for one call beside the statement for many. Those
// that are called most (load, save, put, touch, end) share statements, through package coalesce. A
// call for one row may wait for that row's lock, but only one at a time for each row (waits.go). A
// statement for several rows never waits for a lock: it skips the rows that others hold. What it
// skipped, its caller does alone.
//
// # The SQL
//
// Each statement is a constant and valid SQL as it stands, for an encrypted store and a table named
// sessions, which always has the alias s. [fill] puts in the real name. $1 is the store's time
// wherever a statement needs it. The names of common table expressions begin with pgsession, since
// they would hide a table of the same name.
package pgtable

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsession/pgsession/internal/deadline"
	"github.com/pgsession/pgsession/internal/rows"
)

// The parts of statements that have a name.
const (
	// stored is false for a tombstone.
	stored = `(s.data IS NOT NULL OR s.sealed IS NOT NULL)`

	// live is what Row.IsLive says.
	live = stored + ` AND s.expires_at > $1`

	// nextVersion is what rows.NextVersion says.
	nextVersion = `(s.version & x'3fffffffffffffff'::bigint) + 1`

	// tombstone is what Row.End says.
	tombstone = `user_key = NULL, data = NULL, sealed = NULL, version = ` + nextVersion + `,
		expires_at = greatest(s.expires_at, $1::timestamptz + interval '1 hour')`

	// columns make a row, in the order in which a scanner reads them.
	columns        = `s.key, s.user_key, ` + sealedColumns + `, s.version, s.created_at, s.expires_at, s.ends_at, s.idle_timeout`
	sealedColumns  = `s.sealed, s.data IS NOT NULL`
	plainColumns   = `s.data, s.sealed IS NOT NULL`
	hasHandle      = `(octet_length(s.key) = 32)::int <> 0` // in this form the planner expects most rows to pass, and keeps the index
	isOurs         = `(octet_length(s.key) IN (32, 33))::int <> 0`
	skipLocked     = `FOR UPDATE OF s SKIP LOCKED`
	hideListLength = `LIMIT (SELECT NULL::bigint)`
)

// hideListLength stands behind a list, and limits nothing. It hides the list's length from the
// planner, which then keeps one generic plan. Without it, the planner plans a statement anew at each
// call, since a short list seems to cost less than the ten elements that it assumes; or it keeps a
// plan from the time when the table was small, which reads all of it.

// Config says how a [Table] works.
type Config struct {
	Pool *pgxpool.Pool
	Name string // "table" or "schema.table"; see ParseName

	// Plaintext keeps payloads, which are JSON, in the column data instead of sealed.
	Plaintext bool

	// Now returns the store's time, as rows.Time does.
	Now func() time.Time

	// ServerClockToo lets RemoveExpired remove only what is over by the server's clock as well.
	ServerClockToo bool

	// Timeout bounds each operation, or each statement of those that work through the whole table.
	// 0 is no bound.
	Timeout time.Duration

	// MaxInFlight is how many statements of one kind may be in flight before calls share the next
	// one. 0 turns sharing off. If it is negative, the pool and the network decide.
	MaxInFlight int

	// SlowAfter is how long a statement counts towards MaxInFlight; 0 is the default.
	SlowAfter time.Duration
}

// A Table is a [rows.Table] in PostgreSQL. It is safe for concurrent use, and several may work on
// one table of the database.
type Table struct {
	config    Config
	pool      *pgxpool.Pool
	name      pgx.Identifier
	waits     waits
	deadlines deadline.Watch
	shared    shared
	loadSize  sizeEstimate

	limitInFlight func(fastest time.Duration) int // see coalesce.Config.Limit

	sql atomic.Pointer[statements] // as the layout wants them; see distributed.go

	resetting sync.Mutex
	lastReset time.Time // of the pool, by giveUpConnections
}

// New returns a table. The name must be one that [ParseName] takes.
func New(config Config) *Table {
	name, err := ParseName(config.Name)
	if err != nil {
		panic(err.Error())
	}
	t := &Table{config: config, pool: config.Pool, name: name}
	t.sql.Store(newStatements(name, config.Plaintext, false))
	if config.MaxInFlight < 0 {
		t.config.MaxInFlight, t.limitInFlight = defaultInFlight(config.Pool)
	}
	if config.SlowAfter == 0 {
		t.config.SlowAfter = defaultSlowAfter
	}
	t.shared = t.newShared()
	return t
}

// statements are the texts of all statements, as one table needs them.
type statements struct {
	distributed bool // they are for a distributed table

	insert, load, loadMany, save, saveMany, put, putMany, swap, touch, touchMany, renew string
	end, endMany, revoke, endByUser, allKeys, page, count, loadOutcomes                 string
	expiredKeys, removeExpired, putEntry, removeEntry, takeEntry                        string
	pageToReseal, pageToSeal, reseal, resealOne, resealWaiting, examine                 string
	keysOfUser, moves, endOrFollow, probe, findByUser, removeOneExpired                 string
}

func newStatements(name pgx.Identifier, plaintext, distributed bool) *statements {
	fill := filler(name, plaintext)
	s := &statements{
		insert:           fill(insertSQL),
		load:             fill(loadSQL),
		loadMany:         fill(loadManySQL),
		save:             fill(saveSQL),
		saveMany:         fill(saveManySQL),
		put:              fill(putSQL),
		putMany:          fill(putManySQL),
		swap:             fill(swapSQL),
		touch:            fill(touchSQL),
		touchMany:        fill(touchManySQL),
		renew:            fill(renewSQL),
		end:              fill(endSQL),
		endMany:          fill(endManySQL),
		revoke:           fill(revokeSQL),
		endByUser:        fill(endByUserSQL),
		allKeys:          fill(allKeysSQL),
		page:             fill(pageSQL),
		count:            fill(countSQL),
		loadOutcomes:     fill(loadOutcomesSQL),
		expiredKeys:      fill(expiredKeysSQL),
		removeExpired:    fill(removeExpiredSQL),
		putEntry:         fill(putEntrySQL),
		removeEntry:      fill(removeEntrySQL),
		takeEntry:        fill(takeEntrySQL),
		pageToReseal:     fill(pageToResealSQL),
		pageToSeal:       fill(pageToSealSQL),
		reseal:           fill(resealSQL),
		resealOne:        fill(resealOneSQL),
		resealWaiting:    fill(resealWaitingSQL),
		examine:          fill(examineSQL),
		keysOfUser:       fill(keysOfUserSQL),
		moves:            fill(movesSQL),
		findByUser:       fill(findByUserAnySQL),
		removeOneExpired: fill(removeOneExpiredSQL),
		endOrFollow:      fill(endOrFollowSQL),
		probe:            fill(probeSQL),
	}
	if distributed {
		s.distribute(fill)
	}
	return s
}

// filler returns the function that turns a statement into one for the table of that name.
func filler(name pgx.Identifier, plaintext bool) func(string) string {
	replacements := []string{"sessions AS s", name.Sanitize() + " AS s"}
	if plaintext {
		replacements = append(replacements, sealedColumns, plainColumns)
	}
	return strings.NewReplacer(replacements...).Replace
}

func (t *Table) now() time.Time { return t.config.Now() }

// payload returns a payload as the values of the columns sealed and data. They are the last parameters
// of a statement: pgx grows its buffer for a large one once, if nothing follows.
func (t *Table) payload(p []byte) (sealed, data []byte) {
	if t.config.Plaintext {
		return nil, p
	}
	return p, nil
}

// deadline returns when an operation must have ended that begins now, or the zero time.
func (t *Table) deadline() time.Time {
	if t.config.Timeout == 0 {
		return time.Time{}
	}
	return time.Now().Add(t.config.Timeout)
}

// Within is part of [rows.Table].
func (t *Table) Within(ctx context.Context) (context.Context, context.CancelFunc) {
	return t.deadlines.With(ctx, t.deadline())
}

// read runs a statement that changes nothing.
func (t *Table) read(ctx context.Context, do func(ctx context.Context, conn *pgx.Conn) error) error {
	return t.operate(ctx, func(ctx context.Context) error { return t.run(ctx, leftNoTraceOrReads, do) })
}

// write runs a statement that may change several rows, and waits for none.
func (t *Table) write(ctx context.Context, do func(ctx context.Context, conn *pgx.Conn) error) error {
	return t.operate(ctx, func(ctx context.Context) error { return t.run(ctx, leftNoTrace, do) })
}

// writeRow runs a statement that changes one row, and waits for its lock.
func (t *Table) writeRow(ctx context.Context, key rows.Key, do func(ctx context.Context, conn *pgx.Conn) error) error {
	return t.operate(ctx, func(ctx context.Context) error { return t.runInTurn(ctx, key, do) })
}

// operate bounds an operation by the table's timeout.
func (t *Table) operate(ctx context.Context, do func(ctx context.Context) error) error {
	bounded, cancel := t.deadlines.WithGrace(ctx, t.deadline())
	defer cancel()
	return t.explain(ctx, do(bounded))
}

func (t *Table) runInTurn(ctx context.Context, key rows.Key, do func(ctx context.Context, conn *pgx.Conn) error) error {
	if err := t.waits.enter(ctx, key); err != nil {
		return err
	}
	defer t.waits.leave(key)
	return t.run(ctx, leftNoTrace, do)
}

// A list is a parameter that pgx encodes without reflection.
type list[T any] = pgtype.FlatArray[T]

// timestamp returns t as a parameter, NULL if it is zero.
func timestamp(t time.Time) pgtype.Timestamptz {
	return pgtype.Timestamptz{Time: t, Valid: !t.IsZero()}
}

// interval returns d as a parameter, NULL if it is 0.
func interval(d time.Duration) pgtype.Interval {
	return pgtype.Interval{Microseconds: d.Microseconds(), Valid: d != 0}
}
