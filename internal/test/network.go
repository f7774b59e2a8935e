package test

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsession/pgsession/internal/pgtest"
)

// A Network is the way from a pool to its server, which a test can cut.
type Network struct {
	Pool *pgxpool.Pool

	dial atomic.Pointer[pgconn.DialFunc]
	open pgconn.DialFunc
}

// NewNetwork returns a network with a pool in a schema of its own.
func NewNetwork(t testing.TB) *Network {
	t.Helper()
	n := &Network{}
	n.Pool = pgtest.Pool(t, func(config *pgxpool.Config) {
		n.open = config.ConnConfig.DialFunc
		config.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
			return (*n.dial.Load())(ctx, network, address)
		}
	})
	n.Mend()
	return n
}

// Cut closes the connections, and refuses new ones.
func (n *Network) Cut() {
	n.set(func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("the network is cut") })
	n.Pool.Reset()
}

// Hang closes the connections, and lets new ones wait until the function that it returns is called.
func (n *Network) Hang() (goOn func()) {
	waiting := make(chan struct{})
	n.set(func(ctx context.Context, network, address string) (net.Conn, error) {
		select {
		case <-waiting:
			return n.open(ctx, network, address)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
	n.Pool.Reset()
	return func() { close(waiting) }
}

// Mend lets connections through again.
func (n *Network) Mend() { n.set(n.open) }

func (n *Network) set(dial pgconn.DialFunc) { n.dial.Store(&dial) }
