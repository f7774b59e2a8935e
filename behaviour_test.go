package pgsessiontest_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
)

// behaviours are what no single state and operation shows.
var behaviours = []struct {
	name    string
	options []pgsession.Option
	run     func(t *testing.T, f fixture)
}{
	{"clock at the zero time", nil, func(t *testing.T, f fixture) {
		f.clock.Set(time.Time{})
		f.load(t, f.create(t, ann(1), time.Hour))
	}},
	{"Load/until the expiry", nil, func(t *testing.T, f fixture) {
		id := f.create(t, ann(1), time.Hour)
		f.clock.Advance(time.Hour - time.Microsecond)
		require.Equal(t, time.Microsecond, f.load(t, id).TTL())
		f.clock.Advance(time.Microsecond)
		_, err := f.Load(t.Context(), id)
		require.ErrorIs(t, err, pgsession.ErrNotFound)
	}},
	{"Load/in whole microseconds", nil, func(t *testing.T, f fixture) {
		f.clock.Set(epoch.Add(999).In(time.FixedZone("elsewhere", 3600)))
		session := f.load(t, f.create(t, ann(1), time.Second+1))
		require.Equal(t, epoch, session.CreatedAt)
		require.Equal(t, epoch.Add(time.Second+time.Microsecond), session.ExpiresAt)
	}},
	{"Load/copies", nil, func(t *testing.T, f fixture) {
		given := []byte("abc")
		id := f.create(t, ann(given), time.Hour)
		given[0] = 'x'
		loaded := f.load(t, id)
		value, err := pgsession.Decode[[]byte](loaded)
		require.NoError(t, err)
		require.Equal(t, "abc", string(value))
		value[0] = 'y'
		loaded.Data().Values.([]byte)[0] = 'z'
		loaded.UserID = "bob"
		require.Equal(t, ann([]byte("abc")), f.load(t, id).Data())

		pointer := &struct{ N int }{1}
		id = f.create(t, ann(pointer), time.Hour)
		pointer.N = 2
		require.JSONEq(t, `{"N":1}`, string(f.load(t, id).Data().Values.(json.RawMessage)))
	}},
	{"Load/values that do not fit", nil, func(t *testing.T, f fixture) {
		_, err := pgsession.Decode[int](f.load(t, f.create(t, ann("text"), time.Hour)))
		require.ErrorIs(t, err, pgsession.ErrDecode)
		_, err = pgsession.Decode[string](f.load(t, f.create(t, ann([]byte(`"text"`)), time.Hour)))
		require.ErrorIs(t, err, pgsession.ErrDecode)
	}},
	{"Save/keeps when the log-in began", nil, func(t *testing.T, f fixture) {
		id := f.create(t, ann(1), time.Hour)
		f.clock.Advance(time.Minute)
		require.NoError(t, f.Save(t.Context(), id, ann(2), time.Minute))
		session := f.load(t, id)
		require.Equal(t, epoch, session.CreatedAt)
		require.Equal(t, time.Minute, session.TTL(), "a Save may shorten")
	}},
	{"Save/what was loaded", nil, func(t *testing.T, f fixture) {
		for _, values := range []any{map[string]any{"a": []int{1}}, []byte{0, 255}, nil} {
			id := f.create(t, ann(values), time.Hour)
			before := f.load(t, id).Data()
			require.NoError(t, f.Save(t.Context(), id, before, time.Hour))
			require.Equal(t, before, f.load(t, id).Data())
		}
	}},
	{"Update/keeps the expiry", nil, func(t *testing.T, f fixture) {
		id := f.create(t, ann(1), time.Hour)
		f.clock.Advance(time.Minute)
		require.NoError(t, f.Update(t.Context(), id, 0, increment))
		session := f.load(t, id)
		require.Equal(t, epoch.Add(time.Hour), session.ExpiresAt)
		require.Equal(t, "ann", session.UserID)
		require.Equal(t, 2, decode[int](t, session))
		require.NoError(t, f.Update(t.Context(), id, time.Minute, increment))
		require.Equal(t, time.Minute, f.load(t, id).TTL(), "a ttl may shorten")
	}},
	{"Update/returns the error of change", nil, func(t *testing.T, f fixture) {
		id := f.create(t, ann(1), time.Hour)
		before, mine := f.load(t, id), errors.New("mine")
		err := f.Update(t.Context(), id, 0, func(*pgsession.Session) (any, error) { return 2, mine })
		require.True(t, err == mine)
		require.Equal(t, before, f.load(t, id))
	}},
	{"Update/begins anew after another write", nil, func(t *testing.T, f fixture) {
		id, runs := f.create(t, ann(1), time.Hour), 0
		err := f.Update(t.Context(), id, 0, func(session *pgsession.Session) (any, error) {
			if runs++; runs == 1 {
				require.NoError(t, f.Save(t.Context(), id, ann(10), 2*time.Hour))
			}
			return increment(session)
		})
		require.NoError(t, err)
		require.Equal(t, 2, runs)
		session := f.load(t, id)
		require.Equal(t, 11, decode[int](t, session))
		require.Equal(t, 2*time.Hour, session.TTL(), "the expiry that it saw last")
		require.EqualValues(t, 1, f.Stats().Conflicts)
	}},
	{"Update/begins anew after a touch", nil, func(t *testing.T, f fixture) {
		id, runs := f.create(t, ann(1), time.Hour), 0
		require.NoError(t, f.Update(t.Context(), id, 0, func(session *pgsession.Session) (any, error) {
			if runs++; runs == 1 {
				require.NoError(t, f.Touch(t.Context(), id, 2*time.Hour))
			}
			return increment(session)
		}))
		require.Equal(t, 2, runs)
		require.Equal(t, 2*time.Hour, f.load(t, id).TTL())
	}},
	{"Update/gives up", nil, func(t *testing.T, f fixture) {
		id := f.create(t, ann(0), time.Hour)
		err := f.Update(t.Context(), id, 0, func(session *pgsession.Session) (any, error) {
			require.NoError(t, f.Save(t.Context(), id, ann(-1), time.Hour))
			return increment(session)
		})
		require.ErrorIs(t, err, pgsession.ErrConflict)
		require.Equal(t, -1, decode[int](t, f.load(t, id)))
	}},
	{"Update/does not bring back", nil, func(t *testing.T, f fixture) {
		ends := map[string]func(id pgsession.ID) error{
			"delete": func(id pgsession.ID) error { return f.Delete(t.Context(), id) },
			"revoke": func(id pgsession.ID) error { return f.RevokeAny(t.Context(), id.Handle()) },
			"cycle": func(id pgsession.ID) error {
				return f.Cycle(t.Context(), id, pgsession.NewID(), ann(1), time.Hour)
			},
		}
		for name, end := range ends {
			id := f.create(t, ann(1), time.Hour)
			err := f.Update(t.Context(), id, time.Hour, func(session *pgsession.Session) (any, error) {
				require.NoError(t, end(id), name)
				return increment(session)
			})
			require.ErrorIs(t, err, pgsession.ErrNotFound, name)
			require.Equal(t, "ended", f.stateOf(t, id), name)
		}
	}},
	{"Update/may end with another's beginning", nil, func(t *testing.T, f fixture) {
		id := pgsession.DeriveID("framework's token")
		require.NoError(t, f.Put(t.Context(), id, ann(1), time.Minute))
		runs := 0
		require.NoError(t, f.Update(t.Context(), id, 0, func(session *pgsession.Session) (any, error) {
			if runs++; runs == 1 {
				f.clock.Advance(time.Hour)
				_, err := f.CleanupExpired(t.Context())
				require.NoError(t, err)
				require.NoError(t, f.Put(t.Context(), id, pgsession.Data{UserID: "bob", Values: 20}, time.Hour))
			}
			return increment(session)
		}))
		session := f.load(t, id)
		require.Equal(t, "bob", session.UserID)
		require.Equal(t, 21, decode[int](t, session))
	}},
	{"Update/of what expires meanwhile", nil, func(t *testing.T, f fixture) {
		id, runs := f.create(t, ann(1), time.Hour), 0
		err := f.Update(t.Context(), id, time.Hour, func(session *pgsession.Session) (any, error) {
			runs++
			f.clock.Advance(time.Hour)
			return increment(session)
		})
		require.ErrorIs(t, err, pgsession.ErrNotFound)
		require.Equal(t, 1, runs)
		require.Equal(t, "expired", f.stateOf(t, id))
	}},
	{"Update/lets the ttl begin with the write", nil, func(t *testing.T, f fixture) {
		id := f.create(t, ann(1), time.Hour)
		require.NoError(t, f.Update(t.Context(), id, time.Hour, func(session *pgsession.Session) (any, error) {
			f.clock.Advance(time.Minute)
			return increment(session)
		}))
		require.Equal(t, time.Hour, f.load(t, id).TTL())
	}},
	{"Touch/never shortens", nil, func(t *testing.T, f fixture) {
		id := f.create(t, ann(1), time.Hour)
		before := f.load(t, id)
		require.NoError(t, f.Touch(t.Context(), id, time.Minute))
		require.Equal(t, before, f.load(t, id))
	}},
	{"Touch/writes what is worth it", nil, func(t *testing.T, f fixture) {
		for name, c := range map[string]struct {
			gain  time.Duration
			moves bool
		}{
			"a tenth":           {6 * time.Minute, true},
			"less than a tenth": {6*time.Minute - time.Microsecond, false},
			"nothing":           {0, false},
		} {
			id := f.create(t, ann(1), time.Hour)
			before := f.load(t, id)
			f.clock.Advance(c.gain)
			require.NoError(t, f.Touch(t.Context(), id, time.Hour))
			after := f.load(t, id)
			require.Equal(t, c.moves, after.ExpiresAt != before.ExpiresAt, name)
			require.Equal(t, c.moves, after.Version != before.Version, name)
			if c.moves {
				require.Equal(t, time.Hour, after.TTL(), name)
			}
			require.Equal(t, before.CreatedAt, after.CreatedAt, name)
		}
	}},
	{"Touch/of the shortest ttl", nil, func(t *testing.T, f fixture) {
		id := f.create(t, ann(1), time.Microsecond)
		before := f.load(t, id)
		require.NoError(t, f.Touch(t.Context(), id, 1))
		require.Equal(t, before, f.load(t, id))
	}},
	{"Cycle/of a user's session", nil, func(t *testing.T, f fixture) {
		for name, c := range map[string]struct {
			before, after string
			anew          bool
		}{
			"same user":  {"ann", "ann", false},
			"same guest": {"", "", false},
			"log-in":     {"", "ann", true},
			"log-out":    {"ann", "", true},
			"other user": {"ann", "bob", true},
		} {
			old, next := f.create(t, pgsession.Data{UserID: c.before}, time.Hour), pgsession.NewID()
			created := f.load(t, old).CreatedAt
			f.clock.Advance(time.Minute)
			require.NoError(t, f.Cycle(t.Context(), old, next, pgsession.Data{UserID: c.after, Values: 2}, time.Hour), name)
			session := f.load(t, next)
			require.Equal(t, c.after, session.UserID, name)
			require.Equal(t, 2, decode[int](t, session), name)
			require.Equal(t, time.Hour, session.TTL(), name)
			require.Equal(t, c.anew, session.CreatedAt != created, name)
			require.Equal(t, "ended", f.stateOf(t, old), name)
		}
	}},
	{"Put/begins anew where nothing is live", []pgsession.Option{pgsession.WithAbsoluteLifetime(2 * time.Hour)}, func(t *testing.T, f fixture) {
		for name, ttl := range map[string]time.Duration{"expired": time.Hour, "too old": 10 * time.Hour} {
			id := f.create(t, ann(1), ttl)
			f.clock.Advance(2 * time.Hour)
			require.NoError(t, f.Put(t.Context(), id, pgsession.Data{UserID: "bob"}, time.Hour), name)
			session := f.load(t, id)
			require.Equal(t, "bob", session.UserID, name)
			require.Equal(t, f.clock.Now(), session.CreatedAt, name)
		}
	}},
	{"Put/replaces what is live", nil, func(t *testing.T, f fixture) {
		id := pgsession.NewID()
		require.NoError(t, f.Put(t.Context(), id, ann(1), time.Hour))
		f.clock.Advance(time.Minute)
		require.NoError(t, f.Put(t.Context(), id, ann(2), time.Minute))
		session := f.load(t, id)
		require.Equal(t, epoch, session.CreatedAt)
		require.Equal(t, time.Minute, session.TTL())
		require.Equal(t, 2, decode[int](t, session))
	}},
	{"Delete/leaves a tombstone", nil, func(t *testing.T, f fixture) {
		for name, c := range map[string]struct{ ttl, age, stands time.Duration }{
			"until the expiry":            {3 * time.Hour, time.Hour, 2 * time.Hour},
			"for an hour":                 {10 * time.Minute, 0, time.Hour},
			"for an hour, though expired": {10 * time.Minute, time.Hour, time.Hour},
		} {
			id := f.create(t, ann(1), c.ttl)
			f.clock.Advance(c.age)
			require.NoError(t, f.Delete(t.Context(), id), name)
			f.clock.Advance(c.stands - time.Microsecond)
			require.NoError(t, f.Delete(t.Context(), id), "which makes it stand no longer")
			f.cleanUp(t, 0)
			require.ErrorIs(t, f.Put(t.Context(), id, ann(2), time.Hour), pgsession.ErrRevoked, name)
			f.clock.Advance(time.Microsecond)
			require.ErrorIs(t, f.Put(t.Context(), id, ann(2), time.Hour), pgsession.ErrRevoked, "until it is removed")
			f.cleanUp(t, 1)
			require.NoError(t, f.Put(t.Context(), id, ann(2), time.Hour), name)
			require.NoError(t, f.Delete(t.Context(), id), name)
			f.clock.Advance(time.Hour)
			f.cleanUp(t, 1)
		}
	}},
	{"absolute lifetime", []pgsession.Option{pgsession.WithAbsoluteLifetime(time.Hour)}, func(t *testing.T, f fixture) {
		id := f.create(t, ann(1), 10*time.Hour)
		require.Equal(t, time.Hour, f.load(t, id).TTL())
		f.clock.Advance(30 * time.Minute)
		require.NoError(t, f.Touch(t.Context(), id, 20*time.Hour))
		require.NoError(t, f.Save(t.Context(), id, ann(2), 20*time.Hour))
		next := pgsession.NewID()
		require.NoError(t, f.Cycle(t.Context(), id, next, ann(3), 20*time.Hour))
		require.Equal(t, epoch.Add(time.Hour), f.load(t, next).ExpiresAt, "whatever was done meanwhile")
		require.NoError(t, f.Update(t.Context(), next, time.Minute, increment))
		require.Equal(t, time.Minute, f.load(t, next).TTL(), "the idle expiry, where it is earlier")

		bob := pgsession.NewID()
		require.NoError(t, f.Cycle(t.Context(), next, bob, pgsession.Data{UserID: "bob"}, 20*time.Hour))
		f.clock.Advance(time.Hour - time.Microsecond)
		require.Equal(t, time.Microsecond, f.load(t, bob).TTL(), "another log-in")
		f.clock.Advance(time.Microsecond)
		found, err := f.FindByUser(t.Context(), "bob", 0)
		require.NoError(t, err)
		require.Empty(t, found)
		require.Equal(t, "expired", f.stateOf(t, bob))
	}},
	{"absolute lifetime/not in whole microseconds", []pgsession.Option{pgsession.WithAbsoluteLifetime(time.Hour + 1)}, func(t *testing.T, f fixture) {
		id := f.create(t, ann(1), 10*time.Hour)
		require.Equal(t, time.Hour+1, f.load(t, id).TTL())
		f.clock.Advance(time.Hour)
		require.Equal(t, time.Duration(1), f.load(t, id).TTL())
		f.clock.Advance(time.Microsecond)
		require.Equal(t, "expired", f.stateOf(t, id))
	}},
	{"FindByUser", nil, func(t *testing.T, f fixture) {
		var ids []pgsession.ID
		for range 3 {
			f.clock.Advance(time.Second)
			ids = append(ids, f.create(t, ann(len(ids)), time.Hour))
		}
		f.create(t, pgsession.Data{UserID: "bob"}, time.Hour)
		f.create(t, pgsession.Data{}, time.Hour)
		for limit, want := range map[int][]int{0: {2, 1, 0}, -1: {2, 1, 0}, 1: {2}, 2: {2, 1}, 4: {2, 1, 0}} {
			found, err := f.FindByUser(t.Context(), "ann", limit)
			require.NoError(t, err)
			var values []int
			for _, session := range found {
				values = append(values, decode[int](t, session))
			}
			require.Equal(t, want, values, "limit %d: the newest first", limit)
			require.Equal(t, f.load(t, ids[2]), found[0])
		}
		found, err := f.FindByUser(t.Context(), "", 0)
		require.NoError(t, err)
		require.Empty(t, found)
	}},
	{"FindByUser/a hundred at most", nil, func(t *testing.T, f fixture) {
		for range 101 {
			f.create(t, ann(1), time.Hour)
		}
		found, err := f.FindByUser(t.Context(), "ann", 0)
		require.NoError(t, err)
		require.Len(t, found, 100)
		found, err = f.FindByUser(t.Context(), "ann", 1000)
		require.NoError(t, err)
		require.Len(t, found, 101)
	}},
	{"DeleteByUser/except", nil, func(t *testing.T, f fixture) {
		here, there, bobs := f.create(t, ann(1), time.Hour), f.create(t, ann(2), time.Hour), f.create(t, pgsession.Data{UserID: "bob"}, time.Hour)
		ended, err := f.DeleteByUser(t.Context(), "ann", here.Handle(), bobs.Handle(), pgsession.Handle{})
		require.NoError(t, err)
		require.EqualValues(t, 1, ended)
		f.load(t, here)
		f.load(t, bobs)
		require.Equal(t, "ended", f.stateOf(t, there))
		ended, err = f.DeleteByUser(t.Context(), "")
		require.NoError(t, err)
		require.Zero(t, ended)
	}},
	{"All/is in pages", nil, func(t *testing.T, f fixture) {
		const many = 503
		want := map[pgsession.Handle]bool{}
		for range many {
			want[f.create(t, ann(1), time.Hour).Handle()] = true
		}
		got := map[pgsession.Handle]bool{}
		for session, err := range f.All(t.Context()) {
			require.NoError(t, err)
			require.False(t, got[session.Handle])
			got[session.Handle] = true
		}
		require.Equal(t, want, got)
		for session := range f.All(t.Context()) {
			require.NoError(t, f.RevokeAny(t.Context(), session.Handle), "the loop may call the store, and end early")
			break
		}
		ended, err := f.DeleteAll(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, many-1, ended)
	}},
	{"KeyValue", nil, func(t *testing.T, f fixture) {
		ctx, kv := t.Context(), f.keyValue
		_, err := kv.Get(ctx, "state")
		require.ErrorIs(t, err, pgsession.ErrNotFound)
		given := []byte("abc")
		require.NoError(t, kv.Put(ctx, "state", given, time.Hour))
		given[0] = 'x'
		value, err := kv.Get(ctx, "state")
		require.NoError(t, err)
		require.Equal(t, "abc", string(value))
		require.NoError(t, kv.Put(ctx, "state", nil, time.Minute))
		value, err = kv.Get(ctx, "state")
		require.NoError(t, err)
		require.Empty(t, value)

		_, err = f.Load(ctx, pgsession.DeriveID("state"))
		require.ErrorIs(t, err, pgsession.ErrNotFound, "an entry is no session")
		n := 0
		for session, err := range f.All(ctx) {
			require.NoError(t, err)
			require.Empty(t, session.UserID)
			n++
		}
		require.Equal(t, 1, n, "All lists it")

		f.clock.Advance(time.Minute)
		_, err = kv.Get(ctx, "state")
		require.ErrorIs(t, err, pgsession.ErrNotFound)
		removed, err := kv.PruneExpired(ctx)
		require.NoError(t, err)
		require.EqualValues(t, 1, removed)

		require.NoError(t, kv.Put(ctx, "state", []byte("a"), time.Hour))
		require.NoError(t, kv.Delete(ctx, "state"))
		require.NoError(t, kv.Delete(ctx, "state"))
		f.clock.Advance(3 * time.Hour)
		f.cleanUp(t, 0)
		_, err = kv.Get(ctx, "state")
		require.ErrorIs(t, err, pgsession.ErrNotFound)
		require.NoError(t, kv.Put(ctx, "state", []byte("b"), time.Hour))
		ended, err := f.DeleteAll(ctx)
		require.NoError(t, err)
		require.EqualValues(t, 1, ended)
		require.NoError(t, kv.Put(ctx, "state", []byte("c"), time.Hour), "the last Put wins")
		value, err = kv.Get(ctx, "state")
		require.NoError(t, err)
		require.Equal(t, "c", string(value))
	}},
	{"KeyValue/bad input", []pgsession.Option{pgsession.WithMaxSize(3)}, func(t *testing.T, f fixture) {
		ctx, kv := t.Context(), f.keyValue
		require.ErrorIs(t, kv.Put(ctx, "", nil, time.Hour), pgsession.ErrNotFound)
		_, err := kv.Get(ctx, "")
		require.ErrorIs(t, err, pgsession.ErrNotFound)
		require.NoError(t, kv.Delete(ctx, ""))
		require.ErrorIs(t, kv.Put(ctx, "key", []byte("long"), time.Hour), pgsession.ErrTooLarge)
		require.ErrorIs(t, kv.Put(ctx, "key", []byte("long"), 0), pgsession.ErrInvalidTTL)
		require.NoError(t, kv.Put(ctx, "a\x00\xff", []byte("abc"), time.Hour))
		value, err := kv.Get(ctx, "a\x00\xff")
		require.NoError(t, err)
		require.Equal(t, "abc", string(value))
	}},
	{"KeyValue/absolute lifetime", []pgsession.Option{pgsession.WithAbsoluteLifetime(time.Hour)}, func(t *testing.T, f fixture) {
		require.NoError(t, f.keyValue.Put(t.Context(), "key", []byte("a"), 3*time.Hour))
		f.clock.Advance(time.Hour)
		_, err := f.keyValue.Get(t.Context(), "key")
		require.ErrorIs(t, err, pgsession.ErrNotFound)
		require.NoError(t, f.keyValue.Put(t.Context(), "key", []byte("a"), 3*time.Hour))
		_, err = f.keyValue.Get(t.Context(), "key")
		require.NoError(t, err, "it began anew")
	}},
	{"Stats", nil, func(t *testing.T, f fixture) {
		ctx := t.Context()
		id := f.create(t, ann(1), time.Hour)
		f.load(t, id)
		require.NoError(t, f.Save(ctx, id, ann(2), time.Hour))
		require.NoError(t, f.Update(ctx, id, 0, increment))
		require.NoError(t, f.Touch(ctx, id, 2*time.Hour))
		next := pgsession.NewID()
		require.NoError(t, f.Cycle(ctx, id, next, ann(3), time.Hour))
		require.NoError(t, f.Put(ctx, next, ann(4), time.Hour))
		require.Error(t, f.Put(ctx, next, pgsession.Data{UserID: "bob"}, time.Hour))
		require.Error(t, f.Put(ctx, id, ann(4), time.Hour))
		require.Error(t, f.Save(ctx, id, ann(4), time.Hour))
		require.Error(t, f.Update(ctx, id, 0, increment))
		require.Error(t, f.Save(ctx, pgsession.ID{}, ann(4), time.Hour))
		require.NoError(t, f.keyValue.Put(ctx, "key", nil, time.Minute))
		f.clock.Advance(time.Minute)
		f.cleanUp(t, 1)
		stats := f.Stats()
		stats.LastCleanupDuration = 0
		require.Equal(t, pgsession.Stats{
			Loads: 3, Hits: 2, Saves: 6, Revoked: 2, Cleaned: 1, LastCleanup: f.clock.Now(),
		}, stats)
	}},
}

func TestBehaviour(t *testing.T) {
	t.Parallel()
	for kind, newStore := range kinds(t) {
		for _, c := range behaviours {
			t.Run(kind+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				c.run(t, newStore(t, c.options...))
			})
		}
	}
}

func (f fixture) create(t testing.TB, data pgsession.Data, ttl time.Duration) pgsession.ID {
	t.Helper()
	id, err := f.Create(t.Context(), data, ttl)
	require.NoError(t, err)
	return id
}

func (f fixture) load(t testing.TB, id pgsession.ID) *pgsession.Session {
	t.Helper()
	session, err := f.Load(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, id.Handle(), session.Handle)
	return session
}

func (f fixture) cleanUp(t testing.TB, want int64) {
	t.Helper()
	removed, err := f.CleanupExpired(t.Context())
	require.NoError(t, err)
	require.Equal(t, want, removed)
}

func decode[T any](t testing.TB, session *pgsession.Session) T {
	t.Helper()
	v, err := pgsession.Decode[T](session)
	require.NoError(t, err)
	return v
}

func increment(session *pgsession.Session) (any, error) {
	n, err := pgsession.Decode[int](session)
	return n + 1, err
}
