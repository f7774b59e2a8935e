package fiberstore_test

import (
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/gofiber/fiber/v3"
	"github.com/gofiber/fiber/v3/middleware/recover"
	"github.com/gofiber/fiber/v3/middleware/session"
	"github.com/gofiber/utils/v2"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pgsession/pgsession"
	fiberstore "github.com/pgsession/pgsession/adapters/fiber"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/test"
)

func TestMain(m *testing.M) {
	pgtest.Main(m, func() error {
		utils.StopTimeStampUpdater()                                            // the limiter's
		const serverDate = "github.com/valyala/fasthttp.updateServerDate.func1" // which fasthttp never ends
		return goleak.Find(goleak.IgnoreAnyFunction(serverDate))
	})
}

// newStore returns a store in a schema of its own, and its pool.
func newStore(t *testing.T, opts ...pgsession.Option) (*pgsession.Store, *pgxpool.Pool) {
	t.Helper()
	pool := pgtest.Pool(t)
	return test.OpenTable(t, pool, "sessions", opts...), pool
}

// A site is an application on fiber's session middleware.
type site struct {
	app       *fiber.App
	gates     sync.Map              // by name: a request with ?gate=NAME stops there when its session is loaded
	saveError atomic.Pointer[error] // the last one
}

func newSite(t *testing.T, storage fiber.Storage) *site {
	t.Helper()
	s := &site{}
	s.app = fiber.New(fiber.Config{ErrorHandler: func(c fiber.Ctx, err error) error {
		return c.Status(http.StatusServiceUnavailable).SendString(err.Error())
	}})
	s.app.Use(recover.New())
	handler, sessions := session.NewWithStore(session.Config{
		Storage: storage,
		ErrorHandler: func(c fiber.Ctx, err error) {
			s.saveError.Store(&err)
			_ = c.Status(http.StatusConflict).SendString(err.Error())
		},
	})
	t.Cleanup(func() { require.NoError(t, sessions.Storage.Close()) }) // fiber's in memory has a goroutine
	s.app.Use(handler)
	s.app.Use(func(c fiber.Ctx) error {
		if found, ok := s.gates.Load(c.Query("gate")); ok {
			g := found.(gate)
			close(g.arrived)
			<-g.open
		}
		return c.Next()
	})
	route := func(path string, handle func(c fiber.Ctx, sess *session.Middleware) error) {
		s.app.Get(path, func(c fiber.Ctx) error { return handle(c, session.FromContext(c)) })
	}
	route("/get/:key", func(c fiber.Ctx, sess *session.Middleware) error {
		return c.SendString(fmt.Sprint(sess.Get(c.Params("key"))))
	})
	route("/set/:key/:value", func(c fiber.Ctx, sess *session.Middleware) error {
		sess.Set(strings.Clone(c.Params("key")), strings.Clone(c.Params("value")))
		return nil
	})
	route("/unset/:key", func(c fiber.Ctx, sess *session.Middleware) error {
		sess.Delete(c.Params("key"))
		return nil
	})
	route("/login/:user", func(c fiber.Ctx, sess *session.Middleware) error {
		if err := sess.Regenerate(); err != nil {
			return err
		}
		return fiberstore.SetUser(sess, strings.Clone(c.Params("user")))
	})
	route("/regenerate", func(_ fiber.Ctx, sess *session.Middleware) error { return sess.Regenerate() })
	route("/reset", func(_ fiber.Ctx, sess *session.Middleware) error { return sess.Reset() })
	route("/logout", func(_ fiber.Ctx, sess *session.Middleware) error { return sess.Destroy() })
	route("/user", func(c fiber.Ctx, sess *session.Middleware) error { return c.SendString(fiberstore.User(sess)) })
	return s
}

// A gate stops a request.
type gate struct{ arrived, open chan struct{} }

// A browser has one session at a site.
type browser struct {
	*site
	cookie      string // the value of the session's; it is also the session's id
	sentCookies int    // by the site
}

func (s *site) newBrowser(t *testing.T) *browser {
	t.Helper()
	b := &browser{site: s}
	b.do(t, "/get/nothing")
	require.NotEmpty(t, b.cookie)
	return b
}

// another returns a browser with the same cookie, for requests at the same time.
func (b *browser) another() *browser { return &browser{site: b.site, cookie: b.cookie} }

func (b *browser) do(t testing.TB, path string) (status int, body string) {
	t.Helper()
	request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
	if b.cookie != "" {
		request.AddCookie(&http.Cookie{Name: "session_id", Value: b.cookie})
	}
	response, err := b.app.Test(request, fiber.TestConfig{Timeout: 0})
	if err != nil {
		t.Errorf("%s: %v", path, err) // from any goroutine
		return 0, ""
	}
	defer response.Body.Close()
	content, _ := io.ReadAll(response.Body)
	for _, cookie := range response.Cookies() {
		b.cookie = cookie.Value
		b.sentCookies++
	}
	return response.StatusCode, string(content)
}

func (b *browser) mustDo(t testing.TB, path string) string {
	t.Helper()
	status, body := b.do(t, path)
	require.Equal(t, http.StatusOK, status, "%s: %s", path, body)
	return body
}

// begin starts a request that waits once its session is loaded. The function it returns lets the
// request go on, and returns its answer.
func (b *browser) begin(t *testing.T, path string) (finish func() (status int, body string)) {
	t.Helper()
	name, g := rand.Text(), gate{make(chan struct{}), make(chan struct{})}
	b.gates.Store(name, g)
	var status int
	var body string
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		status, body = b.do(t, path+"?gate="+name)
	}()
	select {
	case <-g.arrived:
	case <-answered:
		require.Fail(t, "the session was not loaded", body)
	}
	return func() (int, string) {
		close(g.open)
		<-answered
		return status, body
	}
}

func (b *browser) id() pgsession.ID { return idOf(b.cookie) }

func idOf(sessionID string) pgsession.ID { return pgsession.DeriveID(`fiber "session_id"` + sessionID) }
