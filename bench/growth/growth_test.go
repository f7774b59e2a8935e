package main

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestBench(t *testing.T) {
	t.Parallel()
	b, err := newBench(t.Context(), plan{
		sizes: []int{2_000, 20_000}, sample: 100, expired: 500, value: 128, callers: 4, length: 50 * time.Millisecond, connections: 4,
		explain: true, hours: 3, hour: 100 * time.Millisecond, population: 100, storage: "fillfactor = 80", naptimeInSec: 1,
	})
	require.NoError(t, err)
	defer b.close()
	report := &report{}
	report.Environment, err = b.environment(t.Context())
	require.NoError(t, err)

	require.NoError(t, b.grow(t.Context(), report))
	require.Len(t, report.Sizes, 2)
	for _, size := range report.Sizes {
		for _, figure := range []float64{
			size.Load.PerSecond, size.Save.PerSecond, size.FindByUser.PerSecond, size.CleanupExpiredMicros, size.BackgroundCleanupMicros,
		} {
			require.Positive(t, figure, size)
		}
		require.Len(t, size.Bytes, len(relationStyles))
	}
	require.Greater(t, report.Sizes[1].Bytes[0].Bytes, 5*report.Sizes[0].Bytes[0].Bytes)
	require.Greater(t, len(report.Plans), 15)
	for _, plan := range report.Plans {
		require.Contains(t, plan.First, "Execution Time", plan.SQL)
		require.Contains(t, plan.Cached, "Execution Time", plan.SQL)
	}

	report.Churn, err = b.churn(t.Context())
	require.NoError(t, err)
	require.Equal(t, "fillfactor=80", report.Churn.Storage)
	require.Len(t, report.Churn.Hours, 3)
	require.InDelta(t, 1, report.Churn.Hours[0].Ratio, 1e-9)

	var out bytes.Buffer
	printSizes(&out, report.Sizes)
	report.Churn.print(&out)
	require.Contains(t, out.String(), "autovacuums")
	require.NoError(t, report.draw(t.TempDir()))
}

func TestCheckPlans(t *testing.T) {
	t.Parallel()
	fine := explanation{SQL: "SELECT 1", First: "Index Scan  (cost=1)", Cached: "Index Scan  (cost=2)"}
	health := explanation{SQL: "SELECT pg_is_in_recovery()", First: "Seq Scan on sessions s  (cost=1)", Cached: "Seq Scan on sessions s  (cost=1)"}
	scan := explanation{SQL: "SELECT 2", First: fine.First, Cached: "  ->  Parallel Seq Scan on sessions s  (cost=2)"}
	var out bytes.Buffer
	require.NoError(t, checkPlans(&out, []explanation{fine, health}))
	require.ErrorContains(t, checkPlans(&out, []explanation{fine, scan}), "SELECT 2")
	require.Contains(t, out.String(), "later:")
}
