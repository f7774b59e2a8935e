package pgtable

import (
	"context"
	"strings"
	"time"

	"github.com/pgsession/pgsession/internal/rows"
)

func (t *Table) PageToReseal(ctx context.Context, after rows.Key, limit int, keyID [4]byte) ([]rows.Row, error) {
	return t.list(ctx, t.text(pageToResealSQL), after.Bytes(), keyID[:], limit, pageBytes)
}

// The key id is the payload's second to fifth byte.
var pageToResealSQL = register(`
	SELECT ` + columns + `
	FROM (
		SELECT s.*, ` + bytesBefore + `
		FROM (
			SELECT s.*
			FROM sessions AS s
			WHERE s.key > $1 AND ` + isOurs + ` AND s.sealed IS NOT NULL AND substring(s.sealed FROM 2 FOR 4) <> $2
			ORDER BY s.key
			LIMIT $3
		) AS s
	) AS s
	WHERE s.pgsession_bytes_before < $4
	ORDER BY s.key`)

func (t *Table) PageToSeal(ctx context.Context, after rows.Key, limit int) ([]rows.Row, error) {
	return t.list(ctx, t.text(pageToSealSQL), after.Bytes(), limit, pageBytes)
}

// The columns are those of a plaintext store.
var pageToSealSQL = register(strings.ReplaceAll(`
	SELECT `+columns+`
	FROM (
		SELECT s.*, `+bytesBefore+`
		FROM (
			SELECT s.*
			FROM sessions AS s
			WHERE s.key > $1 AND `+isOurs+` AND s.data IS NOT NULL AND s.sealed IS NULL
			ORDER BY s.key
			LIMIT $2
		) AS s
	) AS s
	WHERE s.pgsession_bytes_before < $3
	ORDER BY s.key`, sealedColumns, plainColumns))

func (t *Table) Reseal(ctx context.Context, resealed []rows.Resealed) (swapped int64, err error) {
	changes := make([]*change, len(resealed))
	for i, r := range resealed {
		changes[i] = &change{seen: r.Seen, w: rows.Write{Key: r.Seen.Key, UserKey: r.UserKey, Payload: r.Payload}}
	}
	answers := make([]answer, len(changes))
	err = t.onLayout(func(l layout) error { return l.reseal(ctx, changes, answers) })
	for i, c := range changes { // what was held is done alone
		if err == nil && !answers[i].known {
			err = t.operate(ctx, func(ctx context.Context) error {
				answers[i], err = t.changeAlone(ctx, resealKind, c, false)
				return err
			})
		}
	}
	for _, a := range answers {
		if a.known && a.outcome == rows.OK {
			swapped++
		}
	}
	return swapped, err
}

func (t local) reseal(ctx context.Context, changes []*change, answers []answer) error {
	if len(changes) == 0 {
		return nil
	}
	return t.operate(ctx, func(ctx context.Context) error {
		return t.changeMany(ctx, resealKind, changes, func(i int, a answer) { answers[i] = a })
	})
}

var resealKind = &kind{
	name: "reseal",
	one: func(ctx context.Context, t *Table, c *change) (answer, error) {
		return t.exec(ctx, resealSQL, func(time.Time) ([]any, rows.Row) {
			return []any{c.w.Key.Bytes(), c.seen.Version, c.seen.CreatedAt, c.w.UserKey, c.w.Payload}, rows.Row{}
		})
	},
	many: resealManySQL,
	args: func(_ *database, _ time.Time, l *lists, made []*change) []any {
		versions, created := seenLists(made)
		return []any{l.keys, l.userKeys, l.starts, l.sizes, l.payload, versions, created}
	},
	becomes: func(c *change, _ time.Time) rows.Row {
		return rows.Row{Key: c.w.Key, UserKey: c.w.UserKey, Payload: c.w.Payload}
	},
	judge: func(row rows.Row, c *change, _ time.Time) answer {
		if row.State == rows.Stored && row.Version == c.seen.Version && row.CreatedAt.Equal(c.seen.CreatedAt) {
			return answer{}
		}
		return answer{known: true, outcome: rows.Changed}
	},
}

var resealSQL = register(`
	UPDATE sessions AS s
	SET user_key = $4, sealed = $5, data = NULL, version = ` + nextVersion + `
	WHERE s.key = $1 AND ` + stored + ` AND s.version = $2 AND s.created_at = $3`)

var resealManySQL = register(`
	WITH pgsession_held AS (
		SELECT new.*
		FROM sessions AS s
		JOIN (
			SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::int[], $4::int[], $6::bigint[], $7::timestamptz[]) ` + hideListLength + `
		) AS new (key, user_key, start, size, version, created_at) ON new.key = s.key
		WHERE ` + stored + ` AND s.version = new.version AND s.created_at = new.created_at
		` + skipLocked + `
	)
	UPDATE sessions AS s
	SET user_key = held.user_key, sealed = substring($5::bytea FROM held.start FOR held.size), data = NULL, version = ` + nextVersion + `
	FROM pgsession_held AS held
	WHERE s.key = held.key AND ` + stored + ` AND s.version = held.version AND s.created_at = held.created_at
	RETURNING s.key, s.expires_at`)
