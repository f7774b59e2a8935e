package pgsession_test

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
)

// catalog describes what the server knows of a table, line by line.
func catalog(t testing.TB, pool *pgxpool.Pool, table string) []string {
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

// wantCatalog is what users upgrade from: a change to it needs a new schema version.
var wantCatalog = []string{
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

// exercise calls every operation on a table that holds no session, alone and in
// company.
func exercise(t testing.TB, s *pgsession.Store) {
	t.Helper()
	ctx := t.Context()
	created, err := s.Create(ctx, ann(1), time.Hour)
	require.NoError(t, err)
	id := created.ID
	require.NoError(t, s.Save(ctx, id, ann(2), time.Hour))
	require.NoError(t, second(s.Update(ctx, at(id), time.Hour, keep(3))))
	require.NoError(t, second(s.Touch(ctx, at(id), 2*time.Hour)))
	next, put := pgsession.NewID(), pgsession.DeriveID("a framework's token")
	require.NoError(t, s.Cycle(ctx, id, next, ann(4), time.Hour))
	require.NoError(t, s.Put(ctx, put, ann(5), time.Hour))
	require.ErrorIs(t, second(s.Load(ctx, id)), pgsession.ErrRevoked)
	session, err := s.Renew(ctx, at(next), 0, login(ann(6)))
	require.NoError(t, err)
	loaded, err := s.Load(ctx, session.ID)
	require.NoError(t, err)
	require.Equal(t, 6, decode[int](t, loaded))
	as := pgsession.DeriveID("another token")
	require.NoError(t, second(s.CreateAs(ctx, as, ann(7), time.Hour)))
	require.ErrorIs(t, second(s.CreateAs(ctx, as, ann(7), time.Hour)), pgsession.ErrExists)
	require.NoError(t, s.Delete(ctx, as))
	found, err := s.FindByUser(ctx, "ann", 0)
	require.NoError(t, err)
	require.Len(t, found, 2)
	require.NoError(t, s.Revoke(ctx, "ann", session.Handle))
	require.NoError(t, s.RevokeAny(ctx, put.Handle()))
	require.ErrorIs(t, s.Put(ctx, put, ann(6), time.Hour), pgsession.ErrRevoked)

	require.NoError(t, s.KeyValue().Put(ctx, "state", []byte("value"), time.Hour))
	value, err := s.KeyValue().Get(ctx, "state")
	require.NoError(t, err)
	require.Equal(t, "value", string(value))
	value, err = s.KeyValue().Take(ctx, "state")
	require.NoError(t, err)
	require.Equal(t, "value", string(value))
	require.NoError(t, s.KeyValue().Delete(ctx, "state"))

	// More than there are places, so that some share statements.
	var company sync.WaitGroup
	for i := range 24 {
		company.Go(func() {
			id := pgsession.DeriveID(fmt.Sprint("token ", i))
			for name, run := range map[string]func() error{
				"put": func() error { return s.Put(ctx, id, ann(i), time.Hour) },
				"touch": func() error {
					return cmp.Or(second(s.Touch(ctx, at(id), 3*time.Hour)), second(s.Touch(ctx, at(id), 3*time.Hour)))
				},
				"save": func() error { return s.Save(ctx, id, ann(i), 4*time.Hour) },
				"load": func() error { return second(s.Load(ctx, id)) },
			} {
				err := s.Put(ctx, id, ann(i), time.Hour)
				if err == nil {
					err = run()
				}
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			if i%2 == 0 {
				if err := s.Delete(ctx, id); err != nil {
					t.Error(err)
				}
			}
		})
	}
	company.Wait()
	count := 0
	for _, err := range s.All(ctx) {
		require.NoError(t, err)
		count++
	}
	require.Equal(t, 12, count)
	ended, err := s.DeleteByUser(ctx, "ann", pgsession.DeriveID("token 1").Handle())
	require.NoError(t, err)
	require.EqualValues(t, 11, ended)
	ended, err = s.DeleteAll(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 1, ended)
	require.NoError(t, second(s.CleanupExpired(ctx)))
	require.NoError(t, second(s.Reseal(ctx)))
	require.NoError(t, s.Check(ctx))
}

func TestStore_Init(t *testing.T) {
	t.Parallel()
	pool, _ := pgtest.Schema(t)
	s := storeOn(pool)
	for range 3 {
		require.NoError(t, s.Init(t.Context()))
		require.Equal(t, wantCatalog, catalog(t, pool, "sessions"))
	}
	exercise(t, s)
	require.NoError(t, pgsession.Plaintext(pool, quiet()).Init(t.Context()))
	require.Equal(t, wantCatalog, catalog(t, pool, "sessions"))
}

func TestStore_Init_ManyNodes(t *testing.T) {
	t.Parallel()
	for name, params := range map[string]map[string]string{
		"read committed": {},
		"serializable":   {"default_transaction_isolation": "serializable"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, schema := pgtest.Schema(t)
			const nodes, rounds = 10, 15
			var pools [nodes]*pgxpool.Pool
			for i := range pools {
				pools[i] = nodePool(t, schema, params)
				require.NoError(t, pools[i].Ping(t.Context()))
			}
			for round := range rounds {
				table := fmt.Sprint("sessions_", round)
				if round%3 == 2 { // another beginning: the table without its indexes
					table = fmt.Sprint("sessions_", round-1)
					runScript(t, pool, `DROP INDEX `+table+`_expires_hour_idx, `+table+`_user_key_created_at_idx`)
				}
				var errs [nodes]error
				var starting sync.WaitGroup
				gate := make(chan struct{})
				for i, node := range pools {
					s := storeOn(node, pgsession.WithTable(table))
					starting.Go(func() {
						<-gate
						errs[i] = s.Init(t.Context())
					})
				}
				close(gate)
				starting.Wait()
				for _, err := range errs {
					require.NoError(t, err)
				}
				want := strings.Split(strings.ReplaceAll(strings.Join(wantCatalog, "\n"), "sessions_", table+"_"), "\n")
				for i := range want {
					want[i] = strings.ReplaceAll(want[i], " ON sessions ", " ON "+table+" ")
				}
				require.Equal(t, want, catalog(t, pool, table))
			}
		})
	}
}

func TestWithTable(t *testing.T) {
	t.Parallel()
	pool, own := pgtest.Schema(t)
	strangeSchema := `My "Web" schéma ` + rand.Text()
	longSchema := (rand.Text() + strings.Repeat("s", 63))[:63]
	for _, schema := range []string{strangeSchema, longSchema} {
		runScript(t, pool, `CREATE SCHEMA `+pgx.Identifier{schema}.Sanitize())
		t.Cleanup(func() {
			_, err := pool.Exec(context.Background(), `DROP SCHEMA `+pgx.Identifier{schema}.Sanitize()+` CASCADE`)
			require.NoError(t, err)
		})
	}
	for name, table := range map[string]string{
		"capitals":                    "Sessions",
		"blanks":                      " web  sessions ",
		"double quotes":               `"sessions"`,
		"one double quote":            `sess"ions`,
		"single quotes":               `it's`,
		"unicode":                     "séances 日本 🦉",
		"keyword select":              "select",
		"keyword user":                "user",
		"keyword table":               "table",
		"63 bytes":                    strings.Repeat("x", 63),
		"63 bytes of unicode":         strings.Repeat("é", 31) + "x",
		"parameter":                   "$1",
		"backslash":                   `back\slash`,
		"line break":                  "line\nbreak",
		"comment":                     "sessions--",
		"injection":                   `x"; DROP TABLE y; --`,
		"braces":                      "{columns}{sessions}",
		"percent":                     "100%",
		"verb":                        "%d%s%[3]v",
		"the alias":                   "s",
		"schema":                      own + ".qualified",
		"strange schema":              strangeSchema + ".Les sessions",
		"schema and table of 63":      longSchema + "." + strings.Repeat("t", 63),
		"named as a row set, held":    "pgsession_held",
		"named as a row set, touched": "touched",
		"named as a row set, new":     "new",
		"named as a row set, one":     "one",
	} {
		t.Run(name, func(t *testing.T) {
			s := storeOn(pool, pgsession.WithTable(table))
			require.NoError(t, s.Init(t.Context()))
			require.NoError(t, s.Init(t.Context()))
			exercise(t, s)
			var found string
			schema, relation := own, table
			if before, after, ok := strings.Cut(table, "."); ok {
				schema, relation = before, after
			}
			require.NoError(t, pool.QueryRow(t.Context(), `SELECT tablename FROM pg_tables WHERE schemaname = $1 AND tablename = $2`,
				schema, relation).Scan(&found), "the table has the very name")
		})
	}
}

func TestWithTable_Panics(t *testing.T) {
	t.Parallel()
	pool, crypto := pgtest.Pool(t), newCrypto(t, testKey)
	for name, table := range map[string]string{
		"three parts": "a.b.c", "empty": "", "two empty parts": ".", "empty schema": ".sessions", "empty table": "web.",
		"64 bytes": strings.Repeat("x", 64), "64 bytes of unicode": strings.Repeat("é", 32), "long schema": strings.Repeat("x", 64) + ".sessions",
		"NUL": "sess\x00ions", "NUL in the schema": "\x00.sessions",
	} {
		require.Panics(t, func() { pgsession.New(pool, crypto, pgsession.WithTable(table)) }, name)
		require.Panics(t, func() { pgsession.Schema(table) }, name)
	}
}

// TestStore_Init_Grants has the application run under a role that may not create.
func TestStore_Init_Grants(t *testing.T) {
	t.Parallel()
	requireDenied := func(t *testing.T, err error, what string) {
		t.Helper()
		var refusal *pgconn.PgError
		require.ErrorAs(t, err, &refusal)
		require.Equal(t, "42501", refusal.Code)
		require.NotErrorIs(t, err, pgsession.ErrSchema)
		require.True(t, strings.HasPrefix(err.Error(), "pgsession: init: "), err)
		require.Contains(t, err.Error(), what)
	}
	t.Run("OK", func(t *testing.T) {
		t.Parallel()
		pool, schema := pgtest.Schema(t)
		require.NoError(t, storeOn(pool).Init(t.Context()))
		role, params := newRole(t, pool, schema)
		runScript(t, pool, `GRANT SELECT, INSERT, UPDATE, DELETE ON sessions TO `+role)
		s := storeOn(nodePool(t, schema, params))
		require.NoError(t, s.Init(t.Context()))
		exercise(t, s)
		require.Equal(t, wantCatalog, catalog(t, pool, "sessions"))
	})
	for _, privilege := range []string{"SELECT", "INSERT", "UPDATE"} {
		t.Run("no "+privilege, func(t *testing.T) {
			t.Parallel()
			pool, schema := pgtest.Schema(t)
			require.NoError(t, storeOn(pool).Init(t.Context()))
			role, params := newRole(t, pool, schema)
			runScript(t, pool, `GRANT SELECT, INSERT, UPDATE, DELETE ON sessions TO `+role+`; REVOKE `+privilege+` ON sessions FROM `+role)
			err := storeOn(nodePool(t, schema, params)).Init(t.Context())
			require.ErrorIs(t, err, pgsession.ErrSchema)
			require.ErrorContains(t, err, "lacks the privilege "+privilege+" on the table")
		})
	}
	t.Run("no table", func(t *testing.T) {
		t.Parallel()
		pool, schema := pgtest.Schema(t)
		_, params := newRole(t, pool, schema)
		requireDenied(t, storeOn(nodePool(t, schema, params)).Init(t.Context()), "create table")
	})
	t.Run("no index", func(t *testing.T) {
		t.Parallel()
		pool, schema := pgtest.Schema(t)
		require.NoError(t, storeOn(pool).Init(t.Context()))
		role, params := newRole(t, pool, schema)
		runScript(t, pool, `GRANT ALL ON sessions TO `+role+`; DROP INDEX sessions_expires_hour_idx`)
		requireDenied(t, storeOn(nodePool(t, schema, params)).Init(t.Context()), "expires_hour")
		require.NoError(t, storeOn(pool).Init(t.Context()), "the owner's Init mends it")
		require.NoError(t, storeOn(nodePool(t, schema, params)).Init(t.Context()))
	})
	t.Run("no schema", func(t *testing.T) {
		t.Parallel()
		pool, _ := pgtest.Schema(t)
		err := storeOn(pool, pgsession.WithTable("no_such_schema.sessions")).Init(t.Context())
		var refusal *pgconn.PgError
		require.ErrorAs(t, err, &refusal)
		require.Equal(t, "3F000", refusal.Code)
	})
	t.Run("no use of the schema", func(t *testing.T) {
		t.Parallel()
		pool, schema := pgtest.Schema(t)
		require.NoError(t, storeOn(pool).Init(t.Context()))
		role, params := newRole(t, pool, schema)
		runScript(t, pool, `REVOKE USAGE ON SCHEMA `+schema+` FROM `+role)
		requireDenied(t, storeOn(nodePool(t, schema, params), pgsession.WithTable(schema+".sessions")).Init(t.Context()), schema)
	})
}

func TestStore_Init_ErrSchema(t *testing.T) {
	t.Parallel()
	type difference struct{ sql, want string }
	tests := map[string]difference{
		"somebody else's": {`DROP TABLE sessions; CREATE TABLE sessions (id serial PRIMARY KEY, data text, sess json NOT NULL)`,
			"so give the store one of its own with WithTable: column created_at is missing; column data is text, where it should be jsonb; column ends_at is missing; column expires_at is missing; " +
				"column expires_hour is missing; column idle_timeout is missing; column key is missing; column sealed is missing; " +
				"column sess is not ours, and must be set; column user_key is missing; column version is missing"},
		"no columns": {`DROP TABLE sessions; CREATE TABLE sessions ()`, "column key is missing"},
		"precision":  {`ALTER TABLE sessions DROP expires_hour, ALTER expires_at TYPE timestamptz(3)`, "column expires_at is timestamp(3) with time zone not null, where"},
		"expires_hour not generated": {`ALTER TABLE sessions ALTER expires_hour DROP EXPRESSION`,
			"column expires_hour is timestamp with time zone, where it should be timestamp with time zone generated"},
		"expires_hour not generated, and NOT NULL": {`ALTER TABLE sessions ALTER expires_hour DROP EXPRESSION, ALTER expires_hour SET NOT NULL`,
			"column expires_hour is timestamp with time zone not null, where it should be timestamp with time zone generated"},
		"expires_hour of a wrong type": {`ALTER TABLE sessions DROP expires_hour, ADD expires_hour bigint GENERATED ALWAYS AS (version / 2) STORED`,
			"column expires_hour is bigint generated by another expression, where it should be timestamp with time zone generated"},
		"expires_hour of another expression": {`ALTER TABLE sessions DROP expires_hour, ADD expires_hour timestamptz GENERATED ALWAYS AS (expires_at) STORED`,
			"column expires_hour is timestamp with time zone generated by another expression, where it should be timestamp with time zone generated"},
		"before ends_at and idle_timeout": {`ALTER TABLE sessions DROP ends_at, DROP idle_timeout`, "column ends_at is missing; column idle_timeout is missing"},
		"expires_at generated": {`ALTER TABLE sessions DROP expires_at CASCADE; ALTER TABLE sessions ADD expires_at timestamptz NOT NULL GENERATED ALWAYS AS (created_at) STORED`,
			"column expires_at is timestamp with time zone not null generated, where"},
		"foreign NOT NULL column": {`ALTER TABLE sessions ADD tenant text NOT NULL`, "column tenant is not ours, and must be set"},
		"no primary key":          {`ALTER TABLE sessions DROP CONSTRAINT sessions_pkey`, "it has no primary key on key"},
		"deferrable primary key": {`ALTER TABLE sessions DROP CONSTRAINT sessions_pkey, ADD PRIMARY KEY (key) DEFERRABLE INITIALLY DEFERRED`,
			"it has no primary key on key"},
		"primary key of two columns": {`ALTER TABLE sessions DROP CONSTRAINT sessions_pkey, ADD PRIMARY KEY (key, created_at)`, "it has no primary key on key"},
		"partial unique index": {`ALTER TABLE sessions DROP CONSTRAINT sessions_pkey; ALTER TABLE sessions ALTER key SET NOT NULL;
			CREATE UNIQUE INDEX ON sessions (key) WHERE sealed IS NOT NULL`, "it has no primary key on key"},
		"nullable key": {`ALTER TABLE sessions DROP CONSTRAINT sessions_pkey; ALTER TABLE sessions ALTER key DROP NOT NULL, ADD UNIQUE (key)`,
			"column key is bytea, where it should be bytea not null"},
		"view":              {`ALTER TABLE sessions RENAME TO t; CREATE VIEW sessions AS SELECT * FROM t`, "it is not a table"},
		"materialized view": {`ALTER TABLE sessions RENAME TO t; CREATE MATERIALIZED VIEW sessions AS SELECT * FROM t`, "it is not a table"},
		"sequence":          {`DROP TABLE sessions; CREATE SEQUENCE sessions`, "it is not a table"},
		"type":              {`DROP TABLE sessions; CREATE TYPE sessions AS (key bytea)`, "it is not a table"},
		"newer schema":      {`COMMENT ON TABLE sessions IS 'pgsession schema 2'`, `its comment says schema "2", and this release knows 1`},
		"schema 10":         {`COMMENT ON TABLE sessions IS 'pgsession schema 10'`, `its comment says schema "10"`},
		"schema without a number": {`COMMENT ON TABLE sessions IS 'pgsession schema '`,
			`its comment says schema ""`},
	}
	for column, wrong := range map[string]struct{ wrongType, found, want string }{
		"key":          {"text USING ''", "text not null", "bytea not null"},
		"user_key":     {"text USING ''", "text", "bytea"},
		"data":         {"json", "json", "jsonb"},
		"sealed":       {"text USING ''", "text", "bytea"},
		"version":      {"integer", "integer not null", "bigint not null"},
		"created_at":   {"timestamp", "timestamp without time zone not null", "timestamp with time zone not null"},
		"expires_at":   {"date", "date not null", "timestamp with time zone not null"},
		"ends_at":      {"timestamp", "timestamp without time zone", "timestamp with time zone"},
		"idle_timeout": {"bigint USING 0", "bigint not null", "interval not null"},
		"expires_hour": {"", "", "timestamp with time zone generated"},
	} {
		tests[column+" missing"] = difference{`ALTER TABLE sessions DROP ` + column + ` CASCADE`, "column " + column + " is missing"}
		tests[column+" renamed"] = difference{`ALTER TABLE sessions RENAME ` + column + ` TO "` + strings.ToUpper(column) + `"`, "column " + column + " is missing"}
		if column == "expires_hour" { // see above
			continue
		}
		before := ""
		if column == "expires_at" {
			before = `ALTER TABLE sessions DROP expires_hour; `
		}
		tests[column+" of a wrong type"] = difference{
			before + `ALTER TABLE sessions ALTER ` + column + ` TYPE ` + wrong.wrongType,
			"column " + column + " is " + wrong.found + ", where it should be " + wrong.want,
		}
		if !strings.HasSuffix(wrong.want, "not null") {
			tests[column+" NOT NULL"] = difference{`ALTER TABLE sessions ALTER ` + column + ` SET NOT NULL`, "column " + column + " is " + wrong.want + " not null, where it should be " + wrong.want}
		} else if column != "key" {
			tests[column+" nullable"] = difference{`ALTER TABLE sessions ALTER ` + column + ` DROP NOT NULL`,
				"column " + column + " is " + strings.TrimSuffix(wrong.want, " not null") + ", where it should be " + wrong.want}
		}
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, _ := pgtest.Schema(t)
			s := storeOn(pool)
			require.NoError(t, s.Init(t.Context()))
			runScript(t, pool, test.sql)
			before := catalog(t, pool, "sessions")
			err := s.Init(t.Context())
			require.ErrorIs(t, err, pgsession.ErrSchema)
			require.True(t, strings.HasPrefix(err.Error(), "pgsession: unexpected table: sessions: "), err)
			require.Contains(t, err.Error(), test.want)
			require.Equal(t, before, catalog(t, pool, "sessions"), "it is left as it was")
		})
	}
	t.Run("foreign table", func(t *testing.T) {
		t.Parallel()
		pool, schema := pgtest.Schema(t)
		runScript(t, pool, fmt.Sprintf(`CREATE FOREIGN DATA WRAPPER %[1]s; CREATE SERVER %[1]s FOREIGN DATA WRAPPER %[1]s;
			CREATE FOREIGN TABLE sessions (key bytea) SERVER %[1]s`, schema))
		t.Cleanup(func() {
			_, err := pool.Exec(context.Background(), `DROP FOREIGN DATA WRAPPER `+schema+` CASCADE`)
			require.NoError(t, err)
		})
		err := storeOn(pool).Init(t.Context())
		require.ErrorIs(t, err, pgsession.ErrSchema)
		require.Contains(t, err.Error(), "it is not a table")
	})
}

// TestStore_Init_Harmless changes the table in ways that do no harm: Init accepts it,
// changes nothing, and every operation works.
func TestStore_Init_Harmless(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string]string{
		"no comment":             `COMMENT ON TABLE sessions IS NULL`,
		"another comment":        `COMMENT ON TABLE sessions IS 'whoever asks: ask the web team'`,
		"nullable column":        `ALTER TABLE sessions ADD tenant text`,
		"column with a default":  `ALTER TABLE sessions ADD tenant text NOT NULL DEFAULT 'ours'`,
		"identity column":        `ALTER TABLE sessions ADD serial bigint NOT NULL GENERATED ALWAYS AS IDENTITY`,
		"generated column":       `ALTER TABLE sessions ADD handle text NOT NULL GENERATED ALWAYS AS (encode(key, 'hex')) STORED`,
		"dropped foreign column": `ALTER TABLE sessions ADD tenant text NOT NULL; ALTER TABLE sessions DROP tenant`,
		"dropped column of ours": `ALTER TABLE sessions DROP data; ALTER TABLE sessions ADD data jsonb`,
		"another index":          `CREATE INDEX ON sessions (created_at)`,
		"a hash index":           `CREATE INDEX ON sessions USING hash (key)`,
		"renamed indexes": `ALTER INDEX sessions_expires_hour_idx RENAME TO mine; ALTER INDEX sessions_user_key_created_at_idx RENAME TO "Mine too";
			ALTER INDEX sessions_pkey RENAME TO key`,
		"another fillfactor":          `ALTER TABLE sessions SET (fillfactor = 50)`,
		"another storage":             `ALTER TABLE sessions ALTER sealed SET STORAGE MAIN`,
		"unlogged":                    `ALTER TABLE sessions SET UNLOGGED`,
		"unique index for a key":      `ALTER TABLE sessions DROP CONSTRAINT sessions_pkey; ALTER TABLE sessions ALTER key SET NOT NULL, ADD UNIQUE (key)`,
		"unique index with a payload": `ALTER TABLE sessions DROP CONSTRAINT sessions_pkey, ADD PRIMARY KEY (key) INCLUDE (version)`,
		"partitioned": `DROP TABLE sessions;
			CREATE TABLE sessions (key bytea PRIMARY KEY, user_key bytea, data jsonb, sealed bytea, version bigint NOT NULL,
				created_at timestamptz NOT NULL, expires_at timestamptz NOT NULL, ends_at timestamptz, idle_timeout interval NOT NULL,
				expires_hour timestamptz GENERATED ALWAYS AS (date_bin('1 hour', expires_at, '2000-01-01 00:00+00')) STORED) PARTITION BY HASH (key);
			CREATE TABLE one PARTITION OF sessions FOR VALUES WITH (MODULUS 2, REMAINDER 0);
			CREATE TABLE two PARTITION OF sessions FOR VALUES WITH (MODULUS 2, REMAINDER 1);
			CREATE INDEX ON sessions (expires_hour);
			CREATE INDEX ON sessions (user_key, created_at DESC) WHERE user_key IS NOT NULL`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, _ := pgtest.Schema(t)
			require.NoError(t, storeOn(pool).Init(t.Context()))
			runScript(t, pool, sql)
			before := catalog(t, pool, "sessions")
			s := storeOn(pool)
			require.NoError(t, s.Init(t.Context()))
			require.Equal(t, before, catalog(t, pool, "sessions"))
			exercise(t, s)
		})
	}
}

func TestStore_Init_CreatesMissingIndex(t *testing.T) {
	t.Parallel()
	const (
		hour = "CREATE INDEX sessions_expires_hour_idx ON sessions USING btree (expires_hour)"
		user = "CREATE INDEX sessions_user_key_created_at_idx ON sessions USING btree (user_key, created_at DESC) WHERE (user_key IS NOT NULL)"
	)
	for name, test := range map[string]struct {
		sql  string
		want []string
	}{
		"the hour's":       {`DROP INDEX sessions_expires_hour_idx`, []string{hour}},
		"the user's":       {`DROP INDEX sessions_user_key_created_at_idx`, []string{user}},
		"both":             {`DROP INDEX sessions_user_key_created_at_idx, sessions_expires_hour_idx`, []string{hour, user}},
		"ascending":        {`DROP INDEX sessions_user_key_created_at_idx; CREATE INDEX i ON sessions (user_key, created_at)`, []string{user}},
		"in another order": {`DROP INDEX sessions_user_key_created_at_idx; CREATE INDEX i ON sessions (created_at DESC, user_key)`, []string{user}},
		"one column more":  {`DROP INDEX sessions_expires_hour_idx; CREATE INDEX i ON sessions (expires_hour, key)`, []string{hour}},
		"an expression":    {`DROP INDEX sessions_expires_hour_idx; CREATE INDEX i ON sessions ((expires_hour AT TIME ZONE 'UTC'))`, []string{hour}},
		"unique":           {`DROP INDEX sessions_expires_hour_idx; CREATE UNIQUE INDEX i ON sessions (expires_hour, version)`, []string{hour}},
		"partial":          {`DROP INDEX sessions_expires_hour_idx; CREATE INDEX i ON sessions (expires_hour) WHERE sealed IS NOT NULL`, []string{hour}},
		"a partial user's": {`DROP INDEX sessions_user_key_created_at_idx; CREATE INDEX i ON sessions (user_key, created_at DESC) WHERE data IS NOT NULL`, []string{user}},
		"of a hash":        {`DROP INDEX sessions_expires_hour_idx; CREATE INDEX i ON sessions USING hash (expires_hour)`, []string{hour}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, _ := pgtest.Schema(t)
			s := storeOn(pool)
			require.NoError(t, s.Init(t.Context()))
			runScript(t, pool, test.sql)
			for _, index := range test.want {
				require.NotContains(t, catalog(t, pool, "sessions"), index)
			}
			require.NoError(t, s.Init(t.Context()))
			after := catalog(t, pool, "sessions")
			require.Subset(t, after, test.want)
			require.NoError(t, s.Init(t.Context()))
			require.Equal(t, after, catalog(t, pool, "sessions"), "once")
		})
	}
}

// TestStore_Init_InvalidIndex cancels a CREATE INDEX CONCURRENTLY, which leaves an
// index that no query uses.
func TestStore_Init_InvalidIndex(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	ctx := t.Context()
	runScript(t, s.pool, `DROP INDEX sessions_expires_hour_idx`)
	writer := s.hold(t, `DELETE FROM sessions`)
	conn, err := s.pool.Acquire(ctx)
	require.NoError(t, err)
	defer conn.Release()
	_, err = conn.Exec(ctx, `SET lock_timeout = '10ms'`)
	require.NoError(t, err)
	_, err = conn.Exec(ctx, `CREATE INDEX CONCURRENTLY half_built ON sessions (expires_hour)`)
	var cancelled *pgconn.PgError
	require.ErrorAs(t, err, &cancelled)
	require.Equal(t, "55P03", cancelled.Code)
	writer.release(t)
	require.Contains(t, catalog(t, s.pool, "sessions"), "CREATE INDEX half_built ON sessions USING btree (expires_hour) invalid")

	require.NoError(t, s.Init(ctx))
	require.Contains(t, catalog(t, s.pool, "sessions"), "CREATE INDEX sessions_expires_hour_idx ON sessions USING btree (expires_hour)")
}

// TestStore_Init_RowLevelSecurity has policies hide rows: what is hidden would look absent, and ending it
// would seem to work.
func TestStore_Init_RowLevelSecurity(t *testing.T) {
	t.Parallel()
	pool, schema := pgtest.Schema(t)
	require.NoError(t, storeOn(pool).Init(t.Context()))
	role, params := newRole(t, pool, schema)
	runScript(t, pool, `GRANT ALL ON sessions TO `+role+`; ALTER TABLE sessions ENABLE ROW LEVEL SECURITY`)
	require.NoError(t, storeOn(pool).Init(t.Context()), "the owner sees all rows")
	err := storeOn(nodePool(t, schema, params)).Init(t.Context())
	require.ErrorIs(t, err, pgsession.ErrSchema)
	require.ErrorContains(t, err, "row level security")
}

func TestStore_Init_Defaults(t *testing.T) {
	t.Parallel()
	for name, params := range map[string]map[string]string{
		"serializable":    {"default_transaction_isolation": "serializable"},
		"repeatable read": {"default_transaction_isolation": "repeatable read"},
		"read-only":       {"default_transaction_read_only": "on"},
		"both":            {"default_transaction_isolation": "serializable", "default_transaction_read_only": "on"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, schema := pgtest.Schema(t)
			s := storeOn(nodePool(t, schema, params))
			require.NoError(t, s.Init(t.Context()))
			require.NoError(t, s.Init(t.Context()))
			require.Equal(t, wantCatalog, catalog(t, pool, "sessions"))
			if params["default_transaction_read_only"] == "" {
				exercise(t, s)
			}
		})
	}
}

// TestSchema applies the DDL as a migration tool does, with psql.
func TestSchema(t *testing.T) {
	t.Parallel()
	program := findPsql(t)
	for name, table := range map[string]string{"plain": "sessions", "strange": `My "Web" sessions; $1 {sessions}`} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, schema := pgtest.Schema(t)
			psql := exec.CommandContext(t.Context(), program, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", pool.Config().ConnString())
			psql.Env = append(os.Environ(), "PGOPTIONS=--search_path="+schema)
			psql.Stdin = strings.NewReader(pgsession.Schema(table))
			output, err := psql.CombinedOutput()
			require.NoError(t, err, string(output))
			require.Empty(t, output)
			bySchema := catalog(t, pool, table)

			role, params := newRole(t, pool, schema)
			runScript(t, pool, `GRANT SELECT, INSERT, UPDATE, DELETE ON `+pgx.Identifier{table}.Sanitize()+` TO `+role)
			s := storeOn(nodePool(t, schema, params), pgsession.WithTable(table))
			require.NoError(t, s.Init(t.Context()), "nothing is missing, not even for a role that may not create")
			exercise(t, s)
			require.Equal(t, bySchema, catalog(t, pool, table))

			other, _ := pgtest.Schema(t)
			require.NoError(t, storeOn(other, pgsession.WithTable(table)).Init(t.Context()))
			require.Equal(t, catalog(t, other, table), bySchema, "Init makes the same")
			if table == "sessions" {
				require.Equal(t, wantCatalog, bySchema)
			}
		})
	}
}

// findPsql looks where pgtest looks for the server.
func findPsql(t testing.TB) string {
	t.Helper()
	pgtest.RequireBinaries(t)
	if folder := os.Getenv("PGSESSION_PG_BIN"); folder != "" {
		return filepath.Join(folder, "psql")
	}
	if program, err := exec.LookPath("psql"); err == nil {
		return program
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin/psql", "/usr/local/opt/postgresql*/bin/psql", "/opt/homebrew/opt/postgresql*/bin/psql",
		"/usr/pgsql-*/bin/psql", "/usr/libexec/postgresql*/psql",
	} {
		if found, err := filepath.Glob(pattern); err == nil && len(found) > 0 {
			return found[len(found)-1]
		}
	}
	require.FailNow(t, "there is a server's initdb on this machine, and no psql")
	return ""
}
