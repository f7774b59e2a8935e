package turns_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession/internal/deadline"
	"github.com/pgsession/pgsession/internal/turns"
)

// TestTurns_Order has calls come one after the other while one has its turn. They get theirs in
// that order, one at a time, and each is handed what the one before it left.
func TestTurns_Order(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var all turns.Turns[string, int]
		first, left, err := all.Enter(t.Context(), "a")
		require.NoError(t, err)
		require.Zero(t, left)
		var (
			order []int
			group sync.WaitGroup
		)
		for n := range 5 {
			group.Go(func() {
				turn, left, err := all.Enter(t.Context(), "a")
				require.NoError(t, err)
				order = append(order, left) // the race detector sees two at a time
				time.Sleep(time.Hour)
				turn.Leave(n + 1)
			})
			synctest.Wait()
		}
		other, ok := all.TryEnter("b")
		require.True(t, ok, "another key")
		other.Leave(9)
		_, ok = all.TryEnter("a")
		require.False(t, ok)
		require.True(t, all.IsTaken("a"))
		first.Leave(0)
		group.Wait()
		require.Equal(t, []int{0, 1, 2, 3, 4}, order)
		require.False(t, all.IsTaken("a"))
		_, left, err = all.Enter(t.Context(), "a")
		require.NoError(t, err)
		require.Zero(t, left, "nothing is left when all have gone")
	})
}

// TestTurns_Patience has a call keep its turn. The next one takes it away, and those behind wait as
// long again.
func TestTurns_Patience(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all := turns.Turns[string, int]{Patience: time.Second}
		began := time.Now()
		slow, _, err := all.Enter(t.Context(), "a")
		require.NoError(t, err)
		var group sync.WaitGroup
		before := 0
		for n := range 3 {
			group.Go(func() {
				turn, left, err := all.Enter(t.Context(), "a")
				require.NoError(t, err)
				require.Equal(t, before, left)
				before = n + 1
				require.GreaterOrEqual(t, time.Since(began), time.Second)
				time.Sleep(time.Millisecond)
				turn.Leave(n + 1)
			})
			synctest.Wait()
		}
		group.Wait()
		require.Less(t, time.Since(began), 2*time.Second)
		turn, left, err := all.Enter(t.Context(), "a")
		require.NoError(t, err)
		require.Equal(t, before, left)
		slow.Leave(9)
		_, ok := all.TryEnter("a")
		require.False(t, ok, "a turn that was taken away ends no other one")
		turn.Leave(4)
		require.False(t, all.IsTaken("a"))
	})
}

// TestTurns_GiveUp has a call that waits give up as soon as its caller has gone, or its time is
// over.
func TestTurns_GiveUp(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		timeout, goesAfter, latest time.Duration
		want                       error
	}{
		"the caller goes":  {time.Hour, time.Second, time.Second, context.Canceled},
		"its time is over": {time.Second, time.Hour, time.Second + deadline.Precision, context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var (
					all       turns.Turns[string, int]
					deadlines deadline.Watch
				)
				first, _, err := all.Enter(t.Context(), "a")
				require.NoError(t, err)
				caller, leave := context.WithCancel(t.Context())
				timer := time.AfterFunc(test.goesAfter, leave)
				defer timer.Stop()
				began := time.Now()
				ctx, cancel := deadlines.WithGrace(caller, began.Add(test.timeout))
				defer cancel()
				_, _, err = all.Enter(ctx, "a")
				require.Equal(t, test.want, err)
				require.LessOrEqual(t, time.Since(began), test.latest)
				first.Leave(0)
				_, ok := all.TryEnter("a")
				require.True(t, ok, "it waits no more")
			})
		})
	}
}
