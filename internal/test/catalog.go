package test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
)

// Catalog describes what the server knows of a table, line by line.
func Catalog(t testing.TB, pool *pgxpool.Pool, table string) []string {
	t.Helper()
	result, err := pool.Query(t.Context(), `
		WITH t AS (SELECT c.* FROM pg_class AS c WHERE c.oid = to_regclass($1::text))
		SELECT line FROM (
			SELECT 1, attnum::int, concat_ws(' ', 'column', attname, format_type(atttypid, atttypmod),
				CASE WHEN attnotnull THEN 'not null' END,
				CASE WHEN attgenerated <> '' THEN 'generated ' || pg_get_expr(adbin, adrelid) WHEN atthasdef THEN 'default' END, 'storage ' || attstorage::text)
			FROM t JOIN pg_attribute ON attrelid = t.oid AND attnum > 0 LEFT JOIN pg_attrdef ON adrelid = t.oid AND adnum = attnum
			UNION ALL
			SELECT 2, 0, replace(pg_get_indexdef(indexrelid), current_schema() || '.', '') || CASE WHEN indisvalid THEN '' ELSE ' invalid' END
			FROM t JOIN pg_index ON indrelid = t.oid
			UNION ALL
			SELECT 3, 0, 'constraint ' || conname || ' ' || pg_get_constraintdef(c.oid)
			FROM t JOIN pg_constraint AS c ON conrelid = t.oid AND contype IN ('p', 'u', 'c', 'f', 'x')
			UNION ALL
			SELECT 4, 0, 'options ' || reloptions::text FROM t
			UNION ALL
			SELECT 5, 0, 'comment ' || obj_description(oid, 'pg_class') FROM t
		) AS lines (part, place, line)
		WHERE line IS NOT NULL
		ORDER BY part, place, line`, pgx.Identifier(strings.Split(table, ".")).Sanitize())
	require.NoError(t, err)
	lines, err := pgx.CollectRows(result, pgx.RowTo[string])
	require.NoError(t, err)
	return lines
}

// WantCatalog is what users upgrade from: a change to it needs a new schema version.
var WantCatalog = []string{
	"column key bytea not null storage x",
	"column user_key bytea storage x",
	"column data jsonb storage x",
	"column sealed bytea storage e",
	"column version bigint not null storage p",
	"column created_at timestamp with time zone not null storage p",
	"column expires_at timestamp with time zone not null storage p",
	"column ends_at timestamp with time zone storage p",
	"column idle_timeout interval not null storage p",
	"column expires_hour timestamp with time zone generated date_bin('01:00:00'::interval, expires_at, '2000-01-01 00:00:00+00'::timestamp with time zone) storage p",
	"CREATE INDEX sessions_expires_hour_idx ON sessions USING btree (expires_hour)",
	"CREATE INDEX sessions_user_key_created_at_idx ON sessions USING btree (user_key, created_at DESC) WHERE (user_key IS NOT NULL)",
	"CREATE UNIQUE INDEX sessions_pkey ON sessions USING btree (key)",
	"constraint sessions_pkey PRIMARY KEY (key)",
	"options {fillfactor=70}",
	"comment pgsession schema 1",
}
