package scsstore_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/alexedwards/scs/v2"
	"github.com/alexedwards/scs/v2/memstore"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	scsstore "github.com/pgsession/pgsession/adapters/scs"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/move"
	"github.com/pgsession/pgsession/pgsessiontest"
)

// What scs asks of a store, without the middleware.
func TestStore(t *testing.T) {
	onEach(t, func(t *testing.T, store *pgsession.Store) {
		s := scsstore.New(store, realm)
		b, found, err := s.Find("absent")
		require.NoError(t, err)
		require.False(t, found)
		require.Nil(t, b)
		all, err := s.All()
		require.NoError(t, err)
		require.NotNil(t, all)

		require.NoError(t, s.Commit("one", []byte("1"), time.Now().Add(hour)))
		require.NoError(t, s.Commit("one", []byte("2"), time.Now().Add(2*hour)))
		require.NoError(t, s.Commit("two", nil, time.Now().Add(hour)))
		b, found, err = s.Find("one")
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, "2", string(b))
		require.WithinDuration(t, time.Now().Add(2*hour), load(t, store, "one").ExpiresAt, time.Minute)

		// Other code may use the same table.
		_, err = store.Create(t.Context(), pgsession.Data{Values: []byte("\x01aother")}, hour)
		require.NoError(t, err)
		require.NoError(t, store.KeyValue().Put(t.Context(), "key", []byte("value"), hour))
		all, err = s.All()
		require.NoError(t, err)
		require.Equal(t, map[string][]byte{"one": []byte("2"), "two": {}}, all)

		require.NoError(t, s.Delete("one"))
		require.NoError(t, s.Delete("one"))
		require.NoError(t, s.Delete("absent"))
		require.NoError(t, s.Delete(""))
		_, found, err = s.Find("one")
		require.NoError(t, err)
		require.False(t, found)
		require.ErrorIs(t, s.Commit("one", []byte("3"), time.Now().Add(hour)), pgsession.ErrRevoked)

		require.NoError(t, s.Commit("two", []byte("over"), time.Now()))
		_, found, err = s.Find("two")
		require.NoError(t, err)
		require.False(t, found)
		require.ErrorIs(t, s.Commit("new", make([]byte, 70_000), time.Now().Add(hour)), pgsession.ErrTooLarge)
	})
}

func TestStore_NothingReadable(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	app := newApp(t, newStore(t, pool))
	ann := app.newBrowser(t)
	ann.ok("/login?user=ann-the-admin")
	ann.ok("/put?key=drink&value=tea-with-milk")
	requireNothingReadable(t, pool, ann.token(), "ann-the-admin", "drink", "tea-with-milk")
}

// A session that does not open is a guest's, as a token that scs does not know.
func TestStore_DoesNotOpen(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	app := newApp(t, newStore(t, pool))
	ann := app.newBrowser(t)
	ann.ok("/login?user=ann")
	_, err := pool.Exec(t.Context(), `UPDATE `+table+` SET sealed = sealed || '\x00'`, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	require.Empty(t, ann.ok("/get"))
	all, err := app.Store.(*scsstore.Store).All()
	require.NoError(t, err)
	require.Empty(t, all)
}

func TestLoadAndSave_ParallelChanges(t *testing.T) {
	onEach(t, func(t *testing.T, store *pgsession.Store) {
		app := newApp(t, store)
		ann := app.newBrowser(t)
		ann.ok("/login?user=ann")
		ann.ok("/put?key=gone&value=x")
		const requests = 20
		var all sync.WaitGroup
		all.Add(requests)
		app.on("/together", func(w http.ResponseWriter, r *http.Request) {
			all.Done()
			all.Wait()
			if key := r.FormValue("key"); key == "0" {
				app.Remove(r.Context(), "gone")
			} else {
				app.Put(r.Context(), "key"+key, key)
			}
		})
		var running sync.WaitGroup
		for i := range requests {
			window := ann.same()
			running.Go(func() { window.get(fmt.Sprint("/together?key=", i)) })
		}
		running.Wait()
		got := ann.ok("/get")
		for i := 1; i < requests; i++ {
			require.Contains(t, got, fmt.Sprintf("key%d=%d", i, i))
		}
		require.NotContains(t, got, "gone")
		require.Contains(t, got, "userID=ann")
	})
}

// The same key: the later commit wins.
func TestLoadAndSave_SameKey(t *testing.T) {
	onEach(t, func(t *testing.T, store *pgsession.Store) {
		app := newApp(t, store)
		ann := app.newBrowser(t)
		ann.ok("/put?key=drink&value=water")
		slow := app.during(ann.same(), func(w http.ResponseWriter, r *http.Request) { app.Put(r.Context(), "drink", "late") }, func() { ann.ok("/put?key=drink&value=tea") })
		require.Equal(t, http.StatusOK, slow.status)
		require.Equal(t, "drink=late", ann.ok("/get"))
	})
}

// A request that commits more than once, as a stream does, takes nothing from others.
func TestLoadAndSave_Stream(t *testing.T) {
	onEach(t, func(t *testing.T, store *pgsession.Store) {
		app := newApp(t, store)
		ann := app.newBrowser(t)
		ann.ok("/put?key=a&value=1")
		stream := app.during(ann.same(), func(w http.ResponseWriter, r *http.Request) {
			app.Put(r.Context(), "b", "2")
			_, _, err := app.Commit(r.Context())
			require.NoError(t, err)
			app.Put(r.Context(), "b", "3")
			_, _, err = app.Commit(r.Context())
			require.NoError(t, err)
		}, func() { ann.ok("/put?key=c&value=4") })
		require.Equal(t, http.StatusOK, stream.status)
		require.Equal(t, "a=1 b=3 c=4", ann.ok("/get"))
	})
}

// The first commits of a session may be several too.
func TestLoadAndSave_NewSessionTwice(t *testing.T) {
	onEach(t, func(t *testing.T, store *pgsession.Store) {
		app := newApp(t, store)
		app.on("/stream", func(w http.ResponseWriter, r *http.Request) {
			for _, value := range []string{"1", "2"} {
				app.Put(r.Context(), "a", value)
				_, _, err := app.Commit(r.Context())
				require.NoError(t, err)
			}
		})
		ann := app.newBrowser(t)
		ann.ok("/stream")
		require.Equal(t, "a=2", ann.ok("/get"))
	})
}

func TestLoadAndSave_Deadline(t *testing.T) {
	onEach(t, func(t *testing.T, store *pgsession.Store) {
		app := newApp(t, store)
		app.on("/deadline", func(w http.ResponseWriter, r *http.Request) {
			app.SetDeadline(r.Context(), time.Now().Add(100*hour))
		})
		ann := app.newBrowser(t)
		ann.ok("/put?key=a&value=1")
		slow := app.during(ann.same(), func(w http.ResponseWriter, r *http.Request) { app.Put(r.Context(), "b", "2") }, func() { ann.ok("/deadline") })
		require.Equal(t, http.StatusOK, slow.status)
		require.Equal(t, "a=1 b=2", ann.ok("/get"))
		require.WithinDuration(t, time.Now().Add(100*hour), load(t, store, ann.token()).ExpiresAt, time.Minute)
		deadline, _, err := app.Codec.Decode(data(t, app, ann.token()))
		require.NoError(t, err)
		require.WithinDuration(t, time.Now().Add(100*hour), deadline, time.Minute)
	})
}

func data(t testing.TB, app *app, token string) []byte {
	t.Helper()
	b, found, err := app.Store.Find(token)
	require.NoError(t, err)
	require.True(t, found)
	return b
}

// A log-out is final, whatever a slow request does afterwards.
func TestLoadAndSave_LogOutIsFinal(t *testing.T) {
	for name, slowly := range map[string]func(app *app, r *http.Request) error{
		"put": func(app *app, r *http.Request) error {
			app.Put(r.Context(), "late", "x")
			return nil
		},
		"renew": func(app *app, r *http.Request) error { return app.RenewToken(r.Context()) },
		"renew and put": func(app *app, r *http.Request) error {
			app.Put(r.Context(), "late", "x")
			return app.RenewToken(r.Context())
		},
	} {
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, store *pgsession.Store) {
				for _, withUser := range []bool{true, false} {
					app := newApp(t, store)
					if !withUser {
						app.Codec = scs.GobCodec{}
					}
					ann := app.newBrowser(t)
					ann.ok("/login?user=ann")
					late := ann.same()
					slow := app.during(late, func(w http.ResponseWriter, r *http.Request) {
						if err := slowly(app, r); err != nil {
							http.Error(w, err.Error(), http.StatusInternalServerError)
						}
					}, func() { ann.ok("/logout") })
					require.Equal(t, http.StatusConflict, slow.status)
					require.Empty(t, slow.cookie)
					require.Empty(t, late.ok("/get"))
					sessions, err := store.FindByUser(t.Context(), "ann", 0)
					require.NoError(t, err)
					require.Empty(t, sessions)
				}
			})
		})
	}
}

// With an idle timeout scs commits at each request, also where nothing has changed.
func TestLoadAndSave_LogOutIsFinal_IdleTimeout(t *testing.T) {
	onEach(t, func(t *testing.T, store *pgsession.Store) {
		app := newApp(t, store)
		app.IdleTimeout = 20 * time.Minute
		ann := app.newBrowser(t)
		ann.ok("/login?user=ann")
		late := ann.same()
		slow := app.during(late, func(http.ResponseWriter, *http.Request) {}, func() { ann.ok("/logout") })
		require.Equal(t, http.StatusConflict, slow.status)
		require.Empty(t, slow.cookie)
	})
}

// Even when the clean-up has removed all trace of the session.
func TestLoadAndSave_LogOutIsFinal_AfterCleanUp(t *testing.T) {
	t.Parallel()
	clock := pgsession.NewManualClock(time.Now())
	store := pgsession.InMemory(pgsession.WithClock(clock))
	app := newApp(t, store)
	ann := app.newBrowser(t)
	ann.ok("/login?user=ann")
	slow := app.during(ann.same(), func(w http.ResponseWriter, r *http.Request) { app.Put(r.Context(), "late", "x") }, func() {
		ann.ok("/logout")
		clock.Advance(30 * 24 * hour)
		removed, err := store.CleanupExpired(t.Context())
		require.NoError(t, err)
		require.Positive(t, removed)
	})
	require.Equal(t, http.StatusConflict, slow.status)
}

// Two windows log in from the same guest's session, as a double click does. What the guest had goes
// with the first one.
func TestLoadAndSave_LogInRace(t *testing.T) {
	onEach(t, func(t *testing.T, store *pgsession.Store) {
		app := newApp(t, store)
		guest := app.newBrowser(t)
		guest.ok("/put?key=cart&value=tea")
		second := guest.same()
		slow := app.during(second, func(w http.ResponseWriter, r *http.Request) {
			require.NoError(t, app.RenewToken(r.Context()))
			app.Put(r.Context(), "userID", "ann")
		}, func() { guest.ok("/login?user=ann") })
		require.Equal(t, http.StatusOK, slow.status)
		require.Equal(t, "cart=tea userID=ann", guest.ok("/get"))
		require.Equal(t, "userID=ann", second.ok("/get"))
	})
}

// A renewal that loses against another one does not make a second session of the first.
func TestLoadAndSave_RenewRace(t *testing.T) {
	onEach(t, func(t *testing.T, store *pgsession.Store) {
		app := newApp(t, store)
		ann := app.newBrowser(t)
		ann.ok("/login?user=ann")
		slow := app.during(ann.same(), func(w http.ResponseWriter, r *http.Request) { require.NoError(t, app.RenewToken(r.Context())) }, func() {
			app.on("/renew", func(w http.ResponseWriter, r *http.Request) { require.NoError(t, app.RenewToken(r.Context())) })
			ann.ok("/renew")
		})
		require.Equal(t, http.StatusConflict, slow.status)
		require.Equal(t, "userID=ann", ann.ok("/get"))
		sessions, err := store.FindByUser(t.Context(), "ann", 0)
		require.NoError(t, err)
		require.Len(t, sessions, 1)
	})
}

// A second log-out of the same session works, and may leave a message.
func TestLoadAndSave_LogOutTwice(t *testing.T) {
	onEach(t, func(t *testing.T, store *pgsession.Store) {
		app := newApp(t, store)
		ann := app.newBrowser(t)
		ann.ok("/login?user=ann")
		late := ann.same()
		slow := app.during(late, func(w http.ResponseWriter, r *http.Request) {
			require.NoError(t, app.Destroy(r.Context()))
			app.Put(r.Context(), "flash", "bye")
		}, func() { ann.ok("/logout") })
		require.Equal(t, http.StatusOK, slow.status)
	})
}

func TestLoadAndSave_Users(t *testing.T) {
	onEach(t, func(t *testing.T, store *pgsession.Store) {
		app := newApp(t, store)
		ann, phone, bob := app.newBrowser(t), app.newBrowser(t), app.newBrowser(t)
		ann.ok("/put?key=cart&value=tea")
		guest := ann.token()
		ann.ok("/login?user=ann")
		require.NotEqual(t, guest, ann.token())
		phone.ok("/login?user=ann")
		bob.ok("/login?user=bob")
		sessions, err := store.FindByUser(t.Context(), "ann", 0)
		require.NoError(t, err)
		require.Len(t, sessions, 2)
		ended, err := store.DeleteByUser(t.Context(), "ann", idOf(phone.token()).Handle())
		require.NoError(t, err)
		require.EqualValues(t, 1, ended)
		require.Empty(t, ann.ok("/get"))
		require.Equal(t, "userID=ann", phone.ok("/get"))
		require.Equal(t, "userID=bob", bob.ok("/get"))
	})
}

// Session fixation: the victim's log-in under a token that an attacker knows is refused.
func TestLoadAndSave_UserChanged(t *testing.T) {
	onEach(t, func(t *testing.T, store *pgsession.Store) {
		app := newApp(t, store)
		attacker := app.newBrowser(t)
		attacker.ok("/put?key=a&value=1")
		victim := attacker.same()
		require.Equal(t, http.StatusInternalServerError, victim.get("/put?key=userID&value=victim").status)
		require.Equal(t, "a=1", attacker.ok("/get"))

		victim.ok("/login?user=victim")
		require.Equal(t, http.StatusInternalServerError, victim.get("/put?key=userID&value=other").status)
		require.Equal(t, http.StatusInternalServerError, victim.get("/remove?key=userID").status)
		require.Equal(t, "a=1 userID=victim", victim.ok("/get"))

		// Without LoadAndSave too.
		b, err := app.Codec.Encode(time.Now(), map[string]any{"userID": "mallory"})
		require.NoError(t, err)
		err = app.Store.Commit(victim.token(), b, time.Now().Add(hour))
		require.ErrorIs(t, err, pgsession.ErrUserChanged)
		require.ErrorContains(t, err, "RenewToken")
		require.NotContains(t, err.Error(), "mallory")
	})
}

// Sessions from before the codec was wrapped go on.
func TestUserCodec_Later(t *testing.T) {
	onEach(t, func(t *testing.T, store *pgsession.Store) {
		app := newApp(t, store)
		app.Codec = scs.GobCodec{}
		ann := app.newBrowser(t)
		ann.ok("/login?user=ann")
		app.Codec = scsstore.UserCodec(app.Codec, "userID")
		ann.ok("/put?key=a&value=1")
		require.Empty(t, load(t, store, ann.token()).UserID)
		ann.ok("/login?user=ann")
		require.Equal(t, "ann", load(t, store, ann.token()).UserID)
	})
}

type stringer [2]byte

func (s stringer) String() string { return string(s[:]) }

func TestUserCodec(t *testing.T) {
	t.Parallel()
	type named string
	for name, test := range map[string]struct {
		value any
		want  string
	}{
		"none": {nil, ""}, "string": {"ann", "ann"}, "int": {7, "7"}, "uint64": {uint64(1 << 63), "9223372036854775808"}, "named": {named("ann"), "ann"},
		"zero": {0, ""}, "empty": {"", ""}, "stringer": {stringer{'h', 'i'}, "hi"}, "JSON's integer": {1e15, "1000000000000000"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := pgsession.InMemory()
			s := scsstore.New(store, realm)
			codec := scsstore.UserCodec(jsonCodec{}, "userID")
			values := map[string]any{"a": "b"}
			if test.value != nil {
				values["userID"] = test.value
			}
			deadline := time.Now().Add(hour).UTC()
			b, err := codec.Encode(deadline, values)
			require.NoError(t, err)
			gotDeadline, got, err := codec.Decode(b) // as another store would keep it
			require.NoError(t, err)
			require.True(t, deadline.Equal(gotDeadline))
			require.Equal(t, "b", got["a"])
			require.NoError(t, s.Commit("token", b, deadline))
			require.Equal(t, test.want, load(t, store, "token").UserID)
			b, _, err = s.Find("token")
			require.NoError(t, err)
			_, got, err = codec.Decode(b)
			require.NoError(t, err)
			require.Equal(t, "b", got["a"])
		})
	}
	_, err := scsstore.UserCodec(scs.GobCodec{}, "userID").Encode(time.Now(), map[string]any{"userID": []byte("ann")})
	require.ErrorContains(t, err, "[]uint8")
}

type jsonCodec struct{}

func (jsonCodec) Encode(deadline time.Time, values map[string]any) ([]byte, error) {
	return json.Marshal(map[string]any{"deadline": deadline, "values": values})
}

func (jsonCodec) Decode(b []byte) (time.Time, map[string]any, error) {
	var v struct {
		Deadline time.Time
		Values   map[string]any
	}
	err := json.Unmarshal(b, &v)
	return v.Deadline, v.Values, err
}

// A codec that uses JSON reads an integer as a float64.
func TestLoadAndSave_JSON(t *testing.T) {
	onEach(t, func(t *testing.T, store *pgsession.Store) {
		app := newApp(t, store)
		app.Codec = scsstore.UserCodec(jsonCodec{}, "userID")
		app.on("/login7", func(w http.ResponseWriter, r *http.Request) { app.Put(r.Context(), "userID", 7) })
		ann := app.newBrowser(t)
		ann.ok("/login7")
		ann.ok("/put?key=a&value=1")
		require.Equal(t, "7", load(t, store, ann.token()).UserID)
	})
}

// RenewToken keeps the end of a log-in, and a new log-in gets its own.
func TestRenewToken_KeepsEnd(t *testing.T) {
	t.Parallel()
	clock := pgsession.NewManualClock(time.Now())
	store := pgsession.InMemory(pgsession.WithClock(clock), pgsession.WithAbsoluteLifetime(8*hour))
	app := newApp(t, store)
	ann := app.newBrowser(t)
	ann.ok("/login?user=ann")
	first := load(t, store, ann.token())
	require.WithinDuration(t, clock.Now().Add(8*hour), first.EndsAt, time.Second)
	clock.Advance(2 * hour)
	ann.ok("/login?user=ann")
	require.Equal(t, first.EndsAt, load(t, store, ann.token()).EndsAt)
	ann.ok("/login?user=bob")
	require.Equal(t, first.EndsAt.Add(2*hour).Truncate(time.Second), load(t, store, ann.token()).EndsAt.Truncate(time.Second))
}

// Where nothing changes, an idle timeout costs a write only when it has something to gain.
func TestIdleTimeout(t *testing.T) {
	t.Parallel()
	clock := pgsession.NewManualClock(time.Now())
	store := pgsession.InMemory(pgsession.WithClock(clock))
	app := newApp(t, store)
	app.IdleTimeout = 20 * time.Minute
	ann := app.newBrowser(t)
	ann.ok("/login?user=ann")
	before := load(t, store, ann.token())
	require.WithinDuration(t, clock.Now().Add(app.IdleTimeout), before.ExpiresAt, time.Second)
	saves := store.Stats().Saves
	ann.ok("/get")
	require.Equal(t, before.ExpiresAt, load(t, store, ann.token()).ExpiresAt)
	require.Equal(t, saves, store.Stats().Saves)
	clock.Advance(3 * time.Minute)
	ann.ok("/get")
	after := load(t, store, ann.token())
	require.WithinDuration(t, before.ExpiresAt.Add(3*time.Minute), after.ExpiresAt, time.Second)
	ann.ok("/put?key=a&value=1")
	require.Equal(t, "a=1 userID=ann", ann.ok("/get"))
}

// A commit and a log-out go on if the client hangs up.
func TestStore_ClientGone(t *testing.T) {
	onEach(t, func(t *testing.T, store *pgsession.Store) {
		s := scsstore.New(store, realm)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.NoError(t, s.CommitCtx(ctx, "token", []byte("data"), time.Now().Add(hour)))
		load(t, store, "token")
		require.NoError(t, s.DeleteCtx(ctx, "token"))
		_, err := store.Load(t.Context(), idOf("token"))
		require.ErrorIs(t, err, pgsession.ErrRevoked)
	})
}

// Iterate's function may change and end sessions, inside a request too.
func TestIterate(t *testing.T) {
	onEach(t, func(t *testing.T, store *pgsession.Store) {
		app := newApp(t, store)
		for _, user := range []string{"ann", "bob", "eve"} {
			app.newBrowser(t).ok("/login?user=" + user)
		}
		ctx, end := scsstore.NewContext(t.Context(), app.SessionManager)
		require.NoError(t, app.Iterate(ctx, func(ctx context.Context) error {
			if app.GetString(ctx, "userID") == "eve" {
				return app.Destroy(ctx)
			}
			app.Put(ctx, "note", "seen")
			_, _, err := app.Commit(ctx)
			return err
		}))
		end()
		var users []string
		require.NoError(t, app.Iterate(t.Context(), func(ctx context.Context) error {
			require.Equal(t, "seen", app.GetString(ctx, "note"))
			users = append(users, app.GetString(ctx, "userID"))
			return nil
		}))
		slices.Sort(users)
		require.Equal(t, []string{"ann", "bob"}, users)
	})
}

func TestMergeSession(t *testing.T) {
	onEach(t, func(t *testing.T, store *pgsession.Store) {
		app := newApp(t, store)
		app.on("/merge", func(w http.ResponseWriter, r *http.Request) {
			require.NoError(t, app.MergeSession(r.Context(), r.FormValue("token")))
		})
		before, after := app.newBrowser(t), app.newBrowser(t)
		before.ok("/put?key=a&value=1")
		after.ok("/put?key=b&value=2")
		after.ok("/merge?token=" + before.token())
		require.Equal(t, "a=1 b=2", after.ok("/get"))
		require.Empty(t, before.ok("/get"))
	})
}

func TestHashTokenInStore(t *testing.T) {
	onEach(t, func(t *testing.T, store *pgsession.Store) {
		app := newApp(t, store)
		app.HashTokenInStore = true
		ann := app.newBrowser(t)
		ann.ok("/login?user=ann")
		require.Equal(t, "userID=ann", ann.ok("/get"))
		ann.ok("/logout")
		require.Empty(t, ann.ok("/get"))
	})
}

func TestOutage(t *testing.T) {
	t.Parallel()
	store := pgsessiontest.New()
	app := newApp(t, store.Store)
	ann := app.newBrowser(t)
	ann.ok("/login?user=ann")
	token := ann.token()
	store.FailWith(errors.New("no database"))
	got := ann.get("/get")
	require.Equal(t, http.StatusServiceUnavailable, got.status)
	require.Empty(t, got.cookie)
	_, err := app.Store.(*scsstore.Store).All()
	require.Error(t, err)
	store.FailWith(nil)
	require.Equal(t, token, ann.token())
	require.Equal(t, "userID=ann", ann.ok("/get"))
}

func TestError(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]int{
		pgsession.ErrRevoked: http.StatusConflict, pgsession.ErrTooLarge: http.StatusInternalServerError,
		pgsession.ErrUserChanged: http.StatusInternalServerError, errors.New("no database"): http.StatusServiceUnavailable,
	} {
		w := httptest.NewRecorder()
		scsstore.Error(w, httptest.NewRequest(http.MethodGet, "/", nil), err)
		require.Equal(t, want, w.Code, err)
	}
}

func TestPanics(t *testing.T) {
	t.Parallel()
	require.Panics(t, func() { scsstore.New(nil, realm) })
	require.Panics(t, func() { scsstore.WithMoving(scsstore.Moving{}) })
	manager := scs.New()
	manager.Store = memstore.NewWithCleanupInterval(0)
	require.Panics(t, func() { scsstore.LoadAndSave(manager, nil) })
}

// A store that moves cannot tell a new session from one that was ended without the request's
// memory.
func TestMoving_NeedsLoadAndSave(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	s := scsstore.New(newStore(t, pool), realm, scsstore.WithMoving(scsstore.Moving{From: oldTable(t, pool), Codec: userCodec}))
	require.ErrorContains(t, s.Commit("token", nil, time.Now().Add(hour)), "LoadAndSave")
}

// An application may have used UserCodec on another store before.
func TestStore_Convert(t *testing.T) {
	t.Parallel()
	store, from := pgsession.InMemory(), move.FromSCS(pgtest.Pool(t), "sessions")
	s := scsstore.New(store, realm, scsstore.WithMoving(scsstore.Moving{From: from, Codec: userCodec}))
	for encoder, codec := range map[string]scs.Codec{"inner": scs.GobCodec{}, "ours": userCodec} {
		b, err := codec.Encode(time.Now().Add(hour), map[string]any{"userID": "ann"})
		require.NoError(t, err)
		id, data, _, err := s.Convert(move.Row{Token: encoder, Data: b})
		require.NoError(t, err)
		require.Equal(t, "ann", data.UserID)
		_, err = store.CreateAs(t.Context(), id, data, hour)
		require.NoError(t, err)
		b, _, err = scsstore.New(store, realm).Find(encoder)
		require.NoError(t, err)
		_, values, err := userCodec.Decode(b)
		require.NoError(t, err)
		require.Equal(t, map[string]any{"userID": "ann"}, values)
	}
	_, _, _, err := s.Convert(move.Row{Token: "token", Data: []byte("no gob")})
	require.ErrorIs(t, err, pgsession.ErrDecode)
}
