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

var plain = double // through a variable, so that the compiler sees no more of it than a Group does

// BenchmarkAlone shows what one caller alone pays, beside the plain call.
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
	for _, places := range []int{0, 4} {
		b.Run(fmt.Sprintf("places=%d", places), func(b *testing.B) {
			group := coalesce.New(coalesce.Config[int, int]{Places: places, Run: double})
			b.ReportAllocs()
			for b.Loop() {
				if _, err := group.Do(b.Context(), 1); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkCallers has many callers at once, in front of a simulated server with 4 connections. Runs that take no time
// show what queueing and the hand-over cost; runs of 500 µs, and 2 µs for each call, show what coalescing gains.
func BenchmarkCallers(b *testing.B) {
	const connections = 4
	for _, round := range []time.Duration{0, 500 * time.Microsecond} {
		for _, callers := range []int{64, 256} {
			for _, places := range []int{0, connections} {
				b.Run(fmt.Sprintf("round=%v/callers=%d/places=%d", round, callers, places), func(b *testing.B) {
					pool := make(chan struct{}, connections)
					group := coalesce.New(coalesce.Config[int, int]{
						Places: places,
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
								if _, err := group.Do(b.Context(), 1); err != nil {
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
