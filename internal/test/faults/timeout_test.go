package faults_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/deadline"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/test"
)

// TestWithTimeout_LockedTable calls every operation while the table is locked, so that it cannot be
// read.
func TestWithTimeout_LockedTable(t *testing.T) {
	t.Parallel()
	s := test.NewStore(t)
	id := s.Begin(t, test.Ann(1), time.Hour)
	held := s.LockTable(t)
	for name, call := range test.Operations(s.Node(test.NewCrypto(t, test.Key), pgsession.WithTimeout(test.ShortTimeout)), id) {
		if name == "init" { // reads the catalog alone
			continue
		}
		t.Run(name, func(t *testing.T) { test.RequireTimeout(t, call(t.Context()), name) })
	}
	held.WaitFor(t, 0)
	held.Release(t)
	require.Equal(t, 1, s.Number(t, id))
	require.Equal(t, 1, s.CountRows(t, "true"))
}

// TestWithTimeout_ExhaustedPool calls every operation while every connection is held.
func TestWithTimeout_ExhaustedPool(t *testing.T) {
	t.Parallel()
	s := test.NewTracedStore(t, nil, 2)
	id := s.Begin(t, test.Ann(1), time.Hour)
	release := test.HoldConnections(t, s.Pool, 2)
	for name, call := range test.Operations(s.Node(test.NewCrypto(t, test.Key), pgsession.WithTimeout(test.ShortTimeout)), id) {
		t.Run(name, func(t *testing.T) {
			err := call(t.Context())
			test.RequireTimeout(t, err, name)
			require.ErrorContains(t, err, "every connection of the pool is in use")
		})
	}
	release()
	require.Equal(t, 1, s.Number(t, id))
}

// A deadlines store keeps when the statements of one operation must end: the one that has the
// store's context.
type deadlines struct {
	*test.Store
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
	s.Store = test.NewTracedStore(t, &test.Tracer{
		Start: func(ctx context.Context, _ string) {
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
		End: func(sql string, _ error) {
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

// TestWithTimeout_OneDeadline calls what takes several statements. Each of them ends when the
// operation must, so that they do not have WithTimeout one after the other.
func TestWithTimeout_OneDeadline(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"update", "renew"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newDeadlines(t)
			require.NoError(t, test.Operations(s.Store, s.Begin(t, test.Ann(1), time.Hour))[name](s.ctx))
			s.requireOne(t)
		})
	}
	for name, want := range map[string]error{"find by user": nil, "delete by user": nil, "revoke": pgsession.ErrNotFound} {
		t.Run(name+", while the key ring changes", func(t *testing.T) {
			t.Parallel()
			s, crypto := newDeadlines(t), test.NewCrypto(t, test.Key)
			s.first = func() {
				if err := crypto.SetKeys(test.OtherKey, test.Key); err != nil {
					t.Error(err)
				}
			}
			require.ErrorIs(t, test.Operations(s.Node(crypto), pgsession.NewID())[name](s.ctx), want)
			s.requireOne(t)
		})
	}
	for _, name := range []string{"save", "put", "touch", "delete"} {
		t.Run(name+", while another call waits for the row", func(t *testing.T) {
			pgtest.NotDistributed(t, "writes share no statement")
			t.Parallel()
			s := newDeadlines(t)
			call := test.Operations(s.Store, s.Begin(t, test.Ann(1), time.Hour))[name]
			held := s.Lock(t, "true")
			other := test.Many(1, func() error { return call(t.Context()) })
			held.WaitFor(t, 1)
			errs := test.Many(1, func() error { return call(s.ctx) })
			<-s.skipped
			held.Release(t)
			require.NoError(t, <-other)
			require.NoError(t, <-errs)
			s.requireOne(t)
		})
	}
}

func TestWithTimeout_CallersDeadline(t *testing.T) {
	t.Parallel()
	for name, timeout := range map[string]time.Duration{"a longer timeout": test.Patience, "no timeout": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := test.NewStore(t, pgsession.WithTimeout(timeout))
			id := s.Begin(t, test.Ann(1), time.Hour)
			s.Lock(t, "true")
			for _, operation := range []string{"save", "put", "touch", "update", "renew", "cycle", "delete", "delete by user"} {
				ctx, cancel := context.WithTimeout(t.Context(), test.ShortTimeout)
				err := test.Operations(s, id)[operation](ctx)
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
		s := test.Encrypted(test.BrokenPool(t, func(ctx context.Context) { <-ctx.Done() }))
		for name, call := range map[string]func() error{
			"Load":   func() error { return test.Err(s.Load(t.Context(), pgsession.NewID())) },
			"Create": func() error { return test.Err(s.Create(t.Context(), test.Ann(1), time.Hour)) },
			"Update": func() error {
				return test.Err(s.Update(t.Context(), test.Unloaded(pgsession.NewID()), 0, test.Keep(1)))
			},
		} {
			started := time.Now()
			test.RequireTimeout(t, call(), name)
			require.WithinRange(t, time.Now(), started.Add(5*time.Second), started.Add(5*time.Second+deadline.Precision), name)
		}
	})
}
