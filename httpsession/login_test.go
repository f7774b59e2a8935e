package httpsession_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/httpsession"
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
		require.Equal(t, http.StatusServiceUnavailable, answer.StatusCode)
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
