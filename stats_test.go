package pgsession_test

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/test"
	"github.com/pgsession/pgsession/pgsessiontest"
)

// TestStore_Stats_Operations calls each operation once with each result, and wants that call
// counted, once, under its name and its result, and no other.
func TestStore_Stats_Operations(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	type (
		store  = *pgsessiontest.Store
		result = pgsession.OperationStats
	)
	var (
		ok         = result{OK: 1}
		notFound   = result{NotFound: 1}
		revoked    = result{Revoked: 1}
		refused    = result{Refused: 1}
		wasStopped = result{Canceled: 1}
		failed     = result{Failed: 1}
		outage     = func(s store) { s.FailWith(errors.New("connection refused")) }
		ours       = errors.New("the caller's")
	)
	live := func(s store) pgsession.ID {
		return test.Must(s.Create(ctx, test.Ann(1), time.Hour)).ID
	}
	ended := func(s store) pgsession.ID {
		id := live(s)
		require.NoError(t, s.Delete(ctx, id))
		return id
	}
	entry := func(s store) string {
		require.NoError(t, s.KeyValue().Put(ctx, "key", nil, time.Hour))
		return "key"
	}
	planted := test.Must(pgsession.ParseID(pgsession.NewID().Token()))
	for _, c := range []struct {
		name, operation string
		want            result
		prepare         func(s store) (call func() error)
	}{
		{"Create", "create", ok, func(s store) func() error {
			return func() error { return test.Err(s.Create(ctx, test.Ann(1), time.Hour)) }
		}},
		{"CreateAs", "create", ok, func(s store) func() error {
			return func() error { return test.Err(s.CreateAs(ctx, pgsession.NewID(), test.Ann(1), time.Hour)) }
		}},
		{"CreateAs/ErrForeignID", "create", refused, func(s store) func() error {
			return func() error { return test.Err(s.CreateAs(ctx, planted, test.Ann(1), time.Hour)) }
		}},
		{"CreateAs/ErrExists", "create", refused, func(s store) func() error {
			id := live(s)
			return func() error { return test.Err(s.CreateAs(ctx, id, test.Ann(1), time.Hour)) }
		}},
		{"Load", "load", ok, func(s store) func() error {
			id := live(s)
			return func() error { return test.Err(s.Load(ctx, id)) }
		}},
		{"Load/ErrNotFound", "load", notFound, func(s store) func() error {
			return func() error { return test.Err(s.Load(ctx, pgsession.ID{})) }
		}},
		{"Load/ErrRevoked", "load", revoked, func(s store) func() error {
			id := ended(s)
			return func() error { return test.Err(s.Load(ctx, id)) }
		}},
		{"Load/cancelled", "load", wasStopped, func(s store) func() error {
			return func() error { return test.Err(s.Load(canceled, pgsession.NewID())) }
		}},
		{"Load/outage", "load", failed, func(s store) func() error {
			outage(s)
			return func() error { return test.Err(s.Load(ctx, pgsession.NewID())) }
		}},
		{"Save", "save", ok, func(s store) func() error {
			id := live(s)
			return func() error { return s.Save(ctx, id, test.Ann(2), time.Hour) }
		}},
		{"Save/ErrUserChanged", "save", refused, func(s store) func() error {
			id := live(s)
			return func() error { return s.Save(ctx, id, test.Bob, time.Hour) }
		}},
		{"Save/ErrInvalidTTL", "save", refused, func(s store) func() error {
			return func() error { return s.Save(ctx, pgsession.NewID(), test.Bob, 0) }
		}},
		{"Put", "put", ok, func(s store) func() error {
			return func() error { return s.Put(ctx, pgsession.NewID(), test.Ann(1), time.Hour) }
		}},
		{"Put/of a parsed id", "put", notFound, func(s store) func() error {
			return func() error { return s.Put(ctx, planted, test.Ann(1), time.Hour) }
		}},
		{"Put/negative Lifetime", "put", refused, func(s store) func() error {
			id := live(s)
			data := pgsession.Data{UserID: "ann", Lifetime: -1}
			return func() error { return s.Put(ctx, id, data, time.Hour) }
		}},
		{"Update", "update", ok, func(s store) func() error {
			id := live(s)
			return func() error { return test.Err(s.Update(ctx, test.Unloaded(id), 0, test.Keep(2))) }
		}},
		{"Update/the caller's error", "update", refused, func(s store) func() error {
			id := live(s)
			return func() error {
				return test.Err(s.Update(ctx, test.Unloaded(id), 0, func(*pgsession.Session) (any, error) { return nil, ours }))
			}
		}},
		{"Update/ErrConflict", "update", result{Conflict: 1}, func(s store) func() error {
			id := live(s)
			return func() error {
				return test.Err(s.Update(ctx, test.Unloaded(id), 0, func(*pgsession.Session) (any, error) { return nil, pgsession.ErrConflict }))
			}
		}},
		{"Update/outage", "update", failed, func(s store) func() error {
			id := live(s)
			outage(s)
			return func() error { return test.Err(s.Update(ctx, test.Unloaded(id), 0, test.Keep(2))) }
		}},
		{"Renew", "renew", ok, func(s store) func() error {
			id := live(s)
			return func() error { return test.Err(s.Renew(ctx, test.Unloaded(id), 0, test.LogIn(test.Bob))) }
		}},
		{"Touch", "touch", ok, func(s store) func() error {
			id := live(s)
			return func() error { return test.Err(s.Touch(ctx, test.Unloaded(id), 0)) }
		}},
		{"Touch/outage", "touch", failed, func(s store) func() error {
			outage(s)
			return func() error { return test.Err(s.Touch(ctx, test.Unloaded(pgsession.NewID()), 0)) }
		}},
		{"Cycle", "cycle", ok, func(s store) func() error {
			id := live(s)
			return func() error { return s.Cycle(ctx, id, pgsession.NewID(), test.Ann(1), time.Hour) }
		}},
		{"Delete", "delete", ok, func(s store) func() error {
			return func() error { return s.Delete(ctx, pgsession.ID{}) }
		}},
		{"Delete/outage", "delete", failed, func(s store) func() error {
			outage(s)
			return func() error { return s.Delete(ctx, pgsession.NewID()) }
		}},
		{"FindByUser", "find_by_user", ok, func(s store) func() error {
			return func() error { return test.Err(s.FindByUser(ctx, "ann", 0)) }
		}},
		{"DeleteByUser", "delete_by_user", ok, func(s store) func() error {
			return func() error { return test.Err(s.DeleteByUser(ctx, "ann")) }
		}},
		{"Revoke", "revoke", notFound, func(s store) func() error {
			return func() error { return s.Revoke(ctx, "ann", pgsession.NewID().Handle()) }
		}},
		{"RevokeAny", "revoke", ok, func(s store) func() error {
			id := live(s)
			return func() error { return s.RevokeAny(ctx, id.Handle()) }
		}},
		{"Find/ErrNotFound", "find", notFound, func(s store) func() error {
			return func() error { return test.Err(s.Find(ctx, pgsession.NewID().Handle())) }
		}},
		{"LimitByUser", "limit_by_user", ok, func(s store) func() error {
			return func() error { return test.Err(s.LimitByUser(ctx, "ann", 1)) }
		}},
		{"All", "all", ok, func(s store) func() error {
			live(s)
			return func() error {
				for _, err := range s.All(ctx) {
					return err // the loop ends before the sequence
				}
				return nil
			}
		}},
		{"All/outage", "all", failed, func(s store) func() error {
			outage(s)
			return func() (err error) {
				for _, err = range s.All(ctx) {
				}
				return err
			}
		}},
		{"DeleteAll", "delete_all", ok, func(s store) func() error {
			return func() error { return test.Err(s.DeleteAll(ctx)) }
		}},
		{"DeleteAll/outage", "delete_all", failed, func(s store) func() error {
			outage(s)
			return func() error { return test.Err(s.DeleteAll(ctx)) }
		}},
		{"Count", "count", ok, func(s store) func() error {
			return func() error { return test.Err(s.Count(ctx)) }
		}},
		{"Count/outage", "count", failed, func(s store) func() error {
			outage(s)
			return func() error { return test.Err(s.Count(ctx)) }
		}},
		{"Init", "init", ok, func(s store) func() error {
			return func() error { return s.Init(ctx) }
		}},
		{"Init/outage", "init", failed, func(s store) func() error {
			outage(s)
			return func() error { return s.Init(ctx) }
		}},
		{"Reseal", "reseal", ok, func(s store) func() error {
			return func() error { return test.Err(s.Reseal(ctx)) }
		}},
		{"CleanupExpired", "cleanup", ok, func(s store) func() error {
			return func() error { return test.Err(s.CleanupExpired(ctx)) }
		}},
		{"CleanupExpired/outage", "cleanup", failed, func(s store) func() error {
			outage(s)
			return func() error { return test.Err(s.CleanupExpired(ctx)) }
		}},
		{"KeyValue.Get/ErrNotFound", "entry_get", notFound, func(s store) func() error {
			return func() error { return test.Err(s.KeyValue().Get(ctx, "")) }
		}},
		{"KeyValue.Get", "entry_get", ok, func(s store) func() error {
			key := entry(s)
			return func() error { return test.Err(s.KeyValue().Get(ctx, key)) }
		}},
		{"KeyValue.Take", "entry_take", ok, func(s store) func() error {
			key := entry(s)
			return func() error { return test.Err(s.KeyValue().Take(ctx, key)) }
		}},
		{"KeyValue.Put", "entry_put", ok, func(s store) func() error {
			return func() error { return s.KeyValue().Put(ctx, "key", nil, time.Hour) }
		}},
		{"KeyValue.Delete", "entry_delete", ok, func(s store) func() error {
			return func() error { return s.KeyValue().Delete(ctx, "key") }
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := pgsessiontest.New(pgsession.WithClock(pgsession.NewManualClock(test.Epoch)))
			call := c.prepare(s)
			before := s.Stats().Operations
			require.Equal(t, c.want.OK == 0, call() != nil)
			after := s.Stats().Operations
			for name, stats := range after {
				if name == c.operation {
					continue
				}
				require.Equal(t, before[name], stats, name)
			}
			got := after[c.operation]
			require.EqualValues(t, 1, got.Calls-before[c.operation].Calls)
			require.Equal(t, c.want, since(before[c.operation], got))
		})
	}
}

// TestStore_Stats_Within wants every call counted once by how long it took.
func TestStore_Stats_Within(t *testing.T) {
	t.Parallel()
	s := test.NewStore(t)
	const longest = 8192 * time.Millisecond
	for range 3 {
		require.NoError(t, test.Err(s.Create(t.Context(), test.Ann(1), time.Hour)))
	}
	created := s.Stats().Operations["create"]
	require.Len(t, created.Within, 16)
	require.EqualValues(t, 3, created.Within[longest])
	require.LessOrEqual(t, created.Within[250*time.Microsecond], created.Within[500*time.Microsecond])
	require.Positive(t, created.Duration)
	require.NoError(t, test.Err(json.Marshal(s.Stats())), "for expvar")

	holder := s.LockTable(t)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, test.Err(s.Create(ctx, test.Ann(1), time.Hour)), context.DeadlineExceeded)
	holder.Release(t)
	slow := s.Stats().Operations["create"]
	require.EqualValues(t, 4, slow.Calls)
	require.EqualValues(t, 1, slow.Failed)
	require.Equal(t, created.Within[16*time.Millisecond], slow.Within[16*time.Millisecond], "it took longer")
	require.GreaterOrEqual(t, slow.Duration-created.Duration, 20*time.Millisecond)
}

// TestStore_Stats_Bytes wants the payloads counted that were read and written.
func TestStore_Stats_Bytes(t *testing.T) {
	t.Parallel()
	s := test.NewStore(t)
	const size = 10_000
	id := s.Begin(t, pgsession.Data{Values: make([]byte, size)}, time.Hour)
	require.InDelta(t, size, s.Stats().BytesWritten, 100)
	require.Zero(t, s.Stats().BytesRead)
	s.MustLoad(t, id)
	require.Equal(t, s.Stats().BytesWritten, s.Stats().BytesRead)
}

// since returns what was counted between two snapshots, by result.
func since(before, after pgsession.OperationStats) pgsession.OperationStats {
	return pgsession.OperationStats{
		OK:         after.OK - before.OK,
		NotFound:   after.NotFound - before.NotFound,
		Revoked:    after.Revoked - before.Revoked,
		Conflict:   after.Conflict - before.Conflict,
		Unreadable: after.Unreadable - before.Unreadable,
		Refused:    after.Refused - before.Refused,
		Canceled:   after.Canceled - before.Canceled,
		Failed:     after.Failed - before.Failed,
	}
}

func TestStore_Stats(t *testing.T) {
	t.Parallel()
	s := test.NewStore(t, test.Unhurried())
	ctx := t.Context()
	want := pgsession.Stats{}
	require.Equal(t, want, test.CountsOf(s.Stats()))
	requireStats := func(what string) {
		t.Helper()
		require.Equal(t, want, test.CountsOf(s.Stats()), what)
	}
	id := s.Begin(t, test.Ann(1), time.Hour)
	want.Saves++
	requireStats("Create")
	s.MustLoad(t, id)
	want.Loads, want.Hits = want.Loads+1, want.Hits+1
	requireStats("Load")
	for _, absent := range []pgsession.ID{{}, pgsession.NewID()} {
		require.Error(t, test.Err(s.Load(ctx, absent)))
		want.Loads++
	}
	requireStats("Load of none")
	require.NoError(t, s.Save(ctx, id, test.Ann(2), time.Hour))
	want.Saves++
	requireStats("Save")
	require.Error(t, s.Save(ctx, pgsession.NewID(), test.Ann(2), time.Hour))
	require.Error(t, s.Save(ctx, id, test.Guest, time.Hour))
	require.Error(t, s.Save(ctx, id, test.Ann(2), 0))
	require.Error(t, test.Err(s.Create(ctx, test.Ann(2), 0)))
	requireStats("writes that fail")
	put := pgsession.DeriveID("a framework's token")
	require.NoError(t, s.Put(ctx, put, test.Ann(1), time.Hour))
	want.Saves++
	requireStats("Put")
	require.NoError(t, test.Err(s.Update(ctx, test.Unloaded(id), 0, test.Keep(3))))
	want.Loads, want.Hits, want.Saves = want.Loads+1, want.Hits+1, want.Saves+1
	requireStats("Update")
	calls := 0
	require.NoError(t, test.Err(s.Update(ctx, test.Unloaded(id), 0, func(*pgsession.Session) (any, error) {
		if calls++; calls <= 2 {
			require.NoError(t, s.Save(ctx, id, test.Ann(4), time.Hour))
		}
		return 5, nil
	})))
	want.Loads, want.Hits, want.Saves, want.Conflicts = want.Loads+1, want.Hits+1, want.Saves+3, want.Conflicts+2
	requireStats("Update against others")
	require.NoError(t, test.Err(s.Update(ctx, test.Unloaded(id), 0, test.Keep(5))))
	want.Loads, want.Hits = want.Loads+1, want.Hits+1
	requireStats("Update of nothing")
	next := pgsession.NewID()
	require.NoError(t, s.Cycle(ctx, id, next, test.Ann(5), time.Hour))
	want.Saves++
	requireStats("Cycle")
	require.Error(t, s.Cycle(ctx, id, pgsession.NewID(), test.Ann(5), time.Hour))
	requireStats("Cycle of none")
	require.ErrorIs(t, s.Save(ctx, id, test.Ann(6), time.Hour), pgsession.ErrNotFound)
	require.ErrorIs(t, s.Put(ctx, id, test.Ann(6), time.Hour), pgsession.ErrRevoked)
	want.Revoked += 2
	requireStats("writes to a tombstone")
	require.NoError(t, s.KeyValue().Put(ctx, "k", []byte("v"), time.Hour))
	test.RequireEntry(t, s.KeyValue(), "k", []byte("v"))
	want.Saves, want.Loads, want.Hits = want.Saves+1, want.Loads+1, want.Hits+1
	requireStats("KeyValue")

	s.SQL(t, `UPDATE sessions SET sealed = sealed || '\x00' WHERE key = $1`, test.RowKey(next))
	require.ErrorIs(t, test.Err(s.Load(ctx, next)), pgsession.ErrTampered)
	want.Loads, want.Tampered = want.Loads+1, want.Tampered+1
	requireStats("a tampered row")
	s.SQL(t, `UPDATE sessions SET sealed = substring(sealed FROM 1 FOR 1) || '\x00000000' || substring(sealed FROM 6) WHERE key = $1`, test.RowKey(put))
	require.ErrorIs(t, test.Err(s.Load(ctx, put)), pgsession.ErrUnknownKey)
	want.Loads, want.UnknownKey = want.Loads+1, want.UnknownKey+1
	requireStats("a row under an unknown key")
	found, err := s.FindByUser(ctx, "ann", 0)
	require.NoError(t, err)
	require.Len(t, found, 2)
	want.Tampered, want.UnknownKey = want.Tampered+1, want.UnknownKey+1
	requireStats("a list that meets them")
	require.EqualValues(t, 2, s.Stats().Operations["load"].Unreadable)

	require.Zero(t, s.MustCleanUp(t))
	want.LastCleanup = test.Epoch
	requireStats("a clean-up of nothing")
	require.Positive(t, s.Stats().LastCleanupDuration)
	s.Clock.Advance(2 * time.Hour)
	require.EqualValues(t, 4, s.MustCleanUp(t))
	want.Cleaned, want.LastCleanup = 4, test.Epoch.Add(2*time.Hour)
	requireStats("a clean-up")

	t.Run("each session of a shared statement counts", func(t *testing.T) {
		id := s.Begin(t, test.Ann(1), time.Hour)
		want.Saves++
		before := s.Stats().Sharing["load"]
		holder := s.LockTable(t)
		const callers = 20
		var group sync.WaitGroup
		for range callers {
			group.Go(func() {
				if err := test.Err(s.Load(ctx, id)); err != nil {
					t.Error(err)
				}
			})
		}
		// The calls that do not wait in the server queue, to share statements.
		require.Eventually(t, func() bool { return s.Waiting() > 0 }, test.Patience, time.Millisecond)
		holder.Release(t)
		group.Wait()
		want.Loads, want.Hits = want.Loads+callers, want.Hits+callers
		requireStats("Load in company")
		after := s.Stats().Sharing["load"]
		require.EqualValues(t, callers, after.Calls-before.Calls)
		require.Less(t, after.Statements-before.Statements, int64(callers))
	})
	require.Equal(t, pgsession.Stats{}, test.Open(s.Pool).Stats(), "of one store")
}
