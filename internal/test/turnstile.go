package test

import (
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
)

// A Turnstile is a store that has one statement of a kind in flight, so that a test decides which
// calls share the next.
type Turnstile struct {
	*Store
	Traced        *Tracer
	BeforeOpening func(held *Lock) // what a test does while the calls are queued
}

// NewTurnstile returns a Turnstile in a schema of its own.
func NewTurnstile(t *testing.T, open Opener) *Turnstile {
	t.Helper()
	traced := &Tracer{}
	pool := pgtest.Pool(t, func(config *pgxpool.Config) { config.ConnConfig.Tracer = traced })
	s := NewStoreOn(t, pool, open, pgsession.WithCoalescing(1), Unhurried(), pgsession.WithMaxSize(0))
	return &Turnstile{Store: s, Traced: traced}
}

// Together makes the first call, whose statement waits for a lock, and then the others, which queue
// in their order and leave together. It returns their errors, and how many statements they took.
func (g *Turnstile) Together(t *testing.T, first func() error, calls ...func() error) (errs []error, sent int) {
	t.Helper()
	held := g.LockTable(t)
	var group sync.WaitGroup
	var firstErr error
	group.Go(func() { firstErr = first() })
	held.WaitFor(t, 1)

	errs = make([]error, len(calls))
	for i, call := range calls {
		group.Go(func() { errs[i] = call() })
		g.WaitUntilQueued(t, i+1)
	}
	if g.BeforeOpening != nil {
		g.BeforeOpening(held)
	}
	before := g.Traced.RoundTrips.Load()
	held.Release(t)
	group.Wait()
	require.NoError(t, firstErr)
	return errs, int(g.Traced.RoundTrips.Load() - before)
}

// WaitUntilQueued returns when so many calls wait to share a statement.
func (g *Turnstile) WaitUntilQueued(t *testing.T, calls int) {
	t.Helper()
	require.Eventually(t, func() bool { return g.Waiting() == calls }, Patience, 100*time.Microsecond)
}
