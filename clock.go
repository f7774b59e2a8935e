package pgsession

import (
	"sync"
	"time"
)

// A Clock tells a [Store] the time. Every expiry is computed and judged by it,
// never by the server's clock, so that all the nodes of an application should
// keep their clocks in step (NTP does); [Store.Health] watches the difference.
// Its Now must be safe for concurrent use.
type Clock interface {
	Now() time.Time
}

// SystemClock is the clock of the machine, the default.
type SystemClock struct{}

// Now returns [time.Now].
func (SystemClock) Now() time.Time { return time.Now() }

// A ManualClock stands still until it is told otherwise. It is for tests of
// what happens when sessions expire, and safe for concurrent use.
type ManualClock struct {
	mu  sync.Mutex
	now time.Time
}

// NewManualClock returns a clock that stands at t.
func NewManualClock(t time.Time) *ManualClock { return &ManualClock{now: t} }

// Now returns the time at which the clock stands.
func (c *ManualClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance moves the clock by d, backwards where d is negative.
func (c *ManualClock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// Set moves the clock to t.
func (c *ManualClock) Set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = t
}
