package httpsession_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/httpsession"
	"github.com/pgsession/pgsession/internal/pgtest"
)

func TestManager_LogIn(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		b := f.serve(t, f.app())

		answer := b.do("POST /login?user=ann")
		require.Equal(t, []string{"set session"}, answer.setCookies(), "there was no session")
		require.Equal(t, "no-store", answer.Header.Get("Cache-Control"))
		require.Equal(t, "ann", answer.session(t).UserID)
		require.Zero(t, answer.Cookies()[0].MaxAge)

		b = b.another()
		b.do("POST /add?item=pen")
		guest := b.id("session-guest")
		f.clock.Advance(time.Hour)
		answer = b.do("POST /login?user=ann")
		require.Equal(t, []string{"set session", "clear session-guest"}, answer.setCookies())
		s := answer.session(t)
		require.Equal(t, "ann", s.UserID)
		require.Equal(t, []string{"pen"}, s.Values.Cart, "a guest's values stay")
		require.True(t, s.CreatedAt.Equal(f.clock.Now().Truncate(time.Microsecond)))
		require.Equal(t, s, b.get())
		_, err := f.store.Load(t.Context(), guest)
		require.ErrorIs(t, err, pgsession.ErrRevoked, "the id that was known before is worth nothing")

		first := b.id("session")
		s = b.do("POST /login?user=ann").session(t)
		require.Equal(t, []string{"pen"}, s.Values.Cart, "the same user keeps them")
		_, err = f.store.Load(t.Context(), first)
		require.ErrorIs(t, err, pgsession.ErrRevoked)

		b.do("POST /add")
		second := b.id("session")
		s = b.do("POST /login?user=bob").session(t)
		require.Equal(t, "bob", s.UserID)
		require.Zero(t, s.Values, "another user's are not his")
		_, err = f.store.Load(t.Context(), second)
		require.ErrorIs(t, err, pgsession.ErrRevoked)

		answer = b.do("POST /login?user=")
		require.Equal(t, http.StatusInternalServerError, answer.StatusCode)
		require.Empty(t, answer.Header.Get("Retry-After"))
		require.Equal(t, "bob", b.get().UserID)
	})
}

func TestManager_LogIn_Remember(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		for name, asGuest := range map[string]bool{"guest": true, "no session": false} {
			t.Run(name, func(t *testing.T) {
				f := newFixture(t)
				b := f.serve(t, f.app())
				if asGuest {
					b.do("POST /add?item=pen")
				}
				answer := b.do("POST /login?user=ann&remember=1")
				require.Equal(t, 400*24*60*60, answer.Cookies()[0].MaxAge)
				s := answer.session(t)
				require.Equal(t, asGuest, len(s.Values.Cart) == 1)
				const day = 24 * time.Hour
				require.Equal(t, 30*day, s.ExpiresAt.Sub(f.clock.Now().Truncate(time.Microsecond)))
				require.Equal(t, 90*day, s.EndsAt.Sub(f.clock.Now().Truncate(time.Microsecond)))
				// It slides by its own ttl, without another cookie.
				for range 3 {
					f.clock.Advance(29 * day)
					answer = b.do("GET /session")
					require.Equal(t, "ann", answer.session(t).UserID)
					require.Empty(t, answer.setCookies())
				}
				require.Equal(t, s.EndsAt, answer.session(t).EndsAt)
				f.clock.Advance(3 * day)
				require.True(t, b.get().Ended)
			})
		}
		f := newFixture(t, httpsession.WithRemember(48*time.Hour, 0), httpsession.WithTTL(time.Minute))
		b := f.serve(t, f.app())
		s := b.do("POST /login?user=ann&remember=1").session(t)
		require.Zero(t, s.EndsAt)
		require.Equal(t, 48*time.Hour, s.ExpiresAt.Sub(s.CreatedAt))
		s = b.do("POST /login?user=bob").session(t)
		require.Equal(t, time.Minute, s.ExpiresAt.Sub(s.CreatedAt))
	})
}

// The box is ticked by somebody who is logged in already: the limit counts from then.
func TestManager_LogIn_RememberLater(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		const day = 24 * time.Hour
		f := newFixture(t)
		b := f.serve(t, f.app())
		b.do("POST /login?user=ann")
		f.clock.Advance(time.Hour)
		answer := b.do("POST /login?user=ann&remember=1")
		require.Equal(t, 400*24*60*60, answer.Cookies()[0].MaxAge)
		end := answer.session(t).EndsAt
		require.Equal(t, 90*day, end.Sub(f.clock.Now().Truncate(time.Microsecond)))
		for range 3 {
			f.clock.Advance(29 * day)
			require.Equal(t, end, b.get().EndsAt)
		}
		require.Equal(t, end, b.do("POST /login?user=ann&remember=1").session(t).EndsAt, "it comes no later")
		f.clock.Advance(3 * day)
		require.True(t, b.get().Ended)
	})
}

// Without a limit the session outlives every cookie, which is set anew in time, and only then.
func TestManager_LogIn_RememberForEver(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		const day = 24 * time.Hour
		f := newFixture(t, httpsession.WithRemember(30*day, 0))
		mux := http.NewServeMux()
		mux.Handle("/", f.Handler(f.app()))
		mux.Handle("GET /passive", f.Passive(http.HandlerFunc(f.write)))
		b := newBrowser(t, httptest.NewServer(mux))
		id := func() string { return b.token("session") }
		for _, login := range []string{"POST /login?user=ann&remember=1", "POST /renew"} {
			b.do(login)
			token := id()
			set := time.Duration(0)
			for age := time.Duration(0); age < 1000*day; age += 20 * day {
				f.clock.Advance(20 * day)
				require.Empty(t, b.do("GET /passive").setCookies())
				answer := b.do("GET /session")
				require.Equal(t, "ann", answer.session(t).UserID)
				require.Equal(t, token, id())
				if cookies := answer.Cookies(); len(cookies) > 0 {
					require.Equal(t, 400*24*60*60, cookies[0].MaxAge)
					require.Equal(t, "no-store", answer.Header.Get("Cache-Control"))
					if login == "POST /login?user=ann&remember=1" {
						require.Greater(t, age, 160*day)
					}
					set = age
				}
				require.Less(t, age-set, 400*day)
				require.Empty(t, b.do("GET /session").setCookies(), "only when the session was prolonged")
			}
		}
		b.do("POST /login?user=ann")
		require.Zero(t, b.do("POST /renew").Cookies()[0].MaxAge, "not remembered")
	})
}

// A log-in needs a session that is alive, or none.
func TestManager_LogIn_SessionEnded(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		mux := f.app()
		everywhere := func(user string) {
			_, err := f.store.DeleteByUser(t.Context(), user)
			require.NoError(t, err)
		}
		steps := map[string]func(w http.ResponseWriter, r *http.Request){
			"at once": func(http.ResponseWriter, *http.Request) {},
			"after an Update": func(w http.ResponseWriter, r *http.Request) {
				require.ErrorIs(t, f.Update(w, r, nil), pgsession.ErrNotFound)
			},
			"after a Reload": func(_ http.ResponseWriter, r *http.Request) {
				s, err := f.Reload(r)
				require.NoError(t, err)
				require.True(t, s.Ended)
			},
			"after a LogIn": func(w http.ResponseWriter, r *http.Request) {
				require.ErrorIs(t, f.LogIn(w, r, "ann", nil), pgsession.ErrNotFound)
			},
			"after a RenewID and a LogOut": func(w http.ResponseWriter, r *http.Request) {
				require.ErrorIs(t, f.RenewID(w, r, nil), pgsession.ErrNotFound)
				require.NoError(t, f.LogOut(w, r))
			},
		}
		ends := map[string]func(){
			"log out everywhere": func() { everywhere("ann") },
			"expiry":             func() { f.clock.Advance(1000 * time.Hour) },
			"clean-up": func() {
				f.clock.Advance(1000 * time.Hour)
				_, err := f.store.CleanupExpired(t.Context())
				require.NoError(t, err)
			},
		}
		mux.HandleFunc("POST /slow", func(w http.ResponseWriter, r *http.Request) {
			ends[r.FormValue("end")]()
			steps[r.FormValue("step")](w, r)
			err := f.LogIn(w, r, r.FormValue("user"), nil, httpsession.Remember())
			require.ErrorIs(t, err, pgsession.ErrNotFound)
			f.Error(w, r, err)
		})
		mux.HandleFunc("POST /guest", func(w http.ResponseWriter, r *http.Request) {
			_, err := f.store.DeleteAll(r.Context())
			require.NoError(t, err)
			f.answer(w, r, f.LogIn(w, r, "ann", nil))
		})
		b := f.serve(t, mux)
		for end := range ends {
			for step := range steps {
				for _, user := range []string{"ann", "bob"} {
					b := b.another()
					b.do("POST /login?user=ann")
					answer := b.do("POST /slow?" + url.Values{"user": {user}, "end": {end}, "step": {step}}.Encode())
					require.Equal(t, http.StatusConflict, answer.StatusCode)
					require.Zero(t, f.count(t), "%s, %s", end, step)
					require.Equal(t, "ann", b.do("POST /login?user=ann").session(t).UserID, "with a new request")
					everywhere("ann")
				}
			}
		}
		b.do("POST /logout")
		b.do("POST /add")
		require.Equal(t, "ann", b.do("POST /guest").session(t).UserID, "a guest's session ended: a new one")
		require.Equal(t, "ann", b.get().UserID)
	})
}

// A session that does not open any more at the log-in is ended: other nodes may have its key.
func TestManager_LogIn_UnknownKey(t *testing.T) {
	t.Parallel()
	pool, key := pgtest.Pool(t), pgsession.GenerateKey()
	storeOf := func(primary pgsession.Key, others ...pgsession.Key) *pgsession.Store {
		crypto, err := pgsession.NewCrypto(primary, others...)
		require.NoError(t, err)
		store := pgsession.New(pool, crypto)
		require.NoError(t, store.Init(t.Context()))
		return store
	}
	store, newer := storeOf(key), storeOf(pgsession.GenerateKey(), key)
	for _, user := range []string{"", "ann"} {
		planted, err := store.CreateAs(t.Context(), pgsession.NewIDFor("session"), pgsession.Data{UserID: user}, time.Hour)
		require.NoError(t, err)
		name := "__Host-session"
		if user == "" {
			name += "-guest"
		}
		node := newRelease[Values](t, store, map[string]string{name: planted.ID.Token()})
		require.NoError(t, node.do(func(w http.ResponseWriter, r *http.Request) error {
			_, err := newer.Update(r.Context(), planted, 0, func(*pgsession.Session) (any, error) { return Values{Count: 1}, nil })
			require.NoError(t, err)
			return node.LogIn(w, r, "ann", nil)
		}))
		require.Equal(t, "ann", node.get().UserID)
		_, err = newer.Load(t.Context(), planted.ID)
		require.ErrorIs(t, err, pgsession.ErrRevoked)
	}
}

func TestManager_RenewID(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		mux := f.app()
		mux.HandleFunc("POST /ended", func(w http.ResponseWriter, r *http.Request) {
			_, err := f.store.DeleteAll(r.Context())
			require.NoError(t, err)
			require.ErrorIs(t, f.RenewID(w, r, nil), pgsession.ErrNotFound)
			f.write(w, r)
		})
		errChange := errors.New("no")
		mux.HandleFunc("POST /refuse", func(w http.ResponseWriter, r *http.Request) {
			require.ErrorIs(t, f.RenewID(w, r, func(v *Values) error { v.Count = 100; return errChange }), errChange)
			f.write(w, r)
		})
		server := f.serve(t, mux)
		for login, name := range map[string]string{
			"POST /add":                       "session-guest",
			"POST /login?user=ann":            "session",
			"POST /login?user=ann&remember=1": "session",
		} {
			t.Run(login, func(t *testing.T) {
				b := server.another()
				require.Equal(t, http.StatusConflict, b.do("POST /renew").StatusCode, "it begins nothing")
				require.Empty(t, b.cookies())
				b.do("POST /add?item=pen")
				answer := b.do(login)
				before, old, stale := b.get(), b.id(name), b.stale()
				f.clock.Advance(time.Minute)
				renewed := b.do("POST /renew")
				require.Equal(t, []string{"set " + name}, renewed.setCookies())
				if name == "session" {
					require.Equal(t, answer.Cookies()[0].MaxAge, renewed.Cookies()[0].MaxAge, "as long as the log-in's")
				}
				want := before
				want.Handle, want.Values.Count = b.id(name).Handle(), before.Values.Count+1
				require.Equal(t, want, renewed.session(t), "times, user and values stay")
				require.Equal(t, want, b.get())
				_, err := f.store.Load(t.Context(), old)
				require.ErrorIs(t, err, pgsession.ErrRevoked)
				require.Empty(t, stale.get().UserID)
				require.Equal(t, want, b.do("POST /refuse").session(t))
				require.Empty(t, b.do("POST /ended").setCookies())
			})
		}
	})
}

// A call that sets a cookie is refused once the header is written, before anything is stored.
func TestManager_ResponseHasBegun(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		mux := f.app()
		calls := map[string]func(w http.ResponseWriter, r *http.Request) error{
			"Update":  func(w http.ResponseWriter, r *http.Request) error { return f.Update(w, r, nil) },
			"LogIn":   func(w http.ResponseWriter, r *http.Request) error { return f.LogIn(w, r, "ann", nil) },
			"RenewID": func(w http.ResponseWriter, r *http.Request) error { return f.RenewID(w, r, nil) },
		}
		mux.HandleFunc("POST /call/{call}", func(w http.ResponseWriter, r *http.Request) {
			if r.FormValue("wrapped") != "" {
				w = wrapped{w}
			}
			if r.FormValue("hijacked") != "" {
				conn, _, err := http.NewResponseController(w).Hijack()
				require.NoError(t, err)
				defer conn.Close()
				fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n%v", calls[r.PathValue("call")](w, r))
				return
			}
			io.WriteString(w, "begun ")
			if r.FormValue("flushed") != "" {
				http.NewResponseController(w).Flush()
			}
			err := calls[r.PathValue("call")](w, r)
			fmt.Fprint(w, err)
			require.NoError(t, f.LogOut(w, r), "a log-out ends what there is")
		})
		plain := f.serve(t, mux)
		http2 := httptest.NewUnstartedServer(f.Handler(mux))
		http2.EnableHTTP2 = true
		http2.StartTLS()
		for _, b := range []*browser{plain, newBrowser(t, http2)} {
			for call := range calls {
				for _, how := range []string{"", "?flushed=1", "?wrapped=1"} {
					require.Contains(t, b.do("POST /call/"+call+how).body, "the response has begun", call)
				}
			}
		}
		for call := range calls {
			require.Contains(t, plain.do("POST /call/"+call+"?hijacked=1&wrapped=1").body, "the response has begun", call)
		}
		require.Zero(t, f.count(t))
		w, r := httptest.NewRecorder(), httptest.NewRequest("POST", "/call/Update", nil)
		f.Handler(mux).ServeHTTP(w, r)
		require.Contains(t, w.Body.String(), "the response has begun", "a recorder")
	})
}

type wrapped struct{ http.ResponseWriter }

func (w wrapped) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// A writer that holds its header back until the handler has returned loses nothing.
func TestManager_ResponseIsBuffered(t *testing.T) {
	t.Parallel()
	f := newInMemory(t)
	late := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "begun")
		require.NoError(t, f.LogIn(w, r, "ann", nil))
	})
	b := f.serve(t, http.TimeoutHandler(late, patience, ""))
	require.Equal(t, []string{"set session"}, b.do("POST /").setCookies())
}

func TestWithMaxSessions(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t, httpsession.WithMaxSessions(2))
		server := f.serve(t, f.app())
		var browsers []*browser
		for range 3 {
			browsers = append(browsers, server.another())
			browsers[len(browsers)-1].do("POST /login?user=ann")
			f.clock.Advance(time.Second)
		}
		require.True(t, browsers[0].get().Ended)
		for _, b := range browsers[1:] {
			require.Equal(t, "ann", b.get().UserID)
			b.do("POST /login?user=ann")
			require.Equal(t, "ann", b.get().UserID, "the same log-in goes on")
		}
		var wg sync.WaitGroup
		for range 10 {
			b := server.another()
			wg.Go(func() {
				_, err := b.try("POST /login?user=ann")
				require.NoError(t, err)
			})
		}
		wg.Wait()
		require.Equal(t, 2, f.count(t))

		f = newFixture(t, httpsession.WithMaxSessions(2))
		b := f.serve(t, f.app())
		b.do("POST /login?user=ann")
		var planted []*pgsession.Session // by a Manager without the limit
		for range 3 {
			f.clock.Advance(time.Second)
			planted = append(planted, f.plant(t, "session", "ann"))
		}
		b.do("POST /login?user=ann")
		require.Equal(t, "ann", b.get().UserID, "a log-in does not end itself")
		require.Equal(t, 2, f.count(t))
		_, err := f.store.Load(t.Context(), planted[2].ID)
		require.NoError(t, err)

		f.clock.Advance(time.Second)
		newest := b.another()
		newest.do("POST /login?user=ann")
		require.True(t, b.get().Ended)
		newest.do("POST /login?user=ann")
		require.Equal(t, 2, f.count(t), "a log-in that goes on counts once")
	})
}

func TestManager_LogOut(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		b := f.serve(t, f.app())
		b.do("POST /add?item=pen")
		b.do("POST /login?user=ann")
		id, old := b.id("session"), b.stale()
		answer := b.do("POST /logout")
		require.Equal(t, []string{"clear session"}, answer.setCookies())
		require.Zero(t, answer.session(t), "Get shows it at once")
		require.Empty(t, b.cookies())
		_, err := f.store.Load(t.Context(), id)
		require.ErrorIs(t, err, pgsession.ErrRevoked)
		require.True(t, old.get().Ended)
		require.Zero(t, b.get())

		require.Equal(t, http.StatusOK, b.do("POST /logout").StatusCode, "twice is fine")
		b.do("POST /add")
		require.Equal(t, []string{"clear session-guest"}, b.do("POST /logout").setCookies())
		require.Zero(t, f.count(t))
	})
}

// What several calls in one request set is one cookie of a name.
func TestManager_SeveralCallsInOneRequest(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		mux := f.app()
		flash := func(text string) func(*Values) error {
			return func(v *Values) error { v.Flash = text; return nil }
		}
		mux.HandleFunc("POST /in", func(w http.ResponseWriter, r *http.Request) {
			http.SetCookie(w, &http.Cookie{Name: "theme", Value: "dark"})
			require.NoError(t, f.Update(w, r, flash("first")))
			require.NoError(t, f.LogIn(w, r, "ann", nil))
			require.Equal(t, "ann", f.Get(r).UserID)
			require.NoError(t, f.LogIn(w, r, "bob", flash("welcome")))
			f.write(w, r)
		})
		mux.HandleFunc("POST /out", func(w http.ResponseWriter, r *http.Request) {
			require.NoError(t, f.LogOut(w, r))
			require.NoError(t, f.Update(w, r, flash("goodbye")))
			require.NoError(t, f.Update(w, r, nil))
			f.write(w, r)
		})
		b := f.serve(t, mux)
		answer := b.do("POST /in")
		require.Equal(t, []string{"set theme", "set session", "clear session-guest"}, answer.setCookies())
		require.Equal(t, "welcome", answer.session(t).Values.Flash)
		require.Equal(t, "bob", b.get().UserID)
		require.Equal(t, 1, f.count(t))

		answer = b.do("POST /out")
		require.Equal(t, []string{"clear session", "set session-guest"}, answer.setCookies())
		require.Equal(t, session{Values: Values{Flash: "goodbye"}}, withoutTimes(b.get()))
	})
}

func withoutTimes(s session) session {
	return session{UserID: s.UserID, Values: s.Values, Ended: s.Ended}
}

// A log-out goes on when the client has gone.
func TestManager_LogOut_ClientGone(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		mux := f.app()
		done := make(chan error, 2)
		entered := make(chan struct{})
		mux.HandleFunc("POST /slow", func(w http.ResponseWriter, r *http.Request) {
			close(entered)
			<-r.Context().Done()
			err := f.Update(w, r, func(v *Values) error { v.Count++; return nil })
			f.Error(w, r, err)
			done <- err
			done <- f.LogOut(w, r)
		})
		b := f.serve(t, mux)
		b.do("POST /login?user=ann")
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-entered; cancel() }()
		_, err := b.try("POST /slow", func(r *http.Request) { *r = *r.WithContext(ctx) })
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, receive(t, done), context.Canceled)
		require.NoError(t, receive(t, done))
		require.Empty(t, f.logs.String(), "no line for a client that has gone")
		require.True(t, b.get().Ended)
	})
}
