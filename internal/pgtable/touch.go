package pgtable

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgsession/pgsession/internal/rows"
)

func (t *Table) Touch(ctx context.Context, key rows.Key, ttl time.Duration) (time.Time, int64, rows.Outcome, error) {
	row, outcome, err := t.change(ctx, t.touches, &change{w: rows.Write{Key: key, TTL: ttl}})
	return row.ExpiresAt, row.Version, outcome, err
}

var touchKind = &kind{
	name:    "touch",
	one:     func(ctx context.Context, t *Table, c *change) (answer, error) { return t.touch(ctx, c) },
	many:    touchManySQL,
	args:    func(_ *database, now time.Time, l *lists, _ []*change) []any { return []any{now, l.keys, l.ttls} },
	becomes: func(c *change, _ time.Time) rows.Row { return rows.Row{Key: c.w.Key, IdleTimeout: c.w.TTL} },
	answerOther: func(other, made *change, stored rows.Row, _ time.Time) answer {
		return answer{known: other.w.TTL == made.w.TTL, row: stored}
	},
	judge: func(row rows.Row, c *change, now time.Time) answer {
		touched, outcome := row.Touch(c.w.TTL, now)
		a := refused(row, outcome)
		a.known = a.known || touched.Version == row.Version // it would gain too little
		a.row.Version = 0                                   // which is of another write
		return a
	},
}

func (t *Table) touch(ctx context.Context, c *change) (a answer, err error) {
	err = t.run(ctx, leftNoTrace, func(ctx context.Context, conn *pgx.Conn) error {
		a = answer{}
		result, err := conn.Query(ctx, t.text(touchSQL), t.now(), c.w.Key.Bytes(), interval(c.w.TTL))
		if err != nil {
			return err
		}
		var expires pgtype.Timestamptz
		_, err = pgx.ForEachRow(result, []any{&expires, &a.row.Version}, func() error {
			a.known, a.row.ExpiresAt = true, expires.Time.UTC()
			return nil
		})
		return err
	})
	return a, err
}

// What Row.Touch says, for a session s that is asked to live for asked.ttl, or its own ttl.
const (
	touchTTL    = `coalesce(asked.ttl, s.idle_timeout)`
	touchExpiry = `least($1::timestamptz + ` + touchTTL + `, s.ends_at)`
	touchGains  = `s.expires_at < ` + touchExpiry + ` AND (` + touchExpiry + ` - s.expires_at) * 10 >= ` + touchTTL
	touchSet    = `version = ` + nextVersion + `, expires_at = ` + touchExpiry + `, idle_timeout = ` + touchTTL
)

var touchSQL = register(`
	UPDATE sessions AS s
	SET ` + touchSet + `
	FROM (SELECT $3::interval) AS asked (ttl)
	WHERE s.key = $2 AND ` + live + ` AND ` + touchGains + `
	RETURNING s.expires_at, s.version`)

var touchManySQL = register(`
	WITH pgsession_held AS (
		SELECT s.key, asked.ttl
		FROM sessions AS s
		JOIN (
			SELECT new.key, nullif(new.ttl, 0) * interval '1 microsecond'
			FROM unnest($2::bytea[], $3::bigint[]) AS new (key, ttl)
			` + hideListLength + `
		) AS asked (key, ttl) ON asked.key = s.key
		WHERE ` + live + ` AND ` + touchGains + `
		` + skipLocked + `
	)
	UPDATE sessions AS s
	SET ` + touchSet + `
	FROM pgsession_held AS asked
	WHERE s.key = asked.key AND ` + live + ` AND ` + touchGains + `
	RETURNING s.key, s.expires_at, s.version`)
