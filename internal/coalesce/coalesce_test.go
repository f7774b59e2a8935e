package coalesce_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pgsession/pgsession/internal/coalesce"
	"github.com/pgsession/pgsession/internal/deadline"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type config = coalesce.Config[string, string]

// A scene is a group whose runs wait until the test ends them, even if their contexts end. Its
// clock is a fake one.
type scene struct {
	*testing.T
	*coalesce.Group[string, string]
	begun chan *run
}

// A scenes table has the tests of one subject. MaxInFlight is 1 unless the config says otherwise.
type scenes map[string]struct {
	config config
	test   func(s *scene)
}

func (tests scenes) run(t *testing.T) {
	t.Parallel()
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inScene(t, test.config, test.test)
		})
	}
}

// inScene fails the test if a goroutine is left over at its end.
func inScene(t *testing.T, c config, test func(s *scene)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &scene{T: t, begun: make(chan *run, 100)}
		c.Run = s.run
		if c.MaxInFlight == 0 {
			c.MaxInFlight = 1
		}
		s.Group = coalesce.New(c)
		test(s)
	})
}

// A run has begun.
type run struct {
	ctx        context.Context
	calls      []string
	answerWith func(i int, value string)
	end        chan func() error
}

func (s *scene) run(ctx context.Context, calls []string, answer func(int, string)) error {
	r := &run{ctx: ctx, calls: slices.Clone(calls), answerWith: answer, end: make(chan func() error, 1)}
	s.begun <- r
	return (<-r.end)()
}

// next returns the run that has begun. It must be a run of these calls.
func (s *scene) next(calls ...string) *run {
	s.Helper()
	synctest.Wait()
	require.NotEmpty(s, s.begun, "no run has begun")
	r := <-s.begun
	require.Equal(s, calls, r.calls)
	return r
}

// idle checks that no further run has begun.
func (s *scene) idle() {
	s.Helper()
	synctest.Wait()
	require.Empty(s, s.begun)
}

// occupy makes a call that runs by itself, so that the next calls queue.
func (s *scene) occupy() *run {
	s.Helper()
	s.call("first")
	return s.next("first")
}

// batch makes calls that run together.
func (s *scene) batch(calls ...string) (*run, []*caller) {
	s.Helper()
	first := s.occupy()
	var callers []*caller
	for _, call := range calls {
		callers = append(callers, s.call(call))
	}
	first.succeed()
	return s.next(calls...), callers
}

// advance moves the clock.
func (s *scene) advance(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (r *run) answer(i int) { r.answerWith(i, "did "+r.calls[i]) }

func (r *run) succeed() {
	for i := range r.calls {
		r.answer(i)
	}
	r.fail(nil)
}

func (r *run) fail(err error)  { r.end <- func() error { return err } }
func (r *run) panic(value any) { r.end <- func() error { panic(value) } }
func (r *run) goexit()         { r.end <- func() error { runtime.Goexit(); return nil } }

// A caller is a goroutine that makes one call.
type caller struct {
	call     string
	value    string
	err      error
	panicked any
	ended    atomic.Bool // the goroutine has ended
	returned atomic.Bool // Do has returned, without a panic or Goexit
}

// call makes a call, and returns once it runs or is queued.
func (s *scene) call(call string) *caller { return s.callWith(s.Context(), time.Time{}, call) }

func (s *scene) callWith(ctx context.Context, deadline time.Time, call string) *caller {
	c := &caller{call: call}
	go func() {
		defer func() { c.panicked = recover(); c.ended.Store(true) }()
		c.value, c.err = s.Do(ctx, deadline, call)
		c.returned.Store(true)
	}()
	synctest.Wait()
	return c
}

func (s *scene) succeeded(callers ...*caller) {
	s.Helper()
	synctest.Wait()
	for _, c := range callers {
		require.True(s, c.returned.Load(), "still waiting")
		require.NoError(s, c.err)
		require.Equal(s, "did "+c.call, c.value)
	}
}

func (s *scene) failed(err error, callers ...*caller) {
	s.Helper()
	synctest.Wait()
	for _, c := range callers {
		require.True(s, c.returned.Load(), "still waiting")
		require.ErrorIs(s, c.err, err)
		require.Empty(s, c.value)
	}
}

func (s *scene) waits(callers ...*caller) {
	s.Helper()
	synctest.Wait()
	for _, c := range callers {
		require.False(s, c.ended.Load(), "no longer waiting")
	}
}

var errServer = errors.New("server error")

func always(error) bool { return true }

type contextKey struct{}

// mine returns a context with a value.
func (s *scene) mine() context.Context { return context.WithValue(s.Context(), contextKey{}, "mine") }

func TestGroup_Do(t *testing.T) {
	scenes{
		"runs at once by itself while a place is free": {config{MaxInFlight: 2}, func(s *scene) {
			a, b := s.callWith(s.mine(), time.Time{}, "a"), s.call("b")
			first, second := s.next("a"), s.next("b")
			require.Equal(s, "mine", first.ctx.Value(contextKey{}))
			second.succeed()
			s.succeeded(b)
			s.waits(a)
			first.succeed()
			s.succeeded(a)
		}},
		"queues when no place is free, and leaves in order as one batch": {config{MaxInFlight: 2}, func(s *scene) {
			first, second := s.occupy(), s.occupy()
			c, d, e := s.call("c"), s.call("d"), s.call("e")
			s.idle()
			first.succeed()
			batch := s.next("c", "d", "e")
			second.succeed()
			s.idle()
			batch.succeed()
			s.succeeded(c, d, e)
		}},
		"never joins a batch that has been sent": {config{}, func(s *scene) {
			batch, callers := s.batch("b", "c")
			d := s.call("d")
			s.idle()
			batch.succeed()
			s.succeeded(callers...)
			s.waits(d)
			s.next("d").succeed()
			s.succeeded(d)
		}},
		"a batch holds at most MaxBatch calls": {config{MaxBatch: 2}, func(s *scene) {
			for _, call := range []string{"a", "b", "c", "d", "e", "f"} {
				s.call(call)
			}
			s.next("a").succeed()
			s.next("b", "c").succeed()
			s.next("d", "e").succeed()
			s.next("f").succeed()
		}},
		"a place is free again if no call is queued": {config{}, func(s *scene) {
			for range 3 { // alone, then alone, then a batch of one
				s.call("a")
				first := s.next("a")
				s.call("b")
				first.succeed()
				s.next("b").succeed()
				s.idle()
			}
		}},
		"MaxInFlight below 1: every call runs at once by itself": {config{MaxInFlight: -1}, func(s *scene) {
			var runs []*run
			for range 20 {
				s.call("a")
				runs = append(runs, s.next("a"))
			}
			for _, r := range runs {
				r.succeed()
			}
		}},
		"an answered caller does not wait for the run to end": {config{}, func(s *scene) {
			batch, callers := s.batch("b", "c", "d")
			batch.answer(1)
			batch.answer(1) // as a second attempt does
			s.succeeded(callers[1])
			s.waits(callers[0], callers[2])
			e := s.call("e")
			s.idle()
			batch.succeed()
			s.succeeded(callers[0], callers[2])
			s.next("e").succeed()
			s.succeeded(e)
		}},
		"of several answers the first counts": {config{}, func(s *scene) {
			answerTwice := func(r *run) {
				for i := range r.calls {
					r.answer(i)
				}
				for i := range r.calls {
					r.answerWith(i, "nothing")
				}
				r.fail(nil)
			}
			a := s.call("a")
			answerTwice(s.next("a"))
			s.succeeded(a)
			batch, callers := s.batch("b", "c", "d")
			answerTwice(batch)
			s.succeeded(callers...)
		}},
		"a call without an answer fails": {config{RunAgain: always}, func(s *scene) {
			a := s.call("a")
			s.next("a").fail(nil)
			batch, callers := s.batch("b", "c")
			batch.answer(0)
			batch.fail(nil)
			s.succeeded(callers[0])
			for _, forgotten := range []*caller{a, callers[1]} {
				require.True(s, forgotten.returned.Load())
				require.ErrorContains(s, forgotten.err, "without an answer")
			}
			s.idle()
		}},
	}.run(t)
}

// Calls leave in the order in which they were made, each with the next run that begins, in whatever
// order runs end. So a call waits for one run to end, and for its own.
func TestGroup_Do_WaitsForTwoRunsAtMost(t *testing.T) {
	t.Parallel()
	const maxInFlight = 3
	inScene(t, config{MaxInFlight: maxInFlight}, func(s *scene) {
		random := rand.New(rand.NewPCG(1, 2))
		var inFlight []*run
		var made, sent, begun int
		begunWhenMade := map[string]int{}
		observe := func() {
			for synctest.Wait(); len(s.begun) > 0; {
				r := <-s.begun
				begun++
				inFlight = append(inFlight, r)
				require.LessOrEqual(s, len(inFlight), maxInFlight)
				for _, call := range r.calls {
					require.Equal(s, fmt.Sprint(sent), call, "out of order")
					require.Equal(s, begunWhenMade[call]+1, begun, "call %s let another run go first", call)
					sent++
				}
			}
		}
		endOne := func() {
			i := random.IntN(len(inFlight))
			inFlight[i].succeed()
			inFlight = slices.Delete(inFlight, i, i+1)
			observe()
		}
		for range 2000 {
			if len(inFlight) > 0 && random.IntN(4) == 0 {
				endOne()
				continue
			}
			call := fmt.Sprint(made)
			begunWhenMade[call] = begun
			made++
			s.call(call)
			observe()
		}
		for len(inFlight) > 0 {
			endOne()
		}
		require.Equal(s, made, sent)
	})
}

// Callers who call again as soon as a batch has answered share the next run. Otherwise the first of
// them runs alone, and the others wait for it.
func TestGroup_Do_CallersWhoReturnShareARun(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // so that the scheduler has no choice
	synctest.Test(t, func(t *testing.T) {
		const callers, rounds = 50, 100
		g := coalesce.New(config{MaxInFlight: 1, Run: func(_ context.Context, calls []string, answer func(int, string)) error {
			time.Sleep(time.Millisecond)
			for i, call := range calls {
				answer(i, call)
			}
			return nil
		}})
		var group sync.WaitGroup
		for range callers {
			group.Go(func() {
				for range rounds {
					g.Do(t.Context(), time.Time{}, "call")
				}
			})
		}
		group.Wait()
		_, runs := g.Stats()
		require.Less(t, runs, uint64(2*rounds-10), "two runs a round mean one for the first who returns")
	})
}

// panickingValue is a context that can be waited for, but not be the parent of another one.
type panickingValue struct{ context.Context }

func (panickingValue) Value(any) any { panic("no value") }

func TestGroup_Do_ContextEnds(t *testing.T) {
	scenes{
		"while queued: it is never sent": {config{}, func(s *scene) {
			first := s.occupy()
			b := s.call("b")
			ctx, cancel := context.WithTimeout(s.Context(), time.Second)
			defer cancel()
			c := s.callWith(ctx, time.Time{}, "c")
			d := s.call("d")
			<-ctx.Done()
			s.failed(context.DeadlineExceeded, c)
			require.Equal(s, 2, s.Waiting())
			first.succeed()
			s.next("b", "d").succeed()
			s.succeeded(b, d)
		}},
		"while queued, though its operation has a grace: it is not run": {config{}, func(s *scene) {
			first := s.occupy()
			caller, leave := context.WithCancel(s.Context())
			var watch deadline.Watch
			ctx, cancel := watch.WithGrace(caller, time.Time{})
			defer cancel()
			b := s.callWith(ctx, time.Time{}, "b")
			leave()
			s.failed(context.Canceled, b)
			first.succeed()
			s.idle()
		}},
		"while its batch runs: the batch goes on for the others": {config{}, func(s *scene) {
			first := s.occupy()
			ctx, cancel := context.WithCancel(s.mine())
			b, c := s.callWith(ctx, time.Time{}, "b"), s.call("c")
			first.succeed()
			batch := s.next("b", "c")
			cancel()
			s.failed(context.Canceled, b)
			s.waits(c)
			require.NoError(s, batch.ctx.Err())
			require.Nil(s, batch.ctx.Value(contextKey{}))
			batch.succeed()
			s.succeeded(c)
			require.Error(s, batch.ctx.Err(), "the context of a finished batch is still held")
		}},
		"of all callers in a batch: the context of the batch ends": {config{RunAgain: always}, func(s *scene) {
			first := s.occupy()
			ctx, cancel := context.WithCancel(s.Context())
			b, c := s.callWith(ctx, time.Time{}, "b"), s.callWith(ctx, time.Time{}, "c")
			first.succeed()
			batch := s.next("b", "c")
			d := s.call("d")
			cancel()
			s.failed(context.Canceled, b, c)
			require.ErrorIs(s, batch.ctx.Err(), context.Canceled)
			s.idle() // the place is taken until the run has returned
			batch.fail(batch.ctx.Err())
			s.next("d").succeed()
			s.succeeded(d)
			s.idle()
		}},
		"of all callers without an answer: the context of the batch ends": {config{}, func(s *scene) {
			first := s.occupy()
			ctx, cancel := context.WithCancel(s.Context())
			b, c, d := s.call("b"), s.callWith(ctx, time.Time{}, "c"), s.callWith(ctx, time.Time{}, "d")
			first.succeed()
			batch := s.next("b", "c", "d")
			batch.answer(0)
			s.succeeded(b)
			batch.answer(2)
			s.succeeded(d)
			batch.answer(1)
			s.waits(c) // the context of a caller must bound the run
			require.NoError(s, batch.ctx.Err())
			cancel()
			s.failed(context.Canceled, c)
			require.ErrorIs(s, batch.ctx.Err(), context.Canceled)
			batch.fail(batch.ctx.Err())
		}},
		"in a batch of one: the context of the batch ends": {config{}, func(s *scene) {
			first := s.occupy()
			ctx, cancel := context.WithCancel(s.mine())
			b := s.callWith(ctx, time.Time{}, "b")
			first.succeed()
			batch := s.next("b")
			require.Equal(s, "mine", batch.ctx.Value(contextKey{}))
			cancel()
			s.failed(context.Canceled, b)
			require.ErrorIs(s, batch.ctx.Err(), context.Canceled)
			batch.succeed()
		}},
		"with a panic: the place is not lost": {config{}, func(s *scene) {
			first := s.occupy()
			for _, bad := range []context.Context{nil, struct{ context.Context }{}} {
				b := s.callWith(bad, time.Time{}, "b")
				require.True(s, b.ended.Load())
				require.NotNil(s, b.panicked)
			}
			c := s.call("c")
			first.succeed()
			s.next("c").succeed()
			s.succeeded(c)
		}},
		"with a panic while a batch of one begins: its caller panics": {config{}, func(s *scene) {
			first := s.occupy()
			b := s.callWith(panickingValue{s.Context()}, time.Now().Add(time.Hour), "b")
			first.succeed()
			synctest.Wait()
			require.True(s, b.ended.Load())
			require.ErrorContains(s, b.panicked.(error), "no value")
			s.occupy().succeed()
		}},
	}.run(t)
}

func TestGroup_Do_BatchFails(t *testing.T) {
	failsEverybody := func(s *scene) {
		batch, callers := s.batch("b", "c")
		batch.fail(errServer)
		s.failed(errServer, callers...)
		s.idle()
	}
	var judged atomic.Pointer[error]
	judge := func(err error) bool { return judged.CompareAndSwap(nil, &err) }
	scenes{
		"run again: call by call, for the callers who still wait": {config{RunAgain: judge}, func(s *scene) {
			first := s.occupy()
			leaving, cancel := context.WithCancel(s.Context())
			b, gone := s.callWith(s.mine(), time.Time{}, "b"), s.callWith(leaving, time.Time{}, "gone")
			bad, d := s.callWith(s.mine(), time.Time{}, "bad"), s.callWith(s.mine(), time.Time{}, "d")
			first.succeed()
			batch := s.next("b", "gone", "bad", "d")
			cancel()
			s.failed(context.Canceled, gone)
			batch.fail(errServer)

			errBad := errors.New("bad input")
			for range 3 { // the order is the scheduler's
				synctest.Wait()
				require.Len(s, s.begun, 1, "MaxInFlight is 1")
				again := <-s.begun
				require.Len(s, again.calls, 1)
				require.Equal(s, "mine", again.ctx.Value(contextKey{}))
				if again.calls[0] == "bad" {
					again.fail(errBad)
				} else {
					again.succeed()
				}
			}
			s.succeeded(b)
			s.failed(errBad, bad)
			s.succeeded(d)
			s.idle()
			require.Equal(s, errServer, *judged.Load())
			calls, runs := s.Stats()
			require.Equal(s, []uint64{5, 5}, []uint64{calls, runs})
		}},
		"run again: other calls are not delayed, and a call whose caller leaves is not run": {config{RunAgain: always}, func(s *scene) {
			first := s.occupy()
			ctx, cancel := context.WithCancel(s.Context())
			var callers []*caller
			for range 3 {
				callers = append(callers, s.callWith(ctx, time.Time{}, "same"))
			}
			first.succeed()
			s.next("same", "same", "same").fail(errServer)
			again := s.next("same")
			require.Equal(s, 2, s.Waiting())

			other := s.call("other")
			s.next("other").succeed()
			s.succeeded(other)

			cancel()
			s.idle()
			again.fail(ctx.Err())
			s.failed(context.Canceled, callers...)
			s.idle()
			require.Zero(s, s.InFlight())
		}},
		"RunAgain nil: every caller gets the error": {config{}, failsEverybody},
		"RunAgain false: every caller gets the error": {
			config{RunAgain: func(error) bool { return false }}, failsEverybody},
		"the error of a single call goes to its caller without RunAgain": {config{RunAgain: always}, func(s *scene) {
			a, b := s.call("a"), s.call("b")
			s.next("a").fail(errServer)
			s.next("b").fail(errServer)
			s.failed(errServer, a, b)
			s.idle()
		}},
	}.run(t)
}

func TestGroup_Do_RunPanics(t *testing.T) {
	scenes{
		"by itself": {config{}, func(s *scene) {
			a, b := s.call("a"), s.call("b")
			s.next("a").panic("boom")
			s.next("b").succeed()
			require.Equal(s, "boom", a.panicked)
			s.succeeded(b)
		}},
		"in a batch: every caller panics": {config{}, func(s *scene) {
			batch, callers := s.batch("b", "c")
			d := s.call("d")
			batch.panic("boom")
			s.next("d").succeed()
			s.succeeded(d)
			for _, c := range callers {
				err, isError := c.panicked.(error)
				require.True(s, isError)
				require.ErrorContains(s, err, "boom")
				require.ErrorContains(s, err, "coalesce_test.go", "where it panicked")
			}
		}},
		"in a batch that is run again: only the caller of the bad call panics": {config{MaxInFlight: 2, RunAgain: always}, func(s *scene) {
			second := s.occupy()
			batch, callers := s.batch("bad", "c")
			batch.panic("boom")
			synctest.Wait()
			require.Len(s, s.begun, 2)
			for range 2 {
				if again := <-s.begun; again.calls[0] == "bad" {
					again.panic("boom")
				} else {
					again.succeed()
				}
			}
			s.succeeded(callers[1])
			require.Equal(s, "boom", callers[0].panicked)
			second.succeed()
		}},
	}.run(t)
}

func TestGroup_Do_RunEndsItsGoroutine(t *testing.T) {
	scenes{
		"by itself: the caller's goroutine ends": {config{}, func(s *scene) {
			a, b := s.call("a"), s.call("b")
			s.next("a").goexit()
			s.next("b").succeed()
			s.succeeded(b)
			require.True(s, a.ended.Load())
			require.False(s, a.returned.Load())
			require.Nil(s, a.panicked)
		}},
		"in a batch: every caller gets an error": {config{RunAgain: always}, func(s *scene) {
			batch, callers := s.batch("b", "c")
			d := s.call("d")
			batch.goexit()
			s.next("d").succeed()
			s.succeeded(d)
			for _, c := range callers {
				require.True(s, c.returned.Load())
				require.EqualError(s, c.err, "coalesce: the run ended its goroutine")
			}
		}},
	}.run(t)
}

// neverDone is a context that has a deadline or an error, but is never done: its caller does not
// notice.
type neverDone struct {
	context.Context
	deadline time.Time
	err      error
}

func (c *neverDone) Deadline() (time.Time, bool) { return c.deadline, !c.deadline.IsZero() }
func (c *neverDone) Err() error                  { return c.err }
func (c *neverDone) Done() <-chan struct{}       { return nil }

func requireDeadline(s *scene, want time.Time, r *run) {
	s.Helper()
	deadline, ok := r.ctx.Deadline()
	require.True(s, ok)
	require.Equal(s, want, deadline)
}

func TestGroup_Do_Deadline(t *testing.T) {
	bySingle := func(s *scene) {
		deadline := time.Now().Add(time.Second)
		ctx, cancel := context.WithTimeout(s.mine(), time.Minute)
		defer cancel()
		a := s.callWith(ctx, deadline, "a")
		r := s.next("a")
		require.Equal(s, "mine", r.ctx.Value(contextKey{}))
		requireDeadline(s, deadline, r)
		s.advance(time.Second)
		require.ErrorIs(s, r.ctx.Err(), context.DeadlineExceeded)
		r.fail(r.ctx.Err())
		s.failed(context.DeadlineExceeded, a)
	}
	scenes{
		"by itself: it bounds the context of the run":                      {config{}, bySingle},
		"by itself, MaxInFlight below 1: it bounds the context of the run": {config{MaxInFlight: -1}, bySingle},
		"by itself: the context of the run is released at once": {config{}, func(s *scene) {
			a := s.callWith(s.Context(), time.Now().Add(time.Second), "a")
			r := s.next("a")
			r.succeed()
			s.succeeded(a)
			require.ErrorIs(s, r.ctx.Err(), context.Canceled)
		}},
		"by itself, none: the caller's own context serves": {config{}, func(s *scene) {
			r := s.occupy()
			require.Same(s, s.Context(), r.ctx)
			r.succeed()
		}},
		"while queued: it is never sent, and fails when its turn comes": {config{}, func(s *scene) {
			first := s.occupy()
			over := s.callWith(s.Context(), time.Now().Add(-time.Second), "over")
			b := s.callWith(s.Context(), time.Now().Add(time.Second), "b")
			c := s.callWith(&neverDone{Context: s.Context(), deadline: time.Now().Add(time.Second)}, time.Time{}, "c")
			d := s.callWith(s.Context(), time.Now().Add(time.Hour), "d")
			s.advance(time.Second)
			first.succeed()
			batch := s.next("d")
			s.failed(context.DeadlineExceeded, over, b, c)
			batch.succeed()
			s.succeeded(d)
		}},
		"while its batch runs: the context of the run ends, and all wait for the run": {config{}, func(s *scene) {
			first := s.occupy()
			b := s.callWith(s.Context(), time.Now().Add(time.Second), "b")
			c := s.callWith(s.Context(), time.Now().Add(time.Minute), "c")
			first.succeed()
			batch := s.next("b", "c")
			s.advance(time.Second)
			require.ErrorIs(s, batch.ctx.Err(), context.DeadlineExceeded, "b could take effect after its deadline")
			s.waits(b, c)
			batch.answer(1)
			s.succeeded(c)
			batch.fail(batch.ctx.Err())
			s.failed(context.DeadlineExceeded, b)
		}},
		"of one call: it has no effect on later ones": {config{}, func(s *scene) {
			for range 20 { // calls are reused, but the race detector makes the pool drop some
				for _, deadline := range []time.Time{time.Now().Add(time.Second), {}} {
					first := s.occupy()
					b := s.callWith(s.Context(), deadline, "b")
					first.succeed()
					second := s.next("b")
					_, ok := second.ctx.Deadline()
					require.Equal(s, !deadline.IsZero(), ok)
					second.succeed()
					s.succeeded(b)
				}
			}
		}},
		"run again: it bounds the context of the run": {config{MaxInFlight: 2, RunAgain: always}, func(s *scene) {
			other, first := s.occupy(), s.occupy()
			deadline := time.Now().Add(time.Second)
			callers := []*caller{s.callWith(s.mine(), deadline, "same"), s.callWith(s.mine(), deadline, "same")}
			first.succeed()
			s.next("same", "same").fail(errServer)
			for _, again := range []*run{s.next("same"), s.next("same")} {
				requireDeadline(s, deadline, again)
				require.Equal(s, "mine", again.ctx.Value(contextKey{}))
				again.succeed()
			}
			s.succeeded(callers...)
			other.succeed()
		}},
		"while it waits to run again: it is not run": {config{RunAgain: always}, func(s *scene) {
			first := s.occupy()
			deadline := time.Now().Add(time.Second)
			callers := []*caller{s.callWith(s.Context(), deadline, "same"), s.callWith(s.Context(), deadline, "same")}
			first.succeed()
			s.next("same", "same").fail(errServer)
			again := s.next("same")
			s.advance(time.Second)
			again.fail(again.ctx.Err())
			s.failed(context.DeadlineExceeded, callers...)
			s.idle()
		}},
		"over when its turn to run again comes: it is not run": {config{RunAgain: always}, func(s *scene) {
			first := s.occupy()
			ended := &neverDone{Context: s.Context()}
			b := s.callWith(ended, time.Time{}, "b")
			c := s.callWith(&neverDone{Context: s.Context(), deadline: time.Now().Add(time.Second)}, time.Time{}, "c")
			first.succeed()
			batch := s.next("b", "c")
			ended.err = errServer
			s.advance(time.Second)
			batch.fail(context.DeadlineExceeded)
			s.idle()
			s.failed(errServer, b)
			s.failed(context.DeadlineExceeded, c)
		}},
	}.run(t)
}

// The context of a batch ends when its last caller stops waiting, and at the earliest deadline that
// was passed to Do: a call that was abandoned must not take effect later.
func TestGroup_Do_DeadlineOfABatch(t *testing.T) {
	t.Parallel()
	type bounds struct{ ctx, deadline int } // seconds from now; 0 is none
	for name, test := range map[string]struct {
		callers []bounds
		want    int
	}{
		"none":                           {[]bounds{{}, {}}, 0},
		"contexts: the latest":           {[]bounds{{ctx: 1}, {ctx: 3}, {ctx: 2}}, 3},
		"contexts, and one without":      {[]bounds{{ctx: 1}, {}, {ctx: 2}}, 0},
		"deadlines: the earliest":        {[]bounds{{deadline: 2}, {deadline: 1}, {deadline: 3}}, 1},
		"a deadline, and one without":    {[]bounds{{}, {deadline: 2}}, 2},
		"contexts before the deadlines":  {[]bounds{{ctx: 2, deadline: 8}, {ctx: 3, deadline: 9}}, 3},
		"a deadline before the contexts": {[]bounds{{ctx: 5, deadline: 2}, {ctx: 6}}, 2},
		"a deadline between contexts":    {[]bounds{{ctx: 1}, {ctx: 5, deadline: 3}, {ctx: 4}}, 3},
		"one call: its deadline":         {[]bounds{{ctx: 3, deadline: 2}}, 2},
		"one call: its context's":        {[]bounds{{ctx: 2, deadline: 3}}, 2},
		"one call: none":                 {[]bounds{{}}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inScene(t, config{}, func(s *scene) {
				first, begin := s.occupy(), time.Now()
				var calls []string
				for _, caller := range test.callers {
					ctx, cancel := context.WithCancel(s.mine())
					if caller.ctx > 0 {
						ctx, cancel = context.WithDeadline(ctx, begin.Add(time.Duration(caller.ctx)*time.Second))
					}
					defer cancel()
					var deadline time.Time
					if caller.deadline > 0 {
						deadline = begin.Add(time.Duration(caller.deadline) * time.Second)
					}
					s.callWith(ctx, deadline, "call")
					calls = append(calls, "call")
				}
				first.succeed()
				batch := s.next(calls...)
				if test.want > 0 {
					requireDeadline(s, begin.Add(time.Duration(test.want)*time.Second), batch)
				} else {
					_, ok := batch.ctx.Deadline()
					require.False(s, ok)
				}
				if len(calls) == 1 {
					require.Equal(s, "mine", batch.ctx.Value(contextKey{}))
				} else {
					require.Nil(s, batch.ctx.Value(contextKey{}))
				}
				batch.succeed()
			})
		})
	}
}

// Every run has the context that Config.Context makes, which is cancelled when the run has ended.
func TestGroup_Do_Context(t *testing.T) {
	t.Parallel()
	type madeKey struct{}
	var made, cancelled int
	c := config{RunAgain: always, Context: func(parent context.Context, deadline time.Time) (context.Context, context.CancelFunc) {
		made++
		return context.WithValue(parent, madeKey{}, deadline), func() { cancelled++ }
	}}
	inScene(t, c, func(s *scene) {
		ctx, cancel := context.WithCancel(s.mine())
		defer cancel()
		deadline := time.Now().Add(time.Second)
		begun := func(calls ...string) *run {
			r := s.next(calls...)
			require.Equal(s, deadline, r.ctx.Value(madeKey{}))
			return r
		}
		s.callWith(ctx, deadline, "alone")
		alone := begun("alone")
		s.callWith(ctx, deadline, "queued")
		alone.succeed()
		queued := begun("queued")
		b, c := s.callWith(ctx, deadline, "same"), s.callWith(ctx, deadline, "same")
		queued.succeed()
		begun("same", "same").fail(errServer)
		begun("same").succeed()
		begun("same").succeed()
		s.succeeded(b, c)
		require.Equal(s, 5, made)
		require.Equal(s, 5, cancelled)
	})
}

func TestGroup_Do_MaxBatchBytes(t *testing.T) {
	t.Parallel()
	size := func(call string) int { return len(call) }
	for name, test := range map[string]struct {
		config config
		want   [][]string
	}{
		"fills the limit exactly, and keeps the order": {
			config{MaxBatchBytes: 4, Size: size},
			[][]string{{"aa", "bb"}, {"c", "dd"}, {"eee"}},
		},
		"a call above the limit runs by itself": {
			config{MaxBatchBytes: 2, Size: size},
			[][]string{{"a"}, {"bbbbb"}, {"c", "d"}, {"eeeee"}},
		},
		"an empty call does not join a call above the limit": {
			config{MaxBatchBytes: 2, Size: size},
			[][]string{{"aaa"}, {"", "bb", ""}},
		},
		"with MaxBatch": {
			config{MaxBatchBytes: 4, MaxBatch: 2, Size: size},
			[][]string{{"a", "b"}, {"c", "ddd"}, {"eee"}},
		},
		"no limit": {config{Size: size}, [][]string{{"aaa", "bbb", "ccc"}}},
		"Size nil": {config{MaxBatchBytes: 1}, [][]string{{"aaa", "bbb", "ccc"}}},
		"sizes that overflow int": {
			config{MaxBatchBytes: 1 << 62, Size: func(string) int { return 1 << 62 }},
			[][]string{{"a"}, {"b"}, {"c"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inScene(t, test.config, func(s *scene) {
				first := s.occupy() // longer than any limit
				for _, batch := range test.want {
					for _, call := range batch {
						s.call(call)
					}
				}
				first.succeed()
				for _, batch := range test.want {
					s.next(batch...).succeed()
				}
				s.idle()
			})
		})
	}
}

func TestGroup_Do_SlowRuns(t *testing.T) {
	const slow = 100 * time.Millisecond
	one, two := config{SlowAfter: slow, RunAgain: always}, config{MaxInFlight: 2, MaxBatch: 1, SlowAfter: slow}
	scenes{
		"queued calls leave as soon as a run is slow": {one, func(s *scene) {
			first := s.occupy()
			s.advance(60 * time.Millisecond)
			b, c := s.call("b"), s.call("c")
			s.advance(40*time.Millisecond - 1)
			s.idle()
			s.advance(1)
			s.next("b", "c").succeed()
			s.succeeded(b, c)
			first.succeed()
		}},
		"a slow batch stops counting too": {one, func(s *scene) {
			batch, _ := s.batch("b", "c")
			s.call("d")
			s.advance(slow)
			second := s.next("d")
			batch.succeed()
			s.call("e")
			s.idle() // the slow batch gives no place back
			second.succeed()
			s.next("e").succeed()
		}},
		"a slow run gives no place back when it ends": {one, func(s *scene) {
			first := s.occupy()
			s.call("b")
			s.advance(slow)
			second := s.next("b")
			s.call("c")
			first.succeed()
			s.idle()
			s.call("d")
			s.idle()
			second.succeed()
			s.next("c", "d").succeed()
			// nothing is in flight: exactly one place is free
			third := s.occupy()
			s.call("f")
			s.idle()
			third.succeed()
			s.next("f").succeed()
		}},
		"a new call runs by itself if only slow runs are in flight": {two, func(s *scene) {
			runs := []*run{s.occupy(), s.occupy()}
			s.advance(slow)
			require.False(s, s.TimerSet())
			c := s.call("c")
			s.next("c").goexit()
			synctest.Wait()
			require.False(s, c.returned.Load(), "it ran on a goroutine of its own")
			runs = append(runs, s.occupy(), s.occupy())
			s.call("e")
			s.idle()
			runs[0].succeed()
			runs[1].succeed()
			s.idle()
			runs[2].succeed()
			s.next("e").succeed()
			runs[3].succeed()
		}},
		"several slow runs: as many batches leave": {two, func(s *scene) {
			runs := []*run{s.occupy(), s.occupy()}
			for _, call := range []string{"c", "d", "e"} {
				s.call(call)
			}
			s.advance(slow)
			require.Len(s, s.begun, 2)
			runs = append(runs, <-s.begun, <-s.begun)
			require.ElementsMatch(s, []string{"c", "d"}, []string{runs[2].calls[0], runs[3].calls[0]})
			s.advance(slow)
			runs = append(runs, s.next("e")) // the timer was set again
			for _, r := range runs {
				r.succeed()
			}
			s.idle()
		}},
		"the time of one run is not counted for the next": {one, func(s *scene) {
			first := s.occupy()
			s.call("b")
			s.advance(slow / 2)
			first.succeed()
			second := s.next("b")
			s.call("c")
			s.advance(slow - 1)
			s.idle()
			s.advance(1)
			third := s.next("c")
			second.succeed()
			third.succeed()
		}},
		"run again: a slow one does not delay the others, and gives no place back": {one, func(s *scene) {
			batch, _ := s.batch("same", "same", "same", "same")
			batch.fail(errServer)
			again := s.next("same")
			s.advance(slow - 1)
			s.idle()
			s.advance(1)
			second := s.next("same")
			again.succeed()
			s.idle()
			second.succeed()
			third := s.next("same")
			s.idle()
			third.succeed()
			s.next("same").succeed()
			s.idle()
		}},
		"the timer is not set again if nothing is queued": {one, func(s *scene) {
			first := s.occupy()
			s.call("b")
			s.advance(slow / 2)
			first.succeed()
			second := s.next("b")
			s.advance(slow / 2)
			require.False(s, s.TimerSet())
			require.Equal(s, 1, s.InFlight(), "b is not slow yet")
			second.succeed()
		}},
		"SlowAfter 0: every run counts until it ends": {config{}, func(s *scene) {
			first := s.occupy()
			s.call("b")
			s.advance(time.Hour)
			s.call("c")
			s.idle()
			require.False(s, s.TimerSet())
			first.succeed()
			s.next("b", "c").succeed()
		}},
		"the timer is set only while a call is queued": {one, func(s *scene) {
			first := s.occupy()
			require.False(s, s.TimerSet())
			s.call("b")
			s.call("c")
			require.True(s, s.TimerSet())
			first.succeed()
			batch := s.next("b", "c")
			s.advance(slow)
			require.False(s, s.TimerSet())
			batch.fail(errServer)
			synctest.Wait()
			require.True(s, s.TimerSet(), "a call waits to run again")
			for range 2 {
				(<-s.begun).succeed()
				synctest.Wait()
			}
			s.advance(slow)
			require.False(s, s.TimerSet())
		}},
	}.run(t)
}

// How many runs may be in flight follows from how long the fastest of the latest took.
func TestGroup_Limit(t *testing.T) {
	c := config{MaxInFlight: 8, RunAgain: always, Limit: func(fastest time.Duration) int {
		return min(1+int(fastest/time.Millisecond), 8)
	}}
	single := c
	single.MaxBatch = 1
	// alone makes one call that takes so long.
	alone := func(s *scene, took time.Duration, end func(*run)) {
		s.Helper()
		r := s.occupy()
		time.Sleep(took)
		end(r)
		synctest.Wait()
	}
	// together makes two calls whose run takes so long.
	together := func(s *scene, took time.Duration, end func(*run)) {
		s.Helper()
		var before []*run
		for range s.Places() {
			before = append(before, s.occupy())
		}
		s.call("b")
		s.call("c")
		for _, r := range before {
			r.fail(errServer)
		}
		batch := s.next("b", "c")
		time.Sleep(took)
		end(batch)
		synctest.Wait()
	}
	scenes{
		"more and fewer places": {c, func(s *scene) {
			a := s.occupy()
			s.call("b")
			s.idle() // before any has ended, the least number
			time.Sleep(3 * time.Millisecond)
			a.succeed()
			b := s.next("b")
			more := []*run{s.occupy(), s.occupy(), s.occupy()}
			s.call("f")
			s.idle()

			time.Sleep(time.Millisecond)
			b.succeed() // two places now
			s.idle()
			more[0].succeed()
			s.idle()
			more[1].succeed()
			s.next("f").succeed()
			more[2].succeed()
		}},
		"new places are given to queued calls at once": {single, func(s *scene) {
			a := s.occupy()
			for _, call := range []string{"b", "c", "d"} {
				s.call(call)
			}
			time.Sleep(2 * time.Millisecond)
			a.succeed()
			synctest.Wait()
			require.Len(s, s.begun, 3)
			for range 3 {
				(<-s.begun).succeed()
			}
		}},
		"a slower run counts little": {c, func(s *scene) {
			alone(s, time.Millisecond/10, (*run).succeed)
			for range 10 {
				alone(s, 10*time.Second, (*run).succeed)
			}
			require.Equal(s, 1, s.Places())
			for range 1000 {
				alone(s, 5*time.Millisecond, (*run).succeed)
			}
			require.Equal(s, 5, s.Places(), "a little below 5 ms")
			alone(s, time.Millisecond/10, (*run).succeed)
			require.Equal(s, 1, s.Places())
		}},
		"a run that fails counts for nothing": {c, func(s *scene) {
			alone(s, 3*time.Millisecond, (*run).succeed)
			alone(s, 0, func(r *run) { r.fail(errServer) })
			alone(s, 0, func(r *run) { r.panic("in a run") })
			alone(s, 0, (*run).goexit)
			together(s, 0, (*run).goexit)
			together(s, 0, func(r *run) { r.fail(errServer) })
			(<-s.begun).succeed() // the calls run again
			synctest.Wait()
			(<-s.begun).succeed()
			require.Equal(s, 4, s.Places())
		}},
		"a batch counts only if it is faster": {c, func(s *scene) {
			alone(s, 3*time.Millisecond, (*run).succeed)
			for range 200 {
				together(s, 8*time.Millisecond, (*run).succeed)
			}
			require.Equal(s, 4, s.Places())
			together(s, time.Millisecond, (*run).succeed)
			require.Equal(s, 2, s.Places())
		}},
	}.run(t)
}

// Not parallel: it counts goroutines.
func TestGroup_NoGoroutineWhenIdle(t *testing.T) {
	before := goleak.IgnoreCurrent()
	g := coalesce.New(coalesce.Config[int, int]{MaxInFlight: 2, Run: func(_ context.Context, calls []int, answer func(int, int)) error {
		for i := range calls {
			answer(i, i)
		}
		return nil
	}})
	var callers sync.WaitGroup
	for i := range 100 {
		callers.Go(func() { _, _ = g.Do(t.Context(), time.Time{}, i) })
	}
	callers.Wait()
	goleak.VerifyNone(t, before)
	runtime.KeepAlive(g)
}

// Hundreds of callers, some of whom leave or have a short deadline, runs that fail, panic, are slow
// and end their goroutines, and a limit that jumps. Every caller gets the answer to its own call,
// no call runs more often than it may, and places are neither exceeded nor lost.
func TestGroup_Stress(t *testing.T) {
	t.Parallel()
	const maxInFlight = 4
	errBad := errors.New("bad input")
	jumping := func(time.Duration) int { return 1 + rand.IntN(maxInFlight) }
	for name, test := range map[string]struct {
		runAgain  bool
		slowAfter time.Duration
		limit     func(time.Duration) int
		most      int64 // runs in flight, those of calls that are run again included; 0 if slow runs may exceed it
	}{
		"run again":                   {runAgain: true, most: 2 * maxInFlight},
		"every caller gets the error": {runAgain: false, most: maxInFlight},
		"slow runs":                   {runAgain: true, slowAfter: 50 * time.Microsecond},
		"a limit that jumps":          {runAgain: true, limit: jumping, most: 2 * maxInFlight},
		"slow runs, jumping limit":    {runAgain: true, slowAfter: 50 * time.Microsecond, limit: jumping},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const callers, callsEach = 200, 100
			var inFlight, mostInFlight atomic.Int64
			var batched atomic.Bool
			var times [callers * callsEach]atomic.Int64
			g := coalesce.New(coalesce.Config[int, int]{
				MaxInFlight:   maxInFlight,
				Limit:         test.limit,
				MaxBatch:      64,
				MaxBatchBytes: 50,
				Size:          func(call int) int { return call % 3 },
				SlowAfter:     test.slowAfter,
				RunAgain:      func(error) bool { return test.runAgain },
				Run: func(ctx context.Context, calls []int, answer func(int, int)) error {
					now := inFlight.Add(1)
					defer inFlight.Add(-1)
					if len(calls) > 1 {
						batched.Store(true)
					}
					for most := mostInFlight.Load(); now > most && !mostInFlight.CompareAndSwap(most, now); {
						most = mostInFlight.Load()
					}
					for range rand.IntN(5) {
						runtime.Gosched()
					}
					for i, call := range calls {
						times[call].Add(1)
						switch {
						case call%1000 == 13 && test.runAgain:
							panic("boom")
						case call%1000 == 19 && test.runAgain:
							runtime.Goexit()
						case call%100 == 7:
							return fmt.Errorf("%w: %d", errBad, call)
						}
						answer(i, 2*call)
					}
					return ctx.Err()
				},
			})

			var done sync.WaitGroup
			for caller := range callers {
				done.Go(func() {
					for i := range callsEach {
						call := caller*callsEach + i
						ctx, cancel := context.WithCancel(t.Context())
						var deadline time.Time
						switch call % 5 {
						case 0:
							go cancel()
						case 1:
							deadline = time.Now().Add(time.Duration(rand.IntN(100)) * time.Microsecond)
						case 2:
							deadline = time.Now().Add(time.Hour)
						}
						value, panicked, err := try(ctx, deadline, g, call)
						cancel()
						switch {
						case errors.Is(err, context.Canceled) && call%5 == 0:
						case errors.Is(err, context.DeadlineExceeded) && call%5 == 1:
						case errors.Is(err, errEnded) && test.runAgain: // in a batch with a call that does so
						case test.runAgain && call%1000 == 13:
							assert.NotNil(t, panicked)
						case test.runAgain && call%100 == 7:
							assert.EqualError(t, err, fmt.Sprintf("bad input: %d", call))
						case !test.runAgain && err != nil:
							assert.ErrorIs(t, err, errBad)
						default:
							assert.Nil(t, panicked)
							assert.NoError(t, err)
							assert.Equal(t, 2*call, value)
						}
					}
				})
			}
			done.Wait()

			if test.most > 0 {
				require.LessOrEqual(t, mostInFlight.Load(), test.most)
				require.True(t, batched.Load(), "no run of more than one call")
			}
			calls, _ := g.Stats()
			require.EqualValues(t, callers*callsEach, calls)
			most := int64(1)
			if test.runAgain {
				most = 2
			}
			for call := range times {
				require.LessOrEqual(t, times[call].Load(), most, "call %d", call)
			}
			require.Zero(t, g.Waiting())
			for g.InFlight() > 0 { // the last goroutine may not have given its place back; a lost place hangs here
				runtime.Gosched()
			}
		})
	}
}

// errEnded stands for the error of a call whose run ended its goroutine.
var errEnded = errors.New("the run ended its goroutine")

// try makes a call on a goroutine of its own, which a run may end.
func try(ctx context.Context, deadline time.Time, g *coalesce.Group[int, int], call int) (value int, panicked any, err error) {
	err = errEnded
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer func() { panicked = recover() }()
		value, err = g.Do(ctx, deadline, call)
		if err != nil && err.Error() == "coalesce: the run ended its goroutine" {
			err = errEnded
		}
	}()
	<-ended
	if panicked != nil {
		err = nil
	}
	return value, panicked, err
}
