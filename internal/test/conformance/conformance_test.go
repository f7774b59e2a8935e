package conformance_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/test"
)

// conformanceLifetime is the absolute lifetime of the stores that the table is about.
const conformanceLifetime = 3 * time.Hour

// A sessionState makes an id that is in one state when an operation meets it.
type sessionState func(t testing.TB, f *subject) pgsession.ID

func sessionStates() map[string]sessionState {
	live := func(data pgsession.Data, ttl, age time.Duration) sessionState {
		return func(t testing.TB, f *subject) pgsession.ID {
			id := f.Begin(t, data, ttl)
			f.Clock.Advance(age)
			return id
		}
	}
	ended := func(age time.Duration, end func(t testing.TB, f *subject, id pgsession.ID)) sessionState {
		return func(t testing.TB, f *subject) pgsession.ID {
			id := f.Begin(t, test.Ann(1), time.Hour)
			end(t, f, id)
			f.Clock.Advance(age)
			return id
		}
	}
	deleteIt := func(t testing.TB, f *subject, id pgsession.ID) { require.NoError(t, f.Delete(t.Context(), id)) }
	return map[string]sessionState{
		"absent": func(testing.TB, *subject) pgsession.ID { return pgsession.NewID() },
		"zero":   func(testing.TB, *subject) pgsession.ID { return pgsession.ID{} },

		// Live, and old enough for a touch.
		"guest": live(pgsession.Data{Values: 1}, time.Hour, 10*time.Minute),
		"ann":   live(test.Ann(1), time.Hour, 10*time.Minute),
		"bob":   live(pgsession.Data{UserID: "bob", Values: 1}, time.Hour, 10*time.Minute),

		// Over, but not tombstones.
		"expired":       live(test.Ann(1), time.Hour, time.Hour),
		"past-lifetime": live(test.Ann(1), 10*time.Hour, conformanceLifetime),
		"past-ends-at":  live(pgsession.Data{UserID: "ann", Values: 1, Lifetime: 2 * time.Hour}, 10*time.Hour, 2*time.Hour),

		"ended":         ended(0, deleteIt),
		"ended-expired": ended(2*time.Hour, deleteIt), // a tombstone that the next clean-up removes
		"moved": ended(0, func(t testing.TB, f *subject, id pgsession.ID) {
			_, err := f.Renew(t.Context(), test.Unloaded(id), 0, func(*pgsession.Session) (pgsession.Data, error) {
				return pgsession.Data{UserID: "carol"}, nil
			})
			require.NoError(t, err)
		}),
		"cleaned": ended(0, func(t testing.TB, f *subject, id pgsession.ID) {
			deleteIt(t, f, id)
			f.Clock.Advance(time.Hour)
			require.EqualValues(t, 1, f.MustCleanUp(t))
		}),
	}
}

// sessionOperations returns what may be done to an id.
func sessionOperations() map[string]func(context.Context, *subject, pgsession.ID) error {
	const ttl = time.Hour
	one := func(*pgsession.Session) (any, error) { return 1, nil }
	two := func(*pgsession.Session) (any, error) { return 2, nil }
	return map[string]func(context.Context, *subject, pgsession.ID) error{
		"load": func(ctx context.Context, f *subject, id pgsession.ID) error {
			session, err := f.Load(ctx, id)
			return f.eitherSessionOrError(ctx, session, err)
		},
		"create-as": func(ctx context.Context, f *subject, id pgsession.ID) error {
			session, err := f.CreateAs(ctx, id, test.Ann(2), ttl)
			return f.eitherSessionOrError(ctx, session, err)
		},
		"create-as-parsed": func(ctx context.Context, f *subject, id pgsession.ID) error {
			session, err := f.CreateAs(ctx, test.Parsed(id), test.Ann(2), ttl)
			return f.eitherSessionOrError(ctx, session, err)
		},
		"save": func(ctx context.Context, f *subject, id pgsession.ID) error {
			return f.Save(ctx, id, test.Ann(2), ttl)
		},
		"save-parsed": func(ctx context.Context, f *subject, id pgsession.ID) error {
			return f.Save(ctx, test.Parsed(id), test.Ann(2), ttl)
		},
		"put": func(ctx context.Context, f *subject, id pgsession.ID) error {
			return f.Put(ctx, id, test.Ann(2), ttl)
		},
		"put-parsed": func(ctx context.Context, f *subject, id pgsession.ID) error {
			return f.Put(ctx, test.Parsed(id), test.Ann(2), ttl)
		},
		"update": func(ctx context.Context, f *subject, id pgsession.ID) error {
			session, err := f.Update(ctx, test.Unloaded(id), ttl, two)
			return f.eitherSessionOrError(ctx, session, err)
		},
		"update-ttl-0": func(ctx context.Context, f *subject, id pgsession.ID) error {
			session, err := f.Update(ctx, test.Unloaded(id), 0, two)
			return f.eitherSessionOrError(ctx, session, err)
		},
		"update-unchanged": func(ctx context.Context, f *subject, id pgsession.ID) error {
			session, err := f.Update(ctx, test.Unloaded(id), 0, one)
			return f.eitherSessionOrError(ctx, session, err)
		},
		"touch": func(ctx context.Context, f *subject, id pgsession.ID) error {
			return test.Err(f.Touch(ctx, test.Unloaded(id), 2*ttl))
		},
		"touch-ttl-0": func(ctx context.Context, f *subject, id pgsession.ID) error {
			return test.Err(f.Touch(ctx, test.Unloaded(id), 0))
		},
		"renew": func(ctx context.Context, f *subject, id pgsession.ID) error {
			session, err := f.Renew(ctx, test.Unloaded(id), ttl, func(s *pgsession.Session) (pgsession.Data, error) { return s.Data(), nil })
			return f.eitherSessionOrError(ctx, session, err)
		},
		"renew-to-carol": func(ctx context.Context, f *subject, id pgsession.ID) error {
			session, err := f.Renew(ctx, test.Unloaded(id), 0, func(*pgsession.Session) (pgsession.Data, error) {
				return pgsession.Data{UserID: "carol"}, nil
			})
			return f.eitherSessionOrError(ctx, session, err)
		},
		"cycle": func(ctx context.Context, f *subject, id pgsession.ID) error {
			return f.Cycle(ctx, id, pgsession.NewID(), test.Ann(2), ttl)
		},
		"cycle-to-parsed": func(ctx context.Context, f *subject, id pgsession.ID) error {
			return f.Cycle(ctx, id, test.Parsed(pgsession.NewID()), test.Ann(2), ttl)
		},
		"cycle-onto": func(ctx context.Context, f *subject, id pgsession.ID) error {
			old, err := f.Create(ctx, pgsession.Data{UserID: "carol"}, ttl)
			if err != nil {
				return err
			}
			return f.Cycle(ctx, old.ID, id, test.Ann(2), ttl)
		},
		"cycle-onto-parsed": func(ctx context.Context, f *subject, id pgsession.ID) error {
			old, err := f.Create(ctx, pgsession.Data{UserID: "carol"}, ttl)
			if err != nil {
				return err
			}
			return f.Cycle(ctx, old.ID, test.Parsed(id), test.Ann(2), ttl)
		},
		"cycle-onto-itself": func(ctx context.Context, f *subject, id pgsession.ID) error {
			return f.Cycle(ctx, id, id, test.Ann(2), ttl)
		},
		"delete": func(ctx context.Context, f *subject, id pgsession.ID) error { return f.Delete(ctx, id) },
		"delete-parsed": func(ctx context.Context, f *subject, id pgsession.ID) error {
			return f.Delete(ctx, test.Parsed(id))
		},
		"revoke": func(ctx context.Context, f *subject, id pgsession.ID) error {
			return f.Revoke(ctx, "ann", id.Handle())
		},
		"revoke-any": func(ctx context.Context, f *subject, id pgsession.ID) error {
			return f.RevokeAny(ctx, id.Handle())
		},
		"find-by-user": func(ctx context.Context, f *subject, _ pgsession.ID) error {
			found, err := f.FindByUser(ctx, "ann", 0)
			return countedAs(len(found), err)
		},
		"all": func(ctx context.Context, f *subject, _ pgsession.ID) error {
			n := 0
			for _, err := range f.All(ctx) {
				if err != nil {
					return err
				}
				n++
			}
			return countedAs(n, nil)
		},
		"delete-by-user": func(ctx context.Context, f *subject, _ pgsession.ID) error {
			n, err := f.DeleteByUser(ctx, "ann")
			return countedAs(n, err)
		},
		"delete-all": func(ctx context.Context, f *subject, _ pgsession.ID) error {
			n, err := f.DeleteAll(ctx)
			return countedAs(n, err)
		},
		"clean-up": func(ctx context.Context, f *subject, _ pgsession.ID) error {
			n, err := f.CleanupExpired(ctx)
			return countedAs(n, err)
		},
		"reseal": func(ctx context.Context, f *subject, _ pgsession.ID) error {
			n, err := f.Reseal(ctx)
			return countedAs(n, err)
		},

		// An entry whose key is the session's token is another row.
		"entry-get": func(ctx context.Context, f *subject, id pgsession.ID) error {
			return test.Err(f.KeyValue().Get(ctx, id.Token()))
		},
		"entry-take": func(ctx context.Context, f *subject, id pgsession.ID) error {
			return test.Err(f.KeyValue().Take(ctx, id.Token()))
		},
		"entry-put": func(ctx context.Context, f *subject, id pgsession.ID) error {
			return f.KeyValue().Put(ctx, id.Token(), nil, ttl)
		},
		"entry-delete": func(ctx context.Context, f *subject, id pgsession.ID) error {
			return f.KeyValue().Delete(ctx, id.Token())
		},
	}
}

// countError gives the number that an operation returned, unless it is 0, a place in the table.
type countError int64

func (n countError) Error() string { return fmt.Sprint(int64(n)) }

func countedAs[N int | int64](n N, err error) error {
	if err != nil || n == 0 {
		return err
	}
	return countError(n)
}

// conformance tells, for each operation on an id in each state, what comes of it: nil, an error's name or
// a number, and the state after it. A state before is one of sessionStates, a state after one of
// stateOf's.
const conformance = `
operation          absent            zero            guest             ann             bob               expired            past-lifetime      past-ends-at       ended            ended-expired    moved            cleaned
load               NotFound/absent   NotFound/zero   nil/live          nil/live        nil/live          NotFound/expired   NotFound/expired   NotFound/expired   Revoked/ended    Revoked/ended    Revoked/ended    NotFound/absent
create-as          nil/live          ForeignID/zero  Exists/live       Exists/live     Exists/live       Exists/expired     Exists/expired     Exists/expired     Exists/ended     Exists/ended     Exists/ended     nil/live
create-as-parsed   ForeignID/absent  ForeignID/zero  ForeignID/live    ForeignID/live  ForeignID/live    ForeignID/expired  ForeignID/expired  ForeignID/expired  ForeignID/ended  ForeignID/ended  ForeignID/ended  ForeignID/absent
save               NotFound/absent   NotFound/zero   UserChanged/live  nil/live        UserChanged/live  NotFound/expired   NotFound/expired   NotFound/expired   Revoked/ended    Revoked/ended    Revoked/ended    NotFound/absent
save-parsed        NotFound/absent   NotFound/zero   UserChanged/live  nil/live        UserChanged/live  NotFound/expired   NotFound/expired   NotFound/expired   Revoked/ended    Revoked/ended    Revoked/ended    NotFound/absent
put-parsed         NotFound/absent   NotFound/zero   UserChanged/live  nil/live        UserChanged/live  NotFound/expired   NotFound/expired   NotFound/expired   Revoked/ended    Revoked/ended    Revoked/ended    NotFound/absent
put                nil/live          NotFound/zero   UserChanged/live  nil/live        UserChanged/live  NotFound/expired   NotFound/expired   NotFound/expired   Revoked/ended    Revoked/ended    Revoked/ended    nil/live
update             NotFound/absent   NotFound/zero   nil/live          nil/live        nil/live          NotFound/expired   NotFound/expired   NotFound/expired   Revoked/ended    Revoked/ended    Revoked/ended    NotFound/absent
update-ttl-0       NotFound/absent   NotFound/zero   nil/live          nil/live        nil/live          NotFound/expired   NotFound/expired   NotFound/expired   Revoked/ended    Revoked/ended    Revoked/ended    NotFound/absent
update-unchanged   NotFound/absent   NotFound/zero   nil/live          nil/live        nil/live          NotFound/expired   NotFound/expired   NotFound/expired   Revoked/ended    Revoked/ended    Revoked/ended    NotFound/absent
touch              NotFound/absent   NotFound/zero   nil/live          nil/live        nil/live          NotFound/expired   NotFound/expired   NotFound/expired   Revoked/ended    Revoked/ended    Revoked/ended    NotFound/absent
touch-ttl-0        NotFound/absent   NotFound/zero   nil/live          nil/live        nil/live          NotFound/expired   NotFound/expired   NotFound/expired   Revoked/ended    Revoked/ended    Revoked/ended    NotFound/absent
renew              NotFound/absent   ForeignID/zero  nil/ended         nil/ended       nil/ended         NotFound/expired   NotFound/expired   NotFound/expired   Revoked/ended    Revoked/ended    Revoked/ended    NotFound/absent
renew-to-carol     NotFound/absent   ForeignID/zero  nil/ended         nil/ended       nil/ended         NotFound/expired   NotFound/expired   NotFound/expired   Revoked/ended    Revoked/ended    Revoked/ended    NotFound/absent
cycle              NotFound/absent   NotFound/zero   nil/ended         nil/ended       nil/ended         NotFound/expired   NotFound/expired   NotFound/expired   Revoked/ended    Revoked/ended    Revoked/ended    NotFound/absent
cycle-to-parsed    ForeignID/absent  NotFound/zero   ForeignID/live    ForeignID/live  ForeignID/live    ForeignID/expired  ForeignID/expired  ForeignID/expired  ForeignID/ended  ForeignID/ended  ForeignID/ended  ForeignID/absent
cycle-onto         nil/live          ForeignID/zero  Exists/live       Exists/live     Exists/live       Exists/expired     Exists/expired     Exists/expired     Exists/ended     Exists/ended     Exists/ended     nil/live
cycle-onto-parsed  ForeignID/absent  ForeignID/zero  ForeignID/live    ForeignID/live  ForeignID/live    ForeignID/expired  ForeignID/expired  ForeignID/expired  ForeignID/ended  ForeignID/ended  ForeignID/ended  ForeignID/absent
cycle-onto-itself  NotFound/absent   NotFound/zero   Exists/live       Exists/live     Exists/live       NotFound/expired   NotFound/expired   NotFound/expired   Revoked/ended    Revoked/ended    Revoked/ended    NotFound/absent
delete             nil/absent        nil/zero        nil/ended         nil/ended       nil/ended         nil/ended          nil/ended          nil/ended          nil/ended        nil/ended        nil/ended        nil/absent
delete-parsed      nil/absent        nil/zero        nil/ended         nil/ended       nil/ended         nil/ended          nil/ended          nil/ended          nil/ended        nil/ended        nil/ended        nil/absent
revoke             NotFound/absent   NotFound/zero   NotFound/live     nil/ended       NotFound/live     NotFound/ended     NotFound/ended     NotFound/ended     Revoked/ended    Revoked/ended    Revoked/ended    NotFound/absent
revoke-any         NotFound/absent   NotFound/zero   nil/ended         nil/ended       nil/ended         NotFound/ended     NotFound/ended     NotFound/ended     Revoked/ended    Revoked/ended    Revoked/ended    NotFound/absent
find-by-user       nil/absent        nil/zero        nil/live          1/live          nil/live          nil/expired        nil/expired        nil/expired        nil/ended        nil/ended        nil/ended        nil/absent
all                nil/absent        nil/zero        1/live            1/live          1/live            nil/expired        nil/expired        nil/expired        nil/ended        nil/ended        1/ended          nil/absent
delete-by-user     nil/absent        nil/zero        nil/live          1/ended         nil/live          nil/ended          nil/ended          nil/ended          nil/ended        nil/ended        nil/ended        nil/absent
delete-all         nil/absent        nil/zero        1/ended           1/ended         1/ended           nil/ended          nil/ended          nil/ended          nil/ended        nil/ended        1/ended          nil/absent
clean-up           nil/absent        nil/zero        nil/live          nil/live        nil/live          1/absent           1/absent           1/absent           nil/ended        1/absent         nil/ended        nil/absent
reseal             nil/absent        nil/zero        nil/live          nil/live        nil/live          nil/expired        nil/expired        nil/expired        nil/ended        nil/ended        nil/ended        nil/absent
entry-get          NotFound/absent   NotFound/zero   NotFound/live     NotFound/live   NotFound/live     NotFound/expired   NotFound/expired   NotFound/expired   NotFound/ended   NotFound/ended   NotFound/ended   NotFound/absent
entry-take         NotFound/absent   NotFound/zero   NotFound/live     NotFound/live   NotFound/live     NotFound/expired   NotFound/expired   NotFound/expired   NotFound/ended   NotFound/ended   NotFound/ended   NotFound/absent
entry-put          nil/absent        NotFound/zero   nil/live          nil/live        nil/live          nil/expired        nil/expired        nil/expired        nil/ended        nil/ended        nil/ended        nil/absent
entry-delete       nil/absent        nil/zero        nil/live          nil/live        nil/live          nil/expired        nil/expired        nil/expired        nil/ended        nil/ended        nil/ended        nil/absent
`

// writesLive names the operations that change a session and leave it live.
var writesLive = map[string]bool{
	"save": true, "save-parsed": true, "put": true, "put-parsed": true,
	"update": true, "update-ttl-0": true, "touch": true, "touch-ttl-0": true,
}

func TestConformance(t *testing.T) {
	t.Parallel()
	lines := strings.Split(strings.TrimSpace(conformance), "\n")
	states := strings.Fields(lines[0])[1:]
	require.Len(t, lines, 1+len(sessionOperations()))
	require.Len(t, states, len(sessionStates()))
	for kind, newSubject := range storeKinds(t) {
		for _, line := range lines[1:] {
			cells := strings.Fields(line)
			require.Len(t, cells, 1+len(states), line)
			for i, want := range cells[1:] {
				t.Run(kind+"/"+cells[0]+"/"+states[i], func(t *testing.T) {
					t.Parallel()
					f := newSubject(t, pgsession.WithAbsoluteLifetime(conformanceLifetime))
					require.Equal(t, want, f.meet(t, states[i], cells[0]))
				})
			}
		}
	}
}

func TestConformance_CancelledContext(t *testing.T) {
	t.Parallel()
	for kind, newSubject := range storeKinds(t) {
		for name, operation := range sessionOperations() {
			if strings.HasSuffix(name, "-parsed") {
				continue // the id is refused, or it is the same operation
			}
			t.Run(kind+"/"+name, func(t *testing.T) {
				t.Parallel()
				f := newSubject(t)
				id := f.Begin(t, test.Ann(1), time.Hour)
				before := f.MustLoad(t, id)

				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				err := operation(ctx, f, id)
				if kind != "encrypted" && name == "reseal" {
					require.NoError(t, err, "there is nothing to do")
				} else {
					require.ErrorIs(t, err, context.Canceled)
					require.NotErrorIs(t, err, pgsession.ErrNotFound)
					require.Regexp(t, "^pgsession: ", err.Error())
				}
				require.Equal(t, before, f.MustLoad(t, id))
			})
		}
		t.Run(kind+"/others", func(t *testing.T) {
			t.Parallel()
			f := newSubject(t)
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			for name, err := range map[string]error{
				"init":   f.Init(ctx),
				"create": test.Err(f.Create(ctx, test.Ann(1), time.Hour)),
				"check":  f.Check(ctx),
				"prune":  test.Err(f.KeyValue().PruneExpired(ctx)),
			} {
				require.ErrorIs(t, err, context.Canceled, name)
			}
			require.ErrorIs(t, f.Revoke(ctx, "", pgsession.NewID().Handle()), pgsession.ErrNotFound, "there is nothing to ask")
			require.Equal(t, pgsession.Unhealthy, f.Health(ctx).Status)
			require.ErrorIs(t, f.Health(ctx).Err, context.Canceled)
			require.NoError(t, f.Check(t.Context()))
		})
	}
}

// meet runs an operation on an id in a state, and returns what comes of it.
func (f *subject) meet(t *testing.T, state, operation string) string {
	t.Helper()
	require.Contains(t, sessionOperations(), operation)
	require.Contains(t, sessionStates(), state)
	id := sessionStates()[state](t, f)
	before, beforeErr := f.Load(t.Context(), id)
	err := sessionOperations()[operation](t.Context(), f, id)
	after, afterErr := f.Load(t.Context(), id)
	if beforeErr == nil && afterErr == nil {
		changed := writesLive[operation] && err == nil
		require.Equal(t, changed, test.Version(before) != test.Version(after), "the version changes if and only if the session was written")
		if !changed {
			require.Equal(t, before, after)
		}
	}
	return errorName(err) + "/" + f.stateOf(t, id)
}
