package pgsessiontest

import (
	"context"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/bridge"
	"github.com/pgsession/pgsession/internal/model"
)

const defaultLimit = 100

// FindByUser is [pgsession.Store.FindByUser].
func (s *Store) FindByUser(ctx context.Context, userID string, limit int) ([]*pgsession.Session, error) {
	if err := bridge.CheckUserID(userID); err != nil || userID == "" {
		return nil, err
	}
	if limit <= 0 {
		limit = defaultLimit
	}
	found, err := s.live(ctx, "find by user", func(slot model.Slot) bool { return slot.User == userID })
	slices.SortStableFunc(found, func(a, b *pgsession.Session) int { return b.CreatedAt.Compare(a.CreatedAt) })
	return found[:min(limit, len(found))], err
}

// live returns the live sessions that match, in the order of their handles.
func (s *Store) live(ctx context.Context, operation string, matches func(model.Slot) bool) ([]*pgsession.Session, error) {
	at, err := s.enter(ctx, operation)
	if err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	var found []*pgsession.Session
	for h, slot := range s.slots {
		if slot.IsLive(at) && matches(slot) {
			found = append(found, s.session(h, slot, at))
		}
	}
	slices.SortFunc(found, func(a, b *pgsession.Session) int { return strings.Compare(a.Handle.String(), b.Handle.String()) })
	return found, nil
}

// All is [pgsession.Store.All], all of it from one instant.
func (s *Store) All(ctx context.Context) iter.Seq2[*pgsession.Session, error] {
	return func(yield func(*pgsession.Session, error) bool) {
		found, err := s.live(ctx, "all", func(model.Slot) bool { return true })
		if err != nil {
			yield(nil, err)
			return
		}
		for _, session := range found {
			if !yield(session, nil) {
				return
			}
		}
	}
}

// DeleteByUser is [pgsession.Store.DeleteByUser].
func (s *Store) DeleteByUser(ctx context.Context, userID string, except ...pgsession.Handle) (int64, error) {
	if err := bridge.CheckUserID(userID); err != nil || userID == "" {
		return 0, err
	}
	return s.endAll(ctx, "delete by user", func(h pgsession.Handle, slot model.Slot) bool {
		return slot.User == userID && !slices.Contains(except, h)
	})
}

// DeleteAll is [pgsession.Store.DeleteAll].
func (s *Store) DeleteAll(ctx context.Context) (int64, error) {
	return s.endAll(ctx, "delete all", func(pgsession.Handle, model.Slot) bool { return true })
}

func (s *Store) endAll(ctx context.Context, operation string, matches func(pgsession.Handle, model.Slot) bool) (live int64, err error) {
	at, err := s.enter(ctx, operation)
	if err != nil {
		return 0, err
	}
	defer s.mu.Unlock()
	for h, slot := range s.slots {
		if !matches(h, slot) {
			continue
		}
		if slot.IsLive(at) {
			live++
		}
		s.set(h, model.Delete(slot, at))
	}
	return live, nil
}

// Revoke is [pgsession.Store.Revoke].
func (s *Store) Revoke(ctx context.Context, userID string, h pgsession.Handle) error {
	if err := bridge.CheckUserID(userID); err != nil {
		return err
	}
	if userID == "" {
		return pgsession.ErrNotFound
	}
	return s.revoke(ctx, h, func(slot model.Slot, at model.Moment) (model.Slot, model.Outcome) {
		return model.Revoke(slot, userID, at)
	})
}

// RevokeAny is [pgsession.Store.RevokeAny].
func (s *Store) RevokeAny(ctx context.Context, h pgsession.Handle) error {
	return s.revoke(ctx, h, model.RevokeAny)
}

func (s *Store) revoke(ctx context.Context, h pgsession.Handle, step func(model.Slot, model.Moment) (model.Slot, model.Outcome)) error {
	at, err := s.enter(ctx, "revoke")
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	after, outcome := step(s.slots[h], at)
	s.set(h, after)
	return errorOf(outcome)
}

// CleanupExpired is [pgsession.Store.CleanupExpired].
func (s *Store) CleanupExpired(ctx context.Context) (int64, error) {
	started := time.Now()
	at, err := s.enter(ctx, "clean up")
	if err != nil {
		return 0, err
	}
	defer s.mu.Unlock()
	before := len(s.slots)
	for h, slot := range s.slots {
		s.set(h, model.Clean(slot, at))
	}
	removed := int64(before - len(s.slots))
	s.stats.Cleaned += removed
	s.stats.LastCleanup, s.stats.LastCleanupDuration = time.UnixMicro(at.Now).UTC(), time.Since(started)
	return removed, nil
}

// A Cleanup is a goroutine that removes what has expired, from [Store.SpawnCleanup].
type Cleanup struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// SpawnCleanup is [pgsession.Store.SpawnCleanup], but that it begins after one interval,
// and each run is a CleanupExpired. The intervals are of real time, whatever the clock.
func (s *Store) SpawnCleanup(ctx context.Context, interval time.Duration) *Cleanup {
	if interval <= 0 {
		panic("pgsessiontest: SpawnCleanup: non-positive interval")
	}
	ctx, cancel := context.WithCancel(ctx)
	c := &Cleanup{cancel, make(chan struct{})}
	go func() {
		defer close(c.done)
		defer cancel()
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				s.CleanupExpired(ctx) // after a failure, the next run is due
			}
		}
	}()
	return c
}

// Stop is [pgsession.Cleanup.Stop].
func (c *Cleanup) Stop() {
	c.cancel()
	<-c.done
}

// Reseal does nothing but fail when told to, since nothing is sealed: see
// [pgsession.Store.Reseal].
func (s *Store) Reseal(ctx context.Context) (int64, error) { return 0, s.ping(ctx, "reseal") }

// Check is [pgsession.Store.Check].
func (s *Store) Check(ctx context.Context) error { return s.Health(ctx).Err }

// Health is Healthy, or Unhealthy when the store was told to fail: see
// [pgsession.Store.Health].
func (s *Store) Health(ctx context.Context) pgsession.Health {
	if err := s.ping(ctx, "health"); err != nil {
		return pgsession.Health{Status: pgsession.Unhealthy, Reasons: []string{err.Error()}, Err: err}
	}
	return pgsession.Health{Status: pgsession.Healthy}
}

// Stats is [pgsession.Store.Stats].
func (s *Store) Stats() pgsession.Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}
