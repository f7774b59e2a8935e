package internal_test

import (
	"go/build"
	"go/scanner"
	"go/token"
	"os"
	"path/filepath"
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

// imports returns what a folder of this module imports, and what the packages of this module that it
// imports do.
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
