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

// server is what stands behind a group: its runs wait until the test ends them, whatever becomes of their context.
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

// next returns the run that has begun, which must be of these calls.
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
	ended    bool // its goroutine has
	returned bool // Do has, without a panic or Goexit
}

// start makes a call, and returns once it runs or is queued.
func start(ctx context.Context, g *group, call string) *caller {
	c := &caller{}
	go func() {
		defer func() { c.panicked, c.ended = recover(), true }()
		c.value, c.err = g.Do(ctx, call)
		c.returned = true
	}()
	synctest.Wait()
	return c
}

func (c *caller) succeeded(t *testing.T, call string) {
	t.Helper()
	synctest.Wait()
	require.True(t, c.returned, "still waiting")
	require.NoError(t, c.err)
	require.Equal(t, "did "+call, c.value)
}

func (c *caller) failed(t *testing.T, err error) {
	t.Helper()
	synctest.Wait()
	require.True(t, c.returned, "still waiting")
	require.ErrorIs(t, c.err, err)
	require.Empty(t, c.value)
}

func (c *caller) waits(t *testing.T) {
	t.Helper()
	synctest.Wait()
	require.False(t, c.ended, "no longer waiting")
}

// bubble runs a test in which nothing is left to the scheduler. A goroutine that is left over at its end fails it.
func bubble(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, test)
}

var errServer = errors.New("server error")

func always(error) bool { return true }

type contextKey struct{}

func TestGroup_Do(t *testing.T) {
	t.Parallel()

	t.Run("runs at once by itself while a place is free", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{Places: 2, Run: s.Run})
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
			g := coalesce.New(config{Places: 2, Run: s.Run})
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
			g := coalesce.New(config{Places: 1, Run: s.Run})
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
			g := coalesce.New(config{Places: 1, MaxBatch: 2, Run: s.Run})
			for _, call := range []string{"a", "b", "c", "d", "e", "f"} {
				start(t.Context(), g, call)
			}
			s.next(t, "a").succeed()
			s.next(t, "b", "c").succeed()
			s.next(t, "d", "e").succeed()
			s.next(t, "f").succeed()
		})
	})

	t.Run("a place that nobody waits for is free again", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{Places: 1, Run: s.Run})
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

	t.Run("no places: every call runs at once by itself", func(t *testing.T) {
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

	t.Run("an answered caller goes on while the run does", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{Places: 1, Run: s.Run})
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
			g := coalesce.New(config{Places: 1, Run: s.Run})
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

	t.Run("without an answer it fails", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{Places: 1, Run: s.Run, RunAgain: always})
			a := start(t.Context(), g, "a")
			b, c := start(t.Context(), g, "b"), start(t.Context(), g, "c")
			s.next(t, "a").fail(nil)
			batch := s.next(t, "b", "c")
			batch.answer(0)
			batch.fail(nil)
			b.succeeded(t, "b")
			for _, forgotten := range []*caller{a, c} {
				synctest.Wait()
				require.True(t, forgotten.returned)
				require.ErrorContains(t, forgotten.err, "without an answer")
			}
			s.idle(t)
		})
	})
}

// However calls come and runs end, a call leaves in the order in which it was made, with the very next run to begin: it
// waits for the rest of one round and for its own.
func TestGroup_Do_NobodyWaitsMoreThanTwoRounds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const places = 3
		s := newServer()
		g := coalesce.New(config{Places: places, Run: s.Run})
		random := rand.New(rand.NewPCG(1, 2))

		var inFlight []*run
		var made, sent, begun int
		begunWhenMade := map[string]int{}
		observe := func() {
			for synctest.Wait(); len(s.begun) > 0; {
				r := <-s.begun
				begun++
				inFlight = append(inFlight, r)
				require.LessOrEqual(t, len(inFlight), places)
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

// Whoever calls again as soon as a batch has answered goes with the next one: without that, one of them takes the free
// place, and the others wait for it.
func TestGroup_Do_CallersWhoReturnShareARun(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // so that the scheduler has no choice
	synctest.Test(t, func(t *testing.T) {
		const callers, rounds = 50, 100
		g := coalesce.New(config{Places: 1, Run: func(_ context.Context, calls []string, answer func(int, string)) error {
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
					g.Do(t.Context(), "call")
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
			g := coalesce.New(config{Places: 1, Run: s.Run})
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
			g := coalesce.New(config{Places: 1, Run: s.Run})
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

	t.Run("of all in a batch: so does the batch's", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{Places: 1, Run: s.Run, RunAgain: always})
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

	t.Run("of all that are not answered: so does the batch's", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{Places: 1, Run: s.Run})
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
			c.waits(t) // somebody's context must bound the run
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
			g := coalesce.New(config{Places: 1, Run: s.Run})
			a := start(t.Context(), g, "a")
			first := s.next(t, "a")
			for _, bad := range []context.Context{nil, struct{ context.Context }{}} {
				b := start(bad, g, "b")
				require.True(t, b.ended)
				require.NotNil(t, b.panicked)
			}
			c := start(t.Context(), g, "c")
			first.succeed()
			a.succeeded(t, "a")
			s.next(t, "c").succeed()
			c.succeeded(t, "c")
		})
	})

	t.Run("in a batch of one: the run's ends with it", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{Places: 1, Run: s.Run})
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

	t.Run("run again: call by call, for those who still wait", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			var judged []error
			g := coalesce.New(config{Places: 1, Run: s.Run, RunAgain: func(err error) bool {
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
				require.Len(t, s.begun, 1, "one place, one run again at a time")
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

	t.Run("run again: nobody else is delayed, and who leaves is not run", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{Places: 1, Run: s.Run, RunAgain: always})
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
		})
	})

	for name, runAgain := range map[string]func(error) bool{
		"nil":   nil,
		"false": func(error) bool { return false },
	} {
		t.Run("RunAgain "+name+": everybody gets the error", func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := newServer()
				g := coalesce.New(config{Places: 1, Run: s.Run, RunAgain: runAgain})
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

	t.Run("the error of a call by itself is its caller's, and not judged", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{Places: 1, Run: s.Run, RunAgain: always})
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
			g := coalesce.New(config{Places: 1, Run: s.Run})
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
			g := coalesce.New(config{Places: 1, Run: s.Run})
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

	t.Run("in a batch that is run again: only the culprit panics", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{Places: 2, Run: s.Run, RunAgain: always})
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

	t.Run("by itself: the caller's", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{Places: 1, Run: s.Run})
			a, b := start(t.Context(), g, "a"), start(t.Context(), g, "b")
			s.next(t, "a").goexit()
			s.next(t, "b").succeed()
			b.succeeded(t, "b")
			require.True(t, a.ended)
			require.False(t, a.returned)
			require.Nil(t, a.panicked)
		})
	})

	t.Run("in a batch: every caller gets an error", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			s := newServer()
			g := coalesce.New(config{Places: 1, Run: s.Run, RunAgain: always})
			start(t.Context(), g, "a")
			b, c := start(t.Context(), g, "b"), start(t.Context(), g, "c")
			s.next(t, "a").succeed()
			batch := s.next(t, "b", "c")
			d := start(t.Context(), g, "d")
			batch.goexit()
			s.next(t, "d").succeed()
			d.succeeded(t, "d")
			for _, c := range []*caller{b, c} {
				require.True(t, c.returned)
				require.EqualError(t, c.err, "coalesce: the run ended its goroutine")
			}
		})
	})
}

func TestGroup_Stats(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := newServer()
		g := coalesce.New(config{Places: 1, Run: s.Run})
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
	g := coalesce.New(coalesce.Config[int, int]{Places: 2, Run: double})
	var callers sync.WaitGroup
	for i := range 100 {
		callers.Go(func() { _, _ = g.Do(t.Context(), i) })
	}
	callers.Wait()
	goleak.VerifyNone(t, before)
	runtime.KeepAlive(g)
}

// Hundreds of callers, some of whom leave, in front of a run that fails and panics at random. Everybody gets the answer
// to their own call, nothing is run twice that may not be, and the places are never exceeded nor lost.
func TestGroup_Stress(t *testing.T) {
	t.Parallel()
	errBad := errors.New("bad input")
	for name, test := range map[string]struct {
		runAgain    bool
		maxInFlight int64 // the places, and as many for what is run again
	}{
		"run again":                {runAgain: true, maxInFlight: 8},
		"everybody gets the error": {runAgain: false, maxInFlight: 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const callers, callsEach = 200, 100
			var inFlight, mostInFlight atomic.Int64
			var batched atomic.Bool
			var times [callers * callsEach]atomic.Int64
			g := coalesce.New(coalesce.Config[int, int]{
				Places:   4,
				MaxBatch: 64,
				RunAgain: func(error) bool { return test.runAgain },
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
						if call%5 == 0 {
							go cancel()
						}
						value, panicked, err := try(ctx, g, call)
						cancel()
						switch {
						case errors.Is(err, context.Canceled) && call%5 == 0:
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

			require.LessOrEqual(t, mostInFlight.Load(), test.maxInFlight)
			require.True(t, batched.Load(), "no run of more than one call")
			calls, _ := g.Stats()
			require.EqualValues(t, callers*callsEach, calls)
			most := int64(1)
			if test.runAgain {
				most = 2
			}
			for call := range times {
				require.LessOrEqual(t, times[call].Load(), most, "call %d", call)
			}
		})
	}
}

func try(ctx context.Context, g *coalesce.Group[int, int], call int) (value int, panicked any, err error) {
	defer func() { panicked = recover() }()
	value, err = g.Do(ctx, call)
	return value, nil, err
}
