package gorillastore_test

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/sessions"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	gorillastore "github.com/pgsession/pgsession/adapters/gorilla"
	"github.com/pgsession/pgsession/httpsession"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/test"
)

// A token opens sessions of its own name, of this package only.
func TestStore_Purposes(t *testing.T) {
	t.Parallel()
	f, b := newFixture(t), newBrowser()
	b.logIn(t, f, "ann")
	bare, err := f.sealed.Create(t.Context(), pgsession.Data{UserID: "ann", Values: []byte("x")}, time.Hour)
	require.NoError(t, err)
	thief := newBrowser()
	thief.cookies[sessionName] = bare.ID.Token()
	require.True(t, thief.see(t, f).IsNew)
	id, err := pgsession.ParseID(b.cookies[sessionName])
	require.NoError(t, err)
	_, err = f.sealed.Load(t.Context(), id)
	require.ErrorIs(t, err, pgsession.ErrNotFound)

	type values struct{ A int }
	m := httpsession.New[values](f.sealed, httpsession.WithCookie(http.Cookie{Name: sessionName}))
	var user string
	handler := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user = m.Get(r).UserID
		if user == "" {
			require.NoError(t, m.LogIn(w, r, "ann", nil))
		}
	}))
	visit := func(token string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", "https://example.com/", nil)
		for _, name := range []string{sessionName, "__Host-" + sessionName} {
			r.AddCookie(&http.Cookie{Name: name, Value: token})
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return w
	}
	w := visit(b.cookies[sessionName])
	require.Empty(t, user)
	token := w.Result().Cookies()[0].Value
	visit(token)
	require.Equal(t, "ann", user)
	thief.cookies[sessionName] = token
	require.True(t, thief.see(t, f).IsNew)
}

// A request that comes with the old token, after another one has changed it, takes nothing away.
func TestStore_OldToken(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, store := range []*gorillastore.Store{f.Store, gorillastore.New(f.sealed), gorillastore.New(pgsession.InMemory(), gorillastore.WithUserKey("user"))} {
		for key, value := range map[string]string{"a": "1", "user": "ann"} {
			b := newBrowser()
			b.set(t, store, key, value)
			late, held := b.clone(), b.clone().request()
			loaded := held.get(t, store)
			b.change(t, store, func(s *sessions.Session) { s.ID = "" })
			for name, change := range map[string]func(*sessions.Session){
				"changes":  func(s *sessions.Session) { s.Values["b"] = "2" },
				"logs in":  func(s *sessions.Session) { s.Values["user"] = "ann" },
				"logs out": func(s *sessions.Session) { s.Options.MaxAge = -1 },
			} {
				r := late.request()
				session := r.get(t, store)
				require.True(t, session.IsNew)
				change(session)
				require.ErrorIs(t, session.Save(r.Request, r.ResponseRecorder), pgsession.ErrRevoked, name)
				require.Empty(t, r.setCookies(), name)
			}
			loaded.Values["user"], loaded.Values["c"] = "ann", "3"
			require.ErrorIs(t, loaded.Save(held.Request, held.ResponseRecorder), pgsession.ErrRevoked, "it was loaded before")
			require.Equal(t, map[any]any{key: value}, b.see(t, store).Values)
		}
	}
	b := newBrowser()
	b.set(t, f, "a", "1")
	late := b.clone()
	b.change(t, f, func(s *sessions.Session) { s.ID = "" })
	f.clock.Advance(time.Minute)
	r := late.request()
	require.ErrorIs(t, r.get(t, f).Save(r.Request, r.ResponseRecorder), pgsession.ErrRevoked)
	require.Negative(t, r.respond()[sessionName+"-guest"].MaxAge, "the answer with the new token was lost")
	late.set(t, f, "a", "2")
}

// A host beside this one can set cookies of the session's name, which browsers send first.
func TestStore_TossedCookies(t *testing.T) {
	t.Parallel()
	f, b := newFixture(t), newBrowser()
	b.logIn(t, f, "ann")
	other := newBrowser()
	other.logIn(t, f, "ann")
	bring := func(garbage, tokens int) *request {
		var line []string
		for n := range garbage {
			line = append(line, fmt.Sprintf("%s=garbage-%d", sessionName, n))
		}
		for range tokens {
			line = append(line, sessionName+"="+pgsession.NewID().Token())
		}
		for _, own := range []*browser{b, other, b} {
			line = append(line, sessionName+"="+own.cookies[sessionName])
		}
		r := newBrowser().request()
		r.Request.Header.Set("Cookie", strings.Join(line, "; "))
		return r
	}
	for _, r := range []*request{bring(4, 0), bring(1000, 30)} {
		require.Equal(t, "ann", r.get(t, f).Values["user"])
	}
	tooMany := bring(0, 31)
	session, err := f.Get(tooMany.Request, sessionName)
	require.ErrorContains(t, err, "33 cookies", "it does not say that she is a guest")
	require.Error(t, session.Save(tooMany.Request, tooMany.ResponseRecorder))
	session.Options.MaxAge = -1
	require.Error(t, session.Save(tooMany.Request, tooMany.ResponseRecorder), "nor that she is logged out")
	require.Len(t, f.user(t, "ann"), 2)

	r := bring(4, 4)
	session = r.get(t, f)
	session.Options.MaxAge = -1
	r.save(t, session)
	require.Empty(t, f.user(t, "ann"))
}

// A guest's session that a log-in has moved is no reason to refuse a log-in, and gives it no
// values.
func TestStore_LogIn_GuestEnded(t *testing.T) {
	t.Parallel()
	f, b := newFixture(t), newBrowser()
	b.set(t, f, "cart", "tea")
	second := b.request()
	session := second.get(t, f)
	b.logIn(t, f, "ann")
	session.Values["user"], session.Values["new"] = "ann", true
	second.save(t, session)
	second.respond()
	require.Equal(t, map[any]any{"user": "ann", "new": true}, b.see(t, f).Values)

	// A guest's change that nobody would see is refused, and its cookie goes.
	b = newBrowser()
	b.set(t, f, "cart", "tea")
	late := b.clone()
	b.logIn(t, f, "ann")
	r := late.request()
	session = r.get(t, f)
	session.Values["cart"] = "coffee"
	require.ErrorIs(t, session.Save(r.Request, r.ResponseRecorder), pgsession.ErrRevoked)
	r.respond()
	require.Empty(t, late.cookies)
	late.set(t, f, "cart", "coffee")
	require.Equal(t, "coffee", late.see(t, f).Values["cart"])

	late = newBrowser()
	late.set(t, f, "cart", "tea")
	other := late.clone()
	other.logIn(t, f, "bob")
	late.logIn(t, f, "ann") // with the cookie of a session that is over
	require.Equal(t, "ann", late.see(t, f).Values["user"])
}

type (
	olderPrefs struct{ Theme string }
	newerPrefs struct {
		Theme string
		MFA   bool
	}
	userID    struct{ ID string }
	forgetful struct{ Text string }
)

func (u userID) String() string                { return u.ID }
func (f forgetful) GobEncode() ([]byte, error) { return []byte(f.Text), nil }
func (*forgetful) GobDecode(b []byte) error    { return errors.New(string(b)) }

func init() {
	gob.RegisterName("gorilla-prefs-older", olderPrefs{})
	gob.RegisterName("gorilla-prefs-newer", newerPrefs{})
	gob.RegisterName("gorilla-user", userID{})
	gob.Register(forgetful{})
}

// rename makes what one type's name stands for be read as another's, as by another release.
func (f *fixture) rename(t *testing.T, from, to string) {
	t.Helper()
	for session, err := range f.sealed.All(t.Context()) {
		require.NoError(t, err)
		_, err := f.sealed.Update(t.Context(), session, 0, func(stored *pgsession.Session) (any, error) {
			values, err := pgsession.Decode[[]byte](stored)
			return bytes.ReplaceAll(values, []byte(from), []byte(to)), err
		})
		require.NoError(t, err)
	}
}

// During a deploy an older release saves sessions of a newer one.
func TestStore_OlderRelease(t *testing.T) {
	t.Parallel()
	const newer, older, never = "gorilla-prefs-newer", "gorilla-prefs-older", "gorilla-prefs-never"
	var log bytes.Buffer
	for _, name := range []string{older, never} {
		f, b := newFixture(t, gorillastore.WithLogger(slog.New(slog.NewTextHandler(&log, nil)))), newBrowser()
		b.set(t, f, "prefs", newerPrefs{"dark", true})
		f.rename(t, newer, name)
		s := b.see(t, f)
		require.Equal(t, name == older, s.Values["prefs"] != nil)
		b.set(t, f, "a", 1)
		b.logIn(t, f, "ann")
		b.set(t, f, "a", 2)
		f.rename(t, name, newer)
		s = b.see(t, f)
		require.Equal(t, map[any]any{"prefs": newerPrefs{"dark", true}, "user": "ann", "a": 2}, s.Values)

		f.rename(t, newer, name)
		b.logIn(t, f, "bob")
		f.rename(t, name, newer)
		require.Equal(t, name == older, b.see(t, f).Values["prefs"] != nil, "what is not known here does not go to another user")
	}
	require.Equal(t, 1, strings.Count(log.String(), "do not decode"), "a line a second")
	require.NotContains(t, log.String(), "dark")

	// If who the user is cannot be read, the session is not a guest's.
	f, b := newFixture(t), newBrowser()
	b.logIn(t, f, userID{"ann"})
	require.Len(t, f.user(t, "ann"), 1)
	f.rename(t, "gorilla-user", "gorilla-none")
	_, err := f.Get(b.request().Request, sessionName)
	require.ErrorIs(t, err, pgsession.ErrDecode)
}

// What would not decode again is refused, and no error quotes it.
func TestStore_ErrEncode(t *testing.T) {
	t.Parallel()
	f, b := newFixture(t), newBrowser()
	b.set(t, f, "a", 1)
	r := b.request()
	session := r.get(t, f)
	session.Values["f"] = forgetful{"a secret"}
	err := session.Save(r.Request, r.ResponseRecorder)
	require.ErrorIs(t, err, pgsession.ErrEncode)
	require.NotContains(t, err.Error(), "secret")
	require.Contains(t, err.Error(), "forgetful")
	require.Equal(t, map[any]any{"a": 1}, b.see(t, f).Values)
}

// All that a log-out does has the time of one operation.
func TestStore_OneTimeout(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	const timeout = 2 * time.Second
	sealed := test.Open(pool, pgsession.WithTimeout(timeout))
	require.NoError(t, sealed.Init(t.Context()))
	store, b := gorillastore.New(sealed, gorillastore.WithUserKey("user")), newBrowser()
	var line []string
	for range 8 {
		b.logIn(t, store, "ann")
		line = append(line, sessionName+"="+b.cookies[sessionName])
		clear(b.cookies)
	}
	r := b.request()
	r.Request.Header.Set("Cookie", strings.Join(line, "; "))
	session := r.get(t, store)
	session.Options.MaxAge = -1
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, tx.Rollback(context.Background())) }()
	_, err = tx.Exec(t.Context(), `SELECT 1 FROM sessions FOR UPDATE`)
	require.NoError(t, err)
	began := time.Now()
	require.Error(t, session.Save(r.Request, r.ResponseRecorder))
	require.Less(t, time.Since(began), 4*timeout)
	require.Empty(t, r.setCookies())
}

// While sessions move, DeleteByUser ends them wherever they are.
func TestPGStore_DeleteByUser(t *testing.T) {
	t.Parallel()
	for name, bring := range map[string]func(t *testing.T, m moving){
		"in the old table": func(*testing.T, moving) {},
		"marked": func(t *testing.T, m moving) {
			_, err := m.pool.Exec(t.Context(), `UPDATE http_sessions SET key = 'moving:' || key`)
			require.NoError(t, err)
		},
		"in the new table": func(t *testing.T, m moving) { m.move(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, ann, bob := newMoving(t), newBrowser(), newBrowser()
			ann.logIn(t, m.old, "ann")
			bob.logIn(t, m.old, "bob")
			bring(t, m)
			late := ann.request()
			session := late.get(t, m.two)
			ended, err := m.sealed.DeleteByUser(t.Context(), "ann")
			require.NoError(t, err)
			require.EqualValues(t, 1, ended)
			require.True(t, ann.see(t, m.two).IsNew)
			require.Equal(t, "bob", bob.see(t, m.two).Values["user"])
			for _, change := range []func(s *sessions.Session){
				func(s *sessions.Session) { s.Values["late"] = true },
				func(s *sessions.Session) { s.ID = "" },
			} {
				change(session)
				require.ErrorIs(t, session.Save(late.Request, late.ResponseRecorder), pgsession.ErrNotFound)
			}
			require.True(t, ann.see(t, m.two).IsNew)
		})
	}
}

// A release changes the Domain or the Path of the cookie. A guest who logs in and out in the later
// one, where the earlier one's cookie stays, is a guest who can save.
func TestStore_OtherAttributes(t *testing.T) {
	t.Parallel()
	address, err := url.Parse("https://www.example.com/shop/cart")
	require.NoError(t, err)
	all := map[string]sessions.Options{
		"neither": {Path: "/"}, "domain": {Path: "/", Domain: "example.com"}, "host": {Path: "/", Domain: "www.example.com"},
		"path": {Path: "/shop"}, "both": {Path: "/shop", Domain: "example.com"},
	}
	for before, optionsBefore := range all {
		for after, optionsAfter := range all {
			sealed := pgsession.InMemory()
			jar, err := cookiejar.New(nil)
			require.NoError(t, err)
			options := &optionsBefore
			save := func(change func(*sessions.Session)) error {
				store := gorillastore.New(sealed, gorillastore.WithUserKey("user"))
				store.Options = options
				r, w := httptest.NewRequest("POST", address.String(), nil), httptest.NewRecorder()
				for _, cookie := range jar.Cookies(address) {
					r.AddCookie(cookie)
				}
				session, err := store.Get(r, sessionName)
				require.NoError(t, err)
				change(session)
				err = session.Save(r, w)
				jar.SetCookies(address, w.Result().Cookies())
				return err
			}
			add := func(s *sessions.Session) { s.Values["cart"] = "pen" }
			require.NoError(t, save(add))
			options = &optionsAfter
			require.NoError(t, save(func(s *sessions.Session) { s.Values["user"] = "ann" }))
			require.NoError(t, save(func(s *sessions.Session) { s.Options.MaxAge = -1 }))
			if err := save(add); err != nil {
				require.ErrorIs(t, err, pgsession.ErrRevoked)
				require.NoError(t, save(add), "from %s to %s", before, after)
			}
		}
	}
}

// Once a request has logged out, its session is not saved, also if it has not changed.
func TestStore_SaveAfterLogOut(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*sessions.Session){
		"nothing": func(*sessions.Session) {},
		"a value": func(s *sessions.Session) { s.Values["flash"] = "bye" },
		"its ID":  func(s *sessions.Session) { s.ID = "" },
		"the user": func(s *sessions.Session) {
			clear(s.Values)
			s.Values["user"] = "bob"
		},
	} {
		f, b := newFixture(t), newBrowser()
		b.logIn(t, f, "ann")
		r := b.request()
		session := r.get(t, f)
		maxAge := session.Options.MaxAge
		session.Options.MaxAge = -1
		r.save(t, session)
		session.Options.MaxAge = maxAge
		change(session)
		require.ErrorIs(t, session.Save(r.Request, r.ResponseRecorder), pgsession.ErrRevoked, name)
		session.Options.MaxAge = -1
		r.save(t, session)
		r.respond()
		require.True(t, b.see(t, f).IsNew)
		require.Empty(t, f.user(t, "ann"))
	}
}

// Another host of the domain has set cookies for a longer path, with live sessions of its own. A
// visitor who logs in or out is then who they said, and not another's guest or user.
func TestStore_UserChangesAlone(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var tossed []string
	for _, user := range []any{nil, "mallory", "mallory"} {
		mallory := newBrowser()
		mallory.change(t, f, func(s *sessions.Session) { s.Values["cart"], s.Values["user"] = "planted", user })
		for name, value := range mallory.cookies {
			tossed = append(tossed, name+"="+value)
		}
	}
	b := newBrowser()
	visit := func() *request {
		r := b.request()
		r.Request.Header.Set("Cookie", strings.Join(append(tossed, r.Request.Header.Get("Cookie")), "; "))
		return r
	}
	for _, user := range []string{"ann", ""} { // who logs in, and out again without a negative MaxAge
		r := visit()
		session := r.get(t, f)
		clear(session.Values)
		session.Values["user"] = user
		r.save(t, session)
		r.respond()
		r = visit()
		require.Equal(t, map[any]any{"user": user}, r.get(t, f).Values)
		require.Empty(t, f.user(t, "mallory"))
		tossed = nil
		for range 2 {
			ann := newBrowser()
			ann.logIn(t, f, "ann")
			tossed = append(tossed, "app="+ann.cookies["app"])
		}
	}
}

// A release adds WithUserKey, and the one before it still runs. Neither takes sessions out of what
// DeleteByUser finds.
func TestStore_UserKeyLater(t *testing.T) {
	t.Parallel()
	sealed := pgsession.InMemory()
	before, after := gorillastore.New(sealed), gorillastore.New(sealed, gorillastore.WithUserKey("user"))
	earlier, later := newBrowser(), newBrowser()
	earlier.logIn(t, before, "ann")
	require.Equal(t, "ann", earlier.see(t, after).Values["user"])
	earlier.set(t, after, "theme", "dark")
	later.logIn(t, after, "ann")
	for _, b := range []*browser{earlier, later} {
		token := b.cookies["app"]
		b.set(t, before, "theme", "light")
		require.Equal(t, token, b.cookies["app"])
		require.Equal(t, "light", b.see(t, after).Values["theme"])
	}
	ended, err := sealed.DeleteByUser(t.Context(), "ann")
	require.NoError(t, err)
	require.EqualValues(t, 2, ended)
	require.True(t, later.see(t, before).IsNew)
}
