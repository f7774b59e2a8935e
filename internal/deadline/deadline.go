// Package deadline ends many short calls in time with one timer.
//
// A [context.WithDeadline] sets a timer for each call. If that timer is the earliest of the
// process, setting it wakes a thread that waits for the network, which costs a short call a tenth
// of its time. A [Watch] has one timer for all of its contexts, and looks at them several times a
// second while there are any.
//
// A call goes on for a moment after its caller has gone. A client of a database has to close its
// connection if a call is cut off, but most calls end by themselves within a millisecond.
package deadline

import (
	"cmp"
	"context"
	"sync"
	"time"
)

const (
	// Precision is how long after its deadline a context may end.
	Precision = 100 * time.Millisecond

	// Grace is how long after its caller's context one from [Watch.WithGrace] may end.
	Grace = 2 * Precision

	// interval lies between two looks. The rest of Precision is for a busy machine: with ten
	// runnable processes for each processor, looks came up to 60 ms late.
	interval = 60 * time.Millisecond
)

// A Watch ends contexts at their deadlines. The zero Watch is ready. It is safe for concurrent use,
// and has no timer set for longer than [Precision] after its last context was cancelled.
type Watch struct {
	// Interval is the time between two looks. 0 is the default. A longer one lets contexts end later.
	Interval time.Duration

	mu       sync.Mutex
	contexts map[*watched]struct{}
	timer    *time.Timer
	isSet    bool
}

// A watched context ends when cancel is called. The context in it is one of the standard library's,
// so that what derives contexts from it, or waits for its end by [context.AfterFunc], needs no
// goroutine.
type watched struct {
	context.Context
	cancel   context.CancelCauseFunc
	caller   context.Context
	deadline time.Time       // zero if there is none
	gone     <-chan struct{} // closed when the caller has gone; nil if it cannot, or if the context ends with an outer one
	reason   error           // why it ends; set by a look, and if the caller has gone, by the one before
}

// WithGrace returns a context that ends at the deadline, or at that of ctx if it is earlier. A zero
// deadline is none. When ctx has been cancelled, the context goes on for a moment: it ends at the
// second look after that, at most [Grace] later. So a call that ends within a moment is not cut off.
// If ctx is from WithGrace too, there is no further moment, and if ctx ends early enough, it serves.
// The caller must call cancel when it no longer needs the context.
func (w *Watch) WithGrace(ctx context.Context, deadline time.Time) (_ context.Context, cancel context.CancelFunc) {
	if own, ok := ctx.Deadline(); ok && (deadline.IsZero() || own.Before(deadline)) {
		deadline = own
	}
	outer, isNested := ctx.(*watched)
	switch {
	case isNested && deadline.Equal(outer.deadline), deadline.IsZero() && ctx.Done() == nil:
		return ctx, func() {}
	case isNested:
		return w.add(outer.caller, ctx, nil, deadline)
	}
	return w.add(ctx, context.WithoutCancel(ctx), ctx.Done(), deadline)
}

// Caller returns the context of ctx's caller: what WithGrace made ctx from. If WithGrace has not
// made ctx, it returns ctx.
func Caller(ctx context.Context) context.Context {
	if c, ok := ctx.(*watched); ok {
		return c.caller
	}
	return ctx
}

func (w *Watch) add(caller, parent context.Context, gone <-chan struct{}, deadline time.Time) (context.Context, context.CancelFunc) {
	c := &watched{caller: caller, gone: gone, deadline: deadline}
	c.Context, c.cancel = context.WithCancelCause(parent)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.contexts == nil:
		w.contexts = make(map[*watched]struct{})
		w.timer = time.AfterFunc(w.interval(), w.look)
	case !w.isSet:
		w.timer.Reset(w.interval())
	}
	w.contexts[c] = struct{}{}
	w.isSet = true
	return c, func() {
		w.remove(c)
		c.cancel(context.Canceled)
	}
}

func (w *Watch) interval() time.Duration { return cmp.Or(w.Interval, interval) }

func (w *Watch) remove(c *watched) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.contexts, c)
}

// look ends the contexts that are over. It does so without the lock, because that may call methods
// of a caller's context.
func (w *Watch) look() {
	for _, c := range w.takeOver(time.Now()) {
		c.cancel(c.reason)
	}
}

func (w *Watch) takeOver(now time.Time) (over []*watched) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.contexts {
		if c.isOver(now) {
			delete(w.contexts, c)
			over = append(over, c)
		}
	}
	w.isSet = len(w.contexts) > 0
	if w.isSet {
		w.timer.Reset(w.interval())
	}
	return over
}

func (c *watched) isOver(now time.Time) bool {
	if !c.deadline.IsZero() && !now.Before(c.deadline) {
		c.reason = context.DeadlineExceeded
		return true
	}
	select {
	case <-c.gone:
	default:
		return false
	}
	before := c.reason != nil
	c.reason = context.Canceled
	return before
}

func (c *watched) Deadline() (time.Time, bool) { return c.deadline, !c.deadline.IsZero() }

func (c *watched) Err() error {
	err := c.Context.Err()
	if err != nil && context.Cause(c.Context) == context.DeadlineExceeded {
		return context.DeadlineExceeded
	}
	return err
}
