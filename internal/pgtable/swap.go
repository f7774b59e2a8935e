package pgtable

import (
	"context"
	"time"

	"github.com/pgsession/pgsession/internal/rows"
)

func (t *Table) Swap(ctx context.Context, seen rows.Row, w rows.Write) (rows.Row, rows.Outcome, error) {
	return t.change(ctx, t.swaps, &change{seen: seen, w: w})
}

var swapKind = &kind{
	name: "swap",
	one: func(ctx context.Context, t *Table, c *change) (answer, error) {
		return t.exec(ctx, swapSQL, func(now time.Time) ([]any, rows.Row) {
			row := c.seen.Replace(c.w, now)
			return t.rowArgs(now, &row, c.seen.Version, c.seen.CreatedAt), row
		})
	},
	many: swapManySQL,
	args: func(d *database, now time.Time, l *lists, made []*change) []any {
		versions, created := seenLists(made)
		return d.listArgs(now, l, versions, created)
	},
	becomes: func(c *change, now time.Time) rows.Row { return c.seen.Replace(c.w, now) },
	answerOther: func(other, _ *change, stored rows.Row, now time.Time) answer {
		return judgeSwap(stored.Clone(), other, now)
	},
	judge: judgeSwap,
}

func judgeSwap(row rows.Row, c *change, now time.Time) answer {
	_, outcome := row.Swap(c.seen, c.w, now)
	return refused(row, outcome)
}

// asSeen says that a row is still as it was seen, in a statement for one row.
const asSeen = live + ` AND s.version = $10 AND s.created_at = $11`

var swapSQL = register(`
	UPDATE sessions AS s
	SET (` + rowColumns + `) = (` + rowValues + `)
	WHERE s.key = $2 AND ` + asSeen)

// listedAsSeen is asSeen in a statement for several rows, with the parameters of seenLists.
const listedAsSeen = live + ` AND s.version = ($12::bigint[])[new.n] AND s.created_at = ($13::timestamptz[])[new.n]`

func seenLists(made []*change) (versions list[int64], created list[time.Time]) {
	versions, created = make(list[int64], len(made)), make(list[time.Time], len(made))
	for i, c := range made {
		versions[i], created[i] = c.seen.Version, c.seen.CreatedAt
	}
	return versions, created
}

var swapManySQL = register(`
	WITH pgsession_new AS (
		SELECT new.key, new.user_key, new.n::int AS n
		FROM sessions AS s
		JOIN ` + listed + ` ON new.key = s.key
		WHERE ` + listedAsSeen + `
		` + skipLocked + `
	)
	UPDATE sessions AS s
	SET (` + rowColumns + `) = (` + listedValues + `)
	FROM pgsession_new AS new
	WHERE s.key = new.key AND ` + listedAsSeen + `
	RETURNING s.key, s.expires_at`)
