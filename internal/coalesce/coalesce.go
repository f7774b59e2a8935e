// Package coalesce lets concurrent calls of one kind share their runs: statements to a database, for the store.
//
// A [Group] has a number of places. While one is free, a call runs at once, by itself, on its caller's goroutine. When
// none is, calls queue, and leave together as one batch as soon as a place falls free. So nothing waits for company, one
// caller alone pays next to nothing, and the busier the group, the larger the batches. There is no timer, and no
// goroutine but one for each place that batches hold.
//
// The queue is first in, first out, and a free place goes to it before any newcomer: a call waits for one place to fall
// free and then for its own run, unless there are more calls before it than one batch may hold. A call never joins a run
// that has begun. So a call that is made after another one has returned takes effect after it, unless the other was
// given up by its caller while its batch ran.
//
// Where processors are scarce, a batch that has answered lets its callers run before it gives its place back. Those who
// call again at once are then together in the next batch; otherwise one of them would find the place free, and go alone.
package coalesce

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
)

// Config says how a [Group] runs its calls. C is what a call brings, R what it gets back.
type Config[C, R any] struct {
	// Places is the number of runs in flight from which on calls queue. 0 turns coalescing off: every call runs at
	// once, by itself.
	Places int

	// MaxBatch is the largest number of calls in one run. 0 means no limit.
	MaxBatch int

	// Run does the calls, which stand in the order in which they were made, and answers each by its index. Of several
	// answers the first counts, and its caller goes on at once, also while the run does. An error that Run returns goes
	// to the calls that it did not answer, all of them alike. It must not keep the slice, nor answer once it has
	// returned, and is called by many goroutines at once.
	//
	// A call by itself is run under its caller's context, a batch under one that carries no values and no deadline, and
	// that is cancelled when the last of its callers has gone without an answer.
	Run func(ctx context.Context, calls []C, answer func(i int, r R)) error

	// RunAgain judges the error of a run of more than one call. True: each call that was not answered, and whose caller
	// still waits, is run again, by itself, so that nobody's bad input is another's error. False, or a nil RunAgain:
	// their callers get the error, as befits writes whose outcome is unknown. A panic in Run comes here as an error too;
	// where it is false, they panic.
	RunAgain func(error) bool
}

// Group coalesces calls. It is safe for concurrent use, needs no closing, and has no goroutine when idle.
type Group[C, R any] struct {
	config Config[C, R]
	again  chan struct{} // holds a token for each call that is being run again

	mu    sync.Mutex
	taken int           // places; all of them while anything is queued
	queue []*call[C, R] // the oldest first
	pool  sync.Pool     // of *call[C, R]

	calls, runs atomic.Uint64
}

// New returns an idle Group.
func New[C, R any](config Config[C, R]) *Group[C, R] {
	return &Group[C, R]{config: config, again: make(chan struct{}, config.Places)}
}

// Stats returns how many calls were made and how many runs have begun: calls/runs is what coalescing gains.
func (g *Group[C, R]) Stats() (calls, runs uint64) {
	return g.calls.Load(), g.runs.Load()
}

// Waiting returns how many calls are queued now.
func (g *Group[C, R]) Waiting() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.queue)
}

// Do runs c, by itself or in a batch, and returns its result. When ctx ends first, a call that is still queued is never
// run, and one in a batch is given up: Do returns the error of ctx at once, and the batch goes on for the others. When
// Run panics, so does Do.
func (g *Group[C, R]) Do(ctx context.Context, c C) (r R, err error) {
	if ctx == nil {
		panic("coalesce: nil context")
	}
	ended := ctx.Done() // a context that panics does so before others depend on the call
	g.calls.Add(1)
	queued := g.enter(ctx, c)
	if queued == nil {
		defer g.release()
		return g.alone(ctx, c)
	}

	select {
	case result := <-queued.done:
		g.free(queued)
		if result.err == errRunAgain {
			return g.runAgain(ctx, c)
		}
		if panicked, ok := result.err.(*panicError); ok {
			panic(panicked)
		}
		return result.r, result.err
	case <-ended:
		g.abandon(queued)
		return r, ctx.Err()
	}
}

// call is a call that found no free place.
type call[C, R any] struct {
	ctx   context.Context
	c     C
	done  chan result[R] // holds one, so that a batch never waits for a caller who has gone
	batch *batch[C, R]   // nil while queued; guarded by Group.mu
	index int            // in the batch
}

type result[R any] struct {
	r   R
	err error
}

// batch is the calls that left the queue together.
type batch[C, R any] struct {
	ctx    context.Context
	cancel context.CancelFunc
	brings []C

	mu      sync.Mutex
	calls   []*call[C, R] // nil where answered, or given up
	waiting int           // those that are left
	last    *result[R]    // the answer to the only one of them
}

// enter takes a place and returns nil, or queues the call.
func (g *Group[C, R]) enter(ctx context.Context, c C) *call[C, R] {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.config.Places == 0 || g.taken < g.config.Places {
		g.taken++
		return nil
	}
	queued, used := g.pool.Get().(*call[C, R])
	if !used {
		queued = &call[C, R]{done: make(chan result[R], 1)}
	}
	queued.ctx, queued.c = ctx, c
	g.queue = append(g.queue, queued)
	return queued
}

// free keeps a call that was answered for another one.
func (g *Group[C, R]) free(answered *call[C, R]) {
	*answered = call[C, R]{done: answered.done}
	g.pool.Put(answered)
}

// release hands the place to the queue. The batch gets a goroutine of its own: the caller who has just finished should
// not be held by the work of others, and one who is in the batch may leave at any time.
func (g *Group[C, R]) release() {
	if b := g.next(); b != nil {
		go g.lead(b)
	}
}

// next takes a batch from the queue, or gives the place back and returns nil.
func (g *Group[C, R]) next() *batch[C, R] {
	g.mu.Lock()
	defer g.mu.Unlock()
	size := len(g.queue)
	if size == 0 {
		g.taken--
		return nil
	}
	if g.config.MaxBatch > 0 {
		size = min(size, g.config.MaxBatch)
	}
	b := &batch[C, R]{brings: make([]C, size), calls: slices.Clone(g.queue[:size]), waiting: size}
	g.queue = slices.Delete(g.queue, 0, size)

	parent := context.Background()
	if size == 1 {
		parent = b.calls[0].ctx
	}
	b.ctx, b.cancel = context.WithCancel(parent)
	for i, queued := range b.calls {
		queued.batch, queued.index, b.brings[i] = b, i, queued.c
	}
	return b
}

// abandon takes out a call whose context has ended.
func (g *Group[C, R]) abandon(gone *call[C, R]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if gone.batch != nil {
		gone.batch.abandon(gone)
		return
	}
	i := slices.Index(g.queue, gone)
	g.queue = slices.Delete(g.queue, i, i+1)
}

func (b *batch[C, R]) abandon(gone *call[C, R]) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.calls[gone.index] != gone {
		return // it was answered at the same time
	}
	b.calls[gone.index] = nil
	b.waiting--
	if b.waiting == 0 {
		b.cancel()
	}
}

// answer answers a call that still waits. The last of them stays until the run has ended, so that there is always a
// context that bounds it.
func (b *batch[C, R]) answer(i int, r R) {
	b.mu.Lock()
	defer b.mu.Unlock()
	queued := b.calls[i]
	switch {
	case queued == nil || b.last != nil:
	case b.waiting == 1:
		b.last = &result[R]{r: r}
	default:
		b.calls[i] = nil
		b.waiting--
		queued.done <- result[R]{r: r}
	}
}

// end answers those that still wait when the run has ended.
func (b *batch[C, R]) end(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	left := result[R]{err: err}
	if b.last != nil {
		left = *b.last
	}
	for i, queued := range b.calls {
		if queued != nil {
			b.calls[i] = nil
			queued.done <- left
		}
	}
	b.cancel()
}

// lead runs a batch, and those that then wait for its place.
func (g *Group[C, R]) lead(b *batch[C, R]) {
	defer func() {
		if b != nil { // Run ended the goroutine
			g.release()
		}
	}()
	for b != nil {
		g.serve(b)
		runtime.Gosched() // see the package comment
		b = g.next()
	}
}

// serve runs a batch and answers its callers.
func (g *Group[C, R]) serve(b *batch[C, R]) {
	err := errGoexit // stands only when runBatch does not return
	defer func() { b.end(err) }()
	err = g.runBatch(b)
	switch {
	case err == nil:
		err = errUnanswered
	case len(b.brings) > 1 && g.config.RunAgain != nil && g.config.RunAgain(err):
		err = errRunAgain
	}
}

var (
	errGoexit     = errors.New("coalesce: the run ended its goroutine")
	errUnanswered = errors.New("coalesce: the run left the call without an answer")
	errRunAgain   = errors.New("coalesce: run again") // tells a caller to run its call by itself; never leaves the package
)

// panicError takes a panic from the goroutine of a batch, where it would end the process, to those of the callers.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string {
	return fmt.Sprintf("coalesce: run panicked: %v\n\n%s", e.value, e.stack)
}

func (g *Group[C, R]) runBatch(b *batch[C, R]) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = &panicError{value: value, stack: debug.Stack()}
		}
	}()
	g.runs.Add(1)
	return g.config.Run(b.ctx, b.brings, b.answer)
}

// runAgain runs a call of a failed batch on its caller's goroutine. There are as many places for this as for all else,
// and apart from them, so that a failed batch neither floods what is behind Run nor delays calls that were not in it.
func (g *Group[C, R]) runAgain(ctx context.Context, c C) (r R, err error) {
	select {
	case g.again <- struct{}{}:
		defer func() { <-g.again }()
		return g.alone(ctx, c)
	case <-ctx.Done():
		return r, ctx.Err()
	}
}

func (g *Group[C, R]) alone(ctx context.Context, c C) (R, error) {
	var only struct { // a single allocation
		calls [1]C
		result[R]
	}
	only.calls[0], only.err = c, errUnanswered
	g.runs.Add(1)
	err := g.config.Run(ctx, only.calls[:], func(_ int, r R) {
		if only.err != nil {
			only.result = result[R]{r: r}
		}
	})
	if err != nil && only.err != nil {
		only.err = err
	}
	return only.r, only.err
}
