package main

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/examples/internal/programtest"
	"github.com/pgsession/pgsession/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m, nil) }

func TestProgram(t *testing.T) {
	pool, databaseURL := programtest.Schema(t)
	site := programtest.Start(t, "DATABASE_URL="+databaseURL, "SESSION_KEYS="+pgsession.GenerateKey().Secret())
	programtest.RequireCounts(t, site)
	var rows int
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM sessions`).Scan(&rows))
	require.Positive(t, rows)
}

func TestProgram_InMemory(t *testing.T) {
	programtest.RequireCounts(t, programtest.Start(t, "DATABASE_URL="))
}

// The adapter's README shows the program.
func TestProgram_Readme(t *testing.T) {
	t.Parallel()
	program, err := os.ReadFile("main.go")
	require.NoError(t, err)
	readme, err := os.ReadFile("../../adapters/fiber/README.md")
	require.NoError(t, err)
	require.Contains(t, string(readme), "\n```go\n"+string(program)+"```\n")
	require.LessOrEqual(t, strings.Count(string(program), "\n"), 110, "lines")
}
