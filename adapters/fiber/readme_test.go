package fiberstore_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/gofiber/fiber/v3"
	"github.com/gofiber/fiber/v3/middleware/limiter"
	"github.com/gofiber/fiber/v3/middleware/session"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	fiberstore "github.com/pgsession/pgsession/adapters/fiber"
	"github.com/pgsession/pgsession/internal/doctest"
)

// The README shows these functions' bodies. Its program is in examples/fiber, whose test runs it.

func logOutEverywhereElse(c fiber.Ctx, store *pgsession.Store, sessions *fiberstore.Sessions, s *session.Middleware) error {
	this := sessions.Handle(c, s.ID())
	_, err := store.DeleteByUser(c.Context(), fiberstore.User(s), this)
	return err
}

func useLimiter(store *pgsession.Store, app *fiber.App) {
	app.Use(limiter.New(limiter.Config{Storage: fiberstore.NewKeyValue(store, "limiter")}))
}

func TestREADME_Compiles(t *testing.T) {
	t.Parallel()
	program := doctest.Read(t, "../../examples/fiber/main.go")
	require.LessOrEqual(t, strings.Count(program, "\n"), 110, "lines")
	unindented := strings.ReplaceAll(doctest.Read(t, "readme_test.go"), "\n\t", "\n")
	snippets := doctest.Snippets(t, "README.md", "go", "diff")
	require.Len(t, snippets, 5)
	spaces := regexp.MustCompile(`[ \t]+`)
	for _, s := range snippets {
		switch {
		case s.Language == "diff":
			for _, added := range regexp.MustCompile(`(?m)^\+(.*)$`).FindAllStringSubmatch(s.Code, -1) {
				line := spaces.ReplaceAllString(strings.TrimSpace(added[1]), " ")
				line = strings.ReplaceAll(line, "(store,", "(newStore(),")
				require.Contains(t, spaces.ReplaceAllString(program, " "), line)
			}
		case strings.HasPrefix(s.Code, "// Command"):
			require.Equal(t, program, s.Code)
		default:
			require.Contains(t, unindented, "\n"+s.Code)
		}
	}
}

func TestREADME_Snippets(t *testing.T) {
	t.Parallel()
	store, _ := newStore(t)
	sessions := fiberstore.NewSessions(store, "session_id")
	site := newSite(t, sessions)
	useLimiter(store, site.app)
	site.app.Get("/others", func(c fiber.Ctx) error {
		return logOutEverywhereElse(c, store, sessions, session.FromContext(c))
	})
	one, two := site.newBrowser(t), site.newBrowser(t)
	one.mustDo(t, "/login/ann")
	two.mustDo(t, "/login/ann")
	one.mustDo(t, "/others")
	require.Equal(t, "ann", one.mustDo(t, "/user"))
	require.Equal(t, "", two.mustDo(t, "/user"))
	counted, err := store.Count(t.Context())
	require.NoError(t, err)
	require.Positive(t, counted.Entries)
}
