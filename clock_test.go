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
		"Touch": func(ctx context.Context, s *fixture, id pgsession.ID) error {
			return second(s.Touch(ctx, at(id), time.Hour))
		},
		"Update": func(ctx context.Context, s *fixture, id pgsession.ID) error {
			return second(s.Update(ctx, at(id), time.Hour, keep(2)))
		},
		"Update keeping the expiry": func(ctx context.Context, s *fixture, id pgsession.ID) error {
			return second(s.Update(ctx, at(id), 0, keep(2)))
		},
		"Cycle": func(ctx context.Context, s *fixture, id pgsession.ID) error {
			return s.Cycle(ctx, id, pgsession.NewID(), ann(2), time.Hour)
		},
		"Cycle to another user": func(ctx context.Context, s *fixture, id pgsession.ID) error {
			return s.Cycle(ctx, id, pgsession.NewID(), bob, time.Hour)
		},
		"Renew": func(ctx context.Context, s *fixture, id pgsession.ID) error {
			return second(s.Renew(ctx, at(id), 0, login(bob)))
		},
		"Touch by its own ttl": func(ctx context.Context, s *fixture, id pgsession.ID) error { return second(s.Touch(ctx, at(id), 0)) },
		"Put":                  func(ctx context.Context, s *fixture, id pgsession.ID) error { return s.Put(ctx, id, ann(2), time.Hour) },
		"Revoke":               func(ctx context.Context, s *fixture, id pgsession.ID) error { return s.Revoke(ctx, "ann", id.Handle()) },
		"RevokeAny":            func(ctx context.Context, s *fixture, id pgsession.ID) error { return s.RevokeAny(ctx, id.Handle()) },
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

// TestStore_EndsAt has nodes with different options share a table: when a session ends was decided at the
// log-in.
func TestStore_EndsAt(t *testing.T) {
	t.Parallel()
	s := newStore(t, pgsession.WithAbsoluteLifetime(2*time.Hour))
	ctx := t.Context()
	endless := s.node(newCrypto(t, testKey))
	longer := s.node(newCrypto(t, testKey), pgsession.WithAbsoluteLifetime(100*time.Hour))
	shorter := s.node(newCrypto(t, testKey), pgsession.WithAbsoluteLifetime(time.Minute))
	id, forever := s.create(t, ann(1), time.Hour), endless.create(t, ann(1), time.Hour)
	for _, node := range []*fixture{s, endless, longer, shorter} {
		require.NoError(t, second(node.Touch(ctx, at(id), 24*time.Hour)))
		require.NoError(t, node.Save(ctx, id, ann(2), 24*time.Hour))
		require.NoError(t, node.Put(ctx, id, ann(3), 24*time.Hour))
		require.NoError(t, second(node.Update(ctx, at(id), 24*time.Hour, increment)))
		session, err := node.Renew(ctx, at(id), 24*time.Hour, login(ann(4)))
		require.NoError(t, err)
		id = pgsession.NewID()
		require.NoError(t, node.Cycle(ctx, session.ID, id, ann(5), 24*time.Hour))
		require.Equal(t, epoch.Add(2*time.Hour), node.load(t, id).ExpiresAt)
		require.Equal(t, epoch.Add(2*time.Hour), node.load(t, id).EndsAt)
		require.Equal(t, 24*time.Hour, node.load(t, id).IdleTimeout)
		require.Zero(t, node.load(t, forever).EndsAt)
	}
	s.clock.Advance(2 * time.Hour)
	require.ErrorIs(t, second(longer.Load(ctx, id)), pgsession.ErrNotFound, "a longer lifetime brings nothing back")
	require.ErrorIs(t, second(longer.Touch(ctx, at(id), time.Hour)), pgsession.ErrNotFound)
}
