package conformance_test

import (
	"cmp"
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

// A sessionState makes a session that is in one state when an operation meets it. It returns the
// session as it was loaded while it was live.
type sessionState func(t testing.TB, f *subject) *pgsession.Session

func sessionStates() map[string]sessionState {
	live := func(data pgsession.Data, ttl, age time.Duration) sessionState {
		return func(t testing.TB, f *subject) *pgsession.Session {
			session := f.MustLoad(t, f.Begin(t, data, ttl))
			f.Clock.Advance(age)
			return session
		}
	}
	ended := func(age time.Duration, end func(t testing.TB, f *subject, id pgsession.ID)) sessionState {
		return func(t testing.TB, f *subject) *pgsession.Session {
			session := live(test.Ann(1), time.Hour, 0)(t, f)
			end(t, f, session.ID)
			f.Clock.Advance(age)
			return session
		}
	}
	deleteIt := func(t testing.TB, f *subject, id pgsession.ID) { require.NoError(t, f.Delete(t.Context(), id)) }
	return map[string]sessionState{
		"absent": func(testing.TB, *subject) *pgsession.Session { return test.Unloaded(pgsession.NewID()) },
		"zero":   func(testing.TB, *subject) *pgsession.Session { return &pgsession.Session{} },

		// Live, and old enough for a touch.
		"guest": live(pgsession.Data{Values: 1}, time.Hour, 10*time.Minute),
		"ann":   live(test.Ann(1), time.Hour, 10*time.Minute),
		"bob":   live(pgsession.Data{UserID: "bob", Values: 1}, time.Hour, 10*time.Minute),

		// Over, but not tombstones.
		"expired":       live(test.Ann(1), time.Hour, time.Hour),
		"past-lifetime": live(test.Ann(1), 10*time.Hour, conformanceLifetime),
		"past-ends-at":  live(pgsession.Data{UserID: "ann", Values: 1, Lifetime: 2 * time.Hour}, 10*time.Hour, 2*time.Hour),

		"ended":         ended(10*time.Minute, deleteIt),
		"ended-expired": ended(2*time.Hour, deleteIt), // a tombstone that the next clean-up removes
		"moved": ended(10*time.Minute, func(t testing.TB, f *subject, id pgsession.ID) {
			_, err := f.Renew(t.Context(), test.Unloaded(id), 0, test.LogIn(pgsession.Data{UserID: "carol"}))
			require.NoError(t, err)
		}),
		"cleaned": ended(0, func(t testing.TB, f *subject, id pgsession.ID) {
			deleteIt(t, f, id)
			f.Clock.Advance(time.Hour)
			require.EqualValues(t, 1, f.MustCleanUp(t))
		}),
	}
}

// A sessionOperation does something to a session, which it is given as it was loaded.
type sessionOperation func(context.Context, *subject, *pgsession.Session) error

func sessionOperations() map[string]sessionOperation {
	const ttl = time.Hour
	writeBack := func(s *pgsession.Session) (pgsession.Data, error) { return s.Data(), nil }
	toCarol := test.LogIn(pgsession.Data{UserID: "carol"})
	byID := func(operation func(context.Context, *subject, pgsession.ID) error) sessionOperation {
		return func(ctx context.Context, f *subject, seen *pgsession.Session) error {
			return operation(ctx, f, seen.ID)
		}
	}
	returning := func(operation func(context.Context, *subject, *pgsession.Session) (*pgsession.Session, error)) sessionOperation {
		return func(ctx context.Context, f *subject, seen *pgsession.Session) error {
			session, err := operation(ctx, f, seen)
			return f.eitherSessionOrError(ctx, session, err)
		}
	}
	counting := func(operation func(context.Context, *subject) (int64, error)) sessionOperation {
		return func(ctx context.Context, f *subject, _ *pgsession.Session) error { return countedAs(operation(ctx, f)) }
	}
	return map[string]sessionOperation{
		"load": returning(func(ctx context.Context, f *subject, seen *pgsession.Session) (*pgsession.Session, error) {
			return f.Load(ctx, seen.ID)
		}),
		"find": byID(func(ctx context.Context, f *subject, id pgsession.ID) error {
			session, err := f.Find(ctx, id.Handle())
			if err == nil {
				session.ID = id
			}
			return f.eitherSessionOrError(ctx, session, err)
		}),
		"create-as": returning(func(ctx context.Context, f *subject, seen *pgsession.Session) (*pgsession.Session, error) {
			return f.CreateAs(ctx, seen.ID, test.Ann(2), ttl)
		}),
		"create-as-parsed": returning(func(ctx context.Context, f *subject, seen *pgsession.Session) (*pgsession.Session, error) {
			return f.CreateAs(ctx, test.Parsed(seen.ID), test.Ann(2), ttl)
		}),
		"save": byID(func(ctx context.Context, f *subject, id pgsession.ID) error {
			return f.Save(ctx, id, test.Ann(2), ttl)
		}),
		"save-parsed": byID(func(ctx context.Context, f *subject, id pgsession.ID) error {
			return f.Save(ctx, test.Parsed(id), test.Ann(2), ttl)
		}),
		"put": byID(func(ctx context.Context, f *subject, id pgsession.ID) error {
			return f.Put(ctx, id, test.Ann(2), ttl)
		}),
		"put-parsed": byID(func(ctx context.Context, f *subject, id pgsession.ID) error {
			return f.Put(ctx, test.Parsed(id), test.Ann(2), ttl)
		}),
		"update": returning(func(ctx context.Context, f *subject, seen *pgsession.Session) (*pgsession.Session, error) {
			return f.Update(ctx, seen, ttl, test.Keep(2))
		}),
		"update-ttl-0": returning(func(ctx context.Context, f *subject, seen *pgsession.Session) (*pgsession.Session, error) {
			return f.Update(ctx, seen, 0, test.Keep(2))
		}),
		"update-unchanged": returning(func(ctx context.Context, f *subject, seen *pgsession.Session) (*pgsession.Session, error) {
			return f.Update(ctx, seen, 0, test.Keep(1))
		}),
		"update-unloaded": returning(func(ctx context.Context, f *subject, seen *pgsession.Session) (*pgsession.Session, error) {
			return f.Update(ctx, test.Unloaded(seen.ID), ttl, test.Keep(2))
		}),
		"update-listed": returning(func(ctx context.Context, f *subject, seen *pgsession.Session) (*pgsession.Session, error) {
			updated, err := f.Update(ctx, asListed(seen), ttl, test.Keep(2))
			if err == nil && updated.ID.IsZero() {
				updated.ID = seen.ID
			}
			return updated, err
		}),
		"touch": func(ctx context.Context, f *subject, seen *pgsession.Session) error {
			return test.Err(f.Touch(ctx, seen, 2*ttl))
		},
		"touch-ttl-0": func(ctx context.Context, f *subject, seen *pgsession.Session) error {
			return test.Err(f.Touch(ctx, seen, 0))
		},
		"touch-unloaded": func(ctx context.Context, f *subject, seen *pgsession.Session) error {
			return test.Err(f.Touch(ctx, test.Unloaded(seen.ID), 0))
		},
		"touch-listed": func(ctx context.Context, f *subject, seen *pgsession.Session) error {
			return test.Err(f.Touch(ctx, asListed(seen), 2*ttl))
		},
		"renew": returning(func(ctx context.Context, f *subject, seen *pgsession.Session) (*pgsession.Session, error) {
			return f.Renew(ctx, seen, ttl, writeBack)
		}),
		"renew-to-carol": returning(func(ctx context.Context, f *subject, seen *pgsession.Session) (*pgsession.Session, error) {
			return f.Renew(ctx, seen, 0, toCarol)
		}),
		"renew-unloaded": returning(func(ctx context.Context, f *subject, seen *pgsession.Session) (*pgsession.Session, error) {
			return f.Renew(ctx, test.Unloaded(test.Parsed(seen.ID)), 0, toCarol)
		}),
		"renew-listed": returning(func(ctx context.Context, f *subject, seen *pgsession.Session) (*pgsession.Session, error) {
			return f.Renew(ctx, asListed(seen), 0, toCarol)
		}),
		"cycle": byID(func(ctx context.Context, f *subject, id pgsession.ID) error {
			return f.Cycle(ctx, id, pgsession.NewID(), test.Ann(2), ttl)
		}),
		"cycle-to-parsed": byID(func(ctx context.Context, f *subject, id pgsession.ID) error {
			return f.Cycle(ctx, id, test.Parsed(pgsession.NewID()), test.Ann(2), ttl)
		}),
		"cycle-onto": byID(func(ctx context.Context, f *subject, id pgsession.ID) error {
			return f.cycleOnto(ctx, id)
		}),
		"cycle-onto-parsed": byID(func(ctx context.Context, f *subject, id pgsession.ID) error {
			return f.cycleOnto(ctx, test.Parsed(id))
		}),
		"cycle-onto-itself": byID(func(ctx context.Context, f *subject, id pgsession.ID) error {
			return f.Cycle(ctx, id, id, test.Ann(2), ttl)
		}),
		"delete": byID(func(ctx context.Context, f *subject, id pgsession.ID) error { return f.Delete(ctx, id) }),
		"delete-parsed": byID(func(ctx context.Context, f *subject, id pgsession.ID) error {
			return f.Delete(ctx, test.Parsed(id))
		}),
		"revoke": byID(func(ctx context.Context, f *subject, id pgsession.ID) error {
			return f.Revoke(ctx, "ann", id.Handle())
		}),
		"revoke-any": byID(func(ctx context.Context, f *subject, id pgsession.ID) error {
			return f.RevokeAny(ctx, id.Handle())
		}),
		"find-by-user": counting(func(ctx context.Context, f *subject) (int64, error) {
			found, err := f.FindByUser(ctx, "ann", 0)
			return int64(len(found)), err
		}),
		"all": counting(func(ctx context.Context, f *subject) (n int64, last error) {
			for session, err := range f.All(ctx) {
				if last = err; session != nil {
					n++
				}
			}
			return n, last
		}),
		"count": func(ctx context.Context, f *subject, _ *pgsession.Session) error {
			count, err := f.Count(ctx)
			if err != nil {
				return err
			}
			return countsError(count)
		},
		"delete-by-user": counting(func(ctx context.Context, f *subject) (int64, error) { return f.DeleteByUser(ctx, "ann") }),
		"limit-by-user":  counting(func(ctx context.Context, f *subject) (int64, error) { return f.LimitByUser(ctx, "ann", 1) }),
		"delete-all":     counting(func(ctx context.Context, f *subject) (int64, error) { return f.DeleteAll(ctx) }),
		"clean-up":       counting(func(ctx context.Context, f *subject) (int64, error) { return f.CleanupExpired(ctx) }),
		"reseal":         counting(func(ctx context.Context, f *subject) (int64, error) { return f.Reseal(ctx) }),

		// An entry whose key is the session's token is another row.
		"entry-get": byID(func(ctx context.Context, f *subject, id pgsession.ID) error {
			return test.Err(f.KeyValue().Get(ctx, id.Token()))
		}),
		"entry-take": byID(func(ctx context.Context, f *subject, id pgsession.ID) error {
			return test.Err(f.KeyValue().Take(ctx, id.Token()))
		}),
		"entry-put": byID(func(ctx context.Context, f *subject, id pgsession.ID) error {
			return f.KeyValue().Put(ctx, id.Token(), nil, ttl)
		}),
		"entry-delete": byID(func(ctx context.Context, f *subject, id pgsession.ID) error {
			return f.KeyValue().Delete(ctx, id.Token())
		}),
	}
}

// asListed returns a session as a list has it.
func asListed(session *pgsession.Session) *pgsession.Session {
	listed := *session
	listed.ID = pgsession.ID{}
	return &listed
}

// cycleOnto moves another session to the id.
func (f *subject) cycleOnto(ctx context.Context, id pgsession.ID) error {
	old, err := f.Create(ctx, pgsession.Data{UserID: "carol"}, time.Hour)
	if err != nil {
		return err
	}
	return f.Cycle(ctx, old.ID, id, test.Ann(2), time.Hour)
}

// countError gives the number that an operation returned, unless it is 0, a place in the table.
type countError int64

func (n countError) Error() string { return fmt.Sprint(int64(n)) }

func countedAs(n int64, err error) error {
	if err != nil || n == 0 {
		return err
	}
	return countError(n)
}

// countsError gives what Count returned a place in the table.
type countsError pgsession.Count

func (c countsError) Error() string {
	var text string
	for _, part := range []struct {
		name string
		n    int64
	}{{"User", c.Users}, {"Guest", c.Guests}, {"Expired", c.Expired}, {"Tombstone", c.Tombstones}, {"Entry", c.Entries}} {
		if part.n > 0 {
			text += fmt.Sprint(part.n, part.name)
		}
	}
	return cmp.Or(text, "none")
}

// conformance tells, for each operation on an id in each state, what comes of it: nil, an error's
// name or a number, and the state after it. A state before is one of sessionStates, a state after
// one of stateOf's.
const conformance = `
operation          absent            zero            guest             ann             bob               expired            past-lifetime      past-ends-at       ended             ended-expired    moved                  cleaned
load               NotFound/absent   NotFound/zero   nil/live          nil/live        nil/live          NotFound/expired   NotFound/expired   NotFound/expired   Revoked/ended     Revoked/ended    Revoked/ended          NotFound/absent
find               NotFound/absent   NotFound/zero   nil/live          nil/live        nil/live          NotFound/expired   NotFound/expired   NotFound/expired   Revoked/ended     Revoked/ended    Revoked/ended          NotFound/absent
create-as          nil/live          ForeignID/zero  Exists/live       Exists/live     Exists/live       Exists/expired     Exists/expired     Exists/expired     Exists/ended      Exists/ended     Exists/ended           nil/live
create-as-parsed   ForeignID/absent  ForeignID/zero  ForeignID/live    ForeignID/live  ForeignID/live    ForeignID/expired  ForeignID/expired  ForeignID/expired  ForeignID/ended   ForeignID/ended  ForeignID/ended        ForeignID/absent
save               NotFound/absent   NotFound/zero   UserChanged/live  nil/live        UserChanged/live  NotFound/expired   NotFound/expired   NotFound/expired   Revoked/ended     Revoked/ended    Revoked/ended          NotFound/absent
save-parsed        NotFound/absent   NotFound/zero   UserChanged/live  nil/live        UserChanged/live  NotFound/expired   NotFound/expired   NotFound/expired   Revoked/ended     Revoked/ended    Revoked/ended          NotFound/absent
put-parsed         NotFound/absent   NotFound/zero   UserChanged/live  nil/live        UserChanged/live  NotFound/expired   NotFound/expired   NotFound/expired   Revoked/ended     Revoked/ended    Revoked/ended          NotFound/absent
put                nil/live          NotFound/zero   UserChanged/live  nil/live        UserChanged/live  NotFound/expired   NotFound/expired   NotFound/expired   Revoked/ended     Revoked/ended    Revoked/ended          nil/live
update             NotFound/absent   NotFound/zero   nil/live          nil/live        nil/live          NotFound/expired   NotFound/expired   NotFound/expired   Revoked/ended     Revoked/ended    Revoked/ended          NotFound/absent
update-ttl-0       NotFound/absent   NotFound/zero   nil/live          nil/live        nil/live          NotFound/expired   NotFound/expired   NotFound/expired   Revoked/ended     Revoked/ended    Revoked/ended          NotFound/absent
update-unchanged   NotFound/absent   NotFound/zero   nil/live          nil/live        nil/live          NotFound/expired   NotFound/expired   NotFound/expired   Revoked/ended     Revoked/ended    Revoked/ended          NotFound/absent
update-unloaded    NotFound/absent   NotFound/zero   nil/live          nil/live        nil/live          NotFound/expired   NotFound/expired   NotFound/expired   Revoked/ended     Revoked/ended    Revoked/ended          NotFound/absent
update-listed      NotFound/absent   NotFound/zero   nil/live          nil/live        nil/live          NotFound/expired   NotFound/expired   NotFound/expired   Revoked/ended     Revoked/ended    Revoked/ended          NotFound/absent
touch              NotFound/absent   NotFound/zero   nil/live          nil/live        nil/live          NotFound/expired   NotFound/expired   NotFound/expired   Revoked/ended     Revoked/ended    Revoked/ended          NotFound/absent
touch-ttl-0        NotFound/absent   NotFound/zero   nil/live          nil/live        nil/live          NotFound/expired   NotFound/expired   NotFound/expired   Revoked/ended     Revoked/ended    Revoked/ended          NotFound/absent
touch-unloaded     NotFound/absent   NotFound/zero   nil/live          nil/live        nil/live          NotFound/expired   NotFound/expired   NotFound/expired   Revoked/ended     Revoked/ended    Revoked/ended          NotFound/absent
touch-listed       NotFound/absent   NotFound/zero   nil/live          nil/live        nil/live          NotFound/expired   NotFound/expired   NotFound/expired   Revoked/ended     Revoked/ended    Revoked/ended          NotFound/absent
renew              NotFound/absent   ForeignID/zero  nil/ended         nil/ended       nil/ended         NotFound/expired   NotFound/expired   NotFound/expired   Revoked/ended     Revoked/ended    Revoked/ended          NotFound/absent
renew-to-carol     NotFound/absent   ForeignID/zero  nil/ended         nil/ended       nil/ended         NotFound/expired   NotFound/expired   NotFound/expired   Revoked/ended     Revoked/ended    Revoked/ended          NotFound/absent
renew-unloaded     NotFound/absent   ForeignID/zero  nil/ended         nil/ended       nil/ended         NotFound/expired   NotFound/expired   NotFound/expired   Revoked/ended     Revoked/ended    Revoked/ended          NotFound/absent
renew-listed       ForeignID/absent  ForeignID/zero  ForeignID/live    ForeignID/live  ForeignID/live    ForeignID/expired  ForeignID/expired  ForeignID/expired  ForeignID/ended   ForeignID/ended  ForeignID/ended        ForeignID/absent
cycle              NotFound/absent   NotFound/zero   nil/ended         nil/ended       nil/ended         NotFound/expired   NotFound/expired   NotFound/expired   Revoked/ended     Revoked/ended    Revoked/ended          NotFound/absent
cycle-to-parsed    ForeignID/absent  NotFound/zero   ForeignID/live    ForeignID/live  ForeignID/live    ForeignID/expired  ForeignID/expired  ForeignID/expired  ForeignID/ended   ForeignID/ended  ForeignID/ended        ForeignID/absent
cycle-onto         nil/live          ForeignID/zero  Exists/live       Exists/live     Exists/live       Exists/expired     Exists/expired     Exists/expired     Exists/ended      Exists/ended     Exists/ended           nil/live
cycle-onto-parsed  ForeignID/absent  ForeignID/zero  ForeignID/live    ForeignID/live  ForeignID/live    ForeignID/expired  ForeignID/expired  ForeignID/expired  ForeignID/ended   ForeignID/ended  ForeignID/ended        ForeignID/absent
cycle-onto-itself  NotFound/absent   NotFound/zero   Exists/live       Exists/live     Exists/live       NotFound/expired   NotFound/expired   NotFound/expired   Revoked/ended     Revoked/ended    Revoked/ended          NotFound/absent
delete             nil/absent        nil/zero        nil/ended         nil/ended       nil/ended         nil/ended          nil/ended          nil/ended          nil/ended         nil/ended        nil/ended              nil/absent
delete-parsed      nil/absent        nil/zero        nil/ended         nil/ended       nil/ended         nil/ended          nil/ended          nil/ended          nil/ended         nil/ended        nil/ended              nil/absent
revoke             NotFound/absent   NotFound/zero   NotFound/live     nil/ended       NotFound/live     NotFound/ended     NotFound/ended     NotFound/ended     Revoked/ended     Revoked/ended    Revoked/ended          NotFound/absent
revoke-any         NotFound/absent   NotFound/zero   nil/ended         nil/ended       nil/ended         NotFound/ended     NotFound/ended     NotFound/ended     Revoked/ended     Revoked/ended    Revoked/ended          NotFound/absent
find-by-user       nil/absent        nil/zero        nil/live          1/live          nil/live          nil/expired        nil/expired        nil/expired        nil/ended         nil/ended        nil/ended              nil/absent
all                nil/absent        nil/zero        1/live            1/live          1/live            nil/expired        nil/expired        nil/expired        nil/ended         nil/ended        1/ended                nil/absent
count              none/absent       none/zero       1Guest/live       1User/live      1User/live        1Expired/expired   1Expired/expired   1Expired/expired   1Tombstone/ended  1Expired/ended   1User1Tombstone/ended  none/absent
delete-by-user     nil/absent        nil/zero        nil/live          1/ended         nil/live          nil/ended          nil/ended          nil/ended          nil/ended         nil/ended        nil/ended              nil/absent
limit-by-user      nil/absent        nil/zero        nil/live          nil/live        nil/live          nil/expired        nil/expired        nil/expired        nil/ended         nil/ended        nil/ended              nil/absent
delete-all         nil/absent        nil/zero        1/ended           1/ended         1/ended           nil/ended          nil/ended          nil/ended          nil/ended         nil/ended        1/ended                nil/absent
clean-up           nil/absent        nil/zero        nil/live          nil/live        nil/live          1/absent           1/absent           1/absent           nil/ended         1/absent         nil/ended              nil/absent
reseal             nil/absent        nil/zero        nil/live          nil/live        nil/live          nil/expired        nil/expired        nil/expired        nil/ended         nil/ended        nil/ended              nil/absent
entry-get          NotFound/absent   NotFound/zero   NotFound/live     NotFound/live   NotFound/live     NotFound/expired   NotFound/expired   NotFound/expired   NotFound/ended    NotFound/ended   NotFound/ended         NotFound/absent
entry-take         NotFound/absent   NotFound/zero   NotFound/live     NotFound/live   NotFound/live     NotFound/expired   NotFound/expired   NotFound/expired   NotFound/ended    NotFound/ended   NotFound/ended         NotFound/absent
entry-put          nil/absent        NotFound/zero   nil/live          nil/live        nil/live          nil/expired        nil/expired        nil/expired        nil/ended         nil/ended        nil/ended              nil/absent
entry-delete       nil/absent        nil/zero        nil/live          nil/live        nil/live          nil/expired        nil/expired        nil/expired        nil/ended         nil/ended        nil/ended              nil/absent
`

// writesLive names the operations that change a session and leave it live.
var writesLive = map[string]bool{
	"save": true, "save-parsed": true, "put": true, "put-parsed": true,
	"update": true, "update-ttl-0": true, "update-unloaded": true, "update-listed": true,
	"touch": true, "touch-ttl-0": true, "touch-unloaded": true, "touch-listed": true,
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

// meet runs an operation on a session in a state, and returns what comes of it.
func (f *subject) meet(t *testing.T, state, operation string) string {
	t.Helper()
	require.Contains(t, sessionOperations(), operation)
	require.Contains(t, sessionStates(), state)
	seen := sessionStates()[state](t, f)
	before, beforeErr := f.Load(t.Context(), seen.ID)
	err := sessionOperations()[operation](t.Context(), f, seen)
	after, afterErr := f.Load(t.Context(), seen.ID)
	if beforeErr == nil && afterErr == nil {
		changed := writesLive[operation] && err == nil
		require.Equal(t, changed, test.Version(before) != test.Version(after),
			"the version changes if and only if the session was written")
		if !changed {
			require.Equal(t, before, after)
		}
	}
	return errorName(err) + "/" + f.stateOf(t, seen.ID)
}
