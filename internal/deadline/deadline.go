// Package deadline bounds many short calls in time with one timer.
//
// A [context.WithDeadline] sets a timer for each call. If that timer is the earliest of the process, setting it
// wakes a thread that waits for the network, which costs a short call a tenth of its time. A [Watch] has one
// timer for all of its contexts, which looks at them ten times a second while there are any. A context therefore
// ends up to [Precision] after its deadline.
package deadline

import (
	"context"
	"sync"
	"time"
)

// Precision is how long after its deadline a context may end.
const Precision = 100 * time.Millisecond

// A Watch ends contexts at their deadlines. The zero Watch is ready. It is safe for concurrent use, and has no
// timer set for longer than [Precision] after its last context was cancelled.
type Watch struct {
	mu       sync.Mutex
	contexts map[*deadlineContext]struct{}
	timer    *time.Timer
	isSet    bool
}

// With returns a context that ends at the deadline or with ctx, whichever is first. The caller must call cancel
// when it no longer needs the context.
func (w *Watch) With(ctx context.Context, deadline time.Time) (_ context.Context, cancel context.CancelFunc) {
	inner, cancelInner := context.WithCancelCause(ctx)
	c := &deadlineContext{Context: inner, deadline: deadline, cancel: cancelInner}
	w.add(c)
	return c, func() {
		w.remove(c)
		cancelInner(context.Canceled)
	}
}

func (w *Watch) add(c *deadlineContext) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.contexts == nil {
		w.contexts = make(map[*deadlineContext]struct{})
		w.timer = time.AfterFunc(Precision, w.look)
		w.isSet = true
	}
	w.contexts[c] = struct{}{}
	if !w.isSet {
		w.timer.Reset(Precision)
		w.isSet = true
	}
}

func (w *Watch) remove(c *deadlineContext) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.contexts, c)
}

// look ends the contexts whose deadlines have passed.
func (w *Watch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	for c := range w.contexts {
		if !now.Before(c.deadline) {
			delete(w.contexts, c)
			c.cancel(context.DeadlineExceeded)
		}
	}
	w.isSet = len(w.contexts) > 0
	if w.isSet {
		w.timer.Reset(Precision)
	}
}

// A deadlineContext tells a deadline that the context below it does not know.
type deadlineContext struct {
	context.Context
	deadline time.Time
	cancel   context.CancelCauseFunc
}

func (c *deadlineContext) Deadline() (time.Time, bool) { return c.deadline, true }

func (c *deadlineContext) Err() error {
	err := c.Context.Err()
	if err != nil && context.Cause(c.Context) == context.DeadlineExceeded {
		return context.DeadlineExceeded
	}
	return err
}
