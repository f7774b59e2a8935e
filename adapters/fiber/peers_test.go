//go:build peers

package fiberstore_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession/internal/peers"
	"github.com/pgsession/pgsession/internal/pgtest"
)

const fiberVersion = "v3.1.0"

// suites are the packages of fiber whose tests run, and the storage that each gets.
var suites = []struct {
	name, storage string
	manager       string // the file in which it chooses its storage
	chooses       string // the line at which it does
}{
	{"session", "Sessions", "store.go", "if cfg.Storage == nil {"},
	{"csrf", "KeyValue", "storage_manager.go", "if storage != nil {"},
	{"limiter", "KeyValue", "manager.go", "if storage != nil {"},
	{"cache", "KeyValue", "manager.go", "if storage != nil {"},
	{"idempotency", "KeyValue", "", ""},
}

// cannotPass are tests that want what pgsession promises not to do.
var cannotPass = map[string]string{
	"session/Test_Session_WithConfig": "its KeyGenerator gives the id of an expired session again, and expiry is final until the clean-up",

	"session/Test_Session_Middleware": "it wants a new cookie for the id of a session that was deleted a second ago, and the request may be a late one of a visitor who has just got another id",

	"session/Test_Session_StoreGetDecodeSessionDataError": "it stores what is no session, which is refused",
}

// TestPeers downloads fiber, and runs its own tests of the middleware that takes a storage, with
// ours instead of the ones in memory.
func TestPeers(t *testing.T) {
	pool, schema := pgtest.Schema(t)
	folder := peers.Copy(t, "github.com/gofiber/fiber/v3@"+fiberVersion)
	patch(t, folder)

	var packages []string
	for _, peer := range suites {
		packages = append(packages, "./middleware/"+peer.name)
	}
	passed, total := peers.Run(t, folder, []string{"PEERS_DATABASE=" + pgtest.URL(t, pool)}, cannotPass, ".", packages...)
	var tables int
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_tables WHERE schemaname = $1`, schema).Scan(&tables))
	t.Logf("%d storages were made", tables)
	require.Greater(t, tables, len(suites))
	for _, peer := range suites {
		t.Logf("%-11s %3d of %3d on %s", peer.name, passed[peer.name], total[peer.name], peer.storage)
		require.Positive(t, passed[peer.name])
	}
}

const postgresStorage = "github.com/gofiber/storage/postgres/v3"

// TestPeers_PostgresStorage adds gofiber's own storage in PostgreSQL to TestComparison.
// FIBERSTORE_POSTGRES_STORAGE is the folder of its source, for those whose proxy does not have it.
func TestPeers_PostgresStorage(t *testing.T) {
	here, err := os.Getwd()
	require.NoError(t, err)
	folder := t.TempDir()
	require.NoError(t, os.CopyFS(folder, os.DirFS(here)))
	peers.Write(t, filepath.Join(folder, "postgres_storage_test.go"), "testdata/postgres_storage_test.go.txt")
	require.NoError(t, os.RemoveAll(filepath.Join(folder, "peers_test.go")))

	args := []string{"mod", "edit", "-require", postgresStorage + "@v3.6.2", "-replace", "github.com/pgsession/pgsession=" + filepath.Join(here, "../..")}
	if source := os.Getenv("FIBERSTORE_POSTGRES_STORAGE"); source != "" {
		args = append(args, "-replace", postgresStorage+"="+source)
	}
	t.Log(peers.Go(t, folder, args...))
	t.Log(peers.Go(t, folder, "test", "-mod=mod", "-count=1", "-run", "TestComparison", "-v", "."))
}

func patch(t *testing.T, folder string) {
	t.Helper()
	here, err := os.Getwd()
	require.NoError(t, err)
	peers.Write(t, filepath.Join(folder, "internal/peers/peers.go"), "testdata/peers.go.txt")
	for _, peer := range suites {
		middleware := filepath.Join(folder, "middleware", peer.name)
		if peer.manager != "" {
			edit(t, filepath.Join(middleware, peer.manager), peer.chooses,
				fmt.Sprintf("if %[1]s == nil { %[1]s = peers.%[2]s() }\n%[3]s", strings.Fields(peer.chooses)[1], peer.storage, peer.chooses))
		}
		tests, err := filepath.Glob(filepath.Join(middleware, "*_test.go"))
		require.NoError(t, err)
		for _, file := range tests {
			edit(t, file, "memory.New()", "peers."+peer.storage+"()")
		}
	}
	peers.Go(t, folder, "mod", "edit", "-replace", "github.com/pgsession/pgsession="+filepath.Join(here, "../.."),
		"-replace", "github.com/pgsession/pgsession/adapters/fiber="+here)
	peers.Go(t, folder, "mod", "tidy")
}

// edit replaces text in a file that needs our package then, and no longer fiber's storage in
// memory.
func edit(t *testing.T, file, old, text string) {
	t.Helper()
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	changed := strings.ReplaceAll(string(content), old, text)
	if changed == string(content) {
		return
	}
	const ours, theirs = `"github.com/gofiber/fiber/v3/internal/peers"`, `"github.com/gofiber/fiber/v3/internal/storage/memory"`
	if !strings.Contains(changed, "memory.") {
		changed = strings.Replace(changed, theirs, ours, 1)
	} else {
		changed = strings.Replace(changed, `"github.com/gofiber/fiber/v3"`+"\n", `"github.com/gofiber/fiber/v3"`+"\n\t"+ours+"\n", 1)
	}
	require.NoError(t, os.WriteFile(file, []byte(changed), 0o600))
}
