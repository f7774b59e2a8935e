package internal_test

import (
	"go/build"
	"go/format"
	"go/parser"
	"go/scanner"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The tests read the whole module.
func TestMain(m *testing.M) {
	if err := os.Chdir(".."); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

const module = "github.com/pgsession/pgsession"

// TestLayers_Imports holds the rules above and the rows below: what keeps rows knows nothing of the
// package that says what operations mean, and what says what a row is knows nothing of PostgreSQL.
func TestLayers_Imports(t *testing.T) {
	t.Parallel()
	rows, pgtable := imports(t, "internal/rows"), imports(t, "internal/pgtable")
	require.NotContains(t, rows, module)
	require.NotContains(t, pgtable, module)
	require.Contains(t, pgtable, module+"/internal/rows")
	isPGX := func(path string) bool { return strings.HasPrefix(path, "github.com/jackc/") }
	require.True(t, slices.ContainsFunc(pgtable, isPGX))
	require.False(t, slices.ContainsFunc(rows, isPGX), "%v", rows)
	require.NotContains(t, rows, module+"/internal/pgtable")
}

// imports returns what a folder of this module imports, and what the packages of this module that
// it imports do.
func imports(t testing.TB, folder string) (all []string) {
	t.Helper()
	pkg, err := build.ImportDir(filepath.FromSlash(folder), 0)
	require.NoError(t, err)
	for _, path := range pkg.Imports {
		all = append(all, path)
		if below, ok := strings.CutPrefix(path, module+"/"); ok {
			all = append(all, imports(t, below)...)
		}
	}
	return all
}

// TestLayers_SQL holds the SQL in internal/pgtable.
func TestLayers_SQL(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	require.Contains(t, files, "store.go")
	for _, file := range files {
		if file == "schema.go" || strings.HasSuffix(file, "_test.go") {
			continue
		}
		for _, text := range stringLiterals(t, file) {
			for _, statement := range []string{"SELECT ", "UPDATE ", "INSERT ", "DELETE FROM"} {
				require.NotContains(t, text, statement, file)
			}
		}
	}
}

// TestLayers_Layout holds what differs in a table that Citus distributes in the files named so: no
// other one knows of that, but for those that look at the layout or go by what it says.
func TestLayers_Layout(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("internal/pgtable/*.go")
	require.NoError(t, err)
	known := regexp.MustCompile(`(?i)distribut|citus|shard`)
	seen := 0
	for _, file := range files {
		text := code(t, file)
		if strings.HasPrefix(filepath.Base(file), "distributed") {
			require.Regexp(t, known, text, file)
			seen++
		} else if !strings.HasSuffix(file, "_test.go") {
			require.NotRegexp(t, known, text, file)
		}
	}
	require.Positive(t, seen)
}

// code returns a file without its comments.
func code(t testing.TB, file string) string {
	t.Helper()
	files := token.NewFileSet()
	tree, err := parser.ParseFile(files, file, nil, parser.SkipObjectResolution)
	require.NoError(t, err)
	var text strings.Builder
	require.NoError(t, format.Node(&text, files, tree))
	return text.String()
}

func stringLiterals(t testing.TB, file string) (found []string) {
	t.Helper()
	source, err := os.ReadFile(file)
	require.NoError(t, err)
	var s scanner.Scanner
	files := token.NewFileSet()
	s.Init(files.AddFile(file, -1, len(source)), source, nil, 0)
	for {
		switch _, kind, text := s.Scan(); kind {
		case token.STRING:
			found = append(found, text)
		case token.EOF:
			return found
		}
	}
}
