package fiberstore_test

import (
	"bytes"
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gofiber/fiber/v3"
	"github.com/gofiber/fiber/v3/log"
	"github.com/gofiber/fiber/v3/middleware/session"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"github.com/pgsession/pgsession"
	fiberstore "github.com/pgsession/pgsession/adapters/fiber"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/test"
)

func TestSessions_Storage(t *testing.T) {
	t.Parallel()
	store, pool := newStore(t)
	storage := fiberstore.NewSessions(store, "session_id")

	value, err := storage.Get("absent")
	require.NoError(t, err)
	require.Nil(t, value)
	require.NoError(t, storage.Delete("absent"))
	require.NoError(t, storage.Set("", encoded(t, "a", "1"), time.Hour))
	require.NoError(t, storage.Set("empty", nil, time.Hour))
	value, err = storage.Get("empty")
	require.NoError(t, err)
	require.Nil(t, value)

	require.ErrorIs(t, storage.Set("id", []byte("no gob"), time.Hour), pgsession.ErrEncode)
	require.NoError(t, storage.Set("id", encoded(t, "a", "1"), time.Hour))
	require.NoError(t, storage.Set("id", encoded(t, "b", "the last one"), 0))
	value, err = storage.Get("id")
	require.NoError(t, err)
	require.Equal(t, encoded(t, "b", "the last one"), value)
	loaded, err := store.Load(t.Context(), idOf("id"))
	require.NoError(t, err)
	require.Equal(t, 100*365*24*time.Hour, loaded.IdleTimeout)
	require.ErrorIs(t, storage.Set("id", encoded(t, "a", "1"), -1), pgsession.ErrInvalidTTL)

	require.NoError(t, storage.Delete("id"))
	require.ErrorIs(t, storage.Set("id", encoded(t, "a", "late"), time.Hour), pgsession.ErrRevoked)
	value, err = storage.Get("id")
	require.NoError(t, err)
	require.Nil(t, value)

	require.NoError(t, storage.Set("other", encoded(t, "a", "1"), time.Hour))
	require.NoError(t, storage.Reset())
	require.ErrorIs(t, storage.Set("other", encoded(t, "a", "late"), time.Hour), pgsession.ErrRevoked)

	require.NoError(t, storage.Close())
	require.NoError(t, pool.Ping(t.Context()))
}

func TestSessions_EndedStaysEnded(t *testing.T) {
	t.Parallel()
	for _, late := range []string{"/set/a/1", "/login/bob", "/regenerate", "/reset", "/get/a"} {
		for _, end := range []string{"log-out", "DeleteByUser", "Reset", "cleaned up"} {
			t.Run(late+" after "+end, func(t *testing.T) {
				t.Parallel()
				clock := pgsession.NewManualClock(time.Now())
				store, _ := newStore(t, pgsession.WithClock(clock))
				storage := fiberstore.NewSessions(store, "session_id")
				ann := newSite(t, storage).newBrowser(t)
				ann.mustDo(t, "/login/ann")
				ann.mustDo(t, "/set/secret/hers")
				slow := ann.another()
				finish := slow.begin(t, late)
				switch end {
				case "log-out":
					ann.another().mustDo(t, "/logout")
				case "DeleteByUser":
					n, err := store.DeleteByUser(t.Context(), "ann")
					require.NoError(t, err)
					require.EqualValues(t, 1, n)
				case "Reset":
					require.NoError(t, storage.Reset())
				case "cleaned up":
					clock.Advance(48 * time.Hour)
					_, err := store.CleanupExpired(t.Context())
					require.NoError(t, err)
				}
				status, body := finish()
				switch late {
				case "/set/a/1":
					require.Equal(t, http.StatusConflict, status)
					require.ErrorIs(t, *slow.saveError.Load(), pgsession.ErrNotFound)
				case "/regenerate":
					require.Equal(t, http.StatusConflict, status)
					require.ErrorIs(t, *slow.saveError.Load(), pgsession.ErrRevoked)
				case "/login/bob": // over ann's session: SetUser wants a Reset
					require.Equal(t, http.StatusServiceUnavailable, status)
					require.Contains(t, body, "call Reset before SetUser")
				default:
					require.Equal(t, http.StatusOK, status)
				}
				_, err := store.Load(t.Context(), ann.id())
				require.ErrorIs(t, err, pgsession.ErrNotFound)
				found, err := store.FindByUser(t.Context(), "ann", 0)
				require.NoError(t, err)
				require.Empty(t, found)
				require.Equal(t, "", slow.mustDo(t, "/user"))
				require.Equal(t, "<nil>", slow.mustDo(t, "/get/secret"))
			})
		}
	}
}

// Of two log-ins of one guest, one goes on with the guest's values.
func TestSessions_LogInRace(t *testing.T) {
	t.Parallel()
	store, _ := newStore(t)
	guest := newSite(t, fiberstore.NewSessions(store, "session_id")).newBrowser(t)
	guest.mustDo(t, "/set/cart/full")
	slow, fast := guest.another(), guest.another()
	finish := slow.begin(t, "/login/ann")
	fast.mustDo(t, "/login/ann")
	status, _ := finish()
	require.Equal(t, http.StatusOK, status)

	require.Equal(t, "full", fast.mustDo(t, "/get/cart"))
	require.Equal(t, "<nil>", slow.mustDo(t, "/get/cart"))
	require.Equal(t, "ann", fast.mustDo(t, "/user"))
	require.Equal(t, "ann", slow.mustDo(t, "/user"))
	require.NotEqual(t, fast.cookie, slow.cookie)
	_, err := store.Load(t.Context(), guest.id())
	require.ErrorIs(t, err, pgsession.ErrRevoked)
}

// TestComparison has many keys at once, and a reader.
func TestSessions_Parallel(t *testing.T) {
	t.Parallel()
	store, _ := newStore(t)
	b := newSite(t, fiberstore.NewSessions(store, "session_id")).newBrowser(t)
	b.mustDo(t, "/login/ann")
	b.mustDo(t, "/set/old/1")

	t.Run("a key is removed", func(t *testing.T) {
		finish := b.another().begin(t, "/set/new/1")
		b.another().mustDo(t, "/unset/old")
		status, _ := finish()
		require.Equal(t, http.StatusOK, status)
		require.Equal(t, "<nil>", b.mustDo(t, "/get/old"))
		require.Equal(t, "1", b.mustDo(t, "/get/new"))

		finish = b.another().begin(t, "/unset/new")
		b.another().mustDo(t, "/set/newer/2")
		status, _ = finish()
		require.Equal(t, http.StatusOK, status)
		require.Equal(t, "<nil>", b.mustDo(t, "/get/new"))
		require.Equal(t, "2", b.mustDo(t, "/get/newer"))
	})
	t.Run("one key", func(t *testing.T) {
		finish := b.another().begin(t, "/set/same/slow")
		b.another().mustDo(t, "/set/same/fast")
		status, _ := finish()
		require.Equal(t, http.StatusOK, status)
		require.Equal(t, "slow", b.mustDo(t, "/get/same"))
	})
}

// A session is saved at each request. What was not changed is not written, and its expiry not
// often.
func TestSessions_Unchanged(t *testing.T) {
	t.Parallel()
	clock := pgsession.NewManualClock(time.Now())
	store, _ := newStore(t, pgsession.WithClock(clock))
	b := newSite(t, fiberstore.NewSessions(store, "session_id")).newBrowser(t)
	b.mustDo(t, "/set/a/1")
	b.mustDo(t, "/set/b/2")
	load := func() *pgsession.Session {
		loaded, err := store.Load(t.Context(), b.id())
		require.NoError(t, err)
		return loaded
	}
	before, saves := load(), store.Stats().Saves
	for range 20 { // gob writes a map in random order
		b.mustDo(t, "/set/a/1")
	}
	require.Equal(t, before.ExpiresAt, load().ExpiresAt)
	require.Equal(t, saves, store.Stats().Saves)

	clock.Advance(20 * time.Minute) // of 30
	b.mustDo(t, "/get/a")
	require.True(t, load().ExpiresAt.After(before.ExpiresAt))
	clock.Advance(20 * time.Minute)
	require.Equal(t, "1", b.mustDo(t, "/get/a"))
	clock.Advance(30 * time.Minute)
	require.Equal(t, "<nil>", b.mustDo(t, "/get/a"))
}

// The cookie goes out if the session was stored.
func TestSessions_Cookie(t *testing.T) {
	t.Parallel()
	clock := pgsession.NewManualClock(time.Now())
	store, _ := newStore(t, pgsession.WithClock(clock))
	b := newSite(t, fiberstore.NewSessions(store, "session_id")).newBrowser(t)
	setsCookie := func(path string) bool {
		other := b.another()
		other.mustDo(t, path)
		return other.sentCookies > 0
	}
	require.False(t, setsCookie("/get/a"))
	require.True(t, setsCookie("/set/a/1"))
	clock.Advance(2 * time.Minute)
	require.False(t, setsCookie("/get/a"), "not a tenth of 30 minutes yet")
	clock.Advance(5 * time.Minute)
	require.True(t, setsCookie("/get/a"), "its Max-Age begins anew with the row's")
	require.True(t, setsCookie("/regenerate"))
	require.False(t, setsCookie("/get/a"), "it may be a request from before")
	clock.Advance(time.Minute)
	require.True(t, setsCookie("/get/a"), "the old id is over")
}

// The README says what a request costs.
func TestSessions_Statements(t *testing.T) {
	t.Parallel()
	var traced test.Tracer
	pool := pgtest.Pool(t, func(config *pgxpool.Config) { config.ConnConfig.Tracer = &traced })
	clock := pgsession.NewManualClock(time.Now())
	b := newSite(t, fiberstore.NewSessions(test.OpenTable(t, pool, "sessions", pgsession.WithClock(clock)), "session_id")).newBrowser(t)
	cost := func(path string) int64 {
		before := traced.RoundTrips.Load()
		b.mustDo(t, path)
		return traced.RoundTrips.Load() - before
	}
	require.EqualValues(t, 1, cost("/get/a"))
	require.EqualValues(t, 2, cost("/set/a/1"))
	require.EqualValues(t, 3, cost("/regenerate"))
	require.EqualValues(t, 3, cost("/login/ann"))
	require.EqualValues(t, 4, cost("/regenerate"))
	clock.Advance(10 * time.Minute)
	require.EqualValues(t, 2, cost("/get/a"))
	b.cookie = ""
	require.EqualValues(t, 1, cost("/get/a"))
}

func TestSessions_SetIdleTimeout(t *testing.T) {
	t.Parallel()
	store, _ := newStore(t)
	storage := fiberstore.NewSessions(store, "session_id")
	require.Equal(t, http.StatusOK, inRequest(t, func(c fiber.Ctx) {
		require.NoError(t, storage.SetWithContext(c, "id", encoded(t, "a", "1"), time.Hour))
		require.NoError(t, storage.SetWithContext(c, "id", encoded(t, "a", "1"), time.Minute))
	}))
	loaded, err := store.Load(t.Context(), idOf("id"))
	require.NoError(t, err)
	require.Equal(t, time.Minute, loaded.IdleTimeout)
}

// A request that saves twice does not take its own first save for another's.
func TestSessions_SavedTwice(t *testing.T) {
	t.Parallel()
	store, _ := newStore(t)
	storage := fiberstore.NewSessions(store, "session_id")
	sessions := session.NewStore(session.Config{Storage: storage})
	var id string
	require.Equal(t, http.StatusOK, inRequest(t, func(c fiber.Ctx) {
		sess, err := sessions.Get(c)
		require.NoError(t, err)
		defer sess.Release()
		id = sess.ID()
		sess.Set("a", "1")
		require.NoError(t, sess.Save())

		other, err := sessions.GetByID(t.Context(), id)
		require.NoError(t, err)
		defer other.Release()
		other.Set("b", "2")
		require.NoError(t, other.Save())

		sess.Delete("a")
		sess.Set("c", "3")
		require.NoError(t, sess.Save())
		sess.Delete("c")
		sess.Set("d", "4")
		require.NoError(t, sess.Save())
	}))
	sess, err := sessions.GetByID(t.Context(), id)
	require.NoError(t, err)
	defer sess.Release()
	require.ElementsMatch(t, []any{"b", "d"}, sess.Keys())
}

// A log-in that goes on under a new id ends when it would have ended.
func TestSessions_EndsAt(t *testing.T) {
	t.Parallel()
	clock := pgsession.NewManualClock(time.Now())
	store, _ := newStore(t, pgsession.WithClock(clock), pgsession.WithAbsoluteLifetime(time.Hour))
	b := newSite(t, fiberstore.NewSessions(store, "session_id")).newBrowser(t)
	endsAt := func() time.Time {
		loaded, err := store.Load(t.Context(), b.id())
		require.NoError(t, err)
		return loaded.EndsAt
	}
	guest := endsAt()
	clock.Advance(10 * time.Minute)
	b.mustDo(t, "/login/ann")
	login := endsAt()
	require.Equal(t, guest.Add(10*time.Minute), login)
	clock.Advance(10 * time.Minute)
	b.mustDo(t, "/regenerate")
	require.Equal(t, login, endsAt())
	b.mustDo(t, "/reset")
	require.Equal(t, login.Add(10*time.Minute), endsAt())
}

func TestSessions_Outage(t *testing.T) {
	t.Parallel()
	n := test.NewNetwork(t)
	store := test.OpenTable(t, n.Pool, "sessions")
	storage := fiberstore.NewSessions(store, "session_id")
	b := newSite(t, storage).newBrowser(t)
	b.mustDo(t, "/login/ann")
	cookie := b.cookie

	finish := b.another().begin(t, "/set/a/1")
	n.Cut()
	status, _ := finish()
	require.Equal(t, http.StatusConflict, status)
	require.NotErrorIs(t, *b.saveError.Load(), pgsession.ErrNotFound)
	status, _ = b.do(t, "/user")
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Equal(t, cookie, b.cookie, "the browser keeps its session")
	_, err := storage.Get(b.cookie)
	require.Error(t, err)
	require.Error(t, storage.Delete(b.cookie))
	require.Error(t, storage.Reset())

	n.Mend()
	require.Equal(t, "ann", b.mustDo(t, "/user"))
}

// Log messages go to one place for the whole process, so this test does not run in parallel.
func TestSessions_DoesNotOpen(t *testing.T) {
	var logged bytes.Buffer
	log.SetOutput(&logged)
	defer log.SetOutput(&bytes.Buffer{})
	store, pool := newStore(t)
	b := newSite(t, fiberstore.NewSessions(store, "session_id")).newBrowser(t)
	b.mustDo(t, "/login/ann")
	broken := b.cookie
	_, err := pool.Exec(t.Context(), `UPDATE sessions SET sealed = set_byte(sealed, 40, get_byte(sealed, 40) # 1)`)
	require.NoError(t, err)

	require.Equal(t, "", b.mustDo(t, "/user"))
	require.NotEqual(t, broken, b.cookie)
	require.Contains(t, logged.String(), idOf(broken).Handle().String())
	require.NotContains(t, logged.String(), broken)
	began, before := time.Now(), strings.Count(logged.String(), "\n")
	for range 100 {
		(&browser{site: b.site, cookie: broken}).mustDo(t, "/user")
	}
	require.LessOrEqual(t, strings.Count(logged.String(), "\n")-before, 1+int(time.Since(began)/time.Second), "a line a second")

	kv := fiberstore.NewKeyValue(store, "test")
	require.NoError(t, kv.Set("the key", []byte("value"), time.Hour))
	_, err = pool.Exec(t.Context(), `UPDATE sessions SET sealed = set_byte(sealed, 40, get_byte(sealed, 40) # 1)`)
	require.NoError(t, err)
	value, err := kv.Get("the key")
	require.NoError(t, err)
	require.Nil(t, value)
	require.Contains(t, logged.String(), "an entry does not open")
	require.NotContains(t, logged.String(), "the key")
}

// The request's context is what the application gave to SetContext.
func TestStorages_Context(t *testing.T) {
	t.Parallel()
	store, _ := newStore(t)
	for name, storage := range map[string]fiber.Storage{
		"sessions": fiberstore.NewSessions(store, "session_id"), "key/value": fiberstore.NewKeyValue(store, "test"),
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, http.StatusOK, inRequest(t, func(c fiber.Ctx) {
				require.NoError(t, storage.SetWithContext(c, "id", encoded(t, "a", "1"), time.Hour))
				ended, cancel := context.WithCancel(c.Context())
				cancel()
				c.SetContext(ended)
				_, err := storage.GetWithContext(c, "id")
				require.ErrorIs(t, err, context.Canceled)
				require.ErrorIs(t, storage.SetWithContext(c, "id", encoded(t, "a", "late"), time.Hour), context.Canceled)
				require.ErrorIs(t, storage.DeleteWithContext(c, "id"), context.Canceled)
				require.Error(t, storage.ResetWithContext(c))
			}))
			value, err := storage.Get("id")
			require.NoError(t, err)
			require.Equal(t, encoded(t, "a", "1"), value)
		})
	}
}

// A Ctx that fiber has taken back is a context without a request.
func TestSessions_ReleasedCtx(t *testing.T) {
	t.Parallel()
	storage := fiberstore.NewSessions(pgsession.InMemory(), "session_id")
	app := fiber.New()
	c := app.AcquireCtx(&fasthttp.RequestCtx{})
	app.ReleaseCtx(c)
	require.NoError(t, storage.SetWithContext(c, "id", encoded(t, "a", "1"), time.Hour))
	require.NoError(t, storage.SetWithContext(c, "id", encoded(t, "b", "2"), time.Hour))
	value, err := storage.GetWithContext(c, "id")
	require.NoError(t, err)
	require.Equal(t, encoded(t, "b", "2"), value)
	require.NoError(t, storage.DeleteWithContext(c, "id"))
	require.ErrorIs(t, storage.SetWithContext(c, "id", encoded(t, "b", "2"), time.Hour), pgsession.ErrRevoked)
}

// inRequest runs a function in a request, on the test's goroutine.
func inRequest(t *testing.T, run func(c fiber.Ctx)) (status int) {
	t.Helper()
	app := fiber.New()
	c := app.AcquireCtx(&fasthttp.RequestCtx{})
	defer app.ReleaseCtx(c)
	run(c)
	return c.Response().StatusCode()
}
