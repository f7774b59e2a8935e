package httpsession_test

import (
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
)

func TestManager_Update(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		b := f.serve(t, f.app())

		answer := b.do("POST /add?item=pen")
		require.Equal(t, []string{"set session-guest"}, answer.setCookies())
		require.Equal(t, "no-store", answer.Header.Get("Cache-Control"))
		s := answer.session(t)
		require.Equal(t, Values{Count: 1, Cart: []string{"pen"}}, s.Values)
		require.Empty(t, s.UserID)
		require.Equal(t, b.id("session-guest").Handle(), s.Handle)
		require.True(t, s.CreatedAt.Equal(epoch.Truncate(time.Microsecond)))
		require.Equal(t, 12*time.Hour, s.ExpiresAt.Sub(s.CreatedAt))

		answer = b.do("POST /add?item=ink")
		require.Empty(t, answer.setCookies(), "the id stays")
		require.Empty(t, answer.Header.Get("Cache-Control"))
		require.Equal(t, Values{Count: 2, Cart: []string{"pen", "ink"}}, answer.session(t).Values)
		require.Equal(t, []string{"pen", "ink"}, b.get().Values.Cart)
	})
}

func TestManager_Update_Error(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		errChange := errors.New("no more")
		mux := f.app()
		mux.HandleFunc("POST /refuse", func(w http.ResponseWriter, r *http.Request) {
			change := func(v *Values) error { v.Count = 100; return errChange }
			require.ErrorIs(t, f.Update(w, r, change), errChange)
			require.ErrorIs(t, f.LogIn(w, r, "ann", change), errChange)
			f.write(w, r)
		})
		mux.HandleFunc("POST /foreign", func(w http.ResponseWriter, r *http.Request) {
			require.ErrorIs(t, f.Update(w, r, func(*Values) error { return pgsession.ErrNotFound }), pgsession.ErrNotFound)
			f.write(w, r)
		})
		mux.HandleFunc("POST /large", func(w http.ResponseWriter, r *http.Request) {
			f.answer(w, r, f.Update(w, r, func(v *Values) error { v.Flash = strings.Repeat("a", 100_000); return nil }))
		})
		b := f.serve(t, mux)
		for _, want := range []int{0, 1} {
			answer := b.do("POST /refuse")
			require.Empty(t, answer.setCookies())
			require.Equal(t, want, answer.session(t).Values.Count)
			answer = b.do("POST /large")
			require.Equal(t, http.StatusInternalServerError, answer.StatusCode)
			require.Empty(t, answer.setCookies())
			answer = b.do("POST /foreign")
			require.False(t, answer.session(t).Ended, "an error of change's says nothing about the session")
			if want == 0 {
				b.do("POST /add")
			}
		}
		require.Equal(t, 1, b.get().Values.Count)
	})
}

// Another request removes an entry of a map between two attempts.
func TestManager_Update_FreshValues(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		mux := f.app()
		mux.HandleFunc("POST /fill", func(w http.ResponseWriter, r *http.Request) {
			f.answer(w, r, f.Update(w, r, func(v *Values) error { v.Set = map[string]bool{"a": true, "b": true}; return nil }))
		})
		var b *browser
		mux.HandleFunc("POST /conflict", func(w http.ResponseWriter, r *http.Request) {
			attempts := 0
			err := f.Update(w, r, func(v *Values) error {
				if attempts++; attempts == 1 {
					loaded, err := f.store.Load(r.Context(), b.id("session-guest"))
					require.NoError(t, err)
					_, err = f.store.Update(r.Context(), loaded, 0, func(*pgsession.Session) (any, error) {
						return Values{Set: map[string]bool{"b": true}}, nil
					})
					require.NoError(t, err)
				}
				v.Set["c"] = true
				return nil
			})
			require.Equal(t, 2, attempts)
			f.answer(w, r, err)
		})
		b = f.serve(t, mux)
		b.do("POST /fill")
		want := map[string]bool{"b": true, "c": true}
		require.Equal(t, want, b.do("POST /conflict").session(t).Values.Set)
		require.Equal(t, want, b.get().Values.Set)
	})
}

func TestManager_OneRequest_Concurrently(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		mux := f.app()
		const n = 16
		mux.HandleFunc("POST /many", func(w http.ResponseWriter, r *http.Request) {
			var wg sync.WaitGroup
			for range n {
				wg.Go(func() {
					require.NoError(t, f.Update(w, r, func(v *Values) error { v.Count++; return nil }))
					require.Positive(t, f.Get(r).Values.Count)
					_, err := f.Reload(r)
					require.NoError(t, err)
				})
			}
			wg.Wait()
			f.write(w, r)
		})
		b := f.serve(t, mux)
		answer := b.do("POST /many")
		require.Equal(t, []string{"set session-guest"}, answer.setCookies())
		require.Equal(t, n, answer.session(t).Values.Count)
		require.Equal(t, 1, f.count(t))
	})
}

func (f *fixture) count(t testing.TB) (n int) {
	for _, err := range f.store.All(t.Context()) {
		require.NoError(t, err)
		n++
	}
	return n
}

// Update prolongs too, for web sockets that Handler has passed on long ago.
func TestManager_Update_Touches(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		mux := f.app()
		mux.HandleFunc("POST /long", func(w http.ResponseWriter, r *http.Request) {
			for range 10 {
				f.clock.Advance(11 * time.Hour)
				require.NoError(t, f.Update(nil, r, func(v *Values) error { v.Count++; return nil }))
			}
			f.write(w, r)
		})
		b := f.serve(t, mux)
		b.do("POST /login?user=ann")
		s := b.do("POST /long").session(t)
		require.Equal(t, 10, s.Values.Count)
		require.True(t, s.ExpiresAt.Equal(f.clock.Now().Add(12*time.Hour).Truncate(time.Microsecond)))
		require.Equal(t, s, b.get())
		require.Zero(t, f.store.Stats().Conflicts, "a change begins with the session as it was prolonged")
	})
}
