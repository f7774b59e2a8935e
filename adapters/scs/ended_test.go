package scsstore_test

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/alexedwards/scs/v2"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	scsstore "github.com/pgsession/pgsession/adapters/scs"
	"github.com/pgsession/pgsession/internal/pgtest"
)

// A token opens sessions of its own manager only.
func TestNew_Names(t *testing.T) {
	onEach(t, func(t *testing.T, store *pgsession.Store) {
		app := newApp(t, store)
		ann := app.newBrowser(t)
		ann.ok("/login?user=ann")
		for _, name := range []string{"staff", `web"`, "we", realm + ann.token()[:1]} {
			staff := newApp(t, store)
			staff.Store = scsstore.New(store, name)
			b := ann.same()
			b.site = staff.url
			require.Equal(t, "userID=ann", ann.ok("/get"))
			require.Empty(t, b.ok("/get"), name)
			_, found, err := scsstore.New(store, name).Find(ann.token()[1:])
			require.NoError(t, err)
			require.False(t, found)
			all, err := scsstore.New(store, name).All()
			require.NoError(t, err)
			require.Empty(t, all)
		}
		_, err := store.Load(t.Context(), pgsession.DeriveID(ann.token()))
		require.ErrorIs(t, err, pgsession.ErrNotFound)
		bare, err := store.Create(t.Context(), pgsession.Data{UserID: "ann", Values: []byte("x")}, hour)
		require.NoError(t, err)
		_, found, err := app.Store.Find(bare.ID.Token())
		require.NoError(t, err)
		require.False(t, found)
	})
}

// What ends a user's sessions also ends one whose token is being renewed.
func TestLoadAndSave_EndedWhileRenewed(t *testing.T) {
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
		"DeleteAll": func(t *testing.T, store *pgsession.Store) {
			_, err := store.DeleteAll(t.Context())
			require.NoError(t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, store *pgsession.Store) {
				app := newApp(t, store)
				ann := app.newBrowser(t)
				ann.ok("/login?user=ann")
				app.on("/renew", func(w http.ResponseWriter, r *http.Request) {
					require.NoError(t, app.RenewToken(r.Context()))
					end(t, store)
					app.Put(r.Context(), "userID", r.FormValue("user"))
				})
				late := ann.same()
				got := ann.get("/renew?user=ann")
				require.Equal(t, http.StatusConflict, got.status)
				require.Empty(t, got.cookie)
				require.Empty(t, late.ok("/get"))
				sessions, err := store.FindByUser(t.Context(), "ann", 0)
				require.NoError(t, err)
				require.Empty(t, sessions)

				ann.ok("/login?user=ann")
				ann.ok("/renew?user=bob") // with bob's password
				require.Equal(t, "userID=bob", ann.ok("/get"))
			})
		})
	}
}

// A request that comes with the old token, after another one has renewed it, puts nothing in place
// of the session.
func TestLoadAndSave_OldToken(t *testing.T) {
	onEach(t, func(t *testing.T, store *pgsession.Store) {
		for _, before := range []string{"/put?key=a&value=1", "/login?user=ann"} {
			app := newApp(t, store)
			app.on("/renew", func(w http.ResponseWriter, r *http.Request) {
				if err := app.RenewToken(r.Context()); err != nil {
					app.ErrorFunc(w, r, err)
				}
			})
			ann := app.newBrowser(t)
			ann.ok(before)
			want := ann.ok("/get")
			late := ann.same()
			ann.ok("/renew")
			for _, path := range []string{"/put?key=b&value=2", "/renew"} {
				got := late.get(path)
				require.Equal(t, http.StatusConflict, got.status, path)
				require.Empty(t, got.cookie)
			}
			got := late.get("/get")
			require.Empty(t, got.body+got.cookie)
			require.Equal(t, want, ann.ok("/get"))
			late.ok("/login?user=bob") // with bob's password
		}
	})
}

// A log-in keeps what another request changes at the same time.
func TestLoadAndSave_ChangeWhileRenewed(t *testing.T) {
	onEach(t, func(t *testing.T, store *pgsession.Store) {
		for before, want := range map[string]string{"/put?key=a&value=1": "a=1", "/login?user=ann": ""} {
			app := newApp(t, store)
			ann := app.newBrowser(t)
			ann.ok(before)
			other := ann.same()
			slow := app.during(ann, func(_ http.ResponseWriter, r *http.Request) {
				require.NoError(t, app.RenewToken(r.Context()))
				app.Put(r.Context(), "userID", "ann")
				_, _, err := app.Commit(r.Context())
				require.NoError(t, err)
				app.Put(r.Context(), "z", "3")
			}, func() { other.ok("/put?key=late&value=2") })
			require.Equal(t, http.StatusOK, slow.status)
			require.Equal(t, strings.TrimSpace(want+" late=2 userID=ann z=3"), ann.ok("/get"))
		}
	})
}

// A log-out ends the session at once, and leaves nothing behind.
func TestLoadAndSave_Destroy(t *testing.T) {
	onEach(t, func(t *testing.T, store *pgsession.Store) {
		app := newApp(t, store)
		ann := app.newBrowser(t)
		for path, after := range map[string]string{"/logout": "", "/logout-flash": "flash=bye", "/logout-panic": ""} {
			ann.ok("/login?user=ann")
			late := ann.same()
			logOut := func(r *http.Request) {
				require.NoError(t, app.Destroy(r.Context()))
				require.Empty(t, late.ok("/get"))
			}
			app.on(path+"-now", func(w http.ResponseWriter, r *http.Request) {
				logOut(r)
				switch path {
				case "/logout-flash":
					app.Put(r.Context(), "flash", "bye")
				case "/logout-panic":
					defer func() { _ = recover() }()
					panic("after the log-out")
				}
			})
			ann.ok(path + "-now")
			require.Equal(t, after, ann.ok("/get"))
			require.Empty(t, late.ok("/get"))
			sessions, err := store.FindByUser(t.Context(), "ann", 0)
			require.NoError(t, err)
			require.Empty(t, sessions, path)
			all, err := app.Store.(*scsstore.Store).All()
			require.NoError(t, err)
			require.Len(t, all, min(len(after), 1))
			_, err = store.DeleteAll(t.Context())
			require.NoError(t, err)
		}
	})
}

// "Log out everywhere else" spares the session of the request, whatever the request did before.
func TestHandle(t *testing.T) {
	onEach(t, func(t *testing.T, store *pgsession.Store) {
		for _, hash := range []bool{false, true} {
			app := newApp(t, store)
			app.HashTokenInStore = hash
			others := func(r *http.Request) {
				_, err := store.DeleteByUser(context.WithoutCancel(r.Context()), "ann", scsstore.Handle(r.Context(), app.SessionManager))
				require.NoError(t, err)
			}
			app.on("/others", func(_ http.ResponseWriter, r *http.Request) { others(r) })
			app.on("/others-renewed", func(_ http.ResponseWriter, r *http.Request) {
				require.NoError(t, app.RenewToken(r.Context()))
				others(r)
			})
			app.on("/others-saved", func(_ http.ResponseWriter, r *http.Request) {
				require.NoError(t, app.RenewToken(r.Context()))
				_, _, err := app.Commit(r.Context())
				require.NoError(t, err)
				others(r)
			})
			app.on("/guest", func(_ http.ResponseWriter, r *http.Request) {
				require.True(t, scsstore.Handle(r.Context(), app.SessionManager).IsZero())
			})
			app.newBrowser(t).ok("/guest")
			for _, path := range []string{"/others", "/others-renewed", "/others-saved"} {
				phone, laptop := app.newBrowser(t), app.newBrowser(t)
				phone.ok("/login?user=ann")
				laptop.ok("/login?user=ann")
				phone.ok(path)
				require.Equal(t, "userID=ann", phone.ok("/get"), path)
				require.Empty(t, laptop.ok("/get"))
			}
		}
	})
}

// A host beside this one can set cookies of the session's name, which browsers send first.
func TestLoadAndSave_TossedCookies(t *testing.T) {
	onEach(t, func(t *testing.T, store *pgsession.Store) {
		app := newApp(t, store)
		ann := app.newBrowser(t)
		ann.ok("/login?user=ann")
		get := func(path string, tossed int, tokens ...string) answer {
			request, err := http.NewRequest(http.MethodGet, app.url+path, nil)
			require.NoError(t, err)
			for n := range tossed {
				request.AddCookie(&http.Cookie{Name: "session", Value: fmt.Sprint("tossed-", n)})
			}
			for _, token := range tokens {
				request.AddCookie(&http.Cookie{Name: "session", Value: token})
			}
			recorder := httptest.NewRecorder()
			scsstore.LoadAndSave(app.SessionManager, app.mux).ServeHTTP(recorder, request)
			return answer{recorder.Code, recorder.Body.String(), recorder.Header().Get("Set-Cookie")}
		}
		require.Equal(t, "userID=ann", get("/get", 31, ann.token()).body)
		require.Empty(t, get("/get", 31, "none").body)
		tooMany := get("/get", 32, ann.token())
		require.Equal(t, http.StatusBadRequest, tooMany.status, "it does not say that she is a guest")

		other := app.newBrowser(t)
		other.ok("/login?user=ann")
		require.Equal(t, http.StatusOK, get("/logout", 3, ann.token(), other.token()).status)
		require.Empty(t, ann.ok("/get"))
		require.Empty(t, other.ok("/get"))
	})
}

// capture returns what is logged. Tests that call it are not parallel.
func capture(t *testing.T) *bytes.Buffer {
	t.Helper()
	var logged bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&logged, nil)))
	t.Cleanup(func() { slog.SetDefault(before) })
	return &logged
}

// An outage is a line a second, and a client that has gone away is none.
func TestError_Logs(t *testing.T) {
	logged := capture(t)
	show := func(err error) int {
		w := httptest.NewRecorder()
		scsstore.Error(w, httptest.NewRequest(http.MethodGet, "/", nil), err)
		return w.Code
	}
	for range 3 {
		require.Equal(t, http.StatusServiceUnavailable, show(fmt.Errorf("pgsession: load: %w", context.Canceled)))
	}
	require.Empty(t, logged.String())
	outage := errors.New("no database")
	require.Eventually(t, func() bool { show(outage); return logged.Len() > 0 }, patience, time.Millisecond)
	began := time.Now()
	for range 1000 {
		show(outage)
	}
	require.LessOrEqual(t, strings.Count(logged.String(), "\n"), 2+int(time.Since(began)/time.Second))
}

// What fails to decode is not quoted.
func TestError_QuotesNoValue(t *testing.T) {
	logged := capture(t)
	store := pgsession.InMemory()
	for name, codec := range map[string]scs.Codec{"codec": quotingCodec{}, "UserCodec": scsstore.UserCodec(quotingCodec{}, "userID")} {
		app := newApp(t, store)
		app.Codec = codec
		require.NoError(t, app.Store.Commit(name, []byte("a secret"), time.Now().Add(hour)))
		logged.Reset()
		require.Eventually(t, func() bool {
			b := app.newBrowser(t)
			site, err := url.Parse(b.site)
			require.NoError(t, err)
			b.client.Jar.SetCookies(site, []*http.Cookie{{Name: "session", Value: name}})
			got := b.get("/get")
			require.Equal(t, http.StatusServiceUnavailable, got.status)
			require.NotContains(t, got.body, "secret")
			return logged.Len() > 0
		}, patience, 10*time.Millisecond)
		require.NotContains(t, logged.String(), "secret")

		require.ErrorIs(t, second(app.Codec.Encode(time.Now(), map[string]any{"a": "a secret"})), pgsession.ErrEncode)
	}
}

func second[T any](_ T, err error) error { return err }

// A quotingCodec reads nothing, and says what.
type quotingCodec struct{}

func (quotingCodec) Encode(_ time.Time, values map[string]any) ([]byte, error) {
	return nil, fmt.Errorf("%w: %v", pgsession.ErrEncode, values)
}

func (quotingCodec) Decode(b []byte) (time.Time, map[string]any, error) {
	return time.Time{}, nil, fmt.Errorf("cannot read %q", b)
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
	gob.RegisterName("scs-prefs-older", olderPrefs{})
	gob.RegisterName("scs-prefs-newer", newerPrefs{})
	gob.Register(forgetful{})
}

// An olderCodec sees what newerPrefs is as an older release does, and writes it so.
type olderCodec struct {
	scs.GobCodec
	name string
}

func (c olderCodec) Decode(b []byte) (time.Time, map[string]any, error) {
	return c.GobCodec.Decode(bytes.ReplaceAll(b, []byte("scs-prefs-newer"), []byte(c.name)))
}

func (c olderCodec) Encode(deadline time.Time, values map[string]any) ([]byte, error) {
	b, err := c.GobCodec.Encode(deadline, values)
	return bytes.ReplaceAll(b, []byte(c.name), []byte("scs-prefs-newer")), err
}

// During a deploy an older release saves sessions of a newer one.
func TestLoadAndSave_OlderRelease(t *testing.T) {
	onEach(t, func(t *testing.T, store *pgsession.Store) {
		newer := newApp(t, store)
		newer.on("/prefs", func(_ http.ResponseWriter, r *http.Request) {
			newer.Put(r.Context(), "prefs", newerPrefs{"dark", true})
		})
		var seen any
		newer.on("/see", func(_ http.ResponseWriter, r *http.Request) { seen = newer.Get(r.Context(), "prefs") })
		for _, name := range []string{"scs-prefs-older", "scs-prefs-never"} {
			older := newApp(t, store)
			older.Codec = scsstore.UserCodec(olderCodec{name: name}, "userID")
			b := newer.newBrowser(t)
			b.ok("/login?user=ann")
			b.ok("/prefs")
			b.site = older.url
			b.ok("/put?key=a&value=1")
			b.ok("/login?user=ann") // a new token
			b.ok("/put?key=a&value=2")
			b.site = newer.url
			b.ok("/see")
			require.Equal(t, newerPrefs{"dark", true}, seen, name)
		}
	})
}

// What would not decode again is refused.
func TestLoadAndSave_ErrEncode(t *testing.T) {
	onEach(t, func(t *testing.T, store *pgsession.Store) {
		for _, codec := range []scs.Codec{scs.GobCodec{}, userCodec} {
			app := newApp(t, store)
			app.Codec = codec
			app.on("/forgetful", func(_ http.ResponseWriter, r *http.Request) { app.Put(r.Context(), "f", forgetful{"a secret"}) })
			b := app.newBrowser(t)
			require.Equal(t, http.StatusInternalServerError, b.get("/forgetful").status)
			b.ok("/put?key=a&value=1")
			require.Equal(t, http.StatusInternalServerError, b.get("/forgetful").status)
			require.Equal(t, "a=1", b.ok("/get"))
		}
	})
}

// While sessions move, DeleteByUser ends them wherever they are, also one whose token is being
// renewed.
func TestMoving_DeleteByUser(t *testing.T) {
	onEachState(t, func(t *testing.T, m *moving, ann *browser, disturb func()) {
		bob := m.visitor(t, map[string]any{"userID": "bob"})
		disturb()
		ended, err := m.store.DeleteByUser(t.Context(), "ann")
		require.NoError(t, err)
		require.EqualValues(t, 1, ended)
		require.Empty(t, ann.ok("/get"))
		require.Equal(t, "userID=bob", bob.ok("/get"))
	})
}

func TestMoving_EndedWhileRenewed(t *testing.T) {
	t.Parallel()
	for name, bring := range states {
		for _, createInOld := range []bool{true, false} {
			t.Run(fmt.Sprint(name, " ", createInOld), func(t *testing.T) {
				t.Parallel()
				m := newMoving(t, createInOld)
				ann := m.visitor(t, map[string]any{"userID": "ann", "n": "1"})
				bring(t, m, ann.token())
				m.on("/renew", func(_ http.ResponseWriter, r *http.Request) {
					require.NoError(t, m.RenewToken(r.Context()))
					_, err := m.store.DeleteByUser(context.WithoutCancel(r.Context()), "ann", scsstore.Handle(r.Context(), m.SessionManager))
					require.NoError(t, err)
					if r.FormValue("end") != "" {
						_, err := m.store.DeleteByUser(context.WithoutCancel(r.Context()), "ann")
						require.NoError(t, err)
					}
				})
				ann.ok("/renew")
				require.Equal(t, "n=1 userID=ann", ann.ok("/get"))
				late := ann.same()
				got := ann.get("/renew?end=1")
				require.Equal(t, http.StatusConflict, got.status)
				require.Empty(t, got.cookie)
				require.Empty(t, late.ok("/get"))
				all, err := m.Store.(*scsstore.Store).All()
				require.NoError(t, err)
				require.Empty(t, all)
			})
		}
	}
}

// A row that is being moved lies under its token with a mark. With the mark the token opens
// nothing.
func TestMoving_MarkInCookie(t *testing.T) {
	t.Parallel()
	m := newMoving(t, false)
	ann := m.visitor(t, map[string]any{"userID": "ann"})
	mark(t, m, ann.token())
	require.Equal(t, "userID=ann", ann.ok("/get"))
	thief := m.newBrowser(t)
	site, err := url.Parse(thief.site)
	require.NoError(t, err)
	thief.client.Jar.SetCookies(site, []*http.Cookie{{Name: "session", Value: "moving:" + ann.token()}})
	require.Empty(t, thief.ok("/get"))
}

// All that a log-out does has the time of one operation.
func TestLoadAndSave_OneTimeout(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	const timeout = 2 * time.Second
	app := newApp(t, newStore(t, pool, pgsession.WithTimeout(timeout)))
	tokens := make([]string, 8)
	for n := range tokens {
		b := app.newBrowser(t)
		b.ok("/login?user=ann")
		tokens[n] = b.token()
	}
	app.on("/out", func(w http.ResponseWriter, r *http.Request) {
		tx, err := pool.Begin(r.Context())
		require.NoError(t, err)
		defer func() { require.NoError(t, tx.Rollback(context.Background())) }()
		_, err = tx.Exec(r.Context(), `SELECT 1 FROM `+table+` FOR UPDATE`)
		require.NoError(t, err)
		began := time.Now()
		require.Error(t, app.Destroy(r.Context()))
		require.Less(t, time.Since(began), 4*timeout)
	})
	request := httptest.NewRequest(http.MethodGet, "/out", nil)
	for _, token := range tokens {
		request.AddCookie(&http.Cookie{Name: "session", Value: token})
	}
	scsstore.LoadAndSave(app.SessionManager, app.mux).ServeHTTP(httptest.NewRecorder(), request)
}
