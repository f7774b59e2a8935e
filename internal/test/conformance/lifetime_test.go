package conformance_test

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/test"
)

// How long a session lives.
func TestLifetime(t *testing.T) {
	t.Parallel()
	onEveryKind(t, lifetimeCases)
}

var lifetimeCases = []useCase{
	{"Lifetime/bounds the expiry of a new session", nil, func(t *testing.T, f *subject) {
		endsAt := test.Epoch.Add(time.Hour)
		for name, begin := range logIns() {
			for ttl, expires := range map[time.Duration]time.Duration{
				time.Minute: time.Minute, time.Hour: time.Hour, 10 * time.Hour: time.Hour,
			} {
				f.Clock.Set(test.Epoch)
				if name == "create-as" {
					_, err := f.DeleteAll(t.Context())
					require.NoError(t, err)
					f.Clock.Set(test.Epoch.Add(1000 * time.Hour))
					_, err = f.CleanupExpired(t.Context())
					require.NoError(t, err)
					f.Clock.Set(test.Epoch)
				}
				guests := f.Begin(t, pgsession.Data{Lifetime: time.Second}, time.Hour)
				session, err := begin(t.Context(), f, guests, pgsession.Data{UserID: "ann", Lifetime: time.Hour - 999}, ttl)
				require.NoError(t, err, name)
				require.Equal(t, endsAt, session.EndsAt, name)
				require.Equal(t, test.Epoch.Add(expires), session.ExpiresAt, name)
				require.Equal(t, ttl, session.IdleTimeout, name)
				f.Clock.Set(endsAt)
				require.ErrorIs(t, test.Err(f.Load(t.Context(), session.ID)), pgsession.ErrNotFound, name)
				require.Equal(t, "expired", f.stateOf(t, session.ID), name)
			}
		}
	}},
	{"Lifetime/stays", nil, func(t *testing.T, f *subject) {
		const ttl = 10 * time.Hour
		for _, lifetime := range []time.Duration{0, 5 * time.Hour} {
			for _, other := range []time.Duration{0, 3 * time.Hour, 50 * time.Hour} {
				f.Clock.Set(test.Epoch)
				id := f.Begin(t, pgsession.Data{UserID: "ann", Lifetime: lifetime, Values: 0}, time.Hour)
				endsAt := f.MustLoad(t, id).EndsAt
				data := pgsession.Data{UserID: "ann", Lifetime: other, Values: 1}
				for name, write := range map[string]func() error{
					"touch":  func() error { return test.Err(f.Touch(t.Context(), f.MustLoad(t, id), ttl)) },
					"update": func() error { return test.Err(f.Update(t.Context(), f.MustLoad(t, id), ttl, test.Increment)) },
					"save":   func() error { return f.Save(t.Context(), id, data, ttl) },
					"put":    func() error { return f.Put(t.Context(), id, data, ttl) },
					"cycle": func() error {
						old := id
						id = pgsession.NewID()
						return f.Cycle(t.Context(), old, id, test.Ann(1), ttl)
					},
					"renew": func() error {
						session, err := f.Renew(t.Context(), f.MustLoad(t, id), ttl, test.LogIn(test.Ann(1)))
						if err == nil {
							id = session.ID
						}
						return err
					},
				} {
					f.Clock.Advance(time.Minute)
					require.NoError(t, write(), name)
					session := f.MustLoad(t, id)
					require.Equal(t, test.Epoch, session.CreatedAt, name)
					require.Equal(t, endsAt, session.EndsAt, name)
					if endsAt.IsZero() {
						require.Equal(t, ttl, session.Remaining(), name)
					} else {
						require.Equal(t, endsAt, session.ExpiresAt, name)
					}
					require.NoError(t, f.Save(t.Context(), id, test.Ann(0), time.Hour), "so that the next one moves the expiry")
				}
			}
		}
	}},
	{"Lifetime/of the same user brings the end nearer only", nil, func(t *testing.T, f *subject) {
		for name, c := range map[string]struct{ before, lifetime, want time.Duration }{
			"none":                 {5 * time.Hour, 0, 5 * time.Hour},
			"longer":               {5 * time.Hour, 50 * time.Hour, 5 * time.Hour},
			"shorter":              {5 * time.Hour, 3 * time.Hour, 4 * time.Hour},
			"where there was none": {0, 3 * time.Hour, 4 * time.Hour},
			"none, and none":       {0, 0, 0},
		} {
			for _, move := range []string{"renew", "cycle"} {
				for _, userID := range []string{"ann", ""} {
					f.Clock.Set(test.Epoch)
					id := f.Begin(t, pgsession.Data{UserID: userID, Lifetime: c.before}, 2*time.Hour)
					f.Clock.Advance(time.Hour)
					session, err := logIns()[move](t.Context(), f, id, pgsession.Data{UserID: userID, Lifetime: c.lifetime}, 20*time.Hour)
					require.NoError(t, err, name)
					require.Equal(t, test.Epoch, session.CreatedAt, name)
					if c.want == 0 {
						require.Zero(t, session.EndsAt, name)
						continue
					}
					require.Equal(t, test.Epoch.Add(c.want), session.EndsAt, "%s: it counts from the Renew", name)
					require.Equal(t, session.EndsAt, session.ExpiresAt, name)
				}
			}
		}
	}},
	{"Lifetime/a change of user sets it anew", nil, func(t *testing.T, f *subject) {
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
			for _, move := range []string{"cycle", "renew"} {
				for _, lifetime := range []time.Duration{0, 9 * time.Hour} {
					f.Clock.Set(test.Epoch)
					first := pgsession.Data{UserID: c.before, Lifetime: 3 * time.Hour}
					old := f.Begin(t, first, time.Hour)
					f.Clock.Advance(time.Minute)
					session, err := logIns()[move](t.Context(), f, old, pgsession.Data{UserID: c.after, Lifetime: lifetime, Values: 2}, 20*time.Hour)
					require.NoError(t, err, name)
					require.Equal(t, c.after, session.UserID, name)
					require.Equal(t, 2, test.Decode[int](t, session), name)
					require.Equal(t, "ended", f.stateOf(t, old), name)
					if !c.anew {
						require.Equal(t, test.Epoch, session.CreatedAt, name)
						require.Equal(t, test.Epoch.Add(3*time.Hour), session.EndsAt, name)
						continue
					}
					require.Equal(t, f.Clock.Now(), session.CreatedAt, name)
					if lifetime == 0 {
						require.Zero(t, session.EndsAt, name)
						require.Equal(t, 20*time.Hour, session.Remaining(), name)
					} else {
						require.Equal(t, f.Clock.Now().Add(lifetime), session.EndsAt, name)
						require.Equal(t, session.EndsAt, session.ExpiresAt, name)
					}
				}
			}
		}
	}},
	{"absolute lifetime", []pgsession.Option{pgsession.WithAbsoluteLifetime(time.Hour)}, func(t *testing.T, f *subject) {
		id := f.Begin(t, test.Ann(1), 10*time.Hour)
		require.Equal(t, time.Hour, f.MustLoad(t, id).Remaining())
		require.Equal(t, test.Epoch.Add(time.Hour), f.MustLoad(t, id).EndsAt)
		f.Clock.Advance(30 * time.Minute)
		require.NoError(t, test.Err(f.Touch(t.Context(), f.MustLoad(t, id), 20*time.Hour)))
		require.NoError(t, f.Save(t.Context(), id, test.Ann(2), 20*time.Hour))
		next := pgsession.NewID()
		require.NoError(t, f.Cycle(t.Context(), id, next, test.Ann(3), 20*time.Hour))
		require.Equal(t, test.Epoch.Add(time.Hour), f.MustLoad(t, next).ExpiresAt, "whatever was done meanwhile")
		require.NoError(t, test.Err(f.Update(t.Context(), f.MustLoad(t, next), time.Minute, test.Increment)))
		require.Equal(t, time.Minute, f.MustLoad(t, next).Remaining(), "the idle expiry, if it is earlier")

		bob := pgsession.NewID()
		require.NoError(t, f.Cycle(t.Context(), next, bob, pgsession.Data{UserID: "bob"}, 20*time.Hour))
		f.Clock.Advance(time.Hour - time.Microsecond)
		require.Equal(t, time.Microsecond, f.MustLoad(t, bob).Remaining(), "another log-in")
		f.Clock.Advance(time.Microsecond)
		found, err := f.FindByUser(t.Context(), "bob", 0)
		require.NoError(t, err)
		require.Empty(t, found)
		require.Equal(t, "expired", f.stateOf(t, bob))
	}},
	{"absolute lifetime/not in whole microseconds", []pgsession.Option{pgsession.WithAbsoluteLifetime(time.Hour + 1)}, func(t *testing.T, f *subject) {
		id := f.Begin(t, test.Ann(1), 10*time.Hour)
		require.Equal(t, time.Hour+time.Microsecond, f.MustLoad(t, id).Remaining())
		f.Clock.Advance(time.Hour)
		require.Equal(t, time.Microsecond, f.MustLoad(t, id).Remaining())
		f.Clock.Advance(time.Microsecond)
		require.Equal(t, "expired", f.stateOf(t, id))
	}},
	{"absolute lifetime/Data.Lifetime has the last word", []pgsession.Option{pgsession.WithAbsoluteLifetime(2 * time.Hour)}, func(t *testing.T, f *subject) {
		for name, begin := range logIns() {
			if name == "create-as" {
				continue // its id can be taken only once
			}
			for _, lifetime := range []time.Duration{time.Hour, 50 * time.Hour} {
				session, err := begin(t.Context(), f, f.Begin(t, pgsession.Data{}, time.Hour), pgsession.Data{UserID: "ann", Lifetime: lifetime}, 100*time.Hour)
				require.NoError(t, err, name)
				require.Equal(t, test.Epoch.Add(lifetime), session.EndsAt, name)
				require.Equal(t, test.Epoch.Add(lifetime), session.ExpiresAt, name)
			}
			session, err := begin(t.Context(), f, f.Begin(t, pgsession.Data{}, time.Hour), test.Ann(1), 100*time.Hour)
			require.NoError(t, err, name)
			require.Equal(t, test.Epoch.Add(2*time.Hour), session.EndsAt, name)
		}
	}},
	{"absolute lifetime/is decided at the log-in", []pgsession.Option{pgsession.WithAbsoluteLifetime(2 * time.Hour)}, func(t *testing.T, f *subject) {
		if f.beside == nil {
			return // a table in memory has one store
		}
		ctx, endsAt := t.Context(), test.Epoch.Add(2*time.Hour)
		for name, lifetime := range map[string]time.Duration{"shorter": time.Minute, "longer": 100 * time.Hour, "none": 0} {
			f.Clock.Set(test.Epoch)
			other := f.beside(pgsession.WithAbsoluteLifetime(lifetime))
			id := f.Begin(t, test.Ann(1), 10*time.Hour)
			f.Clock.Advance(90 * time.Minute)
			requireEnd := func(session *pgsession.Session, err error) {
				t.Helper()
				require.NoError(t, err, name)
				require.Equal(t, test.Epoch, session.CreatedAt, name)
				require.Equal(t, endsAt, session.EndsAt, name)
				require.Equal(t, endsAt, session.ExpiresAt, name)
			}
			requireEnd(other.Load(ctx, id))
			require.NoError(t, other.Save(ctx, id, test.Ann(2), time.Minute))
			require.NoError(t, test.Err(other.Touch(ctx, f.MustLoad(t, id), 2*time.Hour)))
			requireEnd(other.Load(ctx, id))
			require.NoError(t, other.Save(ctx, id, test.Ann(2), 10*time.Hour))
			require.NoError(t, other.Put(ctx, id, test.Ann(3), 10*time.Hour))
			requireEnd(other.Update(ctx, f.MustLoad(t, id), 10*time.Hour, test.Increment))
			requireEnd(f.Load(ctx, id))
			next := pgsession.NewID()
			require.NoError(t, other.Cycle(ctx, id, next, test.Ann(4), 10*time.Hour))
			requireEnd(f.Load(ctx, next))
			renewed, err := other.Renew(ctx, f.MustLoad(t, next), 10*time.Hour, test.LogIn(test.Ann(5)))
			requireEnd(renewed, err)

			bobs, err := other.Renew(ctx, test.Unloaded(f.Begin(t, test.Ann(1), time.Hour)), 10*time.Hour, test.LogIn(pgsession.Data{UserID: "bob"}))
			require.NoError(t, err)
			if lifetime == 0 {
				require.True(t, bobs.EndsAt.IsZero())
			} else {
				require.Equal(t, f.Clock.Now().Add(lifetime), bobs.EndsAt, "%s: a log-in at the other store", name)
			}
			require.NoError(t, f.RevokeAny(ctx, bobs.Handle))

			f.Clock.Set(endsAt)
			for _, s := range []*pgsession.Store{f.Store.Store, other} {
				require.ErrorIs(t, test.Err(s.Load(ctx, renewed.ID)), pgsession.ErrNotFound, name)
				require.ErrorIs(t, test.Err(s.Touch(ctx, renewed, time.Hour)), pgsession.ErrNotFound, name)
				require.ErrorIs(t, s.Put(ctx, renewed.ID, test.Ann(1), time.Hour), pgsession.ErrNotFound, name)
				found, err := s.FindByUser(ctx, "ann", 0)
				require.NoError(t, err)
				require.Empty(t, found, name)
			}
		}
	}},
	{"IdleTimeout/is the ttl of the last write that named one", nil, func(t *testing.T, f *subject) {
		ctx, id := t.Context(), f.Begin(t, test.Ann(1), 1)
		require.Equal(t, time.Microsecond, f.MustLoad(t, id).IdleTimeout, "in whole microseconds")
		id = f.Begin(t, test.Ann(1), time.Hour)
		requireIdle := func(want time.Duration) {
			t.Helper()
			session := f.MustLoad(t, id)
			require.Equal(t, want, session.IdleTimeout)
			found, err := f.FindByUser(ctx, "ann", 1)
			require.NoError(t, err)
			require.Len(t, found, 1)
			f.Clock.Advance(time.Minute)
		}
		requireIdle(time.Hour)
		require.NoError(t, test.Err(f.Update(ctx, f.MustLoad(t, id), 0, test.Increment)))
		requireIdle(time.Hour)
		require.NoError(t, test.Err(f.Update(ctx, f.MustLoad(t, id), 2*time.Hour, test.Increment)))
		requireIdle(2 * time.Hour)
		require.NoError(t, f.Save(ctx, id, test.Ann(1), 3*time.Hour))
		requireIdle(3 * time.Hour)
		require.NoError(t, test.Err(f.Touch(ctx, f.MustLoad(t, id), 4*time.Hour)))
		requireIdle(4 * time.Hour)
		require.NoError(t, test.Err(f.Touch(ctx, f.MustLoad(t, id), time.Hour)))
		requireIdle(4 * time.Hour) // that touch wrote nothing
		f.Clock.Advance(time.Hour)
		require.NoError(t, test.Err(f.Touch(ctx, f.MustLoad(t, id), 0)))
		require.Equal(t, 4*time.Hour, f.MustLoad(t, id).Remaining())
		requireIdle(4 * time.Hour)
		require.NoError(t, f.Put(ctx, id, test.Ann(1), 30*time.Minute))
		requireIdle(30 * time.Minute)
		renewed, err := f.Renew(ctx, f.MustLoad(t, id), 0, test.LogIn(test.Ann(2)))
		require.NoError(t, err)
		id = renewed.ID
		requireIdle(30 * time.Minute)
		renewed, err = f.Renew(ctx, f.MustLoad(t, id), 2*time.Hour, test.LogIn(test.Ann(2)))
		require.NoError(t, err)
		id = renewed.ID
		requireIdle(2 * time.Hour)
		next := pgsession.NewID()
		require.NoError(t, f.Cycle(ctx, id, next, test.Ann(1), 5*time.Hour))
		id = next
		requireIdle(5 * time.Hour)
	}},
	{"IdleTimeout/is not cut by the end", nil, func(t *testing.T, f *subject) {
		id := f.Begin(t, pgsession.Data{UserID: "ann", Lifetime: time.Hour, Values: 1}, 5*time.Hour)
		require.Equal(t, 5*time.Hour, f.MustLoad(t, id).IdleTimeout)
		before := f.MustLoad(t, id)
		session, err := f.Update(t.Context(), f.MustLoad(t, id), 6*time.Hour, test.Keep(1))
		require.NoError(t, f.eitherSessionOrError(t.Context(), session, err))
		require.Equal(t, before.ExpiresAt, session.ExpiresAt)
		require.Equal(t, 6*time.Hour, session.IdleTimeout, "it is written although the expiry stays")
		renewed, err := f.Renew(t.Context(), f.MustLoad(t, id), 0, test.LogIn(pgsession.Data{UserID: "bob"}))
		require.NoError(t, f.eitherSessionOrError(t.Context(), renewed, err))
		require.Equal(t, 6*time.Hour, renewed.IdleTimeout)
		require.Equal(t, before.ExpiresAt, renewed.ExpiresAt)
		require.NoError(t, test.Err(f.Touch(t.Context(), f.MustLoad(t, renewed.ID), 0)))
		require.Equal(t, 6*time.Hour, f.MustLoad(t, renewed.ID).Remaining(), "without an end there is more to gain")
	}},
}

func TestConformance_Lifetime(t *testing.T) {
	t.Parallel()
	const ttl = 2 * time.Hour
	cases := []struct {
		name     string
		lifetime time.Duration
		want     string // an error's name, or when the session ends
		expires  time.Duration
	}{
		{"least", math.MinInt64, "InvalidTTL", 0},
		{"negative", -1, "InvalidTTL", 0},
		{"none", 0, time.Time{}.String(), ttl},
		{"a nanosecond", 1, test.Epoch.Add(time.Microsecond).String(), time.Microsecond},
		{"not in whole microseconds", 1001, test.Epoch.Add(2 * time.Microsecond).String(), 2 * time.Microsecond},
		{"shorter than the ttl", time.Hour, test.Epoch.Add(time.Hour).String(), time.Hour},
		{"the ttl", ttl, test.Epoch.Add(ttl).String(), ttl},
		{"longer than the ttl", 3 * time.Hour, test.Epoch.Add(3 * time.Hour).String(), ttl},
		{"the longest", longestTTL, test.Epoch.Add(longestTTL).String(), ttl},
		{"over the longest", longestTTL + 1, "InvalidTTL", 0},
		{"the largest", math.MaxInt64, "InvalidTTL", 0},
	}
	for kind, newSubject := range storeKinds(t) {
		for _, c := range cases {
			for name, begin := range logIns() {
				t.Run(kind+"/"+c.name+"/"+name, func(t *testing.T) {
					t.Parallel()
					f := newSubject(t)
					guests := f.Begin(t, pgsession.Data{}, time.Hour)
					before := f.MustLoad(t, guests)
					session, err := begin(t.Context(), f, guests, pgsession.Data{UserID: "ann", Lifetime: c.lifetime}, ttl)
					if err != nil {
						require.Equal(t, c.want, errorName(err))
						require.Equal(t, before, f.MustLoad(t, guests), "nothing was written")
						f.requireSessions(t, 1)
						return
					}
					require.Equal(t, c.want, session.EndsAt.String())
					require.Equal(t, test.Epoch.Add(c.expires), session.ExpiresAt)
					require.Equal(t, ttl, session.IdleTimeout)
				})
			}
			t.Run(kind+"/"+c.name+"/save", func(t *testing.T) {
				t.Parallel()
				f := newSubject(t)
				id := f.Begin(t, test.Ann(1), time.Hour)
				before := f.MustLoad(t, id)
				for name, write := range map[string]func(context.Context, pgsession.ID, pgsession.Data, time.Duration) error{
					"save": f.Save, "put": f.Put,
				} {
					err := write(t.Context(), id, pgsession.Data{UserID: "ann", Lifetime: c.lifetime, Values: 1}, ttl)
					if c.want == "InvalidTTL" {
						require.ErrorIs(t, err, pgsession.ErrInvalidTTL, name)
						require.Equal(t, before, f.MustLoad(t, id), name)
						continue
					}
					require.NoError(t, err, name)
					require.Zero(t, f.MustLoad(t, id).EndsAt, "%s: it counts where a log-in begins", name)
				}
			})
		}
	}
}

// logIns returns what begins a log-in, given a guest's session, and loads the session that it made.
func logIns() map[string]func(ctx context.Context, f *subject, guests pgsession.ID, data pgsession.Data, ttl time.Duration) (*pgsession.Session, error) {
	type logIn = func(ctx context.Context, f *subject, guests pgsession.ID, data pgsession.Data, ttl time.Duration) (*pgsession.Session, error)
	blind := func(begin func(ctx context.Context, f *subject, guests, next pgsession.ID, data pgsession.Data, ttl time.Duration) error) logIn {
		return func(ctx context.Context, f *subject, guests pgsession.ID, data pgsession.Data, ttl time.Duration) (*pgsession.Session, error) {
			next := pgsession.NewID()
			if err := begin(ctx, f, guests, next, data, ttl); err != nil {
				return nil, err
			}
			return f.Load(ctx, next)
		}
	}
	return map[string]logIn{
		"create": func(ctx context.Context, f *subject, _ pgsession.ID, data pgsession.Data, ttl time.Duration) (*pgsession.Session, error) {
			session, err := f.Create(ctx, data, ttl)
			return session, f.eitherSessionOrError(ctx, session, err)
		},
		"create-as": func(ctx context.Context, f *subject, _ pgsession.ID, data pgsession.Data, ttl time.Duration) (*pgsession.Session, error) {
			session, err := f.CreateAs(ctx, pgsession.DeriveID("secret"), data, ttl)
			return session, f.eitherSessionOrError(ctx, session, err)
		},
		"renew": func(ctx context.Context, f *subject, guests pgsession.ID, data pgsession.Data, ttl time.Duration) (*pgsession.Session, error) {
			session, err := f.Renew(ctx, test.Unloaded(guests), ttl, func(*pgsession.Session) (pgsession.Data, error) { return data, nil })
			return session, f.eitherSessionOrError(ctx, session, err)
		},
		"put": blind(func(ctx context.Context, f *subject, _, next pgsession.ID, data pgsession.Data, ttl time.Duration) error {
			return f.Put(ctx, next, data, ttl)
		}),
		"cycle": blind(func(ctx context.Context, f *subject, guests, next pgsession.ID, data pgsession.Data, ttl time.Duration) error {
			return f.Cycle(ctx, guests, next, data, ttl)
		}),
	}
}
