package pgsession_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
)

// requireDistributed is for tests of what only Citus has. make test-citus runs them.
func requireDistributed(t *testing.T) {
	t.Helper()
	if !pgtest.IsDistributed() {
		t.Skip("needs Citus: make test-citus")
	}
}

// TestDistributed_NotKnownYet makes each call the first of a store that has not seen that the table is
// distributed, and five of it at once, so that they would share a statement.
func TestDistributed_NotKnownYet(t *testing.T) {
	requireDistributed(t)
	t.Parallel()
	old := newStore(t)
	id := old.create(t, ann(1), time.Hour)
	for name := range operationsOf(old, id) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			id := s.create(t, ann(1), time.Hour)
			require.NoError(t, s.KeyValue().Put(t.Context(), "k", nil, time.Hour))
			s.Store = pgsession.New(s.pool, newCrypto(t, otherKey, testKey), pgsession.WithClock(s.clock), quiet(), patient(), pgsession.WithCoalescing(1))
			errs := many(5, func() error { return operationsOf(s, id)[name](t.Context()) })
			for range 5 {
				if err := <-errs; !errors.Is(err, pgsession.ErrNotFound) { // of those that end or move it, one gets it
					require.NoError(t, err)
				}
			}
		})
	}
}

// TestDistributed_TakenID moves sessions to an id that is taken, which Citus tells by no SQLSTATE.
func TestDistributed_TakenID(t *testing.T) {
	requireDistributed(t)
	t.Parallel()
	s := newStore(t)
	taken := s.create(t, ann(1), time.Hour)
	for range 20 { // on one shard or on two
		id := s.create(t, ann(2), time.Hour)
		require.ErrorIs(t, s.Cycle(t.Context(), id, taken, ann(3), time.Hour), pgsession.ErrExists)
		require.Equal(t, 2, s.count(t, id))
	}
	require.Equal(t, 1, s.count(t, taken))
}

// TestDistributed_MovedAway ends a user's sessions after some were moved and ended, and removed by a clean-up: what
// the tombstones tell leads nowhere then.
func TestDistributed_MovedAway(t *testing.T) {
	requireDistributed(t)
	t.Parallel()
	s := newStore(t)
	ctx := t.Context()
	first, next, live := s.create(t, ann(1), 5*time.Hour), pgsession.NewID(), s.create(t, ann(1), 24*time.Hour)
	require.NoError(t, s.Cycle(ctx, first, next, ann(1), time.Minute))
	s.clock.Advance(2 * time.Hour)
	require.EqualValues(t, 1, s.cleanUp(t))
	n, err := s.DeleteByUser(ctx, "ann")
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	require.ErrorIs(t, second(s.Load(ctx, live)), pgsession.ErrRevoked)
	n, err = s.DeleteAll(ctx)
	require.NoError(t, err)
	require.Zero(t, n)
}
