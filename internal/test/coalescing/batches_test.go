package coalescing_test

import (
	"context"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/test"
)

// A distantServer answers after some milliseconds. It traces how many statements are in flight at
// once.
type distantServer struct{ inFlight, most atomic.Int32 }

type distantConn struct{ net.Conn }

func (c distantConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	time.Sleep(5 * time.Millisecond)
	return n, err
}

func (d *distantServer) configure(config *pgxpool.Config) {
	config.MaxConns = 16
	config.ConnConfig.Tracer = d
	dial := config.ConnConfig.DialFunc
	config.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		return distantConn{conn}, err
	}
}

func (d *distantServer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	n := d.inFlight.Add(1)
	for most := d.most.Load(); n > most && !d.most.CompareAndSwap(most, n); most = d.most.Load() {
	}
	return ctx
}

func (d *distantServer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {
	d.inFlight.Add(-1)
}

// TestCoalescing_Network has a server that is far away. By default, up to half of the pool's
// connections then have a statement in flight, so that few callers do not wait for each other's
// answers to come back.
func TestCoalescing_Network(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		options []pgsession.Option
		most    int32
	}{
		"by default": {nil, 8},
		"fixed":      {[]pgsession.Option{pgsession.WithCoalescing(2)}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := &distantServer{}
			options := append(c.options, test.Unhurried()) // however busy the machine is
			s := test.NewStoreOn(t, pgtest.Pool(t, server.configure), test.Encrypted, options...)
			id := s.Begin(t, test.Ann(0), time.Hour)
			s.MustLoad(t, id) // which tells how far away the server is
			server.most.Store(0)
			began := time.Now()
			var group sync.WaitGroup
			for range 32 {
				group.Go(func() {
					for n := 0; n < 10 || server.most.Load() < c.most && time.Since(began) < test.Patience; n++ {
						if !assert.NoError(t, test.Err(s.Load(t.Context(), id))) {
							return
						}
					}
				})
			}
			group.Wait()
			require.Equal(t, c.most, server.most.Load())
		})
	}
}

// TestCoalescing_Bytes queues calls whose values are too large together for one statement. They
// take two.
func TestCoalescing_Bytes(t *testing.T) {
	t.Parallel()
	const size, calls = 60 << 10, 20
	onBothStores(t, func(t *testing.T, g *test.Turnstile) {
		ctx := t.Context()
		data := test.Ann(strings.Repeat("x", size))
		for name, call := range map[string]func(id pgsession.ID) error{
			"Load": func(id pgsession.ID) error { return test.Err(g.Load(ctx, id)) },
			"Save": func(id pgsession.ID) error { return g.Save(ctx, id, data, time.Hour) },
			"Put":  func(id pgsession.ID) error { return g.Put(ctx, id, data, time.Hour) },
		} {
			if name != "Load" && pgtest.IsDistributed() {
				continue // writes share no statement
			}
			run := func() error { return call(g.Begin(t, data, time.Hour)) }
			require.NoError(t, run()) // the size of a row to come is known from those that have come
			queued := make([]func() error, calls)
			for i := range queued {
				id := g.Begin(t, data, time.Hour)
				queued[i] = func() error { return call(id) }
			}
			first := g.Begin(t, data, time.Hour)
			errs, sent := g.Together(t, func() error { return call(first) }, queued...)
			test.RequireErrors(t, errs, make([]error, calls)...)
			require.Equal(t, 2, sent, name)
		}
	})
}
