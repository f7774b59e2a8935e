package coalesce

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// InFlight returns how many runs count as in flight, those of calls that run again included.
func (g *Group[C, R]) InFlight() (runs int) {
	if g.again != nil {
		runs = g.again.InFlight()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return runs + len(g.places.runs)
}

// Places returns how many runs may be in flight now.
func (g *Group[C, R]) Places() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.places.limit
}

// TimerSet reports whether a timer for slow runs is set.
func (g *Group[C, R]) TimerSet() bool {
	if g.again != nil && g.again.TimerSet() {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.places.timerSet
}

// queue makes g queue calls with these deadlines, without goroutines that wait for them.
func queue(t *testing.T, g *Group[string, string], deadlines ...time.Time) (calls []*call[string, string]) {
	t.Helper()
	for _, deadline := range deadlines {
		_, queued := g.enter(&call[string, string]{ctx: t.Context(), deadline: deadline})
		require.NotNil(t, queued)
		calls = append(calls, queued)
	}
	return calls
}

// occupied returns a group of which the only place is taken.
func occupied() (*Group[string, string], *run) {
	g := New(Config[string, string]{MaxInFlight: 1})
	alone, _ := g.enter(&call[string, string]{})
	return g, &alone.run
}

// A caller whose context ends while it is answered may get either. It was counted already, and the
// batch goes on for the others.
func TestBatch_AnsweredAndAbandoned(t *testing.T) {
	t.Parallel()
	g, first := occupied()
	calls := queue(t, g, time.Time{}, time.Time{})
	batch := g.next(first)
	ctx := batch.parent
	batch.answer(0, "done")
	g.abandon(calls[0])
	require.NoError(t, ctx.Err())
	g.abandon(calls[1])
	require.ErrorIs(t, ctx.Err(), context.Canceled)
}

// All callers may leave between the moment at which a batch is taken and its run.
func TestBatch_AbandonedBeforeItRuns(t *testing.T) {
	t.Parallel()
	g, first := occupied()
	calls := queue(t, g, time.Time{}, time.Time{})
	batch := g.next(first)
	g.abandon(calls[0])
	g.abandon(calls[1])
	require.ErrorIs(t, batch.parent.Err(), context.Canceled)
}

// A call that has expired, but that its caller has not yet removed, is not sent. Its deadline does
// not end the batch of the others.
func TestGroup_ExpiredCallsAreNotSent(t *testing.T) {
	t.Parallel()
	past, future := time.Now().Add(-time.Second), time.Now().Add(time.Hour)

	t.Run("among others", func(t *testing.T) {
		t.Parallel()
		g, first := occupied()
		calls := queue(t, g, future, past, time.Time{}, past)
		batch := g.next(first)
		require.Equal(t, []*call[string, string]{calls[0], calls[2]}, batch.calls)
		require.Len(t, batch.requests, 2)
		require.Equal(t, future, batch.deadline)
		for _, expired := range []*call[string, string]{calls[1], calls[3]} {
			require.Len(t, expired.done, 1)
			require.ErrorIs(t, (<-expired.done).err, context.DeadlineExceeded)
		}
		require.Zero(t, g.Waiting())
	})

	t.Run("alone: the place is free", func(t *testing.T) {
		t.Parallel()
		g, first := occupied()
		calls := queue(t, g, past, past)
		require.Nil(t, g.next(first))
		require.Zero(t, g.Waiting())
		require.Zero(t, g.InFlight())
		g.abandon(calls[0]) // its context may have ended at the same time
	})
}

// The timer of a slow run may have fired without having started the next batch yet. A new call must
// not take the place that it is about to give away.
func TestGroup_NewCallDoesNotPassQueuedOne(t *testing.T) {
	t.Parallel()
	g := New(Config[string, string]{MaxInFlight: 1, SlowAfter: time.Minute})
	g.places.timerSet = true // so that watch does not set the timer
	alone, _ := g.enter(&call[string, string]{})
	queued := queue(t, g, time.Time{})
	alone.run.began -= time.Hour
	queued = append(queued, queue(t, g, time.Time{})...)
	require.Equal(t, queued, g.queue)
}
