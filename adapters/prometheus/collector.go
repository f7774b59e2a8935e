// Package pgsessionprom makes metrics for Prometheus of the counters of a session store.
package pgsessionprom

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/metrics"
)

// An Option changes what a collector shows.
type Option func(*collector)

// WithCounts lets the collector show how many rows the table has ([pgsession.Store.Count]). A
// scrape counts them if the last count began at least the interval ago. A count reads the whole
// table, and ends within [pgsession.WithTimeout]. If it fails, the last one stays. Without this
// option nothing is counted. WithCounts panics if the interval is not positive.
func WithCounts(interval time.Duration) Option {
	if interval <= 0 {
		panic("pgsessionprom: WithCounts: not positive")
	}
	return func(c *collector) { c.rows.Interval = interval }
}

// NewCollector returns a collector of store's counters ([pgsession.Store.Stats]). It reads them
// when it is asked. It does not ask the database, unless [WithCounts] says so. No label holds a
// token, a key, a user id or a table's name. It is safe for concurrent use. NewCollector panics if
// store is nil.
//
// The metrics of an operation, and of a kind of statement, appear with its first call. To tell
// several stores of one process apart, give each collector a label of its own with
// [prometheus.WrapRegistererWith].
func NewCollector(store *pgsession.Store, opts ...Option) prometheus.Collector {
	if store == nil {
		panic("pgsessionprom: NewCollector: nil store")
	}
	c := &collector{store: store, rows: metrics.Rows{Store: store}}
	for _, opt := range opts {
		opt(c)
	}
	return c
}

type collector struct {
	store *pgsession.Store
	rows  metrics.Rows
}

var (
	operations = prometheus.NewDesc("pgsession_operations_total",
		"Calls of the store, by operation and outcome.", []string{"operation", "outcome"}, nil)
	duration = prometheus.NewDesc("pgsession_operation_duration_seconds",
		"How long calls of the store took, the wait for a connection included.", []string{"operation"}, nil)
	conflicts = prometheus.NewDesc("pgsession_conflicts_total",
		"Times that an update or a renewal began anew because another writer came first.", nil, nil)
	unreadable = prometheus.NewDesc("pgsession_unreadable_rows_total",
		"Rows that did not open, by reason: tampered, or sealed under an unknown key.", []string{"reason"}, nil)
	calls = prometheus.NewDesc("pgsession_statement_calls_total",
		"Calls that may share a statement, by kind of statement.", []string{"kind"}, nil)
	statements = prometheus.NewDesc("pgsession_statements_total",
		"Statements sent for the calls that may share one, by kind.", []string{"kind"}, nil)
	read = prometheus.NewDesc("pgsession_read_bytes_total",
		"Bytes in the payloads of rows that were read.", nil, nil)
	written = prometheus.NewDesc("pgsession_written_bytes_total",
		"Bytes in the payloads that were made to be written.", nil, nil)
	cleaned = prometheus.NewDesc("pgsession_cleanup_removed_rows_total",
		"Expired rows removed by the clean-up.", nil, nil)
	cleanupTime = prometheus.NewDesc("pgsession_cleanup_last_success_timestamp_seconds",
		"When a clean-up of this process last succeeded, in Unix time; 0 before the first.", nil, nil)
	cleanupDuration = prometheus.NewDesc("pgsession_cleanup_last_duration_seconds",
		"How long the last successful clean-up took.", nil, nil)
	tableRows = prometheus.NewDesc("pgsession_rows",
		"Rows of the table at the last count, by kind: live sessions of users and guests, live entries, expired rows, tombstones.", []string{"kind"}, nil)
	countTime = prometheus.NewDesc("pgsession_count_timestamp_seconds",
		"When this process last counted the table's rows, in Unix time.", nil, nil)
)

// Describe is part of [prometheus.Collector].
func (c *collector) Describe(descs chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{operations, duration, conflicts, unreadable, calls, statements, read, written,
		cleaned, cleanupTime, cleanupDuration, tableRows, countTime} {
		descs <- desc
	}
}

// Collect is part of [prometheus.Collector].
func (c *collector) Collect(to chan<- prometheus.Metric) {
	counted, countedAt := c.rows.Count(context.Background())
	stats := c.store.Stats()
	send := func(desc *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(desc, kind, value, labels...)
	}
	count := func(desc *prometheus.Desc, n int64, labels ...string) {
		send(desc, prometheus.CounterValue, float64(n), labels...)
	}
	for name, operation := range stats.Operations {
		for outcome, n := range metrics.Outcomes(operation) {
			count(operations, n, name, outcome)
		}
		to <- histogram(operation, name)
	}
	for kind, sharing := range stats.Sharing {
		count(calls, sharing.Calls, kind)
		count(statements, sharing.Statements, kind)
	}
	count(conflicts, stats.Conflicts)
	count(unreadable, stats.Tampered, "tampered")
	count(unreadable, stats.UnknownKey, "unknown_key")
	count(read, stats.BytesRead)
	count(written, stats.BytesWritten)
	count(cleaned, stats.Cleaned)
	send(cleanupTime, prometheus.GaugeValue, unixSeconds(stats.LastCleanup))
	send(cleanupDuration, prometheus.GaugeValue, stats.LastCleanupDuration.Seconds())
	if counted != nil {
		for kind, n := range counted {
			send(tableRows, prometheus.GaugeValue, float64(n), kind)
		}
		send(countTime, prometheus.GaugeValue, unixSeconds(countedAt))
	}
}

func histogram(operation pgsession.OperationStats, name string) prometheus.Metric {
	within := make(map[float64]uint64, len(operation.Within))
	for bound, n := range operation.Within {
		within[bound.Seconds()] = uint64(n)
	}
	return prometheus.MustNewConstHistogram(duration, uint64(operation.Calls), operation.Duration.Seconds(), within, name)
}

func unixSeconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}
