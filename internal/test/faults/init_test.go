package faults_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/test"
)

// What Init logs.
const (
	warnsOfKeys  = "pgsession: none of the sessions that were looked at opens"
	warnsOfClock = "pgsession: " + test.IsSkewed
)

// TestInit_Warns of what would do damage later.
func TestInit_Warns(t *testing.T) {
	t.Parallel()
	s := test.NewStore(t, pgsession.WithClock(pgsession.SystemClock{}))
	wrong, clock := test.NewCrypto(t, pgsession.GenerateKey()), pgsession.WithClock(pgsession.SystemClock{})
	requireWarnings := func(crypto *pgsession.Crypto, clock pgsession.Option, messages ...string) {
		t.Helper()
		log := test.NewRecorder()
		require.NoError(t, pgsession.New(s.Pool, crypto, clock, pgsession.WithLogger(slog.New(log))).Init(t.Context()))
		require.Len(t, log, len(messages))
		for _, message := range messages {
			record := <-log
			require.Equal(t, slog.LevelWarn, record.Level)
			require.Contains(t, record.Message, message)
		}
	}
	requireWarnings(wrong, clock) // of an empty table
	s.Ended(t)
	requireWarnings(wrong, clock) // a tombstone needs no key
	for range 120 {
		s.Begin(t, test.Ann(1), time.Hour)
	}
	requireWarnings(test.NewCrypto(t, test.Key), clock)
	requireWarnings(test.NewCrypto(t, test.OtherKey, test.Key), clock)
	requireWarnings(wrong, clock, warnsOfKeys)
	for _, ahead := range []time.Duration{10 * time.Second, -10 * time.Second, 24 * time.Hour} {
		requireWarnings(test.NewCrypto(t, test.Key), pgsession.WithClock(test.Shifted(ahead)), warnsOfClock)
	}
	requireWarnings(test.NewCrypto(t, test.Key), pgsession.WithClock(test.Shifted(4*time.Second)))
	requireWarnings(wrong, pgsession.WithClock(test.Shifted(10*time.Second)), warnsOfClock, warnsOfKeys)

	// Of those that are looked at, one opens: a rotation, and not a wrong key.
	require.NoError(t, test.Err(s.DeleteAll(t.Context())))
	s.Begin(t, test.Ann(1), time.Hour)
	require.NoError(t, test.Err(pgsession.New(s.Pool, wrong, clock).Create(t.Context(), test.Ann(1), time.Hour)))
	requireWarnings(wrong, clock)
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
		require.NoError(t, test.Open(pool).Init(t.Context()))
		role, params := test.NewRole(t, pool, schema)
		test.RunScript(t, pool, `GRANT SELECT, INSERT, UPDATE, DELETE ON sessions TO `+role)
		node := test.NodePool(t, schema, params)
		s := test.Open(node)
		require.NoError(t, s.Init(t.Context()))
		test.Exercise(t, &test.Store{Store: s, Pool: node}, nil)
		require.Equal(t, test.WantCatalog, test.Catalog(t, pool, "sessions"))
	})
	for _, privilege := range []string{"SELECT", "INSERT", "UPDATE"} {
		t.Run("no "+privilege, func(t *testing.T) {
			t.Parallel()
			pool, schema := pgtest.Schema(t)
			require.NoError(t, test.Open(pool).Init(t.Context()))
			role, params := test.NewRole(t, pool, schema)
			test.RunScript(t, pool, `GRANT SELECT, INSERT, UPDATE, DELETE ON sessions TO `+role+`; REVOKE `+privilege+` ON sessions FROM `+role)
			err := test.Open(test.NodePool(t, schema, params)).Init(t.Context())
			require.ErrorIs(t, err, pgsession.ErrSchema)
			require.ErrorContains(t, err, "lacks the privilege "+privilege+" on the table")
		})
	}
	t.Run("no table", func(t *testing.T) {
		t.Parallel()
		pool, schema := pgtest.Schema(t)
		_, params := test.NewRole(t, pool, schema)
		requireDenied(t, test.Open(test.NodePool(t, schema, params)).Init(t.Context()), "create table")
	})
	t.Run("no index", func(t *testing.T) {
		t.Parallel()
		pool, schema := pgtest.Schema(t)
		require.NoError(t, test.Open(pool).Init(t.Context()))
		role, params := test.NewRole(t, pool, schema)
		test.RunScript(t, pool, `GRANT ALL ON sessions TO `+role+`; DROP INDEX sessions_expires_hour_idx`)
		requireDenied(t, test.Open(test.NodePool(t, schema, params)).Init(t.Context()), "expires_hour")
		require.NoError(t, test.Open(pool).Init(t.Context()), "the owner's Init mends it")
		require.NoError(t, test.Open(test.NodePool(t, schema, params)).Init(t.Context()))
	})
	t.Run("no schema", func(t *testing.T) {
		t.Parallel()
		pool, _ := pgtest.Schema(t)
		err := test.Open(pool, pgsession.WithTable("no_such_schema.sessions")).Init(t.Context())
		var refusal *pgconn.PgError
		require.ErrorAs(t, err, &refusal)
		require.Equal(t, "3F000", refusal.Code)
	})
	t.Run("no use of the schema", func(t *testing.T) {
		t.Parallel()
		pool, schema := pgtest.Schema(t)
		require.NoError(t, test.Open(pool).Init(t.Context()))
		role, params := test.NewRole(t, pool, schema)
		test.RunScript(t, pool, `REVOKE USAGE ON SCHEMA `+schema+` FROM `+role)
		requireDenied(t, test.Open(test.NodePool(t, schema, params), pgsession.WithTable(schema+".sessions")).Init(t.Context()), schema)
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
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, _ := pgtest.Schema(t)
			s := test.Open(pool)
			require.NoError(t, s.Init(t.Context()))
			test.RunScript(t, pool, c.sql)
			before := test.Catalog(t, pool, "sessions")
			err := s.Init(t.Context())
			require.ErrorIs(t, err, pgsession.ErrSchema)
			require.True(t, strings.HasPrefix(err.Error(), "pgsession: unexpected table: sessions: "), err)
			require.Contains(t, err.Error(), c.want)
			require.Equal(t, before, test.Catalog(t, pool, "sessions"), "it is left as it was")
		})
	}
	t.Run("foreign table", func(t *testing.T) {
		t.Parallel()
		pool, schema := pgtest.Schema(t)
		test.RunScript(t, pool, fmt.Sprintf(`CREATE FOREIGN DATA WRAPPER %[1]s; CREATE SERVER %[1]s FOREIGN DATA WRAPPER %[1]s;
			CREATE FOREIGN TABLE sessions (key bytea) SERVER %[1]s`, schema))
		t.Cleanup(func() {
			_, err := pool.Exec(context.Background(), `DROP FOREIGN DATA WRAPPER `+schema+` CASCADE`)
			require.NoError(t, err)
		})
		err := test.Open(pool).Init(t.Context())
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
			require.NoError(t, test.Open(pool).Init(t.Context()))
			test.RunScript(t, pool, sql)
			before := test.Catalog(t, pool, "sessions")
			s := test.Open(pool)
			require.NoError(t, s.Init(t.Context()))
			require.Equal(t, before, test.Catalog(t, pool, "sessions"))
			test.Exercise(t, &test.Store{Store: s, Pool: pool}, nil)
		})
	}
}

func TestStore_Init_CreatesMissingIndex(t *testing.T) {
	t.Parallel()
	const (
		hour = "CREATE INDEX sessions_expires_hour_idx ON sessions USING btree (expires_hour)"
		user = "CREATE INDEX sessions_user_key_created_at_idx ON sessions USING btree (user_key, created_at DESC) WHERE (user_key IS NOT NULL)"
	)
	for name, c := range map[string]struct {
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
			s := test.Open(pool)
			require.NoError(t, s.Init(t.Context()))
			test.RunScript(t, pool, c.sql)
			for _, index := range c.want {
				require.NotContains(t, test.Catalog(t, pool, "sessions"), index)
			}
			require.NoError(t, s.Init(t.Context()))
			after := test.Catalog(t, pool, "sessions")
			require.Subset(t, after, c.want)
			require.NoError(t, s.Init(t.Context()))
			require.Equal(t, after, test.Catalog(t, pool, "sessions"), "once")
		})
	}
}

// TestStore_Init_InvalidIndex cancels a CREATE INDEX CONCURRENTLY, which leaves an
// index that no query uses.
func TestStore_Init_InvalidIndex(t *testing.T) {
	t.Parallel()
	s := test.NewStore(t)
	ctx := t.Context()
	test.RunScript(t, s.Pool, `DROP INDEX sessions_expires_hour_idx`)
	writer := s.Hold(t, `DELETE FROM sessions`)
	building := test.Many(1, func() error {
		_, err := s.Pool.Exec(ctx, `CREATE INDEX CONCURRENTLY half_built ON sessions (expires_hour)`)
		return err
	})
	writer.WaitFor(t, 1)
	s.SQL(t, `SELECT pg_cancel_backend(pid) FROM pg_stat_activity
		WHERE application_name = current_setting('application_name') AND query LIKE '%half_built%' AND pid <> pg_backend_pid()`)
	var cancelled *pgconn.PgError
	require.ErrorAs(t, <-building, &cancelled)
	require.Equal(t, "57014", cancelled.Code)
	writer.Release(t)
	require.Contains(t, test.Catalog(t, s.Pool, "sessions"), "CREATE INDEX half_built ON sessions USING btree (expires_hour) invalid")

	require.NoError(t, s.Init(ctx))
	require.Contains(t, test.Catalog(t, s.Pool, "sessions"), "CREATE INDEX sessions_expires_hour_idx ON sessions USING btree (expires_hour)")
}

// TestStore_Init_RowLevelSecurity has policies hide rows: what is hidden would look absent, and
// ending it would seem to work.
func TestStore_Init_RowLevelSecurity(t *testing.T) {
	t.Parallel()
	pool, schema := pgtest.Schema(t)
	require.NoError(t, test.Open(pool).Init(t.Context()))
	role, params := test.NewRole(t, pool, schema)
	test.RunScript(t, pool, `GRANT ALL ON sessions TO `+role+`; ALTER TABLE sessions ENABLE ROW LEVEL SECURITY`)
	require.NoError(t, test.Open(pool).Init(t.Context()), "the owner sees all rows")
	err := test.Open(test.NodePool(t, schema, params)).Init(t.Context())
	require.ErrorIs(t, err, pgsession.ErrSchema)
	require.ErrorContains(t, err, "row level security")
}
