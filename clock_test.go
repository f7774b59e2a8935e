package pgsession_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
)

func TestSystemClock_Now(t *testing.T) {
	t.Parallel()
	before := time.Now()
	now := pgsession.SystemClock{}.Now()
	require.False(t, now.Before(before) || now.After(time.Now()))
}

func TestManualClock(t *testing.T) {
	t.Parallel()
	clock := pgsession.NewManualClock(epoch)
	require.Equal(t, epoch, clock.Now())
	require.Equal(t, epoch, clock.Now(), "it stands still")
	clock.Advance(time.Hour)
	require.Equal(t, epoch.Add(time.Hour), clock.Now())
	clock.Advance(-2 * time.Hour)
	require.Equal(t, epoch.Add(-time.Hour), clock.Now())
	clock.Set(epoch)
	require.Equal(t, epoch, clock.Now())
}

func TestManualClock_ConcurrentUse(t *testing.T) {
	t.Parallel()
	clock := pgsession.NewManualClock(epoch)
	const goroutines, moves = 4, 1000
	var group sync.WaitGroup
	for range goroutines {
		// Those that only move have nothing else to be in step by: the race detector sees
		// them even where they happen to run one after the other.
		group.Go(func() {
			for range moves {
				clock.Advance(time.Millisecond)
			}
		})
		group.Go(func() {
			last := clock.Now()
			for range moves {
				clock.Advance(time.Millisecond)
				now := clock.Now()
				if now.Before(last.Add(time.Millisecond)) {
					t.Errorf("from %s to %s", last, now)
				}
				last = now
			}
		})
	}
	group.Wait()
	require.Equal(t, epoch.Add(2*goroutines*moves*time.Millisecond), clock.Now())

	group.Go(func() { clock.Set(epoch) })
	group.Go(func() { clock.Set(epoch) })
	group.Go(func() { clock.Now() })
	group.Wait()
	require.Equal(t, epoch, clock.Now())
}

// TestStore_Expiry tries every operation on the last microsecond of a session, and on
// the one after.
func TestStore_Expiry(t *testing.T) {
	t.Parallel()
	operations := map[string]func(ctx context.Context, s *fixture, id pgsession.ID) error{
		"Load": func(ctx context.Context, s *fixture, id pgsession.ID) error { return second(s.Load(ctx, id)) },
		"Save": func(ctx context.Context, s *fixture, id pgsession.ID) error {
			return s.Save(ctx, id, ann(2), time.Hour)
		},
		"Touch": func(ctx context.Context, s *fixture, id pgsession.ID) error { return s.Touch(ctx, id, time.Hour) },
		"Update": func(ctx context.Context, s *fixture, id pgsession.ID) error {
			return s.Update(ctx, id, time.Hour, keep(2))
		},
		"Update keeping the expiry": func(ctx context.Context, s *fixture, id pgsession.ID) error {
			return s.Update(ctx, id, 0, keep(2))
		},
		"Cycle": func(ctx context.Context, s *fixture, id pgsession.ID) error {
			return s.Cycle(ctx, id, pgsession.NewID(), ann(2), time.Hour)
		},
		"Cycle to another user": func(ctx context.Context, s *fixture, id pgsession.ID) error {
			return s.Cycle(ctx, id, pgsession.NewID(), pgsession.Data{UserID: "bob"}, time.Hour)
		},
		"Revoke":    func(ctx context.Context, s *fixture, id pgsession.ID) error { return s.Revoke(ctx, "ann", id.Handle()) },
		"RevokeAny": func(ctx context.Context, s *fixture, id pgsession.ID) error { return s.RevokeAny(ctx, id.Handle()) },
		"FindByUser": func(ctx context.Context, s *fixture, id pgsession.ID) error {
			found, err := s.FindByUser(ctx, "ann", 0)
			return foundOne(len(found), err)
		},
		"DeleteByUser": func(ctx context.Context, s *fixture, id pgsession.ID) error {
			ended, err := s.DeleteByUser(ctx, "ann")
			return foundOne(int(ended), err)
		},
		"DeleteAll": func(ctx context.Context, s *fixture, id pgsession.ID) error {
			ended, err := s.DeleteAll(ctx)
			return foundOne(int(ended), err)
		},
		"All": func(ctx context.Context, s *fixture, id pgsession.ID) error {
			seen := 0
			for _, err := range s.All(ctx) {
				if err != nil {
					return err
				}
				seen++
			}
			return foundOne(seen, nil)
		},
	}
	for name, test := range map[string]struct{ ttl, lifetime, ends time.Duration }{
		"idle":                     {time.Hour, 0, time.Hour},
		"idle before the absolute": {time.Hour, time.Hour + time.Microsecond, time.Hour},
		"absolute":                 {10 * time.Hour, time.Hour, time.Hour},
		"both at once":             {time.Hour, time.Hour, time.Hour},
		"in nanoseconds":           {10*time.Microsecond - 1, 0, 10 * time.Microsecond},
		"absolute in nanoseconds":  {time.Hour, 10*time.Microsecond - 1, 10 * time.Microsecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t, pgsession.WithAbsoluteLifetime(test.lifetime))
			for name, run := range operations {
				for _, edge := range []struct {
					name  string
					after time.Duration
					want  error
				}{
					{"the last microsecond", test.ends - time.Microsecond, nil},
					{"over", test.ends, pgsession.ErrNotFound},
					{"long over", test.ends + 24*time.Hour, pgsession.ErrNotFound},
				} {
					s.sql(t, `DELETE FROM sessions`)
					s.clock.Set(epoch)
					id := s.create(t, ann(1), test.ttl)
					s.clock.Advance(edge.after)
					require.ErrorIs(t, run(t.Context(), s, id), edge.want, "%s: %s", name, edge.name)
					if edge.want != nil {
						require.ErrorIs(t, second(s.Load(t.Context(), id)), pgsession.ErrNotFound, "%s does not bring it back", name)
						s.clock.Set(epoch)
					}
				}
			}
		})
	}
}

func foundOne(n int, err error) error {
	if err == nil && n != 1 {
		return pgsession.ErrNotFound
	}
	return err
}

func TestSession_ExpiresAt(t *testing.T) {
	t.Parallel()
	s := newStore(t, pgsession.WithAbsoluteLifetime(4*time.Hour))
	ctx := t.Context()
	id := s.create(t, ann(1), time.Hour)
	requireExpiry := func(at time.Time) {
		t.Helper()
		session := s.load(t, id)
		require.Equal(t, at, session.ExpiresAt)
		require.Equal(t, at.Sub(s.clock.Now()), session.TTL())
		found, err := s.FindByUser(ctx, "ann", 0)
		require.NoError(t, err)
		require.Len(t, found, 1)
		require.Equal(t, at, found[0].ExpiresAt)
	}
	requireExpiry(epoch.Add(time.Hour))
	s.clock.Advance(30 * time.Minute)
	requireExpiry(epoch.Add(time.Hour))
	require.NoError(t, s.Touch(ctx, id, 3*time.Hour+30*time.Minute))
	requireExpiry(epoch.Add(4 * time.Hour))
	require.NoError(t, s.Save(ctx, id, ann(1), 100*time.Hour))
	requireExpiry(epoch.Add(4 * time.Hour))
	require.NoError(t, s.Save(ctx, id, ann(1), time.Hour))
	requireExpiry(epoch.Add(90 * time.Minute))

	next := pgsession.NewID()
	require.NoError(t, s.Cycle(ctx, id, next, ann(1), 100*time.Hour))
	id = next
	requireExpiry(epoch.Add(4 * time.Hour))

	t.Run("a new log-in has the whole lifetime", func(t *testing.T) {
		visitor, next := s.create(t, guest, time.Hour), pgsession.NewID()
		s.clock.Advance(10 * time.Minute)
		require.NoError(t, s.Cycle(ctx, visitor, next, pgsession.Data{UserID: "bob"}, 100*time.Hour))
		require.Equal(t, 4*time.Hour, s.load(t, next).TTL())
	})
	t.Run("a clock that is set back", func(t *testing.T) {
		id := s.create(t, pgsession.Data{UserID: "eve"}, time.Hour)
		s.clock.Advance(-30 * time.Minute)
		require.Equal(t, 90*time.Minute, s.load(t, id).TTL())
		require.NoError(t, s.Touch(ctx, id, time.Hour))
		require.Equal(t, 90*time.Minute, s.load(t, id).TTL(), "a touch never shortens")
	})
	t.Run("another node with another lifetime", func(t *testing.T) {
		id := s.create(t, guest, 10*time.Hour)
		other := storeOn(t, s.pool, pgsession.WithClock(s.clock), pgsession.WithAbsoluteLifetime(time.Hour))
		session, err := other.Load(ctx, id)
		require.NoError(t, err)
		require.Equal(t, time.Hour, session.TTL())
		require.Equal(t, 4*time.Hour, s.load(t, id).TTL())
	})
}
