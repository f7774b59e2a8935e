package conformance_test

import (
	"encoding/json"
	"errors"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/bridge"
	"github.com/pgsession/pgsession/internal/test"
)

// Changes of a session that keep its id.
func TestUpdate(t *testing.T) {
	t.Parallel()
	onEveryKind(t, updateCases)
}

var updateCases = []useCase{
	{"Update/returns what a load gives", nil, func(t *testing.T, f *subject) {
		id := f.Begin(t, pgsession.Data{UserID: "ann", Lifetime: 5 * time.Hour, Values: 1}, time.Hour)
		f.Clock.Advance(time.Minute)
		before := f.MustLoad(t, id)
		session, err := f.Update(t.Context(), f.MustLoad(t, id), 2*time.Hour, test.Increment)
		require.NoError(t, f.eitherSessionOrError(t.Context(), session, err))
		require.NotEqual(t, test.Version(before), test.Version(session))
		require.Equal(t, 2, test.Decode[int](t, session))
		require.Equal(t, 2*time.Hour, session.Remaining())

		given := []byte("abc")
		session, err = f.Update(t.Context(), f.MustLoad(t, id), 0, test.Keep(given))
		require.NoError(t, err)
		given[0] = 'x'
		require.Equal(t, "abc", string(test.Decode[[]byte](t, session)), "a copy")
	}},
	{"Update/a ttl of 0 keeps the expiry", nil, func(t *testing.T, f *subject) {
		id := f.Begin(t, test.Ann(1), time.Hour)
		f.Clock.Advance(time.Minute)
		require.NoError(t, test.Err(f.Update(t.Context(), f.MustLoad(t, id), 0, test.Increment)))
		session := f.MustLoad(t, id)
		require.Equal(t, test.Epoch.Add(time.Hour), session.ExpiresAt)
		require.Equal(t, "ann", session.UserID)
		require.Equal(t, 2, test.Decode[int](t, session))
		require.NoError(t, test.Err(f.Update(t.Context(), f.MustLoad(t, id), time.Minute, test.Increment)))
		require.Equal(t, time.Minute, f.MustLoad(t, id).Remaining(), "a ttl may shorten")
	}},
	{"Update/writes nothing if nothing changes", nil, func(t *testing.T, f *subject) {
		for name, values := range map[string]any{
			"number": 1, "nothing": nil, "text": `<"&é` + "\u2028", "bytes": []byte{0, 255}, "no bytes": []byte{},
			"object":      map[string]any{"b": 1, "aa": []any{1.5, nil, true, map[string]any{}}, "": "x"},
			"numbers":     []float64{1e-7, 1e21, math.Copysign(0, -1), 1.5e300, -0.25, 100}, // jsonb writes them otherwise
			"odd numbers": json.RawMessage(`[1.50,-0.0,0e5,12E-3,-1.0e+2,1200e-2]`),
			"raw":         json.RawMessage(`{ "pgsession:raw" : "AAEC" }`),
		} {
			id := f.Begin(t, test.Ann(values), time.Hour)
			before, saves := f.MustLoad(t, id), f.Stats().Saves
			for how, change := range map[string]func(*pgsession.Session) (any, error){
				"given again": test.Keep(values),
				"as loaded":   func(session *pgsession.Session) (any, error) { return session.Data().Values, nil },
			} {
				for _, ttl := range []time.Duration{0, time.Hour} {
					session, err := f.Update(t.Context(), f.MustLoad(t, id), ttl, change)
					require.NoError(t, f.eitherSessionOrError(t.Context(), session, err), "%s %s", name, how)
					require.Equal(t, test.Version(before), test.Version(session), "%s %s", name, how)
				}
			}
			require.Equal(t, before, f.MustLoad(t, id), name)
			require.Equal(t, saves, f.Stats().Saves, name)

			f.Clock.Advance(time.Microsecond)
			session, err := f.Update(t.Context(), f.MustLoad(t, id), time.Hour, test.Keep(values))
			require.NoError(t, err)
			require.NotEqual(t, test.Version(before), test.Version(session), "%s: the expiry changes", name)
			require.Equal(t, time.Hour, f.MustLoad(t, id).Remaining(), name)
		}
		id := f.Begin(t, test.Ann([]byte(`1`)), time.Hour)
		before := f.MustLoad(t, id)
		session, err := f.Update(t.Context(), f.MustLoad(t, id), 0, test.Keep(1))
		require.NoError(t, f.eitherSessionOrError(t.Context(), session, err))
		require.NotEqual(t, test.Version(before), test.Version(session), "bytes are not JSON")
	}},
	{"Update/returns the error of change", nil, func(t *testing.T, f *subject) {
		id := f.Begin(t, test.Ann(1), time.Hour)
		before, mine := f.MustLoad(t, id), errors.New("mine")
		session, err := f.Update(t.Context(), f.MustLoad(t, id), 0, func(*pgsession.Session) (any, error) { return 2, mine })
		require.True(t, err == mine)
		require.Nil(t, session)
		require.Equal(t, before, f.MustLoad(t, id))
	}},
	{"Update/begins with the session as it was loaded", nil, func(t *testing.T, f *subject) {
		loaded := f.MustLoad(t, f.Begin(t, test.Ann(1), time.Hour))
		given := *loaded
		loads, runs := f.Stats().Loads, 0
		updated, err := f.Update(t.Context(), loaded, 0, func(session *pgsession.Session) (any, error) {
			runs++
			return test.Increment(session)
		})
		require.NoError(t, f.eitherSessionOrError(t.Context(), updated, err))
		require.Equal(t, 1, runs)
		require.Equal(t, loads+1, f.Stats().Loads, "which this test has loaded")
		require.Equal(t, given, *loaded, "it stays as it is")
		require.NoError(t, test.Err(f.Update(t.Context(), updated, 0, test.Increment)))
		require.Equal(t, 3, f.Number(t, loaded.ID))
	}},
	{"Update/what change says of a stale session is not the last word", nil, func(t *testing.T, f *subject) {
		ctx := t.Context()
		for name, c := range map[string]struct {
			values any                      // that another writer has stored meanwhile
			change func(n int) (any, error) // gets what is stored
			seen   []int
			want   int
		}{
			"a change":   {10, func(n int) (any, error) { return n + 1, nil }, []int{1, 10}, 11},
			"an error":   {10, func(n int) (any, error) { return n + 1, errIf(n == 1) }, []int{1, 10}, 11},
			"no change":  {10, func(n int) (any, error) { return 1, nil }, []int{1, 10}, 1},
			"too large":  {10, func(n int) (any, error) { return largeIf(n == 1), nil }, []int{1, 10}, 0},
			"no JSON":    {10, func(n int) (any, error) { return channelIf(n == 1), nil }, []int{1, 10}, 0},
			"still none": {1, func(n int) (any, error) { return 1, nil }, []int{1, 1}, 1},
		} {
			stale := f.MustLoad(t, f.Begin(t, test.Ann(1), time.Hour))
			require.NoError(t, f.Save(ctx, stale.ID, test.Ann(c.values), time.Hour))
			var seen []int
			updated, err := f.Update(ctx, stale, 0, func(session *pgsession.Session) (any, error) {
				seen = append(seen, test.Decode[int](t, session))
				return c.change(seen[len(seen)-1])
			})
			require.NoError(t, f.eitherSessionOrError(ctx, updated, err), name)
			require.Equal(t, c.seen, seen, name)
			require.Equal(t, c.want, f.Number(t, stale.ID), name)

			seen = nil
			stale = f.MustLoad(t, f.Begin(t, test.Ann(1), time.Hour))
			require.NoError(t, f.Save(ctx, stale.ID, test.Ann(c.values), time.Hour))
			renewed, err := f.Renew(ctx, stale, 0, func(session *pgsession.Session) (pgsession.Data, error) {
				seen = append(seen, test.Decode[int](t, session))
				values, err := c.change(seen[len(seen)-1])
				return test.Ann(values), err
			})
			require.NoError(t, f.eitherSessionOrError(ctx, renewed, err), name)
			require.Equal(t, c.seen, seen, name)
			require.Equal(t, c.want, f.Number(t, renewed.ID), name)
		}
	}},
	{"Update/an expired session is loaded first", nil, func(t *testing.T, f *subject) {
		ctx := t.Context()
		loaded := f.MustLoad(t, f.Begin(t, test.Ann(1), time.Hour))
		require.NoError(t, f.Save(ctx, loaded.ID, test.Ann(10), 5*time.Hour))
		f.Clock.Advance(2 * time.Hour)
		updated, err := f.Update(ctx, loaded, 0, func(session *pgsession.Session) (any, error) {
			require.Equal(t, 10, test.Decode[int](t, session), "another node has prolonged it")
			return test.Increment(session)
		})
		require.NoError(t, f.eitherSessionOrError(ctx, updated, err))
		expiresAt, err := f.Touch(ctx, loaded, 0)
		require.NoError(t, err)
		require.Equal(t, f.Clock.Now().Add(5*time.Hour), expiresAt, "by the idle timeout that is stored")
	}},
	{"Update/of a session made by hand", nil, func(t *testing.T, f *subject) {
		ctx, id := t.Context(), f.Begin(t, test.Ann(1), time.Hour)
		other := f.MustLoad(t, f.Begin(t, pgsession.Data{UserID: "bob", Values: 100}, time.Hour))
		moved := *other
		moved.ID, moved.Handle = id, id.Handle() // what it was loaded as must not count
		for name, session := range map[string]*pgsession.Session{
			"an ID and a Handle":       {ID: id, Handle: id.Handle()},
			"an ID":                    {ID: id},
			"a Handle":                 {Handle: id.Handle()},
			"another ID than it had":   &moved,
			"an ID and another Handle": {ID: id, Handle: other.Handle},
		} {
			n := f.Number(t, id)
			updated, err := f.Update(ctx, session, 0, test.Increment)
			require.NoError(t, err, name)
			require.Equal(t, n+1, test.Decode[int](t, updated), name)
			require.Equal(t, id.Handle(), updated.Handle, name)
			require.Equal(t, session.ID.Handle(), updated.ID.Handle(), "%s: nobody learns an id from a handle", name)
			require.Equal(t, n+1, f.Number(t, id), name)

			f.Clock.Advance(6 * time.Minute)
			expiresAt, err := f.Touch(ctx, session, time.Hour)
			require.NoError(t, err, name)
			require.Equal(t, f.Clock.Now().Add(time.Hour), expiresAt, name)
			require.Equal(t, expiresAt, f.MustLoad(t, id).ExpiresAt, name)
		}
		require.Equal(t, 100, f.Number(t, other.ID))

		f.Clock.Advance(6 * time.Minute)
		moved = *f.MustLoad(t, f.Begin(t, test.Bob, time.Hour)) // which would gain nothing
		moved.ID, moved.Handle = id, id.Handle()
		require.NoError(t, test.Err(f.Touch(ctx, &moved, time.Hour)))
		require.Equal(t, time.Hour, f.MustLoad(t, id).Remaining())
	}},
	{"Update/of a session that its caller has changed", nil, func(t *testing.T, f *subject) {
		ctx := t.Context()
		session := f.MustLoad(t, f.Begin(t, pgsession.Data{UserID: "ann", Lifetime: 5 * time.Hour, Values: 1}, time.Hour))
		want := session.EndsAt
		f.Clock.Advance(time.Minute)
		impersonate := func() {
			session.UserID, session.CreatedAt, session.EndsAt, session.ExpiresAt = "bob", time.Time{}, time.Time{}, session.ExpiresAt.Add(time.Hour)
		}
		impersonate()
		updated, err := f.Update(ctx, session, 0, func(given *pgsession.Session) (any, error) {
			require.Equal(t, "ann", given.UserID)
			given.UserID = "carol"
			impersonate()
			return 2, nil
		})
		require.NoError(t, f.eitherSessionOrError(ctx, updated, err))
		require.Equal(t, "ann", updated.UserID)
		require.Equal(t, want, updated.EndsAt)
		require.Equal(t, want.Add(-4*time.Hour), updated.ExpiresAt)

		session = updated
		impersonate()
		renewed, err := f.Renew(ctx, session, 0, test.LogIn(test.Bob))
		require.NoError(t, f.eitherSessionOrError(ctx, renewed, err))
		require.Equal(t, f.Clock.Now(), renewed.CreatedAt, "a log-in of another user begins")
		require.Zero(t, renewed.EndsAt)
	}},
	{"Update/of nothing", nil, func(t *testing.T, f *subject) {
		ctx := t.Context()
		never := func(*pgsession.Session) (any, error) {
			require.FailNow(t, "there is nothing to change")
			return nil, nil
		}
		neverData := func(*pgsession.Session) (pgsession.Data, error) {
			require.FailNow(t, "there is nothing to change")
			return pgsession.Data{}, nil
		}
		for name, session := range map[string]*pgsession.Session{"nil": nil, "zero": {}} {
			require.Equal(t, "NotFound", errorName(test.Err(f.Update(ctx, session, time.Hour, never))), name)
			require.Equal(t, "NotFound", errorName(test.Err(f.Touch(ctx, session, time.Hour))), name)
			require.Equal(t, "NotFound", errorName(test.Err(f.Touch(ctx, session, 0))), name)
			require.Equal(t, "ForeignID", errorName(test.Err(f.Renew(ctx, session, time.Hour, neverData))), name)
			require.Equal(t, "InvalidTTL", errorName(test.Err(f.Update(ctx, session, -1, never))), name)
			require.Equal(t, "InvalidTTL", errorName(test.Err(f.Touch(ctx, session, -1))), name)
			require.Equal(t, "InvalidTTL", errorName(test.Err(f.Renew(ctx, session, -1, neverData))), name)
		}
		f.requireSessions(t, 0)
	}},
	{"Update/the user stays", nil, func(t *testing.T, f *subject) {
		id := f.Begin(t, test.Ann(1), time.Hour)
		session, err := f.Update(t.Context(), f.MustLoad(t, id), 0, func(session *pgsession.Session) (any, error) {
			session.UserID = "bob"
			return 2, nil
		})
		require.NoError(t, f.eitherSessionOrError(t.Context(), session, err))
		require.Equal(t, "ann", session.UserID)
	}},
	{"Update/begins anew after another write", nil, func(t *testing.T, f *subject) {
		id, runs := f.Begin(t, test.Ann(1), time.Hour), 0
		session, err := f.Update(t.Context(), f.MustLoad(t, id), 0, func(session *pgsession.Session) (any, error) {
			if runs++; runs == 1 {
				require.NoError(t, f.Save(t.Context(), id, test.Ann(10), 2*time.Hour))
			}
			return test.Increment(session)
		})
		require.NoError(t, f.eitherSessionOrError(t.Context(), session, err))
		require.Equal(t, 2, runs)
		require.Equal(t, 11, test.Decode[int](t, session))
		require.Equal(t, 2*time.Hour, session.Remaining(), "the expiry that it saw last")
		require.EqualValues(t, 1, f.Stats().Conflicts)
	}},
	{"Update/begins anew after a touch", nil, func(t *testing.T, f *subject) {
		id, runs := f.Begin(t, test.Ann(1), time.Hour), 0
		require.NoError(t, test.Err(f.Update(t.Context(), f.MustLoad(t, id), 0, func(session *pgsession.Session) (any, error) {
			if runs++; runs == 1 {
				require.NoError(t, test.Err(f.Touch(t.Context(), f.MustLoad(t, id), 2*time.Hour)))
			}
			return test.Increment(session)
		})))
		require.Equal(t, 2, runs)
		require.Equal(t, 2*time.Hour, f.MustLoad(t, id).Remaining())
	}},
	{"Update/gives up", []pgsession.Option{pgsession.WithTimeout(0)}, func(t *testing.T, f *subject) {
		id, runs := f.Begin(t, test.Ann(0), time.Hour), 0
		err := test.Err(f.Update(t.Context(), f.MustLoad(t, id), 0, func(session *pgsession.Session) (any, error) {
			runs++
			require.NoError(t, f.Save(t.Context(), id, test.Ann(-runs), time.Hour))
			return test.Increment(session)
		}))
		require.ErrorIs(t, err, pgsession.ErrConflict)
		require.Equal(t, -runs, test.Decode[int](t, f.MustLoad(t, id)))
	}},
	{"Update/does not bring back", nil, func(t *testing.T, f *subject) {
		for name, end := range waysToEnd(f) {
			id := f.Begin(t, test.Ann(1), time.Hour)
			session, err := f.Update(t.Context(), f.MustLoad(t, id), time.Hour, func(session *pgsession.Session) (any, error) {
				require.NoError(t, end(t, id), name)
				return test.Increment(session)
			})
			require.ErrorIs(t, err, pgsession.ErrRevoked, name)
			require.Nil(t, session)
			require.Equal(t, "ended", f.stateOf(t, id), name)
		}
	}},
	{"Update/of an id that begins anew meanwhile", nil, func(t *testing.T, f *subject) {
		id := pgsession.DeriveID("framework's token")
		require.NoError(t, f.Put(t.Context(), id, test.Ann(1), time.Minute))
		runs := 0
		require.NoError(t, test.Err(f.Update(t.Context(), f.MustLoad(t, id), 0, func(session *pgsession.Session) (any, error) {
			if runs++; runs == 1 {
				f.Clock.Advance(time.Hour)
				require.EqualValues(t, 1, f.MustCleanUp(t))
				require.NoError(t, f.Put(t.Context(), id, pgsession.Data{UserID: "bob", Values: 20}, time.Hour))
			}
			return test.Increment(session)
		})))
		session := f.MustLoad(t, id)
		require.Equal(t, "bob", session.UserID)
		require.Equal(t, 21, test.Decode[int](t, session))
	}},
	{"Update/of what expires meanwhile", nil, func(t *testing.T, f *subject) {
		id, runs := f.Begin(t, test.Ann(1), time.Hour), 0
		err := test.Err(f.Update(t.Context(), f.MustLoad(t, id), time.Hour, func(session *pgsession.Session) (any, error) {
			runs++
			f.Clock.Advance(time.Hour)
			return test.Increment(session)
		}))
		require.ErrorIs(t, err, pgsession.ErrNotFound)
		require.Equal(t, 1, runs)
		require.Equal(t, "expired", f.stateOf(t, id))
	}},
	{"Update/the ttl begins with the write", nil, func(t *testing.T, f *subject) {
		id := f.Begin(t, test.Ann(1), time.Hour)
		session, err := f.Update(t.Context(), f.MustLoad(t, id), time.Hour, func(session *pgsession.Session) (any, error) {
			f.Clock.Advance(time.Minute)
			return test.Increment(session)
		})
		require.NoError(t, f.eitherSessionOrError(t.Context(), session, err))
		require.Equal(t, time.Hour, session.Remaining())
	}},
	{"Touch/the session that it was given stays", nil, func(t *testing.T, f *subject) {
		loaded := f.MustLoad(t, f.Begin(t, test.Ann(1), time.Hour))
		given := *loaded
		f.Clock.Advance(10 * time.Minute)
		require.NoError(t, test.Err(f.Touch(t.Context(), loaded, 0)))
		require.Equal(t, given, *loaded)
	}},
	{"Touch/a request that prolonged its session changes it without a conflict", nil, func(t *testing.T, f *subject) {
		id := f.Begin(t, test.Ann(1), time.Hour)
		for _, isChanged := range []bool{false, true} {
			loaded, conflicts := f.MustLoad(t, id), f.Stats().Conflicts
			expected := test.Decode[int](t, loaded) + 1
			if isChanged { // by another request, between the load and the touch
				require.NoError(t, test.Err(f.Update(t.Context(), f.MustLoad(t, id), 0, test.Increment)))
				expected++
				conflicts++
			}
			f.Clock.Advance(10 * time.Minute)
			require.NoError(t, bridge.Touch(t.Context(), f.Store.Store, loaded))
			require.Equal(t, f.Clock.Now().Add(time.Hour), loaded.ExpiresAt)
			changed, err := f.Update(t.Context(), loaded, 0, test.Increment)
			require.NoError(t, f.eitherSessionOrError(t.Context(), changed, err))
			require.Equal(t, expected, test.Decode[int](t, changed))
			require.Equal(t, time.Hour, changed.Remaining())
			require.Equal(t, conflicts, f.Stats().Conflicts)
		}
	}},
	{"Touch/never shortens", nil, func(t *testing.T, f *subject) {
		id := f.Begin(t, test.Ann(1), time.Hour)
		before := f.MustLoad(t, id)
		require.NoError(t, test.Err(f.Touch(t.Context(), f.MustLoad(t, id), time.Minute)))
		require.Equal(t, before, f.MustLoad(t, id))
		f.Clock.Advance(-time.Minute)
		before = f.MustLoad(t, id)
		require.NoError(t, test.Err(f.Touch(t.Context(), f.MustLoad(t, id), 0)))
		require.Equal(t, before, f.MustLoad(t, id), "nor after the clock was set back")
	}},
	{"Touch/writes if the gain is a tenth of the ttl", nil, func(t *testing.T, f *subject) {
		for name, c := range map[string]struct {
			ttl, gain time.Duration
			moves     bool
		}{
			"a tenth":                 {time.Hour, 6 * time.Minute, true},
			"less than a tenth":       {time.Hour, 6*time.Minute - time.Microsecond, false},
			"nothing":                 {time.Hour, 0, false},
			"all but a microsecond":   {time.Hour, time.Hour - time.Microsecond, true},
			"less, in nanoseconds":    {time.Hour + time.Microsecond, 6 * time.Minute, false},
			"more, in nanoseconds":    {time.Hour + time.Microsecond, 6*time.Minute + time.Microsecond, true},
			"less, half microseconds": {time.Hour + 5*time.Microsecond, 6 * time.Minute, false},
			"more, half microseconds": {time.Hour + 5*time.Microsecond, 6*time.Minute + time.Microsecond, true},
			"of the longest ttl":      {longestTTL, longestTTL / 10, true},
			"less of the longest ttl": {longestTTL, longestTTL/10 - time.Microsecond, false},
		} {
			for _, named := range []time.Duration{c.ttl, 0} {
				f.Clock.Set(test.Epoch)
				id := f.Begin(t, test.Ann(1), c.ttl)
				before := f.MustLoad(t, id)
				f.Clock.Advance(c.gain)
				expiresAt, err := f.Touch(t.Context(), before, named)
				require.NoError(t, err, name)
				after := f.MustLoad(t, id)
				require.Equal(t, after.ExpiresAt, expiresAt, name)
				require.Equal(t, c.moves, after.ExpiresAt != before.ExpiresAt, name)
				require.Equal(t, c.moves, test.Version(after) != test.Version(before), name)
				if c.moves {
					require.Equal(t, c.ttl, after.Remaining(), name)
				}
				require.Equal(t, before.CreatedAt, after.CreatedAt, name)
				require.Equal(t, c.ttl, after.IdleTimeout, name)
			}
		}
	}},
	{"Touch/of the shortest ttl", nil, func(t *testing.T, f *subject) {
		id := f.Begin(t, test.Ann(1), time.Microsecond)
		before := f.MustLoad(t, id)
		require.NoError(t, test.Err(f.Touch(t.Context(), f.MustLoad(t, id), 1)))
		require.Equal(t, before, f.MustLoad(t, id))
		require.NoError(t, test.Err(f.Touch(t.Context(), f.MustLoad(t, id), 0)))
		require.Equal(t, before, f.MustLoad(t, id))
	}},
	{"Touch/near the end", nil, func(t *testing.T, f *subject) {
		for name, c := range map[string]struct {
			end   time.Duration // after the first expiry
			moves bool
		}{
			"a tenth to gain":           {6 * time.Minute, true},
			"less than a tenth to gain": {6*time.Minute - time.Microsecond, false},
			"nothing to gain":           {0, false},
		} {
			for _, ttl := range []time.Duration{time.Hour, 0} {
				f.Clock.Set(test.Epoch)
				endsAt := test.Epoch.Add(time.Hour + c.end)
				id := f.Begin(t, pgsession.Data{UserID: "ann", Lifetime: time.Hour + c.end}, time.Hour)
				before := f.MustLoad(t, id)
				f.Clock.Advance(30 * time.Minute)
				expiresAt, err := f.Touch(t.Context(), before, ttl)
				require.NoError(t, err, name)
				after := f.MustLoad(t, id)
				require.Equal(t, after.ExpiresAt, expiresAt, name)
				require.Equal(t, c.moves, test.Version(after) != test.Version(before), name)
				if c.moves {
					require.Equal(t, endsAt, after.ExpiresAt, name)
				} else {
					require.Equal(t, before.ExpiresAt, after.ExpiresAt, name)
				}
				f.Clock.Advance(29 * time.Minute)
				require.NoError(t, test.Err(f.Touch(t.Context(), f.MustLoad(t, id), ttl)), name)
				require.Equal(t, test.Version(after), test.Version(f.MustLoad(t, id)), "%s: there is no more", name)
			}
		}
	}},
	{"concurrent updates lose nothing", []pgsession.Option{pgsession.WithTimeout(0)}, func(t *testing.T, f *subject) {
		id := f.Begin(t, test.Ann(0), time.Hour)
		const writers, times = 4, 10
		var group sync.WaitGroup
		errs := make(chan error, 2*writers*times)
		for range writers {
			group.Go(func() {
				for range times {
					errs <- test.Err(f.Update(t.Context(), test.Unloaded(id), 0, test.Increment))
					for _, err := range f.All(t.Context()) {
						errs <- err
					}
				}
			})
		}
		group.Wait()
		close(errs)
		for err := range errs {
			require.NoError(t, err)
		}
		require.Equal(t, writers*times, test.Decode[int](t, f.MustLoad(t, id)))
	}},
}

// What a change returns if it is given a session that is out of date.

func errIf(stale bool) error {
	if stale {
		return errors.New("not these values")
	}
	return nil
}

func largeIf(stale bool) any {
	if stale {
		return make([]byte, 1<<20)
	}
	return 0
}

func channelIf(stale bool) any {
	if stale {
		return make(chan int)
	}
	return 0
}
