package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// What no operation may do, whatever the faults: end later than it may, or fail because of a
// connection that is stale.

// overtime is how long after its caller's context, or WithTimeout, an operation may end.
const overtime = 200 * time.Millisecond

// Durations counts the operations that took too long, and keeps the latest.
type durations struct {
	mu      sync.Mutex
	longest time.Duration // beyond what bounds it, and what it stood still with the process
	stalled time.Duration // which is that
	kind    kind
	late    int
}

func (d *durations) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return fmt.Sprintf("longest %v beyond WithTimeout or its context (%s; besides %v for which the process stood still), %d too long",
		d.longest.Round(time.Millisecond), d.kind, d.stalled.Round(time.Millisecond), d.late)
}

// checkDuration reports an operation that ended too late. Of those that work through the whole
// table WithTimeout bounds each statement only.
func (r *round) checkDuration(ctx context.Context, k kind, began time.Time, took time.Duration) {
	bound, isBounded := r.timeout, true
	switch k {
	case opAll, opEndAll, opClean, opReseal:
		bound, isBounded = time.Hour, false
	}
	if deadline, ok := ctx.Deadline(); ok {
		bound, isBounded = min(bound, deadline.Sub(began)), true
	}
	if after, ok := ctx.Value(goneAfter{}).(time.Duration); ok && ctx.Err() != nil {
		bound, isBounded = min(bound, after), true
	}
	if !isBounded {
		return
	}
	stalled := r.stalls.since(began.Add(bound)) // what came before has delayed nothing
	over := took - bound - stalled
	d := &r.durations
	d.mu.Lock()
	late := over > overtime
	if over > d.longest {
		d.longest, d.stalled, d.kind = over, stalled, k
	}
	if late {
		d.late++
	}
	d.mu.Unlock()
	if late {
		r.complain(fmt.Sprintf("round %d: %s took %v, and had %v; this process stood still for %v", r.number, k, took, bound, stalled))
	}
}

// Stalls measures how long this machine let nothing of this process run.
type stalls struct {
	mu     sync.Mutex
	latest []stall
	ticked time.Time
}

type stall struct {
	ended  time.Time
	lasted time.Duration
}

const (
	stallTick   = 20 * time.Millisecond
	stallMemory = 20 * time.Second

	// shortestStall is short, since those that an operation meets on its way add up: at two looks
	// at its context, and at each goroutine that wakes another one.
	shortestStall = time.Millisecond
)

func (s *stalls) watch(ctx context.Context) {
	ticker := time.NewTicker(stallTick)
	defer ticker.Stop()
	for {
		s.tick(time.Now())
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (s *stalls) tick(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.latest) > 0 && now.Sub(s.latest[0].ended) > stallMemory {
		s.latest = s.latest[1:]
	}
	if one, ok := s.at(now); ok {
		s.latest = append(s.latest, one)
	}
	s.ticked = now
}

// at returns the stall that goes on until now.
func (s *stalls) at(now time.Time) (one stall, ok bool) {
	late := now.Sub(s.ticked) - stallTick
	return stall{now, late}, !s.ticked.IsZero() && late > shortestStall
}

func (s *stalls) since(began time.Time) (total time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.Clip(s.latest)
	if one, ok := s.at(time.Now()); ok {
		all = append(all, one)
	}
	for _, one := range all {
		total += min(one.lasted, max(0, one.ended.Sub(began)))
	}
	return total
}

// A switched is on at times.
type switched struct {
	on    atomic.Int64 // how many have switched it on
	ended atomic.Int64 // when it was switched off last, in nanoseconds since 1970
}

func (s *switched) turnOn() { s.on.Add(1) }

func (s *switched) turnOff() {
	s.ended.Store(time.Now().UnixNano())
	s.on.Add(-1)
}

// since reports whether it was on at any time since then.
func (s *switched) since(began time.Time) bool {
	return s.on.Load() > 0 || s.ended.Load() >= began.UnixNano()
}

// checkServerError reports an answer of the server that the store should have dealt with, since the
// call had time left.
func (t *torture) checkServerError(what string, err error, began time.Time, readOnly *switched) {
	var server *pgconn.PgError
	if !errors.As(err, &server) {
		return
	}
	switch server.Code {
	case "26000":
		t.complain(fmt.Sprintf("%s failed because a prepared statement was gone: %v", what, err))
	case "25006":
		if !readOnly.since(began.Add(-readOnlyMemory)) {
			t.complain(fmt.Sprintf("%s failed because of a read-only connection, where nothing was made read-only for long: %v", what, err))
		}
	}
}

// readOnlyMemory is how long after the last fault a store may meet connections that are read-only:
// it gives up those of its pool once a second at most.
const readOnlyMemory = 1500 * time.Millisecond
