package pgsession

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
)

const (
	healthTimeout    = 2 * time.Second
	maxClockSkew     = 5 * time.Second
	unreadableMemory = 5 * time.Minute // how long the store is Degraded after a row that does not open
	lookInterval     = time.Second
)

// A Status is the result of a health check in one word.
type Status string

// The statuses, the best first.
const (
	Healthy   Status = "healthy"
	Degraded  Status = "degraded"  // it works, and an operator should read the reasons
	Unhealthy Status = "unhealthy" // it does not work
)

// Health is what [Store.Health] returns.
type Health struct {
	Status  Status
	Reasons []string // for operators; empty if healthy
	Err     error    // what failed; nil unless unhealthy
}

// Check returns nil unless the store is unhealthy, which is the form that health libraries take.
// See [Store.Health].
func (s *Store) Check(ctx context.Context) error {
	health := s.Health(ctx)
	if health.Status != Unhealthy {
		return nil
	}
	return health.Err
}

// Health reads the table within 2 seconds and looks for what an operator should know. Each call
// asks the database; requests to [Store.HealthHandler] share the answer of one call a second.
//
// The store is Unhealthy if
//   - the table cannot be read, or no connection becomes free;
//   - the server cannot write: it is in recovery, a standby, or read-only;
//   - row level security hides rows from this role, or the role lacks SELECT, INSERT or UPDATE;
//   - a setting changes how values are written as text, in a query mode that reads text.
//
// It is Degraded if
//   - every connection of the pool is in use;
//   - the clocks of application and server differ by more than 5 seconds;
//   - synchronous_commit is weaker than on, or the table is unlogged, so that a crash or a
//     fail-over may lose an acknowledged write;
//   - a clean-up from [Store.SpawnCleanup] has not succeeded for three of its intervals, has ended
//     with its context while no other one runs, or lacks the privilege DELETE;
//   - an operation met a row in the last 5 minutes that no key of the ring opens, or that the
//     other kind of store wrote: in plaintext, or sealed.
func (s *Store) Health(ctx context.Context) Health { return s.healthWithin(ctx, healthTimeout) }

func (s *Store) healthWithin(ctx context.Context, timeout time.Duration) Health {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	condition, err := s.table.Examine(ctx)
	if err != nil {
		err = wrap("health", err)
		return Health{Status: Unhealthy, Reasons: []string{err.Error()}, Err: err}
	}
	reasons := append(condition.Reasons, s.cleanups.reasons(condition.CannotDelete)...)
	if skew := condition.Clock.Abs(); skew > maxClockSkew {
		reasons = append(reasons, clockReason(skew))
	}
	if s.stats.lastUnknownKey.isWithin(unreadableMemory) {
		reasons = append(reasons, "rows were met that no key of the ring opens: is a key missing from it?")
	}
	if s.stats.lastOtherKind.isWithin(unreadableMemory) {
		reasons = append(reasons, "rows were met that "+s.otherKind())
	}
	if len(reasons) > 0 {
		return Health{Status: Degraded, Reasons: reasons}
	}
	return Health{Status: Healthy}
}

func clockReason(skew time.Duration) string {
	return fmt.Sprintf("the clocks of application and server differ by %s", skew.Round(time.Second))
}

// HealthHandler returns a handler for a health endpoint. It answers 200, or 503 if the store is
// unhealthy, with the status as JSON: {"status":"healthy"}. It does not show the reasons. It logs
// each reason once when it begins, at level warn, and once when it ends.
//
// Requests to all handlers of a store share one health check a second, which no client can cancel.
// So the endpoint may be public.
func (s *Store) HealthHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, err := s.probes.look(r.Context(), s)
		if err != nil {
			return // the client has gone
		}
		code := http.StatusOK
		if status == Unhealthy {
			code = http.StatusServiceUnavailable
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(code)
		json.NewEncoder(w).Encode(map[string]Status{"status": status})
	})
}

// probes lets requests share health checks. The zero value is ready.
type probes struct {
	mu      sync.Mutex
	running chan struct{} // closed when the check that is running has ended; nil if none runs
	ended   time.Time     // when the last check ended
	status  Status        // what it found
	reasons []string      // those that were logged
}

// look returns the status of the check that is running, or of one that ended within the last
// second. Otherwise it starts a check. An error is that of ctx.
func (p *probes) look(ctx context.Context, store *Store) (Status, error) {
	p.mu.Lock()
	if p.running == nil {
		if !p.ended.IsZero() && time.Since(p.ended) < lookInterval {
			defer p.mu.Unlock()
			return p.status, nil
		}
		p.running = make(chan struct{})
		go p.run(context.WithoutCancel(ctx), store, p.running)
	}
	running := p.running
	p.mu.Unlock()
	select {
	case <-running:
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.status, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (p *probes) run(ctx context.Context, store *Store, running chan struct{}) {
	health := store.Health(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.log(ctx, store.logger, health)
	p.status, p.ended, p.running = health.Status, time.Now(), nil
	close(running)
}

// log logs which reasons have begun and ended since the last check. Two reasons that differ only in
// their digits count as one.
func (p *probes) log(ctx context.Context, logger *slog.Logger, health Health) {
	kind := func(reason string) string {
		return strings.Map(func(r rune) rune {
			if unicode.IsDigit(r) {
				return -1
			}
			return r
		}, reason)
	}
	has := func(reasons []string, reason string) bool {
		return slices.ContainsFunc(reasons, func(other string) bool { return kind(other) == kind(reason) })
	}
	for _, reason := range health.Reasons {
		if !has(p.reasons, reason) {
			logger.LogAttrs(ctx, slog.LevelWarn, "pgsession: "+string(health.Status), slog.String("reason", reason))
		}
	}
	for _, reason := range p.reasons {
		if !has(health.Reasons, reason) {
			logger.LogAttrs(ctx, slog.LevelInfo, "pgsession: no longer", slog.String("reason", reason))
		}
	}
	p.reasons = health.Reasons
}
