package bench

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// clientCounts are how many clients call at once.
var clientCounts = []int{1, 16, 64, 256}

// measure makes b.N calls from so many clients at once, with numbers from 0. Each client makes its
// next call when its last has returned. It reports what testing does not: latencies, the
// processors' time, bytes of log, statements.
func measure(b *testing.B, p pool, table string, clients int, call func(random *rand.Rand, n int) error) {
	if b.N == 1 { // as it always is at first
		vacuum(b, table)
	}
	latencies := make([]time.Duration, b.N)
	var next atomic.Int64
	var group errgroup.Group
	b.ReportAllocs()
	before := used(b, p)
	b.ResetTimer()
	for range min(clients, b.N) {
		random := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
		group.Go(func() error {
			for {
				n := int(next.Add(1)) - 1
				if n >= b.N {
					return nil
				}
				began := time.Now()
				if err := call(random, n); err != nil {
					next.Store(int64(b.N)) // ends the others
					return err
				}
				latencies[n] = time.Since(began)
			}
		})
	}
	err := group.Wait()
	b.StopTimer()
	require.NoError(b, err)
	before.report(b, p)
	slices.Sort(latencies)
	b.ReportMetric(float64(latencies[len(latencies)/2]), "p50-ns")
	b.ReportMetric(float64(latencies[len(latencies)*99/100]), "p99-ns")
}

// all does it for 0 to n-1, many at once.
func all(tb testing.TB, n int, do func(i int) error) {
	var group errgroup.Group
	group.SetLimit(4 * connections)
	for i := range n {
		group.Go(func() error { return do(i) })
	}
	require.NoError(tb, group.Wait())
}

// A choice says which session a call is for.
type choice string

const (
	uniform choice = "uniform"
	zipf    choice = "zipf" // of 20,000 sessions, the first is chosen in one call of seven
	one     choice = "one"
)

// among returns a function that chooses one of n.
func (c choice) among(n int) func(random *rand.Rand) int {
	switch c {
	case zipf:
		drawn := make([]int, 1<<17)
		distribution := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), 1.1, 1, uint64(n-1))
		for i := range drawn {
			drawn[i] = int(distribution.Uint64())
		}
		return func(random *rand.Rand) int { return drawn[random.IntN(len(drawn))] }
	case one:
		return func(*rand.Rand) int { return 0 }
	}
	return func(random *rand.Rand) int { return random.IntN(n) }
}

// name returns a benchmark's name as benchstat reads it: key=value/key=value.
func name(keysAndValues ...any) string {
	var parts []string
	for pair := range slices.Chunk(keysAndValues, 2) {
		parts = append(parts, fmt.Sprintf("%v=%v", pair[0], pair[1]))
	}
	return strings.Join(parts, "/")
}
