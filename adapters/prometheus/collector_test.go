package pgsessionprom_test

import (
	"encoding/hex"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	pgsessionprom "github.com/pgsession/pgsession/adapters/prometheus"
	"github.com/pgsession/pgsession/pgsessiontest"
)

// TestCollector_Lint holds the names, units and kinds that Prometheus's conventions ask for.
func TestCollector_Lint(t *testing.T) {
	t.Parallel()
	store, _ := newStore(t)
	use(t, store)
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, registry.Register(pgsessionprom.NewCollector(store, pgsessionprom.WithCounts(time.Minute))))
	problems, err := testutil.GatherAndLint(registry)
	require.NoError(t, err)
	require.Empty(t, problems)
}

// TestCollector_Values compares the metrics with the counters that they show.
func TestCollector_Values(t *testing.T) {
	t.Parallel()
	store, pool := newStore(t)
	use(t, store)
	_, err := pool.Exec(t.Context(), `UPDATE sessions SET sealed = sealed || '\x00'`)
	require.NoError(t, err)
	_, err = store.FindByUser(t.Context(), userID, 0)
	require.NoError(t, err)
	series := gather(t, registryOf(t, store, pool))
	stats := store.Stats()
	require.Len(t, stats.Operations, 19)
	require.Len(t, stats.Sharing, 8)
	ours := 0
	for name := range series {
		if strings.HasPrefix(name, "pgsession_") {
			ours++
		}
	}
	require.Equal(t, 19*27+24+6, ours, "as the README says")
	for name, operation := range stats.Operations {
		label := `operation="` + name + `"`
		require.EqualValues(t, operation.Calls, series[`pgsession_operation_duration_seconds_count{`+label+`}`], name)
		require.EqualValues(t, operation.Calls, series[`pgsession_operation_duration_seconds_bucket{le="+Inf",`+label+`}`], name)
		require.EqualValues(t, operation.Within[16*time.Millisecond], series[`pgsession_operation_duration_seconds_bucket{le="0.016",`+label+`}`], name)
		require.InDelta(t, operation.Duration.Seconds(), series[`pgsession_operation_duration_seconds_sum{`+label+`}`], 1e-9, name)
		for outcome, n := range map[string]int64{
			"ok": operation.OK, "not_found": operation.NotFound, "revoked": operation.Revoked, "conflict": operation.Conflict,
			"unreadable": operation.Unreadable, "refused": operation.Refused, "canceled": operation.Canceled, "failed": operation.Failed,
		} {
			require.EqualValues(t, n, present(t, series, `pgsession_operations_total{`+label+`,outcome="`+outcome+`"}`))
		}
	}
	for kind, sharing := range stats.Sharing {
		require.EqualValues(t, sharing.Calls, series[`pgsession_statement_calls_total{kind="`+kind+`"}`])
		require.EqualValues(t, sharing.Statements, series[`pgsession_statements_total{kind="`+kind+`"}`])
	}
	require.EqualValues(t, 1, series[`pgsession_operations_total{operation="load",outcome="revoked"}`])
	require.EqualValues(t, 1, series[`pgsession_unreadable_rows_total{reason="tampered"}`])
	require.Zero(t, present(t, series, `pgsession_unreadable_rows_total{reason="unknown_key"}`))
	require.EqualValues(t, stats.BytesRead, series["pgsession_read_bytes_total"])
	require.EqualValues(t, stats.BytesWritten, series["pgsession_written_bytes_total"])
	require.EqualValues(t, stats.Conflicts, present(t, series, "pgsession_conflicts_total"))
	require.EqualValues(t, stats.Cleaned, present(t, series, "pgsession_cleanup_removed_rows_total"))
	require.InDelta(t, stats.LastCleanup.UnixMilli(), 1000*series["pgsession_cleanup_last_success_timestamp_seconds"], 1)
	require.InDelta(t, stats.LastCleanupDuration.Seconds(), series["pgsession_cleanup_last_duration_seconds"], 1e-9)
}

// TestCollector_Secrets holds that no metric shows a token, a handle, a key, a user id or a value.
func TestCollector_Secrets(t *testing.T) {
	t.Parallel()
	store, pool := newStore(t)
	session := use(t, store)
	var text strings.Builder
	for name := range gather(t, registryOf(t, store, pool)) {
		text.WriteString(name + "\n")
	}
	require.Contains(t, text.String(), "pgsession_operations_total")
	for _, secret := range []string{session.ID.Token(), session.Handle.String(), userID, "secret", key.Secret(), hex.EncodeToString([]byte(userID))} {
		require.NotContains(t, text.String(), secret)
	}
}

// TestCollector_Unused shows what there is before the first call: an alert on the clean-up needs
// its time.
func TestCollector_Unused(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(pgsessionprom.NewCollector(pgsession.InMemory()))
	require.Equal(t, map[string]float64{
		"pgsession_conflicts_total":                             0,
		`pgsession_unreadable_rows_total{reason="tampered"}`:    0,
		`pgsession_unreadable_rows_total{reason="unknown_key"}`: 0,
		"pgsession_read_bytes_total":                            0,
		"pgsession_written_bytes_total":                         0,
		"pgsession_cleanup_removed_rows_total":                  0,
		"pgsession_cleanup_last_success_timestamp_seconds":      0,
		"pgsession_cleanup_last_duration_seconds":               0,
	}, gather(t, registry))
	require.PanicsWithValue(t, "pgsessionprom: NewCollector: nil store", func() { pgsessionprom.NewCollector(nil) })
}

// TestCollector_SeveralStores tells the stores of one process apart by a label.
func TestCollector_SeveralStores(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewPedanticRegistry()
	web, api := pgsession.InMemory(), pgsession.InMemory()
	for name, store := range map[string]*pgsession.Store{"web": web, "api": api} {
		prometheus.WrapRegistererWith(prometheus.Labels{"store": name}, registry).MustRegister(pgsessionprom.NewCollector(store))
	}
	require.NoError(t, web.Delete(t.Context(), pgsession.ID{}))
	series := gather(t, registry)
	require.EqualValues(t, 1, series[`pgsession_operations_total{operation="delete",outcome="ok",store="web"}`])
	require.NotContains(t, series, `pgsession_operations_total{operation="delete",outcome="ok",store="api"}`)
	require.Error(t, registry.Register(prometheus.WrapCollectorWith(prometheus.Labels{"store": "web"}, pgsessionprom.NewCollector(api))),
		"two under one name")
}

// TestCollector_Outage asks for metrics while the database is away.
func TestCollector_Outage(t *testing.T) {
	t.Parallel()
	store := pgsessiontest.New()
	store.FailWith(errAway)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(pgsessionprom.NewCollector(store.Store))
	_, err := store.Touch(t.Context(), &pgsession.Session{Handle: pgsession.NewID().Handle()}, time.Hour)
	require.ErrorIs(t, err, errAway)
	require.EqualValues(t, 1, gather(t, registry)[`pgsession_operations_total{operation="touch",outcome="failed"}`])
}

// TestCollector_WithCounts wants counts at the interval, the last one if a count fails, and none
// without the option.
func TestCollector_WithCounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := pgsessiontest.New()
		registry, without := prometheus.NewPedanticRegistry(), prometheus.NewPedanticRegistry()
		registry.MustRegister(pgsessionprom.NewCollector(store.Store, pgsessionprom.WithCounts(time.Minute)))
		without.MustRegister(pgsessionprom.NewCollector(store.Store))
		create := func(userID string) {
			_, err := store.Create(t.Context(), pgsession.Data{UserID: userID}, time.Hour)
			require.NoError(t, err)
		}
		rows := func(kind string) float64 {
			return present(t, gather(t, registry), `pgsession_rows{kind="`+kind+`"}`)
		}
		create(userID)
		create("")
		create("")
		require.EqualValues(t, 1, rows("user"))
		require.EqualValues(t, 2, rows("guest"))
		require.Zero(t, rows("entry"))
		create(userID)
		require.EqualValues(t, 1, rows("user"), "not yet")
		time.Sleep(time.Minute) // of the bubble's clock
		store.FailWith(errAway)
		require.EqualValues(t, 1, rows("user"))
		store.FailWith(nil)
		time.Sleep(time.Minute)
		require.EqualValues(t, 2, rows("user"))
		for name := range gather(t, without) {
			require.NotContains(t, name, "pgsession_rows")
		}
	})
	require.Panics(t, func() { pgsessionprom.WithCounts(0) })
}

// TestCollector_Concurrent gathers while the store is used, for the race detector and for counts
// that fit together.
func TestCollector_Concurrent(t *testing.T) {
	t.Parallel()
	store := pgsession.InMemory()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(pgsessionprom.NewCollector(store))
	const callers, calls = 4, 200
	var group sync.WaitGroup
	for range callers {
		group.Go(func() {
			for range calls {
				if err := store.Delete(t.Context(), pgsession.NewID()); err != nil {
					t.Error(err)
				}
			}
		})
		group.Go(func() {
			for range calls / 10 {
				if _, err := registry.Gather(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	series := gather(t, registry)
	require.EqualValues(t, callers*calls, series[`pgsession_operations_total{operation="delete",outcome="ok"}`])
	require.EqualValues(t, callers*calls, series[`pgsession_operation_duration_seconds_count{operation="delete"}`])
}
