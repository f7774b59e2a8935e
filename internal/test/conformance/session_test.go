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
		for _, values := range []any{map[string]any{"a": []int{1}, "<": "&é"}, []byte{0, 255}, []byte{}, nil} {
			for _, lifetime := range []time.Duration{0, 5 * time.Hour} {
				id := f.Begin(t, pgsession.Data{UserID: "ann", Lifetime: lifetime, Values: values}, time.Hour)
				before := f.MustLoad(t, id).Data()
				require.NoError(t, f.Save(t.Context(), id, before, time.Hour))
				require.Equal(t, before, f.MustLoad(t, id).Data())
				require.NoError(t, f.Put(t.Context(), id, before, time.Hour))
				require.Equal(t, before, f.MustLoad(t, id).Data())
				next := pgsession.NewID()
				require.NoError(t, f.Cycle(t.Context(), id, next, before, time.Hour))
				require.Equal(t, before, f.MustLoad(t, next).Data())
				renewed, err := f.Renew(t.Context(), test.Unloaded(next), time.Hour, func(session *pgsession.Session) (pgsession.Data, error) {
					require.Equal(t, before, session.Data())
					return session.Data(), nil
				})
				require.NoError(t, f.eitherSessionOrError(t.Context(), renewed, err))
				require.Equal(t, before, f.MustLoad(t, renewed.ID).Data())
				copied := f.Begin(t, before, time.Hour)
				require.Equal(t, before, f.MustLoad(t, copied).Data())
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
		f.MustLoad(t, id)
		require.NoError(t, f.Save(ctx, id, test.Ann(2), time.Hour))
		require.NoError(t, test.Err(f.Update(ctx, test.Unloaded(id), 0, test.Increment)))
		require.NoError(t, test.Err(f.Update(ctx, test.Unloaded(id), 0, test.Keep(3)))) // changes nothing
		require.NoError(t, test.Err(f.Touch(ctx, test.Unloaded(id), 2*time.Hour)))
		next := pgsession.NewID()
		require.NoError(t, f.Cycle(ctx, id, next, test.Ann(3), time.Hour))
		require.NoError(t, f.Put(ctx, next, test.Ann(4), time.Hour))
		require.Error(t, f.Put(ctx, next, pgsession.Data{UserID: "bob"}, time.Hour))
		require.Error(t, f.Put(ctx, id, test.Ann(4), time.Hour))
		require.Error(t, f.Save(ctx, id, test.Ann(4), time.Hour))
		require.Error(t, test.Err(f.Update(ctx, test.Unloaded(id), 0, test.Increment)))
		require.Error(t, f.Save(ctx, pgsession.ID{}, test.Ann(4), time.Hour))
		require.NoError(t, test.Err(f.Renew(ctx, test.Unloaded(next), 0, test.LogIn(test.Ann(5)))))
		require.NoError(t, test.Err(f.CreateAs(ctx, pgsession.NewID(), test.Ann(6), time.Hour)))
		require.NoError(t, f.KeyValue().Put(ctx, "key", nil, time.Minute))
		require.NoError(t, test.Err(f.KeyValue().Take(ctx, "key")))
		require.NoError(t, f.KeyValue().Put(ctx, "key", nil, time.Minute))
		f.Clock.Advance(time.Minute)
		require.EqualValues(t, 1, f.MustCleanUp(t))
		require.Equal(t, pgsession.Stats{
			Loads:       6, // Load, three Updates, Renew, Take
			Hits:        5, // all but the Update of an ended session
			Saves:       9, // Create, Save, one Update, Cycle, Put, Renew, CreateAs, two entries
			Revoked:     2, // Put and Save
			Cleaned:     1,
			LastCleanup: f.Clock.Now(),
		}, test.CountsOf(f.Stats()))
	}},
}
