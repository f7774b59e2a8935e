// Package pgtable keeps rows in a table of PostgreSQL: it is the [rows.Table] that applications
// use.
//
// A file has one operation, with the statement for one call beside the statement for many. The
// operations that change one row, and Load, share statements through package coalesce (shared.go).
// A call for one row may wait for that row's lock, but only one at a time for each row (inTurn). A
// statement for several rows never waits for a lock: it skips the rows that other transactions
// hold, and their callers go on alone.
//
// What differs in a table that Citus distributes over several machines is in the files
// distributed*.go.
//
// # The SQL
//
// Each statement is valid SQL as it stands, for an encrypted store and a table named sessions,
// which always has the alias s. [filler] puts in the real name. $1 is the store's time wherever a
// statement needs it. The names of common table expressions begin with pgsession, since they would
// hide a table of the same name.
package pgtable

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsession/pgsession/internal/coalesce"
	"github.com/pgsession/pgsession/internal/rows"
	"github.com/pgsession/pgsession/internal/turns"
)

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

	// Patience is how long a statement counts towards MaxInFlight, and goes on after its caller has
	// gone. 0 stands for the default of each.
	Patience time.Duration
}

// A Table is a [rows.Table] in PostgreSQL, where most of its methods are documented. It is safe for
// concurrent use, and several may work on one table of the database.
type Table struct {
	*database
	waits    turns.Turns[rows.Key, struct{}] // of calls that wait for a row
	loadSize sizeEstimate
	current  atomic.Pointer[layout]

	loads                                                   *coalesce.Group[rows.Key, rows.Row]
	saves, puts, swaps, renews, inserts, touches, deletions group
}

// New returns a table. The name must be one that [ParseName] takes.
func New(config Config) *Table {
	t := &Table{}
	var limit func(fastest time.Duration) int
	if config.MaxInFlight < 0 {
		config.MaxInFlight, limit = defaultInFlight(config.Pool)
	}
	t.database = newDatabase(config, t.look)
	t.setLayout(local{t})
	t.loads = t.newLoads(limit)
	for group, kind := range map[*group]*kind{
		&t.saves: saveKind, &t.puts: putKind, &t.swaps: swapKind, &t.renews: renewKind,
		&t.inserts: insertKind, &t.touches: touchKind, &t.deletions: endKind,
	} {
		*group = t.newGroup(kind, limit)
	}
	return t
}

// A layout has what depends on how the table's rows lie. local is the layout of a table on one
// machine. For another one, see distributed.go. The layout may change at any time.
type layout interface {
	// change makes a change, by itself or in a statement with others.
	change(ctx context.Context, g group, c *change) (answer, error)

	// manyLoads is the statement that loads several rows.
	manyLoads() statement

	// renew makes a change of Renew by itself, as a kind's one.
	renew(ctx context.Context, c *change) (answer, error)

	// These are operations of the same names, or a step of them.
	endByUser(ctx context.Context, userKeys [][]byte, except []rows.Key, keep int) (live int64, err error)
	endAll(ctx context.Context, begunBefore time.Time) (live int64, err error)
	findByUser(ctx context.Context, userKeys [][]byte, limit int) ([]rows.Row, error)
	removeExpired(ctx context.Context, bound time.Time, keys [][]byte) (gone map[string]bool, err error)
	reseal(ctx context.Context, changes []*change, answers []answer) error
}

func (t *Table) layout() layout { return *t.current.Load() }

func (t *Table) setLayout(l layout) { t.current.Store(&l) }

// onLayout runs a step that depends on the layout, and again if the server refused it and the
// layout has turned out to be another one.
func (t *Table) onLayout(step func(layout) error) error {
	before := t.layout()
	err := step(before)
	if isRefused(err) && t.layout() != before {
		err = step(t.layout())
	}
	return err
}

// local is the layout of a table on one machine.
type local struct{ *Table }

func (t *Table) Sharing() map[string]rows.Sharing {
	sharing := make(map[string]rows.Sharing)
	add := func(name string, calls, statements uint64) {
		sharing[name] = rows.Sharing{Calls: int64(calls), Statements: int64(statements)}
	}
	calls, statements := t.loads.Stats()
	add("load", calls, statements)
	for _, g := range t.groups() {
		calls, statements := g.Stats()
		add(g.name, calls, statements)
	}
	return sharing
}

// Waiting returns how many calls wait to share a statement.
func (t *Table) Waiting() int {
	waiting := t.loads.Waiting()
	for _, g := range t.groups() {
		waiting += g.Waiting()
	}
	return waiting
}

func (t *Table) groups() []group {
	return []group{t.saves, t.puts, t.swaps, t.renews, t.inserts, t.touches, t.deletions}
}
