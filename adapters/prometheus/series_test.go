package pgsessionprom_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"
)

var errAway = errors.New("connection refused")

// gather returns the series that a server would scrape, by name{label="value",…}, labels in order.
func gather(t testing.TB, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	require.NoError(t, err)
	series := make(map[string]float64)
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			add := func(suffix string, value float64, more ...string) {
				series[seriesName(family.GetName()+suffix, metric.GetLabel(), more...)] = value
			}
			switch {
			case metric.Counter != nil:
				add("", metric.Counter.GetValue())
			case metric.Gauge != nil:
				add("", metric.Gauge.GetValue())
			case metric.Histogram != nil:
				histogram := metric.Histogram
				add("_sum", histogram.GetSampleSum())
				add("_count", float64(histogram.GetSampleCount()))
				add("_bucket", float64(histogram.GetSampleCount()), "le", "+Inf")
				for _, bucket := range histogram.GetBucket() {
					add("_bucket", float64(bucket.GetCumulativeCount()), "le", strconv.FormatFloat(bucket.GetUpperBound(), 'g', -1, 64))
				}
			default:
				require.Fail(t, "a kind of metric that this test does not know", family.GetName())
			}
		}
	}
	return series
}

func seriesName(name string, pairs []*dto.LabelPair, more ...string) string {
	all := make(map[string]string)
	for _, pair := range pairs {
		all[pair.GetName()] = pair.GetValue()
	}
	for i := 0; i < len(more); i += 2 {
		all[more[i]] = more[i+1]
	}
	if len(all) == 0 {
		return name
	}
	var text []string
	for _, label := range slices.Sorted(maps.Keys(all)) {
		text = append(text, fmt.Sprintf("%s=%q", label, all[label]))
	}
	return name + "{" + strings.Join(text, ",") + "}"
}

// present returns the value of a series that must be there, even if it is 0.
func present(t testing.TB, series map[string]float64, name string) float64 {
	t.Helper()
	require.Contains(t, series, name)
	return series[name]
}
