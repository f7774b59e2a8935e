package pgsession_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
)

// settings are what an operator may have set for the server, a database or a role, from the chapters
// "Client Connection Defaults" and "Version and Platform Compatibility" of the PostgreSQL manual, and a
// few of the planner's. None is the default. Those that have nothing to do with text are tried together.
var settings = []map[string]string{
	{"array_nulls": "off"},
	{"bytea_output": "escape"},
	{"client_encoding": "EUC_JP"},
	{"client_encoding": "LATIN1"},
	{"client_encoding": "SQL_ASCII"},
	{"DateStyle": "German"},
	{"DateStyle": "ISO, DMY"},
	{"DateStyle": "Postgres, YMD"},
	{"DateStyle": "SQL, DMY"},
	{"extra_float_digits": "-15"},
	{"IntervalStyle": "iso_8601"},
	{"IntervalStyle": "postgres_verbose"},
	{"IntervalStyle": "sql_standard"},
	{"quote_all_identifiers": "on"},
	{"standard_conforming_strings": "off"},
	{"TimeZone": "Africa/Monrovia"},
	{"TimeZone": "Asia/Kolkata"},
	{"bytea_output": "escape", "DateStyle": "SQL, MDY", "IntervalStyle": "sql_standard"},
	{"default_transaction_isolation": "serializable", "default_transaction_deferrable": "on", "plan_cache_mode": "force_generic_plan"},
	{
		"backslash_quote": "off", "check_function_bodies": "off", "enable_seqscan": "off", "escape_string_warning": "off",
		"plan_cache_mode": "force_custom_plan", "row_security": "off", "session_replication_role": "replica",
		"synchronize_seqscans": "off", "transform_null_equals": "on", "xmlbinary": "hex", "xmloption": "document",
	},
	{"default_transaction_isolation": "repeatable read", "enable_indexscan": "off", "exit_on_error": "on"},
}

// sample holds what an encoding, an escape or a quote may change.
const sample = "ä€漢😀 'quoted' \"twice\" \\x41 \\ $1 \x01\x7f"

// TestSettings runs a store under each setting, in the query modes that write values as text and in the one
// that does not. Either Init and Health name the setting and its cure, or all that the store does works.
func TestSettings(t *testing.T) {
	t.Parallel()
	modes := []pgx.QueryExecMode{pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeCacheStatement}
	for _, set := range settings {
		t.Run(fmt.Sprint(set), func(t *testing.T) {
			t.Parallel()
			for _, mode := range modes {
				for kind, open := range map[string]opener{"encrypted": encrypted, "plaintext": pgsession.Plaintext} {
					t.Run(fmt.Sprintf("%v/%s", mode, kind), func(t *testing.T) { requireWorksUnder(t, open, mode, set) })
				}
			}
		})
	}
}

func requireWorksUnder(t *testing.T, open opener, mode pgx.QueryExecMode, set map[string]string) {
	t.Helper()
	usual, schema := pgtest.Schema(t)
	reader := &fixture{open(usual, quiet()), usual, nil}
	pool := pgtest.Pool(t, func(config *pgxpool.Config) {
		config.MaxConns = 2
		config.ConnConfig.DefaultQueryExecMode = mode
		config.ConnConfig.RuntimeParams["search_path"] = schema
		for name, value := range set {
			config.ConnConfig.RuntimeParams[strings.ToLower(name)] = value
		}
	})
	s := &fixture{open(pool, quiet()), pool, nil}
	if err := s.Init(t.Context()); err != nil {
		require.NoError(t, reader.Init(t.Context()))
		for name, value := range set {
			for _, err := range []error{err, requireUnhealthy(t, s.Store)} {
				require.ErrorContains(t, err, name+" is "+value)
				require.ErrorContains(t, err, "in the connection string ("+strings.ToLower(name)+"=")
				require.NotErrorIs(t, err, pgsession.ErrSchema)
			}
		}
		return
	}
	require.NoError(t, s.Init(t.Context()), "checks the table that is there")
	requireHealth(t, s.Store, pgsession.Healthy)
	requireEverythingWorks(t, s, reader)
}

// requireEverythingWorks runs all operations by one store, and reads what they wrote by another one.
func requireEverythingWorks(t *testing.T, s, reader *fixture) {
	t.Helper()
	ctx := t.Context()
	values := profile{sample, -1}
	data := pgsession.Data{UserID: sample, Lifetime: 1000 * time.Hour, Values: values}
	const ttl = 25*time.Hour + 3*time.Second + time.Microsecond
	requireSession := func(id pgsession.ID, ttl time.Duration) *pgsession.Session {
		t.Helper()
		mine, theirs := s.load(t, id), reader.load(t, id)
		for _, session := range []*pgsession.Session{mine, theirs} {
			require.Equal(t, sample, session.UserID)
			require.Equal(t, values, decode[profile](t, session))
			require.Equal(t, ttl, session.IdleTimeout)
			require.Equal(t, data.Lifetime, session.EndsAt.Sub(session.CreatedAt))
		}
		require.Equal(t, theirs.CreatedAt, mine.CreatedAt)
		require.Equal(t, theirs.ExpiresAt, mine.ExpiresAt)
		require.Equal(t, version(theirs), version(mine))
		return mine
	}
	created, err := s.Create(ctx, data, ttl)
	require.NoError(t, err)
	id := created.ID
	loaded := requireSession(id, ttl)
	require.Equal(t, created.ExpiresAt, loaded.ExpiresAt)
	require.NoError(t, s.Save(ctx, id, data, 2*ttl))
	requireSession(id, 2*ttl)
	require.NoError(t, s.Put(ctx, id, data, ttl))
	requireSession(id, ttl)
	require.NoError(t, second(s.Touch(ctx, at(id), 3*ttl)))
	requireSession(id, 3*ttl)
	values.Count = -2
	require.NoError(t, second(s.Update(ctx, at(id), 0, keep(values))))
	requireSession(id, 3*ttl)
	renewed, err := s.Renew(ctx, at(id), ttl, login(pgsession.Data{UserID: sample, Values: values}))
	require.NoError(t, err)
	require.ErrorIs(t, second(s.Load(ctx, id)), pgsession.ErrRevoked)
	requireSession(renewed.ID, ttl)
	token := rand.Text()
	cycled := pgsession.DeriveID(token)
	require.NoError(t, s.Cycle(ctx, renewed.ID, cycled, pgsession.Data{UserID: sample, Values: values}, ttl))
	requireSession(cycled, ttl)
	raw := pgsession.NewID()
	require.NoError(t, s.Put(ctx, raw, pgsession.Data{UserID: sample, Values: []byte("\x00\xff\\")}, ttl))
	require.Equal(t, []byte("\x00\xff\\"), s.load(t, raw).Data().Values)

	// Calls that share statements.
	ids := []pgsession.ID{cycled, raw}
	for _, call := range []func(ctx context.Context, id pgsession.ID) error{
		func(ctx context.Context, id pgsession.ID) error { return second(s.Load(ctx, id)) },
		func(ctx context.Context, id pgsession.ID) error {
			return s.Save(ctx, id, pgsession.Data{UserID: sample, Values: values}, ttl)
		},
		func(ctx context.Context, id pgsession.ID) error {
			return s.Put(ctx, id, pgsession.Data{UserID: sample, Values: values}, ttl)
		},
		func(ctx context.Context, id pgsession.ID) error { return second(s.Touch(ctx, at(id), 2*ttl)) },
	} {
		inCompany(t, s, len(ids), func(i int) error { return call(ctx, ids[i]) })
	}
	requireSession(cycled, 2*ttl)

	found, err := s.FindByUser(ctx, sample, 0)
	require.NoError(t, err)
	require.Len(t, found, 2)
	listed := 0
	for session, err := range s.All(ctx) {
		require.NoError(t, err)
		require.Equal(t, values, decode[profile](t, session))
		listed++
	}
	require.Equal(t, 2, listed)

	kv := s.KeyValue()
	require.NoError(t, kv.Put(ctx, "k", []byte(sample), ttl))
	requireEntry(t, kv, "k", []byte(sample))
	taken, err := kv.Take(ctx, "k")
	require.NoError(t, err)
	require.Equal(t, sample, string(taken))
	require.NoError(t, kv.Put(ctx, "k", nil, ttl))
	require.NoError(t, kv.Delete(ctx, "k"))

	require.NoError(t, s.Revoke(ctx, sample, raw.Handle()))
	require.ErrorIs(t, s.RevokeAny(ctx, raw.Handle()), pgsession.ErrRevoked)
	require.ErrorIs(t, second(s.CreateAs(ctx, pgsession.DeriveID(token), data, ttl)), pgsession.ErrExists)
	n, err := s.DeleteByUser(ctx, sample)
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	last := s.create(t, data, ttl)
	require.NoError(t, s.Delete(ctx, last))
	n, err = s.DeleteAll(ctx)
	require.NoError(t, err)
	require.Zero(t, n)
	s.sql(t, `INSERT INTO sessions (key, version, created_at, expires_at, idle_timeout)
		VALUES (convert_to('expired', 'UTF8'), 1, '2020-01-01 00:00+00', '2020-01-01 00:00+00', '1 hour')`)
	require.EqualValues(t, 1, s.cleanUp(t))
	require.NoError(t, second(s.Reseal(ctx)))
}

// inCompany makes n calls while nobody can use the table, so that they share statements.
func inCompany(t *testing.T, s *fixture, n int, call func(i int) error) {
	t.Helper()
	held := s.lockTable(t)
	errs := make(chan error)
	for i := range 3 * n {
		go func() { errs <- call(i % n) }()
	}
	require.Eventually(t, func() bool { return s.Waiting() > 1 }, patience, time.Millisecond)
	held.release(t)
	for range 3 * n {
		require.NoError(t, <-errs)
	}
}

// TestSettings_DatabaseEncoding runs stores in databases that do not hold Unicode. An encrypted store needs
// no encoding; a plaintext store says what it lacks.
func TestSettings_DatabaseEncoding(t *testing.T) {
	t.Parallel()
	for _, encoding := range []string{"SQL_ASCII", "LATIN1"} {
		t.Run(encoding, func(t *testing.T) {
			t.Parallel()
			usual, database := pgtest.Pool(t), "test_"+strings.ToLower(rand.Text())
			runScript(t, usual, `CREATE DATABASE `+database+` TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C' ENCODING '`+encoding+`'`)
			t.Cleanup(func() {
				_, err := usual.Exec(context.Background(), `DROP DATABASE `+database, pgx.QueryExecModeSimpleProtocol)
				require.NoError(t, err)
			})
			open := func(mode pgx.QueryExecMode) *pgxpool.Pool {
				return pgtest.Pool(t, func(config *pgxpool.Config) {
					config.MaxConns = 2
					config.ConnConfig.Database = database
					config.ConnConfig.DefaultQueryExecMode = mode
					config.ConnConfig.RuntimeParams["search_path"] = "public"
				})
			}
			for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeExec, pgx.QueryExecModeCacheStatement} {
				pool := open(mode)
				s := &fixture{encrypted(pool, quiet()), pool, nil}
				require.NoError(t, s.Init(t.Context()))
				requireHealth(t, s.Store, pgsession.Healthy)
				requireEverythingWorks(t, s, s)
				for _, err := range []error{
					pgsession.Plaintext(pool, quiet()).Init(t.Context()),
					requireUnhealthy(t, pgsession.Plaintext(pool, quiet())),
				} {
					require.ErrorContains(t, err, encoding)
				}
			}
			err := storeOn(open(pgx.QueryExecModeSimpleProtocol)).Init(t.Context())
			require.ErrorContains(t, err, "client_encoding is "+encoding+"; set it to UTF8")
		})
	}
}
