//go:build peers

package fiberstore_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession/internal/pgtest"
)

const fiberVersion = "v3.1.0"

// peers are the packages of fiber whose tests run, and the storage that each gets.
var peers = []struct {
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
	folder := download(t, "github.com/gofiber/fiber/v3@"+fiberVersion)
	patch(t, folder)

	hasPassed, outputs := map[string]bool{}, map[string]string{}
	pattern := "."
	for range 3 { // their tests sleep for a second or two, so that a busy machine fails some
		runPeers(t, folder, pattern, hasPassed, outputs, "FIBERSTORE_DATABASE="+pool.Config().ConnString(), "FIBERSTORE_SCHEMA="+schema)
		var failed []string
		for name, ok := range hasPassed {
			if test := strings.Split(name, "/")[1]; !ok && cannotPass[name] == "" {
				failed = append(failed, "^"+test+"$")
			}
		}
		if pattern = strings.Join(failed, "|"); pattern == "" {
			break
		}
	}
	passed, total := map[string]int{}, map[string]int{}
	for name, ok := range hasPassed {
		require.Equal(t, cannotPass[name] == "", ok, "%s: %s", name, outputs[name])
		peer := strings.Split(name, "/")[0]
		total[peer]++
		if ok {
			passed[peer]++
		}
	}
	var tables int
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_tables WHERE schemaname = $1`, schema).Scan(&tables))
	t.Logf("%d storages were made", tables)
	require.Greater(t, tables, len(peers))
	for _, peer := range peers {
		t.Logf("%-11s %3d of %3d on %s", peer.name, passed[peer.name], total[peer.name], peer.storage)
		require.Positive(t, passed[peer.name], outputs[peer.name+"/"])
	}
}

// runPeers runs the tests that match a pattern, and sets which of them have passed and what they
// said, by package and name.
func runPeers(t *testing.T, folder, pattern string, hasPassed map[string]bool, outputs map[string]string, environment ...string) {
	t.Helper()
	args := []string{"test", "-json", "-count=1", "-run", pattern}
	for _, peer := range peers {
		args = append(args, "./middleware/"+peer.name)
	}
	command := exec.Command("go", args...)
	command.Dir, command.Env = folder, append(os.Environ(), environment...)
	output, _ := command.CombinedOutput() // the events say what failed
	lines := bufio.NewScanner(bytes.NewReader(output))
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var event struct{ Action, Package, Test, Output string }
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			t.Log(lines.Text())
			continue
		}
		name := path.Base(event.Package) + "/" + event.Test
		outputs[name] += event.Output
		if event.Test != "" && (event.Action == "pass" || event.Action == "fail") {
			hasPassed[name] = event.Action == "pass"
		}
	}
	require.NoError(t, lines.Err())
}

const postgresStorage = "github.com/gofiber/storage/postgres/v3"

// TestPeers_PostgresStorage adds gofiber's own storage in PostgreSQL to TestComparison.
// FIBERSTORE_POSTGRES_STORAGE is the folder of its source, for those whose proxy does not have it.
func TestPeers_PostgresStorage(t *testing.T) {
	here, err := os.Getwd()
	require.NoError(t, err)
	folder := t.TempDir()
	require.NoError(t, os.CopyFS(folder, os.DirFS(here)))
	column, err := os.ReadFile("testdata/postgres_storage_test.go.txt")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "postgres_storage_test.go"), column, 0o600))
	require.NoError(t, os.RemoveAll(filepath.Join(folder, "peers_test.go")))

	args := []string{"mod", "edit", "-require", postgresStorage + "@v3.6.2", "-replace", "github.com/pgsession/pgsession=" + filepath.Join(here, "../..")}
	if source := os.Getenv("FIBERSTORE_POSTGRES_STORAGE"); source != "" {
		args = append(args, "-replace", postgresStorage+"="+source)
	}
	t.Log(goCommand(t, folder, args...))
	t.Log(goCommand(t, folder, "test", "-mod=mod", "-count=1", "-run", "TestComparison", "-v", "."))
}

func goCommand(t *testing.T, folder string, args ...string) (output string) {
	t.Helper()
	command := exec.Command("go", args...)
	command.Dir = folder
	out, err := command.CombinedOutput()
	require.NoError(t, err, string(out))
	return string(out)
}

// download returns a copy of a module, to be changed.
func download(t *testing.T, module string) (folder string) {
	t.Helper()
	output, err := exec.Command("go", "mod", "download", "-json", module).Output()
	require.NoError(t, err, string(output))
	var downloaded struct{ Dir string }
	require.NoError(t, json.Unmarshal(output, &downloaded))
	folder = filepath.Join(t.TempDir(), "module")
	require.NoError(t, os.CopyFS(folder, os.DirFS(downloaded.Dir)))
	return folder
}

func patch(t *testing.T, folder string) {
	t.Helper()
	here, err := os.Getwd()
	require.NoError(t, err)
	storages, err := os.ReadFile("testdata/peers.go.txt")
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(filepath.Join(folder, "internal/peers"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "internal/peers/peers.go"), storages, 0o600))
	for _, peer := range peers {
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
	goCommand(t, folder, "mod", "edit", "-replace", "github.com/pgsession/pgsession="+filepath.Join(here, "../.."),
		"-replace", "github.com/pgsession/pgsession/adapters/fiber="+here)
	goCommand(t, folder, "mod", "tidy")
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
