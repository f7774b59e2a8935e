// Package backoff waits between attempts at something that others got in the way of.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// Wait waits for a random time, which is longer at each attempt and at most 50 ms, so that those who
// met do not meet again. The first attempt is number 1. An error is that of ctx.
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
