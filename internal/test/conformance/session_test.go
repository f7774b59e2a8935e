package conformance_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/test"
)

// A session from its beginning to its end.
func TestSession(t *testing.T) {
	t.Parallel()
	onEveryKind(t, sessionCases)
}

var sessionCases = []useCase{
	{"clock at the zero time", nil, func(t *testing.T, f *subject) {
		f.Clock.Set(time.Time{})
		f.MustLoad(t, f.Begin(t, test.Ann(1), time.Hour))
	}},
	{"Create/returns what a load gives", nil, func(t *testing.T, f *subject) {
		f.Clock.Set(test.Epoch.Add(999).In(time.FixedZone("elsewhere", 3600)))
		session, err := f.Create(t.Context(), pgsession.Data{UserID: "ann", Lifetime: 5*time.Hour - 1, Values: []int{1}}, time.Second+1)
		require.NoError(t, f.eitherSessionOrError(t.Context(), session, err))
		require.Equal(t, "ann", session.UserID)
		require.Equal(t, test.Epoch, session.CreatedAt, "in UTC and whole microseconds")
		require.Equal(t, test.Epoch.Add(time.Second+time.Microsecond), session.ExpiresAt)
		require.Equal(t, test.Epoch.Add(5*time.Hour), session.EndsAt)
		require.Equal(t, time.Second+time.Microsecond, session.IdleTimeout)
		require.Equal(t, []int{1}, test.Decode[[]int](t, session))
		require.Equal(t, session.Handle, f.MustLoad(t, test.Parsed(session.ID)).Handle, "its token is the cookie")
	}},
	{"Create/copies", nil, func(t *testing.T, f *subject) {
		given := []byte("abc")
		session, err := f.Create(t.Context(), test.Ann(given), time.Hour)
		require.NoError(t, err)
		given[0] = 'x'
		require.Equal(t, "abc", string(test.Decode[[]byte](t, session)))
		session.Data().Values.([]byte)[0] = 'y'
		require.Equal(t, "abc", string(test.Decode[[]byte](t, session)))
		require.Equal(t, "abc", string(test.Decode[[]byte](t, f.MustLoad(t, session.ID))))
	}},
	{"CreateAs/until the clean-up, an id is taken", nil, func(t *testing.T, f *subject) {
		id := pgsession.DeriveID("framework's token")
		createAs := func() error { return test.Err(f.CreateAs(t.Context(), id, test.Ann(1), time.Minute)) }
		require.NoError(t, createAs())
		require.ErrorIs(t, createAs(), pgsession.ErrExists)
		f.Clock.Advance(time.Minute)
		require.ErrorIs(t, createAs(), pgsession.ErrExists)
		require.EqualValues(t, 1, f.MustCleanUp(t))
		require.NoError(t, createAs())
		require.Equal(t, f.Clock.Now(), f.MustLoad(t, id).CreatedAt)
	}},
	{"Load/until the expiry", nil, func(t *testing.T, f *subject) {
		id := f.Begin(t, test.Ann(1), time.Hour)
		f.Clock.Advance(time.Hour - time.Microsecond)
		require.Equal(t, time.Microsecond, f.MustLoad(t, id).Remaining())
		f.Clock.Advance(time.Microsecond)
		require.ErrorIs(t, test.Err(f.Load(t.Context(), id)), pgsession.ErrNotFound)
	}},
	{"Load/copies", nil, func(t *testing.T, f *subject) {
		id := f.Begin(t, test.Ann([]byte("abc")), time.Hour)
		loaded := f.MustLoad(t, id)
		test.Decode[[]byte](t, loaded)[0] = 'y'
		loaded.Data().Values.([]byte)[0] = 'z'
		loaded.UserID = "bob"
		require.Equal(t, test.Ann([]byte("abc")), f.MustLoad(t, id).Data())

		pointer := &struct{ N int }{1}
		id = f.Begin(t, test.Ann(pointer), time.Hour)
		pointer.N = 2
		require.JSONEq(t, `{"N":1}`, string(f.MustLoad(t, id).Data().Values.(json.RawMessage)))
	}},
	{"Load/values that do not fit", nil, func(t *testing.T, f *subject) {
		_, err := pgsession.Decode[int](f.MustLoad(t, f.Begin(t, test.Ann("text"), time.Hour)))
		require.ErrorIs(t, err, pgsession.ErrDecode)
		_, err = pgsession.Decode[string](f.MustLoad(t, f.Begin(t, test.Ann([]byte(`"text"`)), time.Hour)))
		require.ErrorIs(t, err, pgsession.ErrDecode)
	}},
	{"Data/can be written back unchanged", nil, func(t *testing.T, f *subject) {
		ctx := t.Context()
		writeBack := func(session *pgsession.Session) (pgsession.Data, error) { return session.Data(), nil }
		for name, write := range map[string]func(session *pgsession.Session) (pgsession.ID, error){
			"save": func(session *pgsession.Session) (pgsession.ID, error) {
				return session.ID, f.Save(ctx, session.ID, session.Data(), time.Hour)
			},
			"put": func(session *pgsession.Session) (pgsession.ID, error) {
				return session.ID, f.Put(ctx, session.ID, session.Data(), time.Hour)
			},
			"update": func(session *pgsession.Session) (pgsession.ID, error) {
				return session.ID, test.Err(f.Update(ctx, session, time.Hour, func(session *pgsession.Session) (any, error) {
					return session.Data().Values, nil
				}))
			},
			"cycle": func(session *pgsession.Session) (pgsession.ID, error) {
				next := pgsession.NewID()
				return next, f.Cycle(ctx, session.ID, next, session.Data(), time.Hour)
			},
			"renew": func(session *pgsession.Session) (pgsession.ID, error) {
				renewed, err := f.Renew(ctx, session, time.Hour, writeBack)
				return renewed.ID, err
			},
			"create": func(session *pgsession.Session) (pgsession.ID, error) {
				created, err := f.Create(ctx, session.Data(), time.Hour)
				return created.ID, err
			},
			"create as": func(session *pgsession.Session) (pgsession.ID, error) {
				id := pgsession.NewID()
				return id, test.Err(f.CreateAs(ctx, id, session.Data(), time.Hour))
			},
		} {
			for _, values := range []any{map[string]any{"a": []int{1}, "<": "&é"}, []byte{0, 255}, []byte{}, nil} {
				for _, lifetime := range []time.Duration{0, 5 * time.Hour} {
					data := pgsession.Data{UserID: "ann", Lifetime: lifetime, Values: values}
					before := f.MustLoad(t, f.Begin(t, data, time.Hour))
					f.Clock.Advance(time.Minute)
					id, err := write(before)
					require.NoError(t, err, name)
					after := f.MustLoad(t, id)
					require.Equal(t, before.Data(), after.Data(), name)
					if lifetime > 0 {
						require.Equal(t, after.CreatedAt.Add(lifetime), after.EndsAt, name)
					}
					if name != "create" && name != "create as" {
						require.Equal(t, before.CreatedAt, after.CreatedAt, name)
						require.Equal(t, before.EndsAt, after.EndsAt, name)
					}
				}
			}
		}
	}},
	{"Save/keeps when the log-in began", nil, func(t *testing.T, f *subject) {
		id := f.Begin(t, test.Ann(1), time.Hour)
		f.Clock.Advance(time.Minute)
		require.NoError(t, f.Save(t.Context(), id, test.Ann(2), time.Minute))
		session := f.MustLoad(t, id)
		require.Equal(t, test.Epoch, session.CreatedAt)
		require.Equal(t, time.Minute, session.Remaining(), "a Save may shorten")
	}},
	{"Put/never begins anew over a session that is over", []pgsession.Option{pgsession.WithAbsoluteLifetime(2 * time.Hour)}, func(t *testing.T, f *subject) {
		for name, ttl := range map[string]time.Duration{"expired": time.Hour, "too old": 10 * time.Hour} {
			id := f.Begin(t, test.Ann(1), ttl)
			f.Clock.Advance(2 * time.Hour)
			for _, userID := range []string{"ann", "bob", ""} {
				data := pgsession.Data{UserID: userID, Lifetime: time.Hour}
				err := f.Put(t.Context(), id, data, time.Hour)
				require.Equal(t, "NotFound", errorName(err), "%s, %q", name, userID)
				require.Equal(t, "expired", f.stateOf(t, id), name)
			}
			require.EqualValues(t, 1, f.MustCleanUp(t))
			require.NoError(t, f.Put(t.Context(), id, pgsession.Data{UserID: "bob"}, time.Hour), "%s: after the clean-up", name)
			session := f.MustLoad(t, id)
			require.Equal(t, "bob", session.UserID, name)
			require.Equal(t, f.Clock.Now(), session.CreatedAt, name)
			f.Clock.Advance(time.Hour)
			require.EqualValues(t, 1, f.MustCleanUp(t))
		}
	}},
	{"Put/replaces a live session", nil, func(t *testing.T, f *subject) {
		id := pgsession.NewID()
		require.NoError(t, f.Put(t.Context(), id, test.Ann(1), time.Hour))
		f.Clock.Advance(time.Minute)
		require.NoError(t, f.Put(t.Context(), id, test.Ann(2), time.Minute))
		session := f.MustLoad(t, id)
		require.Equal(t, test.Epoch, session.CreatedAt)
		require.Equal(t, time.Minute, session.Remaining())
		require.Equal(t, 2, test.Decode[int](t, session))
	}},
	{"Delete/leaves a tombstone", nil, func(t *testing.T, f *subject) {
		for name, c := range map[string]struct{ ttl, age, stands time.Duration }{
			"until the expiry":            {3 * time.Hour, time.Hour, 2 * time.Hour},
			"for an hour":                 {10 * time.Minute, 0, time.Hour},
			"for an hour, though expired": {10 * time.Minute, time.Hour, time.Hour},
		} {
			id := f.Begin(t, test.Ann(1), c.ttl)
			f.Clock.Advance(c.age)
			require.NoError(t, f.Delete(t.Context(), id), name)
			f.Clock.Advance(c.stands - time.Microsecond)
			require.NoError(t, f.Delete(t.Context(), id), "%s: a second Delete does not prolong it", name)
			require.EqualValues(t, 0, f.MustCleanUp(t))
			require.ErrorIs(t, f.Put(t.Context(), id, test.Ann(2), time.Hour), pgsession.ErrRevoked, name)
			f.Clock.Advance(time.Microsecond)
			require.ErrorIs(t, f.Put(t.Context(), id, test.Ann(2), time.Hour), pgsession.ErrRevoked, "%s: until it is removed", name)
			require.ErrorIs(t, test.Err(f.Load(t.Context(), id)), pgsession.ErrRevoked, name)
			require.EqualValues(t, 1, f.MustCleanUp(t))
			require.Equal(t, "NotFound", errorName(test.Err(f.Load(t.Context(), id))), name)
			require.NoError(t, f.Put(t.Context(), id, test.Ann(2), time.Hour), name)
			require.NoError(t, f.Delete(t.Context(), id), name)
			f.Clock.Advance(time.Hour)
			require.EqualValues(t, 1, f.MustCleanUp(t))
		}
	}},
	{"Stats", nil, func(t *testing.T, f *subject) {
		ctx := t.Context()
		id := f.Begin(t, test.Ann(1), time.Hour)
		loaded := f.MustLoad(t, id)
		require.NoError(t, f.Save(ctx, id, test.Ann(2), time.Hour))
		updated, err := f.Update(ctx, loaded, 0, test.Increment) // of a stale session
		require.NoError(t, err)
		updated, err = f.Update(ctx, updated, 0, test.Increment) // of a fresh one
		require.NoError(t, err)
		require.NoError(t, test.Err(f.Update(ctx, updated, 0, test.Keep(4)))) // changes nothing
		require.NoError(t, test.Err(f.Touch(ctx, loaded, 2*time.Hour)))
		next := pgsession.NewID()
		require.NoError(t, f.Cycle(ctx, id, next, test.Ann(3), time.Hour))
		require.NoError(t, f.Put(ctx, next, test.Ann(4), time.Hour))
		require.Error(t, f.Put(ctx, next, pgsession.Data{UserID: "bob"}, time.Hour))
		require.Error(t, f.Put(ctx, id, test.Ann(4), time.Hour))
		require.Error(t, f.Save(ctx, id, test.Ann(4), time.Hour))
		require.Error(t, test.Err(f.Update(ctx, loaded, 0, test.Increment)))
		require.Error(t, f.Save(ctx, pgsession.ID{}, test.Ann(4), time.Hour))
		require.NoError(t, test.Err(f.Renew(ctx, test.Unloaded(next), 0, test.LogIn(test.Ann(5)))))
		require.NoError(t, test.Err(f.CreateAs(ctx, pgsession.NewID(), test.Ann(6), time.Hour)))
		require.NoError(t, f.KeyValue().Put(ctx, "key", nil, time.Minute))
		require.NoError(t, test.Err(f.KeyValue().Take(ctx, "key")))
		require.NoError(t, f.KeyValue().Put(ctx, "key", nil, time.Minute))
		f.Clock.Advance(time.Minute)
		require.EqualValues(t, 1, f.MustCleanUp(t))
		require.Equal(t, pgsession.Stats{
			Loads:       4, // Load, the Update without a change, Renew, Take
			Hits:        4,
			Saves:       10, // Create, Save, two Updates, Cycle, Put, Renew, CreateAs, two entries
			Conflicts:   1,  // the Update of a stale session
			Revoked:     2,  // Put and Save
			Cleaned:     1,
			LastCleanup: f.Clock.Now(),
		}, test.CountsOf(f.Stats()))
	}},
}
