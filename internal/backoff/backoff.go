// Package backoff waits between attempts of an operation that other callers disturb.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// Wait waits for a random time, which is longer at each attempt and at most 50 ms, so that callers
// who disturbed each other do not do so again. The first attempt is number 1. An error is that of
// ctx.
func Wait(ctx context.Context, attempt int) error {
	longest := min(time.Millisecond<<min(attempt, 6), 50*time.Millisecond)
	timer := time.NewTimer(rand.N(longest))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
