package pgtable

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsession/pgsession/internal/deadline"
	"github.com/pgsession/pgsession/internal/rows"
)

// A database runs statements on connections of a pool, in time (retry.go).
type database struct {
	config    Config
	pool      *pgxpool.Pool
	name      pgx.Identifier
	texts     []string // of the statements, for this table
	deadlines deadline.Watch

	// onRefusal is called if the server does not support a statement.
	onRefusal func(ctx context.Context) error

	resetting sync.Mutex
	lastReset time.Time // of the pool, by giveUpConnections
}

func newDatabase(config Config, onRefusal func(ctx context.Context) error) *database {
	name, err := ParseName(config.Name)
	if err != nil {
		panic(err.Error())
	}
	d := &database{
		config: config, pool: config.Pool, name: name, onRefusal: onRefusal, texts: make([]string, len(texts)),
		deadlines: deadline.Watch{Interval: config.Patience},
	}
	fill := filler(name, config.Plaintext)
	for i, text := range texts {
		d.texts[i] = fill(text)
	}
	return d
}

// text returns the text of a statement for this table.
func (d *database) text(s statement) string { return d.texts[s] }

func (d *database) now() time.Time { return d.config.Now() }

// deadline returns when an operation must have ended that begins now, or the zero time.
func (d *database) deadline() time.Time {
	if d.config.Timeout == 0 {
		return time.Time{}
	}
	return time.Now().Add(d.config.Timeout)
}

func (d *database) Within(ctx context.Context) (context.Context, context.CancelFunc) {
	return d.deadlines.WithGrace(ctx, d.deadline())
}

// operate bounds an operation by the table's timeout.
func (d *database) operate(ctx context.Context, do func(ctx context.Context) error) error {
	bounded, cancel := d.deadlines.WithGrace(ctx, d.deadline())
	defer cancel()
	return d.explain(ctx, do(bounded))
}

// read runs a statement that changes nothing.
func (d *database) read(ctx context.Context, do func(ctx context.Context, conn *pgx.Conn) error) error {
	return d.operate(ctx, func(ctx context.Context) error { return d.run(ctx, leftNoTraceOrReads, do) })
}

// write runs a statement that may change several rows, and waits for none.
func (d *database) write(ctx context.Context, do func(ctx context.Context, conn *pgx.Conn) error) error {
	return d.operate(ctx, func(ctx context.Context) error { return d.run(ctx, leftNoTrace, do) })
}

// inTurn runs a statement that waits for a row's lock, when no other call does that. So a locked
// row occupies one connection, however many calls want it. The others wait here.
func (t *Table) inTurn(ctx context.Context, key rows.Key, run func() error) error {
	turn, _, err := t.waits.Enter(ctx, key)
	if err != nil {
		return err
	}
	defer turn.Leave(struct{}{})
	return run()
}

// writeRow runs a statement that changes one row and waits for its lock.
func (t *Table) writeRow(ctx context.Context, key rows.Key, do func(ctx context.Context, conn *pgx.Conn) error) error {
	return t.operate(ctx, func(ctx context.Context) error {
		return t.inTurn(ctx, key, func() error { return t.run(ctx, leftNoTrace, do) })
	})
}
