package scsstore_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestREADME_Compiles builds every block of Go in the README, and what its diff leads to. The
// program is built by TestREADME_Program's example.
func TestREADME_Compiles(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("README.md")
	require.NoError(t, err)
	folder, overlay, packages := t.TempDir(), map[string]string{}, []string{}
	blocks := regexp.MustCompile("(?s)\n```(go|diff)\n(.*?)```").FindAllStringSubmatch(string(content), -1)
	require.Len(t, blocks, 10)
	for i, block := range blocks {
		code := block[2]
		if strings.HasPrefix(code, "// Command") {
			continue
		}
		if block[1] == "diff" {
			code = regexp.MustCompile(`(?m)^-.*\n`).ReplaceAllString(code, "")
			code = regexp.MustCompile(`(?m)^[ +]`).ReplaceAllString(code, "")
		}
		file := filepath.Join(folder, fmt.Sprint(i, ".go"))
		require.NoError(t, os.WriteFile(file, []byte(completed(code)), 0o600))
		name := fmt.Sprint("snippet", i)
		path, err := filepath.Abs(filepath.Join(name, "main.go"))
		require.NoError(t, err)
		overlay[path] = file
		packages = append(packages, "./"+name)
	}
	list, err := json.Marshal(map[string]any{"Replace": overlay})
	require.NoError(t, err)
	file := filepath.Join(folder, "overlay.json")
	require.NoError(t, os.WriteFile(file, list, 0o600))
	output, err := exec.Command("go", append([]string{"build", "-overlay", file}, packages...)...).CombinedOutput()
	require.NoError(t, err, "%s", output)
}

// given are the names that the README's blocks use without declaring them.
var given = map[string]string{
	"ctx":      "context.Background()",
	"pool":     "(*pgxpool.Pool)(nil)",
	"store":    "pgsession.InMemory()",
	"sessions": "scs.New()",
	"mux":      "http.NewServeMux()",
	"old":      "move.FromSCS(nil, \"sessions\")",
	"kept":     "(*scsstore.Store)(nil)",
	"token":    `"token"`,
}

var imports = map[string]string{
	"context": "context", "fmt": "fmt", "http": "net/http", "os": "os", "time": "time", "pgxpool": "github.com/jackc/pgx/v5/pgxpool",
	"scs": "github.com/alexedwards/scs/v2", "pgsession": "github.com/pgsession/pgsession", "move": "github.com/pgsession/pgsession/move",
	"scsstore": "github.com/pgsession/pgsession/adapters/scs", "log": "log",
}

// completed makes a package of statements.
func completed(code string) string {
	var declared strings.Builder
	for name, value := range given {
		fmt.Fprintf(&declared, "var %s = %s\n", name, value)
	}
	used := declared.String() + code + "log.Fatal"
	program := "package snippet\n\n"
	for name, path := range imports {
		if regexp.MustCompile(`\b` + name + `\.`).MatchString(used) {
			program += fmt.Sprintf("import %s %q\n", name, path)
		}
	}
	program += declared.String()
	program += "func check(err error) { if err != nil { log.Fatal(err) } }\n"
	uses := ""
	for name := range given {
		if regexp.MustCompile(`(?m)^\s*` + name + `(, err)? := `).MatchString(code) {
			uses += "_ = " + name + "\n"
		}
	}
	return program + "func _() {\n" + code + "\n" + uses + "}\n"
}

// The README's program is an example that is tested.
func TestREADME_Program(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	program, err := os.ReadFile("../../examples/scs/main.go")
	require.NoError(t, err)
	require.Contains(t, string(readme), "```go\n"+string(program)+"```")
	require.LessOrEqual(t, strings.Count(string(program), "\n"), 100)
}
