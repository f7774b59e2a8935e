package pgsession

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// The store is Degraded for as long as it remembers a row that no key opens, and no longer.
func TestCounters_MetUnknownKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var c counters
		require.False(t, c.metUnknownKey(unknownKeyMemory))
		c.open(ErrUnknownKey)
		time.Sleep(unknownKeyMemory - time.Nanosecond)
		require.True(t, c.metUnknownKey(unknownKeyMemory))
		time.Sleep(time.Nanosecond)
		require.False(t, c.metUnknownKey(unknownKeyMemory))
		c.open(ErrTampered)
		require.False(t, c.metUnknownKey(unknownKeyMemory))
	})
}
