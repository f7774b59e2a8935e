package pgsessiontest_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
)

const absoluteLifetime = 3 * time.Hour

func ann(values any) pgsession.Data { return pgsession.Data{UserID: "ann", Values: values} }

// states returns what an id may be in when an operation meets it: each makes it so, in
// a store with an absolute lifetime.
func states() map[string]func(testing.TB, fixture) pgsession.ID {
	create := func(t testing.TB, f fixture, userID string, ttl time.Duration) pgsession.ID {
		id, err := f.Create(t.Context(), pgsession.Data{UserID: userID, Values: 1}, ttl)
		require.NoError(t, err)
		return id
	}
	return map[string]func(testing.TB, fixture) pgsession.ID{
		"absent": func(testing.TB, fixture) pgsession.ID { return pgsession.NewID() },
		"zero":   func(testing.TB, fixture) pgsession.ID { return pgsession.ID{} },
		"guest":  func(t testing.TB, f fixture) pgsession.ID { return create(t, f, "", time.Hour) },
		"ann":    func(t testing.TB, f fixture) pgsession.ID { return create(t, f, "ann", time.Hour) },
		"bob":    func(t testing.TB, f fixture) pgsession.ID { return create(t, f, "bob", time.Hour) },
		"expired": func(t testing.TB, f fixture) pgsession.ID {
			id := create(t, f, "ann", time.Hour)
			f.clock.Advance(time.Hour)
			return id
		},
		"ended": func(t testing.TB, f fixture) pgsession.ID {
			id := create(t, f, "ann", time.Hour)
			require.NoError(t, f.Delete(t.Context(), id))
			return id
		},
		"cleaned": func(t testing.TB, f fixture) pgsession.ID {
			id := create(t, f, "ann", time.Hour)
			require.NoError(t, f.Delete(t.Context(), id))
			f.clock.Advance(time.Hour)
			removed, err := f.CleanupExpired(t.Context())
			require.NoError(t, err)
			require.EqualValues(t, 1, removed)
			return id
		},
		"too-old": func(t testing.TB, f fixture) pgsession.ID {
			id := create(t, f, "ann", 10*time.Hour)
			f.clock.Advance(absoluteLifetime)
			return id
		},
	}
}

// operations returns what may be done to an id.
func operations() map[string]func(context.Context, fixture, pgsession.ID) error {
	return map[string]func(context.Context, fixture, pgsession.ID) error{
		"load": func(ctx context.Context, f fixture, id pgsession.ID) error {
			session, err := f.Load(ctx, id)
			if (session == nil) == (err == nil) {
				return fmt.Errorf("either a session or an error: %v, %w", session, err)
			}
			return err
		},
		"save": func(ctx context.Context, f fixture, id pgsession.ID) error {
			return f.Save(ctx, id, ann(2), time.Hour)
		},
		"update": func(ctx context.Context, f fixture, id pgsession.ID) error {
			return f.Update(ctx, id, time.Hour, func(*pgsession.Session) (any, error) { return 2, nil })
		},
		"touch": func(ctx context.Context, f fixture, id pgsession.ID) error {
			return f.Touch(ctx, id, 2*time.Hour)
		},
		"cycle": func(ctx context.Context, f fixture, id pgsession.ID) error {
			return f.Cycle(ctx, id, pgsession.NewID(), ann(2), time.Hour)
		},
		"cycle-onto": func(ctx context.Context, f fixture, id pgsession.ID) error {
			old, err := f.Create(ctx, pgsession.Data{UserID: "carol"}, time.Hour)
			if err != nil {
				return err
			}
			return f.Cycle(ctx, old, id, ann(2), time.Hour)
		},
		"cycle-itself": func(ctx context.Context, f fixture, id pgsession.ID) error {
			return f.Cycle(ctx, id, id, ann(2), time.Hour)
		},
		"delete": func(ctx context.Context, f fixture, id pgsession.ID) error { return f.Delete(ctx, id) },
		"put": func(ctx context.Context, f fixture, id pgsession.ID) error {
			return f.Put(ctx, id, ann(2), time.Hour)
		},
		"revoke": func(ctx context.Context, f fixture, id pgsession.ID) error {
			return f.Revoke(ctx, "ann", id.Handle())
		},
		"revoke-any": func(ctx context.Context, f fixture, id pgsession.ID) error {
			return f.RevokeAny(ctx, id.Handle())
		},
		"find-by-user": func(ctx context.Context, f fixture, _ pgsession.ID) error {
			found, err := f.FindByUser(ctx, "ann", 0)
			return counted(len(found), err)
		},
		"all": func(ctx context.Context, f fixture, _ pgsession.ID) error {
			n := 0
			for _, err := range f.All(ctx) {
				if err != nil {
					return err
				}
				n++
			}
			return counted(n, nil)
		},
		"delete-by-user": func(ctx context.Context, f fixture, _ pgsession.ID) error {
			n, err := f.DeleteByUser(ctx, "ann")
			return counted(n, err)
		},
		"delete-all": func(ctx context.Context, f fixture, _ pgsession.ID) error {
			n, err := f.DeleteAll(ctx)
			return counted(n, err)
		},
		"clean-up": func(ctx context.Context, f fixture, _ pgsession.ID) error {
			n, err := f.CleanupExpired(ctx)
			return counted(n, err)
		},
		"reseal": func(ctx context.Context, f fixture, _ pgsession.ID) error {
			n, err := f.Reseal(ctx)
			return counted(n, err)
		},
	}
}

// errCount gives the number that an operation returned, where it is not 0, a place in
// the table.
type errCount int64

func (n errCount) Error() string { return fmt.Sprint(int64(n)) }

func counted[N int | int64](n N, err error) error {
	if err != nil || n == 0 {
		return err
	}
	return errCount(n)
}

// conformance tells, for each operation in each state, what comes of it: nil, an error's
// name or a number, and the state after it.
const conformance = `
operation       absent           zero           guest             ann              bob               expired           ended            cleaned          too-old
load            NotFound/absent  NotFound/zero  nil/live          nil/live         nil/live          NotFound/expired  NotFound/ended   NotFound/absent  NotFound/expired
save            NotFound/absent  NotFound/zero  UserChanged/live  nil/live         UserChanged/live  NotFound/expired  NotFound/ended   NotFound/absent  NotFound/expired
update          NotFound/absent  NotFound/zero  nil/live          nil/live         nil/live          NotFound/expired  NotFound/ended   NotFound/absent  NotFound/expired
touch           NotFound/absent  NotFound/zero  nil/live          nil/live         nil/live          NotFound/expired  NotFound/ended   NotFound/absent  NotFound/expired
cycle           NotFound/absent  NotFound/zero  nil/ended         nil/ended        nil/ended         NotFound/expired  NotFound/ended   NotFound/absent  NotFound/expired
cycle-onto      nil/live         NotFound/zero  Exists/live       Exists/live      Exists/live       Exists/expired    Exists/ended     nil/live         Exists/expired
cycle-itself    NotFound/absent  NotFound/zero  Exists/live       Exists/live      Exists/live       NotFound/expired  NotFound/ended   NotFound/absent  NotFound/expired
delete          nil/absent       nil/zero       nil/ended         nil/ended        nil/ended         nil/ended         nil/ended        nil/absent       nil/ended
put             nil/live         NotFound/zero  UserChanged/live  nil/live         UserChanged/live  nil/live          Revoked/ended    nil/live         nil/live
revoke          NotFound/absent  NotFound/zero  NotFound/live     nil/ended        NotFound/live     NotFound/ended    NotFound/ended   NotFound/absent  NotFound/ended
revoke-any      NotFound/absent  NotFound/zero  nil/ended         nil/ended        nil/ended         NotFound/ended    NotFound/ended   NotFound/absent  NotFound/ended
find-by-user    nil/absent       nil/zero       nil/live          1/live           nil/live          nil/expired       nil/ended        nil/absent       nil/expired
all             nil/absent       nil/zero       1/live            1/live           1/live            nil/expired       nil/ended        nil/absent       nil/expired
delete-by-user  nil/absent       nil/zero       nil/live          1/ended          nil/live          nil/ended         nil/ended        nil/absent       nil/ended
delete-all      nil/absent       nil/zero       1/ended           1/ended          1/ended           nil/ended         nil/ended        nil/absent       nil/ended
clean-up        nil/absent       nil/zero       nil/live          nil/live         nil/live          1/absent          nil/ended        nil/absent       nil/expired
reseal          nil/absent       nil/zero       nil/live          nil/live         nil/live          nil/expired       nil/ended        nil/absent       nil/expired
`

// writes names the operations that change a session which stays live.
var writes = map[string]bool{"save": true, "update": true, "touch": true, "put": true}

func TestConformance(t *testing.T) {
	t.Parallel()
	lines := strings.Split(strings.TrimSpace(conformance), "\n")
	names := strings.Fields(lines[0])[1:]
	require.Len(t, lines, 1+len(operations()))
	require.Len(t, names, len(states()))
	for kind, newStore := range kinds(t) {
		for _, line := range lines[1:] {
			cells := strings.Fields(line)
			for i, want := range cells[1:] {
				t.Run(kind+"/"+cells[0]+"/"+names[i], func(t *testing.T) {
					t.Parallel()
					f := newStore(t, pgsession.WithAbsoluteLifetime(absoluteLifetime))
					require.Equal(t, want, f.meet(t, names[i], cells[0]))
				})
			}
		}
	}
}

// meet runs an operation on an id in a state, and returns what comes of it.
func (f fixture) meet(t *testing.T, state, operation string) string {
	t.Helper()
	require.Contains(t, operations(), operation)
	require.Contains(t, states(), state)
	id := states()[state](t, f)
	before, beforeErr := f.Load(t.Context(), id)
	err := operations()[operation](t.Context(), f, id)
	after, afterErr := f.Load(t.Context(), id)
	if beforeErr == nil && afterErr == nil {
		changed := writes[operation] && err == nil
		require.Equal(t, changed, before.Version != after.Version, "the version, if and only if it was written")
		if !changed {
			require.Equal(t, before, after)
		}
	}
	return nameOf(err) + "/" + f.stateOf(t, id)
}

// stateOf finds out in which state an id is, and leaves it in another.
func (f fixture) stateOf(t *testing.T, id pgsession.ID) string {
	t.Helper()
	if id.IsZero() {
		return "zero"
	}
	_, err := f.Load(t.Context(), id)
	if err == nil {
		return "live"
	}
	require.ErrorIs(t, err, pgsession.ErrNotFound)
	old, err := f.Create(t.Context(), pgsession.Data{}, time.Hour)
	require.NoError(t, err)
	if err := f.Cycle(t.Context(), old, id, pgsession.Data{}, time.Hour); err == nil {
		return "absent"
	}
	if err := f.Put(t.Context(), id, pgsession.Data{}, time.Hour); err == nil {
		return "expired"
	}
	return "ended"
}

// nameOf returns the name of a sentinel error, without its Err.
func nameOf(err error) string {
	var n errCount
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
		{"Revoked", pgsession.ErrRevoked}, // which is also ErrNotFound
		{"InvalidID", pgsession.ErrInvalidID},
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
			return sentinel.name
		}
	}
	return err.Error()
}

type cycle struct{ Next *cycle }

// longest is the longest ttl.
const longest = 100 * 365 * 24 * time.Hour

func TestConformance_Input(t *testing.T) {
	t.Parallel()
	const maxSize = 100
	round := &cycle{}
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
		{"ttl over the longest", "ann", 1, longest + 1, "InvalidTTL"},
		{"longest ttl", "ann", 1, longest, "nil"},
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
	for kind, newStore := range kinds(t) {
		for _, c := range cases {
			t.Run(kind+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				ctx := t.Context()
				f := newStore(t, pgsession.WithMaxSize(maxSize))
				data := pgsession.Data{UserID: c.userID, Values: c.values}

				created, err := f.Create(ctx, data, c.ttl)
				require.Equal(t, c.want, nameOf(err), "create")
				require.Equal(t, err != nil, created.IsZero())
				derived := pgsession.DeriveID(c.name)
				require.Equal(t, c.want, nameOf(f.Put(ctx, derived, data, c.ttl)), "put")
				require.Equal(t, c.want, nameOf(f.Put(ctx, derived, data, c.ttl)), "put again")

				// A session that takes the data if any does.
				user := pgsession.Data{UserID: c.userID, Values: 0}
				if len(user.UserID) > 1000 {
					user.UserID = "ann"
				}
				old, err := f.Create(ctx, user, time.Hour)
				require.NoError(t, err)
				before, err := f.Load(ctx, old)
				require.NoError(t, err)
				require.Equal(t, c.want, nameOf(f.Save(ctx, old, data, c.ttl)), "save")
				if len(c.userID) <= 1000 && c.ttl != 0 {
					err = f.Update(ctx, old, c.ttl, func(*pgsession.Session) (any, error) { return c.values, nil })
					require.Equal(t, c.want, nameOf(err), "update")
				}
				if c.want == "InvalidTTL" {
					require.ErrorIs(t, f.Touch(ctx, old, c.ttl), pgsession.ErrInvalidTTL)
					require.ErrorIs(t, f.keyValue.Put(ctx, "key", nil, c.ttl), pgsession.ErrInvalidTTL)
				}
				next := pgsession.NewID()
				if c.want != "nil" {
					after, err := f.Load(ctx, old)
					require.NoError(t, err)
					require.Equal(t, before, after, "a refused write changes nothing")
					require.Equal(t, c.want, nameOf(f.Cycle(ctx, old, next, data, c.ttl)), "cycle")
					_, err = f.Load(ctx, old)
					require.NoError(t, err, "nor does a refused cycle")
					return
				}
				require.NoError(t, f.Cycle(ctx, old, next, data, c.ttl))
				for _, id := range []pgsession.ID{created, derived, next} {
					session, err := f.Load(ctx, id)
					require.NoError(t, err)
					require.Equal(t, c.userID, session.UserID)
					require.Equal(t, max(c.ttl, time.Microsecond), session.TTL())
				}
				wanted := 3
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
			f, long := newStore(t), strings.Repeat("a", 1001)
			_, err := f.FindByUser(t.Context(), long, 0)
			require.ErrorIs(t, err, pgsession.ErrTooLarge)
			_, err = f.DeleteByUser(t.Context(), long)
			require.ErrorIs(t, err, pgsession.ErrTooLarge)
			require.ErrorIs(t, f.Revoke(t.Context(), long, pgsession.NewID().Handle()), pgsession.ErrTooLarge)
			require.ErrorIs(t, f.Revoke(t.Context(), "", pgsession.NewID().Handle()), pgsession.ErrNotFound)
		})
		t.Run(kind+"/ttl past the year 9999", func(t *testing.T) {
			t.Parallel()
			f := newStore(t)
			f.clock.Set(time.Date(9999, 12, 31, 23, 0, 0, 0, time.UTC))
			_, err := f.Create(t.Context(), ann(1), time.Hour)
			require.ErrorIs(t, err, pgsession.ErrInvalidTTL)
			id, err := f.Create(t.Context(), ann(1), time.Hour-time.Microsecond)
			require.NoError(t, err)
			_, err = f.Load(t.Context(), id)
			require.NoError(t, err)
		})
	}
}

func TestConformance_CancelledContext(t *testing.T) {
	t.Parallel()
	for kind, newStore := range kinds(t) {
		for name, operation := range operations() {
			t.Run(kind+"/"+name, func(t *testing.T) {
				t.Parallel()
				f := newStore(t)
				id, err := f.Create(t.Context(), ann(1), time.Hour)
				require.NoError(t, err)
				before, err := f.Load(t.Context(), id)
				require.NoError(t, err)

				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				err = operation(ctx, f, id)
				if kind == "plaintext" && name == "reseal" {
					require.NoError(t, err, "there is nothing to do")
				} else {
					require.ErrorIs(t, err, context.Canceled)
					require.NotErrorIs(t, err, pgsession.ErrNotFound)
					require.Regexp(t, "^pgsession: ", err.Error())
				}

				after, err := f.Load(t.Context(), id)
				require.NoError(t, err)
				require.Equal(t, before, after)
			})
		}
		t.Run(kind+"/others", func(t *testing.T) {
			t.Parallel()
			f := newStore(t)
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			for name, run := range map[string]func() error{
				"init":   func() error { return f.Init(ctx) },
				"create": func() error { _, err := f.Create(ctx, ann(1), time.Hour); return err },
				"check":  func() error { return f.Check(ctx) },
				"get":    func() error { _, err := f.keyValue.Get(ctx, "key"); return err },
				"put":    func() error { return f.keyValue.Put(ctx, "key", nil, time.Hour) },
				"delete": func() error { return f.keyValue.Delete(ctx, "key") },
				"prune":  func() error { _, err := f.keyValue.PruneExpired(ctx); return err },
			} {
				require.ErrorIs(t, run(), context.Canceled, name)
			}
			require.ErrorIs(t, f.Revoke(ctx, "", pgsession.NewID().Handle()), pgsession.ErrNotFound, "there is nothing to ask")
			require.Equal(t, pgsession.Unhealthy, f.Health(ctx).Status)
			require.ErrorIs(t, f.Health(ctx).Err, context.Canceled)
			require.NoError(t, f.Check(t.Context()))
		})
	}
}
