package pgsession

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestBucketOf(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		took   time.Duration
		bucket int
	}{
		{-time.Second, 0}, {0, 0}, {1, 0}, {firstBound, 0}, {firstBound + 1, 1}, {2 * firstBound, 1}, {2*firstBound + 1, 2},
		{8192 * time.Millisecond, buckets - 1}, {8192*time.Millisecond + 1, buckets}, {1<<63 - 1, buckets},
	} {
		require.Equal(t, test.bucket, bucketOf(test.took), test.took)
	}
}

// TestCounters_Observe_Allocations holds that a call costs no allocation to be counted.
func TestCounters_Observe_Allocations(t *testing.T) {
	var counted counters
	for _, err := range []error{nil, ErrNotFound, ErrRevoked} {
		require.Zero(t, testing.AllocsPerRun(100, func() { counted.observe(opLoad, time.Now(), &err) }), "%v", err)
	}
}
