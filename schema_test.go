package pgsession_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/test"
)

func TestStore_Init(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	s := test.Open(pool)
	for range 3 {
		require.NoError(t, s.Init(t.Context()))
		require.Equal(t, test.WantCatalog, test.Catalog(t, pool, "sessions"))
	}
	test.Exercise(t, &test.Store{Store: s, Pool: pool}, nil)
	require.NoError(t, pgsession.Plaintext(pool, test.Quiet()).Init(t.Context()))
	require.Equal(t, test.WantCatalog, test.Catalog(t, pool, "sessions"))
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
				pools[i] = test.NodePool(t, schema, params)
				require.NoError(t, pools[i].Ping(t.Context()))
			}
			for round := range rounds {
				table := fmt.Sprint("sessions_", round)
				if round%3 == 2 { // another beginning: the table without its indexes
					table = fmt.Sprint("sessions_", round-1)
					test.RunScript(t, pool, `DROP INDEX `+table+`_expires_hour_idx, `+table+`_user_key_created_at_idx`)
				}
				var errs [nodes]error
				var starting sync.WaitGroup
				gate := make(chan struct{})
				for i, node := range pools {
					s := test.Open(node, pgsession.WithTable(table))
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
				want := strings.Split(strings.ReplaceAll(strings.Join(test.WantCatalog, "\n"), "sessions_", table+"_"), "\n")
				for i := range want {
					want[i] = strings.ReplaceAll(want[i], " ON sessions ", " ON "+table+" ")
				}
				require.Equal(t, want, test.Catalog(t, pool, table))
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
		test.RunScript(t, pool, `CREATE SCHEMA `+pgx.Identifier{schema}.Sanitize())
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
		"named as a row set, touched": "pgsession_ended",
		"named as a row set, puts":    "pgsession_new",
		"named as a row set, saves":   "pgsession_saved",
		"named as a row set, new":     "new",
		"named as a row set, one":     "one",
	} {
		t.Run(name, func(t *testing.T) {
			s := test.Open(pool, pgsession.WithTable(table))
			require.NoError(t, s.Init(t.Context()))
			require.NoError(t, s.Init(t.Context()))
			quoted := pgx.Identifier(strings.Split(table, ".")).Sanitize()
			test.Exercise(t, &test.Store{Store: s, Pool: pool, Table: quoted}, nil)
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
	pool, crypto := pgtest.Pool(t), test.NewCrypto(t, test.Key)
	for name, table := range map[string]string{
		"three parts": "a.b.c", "empty": "", "two empty parts": ".", "empty schema": ".sessions", "empty table": "web.",
		"64 bytes": strings.Repeat("x", 64), "64 bytes of unicode": strings.Repeat("é", 32), "long schema": strings.Repeat("x", 64) + ".sessions",
		"NUL": "sess\x00ions", "NUL in the schema": "\x00.sessions",
	} {
		require.Panics(t, func() { pgsession.New(pool, crypto, pgsession.WithTable(table)) }, name)
		require.Panics(t, func() { pgsession.Schema(table) }, name)
	}
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
			s := test.Open(test.NodePool(t, schema, params))
			require.NoError(t, s.Init(t.Context()))
			require.NoError(t, s.Init(t.Context()))
			require.Equal(t, test.WantCatalog, test.Catalog(t, pool, "sessions"))
			if params["default_transaction_read_only"] == "" {
				test.Exercise(t, &test.Store{Store: s, Pool: pool}, nil)
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
			bySchema := test.Catalog(t, pool, table)

			role, params := test.NewRole(t, pool, schema)
			quoted := pgx.Identifier{table}.Sanitize()
			test.RunScript(t, pool, `GRANT SELECT, INSERT, UPDATE, DELETE ON `+quoted+` TO `+role)
			node := test.NodePool(t, schema, params)
			s := test.Open(node, pgsession.WithTable(table))
			require.NoError(t, s.Init(t.Context()), "nothing is missing, not even for a role that may not create")
			test.Exercise(t, &test.Store{Store: s, Pool: node, Table: quoted}, nil)
			require.Equal(t, bySchema, test.Catalog(t, pool, table))

			other, _ := pgtest.Schema(t)
			require.NoError(t, test.Open(other, pgsession.WithTable(table)).Init(t.Context()))
			require.Equal(t, test.Catalog(t, other, table), bySchema, "Init makes the same")
			if table == "sessions" {
				require.Equal(t, test.WantCatalog, bySchema)
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
