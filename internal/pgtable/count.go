package pgtable

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgsession/pgsession/internal/rows"
)

func (t *Table) Count(ctx context.Context) (count rows.Count, err error) {
	err = t.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, t.text(countSQL), t.now()).
			Scan(&count.Users, &count.Guests, &count.Expired, &count.Tombstones, &count.Entries)
	})
	return count, err
}

// What Count.Add says.
var countSQL = register(`
	SELECT count(*) FILTER (WHERE ` + live + ` AND ` + hasHandle + ` AND s.user_key IS NOT NULL),
		count(*) FILTER (WHERE ` + live + ` AND ` + hasHandle + ` AND s.user_key IS NULL),
		count(*) FILTER (WHERE s.expires_at <= $1),
		count(*) FILTER (WHERE NOT ` + stored + ` AND s.expires_at > $1),
		count(*) FILTER (WHERE ` + live + ` AND NOT ` + hasHandle + `)
	FROM sessions AS s`)

func (t *Table) CountByKeyID(ctx context.Context) (map[string]int64, error) {
	counted := make(map[string]int64)
	err := t.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		clear(counted)
		result, err := conn.Query(ctx, t.text(countByKeyIDSQL))
		if err != nil {
			return err
		}
		var (
			id []byte
			n  int64
		)
		_, err = pgx.ForEachRow(result, []any{&id, &n}, func() error {
			counted[string(id)] = n
			return nil
		})
		return err
	})
	return counted, err
}

// The key id is the payload's second to fifth byte.
var countByKeyIDSQL = register(`
	SELECT substring(s.sealed FROM 2 FOR 4), count(*)
	FROM sessions AS s
	WHERE ` + stored + `
	GROUP BY 1`)
