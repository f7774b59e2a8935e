package frameworks

import (
	"encoding/json"
	"fmt"
	"go/format"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// snippetStart is what the README's snippets use without declaring it.
const snippetStart = `package snippet

import (
	"context"
	"errors"
	"net/http"
	"os"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/gorilla/securecookie"
	gorilla "github.com/gorilla/sessions"
	"github.com/gin-contrib/sessions"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo-contrib/session"
	"github.com/labstack/echo/v4"

	"github.com/pgsession/pgsession"
	gorillastore "github.com/pgsession/pgsession/adapters/gorilla"
	"github.com/pgsession/pgsession/move"
)

var (
	_ = gin.New
	_ = session.Get
	_ = echo.New
	_ = errors.New
	_ = os.Getenv
	_ time.Time
	_ sessions.Session
	_ move.Progress
	_ = http.Get
	_ = pgxpool.New
)

func check(error) {}

func _(ctx context.Context, w http.ResponseWriter, r *http.Request, pool *pgxpool.Pool, sealed *pgsession.Store,
	store *gorillastore.Store, secret string, codecs []securecookie.Codec, table *move.Table) {
`

func TestReadme_Compiles(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	snippets := regexp.MustCompile("(?s)\n```go\n(.*?\n)```\n").FindAllStringSubmatch(string(readme), -1)
	require.Len(t, snippets, 9)
	program, err := os.ReadFile("../../../../examples/gorilla/main.go")
	require.NoError(t, err)
	require.Equal(t, string(program), snippets[1][1], "the program that is tested")

	folder, overlay, packages := t.TempDir(), map[string]string{}, []string{}
	for i, snippet := range snippets {
		code := snippet[1]
		formatted, err := format.Source([]byte(code))
		require.NoError(t, err)
		require.Equal(t, string(formatted), code)
		if !strings.Contains(code, "\npackage main\n") {
			code = completed(code)
		}
		file := filepath.Join(folder, fmt.Sprintf("%d.go", i))
		require.NoError(t, os.WriteFile(file, []byte(code), 0o600))
		path, err := filepath.Abs(fmt.Sprintf("snippet%d/main.go", i))
		require.NoError(t, err)
		overlay[path] = file
		packages = append(packages, fmt.Sprintf("./snippet%d", i))
	}
	list, err := json.Marshal(map[string]any{"Replace": overlay})
	require.NoError(t, err)
	overlayFile := filepath.Join(folder, "overlay.json")
	require.NoError(t, os.WriteFile(overlayFile, list, 0o600))
	output, err := exec.Command("go", append([]string{"build", "-overlay", overlayFile}, packages...)...).CombinedOutput()
	require.NoError(t, err, string(output))
}

// completed returns a function with the statements of a snippet, in which each variable is used.
func completed(code string) string {
	end := ""
	for _, declared := range regexp.MustCompile(`(?m)^(\w+)(?:, (\w+))? :=`).FindAllStringSubmatch(code, -1) {
		for _, name := range declared[1:] {
			if name != "" && name != "_" {
				end += "_ = " + name + "\n"
			}
		}
	}
	start := snippetStart
	if strings.Contains(code, "session.Values") {
		start += "var session *gorilla.Session\n"
	}
	return start + "var _ *gorilla.Session\n" + "{\n" + code + end + "}\n}\n"
}

func TestReadme_Links(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	links := regexp.MustCompile("(?:`(Test\\w+)`)?\\]\\(([\\w./]+\\.(?:go|md))\\)").FindAllStringSubmatch(string(readme), -1)
	require.NotEmpty(t, links)
	for _, link := range links {
		content, err := os.ReadFile(filepath.Join("../..", link[2]))
		require.NoError(t, err)
		if link[1] != "" {
			require.Contains(t, string(content), "func "+link[1]+"(")
		}
	}
}
