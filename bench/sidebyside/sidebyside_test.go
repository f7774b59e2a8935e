package main

import (
	"bytes"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession/bench/internal/proxy"
)

func TestMain(m *testing.M) {
	proxy.Main()
	os.Exit(m.Run())
}

// Every contender answers, over both networks, and the report tells what it did.
func TestBench(t *testing.T) {
	t.Parallel()
	const size = 256
	b, err := newBench(t.Context(), plan{
		connections: 4, sessions: 200, rounds: 2, warmUp: 10 * time.Millisecond, length: 250 * time.Millisecond,
		cases:       product([]int{size}, []time.Duration{0, 2 * time.Millisecond}, []string{opLoad, opSave}, []int{1, 8}),
		checkpoints: true,
	})
	require.NoError(t, err)
	defer b.close()
	report := b.describe(t.Context())
	require.NoError(t, b.measureSize(t.Context(), size, report))

	require.Len(t, report.Results, len(b.cases)*len(styles))
	for _, one := range report.Results {
		require.Positive(t, one.PerSecond, one)
		require.Positive(t, one.P99, one)
		require.Positive(t, one.AllocsPerCall, one)
		switch {
		case one.Contender == scsPgx:
			require.InDelta(t, 1, one.Ratio, 1e-9)
			require.InDelta(t, 1, one.StatementsPerCall, 0.01)
		case one.Contender == oursSealed && one.Callers == 8:
			require.Less(t, one.StatementsPerCall, 1.0, "calls share statements")
		default:
			// Callers of ours who meet at one row take turns, which costs a statement more. With so
			// few sessions some do meet.
			require.LessOrEqual(t, one.StatementsPerCall, 1.05, one)
		}
		if one.Operation == opSave {
			require.Greater(t, one.WALBytesPerCall, float64(size), one)
		}
		if one.AddedRoundTripMS > 0 {
			require.Greater(t, one.P50, 1.9, one)
		}
	}
	require.Len(t, report.Checkpoints, 3*len(styles))
	for _, one := range report.Checkpoints {
		require.Greater(t, one.WALBytesPerSave, float64(size), one)
	}
	var table bytes.Buffer
	report.print(&table)
	require.Contains(t, table.String(), oursSealed)
	require.NoError(t, report.draw(t.TempDir()))
}
