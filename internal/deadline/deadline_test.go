package deadline

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestWatch_With(t *testing.T) {
	t.Parallel()
	t.Run("ends at the deadline", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			var w Watch
			began := time.Now()
			ctx, cancel := w.With(t.Context(), began.Add(time.Second))
			defer cancel()
			later, cancelLater := w.With(t.Context(), began.Add(time.Hour))
			defer cancelLater()
			deadline, ok := ctx.Deadline()
			require.True(t, ok)
			require.Equal(t, began.Add(time.Second), deadline)
			require.NoError(t, ctx.Err())
			<-ctx.Done()
			require.WithinRange(t, time.Now(), began.Add(time.Second), began.Add(time.Second+Precision))
			require.Equal(t, context.DeadlineExceeded, ctx.Err())
			require.NoError(t, later.Err())
		})
	})
	t.Run("ends with its parent", func(t *testing.T) {
		t.Parallel()
		var w Watch
		parent, cancelParent := context.WithCancel(t.Context())
		ctx, cancel := w.With(parent, time.Now().Add(time.Hour))
		defer cancel()
		cancelParent()
		<-ctx.Done()
		require.Equal(t, context.Canceled, ctx.Err())
	})
	t.Run("tells the cause of its parent", func(t *testing.T) {
		t.Parallel()
		var w Watch
		cause := errors.New("cause")
		parent, cancelParent := context.WithCancelCause(t.Context())
		ctx, cancel := w.With(parent, time.Now().Add(time.Hour))
		defer cancel()
		cancelParent(cause)
		require.Equal(t, cause, context.Cause(ctx))
		require.Equal(t, context.Canceled, ctx.Err())
	})
	t.Run("cancel ends it, and forgets it", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			var w Watch
			ctx, cancel := w.With(t.Context(), time.Now().Add(time.Hour))
			cancel()
			cancel()
			require.Equal(t, context.Canceled, ctx.Err())
			require.Empty(t, w.contexts)
			time.Sleep(Precision)
			synctest.Wait()
			require.False(t, w.isSet, "no timer without contexts")
			again, cancel := w.With(t.Context(), time.Now().Add(time.Second))
			defer cancel()
			<-again.Done()
			require.Equal(t, context.DeadlineExceeded, again.Err(), "the timer is set again")
		})
	})
	t.Run("a deadline that has passed", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			var w Watch
			ctx, cancel := w.With(t.Context(), time.Now().Add(-time.Second))
			defer cancel()
			<-ctx.Done()
			require.Equal(t, context.DeadlineExceeded, ctx.Err())
		})
	})
	t.Run("contexts below end too", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			var w Watch
			ctx, cancel := w.With(t.Context(), time.Now().Add(time.Second))
			defer cancel()
			below, cancelBelow := context.WithCancel(ctx)
			defer cancelBelow()
			stopped := make(chan struct{})
			context.AfterFunc(ctx, func() { close(stopped) })
			<-below.Done()
			<-stopped
			require.Equal(t, context.DeadlineExceeded, context.Cause(below))
		})
	})
}
