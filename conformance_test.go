package pgsession_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
)

// The tests of this file, of behaviour_test.go and of property_test.go run on every kind of store. This
// is the place for what all kinds have in common: one operation on one session belongs in the table
// below, and what takes several steps in behaviour_test.go.

// A subject is an empty store of one kind. A store in memory has no pool and no table.
type subject struct {
	*fixture
	table string

	// beside returns another store on the same table, under the same clock. It is nil in memory.
	beside func(opts ...pgsession.Option) *pgsession.Store
}

// A newSubject makes subjects of one kind.
type newSubject func(t testing.TB, opts ...pgsession.Option) *subject

// storeKinds returns what makes a subject, for each kind of store.
func storeKinds(t testing.TB) map[string]newSubject {
	crypto := newCrypto(t, testKey, pgsession.GenerateKey()) // a user's rows may lie under two user keys
	return map[string]newSubject{
		"memory":    newSubjectInMemory,
		"plaintext": subjectsOnPostgreSQL(t, pgsession.Plaintext),
		"encrypted": subjectsOnPostgreSQL(t, func(pool *pgxpool.Pool, opts ...pgsession.Option) *pgsession.Store {
			return pgsession.New(pool, crypto, opts...)
		}),
	}
}

func newSubjectInMemory(_ testing.TB, opts ...pgsession.Option) *subject {
	clock := pgsession.NewManualClock(epoch)
	opts = append([]pgsession.Option{pgsession.WithClock(clock), quiet()}, opts...)
	return &subject{fixture: &fixture{Store: pgsession.InMemory(opts...), clock: clock}}
}

// subjectsOnPostgreSQL gives each store a table of its own, in one schema.
func subjectsOnPostgreSQL(t testing.TB, open opener) newSubject {
	pool := pgtest.Pool(t)
	var tables atomic.Int64
	return func(t testing.TB, opts ...pgsession.Option) *subject {
		t.Helper()
		table := "sessions_" + strconv.FormatInt(tables.Add(1), 10)
		clock := pgsession.NewManualClock(epoch)
		beside := func(opts ...pgsession.Option) *pgsession.Store {
			return open(pool, append([]pgsession.Option{pgsession.WithClock(clock), quiet(), pgsession.WithTable(table)}, opts...)...)
		}
		store := beside(opts...)
		require.NoError(t, store.Init(t.Context()))
		pgtest.AfterInit(t, pool, table)
		return &subject{&fixture{store, pool, clock}, table, beside}
	}
}

// conformanceLifetime is the absolute lifetime of the stores that the table is about.
const conformanceLifetime = 3 * time.Hour

// A sessionState makes an id that is in one state when an operation meets it.
type sessionState func(t testing.TB, f *subject) pgsession.ID

func sessionStates() map[string]sessionState {
	live := func(data pgsession.Data, ttl, age time.Duration) sessionState {
		return func(t testing.TB, f *subject) pgsession.ID {
			id := f.create(t, data, ttl)
			f.clock.Advance(age)
			return id
		}
	}
	ended := func(age time.Duration, end func(t testing.TB, f *subject, id pgsession.ID)) sessionState {
		return func(t testing.TB, f *subject) pgsession.ID {
			id := f.create(t, ann(1), time.Hour)
			end(t, f, id)
			f.clock.Advance(age)
			return id
		}
	}
	deleteIt := func(t testing.TB, f *subject, id pgsession.ID) { require.NoError(t, f.Delete(t.Context(), id)) }
	return map[string]sessionState{
		"absent": func(testing.TB, *subject) pgsession.ID { return pgsession.NewID() },
		"zero":   func(testing.TB, *subject) pgsession.ID { return pgsession.ID{} },

		// Live, and old enough for a touch.
		"guest": live(pgsession.Data{Values: 1}, time.Hour, 10*time.Minute),
		"ann":   live(ann(1), time.Hour, 10*time.Minute),
		"bob":   live(pgsession.Data{UserID: "bob", Values: 1}, time.Hour, 10*time.Minute),

		// Over, but not tombstones.
		"expired":       live(ann(1), time.Hour, time.Hour),
		"past-lifetime": live(ann(1), 10*time.Hour, conformanceLifetime),
		"past-ends-at":  live(pgsession.Data{UserID: "ann", Values: 1, Lifetime: 2 * time.Hour}, 10*time.Hour, 2*time.Hour),

		"ended":         ended(0, deleteIt),
		"ended-expired": ended(2*time.Hour, deleteIt), // a tombstone that the next clean-up removes
		"moved": ended(0, func(t testing.TB, f *subject, id pgsession.ID) {
			_, err := f.Renew(t.Context(), at(id), 0, func(*pgsession.Session) (pgsession.Data, error) {
				return pgsession.Data{UserID: "carol"}, nil
			})
			require.NoError(t, err)
		}),
		"cleaned": ended(0, func(t testing.TB, f *subject, id pgsession.ID) {
			deleteIt(t, f, id)
			f.clock.Advance(time.Hour)
			require.EqualValues(t, 1, f.cleanUp(t))
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
			session, err := f.CreateAs(ctx, id, ann(2), ttl)
			return f.eitherSessionOrError(ctx, session, err)
		},
		"create-as-parsed": func(ctx context.Context, f *subject, id pgsession.ID) error {
			session, err := f.CreateAs(ctx, asParsed(id), ann(2), ttl)
			return f.eitherSessionOrError(ctx, session, err)
		},
		"save": func(ctx context.Context, f *subject, id pgsession.ID) error {
			return f.Save(ctx, id, ann(2), ttl)
		},
		"save-parsed": func(ctx context.Context, f *subject, id pgsession.ID) error {
			return f.Save(ctx, asParsed(id), ann(2), ttl)
		},
		"put": func(ctx context.Context, f *subject, id pgsession.ID) error {
			return f.Put(ctx, id, ann(2), ttl)
		},
		"put-parsed": func(ctx context.Context, f *subject, id pgsession.ID) error {
			return f.Put(ctx, asParsed(id), ann(2), ttl)
		},
		"update": func(ctx context.Context, f *subject, id pgsession.ID) error {
			session, err := f.Update(ctx, at(id), ttl, two)
			return f.eitherSessionOrError(ctx, session, err)
		},
		"update-ttl-0": func(ctx context.Context, f *subject, id pgsession.ID) error {
			session, err := f.Update(ctx, at(id), 0, two)
			return f.eitherSessionOrError(ctx, session, err)
		},
		"update-unchanged": func(ctx context.Context, f *subject, id pgsession.ID) error {
			session, err := f.Update(ctx, at(id), 0, one)
			return f.eitherSessionOrError(ctx, session, err)
		},
		"touch": func(ctx context.Context, f *subject, id pgsession.ID) error {
			return second(f.Touch(ctx, at(id), 2*ttl))
		},
		"touch-ttl-0": func(ctx context.Context, f *subject, id pgsession.ID) error {
			return second(f.Touch(ctx, at(id), 0))
		},
		"renew": func(ctx context.Context, f *subject, id pgsession.ID) error {
			session, err := f.Renew(ctx, at(id), ttl, func(s *pgsession.Session) (pgsession.Data, error) { return s.Data(), nil })
			return f.eitherSessionOrError(ctx, session, err)
		},
		"renew-to-carol": func(ctx context.Context, f *subject, id pgsession.ID) error {
			session, err := f.Renew(ctx, at(id), 0, func(*pgsession.Session) (pgsession.Data, error) {
				return pgsession.Data{UserID: "carol"}, nil
			})
			return f.eitherSessionOrError(ctx, session, err)
		},
		"cycle": func(ctx context.Context, f *subject, id pgsession.ID) error {
			return f.Cycle(ctx, id, pgsession.NewID(), ann(2), ttl)
		},
		"cycle-to-parsed": func(ctx context.Context, f *subject, id pgsession.ID) error {
			return f.Cycle(ctx, id, asParsed(pgsession.NewID()), ann(2), ttl)
		},
		"cycle-onto": func(ctx context.Context, f *subject, id pgsession.ID) error {
			old, err := f.Create(ctx, pgsession.Data{UserID: "carol"}, ttl)
			if err != nil {
				return err
			}
			return f.Cycle(ctx, old.ID, id, ann(2), ttl)
		},
		"cycle-onto-parsed": func(ctx context.Context, f *subject, id pgsession.ID) error {
			old, err := f.Create(ctx, pgsession.Data{UserID: "carol"}, ttl)
			if err != nil {
				return err
			}
			return f.Cycle(ctx, old.ID, asParsed(id), ann(2), ttl)
		},
		"cycle-onto-itself": func(ctx context.Context, f *subject, id pgsession.ID) error {
			return f.Cycle(ctx, id, id, ann(2), ttl)
		},
		"delete": func(ctx context.Context, f *subject, id pgsession.ID) error { return f.Delete(ctx, id) },
		"delete-parsed": func(ctx context.Context, f *subject, id pgsession.ID) error {
			return f.Delete(ctx, asParsed(id))
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
			return second(f.KeyValue().Get(ctx, id.Token()))
		},
		"entry-take": func(ctx context.Context, f *subject, id pgsession.ID) error {
			return second(f.KeyValue().Take(ctx, id.Token()))
		},
		"entry-put": func(ctx context.Context, f *subject, id pgsession.ID) error {
			return f.KeyValue().Put(ctx, id.Token(), nil, ttl)
		},
		"entry-delete": func(ctx context.Context, f *subject, id pgsession.ID) error {
			return f.KeyValue().Delete(ctx, id.Token())
		},
	}
}

// asParsed returns the id as a request's cookie gives it.
func asParsed(id pgsession.ID) pgsession.ID {
	if id.IsZero() {
		return id
	}
	return must(pgsession.ParseID(id.Token()))
}

// eitherSessionOrError returns err, or another error if an operation returned a session and an error,
// neither, or a session that is not as a load gives it.
func (f *subject) eitherSessionOrError(ctx context.Context, session *pgsession.Session, err error) error {
	if (session == nil) == (err == nil) {
		return fmt.Errorf("either a session or an error: %v, %w", session, err)
	}
	if err != nil {
		return err
	}
	loaded, err := f.Load(ctx, session.ID)
	if err != nil {
		return fmt.Errorf("what was returned does not load: %w", err)
	}
	for _, s := range []*pgsession.Session{session, loaded} {
		if s.ID.Handle() != s.Handle || s.Handle.IsZero() {
			return fmt.Errorf("id %v under handle %v", s.ID, s.Handle)
		}
	}
	if got, want := describe(session), describe(loaded); got != want || version(session) != version(loaded) {
		return fmt.Errorf("returned %s, version %d; loaded %s, version %d", got, version(session), want, version(loaded))
	}
	return nil
}

// describe returns all of a session but its version and its id.
func describe(session *pgsession.Session) string {
	data := session.Data()
	if values, ok := data.Values.(json.RawMessage); ok {
		var v any
		err := json.Unmarshal(values, &v) // PostgreSQL keeps no white space
		data.Values = fmt.Sprint("JSON ", v, err)
	}
	return fmt.Sprintf("user %q, values %v, created at %v, expires at %v, ends at %v, idle timeout %v, ttl %v",
		data.UserID, data.Values, session.CreatedAt, session.ExpiresAt, session.EndsAt, session.IdleTimeout, session.Remaining())
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
		require.Equal(t, changed, version(before) != version(after), "the version changes if and only if the session was written")
		if !changed {
			require.Equal(t, before, after)
		}
	}
	return errorName(err) + "/" + f.stateOf(t, id)
}

// stateOf finds out in which state an id is. It may begin a session under it.
func (f *subject) stateOf(t testing.TB, id pgsession.ID) string {
	t.Helper()
	if id.IsZero() {
		return "zero"
	}
	_, err := f.Load(t.Context(), id)
	switch errorName(err) {
	case "nil":
		return "live"
	case "Revoked":
		return "ended"
	}
	require.Equal(t, "NotFound", errorName(err))
	if _, err = f.CreateAs(t.Context(), id, pgsession.Data{}, time.Hour); err == nil {
		return "absent"
	}
	require.ErrorIs(t, err, pgsession.ErrExists)
	return "expired"
}

// errorName returns the name of a sentinel error, without its Err. The text of one that has no name is
// returned as it is.
func errorName(err error) string {
	var n countError
	switch {
	case err == nil:
		return "nil"
	case errors.As(err, &n):
		return n.Error()
	}
	for _, sentinel := range []struct {
		name string
		err  error
	}{
		{"Revoked", pgsession.ErrRevoked},     // also ErrNotFound
		{"InvalidID", pgsession.ErrInvalidID}, // also ErrNotFound
		{"ForeignID", pgsession.ErrForeignID},
		{"NotFound", pgsession.ErrNotFound},
		{"Exists", pgsession.ErrExists},
		{"UserChanged", pgsession.ErrUserChanged},
		{"Conflict", pgsession.ErrConflict},
		{"InvalidTTL", pgsession.ErrInvalidTTL},
		{"TooLarge", pgsession.ErrTooLarge},
		{"Encode", pgsession.ErrEncode},
		{"Decode", pgsession.ErrDecode},
		{"Tampered", pgsession.ErrTampered},
		{"UnknownKey", pgsession.ErrUnknownKey},
		{"Schema", pgsession.ErrSchema},
	} {
		if errors.Is(err, sentinel.err) {
			if sentinel.name == "Revoked" || sentinel.name == "InvalidID" {
				if !errors.Is(err, pgsession.ErrNotFound) {
					return sentinel.name + " that is not NotFound"
				}
			}
			return sentinel.name
		}
	}
	return err.Error()
}

type cyclicValues struct{ Next *cyclicValues }

// longestTTL is the longest ttl that is allowed.
const longestTTL = 100 * 365 * 24 * time.Hour

func TestConformance_Input(t *testing.T) {
	t.Parallel()
	const maxSize = 100
	round := &cyclicValues{}
	round.Next = round
	quoted := func(size int) string { return strings.Repeat("x", size-len(`""`)) }
	cases := []struct {
		name   string
		userID string
		values any
		ttl    time.Duration
		want   string
	}{
		{"ttl of 0", "ann", 1, 0, "InvalidTTL"},
		{"negative ttl", "ann", 1, -time.Second, "InvalidTTL"},
		{"least ttl", "ann", 1, math.MinInt64, "InvalidTTL"},
		{"largest ttl", "ann", 1, math.MaxInt64, "InvalidTTL"},
		{"ttl over the longest", "ann", 1, longestTTL + 1, "InvalidTTL"},
		{"longest ttl", "ann", 1, longestTTL, "nil"},
		{"ttl of a nanosecond", "ann", 1, 1, "nil"},
		{"channel", "ann", make(chan int), time.Hour, "Encode"},
		{"function", "ann", func() {}, time.Hour, "Encode"},
		{"NaN", "ann", math.NaN(), time.Hour, "Encode"},
		{"infinity", "ann", math.Inf(1), time.Hour, "Encode"},
		{"cyclic", "ann", round, time.Hour, "Encode"},
		{"bytes of the largest size", "ann", make([]byte, maxSize), time.Hour, "nil"},
		{"bytes too large", "ann", make([]byte, maxSize+1), time.Hour, "TooLarge"},
		{"JSON of the largest size", "ann", quoted(maxSize), time.Hour, "nil"},
		{"JSON too large", "ann", quoted(maxSize + 1), time.Hour, "TooLarge"},
		{"no values", "ann", nil, time.Hour, "nil"},
		{"no bytes", "ann", []byte(nil), time.Hour, "nil"},
		{"guest", "", 1, time.Hour, "nil"},
		{"user id of 1,000 bytes", strings.Repeat("a", 1000), 1, time.Hour, "nil"},
		{"user id of 1,001 bytes", strings.Repeat("a", 1001), 1, time.Hour, "TooLarge"},
		{"user id of 1 MiB", strings.Repeat("a", 1<<20), 1, time.Hour, "TooLarge"},
		{"user id with NUL", "a\x00b", 1, time.Hour, "nil"},
		{"user id that is not UTF-8", "a\xff", 1, time.Hour, "nil"},
		{"bad ttl before bad values", "ann", math.NaN(), 0, "InvalidTTL"},
		{"long user id before bad values", strings.Repeat("a", 1001), math.NaN(), time.Hour, "TooLarge"},
	}
	for kind, newSubject := range storeKinds(t) {
		for _, c := range cases {
			t.Run(kind+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				ctx := t.Context()
				f := newSubject(t, pgsession.WithMaxSize(maxSize))
				data := pgsession.Data{UserID: c.userID, Values: c.values}

				created, err := f.Create(ctx, data, c.ttl)
				require.Equal(t, c.want, errorName(f.eitherSessionOrError(ctx, created, err)), "create")
				derived := pgsession.DeriveID(c.name)
				createdAs, err := f.CreateAs(ctx, derived, data, c.ttl)
				require.Equal(t, c.want, errorName(f.eitherSessionOrError(ctx, createdAs, err)), "create as")
				put := pgsession.NewID()
				require.Equal(t, c.want, errorName(f.Put(ctx, put, data, c.ttl)), "put")
				require.Equal(t, c.want, errorName(f.Put(ctx, put, data, c.ttl)), "put again")

				// A session that takes the data if any does.
				user := pgsession.Data{UserID: c.userID, Values: 0}
				if len(user.UserID) > 1000 {
					user.UserID = "ann"
				}
				old := f.create(t, user, time.Hour)
				before := f.load(t, old)
				require.Equal(t, c.want, errorName(f.Save(ctx, old, data, c.ttl)), "save")
				if len(c.userID) <= 1000 && c.ttl != 0 {
					updated, err := f.Update(ctx, at(old), c.ttl, func(*pgsession.Session) (any, error) { return c.values, nil })
					require.Equal(t, c.want, errorName(f.eitherSessionOrError(ctx, updated, err)), "update")
				}
				if c.want == "InvalidTTL" {
					require.ErrorIs(t, f.KeyValue().Put(ctx, "key", nil, c.ttl), pgsession.ErrInvalidTTL)
					if c.ttl != 0 {
						require.ErrorIs(t, second(f.Touch(ctx, at(old), c.ttl)), pgsession.ErrInvalidTTL)
					}
				}
				next := pgsession.NewID()
				renew := func(id pgsession.ID) (*pgsession.Session, error) {
					return f.Renew(ctx, at(id), c.ttl, func(*pgsession.Session) (pgsession.Data, error) { return data, nil })
				}
				if c.want != "nil" {
					require.Equal(t, before, f.load(t, old), "a refused write changes nothing")
					require.Equal(t, c.want, errorName(f.Cycle(ctx, old, next, data, c.ttl)), "cycle")
					if c.ttl != 0 {
						renewed, err := renew(old)
						require.Equal(t, c.want, errorName(f.eitherSessionOrError(ctx, renewed, err)), "renew")
					}
					require.Equal(t, before, f.load(t, old), "nor does a refused cycle or renew")
					require.Equal(t, "1", errorName(sessionOperations()["all"](ctx, f, old)), "nothing else is stored")
					return
				}
				require.NoError(t, f.Cycle(ctx, old, next, data, c.ttl))
				renewed, err := renew(created.ID)
				require.NoError(t, f.eitherSessionOrError(ctx, renewed, err))
				for _, id := range []pgsession.ID{renewed.ID, derived, put, next} {
					session := f.load(t, id)
					require.Equal(t, c.userID, session.UserID)
					require.Equal(t, max(c.ttl, time.Microsecond), session.Remaining())
					require.Equal(t, max(c.ttl, time.Microsecond), session.IdleTimeout)
				}
				wanted := 4
				if c.userID == "" {
					wanted = 0
				}
				found, err := f.FindByUser(ctx, c.userID, 0)
				require.NoError(t, err)
				require.Len(t, found, wanted)
				ended, err := f.DeleteByUser(ctx, c.userID)
				require.NoError(t, err)
				require.EqualValues(t, wanted, ended)
			})
		}
		t.Run(kind+"/lists of a user id that is too long", func(t *testing.T) {
			t.Parallel()
			f, long := newSubject(t), strings.Repeat("a", 1001)
			require.ErrorIs(t, second(f.FindByUser(t.Context(), long, 0)), pgsession.ErrTooLarge)
			require.ErrorIs(t, second(f.DeleteByUser(t.Context(), long)), pgsession.ErrTooLarge)
			require.ErrorIs(t, f.Revoke(t.Context(), long, pgsession.NewID().Handle()), pgsession.ErrTooLarge)
			require.ErrorIs(t, f.Revoke(t.Context(), "", pgsession.NewID().Handle()), pgsession.ErrNotFound)
		})
		t.Run(kind+"/ttl past the year 9999", func(t *testing.T) {
			t.Parallel()
			f := newSubject(t)
			f.clock.Set(time.Date(9999, 12, 31, 23, 0, 0, 0, time.UTC))
			require.ErrorIs(t, second(f.Create(t.Context(), ann(1), time.Hour)), pgsession.ErrInvalidTTL)
			f.load(t, f.create(t, ann(1), time.Hour-time.Microsecond))
		})
		t.Run(kind+"/absolute lifetime of 292 years", func(t *testing.T) {
			t.Parallel()
			f := newSubject(t, pgsession.WithAbsoluteLifetime(math.MaxInt64))
			session := f.load(t, f.create(t, ann(1), time.Hour))
			require.Equal(t, time.Hour, session.Remaining())
			require.Equal(t, epoch.Year()+292, session.EndsAt.Year())
		})
	}
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
		{"a nanosecond", 1, epoch.Add(time.Microsecond).String(), time.Microsecond},
		{"not in whole microseconds", 1001, epoch.Add(2 * time.Microsecond).String(), 2 * time.Microsecond},
		{"shorter than the ttl", time.Hour, epoch.Add(time.Hour).String(), time.Hour},
		{"the ttl", ttl, epoch.Add(ttl).String(), ttl},
		{"longer than the ttl", 3 * time.Hour, epoch.Add(3 * time.Hour).String(), ttl},
		{"the longest", longestTTL, epoch.Add(longestTTL).String(), ttl},
		{"over the longest", longestTTL + 1, "InvalidTTL", 0},
		{"the largest", math.MaxInt64, "InvalidTTL", 0},
	}
	for kind, newSubject := range storeKinds(t) {
		for _, c := range cases {
			for name, begin := range logIns() {
				t.Run(kind+"/"+c.name+"/"+name, func(t *testing.T) {
					t.Parallel()
					f := newSubject(t)
					guests := f.create(t, pgsession.Data{}, time.Hour)
					before := f.load(t, guests)
					session, err := begin(t.Context(), f, guests, pgsession.Data{UserID: "ann", Lifetime: c.lifetime}, ttl)
					if err != nil {
						require.Equal(t, c.want, errorName(err))
						require.Equal(t, before, f.load(t, guests), "nothing was written")
						require.Equal(t, "1", errorName(sessionOperations()["all"](t.Context(), f, guests)))
						return
					}
					require.Equal(t, c.want, session.EndsAt.String())
					require.Equal(t, epoch.Add(c.expires), session.ExpiresAt)
					require.Equal(t, ttl, session.IdleTimeout)
				})
			}
			t.Run(kind+"/"+c.name+"/save", func(t *testing.T) {
				t.Parallel()
				f := newSubject(t)
				id := f.create(t, ann(1), time.Hour)
				before := f.load(t, id)
				for name, write := range map[string]func(context.Context, pgsession.ID, pgsession.Data, time.Duration) error{
					"save": f.Save, "put": f.Put,
				} {
					err := write(t.Context(), id, pgsession.Data{UserID: "ann", Lifetime: c.lifetime, Values: 1}, ttl)
					if c.want == "InvalidTTL" {
						require.ErrorIs(t, err, pgsession.ErrInvalidTTL, name)
						require.Equal(t, before, f.load(t, id), name)
						continue
					}
					require.NoError(t, err, name)
					require.Zero(t, f.load(t, id).EndsAt, "%s: it counts where a log-in begins", name)
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
			session, err := f.Renew(ctx, at(guests), ttl, func(*pgsession.Session) (pgsession.Data, error) { return data, nil })
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
				id := f.create(t, ann(1), time.Hour)
				before := f.load(t, id)

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
				require.Equal(t, before, f.load(t, id))
			})
		}
		t.Run(kind+"/others", func(t *testing.T) {
			t.Parallel()
			f := newSubject(t)
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			for name, err := range map[string]error{
				"init":   f.Init(ctx),
				"create": second(f.Create(ctx, ann(1), time.Hour)),
				"check":  f.Check(ctx),
				"prune":  second(f.KeyValue().PruneExpired(ctx)),
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

func TestWithTimeout_Panics(t *testing.T) {
	t.Parallel()
	require.PanicsWithValue(t, "pgsession: WithTimeout: negative duration", func() { pgsession.InMemory(pgsession.WithTimeout(-1)) })
	require.NotPanics(t, func() { pgsession.InMemory(pgsession.WithTimeout(0)) })
}
