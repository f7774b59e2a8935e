package coalesce

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

var (
	errGoexit     = errors.New("coalesce: the run ended its goroutine")
	errUnanswered = errors.New("coalesce: the run left the call without an answer")
	errRunAgain   = errors.New("coalesce: run again") // for a caller whose call runs again; Do never returns it
)

// panicError carries a panic from the goroutine of a batch, where it would end the process, to the
// goroutines of the callers.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string {
	return fmt.Sprintf("coalesce: run panicked: %v\n\n%s", e.value, e.stack)
}

// batch is the run of calls that left the queue together.
type batch[C, R any] struct {
	run      run
	requests []C
	parent   context.Context // of the run's context
	cancel   func()          // cancels parent; for a single call, whose caller does that, it does nothing
	deadline time.Time       // zero if there is none

	mu      sync.Mutex
	calls   []*call[C, R] // nil if answered or abandoned
	waiting int           // how many are not nil
	last    *result[R]    // the answer to the only one of them
}

// onSlowRun is called by the timer of places.
func (g *Group[C, R]) onSlowRun() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.places.timerFired()
	g.startBatches()
	if len(g.queue) > 0 {
		g.places.watch()
	}
}

// startBatches gives the free places to queued calls.
func (g *Group[C, R]) startBatches() {
	for len(g.queue) > 0 && !g.places.full() {
		if b := g.takeBatch(); b != nil {
			go g.runBatches(b)
		}
	}
}

// next ends a run and returns the batch that takes its place. It returns nil if nothing is queued,
// if the place was already given away because the run was slow, or if there are fewer places now.
func (g *Group[C, R]) next(ended *run) *batch[C, R] {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.places.remove(ended) || g.places.full() {
		return nil
	}
	b := g.takeBatch()
	g.startBatches() // if there are more places now
	return b
}

// takeBatch takes a batch from the head of the queue and adds it to the runs in flight. It returns
// nil if nothing is queued.
//
// Calls that have expired are not sent, although their callers have not yet removed them: the
// deadline of one would end the batch of the others.
func (g *Group[C, R]) takeBatch() *batch[C, R] {
	if len(g.queue) == 0 {
		return nil
	}
	limit := len(g.queue)
	if g.config.MaxBatch > 0 {
		limit = min(limit, g.config.MaxBatch)
	}
	calls := make([]*call[C, R], 0, limit)
	now, taken, bytes := time.Now(), 0, 0
	for _, q := range g.queue {
		if q.hasExpired(now) {
			q.done <- result[R]{err: context.DeadlineExceeded}
			taken++
			continue
		}
		tooLarge := g.config.MaxBatchBytes > 0 && q.size > g.config.MaxBatchBytes-bytes
		if len(calls) == limit || len(calls) > 0 && tooLarge {
			break
		}
		calls = append(calls, q)
		taken++
		bytes += q.size
	}
	g.queue = slices.Delete(g.queue, 0, taken)
	if len(calls) == 0 {
		return nil
	}

	b := &batch[C, R]{run: run{alone: len(calls) == 1}, requests: make([]C, len(calls)), calls: calls, waiting: len(calls)}
	for i, q := range calls {
		q.batch, q.index, b.requests[i] = b, i, q.c
	}
	if len(calls) == 1 {
		b.parent, b.cancel, b.deadline = calls[0].ctx, func() {}, calls[0].deadline
	} else {
		b.parent, b.cancel = context.WithCancel(context.Background())
		b.deadline = deadlineOf(calls)
	}
	g.places.add(&b.run)
	return b
}

// deadlineOf returns the deadline of a batch, or zero. The batch must not go on when no caller
// waits for it any more. An abandoned call must not take effect after the deadline that was passed
// to Do.
func deadlineOf[C, R any](calls []*call[C, R]) time.Time {
	var (
		latest    time.Time // of the deadlines of the callers' contexts
		unbounded bool      // if one of them has none
		earliest  time.Time // of the deadlines that were passed to Do
	)
	for _, q := range calls {
		switch {
		case q.ctxDeadline.IsZero():
			unbounded = true
		case q.ctxDeadline.After(latest):
			latest = q.ctxDeadline
		}
		if isEarlier(q.deadline, earliest) {
			earliest = q.deadline
		}
	}
	if unbounded || isEarlier(earliest, latest) {
		return earliest
	}
	return latest
}

// isEarlier compares deadlines. A zero deadline is none.
func isEarlier(a, b time.Time) bool {
	return !a.IsZero() && (b.IsZero() || a.Before(b))
}

// abandon removes a call whose caller stops waiting.
func (b *batch[C, R]) abandon(q *call[C, R]) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.calls[q.index] != q {
		return // it was answered at the same time
	}
	b.calls[q.index] = nil
	b.waiting--
	if b.waiting == 0 {
		b.cancel()
	}
}

// answer answers a call whose caller waits. The last such caller waits until the run ends, so that
// the context of a caller always bounds the run.
func (b *batch[C, R]) answer(i int, r R) {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := b.calls[i]
	switch {
	case q == nil || b.last != nil:
	case b.waiting == 1:
		b.last = &result[R]{r: r}
	default:
		b.calls[i] = nil
		b.waiting--
		q.done <- result[R]{r: r}
	}
}

// end answers the calls that are left when the run has ended.
func (b *batch[C, R]) end(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	left := result[R]{err: err}
	if b.last != nil {
		left = *b.last
	}
	for i, q := range b.calls {
		if q != nil {
			b.calls[i] = nil
			q.done <- left
		}
	}
	b.cancel()
}

// runBatches runs a batch, and then the batches that take its place.
func (g *Group[C, R]) runBatches(b *batch[C, R]) {
	defer func() {
		if b != nil { // Run called runtime.Goexit
			g.leave(&b.run)
		}
	}()
	for b != nil {
		g.runBatch(b)
		runtime.Gosched() // the package comment says why
		b = g.next(&b.run)
	}
}

// runBatch runs a batch and answers its callers.
func (g *Group[C, R]) runBatch(b *batch[C, R]) {
	err := errGoexit // overwritten unless Run calls runtime.Goexit
	defer func() { b.end(err) }()
	err = g.runRecovered(b)
	b.run.ok = err == nil
	switch {
	case err == nil:
		err = errUnanswered
	case len(b.requests) > 1 && g.config.RunAgain != nil && g.config.RunAgain(err):
		err = errRunAgain
	}
}

func (g *Group[C, R]) runRecovered(b *batch[C, R]) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = &panicError{value: value, stack: debug.Stack()}
		}
	}()
	ctx, cancel := g.config.Context(b.parent, b.deadline)
	defer cancel()
	g.runs.Add(1)
	return g.config.Run(ctx, b.requests, b.answer)
}
