package faults_test

import (
	"context"
	"fmt"
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

// A hangUp is a store whose next caller goes when its first statement is about to be sent.
type hangUp struct {
	*test.Store
	traced *test.Tracer
	leave  atomic.Pointer[context.CancelFunc]
	asked  atomic.Bool // for a connection, after the caller had gone
	made   int64       // connections
}

func newHangUp(t *testing.T, opts ...pgsession.Option) *hangUp {
	t.Helper()
	h := &hangUp{}
	h.traced = &test.Tracer{Start: func(context.Context, string) {
		if leave := h.leave.Swap(nil); leave != nil {
			(*leave)()
			asked := func() { h.asked.Store(true) }
			h.traced.Acquire.Store(&asked)
		}
	}}
	pool := pgtest.Pool(t, func(config *pgxpool.Config) {
		config.MaxConns = 1
		config.ConnConfig.Tracer = h.traced
		config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement
	})
	h.Store = test.NewStoreOn(t, pool, test.Encrypted, opts...)
	h.made = pool.Stat().NewConnsCount()
	return h
}

// call returns how many statements a call sent whose caller goes, and its error.
func (h *hangUp) call(t *testing.T, call func(ctx context.Context) error) (sent int64, err error) {
	t.Helper()
	ctx, leave := context.WithCancel(t.Context())
	before := h.traced.RoundTrips.Load()
	h.leave.Store(&leave)
	err = call(ctx)
	require.ErrorIs(t, ctx.Err(), context.Canceled)
	require.False(t, h.asked.Load(), "it asked for another connection")
	return h.traced.RoundTrips.Load() - before, err
}

func (h *hangUp) requireConnectionKept(t *testing.T) {
	t.Helper()
	require.NoError(t, test.Examine(t.Context(), h.Store.Store).Err)
	require.Equal(t, h.made, h.Pool.Stat().NewConnsCount(), "a connection was lost")
}

// TestHangUps_Alone has callers go while a statement of theirs runs that ends at once. It takes
// effect, costs no connection, and is the last one of the call. The store gives the statement time to
// end, since a machine may stand still.
func TestHangUps_Alone(t *testing.T) {
	pgtest.NotDistributed(t, "an operation takes more statements there")
	t.Parallel()
	for _, places := range []int{0, 1} {
		for name, want := range map[string]error{
			"create": nil, "load": nil, "save": nil, "put": nil, "touch": nil, "delete": nil, "revoke": nil, "find by user": nil,
			"get": nil, "take": nil, "put/KeyValue": nil, "delete/KeyValue": nil,
			"update": context.Canceled, "renew": context.Canceled, "cycle": context.Canceled, "delete by user": context.Canceled, // which take two statements
		} {
			t.Run(fmt.Sprintf("%s/WithCoalescing(%d)", name, places), func(t *testing.T) {
				t.Parallel()
				h := newHangUp(t, pgsession.WithCoalescing(places), test.Unhurried())
				require.NoError(t, h.KeyValue().Put(t.Context(), "k", nil, time.Hour))
				sent, err := h.call(t, test.Operations(h.Store, h.Begin(t, test.Ann(1), time.Hour))[name])
				require.ErrorIs(t, err, want)
				require.EqualValues(t, 1, sent)
				h.requireConnectionKept(t)
			})
		}
	}
}

// TestHangUps_NotSentAgain has a caller go while its statement fails in a way after which it would
// be sent again.
func TestHangUps_NotSentAgain(t *testing.T) {
	pgtest.NotDistributed(t, "an operation takes more statements there")
	t.Parallel()
	h := newHangUp(t, test.Unhurried())
	id := h.Begin(t, test.Ann(1), time.Hour)
	require.NoError(t, h.Save(t.Context(), id, test.Ann(2), time.Hour)) // which prepares the statement
	fill(t, h.Pool, `DEALLOCATE ALL`)
	sent, err := h.call(t, func(ctx context.Context) error { return h.Save(ctx, id, test.Ann(3), time.Hour) })
	require.ErrorIs(t, err, context.Canceled)
	require.EqualValues(t, 1, sent)
	require.Equal(t, 2, h.Number(t, id))
	h.requireConnectionKept(t)
}

// TestHangUps_WaitsForConnection has a caller go while every connection is in use. Nothing of it is
// sent later.
func TestHangUps_WaitsForConnection(t *testing.T) {
	t.Parallel()
	for _, freed := range []bool{false, true} {
		t.Run(fmt.Sprintf("freed %v", freed), func(t *testing.T) {
			t.Parallel()
			h := newHangUp(t)
			id := h.Begin(t, test.Ann(1), time.Hour)
			release := test.HoldConnections(t, h.Pool, 1)
			before := h.traced.RoundTrips.Load()
			ctx, leave := context.WithCancel(t.Context())
			asked := func() {
				leave()
				if freed {
					release()
				}
			}
			h.traced.Acquire.Store(&asked)
			err := h.Save(ctx, id, test.Ann(2), time.Hour)
			require.ErrorIs(t, err, context.Canceled)
			require.Equal(t, before, h.traced.RoundTrips.Load())
			release()
			require.Equal(t, 1, h.Number(t, id))
			h.requireConnectionKept(t)
		})
	}
}

// TestHangUps_Shared has all callers of a shared statement go while it runs. They do not wait for
// it, and it costs no connection.
func TestHangUps_Shared(t *testing.T) {
	pgtest.NotDistributed(t, "writes share no statement")
	t.Parallel()
	for _, name := range []string{"load", "save", "put", "touch", "delete"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := test.NewTurnstile(t, test.Encrypted)
			run := func(ctx context.Context) func() error {
				id := g.Begin(t, test.Ann(1), time.Hour)
				return func() error { return test.Operations(g.Store, id)[name](ctx) }
			}
			ctx, leave := context.WithCancel(t.Context())
			first, x, y := run(t.Context()), run(ctx), run(ctx)
			made := g.Pool.Stat().NewConnsCount()
			var opened atomic.Bool
			g.BeforeOpening = func(*test.Lock) { opened.Store(true) }
			g.Traced.Start = func(context.Context, string) {
				if opened.Load() {
					leave()
				}
			}
			errs, _ := g.Together(t, first, x, y)
			test.RequireErrors(t, errs, context.Canceled, context.Canceled)
			require.Eventually(t, func() bool { return g.Pool.Stat().AcquiredConns() == 0 }, test.Patience, time.Millisecond)
			require.Equal(t, made, g.Pool.Stat().NewConnsCount(), "a connection was lost")
		})
	}
}
