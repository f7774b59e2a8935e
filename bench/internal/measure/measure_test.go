package measure_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession/bench/internal/measure"
)

func TestHistogram_Quantile(t *testing.T) {
	t.Parallel()
	var low, high, all measure.Histogram
	for i := range 1000 {
		half := &low
		if i >= 500 {
			half = &high
		}
		half.Record(time.Duration(i+1) * time.Millisecond)
	}
	all.Add(&low)
	all.Add(&high)
	require.Equal(t, 1000, all.Count())
	for _, q := range []float64{0, 0.01, 0.5, 0.99, 1} {
		exact := time.Duration(q*999+1) * time.Millisecond
		require.InEpsilon(t, exact, all.Quantile(q), 1.0/64, "quantile %v", q)
	}
	var none measure.Histogram
	require.Zero(t, none.Quantile(0.5))
}

func TestHistogram_ShortAndLong(t *testing.T) {
	t.Parallel()
	for _, d := range []time.Duration{0, 1, 63, 64, 127, 128, 129, 1000, time.Second, time.Minute} {
		var h measure.Histogram
		h.Record(d)
		require.LessOrEqual(t, h.Quantile(0.5), d)
		require.GreaterOrEqual(t, float64(h.Quantile(0.5)), float64(d)*63/64)
	}
}

func TestLoad_Run(t *testing.T) {
	t.Parallel()
	var running, most atomic.Int64
	load := measure.Load{Callers: 4, WarmUp: 10 * time.Millisecond, Length: time.Second}
	result, err := load.Run(t.Context(), func(ctx context.Context, _ *rand.Rand) error {
		now := running.Add(1)
		defer running.Add(-1)
		for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
		}
		timer := time.NewTimer(time.Millisecond)
		<-timer.C
		return nil
	})
	require.NoError(t, err)
	require.EqualValues(t, 4, most.Load())
	require.Positive(t, result.Calls)
	require.LessOrEqual(t, result.Throughput, 4000.0)
	require.GreaterOrEqual(t, result.P50, 900*time.Microsecond)
	require.GreaterOrEqual(t, result.P99, result.P50)
}

func TestLoad_RunErr(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	load := measure.Load{Callers: 4, Length: time.Minute}
	_, err := load.Run(t.Context(), func(context.Context, *rand.Rand) error { return broken })
	require.ErrorIs(t, err, broken)

	load = measure.Load{Callers: 1, Length: time.Millisecond}
	_, err = load.Run(t.Context(), func(context.Context, *rand.Rand) error {
		<-time.After(10 * time.Millisecond)
		return nil
	})
	require.ErrorIs(t, err, measure.ErrTooShort)
}

func TestMedian(t *testing.T) {
	t.Parallel()
	require.Zero(t, measure.Median(nil))
	require.EqualValues(t, 2, measure.Median([]float64{3, 1, 2}))
	require.EqualValues(t, 2.5, measure.Median([]float64{4, 1, 2, 3}))
}
