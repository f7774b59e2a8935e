package httpsession_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/httpsession"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/test"
)

// Only what the store returns is an outage. What the application returns is its own.
func TestManager_Error(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		type call = func(f *fixture, w http.ResponseWriter, r *http.Request) error
		errFull := errors.New("cart is full")
		fails := func(err error) call {
			return func(f *fixture, w http.ResponseWriter, r *http.Request) error {
				return f.Update(w, r, func(*Values) error { return err })
			}
		}
		for name, tc := range map[string]struct {
			call   call
			status int
			logs   bool
		}{
			"of a change":          {fails(errFull), 500, false},
			"of a change, wrapped": {fails(fmt.Errorf("add: %w", errFull)), 500, false},
			"its own time is over": {fails(context.DeadlineExceeded), 500, false},
			"not found by it":      {fails(pgsession.ErrNotFound), 409, false},
			"no user id":           {func(f *fixture, w http.ResponseWriter, r *http.Request) error { return f.LogIn(w, r, "", nil) }, 500, false},
			"a long user id": {func(f *fixture, w http.ResponseWriter, r *http.Request) error {
				return f.LogIn(w, r, strings.Repeat("a", 1001), nil)
			}, 500, true},
			"too large": {func(f *fixture, w http.ResponseWriter, r *http.Request) error {
				return f.Update(w, r, func(v *Values) error { v.Flash = strings.Repeat("a", 100_000); return nil })
			}, 500, true},
			"conflict":   {fails(pgsession.ErrConflict), 503, true},
			"unreadable": {fails(pgsession.ErrTampered), 500, true},
			"ended": {func(f *fixture, w http.ResponseWriter, r *http.Request) error {
				_, err := f.store.DeleteAll(r.Context())
				require.NoError(t, err)
				return f.Update(w, r, nil)
			}, 409, false},
			"outage": {func(f *fixture, w http.ResponseWriter, r *http.Request) error {
				f.outage(true)
				defer f.outage(false)
				return f.LogOut(w, r)
			}, 503, true},
			"outage, asked by a change": {func(f *fixture, w http.ResponseWriter, r *http.Request) error {
				return f.Update(w, r, func(*Values) error {
					f.outage(true)
					defer f.outage(false)
					_, err := f.store.FindByUser(r.Context(), "ann", 0)
					return fmt.Errorf("cart of ann: %w", err)
				})
			}, 503, true},
			"too large, wrapped": {fails(fmt.Errorf("cart of ann: %w", pgsession.ErrTooLarge)), 500, true},
		} {
			t.Run(name, func(t *testing.T) {
				f := newFixture(t)
				mux := f.app()
				mux.HandleFunc("POST /call", func(w http.ResponseWriter, r *http.Request) {
					err := tc.call(f, w, r)
					require.Error(t, err)
					f.Error(w, r, err)
				})
				b := f.serve(t, mux)
				b.do("POST /login?user=ann")
				answer := b.do("POST /call")
				require.Equal(t, tc.status, answer.StatusCode)
				require.Equal(t, tc.status == 503, answer.Header.Get("Retry-After") != "")
				require.Equal(t, tc.logs, strings.Contains(f.logs.String(), "level=ERROR"), f.logs.String())
				require.NotContains(t, answer.body, "cart")
				require.NotContains(t, f.logs.String(), "cart")
			})
		}
	})
}

// The same trouble is one line a second, however many requests meet it.
func TestManager_LogsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newInMemory(t)
		f.outage(true)
		handler := f.Handler(f.app())
		for range 1000 {
			r := httptest.NewRequest("GET", "/session", nil)
			r.AddCookie(&http.Cookie{Name: "session", Value: pgsession.NewIDFor("session").Token()})
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			require.Equal(t, http.StatusServiceUnavailable, w.Code)
			time.Sleep(10 * time.Millisecond)
		}
		lines := strings.Split(strings.TrimSpace(f.logs.String()), "\n")
		require.Len(t, lines, 10)
		require.NotContains(t, lines[0], "not_logged_before")
		require.Contains(t, lines[1], "not_logged_before=99")
	})
}

// A change function that calls its own Manager gets an error, and not a deadlock. Calls of other
// goroutines of the same request wait for their turn.
func TestManager_CallsInAChange(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		other := httpsession.New[Values](f.store, httpsession.WithCookie(http.Cookie{Name: "other"}), httpsession.WithPlainHTTP())
		mux := f.app()
		mux.HandleFunc("POST /nested", func(w http.ResponseWriter, r *http.Request) {
			add := func(v *Values) error { v.Count++; return nil }
			for name, nested := range map[string]func() error{
				"Update":  func() error { return f.Update(w, r, add) },
				"LogIn":   func() error { return f.LogIn(w, r, "bob", add) },
				"RenewID": func() error { return f.RenewID(w, r, add) },
				"LogOut":  func() error { return f.LogOut(w, r) },
				"Reload":  func() error { _, err := f.Reload(r); return err },
			} {
				called := false
				change := func(v *Values) error {
					err := nested()
					require.ErrorContains(t, err, "a change function called a method of its Manager", name)
					require.NoError(t, other.Update(w, r, add), "another Manager's session is another one")
					f.Get(r)
					called = true
					return add(v)
				}
				require.NoError(t, f.Update(w, r, change))
				require.NoError(t, f.RenewID(w, r, change))
				require.NoError(t, f.LogIn(w, r, "ann", change))
				require.True(t, called)
			}
			const others = 8
			errs, started := make(chan error, others), make(chan struct{}, others)
			var once sync.Once
			require.NoError(t, f.Update(w, r, func(*Values) error {
				once.Do(func() {
					for range others {
						go func() {
							started <- struct{}{}
							errs <- f.Update(w, r, add)
						}()
					}
					for range others {
						receive(t, started)
					}
					for range 1000 {
						runtime.Gosched() // they arrive at the lock, or wait for it later
					}
				})
				return nil
			}))
			for range others {
				require.NoError(t, receive(t, errs))
			}
			f.write(w, r)
		})
		b := f.serve(t, other.Handler(mux))
		b.do("POST /login?user=ann")
		require.Equal(t, 15+8, b.do("POST /nested").session(t).Values.Count)
	})
}

// A call of another goroutine that a change function waits for ends in time.
func TestManager_CallsInAChange_OtherGoroutine(t *testing.T) {
	t.Parallel()
	wait := func(t *testing.T, store *pgsession.Store, isDone bool) error {
		m := httpsession.New[Values](store)
		r := httptest.NewRequest("POST", "/", nil)
		var err error
		m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithCancel(r.Context())
			defer cancel()
			err = m.Update(w, r, func(*Values) error {
				errs := make(chan error, 1)
				go func() { errs <- m.Update(w, r.WithContext(ctx), nil) }()
				if isDone {
					cancel()
				}
				return receive(t, errs)
			})
		})).ServeHTTP(httptest.NewRecorder(), r)
		require.ErrorIs(t, err, pgsession.ErrConflict)
		return err
	}
	require.ErrorIs(t, wait(t, pgsession.InMemory(), true), context.Canceled)
	synctest.Test(t, func(t *testing.T) {
		require.ErrorIs(t, wait(t, pgsession.InMemory(), false), context.DeadlineExceeded)
	})
	store := test.Open(pgtest.Pool(t), pgsession.WithTimeout(500*time.Millisecond))
	require.ErrorIs(t, wait(t, store, false), context.DeadlineExceeded)
}
