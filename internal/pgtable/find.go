package pgtable

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgsession/pgsession/internal/rows"
)

// pageBytes bounds the payloads of a page. The first row of a page may be larger.
const pageBytes = 4 << 20

func (t *Table) FindByUser(ctx context.Context, userKeys [][]byte, limit int) ([]rows.Row, error) {
	if len(userKeys) == 0 {
		return nil, nil
	}
	return t.layout().findByUser(ctx, userKeys, limit)
}

// findByUser has a branch for each key, with an =, so that the index gives the order.
func (t local) findByUser(ctx context.Context, userKeys [][]byte, limit int) ([]rows.Row, error) {
	args := []any{t.now(), limit}
	branches := make([]string, len(userKeys))
	for i, key := range userKeys {
		args = append(args, key)
		branches[i] = fmt.Sprintf(findByUserKeySQL, len(args))
	}
	sql := fmt.Sprintf(findByUserSQL, strings.Join(branches, " UNION ALL "))
	// The table's name, which may hold anything, is filled in last.
	return t.list(ctx, filler(t.name, t.config.Plaintext)(sql), args...)
}

const (
	findByUserSQL = `
		SELECT ` + columns + `
		FROM (%s) AS s
		ORDER BY ` + newestFirst + `
		LIMIT $2`

	findByUserKeySQL = `
		(SELECT s.*
		FROM sessions AS s
		WHERE s.user_key = $%d AND ` + live + ` AND ` + hasHandle + `
		ORDER BY ` + newestFirst + `
		LIMIT $2)`
)

func (t *Table) list(ctx context.Context, sql string, args ...any) (found []rows.Row, err error) {
	err = t.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		found = nil
		return query(ctx, conn, func(row rows.Row) { found = append(found, row) }, sql, args...)
	})
	return found, err
}

func (t *Table) Page(ctx context.Context, after rows.Key, limit int) ([]rows.Row, error) {
	return t.list(ctx, t.text(pageSQL), t.now(), after.Bytes(), limit, pageBytes)
}

var pageSQL = register(`
	SELECT ` + columns + `
	FROM (
		SELECT s.*, ` + bytesBefore + `
		FROM (
			SELECT s.*
			FROM sessions AS s
			WHERE s.key > $2 AND ` + live + ` AND ` + hasHandle + `
			ORDER BY s.key
			LIMIT $3
		) AS s
	) AS s
	WHERE s.pgsession_bytes_before < $4
	ORDER BY s.key`)

// bytesBefore is how large the payloads of a page are that come before the row's own.
const bytesBefore = `coalesce(sum(coalesce(octet_length(s.sealed), pg_column_size(s.data)))
			OVER (ORDER BY s.key ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS pgsession_bytes_before`
