package docs_test

import (
	"encoding/json"
	"fmt"
	"go/format"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The tests read the whole repository.
func TestMain(m *testing.M) {
	if err := os.Chdir(".."); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// A snippet is a block of Go in README.md or docs/*.md.
type snippet struct {
	place string // file:line
	code  string
}

// TestDocs_Compile builds every snippet. A complete program is built as it is. Any other snippet is
// declarations, or statements of a function, and is completed by the names in snippetNames.
func TestDocs_Compile(t *testing.T) {
	t.Parallel()
	snippets := slices.DeleteFunc(goSnippets(t), isRecipe)
	require.GreaterOrEqual(t, len(snippets), 20)
	// The packages lie in folders of this module that exist for the go command only (go help build,
	// -overlay).
	folder := t.TempDir()
	overlay := map[string]string{}
	places := map[string]string{}
	var packages []string
	for i, s := range snippets {
		name := fmt.Sprintf("docs/snippet%d", i)
		file := filepath.Join(folder, fmt.Sprintf("snippet%d.go", i))
		require.NoError(t, os.WriteFile(file, []byte(completed(s.code)), 0o600))
		path, err := filepath.Abs(name + "/main.go")
		require.NoError(t, err)
		overlay[path] = file
		places[name] = s.place
		packages = append(packages, "./"+name)
	}
	list, err := json.Marshal(map[string]any{"Replace": overlay})
	require.NoError(t, err)
	overlayFile := filepath.Join(folder, "overlay.json")
	require.NoError(t, os.WriteFile(overlayFile, list, 0o600))
	output, err := exec.Command("go", append([]string{"build", "-overlay", overlayFile}, packages...)...).CombinedOutput()
	text := regexp.MustCompile(`docs/snippet\d+`).ReplaceAllStringFunc(string(output), func(name string) string {
		return places[name] + " (" + name + ")"
	})
	require.NoError(t, err, "%s", text)
}

// TestDocs_Format wants the snippets as gofmt writes them.
func TestDocs_Format(t *testing.T) {
	t.Parallel()
	for _, s := range goSnippets(t) {
		formatted, err := format.Source([]byte(s.code))
		require.NoError(t, err, s.place)
		require.Equal(t, string(formatted), s.code, s.place)
	}
}

// TestDocs_FirstPrograms wants the README's first program, and what it says about PostgreSQL, to be
// in the examples that are tested.
func TestDocs_FirstPrograms(t *testing.T) {
	t.Parallel()
	snippets := goSnippets(t)
	program := read(t, "examples/minimal/main.go")
	require.Equal(t, program, snippets[0].code)
	require.LessOrEqual(t, strings.Count(program, "\n"), 40, "lines")
	unindented := strings.ReplaceAll(read(t, "examples/minimal-postgres/main.go"), "\n\t", "\n")
	require.Contains(t, unindented, snippets[1].code)
}

// TestDocs_Recipes wants docs/recipes.md to show the recipes that are tested.
func TestDocs_Recipes(t *testing.T) {
	t.Parallel()
	unindented := func(code string) string { return regexp.MustCompile(`(?m)^\t+`).ReplaceAllString(code, "") }
	var recipes strings.Builder
	for _, file := range documents(t, "examples/recipes/*.go") {
		recipes.WriteString(unindented(read(t, file)))
		if name := filepath.Base(file); name != "recipes.go" && !strings.HasSuffix(name, "_test.go") {
			require.Contains(t, read(t, "docs/recipes.md"), "(../"+file+")")
		}
	}
	for _, s := range goSnippets(t) {
		if isRecipe(s) {
			require.Contains(t, recipes.String(), "\n"+unindented(s.code), s.place)
		}
	}
}

// TestDocs_Links wants every relative link to lead to a file, and every test that is named to
// exist.
func TestDocs_Links(t *testing.T) {
	t.Parallel()
	tests := testNames(t)
	link := regexp.MustCompile(`(?:\]\(|src(?:set)?=")([^)"#:]+)(#[^)"]*)?[)"]`)
	c := regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w*)`")
	for _, file := range documents(t, "*.md", "docs/*.md") {
		text := regexp.MustCompile("(?s)\n```.*?\n```").ReplaceAllString(read(t, file), "")
		prose := regexp.MustCompile("`[^`\n]*`").ReplaceAllString(text, "")
		for _, match := range link.FindAllStringSubmatch(prose, -1) {
			target := filepath.Join(filepath.Dir(file), match[1])
			_, err := os.Stat(target)
			require.NoError(t, err, file)
			if anchor := strings.TrimPrefix(match[2], "#"); anchor != "" {
				require.Contains(t, anchors(read(t, target)), anchor, "%s: %s", file, match[1])
			}
		}
		for _, match := range c.FindAllStringSubmatch(text, -1) {
			require.Contains(t, tests, match[1], file)
		}
	}
}

// TestDocs_Functions wants every function that ARCHITECTURE.md names, as file.go:function, to be
// there.
func TestDocs_Functions(t *testing.T) {
	t.Parallel()
	named := regexp.MustCompile("`([\\w/]+\\.go):(\\w+)`").FindAllStringSubmatch(read(t, "ARCHITECTURE.md"), -1)
	require.NotEmpty(t, named)
	for _, match := range named {
		require.Regexp(t, `(?m)^func (\([^)]*\) )?`+match[2]+`[\[(]`, read(t, match[1]), match[0])
	}
}

func documents(t testing.TB, patterns ...string) (files []string) {
	t.Helper()
	for _, pattern := range patterns {
		found, err := filepath.Glob(pattern)
		require.NoError(t, err)
		require.NotEmpty(t, found, pattern)
		files = append(files, found...)
	}
	return files
}

func read(t testing.TB, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	return string(content)
}

// goSnippets returns the blocks of Go in README.md and docs/*.md.
func goSnippets(t testing.TB) (snippets []snippet) {
	t.Helper()
	for _, file := range documents(t, "README.md", "docs/*.md") {
		var code []string
		begun := 0 // the line at which the block began; 0 outside of one
		for i, line := range strings.Split(read(t, file), "\n") {
			switch {
			case line == "```go":
				begun = i + 1
			case begun > 0 && line == "```":
				snippets = append(snippets, snippet{fmt.Sprintf("%s:%d", file, begun), strings.Join(code, "\n") + "\n"})
				code, begun = nil, 0
			case begun > 0:
				code = append(code, line)
			}
		}
	}
	return snippets
}

// isRecipe reports whether a snippet is part of a file that is compiled and tested.
func isRecipe(s snippet) bool { return strings.HasPrefix(s.place, "docs/recipes.md:") }

// snippetNames are the names that snippets use without declaring them, each with its declaration.
var snippetNames = [][2]string{
	{"Values", "type Values struct{ Cart []string }"},
	{"day", "const day = 24 * time.Hour"},
	{"check", "func check(error) {}"},
	{"ctx", "var ctx context.Context"},
	{"pool", "var pool *pgxpool.Pool"},
	{"keys", "var keys *pgsession.Crypto"},
	{"keysOf", "var keysOf func(tenant string) *pgsession.Crypto"},
	{"store", "var store *pgsession.Store"},
	{"sessions", "var sessions *httpsession.Manager[Values]"},
	{"mux", "var mux *http.ServeMux"},
	{"w", "var w http.ResponseWriter"},
	{"r", "var r *http.Request"},
	{"userID", "var userID string"},
	{"newApp", "var newApp func(*pgsession.Store) http.Handler"},
	{"oldUser", "var oldUser func(*http.Request) string"},
	{"endOld", "var endOld func(http.ResponseWriter, *http.Request) error"},
}

// snippetImports are what snippets import without saying so. Each is used once, so that it
// compiles.
const snippetImports = `package snippet

import (
	"context"
	"encoding/json"
	"errors"
	"expvar"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/httpsession"
	"github.com/pgsession/pgsession/pgsessiontest"
)

var (
	_ context.Context
	_ json.RawMessage
	_ = errors.New
	_ = expvar.Publish
	_ = fmt.Sprint
	_ = slog.Info
	_ = http.Get
	_ cookiejar.Jar
	_ httptest.Server
	_ = os.Getenv
	_ = strings.Split
	_ testing.T
	_ time.Time
	_ pgx.Conn
	_ pgxpool.Pool
	_ = stdlib.OpenDB
	_ pgsession.ID
	_ = httpsession.NextPage
	_ pgsessiontest.Store
)

`

// completed returns a snippet as a file that compiles if the snippet does.
func completed(code string) string {
	if regexp.MustCompile(`(?m)^package `).MatchString(code) {
		return code
	}
	var file strings.Builder
	file.WriteString(snippetImports)
	for _, name := range snippetNames {
		if !regexp.MustCompile(`(?m)^(func|type|var|const) ` + name[0] + `\b`).MatchString(code) {
			file.WriteString(name[1] + "\n")
		}
	}
	if _, err := parser.ParseFile(token.NewFileSet(), "", "package p\n"+code, 0); err == nil {
		file.WriteString(code)
	} else {
		file.WriteString("func _() (err error) {\n" + code + "return\n}\n")
	}
	return file.String()
}

// testNames returns the names of all tests in this repository.
func testNames(t testing.TB) (names []string) {
	t.Helper()
	declaration := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	err := filepath.WalkDir(".", func(path string, _ os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		for _, match := range declaration.FindAllStringSubmatch(read(t, path), -1) {
			names = append(names, match[1])
		}
		return nil
	})
	require.NoError(t, err)
	return names
}

// anchors returns the fragments that GitHub gives to the headings of a page.
func anchors(text string) (found []string) {
	for _, match := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
		plain := regexp.MustCompile(`[^\w\- ]`).ReplaceAllString(strings.ToLower(match[1]), "")
		found = append(found, strings.ReplaceAll(plain, " ", "-"))
	}
	return found
}
