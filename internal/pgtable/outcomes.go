package pgtable

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgsession/pgsession/internal/rows"
)

func (t *Table) LoadOutcomes(ctx context.Context, keys []rows.Key) ([]rows.Outcome, error) {
	found := make(map[rows.Key]rows.Outcome, len(keys))
	err := t.read(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		clear(found)
		result, err := conn.Query(ctx, t.text(loadOutcomesSQL), t.now(), keyList(keys))
		if err != nil {
			return err
		}
		var (
			key      pgtype.DriverBytes
			isStored bool
		)
		_, err = pgx.ForEachRow(result, []any{&key, &isStored}, func() error {
			outcome := rows.Revoked
			if isStored {
				outcome = rows.OK
			}
			found[keyOf(key)] = outcome
			return nil
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	outcomes := make([]rows.Outcome, len(keys))
	for i, key := range keys {
		outcome, ok := found[key]
		if !ok {
			outcome = rows.NotFound
		}
		outcomes[i] = outcome
	}
	return outcomes, nil
}

var loadOutcomesSQL = register(`
	SELECT s.key, ` + stored + `
	FROM sessions AS s
	WHERE s.key = ANY($2::bytea[]) AND (s.expires_at > $1 OR NOT ` + stored + `)`)
