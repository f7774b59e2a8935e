package test

import (
	"context"
	"log/slog"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A Tracer counts queries and batches, each of which is one round trip in pgx's query mode exec,
// and calls its functions around them.
type Tracer struct {
	Start func(ctx context.Context, sql string)
	End   func(sql string, err error)

	RoundTrips atomic.Int64
	Acquire    atomic.Pointer[func()] // called once, when a connection is asked for
}

type tracedSQL struct{}

// TraceQueryStart is part of [pgx.QueryTracer].
func (tr *Tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	tr.RoundTrips.Add(1)
	if tr.Start != nil {
		tr.Start(ctx, data.SQL)
	}
	return context.WithValue(ctx, tracedSQL{}, data.SQL)
}

// TraceQueryEnd is part of [pgx.QueryTracer].
func (tr *Tracer) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryEndData) {
	if tr.End != nil {
		tr.End(ctx.Value(tracedSQL{}).(string), data.Err)
	}
}

// TraceBatchStart is part of [pgx.BatchTracer].
func (tr *Tracer) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	tr.RoundTrips.Add(1)
	return ctx
}

// TraceBatchQuery is part of [pgx.BatchTracer].
func (tr *Tracer) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

// TraceBatchEnd is part of [pgx.BatchTracer].
func (tr *Tracer) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

// TraceAcquireStart is part of [pgxpool.AcquireTracer].
func (tr *Tracer) TraceAcquireStart(ctx context.Context, _ *pgxpool.Pool, _ pgxpool.TraceAcquireStartData) context.Context {
	if asked := tr.Acquire.Swap(nil); asked != nil {
		(*asked)()
	}
	return ctx
}

// TraceAcquireEnd is part of [pgxpool.AcquireTracer].
func (tr *Tracer) TraceAcquireEnd(context.Context, *pgxpool.Pool, pgxpool.TraceAcquireEndData) {}

// A Recorder is a slog.Handler that hands what is logged to a test.
type Recorder chan slog.Record

// NewRecorder returns an empty Recorder.
func NewRecorder() Recorder { return make(Recorder, 1000) }

// Enabled is part of [slog.Handler].
func (r Recorder) Enabled(context.Context, slog.Level) bool { return true }

// WithAttrs is part of [slog.Handler].
func (r Recorder) WithAttrs([]slog.Attr) slog.Handler { return r }

// WithGroup is part of [slog.Handler].
func (r Recorder) WithGroup(string) slog.Handler { return r }

// Handle is part of [slog.Handler].
func (r Recorder) Handle(_ context.Context, record slog.Record) error {
	select {
	case r <- record:
	default: // a full recorder holds nothing up
	}
	return nil
}

// Forget drops what was logged until now, such as Init's warning that a manual clock is not the
// server's.
func (r Recorder) Forget() {
	for len(r) > 0 {
		<-r
	}
}

// Attributes returns a record's attributes as text.
func Attributes(record slog.Record) map[string]string {
	attributes := make(map[string]string)
	record.Attrs(func(attribute slog.Attr) bool {
		attributes[attribute.Key] = attribute.Value.String()
		return true
	})
	return attributes
}
