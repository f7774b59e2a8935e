package frameworks

import (
	"go/format"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession/internal/doctest"
)

var snippetContext = doctest.Context{
	Imports: []string{
		"context", "errors", "net/http", "os", "time", "github.com/gin-gonic/gin", "github.com/gorilla/securecookie",
		"gorilla github.com/gorilla/sessions", "github.com/gin-contrib/sessions", "github.com/jackc/pgx/v5/pgxpool",
		"github.com/labstack/echo-contrib/session", "github.com/labstack/echo/v4", "github.com/pgsession/pgsession",
		"gorillastore github.com/pgsession/pgsession/adapters/gorilla", "github.com/pgsession/pgsession/move",
	},
	Names: []string{
		"func check(error) {}",
		"var ctx context.Context",
		"var w http.ResponseWriter",
		"var r *http.Request",
		"var pool *pgxpool.Pool",
		"var sealed *pgsession.Store",
		"var store *gorillastore.Store",
		"var secret string",
		"var codecs []securecookie.Codec",
		"var table *move.Table",
	},
}

func TestReadme_Compiles(t *testing.T) {
	t.Parallel()
	snippets := doctest.Snippets(t, "../../README.md", "go")
	require.Len(t, snippets, 9)
	require.Equal(t, doctest.Read(t, "../../../../examples/gorilla/main.go"), snippets[1].Code, "the program that is tested")
	for i, s := range snippets {
		formatted, err := format.Source([]byte(s.Code))
		require.NoError(t, err)
		require.Equal(t, string(formatted), s.Code)
		if strings.Contains(s.Code, "session.Values") && i != 1 {
			snippets[i].Code = "var session *gorilla.Session\n" + s.Code
		}
	}
	snippetContext.Build(t, snippets)
}

func TestReadme_Links(t *testing.T) {
	t.Parallel()
	links := regexp.MustCompile("(?:`(Test\\w+)`)?\\]\\(([\\w./]+\\.(?:go|md))\\)").FindAllStringSubmatch(doctest.Read(t, "../../README.md"), -1)
	require.NotEmpty(t, links)
	for _, link := range links {
		content := doctest.Read(t, filepath.Join("../..", link[2]))
		if link[1] != "" {
			require.Contains(t, content, "func "+link[1]+"(")
		}
	}
}
