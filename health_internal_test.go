package pgsession

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// The store is Degraded for as long as it remembers a row that does not open, and no longer.
func TestCounters_Open(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var c counters
		for err, last := range map[error]*lastTime{
			ErrUnknownKey:   &c.lastUnknownKey,
			errSealedRow:    &c.lastOtherKind,
			errPlaintextRow: &c.lastOtherKind,
		} {
			require.False(t, last.isWithin(unreadableMemory))
			c.open(err)
			time.Sleep(unreadableMemory - time.Nanosecond)
			require.True(t, last.isWithin(unreadableMemory))
			time.Sleep(time.Nanosecond)
			require.False(t, last.isWithin(unreadableMemory))
		}
		c.open(ErrTampered)
		require.False(t, c.lastUnknownKey.isWithin(unreadableMemory))
		require.False(t, c.lastOtherKind.isWithin(unreadableMemory))
		require.EqualValues(t, 2, c.tampered.Load())
		require.EqualValues(t, 2, c.unknownKey.Load())
	})
}
