package measure

import (
	"math/bits"
	"time"
)

// A Histogram counts durations. It has a fixed size, so that to record one allocates
// nothing, and is exact to 1/64.
type Histogram struct {
	buckets [64 * 40]uint32
	count   int
}

const mantissa = 6 // bits

// Record counts one duration.
func (h *Histogram) Record(d time.Duration) {
	h.buckets[min(bucketOf(uint64(max(d, 0))), len(h.buckets)-1)]++
	h.count++
}

// Add counts what another histogram did.
func (h *Histogram) Add(other *Histogram) {
	for i, n := range other.buckets {
		h.buckets[i] += n
	}
	h.count += other.count
}

// Count returns how many durations were recorded.
func (h *Histogram) Count() int { return h.count }

// Quantile returns the duration that the share q of all is not above, and 0 where
// there are none.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.count == 0 {
		return 0
	}
	rank := int(q * float64(h.count-1))
	for i, n := range h.buckets {
		if rank -= int(n); rank < 0 {
			return time.Duration(startOf(i))
		}
	}
	panic("unreachable")
}

func bucketOf(ns uint64) int {
	shift := max(bits.Len64(ns)-1-mantissa, 0)
	return shift<<mantissa + int(ns>>shift)
}

func startOf(bucket int) uint64 {
	if bucket < 2<<mantissa {
		return uint64(bucket)
	}
	shift := bucket>>mantissa - 1
	return uint64(bucket-shift<<mantissa) << shift
}
