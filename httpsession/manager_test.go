package httpsession_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/httpsession"
)

func TestManager_Handler_NoCookie(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		b := f.serve(t, f.app())
		f.outage(true)
		defer f.outage(false)
		answer := b.do("GET /session")
		require.Zero(t, answer.session(t), "without a cookie there is no I/O")
		require.Empty(t, answer.setCookies())
	})
}

func TestManager_Handler_Once(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		b := f.serve(t, f.Handler(f.RequireUser(f.app())))
		require.Equal(t, http.StatusUnauthorized, b.do("GET /session").StatusCode)
		open := f.serve(t, f.app())
		open.do("POST /login?user=ann")
		b.Jar = open.Jar
		b.Jar.SetCookies(b.address(), open.cookies())
		before := f.store.Stats().Loads
		require.Equal(t, "ann", b.get().UserID)
		require.EqualValues(t, 1, f.store.Stats().Loads-before)
	})
}

func TestManager_WithoutHandler(t *testing.T) {
	t.Parallel()
	f := newInMemory(t)
	w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil)
	for name, call := range map[string]func(){
		"Get":     func() { f.Get(r) },
		"Update":  func() { f.Update(w, r, nil) },
		"LogIn":   func() { f.LogIn(w, r, "ann", nil) },
		"LogOut":  func() { f.LogOut(w, r) },
		"Reload":  func() { f.Reload(r) },
		"RenewID": func() { f.RenewID(w, r, nil) },
		"Watch":   func() { f.Watch(r) },
	} {
		require.PanicsWithValue(t, "httpsession: the request did not come through Manager.Handler; wrap the application in it, and use the request that it passes on", call, name)
	}
}

func TestManager_Touch(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t, httpsession.WithTTL(100*time.Minute))
		b := f.serve(t, f.app())
		b.do("POST /login?user=ann")
		expiry := func() time.Time {
			s, err := f.store.Load(t.Context(), b.id("session"))
			require.NoError(t, err)
			return s.ExpiresAt
		}
		before, s := expiry(), b.get()
		f.clock.Advance(9 * time.Minute)
		require.Equal(t, s, b.get())
		require.Equal(t, before, expiry(), "most requests write nothing")

		f.clock.Advance(time.Minute)
		answer := b.do("GET /session")
		require.Empty(t, answer.setCookies())
		require.Equal(t, s.ExpiresAt.Add(10*time.Minute), answer.session(t).ExpiresAt, "the request shows what it gained")
		require.Equal(t, s.ExpiresAt.Add(10*time.Minute), b.get().ExpiresAt)
		require.NotEqual(t, before, expiry())

		for range 20 {
			f.clock.Advance(99 * time.Minute)
			require.Equal(t, "ann", b.get().UserID)
		}
		f.clock.Advance(100 * time.Minute)
		require.True(t, b.get().Ended)
	})
}

// A session that cannot gain is not touched at each request.
func TestManager_Touch_BeforeTheEnd(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t, httpsession.WithRemember(time.Hour, 90*time.Minute))
		b := f.serve(t, f.app())
		b.do("POST /login?user=ann&remember=1")
		f.clock.Advance(50 * time.Minute)
		s := b.get()
		require.Equal(t, s.EndsAt, s.ExpiresAt)
		if f.onWrite != nil {
			f.onWrite(true)
		}
		f.clock.Advance(30 * time.Minute)
		require.Equal(t, s, b.get())
		require.Empty(t, f.logs.String())
	})
}

func TestManager_Touch_Fails(t *testing.T) {
	t.Parallel()
	f := newOnPostgreSQL(t)
	b := f.serve(t, f.app())
	b.do("POST /login?user=ann")
	f.onWrite(true)
	f.clock.Advance(6 * time.Hour)
	require.Equal(t, "ann", b.get().UserID, "the load was good")
	require.Contains(t, f.logs.String(), "was not prolonged")
	f.onWrite(false)
	f.clock.Advance(5 * time.Hour)
	require.Equal(t, "ann", b.get().UserID)
}

func TestManager_Outage(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		mux := f.app()
		b := f.serve(t, mux)
		mux.HandleFunc("POST /{path}", func(http.ResponseWriter, *http.Request) { t.Error("next was called") })
		b.do("POST /login?user=ann")
		cookies := b.cookies()
		f.outage(true)
		for _, request := range []string{"GET /session", "POST /never", "POST /logout"} {
			answer := b.do(request)
			require.Equal(t, http.StatusServiceUnavailable, answer.StatusCode)
			require.NotEmpty(t, answer.Header.Get("Retry-After"))
			require.NotContains(t, answer.body, "log")
			require.Empty(t, answer.setCookies())
		}
		require.Contains(t, f.logs.String(), "level=ERROR")
		f.outage(false)
		require.Equal(t, cookies, b.cookies())
		require.Equal(t, "ann", b.get().UserID)
	})
}

func TestManager_Outage_HalfWay(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		mux := f.app()
		mux.HandleFunc("POST /half", func(w http.ResponseWriter, r *http.Request) {
			before := f.Get(r)
			f.outage(true)
			calls := map[string]error{
				"Update": f.Update(w, r, func(v *Values) error { v.Count++; return nil }),
				"LogIn":  f.LogIn(w, r, "bob", nil, httpsession.Remember()),
			}
			if before.Handle != (pgsession.Handle{}) {
				calls["LogOut"] = f.LogOut(w, r)
				_, calls["Reload"] = f.Reload(r)
			}
			f.outage(false)
			for name, err := range calls {
				require.Error(t, err, name)
				require.NotErrorIs(t, err, pgsession.ErrNotFound, name)
			}
			require.Equal(t, before, f.Get(r))
			f.Error(w, r, calls["LogIn"])
		})
		b := f.serve(t, mux)
		for _, login := range []bool{false, true} {
			if login {
				b.do("POST /login?user=ann")
			}
			before := b.get()
			answer := b.do("POST /half")
			require.Equal(t, http.StatusServiceUnavailable, answer.StatusCode)
			require.Empty(t, answer.setCookies())
			require.Equal(t, before, b.get())
		}
	})
}

func TestWithErrorHandler(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t, httpsession.WithErrorHandler(func(w http.ResponseWriter, _ *http.Request, err error) {
			require.Error(t, err)
			http.Error(w, "mine", http.StatusTeapot)
		}))
		b := f.serve(t, f.app())
		b.do("POST /add")
		f.outage(true)
		defer f.outage(false)
		answer := b.do("GET /session")
		require.Equal(t, http.StatusTeapot, answer.StatusCode)
	})
}

func TestManager_DoesNotOpen(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		b := f.serve(t, f.app())
		b.do("POST /login?user=ann")
		tampered := b.id("session")
		f.tamper(tampered.Handle())
		gone := func() {
			_, err := f.store.Load(t.Context(), tampered)
			require.ErrorIs(t, err, pgsession.ErrRevoked)
		}

		answer := b.do("GET /session")
		require.Zero(t, answer.session(t), "a guest")
		require.Empty(t, answer.setCookies())
		require.Contains(t, f.logs.String(), "level=ERROR")
		require.Contains(t, f.logs.String(), tampered.Handle().String())
		require.NotContains(t, f.logs.String(), tampered.Token())

		b.do("POST /add?item=pen")
		require.Equal(t, []string{"pen"}, b.get().Values.Cart)
		s := b.do("POST /login?user=ann").session(t)
		require.Equal(t, []string{"pen"}, s.Values.Cart)
		require.Equal(t, s, b.get())
		gone()

		tampered = b.id("session")
		f.tamper(tampered.Handle())
		require.Equal(t, []string{"clear session"}, b.do("POST /logout").setCookies())
		gone()
	})
}

func TestNew_Panics(t *testing.T) {
	t.Parallel()
	store := pgsession.InMemory()
	require.Panics(t, func() { httpsession.New[Values](nil) })
	for name, option := range map[string]func() httpsession.Option{
		"ttl":           func() httpsession.Option { return httpsession.WithTTL(0) },
		"remember":      func() httpsession.Option { return httpsession.WithRemember(0, time.Hour) },
		"lifetime":      func() httpsession.Option { return httpsession.WithRemember(time.Hour, -1) },
		"name":          func() httpsession.Option { return httpsession.WithCookie(http.Cookie{Name: "a b"}) },
		"prefix":        func() httpsession.Option { return httpsession.WithCookie(http.Cookie{Name: "__Host-sid"}) },
		"suffix":        func() httpsession.Option { return httpsession.WithCookie(http.Cookie{Name: "x-Guest"}) },
		"path":          func() httpsession.Option { return httpsession.WithCookie(http.Cookie{Path: "/;"}) },
		"no slash":      func() httpsession.Option { return httpsession.WithCookie(http.Cookie{Path: "app"}) },
		"domain":        func() httpsession.Option { return httpsession.WithCookie(http.Cookie{Domain: "a b"}) },
		"sessions":      func() httpsession.Option { return httpsession.WithMaxSessions(0) },
		"relative page": func() httpsession.Option { return httpsession.WithLogInPage("login") },
		"no page":       func() httpsession.Option { return httpsession.WithLogInPage("://") },
		"log-in page":   func() httpsession.Option { return httpsession.WithLogInPage("") },
	} {
		require.Panics(t, func() { httpsession.New[Values](store, option()) }, name)
	}
}

func TestNew_TwoManagers(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		staff := httpsession.New[int](f.store, httpsession.WithCookie(http.Cookie{Name: "staff"}), httpsession.WithPlainHTTP())
		mux := f.app()
		mux.HandleFunc("POST /staff", func(w http.ResponseWriter, r *http.Request) {
			require.NoError(t, staff.LogIn(w, r, "root", func(n *int) error { *n = 7; return nil }))
		})
		mux.HandleFunc("GET /staff", func(w http.ResponseWriter, r *http.Request) {
			require.Equal(t, 7, staff.Get(r).Values)
			require.Equal(t, "root", staff.Get(r).UserID)
			f.write(w, r)
		})
		b := f.serve(t, staff.Handler(mux))
		b.do("POST /login?user=ann")
		require.Equal(t, []string{"set staff"}, b.do("POST /staff").setCookies())
		require.Equal(t, "ann", b.do("GET /staff").session(t).UserID)
	})
}

// What comes by itself keeps nobody logged in, whatever it calls.
func TestManager_Passive(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t, httpsession.WithTTL(30*time.Minute))
		mux := http.NewServeMux()
		mux.Handle("/", f.Handler(f.app()))
		mux.Handle("/passive/", f.Passive(f.RequireUser(http.StripPrefix("/passive", f.app()))))
		mux.Handle("/wrong/", f.Handler(f.Passive(f.app())))
		b := newBrowser(t, httptest.NewServer(mux))
		s := b.do("POST /login?user=ann").session(t)
		for range 2 {
			f.clock.Advance(14 * time.Minute)
			require.Equal(t, s.ExpiresAt, b.do("GET /passive/session").session(t).ExpiresAt)
			require.Equal(t, s.ExpiresAt, b.do("POST /passive/add").session(t).ExpiresAt)
		}
		f.clock.Advance(time.Minute)
		require.Equal(t, s.ExpiresAt.Add(29*time.Minute), b.get().ExpiresAt, "a person prolongs it")
		f.clock.Advance(30 * time.Minute)
		require.Equal(t, http.StatusUnauthorized, b.do("GET /passive/session").StatusCode)
		b.do("POST /login?user=ann")
		_, err := b.try("GET /wrong/session")
		require.Error(t, err, "it panics: the session was prolonged already")
	})
}

// A request that failed to load its session knows nothing: whatever its error handler calls.
func TestWithErrorHandler_Calls(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		var f *fixture
		f = newFixture(t, httpsession.WithErrorHandler(func(w http.ResponseWriter, r *http.Request, err error) {
			require.Zero(t, f.Get(r))
			require.Equal(t, err, f.Update(w, r, nil))
			require.Equal(t, err, f.LogIn(w, r, "ann", nil))
			require.Equal(t, err, f.RenewID(w, r, nil))
			require.Equal(t, err, f.LogOut(w, r))
			_, reloadErr := f.Reload(r)
			require.Equal(t, err, reloadErr)
			require.NoError(t, f.Watch(r).Err())
			f.RequireUser(f.app()).ServeHTTP(w, r)
		}))
		b := f.serve(t, f.app())
		b.do("POST /login?user=ann")
		f.outage(true)
		answer := b.do("GET /session")
		f.outage(false)
		require.Equal(t, http.StatusServiceUnavailable, answer.StatusCode, "and not 401")
		require.Empty(t, answer.setCookies())
		require.Equal(t, "ann", b.get().UserID)
	})
}
