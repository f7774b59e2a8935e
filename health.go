package pgsession

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	healthTimeout = 2 * time.Second
	maxClockSkew  = 5 * time.Second
)

// A Status is the short form of a [Health].
type Status string

// The statuses, the best first.
const (
	Healthy   Status = "healthy"
	Degraded  Status = "degraded"  // works, but somebody should look
	Unhealthy Status = "unhealthy" // does not work
)

// Health is what [Store.Health] found.
type Health struct {
	Status  Status
	Reasons []string // for operators; empty where healthy
	Err     error    // what failed; nil unless unhealthy
}

// Check returns nil unless the store is unhealthy: the form that health libraries
// take. See [Store.Health].
func (s *Store) Check(ctx context.Context) error {
	health := s.Health(ctx)
	if health.Status != Unhealthy {
		return nil
	}
	return health.Err
}

// Health reads the table, within 2 seconds, and looks around.
//
// The store is Unhealthy when that fails, or when the server cannot write: it is in
// recovery, a standby, or read-only. It is Degraded when the pool has no free
// connection; when the clocks of application and server differ by more than 5
// seconds; when synchronous_commit is weaker than on, or the table is unlogged, so that
// a crash or a fail-over may lose a write that was acknowledged; and when a clean-up from
// [Store.SpawnCleanup] has not succeeded for three of its intervals.
func (s *Store) Health(ctx context.Context) Health {
	var reasons []string
	if s.cleanups.anyLate() {
		reasons = append(reasons, "the clean-up has not succeeded for three intervals")
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()

	exhausted := isExhausted(s.pool)
	conn, err := s.pool.Acquire(ctx)
	exhausted = exhausted || err != nil && isExhausted(s.pool)
	if exhausted {
		reasons = append(reasons, "every connection of the pool is in use")
	}
	if exhausted && errors.Is(err, context.DeadlineExceeded) {
		return Health{Status: Degraded, Reasons: reasons}
	}
	if err != nil {
		return unhealthy(s.wrap("health", err))
	}
	defer conn.Release()

	before := s.clock.Now()
	var (
		serverTime        time.Time
		synchronousCommit string
		readOnly          bool
		unlogged, found   bool
	)
	err = conn.QueryRow(ctx, s.sql[healthSQL], parseTable(s.table).Sanitize()).Scan(&serverTime, &synchronousCommit, &readOnly, &unlogged, &found)
	after := s.clock.Now()
	switch {
	case err != nil:
		return unhealthy(s.wrap("health", err))
	case readOnly:
		return unhealthy(errors.New("pgsession: health: the server is in recovery or read-only, and cannot write"))
	}
	if skew := max(before.Sub(serverTime), serverTime.Sub(after)); skew > maxClockSkew {
		reasons = append(reasons, fmt.Sprintf("the clocks of application and server differ by %s", skew.Round(time.Second)))
	}
	if synchronousCommit != "on" && synchronousCommit != "remote_apply" {
		reasons = append(reasons, fmt.Sprintf("synchronous_commit is %s: an acknowledged write may be lost", synchronousCommit))
	}
	if unlogged {
		reasons = append(reasons, "the table is unlogged: a crash empties it")
	}
	if len(reasons) > 0 {
		return Health{Status: Degraded, Reasons: reasons}
	}
	return Health{Status: Healthy}
}

// The columns are named, so that a table without them is seen. clock_timestamp is
// compared with the store's clock, and judges no session.
var healthSQL = newStatement(`
	SELECT clock_timestamp(), current_setting('synchronous_commit'),
		pg_is_in_recovery() OR current_setting('transaction_read_only')::bool,
		(SELECT c.relpersistence = 'u' FROM pg_class AS c WHERE c.oid = $1::text::regclass),
		EXISTS (SELECT {columns}, s.{other}, s.expires_hour FROM {sessions} AS s WHERE s.key = '')`)

func isExhausted(pool *pgxpool.Pool) bool {
	stat := pool.Stat()
	return stat.AcquiredConns() >= stat.MaxConns()
}

func unhealthy(err error) Health {
	return Health{Status: Unhealthy, Reasons: []string{err.Error()}, Err: err}
}

// HealthHandler returns a handler for a health endpoint: it answers 200, or 503 when
// the store is unhealthy, with the status as JSON, {"status":"healthy"}. The reasons
// are for the log alone.
func (s *Store) HealthHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		health := s.Health(r.Context())
		code := http.StatusOK
		if health.Status == Unhealthy {
			code = http.StatusServiceUnavailable
		}
		if health.Status != Healthy && r.Context().Err() == nil {
			s.logger.LogAttrs(r.Context(), slog.LevelWarn, "pgsession: "+string(health.Status),
				slog.String("reasons", strings.Join(health.Reasons, "; ")))
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(code)
		json.NewEncoder(w).Encode(map[string]Status{"status": health.Status})
	})
}

// Stats are the counters of one [Store] since it was made.
type Stats struct {
	Loads      int64 // sessions asked for, one by one
	Hits       int64 // of them, those that were live and opened
	Saves      int64 // sessions written, by whatever operation
	Conflicts  int64 // times that Update began anew
	Revoked    int64 // Saves and Puts refused, since the session had been ended
	Tampered   int64 // rows met that do not open
	UnknownKey int64 // rows met that are sealed under a key not in the ring
	Cleaned    int64 // expired rows removed

	LastCleanup         time.Time     // when it succeeded last, by the store's clock; zero before
	LastCleanupDuration time.Duration // how long it took
}

// Stats returns a snapshot of the counters.
func (s *Store) Stats() Stats {
	stats := Stats{
		Loads:      s.stats.loads.Load(),
		Hits:       s.stats.hits.Load(),
		Saves:      s.stats.saves.Load(),
		Conflicts:  s.stats.conflicts.Load(),
		Revoked:    s.stats.revoked.Load(),
		Tampered:   s.stats.tampered.Load(),
		UnknownKey: s.stats.unknownKey.Load(),
		Cleaned:    s.stats.cleaned.Load(),
	}
	if last := s.stats.lastCleanup.Load(); last != nil {
		stats.LastCleanup, stats.LastCleanupDuration = last.at, last.took
	}
	return stats
}

type counters struct {
	loads, hits, saves, conflicts, revoked, tampered, unknownKey, cleaned atomic.Int64
	lastCleanup                                                           atomic.Pointer[cleanupRun]
}

type cleanupRun struct {
	at   time.Time
	took time.Duration
}
