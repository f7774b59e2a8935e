package faults_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/test"
)

// settings are what an operator may have set for the server, a database or a role, from the
// chapters "Client Connection Defaults" and "Version and Platform Compatibility" of the PostgreSQL
// manual, and a few of the planner's. None is the default. Those that have nothing to do with text
// are tried together.
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

// TestSettings runs a store under each setting, in the query modes that write values as text and in
// the one that does not. Either Init and Health name the setting and its cure, or all that the
// store does works.
func TestSettings(t *testing.T) {
	t.Parallel()
	modes := []pgx.QueryExecMode{pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeCacheStatement}
	for _, set := range settings {
		t.Run(fmt.Sprint(set), func(t *testing.T) {
			t.Parallel()
			for _, mode := range modes {
				for kind, open := range map[string]test.Opener{"encrypted": test.Encrypted, "plaintext": pgsession.Plaintext} {
					t.Run(fmt.Sprintf("%v/%s", mode, kind), func(t *testing.T) { requireWorksUnder(t, open, mode, set) })
				}
			}
		})
	}
}

func requireWorksUnder(t *testing.T, open test.Opener, mode pgx.QueryExecMode, set map[string]string) {
	t.Helper()
	usual, schema := pgtest.Schema(t)
	reader := &test.Store{Store: open(usual, test.Quiet(), test.Patient()), Pool: usual, Clock: nil}
	pool := pgtest.Pool(t, func(config *pgxpool.Config) {
		config.MaxConns = 2
		config.ConnConfig.DefaultQueryExecMode = mode
		config.ConnConfig.RuntimeParams["search_path"] = schema
		for name, value := range set {
			config.ConnConfig.RuntimeParams[strings.ToLower(name)] = value
		}
	})
	s := &test.Store{Store: open(pool, test.Quiet(), test.Patient()), Pool: pool, Clock: nil}
	if err := s.Init(t.Context()); err != nil {
		require.NoError(t, reader.Init(t.Context()))
		for name, value := range set {
			for _, err := range []error{err, test.RequireUnhealthy(t, s.Store)} {
				require.ErrorContains(t, err, name+" is "+value)
				require.ErrorContains(t, err, "in the connection string ("+strings.ToLower(name)+"=")
				require.NotErrorIs(t, err, pgsession.ErrSchema)
			}
		}
		return
	}
	require.NoError(t, s.Init(t.Context()), "checks the table that is there")
	test.RequireHealth(t, s.Store, pgsession.Healthy)
	test.Exercise(t, s, reader)
}

// TestSettings_DatabaseEncoding runs stores in databases that do not hold Unicode. An encrypted
// store needs no encoding; a plaintext store says what it lacks.
func TestSettings_DatabaseEncoding(t *testing.T) {
	t.Parallel()
	for _, encoding := range []string{"SQL_ASCII", "LATIN1"} {
		t.Run(encoding, func(t *testing.T) {
			t.Parallel()
			usual, database := pgtest.Pool(t), "test_"+strings.ToLower(rand.Text())
			test.RunScript(t, usual, `CREATE DATABASE `+database+` TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C' ENCODING '`+encoding+`'`)
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
				s := &test.Store{Store: test.Open(pool), Pool: pool, Clock: nil}
				require.NoError(t, s.Init(t.Context()))
				test.RequireHealth(t, s.Store, pgsession.Healthy)
				test.Exercise(t, s, nil)
				for _, err := range []error{
					pgsession.Plaintext(pool, test.Quiet()).Init(t.Context()),
					test.RequireUnhealthy(t, pgsession.Plaintext(pool, test.Quiet())),
				} {
					require.ErrorContains(t, err, encoding)
				}
			}
			err := test.Open(open(pgx.QueryExecModeSimpleProtocol)).Init(t.Context())
			require.ErrorContains(t, err, "client_encoding is "+encoding+"; set it to UTF8")
		})
	}
}
