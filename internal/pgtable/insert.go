package pgtable

import (
	"context"
	"time"

	"github.com/pgsession/pgsession/internal/rows"
)

func (t *Table) Insert(ctx context.Context, w rows.Write) (rows.Row, rows.Outcome, error) {
	return t.change(ctx, t.inserts, &change{w: w})
}

var insertKind = &kind{
	name: "create",
	one: func(ctx context.Context, t *Table, c *change) (answer, error) {
		a, err := t.exec(ctx, insertSQL, func(now time.Time) ([]any, rows.Row) {
			row := c.w.Begin(now)
			return t.rowArgs(now, &row), row
		})
		if err == nil && !a.known {
			err = errSwallowed
		}
		return a, err
	},
	many:    insertManySQL,
	args:    func(d *database, now time.Time, l *lists, _ []*change) []any { return d.listArgs(now, l) },
	becomes: func(c *change, now time.Time) rows.Row { return c.w.Begin(now) },
	answerOther: func(_, _ *change, _ rows.Row, _ time.Time) answer {
		return answer{known: true, outcome: rows.Exists}
	},
	judge: func(row rows.Row, c *change, now time.Time) answer {
		row, outcome := row.Insert(c.w, now)
		return refused(row, outcome)
	},
}

var insertSQL = register(insertRow)

var insertManySQL = register(insertListed(listed))

// insertListed inserts the rows of a list for whose keys there is no row. It skips those that
// another transaction has inserted at the same time; their callers insert them alone. It inserts in
// the order of the keys, so that two such statements do not wait for each other.
func insertListed(source string) string {
	return `INSERT INTO sessions AS s (key, created_at, ` + rowColumns + `)
		SELECT new.key, $1, ` + listedValues + `
		FROM ` + source + `
		WHERE ` + isFree + `
		ORDER BY new.key
		ON CONFLICT (key) DO NOTHING
		RETURNING s.key, s.expires_at`
}

// isFree says that there is no row under the new key, as far as the statement sees. Without it, an
// insert would wait if another transaction has changed that row.
const isFree = `NOT EXISTS (SELECT FROM sessions AS s WHERE s.key = new.key)`
