package scsstore_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession/internal/doctest"
)

// TestREADME_Compiles builds every block of Go in the README, and what its diff leads to. The program
// is an example that is tested.
func TestREADME_Compiles(t *testing.T) {
	t.Parallel()
	snippets := doctest.Snippets(t, "README.md", "go", "diff")
	require.Len(t, snippets, 10)
	program := doctest.Read(t, "../../examples/scs/main.go")
	require.LessOrEqual(t, strings.Count(program, "\n"), 100)
	isShown := false
	for i, s := range snippets {
		isShown = isShown || s.Code == program
		if s.Language == "diff" {
			after := regexp.MustCompile(`(?m)^-.*\n`).ReplaceAllString(s.Code, "")
			snippets[i].Code = regexp.MustCompile(`(?m)^[ +]`).ReplaceAllString(after, "")
		}
	}
	require.True(t, isShown)
	doctest.Context{
		Imports: []string{
			"context", "fmt", "log", "net/http", "os", "time", "github.com/jackc/pgx/v5/pgxpool", "github.com/alexedwards/scs/v2",
			"github.com/pgsession/pgsession", "github.com/pgsession/pgsession/move", "scsstore github.com/pgsession/pgsession/adapters/scs",
		},
		Names: []string{
			"func check(error) {}",
			"var ctx context.Context",
			"var pool *pgxpool.Pool",
			"var store *pgsession.Store",
			"var sessions *scs.SessionManager",
			"var mux *http.ServeMux",
			"var old *move.Table",
			"var kept *scsstore.Store",
			"var token string",
		},
	}.Build(t, snippets)
}
