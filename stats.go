package pgsession

import (
	"context"
	"errors"
	"math/bits"
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

	BytesRead    int64 // in the payloads of rows that were read
	BytesWritten int64 // in the payloads that were made to be written

	// Operations has the counters of each operation that was called, by its name: create (for
	// CreateAs too), load, save, put, update, renew, touch, cycle, delete, find, find_by_user,
	// delete_by_user, limit_by_user, revoke (for RevokeAny too), all (when the sequence ends),
	// delete_all, count, init, reseal, cleanup, and entry_get, entry_take, entry_put and entry_delete
	// for those of a KeyValue. It is nil before the first call.
	Operations map[string]OperationStats

	// Sharing says how many statements calls have shared, by the kind of statement: load, save, put,
	// swap (Update), renew (Cycle too), create, touch and delete. It has the kinds that were used, and
	// is nil for a store in memory.
	Sharing map[string]SharingStats
}

// OperationStats are the counters of one operation. Each call counts once, when it returns, and as
// one of the outcomes.
type OperationStats struct {
	Calls int64 // all outcomes together

	OK         int64 // no error
	NotFound   int64 // ErrNotFound, but not ErrRevoked
	Revoked    int64 // ErrRevoked
	Conflict   int64 // ErrConflict
	Unreadable int64 // ErrTampered and ErrUnknownKey
	Refused    int64 // the caller's own: any other error of this package, or one of the function given to Update or Renew
	Canceled   int64 // the caller's context was cancelled
	Failed     int64 // an outage: the database's error, or no answer in time

	Duration time.Duration // of all calls together

	// Within says how many calls took at most so long, for bounds from 250 µs to 8 s. Each bound is
	// twice the one before it.
	Within map[time.Duration]int64
}

// SharingStats say how many statements calls of one kind took. Statements divided by Calls is 1 if
// each call had a statement of its own, and less under load.
type SharingStats struct {
	Calls      int64 // calls that may share a statement, made by any operation
	Statements int64 // statements sent for them; one that had to be sent again counts once
}

// Stats returns a snapshot of the counters. Counters that change at the same time may be a call
// apart.
func (s *Store) Stats() Stats {
	stats := Stats{
		Loads:        s.stats.loads.Load(),
		Hits:         s.stats.hits.Load(),
		Saves:        s.stats.saves.Load(),
		Conflicts:    s.stats.conflicts.Load(),
		Revoked:      s.stats.revoked.Load(),
		Tampered:     s.stats.tampered.Load(),
		UnknownKey:   s.stats.unknownKey.Load(),
		Cleaned:      s.stats.cleaned.Load(),
		BytesRead:    s.stats.bytesRead.Load(),
		BytesWritten: s.stats.bytesWritten.Load(),
		Sharing:      s.sharing(),
	}
	if last := s.stats.lastCleanup.Load(); last != nil {
		stats.LastCleanup, stats.LastCleanupDuration = last.at, last.took
	}
	for op, name := range operationNames {
		counted := s.stats.operations[op].snapshot()
		if counted.Calls == 0 {
			continue
		}
		if stats.Operations == nil {
			stats.Operations = make(map[string]OperationStats)
		}
		stats.Operations[name] = counted
	}
	return stats
}

func (s *Store) sharing() (stats map[string]SharingStats) {
	for kind, sharing := range s.table.Sharing() {
		if sharing.Calls == 0 {
			continue
		}
		if stats == nil {
			stats = make(map[string]SharingStats)
		}
		stats[kind] = SharingStats(sharing)
	}
	return stats
}

type counters struct {
	loads, hits, saves, conflicts, revoked, tampered, unknownKey, cleaned atomic.Int64
	bytesRead, bytesWritten                                               atomic.Int64
	lastCleanup                                                           atomic.Pointer[cleanupRun]
	lastUnknownKey, lastOtherKind                                         lastTime
	operations                                                            [len(operationNames)]operationCounters
}

// open counts a row that does not open.
func (c *counters) open(broken error) {
	switch broken {
	case ErrTampered:
		c.tampered.Add(1)
	case ErrUnknownKey:
		c.unknownKey.Add(1)
		c.lastUnknownKey.set()
	case errPlaintextRow:
		c.tampered.Add(1)
		c.lastOtherKind.set()
	case errSealedRow:
		c.unknownKey.Add(1)
		c.lastOtherKind.set()
	}
}

// A lastTime is when something last happened.
type lastTime struct{ at atomic.Pointer[time.Time] }

func (l *lastTime) set() {
	now := time.Now()
	l.at.Store(&now)
}

// isWithin reports whether it happened within the given time before now.
func (l *lastTime) isWithin(d time.Duration) bool {
	at := l.at.Load()
	return at != nil && time.Since(*at) < d
}

type cleanupRun struct {
	at   time.Time
	took time.Duration
}

// An operation is a method of Store or KeyValue that is counted.
type operation int

const (
	opCreate operation = iota
	opLoad
	opSave
	opPut
	opUpdate
	opRenew
	opTouch
	opCycle
	opDelete
	opFind
	opFindByUser
	opDeleteByUser
	opLimitByUser
	opRevoke
	opAll
	opDeleteAll
	opCount
	opInit
	opReseal
	opCleanup
	opEntryGet
	opEntryTake
	opEntryPut
	opEntryDelete
)

var operationNames = [...]string{
	opCreate: "create", opLoad: "load", opSave: "save", opPut: "put", opUpdate: "update", opRenew: "renew", opTouch: "touch",
	opCycle: "cycle", opDelete: "delete", opFind: "find", opFindByUser: "find_by_user",
	opDeleteByUser: "delete_by_user", opLimitByUser: "limit_by_user", opRevoke: "revoke", opAll: "all", opDeleteAll: "delete_all",
	opCount: "count", opInit: "init", opReseal: "reseal",
	opCleanup: "cleanup", opEntryGet: "entry_get", opEntryTake: "entry_take", opEntryPut: "entry_put", opEntryDelete: "entry_delete",
}

// observe counts a call that began then and returns err. It is made to be deferred.
func (c *counters) observe(op operation, began time.Time, err *error) {
	took := time.Since(began)
	o := &c.operations[op]
	o.outcome(*err).Add(1)
	o.duration.Add(int64(took))
	o.took[bucketOf(took)].Add(1)
}

type operationCounters struct {
	ok, notFound, revoked, conflict, unreadable, refused, canceled, failed atomic.Int64
	duration                                                               atomic.Int64
	took                                                                   [buckets + 1]atomic.Int64 // the last: longer than every bound
}

// outcome returns the counter of the calls that returned such an error.
func (o *operationCounters) outcome(err error) *atomic.Int64 {
	switch {
	case err == nil:
		return &o.ok
	case errors.Is(err, ErrRevoked):
		return &o.revoked
	case errors.Is(err, ErrNotFound):
		return &o.notFound
	case errors.Is(err, ErrConflict):
		return &o.conflict
	case errors.Is(err, ErrUnreadable):
		return &o.unreadable
	case !isOutage(err):
		return &o.refused
	case errors.Is(err, context.Canceled):
		return &o.canceled
	}
	return &o.failed
}

const (
	buckets    = 16
	firstBound = 250 * time.Microsecond
)

// bucketOf returns the number of the least bound that is not less than d, which is firstBound<<n.
func bucketOf(d time.Duration) int {
	return min(bits.Len64(uint64(max(d-1, 0)/firstBound)), buckets)
}

func (o *operationCounters) snapshot() OperationStats {
	stats := OperationStats{
		OK:         o.ok.Load(),
		NotFound:   o.notFound.Load(),
		Revoked:    o.revoked.Load(),
		Conflict:   o.conflict.Load(),
		Unreadable: o.unreadable.Load(),
		Refused:    o.refused.Load(),
		Canceled:   o.canceled.Load(),
		Failed:     o.failed.Load(),
		Duration:   time.Duration(o.duration.Load()),
		Within:     make(map[time.Duration]int64, buckets),
	}
	for n := range buckets {
		stats.Calls += o.took[n].Load()
		stats.Within[firstBound<<n] = stats.Calls
	}
	stats.Calls += o.took[buckets].Load()
	return stats
}
