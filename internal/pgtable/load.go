package pgtable

import (
	"cmp"
	"context"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsession/pgsession/internal/coalesce"
	"github.com/pgsession/pgsession/internal/rows"
)

func (t *Table) Load(ctx context.Context, key rows.Key) (rows.Row, error) {
	row, err := t.loads.Do(ctx, t.deadline(), key)
	return row, t.explain(ctx, err)
}

func (t *Table) newLoads(limit func(fastest time.Duration) int) *coalesce.Group[rows.Key, rows.Row] {
	return coalesce.New(coalesce.Config[rows.Key, rows.Row]{
		MaxInFlight:   t.config.MaxInFlight,
		Limit:         limit,
		MaxBatch:      maxBatch,
		MaxBatchBytes: maxBatchBytes,
		Size:          func(rows.Key) int { return t.loadSize.estimate() },
		SlowAfter:     cmp.Or(t.config.Patience, slowAfter),
		Context:       t.deadlines.WithGrace,
		Run:           t.runLoads,
		RunAgain:      func(error) bool { return true },
	})
}

func (t *Table) runLoads(ctx context.Context, keys []rows.Key, answered func(int, rows.Row)) error {
	if len(keys) > 1 {
		return t.loadMany(ctx, keys, answered)
	}
	row, err := t.load(ctx, &keys[0])
	if err == nil {
		answered(0, row)
	}
	return err
}

// load returns the zero Row if there is none.
func (t *Table) load(ctx context.Context, key *rows.Key) (row rows.Row, err error) {
	err = t.run(ctx, leftNoTraceOrReads, func(ctx context.Context, conn *pgx.Conn) error {
		row, err = queryRow(ctx, conn, t.text(loadSQL), key.Bytes())
		return err
	})
	t.loadSize.observe(row)
	return row, err
}

var loadSQL = register(`
	SELECT ` + columns + `
	FROM sessions AS s
	WHERE s.key = $1`)

// loadMany answers each call as soon as its row has come: the rest of the statement changes nothing
// in it.
func (t *Table) loadMany(ctx context.Context, keys []rows.Key, answered func(int, rows.Row)) error {
	last := make(map[rows.Key]int, len(keys))
	for i, key := range keys {
		last[key] = i
	}
	err := t.run(ctx, leftNoTraceOrReads, func(ctx context.Context, conn *pgx.Conn) error {
		return query(ctx, conn, func(found rows.Row) {
			i, ok := last[found.Key]
			if !ok {
				return
			}
			t.loadSize.observe(found)
			if len(last) < len(keys) { // several calls may have asked for this row
				for j := range i {
					if keys[j] == found.Key {
						answered(j, found.Clone())
					}
				}
			}
			answered(i, found)
		}, t.text(t.layout().manyLoads()), keyList(keys))
	})
	if err != nil {
		return err
	}
	for i := range keys {
		answered(i, rows.Row{}) // no row has come for those that are left
	}
	return nil
}

var loadManySQL = register(`
	SELECT ` + columns + `
	FROM (SELECT * FROM unnest($1::bytea[]) ` + hideListLength + `) AS asked (key)
	JOIN sessions AS s ON s.key = asked.key`)

func (local) manyLoads() statement { return loadManySQL }

// A sizeEstimate is about how large the rows are that were loaded lately, so that a batch of loads
// can be bounded before the rows are known.
type sizeEstimate struct{ bytes atomic.Int64 }

func (e *sizeEstimate) estimate() int { return int(e.bytes.Load()) }

// observe lets a larger row count at once, and a smaller one slowly.
func (e *sizeEstimate) observe(row rows.Row) {
	size, before := int64(len(row.Payload)), e.bytes.Load()
	if size < before {
		size = before - (before-size)/64
	}
	if size != before {
		e.bytes.Store(size)
	}
}
