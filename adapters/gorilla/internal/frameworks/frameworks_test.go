package frameworks

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"testing"

	ginsessions "github.com/gin-contrib/sessions"
	"github.com/gin-contrib/sessions/tester"
	"github.com/gin-gonic/gin"
	"github.com/gorilla/sessions"
	"github.com/labstack/echo-contrib/session"
	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	gorillastore "github.com/pgsession/pgsession/adapters/gorilla"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/test"
)

func TestMain(m *testing.M) {
	gin.SetMode(gin.ReleaseMode)
	gin.DefaultWriter = io.Discard
	pgtest.Main(m, func() error { return goleak.Find() })
}

func newStore(t *testing.T, opts ...gorillastore.Option) *gorillastore.Store {
	t.Helper()
	return gorillastore.New(test.OpenTable(t, pgtest.Pool(t), "sessions"), opts...)
}

// gin-contrib's own tests for stores.
func TestGin_Tester(t *testing.T) {
	t.Parallel()
	newStore := func(t *testing.T) ginsessions.Store { return gorillastore.ForGin[ginsessions.Options](newStore(t)) }
	t.Run("GetSet", func(t *testing.T) { tester.GetSet(t, newStore) })
	t.Run("DeleteKey", func(t *testing.T) { tester.DeleteKey(t, newStore) })
	t.Run("Flashes", func(t *testing.T) { tester.Flashes(t, newStore) })
	t.Run("Clear", func(t *testing.T) { tester.Clear(t, newStore) })
	t.Run("Options", func(t *testing.T) { tester.Options(t, newStore) })
	t.Run("Many", func(t *testing.T) { tester.Many(t, newStore) })
}

func TestGin(t *testing.T) {
	t.Parallel()
	store := gorillastore.ForGin[ginsessions.Options](newStore(t, gorillastore.WithUserKey("user")))
	store.Options(ginsessions.Options{Path: "/", MaxAge: 3600, HttpOnly: true})
	router := gin.New()
	router.Use(ginsessions.Sessions("app", store))
	change := func(do func(ginsessions.Session)) gin.HandlerFunc {
		return func(c *gin.Context) {
			s := ginsessions.Default(c)
			do(s)
			if err := s.Save(); err != nil {
				_ = c.AbortWithError(http.StatusServiceUnavailable, err)
			}
		}
	}
	router.POST("/login", change(func(s ginsessions.Session) { s.Set("user", "ann"); s.AddFlash("welcome") }))
	router.POST("/count", change(func(s ginsessions.Session) { n, _ := s.Get("n").(int); s.Set("n", n+1) }))
	router.POST("/clear", change(func(s ginsessions.Session) { s.Clear() }))
	router.POST("/logout", change(func(s ginsessions.Session) { s.Options(ginsessions.Options{Path: "/", MaxAge: -1}) }))
	router.GET("/", func(c *gin.Context) {
		s := ginsessions.Default(c)
		c.String(http.StatusOK, "%v %v %v %v", s.Get("user"), s.Get("n"), s.Flashes(), s.ID() != "")
	})
	visit(t, router)
}

func TestEcho(t *testing.T) {
	t.Parallel()
	store := newStore(t, gorillastore.WithUserKey("user"))
	store.Options = &sessions.Options{Path: "/", MaxAge: 3600, HttpOnly: true}
	router := echo.New()
	router.Logger.SetOutput(io.Discard)
	router.Use(session.Middleware(store))
	change := func(do func(*sessions.Session)) echo.HandlerFunc {
		return func(c echo.Context) error {
			s, err := session.Get("app", c)
			if err != nil {
				return err
			}
			do(s)
			return s.Save(c.Request(), c.Response())
		}
	}
	router.POST("/login", change(func(s *sessions.Session) { s.Values["user"] = "ann"; s.AddFlash("welcome") }))
	router.POST("/count", change(func(s *sessions.Session) { n, _ := s.Values["n"].(int); s.Values["n"] = n + 1 }))
	router.POST("/clear", change(func(s *sessions.Session) { clear(s.Values) }))
	router.POST("/logout", change(func(s *sessions.Session) { s.Options.MaxAge = -1 }))
	router.GET("/", func(c echo.Context) error {
		s, err := session.Get("app", c)
		if err != nil {
			return err
		}
		return c.String(http.StatusOK, fmt.Sprintf("%v %v %v %v", s.Values["user"], s.Values["n"], s.Flashes(), s.ID != ""))
	})
	visit(t, router)
}

// visit logs in, comes back, logs out and comes back.
func visit(t *testing.T, app http.Handler) {
	t.Helper()
	server := httptest.NewUnstartedServer(app)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Start()
	t.Cleanup(server.Close)
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	client := &http.Client{Jar: jar, Transport: server.Client().Transport}
	for _, step := range []struct{ post, want string }{
		{"", "<nil> <nil> [] false"},
		{"/count", "<nil> 1 [] true"},
		{"/login", "ann 1 [welcome] true"},
		{"/count", "ann 2 [welcome] true"},
		{"/clear", "<nil> <nil> [] true"},
		{"/login", "ann <nil> [welcome] true"},
		{"/logout", "<nil> <nil> [] false"},
		{"/count", "<nil> 1 [] true"},
	} {
		if step.post != "" {
			response, err := client.Post(server.URL+step.post, "", nil)
			require.NoError(t, err)
			require.NoError(t, response.Body.Close())
			require.Less(t, response.StatusCode, 400)
		}
		response, err := client.Get(server.URL)
		require.NoError(t, err)
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, step.want, string(body), step.post)
	}
}
