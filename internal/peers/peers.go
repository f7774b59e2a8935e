// Package peers runs the tests of other projects on stores of this one.
package peers

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Copy downloads a module, and returns a copy to be changed.
func Copy(t testing.TB, module string) (folder string) {
	t.Helper()
	output, err := exec.Command("go", "mod", "download", "-json", module).Output()
	require.NoError(t, err, "%s", output)
	var downloaded struct{ Dir string }
	require.NoError(t, json.Unmarshal(output, &downloaded))
	folder = filepath.Join(t.TempDir(), "module")
	require.NoError(t, os.CopyFS(folder, os.DirFS(downloaded.Dir)))
	return folder
}

// Write copies a file, and replaces texts of it, each of which must be there.
func Write(t testing.TB, file, from string, oldAndNew ...string) {
	t.Helper()
	content, err := os.ReadFile(from)
	require.NoError(t, err)
	text := string(content)
	for pair := range slices.Chunk(oldAndNew, 2) {
		require.True(t, strings.Contains(text, pair[0]), "%s has no %q", from, pair[0])
		text = strings.ReplaceAll(text, pair[0], pair[1])
	}
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
}

// Edit is Write for a file that stays where it is.
func Edit(t testing.TB, file string, oldAndNew ...string) {
	t.Helper()
	Write(t, file, file, oldAndNew...)
}

// Go runs the go command.
func Go(t testing.TB, folder string, args ...string) (output string) {
	t.Helper()
	command := exec.Command("go", args...)
	command.Dir = folder
	out, err := command.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

// Run runs the tests of packages that match a pattern, and returns how many there were in each
// package, and how many passed. All have to pass but those in cannotPass, which have to fail. Their
// names begin with the last element of the package's path. Tests that sleep fail on a busy machine,
// so what fails runs again, twice at most.
func Run(t testing.TB, folder string, environment []string, cannotPass map[string]string, pattern string, packages ...string) (passed, total map[string]int) {
	t.Helper()
	hasPassed, outputs := map[string]bool{}, map[string]string{}
	for attempt := 0; attempt < 3 && pattern != ""; attempt++ {
		command := exec.Command("go", append([]string{"test", "-mod=mod", "-json", "-count=1", "-run", pattern}, packages...)...)
		command.Dir, command.Env = folder, append(os.Environ(), environment...)
		output, _ := command.CombinedOutput() // the events say what failed
		for line := range bytes.Lines(output) {
			var event struct{ Action, Package, Test, Output string }
			if err := json.Unmarshal(line, &event); err != nil {
				t.Logf("%s", line) // of the go command itself
				continue
			}
			if event.Test == "" {
				t.Log(event.Output)
				continue
			}
			name := path.Base(event.Package) + "/" + event.Test
			outputs[name] += event.Output
			if event.Action == "pass" || event.Action == "fail" {
				hasPassed[name] = event.Action == "pass"
			}
		}
		var failed []string
		for name, ok := range hasPassed {
			if !ok && cannotPass[name] == "" {
				failed = append(failed, "^"+strings.Split(name, "/")[1]+"$")
			}
		}
		pattern = strings.Join(failed, "|")
	}
	passed, total = map[string]int{}, map[string]int{}
	for name, ok := range hasPassed {
		require.Equal(t, cannotPass[name] == "", ok, "%s\n%s", name, outputs[name])
		peer, _, _ := strings.Cut(name, "/")
		total[peer]++
		if ok {
			passed[peer]++
		}
	}
	require.NotEmpty(t, passed)
	return passed, total
}
