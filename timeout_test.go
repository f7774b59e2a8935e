package pgsession_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
)

// shortTimeout is a WithTimeout for tests in which it has to end. A distributed table has more to do until then.
var shortTimeout = func() time.Duration {
	if pgtest.IsDistributed() {
		return time.Second
	}
	return 400 * time.Millisecond
}()

// requireTimeout wants an error that says that WithTimeout was over, and nothing of the session.
func requireTimeout(t testing.TB, err error, operation string) {
	t.Helper()
	require.ErrorIs(t, err, context.DeadlineExceeded, operation)
	require.ErrorContains(t, err, "WithTimeout", operation)
	require.NotErrorIs(t, err, pgsession.ErrNotFound, operation)
}

// TestWithTimeout_LockedRow calls what writes a row while somebody holds it.
func TestWithTimeout_LockedRow(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"save", "put", "touch", "update", "renew", "cycle", "delete", "revoke", "revoke/RevokeAny", "delete by user", "delete all",
		"put/KeyValue", "delete/KeyValue", "take",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newTracedStore(t, nil, 2)
			hasty := s.node(newCrypto(t, testKey), pgsession.WithTimeout(shortTimeout))
			id := s.create(t, ann(1), time.Hour)
			require.NoError(t, s.KeyValue().Put(t.Context(), "k", nil, time.Hour))
			before := s.load(t, id)
			held := s.lock(t, "true")
			started := time.Now()
			requireTimeout(t, operationsOf(hasty, id)[name](t.Context()), name)
			require.GreaterOrEqual(t, time.Since(started), shortTimeout)

			held.waitFor(t, 0)
			held.release(t)
			require.Equal(t, before, s.load(t, id), "it takes no effect later")
			require.Equal(t, 2, s.rows(t, "true"))
			require.Eventually(t, func() bool { return s.pool.Stat().AcquiredConns() == 0 }, patience, time.Millisecond)
			require.NoError(t, operationsOf(s, id)[name](t.Context()), "the next does not suffer from it")
		})
	}
}

// TestWithTimeout_LockedTable calls every operation while nobody can read the table.
func TestWithTimeout_LockedTable(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	id := s.create(t, ann(1), time.Hour)
	held := s.lockTable(t)
	for name, call := range operationsOf(s.node(newCrypto(t, testKey), pgsession.WithTimeout(shortTimeout)), id) {
		if name == "init" { // reads the catalog alone
			continue
		}
		t.Run(name, func(t *testing.T) { requireTimeout(t, call(t.Context()), name) })
	}
	held.waitFor(t, 0)
	held.release(t)
	require.Equal(t, 1, s.count(t, id))
	require.Equal(t, 1, s.rows(t, "true"))
}

// TestWithTimeout_ExhaustedPool calls every operation while every connection is held.
func TestWithTimeout_ExhaustedPool(t *testing.T) {
	t.Parallel()
	s := newTracedStore(t, nil, 2)
	id := s.create(t, ann(1), time.Hour)
	release := holdConnections(t, s.pool, 2)
	for name, call := range operationsOf(s.node(newCrypto(t, testKey), pgsession.WithTimeout(shortTimeout)), id) {
		t.Run(name, func(t *testing.T) {
			err := call(t.Context())
			requireTimeout(t, err, name)
			require.ErrorContains(t, err, "every connection of the pool is in use")
		})
	}
	release()
	require.Equal(t, 1, s.count(t, id))
}

// A deadlines store keeps when the statements of one operation must end: the one that has the store's context.
type deadlines struct {
	*fixture
	ctx     context.Context
	first   func()        // called when its first statement begins, if not nil
	skipped chan struct{} // told when any statement has ended that skips held rows

	mu   sync.Mutex
	seen []time.Time
}

func newDeadlines(t *testing.T) *deadlines {
	t.Helper()
	type marked struct{}
	s := &deadlines{ctx: context.WithValue(t.Context(), marked{}, true), skipped: make(chan struct{}, 100)}
	s.fixture = newTracedStore(t, &tracer{
		start: func(ctx context.Context, _ string) {
			if ctx.Value(marked{}) == nil {
				return
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			deadline, _ := ctx.Deadline()
			s.seen = append(s.seen, deadline)
			if s.first != nil && len(s.seen) == 1 {
				s.first()
			}
		},
		end: func(sql string, _ error) {
			if strings.Contains(sql, "SKIP LOCKED") {
				s.skipped <- struct{}{}
			}
		},
	}, 4)
	return s
}

// requireOne wants several statements, and one deadline of them all.
func (s *deadlines) requireOne(t *testing.T) {
	t.Helper()
	require.Greater(t, len(s.seen), 1)
	require.False(t, s.seen[0].IsZero())
	for _, deadline := range s.seen {
		require.Equal(t, s.seen[0], deadline)
	}
}

// TestWithTimeout_OneDeadline calls what takes several statements. Each of them ends when the operation must, so that
// they do not have WithTimeout one after the other.
func TestWithTimeout_OneDeadline(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"update", "renew"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newDeadlines(t)
			require.NoError(t, operationsOf(s.fixture, s.create(t, ann(1), time.Hour))[name](s.ctx))
			s.requireOne(t)
		})
	}
	for name, want := range map[string]error{"find by user": nil, "delete by user": nil, "revoke": pgsession.ErrNotFound} {
		t.Run(name+", while the key ring changes", func(t *testing.T) {
			t.Parallel()
			s, crypto := newDeadlines(t), newCrypto(t, testKey)
			s.first = func() {
				if err := crypto.SetKeys(otherKey, testKey); err != nil {
					t.Error(err)
				}
			}
			require.ErrorIs(t, operationsOf(s.node(crypto), pgsession.NewID())[name](s.ctx), want)
			s.requireOne(t)
		})
	}
	for _, name := range []string{"save", "put", "touch", "delete"} {
		t.Run(name+", while another call waits for the row", func(t *testing.T) {
			pgtest.NotDistributed(t, "writes share no statement")
			t.Parallel()
			s := newDeadlines(t)
			call := operationsOf(s.fixture, s.create(t, ann(1), time.Hour))[name]
			held := s.lock(t, "true")
			other := many(1, func() error { return call(t.Context()) })
			held.waitFor(t, 1)
			errs := many(1, func() error { return call(s.ctx) })
			<-s.skipped
			held.release(t)
			require.NoError(t, <-other)
			require.NoError(t, <-errs)
			s.requireOne(t)
		})
	}
}

func TestWithTimeout_CallersDeadline(t *testing.T) {
	t.Parallel()
	for name, timeout := range map[string]time.Duration{"a longer timeout": patience, "no timeout": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t, pgsession.WithTimeout(timeout))
			id := s.create(t, ann(1), time.Hour)
			s.lock(t, "true")
			for _, operation := range []string{"save", "put", "touch", "update", "renew", "cycle", "delete", "delete by user"} {
				ctx, cancel := context.WithTimeout(t.Context(), shortTimeout)
				err := operationsOf(s, id)[operation](ctx)
				cancel()
				require.ErrorIs(t, err, context.DeadlineExceeded, operation)
				require.NotContains(t, err.Error(), "WithTimeout", operation)
			}
		})
	}
}

// TestWithTimeout_Default connects to a server that never answers, in the bubble's own time.
func TestWithTimeout_Default(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := storeOn(brokenPool(t, func(ctx context.Context) { <-ctx.Done() }))
		for name, call := range map[string]func() error{
			"Load":   func() error { return second(s.Load(t.Context(), pgsession.NewID())) },
			"Create": func() error { return second(s.Create(t.Context(), ann(1), time.Hour)) },
			"Update": func() error { return second(s.Update(t.Context(), at(pgsession.NewID()), 0, keep(1))) },
		} {
			started := time.Now()
			requireTimeout(t, call(), name)
			require.Equal(t, 5*time.Second, time.Since(started), name)
		}
	})
}
