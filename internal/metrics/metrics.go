// Package metrics has what the adapters share that show the counters of a store.
package metrics

import (
	"context"
	"sync"
	"time"

	"github.com/pgsession/pgsession"
)

// Outcomes returns how many calls had each outcome.
func Outcomes(o pgsession.OperationStats) map[string]int64 {
	return map[string]int64{
		"ok": o.OK, "not_found": o.NotFound, "revoked": o.Revoked, "conflict": o.Conflict,
		"unreadable": o.Unreadable, "refused": o.Refused, "canceled": o.Canceled, "failed": o.Failed,
	}
}

// Rows counts the rows of a table, but no more often than once in each Interval.
type Rows struct {
	Store    *pgsession.Store
	Interval time.Duration // 0: they are not counted

	mu        sync.Mutex
	began     time.Time // the last count
	counted   map[string]int64
	countedAt time.Time
}

// Count returns the last count, by the kinds of rows, and when it was. It counts first if that is
// due. If it fails, the last count stays. The count is nil if there is none.
func (r *Rows) Count(ctx context.Context) (counted map[string]int64, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); r.Interval > 0 && now.Sub(r.began) >= r.Interval {
		r.began = now
		if c, err := r.Store.Count(ctx); err == nil {
			r.counted, r.countedAt = map[string]int64{
				"user": c.Users, "guest": c.Guests, "entry": c.Entries, "expired": c.Expired, "tombstone": c.Tombstones,
			}, now
		}
	}
	return r.counted, r.countedAt
}
