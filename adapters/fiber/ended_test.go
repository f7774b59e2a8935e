package fiberstore_test

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gofiber/fiber/v3"
	"github.com/gofiber/fiber/v3/middleware/recover"
	"github.com/gofiber/fiber/v3/middleware/session"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	fiberstore "github.com/pgsession/pgsession/adapters/fiber"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/test"
)

// An id opens sessions of its own name only.
func TestNewSessions_Names(t *testing.T) {
	t.Parallel()
	store, _ := newStore(t)
	ann := newSite(t, fiberstore.NewSessions(store, "session_id")).newBrowser(t)
	ann.mustDo(t, "/login/ann")
	for _, name := range []string{"staff", `session_id"`, "session_i"} {
		b := newSite(t, fiberstore.NewSessions(store, name)).newBrowser(t)
		b.cookie = ann.cookie
		require.Equal(t, "", b.mustDo(t, "/user"), name)
	}
	require.Equal(t, "ann", ann.mustDo(t, "/user"))
	_, err := store.Load(t.Context(), pgsession.DeriveID(ann.cookie))
	require.ErrorIs(t, err, pgsession.ErrNotFound)
	bare, err := store.Create(t.Context(), pgsession.Data{UserID: "ann", Values: encoded(t, "a", "1")}, time.Hour)
	require.NoError(t, err)
	ann.cookie = bare.ID.Token()
	require.Equal(t, "", ann.mustDo(t, "/user"))
	for _, f := range []func(){
		func() { fiberstore.NewSessions(store, "") }, func() { fiberstore.NewSessions(nil, "a") },
		func() { fiberstore.NewKeyValue(store, "") }, func() { fiberstore.NewKeyValue(nil, "a") },
	} {
		require.Panics(t, f)
	}
}

// What ends a user's sessions also ends one whose id is being changed.
func TestSessions_EndedWhileRegenerated(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(t *testing.T, store *pgsession.Store){
		"DeleteByUser": func(t *testing.T, store *pgsession.Store) {
			ended, err := store.DeleteByUser(t.Context(), "ann")
			require.NoError(t, err)
			require.EqualValues(t, 1, ended)
		},
		"Revoke": func(t *testing.T, store *pgsession.Store) {
			found, err := store.FindByUser(t.Context(), "ann", 0)
			require.NoError(t, err)
			require.Len(t, found, 1)
			require.NoError(t, store.Revoke(t.Context(), "ann", found[0].Handle))
		},
	} {
		for _, then := range []string{"ann", "bob"} {
			t.Run(name+", "+then, func(t *testing.T) {
				t.Parallel()
				store, _ := newStore(t)
				s := newSite(t, fiberstore.NewSessions(store, "session_id"))
				s.app.Get("/again/:user", func(c fiber.Ctx) error {
					sess := session.FromContext(c)
					if err := sess.Reset(); err != nil {
						return err
					}
					end(t, store)
					return fiberstore.SetUser(sess, strings.Clone(c.Params("user"))) // with a password
				})
				s.app.Get("/regenerate-slowly", func(c fiber.Ctx) error {
					err := session.FromContext(c).Regenerate()
					end(t, store)
					return err
				})
				b := s.newBrowser(t)
				b.mustDo(t, "/login/ann")
				status, _ := b.do(t, "/regenerate-slowly")
				require.Equal(t, http.StatusConflict, status)
				require.ErrorIs(t, *b.saveError.Load(), pgsession.ErrNotFound)
				require.Equal(t, "", b.mustDo(t, "/user"))

				b.mustDo(t, "/login/ann")
				status, _ = b.do(t, "/again/"+then)
				if then == "ann" {
					require.Equal(t, http.StatusConflict, status)
					then = ""
				} else {
					require.Equal(t, http.StatusOK, status)
				}
				require.Equal(t, then, b.mustDo(t, "/user"))
				found, err := store.FindByUser(t.Context(), "ann", 0)
				require.NoError(t, err)
				require.Empty(t, found)
			})
		}
	}
}

// A request that comes with the old id, after another one has changed it, puts nothing in place of
// the session.
func TestSessions_OldID(t *testing.T) {
	t.Parallel()
	for kind, store := range map[string]*pgsession.Store{"memory": pgsession.InMemory(), "postgres": storeOf(newStore(t))} {
		for _, before := range []string{"/set/a/1", "/login/ann"} {
			t.Run(kind+before, func(t *testing.T) {
				t.Parallel()
				s := newSite(t, fiberstore.NewSessions(store, "session_id"))
				b := s.newBrowser(t)
				b.mustDo(t, before)
				late := b.another()
				b.mustDo(t, "/regenerate")
				for path, want := range map[string]int{"/get/a": 200, "/set/b/2": 409} {
					status, _ := late.do(t, path)
					require.Equal(t, want, status, path)
					require.Zero(t, late.sentCookies, path)
				}
				if before == "/login/ann" {
					require.Equal(t, "ann", b.mustDo(t, "/user"))
				} else {
					require.Equal(t, "1", b.mustDo(t, "/get/a"))
				}
				require.Equal(t, "<nil>", b.mustDo(t, "/get/b"))
				late.mustDo(t, "/login/bob") // with bob's password
				require.Equal(t, "bob", late.mustDo(t, "/user"))
			})
		}
	}
}

func storeOf(store *pgsession.Store, _ any) *pgsession.Store { return store }

// A request that loads its session again, after that has ended, begins none for the same user.
func TestSessions_EndedBetweenTwoLoads(t *testing.T) {
	t.Parallel()
	store, _ := newStore(t)
	storage := fiberstore.NewSessions(store, "session_id")
	sessions := session.NewStore(session.Config{Storage: storage, Extractor: storage.Extractor()})
	s := newSite(t, storage)
	b := s.newBrowser(t)
	app := fiber.New()
	app.Get("/again/:user", func(c fiber.Ctx) error {
		before, err := sessions.Get(c)
		if err != nil {
			return err
		}
		require.Equal(t, "ann", fiberstore.User(before))
		before.Release()
		_, err = store.DeleteByUser(t.Context(), "ann")
		require.NoError(t, err)
		again, err := sessions.Get(c)
		if err != nil {
			return err
		}
		defer again.Release()
		if err := fiberstore.SetUser(again, strings.Clone(c.Params("user"))); err != nil {
			return err
		}
		return again.Save()
	})
	for user, status := range map[string]int{"ann": http.StatusInternalServerError, "bob": http.StatusOK} {
		b.mustDo(t, "/login/ann")
		again := &browser{site: &site{app: app}, cookie: b.cookie}
		got, body := again.do(t, "/again/"+user)
		require.Equal(t, status, got, body)
		found, err := store.FindByUser(t.Context(), "ann", 0)
		require.NoError(t, err)
		require.Empty(t, found)
	}
}

// A log-out ends the session at once, and leaves nothing behind.
func TestSessions_Destroy(t *testing.T) {
	t.Parallel()
	store, _ := newStore(t)
	s := newSite(t, fiberstore.NewSessions(store, "session_id"))
	b := s.newBrowser(t)
	b.mustDo(t, "/login/ann")
	late := b.another()
	s.app.Get("/logout-now", func(c fiber.Ctx) error {
		defer func() { require.Equal(t, "", late.mustDo(t, "/user")) }()
		return session.FromContext(c).Destroy()
	})
	b.mustDo(t, "/logout-now")
	require.Eventually(t, func() bool { // fasthttp ends a request after its answer
		found, err := store.FindByUser(t.Context(), "ann", 0)
		require.NoError(t, err)
		return len(found) == 0
	}, time.Minute, time.Millisecond)
}

// "Log out everywhere else" spares the session of the request, whatever the request did before.
func TestSessions_Handle(t *testing.T) {
	t.Parallel()
	store, _ := newStore(t)
	sessions := fiberstore.NewSessions(store, "session_id")
	s := newSite(t, sessions)
	s.app.Get("/others/:regenerate", func(c fiber.Ctx) error {
		sess := session.FromContext(c)
		if c.Params("regenerate") == "yes" {
			if err := sess.Regenerate(); err != nil {
				return err
			}
		}
		_, err := store.DeleteByUser(c.Context(), fiberstore.User(sess), sessions.Handle(c, sess.ID()))
		return err
	})
	for _, regenerate := range []string{"no", "yes"} {
		phone, laptop := s.newBrowser(t), s.newBrowser(t)
		phone.mustDo(t, "/login/ann")
		laptop.mustDo(t, "/login/ann")
		phone.mustDo(t, "/others/"+regenerate)
		require.Equal(t, "ann", phone.mustDo(t, "/user"))
		require.Equal(t, "", laptop.mustDo(t, "/user"))
	}
}

// A change of the id keeps what another request changes at the same time.
func TestSessions_ChangeWhileRegenerated(t *testing.T) {
	t.Parallel()
	store, _ := newStore(t)
	for _, user := range []string{"", "ann"} {
		b := newSite(t, fiberstore.NewSessions(store, "session_id")).newBrowser(t)
		b.mustDo(t, "/set/a/1")
		if user != "" {
			b.mustDo(t, "/login/"+user)
		}
		other := b.another()
		finish := b.begin(t, "/regenerate")
		other.mustDo(t, "/set/late/2")
		status, _ := finish()
		require.Equal(t, http.StatusOK, status)
		require.Equal(t, "1", b.mustDo(t, "/get/a"))
		require.Equal(t, "2", b.mustDo(t, "/get/late"))
	}
}

// A request that saves a new session twice still sets its cookie.
func TestSessions_SavedTwice_Cookie(t *testing.T) {
	t.Parallel()
	sessions := session.NewStore(session.Config{Storage: fiberstore.NewSessions(pgsession.InMemory(), "session_id")})
	app := fiber.New()
	app.Get("/", func(c fiber.Ctx) error {
		sess, err := sessions.Get(c)
		if err != nil {
			return err
		}
		defer sess.Release()
		sess.Set("a", "1")
		if err := sess.Save(); err != nil {
			return err
		}
		return sess.Save()
	})
	response, err := app.Test(httptest.NewRequest(http.MethodGet, "/", nil))
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Len(t, response.Cookies(), 1)
}

// A host beside this one can set cookies of the session's name, which browsers send first.
func TestSessions_Extractor(t *testing.T) {
	t.Parallel()
	n := test.NewNetwork(t)
	store := test.OpenTable(t, n.Pool, "sessions")
	sessions := fiberstore.NewSessions(store, "sid")
	app := fiber.New()
	app.Use(recover.New())
	app.Use(session.New(session.Config{Storage: sessions, Extractor: sessions.Extractor()}))
	app.Get("/login", func(c fiber.Ctx) error {
		if err := session.FromContext(c).Regenerate(); err != nil {
			return err
		}
		return fiberstore.SetUser(session.FromContext(c), "ann")
	})
	app.Get("/user", func(c fiber.Ctx) error { return c.SendString(fiberstore.User(session.FromContext(c))) })
	app.Get("/logout", func(c fiber.Ctx) error { return session.FromContext(c).Destroy() })
	do := func(path string, values ...string) (status int, body, cookie string) {
		request := httptest.NewRequest(http.MethodGet, path, nil)
		for _, value := range values {
			request.AddCookie(&http.Cookie{Name: "sid", Value: value})
		}
		response, err := app.Test(request, fiber.TestConfig{Timeout: 0})
		require.NoError(t, err)
		defer response.Body.Close()
		var content bytes.Buffer
		_, err = content.ReadFrom(response.Body)
		require.NoError(t, err)
		if cookies := response.Cookies(); len(cookies) > 0 {
			cookie = cookies[0].Value
		}
		return response.StatusCode, content.String(), cookie
	}
	_, _, ann := do("/login")
	_, _, other := do("/login")
	var tossed []string
	for i := range 31 {
		tossed = append(tossed, fmt.Sprint("tossed-", i))
	}
	_, user, _ := do("/user", ann)
	require.Equal(t, "ann", user)
	_, user, _ = do("/user", append(tossed, ann)...)
	require.Equal(t, "ann", user)
	status, _, _ := do("/user", append(tossed, "one more", ann)...)
	require.Equal(t, http.StatusInternalServerError, status, "it does not say that she is a guest")
	_, user, _ = do("/user", tossed...)
	require.Empty(t, user)
	n.Cut()
	status, _, _ = do("/user", "tossed", ann)
	require.Equal(t, http.StatusInternalServerError, status)
	n.Mend()

	status, _, _ = do("/logout", "tossed", ann, other)
	require.Equal(t, http.StatusOK, status)
	for _, cookie := range []string{ann, other} {
		_, user, _ = do("/user", cookie)
		require.Empty(t, user)
	}
}

type (
	olderPrefs struct{ Theme string }
	newerPrefs struct {
		Theme string
		MFA   bool
	}
	forgetful struct{ Text string }
)

func (f forgetful) GobEncode() ([]byte, error) { return []byte(f.Text), nil }
func (*forgetful) GobDecode(b []byte) error    { return errors.New(string(b)) }

func init() {
	gob.RegisterName("fiber-prefs-older", olderPrefs{})
	gob.RegisterName("fiber-prefs-newer", newerPrefs{})
	gob.Register(forgetful{})
}

// During a deploy an older release saves sessions of a newer one.
func TestSessions_OlderRelease(t *testing.T) {
	t.Parallel()
	const newer = "fiber-prefs-newer"
	for _, name := range []string{"fiber-prefs-older", "fiber-prefs-never"} {
		store, _ := newStore(t)
		rename := func(from, to string) {
			for stored, err := range store.All(t.Context()) {
				require.NoError(t, err)
				_, err := store.Update(t.Context(), stored, 0, func(stored *pgsession.Session) (any, error) {
					values, err := pgsession.Decode[[]byte](stored)
					return bytes.ReplaceAll(values, []byte(from), []byte(to)), err
				})
				require.NoError(t, err)
			}
		}
		s := newSite(t, fiberstore.NewSessions(store, "session_id"))
		var seen any
		s.app.Get("/prefs", func(c fiber.Ctx) error {
			session.FromContext(c).Set("prefs", newerPrefs{"dark", true})
			return nil
		})
		s.app.Get("/see", func(c fiber.Ctx) error {
			seen = session.FromContext(c).Get("prefs")
			return nil
		})
		b := s.newBrowser(t)
		b.mustDo(t, "/prefs")
		rename(newer, name)
		b.mustDo(t, "/set/a/1")
		b.mustDo(t, "/login/ann")
		b.mustDo(t, "/regenerate")
		b.mustDo(t, "/set/a/2")
		rename(name, newer)
		b.mustDo(t, "/see")
		require.Equal(t, newerPrefs{"dark", true}, seen, name)
	}
}

// What would not decode again is refused, and no error quotes it.
func TestSessions_ErrEncode(t *testing.T) {
	t.Parallel()
	store, _ := newStore(t)
	s := newSite(t, fiberstore.NewSessions(store, "session_id"))
	s.app.Get("/forgetful", func(c fiber.Ctx) error {
		session.FromContext(c).Set("f", forgetful{"secret"})
		return nil
	})
	b := s.newBrowser(t)
	b.mustDo(t, "/set/a/1")
	status, body := b.do(t, "/forgetful")
	require.Equal(t, http.StatusConflict, status)
	require.ErrorIs(t, *b.saveError.Load(), pgsession.ErrEncode)
	require.NotContains(t, body, "secret")
	require.Equal(t, "1", b.mustDo(t, "/get/a"))
}

// All that a log-out does has the time of one operation.
func TestSessions_OneTimeout(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	const timeout = 2 * time.Second
	store := test.OpenTable(t, pool, "sessions", pgsession.WithTimeout(timeout))
	sessions := fiberstore.NewSessions(store, "sid")
	app := fiber.New()
	request := httptest.NewRequest(http.MethodGet, "/", nil)
	for i := range 8 {
		id := fmt.Sprint("id-", i)
		require.NoError(t, sessions.Set(id, encoded(t, "a", "1"), time.Hour))
		request.AddCookie(&http.Cookie{Name: "sid", Value: id})
	}
	app.Get("/", func(c fiber.Ctx) error {
		id, err := sessions.Extractor().Extract(c)
		require.NoError(t, err)
		tx, err := pool.Begin(t.Context())
		require.NoError(t, err)
		defer func() { require.NoError(t, tx.Rollback(context.Background())) }()
		_, err = tx.Exec(t.Context(), `SELECT 1 FROM sessions FOR UPDATE`)
		require.NoError(t, err)
		began := time.Now()
		require.Error(t, sessions.DeleteWithContext(c, id))
		require.Less(t, time.Since(began), 4*timeout)
		return nil
	})
	response, err := app.Test(request, fiber.TestConfig{Timeout: 0})
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusOK, response.StatusCode)
}
