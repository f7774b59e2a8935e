package pgsession_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/pgsessiontest"
)

// TestStore_Stats_Operations calls each operation once with each result, and wants that call counted,
// once, under its name and its result, and no other.
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
		return must(s.Create(ctx, ann(1), time.Hour)).ID
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
	planted := must(pgsession.ParseID(pgsession.NewID().Token()))
	for _, test := range []struct {
		name, operation string
		want            result
		prepare         func(s store) (call func() error)
	}{
		{"Create", "create", ok, func(s store) func() error {
			return func() error { return second(s.Create(ctx, ann(1), time.Hour)) }
		}},
		{"CreateAs", "create", ok, func(s store) func() error {
			return func() error { return second(s.CreateAs(ctx, pgsession.NewID(), ann(1), time.Hour)) }
		}},
		{"CreateAs/ErrForeignID", "create", refused, func(s store) func() error {
			return func() error { return second(s.CreateAs(ctx, planted, ann(1), time.Hour)) }
		}},
		{"CreateAs/ErrExists", "create", refused, func(s store) func() error {
			id := live(s)
			return func() error { return second(s.CreateAs(ctx, id, ann(1), time.Hour)) }
		}},
		{"Load", "load", ok, func(s store) func() error {
			id := live(s)
			return func() error { return second(s.Load(ctx, id)) }
		}},
		{"Load/ErrNotFound", "load", notFound, func(s store) func() error {
			return func() error { return second(s.Load(ctx, pgsession.ID{})) }
		}},
		{"Load/ErrRevoked", "load", revoked, func(s store) func() error {
			id := ended(s)
			return func() error { return second(s.Load(ctx, id)) }
		}},
		{"Load/cancelled", "load", wasStopped, func(s store) func() error {
			return func() error { return second(s.Load(canceled, pgsession.NewID())) }
		}},
		{"Load/outage", "load", failed, func(s store) func() error {
			outage(s)
			return func() error { return second(s.Load(ctx, pgsession.NewID())) }
		}},
		{"Save", "save", ok, func(s store) func() error {
			id := live(s)
			return func() error { return s.Save(ctx, id, ann(2), time.Hour) }
		}},
		{"Save/ErrUserChanged", "save", refused, func(s store) func() error {
			id := live(s)
			return func() error { return s.Save(ctx, id, bob, time.Hour) }
		}},
		{"Save/ErrInvalidTTL", "save", refused, func(s store) func() error {
			return func() error { return s.Save(ctx, pgsession.NewID(), bob, 0) }
		}},
		{"Put", "put", ok, func(s store) func() error {
			return func() error { return s.Put(ctx, pgsession.NewID(), ann(1), time.Hour) }
		}},
		{"Put/of a parsed id", "put", notFound, func(s store) func() error {
			return func() error { return s.Put(ctx, planted, ann(1), time.Hour) }
		}},
		{"Put/negative Lifetime", "put", refused, func(s store) func() error {
			id := live(s)
			data := pgsession.Data{UserID: "ann", Lifetime: -1}
			return func() error { return s.Put(ctx, id, data, time.Hour) }
		}},
		{"Update", "update", ok, func(s store) func() error {
			id := live(s)
			return func() error { return second(s.Update(ctx, at(id), 0, keep(2))) }
		}},
		{"Update/the caller's error", "update", refused, func(s store) func() error {
			id := live(s)
			return func() error {
				return second(s.Update(ctx, at(id), 0, func(*pgsession.Session) (any, error) { return nil, ours }))
			}
		}},
		{"Update/ErrConflict", "update", result{Conflict: 1}, func(s store) func() error {
			id := live(s)
			return func() error {
				return second(s.Update(ctx, at(id), 0, func(*pgsession.Session) (any, error) { return nil, pgsession.ErrConflict }))
			}
		}},
		{"Update/outage", "update", failed, func(s store) func() error {
			id := live(s)
			outage(s)
			return func() error { return second(s.Update(ctx, at(id), 0, keep(2))) }
		}},
		{"Renew", "renew", ok, func(s store) func() error {
			id := live(s)
			return func() error { return second(s.Renew(ctx, at(id), 0, login(bob))) }
		}},
		{"Touch", "touch", ok, func(s store) func() error {
			id := live(s)
			return func() error { return second(s.Touch(ctx, at(id), 0)) }
		}},
		{"Touch/outage", "touch", failed, func(s store) func() error {
			outage(s)
			return func() error { return second(s.Touch(ctx, at(pgsession.NewID()), 0)) }
		}},
		{"Cycle", "cycle", ok, func(s store) func() error {
			id := live(s)
			return func() error { return s.Cycle(ctx, id, pgsession.NewID(), ann(1), time.Hour) }
		}},
		{"Delete", "delete", ok, func(s store) func() error {
			return func() error { return s.Delete(ctx, pgsession.ID{}) }
		}},
		{"Delete/outage", "delete", failed, func(s store) func() error {
			outage(s)
			return func() error { return s.Delete(ctx, pgsession.NewID()) }
		}},
		{"FindByUser", "find_by_user", ok, func(s store) func() error {
			return func() error { return second(s.FindByUser(ctx, "ann", 0)) }
		}},
		{"DeleteByUser", "delete_by_user", ok, func(s store) func() error {
			return func() error { return second(s.DeleteByUser(ctx, "ann")) }
		}},
		{"Revoke", "revoke", notFound, func(s store) func() error {
			return func() error { return s.Revoke(ctx, "ann", pgsession.NewID().Handle()) }
		}},
		{"RevokeAny", "revoke", ok, func(s store) func() error {
			id := live(s)
			return func() error { return s.RevokeAny(ctx, id.Handle()) }
		}},
		{"Find/ErrNotFound", "find", notFound, func(s store) func() error {
			return func() error { return second(s.Find(ctx, pgsession.NewID().Handle())) }
		}},
		{"LimitByUser", "limit_by_user", ok, func(s store) func() error {
			return func() error { return second(s.LimitByUser(ctx, "ann", 1)) }
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
			return func() error { return second(s.DeleteAll(ctx)) }
		}},
		{"DeleteAll/outage", "delete_all", failed, func(s store) func() error {
			outage(s)
			return func() error { return second(s.DeleteAll(ctx)) }
		}},
		{"Count", "count", ok, func(s store) func() error {
			return func() error { return second(s.Count(ctx)) }
		}},
		{"Count/outage", "count", failed, func(s store) func() error {
			outage(s)
			return func() error { return second(s.Count(ctx)) }
		}},
		{"Init", "init", ok, func(s store) func() error {
			return func() error { return s.Init(ctx) }
		}},
		{"Init/outage", "init", failed, func(s store) func() error {
			outage(s)
			return func() error { return s.Init(ctx) }
		}},
		{"Reseal", "reseal", ok, func(s store) func() error {
			return func() error { return second(s.Reseal(ctx)) }
		}},
		{"CleanupExpired", "cleanup", ok, func(s store) func() error {
			return func() error { return second(s.CleanupExpired(ctx)) }
		}},
		{"CleanupExpired/outage", "cleanup", failed, func(s store) func() error {
			outage(s)
			return func() error { return second(s.CleanupExpired(ctx)) }
		}},
		{"KeyValue.Get/ErrNotFound", "entry_get", notFound, func(s store) func() error {
			return func() error { return second(s.KeyValue().Get(ctx, "")) }
		}},
		{"KeyValue.Get", "entry_get", ok, func(s store) func() error {
			key := entry(s)
			return func() error { return second(s.KeyValue().Get(ctx, key)) }
		}},
		{"KeyValue.Take", "entry_take", ok, func(s store) func() error {
			key := entry(s)
			return func() error { return second(s.KeyValue().Take(ctx, key)) }
		}},
		{"KeyValue.Put", "entry_put", ok, func(s store) func() error {
			return func() error { return s.KeyValue().Put(ctx, "key", nil, time.Hour) }
		}},
		{"KeyValue.Delete", "entry_delete", ok, func(s store) func() error {
			return func() error { return s.KeyValue().Delete(ctx, "key") }
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := pgsessiontest.New(pgsession.WithClock(pgsession.NewManualClock(epoch)))
			call := test.prepare(s)
			before := s.Stats().Operations
			require.Equal(t, test.want.OK == 0, call() != nil)
			after := s.Stats().Operations
			for name, stats := range after {
				if name == test.operation {
					continue
				}
				require.Equal(t, before[name], stats, name)
			}
			got := after[test.operation]
			require.EqualValues(t, 1, got.Calls-before[test.operation].Calls)
			require.Equal(t, test.want, since(before[test.operation], got))
		})
	}
}

// TestStore_Stats_Within wants every call counted once by how long it took.
func TestStore_Stats_Within(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	const longest = 8192 * time.Millisecond
	for range 3 {
		require.NoError(t, second(s.Create(t.Context(), ann(1), time.Hour)))
	}
	created := s.Stats().Operations["create"]
	require.Len(t, created.Within, 16)
	require.EqualValues(t, 3, created.Within[longest])
	require.LessOrEqual(t, created.Within[250*time.Microsecond], created.Within[500*time.Microsecond])
	require.Positive(t, created.Duration)
	require.NoError(t, second(json.Marshal(s.Stats())), "for expvar")

	holder := s.lockTable(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, second(s.Create(ctx, ann(1), time.Hour)), context.DeadlineExceeded)
	holder.release(t)
	slow := s.Stats().Operations["create"]
	require.EqualValues(t, 4, slow.Calls)
	require.EqualValues(t, 1, slow.Failed)
	require.Equal(t, created.Within[16*time.Millisecond], slow.Within[16*time.Millisecond], "it took longer")
	require.GreaterOrEqual(t, slow.Duration-created.Duration, 20*time.Millisecond)
}

// TestStore_Stats_Bytes wants the payloads counted that were read and written.
func TestStore_Stats_Bytes(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	const size = 10_000
	id := s.create(t, pgsession.Data{Values: make([]byte, size)}, time.Hour)
	require.InDelta(t, size, s.Stats().BytesWritten, 100)
	require.Zero(t, s.Stats().BytesRead)
	s.load(t, id)
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
