package pgtable

import (
	"bytes"
	"context"
	"time"

	"github.com/pgsession/pgsession/internal/rows"
)

func (t *Table) Save(ctx context.Context, w rows.Write) (rows.Outcome, error) {
	_, outcome, err := t.change(ctx, t.saves, &change{w: w})
	return outcome, err
}

var saveKind = &kind{
	name: "save",
	one: func(ctx context.Context, t *Table, c *change) (answer, error) {
		return t.exec(ctx, saveSQL, func(now time.Time) ([]any, rows.Row) {
			sealed, data := t.payload(c.w.Payload)
			return []any{now, c.w.Key.Bytes(), c.w.UserKey, now.Add(c.w.TTL), interval(c.w.TTL), sealed, data, list[[]byte](c.w.OtherUserKeys)}, rows.Row{}
		})
	},
	many:        saveManySQL,
	args:        func(d *database, now time.Time, l *lists, _ []*change) []any { return d.savedArgs(now, l) },
	becomes:     func(c *change, now time.Time) rows.Row { return c.w.Begin(now) },
	lastWins:    true,
	answerOther: answerReplaced,
	judge: func(row rows.Row, c *change, now time.Time) answer {
		row, outcome := row.Save(c.w, now)
		return refused(row, outcome)
	},
}

// answerReplaced answers a Save or a Put whose batch has a later one of the same row. If both name
// the same user and the same end, it counts as done just before the later one, which overwrote it.
// Otherwise its result is not known, and its caller makes it alone.
func answerReplaced(other, made *change, _ rows.Row, _ time.Time) answer {
	return answer{known: bytes.Equal(other.w.UserKey, made.w.UserKey) && other.w.Lifetime == made.w.Lifetime}
}

var saveSQL = register(`
	UPDATE sessions AS s
	SET ` + saved(`$3`, `$4::timestamptz`, `$5`, `$6`, `convert_from($7, 'UTF8')::jsonb`) + `
	WHERE s.key = $2 AND ` + live + ` AND (s.user_key IS NOT DISTINCT FROM $3 OR s.user_key = ANY($8::bytea[]))`)

// A row that lies under another key of its user is left alone, and its caller saves it alone. The
// UPDATE joins only the list of locked rows: with a second list, some plans compare every row of
// one with every row of the other.
var saveManySQL = register(`
	WITH pgsession_new AS (
		SELECT new.key, new.user_key, new.n::int AS n
		FROM sessions AS s
		JOIN ` + listed + ` ON new.key = s.key
		WHERE ` + live + ` AND s.user_key IS NOT DISTINCT FROM new.user_key
		` + skipLocked + `
	)
	UPDATE sessions AS s
	SET ` + listedSaved + `
	FROM pgsession_new AS new
	WHERE s.key = new.key AND ` + live + ` AND s.user_key IS NOT DISTINCT FROM new.user_key
	RETURNING s.key, s.expires_at`)
