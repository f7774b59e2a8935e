package pgsessionotel_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/pgsession/pgsession"
	pgsessionotel "github.com/pgsession/pgsession/adapters/otel"
	"github.com/pgsession/pgsession/pgsessiontest"
)

// collect returns what a reader collects, by the metric's name and its attributes' values.
func collect(t *testing.T, reader *sdkmetric.ManualReader) map[string]float64 {
	t.Helper()
	var collected metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &collected))
	values := make(map[string]float64)
	for _, scope := range collected.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				add(values, m.Name, data.DataPoints)
			case metricdata.Sum[float64]:
				add(values, m.Name, data.DataPoints)
			case metricdata.Gauge[int64]:
				add(values, m.Name, data.DataPoints)
			}
		}
	}
	return values
}

func add[N int64 | float64](values map[string]float64, name string, points []metricdata.DataPoint[N]) {
	for _, point := range points {
		key := name
		for _, pair := range point.Attributes.ToSlice() {
			key += " " + pair.Value.Emit()
		}
		values[key] = float64(point.Value)
	}
}

func TestRegister(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := pgsessiontest.New()
		reader := sdkmetric.NewManualReader()
		meter := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Meter("test")
		registration, err := pgsessionotel.Register(meter, store.Store, pgsessionotel.WithCounts(time.Minute))
		require.NoError(t, err)
		for _, user := range []string{"ann", "ann", ""} {
			_, err := store.Create(t.Context(), pgsession.Data{UserID: user}, time.Hour)
			require.NoError(t, err)
		}
		_, err = store.Load(t.Context(), pgsession.NewID())
		require.ErrorIs(t, err, pgsession.ErrNotFound)

		values := collect(t, reader)
		require.EqualValues(t, 3, values["pgsession.operations create ok"])
		require.EqualValues(t, 1, values["pgsession.operations load not_found"])
		require.EqualValues(t, 2, values["pgsession.rows user"])
		require.EqualValues(t, 1, values["pgsession.rows guest"])

		_, err = store.DeleteByUser(t.Context(), "ann")
		require.NoError(t, err)
		require.EqualValues(t, 2, collect(t, reader)["pgsession.rows user"], "the last count")
		time.Sleep(time.Minute)
		store.FailWith(errors.New("connection refused"))
		require.EqualValues(t, 2, collect(t, reader)["pgsession.rows user"], "the last count")
		time.Sleep(time.Minute)
		store.FailWith(nil)
		values = collect(t, reader)
		require.EqualValues(t, 0, values["pgsession.rows user"])
		require.EqualValues(t, 2, values["pgsession.rows tombstone"])
		require.NoError(t, registration.Unregister())
		require.Empty(t, collect(t, reader))
	})
}

func TestRegister_NoCounts(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	meter := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Meter("test")
	_, err := pgsessionotel.Register(meter, pgsessiontest.New().Store)
	require.NoError(t, err)
	require.NotContains(t, collect(t, reader), "pgsession.rows user")
	require.Panics(t, func() { pgsessionotel.WithCounts(0) })
	require.Panics(t, func() { pgsessionotel.Register(meter, nil) })
}
