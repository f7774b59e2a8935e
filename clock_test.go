package pgsession_test

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/test"
)

func TestSystemClock_Now(t *testing.T) {
	t.Parallel()
	before := time.Now()
	now := pgsession.SystemClock{}.Now()
	require.False(t, now.Before(before) || now.After(time.Now()))
}

func TestManualClock(t *testing.T) {
	t.Parallel()
	clock := pgsession.NewManualClock(test.Epoch)
	require.Equal(t, test.Epoch, clock.Now())
	require.Equal(t, test.Epoch, clock.Now(), "it stands still")
	clock.Advance(time.Hour)
	require.Equal(t, test.Epoch.Add(time.Hour), clock.Now())
	clock.Advance(-2 * time.Hour)
	require.Equal(t, test.Epoch.Add(-time.Hour), clock.Now())
	clock.Set(test.Epoch)
	require.Equal(t, test.Epoch, clock.Now())
}

func TestManualClock_ConcurrentUse(t *testing.T) {
	t.Parallel()
	clock := pgsession.NewManualClock(test.Epoch)
	const goroutines, moves = 4, 1000
	var group sync.WaitGroup
	for range goroutines {
		// Those that only move have nothing else to be in step by: the race detector sees
		// them even where they happen to run one after the other.
		group.Go(func() {
			for range moves {
				clock.Advance(time.Millisecond)
			}
		})
		group.Go(func() {
			last := clock.Now()
			for range moves {
				clock.Advance(time.Millisecond)
				now := clock.Now()
				if now.Before(last.Add(time.Millisecond)) {
					t.Errorf("from %s to %s", last, now)
				}
				last = now
			}
		})
	}
	group.Wait()
	require.Equal(t, test.Epoch.Add(2*goroutines*moves*time.Millisecond), clock.Now())

	group.Go(func() { clock.Set(test.Epoch) })
	group.Go(func() { clock.Set(test.Epoch) })
	group.Go(func() { clock.Now() })
	group.Wait()
	require.Equal(t, test.Epoch, clock.Now())
}
