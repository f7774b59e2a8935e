// Package pgsessionotel makes metrics for OpenTelemetry of the counters of a session store. Traces
// need nothing of it: see the README.
package pgsessionotel

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/metrics"
)

// An Option changes what [Register] registers.
type Option func(*observer)

// WithCounts adds how many rows the table has ([pgsession.Store.Count]). A collection counts them
// if the last count began at least the interval ago. A count reads the whole table, and ends within
// [pgsession.WithTimeout]. If it fails, the last one stays. Without this option nothing is counted.
// WithCounts panics if the interval is not positive.
func WithCounts(interval time.Duration) Option {
	if interval <= 0 {
		panic("pgsessionotel: WithCounts: not positive")
	}
	return func(o *observer) { o.rows.Interval = interval }
}

// Register lets a meter observe a store's counters ([pgsession.Store.Stats]). They are read when
// the meter collects. No attribute holds a token, a key, a user id or a table's name. Unregister
// ends it. Register panics if store is nil.
func Register(meter metric.Meter, store *pgsession.Store, opts ...Option) (metric.Registration, error) {
	if store == nil {
		panic("pgsessionotel: Register: nil store")
	}
	o := &observer{store: store, rows: metrics.Rows{Store: store}}
	for _, opt := range opts {
		opt(o)
	}
	var errs [5]error
	o.operations, errs[0] = meter.Int64ObservableCounter("pgsession.operations",
		metric.WithUnit("{call}"), metric.WithDescription("Calls of the store, by operation and outcome."))
	o.duration, errs[1] = meter.Float64ObservableCounter("pgsession.operations.duration",
		metric.WithUnit("s"), metric.WithDescription("How long all calls of the store took together, by operation."))
	o.statements, errs[2] = meter.Int64ObservableCounter("pgsession.statements",
		metric.WithUnit("{statement}"), metric.WithDescription("Statements sent for the calls that may share one, by kind."))
	o.cleaned, errs[3] = meter.Int64ObservableCounter("pgsession.cleanup.removed",
		metric.WithUnit("{row}"), metric.WithDescription("Expired rows removed by the clean-up."))
	o.rowsGauge, errs[4] = meter.Int64ObservableGauge("pgsession.rows",
		metric.WithUnit("{row}"), metric.WithDescription("Rows of the table at the last count, by kind."))
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	return meter.RegisterCallback(o.observe, o.operations, o.duration, o.statements, o.cleaned, o.rowsGauge)
}

type observer struct {
	store *pgsession.Store
	rows  metrics.Rows

	operations, statements, cleaned metric.Int64ObservableCounter
	duration                        metric.Float64ObservableCounter
	rowsGauge                       metric.Int64ObservableGauge
}

func (o *observer) observe(ctx context.Context, to metric.Observer) error {
	stats := o.store.Stats()
	for name, operation := range stats.Operations {
		byName := attribute.String("operation", name)
		for outcome, n := range metrics.Outcomes(operation) {
			to.ObserveInt64(o.operations, n, metric.WithAttributes(byName, attribute.String("outcome", outcome)))
		}
		to.ObserveFloat64(o.duration, operation.Duration.Seconds(), metric.WithAttributes(byName))
	}
	for kind, sharing := range stats.Sharing {
		to.ObserveInt64(o.statements, sharing.Statements, metric.WithAttributes(attribute.String("kind", kind)))
	}
	to.ObserveInt64(o.cleaned, stats.Cleaned)
	counted, _ := o.rows.Count(ctx)
	for kind, n := range counted {
		to.ObserveInt64(o.rowsGauge, n, metric.WithAttributes(attribute.String("kind", kind)))
	}
	return nil
}
