package pgsession

import (
	"sync/atomic"
	"time"
)

// Stats are the counters of one [Store] since it was made.
type Stats struct {
	Loads      int64 // sessions and entries asked for, one by one
	Hits       int64 // those of them that were live and opened
	Saves      int64 // sessions and entries written, by any operation
	Conflicts  int64 // times that Update or Renew began anew
	Revoked    int64 // Saves and Puts that were refused because the session was ended
	Tampered   int64 // rows that do not open
	UnknownKey int64 // rows sealed under a key that is not in the ring
	Cleaned    int64 // expired rows removed

	LastCleanup         time.Time     // when a clean-up last succeeded, by the store's clock; zero before the first
	LastCleanupDuration time.Duration // how long it took
}

// Stats returns a snapshot of the counters.
func (s *Store) Stats() Stats {
	stats := Stats{
		Loads:      s.stats.loads.Load(),
		Hits:       s.stats.hits.Load(),
		Saves:      s.stats.saves.Load(),
		Conflicts:  s.stats.conflicts.Load(),
		Revoked:    s.stats.revoked.Load(),
		Tampered:   s.stats.tampered.Load(),
		UnknownKey: s.stats.unknownKey.Load(),
		Cleaned:    s.stats.cleaned.Load(),
	}
	if last := s.stats.lastCleanup.Load(); last != nil {
		stats.LastCleanup, stats.LastCleanupDuration = last.at, last.took
	}
	return stats
}

type counters struct {
	loads, hits, saves, conflicts, revoked, tampered, unknownKey, cleaned atomic.Int64
	lastCleanup                                                           atomic.Pointer[cleanupRun]
	lastUnknownKey                                                        atomic.Pointer[time.Time]
}

// open counts a row that does not open.
func (c *counters) open(broken error) {
	switch broken {
	case ErrTampered:
		c.tampered.Add(1)
	case ErrUnknownKey:
		c.unknownKey.Add(1)
		now := time.Now()
		c.lastUnknownKey.Store(&now)
	}
}

// metUnknownKey reports whether a row that no key opens was met within the given time.
func (c *counters) metUnknownKey(lately time.Duration) bool {
	last := c.lastUnknownKey.Load()
	return last != nil && time.Since(*last) < lately
}

type cleanupRun struct {
	at   time.Time
	took time.Duration
}
