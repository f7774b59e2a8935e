package pgsession_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
)

// behaviours are what no single operation in a single state shows. Each is a case of TestBehaviour, and
// runs on every kind of store.
var behaviours = []struct {
	name    string
	options []pgsession.Option
	run     func(t *testing.T, f *subject)
}{
	{"clock at the zero time", nil, func(t *testing.T, f *subject) {
		f.clock.Set(time.Time{})
		f.load(t, f.create(t, ann(1), time.Hour))
	}},

	{"Create/returns what a load gives", nil, func(t *testing.T, f *subject) {
		f.clock.Set(epoch.Add(999).In(time.FixedZone("elsewhere", 3600)))
		session, err := f.Create(t.Context(), pgsession.Data{UserID: "ann", Lifetime: 5*time.Hour - 1, Values: []int{1}}, time.Second+1)
		require.NoError(t, f.eitherSessionOrError(t.Context(), session, err))
		require.Equal(t, "ann", session.UserID)
		require.Equal(t, epoch, session.CreatedAt, "in UTC and whole microseconds")
		require.Equal(t, epoch.Add(time.Second+time.Microsecond), session.ExpiresAt)
		require.Equal(t, epoch.Add(5*time.Hour), session.EndsAt)
		require.Equal(t, time.Second+time.Microsecond, session.IdleTimeout)
		require.Equal(t, []int{1}, decode[[]int](t, session))
		require.Equal(t, session.Handle, f.load(t, asParsed(session.ID)).Handle, "its token is the cookie")
	}},
	{"Create/copies", nil, func(t *testing.T, f *subject) {
		given := []byte("abc")
		session, err := f.Create(t.Context(), ann(given), time.Hour)
		require.NoError(t, err)
		given[0] = 'x'
		require.Equal(t, "abc", string(decode[[]byte](t, session)))
		session.Data().Values.([]byte)[0] = 'y'
		require.Equal(t, "abc", string(decode[[]byte](t, session)))
		require.Equal(t, "abc", string(decode[[]byte](t, f.load(t, session.ID))))
	}},
	{"CreateAs/until the clean-up, an id is taken", nil, func(t *testing.T, f *subject) {
		id := pgsession.DeriveID("framework's token")
		createAs := func() error { return second(f.CreateAs(t.Context(), id, ann(1), time.Minute)) }
		require.NoError(t, createAs())
		require.ErrorIs(t, createAs(), pgsession.ErrExists)
		f.clock.Advance(time.Minute)
		require.ErrorIs(t, createAs(), pgsession.ErrExists)
		require.EqualValues(t, 1, f.cleanUp(t))
		require.NoError(t, createAs())
		require.Equal(t, f.clock.Now(), f.load(t, id).CreatedAt)
	}},

	{"Load/until the expiry", nil, func(t *testing.T, f *subject) {
		id := f.create(t, ann(1), time.Hour)
		f.clock.Advance(time.Hour - time.Microsecond)
		require.Equal(t, time.Microsecond, f.load(t, id).Remaining())
		f.clock.Advance(time.Microsecond)
		require.ErrorIs(t, second(f.Load(t.Context(), id)), pgsession.ErrNotFound)
	}},
	{"Load/copies", nil, func(t *testing.T, f *subject) {
		id := f.create(t, ann([]byte("abc")), time.Hour)
		loaded := f.load(t, id)
		decode[[]byte](t, loaded)[0] = 'y'
		loaded.Data().Values.([]byte)[0] = 'z'
		loaded.UserID = "bob"
		require.Equal(t, ann([]byte("abc")), f.load(t, id).Data())

		pointer := &struct{ N int }{1}
		id = f.create(t, ann(pointer), time.Hour)
		pointer.N = 2
		require.JSONEq(t, `{"N":1}`, string(f.load(t, id).Data().Values.(json.RawMessage)))
	}},
	{"Load/values that do not fit", nil, func(t *testing.T, f *subject) {
		_, err := pgsession.Decode[int](f.load(t, f.create(t, ann("text"), time.Hour)))
		require.ErrorIs(t, err, pgsession.ErrDecode)
		_, err = pgsession.Decode[string](f.load(t, f.create(t, ann([]byte(`"text"`)), time.Hour)))
		require.ErrorIs(t, err, pgsession.ErrDecode)
	}},

	{"Data/can be written back unchanged", nil, func(t *testing.T, f *subject) {
		for _, values := range []any{map[string]any{"a": []int{1}, "<": "&é"}, []byte{0, 255}, []byte{}, nil} {
			for _, lifetime := range []time.Duration{0, 5 * time.Hour} {
				id := f.create(t, pgsession.Data{UserID: "ann", Lifetime: lifetime, Values: values}, time.Hour)
				before := f.load(t, id).Data()
				require.NoError(t, f.Save(t.Context(), id, before, time.Hour))
				require.Equal(t, before, f.load(t, id).Data())
				require.NoError(t, f.Put(t.Context(), id, before, time.Hour))
				require.Equal(t, before, f.load(t, id).Data())
				next := pgsession.NewID()
				require.NoError(t, f.Cycle(t.Context(), id, next, before, time.Hour))
				require.Equal(t, before, f.load(t, next).Data())
				renewed, err := f.Renew(t.Context(), at(next), time.Hour, func(session *pgsession.Session) (pgsession.Data, error) {
					require.Equal(t, before, session.Data())
					return session.Data(), nil
				})
				require.NoError(t, f.eitherSessionOrError(t.Context(), renewed, err))
				require.Equal(t, before, f.load(t, renewed.ID).Data())
				copied := f.create(t, before, time.Hour)
				require.Equal(t, before, f.load(t, copied).Data())
			}
		}
	}},

	{"Lifetime/bounds the expiry of a new session", nil, func(t *testing.T, f *subject) {
		endsAt := epoch.Add(time.Hour)
		for name, begin := range logIns() {
			for ttl, expires := range map[time.Duration]time.Duration{
				time.Minute: time.Minute, time.Hour: time.Hour, 10 * time.Hour: time.Hour,
			} {
				f.clock.Set(epoch)
				if name == "create-as" {
					_, err := f.DeleteAll(t.Context())
					require.NoError(t, err)
					f.clock.Set(epoch.Add(1000 * time.Hour))
					_, err = f.CleanupExpired(t.Context())
					require.NoError(t, err)
					f.clock.Set(epoch)
				}
				guests := f.create(t, pgsession.Data{Lifetime: time.Second}, time.Hour)
				session, err := begin(t.Context(), f, guests, pgsession.Data{UserID: "ann", Lifetime: time.Hour - 999}, ttl)
				require.NoError(t, err, name)
				require.Equal(t, endsAt, session.EndsAt, name)
				require.Equal(t, epoch.Add(expires), session.ExpiresAt, name)
				require.Equal(t, ttl, session.IdleTimeout, name)
				f.clock.Set(endsAt)
				require.ErrorIs(t, second(f.Load(t.Context(), session.ID)), pgsession.ErrNotFound, name)
				require.Equal(t, "expired", f.stateOf(t, session.ID), name)
			}
		}
	}},
	{"Lifetime/stays", nil, func(t *testing.T, f *subject) {
		const ttl = 10 * time.Hour
		for _, lifetime := range []time.Duration{0, 5 * time.Hour} {
			for _, other := range []time.Duration{0, 3 * time.Hour, 50 * time.Hour} {
				f.clock.Set(epoch)
				id := f.create(t, pgsession.Data{UserID: "ann", Lifetime: lifetime, Values: 0}, time.Hour)
				endsAt := f.load(t, id).EndsAt
				data := pgsession.Data{UserID: "ann", Lifetime: other, Values: 1}
				for name, write := range map[string]func() error{
					"touch":  func() error { return second(f.Touch(t.Context(), at(id), ttl)) },
					"update": func() error { return second(f.Update(t.Context(), at(id), ttl, increment)) },
					"save":   func() error { return f.Save(t.Context(), id, data, ttl) },
					"put":    func() error { return f.Put(t.Context(), id, data, ttl) },
					"cycle": func() error {
						old := id
						id = pgsession.NewID()
						return f.Cycle(t.Context(), old, id, ann(1), ttl)
					},
					"renew": func() error {
						session, err := f.Renew(t.Context(), at(id), ttl, login(ann(1)))
						if err == nil {
							id = session.ID
						}
						return err
					},
				} {
					f.clock.Advance(time.Minute)
					require.NoError(t, write(), name)
					session := f.load(t, id)
					require.Equal(t, epoch, session.CreatedAt, name)
					require.Equal(t, endsAt, session.EndsAt, name)
					if endsAt.IsZero() {
						require.Equal(t, ttl, session.Remaining(), name)
					} else {
						require.Equal(t, endsAt, session.ExpiresAt, name)
					}
					require.NoError(t, f.Save(t.Context(), id, ann(0), time.Hour), "so that the next one moves the expiry")
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
					f.clock.Set(epoch)
					id := f.create(t, pgsession.Data{UserID: userID, Lifetime: c.before}, 2*time.Hour)
					f.clock.Advance(time.Hour)
					session, err := logIns()[move](t.Context(), f, id, pgsession.Data{UserID: userID, Lifetime: c.lifetime}, 20*time.Hour)
					require.NoError(t, err, name)
					require.Equal(t, epoch, session.CreatedAt, name)
					if c.want == 0 {
						require.Zero(t, session.EndsAt, name)
						continue
					}
					require.Equal(t, epoch.Add(c.want), session.EndsAt, "%s: it counts from the Renew", name)
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
					f.clock.Set(epoch)
					first := pgsession.Data{UserID: c.before, Lifetime: 3 * time.Hour}
					old := f.create(t, first, time.Hour)
					f.clock.Advance(time.Minute)
					session, err := logIns()[move](t.Context(), f, old, pgsession.Data{UserID: c.after, Lifetime: lifetime, Values: 2}, 20*time.Hour)
					require.NoError(t, err, name)
					require.Equal(t, c.after, session.UserID, name)
					require.Equal(t, 2, decode[int](t, session), name)
					require.Equal(t, "ended", f.stateOf(t, old), name)
					if !c.anew {
						require.Equal(t, epoch, session.CreatedAt, name)
						require.Equal(t, epoch.Add(3*time.Hour), session.EndsAt, name)
						continue
					}
					require.Equal(t, f.clock.Now(), session.CreatedAt, name)
					if lifetime == 0 {
						require.Zero(t, session.EndsAt, name)
						require.Equal(t, 20*time.Hour, session.Remaining(), name)
					} else {
						require.Equal(t, f.clock.Now().Add(lifetime), session.EndsAt, name)
						require.Equal(t, session.EndsAt, session.ExpiresAt, name)
					}
				}
			}
		}
	}},

	{"absolute lifetime", []pgsession.Option{pgsession.WithAbsoluteLifetime(time.Hour)}, func(t *testing.T, f *subject) {
		id := f.create(t, ann(1), 10*time.Hour)
		require.Equal(t, time.Hour, f.load(t, id).Remaining())
		require.Equal(t, epoch.Add(time.Hour), f.load(t, id).EndsAt)
		f.clock.Advance(30 * time.Minute)
		require.NoError(t, second(f.Touch(t.Context(), at(id), 20*time.Hour)))
		require.NoError(t, f.Save(t.Context(), id, ann(2), 20*time.Hour))
		next := pgsession.NewID()
		require.NoError(t, f.Cycle(t.Context(), id, next, ann(3), 20*time.Hour))
		require.Equal(t, epoch.Add(time.Hour), f.load(t, next).ExpiresAt, "whatever was done meanwhile")
		require.NoError(t, second(f.Update(t.Context(), at(next), time.Minute, increment)))
		require.Equal(t, time.Minute, f.load(t, next).Remaining(), "the idle expiry, if it is earlier")

		bob := pgsession.NewID()
		require.NoError(t, f.Cycle(t.Context(), next, bob, pgsession.Data{UserID: "bob"}, 20*time.Hour))
		f.clock.Advance(time.Hour - time.Microsecond)
		require.Equal(t, time.Microsecond, f.load(t, bob).Remaining(), "another log-in")
		f.clock.Advance(time.Microsecond)
		found, err := f.FindByUser(t.Context(), "bob", 0)
		require.NoError(t, err)
		require.Empty(t, found)
		require.Equal(t, "expired", f.stateOf(t, bob))
	}},
	{"absolute lifetime/not in whole microseconds", []pgsession.Option{pgsession.WithAbsoluteLifetime(time.Hour + 1)}, func(t *testing.T, f *subject) {
		id := f.create(t, ann(1), 10*time.Hour)
		require.Equal(t, time.Hour+time.Microsecond, f.load(t, id).Remaining())
		f.clock.Advance(time.Hour)
		require.Equal(t, time.Microsecond, f.load(t, id).Remaining())
		f.clock.Advance(time.Microsecond)
		require.Equal(t, "expired", f.stateOf(t, id))
	}},
	{"absolute lifetime/Data.Lifetime has the last word", []pgsession.Option{pgsession.WithAbsoluteLifetime(2 * time.Hour)}, func(t *testing.T, f *subject) {
		for name, begin := range logIns() {
			if name == "create-as" {
				continue // its id can be taken only once
			}
			for _, lifetime := range []time.Duration{time.Hour, 50 * time.Hour} {
				session, err := begin(t.Context(), f, f.create(t, pgsession.Data{}, time.Hour), pgsession.Data{UserID: "ann", Lifetime: lifetime}, 100*time.Hour)
				require.NoError(t, err, name)
				require.Equal(t, epoch.Add(lifetime), session.EndsAt, name)
				require.Equal(t, epoch.Add(lifetime), session.ExpiresAt, name)
			}
			session, err := begin(t.Context(), f, f.create(t, pgsession.Data{}, time.Hour), ann(1), 100*time.Hour)
			require.NoError(t, err, name)
			require.Equal(t, epoch.Add(2*time.Hour), session.EndsAt, name)
		}
	}},
	{"absolute lifetime/is decided at the log-in", []pgsession.Option{pgsession.WithAbsoluteLifetime(2 * time.Hour)}, func(t *testing.T, f *subject) {
		if f.beside == nil {
			return // a table in memory has one store
		}
		ctx, endsAt := t.Context(), epoch.Add(2*time.Hour)
		for name, lifetime := range map[string]time.Duration{"shorter": time.Minute, "longer": 100 * time.Hour, "none": 0} {
			f.clock.Set(epoch)
			other := f.beside(pgsession.WithAbsoluteLifetime(lifetime))
			id := f.create(t, ann(1), 10*time.Hour)
			f.clock.Advance(90 * time.Minute)
			requireEnd := func(session *pgsession.Session, err error) {
				t.Helper()
				require.NoError(t, err, name)
				require.Equal(t, epoch, session.CreatedAt, name)
				require.Equal(t, endsAt, session.EndsAt, name)
				require.Equal(t, endsAt, session.ExpiresAt, name)
			}
			requireEnd(other.Load(ctx, id))
			require.NoError(t, other.Save(ctx, id, ann(2), time.Minute))
			require.NoError(t, second(other.Touch(ctx, at(id), 2*time.Hour)))
			requireEnd(other.Load(ctx, id))
			require.NoError(t, other.Save(ctx, id, ann(2), 10*time.Hour))
			require.NoError(t, other.Put(ctx, id, ann(3), 10*time.Hour))
			requireEnd(other.Update(ctx, at(id), 10*time.Hour, increment))
			requireEnd(f.Load(ctx, id))
			next := pgsession.NewID()
			require.NoError(t, other.Cycle(ctx, id, next, ann(4), 10*time.Hour))
			requireEnd(f.Load(ctx, next))
			renewed, err := other.Renew(ctx, at(next), 10*time.Hour, login(ann(5)))
			requireEnd(renewed, err)

			bobs, err := other.Renew(ctx, at(f.create(t, ann(1), time.Hour)), 10*time.Hour, login(pgsession.Data{UserID: "bob"}))
			require.NoError(t, err)
			if lifetime == 0 {
				require.True(t, bobs.EndsAt.IsZero())
			} else {
				require.Equal(t, f.clock.Now().Add(lifetime), bobs.EndsAt, "%s: a log-in at the other store", name)
			}
			require.NoError(t, f.RevokeAny(ctx, bobs.Handle))

			f.clock.Set(endsAt)
			for _, s := range []*pgsession.Store{f.Store, other} {
				require.ErrorIs(t, second(s.Load(ctx, renewed.ID)), pgsession.ErrNotFound, name)
				require.ErrorIs(t, second(s.Touch(ctx, at(renewed.ID), time.Hour)), pgsession.ErrNotFound, name)
				require.ErrorIs(t, s.Put(ctx, renewed.ID, ann(1), time.Hour), pgsession.ErrNotFound, name)
				found, err := s.FindByUser(ctx, "ann", 0)
				require.NoError(t, err)
				require.Empty(t, found, name)
			}
		}
	}},

	{"IdleTimeout/is the ttl of the last write that named one", nil, func(t *testing.T, f *subject) {
		ctx, id := t.Context(), f.create(t, ann(1), 1)
		require.Equal(t, time.Microsecond, f.load(t, id).IdleTimeout, "in whole microseconds")
		id = f.create(t, ann(1), time.Hour)
		requireIdle := func(want time.Duration) {
			t.Helper()
			session := f.load(t, id)
			require.Equal(t, want, session.IdleTimeout)
			found, err := f.FindByUser(ctx, "ann", 1)
			require.NoError(t, err)
			require.Len(t, found, 1)
			f.clock.Advance(time.Minute)
		}
		requireIdle(time.Hour)
		require.NoError(t, second(f.Update(ctx, at(id), 0, increment)))
		requireIdle(time.Hour)
		require.NoError(t, second(f.Update(ctx, at(id), 2*time.Hour, increment)))
		requireIdle(2 * time.Hour)
		require.NoError(t, f.Save(ctx, id, ann(1), 3*time.Hour))
		requireIdle(3 * time.Hour)
		require.NoError(t, second(f.Touch(ctx, at(id), 4*time.Hour)))
		requireIdle(4 * time.Hour)
		require.NoError(t, second(f.Touch(ctx, at(id), time.Hour)))
		requireIdle(4 * time.Hour) // that touch wrote nothing
		f.clock.Advance(time.Hour)
		require.NoError(t, second(f.Touch(ctx, at(id), 0)))
		require.Equal(t, 4*time.Hour, f.load(t, id).Remaining())
		requireIdle(4 * time.Hour)
		require.NoError(t, f.Put(ctx, id, ann(1), 30*time.Minute))
		requireIdle(30 * time.Minute)
		renewed, err := f.Renew(ctx, at(id), 0, login(ann(2)))
		require.NoError(t, err)
		id = renewed.ID
		requireIdle(30 * time.Minute)
		renewed, err = f.Renew(ctx, at(id), 2*time.Hour, login(ann(2)))
		require.NoError(t, err)
		id = renewed.ID
		requireIdle(2 * time.Hour)
		next := pgsession.NewID()
		require.NoError(t, f.Cycle(ctx, id, next, ann(1), 5*time.Hour))
		id = next
		requireIdle(5 * time.Hour)
	}},
	{"IdleTimeout/is not cut by the end", nil, func(t *testing.T, f *subject) {
		id := f.create(t, pgsession.Data{UserID: "ann", Lifetime: time.Hour, Values: 1}, 5*time.Hour)
		require.Equal(t, 5*time.Hour, f.load(t, id).IdleTimeout)
		before := f.load(t, id)
		session, err := f.Update(t.Context(), at(id), 6*time.Hour, keep(1))
		require.NoError(t, f.eitherSessionOrError(t.Context(), session, err))
		require.Equal(t, before.ExpiresAt, session.ExpiresAt)
		require.Equal(t, 6*time.Hour, session.IdleTimeout, "it is written although the expiry stays")
		renewed, err := f.Renew(t.Context(), at(id), 0, login(pgsession.Data{UserID: "bob"}))
		require.NoError(t, f.eitherSessionOrError(t.Context(), renewed, err))
		require.Equal(t, 6*time.Hour, renewed.IdleTimeout)
		require.Equal(t, before.ExpiresAt, renewed.ExpiresAt)
		require.NoError(t, second(f.Touch(t.Context(), at(renewed.ID), 0)))
		require.Equal(t, 6*time.Hour, f.load(t, renewed.ID).Remaining(), "without an end there is more to gain")
	}},

	{"Save/keeps when the log-in began", nil, func(t *testing.T, f *subject) {
		id := f.create(t, ann(1), time.Hour)
		f.clock.Advance(time.Minute)
		require.NoError(t, f.Save(t.Context(), id, ann(2), time.Minute))
		session := f.load(t, id)
		require.Equal(t, epoch, session.CreatedAt)
		require.Equal(t, time.Minute, session.Remaining(), "a Save may shorten")
	}},

	{"Update/returns what a load gives", nil, func(t *testing.T, f *subject) {
		id := f.create(t, pgsession.Data{UserID: "ann", Lifetime: 5 * time.Hour, Values: 1}, time.Hour)
		f.clock.Advance(time.Minute)
		before := f.load(t, id)
		session, err := f.Update(t.Context(), at(id), 2*time.Hour, increment)
		require.NoError(t, f.eitherSessionOrError(t.Context(), session, err))
		require.NotEqual(t, version(before), version(session))
		require.Equal(t, 2, decode[int](t, session))
		require.Equal(t, 2*time.Hour, session.Remaining())

		given := []byte("abc")
		session, err = f.Update(t.Context(), at(id), 0, keep(given))
		require.NoError(t, err)
		given[0] = 'x'
		require.Equal(t, "abc", string(decode[[]byte](t, session)), "a copy")
	}},
	{"Update/a ttl of 0 keeps the expiry", nil, func(t *testing.T, f *subject) {
		id := f.create(t, ann(1), time.Hour)
		f.clock.Advance(time.Minute)
		require.NoError(t, second(f.Update(t.Context(), at(id), 0, increment)))
		session := f.load(t, id)
		require.Equal(t, epoch.Add(time.Hour), session.ExpiresAt)
		require.Equal(t, "ann", session.UserID)
		require.Equal(t, 2, decode[int](t, session))
		require.NoError(t, second(f.Update(t.Context(), at(id), time.Minute, increment)))
		require.Equal(t, time.Minute, f.load(t, id).Remaining(), "a ttl may shorten")
	}},
	{"Update/writes nothing if nothing changes", nil, func(t *testing.T, f *subject) {
		for name, values := range map[string]any{
			"number": 1, "nothing": nil, "text": `<"&é` + "\u2028", "bytes": []byte{0, 255}, "no bytes": []byte{},
			"object": map[string]any{"b": 1, "aa": []any{1.5, nil, true, map[string]any{}}, "": "x"},
			"raw":    json.RawMessage(`{ "pgsession:raw" : "AAEC" }`),
		} {
			id := f.create(t, ann(values), time.Hour)
			before, saves := f.load(t, id), f.Stats().Saves
			for how, change := range map[string]func(*pgsession.Session) (any, error){
				"given again": keep(values),
				"as loaded":   func(session *pgsession.Session) (any, error) { return session.Data().Values, nil },
			} {
				for _, ttl := range []time.Duration{0, time.Hour} {
					session, err := f.Update(t.Context(), at(id), ttl, change)
					require.NoError(t, f.eitherSessionOrError(t.Context(), session, err), "%s %s", name, how)
					require.Equal(t, version(before), version(session), "%s %s", name, how)
				}
			}
			require.Equal(t, before, f.load(t, id), name)
			require.Equal(t, saves, f.Stats().Saves, name)

			f.clock.Advance(time.Microsecond)
			session, err := f.Update(t.Context(), at(id), time.Hour, keep(values))
			require.NoError(t, err)
			require.NotEqual(t, version(before), version(session), "%s: the expiry changes", name)
			require.Equal(t, time.Hour, f.load(t, id).Remaining(), name)
		}
		id := f.create(t, ann([]byte(`1`)), time.Hour)
		before := f.load(t, id)
		session, err := f.Update(t.Context(), at(id), 0, keep(1))
		require.NoError(t, f.eitherSessionOrError(t.Context(), session, err))
		require.NotEqual(t, version(before), version(session), "bytes are not JSON")
	}},
	{"Update/returns the error of change", nil, func(t *testing.T, f *subject) {
		id := f.create(t, ann(1), time.Hour)
		before, mine := f.load(t, id), errors.New("mine")
		session, err := f.Update(t.Context(), at(id), 0, func(*pgsession.Session) (any, error) { return 2, mine })
		require.True(t, err == mine)
		require.Nil(t, session)
		require.Equal(t, before, f.load(t, id))
	}},
	{"Update/the user stays", nil, func(t *testing.T, f *subject) {
		id := f.create(t, ann(1), time.Hour)
		session, err := f.Update(t.Context(), at(id), 0, func(session *pgsession.Session) (any, error) {
			session.UserID = "bob"
			return 2, nil
		})
		require.NoError(t, f.eitherSessionOrError(t.Context(), session, err))
		require.Equal(t, "ann", session.UserID)
	}},
	{"Update/begins anew after another write", nil, func(t *testing.T, f *subject) {
		id, runs := f.create(t, ann(1), time.Hour), 0
		session, err := f.Update(t.Context(), at(id), 0, func(session *pgsession.Session) (any, error) {
			if runs++; runs == 1 {
				require.NoError(t, f.Save(t.Context(), id, ann(10), 2*time.Hour))
			}
			return increment(session)
		})
		require.NoError(t, f.eitherSessionOrError(t.Context(), session, err))
		require.Equal(t, 2, runs)
		require.Equal(t, 11, decode[int](t, session))
		require.Equal(t, 2*time.Hour, session.Remaining(), "the expiry that it saw last")
		require.EqualValues(t, 1, f.Stats().Conflicts)
	}},
	{"Update/begins anew after a touch", nil, func(t *testing.T, f *subject) {
		id, runs := f.create(t, ann(1), time.Hour), 0
		require.NoError(t, second(f.Update(t.Context(), at(id), 0, func(session *pgsession.Session) (any, error) {
			if runs++; runs == 1 {
				require.NoError(t, second(f.Touch(t.Context(), at(id), 2*time.Hour)))
			}
			return increment(session)
		})))
		require.Equal(t, 2, runs)
		require.Equal(t, 2*time.Hour, f.load(t, id).Remaining())
	}},
	{"Update/gives up", []pgsession.Option{pgsession.WithTimeout(0)}, func(t *testing.T, f *subject) {
		id, runs := f.create(t, ann(0), time.Hour), 0
		err := second(f.Update(t.Context(), at(id), 0, func(session *pgsession.Session) (any, error) {
			runs++
			require.NoError(t, f.Save(t.Context(), id, ann(-runs), time.Hour))
			return increment(session)
		}))
		require.ErrorIs(t, err, pgsession.ErrConflict)
		require.Equal(t, -runs, decode[int](t, f.load(t, id)))
	}},
	{"Update/does not bring back", nil, func(t *testing.T, f *subject) {
		for name, end := range waysToEnd(f) {
			id := f.create(t, ann(1), time.Hour)
			session, err := f.Update(t.Context(), at(id), time.Hour, func(session *pgsession.Session) (any, error) {
				require.NoError(t, end(t, id), name)
				return increment(session)
			})
			require.ErrorIs(t, err, pgsession.ErrRevoked, name)
			require.Nil(t, session)
			require.Equal(t, "ended", f.stateOf(t, id), name)
		}
	}},
	{"Update/of an id that begins anew meanwhile", nil, func(t *testing.T, f *subject) {
		id := pgsession.DeriveID("framework's token")
		require.NoError(t, f.Put(t.Context(), id, ann(1), time.Minute))
		runs := 0
		require.NoError(t, second(f.Update(t.Context(), at(id), 0, func(session *pgsession.Session) (any, error) {
			if runs++; runs == 1 {
				f.clock.Advance(time.Hour)
				require.EqualValues(t, 1, f.cleanUp(t))
				require.NoError(t, f.Put(t.Context(), id, pgsession.Data{UserID: "bob", Values: 20}, time.Hour))
			}
			return increment(session)
		})))
		session := f.load(t, id)
		require.Equal(t, "bob", session.UserID)
		require.Equal(t, 21, decode[int](t, session))
	}},
	{"Update/of what expires meanwhile", nil, func(t *testing.T, f *subject) {
		id, runs := f.create(t, ann(1), time.Hour), 0
		err := second(f.Update(t.Context(), at(id), time.Hour, func(session *pgsession.Session) (any, error) {
			runs++
			f.clock.Advance(time.Hour)
			return increment(session)
		}))
		require.ErrorIs(t, err, pgsession.ErrNotFound)
		require.Equal(t, 1, runs)
		require.Equal(t, "expired", f.stateOf(t, id))
	}},
	{"Update/the ttl begins with the write", nil, func(t *testing.T, f *subject) {
		id := f.create(t, ann(1), time.Hour)
		session, err := f.Update(t.Context(), at(id), time.Hour, func(session *pgsession.Session) (any, error) {
			f.clock.Advance(time.Minute)
			return increment(session)
		})
		require.NoError(t, f.eitherSessionOrError(t.Context(), session, err))
		require.Equal(t, time.Hour, session.Remaining())
	}},

	{"Touch/never shortens", nil, func(t *testing.T, f *subject) {
		id := f.create(t, ann(1), time.Hour)
		before := f.load(t, id)
		require.NoError(t, second(f.Touch(t.Context(), at(id), time.Minute)))
		require.Equal(t, before, f.load(t, id))
		f.clock.Advance(-time.Minute)
		before = f.load(t, id)
		require.NoError(t, second(f.Touch(t.Context(), at(id), 0)))
		require.Equal(t, before, f.load(t, id), "nor after the clock was set back")
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
				f.clock.Set(epoch)
				id := f.create(t, ann(1), c.ttl)
				before := f.load(t, id)
				f.clock.Advance(c.gain)
				require.NoError(t, second(f.Touch(t.Context(), at(id), named)), name)
				after := f.load(t, id)
				require.Equal(t, c.moves, after.ExpiresAt != before.ExpiresAt, name)
				require.Equal(t, c.moves, version(after) != version(before), name)
				if c.moves {
					require.Equal(t, c.ttl, after.Remaining(), name)
				}
				require.Equal(t, before.CreatedAt, after.CreatedAt, name)
				require.Equal(t, c.ttl, after.IdleTimeout, name)
			}
		}
	}},
	{"Touch/of the shortest ttl", nil, func(t *testing.T, f *subject) {
		id := f.create(t, ann(1), time.Microsecond)
		before := f.load(t, id)
		require.NoError(t, second(f.Touch(t.Context(), at(id), 1)))
		require.Equal(t, before, f.load(t, id))
		require.NoError(t, second(f.Touch(t.Context(), at(id), 0)))
		require.Equal(t, before, f.load(t, id))
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
				f.clock.Set(epoch)
				endsAt := epoch.Add(time.Hour + c.end)
				id := f.create(t, pgsession.Data{UserID: "ann", Lifetime: time.Hour + c.end}, time.Hour)
				before := f.load(t, id)
				f.clock.Advance(30 * time.Minute)
				require.NoError(t, second(f.Touch(t.Context(), at(id), ttl)), name)
				after := f.load(t, id)
				require.Equal(t, c.moves, version(after) != version(before), name)
				if c.moves {
					require.Equal(t, endsAt, after.ExpiresAt, name)
				} else {
					require.Equal(t, before.ExpiresAt, after.ExpiresAt, name)
				}
				f.clock.Advance(29 * time.Minute)
				require.NoError(t, second(f.Touch(t.Context(), at(id), ttl)), name)
				require.Equal(t, version(after), version(f.load(t, id)), "%s: there is no more", name)
			}
		}
	}},

	{"Renew/returns what a load gives", nil, func(t *testing.T, f *subject) {
		old := f.create(t, pgsession.Data{Values: 1}, time.Hour)
		f.clock.Advance(time.Minute)
		given := []byte("abc")
		session, err := f.Renew(t.Context(), at(asParsed(old)), 2*time.Hour, func(session *pgsession.Session) (pgsession.Data, error) {
			require.Empty(t, session.UserID)
			require.Equal(t, old.Handle(), session.Handle)
			require.Equal(t, 1, decode[int](t, session))
			return pgsession.Data{UserID: "ann", Lifetime: 9 * time.Hour, Values: given}, nil
		})
		require.NoError(t, f.eitherSessionOrError(t.Context(), session, err))
		given[0] = 'x'
		require.Equal(t, "abc", string(decode[[]byte](t, session)), "a copy")
		require.Equal(t, "ann", session.UserID)
		require.Equal(t, 2*time.Hour, session.Remaining())
		require.Equal(t, f.clock.Now(), session.CreatedAt)
		require.NotEqual(t, old.Handle(), session.Handle)
		require.Equal(t, session.Handle, f.load(t, asParsed(session.ID)).Handle, "its token is the cookie")
		require.Equal(t, "ended", f.stateOf(t, old))
		require.NoError(t, f.Put(t.Context(), session.ID, ann(2), time.Hour), "its id may begin sessions, since it was made here")
	}},
	{"Renew/a ttl of 0 keeps the expiry", nil, func(t *testing.T, f *subject) {
		id := f.create(t, ann(1), time.Hour)
		for _, userID := range []string{"ann", "bob", ""} {
			f.clock.Advance(time.Minute)
			session, err := f.Renew(t.Context(), at(id), 0, login(pgsession.Data{UserID: userID}))
			require.NoError(t, f.eitherSessionOrError(t.Context(), session, err))
			require.Equal(t, epoch.Add(time.Hour), session.ExpiresAt)
			require.Equal(t, time.Hour, session.IdleTimeout)
			id = session.ID
		}
		session, err := f.Renew(t.Context(), at(id), 0, login(pgsession.Data{UserID: "ann", Lifetime: 27 * time.Minute}))
		require.NoError(t, f.eitherSessionOrError(t.Context(), session, err))
		require.Equal(t, epoch.Add(30*time.Minute), session.ExpiresAt, "but not past the end")
		session, err = f.Renew(t.Context(), at(session.ID), time.Minute, login(ann(1)))
		require.NoError(t, f.eitherSessionOrError(t.Context(), session, err))
		require.Equal(t, time.Minute, session.Remaining(), "a ttl may shorten")
	}},
	{"Renew/returns the error of change", nil, func(t *testing.T, f *subject) {
		id := f.create(t, ann(1), time.Hour)
		before, mine := f.load(t, id), errors.New("mine")
		session, err := f.Renew(t.Context(), at(id), time.Hour, func(*pgsession.Session) (pgsession.Data, error) { return ann(2), mine })
		require.True(t, err == mine)
		require.Nil(t, session)
		require.Equal(t, before, f.load(t, id))
		require.Equal(t, "1", errorName(sessionOperations()["all"](t.Context(), f, id)))
	}},
	{"Renew/who the user was is what was stored", nil, func(t *testing.T, f *subject) {
		id := f.create(t, ann(1), time.Hour)
		f.clock.Advance(time.Minute)
		session, err := f.Renew(t.Context(), at(id), 0, func(session *pgsession.Session) (pgsession.Data, error) {
			session.UserID = "bob"
			return pgsession.Data{UserID: "bob"}, nil
		})
		require.NoError(t, err)
		require.Equal(t, f.clock.Now(), session.CreatedAt, "bob logs in")
	}},
	{"Renew/runs change again after another write", nil, func(t *testing.T, f *subject) {
		for name, write := range map[string]func(id pgsession.ID) error{
			"save":   func(id pgsession.ID) error { return f.Save(t.Context(), id, ann(10), 2*time.Hour) },
			"touch":  func(id pgsession.ID) error { return second(f.Touch(t.Context(), at(id), 2*time.Hour)) },
			"update": func(id pgsession.ID) error { return second(f.Update(t.Context(), at(id), 2*time.Hour, keep(10))) },
			"put":    func(id pgsession.ID) error { return f.Put(t.Context(), id, ann(10), 2*time.Hour) },
		} {
			id, runs, conflicts := f.create(t, ann(10), time.Hour), 0, f.Stats().Conflicts
			session, err := f.Renew(t.Context(), at(id), 0, func(session *pgsession.Session) (pgsession.Data, error) {
				if runs++; runs == 1 {
					require.NoError(t, write(id), name)
				}
				return ann(decode[int](t, session) + 1), nil
			})
			require.NoError(t, f.eitherSessionOrError(t.Context(), session, err), name)
			require.Equal(t, 2, runs, name)
			require.Equal(t, 11, decode[int](t, session), name)
			require.Equal(t, 2*time.Hour, session.Remaining(), "%s: the expiry that it saw last", name)
			require.Equal(t, conflicts+1, f.Stats().Conflicts, name)
			require.Equal(t, "ended", f.stateOf(t, id), name)
		}
	}},
	{"Renew/gives up", []pgsession.Option{pgsession.WithTimeout(0)}, func(t *testing.T, f *subject) {
		id, runs := f.create(t, ann(0), time.Hour), 0
		err := second(f.Renew(t.Context(), at(id), 0, func(*pgsession.Session) (pgsession.Data, error) {
			runs++
			return ann(1), f.Save(t.Context(), id, ann(-runs), time.Hour)
		}))
		require.ErrorIs(t, err, pgsession.ErrConflict)
		require.Equal(t, -runs, decode[int](t, f.load(t, id)))
		require.Equal(t, "1", errorName(sessionOperations()["all"](t.Context(), f, id)))
	}},
	{"Renew/does not bring back", nil, func(t *testing.T, f *subject) {
		for name, end := range waysToEnd(f) {
			id := f.create(t, ann(1), time.Hour)
			session, err := f.Renew(t.Context(), at(id), time.Hour, func(*pgsession.Session) (pgsession.Data, error) {
				return pgsession.Data{UserID: "carol"}, end(t, id)
			})
			require.ErrorIs(t, err, pgsession.ErrRevoked, name)
			require.Nil(t, session)
			require.Equal(t, "ended", f.stateOf(t, id), name)
			found, err := f.FindByUser(t.Context(), "carol", 0)
			require.NoError(t, err)
			require.Empty(t, found, name)
		}
	}},
	{"Renew/of what expires meanwhile", nil, func(t *testing.T, f *subject) {
		id := f.create(t, ann(1), time.Hour)
		err := second(f.Renew(t.Context(), at(id), time.Hour, func(session *pgsession.Session) (pgsession.Data, error) {
			f.clock.Advance(time.Hour)
			return ann(2), nil
		}))
		require.ErrorIs(t, err, pgsession.ErrNotFound)
		require.Equal(t, "expired", f.stateOf(t, id))
	}},
	{"Renew/the ttl begins with the write", nil, func(t *testing.T, f *subject) {
		id := f.create(t, ann(1), time.Hour)
		session, err := f.Renew(t.Context(), at(id), time.Hour, func(session *pgsession.Session) (pgsession.Data, error) {
			f.clock.Advance(time.Minute)
			return pgsession.Data{UserID: "bob"}, nil
		})
		require.NoError(t, f.eitherSessionOrError(t.Context(), session, err))
		require.Equal(t, time.Hour, session.Remaining())
		require.Equal(t, epoch.Add(time.Minute), session.CreatedAt)
	}},

	{"Put/never begins anew over a session that is over", []pgsession.Option{pgsession.WithAbsoluteLifetime(2 * time.Hour)}, func(t *testing.T, f *subject) {
		for name, ttl := range map[string]time.Duration{"expired": time.Hour, "too old": 10 * time.Hour} {
			id := f.create(t, ann(1), ttl)
			f.clock.Advance(2 * time.Hour)
			for _, userID := range []string{"ann", "bob", ""} {
				data := pgsession.Data{UserID: userID, Lifetime: time.Hour}
				err := f.Put(t.Context(), id, data, time.Hour)
				require.Equal(t, "NotFound", errorName(err), "%s, %q", name, userID)
				require.Equal(t, "expired", f.stateOf(t, id), name)
			}
			require.EqualValues(t, 1, f.cleanUp(t))
			require.NoError(t, f.Put(t.Context(), id, pgsession.Data{UserID: "bob"}, time.Hour), "%s: after the clean-up", name)
			session := f.load(t, id)
			require.Equal(t, "bob", session.UserID, name)
			require.Equal(t, f.clock.Now(), session.CreatedAt, name)
			f.clock.Advance(time.Hour)
			require.EqualValues(t, 1, f.cleanUp(t))
		}
	}},
	{"Put/replaces a live session", nil, func(t *testing.T, f *subject) {
		id := pgsession.NewID()
		require.NoError(t, f.Put(t.Context(), id, ann(1), time.Hour))
		f.clock.Advance(time.Minute)
		require.NoError(t, f.Put(t.Context(), id, ann(2), time.Minute))
		session := f.load(t, id)
		require.Equal(t, epoch, session.CreatedAt)
		require.Equal(t, time.Minute, session.Remaining())
		require.Equal(t, 2, decode[int](t, session))
	}},

	{"Delete/leaves a tombstone", nil, func(t *testing.T, f *subject) {
		for name, c := range map[string]struct{ ttl, age, stands time.Duration }{
			"until the expiry":            {3 * time.Hour, time.Hour, 2 * time.Hour},
			"for an hour":                 {10 * time.Minute, 0, time.Hour},
			"for an hour, though expired": {10 * time.Minute, time.Hour, time.Hour},
		} {
			id := f.create(t, ann(1), c.ttl)
			f.clock.Advance(c.age)
			require.NoError(t, f.Delete(t.Context(), id), name)
			f.clock.Advance(c.stands - time.Microsecond)
			require.NoError(t, f.Delete(t.Context(), id), "%s: a second Delete does not prolong it", name)
			require.EqualValues(t, 0, f.cleanUp(t))
			require.ErrorIs(t, f.Put(t.Context(), id, ann(2), time.Hour), pgsession.ErrRevoked, name)
			f.clock.Advance(time.Microsecond)
			require.ErrorIs(t, f.Put(t.Context(), id, ann(2), time.Hour), pgsession.ErrRevoked, "%s: until it is removed", name)
			require.ErrorIs(t, second(f.Load(t.Context(), id)), pgsession.ErrRevoked, name)
			require.EqualValues(t, 1, f.cleanUp(t))
			require.Equal(t, "NotFound", errorName(second(f.Load(t.Context(), id))), name)
			require.NoError(t, f.Put(t.Context(), id, ann(2), time.Hour), name)
			require.NoError(t, f.Delete(t.Context(), id), name)
			f.clock.Advance(time.Hour)
			require.EqualValues(t, 1, f.cleanUp(t))
		}
	}},

	{"FindByUser", nil, func(t *testing.T, f *subject) {
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
				require.True(t, session.ID.IsZero(), "a list opens nothing")
			}
			require.Equal(t, want, values, "limit %d: the newest first", limit)
			loaded := f.load(t, ids[2])
			loaded.ID = pgsession.ID{}
			require.Equal(t, loaded, found[0])
		}
		found, err := f.FindByUser(t.Context(), "", 0)
		require.NoError(t, err)
		require.Empty(t, found)
	}},
	{"FindByUser/a hundred at most", nil, func(t *testing.T, f *subject) {
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
	{"DeleteByUser/except", nil, func(t *testing.T, f *subject) {
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
	{"All/is in pages", nil, func(t *testing.T, f *subject) {
		const many = 503
		want := map[pgsession.Handle]bool{}
		for range many {
			want[f.create(t, ann(1), time.Hour).Handle()] = true
		}
		got := map[pgsession.Handle]bool{}
		for session, err := range f.All(t.Context()) {
			require.NoError(t, err)
			require.True(t, session.ID.IsZero(), "a list opens nothing")
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

	{"KeyValue", nil, func(t *testing.T, f *subject) {
		ctx, kv := t.Context(), f.KeyValue()
		get := func(want string) {
			t.Helper()
			value, err := kv.Get(ctx, "state")
			require.NoError(t, err)
			require.Equal(t, want, string(value))
		}
		requireNone := func() {
			t.Helper()
			require.Equal(t, "NotFound", errorName(second(kv.Get(ctx, "state"))))
			require.Equal(t, "NotFound", errorName(second(kv.Take(ctx, "state"))))
		}
		requireNone()
		given := []byte("abc")
		require.NoError(t, kv.Put(ctx, "state", given, time.Hour))
		given[0] = 'x'
		get("abc")
		require.NoError(t, kv.Put(ctx, "state", nil, time.Minute))
		get("")

		require.ErrorIs(t, second(f.Load(ctx, pgsession.DeriveID("state"))), pgsession.ErrNotFound, "an entry is no session")
		for range f.All(ctx) {
			require.FailNow(t, "All lists an entry")
		}

		f.clock.Advance(time.Minute)
		requireNone()
		removed, err := kv.PruneExpired(ctx)
		require.NoError(t, err)
		require.EqualValues(t, 1, removed)

		require.NoError(t, kv.Put(ctx, "state", []byte("a"), time.Hour))
		require.NoError(t, kv.Delete(ctx, "state"))
		require.NoError(t, kv.Delete(ctx, "state"))
		f.clock.Advance(3 * time.Hour)
		require.EqualValues(t, 0, f.cleanUp(t))
		requireNone()
		require.NoError(t, kv.Put(ctx, "state", []byte("b"), time.Minute))
		f.clock.Advance(time.Hour)
		require.NoError(t, kv.Put(ctx, "state", []byte("b"), time.Hour), "over an expired entry")
		get("b")
		ended, err := f.DeleteAll(ctx)
		require.NoError(t, err)
		require.Zero(t, ended)
		get("b")
		require.NoError(t, kv.Put(ctx, "state", []byte("c"), time.Hour), "the last Put wins")
		get("c")
	}},
	{"KeyValue/bad input", []pgsession.Option{pgsession.WithMaxSize(3)}, func(t *testing.T, f *subject) {
		ctx, kv := t.Context(), f.KeyValue()
		require.ErrorIs(t, kv.Put(ctx, "", nil, time.Hour), pgsession.ErrNotFound)
		require.ErrorIs(t, second(kv.Get(ctx, "")), pgsession.ErrNotFound)
		require.ErrorIs(t, second(kv.Take(ctx, "")), pgsession.ErrNotFound)
		require.NoError(t, kv.Delete(ctx, ""))
		require.ErrorIs(t, kv.Put(ctx, "key", []byte("long"), time.Hour), pgsession.ErrTooLarge)
		require.ErrorIs(t, kv.Put(ctx, "key", []byte("long"), 0), pgsession.ErrInvalidTTL)
		require.ErrorIs(t, second(kv.Get(ctx, "key")), pgsession.ErrNotFound)
		require.NoError(t, kv.Put(ctx, "a\x00\xff", []byte("abc"), time.Hour))
		value, err := kv.Get(ctx, "a\x00\xff")
		require.NoError(t, err)
		require.Equal(t, "abc", string(value))
	}},
	{"KeyValue/is not cut by the absolute lifetime", []pgsession.Option{pgsession.WithAbsoluteLifetime(time.Hour)}, func(t *testing.T, f *subject) {
		require.NoError(t, f.KeyValue().Put(t.Context(), "key", []byte("a"), 3*time.Hour))
		f.clock.Advance(3*time.Hour - time.Microsecond)
		require.NoError(t, second(f.KeyValue().Get(t.Context(), "key")))
		f.clock.Advance(time.Microsecond)
		require.ErrorIs(t, second(f.KeyValue().Get(t.Context(), "key")), pgsession.ErrNotFound)
	}},
	{"KeyValue/Take once", nil, func(t *testing.T, f *subject) {
		ctx, kv := t.Context(), f.KeyValue()
		require.NoError(t, kv.Put(ctx, "code", []byte("abc"), time.Hour))
		require.NoError(t, kv.Put(ctx, "other", []byte("other"), time.Hour))
		value, err := kv.Take(ctx, "code")
		require.NoError(t, err)
		require.Equal(t, "abc", string(value))
		require.Equal(t, "NotFound", errorName(second(kv.Take(ctx, "code"))))
		require.Equal(t, "NotFound", errorName(second(kv.Get(ctx, "code"))))
		require.NoError(t, second(kv.Get(ctx, "other")))

		for range 10 {
			require.NoError(t, kv.Put(ctx, "code", []byte("abc"), time.Hour))
			const callers = 8
			var (
				group sync.WaitGroup
				errs  [callers]error
			)
			for i := range callers {
				group.Go(func() { errs[i] = second(kv.Take(ctx, "code")) })
			}
			group.Wait()
			taken := 0
			for _, err := range errs {
				if err == nil {
					taken++
				} else {
					require.Equal(t, "NotFound", errorName(err))
				}
			}
			require.Equal(t, 1, taken)
		}

		require.NoError(t, kv.Put(ctx, "code", []byte("abc"), time.Minute))
		f.clock.Advance(time.Minute)
		require.ErrorIs(t, second(kv.Take(ctx, "code")), pgsession.ErrNotFound, "once it has expired")
	}},

	{"concurrent updates lose nothing", []pgsession.Option{pgsession.WithTimeout(0)}, func(t *testing.T, f *subject) {
		id := f.create(t, ann(0), time.Hour)
		const writers, times = 4, 10
		var group sync.WaitGroup
		errs := make(chan error, 2*writers*times)
		for range writers {
			group.Go(func() {
				for range times {
					errs <- second(f.Update(t.Context(), at(id), 0, increment))
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
		require.Equal(t, writers*times, decode[int](t, f.load(t, id)))
	}},
	{"Stats", nil, func(t *testing.T, f *subject) {
		ctx := t.Context()
		id := f.create(t, ann(1), time.Hour)
		f.load(t, id)
		require.NoError(t, f.Save(ctx, id, ann(2), time.Hour))
		require.NoError(t, second(f.Update(ctx, at(id), 0, increment)))
		require.NoError(t, second(f.Update(ctx, at(id), 0, keep(3)))) // changes nothing
		require.NoError(t, second(f.Touch(ctx, at(id), 2*time.Hour)))
		next := pgsession.NewID()
		require.NoError(t, f.Cycle(ctx, id, next, ann(3), time.Hour))
		require.NoError(t, f.Put(ctx, next, ann(4), time.Hour))
		require.Error(t, f.Put(ctx, next, pgsession.Data{UserID: "bob"}, time.Hour))
		require.Error(t, f.Put(ctx, id, ann(4), time.Hour))
		require.Error(t, f.Save(ctx, id, ann(4), time.Hour))
		require.Error(t, second(f.Update(ctx, at(id), 0, increment)))
		require.Error(t, f.Save(ctx, pgsession.ID{}, ann(4), time.Hour))
		require.NoError(t, second(f.Renew(ctx, at(next), 0, login(ann(5)))))
		require.NoError(t, second(f.CreateAs(ctx, pgsession.NewID(), ann(6), time.Hour)))
		require.NoError(t, f.KeyValue().Put(ctx, "key", nil, time.Minute))
		require.NoError(t, second(f.KeyValue().Take(ctx, "key")))
		require.NoError(t, f.KeyValue().Put(ctx, "key", nil, time.Minute))
		f.clock.Advance(time.Minute)
		require.EqualValues(t, 1, f.cleanUp(t))
		require.Equal(t, pgsession.Stats{
			Loads:       6, // Load, three Updates, Renew, Take
			Hits:        5, // all but the Update of an ended session
			Saves:       9, // Create, Save, one Update, Cycle, Put, Renew, CreateAs, two entries
			Revoked:     2, // Put and Save
			Cleaned:     1,
			LastCleanup: f.clock.Now(),
		}, countsOf(f.Stats()))
	}},
}

func TestBehaviour(t *testing.T) {
	t.Parallel()
	for kind, newSubject := range storeKinds(t) {
		for _, c := range behaviours {
			t.Run(kind+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				c.run(t, newSubject(t, c.options...))
			})
		}
	}
}

// waysToEnd returns what ends a session while another operation is at work on it.
func waysToEnd(f *subject) map[string]func(t *testing.T, id pgsession.ID) error {
	return map[string]func(t *testing.T, id pgsession.ID) error{
		"delete":         func(t *testing.T, id pgsession.ID) error { return f.Delete(t.Context(), id) },
		"revoke":         func(t *testing.T, id pgsession.ID) error { return f.RevokeAny(t.Context(), id.Handle()) },
		"delete by user": func(t *testing.T, id pgsession.ID) error { return second(f.DeleteByUser(t.Context(), "ann")) },
		"delete all":     func(t *testing.T, id pgsession.ID) error { return second(f.DeleteAll(t.Context())) },
		"cycle": func(t *testing.T, id pgsession.ID) error {
			return f.Cycle(t.Context(), id, pgsession.NewID(), ann(1), time.Hour)
		},
		"renew": func(t *testing.T, id pgsession.ID) error {
			return second(f.Renew(t.Context(), at(id), 0, login(ann(1))))
		},
	}
}

// What derived ids hash before the secret. These are part of the table's format: if they change, nobody
// finds the rows that an earlier release wrote.
const (
	sessionDomain = "pgsession/v1: the id of a session, derived from a token of a framework\x00"
	entryDomain   = "pgsession/v1: the id of an entry of a key/value view, derived from its key\x00"
)

// TestDerivedIDs shows that no token leads to the row of a derived id, whatever the secret's length. A
// token is 32 bytes, and its row's key is their hash. So a derived id whose hash is of exactly 32 bytes,
// domain and secret, could be opened by a cookie that anybody can compute.
func TestDerivedIDs(t *testing.T) {
	t.Parallel()
	const longest = 200
	domains := []string{
		sessionDomain, entryDomain,
		"pgsession derived session id\x00", "pgsession key/value entry\x00", // of 29 and 26 bytes, which a secret filled up to 32
		"",
	}
	secrets := map[string]func(n int) string{
		"digits": func(n int) string { return strings.Repeat("0123456789", longest/10)[:n] },
		"bytes":  func(n int) string { return strings.Repeat("\xff", n) },
	}
	for kind, newSubject := range storeKinds(t) {
		for name, secretOf := range secrets {
			t.Run(kind+"/"+name, func(t *testing.T) {
				t.Parallel()
				ctx, f := t.Context(), newSubject(t)
				require.ErrorIs(t, second(f.CreateAs(ctx, pgsession.DeriveID(secretOf(0)), ann(0), time.Hour)), pgsession.ErrForeignID)
				require.ErrorIs(t, f.KeyValue().Put(ctx, secretOf(0), nil, time.Hour), pgsession.ErrNotFound)
				want := map[string]bool{}
				for n := 1; n <= longest; n++ {
					secret := secretOf(n)
					id := pgsession.DeriveID(secret)
					require.Empty(t, id.Token())
					require.NoError(t, second(f.CreateAs(ctx, id, ann(n), time.Hour)))
					require.NoError(t, f.KeyValue().Put(ctx, secret, []byte(secret), time.Hour))
					require.Greater(t, len(sessionDomain), 64)
					want[fmt.Sprintf("%x", sha256.Sum256([]byte(sessionDomain+secret)))] = true
				}
				stored := map[string]bool{}
				for session, err := range f.All(ctx) {
					require.NoError(t, err)
					stored[session.Handle.String()] = true
				}
				require.Equal(t, want, stored, "each secret has a row of its own, whose key is the hash of more than 64 bytes")

				for n := range longest + 1 {
					for _, domain := range domains {
						for _, bits := range tokensFrom(domain + secretOf(n)) {
							id, err := pgsession.ParseID(base64.RawURLEncoding.EncodeToString(bits))
							if err != nil {
								continue // all zero
							}
							require.False(t, stored[id.Handle().String()], "%q and %d bytes", domain, n)
							require.Equal(t, "NotFound", errorName(second(f.Load(ctx, id))), "%q and %d bytes", domain, n)
						}
					}
				}
			})
		}
	}
}

// tokensFrom returns the bits of the tokens that can be computed from what a derived id hashes.
func tokensFrom(preimage string) (tokens [][]byte) {
	sum := sha256.Sum256([]byte(preimage))
	tokens = append(tokens, sum[:])
	if len(preimage) >= 32 {
		tokens = append(tokens, []byte(preimage[:32]), []byte(preimage[len(preimage)-32:]))
	}
	return tokens
}
