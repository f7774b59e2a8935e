package pgsession

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

const (
	// sweepSize is how many keys a sweep reads before it removes them in batches:
	// more than a batch, since each look reads the hour's live sessions again.
	sweepSize = 10 * batchSize

	// sweepTimeout bounds one look, and one batch.
	sweepTimeout = 30 * time.Second
)

// CleanupExpired removes what has expired by the store's clock, sessions and
// tombstones, and returns how many rows. It works in transactions of at most 1,000
// rows, and any number of nodes may run it at once. To find what has expired of the
// current hour it reads all that expires within it, which [Store.SpawnCleanup] does
// not. With an error, the number says how many rows were removed before it.
func (s *Store) CleanupExpired(ctx context.Context) (int64, error) {
	now, _ := s.times()
	return s.cleanup(ctx, now, hourAfter(now))
}

// cleanup removes what had expired by now of the hours up to lastHour. Where that
// hour is over, it reads nothing but what it removes.
func (s *Store) cleanup(ctx context.Context, now, lastHour time.Time) (removed int64, err error) {
	started := time.Now()
	defer func() {
		s.stats.cleaned.Add(removed)
		if err == nil {
			s.stats.lastCleanup.Store(&cleanupRun{now, time.Since(started)})
		}
	}()
	for {
		before := removed
		keys, err := s.expiredKeys(ctx, now, lastHour)
		if err != nil {
			return removed, s.wrap("clean up", err)
		}
		for batch := range slices.Chunk(keys, batchSize) {
			n, err := s.removeExpired(ctx, now, batch)
			if err != nil {
				return removed, s.wrap("clean up", err)
			}
			removed += n
		}
		if len(keys) < sweepSize || removed == before { // where nothing goes, another node is at it
			return removed, nil
		}
	}
}

func (s *Store) expiredKeys(ctx context.Context, now, lastHour time.Time) ([][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	return s.readKeys(ctx, expiredSQL, now, lastHour, sweepSize)
}

// Without the ORDER BY, a generic plan scans the whole table.
var expiredSQL = newStatement(`
	SELECT s.key
	FROM {sessions} AS s
	WHERE s.expires_hour <= $2 AND s.expires_at <= $1
	ORDER BY s.expires_hour
	LIMIT $3`)

func (s *Store) removeExpired(ctx context.Context, now time.Time, keys [][]byte) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	return s.exec(ctx, removeSQL, now, keys)
}

// The expiry is judged again under the lock: a session may have been put anew since
// its key was read.
var removeSQL = newStatement(`
	WITH pgsession_held AS (
		SELECT s.key
		FROM {sessions} AS s
		JOIN (SELECT * FROM unnest($2::bytea[]) {few}) AS seen (key) ON seen.key = s.key
		WHERE s.expires_at <= $1
		ORDER BY s.key
		{lock}
	)
	DELETE FROM {sessions} AS s
	USING pgsession_held AS held
	WHERE s.key = held.key AND s.expires_at <= $1`)

// A Cleanup is a goroutine that removes what has expired, from
// [Store.SpawnCleanup].
type Cleanup struct {
	store    *Store
	interval time.Duration
	cancel   context.CancelFunc
	done     chan struct{}

	mu          sync.Mutex
	lastSuccess time.Time // the start, before the first
}

// SpawnCleanup starts a goroutine that removes what has expired, every interval
// until ctx ends or [Cleanup.Stop] is called; an interval from a minute to an hour
// suits most applications. It leaves the current hour's rows to a later run, since
// then each run reads only what it removes. It begins after a random part of the
// interval, so that nodes that start together do not sweep together; a run that
// takes longer than the interval delays the next. Failures are logged at level warn
// and tried again with the next run, removals at level debug. It panics where
// interval is not positive.
func (s *Store) SpawnCleanup(ctx context.Context, interval time.Duration) *Cleanup {
	if interval <= 0 {
		panic("pgsession: SpawnCleanup: non-positive interval")
	}
	ctx, cancel := context.WithCancel(ctx)
	c := &Cleanup{store: s, interval: interval, cancel: cancel, done: make(chan struct{}), lastSuccess: time.Now()}
	s.cleanups.add(c)
	go c.run(ctx)
	return c
}

// Stop ends the goroutine, a sweep under way included, and waits for its end. It may
// be called more than once.
func (c *Cleanup) Stop() {
	c.cancel()
	<-c.done
}

func (c *Cleanup) run(ctx context.Context) {
	defer close(c.done)
	defer c.cancel()
	defer c.store.cleanups.remove(c)

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
	now, _ := c.store.times()
	removed, err := c.store.cleanup(ctx, now, now)
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
}

func (r *cleanupRegistry) add(c *Cleanup) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running == nil {
		r.running = make(map[*Cleanup]struct{})
	}
	r.running[c] = struct{}{}
}

func (r *cleanupRegistry) remove(c *Cleanup) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.running, c)
}

func (r *cleanupRegistry) anyLate() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.running {
		if c.isLate() {
			return true
		}
	}
	return false
}
