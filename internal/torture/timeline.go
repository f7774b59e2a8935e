package main

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/pgsession/pgsession"
)

// A timeline is the clock of all stores, with every time that it has shown. It only moves forward.
//
// A call notes the reading before and after. Whatever time the store took during the call lies
// between the two, so the model tries each of them.
type timeline struct {
	clock *pgsession.ManualClock

	mu    sync.Mutex
	times []time.Time // the last one is now
}

func newTimeline(start time.Time) *timeline {
	return &timeline{clock: pgsession.NewManualClock(start), times: []time.Time{start}}
}

func (l *timeline) advance(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.times = append(l.times, l.times[len(l.times)-1].Add(d))
	l.clock.Advance(d)
}

// reading returns the index of the present time.
func (l *timeline) reading() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.times) - 1
}

// since returns the times from a reading until now.
func (l *timeline) since(reading int) []time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.times[reading:len(l.times):len(l.times)]
}

// startMoving moves the clock a few times, at random moments, until the function that it returns is
// called.
func (l *timeline) startMoving(ctx context.Context, moves int, by func() time.Duration, random *rand.Rand) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range moves {
			pause(ctx, time.Duration(random.IntN(20_000))*time.Microsecond)
			if ctx.Err() != nil {
				return
			}
			l.advance(by())
		}
	}()
	return func() {
		cancel()
		<-done
	}
}
