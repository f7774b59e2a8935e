//go:build peers

package scsstore_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
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
	pool, schema := pgtest.Schema(t)
	folder := t.TempDir()
	module(t, folder)
	edit(t, filepath.Join(folder, "peers", "peers.go"), read(t, "testdata/peers.go.txt"))

	// scs itself: another default store, and our context around a request's.
	copyGo(t, download(t, "github.com/alexedwards/scs/v2@v2.9.0"), filepath.Join(folder, "scs"), func(file, text string) string {
		if file != "session.go" {
			return text
		}
		return replace(t, text,
			`"github.com/alexedwards/scs/v2/memstore"`, `"peer/peers"`,
			`memstore.New()`, `peers.NewStore()`,
			`s.Load(r.Context(), token)`, `s.Load(peers.Context(r.Context(), s.Store), token)`)
	})
	// pgxstore: our store in the place of its own.
	copyGo(t, download(t, "github.com/alexedwards/scs/pgxstore@v0.0.0-20240316134038-7e11d57e8885"), filepath.Join(folder, "pgxstore"),
		func(file, text string) string {
			if file == "pgxstore.go" {
				return "package pgxstore\n\nimport \"peer/peers\"\n\nvar NewWithCleanupInterval = peers.NewWithCleanupInterval\n"
			}
			return text
		})

	database := databaseURL(t, pool.Config().ConnString(), schema)
	environment := append(os.Environ(), "GOFLAGS=-mod=mod", "PEERS_DATABASE="+pool.Config().ConnString(), "PEERS_SCHEMA="+schema, "SCS_POSTGRES_TEST_DSN="+database)
	newStore(t, pool, pgsession.WithTable("sessions")) // pgxstore's tests truncate it first
	for i, run := range []struct{ name, folder, setting string }{
		{"scs with our store alone", "scs", ""},
		{"scs with our LoadAndSave", "scs", "PEERS_LOADANDSAVE=1"},
		{"pgxstore", "pgxstore", ""},
	} {
		passed, total := 0, 0
		setting := append(environment, run.setting, fmt.Sprintf("PEERS_TABLES=peers_%d_", i))
		results := goTest(t, folder, run.folder, setting, ".")
		for range 2 { // their tests sleep for milliseconds, so that a busy machine fails some
			if again := failed(results, run.folder); again != "" {
				maps.Copy(results, goTest(t, folder, run.folder, setting, again))
			}
		}
		for test, result := range results {
			total++
			if result.passed {
				passed++
			}
			require.Equal(t, cannotPass[run.folder+"/"+test] == "", result.passed, "%s\n%s", test, result.output)
		}
		require.Positive(t, total)
		t.Logf("%s: %d of %d cases passed", run.name, passed, total)
	}
}

type result struct {
	passed bool
	output string
}

// failed returns a pattern for the tests that should have passed, or "".
func failed(results map[string]result, folder string) string {
	var names []string
	for test, result := range results {
		if name, _, _ := strings.Cut(test, "/"); !result.passed && cannotPass[folder+"/"+test] == "" {
			names = append(names, "^"+name+"$")
		}
	}
	return strings.Join(names, "|")
}

// goTest runs the tests of a package that match a pattern, and returns their results by name.
func goTest(t testing.TB, folder, name string, environment []string, pattern string) map[string]result {
	t.Helper()
	command := exec.Command("go", "test", "-json", "-count=1", "-run", pattern, "./"+name)
	command.Dir, command.Env = folder, environment
	output, _ := command.CombinedOutput() // the events say what failed
	results, outputs := map[string]result{}, map[string]string{}
	lines := bufio.NewScanner(bytes.NewReader(output))
	for lines.Scan() {
		var event struct{ Action, Test, Output string }
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil || event.Test == "" {
			t.Log(lines.Text())
			continue
		}
		outputs[event.Test] += event.Output
		if event.Action == "pass" || event.Action == "fail" {
			results[event.Test] = result{event.Action == "pass", outputs[event.Test]}
		}
	}
	return results
}

// module writes the go.mod of a module that uses this one.
func module(t testing.TB, folder string) {
	t.Helper()
	adapter, err := os.Getwd()
	require.NoError(t, err)
	text := replace(t, read(t, "go.mod"),
		"module github.com/pgsession/pgsession/adapters/scs\n", "module peer\n",
		"replace github.com/pgsession/pgsession => ../..\n", fmt.Sprintf(
			"replace github.com/pgsession/pgsession => %s\n\nreplace github.com/pgsession/pgsession/adapters/scs => %s\n\nrequire github.com/pgsession/pgsession/adapters/scs v0.0.0\n",
			filepath.Join(adapter, "..", ".."), adapter))
	edit(t, filepath.Join(folder, "go.mod"), text)
	edit(t, filepath.Join(folder, "go.sum"), read(t, "go.sum"))
}

func download(t testing.TB, module string) (folder string) {
	t.Helper()
	output, err := exec.Command("go", "mod", "download", "-json", module).Output()
	require.NoError(t, err, "%s", output)
	var downloaded struct{ Dir string }
	require.NoError(t, json.Unmarshal(output, &downloaded))
	return downloaded.Dir
}

func copyGo(t testing.TB, from, to string, patch func(file, text string) string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(from, "*.go"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		name := filepath.Base(file)
		edit(t, filepath.Join(to, name), patch(name, read(t, file)))
	}
}

// replace wants each old string to be there once.
func replace(t testing.TB, text string, oldAndNew ...string) string {
	t.Helper()
	for i := 0; i < len(oldAndNew); i += 2 {
		require.Equal(t, 1, strings.Count(text, oldAndNew[i]), oldAndNew[i])
		text = strings.Replace(text, oldAndNew[i], oldAndNew[i+1], 1)
	}
	return text
}

func databaseURL(t testing.TB, database, schema string) string {
	t.Helper()
	parsed, err := url.Parse(database)
	require.NoError(t, err)
	query := parsed.Query()
	query.Set("search_path", schema)
	parsed.RawQuery = query.Encode()
	return parsed.String()
}

func read(t testing.TB, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	return string(content)
}

func edit(t testing.TB, file, text string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
}
