package pgsessionprom_test

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
	"github.com/stretchr/testify/require"
)

// A history gives the values of each series, one a minute for three hours, as promtool's tests do.
type history map[string]string

// end is when the alerts are evaluated.
var end = time.Unix(3*60*60, 0)

const (
	loads   = `pgsession_operations_total{job="web",operation="load",outcome="ok"}`
	failed  = `pgsession_operations_total{job="web",operation="load",outcome="failed"}`
	absent  = `pgsession_operations_total{job="web",operation="load",outcome="not_found"}`
	updates = `pgsession_operations_total{job="web",operation="update",outcome="ok"}`
	quick   = `pgsession_operation_duration_seconds_bucket{job="web",operation="load",le="0.008"}`
	within  = `pgsession_operation_duration_seconds_bucket{job="web",operation="load",le="0.256"}`
	all     = `pgsession_operation_duration_seconds_bucket{job="web",operation="load",le="+Inf"}`
	repeats = `pgsession_conflicts_total{job="web"}`
	edited  = `pgsession_unreadable_rows_total{job="web",reason="tampered"}`
	keyless = `pgsession_unreadable_rows_total{job="web",reason="unknown_key"}`
	cleaned = `pgsession_cleanup_last_success_timestamp_seconds{job="web",instance="a"}`
	idle    = `pgsession_cleanup_last_success_timestamp_seconds{job="web",instance="b"}`
	expired = `pgsession_rows{job="web",kind="expired"}`
	counted = `pgsession_count_timestamp_seconds{job="web"}`
	waited  = `pgxpool_empty_acquire_wait_time_ns{job="web"}`
)

// healthy is a busy application: some sessions are absent, a few calls fail, one node leaves the
// clean-up to the other.
var healthy = history{
	loads: "0+60000x180", failed: "0+30x180", absent: "0+20000x180", updates: "0+1000x180",
	quick: "0+59900x180", within: "0+59990x180", all: "0+60000x180", repeats: "0+50x180", edited: "3x180", keyless: "0x180",
	cleaned: "0+60x180", idle: "0x180", expired: "25000+500x9 0+500x59 0+500x59 0+500x50", // it falls each hour
	counted: "0+60x180", waited: "0+1e9x180",
}

// TestAlerts_Fire evaluates each alert, as Prometheus does, after three hours of a healthy
// application and of one in trouble.
func TestAlerts_Fire(t *testing.T) {
	t.Parallel()
	trouble := map[string]history{
		"PgsessionFailing":       {failed: "0+1000x180"},
		"PgsessionSlow":          {quick: "0+50000x180", within: "0+59000x180"},
		"PgsessionTampered":      {edited: "0x177 1+1x2"},
		"PgsessionUnknownKey":    {keyless: "0x177 1+1x2"},
		"PgsessionCleanupLate":   {cleaned: "60x180"},
		"PgsessionCleanupBehind": {expired: "0+500x180"},
		"PgsessionCountLate":     {counted: "60x180"},
		"PgsessionConflicts":     {repeats: "0+2000x180"},
		"PgsessionPoolExhausted": {waited: "0+100e9x180"},
	}
	ill := make(map[string]history)
	for alert, changes := range trouble {
		troubled := maps.Clone(healthy)
		maps.Copy(troubled, changes)
		ill[alert] = troubled
	}
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1e6, Timeout: time.Minute})
	t.Cleanup(func() { require.NoError(t, engine.Close()) })
	for _, rule := range alerts(t) {
		require.Contains(t, trouble, rule.Alert, "there is no test of it")
		require.Empty(t, evaluate(t, engine, healthy, rule.Expr), rule.Alert)
		firing := evaluate(t, engine, ill[rule.Alert], rule.Expr)
		require.Len(t, firing, 1, rule.Alert)
		require.Equal(t, "web", firing[0].Metric.Get("job"), "the summary names it")
		for other, series := range ill {
			if other != rule.Alert {
				require.Empty(t, evaluate(t, engine, series, rule.Expr), "%s fires for %s", rule.Alert, other)
			}
		}
	}
}

func evaluate(t testing.TB, engine *promql.Engine, of history, expr string) promql.Vector {
	t.Helper()
	query, err := engine.NewInstantQuery(t.Context(), of, nil, expr, end)
	require.NoError(t, err)
	defer query.Close()
	result := query.Exec(t.Context())
	require.NoError(t, result.Err)
	vector, err := result.Vector()
	require.NoError(t, err)
	return vector
}

// Querier is part of [storage.Queryable].
func (h history) Querier(int64, int64) (storage.Querier, error) {
	return &storage.MockQuerier{SelectMockFunction: func(_ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
		found := new(seriesSet)
		for name, values := range h {
			metric, sequence, err := parser.ParseSeriesDesc(name + " " + values)
			if err != nil {
				panic(err)
			}
			if slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches(metric.Get(m.Name)) }) {
				continue
			}
			series := promql.Series{Metric: metric}
			for minute, value := range sequence {
				series.Floats = append(series.Floats, promql.FPoint{T: int64(minute) * 60_000, F: value.Value})
			}
			found.left = append(found.left, promql.NewStorageSeries(series))
		}
		return found
	}}, nil
}

// seriesSet is a [storage.SeriesSet] of a list.
type seriesSet struct {
	left []storage.Series
	at   storage.Series
}

func (s *seriesSet) Next() bool {
	if len(s.left) == 0 {
		return false
	}
	s.at, s.left = s.left[0], s.left[1:]
	return true
}

func (s *seriesSet) At() storage.Series                { return s.at }
func (s *seriesSet) Err() error                        { return nil }
func (s *seriesSet) Warnings() annotations.Annotations { return nil }
