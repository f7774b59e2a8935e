package deadline

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type contextKey struct{}

// inBubble runs a test with a fake clock.
func inBubble(t *testing.T, test func(t *testing.T, w *Watch, with func(context.Context, time.Duration) (context.Context, context.CancelFunc))) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &Watch{}
		test(t, w, func(ctx context.Context, after time.Duration) (context.Context, context.CancelFunc) {
			return w.WithGrace(ctx, time.Now().Add(after))
		})
	})
}

func TestWatch_Deadline(t *testing.T) {
	inBubble(t, func(t *testing.T, w *Watch, with func(context.Context, time.Duration) (context.Context, context.CancelFunc)) {
		began := time.Now()
		ctx, cancel := with(context.WithValue(t.Context(), contextKey{}, "mine"), time.Second)
		defer cancel()
		later, cancelLater := with(t.Context(), time.Hour)
		defer cancelLater()
		past, cancelPast := with(t.Context(), -time.Second)
		defer cancelPast()
		deadline, ok := ctx.Deadline()
		require.True(t, ok)
		require.Equal(t, began.Add(time.Second), deadline)
		require.Equal(t, "mine", ctx.Value(contextKey{}))
		require.NoError(t, ctx.Err())

		below, cancelBelow := context.WithCancel(ctx)
		defer cancelBelow()
		told := make(chan struct{})
		context.AfterFunc(ctx, func() { close(told) })
		<-past.Done()
		require.WithinRange(t, time.Now(), began, began.Add(Precision))
		<-ctx.Done()
		require.WithinRange(t, time.Now(), began.Add(time.Second), began.Add(time.Second+Precision))
		require.Equal(t, context.DeadlineExceeded, ctx.Err())
		require.Equal(t, context.DeadlineExceeded, context.Cause(ctx))
		<-told
		<-below.Done()
		require.Equal(t, context.DeadlineExceeded, context.Cause(below))
		require.NoError(t, later.Err())
		require.Len(t, w.contexts, 1)
	})
}

// A context is forgotten once it is cancelled, and the timer is not set without contexts.
func TestWatch_Cancel(t *testing.T) {
	inBubble(t, func(t *testing.T, w *Watch, with func(context.Context, time.Duration) (context.Context, context.CancelFunc)) {
		ctx, cancel := with(t.Context(), time.Hour)
		cancel()
		cancel()
		require.Equal(t, context.Canceled, ctx.Err())
		require.Empty(t, w.contexts)
		time.Sleep(Precision)
		synctest.Wait()
		require.False(t, w.isSet, "no timer without contexts")
		again, cancel := with(t.Context(), time.Second)
		defer cancel()
		<-again.Done()
		require.Equal(t, context.DeadlineExceeded, again.Err(), "the timer is set again")
	})
}

// If nothing would end the context that ctx does not end already, ctx serves.
func TestWatch_ContextServes(t *testing.T) {
	t.Parallel()
	var w Watch
	ctx, cancel := w.WithGrace(context.Background(), time.Time{})
	cancel()
	require.Equal(t, context.Background(), ctx)
	require.Equal(t, ctx, Caller(ctx))

	now := time.Now()
	outer, cancelOuter := w.WithGrace(t.Context(), now.Add(time.Hour))
	defer cancelOuter()
	for _, deadline := range []time.Time{{}, now.Add(time.Hour), now.Add(2 * time.Hour)} {
		ctx, cancel := w.WithGrace(outer, deadline)
		cancel()
		require.Equal(t, outer, ctx)
		require.NoError(t, ctx.Err())
	}
}

// A call that has ended within a moment after its caller has gone is not cut off.
func TestWatch_WithGrace_CallerGoes(t *testing.T) {
	t.Parallel()
	for phase := range time.Duration(10) { // of the looks
		for _, deadline := range []time.Duration{0, time.Hour} {
			t.Run(fmt.Sprintf("%d/%v", phase, deadline), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					var w Watch
					_, cancelOther := w.WithGrace(t.Context(), time.Now().Add(time.Hour)) // which starts the looks
					defer cancelOther()
					time.Sleep(phase * interval / 10)
					caller, leave := context.WithCancelCause(t.Context())
					var until time.Time
					if deadline > 0 {
						until = time.Now().Add(deadline)
					}
					ctx, cancel := w.WithGrace(caller, until)
					defer cancel()
					require.Equal(t, caller, Caller(ctx))
					time.Sleep(time.Second)
					leave(errors.New("cause"))
					left := time.Now()
					time.Sleep(interval - 1)
					require.NoError(t, ctx.Err())
					require.NoError(t, context.Cause(ctx))
					<-ctx.Done()
					require.WithinRange(t, time.Now(), left.Add(interval), left.Add(Grace))
					require.Equal(t, context.Canceled, ctx.Err())
				})
			})
		}
	}
}

// The caller's own deadline bounds the call as the Watch's does.
func TestWatch_WithGrace_CallersDeadline(t *testing.T) {
	t.Parallel()
	for name, after := range map[string]time.Duration{"later": time.Hour, "none": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var w Watch
				began := time.Now()
				caller, leave := context.WithTimeout(t.Context(), time.Second)
				defer leave()
				var until time.Time
				if after > 0 {
					until = began.Add(after)
				}
				ctx, cancel := w.WithGrace(caller, until)
				defer cancel()
				deadline, ok := ctx.Deadline()
				require.True(t, ok)
				require.Equal(t, began.Add(time.Second), deadline)
				<-ctx.Done()
				require.WithinRange(t, time.Now(), deadline, deadline.Add(Precision))
				require.Equal(t, context.DeadlineExceeded, ctx.Err())
			})
		})
	}
}

// Each step of an operation has a context of its own below the operation's.
func TestWatch_Nested(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		end  func(leave, cancelOuter func())
		want error
	}{
		"the outer one's deadline": {func(func(), func()) { time.Sleep(time.Second) }, context.DeadlineExceeded},
		"the caller goes":          {func(leave, _ func()) { leave() }, context.Canceled},
		"the outer one ends":       {func(_, cancelOuter func()) { cancelOuter() }, context.Canceled},
	} {
		for way, innerAfter := range map[string]time.Duration{"earlier": time.Second - 1, "later": time.Hour} {
			t.Run(name+"/"+way, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					var w Watch
					caller, leave := context.WithCancel(t.Context())
					outer, cancelOuter := w.WithGrace(caller, time.Now().Add(time.Second))
					defer cancelOuter()
					inner, cancel := w.WithGrace(outer, time.Now().Add(innerAfter))
					defer cancel()
					require.Equal(t, caller, Caller(outer))
					require.Equal(t, caller, Caller(inner))
					test.end(leave, cancelOuter)
					ended := time.Now()
					<-inner.Done()
					require.Less(t, time.Since(ended), Grace)
					require.Equal(t, test.want, inner.Err())
					<-outer.Done()
					require.Equal(t, test.want, outer.Err())
				})
			})
		}
	}
}

// busyContext uses the Watch whenever it is asked for a value.
type busyContext struct {
	context.Context
	watch *Watch
}

func (c *busyContext) Value(key any) any {
	_, cancel := c.watch.WithGrace(context.Background(), time.Now().Add(time.Hour))
	cancel()
	return c.Context.Value(key)
}

// The Watch holds no lock while it calls methods of others, or what waits for the end of a context.
func TestWatch_CallersUseTheWatch(t *testing.T) {
	inBubble(t, func(t *testing.T, w *Watch, with func(context.Context, time.Duration) (context.Context, context.CancelFunc)) {
		caller, leave := context.WithCancel(t.Context())
		defer leave()
		ctx, cancel := with(&busyContext{caller, w}, time.Second)
		told := make(chan struct{})
		context.AfterFunc(ctx, func() {
			defer close(told)
			cancel()
			again, cancelAgain := with(t.Context(), time.Second)
			defer cancelAgain()
			<-again.Done()
		})
		<-told
		require.Empty(t, w.contexts)
	})
}

// TestWatch_Random has hundreds of calls of any length, whose callers go and whose deadlines pass
// at any time. A context never ends without a reason, nor later than it may.
func TestWatch_Random(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var w Watch
		var calls sync.WaitGroup
		for seed := range uint64(300) {
			calls.Go(func() {
				random := rand.New(rand.NewPCG(seed, 1))
				upTo := func(longest time.Duration) time.Duration { return time.Duration(random.Int64N(int64(longest))) }
				for range 50 {
					time.Sleep(upTo(200 * time.Millisecond))
					began := time.Now()
					timeout, goesAfter, takes := upTo(time.Second), upTo(time.Second), upTo(2*time.Second)
					caller, leave := context.WithCancel(t.Context())
					timer := time.AfterFunc(goesAfter, leave)
					ctx, cancel := w.WithGrace(caller, began.Add(timeout))
					end := func() {}
					if random.IntN(2) == 0 {
						timeout = min(timeout, upTo(time.Second))
						ctx, end = w.WithGrace(ctx, began.Add(timeout))
					}
					select {
					case <-ctx.Done():
						took := time.Since(began)
						byDeadline := ctx.Err() == context.DeadlineExceeded
						assert.True(t, byDeadline && took >= timeout || !byDeadline && took >= goesAfter)
						assert.LessOrEqual(t, took, min(timeout+Precision, goesAfter+Grace))
					case <-time.After(takes):
						assert.LessOrEqual(t, takes, min(timeout+Precision, goesAfter+Grace))
					}
					end()
					cancel()
					timer.Stop()
					leave()
				}
			})
		}
		calls.Wait()
		require.Empty(t, w.contexts)
	})
}
