package main

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
)

// Every connection of the pool hangs, and new ones work. The calls that meet the old ones run out
// of time, and the store works again soon after. pgx takes 15 seconds to close such a connection.
func TestSilentConnections(t *testing.T) {
	t.Parallel()
	for name, maxInFlight := range map[string]int{"alone": 0, "shared": nodeConns} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			cluster := startCluster(t, nil)
			n, err := newNode(ctx, cluster.URL(), pgsession.GenerateKey(), true, nil)
			require.NoError(t, err)
			t.Cleanup(func() {
				n.network.Load().Stop()
				n.pool.Close()
			})
			patient := pgsession.New(n.pool, n.crypto)
			require.NoError(t, patient.Init(ctx))
			s, err := patient.Create(ctx, pgsession.Data{}, time.Hour)
			require.NoError(t, err)
			store := pgsession.New(n.pool, n.crypto, pgsession.WithTimeout(500*time.Millisecond), pgsession.WithCoalescing(maxInFlight))
			var conns []*pgxpool.Conn
			for range nodeConns { // the pool sends a ping only on those that were idle for a second
				conn, err := n.pool.Acquire(ctx)
				require.NoError(t, err)
				conns = append(conns, conn)
			}
			for _, conn := range conns {
				conn.Release()
			}
			old, err := n.leaveNetwork()
			require.NoError(t, err)
			t.Cleanup(func() { old.Stop() })
			for _, direction := range []string{"upstream", "downstream"} {
				require.NoError(t, addToxic(old, "timeout", direction, `"timeout": 0`))
			}

			began := time.Now()
			var callers sync.WaitGroup
			var failed atomic.Int64
			for range 4 * nodeConns {
				callers.Go(func() {
					for {
						_, err := store.Load(ctx, s.ID)
						if err == nil || time.Since(began) > 15*time.Second {
							return
						}
						failed.Add(1)
					}
				})
			}
			callers.Wait()
			require.Less(t, time.Since(began), 10*time.Second, "%d loads failed", failed.Load())
			require.Positive(t, failed.Load())
			t.Logf("works again after %v and %d loads that ran out of time", time.Since(began), failed.Load())
		})
	}
}
