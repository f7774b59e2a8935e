package bench

import (
	"flag"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

var otherRows = flag.Int("rows", 0, "sessions that are in the tables and are not called, beside the others")

// These add $1 rows to a table, as the stores could have written them: of the same sizes, at random
// places of each index, with an expiry between $2 and $3. Of this library's rows, every twentieth
// is a tombstone.
const (
	insertSCS = `
		INSERT INTO %[1]s (token, data, expiry)
		SELECT translate(encode(sha256(uuid_send(gen_random_uuid())), 'base64'), '+/=', '-_'), stored.data,
			$2::timestamptz + random() * ($3::timestamptz - $2::timestamptz)
		FROM generate_series(1, $1), (SELECT data FROM %[1]s LIMIT 1) AS stored`
	insertOurs = `
		INSERT INTO %[1]s (key, user_key, sealed, version, created_at, expires_at, idle_timeout)
		SELECT sha256(uuid_send(gen_random_uuid())),
			CASE WHEN i %% 20 > 0 THEN sha256(uuid_send(gen_random_uuid())) END, CASE WHEN i %% 20 > 0 THEN stored.sealed END,
			1 + (random() * 4e15)::bigint, $2::timestamptz - interval '1 hour',
			$2::timestamptz + random() * ($3::timestamptz - $2::timestamptz), interval '12 hours'
		FROM generate_series(1, $1) AS i, (SELECT sealed FROM %[1]s WHERE sealed IS NOT NULL LIMIT 1) AS stored`
)

// fill adds rows. If they are many, the indexes are built afterwards.
func fill(tb testing.TB, insert, table string, rows int, from, to time.Time) {
	ctx := tb.Context()
	if rows >= 2_000_000 {
		defer dropIndexes(tb, table)()
	}
	const batch = 100_000
	var group errgroup.Group
	group.SetLimit(runtime.NumCPU())
	for done := 0; done < rows; done += batch {
		group.Go(func() error {
			_, err := admin.Exec(ctx, fmt.Sprintf(insert, table), min(batch, rows-done), from, to)
			return err
		})
	}
	require.NoError(tb, group.Wait())
}

// dropIndexes drops a table's indexes, and returns what builds them again.
func dropIndexes(tb testing.TB, table string) (rebuild func()) {
	execute := func(statements ...string) {
		conn, err := admin.Acquire(tb.Context())
		require.NoError(tb, err)
		defer conn.Release()
		for _, sql := range statements {
			_, err := conn.Exec(tb.Context(), sql)
			require.NoError(tb, err, sql)
		}
	}
	rows, err := admin.Query(tb.Context(), `
		SELECT CASE WHEN i.indisprimary THEN format('ALTER TABLE %s DROP CONSTRAINT %I', i.indrelid::regclass, c.relname) ELSE format('DROP INDEX %I', c.relname) END,
			CASE WHEN i.indisprimary THEN format('ALTER TABLE %s ADD %s', i.indrelid::regclass, pg_get_constraintdef(p.oid)) ELSE pg_get_indexdef(i.indexrelid) END
		FROM pg_index AS i
		JOIN pg_class AS c ON c.oid = i.indexrelid
		LEFT JOIN pg_constraint AS p ON p.conindid = i.indexrelid
		WHERE i.indrelid = $1::regclass`, table)
	require.NoError(tb, err)
	indexes, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct{ Drop, Build string }])
	require.NoError(tb, err)
	build := []string{"SET maintenance_work_mem = '2GB'"}
	for _, index := range indexes {
		execute(index.Drop)
		build = append(build, index.Build)
	}
	return func() { execute(build...) }
}
