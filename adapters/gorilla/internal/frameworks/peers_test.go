//go:build peers

package frameworks

import (
	"bytes"
	"encoding/json"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession/internal/pgtest"
)

// TestPeers runs the tests of others for stores on this one, each in a copy of its module:
//
//	go test -tags peers -run TestPeers -v .
//
// One case cannot pass. TestGH2MaxLength raises the limit of a store that is in use, and the limit
// of this one is pgsession.WithMaxSize, which is set once. gorilla's TestNewCookieFromOptions tests
// no store.
func TestPeers(t *testing.T) {
	for _, peer := range []struct {
		module, folder, run string
		patch               func(t *testing.T, folder string)
		cannotPass          []string
	}{
		{"github.com/gorilla/sessions@v1.4.0", ".", "TestGH|TestFlashes|TestCookieStoreMapPanic", func(t *testing.T, folder string) {
			// The adapter imports the package, so its tests must be outside of it.
			outside := []string{"package sessions\n", "package sessions_test\n", "NewCookieStore(", "newPeerStore(", "NewFilesystemStore(", "newPeerStore("}
			edit(t, filepath.Join(folder, "store_test.go"), outside...)
			edit(t, filepath.Join(folder, "sessions_test.go"), append(outside, "import (", "import (\n\t. \"github.com/gorilla/sessions\"")...)
			addStore(t, folder, "sessions_test")
		}, []string{"TestGH2MaxLength"}},
		{"github.com/labstack/echo-contrib@v0.50.1", "session", ".", func(t *testing.T, folder string) {
			edit(t, filepath.Join(folder, "session_test.go"), "\t\"github.com/gorilla/sessions\"\n", "", "sessions.NewCookieStore(", "newPeerStore(")
			addStore(t, folder, "session")
		}, nil},
		{"github.com/gin-contrib/sessions@v1.0.4", "memstore", ".", func(t *testing.T, folder string) {
			edit(t, filepath.Join(folder, "memstore_test.go"), `NewStore([]byte("secret"))`, `gorillastore.ForGin[sessions.Options](newPeerStore().Store)`,
				"import (", "import (\n\tgorillastore \"github.com/pgsession/pgsession/adapters/gorilla\"")
			addStore(t, folder, "memstore")
		}, nil},
	} {
		t.Run(peer.module, func(t *testing.T) {
			module := download(t, peer.module)
			peer.patch(t, filepath.Join(module, peer.folder))
			passed, failed := runTests(t, filepath.Join(module, peer.folder), peer.run)
			t.Logf("%s: %d of %d cases pass", peer.module, passed, passed+len(failed))
			require.Positive(t, passed)
			require.Equal(t, peer.cannotPass, failed)
		})
	}
}

// download returns a copy of a module, which uses the modules of this repository.
func download(t *testing.T, module string) (folder string) {
	t.Helper()
	output, err := exec.Command("go", "mod", "download", "-json", module).Output()
	require.NoError(t, err, string(output))
	var downloaded struct{ Dir string }
	require.NoError(t, json.Unmarshal(output, &downloaded))
	folder = filepath.Join(t.TempDir(), "module")
	require.NoError(t, os.CopyFS(folder, os.DirFS(downloaded.Dir)))
	adapter, err := filepath.Abs("../..")
	require.NoError(t, err)
	const library = "github.com/pgsession/pgsession"
	command := exec.Command("go", "mod", "edit", "-require="+library+"@v0.0.0", "-replace="+library+"="+filepath.Join(adapter, "../.."),
		"-require="+library+"/adapters/gorilla@v0.0.0", "-replace="+library+"/adapters/gorilla="+adapter)
	command.Dir = folder
	output, err = command.CombinedOutput()
	require.NoError(t, err, string(output))
	return folder
}

// edit replaces texts that must be in the file.
func edit(t *testing.T, file string, oldnew ...string) {
	t.Helper()
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	text := string(content)
	for pair := range slices.Chunk(oldnew, 2) {
		text = strings.ReplaceAll(text, pair[0], pair[1])
	}
	require.NotEqual(t, string(content), text)
	require.NoError(t, os.Remove(file)) // the copy is read-only
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
}

func addStore(t *testing.T, folder, name string) {
	t.Helper()
	content, err := os.ReadFile("testdata/peerstore.go.txt")
	require.NoError(t, err)
	text := strings.Replace(string(content), "PACKAGE", name, 1)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "peerstore_test.go"), []byte(text), 0o600))
}

func runTests(t *testing.T, folder, run string) (passed int, failed []string) {
	t.Helper()
	pool, schema := pgtest.Schema(t)
	database := pool.Config().ConnString()
	if server, err := url.Parse(database); err == nil && server.Scheme != "" {
		query := server.Query()
		query.Set("search_path", schema)
		server.RawQuery = query.Encode()
		database = server.String()
	} else {
		database += " search_path=" + schema
	}
	command := exec.Command("go", "test", "-mod=mod", "-json", "-count=1", "-run", run, ".")
	command.Dir = folder
	command.Env = append(os.Environ(), "PEERS_DATABASE_URL="+database)
	output, _ := command.CombinedOutput() // the events say what failed
	outputs := map[string]string{}
	for events := json.NewDecoder(bytes.NewReader(jsonLines(output))); ; {
		var event struct{ Action, Test, Output string }
		err := events.Decode(&event)
		if err == io.EOF {
			require.Positive(t, passed, "%s", output)
			return passed, failed
		}
		require.NoError(t, err, string(output))
		outputs[event.Test] += event.Output
		switch {
		case event.Test == "":
		case event.Action == "pass":
			passed++
		case event.Action == "fail":
			failed = append(failed, event.Test)
			t.Log(event.Test, outputs[event.Test])
		}
	}
}

// jsonLines leaves out what the go command itself has printed.
func jsonLines(output []byte) []byte {
	return bytes.Join(regexp.MustCompile(`(?m)^\{.*$`).FindAll(output, -1), []byte("\n"))
}
