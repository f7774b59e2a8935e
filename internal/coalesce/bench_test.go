package coalesce_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgsession/pgsession/internal/coalesce"
)

func double(_ context.Context, calls []int, answer func(int, int)) error {
	for i, call := range calls {
		answer(i, 2*call)
	}
	return nil
}

var plain = double // through a variable, so that the compiler cannot inline it: a Group cannot either

// timeouts are what a caller passes to Do as its deadline: none, or one that never ends the call.
var timeouts = []time.Duration{0, 5 * time.Second}

func deadlineAfter(timeout time.Duration) time.Time {
	if timeout == 0 {
		return time.Time{}
	}
	return time.Now().Add(timeout)
}

// BenchmarkAlone compares the cost of a single caller with the plain call.
func BenchmarkAlone(b *testing.B) {
	b.Run("plain", func(b *testing.B) {
		run := plain
		b.ReportAllocs()
		for b.Loop() {
			var result int
			if err := run(b.Context(), []int{1}, func(_, r int) { result = r }); err != nil || result != 2 {
				b.Fatal(result, err)
			}
		}
	})
	for _, maxInFlight := range []int{0, 4} {
		for _, timeout := range timeouts {
			b.Run(fmt.Sprintf("maxInFlight=%d/timeout=%v", maxInFlight, timeout), func(b *testing.B) {
				group := coalesce.New(coalesce.Config[int, int]{
					MaxInFlight: maxInFlight,
					SlowAfter:   100 * time.Millisecond,
					Run:         double,
				})
				b.ReportAllocs()
				for b.Loop() {
					if _, err := group.Do(b.Context(), deadlineAfter(timeout), 1); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkCallers has many callers at once, and a simulated server with 4 connections. Runs that
// take no time show the cost of queueing. Runs that take 500 µs, and 2 µs for each call, show what
// coalescing gains.
func BenchmarkCallers(b *testing.B) {
	const connections = 4
	for _, round := range []time.Duration{0, 500 * time.Microsecond} {
		for _, callers := range []int{64, 256} {
			for _, maxInFlight := range []int{0, connections} {
				for _, timeout := range timeouts {
					name := fmt.Sprintf("round=%v/callers=%d/maxInFlight=%d/timeout=%v", round, callers, maxInFlight, timeout)
					b.Run(name, func(b *testing.B) {
						pool := make(chan struct{}, connections)
						group := coalesce.New(coalesce.Config[int, int]{
							MaxInFlight: maxInFlight,
							SlowAfter:   100 * time.Millisecond,
							Run: func(ctx context.Context, calls []int, answer func(int, int)) error {
								pool <- struct{}{}
								defer func() { <-pool }()
								if round == 0 {
									runtime.Gosched()
								} else {
									<-time.After(round + time.Duration(len(calls))*2*time.Microsecond)
								}
								return double(ctx, calls, answer)
							},
						})
						var left atomic.Int64
						left.Store(int64(b.N))
						var done sync.WaitGroup
						b.ReportAllocs()
						b.ResetTimer()
						for range callers {
							done.Go(func() {
								for left.Add(-1) >= 0 {
									if _, err := group.Do(b.Context(), deadlineAfter(timeout), 1); err != nil {
										b.Error(err)
									}
								}
							})
						}
						done.Wait()
						calls, runs := group.Stats()
						b.ReportMetric(float64(calls)/float64(runs), "calls/run")
					})
				}
			}
		}
	}
}
