package docs_test

import (
	"go/format"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession/internal/doctest"
)

// The tests read the whole repository.
func TestMain(m *testing.M) {
	if err := os.Chdir(".."); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// TestDocs_Compile builds every snippet but the recipes, which are tested.
func TestDocs_Compile(t *testing.T) {
	t.Parallel()
	snippets := slices.DeleteFunc(goSnippets(t), isRecipe)
	require.GreaterOrEqual(t, len(snippets), 20)
	snippetContext.Build(t, snippets)
}

// TestDocs_Format wants the snippets as gofmt writes them.
func TestDocs_Format(t *testing.T) {
	t.Parallel()
	for _, s := range goSnippets(t) {
		formatted, err := format.Source([]byte(s.Code))
		require.NoError(t, err, s.Place)
		require.Equal(t, string(formatted), s.Code, s.Place)
	}
}

// TestDocs_FirstPrograms wants the README's first program, and what it says about PostgreSQL, to be
// in the examples that are tested.
func TestDocs_FirstPrograms(t *testing.T) {
	t.Parallel()
	snippets := goSnippets(t)
	program := doctest.Read(t, "examples/minimal/main.go")
	require.Equal(t, program, snippets[0].Code)
	require.LessOrEqual(t, strings.Count(program, "\n"), 40, "lines")
	unindented := strings.ReplaceAll(doctest.Read(t, "examples/minimal-postgres/main.go"), "\n\t", "\n")
	require.Contains(t, unindented, snippets[1].Code)
}

// TestDocs_Recipes wants docs/recipes.md to show the recipes that are tested.
func TestDocs_Recipes(t *testing.T) {
	t.Parallel()
	unindented := func(code string) string { return regexp.MustCompile(`(?m)^\t+`).ReplaceAllString(code, "") }
	var recipes strings.Builder
	for _, file := range documents(t, "examples/recipes/*.go") {
		recipes.WriteString(unindented(doctest.Read(t, file)))
		if name := filepath.Base(file); name != "recipes.go" && !strings.HasSuffix(name, "_test.go") {
			require.Contains(t, doctest.Read(t, "docs/recipes.md"), "(../"+file+")")
		}
	}
	for _, s := range goSnippets(t) {
		if isRecipe(s) {
			require.Contains(t, recipes.String(), "\n"+unindented(s.Code), s.Place)
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
		text := regexp.MustCompile("(?s)\n```.*?\n```").ReplaceAllString(doctest.Read(t, file), "")
		prose := regexp.MustCompile("`[^`\n]*`").ReplaceAllString(text, "")
		for _, match := range link.FindAllStringSubmatch(prose, -1) {
			target := filepath.Join(filepath.Dir(file), match[1])
			_, err := os.Stat(target)
			require.NoError(t, err, file)
			if anchor := strings.TrimPrefix(match[2], "#"); anchor != "" {
				require.Contains(t, anchors(doctest.Read(t, target)), anchor, "%s: %s", file, match[1])
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
	named := regexp.MustCompile("`([\\w/]+\\.go):(\\w+)`").FindAllStringSubmatch(doctest.Read(t, "ARCHITECTURE.md"), -1)
	require.NotEmpty(t, named)
	for _, match := range named {
		require.Regexp(t, `(?m)^func (\([^)]*\) )?`+match[2]+`[\[(]`, doctest.Read(t, match[1]), match[0])
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

// goSnippets returns the blocks of Go in README.md and docs/*.md.
func goSnippets(t testing.TB) (snippets []doctest.Snippet) {
	t.Helper()
	for _, file := range documents(t, "README.md", "docs/*.md") {
		snippets = append(snippets, doctest.Snippets(t, file, "go")...)
	}
	return snippets
}

// isRecipe reports whether a snippet is part of a file that is compiled and tested.
func isRecipe(s doctest.Snippet) bool { return strings.HasPrefix(s.Place, "docs/recipes.md:") }

var snippetContext = doctest.Context{
	Imports: []string{
		"context", "encoding/json", "errors", "expvar", "fmt", "log/slog", "net/http", "net/http/cookiejar", "net/http/httptest",
		"os", "strings", "testing", "time",
		"github.com/jackc/pgx/v5", "github.com/jackc/pgx/v5/pgxpool", "github.com/jackc/pgx/v5/stdlib",
		"github.com/pgsession/pgsession", "github.com/pgsession/pgsession/httpsession", "github.com/pgsession/pgsession/pgsessiontest",
	},
	Names: []string{
		"type Values struct{ Cart []string }",
		"const day = 24 * time.Hour",
		"func check(error) {}",
		"var ctx context.Context",
		"var pool *pgxpool.Pool",
		"var keys *pgsession.Crypto",
		"var keysOf func(tenant string) *pgsession.Crypto",
		"var store *pgsession.Store",
		"var sessions *httpsession.Manager[Values]",
		"var mux *http.ServeMux",
		"var w http.ResponseWriter",
		"var r *http.Request",
		"var userID string",
		"var newApp func(*pgsession.Store) http.Handler",
		"var oldUser func(*http.Request) string",
		"var endOld func(http.ResponseWriter, *http.Request) error",
	},
}

// testNames returns the names of all tests in this repository.
func testNames(t testing.TB) (names []string) {
	t.Helper()
	declaration := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	err := filepath.WalkDir(".", func(path string, _ os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		for _, match := range declaration.FindAllStringSubmatch(doctest.Read(t, path), -1) {
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
