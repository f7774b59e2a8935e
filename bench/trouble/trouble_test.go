package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession/bench/internal/proxy"
)

func TestMain(m *testing.M) {
	proxy.Main()
	os.Exit(m.Run())
}

// Every part runs for a moment, and the report tells of each.
func TestBench(t *testing.T) {
	t.Parallel()
	p := defaultPlan()
	p.rounds, p.length, p.connections, p.callers = 2, 500*time.Millisecond, 4, 8
	p.sessions, p.callPatience, p.walBytes = 500, 2*time.Second, 0
	p.sizes, p.bytes = []int{1 << 10, 256 << 10}, 1<<20
	b, err := newBench(t.Context(), p)
	require.NoError(t, err)
	defer b.close()
	report, err := b.measure(t.Context())
	require.NoError(t, err)

	require.Len(t, report.Locked, 2)
	for _, one := range report.Locked {
		for _, state := range states {
			require.Positive(t, one.PerSecond[state], one)
			require.Positive(t, one.P99[state], one)
		}
		for _, ratio := range []ratio{one.PerSecondToFree, one.PerSecondToHeld, one.P99ToFree, one.P99ToHeld} {
			require.Positive(t, ratio.Min, one)
		}
		require.Equal(t, 1, one.Occupied, one)
	}
	require.Len(t, report.Sizes, 4)
	for _, one := range report.Sizes {
		for _, name := range []string{shared, alone} {
			require.Positive(t, one.PerSecond[name], one)
			require.Positive(t, one.Client[name], one)
		}
		require.Positive(t, one.Ratio.Min, one)
		if one.Size == 1<<10 {
			require.Greater(t, one.Calls, 1.0, "calls share statements")
		}
	}
	require.Len(t, report.Pages, 4)
	for _, one := range report.Pages {
		require.Positive(t, one.MiBPerSecond, one)
	}

	var out bytes.Buffer
	report.print(&out)
	require.Contains(t, out.String(), "Reseal")
	path := filepath.Join(t.TempDir(), "trouble.json")
	require.NoError(t, report.write(path))
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(content, report))
}
