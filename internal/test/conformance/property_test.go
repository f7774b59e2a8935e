package conformance_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/test"
)

// alike are stores of all kinds under one clock. Each step does the same to all of them, and
// compares what comes of it.
type alike struct {
	stores []*subject
	clock  *pgsession.ManualClock

	// ids are those that the steps draw from. An element has one id for each store, since Create
	// and Renew make their own.
	ids [][]pgsession.ID

	versions [][]int64 // as last seen, for each of ids and each store; 0 if there is no live session
}

const (
	drawnIDs = 8
	noID     = 0 // the place of the zero ID in alike.ids
)

func newAlike(stores []*subject) *alike {
	a := &alike{stores: stores, clock: stores[0].Clock}
	for _, id := range []pgsession.ID{{}, pgsession.NewID(), pgsession.NewID(), pgsession.DeriveID("derived")} {
		a.ids = append(a.ids, slices.Repeat([]pgsession.ID{id}, len(stores)))
		a.versions = append(a.versions, make([]int64, len(stores)))
	}
	return a
}

func TestProperty_AllKindsAreAlike(t *testing.T) {
	t.Parallel()
	kinds := storeKinds(t)
	for name, lifetime := range map[string]time.Duration{"without absolute lifetime": 0, "with absolute lifetime": 2 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			clock := pgsession.NewManualClock(test.Epoch)
			options := []pgsession.Option{pgsession.WithClock(clock), pgsession.WithMaxSize(50), pgsession.WithAbsoluteLifetime(lifetime)}
			encrypted, plaintext := kinds["encrypted"](t, options...), kinds["plaintext"](t, options...)
			rapid.Check(t, func(t *rapid.T) {
				clock.Set(test.Epoch)
				stores := []*subject{{Store: &test.Store{Store: pgsession.InMemory(options...)}}}
				for _, s := range []*subject{encrypted, plaintext} {
					s.empty(t)
					// Another store, whose counters begin at 0.
					stores = append(stores, &subject{Store: &test.Store{Store: s.beside(options...)}})
				}
				for _, s := range stores {
					s.Clock = clock
				}
				t.Repeat(newAlike(stores).steps())
			})
		})
	}
}

// empty removes all that is stored.
func (f *subject) empty(t *rapid.T) {
	_, err := f.Pool.Exec(t.Context(), `DELETE FROM `+f.Table)
	require.NoError(t, err)
}

// compare does something to every store, and compares what it returns. Place is the store's place.
func compare[R any](t *rapid.T, a *alike, do func(ctx context.Context, place int, f *subject) R) R {
	t.Helper()
	now := a.clock.Now()
	first := do(t.Context(), 0, a.stores[0])
	for place, f := range a.stores[1:] {
		a.clock.Set(now) // which do may have moved
		require.Equal(t, first, do(t.Context(), place+1, f))
	}
	return first
}

// compareErrors does something to the id at place n of every store, and compares the errors.
func (a *alike) compareErrors(t *rapid.T, n int, do func(ctx context.Context, f *subject, id pgsession.ID) error) {
	t.Helper()
	compare(t, a, func(ctx context.Context, place int, f *subject) string {
		return textOf(do(ctx, f, a.ids[n][place]))
	})
}

// compareBegun lets every store begin a session under an id of its own, and compares the sessions.
func (a *alike) compareBegun(t *rapid.T, begin func(ctx context.Context, place int, f *subject) (*pgsession.Session, []string, error)) {
	t.Helper()
	ids := make([]pgsession.ID, len(a.stores))
	compare(t, a, func(ctx context.Context, place int, f *subject) []string {
		session, seen, err := begin(ctx, place, f)
		if err == nil {
			ids[place] = session.ID
			seen = append(seen, describe(session))
			err = f.eitherSessionOrError(ctx, session, err)
		}
		return append(seen, textOf(err))
	})
	if !ids[0].IsZero() && len(a.ids) < drawnIDs {
		a.ids = append(a.ids, ids)
		a.versions = append(a.versions, make([]int64, len(a.stores)))
	}
}

// nameIn returns what a session is called in every store: the place of its id.
func (a *alike) nameIn(place int, session *pgsession.Session) string {
	n := slices.IndexFunc(a.ids, func(ids []pgsession.ID) bool { return ids[place].Handle() == session.Handle })
	return fmt.Sprintf("%d: %s", n, describe(session))
}

func (a *alike) steps() map[string]func(*rapid.T) {
	userIDs := rapid.OneOf(rapid.Just("ann"), rapid.SampledFrom([]string{"", "ann", "bob", strings.Repeat("a", 1001)}))
	durations := rapid.OneOf(
		rapid.SampledFrom([]time.Duration{time.Microsecond, time.Minute, time.Hour, 3 * time.Hour}),
		rapid.Map(rapid.Int64Range(-1, int64(4*time.Hour)), func(n int64) time.Duration { return time.Duration(n) }),
	)
	drawData := func(t *rapid.T) pgsession.Data {
		data := pgsession.Data{
			UserID: userIDs.Draw(t, "user"),
			Values: rapid.OneOf(
				rapid.Map(rapid.Int(), func(n int) any { return n }),
				rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 51), func(b []byte) any { return b }),
				rapid.SampledFrom([]any{nil, math.NaN(), []byte(nil), `<é"`, map[string]int{"b": 1, "a": 2}, json.RawMessage(`{"pgsession:raw":""}`)}),
			).Draw(t, "values"),
		}
		if rapid.Bool().Draw(t, "with Lifetime") {
			data.Lifetime = durations.Draw(t, "lifetime")
		}
		return data
	}
	drawID := func(t *rapid.T) int { return rapid.IntRange(0, len(a.ids)-1).Draw(t, "id") }
	drawTTL := func(t *rapid.T) time.Duration { return durations.Draw(t, "ttl") }
	drawTTLOrZero := func(t *rapid.T) time.Duration {
		return rapid.OneOf(rapid.Just(time.Duration(0)), durations).Draw(t, "ttl")
	}
	drawKey := func(t *rapid.T) string {
		return rapid.SampledFrom([]string{"", "state", "code"}).Draw(t, "key")
	}
	// drawForm returns what makes an id a parsed one, or leaves it.
	drawForm := func(t *rapid.T) func(pgsession.ID) pgsession.ID {
		isParsed := rapid.IntRange(0, 4).Draw(t, "parsed") == 0
		return func(id pgsession.ID) pgsession.ID {
			if isParsed && id.Token() != "" {
				return test.Parsed(id)
			}
			return id
		}
	}
	// drawMeanwhile returns what another caller does while an operation is at work on a session.
	drawMeanwhile := func(t *rapid.T) func(context.Context, *subject, *pgsession.Session) {
		meanwhile := rapid.SampledFrom([]string{"nothing", "save", "update", "touch", "put", "delete", "renew", "time"}).Draw(t, "meanwhile")
		return func(ctx context.Context, f *subject, session *pgsession.Session) {
			switch meanwhile {
			case "save":
				f.Save(ctx, session.ID, session.Data(), time.Hour)
			case "update":
				f.Update(ctx, test.Unloaded(session.ID), 0, test.Keep(7))
			case "touch":
				f.Touch(ctx, test.Unloaded(session.ID), 2*time.Hour)
			case "put":
				f.Put(ctx, session.ID, session.Data(), time.Hour)
			case "delete":
				f.Delete(ctx, session.ID)
			case "renew":
				f.Renew(ctx, test.Unloaded(session.ID), 0, test.LogIn(session.Data()))
			case "time":
				f.Clock.Advance(time.Hour)
			}
		}
	}
	count := func(n int64, err error) string { return fmt.Sprint(n, textOf(err)) }

	return map[string]func(*rapid.T){
		"create": func(t *rapid.T) {
			data, ttl := drawData(t), drawTTL(t)
			a.compareBegun(t, func(ctx context.Context, _ int, f *subject) (*pgsession.Session, []string, error) {
				session, err := f.Create(ctx, data, ttl)
				return session, nil, err
			})
		},
		"create as": func(t *rapid.T) {
			n, form, data, ttl := drawID(t), drawForm(t), drawData(t), drawTTL(t)
			a.compareErrors(t, n, func(ctx context.Context, f *subject, id pgsession.ID) error {
				session, err := f.CreateAs(ctx, form(id), data, ttl)
				return f.eitherSessionOrError(ctx, session, err)
			})
		},
		"put": func(t *rapid.T) {
			n, form, data, ttl := drawID(t), drawForm(t), drawData(t), drawTTL(t)
			a.compareErrors(t, n, func(ctx context.Context, f *subject, id pgsession.ID) error { return f.Put(ctx, form(id), data, ttl) })
		},
		"save": func(t *rapid.T) {
			n, data, ttl := drawID(t), drawData(t), drawTTL(t)
			a.compareErrors(t, n, func(ctx context.Context, f *subject, id pgsession.ID) error { return f.Save(ctx, id, data, ttl) })
		},
		"write back": func(t *rapid.T) {
			n, put := drawID(t), rapid.Bool().Draw(t, "put")
			a.compareErrors(t, n, func(ctx context.Context, f *subject, id pgsession.ID) error {
				session, err := f.Load(ctx, id)
				if err != nil {
					return err
				}
				write := f.Save
				if put {
					write = f.Put
				}
				require.NoError(t, write(ctx, id, session.Data(), session.IdleTimeout))
				after, err := f.Load(ctx, id)
				require.NoError(t, err)
				require.Equal(t, session.Data(), after.Data())
				return nil
			})
		},
		"update": func(t *rapid.T) {
			n, data, ttl, meanwhile := drawID(t), drawData(t), drawTTLOrZero(t), drawMeanwhile(t)
			changes := rapid.Bool().Draw(t, "changes")
			compare(t, a, func(ctx context.Context, place int, f *subject) []string {
				var seen []string
				session, err := f.Update(ctx, test.Unloaded(a.ids[n][place]), ttl, func(session *pgsession.Session) (any, error) {
					if seen = append(seen, describe(session)); len(seen) == 1 {
						meanwhile(ctx, f, session)
					}
					if !changes {
						return session.Data().Values, nil
					}
					return data.Values, nil
				})
				if err == nil {
					seen = append(seen, describe(session))
				}
				return append(seen, textOf(err))
			})
		},
		"renew": func(t *rapid.T) {
			n, data, ttl, meanwhile := drawID(t), drawData(t), drawTTLOrZero(t), drawMeanwhile(t)
			userStays := rapid.Bool().Draw(t, "the user stays")
			a.compareBegun(t, func(ctx context.Context, place int, f *subject) (renewed *pgsession.Session, seen []string, err error) {
				renewed, err = f.Renew(ctx, test.Unloaded(a.ids[n][place]), ttl, func(session *pgsession.Session) (pgsession.Data, error) {
					if seen = append(seen, describe(session)); len(seen) == 1 {
						meanwhile(ctx, f, session)
					}
					data := data
					if userStays {
						data.UserID = session.UserID
					}
					return data, nil
				})
				return renewed, seen, err
			})
		},
		"touch": func(t *rapid.T) {
			n, ttl := drawID(t), drawTTLOrZero(t)
			a.compareErrors(t, n, func(ctx context.Context, f *subject, id pgsession.ID) error {
				return test.Err(f.Touch(ctx, test.Unloaded(id), ttl))
			})
		},
		"cycle": func(t *rapid.T) {
			n, next, form, data, ttl := drawID(t), drawID(t), drawForm(t), drawData(t), drawTTL(t)
			compare(t, a, func(ctx context.Context, place int, f *subject) string {
				return textOf(f.Cycle(ctx, a.ids[n][place], form(a.ids[next][place]), data, ttl))
			})
		},
		"delete": func(t *rapid.T) {
			a.compareErrors(t, drawID(t), func(ctx context.Context, f *subject, id pgsession.ID) error { return f.Delete(ctx, id) })
		},
		"revoke": func(t *rapid.T) {
			n, user := drawID(t), userIDs.Draw(t, "user")
			a.compareErrors(t, n, func(ctx context.Context, f *subject, id pgsession.ID) error { return f.Revoke(ctx, user, id.Handle()) })
		},
		"revoke any": func(t *rapid.T) {
			a.compareErrors(t, drawID(t), func(ctx context.Context, f *subject, id pgsession.ID) error { return f.RevokeAny(ctx, id.Handle()) })
		},
		"find by user": func(t *rapid.T) {
			user, limit := userIDs.Draw(t, "user"), rapid.IntRange(-1, 3).Draw(t, "limit")
			compare(t, a, func(ctx context.Context, place int, f *subject) []string {
				found, err := f.FindByUser(ctx, user, limit)
				var list []string
				for _, session := range found {
					if limit > 0 { // which of those that began at one instant is open
						list = append(list, session.CreatedAt.String())
					} else {
						list = append(list, a.nameIn(place, session))
					}
				}
				slices.Sort(list)
				require.True(t, slices.IsSortedFunc(found, func(x, y *pgsession.Session) int { return y.CreatedAt.Compare(x.CreatedAt) }))
				return append(list, textOf(err))
			})
		},
		"all": func(t *rapid.T) {
			compare(t, a, func(ctx context.Context, place int, f *subject) (list []string) {
				for session, err := range f.All(ctx) {
					require.NoError(t, err)
					list = append(list, a.nameIn(place, session))
				}
				slices.Sort(list)
				return list
			})
		},
		"delete by user": func(t *rapid.T) {
			user, except := userIDs.Draw(t, "user"), drawID(t)
			compare(t, a, func(ctx context.Context, place int, f *subject) string {
				return count(f.DeleteByUser(ctx, user, a.ids[except][place].Handle()))
			})
		},
		"delete all": func(t *rapid.T) {
			compare(t, a, func(ctx context.Context, _ int, f *subject) string { return count(f.DeleteAll(ctx)) })
		},
		"clean up": func(t *rapid.T) {
			compare(t, a, func(ctx context.Context, _ int, f *subject) string { return count(f.CleanupExpired(ctx)) })
		},
		"put entry": func(t *rapid.T) {
			key, value, ttl := drawKey(t), rapid.SliceOfN(rapid.Byte(), 0, 51).Draw(t, "value"), drawTTL(t)
			a.compareErrors(t, noID, func(ctx context.Context, f *subject, _ pgsession.ID) error {
				return f.KeyValue().Put(ctx, key, value, ttl)
			})
		},
		"get or take entry": func(t *rapid.T) {
			key, take := drawKey(t), rapid.Bool().Draw(t, "take")
			compare(t, a, func(ctx context.Context, _ int, f *subject) string {
				read := f.KeyValue().Get
				if take {
					read = f.KeyValue().Take
				}
				value, err := read(ctx, key)
				return fmt.Sprintf("%x %s", value, textOf(err))
			})
		},
		"delete entry": func(t *rapid.T) {
			key := drawKey(t)
			a.compareErrors(t, noID, func(ctx context.Context, f *subject, _ pgsession.ID) error { return f.KeyValue().Delete(ctx, key) })
		},
		"time goes by": func(t *rapid.T) {
			a.clock.Advance(rapid.OneOf(
				rapid.SampledFrom([]time.Duration{1, time.Microsecond, time.Minute, 6 * time.Minute, time.Hour, 2 * time.Hour}),
				rapid.Map(rapid.Int64Range(0, int64(4*time.Hour)), func(n int64) time.Duration { return time.Duration(n) }),
			).Draw(t, "duration"))
		},
		"": a.check,
	}
}

// check compares the sessions and the counters, and whether the versions moved.
func (a *alike) check(t *rapid.T) {
	for n, ids := range a.ids {
		versions := make([]int64, len(a.stores))
		compare(t, a, func(ctx context.Context, place int, f *subject) string {
			session, err := f.Load(ctx, ids[place])
			if err != nil {
				return textOf(err)
			}
			versions[place] = test.Version(session)
			requireBounded(t, session)
			return describe(session)
		})
		for place := range a.stores {
			require.Equal(t, a.versions[n][0] != versions[0], a.versions[n][place] != versions[place], "the versions of all stores change, or none")
		}
		a.versions[n] = versions
	}
	compare(t, a, func(_ context.Context, _ int, f *subject) pgsession.Stats {
		return test.CountsOf(f.Stats())
	})
}

// requireBounded says what is true of every live session.
func requireBounded(t *rapid.T, session *pgsession.Session) {
	require.Positive(t, session.Remaining())
	require.Positive(t, session.IdleTimeout)
	require.Positive(t, test.Version(session))
	if !session.EndsAt.IsZero() {
		require.False(t, session.ExpiresAt.After(session.EndsAt))
	}
}

func textOf(err error) string {
	if err == nil {
		return "nil"
	}
	return err.Error()
}
