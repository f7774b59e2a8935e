//go:build peers

package frameworks

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession/internal/peers"
	"github.com/pgsession/pgsession/internal/pgtest"
)

var cannotPass = map[string]string{
	"sessions/TestGH2MaxLength": "it raises the limit of a store that is in use, and ours is pgsession.WithMaxSize, which is set once",
}

// TestPeers runs the tests of others for stores on this one, each in a copy of its module:
//
//	go test -tags peers -run TestPeers -v .
//
// gorilla's TestNewCookieFromOptions tests no store.
func TestPeers(t *testing.T) {
	for _, peer := range []struct {
		module, folder, run string
		patch               func(t *testing.T, folder string)
	}{
		{"github.com/gorilla/sessions@v1.4.0", ".", "TestGH|TestFlashes|TestCookieStoreMapPanic", func(t *testing.T, folder string) {
			// The adapter imports the package, so its tests must be outside of it.
			outside := []string{"package sessions\n", "package sessions_test\n", "NewCookieStore(", "newPeerStore("}
			peers.Edit(t, filepath.Join(folder, "store_test.go"), append(outside, "NewFilesystemStore(", "newPeerStore(")...)
			peers.Edit(t, filepath.Join(folder, "sessions_test.go"), append(outside, "import (", "import (\n\t. \"github.com/gorilla/sessions\"")...)
			addStore(t, folder, "sessions_test")
		}},
		{"github.com/labstack/echo-contrib@v0.50.1", "session", ".", func(t *testing.T, folder string) {
			peers.Edit(t, filepath.Join(folder, "session_test.go"), "\t\"github.com/gorilla/sessions\"\n", "", "sessions.NewCookieStore(", "newPeerStore(")
			addStore(t, folder, "session")
		}},
		{"github.com/gin-contrib/sessions@v1.0.4", "memstore", ".", func(t *testing.T, folder string) {
			peers.Edit(t, filepath.Join(folder, "memstore_test.go"), `NewStore([]byte("secret"))`, `gorillastore.ForGin[sessions.Options](newPeerStore().Store)`,
				"import (", "import (\n\tgorillastore \"github.com/pgsession/pgsession/adapters/gorilla\"")
			addStore(t, folder, "memstore")
		}},
	} {
		t.Run(peer.module, func(t *testing.T) {
			module := download(t, peer.module)
			peer.patch(t, filepath.Join(module, peer.folder))
			database := "PEERS_DATABASE=" + pgtest.URL(t, pgtest.Pool(t))
			passed, total := peers.Run(t, filepath.Join(module, peer.folder), []string{database}, cannotPass, peer.run, ".")
			t.Log(peer.module, passed, "of", total, "cases pass")
		})
	}
}

// download returns a copy of a module, which uses the modules of this repository.
func download(t *testing.T, module string) (folder string) {
	t.Helper()
	folder = peers.Copy(t, module)
	adapter, err := filepath.Abs("../..")
	require.NoError(t, err)
	const library = "github.com/pgsession/pgsession"
	peers.Go(t, folder, "mod", "edit", "-require="+library+"@v0.0.0", "-replace="+library+"="+filepath.Join(adapter, "../.."),
		"-require="+library+"/adapters/gorilla@v0.0.0", "-replace="+library+"/adapters/gorilla="+adapter)
	return folder
}

func addStore(t *testing.T, folder, name string) {
	t.Helper()
	peers.Write(t, filepath.Join(folder, "peerstore_test.go"), "testdata/peerstore.go.txt", "PACKAGE", name)
}
