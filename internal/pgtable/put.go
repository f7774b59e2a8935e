package pgtable

import (
	"context"
	"time"

	"github.com/pgsession/pgsession/internal/rows"
)

func (t *Table) Put(ctx context.Context, w rows.Write) (rows.Outcome, error) {
	_, outcome, err := t.change(ctx, t.puts, &change{w: w})
	return outcome, err
}

var putKind = &kind{
	name: "put",
	one: func(ctx context.Context, t *Table, c *change) (answer, error) {
		return t.exec(ctx, putSQL, func(now time.Time) ([]any, rows.Row) {
			row := c.w.Begin(now)
			return t.rowArgs(now, &row, now.Add(c.w.TTL), list[[]byte](c.w.OtherUserKeys)), row
		})
	},
	many:        putManySQL,
	args:        func(d *database, now time.Time, l *lists, _ []*change) []any { return d.listArgs(now, l) },
	becomes:     func(c *change, now time.Time) rows.Row { return c.w.Begin(now) },
	lastWins:    true,
	answerOther: answerReplaced,
	judge: func(row rows.Row, c *change, now time.Time) answer {
		row, outcome := row.Put(c.w, now)
		return refused(row, outcome)
	},
}

var putSQL = register(insertRow + `
	ON CONFLICT (key) DO UPDATE
	SET ` + saved(`excluded.user_key`, `$10::timestamptz`, `excluded.idle_timeout`, `excluded.sealed`, `excluded.data`) + `
	WHERE ` + live + ` AND (s.user_key IS NOT DISTINCT FROM excluded.user_key OR s.user_key = ANY($11::bytea[]))`)

// An insert waits for another transaction that inserts the same key, or has updated its row. Two
// statements could wait for each other. So the inserts come in the order of their keys, and before
// the updates, which wait for no other transaction: the last SELECT reads the inserted keys first.
var putManySQL = register(`
	WITH pgsession_new AS (
		SELECT * FROM ` + listed + `
	), pgsession_held AS (
		SELECT new.key, new.user_key, new.n::int AS n
		FROM sessions AS s
		JOIN pgsession_new AS new ON new.key = s.key
		WHERE ` + live + ` AND s.user_key IS NOT DISTINCT FROM new.user_key
		` + skipLocked + `
	), pgsession_saved AS (
		UPDATE sessions AS s
		SET ` + listedSaved + `
		FROM pgsession_held AS new
		WHERE s.key = new.key AND ` + live + ` AND s.user_key IS NOT DISTINCT FROM new.user_key
		RETURNING s.key, s.expires_at
	), pgsession_inserted AS (
		` + insertListed(`pgsession_new AS new`) + `
	)
	SELECT inserted.key, inserted.expires_at FROM pgsession_inserted AS inserted
	UNION ALL
	SELECT saved.key, saved.expires_at FROM pgsession_saved AS saved`)
