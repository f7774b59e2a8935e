package httpsession_test

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/httpsession"
)

// Get shows what is stored, and not what the handler has in its hands.
func TestManager_Get_Snapshot(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		mux := f.app()
		mux.HandleFunc("POST /alias", func(w http.ResponseWriter, r *http.Request) {
			set := map[string]bool{"a": true}
			require.NoError(t, f.Update(w, r, func(v *Values) error { v.Set = set; return nil }))
			set["never stored"] = true
			f.write(w, r)
		})
		b := f.serve(t, mux)
		require.Equal(t, map[string]bool{"a": true}, b.do("POST /alias").session(t).Values.Set)
	})
}

func TestSession_Ended(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		end := map[string]func(b *browser){
			"expired": func(*browser) { f.clock.Advance(12*time.Hour + time.Microsecond) },
			"removed": func(*browser) {
				f.clock.Advance(13 * time.Hour)
				_, err := f.store.CleanupExpired(t.Context())
				require.NoError(t, err)
			},
			"revoked": func(b *browser) {
				require.NoError(t, f.store.Revoke(t.Context(), "ann", b.id("session").Handle()))
			},
			"logged out everywhere": func(*browser) {
				_, err := f.store.DeleteByUser(t.Context(), "ann")
				require.NoError(t, err)
			},
		}
		b := f.serve(t, f.app())
		for name, end := range end {
			t.Run(name, func(t *testing.T) {
				b := b.another()
				b.do("POST /login?user=ann")
				require.False(t, b.get().Ended)
				end(b)
				answer := b.do("GET /session")
				require.Equal(t, session{Ended: true}, answer.session(t))
				require.Empty(t, answer.setCookies(), "another response may have replaced the cookie")

				answer = b.do("POST /add?item=pen")
				require.Equal(t, []string{"set session-guest"}, answer.setCookies())
				s := b.get()
				require.Equal(t, []string{"pen"}, s.Values.Cart)
				require.False(t, s.Ended)

				require.Equal(t, []string{"pen"}, b.do("POST /login?user=ann").session(t).Values.Cart)
				require.Equal(t, "ann", b.get().UserID)
			})
		}
		b = b.another()
		b.Jar.SetCookies(b.address(), []*http.Cookie{{Name: "session", Value: "eyJvbGQiOnRydWV9"}})
		require.False(t, b.get().Ended, "the cookie of an earlier library")
	})
}

// Guests who never logged in are not asked to log in again.
func TestSession_Ended_Guest(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		mux := f.app()
		mux.HandleFunc("GET /while", func(w http.ResponseWriter, r *http.Request) {
			_, err := f.store.DeleteAll(r.Context())
			require.NoError(t, err)
			_, err = f.Reload(r)
			require.NoError(t, err)
			f.write(w, r)
		})
		server := f.serve(t, mux)
		for name, end := range map[string]func(){
			"expired": func() { f.clock.Advance(13 * time.Hour) },
			"ended":   func() { _, err := f.store.DeleteAll(t.Context()); require.NoError(t, err) },
		} {
			b := server.another()
			b.do("POST /add")
			end()
			require.Zero(t, b.get(), name)
		}
		b := server.another()
		b.do("POST /add")
		require.Zero(t, b.do("GET /while").session(t))
	})
}

// A page that counts down begins with what the session has.
func TestSession_IdleTimeout(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t, httpsession.WithTTL(20*time.Minute), httpsession.WithRemember(time.Hour, 0))
		b := f.serve(t, f.app())
		require.Equal(t, 20*time.Minute, b.do("POST /add").session(t).IdleTimeout)
		require.Equal(t, time.Hour, b.do("POST /login?user=ann&remember=1").session(t).IdleTimeout)
		require.Equal(t, time.Hour, b.get().IdleTimeout)
	})
}

func TestManager_Reload(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		mux := f.app()
		g := newGate()
		steps := make(chan session, 3)
		mux.HandleFunc("GET /long", func(w http.ResponseWriter, r *http.Request) {
			for range 3 {
				g.wait(r)
				s, err := f.Reload(r)
				require.NoError(t, err)
				require.Equal(t, s, f.Get(r))
				steps <- s
			}
			require.ErrorIs(t, f.Update(w, r, nil), pgsession.ErrNotFound, "no new session under way")
		})
		b := f.serve(t, mux)
		b.do("POST /login?user=ann")
		var wg sync.WaitGroup
		wg.Go(func() { b.stale().do("GET /long") })
		step := func() session { g.await(t); g.leave <- struct{}{}; return receive(t, steps) }
		g.await(t)
		b.do("POST /add")
		g.leave <- struct{}{}
		require.Equal(t, 1, receive(t, steps).Values.Count)
		f.clock.Advance(2 * time.Hour)
		s := step()
		require.Equal(t, 10*time.Hour, s.ExpiresAt.Sub(f.clock.Now().Truncate(time.Microsecond)), "a page that is merely open is no use")
		g.await(t)
		b.do("POST /logout")
		g.leave <- struct{}{}
		require.Equal(t, session{Ended: true}, receive(t, steps))
		wg.Wait()
	})
}

func TestManager_Reload_NoSession(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		mux := f.app()
		mux.HandleFunc("GET /none", func(w http.ResponseWriter, r *http.Request) {
			f.outage(true)
			_, err := f.Reload(r)
			f.outage(false)
			require.NoError(t, err, "there is nothing to load")
			f.write(w, r)
		})
		mux.HandleFunc("GET /tampered", func(w http.ResponseWriter, r *http.Request) {
			f.tamper(f.Get(r).Handle)
			s, err := f.Reload(r)
			require.NoError(t, err)
			require.Zero(t, s, "a guest")
			require.ErrorIs(t, f.Update(w, r, nil), pgsession.ErrTampered)
			require.NoError(t, f.LogIn(w, r, "bob", nil))
			f.write(w, r)
		})
		b := f.serve(t, mux)
		require.Zero(t, b.do("GET /none").session(t))
		b.do("POST /login?user=ann")
		require.Equal(t, "bob", b.do("GET /tampered").session(t).UserID)
		require.Contains(t, f.logs.String(), "level=ERROR")
		require.Equal(t, "bob", b.get().UserID)
	})
}
