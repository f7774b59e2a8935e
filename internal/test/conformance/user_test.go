package conformance_test

import (
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/test"
)

// Operations on more than one session.
func TestUser(t *testing.T) {
	t.Parallel()
	onEveryKind(t, userCases)
}

var userCases = []useCase{
	{"FindByUser", nil, func(t *testing.T, f *subject) {
		var ids []pgsession.ID
		for range 3 {
			f.Clock.Advance(time.Second)
			ids = append(ids, f.Begin(t, test.Ann(len(ids)), time.Hour))
		}
		f.Begin(t, pgsession.Data{UserID: "bob"}, time.Hour)
		f.Begin(t, pgsession.Data{}, time.Hour)
		for limit, want := range map[int][]int{0: {2, 1, 0}, -1: {2, 1, 0}, 1: {2}, 2: {2, 1}, 4: {2, 1, 0}, math.MaxInt: {2, 1, 0}, math.MinInt: {2, 1, 0}} {
			found, err := f.FindByUser(t.Context(), "ann", limit)
			require.NoError(t, err)
			var values []int
			for _, session := range found {
				values = append(values, test.Decode[int](t, session))
				require.True(t, session.ID.IsZero(), "a list opens nothing")
			}
			require.Equal(t, want, values, "limit %d: the newest first", limit)
			loaded := f.MustLoad(t, ids[2])
			loaded.ID = pgsession.ID{}
			require.Equal(t, loaded, found[0])
		}
		found, err := f.FindByUser(t.Context(), "", 0)
		require.NoError(t, err)
		require.Empty(t, found)
	}},
	{"FindByUser/a hundred at most", nil, func(t *testing.T, f *subject) {
		for range 101 {
			f.Begin(t, test.Ann(1), time.Hour)
		}
		found, err := f.FindByUser(t.Context(), "ann", 0)
		require.NoError(t, err)
		require.Len(t, found, 100)
		found, err = f.FindByUser(t.Context(), "ann", 1000)
		require.NoError(t, err)
		require.Len(t, found, 101)
	}},
	{"FindByUser/of log-ins within one tick of the clock, the later is the newer", nil, func(t *testing.T, f *subject) {
		ctx := t.Context()
		const logins = 20
		var want []pgsession.Handle
		for i := range logins {
			session, err := f.Create(ctx, test.Ann(i), time.Hour)
			require.NoError(t, err)
			want = slices.Insert(want, 0, session.Handle)
		}
		for _, handle := range want[:3] { // a change is no log-in
			session, err := f.Find(ctx, handle)
			require.NoError(t, err)
			require.NoError(t, test.Err(f.Update(ctx, session, time.Minute, test.Increment)))
		}
		found, err := f.FindByUser(ctx, "ann", 0)
		require.NoError(t, err)
		require.Equal(t, want, test.Handles(found))
		found, err = f.FindByUser(ctx, "ann", 5)
		require.NoError(t, err)
		require.Equal(t, want[:5], test.Handles(found))
		ended, err := f.LimitByUser(ctx, "ann", 7)
		require.NoError(t, err)
		require.EqualValues(t, logins-7, ended)
		found, err = f.FindByUser(ctx, "ann", 0)
		require.NoError(t, err)
		require.Equal(t, want[:7], test.Handles(found))
	}},
	{"Find", nil, func(t *testing.T, f *subject) {
		ctx, id := t.Context(), f.Begin(t, pgsession.Data{UserID: "ann", Lifetime: 5 * time.Hour, Values: 1}, time.Hour)
		f.Clock.Advance(10 * time.Minute)
		found, err := f.Find(ctx, id.Handle())
		require.NoError(t, err)
		want := f.MustLoad(t, id)
		want.ID = pgsession.ID{}
		require.Equal(t, want, found, "its ID is zero")
		require.NoError(t, test.Err(f.Touch(ctx, found, 0)))
		require.NoError(t, test.Err(f.Update(ctx, found, 0, test.Increment)))
		require.ErrorIs(t, test.Err(f.Renew(ctx, found, 0, test.LogIn(test.Ann(1)))), pgsession.ErrForeignID)
		require.Equal(t, 2, f.Number(t, id))
		require.Equal(t, "NotFound", errorName(test.Err(f.Find(ctx, pgsession.Handle{}))))
	}},
	{"LimitByUser/bad input", nil, func(t *testing.T, f *subject) {
		ctx := t.Context()
		for range 3 {
			f.Begin(t, test.Ann(1), time.Hour)
			f.Begin(t, test.Guest, time.Hour)
		}
		for _, keep := range []int{0, -1, math.MinInt} {
			for _, userID := range []string{"ann", "", strings.Repeat("a", 1001)} {
				ended, err := f.LimitByUser(ctx, userID, keep)
				require.ErrorContains(t, err, "must be positive")
				require.Zero(t, ended)
			}
		}
		for userID, want := range map[string]error{"": nil, "bob": nil, strings.Repeat("a", 1001): pgsession.ErrTooLarge} {
			ended, err := f.LimitByUser(ctx, userID, 1)
			require.ErrorIs(t, err, want)
			require.Zero(t, ended)
		}
		f.requireSessions(t, 6)
	}},
	{"LimitByUser", nil, func(t *testing.T, f *subject) {
		ctx := t.Context()
		bobs, guests := f.Begin(t, test.Bob, time.Hour), f.Begin(t, test.Guest, time.Hour)
		var ids []pgsession.ID
		for i := range 6 {
			f.Clock.Advance(time.Minute)
			ttl := time.Hour
			if i == 4 {
				ttl = time.Second
			}
			ids = append(ids, f.Begin(t, test.Ann(i), ttl))
		}
		require.NoError(t, f.Delete(ctx, ids[5]))
		// ids[4] has expired and ids[5] was ended: neither counts.
		f.Clock.Advance(time.Minute)
		requireKept := func(keep int, ended int64, live ...pgsession.ID) {
			t.Helper()
			n, err := f.LimitByUser(ctx, "ann", keep)
			require.NoError(t, err)
			require.Equal(t, ended, n)
			found, err := f.FindByUser(ctx, "ann", 0)
			require.NoError(t, err)
			require.Len(t, found, len(live))
			for i, id := range live {
				require.Equal(t, id.Handle(), found[i].Handle)
			}
		}
		requireKept(math.MaxInt, 0, ids[3], ids[2], ids[1], ids[0])
		requireKept(4, 0, ids[3], ids[2], ids[1], ids[0])
		require.NoError(t, test.Err(f.Touch(ctx, f.MustLoad(t, ids[0]), 5*time.Hour)))
		requireKept(3, 1, ids[3], ids[2], ids[1])
		require.Equal(t, "ended", f.stateOf(t, ids[0]), "the oldest log-in, though it was used last")
		renewed, err := f.Renew(ctx, f.MustLoad(t, ids[1]), 0, test.LogIn(test.Ann(1)))
		require.NoError(t, err)
		requireKept(2, 1, ids[3], ids[2])
		require.Equal(t, "ended", f.stateOf(t, renewed.ID), "a new id is no new log-in")
		requireKept(1, 1, ids[3])
		f.MustLoad(t, bobs)
		f.MustLoad(t, guests)
	}},
	{"LimitByUser/racing log-ins", []pgsession.Option{pgsession.WithTimeout(0)}, func(t *testing.T, f *subject) {
		ctx := t.Context()
		for keep := 1; keep <= 3; keep++ {
			test.RequireAll(t, "log-in", 12, func(int) error {
				if err := test.Err(f.Create(ctx, test.Ann(1), time.Hour)); err != nil {
					return err
				}
				return test.Err(f.LimitByUser(ctx, "ann", keep))
			})
			found, err := f.FindByUser(ctx, "ann", 0)
			require.NoError(t, err)
			require.Len(t, found, keep)
		}
	}},
	{"LimitByUser/of sessions that move meanwhile", []pgsession.Option{pgsession.WithTimeout(0)}, func(t *testing.T, f *subject) {
		ctx := t.Context()
		for range 5 {
			const sessions = 4
			stop := make(chan struct{})
			var moving, started sync.WaitGroup
			started.Add(sessions)
			for range sessions {
				session := f.MustLoad(t, f.Begin(t, test.Ann(1), time.Hour))
				moving.Go(func() {
					once := sync.OnceFunc(started.Done)
					defer once()
					for {
						var err error
						session, err = f.Renew(ctx, session, 0, test.LogIn(test.Ann(1)))
						once()
						if err != nil {
							assert.ErrorIs(t, err, pgsession.ErrRevoked)
							return
						}
						select {
						case <-stop:
							return
						default:
						}
					}
				})
			}
			started.Wait()
			ended, err := f.LimitByUser(ctx, "ann", 1)
			close(stop)
			moving.Wait()
			require.NoError(t, err)
			require.EqualValues(t, sessions-1, ended)
			found, err := f.FindByUser(ctx, "ann", 0)
			require.NoError(t, err)
			require.Len(t, found, 1)
			require.NoError(t, f.RevokeAny(ctx, found[0].Handle))
		}
	}},
	{"Count", nil, func(t *testing.T, f *subject) {
		ctx := t.Context()
		requireCount := func(want pgsession.Count) {
			t.Helper()
			count, err := f.Count(ctx)
			require.NoError(t, err)
			require.Equal(t, want, count)
		}
		requireCount(pgsession.Count{})
		f.Begin(t, test.Ann(1), time.Hour)
		f.Begin(t, test.Ann(1), time.Minute)
		f.Begin(t, test.Bob, time.Hour)
		f.Begin(t, test.Guest, time.Hour)
		f.Begin(t, test.Guest, time.Minute)
		requireCount(pgsession.Count{Users: 3, Guests: 2})
		require.NoError(t, f.KeyValue().Put(ctx, "long", nil, 5*time.Hour))
		require.NoError(t, f.KeyValue().Put(ctx, "short", nil, time.Minute))
		f.Ended(t)
		requireCount(pgsession.Count{Users: 3, Guests: 2, Tombstones: 1, Entries: 2})
		f.Clock.Advance(time.Minute)
		requireCount(pgsession.Count{Users: 2, Guests: 1, Expired: 3, Tombstones: 1, Entries: 1})
		f.Clock.Advance(time.Hour)
		requireCount(pgsession.Count{Expired: 7, Entries: 1})
		require.EqualValues(t, 7, f.MustCleanUp(t))
		requireCount(pgsession.Count{Entries: 1})
	}},
	{"DeleteByUser/except", nil, func(t *testing.T, f *subject) {
		here, there, bobs := f.Begin(t, test.Ann(1), time.Hour), f.Begin(t, test.Ann(2), time.Hour), f.Begin(t, pgsession.Data{UserID: "bob"}, time.Hour)
		ended, err := f.DeleteByUser(t.Context(), "ann", here.Handle(), bobs.Handle(), pgsession.Handle{})
		require.NoError(t, err)
		require.EqualValues(t, 1, ended)
		f.MustLoad(t, here)
		f.MustLoad(t, bobs)
		require.Equal(t, "ended", f.stateOf(t, there))
		ended, err = f.DeleteByUser(t.Context(), "")
		require.NoError(t, err)
		require.Zero(t, ended)
	}},
	{"All/is in pages", nil, func(t *testing.T, f *subject) {
		const many = 503
		want := map[pgsession.Handle]bool{}
		for range many {
			want[f.Begin(t, test.Ann(1), time.Hour).Handle()] = true
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
}
