package httpsession_test

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/httpsession"
)

// The tests in this file have requests of one browser overlap.

func TestOverlap_ParallelFirstRequests(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		b := f.serve(t, f.app())
		const n = 10
		var wg sync.WaitGroup
		for range n {
			wg.Go(func() {
				answer, err := b.try("POST /add")
				require.NoError(t, err)
				require.Equal(t, http.StatusOK, answer.StatusCode)
			})
		}
		wg.Wait()
		require.Equal(t, 1, len(b.cookies()), "the browser keeps one")
		kept := b.get()
		require.Positive(t, kept.Values.Count)
		require.Equal(t, "ann", b.do("POST /login?user=ann").session(t).UserID)
		require.Equal(t, kept.Values, b.get().Values)
	})
}

func TestOverlap_ParallelRequestsRightAfterLogIn(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		b := f.serve(t, f.app())
		b.do("POST /add")
		b.do("POST /login?user=ann")
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for _, request := range []string{"GET /session", "POST /add"} {
					answer, err := b.try(request)
					require.NoError(t, err)
					require.Equal(t, "ann", answer.session(t).UserID)
					require.Empty(t, answer.setCookies())
				}
			})
		}
		wg.Wait()
		require.Equal(t, 21, b.get().Values.Count)
	})
}

// Changes that run against a log-in are in the cart afterwards, or their requests say that they
// failed.
func TestOverlap_ChangesDuringLogIn(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		mux := f.app()
		g := newGate()
		mux.HandleFunc("POST /loaded", func(w http.ResponseWriter, r *http.Request) {
			g.wait(r)
			f.answer(w, r, f.Update(w, r, func(v *Values) error { v.Count++; return nil }))
		})
		b := f.serve(t, mux)
		b.do("POST /add")
		const n = 8
		var (
			wg      sync.WaitGroup
			mu      sync.Mutex
			changed = 1
		)
		for range n {
			wg.Go(func() {
				answer, err := b.try("POST /loaded")
				require.NoError(t, err)
				require.Empty(t, answer.setCookies(), "of whatever outcome")
				mu.Lock()
				defer mu.Unlock()
				switch answer.StatusCode {
				case http.StatusOK:
					changed++
				default:
					require.Equal(t, http.StatusConflict, answer.StatusCode)
				}
			})
		}
		for range n {
			g.await(t)
		}
		close(g.leave)
		login, err := b.try("POST /login?user=ann")
		require.NoError(t, err)
		require.Equal(t, "ann", login.session(t).UserID)
		wg.Wait()
		require.Equal(t, changed, b.get().Values.Count)
		require.Equal(t, "ann", b.get().UserID)
	})
}

// Nothing holds these changes and log-ins back, so that they meet at every step.
func TestOverlap_ChangesRaceLogIn(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		server := f.serve(t, f.app())
		for range 50 {
			b := server.another()
			b.do("POST /add")
			stale := b.stale()
			var acknowledged atomic.Int64
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					answer, err := stale.stale().try("POST /add")
					require.NoError(t, err)
					if answer.StatusCode == http.StatusOK {
						acknowledged.Add(1)
					}
				})
			}
			b.do("POST /login?user=ann")
			wg.Wait()
			require.EqualValues(t, 1+acknowledged.Load(), b.get().Values.Count)
		}
	})
}

// The requests of these cases were sent under the old id. Their answers arrive last.
func TestOverlap_LateAnswer(t *testing.T) {
	for name, tc := range map[string]struct {
		before    string // what makes the old id
		meanwhile string // what ends it
		late      string // what the late request calls
		loaded    bool   // whether the late request has loaded its session before
		status    int
		wantUser  string
	}{
		"log-in, reads":                   {"POST /add", "POST /login?user=ann", "read", true, 200, "ann"},
		"log-in, changes":                 {"POST /add", "POST /login?user=ann", "update", true, 409, "ann"},
		"log-in, reads, arrives late":     {"POST /add", "POST /login?user=ann", "read", false, 200, "ann"},
		"log-in, changes, arrives late":   {"POST /add", "POST /login?user=ann", "update", false, 409, "ann"},
		"log-in, no cookie, changes":      {"GET /session", "POST /login?user=ann", "update", true, 200, "ann"},
		"log-in again, changes":           {"POST /login?user=ann", "POST /login?user=ann", "update", true, 409, "ann"},
		"log-in again, arrives late":      {"POST /login?user=ann", "POST /login?user=bob", "update", false, 200, "bob"},
		"log-out, reads":                  {"POST /login?user=ann", "POST /logout", "read", true, 200, ""},
		"log-out, changes":                {"POST /login?user=ann", "POST /logout", "update", true, 409, ""},
		"log-out, reads, arrives late":    {"POST /login?user=ann", "POST /logout", "read", false, 200, ""},
		"log-out, changes, arrives late":  {"POST /login?user=ann", "POST /logout", "update", false, 200, ""},
		"log-out of a guest, changes":     {"POST /add", "POST /logout", "update", true, 409, ""},
		"log-in, a guest logs out":        {"POST /add", "POST /login?user=ann", "log out", true, 200, "ann"},
		"log-in, logs out without cookie": {"GET /session", "POST /login?user=ann", "log out", true, 200, "ann"},
		"log-in after expiry, also there": {"POST /expired", "POST /login?user=ann", "update", true, 200, "ann"},
	} {
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, newFixture makeFixture) {
				f := newFixture(t)
				mux := f.app()
				g := newGate()
				mux.HandleFunc("POST /late", func(w http.ResponseWriter, r *http.Request) {
					g.wait(r)
					var err error
					switch tc.late {
					case "update":
						err = f.Update(w, r, func(v *Values) error { v.Count++; return nil })
					case "log out":
						err = f.LogOut(w, r)
					}
					f.answer(w, r, err)
				})
				mux.HandleFunc("POST /expired", func(w http.ResponseWriter, r *http.Request) {
					require.NoError(t, f.LogIn(w, r, "ann", nil))
					_, err := f.store.DeleteAll(r.Context())
					require.NoError(t, err)
				})
				b := f.serve(t, mux)
				b.do(tc.before)
				stale := b.stale()
				answers := make(chan response, 1)
				send := func() {
					go func() {
						answer, err := stale.try("POST /late")
						require.NoError(t, err)
						answers <- answer
					}()
					g.await(t)
				}
				if tc.loaded {
					send()
					b.do(tc.meanwhile)
				} else {
					b.do(tc.meanwhile)
					send()
				}
				close(g.leave)
				late := receive(t, answers)
				require.Equal(t, tc.status, late.StatusCode, late.body)
				b.Jar.SetCookies(b.address(), late.Cookies()) // the browser has one jar
				require.Equal(t, tc.wantUser, b.get().UserID)
				for _, cookie := range stale.cookies() {
					if cookie.Value == "" {
						continue
					}
					id, err := pgsession.ParseIDFor("session", cookie.Value)
					require.NoError(t, err)
					if loaded, err := f.store.Load(t.Context(), id); err == nil {
						require.Empty(t, loaded.UserID, "no old id of a user's is alive")
					}
				}
				b.do("POST /add")
				require.Equal(t, tc.wantUser, b.get().UserID)
			})
		})
	}
}

// A guest's request that comes with the old cookie after a log-in takes nothing with it: its change
// is refused, and its cookie is cleared, so that the next request may begin anew.
func TestOverlap_GuestMoved(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		b := f.serve(t, f.app())
		for _, request := range []string{"GET /session", "POST /add", "POST /renew", "POST /login?user=bob", "POST /logout"} {
			b := b.another()
			b.do("POST /add")
			stale := b.stale()
			b.do("POST /login?user=ann")
			before := f.count(t)
			answer := stale.do(request)
			switch request {
			case "POST /login?user=bob":
				require.Equal(t, "bob", answer.session(t).UserID, "with a proof")
				require.Equal(t, before+1, f.count(t))
			default:
				require.Equal(t, []string{"clear session-guest"}, answer.setCookies(), request)
				require.Equal(t, before, f.count(t))
				require.Equal(t, strings.HasSuffix(request, "add") || strings.HasSuffix(request, "renew"), answer.StatusCode == http.StatusConflict)
			}
			require.Empty(t, stale.token("session-guest"))
			require.Equal(t, "ann", b.get().UserID)
			require.Equal(t, http.StatusOK, stale.do("POST /add").StatusCode)
		}
	})
}

// A session gets another id, and the visitor stays who they are. What comes with the old id
// meanwhile takes no cookie away, begins nothing and is told no lie.
func TestOverlap_NewID(t *testing.T) {
	for name, tc := range map[string]struct{ before, meanwhile, userID string }{
		"a guest's":             {"POST /add", "POST /renew", ""},
		"a user's":              {"POST /login?user=ann", "POST /renew", "ann"},
		"a user's, by a log-in": {"POST /login?user=ann", "POST /login?user=ann", "ann"},
	} {
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, newFixture makeFixture) {
				f := newFixture(t)
				mux := f.app()
				g := newGate()
				late := func(loaded bool) http.HandlerFunc {
					return func(w http.ResponseWriter, r *http.Request) {
						if loaded {
							g.wait(r)
						}
						change := func(v *Values) error { v.Count++; return nil }
						var err error
						switch r.FormValue("late") {
						case "update":
							err = f.Update(w, r, change)
						case "log in":
							err = f.LogIn(w, r, "ann", change)
						case "renew":
							err = f.RenewID(w, r, change)
						case "log out":
							err = f.LogOut(w, r)
						case "reload":
							_, err = f.Reload(r)
						}
						f.answer(w, r, err)
					}
				}
				mux.HandleFunc("POST /late", late(false))
				mux.HandleFunc("POST /loaded", late(true))
				mux.Handle("POST /users", f.RequireUser(http.NotFoundHandler()))
				server := f.serve(t, mux)
				for _, call := range []string{"read", "reload", "update", "log in", "renew", "log out"} {
					for _, isLoaded := range []bool{true, false} {
						b := server.another()
						b.do(tc.before)
						stale, answers := b.stale(), make(chan response, 1)
						query := "?" + url.Values{"late": {call}}.Encode()
						if isLoaded {
							go func() {
								answer, err := stale.try("POST /loaded" + query)
								require.NoError(t, err)
								answers <- answer
							}()
							g.await(t)
						}
						b.do(tc.meanwhile)
						before, count := b.get(), f.count(t)
						if isLoaded {
							g.leave <- struct{}{}
						} else {
							answers <- stale.do("POST /late" + query)
						}
						answer := receive(t, answers)
						require.Empty(t, answer.setCookies(), call)
						if call == "read" || call == "reload" {
							require.False(t, answer.session(t).Ended, "it goes on")
						} else {
							require.Equal(t, http.StatusConflict, answer.StatusCode, "%s: %s", call, answer.body)
						}
						require.Equal(t, before, b.get(), call)
						require.Equal(t, count, f.count(t), call)
						require.Equal(t, tc.userID, before.UserID)
						require.Equal(t, http.StatusUnauthorized, stale.do("POST /users").StatusCode)
					}
				}
			})
		})
	}
}

// The answer with the new id may be lost. The visitor is not shut out for longer than a minute.
func TestOverlap_NewIDLost(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		b := f.serve(t, f.app())
		guest, user := b.another(), b.another()
		guest.do("POST /add")
		user.do("POST /login?user=ann")
		guest.stale().do("POST /renew")
		user.stale().do("POST /renew")
		f.clock.Advance(59 * time.Second)
		require.Equal(t, http.StatusConflict, guest.do("POST /add").StatusCode)
		require.Equal(t, http.StatusConflict, user.do("POST /login?user=ann").StatusCode)
		f.clock.Advance(time.Second)
		require.Equal(t, []string{"clear session-guest"}, guest.do("GET /session").setCookies())
		require.Equal(t, 1, guest.do("POST /add").session(t).Values.Count)
		require.True(t, user.get().Ended)
		require.Equal(t, "ann", user.do("POST /login?user=ann").session(t).UserID)
	})
}

// A user's late request with the old id has a guest's cookie as well. The user's new one would hide
// what it changes there.
func TestOverlap_NewIDBesideGuest(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		b := f.serve(t, f.app())
		b.do("POST /login?user=ann")
		planted := f.plant(t, "session", "")
		stale := b.stale()
		stale.Jar.SetCookies(b.address(), []*http.Cookie{{Name: "session-guest", Value: planted.ID.Token()}})
		b.do("POST /renew")
		require.Equal(t, http.StatusConflict, stale.do("POST /add").StatusCode)
		require.Zero(t, stale.get().Values)
		f.clock.Advance(time.Minute)
		require.Equal(t, 6, stale.do("POST /add").session(t).Values.Count)
	})
}

// A browser may keep the cookie with the old id beside that with the new one, for another path.
func TestOverlap_NewIDBesideOld(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		for _, way := range []string{"POST /login?user=ann", "POST /logout"} {
			for _, isOldFirst := range []bool{true, false} {
				b := f.serve(t, f.app())
				b.do("POST /add")
				values := []string{b.token("session-guest")}
				b.do("POST /renew")
				values = append(values, b.token("session-guest"))
				if !isOldFirst {
					slices.Reverse(values)
				}
				both := func(r *http.Request) {
					r.Header.Set("Cookie", "session-guest="+values[0]+"; session-guest="+values[1])
				}
				other := b.another()
				require.Equal(t, 2, other.do("GET /session", both).session(t).Values.Count)
				require.Equal(t, http.StatusOK, other.do(way, both).StatusCode, way)
				require.Zero(t, b.get().Values, "the guest's session is over")
			}
		}
	})
}

// Events tell of no session that it was ended, if it has only another id.
func TestOverlap_NewIDEvents(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		var mu sync.Mutex
		var kinds []httpsession.EventKind
		f := newFixture(t, httpsession.WithEvents(func(_ context.Context, e httpsession.Event) {
			mu.Lock()
			defer mu.Unlock()
			kinds = append(kinds, e.Kind)
		}))
		b := f.serve(t, f.app())
		b.do("POST /login?user=ann")
		stale := b.stale()
		b.do("POST /renew")
		stale.do("POST /add")
		require.Equal(t, []httpsession.EventKind{httpsession.UserLoggedIn, httpsession.IDChanged}, kinds)
	})
}

// Two log-ins of one guest at once are two log-ins.
func TestOverlap_TwoLogIns(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		mux := f.app()
		g := newGate()
		mux.HandleFunc("POST /slow", func(w http.ResponseWriter, r *http.Request) {
			g.wait(r)
			f.answer(w, r, f.LogIn(w, r, "ann", nil))
		})
		b := f.serve(t, mux)
		b.do("POST /add")
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				answer, err := b.try("POST /slow")
				require.NoError(t, err)
				require.Equal(t, "ann", answer.session(t).UserID)
			})
		}
		g.await(t)
		g.await(t)
		close(g.leave)
		wg.Wait()
		require.Equal(t, "ann", b.get().UserID)
		sessions, err := f.store.FindByUser(t.Context(), "ann", 0)
		require.NoError(t, err)
		require.Len(t, sessions, 2)
		require.Equal(t, 2, f.count(t), "the guest's is over")
	})
}
