//go:build peers

package scsstore_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/peers"
	"github.com/pgsession/pgsession/internal/pgtest"
)

// cannotPass are tests that look into the table with SQL, which shows them nothing.
var cannotPass = map[string]string{
	"pgxstore/TestFind":        "it inserts a row in clear",
	"pgxstore/TestSaveNew":     "it reads the token and the data from the table",
	"pgxstore/TestSaveUpdated": "it inserts a row in clear",
	"pgxstore/TestDelete":      "it inserts a row in clear",
	"pgxstore/TestCleanup":     "it looks for the token in the table; and the clean-up is the pgsession.Store's",
}

// TestPeers downloads scs and its pgxstore, and runs their own tests on our store.
func TestPeers(t *testing.T) {
	pool := pgtest.Pool(t)
	folder := t.TempDir()
	module(t, folder)
	peers.Write(t, filepath.Join(folder, "peers", "peers.go"), "testdata/peers.go.txt")

	// scs itself: another default store, and our context around a request's.
	copyPackage(t, "github.com/alexedwards/scs/v2@v2.9.0", filepath.Join(folder, "scs"))
	peers.Edit(t, filepath.Join(folder, "scs", "session.go"),
		`"github.com/alexedwards/scs/v2/memstore"`, `"peer/peers"`,
		`memstore.New()`, `peers.NewStore()`,
		`s.Load(r.Context(), token)`, `s.Load(peers.Context(r.Context(), s.Store), token)`)
	// pgxstore: our store in the place of its own.
	copyPackage(t, "github.com/alexedwards/scs/pgxstore@v0.0.0-20240316134038-7e11d57e8885", filepath.Join(folder, "pgxstore"))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "pgxstore", "pgxstore.go"),
		[]byte("package pgxstore\n\nimport \"peer/peers\"\n\nvar NewWithCleanupInterval = peers.NewWithCleanupInterval\n"), 0o600))

	database := pgtest.URL(t, pool)
	newStore(t, pool, pgsession.WithTable("sessions")) // pgxstore's tests truncate it first
	for i, run := range []struct{ name, folder, setting string }{
		{"scs with our store alone", "scs", ""},
		{"scs with our LoadAndSave", "scs", "PEERS_LOADANDSAVE=1"},
		{"pgxstore", "pgxstore", ""},
	} {
		environment := []string{"PEERS_DATABASE=" + database, "SCS_POSTGRES_TEST_DSN=" + database, run.setting, fmt.Sprintf("PEERS_TABLES=peers_%d_", i)}
		passed, total := peers.Run(t, folder, environment, cannotPass, ".", "./"+run.folder)
		t.Logf("%s: %d of %d cases passed", run.name, passed[run.folder], total[run.folder])
	}
}

// module writes the go.mod of a module that uses this one.
func module(t testing.TB, folder string) {
	t.Helper()
	adapter, err := os.Getwd()
	require.NoError(t, err)
	peers.Write(t, filepath.Join(folder, "go.mod"), "go.mod",
		"module github.com/pgsession/pgsession/adapters/scs\n", "module peer\n",
		"replace github.com/pgsession/pgsession => ../..\n", fmt.Sprintf(
			"replace github.com/pgsession/pgsession => %s\n\nreplace github.com/pgsession/pgsession/adapters/scs => %s\n\nrequire github.com/pgsession/pgsession/adapters/scs v0.0.0\n",
			filepath.Join(adapter, "..", ".."), adapter))
	peers.Write(t, filepath.Join(folder, "go.sum"), "go.sum")
}

// copyPackage copies the package in the root of a module, which becomes one of ours.
func copyPackage(t testing.TB, module, to string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(peers.Copy(t, module), "*.go"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		peers.Write(t, filepath.Join(to, filepath.Base(file)), file)
	}
}
