package pgtable

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgsession/pgsession/internal/rows"
)

// Count is part of [rows.Table].
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
