package pgtable

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsession/pgsession/internal/backoff"
	"github.com/pgsession/pgsession/internal/rows"
)

const (
	schemaVersion = 1
	schemaComment = "pgsession schema "

	maxNameSize = 63 // NAMEDATALEN - 1

	// initLockTimeout bounds how long Init lets writers queue behind it.
	initLockTimeout = 100 * time.Millisecond
)

// ParseName returns the parts of a name: "table" or "schema.table".
func ParseName(name string) (pgx.Identifier, error) {
	parts := strings.Split(name, ".")
	if len(parts) > 2 {
		return nil, errors.New("pgsession: a table's name has two parts at most, schema and table")
	}
	for _, part := range parts {
		if part == "" || len(part) > maxNameSize || strings.ContainsRune(part, 0) {
			return nil, errors.New("pgsession: each part of a table's name has 1 to 63 bytes, and no NUL")
		}
	}
	return parts, nil
}

// A step is a statement of the DDL, and what it makes.
type step struct{ makes, sql string }

// ddl returns the steps that make the table, which come first, and then the
// indexes that a table may turn out to lack.
//
// The fillfactor leaves room for a row's next version beside it (HOT). Over 24
// simulated hours of log-ins, touches, saves, log-outs and clean-ups, with 100, 85
// and 70 the updates were HOT to 81, 84 and 85 % for values of
// 512 bytes, and to 69, 78 and 84 % for 1,400 bytes; 50 gained nothing more. The rest
// ended a session or crossed an hour, which changes an index. Autovacuum's defaults
// then keep the table within 1.1 times its size after the first hour, so that it has
// no parameters of its own.
func ddl(table pgx.Identifier) (create, indexes []step) {
	name := table.Sanitize()
	create = []step{
		{"table", `CREATE TABLE ` + name + ` (
` + columnDefinitions() + `) WITH (fillfactor = 70)`},
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

func columnDefinitions() string {
	var text strings.Builder
	for i, c := range tableColumns {
		comma := ","
		if i == len(tableColumns)-1 {
			comma = ""
		}
		definition := strings.TrimRight(fmt.Sprintf("%-12s %-11s %s", c.name, c.kind, c.constraint), " ") + comma
		fmt.Fprintf(&text, "\t%-37s -- %s\n", definition, c.comment)
	}
	return text.String()
}

// Schema returns the statements that Init runs if there is no table, each with a semicolon.
func Schema(table pgx.Identifier) string {
	create, indexes := ddl(table)
	var sql strings.Builder
	for _, step := range append(create, indexes...) {
		sql.WriteString(step.sql + ";\n")
	}
	return sql.String()
}

func (t *Table) Init(ctx context.Context) error {
	for attempt := 1; ; attempt++ {
		err := t.operate(ctx, t.init)
		if err == nil {
			return t.operate(ctx, t.look)
		}
		if attempt == maxAttempts || !mayInitAgain(err) || backoff.Wait(ctx, attempt) != nil {
			return err
		}
	}
}

// mayInitAgain reports whether Init may have met another node's under another name of the table, or
// waited for a lock.
func mayInitAgain(err error) bool {
	state := sqlState(err)
	return leftNoTrace(err) || state == uniqueViolation || state == duplicateTable || state == lockNotAvailable
}

func (t *Table) init(ctx context.Context) error {
	if err := t.checkSettings(ctx); err != nil {
		return err
	}
	create, indexes := ddl(t.name)
	missing, err := t.missing(ctx, t.pool, create, indexes)
	if err != nil {
		return err
	}
	if len(missing) == 0 {
		return nil
	}
	// Each statement must see what other nodes committed before it.
	return pgx.BeginTxFunc(ctx, t.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtext($1))`, "pgsession init "+t.config.Name); err != nil {
			return err
		}
		missing, err := t.missing(ctx, tx, create, indexes)
		if err != nil {
			return err
		}
		// To build an index, a lock on the table is needed that waits for open transactions, and
		// all writers queue behind whoever waits for it.
		if _, err := tx.Exec(ctx, `SELECT set_config('lock_timeout', $1, true)`, strconv.FormatInt(initLockTimeout.Milliseconds(), 10)); err != nil {
			return err
		}
		for _, step := range missing {
			_, err := tx.Exec(ctx, step.sql)
			if state := sqlState(err); state == lockNotAvailable || state == queryCanceled || ctx.Err() != nil {
				return fmt.Errorf("create %s: the table is in use, or too large to do this at start-up: run it by hand, an index with CONCURRENTLY: %s: %w",
					step.makes, step.sql, err)
			}
			if err != nil {
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
func (t *Table) missing(ctx context.Context, db querier, create, indexes []step) ([]step, error) {
	var (
		oid           uint32
		kind, comment string
		rowsHidden    bool
		lacking       []string
	)
	err := db.QueryRow(ctx, `
		SELECT c.oid, c.relkind::text, coalesce(obj_description(c.oid, 'pg_class'), ''), row_security_active(c.oid), `+privilegesSQL+`
		FROM pg_class AS c
		WHERE c.oid = to_regclass($1::text)`, t.name.Sanitize()).Scan(&oid, &kind, &comment, &rowsHidden, &lacking)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return append(create, indexes...), nil
	case err != nil:
		return nil, err
	case kind != "r" && kind != "p": // p is a partitioned table
		return nil, t.schemaError("it is not a table")
	case rowsHidden:
		// A hidden session would look absent, and ending it would seem to work.
		return nil, t.schemaError(errRowsHidden.Error())
	}
	if err := missingPrivileges(lacking); err != nil {
		return nil, t.schemaError(err.Error())
	}
	if version, ok := strings.CutPrefix(comment, schemaComment); ok && version != strconv.Itoa(schemaVersion) {
		return nil, t.schemaError("its comment says schema " + strconv.Quote(version) + ", and this release knows " + strconv.Itoa(schemaVersion))
	}
	if err := t.checkColumns(ctx, db, oid); err != nil {
		return nil, err
	}
	found, err := indexKeys(ctx, db, oid)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(found, "unique key") {
		return nil, t.schemaError("it has no primary key on key")
	}
	var missing []step
	for _, index := range indexes {
		if !slices.Contains(found, index.makes) {
			missing = append(missing, index)
		}
	}
	return missing, nil
}

func (t *Table) schemaError(difference string) error {
	return fmt.Errorf("%w: %s: %s", rows.ErrSchema, t.config.Name, difference)
}

// checkColumns compares the table's columns with those that Schema makes.
func (t *Table) checkColumns(ctx context.Context, db querier, oid uint32) error {
	const (
		required  = " not null"
		generated = " generated"
	)
	want := make(map[string]string, len(tableColumns))
	for _, c := range tableColumns {
		kind := strings.Replace(c.kind, "timestamptz", "timestamp with time zone", 1)
		switch c.constraint {
		case "":
		case generatedHour:
			kind += generated
		default:
			kind += required
		}
		want[c.name] = kind
	}
	result, err := db.Query(ctx, `
		SELECT attname::text,
			format_type(atttypid, atttypmod) || CASE WHEN attnotnull THEN $2::text ELSE '' END
				|| CASE WHEN attgenerated <> '' OR attidentity = 'a' THEN $3::text ELSE '' END
				|| CASE WHEN attgenerated <> '' AND attname = 'expires_hour' AND replace(pg_get_expr(d.adbin, d.adrelid), '"', '') NOT LIKE 'date_bin(%expires_at%' THEN ' by another expression' ELSE '' END,
			attnotnull AND NOT atthasdef AND attidentity = ''
		FROM pg_attribute
		LEFT JOIN pg_attrdef AS d ON d.adrelid = attrelid AND d.adnum = attnum
		WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped
		ORDER BY attnum`, oid, required, generated)
	if err != nil {
		return err
	}
	var (
		name, found string
		mustBeSet   bool
		differences []string
	)
	_, err = pgx.ForEachRow(result, []any{&name, &found, &mustBeSet}, func() error {
		expected, ours := want[name]
		found = unquoted(found)
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
	if len(differences) == 0 {
		return nil
	}
	slices.Sort(differences)
	difference := strings.Join(differences, "; ")
	if _, isMissing := want["key"]; isMissing {
		difference = "it seems to be another library's table, so give the store one of its own with WithTable: " + difference
	}
	return t.schemaError(difference)
}

// indexKeys returns what the table's usable indexes are on, as ddl names them. A deferred unique
// index cannot serve ON CONFLICT. The setting quote_all_identifiers quotes the names.
func indexKeys(ctx context.Context, db querier, oid uint32) ([]string, error) {
	result, err := db.Query(ctx, `
		SELECT replace(CASE WHEN i.indisunique AND i.indimmediate THEN 'unique ' ELSE '' END
			|| (SELECT string_agg(pg_get_indexdef(i.indexrelid, n, true)
					|| CASE WHEN i.indoption[n - 1] & 1 = 1 THEN ' DESC' ELSE '' END, ', ' ORDER BY n)
				FROM generate_series(1, i.indnkeyatts) AS n)
			|| coalesce(' WHERE ' || pg_get_expr(i.indpred, i.indrelid), ''), '"', '')
		FROM pg_index AS i
		JOIN pg_class AS c ON c.oid = i.indexrelid
		JOIN pg_am AS a ON a.oid = c.relam
		WHERE i.indrelid = $1 AND i.indisvalid AND a.amname = 'btree'`, oid)
	if err != nil {
		return nil, err
	}
	keys, err := pgx.CollectRows(result, pgx.RowTo[string])
	for i := range keys {
		keys[i] = unquoted(keys[i])
	}
	return keys, err
}

// unquoted returns what the server says of a table as it says it without the setting
// quote_all_identifiers.
func unquoted(definition string) string { return strings.ReplaceAll(definition, `"`, "") }
