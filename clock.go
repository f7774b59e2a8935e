package pgsession

import (
	"sync"
	"time"
)

// A Clock tells a [Store] the time. The store computes and judges every expiry by it, and not by
// the server's clock. The nodes of an application should keep their clocks in step, by NTP for
// instance; [Store.Health] watches the difference. Now must be safe for concurrent use.
type Clock interface {
	Now() time.Time
}

// SystemClock is the clock of the machine, and the default.
type SystemClock struct{}

// Now returns [time.Now].
func (SystemClock) Now() time.Time { return time.Now() }

// A ManualClock stands still until it is moved. It is for tests of expiry, and safe for concurrent
// use. The zero ManualClock stands at the zero [time.Time].
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

// Advance moves the clock by d, and back if d is negative.
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
