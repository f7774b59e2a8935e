package pgsession

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

const (
	schemaVersion = 1
	schemaComment = "pgsession schema "

	maxNameSize = 63 // NAMEDATALEN - 1
)

// parseTable returns the parts of a name that was given to WithTable.
func parseTable(name string) pgx.Identifier {
	parts := strings.Split(name, ".")
	if len(parts) > 2 {
		panic("pgsession: a table's name has two parts at most, schema and table")
	}
	for _, part := range parts {
		if part == "" || len(part) > maxNameSize || strings.ContainsRune(part, 0) {
			panic("pgsession: each part of a table's name has 1 to 63 bytes, and no NUL")
		}
	}
	return parts
}

// A step is a statement of the DDL, and what it makes.
type step struct{ makes, sql string }

// ddl returns the steps that make the table, which come first, and then the
// indexes that a table may turn out to lack.
//
// The fillfactor leaves room for a row's next version beside it (HOT). Over 24
// simulated hours of log-ins, touches, saves, log-outs and clean-ups (bench/growth
// -storage), with 100, 85 and 70 the updates were HOT to 81, 84 and 85 % for values of
// 512 bytes, and to 69, 78 and 84 % for 1,400 bytes; 50 gained nothing more. The rest
// ended a session or crossed an hour, which changes an index. Autovacuum's defaults
// then keep the table within 1.1 times its size after the first hour, so that it has
// no parameters of its own.
func ddl(table string) (create, indexes []step) {
	name := parseTable(table).Sanitize()
	create = []step{
		{"table", `CREATE TABLE ` + name + ` (
	key          bytea       PRIMARY KEY, -- SHA-256 of the session id
	user_key     bytea,                   -- sealed store: HMAC of the user id; plaintext store: the user id
	data         jsonb,                   -- the values, in a plaintext store
	sealed       bytea,                   -- the user id and the values, in an encrypted store
	version      bigint      NOT NULL,    -- another at each write
	created_at   timestamptz NOT NULL,    -- when this log-in began
	expires_at   timestamptz NOT NULL,
	expires_hour timestamptz NOT NULL     -- expires_at, rounded up to the hour
) WITH (fillfactor = 70)`},
		// Ciphertext does not compress: do not try.
		{"storage", `ALTER TABLE ` + name + ` ALTER COLUMN sealed SET STORAGE EXTERNAL`},
		{"comment", `COMMENT ON TABLE ` + name + ` IS '` + schemaComment + strconv.Itoa(schemaVersion) + `'`},
	}
	indexes = []step{
		{"expires_hour", `CREATE INDEX ON ` + name + ` (expires_hour)`},
		{"user_key, created_at DESC WHERE (user_key IS NOT NULL)", `CREATE INDEX ON ` + name + ` (user_key, created_at DESC) WHERE user_key IS NOT NULL`},
	}
	return create, indexes
}

// Schema returns the SQL that [Store.Init] runs where there is no table, for
// migration tools. It panics where [WithTable] does.
func Schema(table string) string {
	create, indexes := ddl(table)
	var sql strings.Builder
	for _, step := range append(create, indexes...) {
		sql.WriteString(step.sql + ";\n")
	}
	return sql.String()
}

// Init creates the table with its indexes, or checks the one that is there and
// creates the indexes that it lacks. It may run at every start-up, on all nodes at
// once; where nothing is missing it needs no right to create. It returns [ErrSchema],
// and what differs, for a table that is not as [Schema] makes it. Columns that were
// added do no harm where they may be null or have a default.
func (s *Store) Init(ctx context.Context) error {
	// Under two names of one table, nodes may still meet.
	met := func(err error) bool {
		state := sqlState(err)
		return s.leftNoTrace(err) || state == uniqueViolation || state == duplicateTable
	}
	err := s.retryWhen(ctx, met, func() error { return s.init(ctx) })
	if err != nil && !errors.Is(err, ErrSchema) {
		return s.wrap("init", err)
	}
	return err
}

func (s *Store) init(ctx context.Context) error {
	create, indexes := ddl(s.table)
	missing, err := s.missing(ctx, s.pool, create, indexes)
	if err != nil || len(missing) == 0 {
		return err
	}
	// Each statement must see what other nodes committed before it.
	return pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtext($1))`, "pgsession init "+s.table); err != nil {
			return err
		}
		missing, err := s.missing(ctx, tx, create, indexes)
		if err != nil {
			return err
		}
		for _, step := range missing {
			if _, err := tx.Exec(ctx, step.sql); err != nil {
				return fmt.Errorf("create %s: %w", step.makes, err)
			}
		}
		return nil
	})
}

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// missing returns the steps that are still to be taken, or ErrSchema for a table
// that no step of ours would make right.
func (s *Store) missing(ctx context.Context, db querier, create, indexes []step) ([]step, error) {
	var (
		oid           uint32
		kind, comment string
		rowsHidden    bool
	)
	err := db.QueryRow(ctx, `
		SELECT c.oid, c.relkind::text, coalesce(obj_description(c.oid, 'pg_class'), ''), row_security_active(c.oid)
		FROM pg_class AS c
		WHERE c.oid = to_regclass($1::text)`, parseTable(s.table).Sanitize()).Scan(&oid, &kind, &comment, &rowsHidden)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return append(create, indexes...), nil
	case err != nil:
		return nil, err
	case kind != "r" && kind != "p": // p is a partitioned table
		return nil, s.schemaError("it is not a table")
	case rowsHidden:
		// A hidden session would look absent, and ending it would seem to work.
		return nil, s.schemaError("row level security hides rows from this role")
	}
	if version, ok := strings.CutPrefix(comment, schemaComment); ok && version != strconv.Itoa(schemaVersion) {
		return nil, s.schemaError("its comment says schema " + strconv.Quote(version) + ", and this release knows " + strconv.Itoa(schemaVersion))
	}
	if err := s.checkColumns(ctx, db, oid); err != nil {
		return nil, err
	}
	found, err := indexKeys(ctx, db, oid)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(found, "unique key") {
		return nil, s.schemaError("it has no primary key on key")
	}
	var missing []step
	for _, index := range indexes {
		if !slices.Contains(found, index.makes) {
			missing = append(missing, index)
		}
	}
	return missing, nil
}

func (s *Store) schemaError(difference string) error {
	return fmt.Errorf("%w: %s: %s", ErrSchema, s.table, difference)
}

// checkColumns compares the table's columns with those that Schema makes.
func (s *Store) checkColumns(ctx context.Context, db querier, oid uint32) error {
	const required = " not null"
	want := map[string]string{
		"key":          "bytea" + required,
		"user_key":     "bytea",
		"data":         "jsonb",
		"sealed":       "bytea",
		"version":      "bigint" + required,
		"created_at":   "timestamp with time zone" + required,
		"expires_at":   "timestamp with time zone" + required,
		"expires_hour": "timestamp with time zone" + required,
	}
	rows, err := db.Query(ctx, `
		SELECT attname::text,
			format_type(atttypid, atttypmod) || CASE WHEN attnotnull THEN $2::text ELSE '' END
				|| CASE WHEN attgenerated <> '' OR attidentity = 'a' THEN ' generated' ELSE '' END,
			attnotnull AND NOT atthasdef AND attidentity = ''
		FROM pg_attribute
		WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped
		ORDER BY attnum`, oid, required)
	if err != nil {
		return err
	}
	var (
		name, found string
		mustBeSet   bool
		differences []string
	)
	_, err = pgx.ForEachRow(rows, []any{&name, &found, &mustBeSet}, func() error {
		expected, ours := want[name]
		delete(want, name)
		switch {
		case ours && found != expected:
			differences = append(differences, fmt.Sprintf("column %s is %s, where it should be %s", name, found, expected))
		case !ours && mustBeSet:
			differences = append(differences, fmt.Sprintf("column %s is not ours, and must be set", name))
		}
		return nil
	})
	if err != nil {
		return err
	}
	for name := range want {
		differences = append(differences, "column "+name+" is missing")
	}
	if len(differences) > 0 {
		slices.Sort(differences)
		return s.schemaError(strings.Join(differences, "; "))
	}
	return nil
}

// indexKeys returns what the table's usable indexes are on, as ddl names them. A
// deferred unique index cannot serve ON CONFLICT.
func indexKeys(ctx context.Context, db querier, oid uint32) ([]string, error) {
	rows, err := db.Query(ctx, `
		SELECT CASE WHEN i.indisunique AND i.indimmediate THEN 'unique ' ELSE '' END
			|| (SELECT string_agg(pg_get_indexdef(i.indexrelid, n, true)
					|| CASE WHEN i.indoption[n - 1] & 1 = 1 THEN ' DESC' ELSE '' END, ', ' ORDER BY n)
				FROM generate_series(1, i.indnkeyatts) AS n)
			|| coalesce(' WHERE ' || pg_get_expr(i.indpred, i.indrelid), '')
		FROM pg_index AS i
		JOIN pg_class AS c ON c.oid = i.indexrelid
		JOIN pg_am AS a ON a.oid = c.relam
		WHERE i.indrelid = $1 AND i.indisvalid AND a.amname = 'btree'`, oid)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
