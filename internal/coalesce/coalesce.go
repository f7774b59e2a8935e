// Package coalesce lets concurrent calls of one kind share their runs. For the store, a run is a
// statement to the database.
//
// If there is a place among the runs in flight of a [Group], a call runs at once, by itself, on its
// caller's goroutine. Otherwise it queues. When a run ends, the queued calls leave together as one
// batch. No call is delayed to fill a batch. So a single caller pays next to nothing, and the
// batches grow with the load. The only goroutines are those that run batches.
//
// The queue is first in, first out, and queued calls go before new ones. A call waits for one run
// to end and then for its own run, unless more calls are queued before it than one batch may hold,
// or the number of places falls. A call never joins a run that has begun. So a call made after
// another one has returned takes effect after it, unless the caller of the other one stopped
// waiting while its batch ran.
//
// A run that lasts longer than SlowAfter stops counting as in flight. So a slow run delays
// queued calls by SlowAfter at most. The queue has one timer for this, which is set only while a
// call is queued.
//
// When a batch has answered, its goroutine yields once before the next batch leaves. Callers who
// call again at once are then queued, and share the next run. Without the yield, the first of them
// would often find a place free and run alone, and the others would wait for it.
package coalesce

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgsession/pgsession/internal/deadline"
)

// Config sets how a [Group] runs its calls. C is the type of a call, and R the type of its result.
type Config[C, R any] struct {
	// MaxInFlight is how many runs may be in flight. While there are as many, calls queue. 0 turns
	// coalescing off: every call runs at once, by itself.
	MaxInFlight int

	// Limit returns how many runs may be in flight now, 1 to MaxInFlight. Its argument is how long
	// the fastest of the latest runs took, or 0 before any has succeeded. If a run mostly waits for
	// the network, more runs in flight make better use of the server. Limit must be quick, and must
	// not call the group. If it is nil, the limit is always MaxInFlight.
	Limit func(fastest time.Duration) int

	// MaxBatch is the largest number of calls in one run. 0 means no limit.
	MaxBatch int

	// MaxBatchBytes is the largest sum of Size over the calls of one run. 0 means no limit. One
	// call always fits, whatever its size.
	MaxBatchBytes int

	// Size returns the size of a call in bytes. If it is nil, every call counts as 0. It is used
	// only if MaxBatchBytes is set.
	Size func(C) int

	// SlowAfter is how long a run may last before it stops counting as in flight. 0 means
	// that every run counts until it ends.
	SlowAfter time.Duration

	// Run executes calls, given in the order in which they were made, and answers each by its
	// index. The first answer to a call counts, and its caller receives it at once, even if the
	// run goes on; only the last caller of a batch waits for the run to end. If Run returns an
	// error, every call without an answer gets that error. Run must not keep the slice, and must
	// not answer after it has returned. It is called from several goroutines at once.
	//
	// The context comes from Context. Run must return soon after it ends.
	Run func(ctx context.Context, calls []C, answer func(i int, r R)) error

	// Context returns the context of a run. The parent of a single call's is its caller's context.
	// The parent of a batch's has no values, and is cancelled when every caller without an answer
	// has stopped waiting. The deadline is zero if there is none. Otherwise it is, for a single
	// call, what was passed to Do. For a batch it is the earlier of two times: the latest deadline
	// of its callers' contexts, and the earliest deadline that was passed to Do. If Context is nil,
	// the context of a run ends with its parent, and at the deadline.
	Context func(parent context.Context, deadline time.Time) (context.Context, context.CancelFunc)

	// RunAgain decides what follows the error of a run of more than one call. If it returns true,
	// each call without an answer whose caller still waits runs again, by itself, so that the bad
	// input of one call does not fail the others. If it returns false or is nil, these calls get
	// the error: this is for writes, if it is unknown whether they took effect. A panic in Run
	// arrives here as an error too. If it is not run again, the callers panic.
	RunAgain func(error) bool
}

// Group coalesces calls. It is safe for concurrent use and needs no closing. An idle Group has no
// goroutine.
type Group[C, R any] struct {
	config      Config[C, R]
	calls, runs atomic.Uint64
	pool        sync.Pool // of *call[C, R]

	mu     sync.Mutex
	places places
	queue  []*call[C, R] // oldest first; if it is not empty, all places are taken

	// The calls of failed batches run again in a group of their own, each by itself. So a failed
	// batch neither floods the database nor delays calls that were not in it. It is nil if RunAgain
	// is.
	again *Group[C, R]
}

// New returns an idle Group.
func New[C, R any](config Config[C, R]) *Group[C, R] {
	if config.Context == nil {
		config.Context = defaultContext
	}
	g := &Group[C, R]{config: config}
	g.places = newPlaces(config.MaxInFlight, config.Limit, config.SlowAfter, g.onSlowRun)
	if config.RunAgain != nil {
		config.MaxBatch, config.RunAgain = 1, nil
		g.again = New(config)
	}
	return g
}

func defaultContext(parent context.Context, deadline time.Time) (context.Context, context.CancelFunc) {
	if deadline.IsZero() {
		return parent, func() {}
	}
	return context.WithDeadline(parent, deadline)
}

// Do runs c, by itself or in a batch, and returns its result.
//
// If ctx ends first, or that of its caller ([deadline.Caller]), Do returns its error. A call that is
// still queued is then never run. A call in a batch is abandoned: Do returns at once, and the batch
// goes on for the other callers. A call that runs by itself returns when Run does.
//
// A call that is still queued at its deadline is never run, and fails with
// [context.DeadlineExceeded] when its turn comes. The context of a run ends at the deadline, and Do
// returns when Run does. A zero deadline is none.
//
// If Run panics, so does Do.
func (g *Group[C, R]) Do(ctx context.Context, deadline time.Time, c C) (R, error) {
	if ctx == nil {
		panic("coalesce: nil context")
	}
	// If a method of ctx panics, it must do so before the call takes a place or is queued.
	made := call[C, R]{c: c, ctx: ctx, ended: ctx.Done(), deadline: deadline}
	made.ctxDeadline, _ = ctx.Deadline()
	if g.config.MaxBatchBytes > 0 && g.config.Size != nil {
		made.size = g.config.Size(c)
	}

	g.calls.Add(1)
	if g.config.MaxInFlight <= 0 {
		return g.runAlone(ctx, deadline, newSingle[C, R](c))
	}
	alone, queued := g.enter(&made)
	if alone != nil {
		defer g.leave(&alone.run)
		return g.runAlone(ctx, deadline, alone)
	}

	result := g.wait(queued)
	if result.err == errRunAgain {
		switch {
		case ctx.Err() != nil:
			return result.r, ctx.Err()
		case made.hasExpired(time.Now()):
			return result.r, context.DeadlineExceeded
		}
		return g.again.Do(ctx, deadline, c)
	}
	if panicked, ok := result.err.(*panicError); ok {
		panic(panicked)
	}
	return result.r, result.err
}

// Stats returns how many calls were made and how many runs have begun. calls/runs is the average
// number of calls that share a run.
func (g *Group[C, R]) Stats() (calls, runs uint64) {
	if g.again != nil {
		_, runs = g.again.Stats()
	}
	return g.calls.Load(), g.runs.Load() + runs
}

// Waiting returns how many calls are queued now.
func (g *Group[C, R]) Waiting() (calls int) {
	if g.again != nil {
		calls = g.again.Waiting()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return calls + len(g.queue)
}

// call is a call that was queued. Group.mu guards the last two fields; the others do not change.
type call[C, R any] struct {
	c           C
	size        int
	ctx         context.Context
	ended       <-chan struct{} // the channel of ctx
	ctxDeadline time.Time       // zero if ctx has none
	deadline    time.Time       // the argument of Do
	done        chan result[R]  // has a buffer of one, so that a send never blocks

	batch *batch[C, R] // nil while queued
	index int          // in the batch
}

type result[R any] struct {
	r   R
	err error
}

// enter takes a place and returns what runs there, or queues a copy of the call and returns it.
func (g *Group[C, R]) enter(made *call[C, R]) (*single[C, R], *call[C, R]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.queue) == 0 {
		if g.places.full() {
			g.places.removeSlow()
		}
		if !g.places.full() {
			alone := newSingle[C, R](made.c)
			g.places.add(&alone.run)
			return alone, nil
		}
	}
	queued, reused := g.pool.Get().(*call[C, R])
	if reused {
		made.done = queued.done
	} else {
		queued, made.done = new(call[C, R]), make(chan result[R], 1)
	}
	*queued = *made
	g.queue = append(g.queue, queued)
	g.places.watch()
	return nil, queued
}

// hasExpired reports whether the caller has no time left.
func (q *call[C, R]) hasExpired(now time.Time) bool {
	return hasPassed(q.deadline, now) || hasPassed(q.ctxDeadline, now)
}

func hasPassed(deadline, now time.Time) bool {
	return !deadline.IsZero() && !now.Before(deadline)
}

// wait returns what the call is sent, which may be errRunAgain. It abandons the call if its context
// ends first.
func (g *Group[C, R]) wait(q *call[C, R]) result[R] {
	caller := deadline.Caller(q.ctx)
	var err error
	select {
	case result := <-q.done:
		*q = call[C, R]{done: q.done} // no queue and no batch refers to it any more
		g.pool.Put(q)
		return result
	case <-q.ended:
		err = q.ctx.Err()
	case <-caller.Done():
		err = caller.Err()
	}
	g.abandon(q)
	return result[R]{err: err}
}

// abandon removes a call whose caller stops waiting from the queue or its batch. The call is not
// reused, because it may have been sent a result at the same time.
func (g *Group[C, R]) abandon(q *call[C, R]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if q.batch != nil {
		q.batch.abandon(q)
	} else if i := slices.Index(g.queue, q); i >= 0 { // if not, it had expired when a batch left
		g.queue = slices.Delete(g.queue, i, i+1)
	}
}

// leave ends a run and lets queued calls take its place. They get a goroutine of their own, so that
// the caller whose call has ended does not wait for them.
func (g *Group[C, R]) leave(r *run) {
	if b := g.next(r); b != nil {
		go g.runBatches(b)
	}
}

// single is the run of one call on its caller's goroutine.
type single[C, R any] struct {
	run      run
	calls    [1]C
	r        R
	answered bool
}

func newSingle[C, R any](c C) *single[C, R] {
	return &single[C, R]{run: run{alone: true}, calls: [1]C{c}}
}

func (s *single[C, R]) answer(_ int, r R) {
	if !s.answered {
		s.r, s.answered = r, true
	}
}

func (g *Group[C, R]) runAlone(ctx context.Context, deadline time.Time, s *single[C, R]) (r R, err error) {
	ctx, cancel := g.config.Context(ctx, deadline)
	defer cancel()
	g.runs.Add(1)
	err = g.config.Run(ctx, s.calls[:], s.answer)
	s.run.ok = err == nil
	switch {
	case s.answered:
		return s.r, nil
	case err == nil:
		err = errUnanswered
	}
	return r, err
}
