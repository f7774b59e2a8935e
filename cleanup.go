package pgsession

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

// CleanupExpired removes what has expired by the store's clock, sessions and tombstones, and
// returns how many rows it removed. A row must have expired by the server's clock as well, so that
// a node with a wrong clock removes no live session. With a [ManualClock] the store's clock alone
// decides. It works in transactions of at most 1,000 rows and skips rows that others hold. Any
// number of nodes may run it at once.
//
// It reads every row that expires within the current hour, which [Store.SpawnCleanup] does not.
// Where millions do, that takes longer than the default of [WithTimeout] allows. If it returns an
// error, the number says how many rows it had removed.
func (s *Store) CleanupExpired(ctx context.Context) (int64, error) { return s.cleanup(ctx, false, nil) }

func (s *Store) cleanup(ctx context.Context, wholeHours bool, report func(int64)) (removed int64, err error) {
	now, started := s.now(), time.Now()
	defer s.stats.observe(opCleanup, started, &err)
	removed, err = s.table.RemoveExpired(ctx, wholeHours, report)
	s.stats.cleaned.Add(removed)
	if err != nil {
		return removed, wrap("clean up", err)
	}
	s.stats.lastCleanup.Store(&cleanupRun{now, time.Since(started)})
	return removed, nil
}

var errStopped = errors.New("pgsession: the clean-up was stopped")

// A Cleanup is a goroutine that removes what has expired. [Store.SpawnCleanup] starts it.
type Cleanup struct {
	store    *Store
	interval time.Duration
	cancel   context.CancelCauseFunc
	done     chan struct{}

	mu          sync.Mutex
	lastSuccess time.Time // the start, before the first
}

// SpawnCleanup starts a goroutine that removes what has expired, once in each interval, until ctx
// ends or [Cleanup.Stop] is called. An interval between a minute and an hour suits most
// applications. Give it a context that lives as long as the process, and not one that bounds the
// start-up. SpawnCleanup panics if interval is not positive.
//
// The first run comes after a random part of the interval, so that nodes which start together do
// not all run at once. Each run leaves the rows of the current hour to a later one, so that it
// reads only what it removes. A run that takes longer than the interval delays the next. Failures
// are logged at level warn, and the next run tries again. Removals are logged at level debug.
func (s *Store) SpawnCleanup(ctx context.Context, interval time.Duration) *Cleanup {
	if interval <= 0 {
		panic("pgsession: SpawnCleanup: non-positive interval")
	}
	ctx, cancel := context.WithCancelCause(ctx)
	c := &Cleanup{store: s, interval: interval, cancel: cancel, done: make(chan struct{}), lastSuccess: time.Now()}
	s.cleanups.add(c)
	go c.run(ctx)
	return c
}

// Stop ends the goroutine, interrupts a run if there is one, and waits for the end. It may be
// called more than once, and by several goroutines.
func (c *Cleanup) Stop() {
	c.cancel(errStopped)
	<-c.done
}

func (c *Cleanup) run(ctx context.Context) {
	defer close(c.done)
	defer c.cancel(nil)
	defer func() { c.store.cleanups.remove(c, context.Cause(ctx) != errStopped) }()

	timer := time.NewTimer(rand.N(c.interval))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		c.runOnce(ctx)
		timer.Reset(c.interval)
	}
}

func (c *Cleanup) runOnce(ctx context.Context) {
	log := c.store.logger
	started := time.Now()
	removed, err := c.store.cleanup(ctx, true, nil)
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		log.LogAttrs(ctx, slog.LevelWarn, "pgsession: clean-up failed", slog.Any("error", err), slog.Int64("removed", removed))
		return
	case removed > 0:
		log.LogAttrs(ctx, slog.LevelDebug, "pgsession: clean-up", slog.Int64("removed", removed), slog.Duration("took", time.Since(started)))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastSuccess = time.Now()
}

// isLate reports whether three intervals have gone by without a success.
func (c *Cleanup) isLate() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.lastSuccess)/3 > c.interval
}

// A cleanupRegistry knows the clean-ups that are running, for the health check.
type cleanupRegistry struct {
	mu      sync.Mutex
	running map[*Cleanup]struct{}
	ended   bool // the last of them ended with its context
}

func (r *cleanupRegistry) add(c *Cleanup) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running == nil {
		r.running = make(map[*Cleanup]struct{})
	}
	r.running[c] = struct{}{}
	r.ended = false
}

func (r *cleanupRegistry) remove(c *Cleanup, withContext bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.running, c)
	r.ended = withContext && len(r.running) == 0
}

// reasons returns what an operator should know about the clean-ups.
func (r *cleanupRegistry) reasons(cannotDelete bool) (reasons []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		reasons = append(reasons, "the clean-up has ended with the context that SpawnCleanup was given, and no other one runs")
	}
	if cannotDelete && len(r.running) > 0 {
		reasons = append(reasons, "the clean-up lacks the privilege DELETE on the table")
	}
	for c := range r.running {
		if c.isLate() {
			return append(reasons, "the clean-up has not succeeded for three intervals")
		}
	}
	return reasons
}
