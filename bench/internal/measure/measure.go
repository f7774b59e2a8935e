// Package measure calls something from many goroutines at once and tells how fast it
// was.
package measure

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"time"
)

// Load is how to call: a closed loop, in which each caller makes its next call when
// the last one has returned.
type Load struct {
	Callers int
	WarmUp  time.Duration
	Length  time.Duration // after the warm-up
	Seed    uint64
}

// Result is what the calls took. Allocations are the process's: nothing else should
// run in it.
type Result struct {
	Throughput float64 // calls a second after the warm-up
	P50, P99   time.Duration

	Calls  int     // all of them, the warm-up's included; the figures below are a call's
	Allocs float64 // heap objects
	Bytes  float64 // of the heap
}

// ErrTooShort says that no call ended within the load's length.
var ErrTooShort = errors.New("no call ended in time")

// Run makes the calls. The first error ends them all, and is returned. Errors of its
// own: [ErrTooShort].
func (l Load) Run(ctx context.Context, call func(context.Context, *rand.Rand) error) (Result, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)

	type caller struct {
		random    *rand.Rand
		latencies Histogram
		calls     int
	}
	callers := make([]caller, l.Callers)
	for i := range callers {
		callers[i].random = rand.New(rand.NewPCG(l.Seed, uint64(i)))
	}

	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	start := time.Now().Add(l.WarmUp)
	end := start.Add(l.Length)
	var running sync.WaitGroup
	for i := range callers {
		running.Go(func() {
			// Requests do not share a context either, nor the lock within.
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			c := &callers[i]
			for {
				began := time.Now()
				if !began.Before(end) || ctx.Err() != nil {
					return
				}
				if err := call(ctx, c.random); err != nil {
					stop(err)
					return
				}
				ended := time.Now()
				c.calls++
				// What ended in time counts, whenever it began: otherwise slow
				// calls would be missed at the end and not at the start.
				if !ended.Before(start) && ended.Before(end) {
					c.latencies.Record(ended.Sub(began))
				}
			}
		})
	}
	running.Wait()
	runtime.ReadMemStats(&after)
	if err := context.Cause(ctx); err != nil {
		return Result{}, err
	}

	var all Histogram
	calls := 0
	for i := range callers {
		all.Add(&callers[i].latencies)
		calls += callers[i].calls
	}
	if all.Count() == 0 {
		return Result{}, fmt.Errorf("%w: %s", ErrTooShort, l.Length)
	}
	return Result{
		Throughput: float64(all.Count()) / l.Length.Seconds(),
		P50:        all.Quantile(0.50),
		P99:        all.Quantile(0.99),
		Calls:      calls,
		Allocs:     float64(after.Mallocs-before.Mallocs) / float64(calls),
		Bytes:      float64(after.TotalAlloc-before.TotalAlloc) / float64(calls),
	}, nil
}

// Median returns the middle one, 0 of none.
func Median(figures []float64) float64 {
	if len(figures) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(figures))
	middle := len(sorted) / 2
	if len(sorted)%2 == 0 {
		return (sorted[middle-1] + sorted[middle]) / 2
	}
	return sorted[middle]
}
