package move

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/pgsession/pgsession"
)

const (
	batchSize = 500

	// writers is how many rows of a batch are created at once.
	writers = 4
)

// A Convert returns what a row becomes in the store, and under which id: [pgsession.DeriveID] of
// the row's token. It must return the same for the same row. With an error, the row stays where it
// is. It is called by several goroutines at once.
type Convert func(Row) (id pgsession.ID, data pgsession.Data, expiry time.Time, err error)

// JSON is a [Convert] for [FromConnect]: the values are the row's JSON, and the id is derived from
// the sid.
func JSON(row Row) (pgsession.ID, pgsession.Data, time.Time, error) {
	return pgsession.DeriveID(row.Token), pgsession.Data{Values: json.RawMessage(row.Data)}, row.Expiry, nil
}

// Progress says how far an import is.
type Progress struct {
	Moved int64 // sessions that are in the store now, and not in the table
	Left  int64 // sessions that stay in the table, because of Reason
	Total int64 // live sessions that the table had when the import began

	// Reason is why the last of the sessions that were left could not be moved: what the Convert
	// returned, or pgsession.ErrTooLarge, ErrEncode, ErrForeignID or ErrInvalidTTL.
	Reason error
}

// Import moves all live sessions of a table to the store, in batches, until none is left that can
// be moved. Each keeps its expiry. Import may be stopped or killed at any time and run again: it
// continues. After each batch it calls report, which may be nil; see [Bar].
//
// A row that cannot be converted, or that the store does not take, is counted and stays. An expired
// row stays too. If the store already knows the id, because a former import was killed or because
// the session was ended, the row is only removed.
//
// Before you run it, every instance of the application must be one that looks in both places, as
// the package's comment says. Run one import at a time.
func Import(ctx context.Context, store *pgsession.Store, from *Table, convert Convert, report func(Progress)) (Progress, error) {
	i := importer{store: store, from: from, convert: convert, report: report}
	if err := from.pool.QueryRow(ctx, from.fill(countSQL)).Scan(&i.progress.Total); err != nil {
		return i.progress, wrap("count", err)
	}
	// Instances may add sessions behind a pass that is under way.
	for {
		before := i.progress.Moved
		i.progress.Left = 0
		if err := i.pass(ctx); err != nil || i.progress.Moved == before {
			return i.progress, err
		}
	}
}

const countSQL = `SELECT count(*) FROM sessions WHERE expiry > now()`

type importer struct {
	store    *pgsession.Store
	from     *Table
	convert  Convert
	report   func(Progress)
	progress Progress
}

// The rows that a killed import has left marked.
const markedPageSQL = `
	SELECT substring(token FROM 8), data, expiry::timestamptz
	FROM sessions
	WHERE substring(token FROM 1 FOR 7) = 'moving:'
	LIMIT $1`

// The rows are locked first, so that a change which is committed meanwhile is returned too. The
// last one has the highest token, by the column's collation.
const markPageSQL = `
	WITH page AS (
		SELECT token AS t
		FROM sessions
		WHERE token > $2 AND substring(token FROM 1 FOR 7) <> 'moving:' AND expiry > now()
		ORDER BY token
		LIMIT $1
		FOR UPDATE
	), marked AS (
		UPDATE sessions
		SET token = 'moving:' || t
		FROM page
		WHERE token = t
		RETURNING t, data AS d, expiry::timestamptz AS e
	)
	SELECT t, d, e
	FROM marked
	ORDER BY t`

const unmarkSQL = `
	UPDATE sessions
	SET token = substring(token FROM 8)
	WHERE token = ANY($1)`

// pass moves what a former import has left marked, and then each page of the table.
func (i *importer) pass(ctx context.Context) error {
	for {
		rows, err := collect(i.from.pool.Query(ctx, i.from.fill(markedPageSQL), batchSize))
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			break
		}
		if err := i.move(ctx, rows); err != nil {
			return err
		}
	}
	for last := ""; ; {
		rows, err := collect(i.from.pool.Query(ctx, i.from.fill(markPageSQL), batchSize, i.from.parameter(last)))
		if err != nil || len(rows) == 0 {
			return err
		}
		last = rows[len(rows)-1].Token
		if err := i.move(ctx, rows); err != nil {
			return err
		}
	}
}

// move creates marked rows in the store and removes them from the table. It unmarks those that
// cannot be moved.
func (i *importer) move(ctx context.Context, rows []Row) error {
	reasons := make([]error, len(rows))
	err := eachOf(rows, func(n int) (err error) {
		reasons[n], err = create(ctx, i.store, rows[n], i.convert)
		return err
	})
	if err != nil {
		return err
	}
	var moved, left []string
	for n, reason := range reasons {
		if reason == nil {
			moved = append(moved, names(rows[n].Token)...)
			i.progress.Moved++
			continue
		}
		left = append(left, mark+rows[n].Token)
		i.progress.Left++
		i.progress.Reason = reason
	}
	if _, err := i.from.pool.Exec(ctx, i.from.fill(clearSQL), i.from.parameters(moved)); err != nil {
		return wrap("remove", err)
	}
	if _, err := i.from.pool.Exec(ctx, i.from.fill(unmarkSQL), i.from.parameters(left)); err != nil {
		return wrap("leave", err)
	}
	if i.report != nil {
		i.report(i.progress)
	}
	return nil
}

// eachOf calls do for each row, some at once, until one fails.
func eachOf(rows []Row, do func(n int) error) error {
	next := make(chan int)
	failed := make(chan error, writers)
	var running sync.WaitGroup
	for range writers {
		running.Go(func() {
			for n := range next {
				if err := do(n); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	var err error
	for n := 0; n < len(rows) && err == nil; n++ {
		select {
		case next <- n:
		case err = <-failed:
		}
	}
	close(next)
	running.Wait()
	close(failed)
	return errors.Join(err, <-failed)
}

// create creates a row's session in the store. The first error says why the row has to stay.
func create(ctx context.Context, store *pgsession.Store, row Row, convert Convert) (left, err error) {
	id, data, expiry, err := convert(row)
	if err != nil {
		return err, nil
	}
	_, err = store.CreateAs(ctx, id, data, time.Until(expiry))
	for _, reason := range []error{pgsession.ErrTooLarge, pgsession.ErrEncode, pgsession.ErrForeignID, pgsession.ErrInvalidTTL} {
		if errors.Is(err, reason) {
			return err, nil
		}
	}
	if errors.Is(err, pgsession.ErrExists) {
		return nil, nil
	}
	return nil, err
}
