package main

import (
	"context"
	"sync"
	"time"

	"github.com/pgsession/pgsession"
)

// Ballast is sessions that nobody touches, so that a list has several pages. They stay until a
// DeleteAll ends them.
type ballast struct {
	mu      sync.Mutex
	handles []pgsession.Handle
}

// ballastTTL is longer than any run lasts, by the clock of its stores.
const ballastTTL = 50 * 365 * 24 * time.Hour

// fill makes so many sessions, or as many as are missing.
func (b *ballast) fill(ctx context.Context, store *pgsession.Store, number int) error {
	b.mu.Lock()
	missing := number - len(b.handles)
	b.mu.Unlock()
	failures := make(chan error, max(missing, 0))
	var makers sync.WaitGroup
	limit := make(chan struct{}, nodeConns)
	for range missing {
		limit <- struct{}{}
		makers.Go(func() {
			defer func() { <-limit }()
			s, err := store.Create(ctx, pgsession.Data{Values: values{Name: "ballast"}}, ballastTTL)
			if err != nil {
				failures <- err
				return
			}
			b.mu.Lock()
			defer b.mu.Unlock()
			b.handles = append(b.handles, s.Handle)
		})
	}
	makers.Wait()
	close(failures)
	return <-failures
}

func (b *ballast) clear() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.handles = nil
}

// isIn reports whether all of it was seen.
func (b *ballast) isIn(seen map[pgsession.Handle]bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, handle := range b.handles {
		if !seen[handle] {
			return false
		}
	}
	return true
}
