package faults_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/test"
)

// A network is the way to the server. It counts the connections, and silences those that are there.
type network struct {
	dialed atomic.Int64

	mu         sync.Mutex
	generation *atomic.Bool
	made       []net.Conn
}

func newNetwork() *network { return &network{generation: new(atomic.Bool)} }

// silenceOld lets nothing more come through the connections that have been made. New ones work.
func (n *network) silenceOld() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.generation.Store(true)
	n.generation = new(atomic.Bool)
}

// end closes all connections. Without it a pool that is closed waits until pgx gives the silent
// ones up, 15 s.
func (n *network) end() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, conn := range n.made {
		_ = conn.Close()
	}
}

func (n *network) configure(config *pgxpool.Config) {
	dial := config.ConnConfig.DialFunc
	config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		n.mu.Lock()
		silent := n.generation
		n.mu.Unlock()
		n.dialed.Add(1)
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		nothing, _ := net.Pipe()
		n.mu.Lock()
		defer n.mu.Unlock()
		n.made = append(n.made, &lost{conn, nothing, silent})
		return n.made[len(n.made)-1], nil
	}
}

// A lost connection is one to a host that has gone: nothing comes any more, and not its end either.
type lost struct {
	net.Conn
	nothing net.Conn // is read instead
	silent  *atomic.Bool
}

func (l *lost) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if l.silent.Load() {
		return l.nothing.Read(p)
	}
	return n, err
}

func (l *lost) SetDeadline(t time.Time) error {
	return errors.Join(l.Conn.SetDeadline(t), l.nothing.SetDeadline(t))
}

func (l *lost) SetReadDeadline(t time.Time) error {
	return errors.Join(l.Conn.SetReadDeadline(t), l.nothing.SetReadDeadline(t))
}

func (l *lost) Close() error { return errors.Join(l.Conn.Close(), l.nothing.Close()) }

// fill makes all of the pool's connections, and lets change change each.
func fill(t *testing.T, pool *pgxpool.Pool, change string) {
	t.Helper()
	var held []*pgxpool.Conn
	for range pool.Config().MaxConns {
		conn, err := pool.Acquire(t.Context())
		require.NoError(t, err)
		held = append(held, conn)
		if change != "" {
			_, err = conn.Exec(t.Context(), change, pgx.QueryExecModeSimpleProtocol)
			require.NoError(t, err)
		}
	}
	for _, conn := range held {
		conn.Release()
	}
}

// TestConnections_SilentOldOnes lets all connections fall silent, as after a fail-over, while
// callers have no deadlines. New connections work. Each call must end in time, and no caller may
// meet more than a few of the old connections.
func TestConnections_SilentOldOnes(t *testing.T) {
	t.Parallel()
	const (
		connections, callers, calls = 12, 40, 20
		timeout                     = time.Second
		maxFailures                 = 10 // 3, and some more on a busy machine; pgx needs 15 s to close a silent connection
	)
	load := func(ctx context.Context, s *test.Store, id pgsession.ID) error { return test.Err(s.Load(ctx, id)) }
	save := func(ctx context.Context, s *test.Store, id pgsession.ID) error {
		return s.Save(ctx, id, test.Ann(1), time.Hour)
	}
	put := func(ctx context.Context, s *test.Store, id pgsession.ID) error {
		return s.Put(ctx, id, test.Ann(1), time.Hour)
	}
	touch := func(ctx context.Context, s *test.Store, id pgsession.ID) error {
		return test.Err(s.Touch(ctx, test.Unloaded(id), 2*time.Hour))
	}
	for name, operations := range map[string][]func(context.Context, *test.Store, pgsession.ID) error{
		"loads": {load}, "saves": {save}, "all": {load, save, put, touch},
	} {
		for _, places := range []int{0, 1} {
			t.Run(fmt.Sprintf("%s/WithCoalescing(%d)", name, places), func(t *testing.T) {
				t.Parallel()
				ctx, way := test.WithoutDeadline(t), newNetwork()
				pool := pgtest.Pool(t, func(config *pgxpool.Config) {
					config.MaxConns = connections
					way.configure(config)
				})
				patient := test.NewStoreOn(t, pool, test.Encrypted)
				var ids [callers]pgsession.ID
				for i := range ids {
					ids[i] = patient.Begin(t, test.Ann(0), time.Hour)
				}
				s := patient.Node(test.NewCrypto(t, test.Key), pgsession.WithTimeout(timeout), pgsession.WithCoalescing(places))
				fill(t, pool, "")
				t.Cleanup(way.end)
				way.silenceOld()
				var group sync.WaitGroup
				for i, id := range ids {
					group.Go(func() {
						failures := 0
						for range calls {
							called := time.Now()
							err := operations[i%len(operations)](ctx, s, id)
							if took := time.Since(called); took > timeout+test.Slack {
								t.Errorf("a call took %s", took)
							}
							if err != nil {
								failures++
							}
						}
						if failures > maxFailures {
							t.Errorf("%d calls of %d failed", failures, calls)
						}
					})
				}
				group.Wait()
				require.Equal(t, callers, s.CountRows(t, "true"))
			})
		}
	}
}

// A lateConn is a connection whose messages come late: only when arrive is closed, once it is late.
type lateConn struct {
	net.Conn
	late   *atomic.Bool
	arrive <-chan struct{}
	before chan struct{} // closed when the message before has come
}

func (l *lateConn) Write(p []byte) (int, error) {
	if l.late.Load() {
		message, before, after := bytes.Clone(p), l.before, make(chan struct{})
		l.before = after
		go func() {
			<-l.arrive
			if before != nil {
				<-before
			}
			l.Conn.Write(message)
			close(after)
		}()
		return len(p), nil
	}
	return l.Conn.Write(p)
}

// A cancelConn tells of its end.
type cancelConn struct {
	net.Conn
	closed func()
}

func (c *cancelConn) Close() error {
	defer c.closed()
	return c.Conn.Close()
}

// TestConnections_CancelOvertakes cancels a call whose statement reaches the server only after the
// request to cancel it, and then waits for a lock. It must not write when the lock is released.
func TestConnections_CancelOvertakes(t *testing.T) {
	t.Parallel()
	var late atomic.Bool
	arrive := make(chan struct{})
	closeOnce := sync.OnceFunc(func() { close(arrive) })
	pool := pgtest.Pool(t, func(config *pgxpool.Config) {
		config.MaxConns = 1
		dial := config.ConnConfig.DialFunc
		config.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			switch {
			case err != nil:
				return nil, err
			case late.Load():
				return &cancelConn{conn, closeOnce}, nil
			}
			return &lateConn{conn, &late, arrive, nil}, nil
		}
	})
	s := test.NewStoreOn(t, pool, test.Encrypted)
	hasty := s.Node(test.NewCrypto(t, test.Key), pgsession.WithTimeout(test.ShortTimeout))
	id := s.Begin(t, test.Ann(0), time.Hour)
	require.NoError(t, s.Save(t.Context(), id, test.Ann(1), time.Hour)) // which prepares the statement
	held := s.Lock(t, `key = $1`, test.RowKey(id))
	late.Store(true)
	test.RequireTimeout(t, hasty.Save(t.Context(), id, test.Ann(2), time.Hour), "save")
	<-arrive
	s.WaitUntilGone(t, held)
	held.Release(t)
	require.Equal(t, 1, s.Number(t, id), "it takes no effect later")
}

// TestConnections_OneHangs lets one connection fall silent under a call, while one statement may be
// in flight. The other callers of the operation do not wait for it.
func TestConnections_OneHangs(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"load", "save", "put", "touch", "delete"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			way := newNetwork()
			pool := pgtest.Pool(t, way.configure)
			s := test.NewStoreOn(t, pool, test.Encrypted, pgsession.WithTimeout(0), pgsession.WithCoalescing(1))
			hanging := s.Begin(t, test.Ann(1), time.Hour)
			var ids [20]pgsession.ID
			for i := range ids {
				ids[i] = s.Begin(t, test.Ann(1), time.Hour)
			}
			pool.Reset()
			require.NoError(t, pool.Ping(t.Context()))
			require.Eventually(t, func() bool { return pool.Stat().TotalConns() == 1 }, test.Patience, time.Millisecond)
			t.Cleanup(way.end)
			way.silenceOld()
			ctx, giveUp := context.WithCancel(t.Context())
			defer giveUp()
			hung := test.Many(1, func() error { return test.Operations(s, hanging)[name](ctx) })
			require.Eventually(t, func() bool { return pool.Stat().AcquiredConns() == 1 }, test.Patience, time.Millisecond)

			others, stop := context.WithTimeout(t.Context(), test.Patience)
			defer stop()
			test.RequireAll(t, name, len(ids), func(n int) error { return test.Operations(s, ids[n])[name](others) })
			require.Empty(t, hung)
			giveUp()
			require.ErrorIs(t, <-hung, context.Canceled)
		})
	}
}

// TestConnections_SilentAndFull has every connection of the pool wait for a silent server. The
// health endpoint must not say that the store works.
func TestConnections_SilentAndFull(t *testing.T) {
	t.Parallel()
	way := newNetwork()
	pool := pgtest.Pool(t, func(config *pgxpool.Config) {
		config.MaxConns = 2
		way.configure(config)
	})
	s := test.NewStoreOn(t, pool, test.Encrypted, pgsession.WithTimeout(test.Patience), pgsession.WithCoalescing(0), pgsession.WithClock(pgsession.SystemClock{}))
	id := s.Begin(t, test.Ann(1), time.Hour)
	fill(t, pool, "")
	require.Equal(t, http.StatusOK, test.Probe(t, s.Store))
	t.Cleanup(way.end)
	way.silenceOld()
	ctx, giveUp := context.WithCancel(t.Context())
	errs := test.Many(2, func() error { return test.Err(s.Load(ctx, id)) })
	require.Eventually(t, func() bool { return pool.Stat().AcquiredConns() == 2 }, test.Patience, time.Millisecond)
	require.ErrorContains(t, test.RequireUnhealthy(t, s.Store), "context deadline exceeded")
	require.Equal(t, http.StatusServiceUnavailable, test.Probe(t, s.Store))
	giveUp()
	require.ErrorIs(t, <-errs, context.Canceled)
	require.ErrorIs(t, <-errs, context.Canceled)
	require.Eventually(t, func() bool { return test.Probe(t, s.Store) == http.StatusOK }, test.Patience, time.Millisecond)
}

// TestConnections_HeldByHandlers has as many handlers as the pool has connections. Each holds a
// connection while it calls the store. WithTimeout ends the calls, and the error and the health
// endpoint say why.
func TestConnections_HeldByHandlers(t *testing.T) {
	t.Parallel()
	const connections = 2
	s := test.NewTracedStore(t, nil, connections, pgsession.WithTimeout(4*time.Second), pgsession.WithClock(pgsession.SystemClock{}))
	id := s.Begin(t, test.Ann(1), time.Hour)
	ctx := test.WithoutDeadline(t)
	var holding sync.WaitGroup
	holding.Add(connections)
	errs := make(chan error, connections)
	application := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tx, err := s.Pool.Begin(r.Context())
		if err == nil {
			defer tx.Rollback(context.WithoutCancel(r.Context()))
			holding.Done()
			holding.Wait()
			err = test.Err(s.Load(ctx, id))
		}
		errs <- err
	}))
	defer application.Close()
	began := time.Now()
	requests := test.Many(connections, func() error {
		response, err := application.Client().Get(application.URL)
		if err == nil {
			err = response.Body.Close()
		}
		return err
	})
	holding.Wait()
	require.Equal(t, http.StatusServiceUnavailable, test.Probe(t, s.Store))
	for range connections {
		err := <-errs
		test.RequireTimeout(t, err, "load")
		require.ErrorContains(t, err, "every connection of the pool is in use")
		require.ErrorContains(t, err, "code that holds a connection while it calls the store")
		require.NoError(t, <-requests)
	}
	require.Less(t, time.Since(began), 4*time.Second+test.Slack)
	require.Equal(t, 1, s.Number(t, id))
	require.Equal(t, http.StatusOK, test.Probe(t, s.Store))
}
