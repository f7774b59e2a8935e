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
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type (
	group  = coalesce.Group[string, string]
	config = coalesce.Config[string, string]
)

// server is behind a group. A run waits until the test ends it, even if its context ends.
type server struct{ begun chan *run }

type run struct {
	ctx        context.Context
	calls      []string
	answerWith func(i int, value string)
	end        chan func() error
}

func newServer() *server { return &server{begun: make(chan *run, 100)} }

func (s *server) Run(ctx context.Context, calls []string, answer func(int, string)) error {
	r := &run{ctx: ctx, calls: slices.Clone(calls), answerWith: answer, end: make(chan func() error, 1)}
	s.begun <- r
	return (<-r.end)()
}

// next returns the run that has begun. It must be a run of these calls.
func (s *server) next(t *testing.T, calls ...string) *run {
	t.Helper()
	synctest.Wait()
	require.NotEmpty(t, s.begun, "no run has begun")
	r := <-s.begun
	require.Equal(t, calls, r.calls)
	return r
}

// idle checks that no further run has begun.
func (s *server) idle(t *testing.T) {
	t.Helper()
	synctest.Wait()
	require.Empty(t, s.begun)
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

// caller is a goroutine that makes one call.
type caller struct {
	value    string
	err      error
	panicked any
	ended    atomic.Bool // the goroutine has ended
	returned atomic.Bool // Do has returned, without a panic or Goexit
}

// start makes a call, and returns once it runs or is queued.
func start(ctx context.Context, g *group, call string) *caller {
	return startBefore(ctx, time.Time{}, g, call)
}

func startBefore(ctx context.Context, deadline time.Time, g *group, call string) *caller {
	c := &caller{}
	go func() {
		defer func() { c.panicked = recover(); c.ended.Store(true) }()
		c.value, c.err = g.Do(ctx, deadline, call)
		c.returned.Store(true)
	}()
	synctest.Wait()
	return c
}

func (c *caller) succeeded(t *testing.T, call string) {
	t.Helper()
	synctest.Wait()
	require.True(t, c.returned.Load(), "still waiting")
	require.NoError(t, c.err)
	require.Equal(t, "did "+call, c.value)
}

func (c *caller) failed(t *testing.T, err error) {
	t.Helper()
	synctest.Wait()
	require.True(t, c.returned.Load(), "still waiting")
	require.ErrorIs(t, c.err, err)
	require.Empty(t, c.value)
}

func (c *caller) waits(t *testing.T) {
	t.Helper()
	synctest.Wait()
	require.False(t, c.ended.Load(), "no longer waiting")
}

// bubble runs a test with a fake clock. A goroutine that is left over at the end fails the test.
func bubble(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, test)
}

var errServer = errors.New("server error")

func always(error) bool { return true }

type contextKey struct{}

// panickingValue is a context that can be waited for, but not be the parent of another one.
type panickingValue struct{ context.Context }

func (panickingValue) Value(any) any { panic("no value") }

func TestGroup_Do(t *testing.T) {
	t.Parallel()

	t.Run("runs at once by itself while a place is free", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 2, Run: s.Run})
			ctx := context.WithValue(t.Context(), contextKey{}, "mine")
			a, b := start(ctx, g, "a"), start(ctx, g, "b")
			first, second := s.next(t, "a"), s.next(t, "b")
			require.Equal(t, "mine", first.ctx.Value(contextKey{}))

			second.succeed()
			b.succeeded(t, "b")
			a.waits(t)
			first.succeed()
			a.succeeded(t, "a")
		})
	})

	t.Run("queues when no place is free, and leaves in order as one batch", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 2, Run: s.Run})
			start(t.Context(), g, "a")
			start(t.Context(), g, "b")
			first, second := s.next(t, "a"), s.next(t, "b")
			c, d, e := start(t.Context(), g, "c"), start(t.Context(), g, "d"), start(t.Context(), g, "e")
			s.idle(t)

			first.succeed()
			batch := s.next(t, "c", "d", "e")
			second.succeed()
			s.idle(t)
			batch.succeed()
			c.succeeded(t, "c")
			d.succeeded(t, "d")
			e.succeeded(t, "e")
		})
	})

	t.Run("never joins a batch that has been sent", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, Run: s.Run})
			start(t.Context(), g, "a")
			first := s.next(t, "a")
			b, c := start(t.Context(), g, "b"), start(t.Context(), g, "c")
			first.succeed()
			second := s.next(t, "b", "c")

			d := start(t.Context(), g, "d")
			s.idle(t)
			second.succeed()
			b.succeeded(t, "b")
			c.succeeded(t, "c")
			d.waits(t)
			s.next(t, "d").succeed()
			d.succeeded(t, "d")
		})
	})

	t.Run("a batch holds at most MaxBatch calls", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, MaxBatch: 2, Run: s.Run})
			for _, call := range []string{"a", "b", "c", "d", "e", "f"} {
				start(t.Context(), g, call)
			}
			s.next(t, "a").succeed()
			s.next(t, "b", "c").succeed()
			s.next(t, "d", "e").succeed()
			s.next(t, "f").succeed()
		})
	})

	t.Run("a place is free again if no call is queued", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, Run: s.Run})
			for range 3 { // alone, then alone, then a batch of one
				start(t.Context(), g, "a")
				first := s.next(t, "a")
				start(t.Context(), g, "b")
				first.succeed()
				s.next(t, "b").succeed()
				s.idle(t)
			}
		})
	})

	t.Run("MaxInFlight 0: every call runs at once by itself", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{Run: s.Run})
			var runs []*run
			for range 20 {
				start(t.Context(), g, "a")
				runs = append(runs, s.next(t, "a"))
			}
			for _, r := range runs {
				r.succeed()
			}
		})
	})

	t.Run("an answered caller does not wait for the run to end", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, Run: s.Run})
			start(t.Context(), g, "a")
			first := s.next(t, "a")
			b, c, d := start(t.Context(), g, "b"), start(t.Context(), g, "c"), start(t.Context(), g, "d")
			first.succeed()
			batch := s.next(t, "b", "c", "d")
			batch.answer(1)
			batch.answer(1) // as a second attempt does
			c.succeeded(t, "c")
			b.waits(t)
			d.waits(t)
			e := start(t.Context(), g, "e")
			s.idle(t)
			batch.succeed()
			b.succeeded(t, "b")
			d.succeeded(t, "d")
			s.next(t, "e").succeed()
			e.succeeded(t, "e")
		})
	})

	t.Run("of several answers the first counts", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, Run: s.Run})
			a := start(t.Context(), g, "a")
			alone := s.next(t, "a")
			b, c, d := start(t.Context(), g, "b"), start(t.Context(), g, "c"), start(t.Context(), g, "d")
			answerTwice := func(r *run) {
				for i := range r.calls {
					r.answer(i)
				}
				for i := range r.calls {
					r.answerWith(i, "nothing")
				}
				r.fail(nil)
			}
			answerTwice(alone)
			answerTwice(s.next(t, "b", "c", "d"))
			for call, caller := range map[string]*caller{"a": a, "b": b, "c": c, "d": d} {
				caller.succeeded(t, call)
			}
		})
	})

	t.Run("a call without an answer fails", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, Run: s.Run, RunAgain: always})
			a := start(t.Context(), g, "a")
			b, c := start(t.Context(), g, "b"), start(t.Context(), g, "c")
			s.next(t, "a").fail(nil)
			batch := s.next(t, "b", "c")
			batch.answer(0)
			batch.fail(nil)
			b.succeeded(t, "b")
			for _, forgotten := range []*caller{a, c} {
				synctest.Wait()
				require.True(t, forgotten.returned.Load())
				require.ErrorContains(t, forgotten.err, "without an answer")
			}
			s.idle(t)
		})
	})
}

// Calls leave in the order in which they were made, each with the next run that begins, in whatever
// order runs end. So a call waits for one run to end, and for its own.
func TestGroup_Do_WaitsForTwoRunsAtMost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const maxInFlight = 3
		s := newServer()
		g := coalesce.New(config{MaxInFlight: maxInFlight, Run: s.Run})
		random := rand.New(rand.NewPCG(1, 2))

		var inFlight []*run
		var made, sent, begun int
		begunWhenMade := map[string]int{}
		observe := func() {
			for synctest.Wait(); len(s.begun) > 0; {
				r := <-s.begun
				begun++
				inFlight = append(inFlight, r)
				require.LessOrEqual(t, len(inFlight), maxInFlight)
				for _, call := range r.calls {
					require.Equal(t, fmt.Sprint(sent), call, "out of order")
					require.Equal(t, begunWhenMade[call]+1, begun, "call %s let another run go first", call)
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
			start(t.Context(), g, call)
			observe()
		}
		for len(inFlight) > 0 {
			endOne()
		}
		require.Equal(t, made, sent)
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

func TestGroup_Do_ContextEnds(t *testing.T) {
	t.Parallel()

	t.Run("while queued: it is never sent", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, Run: s.Run})
			start(t.Context(), g, "a")
			first := s.next(t, "a")
			b := start(t.Context(), g, "b")
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			c := start(ctx, g, "c")
			d := start(t.Context(), g, "d")

			<-ctx.Done()
			c.failed(t, context.DeadlineExceeded)
			first.succeed()
			s.next(t, "b", "d").succeed()
			b.succeeded(t, "b")
			d.succeeded(t, "d")
		})
	})

	t.Run("while its batch runs: the batch goes on for the others", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, Run: s.Run})
			start(t.Context(), g, "a")
			first := s.next(t, "a")
			ctx, cancel := context.WithCancel(context.WithValue(t.Context(), contextKey{}, "of b alone"))
			b := start(ctx, g, "b")
			c := start(t.Context(), g, "c")
			first.succeed()
			batch := s.next(t, "b", "c")

			cancel()
			b.failed(t, context.Canceled)
			c.waits(t)
			require.NoError(t, batch.ctx.Err())
			require.Nil(t, batch.ctx.Value(contextKey{}))
			batch.succeed()
			c.succeeded(t, "c")
			require.Error(t, batch.ctx.Err(), "the context of a finished batch is still held")
		})
	})

	t.Run("of all callers in a batch: the context of the batch ends", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, Run: s.Run, RunAgain: always})
			start(t.Context(), g, "a")
			first := s.next(t, "a")
			ctx, cancel := context.WithCancel(t.Context())
			b, c := start(ctx, g, "b"), start(ctx, g, "c")
			first.succeed()
			batch := s.next(t, "b", "c")
			d := start(t.Context(), g, "d")

			cancel()
			b.failed(t, context.Canceled)
			c.failed(t, context.Canceled)
			require.ErrorIs(t, batch.ctx.Err(), context.Canceled)
			s.idle(t) // the place is taken until the run has returned
			batch.fail(batch.ctx.Err())
			s.next(t, "d").succeed()
			d.succeeded(t, "d")
			s.idle(t)
		})
	})

	t.Run("of all callers without an answer: the context of the batch ends", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, Run: s.Run})
			start(t.Context(), g, "a")
			first := s.next(t, "a")
			ctx, cancel := context.WithCancel(t.Context())
			b, c, d := start(t.Context(), g, "b"), start(ctx, g, "c"), start(ctx, g, "d")
			first.succeed()
			batch := s.next(t, "b", "c", "d")
			batch.answer(0)
			b.succeeded(t, "b")
			batch.answer(2)
			d.succeeded(t, "d")
			batch.answer(1)
			c.waits(t) // the context of a caller must bound the run
			require.NoError(t, batch.ctx.Err())
			cancel()
			c.failed(t, context.Canceled)
			require.ErrorIs(t, batch.ctx.Err(), context.Canceled)
			batch.fail(batch.ctx.Err())
		})
	})

	t.Run("with a panic: the place is not lost", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, Run: s.Run})
			a := start(t.Context(), g, "a")
			first := s.next(t, "a")
			for _, bad := range []context.Context{nil, struct{ context.Context }{}} {
				b := start(bad, g, "b")
				require.True(t, b.ended.Load())
				require.NotNil(t, b.panicked)
			}
			c := start(t.Context(), g, "c")
			first.succeed()
			a.succeeded(t, "a")
			s.next(t, "c").succeed()
			c.succeeded(t, "c")
		})
	})

	t.Run("with a panic while a batch of one begins: its caller panics", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, Run: s.Run})
			start(t.Context(), g, "a")
			first := s.next(t, "a")
			b := start(panickingValue{t.Context()}, g, "b")
			first.succeed()
			synctest.Wait()
			require.True(t, b.ended.Load())
			require.ErrorContains(t, b.panicked.(error), "no value")
			start(t.Context(), g, "c")
			s.next(t, "c").succeed()
		})
	})

	t.Run("in a batch of one: the context of the batch ends", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, Run: s.Run})
			start(t.Context(), g, "a")
			first := s.next(t, "a")
			ctx, cancel := context.WithCancel(context.WithValue(t.Context(), contextKey{}, "mine"))
			b := start(ctx, g, "b")
			first.succeed()
			batch := s.next(t, "b")
			require.Equal(t, "mine", batch.ctx.Value(contextKey{}))

			cancel()
			b.failed(t, context.Canceled)
			require.ErrorIs(t, batch.ctx.Err(), context.Canceled)
			batch.succeed()
		})
	})
}

func TestGroup_Do_BatchFails(t *testing.T) {
	t.Parallel()

	t.Run("run again: call by call, for the callers who still wait", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			var judged []error
			g := coalesce.New(config{MaxInFlight: 1, Run: s.Run, RunAgain: func(err error) bool {
				judged = append(judged, err)
				return true
			}})
			start(t.Context(), g, "a")
			first := s.next(t, "a")
			ctx := context.WithValue(t.Context(), contextKey{}, "mine")
			b := start(ctx, g, "b")
			leaving, cancel := context.WithCancel(t.Context())
			gone := start(leaving, g, "gone")
			bad, d := start(ctx, g, "bad"), start(ctx, g, "d")
			first.succeed()
			batch := s.next(t, "b", "gone", "bad", "d")
			cancel()
			gone.failed(t, context.Canceled)
			batch.fail(errServer)

			errBad := errors.New("bad input")
			for range 3 { // the order is the scheduler's
				synctest.Wait()
				require.Len(t, s.begun, 1, "MaxInFlight is 1")
				again := <-s.begun
				require.Len(t, again.calls, 1)
				require.Equal(t, "mine", again.ctx.Value(contextKey{}))
				if again.calls[0] == "bad" {
					again.fail(errBad)
				} else {
					again.succeed()
				}
			}
			b.succeeded(t, "b")
			bad.failed(t, errBad)
			d.succeeded(t, "d")
			s.idle(t)
			require.Equal(t, []error{errServer}, judged)
			calls, runs := g.Stats()
			require.Equal(t, []uint64{5, 5}, []uint64{calls, runs})
		})
	})

	t.Run("run again: other calls are not delayed, and a call whose caller leaves is not run", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, Run: s.Run, RunAgain: always})
			start(t.Context(), g, "a")
			first := s.next(t, "a")
			ctx, cancel := context.WithCancel(t.Context())
			callers := []*caller{start(ctx, g, "same"), start(ctx, g, "same"), start(ctx, g, "same")}
			first.succeed()
			s.next(t, "same", "same", "same").fail(errServer)
			again := s.next(t, "same")

			other := start(t.Context(), g, "other")
			s.next(t, "other").succeed()
			other.succeeded(t, "other")

			cancel()
			s.idle(t)
			again.fail(ctx.Err())
			for _, c := range callers {
				c.failed(t, context.Canceled)
			}
			s.idle(t)
			runs, reruns := g.InFlight()
			require.Zero(t, runs+reruns)
		})
	})

	for name, runAgain := range map[string]func(error) bool{
		"nil":   nil,
		"false": func(error) bool { return false },
	} {
		t.Run("RunAgain "+name+": every caller gets the error", func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := newServer()
				g := coalesce.New(config{MaxInFlight: 1, Run: s.Run, RunAgain: runAgain})
				start(t.Context(), g, "a")
				b, c := start(t.Context(), g, "b"), start(t.Context(), g, "c")
				s.next(t, "a").succeed()
				s.next(t, "b", "c").fail(errServer)
				b.failed(t, errServer)
				c.failed(t, errServer)
				s.idle(t)
			})
		})
	}

	t.Run("the error of a single call goes to its caller without RunAgain", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, Run: s.Run, RunAgain: always})
			a, b := start(t.Context(), g, "a"), start(t.Context(), g, "b")
			s.next(t, "a").fail(errServer)
			s.next(t, "b").fail(errServer)
			a.failed(t, errServer)
			b.failed(t, errServer)
			s.idle(t)
		})
	})
}

func TestGroup_Do_RunPanics(t *testing.T) {
	t.Parallel()

	t.Run("by itself", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, Run: s.Run})
			a, b := start(t.Context(), g, "a"), start(t.Context(), g, "b")
			s.next(t, "a").panic("boom")
			s.next(t, "b").succeed()
			require.Equal(t, "boom", a.panicked)
			b.succeeded(t, "b")
		})
	})

	t.Run("in a batch: every caller panics", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, Run: s.Run})
			start(t.Context(), g, "a")
			b, c := start(t.Context(), g, "b"), start(t.Context(), g, "c")
			s.next(t, "a").succeed()
			batch := s.next(t, "b", "c")
			d := start(t.Context(), g, "d")
			batch.panic("boom")
			s.next(t, "d").succeed()
			d.succeeded(t, "d")
			for _, c := range []*caller{b, c} {
				err, isError := c.panicked.(error)
				require.True(t, isError)
				require.ErrorContains(t, err, "boom")
				require.ErrorContains(t, err, "coalesce_test.go", "where it panicked")
			}
		})
	})

	t.Run("in a batch that is run again: only the caller of the bad call panics", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 2, Run: s.Run, RunAgain: always})
			start(t.Context(), g, "a")
			start(t.Context(), g, "a")
			first, second := s.next(t, "a"), s.next(t, "a")
			bad, c := start(t.Context(), g, "bad"), start(t.Context(), g, "c")
			first.succeed()
			s.next(t, "bad", "c").panic("boom")
			synctest.Wait()
			require.Len(t, s.begun, 2)
			for range 2 {
				if again := <-s.begun; again.calls[0] == "bad" {
					again.panic("boom")
				} else {
					again.succeed()
				}
			}
			c.succeeded(t, "c")
			require.Equal(t, "boom", bad.panicked)
			second.succeed()
		})
	})
}

func TestGroup_Do_RunEndsItsGoroutine(t *testing.T) {
	t.Parallel()

	t.Run("by itself: the caller's goroutine ends", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, Run: s.Run})
			a, b := start(t.Context(), g, "a"), start(t.Context(), g, "b")
			s.next(t, "a").goexit()
			s.next(t, "b").succeed()
			b.succeeded(t, "b")
			require.True(t, a.ended.Load())
			require.False(t, a.returned.Load())
			require.Nil(t, a.panicked)
		})
	})

	t.Run("in a batch: every caller gets an error", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, Run: s.Run, RunAgain: always})
			start(t.Context(), g, "a")
			b, c := start(t.Context(), g, "b"), start(t.Context(), g, "c")
			s.next(t, "a").succeed()
			batch := s.next(t, "b", "c")
			d := start(t.Context(), g, "d")
			batch.goexit()
			s.next(t, "d").succeed()
			d.succeeded(t, "d")
			for _, c := range []*caller{b, c} {
				require.True(t, c.returned.Load())
				require.EqualError(t, c.err, "coalesce: the run ended its goroutine")
			}
		})
	})
}

// advance moves the clock of the bubble.
func advance(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// badContext has a deadline or an error, but is never done: its caller does not notice.
type badContext struct {
	context.Context
	deadline time.Time
	err      error
}

func (c *badContext) Deadline() (time.Time, bool) { return c.deadline, !c.deadline.IsZero() }
func (c *badContext) Err() error                  { return c.err }
func (c *badContext) Done() <-chan struct{}       { return nil }

func TestGroup_Do_Deadline(t *testing.T) {
	t.Parallel()

	t.Run("by itself: it bounds the context of the run", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			for _, maxInFlight := range []int{0, 1} {
				s := newServer()
				g := coalesce.New(config{MaxInFlight: maxInFlight, Run: s.Run})
				deadline := time.Now().Add(time.Second)
				ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), contextKey{}, "mine"), time.Minute)
				defer cancel()
				a := startBefore(ctx, deadline, g, "a")
				r := s.next(t, "a")
				require.Equal(t, "mine", r.ctx.Value(contextKey{}))
				of, ok := r.ctx.Deadline()
				require.True(t, ok)
				require.Equal(t, deadline, of)
				advance(time.Second)
				require.ErrorIs(t, r.ctx.Err(), context.DeadlineExceeded)
				r.fail(r.ctx.Err())
				a.failed(t, context.DeadlineExceeded)
			}
		})
	})

	t.Run("by itself: the context of the run is released at once", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, Run: s.Run})
			a := startBefore(t.Context(), time.Now().Add(time.Second), g, "a")
			r := s.next(t, "a")
			r.succeed()
			a.succeeded(t, "a")
			require.ErrorIs(t, r.ctx.Err(), context.Canceled)
		})
	})

	t.Run("by itself: the caller's own context serves if it bounds the run", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, Run: s.Run})
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			own, _ := ctx.Deadline()
			for _, deadline := range []time.Time{{}, own, own.Add(1)} {
				a := startBefore(ctx, deadline, g, "a")
				r := s.next(t, "a")
				require.Same(t, ctx, r.ctx)
				r.succeed()
				a.succeeded(t, "a")
			}
		})
	})

	t.Run("while queued: it is never sent", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, Run: s.Run})
			start(t.Context(), g, "a")
			first := s.next(t, "a")
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			b := startBefore(t.Context(), time.Now().Add(time.Second), g, "b")
			c := startBefore(ctx, time.Now().Add(time.Second), g, "c")
			d := startBefore(ctx, time.Now().Add(time.Hour), g, "d")
			advance(time.Second - 1)
			b.waits(t)
			c.waits(t)
			advance(1)
			b.failed(t, context.DeadlineExceeded)
			c.failed(t, context.DeadlineExceeded)
			require.Equal(t, 1, g.Waiting())
			first.succeed()
			s.next(t, "d").succeed()
			d.succeeded(t, "d")
		})
	})

	t.Run("already over when it queues: it is never sent", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, Run: s.Run})
			start(t.Context(), g, "a")
			first := s.next(t, "a")
			startBefore(t.Context(), time.Now().Add(-time.Second), g, "b").failed(t, context.DeadlineExceeded)
			first.succeed()
			s.idle(t)
		})
	})

	t.Run("over, but its caller has not noticed: it is never sent", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, Run: s.Run})
			start(t.Context(), g, "a")
			first := s.next(t, "a")
			b := start(&badContext{Context: t.Context(), deadline: time.Now()}, g, "b")
			c := start(t.Context(), g, "c")
			b.waits(t)
			first.succeed()
			s.next(t, "c").succeed()
			b.failed(t, context.DeadlineExceeded)
			c.succeeded(t, "c")
		})
	})

	t.Run("while its batch runs: the others wait for the run", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, Run: s.Run})
			start(t.Context(), g, "a")
			first := s.next(t, "a")
			b := startBefore(t.Context(), time.Now().Add(time.Second), g, "b")
			c := startBefore(t.Context(), time.Now().Add(time.Minute), g, "c")
			d := start(t.Context(), g, "d")
			first.succeed()
			batch := s.next(t, "b", "c", "d")
			advance(time.Second)
			b.failed(t, context.DeadlineExceeded)
			require.ErrorIs(t, batch.ctx.Err(), context.DeadlineExceeded, "b could take effect after its deadline")
			c.waits(t)
			d.waits(t)
			batch.succeed()
			c.succeeded(t, "c")
			d.succeeded(t, "d")
		})
	})

	t.Run("of one call: it has no effect on later ones", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, Run: s.Run})
			for range 20 { // calls are reused, but the race detector makes the pool drop some
				start(t.Context(), g, "a")
				first := s.next(t, "a")
				b := startBefore(t.Context(), time.Now().Add(time.Second), g, "b")
				first.succeed()
				second := s.next(t, "b")
				second.succeed()
				b.succeeded(t, "b")

				start(t.Context(), g, "a")
				third := s.next(t, "a")
				c := start(t.Context(), g, "c")
				advance(time.Minute)
				c.waits(t)
				third.succeed()
				fourth := s.next(t, "c")
				_, ok := fourth.ctx.Deadline()
				require.False(t, ok)
				fourth.succeed()
				c.succeeded(t, "c")

				start(t.Context(), g, "a")
				fifth := s.next(t, "a")
				d := startBefore(t.Context(), time.Now().Add(time.Second), g, "d")
				advance(time.Second)
				d.failed(t, context.DeadlineExceeded)
				fifth.succeed()
			}
		})
	})

	t.Run("run again: it bounds the context of the run", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 2, Run: s.Run, RunAgain: always})
			start(t.Context(), g, "a")
			start(t.Context(), g, "a")
			first, other := s.next(t, "a"), s.next(t, "a")
			deadline := time.Now().Add(time.Second)
			ctx := context.WithValue(t.Context(), contextKey{}, "mine")
			callers := []*caller{startBefore(ctx, deadline, g, "same"), startBefore(ctx, deadline, g, "same")}
			first.succeed()
			s.next(t, "same", "same").fail(errServer)
			for _, again := range []*run{s.next(t, "same"), s.next(t, "same")} {
				of, ok := again.ctx.Deadline()
				require.True(t, ok)
				require.Equal(t, deadline, of)
				require.Equal(t, "mine", again.ctx.Value(contextKey{}))
				again.succeed()
			}
			for _, c := range callers {
				c.succeeded(t, "same")
			}
			other.succeed()
		})
	})

	t.Run("while it waits to run again: it is not run", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, Run: s.Run, RunAgain: always})
			start(t.Context(), g, "a")
			first := s.next(t, "a")
			deadline := time.Now().Add(time.Second)
			callers := []*caller{
				startBefore(t.Context(), deadline, g, "same"),
				startBefore(t.Context(), deadline, g, "same"),
			}
			first.succeed()
			s.next(t, "same", "same").fail(errServer)
			again := s.next(t, "same")
			advance(time.Second)
			ended := slices.IndexFunc(callers, func(c *caller) bool { return c.ended.Load() })
			require.GreaterOrEqual(t, ended, 0, "both calls wait")
			callers[ended].failed(t, context.DeadlineExceeded)
			callers[1-ended].waits(t)
			again.fail(again.ctx.Err())
			callers[1-ended].failed(t, context.DeadlineExceeded)
			s.idle(t)
		})
	})

	t.Run("over when its turn to run again comes: it is not run", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, Run: s.Run, RunAgain: always})
			start(t.Context(), g, "a")
			first := s.next(t, "a")
			ended := &badContext{Context: t.Context()}
			b := start(ended, g, "b")
			c := start(&badContext{Context: t.Context(), deadline: time.Now().Add(time.Second)}, g, "c")
			d := start(t.Context(), g, "d")
			first.succeed()
			batch := s.next(t, "b", "c", "d")
			ended.err = errServer
			advance(time.Second)
			batch.fail(context.DeadlineExceeded)
			again := s.next(t, "d")
			again.succeed()
			b.failed(t, errServer)
			c.failed(t, context.DeadlineExceeded)
			d.succeeded(t, "d")
			s.idle(t)
		})
	})
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
			bubble(t, func(t *testing.T) {
				s := newServer()
				g := coalesce.New(config{MaxInFlight: 1, Run: s.Run})
				start(t.Context(), g, "first")
				first := s.next(t, "first")
				begin := time.Now()
				var calls []string
				for _, caller := range test.callers {
					ctx, cancel := context.WithCancel(context.WithValue(t.Context(), contextKey{}, "mine"))
					if caller.ctx > 0 {
						ctx, cancel = context.WithDeadline(ctx, begin.Add(time.Duration(caller.ctx)*time.Second))
					}
					defer cancel()
					var deadline time.Time
					if caller.deadline > 0 {
						deadline = begin.Add(time.Duration(caller.deadline) * time.Second)
					}
					startBefore(ctx, deadline, g, "call")
					calls = append(calls, "call")
				}
				first.succeed()
				batch := s.next(t, calls...)
				deadline, ok := batch.ctx.Deadline()
				require.Equal(t, test.want > 0, ok)
				if ok {
					require.Equal(t, time.Duration(test.want)*time.Second, deadline.Sub(begin))
				}
				if len(calls) == 1 {
					require.Equal(t, "mine", batch.ctx.Value(contextKey{}))
				} else {
					require.Nil(t, batch.ctx.Value(contextKey{}))
				}
				batch.succeed()
			})
		})
	}
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
			bubble(t, func(t *testing.T) {
				s := newServer()
				test.config.MaxInFlight, test.config.Run = 1, s.Run
				g := coalesce.New(test.config)
				start(t.Context(), g, "the first call, longer than any limit")
				first := s.next(t, "the first call, longer than any limit")
				for _, batch := range test.want {
					for _, call := range batch {
						start(t.Context(), g, call)
					}
				}
				first.succeed()
				for _, batch := range test.want {
					s.next(t, batch...).succeed()
				}
				s.idle(t)
			})
		})
	}
}

func TestGroup_Do_SlowRuns(t *testing.T) {
	t.Parallel()
	const slow = 100 * time.Millisecond

	t.Run("queued calls leave as soon as a run is slow", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, SlowAfter: slow, Run: s.Run})
			a := start(t.Context(), g, "a")
			first := s.next(t, "a")
			advance(60 * time.Millisecond)
			b, c := start(t.Context(), g, "b"), start(t.Context(), g, "c")
			advance(40*time.Millisecond - 1)
			s.idle(t)
			advance(1)
			s.next(t, "b", "c").succeed()
			b.succeeded(t, "b")
			c.succeeded(t, "c")
			a.waits(t)
			first.succeed()
			a.succeeded(t, "a")
		})
	})

	t.Run("a slow batch stops counting too", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, SlowAfter: slow, Run: s.Run})
			start(t.Context(), g, "a")
			first := s.next(t, "a")
			start(t.Context(), g, "b")
			start(t.Context(), g, "c")
			first.succeed()
			batch := s.next(t, "b", "c")
			start(t.Context(), g, "d")
			advance(slow)
			second := s.next(t, "d")
			batch.succeed()
			start(t.Context(), g, "e")
			s.idle(t) // the slow batch gives no place back
			second.succeed()
			s.next(t, "e").succeed()
		})
	})

	t.Run("a slow run gives no place back when it ends", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, SlowAfter: slow, Run: s.Run})
			start(t.Context(), g, "a")
			first := s.next(t, "a")
			start(t.Context(), g, "b")
			advance(slow)
			second := s.next(t, "b")
			start(t.Context(), g, "c")
			first.succeed()
			s.idle(t)
			start(t.Context(), g, "d")
			s.idle(t)
			second.succeed()
			s.next(t, "c", "d").succeed()
			// nothing is in flight: exactly one place is free
			start(t.Context(), g, "e")
			third := s.next(t, "e")
			start(t.Context(), g, "f")
			s.idle(t)
			third.succeed()
			s.next(t, "f").succeed()
		})
	})

	t.Run("a new call runs by itself if only slow runs are in flight", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 2, SlowAfter: slow, Run: s.Run})
			start(t.Context(), g, "a")
			start(t.Context(), g, "b")
			runs := []*run{s.next(t, "a"), s.next(t, "b")}
			advance(slow)
			require.False(t, g.TimerSet())
			for _, call := range []string{"c", "d"} {
				start(t.Context(), g, call)
				r := s.next(t, call)
				require.Same(t, t.Context(), r.ctx, "it ran on a goroutine of its own")
				runs = append(runs, r)
			}
			start(t.Context(), g, "e")
			s.idle(t)
			runs[0].succeed()
			runs[1].succeed()
			s.idle(t)
			runs[2].succeed()
			s.next(t, "e").succeed()
			runs[3].succeed()
		})
	})

	t.Run("several slow runs: as many batches leave", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 2, MaxBatch: 1, SlowAfter: slow, Run: s.Run})
			var runs []*run
			for _, call := range []string{"a", "b"} {
				start(t.Context(), g, call)
				runs = append(runs, s.next(t, call))
			}
			for _, call := range []string{"c", "d", "e"} {
				start(t.Context(), g, call)
			}
			advance(slow)
			require.Len(t, s.begun, 2)
			runs = append(runs, <-s.begun, <-s.begun)
			require.ElementsMatch(t, []string{"c", "d"}, []string{runs[2].calls[0], runs[3].calls[0]})
			advance(slow)
			runs = append(runs, s.next(t, "e")) // the timer was set again
			for _, r := range runs {
				r.succeed()
			}
			s.idle(t)
		})
	})

	t.Run("the time of one run is not counted for the next", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, SlowAfter: slow, Run: s.Run})
			start(t.Context(), g, "a")
			first := s.next(t, "a")
			start(t.Context(), g, "b")
			advance(slow / 2)
			first.succeed()
			second := s.next(t, "b")
			start(t.Context(), g, "c")
			advance(slow - 1)
			s.idle(t)
			advance(1)
			third := s.next(t, "c")
			second.succeed()
			third.succeed()
		})
	})

	t.Run("run again: a slow one does not delay the others, and gives no place back", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, SlowAfter: slow, Run: s.Run, RunAgain: always})
			start(t.Context(), g, "a")
			first := s.next(t, "a")
			for range 4 {
				start(t.Context(), g, "same")
			}
			first.succeed()
			s.next(t, "same", "same", "same", "same").fail(errServer)
			again := s.next(t, "same")
			advance(slow - 1)
			s.idle(t)
			advance(1)
			second := s.next(t, "same")
			again.succeed()
			s.idle(t)
			second.succeed()
			third := s.next(t, "same")
			s.idle(t)
			third.succeed()
			s.next(t, "same").succeed()
			s.idle(t)
		})
	})

	t.Run("run again: a call runs at once if only slow ones are in flight", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, SlowAfter: slow, Run: s.Run, RunAgain: always})
			failedBatch := func() {
				start(t.Context(), g, "a")
				first := s.next(t, "a")
				leaving, cancel := context.WithCancel(t.Context())
				start(leaving, g, "gone")
				start(t.Context(), g, "b")
				first.succeed()
				batch := s.next(t, "gone", "b")
				cancel()
				synctest.Wait()
				batch.fail(errServer)
			}
			failedBatch()
			first := s.next(t, "b")
			advance(slow)
			require.False(t, g.TimerSet())
			failedBatch()
			second := s.next(t, "b")
			first.succeed()
			second.succeed()
		})
	})

	t.Run("the timer is not set again if nothing is queued", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, SlowAfter: slow, Run: s.Run})
			start(t.Context(), g, "a")
			first := s.next(t, "a")
			start(t.Context(), g, "b")
			advance(slow / 2)
			first.succeed()
			second := s.next(t, "b")
			advance(slow / 2)
			require.False(t, g.TimerSet())
			runs, _ := g.InFlight()
			require.Equal(t, 1, runs, "b is not slow yet")
			second.succeed()
		})
	})

	t.Run("SlowAfter 0: every run counts until it ends", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, Run: s.Run})
			start(t.Context(), g, "a")
			first := s.next(t, "a")
			start(t.Context(), g, "b")
			advance(time.Hour)
			start(t.Context(), g, "c")
			s.idle(t)
			require.False(t, g.TimerSet())
			first.succeed()
			s.next(t, "b", "c").succeed()
		})
	})

	t.Run("the timer is set only while a call is queued", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{MaxInFlight: 1, SlowAfter: slow, Run: s.Run, RunAgain: always})
			start(t.Context(), g, "a")
			first := s.next(t, "a")
			require.False(t, g.TimerSet())
			start(t.Context(), g, "b")
			start(t.Context(), g, "c")
			require.True(t, g.TimerSet())
			first.succeed()
			batch := s.next(t, "b", "c")
			advance(slow)
			require.False(t, g.TimerSet())
			batch.fail(errServer)
			synctest.Wait()
			require.True(t, g.TimerSet(), "a call waits to run again")
			for range 2 {
				(<-s.begun).succeed()
				synctest.Wait()
			}
			advance(slow)
			require.False(t, g.TimerSet())
		})
	})
}

func TestGroup_Stats(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServer()
		g := coalesce.New(config{MaxInFlight: 1, Run: s.Run})
		start(t.Context(), g, "a")
		start(t.Context(), g, "b")
		start(t.Context(), g, "c")
		s.next(t, "a").succeed()
		s.next(t, "b", "c").succeed()
		calls, runs := g.Stats()
		require.EqualValues(t, 3, calls)
		require.EqualValues(t, 2, runs)
	})
}

// Not parallel: it counts goroutines.
func TestGroup_NoGoroutineWhenIdle(t *testing.T) {
	before := goleak.IgnoreCurrent()
	g := coalesce.New(coalesce.Config[int, int]{MaxInFlight: 2, Run: double})
	var callers sync.WaitGroup
	for i := range 100 {
		callers.Go(func() { _, _ = g.Do(t.Context(), time.Time{}, i) })
	}
	callers.Wait()
	goleak.VerifyNone(t, before)
	runtime.KeepAlive(g)
}

// Hundreds of callers, some of whom leave or have a short deadline, and runs that fail and panic.
// Every caller gets the answer to its own call, no call runs more often than it may, and places are
// neither exceeded nor lost.
func TestGroup_Stress(t *testing.T) {
	t.Parallel()
	errBad := errors.New("bad input")
	for name, test := range map[string]struct {
		runAgain    bool
		slowAfter   time.Duration
		maxInFlight int64 // MaxInFlight, and as many for the calls that are run again; 0 if slow runs may exceed it
	}{
		"run again":                   {runAgain: true, maxInFlight: 8},
		"every caller gets the error": {runAgain: false, maxInFlight: 4},
		"slow runs":                   {runAgain: true, slowAfter: 50 * time.Microsecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const callers, callsEach = 200, 100
			var inFlight, mostInFlight atomic.Int64
			var batched atomic.Bool
			var times [callers * callsEach]atomic.Int64
			g := coalesce.New(coalesce.Config[int, int]{
				MaxInFlight:   4,
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

			if test.maxInFlight > 0 {
				require.LessOrEqual(t, mostInFlight.Load(), test.maxInFlight)
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
			for { // the last goroutine may not have given its place back; a lost place hangs here
				if runs, reruns := g.InFlight(); runs+reruns == 0 {
					break
				}
				runtime.Gosched()
			}
		})
	}
}

func try(ctx context.Context, deadline time.Time, g *coalesce.Group[int, int], call int) (value int, panicked any, err error) {
	defer func() { panicked = recover() }()
	value, err = g.Do(ctx, deadline, call)
	return value, nil, err
}

// How many runs may be in flight follows from how long the fastest of the latest took.
func TestGroup_InFlight(t *testing.T) {
	t.Parallel()
	oneEachMillisecond := func(fastest time.Duration) int { return min(1+int(fastest/time.Millisecond), 8) }
	newGroup := func(s *server, maxBatch int) *group {
		return coalesce.New(config{MaxInFlight: 8, InFlight: oneEachMillisecond, MaxBatch: maxBatch, Run: s.Run, RunAgain: always})
	}
	// alone makes one call that takes so long.
	alone := func(t *testing.T, g *group, s *server, took time.Duration, end func(*run)) {
		t.Helper()
		start(t.Context(), g, "alone")
		r := s.next(t, "alone")
		time.Sleep(took)
		end(r)
		synctest.Wait()
	}

	t.Run("more and fewer places", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := newGroup(s, 0)
			start(t.Context(), g, "a")
			start(t.Context(), g, "b")
			a := s.next(t, "a")
			s.idle(t) // before any has ended, the least number
			time.Sleep(3 * time.Millisecond)
			a.succeed()
			b := s.next(t, "b")

			var more []*run
			for _, call := range []string{"c", "d", "e"} {
				start(t.Context(), g, call)
				more = append(more, s.next(t, call))
			}
			start(t.Context(), g, "f")
			s.idle(t)

			time.Sleep(time.Millisecond)
			b.succeed() // two places now
			s.idle(t)
			more[0].succeed()
			s.idle(t)
			more[1].succeed()
			f := s.next(t, "f")
			f.succeed()
			more[2].succeed()
		})
	})

	t.Run("new places are given to queued calls at once", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := newGroup(s, 1)
			for _, call := range []string{"a", "b", "c", "d"} {
				start(t.Context(), g, call)
			}
			a := s.next(t, "a")
			time.Sleep(2 * time.Millisecond)
			a.succeed()
			synctest.Wait()
			require.Len(t, s.begun, 3)
			for range 3 {
				(<-s.begun).succeed()
			}
		})
	})

	t.Run("a slower run counts little", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := newGroup(s, 0)
			alone(t, g, s, time.Millisecond/10, (*run).succeed)
			for range 10 {
				alone(t, g, s, 10*time.Second, (*run).succeed)
			}
			require.Equal(t, 1, g.Places())
			for range 1000 {
				alone(t, g, s, 5*time.Millisecond, (*run).succeed)
			}
			require.Equal(t, 5, g.Places(), "a little below 5 ms")
			alone(t, g, s, time.Millisecond/10, (*run).succeed)
			require.Equal(t, 1, g.Places())
		})
	})

	t.Run("a run that fails counts for nothing", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := newGroup(s, 0)
			alone(t, g, s, 3*time.Millisecond, (*run).succeed)
			alone(t, g, s, 0, func(r *run) { r.fail(errServer) })
			alone(t, g, s, 0, func(r *run) { r.panic("in a run") })
			alone(t, g, s, 0, (*run).goexit)
			require.Equal(t, 4, g.Places())
		})
	})

	t.Run("a batch counts only if it is faster", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := newGroup(s, 0)
			together := func(took time.Duration) {
				t.Helper()
				var before []*run
				for range g.Places() {
					start(t.Context(), g, "before")
					before = append(before, s.next(t, "before"))
				}
				start(t.Context(), g, "b")
				start(t.Context(), g, "c")
				for _, r := range before {
					r.fail(errServer)
				}
				batch := s.next(t, "b", "c")
				time.Sleep(took)
				batch.succeed()
				synctest.Wait()
			}
			alone(t, g, s, 3*time.Millisecond, (*run).succeed)
			for range 200 {
				together(8 * time.Millisecond)
			}
			require.Equal(t, 4, g.Places())
			together(time.Millisecond)
			require.Equal(t, 2, g.Places())
		})
	})
}
