package gorillastore_test

import (
	"bytes"
	"context"
	"encoding/gob"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/sessions"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	gorillastore "github.com/pgsession/pgsession/adapters/gorilla"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/test"
	"github.com/pgsession/pgsession/move"
)

type (
	cart    struct{ Items []string }
	message struct{ Text string }
)

func init() {
	gob.Register(&cart{})
	gob.Register(message{})
}

const guestName = sessionName + "-guest"

func TestStore_RoundTrip(t *testing.T) {
	t.Parallel()
	f, b := newFixture(t), newBrowser()
	require.True(t, b.see(t, f).IsNew)
	require.Empty(t, b.see(t, f).ID)
	cookie := b.change(t, f, func(s *sessions.Session) {
		s.Values["text"], s.Values[7], s.Values["cart"] = "ä", []byte{0, 255}, &cart{[]string{"tea"}}
		s.AddFlash("hello")
		s.AddFlash(message{"flash"}, "other")
	})[guestName]
	require.Equal(t, []any{"/", 2592000, true, true, http.SameSiteLaxMode},
		[]any{cookie.Path, cookie.MaxAge, cookie.Secure, cookie.HttpOnly, cookie.SameSite})
	id, err := parse(cookie.Value)
	require.NoError(t, err)

	s := b.see(t, f)
	require.False(t, s.IsNew)
	require.Equal(t, id.Handle().String(), s.ID)
	require.Equal(t, []any{"ä", []byte{0, 255}, &cart{[]string{"tea"}}}, []any{s.Values["text"], s.Values[7], s.Values["cart"]})
	require.Equal(t, []any{"hello"}, s.Flashes())
	require.Equal(t, []any{"hello"}, b.see(t, f).Flashes(), "not saved")
	b.change(t, f, func(s *sessions.Session) { s.Flashes() })
	require.Empty(t, b.see(t, f).Flashes())
	require.Equal(t, []any{message{"flash"}}, b.see(t, f).Flashes("other"))

	_, err = f.Get(b.request().Request, "bad name")
	require.Error(t, err)
}

// A request gets one session however often it asks, and two names are two sessions.
func TestStore_Names(t *testing.T) {
	t.Parallel()
	f, b := newFixture(t), newBrowser()
	r := b.request()
	require.Same(t, r.get(t, f), r.get(t, f))
	other, err := f.Get(r.Request, "other")
	require.NoError(t, err)
	r.get(t, f).Values["v"], other.Values["v"] = 1, 2
	require.NoError(t, sessions.Save(r.Request, r.ResponseRecorder))
	require.Len(t, r.respond(), 2)
	require.Equal(t, 1, b.see(t, f).Values["v"])
	other, err = f.Get(b.request().Request, "other")
	require.NoError(t, err)
	require.Equal(t, 2, other.Values["v"])

	// The token of one is none of the other.
	b.cookies[guestName] = b.cookies["other-guest"]
	require.True(t, b.see(t, f).IsNew)
	require.Empty(t, b.see(t, f).Values)
}

func TestStore_Gone(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for name, end := range map[string]func(*browser){
		"expired": func(*browser) { f.clock.Advance(31 * 24 * time.Hour) },
		"ended elsewhere": func(*browser) {
			_, err := f.sealed.DeleteByUser(t.Context(), "ann")
			require.NoError(t, err)
		},
		"another cookie": func(b *browser) { b.cookies[sessionName] = "not a token" },
		"planted token":  func(b *browser) { b.cookies[sessionName] = pgsession.NewIDFor(purpose).Token() },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBrowser()
			b.logIn(t, f, "ann")
			end(b)
			before := b.cookies[sessionName]
			s := b.see(t, f)
			require.True(t, s.IsNew)
			require.Empty(t, s.Values)
			require.Empty(t, s.ID)
			b.logIn(t, f, "ann")
			require.NotEqual(t, before, b.cookies[sessionName], "no token that came from a browser begins a session")
			require.False(t, b.see(t, f).IsNew)
		})
	}
}

func TestStore_LogIn(t *testing.T) {
	t.Parallel()
	f, b := newFixture(t), newBrowser()
	b.set(t, f, "cart", "tea")
	guest := b.clone()
	b.logIn(t, f, "ann")
	require.Equal(t, "tea", b.see(t, f).Values["cart"])
	require.NotContains(t, b.cookies, guestName, "cleared, since nothing is behind it")
	require.True(t, guest.see(t, f).IsNew, "the guest's token opens nothing")
	require.Len(t, f.user(t, "ann"), 1)
	began := f.user(t, "ann")[0].CreatedAt

	// A new token on demand, for the same log-in.
	before := b.clone()
	f.clock.Advance(time.Hour)
	b.change(t, f, func(s *sessions.Session) { s.ID = "" })
	require.True(t, before.see(t, f).IsNew)
	require.Equal(t, "ann", b.see(t, f).Values["user"])
	require.Equal(t, began, f.user(t, "ann")[0].CreatedAt)
	before = b.clone()
	b.change(t, f, func(s *sessions.Session) { s.ID = "chosen by the application" })
	require.True(t, before.see(t, f).IsNew)
	require.NotContains(t, b.cookies[sessionName], "chosen")

	// Another user.
	before = b.clone()
	b.logIn(t, f, int64(42))
	require.True(t, before.see(t, f).IsNew)
	require.Empty(t, f.user(t, "ann"))
	require.Len(t, f.user(t, "42"), 1)

	// A log-out by the key alone.
	before = b.clone()
	b.change(t, f, func(s *sessions.Session) { delete(s.Values, "user") })
	require.True(t, before.see(t, f).IsNew)
	require.Empty(t, f.user(t, "42"))
	require.Equal(t, "tea", b.see(t, f).Values["cart"])
	require.NotContains(t, b.cookies, sessionName)
}

func TestStore_LogOut(t *testing.T) {
	t.Parallel()
	f, b := newFixture(t), newBrowser()
	b.logIn(t, f, "ann")
	slow := b.clone().request()
	session := slow.get(t, f)
	other := b.clone()

	set := b.logOut(t, f)
	require.Equal(t, -1, set[sessionName].MaxAge)
	require.Equal(t, -1, set[guestName].MaxAge)
	require.Empty(t, b.cookies)
	require.Empty(t, f.user(t, "ann"))

	for _, change := range []func(){
		func() { session.Values["late"] = true },
		func() { session.ID = "" },
		func() { session.Values["user"] = "bob" },
	} {
		change()
		require.ErrorIs(t, session.Save(slow.Request, slow.ResponseRecorder), pgsession.ErrRevoked)
		require.Empty(t, slow.respond(), "no cookie")
	}
	require.True(t, other.see(t, f).IsNew)

	// Saving again after the log-out does not begin a session.
	b.logIn(t, f, "ann")
	r := b.request()
	session = r.get(t, f)
	session.Options.MaxAge = -1
	r.save(t, session)
	session.Options.MaxAge = 60
	require.ErrorIs(t, session.Save(r.Request, r.ResponseRecorder), pgsession.ErrRevoked)
}

// A log-out ends all sessions that the browser has cookies for, and the one that this request has
// begun.
func TestStore_LogOut_All(t *testing.T) {
	t.Parallel()
	f, b := newFixture(t), newBrowser()
	b.set(t, f, "k", "v")
	guest := b.clone()
	ann := newBrowser()
	ann.logIn(t, f, "ann")
	b.cookies[sessionName] = ann.cookies[sessionName]
	r := b.request()
	session := r.get(t, f)
	session.ID = ""
	r.save(t, session)
	session.Options.MaxAge = -1
	r.save(t, session)
	require.Equal(t, 2, len(r.setCookies()), "one for each name")
	r.respond()
	require.Empty(t, b.cookies)
	require.Empty(t, f.user(t, "ann"))
	require.True(t, guest.see(t, f).IsNew)
}

func TestStore_LogOut_ClientGone(t *testing.T) {
	t.Parallel()
	f, b := newFixture(t), newBrowser()
	b.logIn(t, f, "ann")
	r := b.request()
	session := r.get(t, f)
	session.Options.MaxAge = -1
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, session.Save(r.WithContext(ctx), r.ResponseRecorder))
	require.Empty(t, f.user(t, "ann"))
}

func TestStore_Outage(t *testing.T) {
	t.Parallel()
	f, b := newFixture(t), newBrowser()
	b.logIn(t, f, "ann")
	end := f.outage(t)

	r := b.request()
	session, err := f.Get(r.Request, sessionName)
	require.Error(t, err)
	require.NotErrorIs(t, err, pgsession.ErrNotFound)
	require.NotNil(t, session)
	require.Empty(t, session.Values)
	logOut := b.request()
	leaving, err := f.Get(logOut.Request, sessionName)
	require.Error(t, err)
	leaving.Options.MaxAge = -1
	require.Error(t, leaving.Save(logOut.Request, logOut.ResponseRecorder))
	require.Empty(t, logOut.respond(), "the cookie stays, since the session does")
	end()

	session.Values["user"] = "bob"
	require.Error(t, session.Save(r.Request, r.ResponseRecorder), "although the database is back")
	require.Empty(t, r.respond())
	require.Equal(t, "ann", b.see(t, f).Values["user"])

	require.NoError(t, leaving.Save(logOut.Request, logOut.ResponseRecorder), "a log-out needs no load")
	logOut.respond()
	require.Empty(t, b.cookies)
	require.Empty(t, f.user(t, "ann"))
}

func TestStore_Outage_Save(t *testing.T) {
	t.Parallel()
	f, b := newFixture(t), newBrowser()
	b.logIn(t, f, "ann")
	r := b.request()
	session := r.get(t, f)
	session.Values["k"] = "v"
	end := f.outage(t)
	require.Error(t, session.Save(r.Request, r.ResponseRecorder))
	require.Empty(t, r.respond())
	end()
	r.save(t, session)
	require.Equal(t, "v", b.see(t, f).Values["k"])
}

func TestStore_DoesNotOpen(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	f := newFixture(t, gorillastore.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
	b := newBrowser()
	b.logIn(t, f, "ann")
	_, err := f.pool.Exec(t.Context(), `UPDATE sessions SET sealed = set_byte(sealed, 40, get_byte(sealed, 40) # 1)`)
	require.NoError(t, err)
	require.True(t, b.see(t, f).IsNew)
	require.Contains(t, log.String(), "does not open")
	require.NotContains(t, log.String(), b.cookies[sessionName])
	began := time.Now()
	for range 100 {
		b.see(t, f)
	}
	require.LessOrEqual(t, strings.Count(log.String(), "\n"), 2+int(time.Since(began)/time.Second), "a line a second")
	b.logIn(t, f, "ann")
	require.False(t, b.see(t, f).IsNew)
}

// Values of a type that this release does not know are not lost.
func TestStore_DoesNotDecode(t *testing.T) {
	t.Parallel()
	f, b := newFixture(t), newBrowser()
	stored, err := f.sealed.CreateAs(t.Context(), pgsession.NewIDFor(purpose), pgsession.Data{UserID: "ann", Values: []byte("unknown")}, time.Hour)
	require.NoError(t, err)
	b.cookies[sessionName] = stored.ID.Token()
	r := b.request()
	session, err := f.Get(r.Request, sessionName)
	require.ErrorIs(t, err, pgsession.ErrDecode)
	require.True(t, session.IsNew)
	require.ErrorIs(t, session.Save(r.Request, r.ResponseRecorder), pgsession.ErrDecode)
	require.Len(t, f.user(t, "ann"), 1)
	session.Options.MaxAge = -1
	r.save(t, session)
	require.Empty(t, f.user(t, "ann"))
}

func TestStore_DoesNotEncode(t *testing.T) {
	t.Parallel()
	type unregistered struct{ A int }
	f, b := newFixture(t), newBrowser()
	r := b.request()
	session := r.get(t, f)
	session.Values["k"] = unregistered{1}
	require.ErrorIs(t, session.Save(r.Request, r.ResponseRecorder), pgsession.ErrEncode)
	session.Values["k"] = strings.Repeat("x", 70_000)
	require.ErrorIs(t, session.Save(r.Request, r.ResponseRecorder), pgsession.ErrTooLarge)
	require.Empty(t, r.respond())
}

func TestStore_Overlap(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	type values = map[any]any
	for name, c := range map[string]struct{ theirs, ours, want func(v values) }{
		"other keys": {
			func(v values) { v["b"] = 1 },
			func(v values) { v["c"] = 2 },
			func(v values) { v["b"], v["c"] = 1, 2 },
		},
		"one key": {
			func(v values) { v["a"] = 1 },
			func(v values) { v["a"] = 2 },
			func(v values) { v["a"] = 2 },
		},
		"they delete": {
			func(v values) { delete(v, "a") },
			func(v values) { v["b"] = 2 },
			func(v values) { delete(v, "a"); v["b"] = 2 },
		},
		"we delete": {
			func(v values) { v["b"] = 1 },
			func(v values) { delete(v, "a") },
			func(v values) { delete(v, "a"); v["b"] = 1 },
		},
		"we change nothing": {
			func(v values) { v["a"] = 1 },
			func(v values) {},
			func(v values) { v["a"] = 1 },
		},
		"we change what a pointer leads to": {
			func(v values) { v["a"] = 1 },
			func(v values) { v["cart"].(*cart).Items[0] = "coffee" },
			func(v values) { v["a"], v["cart"] = 1, &cart{[]string{"coffee"}} },
		},
		"both log in as themselves": {
			func(v values) { v["a"], v["user"] = 1, "ann" },
			func(v values) { v["user"] = "ann" },
			func(v values) { v["a"] = 1 },
		},
	} {
		for _, renew := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, renewed: %v", name, renew), func(t *testing.T) {
				b := newBrowser()
				begin := func(v values) { v["user"], v["a"], v["cart"] = "ann", 0, &cart{[]string{"tea"}} }
				b.change(t, f, func(s *sessions.Session) { begin(s.Values) })
				r := b.request()
				session := r.get(t, f)
				b.change(t, f, func(s *sessions.Session) { c.theirs(s.Values) })
				c.ours(session.Values)
				if renew {
					session.ID = ""
				}
				r.save(t, session)
				r.respond()
				want := values{}
				begin(want)
				c.want(want)
				require.Equal(t, want, b.see(t, f).Values)

				// A second Save of the request takes nothing away.
				session.Values["second"], want["second"] = true, true
				r.save(t, session)
				require.Equal(t, want, b.see(t, f).Values)
			})
		}
	}
}

func TestStore_Cookie(t *testing.T) {
	t.Parallel()
	f, b := newFixture(t), newBrowser()
	b.logIn(t, f, "ann")
	expiry := func() time.Time { return f.user(t, "ann")[0].ExpiresAt }
	began := expiry()
	require.Empty(t, b.set(t, f, "k", 1), "the token is the same")
	f.clock.Advance(2 * 24 * time.Hour)
	require.Empty(t, b.set(t, f, "k", 2), "not a tenth of 30 days yet")
	require.Equal(t, began, expiry(), "the session and its cookie end together")
	f.clock.Advance(2 * 24 * time.Hour)
	require.Equal(t, 2592000, b.set(t, f, "k", 2)[sessionName].MaxAge, "prolonged, also without a change")
	require.Equal(t, began.Add(4*24*time.Hour), expiry())

	// "Remember me", and later requests that do not repeat it.
	set := b.change(t, f, func(s *sessions.Session) { s.Options.MaxAge = 90 * 86400 })
	require.Equal(t, 90*86400, set[sessionName].MaxAge)
	require.Equal(t, 90*86400, b.see(t, f).Options.MaxAge)
	require.Empty(t, b.set(t, f, "k", 3))
	f.clock.Advance(30 * 24 * time.Hour)
	require.Equal(t, 90*86400, b.set(t, f, "k", 4)[sessionName].MaxAge)

	// As long as the browser runs.
	set = b.change(t, f, func(s *sessions.Session) { s.Options.MaxAge = 0 })
	require.Zero(t, set[sessionName].MaxAge)
	require.Equal(t, f.clock.Now().Add(12*time.Hour).UTC().Truncate(time.Microsecond), expiry())
	require.Zero(t, b.see(t, f).Options.MaxAge)
	require.Empty(t, b.set(t, f, "k", 5))
}

func TestStore_Options(t *testing.T) {
	t.Parallel()
	f, b := newFixture(t, gorillastore.WithTTL(time.Hour)), newBrowser()
	f.Options = &sessions.Options{Path: "/app", Domain: "example.com", HttpOnly: true, Secure: true, Partitioned: true, SameSite: http.SameSiteNoneMode}
	r := b.request()
	session := r.get(t, f)
	session.Values["user"] = "ann"
	r.save(t, session)
	cookie := r.setCookies()[0]
	require.Equal(t, []any{"/app", "example.com", 0, true, true, true, http.SameSiteNoneMode},
		[]any{cookie.Path, cookie.Domain, cookie.MaxAge, cookie.HttpOnly, cookie.Secure, cookie.Partitioned, cookie.SameSite})
	require.Equal(t, "no-store", r.ResponseRecorder.Header().Get("Cache-Control"))
	require.Equal(t, time.Hour, f.user(t, "ann")[0].IdleTimeout)
	session.Options.Path = "/other"
	require.Equal(t, "/app", f.Options.Path, "the options of a session are its own")
}

// A response to a guest that was slow does not replace the cookie of a log-in.
func TestStore_SlowGuest(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, begun := range []bool{false, true} { // whether the guest had a session before
		b := newBrowser()
		if begun {
			b.set(t, f, "k", 1)
		}
		before, during := b.request(), b.request()
		session := before.get(t, f)
		session.Values["k"] = 2
		before.save(t, session)
		b.logIn(t, f, "ann")
		session = during.get(t, f) // its cookie may name a session that has ended meanwhile
		session.Values["k"] = 3
		if begun {
			require.ErrorIs(t, session.Save(during.Request, during.ResponseRecorder), pgsession.ErrRevoked, "nobody would see it")
		} else {
			during.save(t, session)
		}
		before.respond()
		during.respond()
		require.Equal(t, "ann", b.see(t, f).Values["user"])
	}
}

// A user's cookie whose session is over does not hide the guest's.
func TestStore_TwoCookies(t *testing.T) {
	t.Parallel()
	f, b := newFixture(t), newBrowser()
	b.logIn(t, f, "ann")
	_, err := f.sealed.DeleteByUser(t.Context(), "ann")
	require.NoError(t, err)
	b.set(t, f, "k", 1)
	require.Len(t, b.cookies, 2)
	require.Equal(t, 1, b.see(t, f).Values["k"])
}

// Without WithUserKey all sessions are guests', and keep their token.
func TestStore_NoUserKey(t *testing.T) {
	t.Parallel()
	store, b := gorillastore.New(pgsession.InMemory()), newBrowser()
	b.logIn(t, store, "ann")
	require.Contains(t, b.cookies, sessionName)
	before := b.clone()
	b.logIn(t, store, "bob")
	require.False(t, before.see(t, store).IsNew, "the token stays")
	require.Len(t, b.logOut(t, store), 1)
}

// Sessions that are made by hand are new ones.
func TestStore_NewSession(t *testing.T) {
	t.Parallel()
	store, b := gorillastore.New(pgsession.InMemory()), newBrowser()
	r := b.request()
	session := sessions.NewSession(store, sessionName)
	session.ID = pgsession.NewID().Token()
	session.Values["k"] = 1
	r.save(t, session)
	r.respond()
	require.Equal(t, 1, b.see(t, store).Values["k"])
}

func TestStore_ForgetsSessions(t *testing.T) {
	t.Parallel()
	store := gorillastore.New(pgsession.InMemory())
	newBrowser().logIn(t, store, "ann")
	for gorillastore.Remembered(store) > 0 {
		require.NoError(t, t.Context().Err())
		runtime.GC()
	}
}

func TestNew_Panics(t *testing.T) {
	t.Parallel()
	require.Panics(t, func() { gorillastore.New(nil) })
	require.Panics(t, func() { gorillastore.WithTTL(0) })
	require.Panics(t, func() { gorillastore.WithPGStore(gorillastore.PGStore{}) })
	require.Panics(t, func() { gorillastore.WithPGStore(gorillastore.PGStore{Codecs: codecs, Stay: true}) })
	require.Panics(t, func() {
		gorillastore.WithPGStore(gorillastore.PGStore{Codecs: codecs, Table: move.FromGorilla(nil, "t")})
	})
}

func TestStore_Statements(t *testing.T) {
	t.Parallel()
	var traced test.Tracer
	sealed := test.Open(pgtest.Pool(t, func(config *pgxpool.Config) { config.ConnConfig.Tracer = &traced }))
	require.NoError(t, sealed.Init(t.Context()))
	store, b := gorillastore.New(sealed, gorillastore.WithUserKey("user")), newBrowser()
	for _, step := range []struct {
		name       string
		load, save int64
		change     func(*sessions.Session)
	}{
		{"new", 0, 1, func(s *sessions.Session) {
			for i := range 20 {
				s.Values[i] = i
			}
		}},
		{"changed", 1, 1, func(s *sessions.Session) { s.Values["k"] = 2 }},
		{"unchanged", 1, 0, func(s *sessions.Session) {}},
		{"log-in", 1, 1, func(s *sessions.Session) { s.Values["user"] = "ann" }},
		{"log-out", 1, 1, func(s *sessions.Session) { s.Options.MaxAge = -1 }},
	} {
		traced.RoundTrips.Store(0)
		r := b.request()
		session := r.get(t, store)
		require.Equal(t, step.load, traced.RoundTrips.Swap(0), step.name)
		step.change(session)
		r.save(t, session)
		require.Equal(t, step.save, traced.RoundTrips.Swap(0), step.name)
		r.respond()
	}
}
