package pgtable

import (
	"context"
	"time"

	"github.com/pgsession/pgsession/internal/rows"
)

func (t *Table) Renew(ctx context.Context, seen rows.Row, w rows.Write) (row rows.Row, outcome rows.Outcome, err error) {
	err = t.onLayout(func(layout) error {
		row, outcome, err = t.change(ctx, t.renews, &change{seen: seen, w: w})
		return err
	})
	return row, outcome, err
}

var renewKind = &kind{
	name: "renew",
	one:  func(ctx context.Context, t *Table, c *change) (answer, error) { return t.layout().renew(ctx, c) },
	many: renewManySQL,
	args: func(d *database, now time.Time, l *lists, made []*change) []any {
		versions, created := seenLists(made)
		keys, sameUser := make(list[[]byte], len(made)), make(list[bool], len(made))
		for i, c := range made {
			keys[i], sameUser[i] = c.seen.Key.Bytes(), c.w.IsUser(c.seen.UserKey)
		}
		return d.listArgs(now, l, versions, created, keys, l.created, sameUser)
	},
	becomes: func(c *change, now time.Time) rows.Row { return c.seen.Move(c.w, now) },
	answerOther: func(other, made *change, _ rows.Row, now time.Time) answer {
		return judgeSwap(made.seen.Leave(made.w, now), other, now)
	},
	judge: judgeSwap,
}

func (t local) renew(ctx context.Context, c *change) (answer, error) {
	return t.renewBy(ctx, renewSQL, c)
}

func (t *Table) renewBy(ctx context.Context, sql statement, c *change) (answer, error) {
	return t.exec(ctx, sql, func(now time.Time) ([]any, rows.Row) {
		row := c.seen.Move(c.w, now)
		return t.rowArgs(now, &row, c.seen.Version, c.seen.CreatedAt, c.seen.Key.Bytes(), row.CreatedAt, c.w.IsUser(c.seen.UserKey)), row
	})
}

// The row at the old key becomes a tombstone in the same statement in which the new row is made. So
// no snapshot shows both live, or neither, and the server never holds the old row while it waits
// for the client.
var renewSQL = register(renewText)

const renewText = `
	WITH pgsession_ended AS (
		UPDATE sessions AS s
		SET ` + tombstone + `,
			idle_timeout = CASE WHEN $14 THEN interval '1 microsecond' ELSE s.idle_timeout END,
			created_at = CASE WHEN $14 THEN $1 ELSE s.created_at END
		WHERE s.key = $12 AND ` + asSeen + ` AND ` + whileLocal + `
		RETURNING s.key
	)
	INSERT INTO sessions AS s (key, created_at, ` + rowColumns + `)
	SELECT $2::bytea, $13::timestamptz, ` + rowValues + `
	FROM pgsession_ended`

// A unique violation rolls the statement back, and each caller renews alone.
var renewManySQL = register(`
	WITH pgsession_held AS (
		SELECT new.key, new.user_key, new.seen_key, new.n::int AS n
		FROM sessions AS s
		JOIN (SELECT * FROM unnest($2::bytea[], $3::bytea[], $14::bytea[]) WITH ORDINALITY ` + hideListLength + `)
			AS new (key, user_key, seen_key, n) ON new.seen_key = s.key
		WHERE ` + listedAsSeen + ` AND ` + isFree + `
		` + skipLocked + `
	), pgsession_ended AS (
		UPDATE sessions AS s
		SET ` + tombstone + `,
			idle_timeout = CASE WHEN ($16::boolean[])[new.n] THEN interval '1 microsecond' ELSE s.idle_timeout END,
			created_at = CASE WHEN ($16::boolean[])[new.n] THEN $1 ELSE s.created_at END
		FROM pgsession_held AS new
		WHERE s.key = new.seen_key AND ` + listedAsSeen + `
		RETURNING new.key, new.user_key, new.n
	)
	INSERT INTO sessions AS s (key, created_at, ` + rowColumns + `)
	SELECT new.key, ($15::timestamptz[])[new.n], ` + listedValues + `
	FROM pgsession_ended AS new
	ORDER BY new.key
	RETURNING s.key, s.expires_at`)
