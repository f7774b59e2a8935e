package pgsessionprom_test

import (
	"maps"
	"math"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
	"github.com/stretchr/testify/require"
)

// end is when the alerts are evaluated, in minutes.
const end = 3 * 60

// A history gives the value of each series, by the minute.
type history map[string]func(minute float64) float64

func constant(value float64) func(float64) float64 {
	return func(float64) float64 { return value }
}

func perMinute(n float64) func(float64) float64 {
	return func(minute float64) float64 { return n * minute }
}

// lately is a counter that begins to count three minutes before the end.
func lately(n float64) func(float64) float64 {
	return func(minute float64) float64 { return n * max(0, minute-(end-3)) }
}

// hourly is a gauge that grows, and falls to nothing in the tenth minute of each hour.
func hourly(n float64) func(float64) float64 {
	return func(minute float64) float64 { return n * math.Mod(minute+50, 60) }
}

// everyMinute is the time of the last success of a clean-up that runs each minute.
func everyMinute(minute float64) float64 { return 60 * minute }

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
	loads: perMinute(60_000), failed: perMinute(30), absent: perMinute(20_000), updates: perMinute(1000),
	quick: perMinute(59_900), within: perMinute(59_990), all: perMinute(60_000), repeats: perMinute(50), edited: constant(3), keyless: constant(0),
	cleaned: everyMinute, idle: constant(0), expired: hourly(500), counted: everyMinute, waited: perMinute(1e9),
}

// TestAlerts_Fire evaluates each alert, as Prometheus does, after three hours of a healthy
// application and of one in trouble.
func TestAlerts_Fire(t *testing.T) {
	t.Parallel()
	trouble := map[string]history{
		"PgsessionFailing":       {failed: perMinute(1000)},
		"PgsessionSlow":          {quick: perMinute(50_000), within: perMinute(59_000)},
		"PgsessionTampered":      {edited: lately(1)},
		"PgsessionUnknownKey":    {keyless: lately(1)},
		"PgsessionCleanupLate":   {cleaned: constant(60)},
		"PgsessionCleanupBehind": {expired: perMinute(500)},
		"PgsessionCountLate":     {counted: constant(60)},
		"PgsessionConflicts":     {repeats: perMinute(2000)},
		"PgsessionPoolExhausted": {waited: perMinute(100e9)},
	}
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1e6, Timeout: time.Minute})
	t.Cleanup(func() { require.NoError(t, engine.Close()) })
	for _, rule := range alerts(t) {
		changes, ok := trouble[rule.Alert]
		require.True(t, ok, "there is no test of %s", rule.Alert)
		require.Empty(t, evaluate(t, engine, healthy, rule.Expr), rule.Alert)
		troubled := maps.Clone(healthy)
		maps.Copy(troubled, changes)
		firing := evaluate(t, engine, troubled, rule.Expr)
		require.Len(t, firing, 1, rule.Alert)
		require.Equal(t, "web", firing[0].Metric.Get("job"), "the summary names it")
		for other, changes := range trouble {
			if other != rule.Alert {
				others := maps.Clone(healthy)
				maps.Copy(others, changes)
				require.Empty(t, evaluate(t, engine, others, rule.Expr), "%s fires for %s", rule.Alert, other)
			}
		}
	}
}

func evaluate(t testing.TB, engine *promql.Engine, of history, expr string) promql.Vector {
	t.Helper()
	query, err := engine.NewInstantQuery(t.Context(), of, nil, expr, time.Unix(end*60, 0))
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
		set := new(seriesSet)
		for name, value := range h {
			metric, err := parser.ParseMetric(name)
			if err != nil {
				panic(err)
			}
			if !matches(metric, matchers) {
				continue
			}
			var samples []chunks.Sample
			for minute := range end + 1 {
				samples = append(samples, sample{int64(minute) * 60_000, value(float64(minute))})
			}
			set.left = append(set.left, storage.NewListSeries(metric, samples))
		}
		return set
	}}, nil
}

func matches(metric labels.Labels, matchers []*labels.Matcher) bool {
	for _, matcher := range matchers {
		if !matcher.Matches(metric.Get(matcher.Name)) {
			return false
		}
	}
	return true
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

// sample is a [chunks.Sample] with a plain number.
type sample struct {
	millis int64
	value  float64
}

func (s sample) T() int64                      { return s.millis }
func (s sample) ST() int64                     { return 0 }
func (s sample) F() float64                    { return s.value }
func (s sample) H() *histogram.Histogram       { return nil }
func (s sample) FH() *histogram.FloatHistogram { return nil }
func (s sample) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (s sample) Copy() chunks.Sample           { return s }
