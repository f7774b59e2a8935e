package faults_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/test"
)

// newRoleStore makes a table, and a store whose role has all that an application needs. The script
// may say %s for the role.
func newRoleStore(t *testing.T) (owner *test.Store, s *test.Store, script func(sql string)) {
	t.Helper()
	pool, schema := pgtest.Schema(t)
	owner = &test.Store{Store: test.Open(pool), Pool: pool, Clock: nil}
	require.NoError(t, owner.Init(t.Context()))
	role, params := test.NewRole(t, pool, schema)
	script = func(sql string) {
		t.Helper()
		test.RunScript(t, pool, strings.ReplaceAll(sql, "%s", role))
	}
	script(`GRANT SELECT, INSERT, UPDATE, DELETE ON sessions TO %s`)
	s = &test.Store{Store: test.Open(test.NodePool(t, schema, params)), Pool: test.NodePool(t, schema, params), Clock: nil}
	require.NoError(t, s.Init(t.Context()))
	test.RequireHealth(t, s.Store, pgsession.Healthy)
	return owner, s, script
}

// TestPrivileges_RowLevelSecurity switches row level security on under a store that runs. The
// sessions that it hides seem to be absent, so that the next look at the store's health must tell.
func TestPrivileges_RowLevelSecurity(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string]string{
		"no policy":         ``,
		"a policy":          `CREATE POLICY p ON sessions USING (version < 0)`,
		"a policy for one":  `CREATE POLICY p ON sessions FOR SELECT TO %s USING (false)`,
		"a permissive one":  `CREATE POLICY p ON sessions USING (true) WITH CHECK (true)`,
		"row_security off":  `ALTER ROLE %s SET row_security = off`,
		"a forced security": `ALTER TABLE sessions FORCE ROW LEVEL SECURITY`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, s, script := newRoleStore(t)
			id := s.Begin(t, test.Ann(1), time.Hour)
			script(sql + `; ALTER TABLE sessions ENABLE ROW LEVEL SECURITY`)
			require.ErrorContains(t, test.RequireUnhealthy(t, s.Store), "row level security")
			require.Equal(t, http.StatusServiceUnavailable, test.Probe(t, s.Store))
			err := s.Init(t.Context())
			require.ErrorIs(t, err, pgsession.ErrSchema)
			require.ErrorContains(t, err, "row level security")

			script(`ALTER TABLE sessions DISABLE ROW LEVEL SECURITY`)
			test.RequireHealth(t, s.Store, pgsession.Healthy)
			require.NoError(t, s.Init(t.Context()))
			s.MustLoad(t, id)
		})
	}
	t.Run("of the owner", func(t *testing.T) {
		t.Parallel()
		pool, schema := pgtest.Schema(t)
		role, params := test.NewRole(t, pool, schema)
		test.RunScript(t, pool, `GRANT CREATE ON SCHEMA `+schema+` TO `+role)
		s := test.Open(test.NodePool(t, schema, params))
		require.NoError(t, s.Init(t.Context()))
		test.RunScript(t, pool, `ALTER TABLE sessions ENABLE ROW LEVEL SECURITY`)
		test.RequireHealth(t, s, pgsession.Healthy) // an owner sees all
		test.RunScript(t, pool, `ALTER TABLE sessions FORCE ROW LEVEL SECURITY`)
		require.ErrorContains(t, test.RequireUnhealthy(t, s), "row level security")
		require.ErrorIs(t, s.Init(t.Context()), pgsession.ErrSchema)
	})
}

// columns that each statement for one session names.
const (
	updatedColumns  = `user_key, data, sealed, version, created_at, expires_at, ends_at, idle_timeout`
	insertedColumns = `key, ` + updatedColumns
	allColumns      = insertedColumns + `, expires_hour`
)

// TestPrivileges takes privileges from the role of a store that runs, and from one that starts.
func TestPrivileges(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ sql, lacks string }{
		"SELECT":            {`REVOKE SELECT ON sessions FROM %s`, "SELECT"},
		"INSERT":            {`REVOKE INSERT ON sessions FROM %s`, "INSERT"},
		"UPDATE":            {`REVOKE UPDATE ON sessions FROM %s`, "UPDATE"},
		"INSERT and UPDATE": {`REVOKE INSERT, UPDATE ON sessions FROM %s`, "INSERT, UPDATE"},
		"all":               {`REVOKE ALL ON sessions FROM %s`, "SELECT"},
		"SELECT on all columns but one": {
			`REVOKE SELECT ON sessions FROM %s; GRANT SELECT (` + insertedColumns + `) ON sessions TO %s`, "SELECT"},
		"SELECT on a column added later": {
			`ALTER TABLE sessions ADD note text; REVOKE SELECT ON sessions FROM %s; GRANT SELECT (` + allColumns + `) ON sessions TO %s`, "SELECT"},
		"INSERT on all columns but one": {
			`REVOKE INSERT ON sessions FROM %s; GRANT INSERT (` + updatedColumns + `) ON sessions TO %s`, "INSERT"},
		"UPDATE on all columns but one": {
			`REVOKE UPDATE ON sessions FROM %s; GRANT UPDATE (` + strings.ReplaceAll(updatedColumns, "ends_at, ", "") + `) ON sessions TO %s`, "UPDATE"},
		"UPDATE on one column": {
			`REVOKE UPDATE ON sessions FROM %s; GRANT UPDATE (expires_at) ON sessions TO %s`, "UPDATE"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, s, script := newRoleStore(t)
			script(c.sql)
			err := s.Init(t.Context())
			require.ErrorIs(t, err, pgsession.ErrSchema)
			require.ErrorContains(t, err, "lacks the privilege "+c.lacks)
			require.ErrorContains(t, err, "GRANT "+c.lacks)
			unhealthy := test.RequireUnhealthy(t, s.Store)
			if !strings.Contains(c.sql, "REVOKE SELECT") && !strings.Contains(c.sql, "REVOKE ALL") { // else the look itself is refused
				require.ErrorContains(t, unhealthy, "lacks the privilege "+c.lacks)
			}
			require.Equal(t, http.StatusServiceUnavailable, test.Probe(t, s.Store))

			script(`GRANT SELECT, INSERT, UPDATE ON sessions TO %s`)
			require.NoError(t, s.Init(t.Context()))
			if name != "all" {
				test.RequireHealth(t, s.Store, pgsession.Healthy)
			}
		})
	}
}

// TestPrivileges_Columns grants what the statements name, column by column.
func TestPrivileges_Columns(t *testing.T) {
	t.Parallel()
	_, s, script := newRoleStore(t)
	script(`REVOKE ALL ON sessions FROM %s;
		GRANT SELECT (` + allColumns + `), INSERT (` + insertedColumns + `), UPDATE (` + updatedColumns + `), DELETE ON sessions TO %s`)
	test.RequireHealth(t, s.Store, pgsession.Healthy)
	require.NoError(t, s.Init(t.Context()))
	test.Exercise(t, s, nil)
}

// TestPrivileges_Delete is for the clean-up alone: without one, the store is as healthy as it was.
func TestPrivileges_Delete(t *testing.T) {
	t.Parallel()
	owner, s, script := newRoleStore(t)
	script(`REVOKE DELETE ON sessions FROM %s`)
	require.NoError(t, s.Init(t.Context()))
	test.RequireHealth(t, s.Store, pgsession.Healthy)
	id := s.Begin(t, test.Ann(1), time.Hour)
	require.NoError(t, s.Save(t.Context(), id, test.Ann(2), time.Hour))
	require.NoError(t, s.Delete(t.Context(), id))

	cleanup := s.SpawnCleanup(t.Context(), time.Hour)
	test.RequireHealth(t, s.Store, pgsession.Degraded, "lacks the privilege DELETE")
	test.RequireHealth(t, owner.Store, pgsession.Healthy)
	script(`GRANT DELETE ON sessions TO %s`)
	test.RequireHealth(t, s.Store, pgsession.Healthy)
	script(`REVOKE DELETE ON sessions FROM %s`)
	cleanup.Stop()
	test.RequireHealth(t, s.Store, pgsession.Healthy)
}

// TestPrivileges_Denied calls every operation under a role that has lost its privileges. None may
// say that there is no session, or that it did what it did not.
func TestPrivileges_Denied(t *testing.T) {
	t.Parallel()
	_, s, script := newRoleStore(t)
	id := s.Begin(t, test.Ann(1), time.Hour)
	script(`REVOKE ALL ON sessions FROM %s`)
	for name, call := range test.Operations(s, id) {
		err := call(t.Context())
		require.Error(t, err, name)
		require.NotErrorIs(t, err, pgsession.ErrNotFound, name)
	}
	script(`GRANT SELECT, INSERT, UPDATE, DELETE ON sessions TO %s`)
	s.MustLoad(t, id)
}
