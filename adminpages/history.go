package adminpages

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/pgsession/pgsession"
)

const (
	sampleInterval = time.Minute
	maxSamples     = 6 * 60 // six hours
)

// Record takes a sample of the store's [pgsession.Stats] each minute, for the charts of the last
// six hours, until ctx ends. Run it in a goroutine of its own. Without it there are no charts. It
// asks nothing of the database.
func (p *Pages) Record(ctx context.Context) {
	ticker := time.NewTicker(sampleInterval)
	defer ticker.Stop()
	before := p.store.Stats()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := p.store.Stats()
		p.history.add(newSample(before, now))
		before = now
	}
}

// A sample is what happened in a minute.
type sample struct {
	begun, renewed, ended, failed float64
	median, p99                   float64 // of loads, in milliseconds; 0 if there were none
}

func newSample(before, now pgsession.Stats) sample {
	ok := func(operations ...string) (n float64) {
		for _, name := range operations {
			n += float64(now.Operations[name].OK - before.Operations[name].OK)
		}
		return n
	}
	s := sample{
		begun:   ok("create"),
		renewed: ok("renew", "cycle"),
		ended:   ok("delete", "revoke", "delete_by_user", "limit_by_user"),
	}
	for name, op := range now.Operations {
		s.failed += float64(op.Failed - before.Operations[name].Failed)
	}
	s.median = quantile(before.Operations["load"], now.Operations["load"], 0.5)
	s.p99 = quantile(before.Operations["load"], now.Operations["load"], 0.99)
	return s
}

// quantile returns the bound under which that part of the calls between two snapshots lies, in
// milliseconds.
func quantile(before, now pgsession.OperationStats, part float64) float64 {
	calls := now.Calls - before.Calls
	if calls == 0 {
		return 0
	}
	var bounds []time.Duration
	for bound := range now.Within {
		bounds = append(bounds, bound)
	}
	slices.Sort(bounds)
	for _, bound := range bounds {
		if float64(now.Within[bound]-before.Within[bound]) >= part*float64(calls) {
			return float64(bound) / float64(time.Millisecond)
		}
	}
	return float64(2*bounds[len(bounds)-1]) / float64(time.Millisecond)
}

// history holds the latest samples. The zero value is ready.
type history struct {
	mu      sync.Mutex
	samples []sample // the oldest first
}

func (h *history) add(s sample) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.samples) == maxSamples {
		h.samples = slices.Delete(h.samples, 0, 1)
	}
	h.samples = append(h.samples, s)
}

// series returns one line of the samples.
func (h *history) series(of func(sample) float64) []float64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	values := make([]float64, len(h.samples))
	for i, s := range h.samples {
		values[i] = of(s)
	}
	return values
}
