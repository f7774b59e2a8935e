package coalescing_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/test"
)

// TestCoalescing_LargeValues saves a value that would make a shared statement too large for the
// server. It runs alone, and at once.
func TestCoalescing_LargeValues(t *testing.T) {
	pgtest.NotDistributed(t, "writes share no statement")
	t.Parallel()
	const size = 64 << 10
	onBothStores(t, func(t *testing.T, g *test.Turnstile) {
		id, other := g.Begin(t, test.Ann(1), time.Hour), g.Begin(t, test.Ann(2), time.Hour)
		large := pgsession.Data{UserID: "ann", Values: strings.Repeat("x", size)}
		var saving sync.WaitGroup
		var err error
		g.BeforeOpening = func(held *test.Lock) {
			saving.Go(func() { err = g.Save(t.Context(), other, large, time.Hour) })
			held.WaitFor(t, 2)
			require.Equal(t, 1, g.Waiting())
		}
		save := func() error { return g.Save(t.Context(), id, test.Ann(1), time.Hour) }
		errs, _ := g.Together(t, save, save)
		test.RequireErrors(t, errs, nil)
		saving.Wait()
		require.NoError(t, err)
		loaded, err := g.Load(t.Context(), other)
		require.NoError(t, err)
		value, err := pgsession.Decode[string](loaded)
		require.NoError(t, err)
		require.Len(t, value, size)
	})
}

// TestCoalescing_OneBadApple has the server refuse a shared statement because of one call's values.
// The other calls of the statement succeed.
func TestCoalescing_OneBadApple(t *testing.T) {
	pgtest.NotDistributed(t, "writes share no statement")
	t.Parallel()
	g := test.NewTurnstile(t, pgsession.Plaintext)
	ctx := t.Context()
	one, two, three := g.Begin(t, test.Ann(1), time.Hour), g.Begin(t, test.Ann(2), time.Hour), g.Begin(t, test.Ann(3), time.Hour)
	save := func(id pgsession.ID, values any) func() error {
		return func() error { return g.Save(ctx, id, test.Ann(values), time.Hour) }
	}
	errs, _ := g.Together(t, save(one, 0), save(one, 10), save(two, json.RawMessage(`"\u0000"`)), save(three, 30))
	test.RequireErrors(t, errs, nil, pgsession.ErrEncode, nil)
	require.Equal(t, 10, g.Number(t, one))
	require.Equal(t, 2, g.Number(t, two))
	require.Equal(t, 30, g.Number(t, three))
}

// TestCoalescing_GivenUp cancels one call that waits to share a statement. It returns at once, and
// the other calls succeed.
func TestCoalescing_GivenUp(t *testing.T) {
	pgtest.NotDistributed(t, "writes share no statement")
	t.Parallel()
	g := test.NewTurnstile(t, test.Encrypted)
	one, two := g.Begin(t, test.Ann(1), time.Hour), g.Begin(t, test.Ann(2), time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	g.BeforeOpening = func(*test.Lock) {
		cancel()
		g.WaitUntilQueued(t, 1)
	}
	errs, _ := g.Together(t,
		func() error { return g.Save(t.Context(), one, test.Ann(10), time.Hour) },
		func() error { return g.Save(ctx, one, test.Ann(11), time.Hour) },
		func() error { return g.Save(t.Context(), two, test.Ann(20), time.Hour) })
	test.RequireErrors(t, errs, context.Canceled, nil)
	require.Equal(t, 10, g.Number(t, one))
	require.Equal(t, 20, g.Number(t, two))
}

// TestCoalescing_NoDeadlocks writes the same sessions in all orders, by shared statements and by
// single ones.
func TestCoalescing_NoDeadlocks(t *testing.T) {
	t.Parallel()
	var deadlocks atomic.Int32 // those that the store has retried, too
	s := test.NewTracedStore(t, &test.Tracer{End: func(_ string, err error) {
		var server *pgconn.PgError
		if errors.As(err, &server) && server.Code == "40P01" {
			deadlocks.Add(1)
		}
	}}, 8, pgsession.WithCoalescing(2))
	ctx := t.Context()
	ids := make([]pgsession.ID, 20)
	for i := range ids {
		ids[i] = s.Begin(t, test.Ann(i), time.Hour)
	}
	other := s.Node(test.NewCrypto(t, test.Key), pgsession.WithCoalescing(2))
	var group sync.WaitGroup
	for worker := range 32 {
		store := []*test.Store{s, other}[worker%2]
		group.Go(func() {
			for i := range 40 {
				id := ids[(worker*7+i*13)%len(ids)]
				var err error
				switch i % 3 {
				case 0:
					err = store.Save(ctx, id, test.Ann(i), time.Hour)
				case 1:
					err = store.Put(ctx, id, test.Ann(i), time.Hour)
				case 2:
					err = test.Err(store.Touch(ctx, test.Unloaded(id), 24*time.Hour))
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	require.Zero(t, deadlocks.Load())
}

// TestCoalescing_HoldsNobody has two calls share a statement, one of them for a row that somebody
// holds. The statement must not hold the other row for as long: another node ends that session
// meanwhile.
func TestCoalescing_HoldsNobody(t *testing.T) {
	pgtest.NotDistributed(t, "writes share no statement")
	t.Parallel()
	for name, write := range map[string]func(ctx context.Context, g *test.Turnstile, session *pgsession.Session) error{
		"Save": func(ctx context.Context, g *test.Turnstile, session *pgsession.Session) error {
			return g.Save(ctx, session.ID, test.Ann(2), time.Hour)
		},
		"Put": func(ctx context.Context, g *test.Turnstile, session *pgsession.Session) error {
			return g.Put(ctx, session.ID, test.Ann(2), time.Hour)
		},
		"Touch": func(ctx context.Context, g *test.Turnstile, session *pgsession.Session) error {
			return test.Err(g.Touch(ctx, session, 2*time.Hour))
		},
		"Update": func(ctx context.Context, g *test.Turnstile, session *pgsession.Session) error {
			return test.Err(g.Update(ctx, session, 0, test.Increment))
		},
		"Renew": func(ctx context.Context, g *test.Turnstile, session *pgsession.Session) error {
			return test.Err(g.Renew(ctx, session, 0, test.LogIn(test.Bob)))
		},
		"Delete": func(ctx context.Context, g *test.Turnstile, session *pgsession.Session) error {
			return g.Delete(ctx, session.ID)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := test.NewTurnstile(t, test.Encrypted)
			other := g.Node(test.NewCrypto(t, test.Key))
			begin := func(n int) *pgsession.Session { return g.MustLoad(t, g.Begin(t, test.Ann(n), time.Hour)) }
			first, x, y := begin(0), begin(1), begin(1)

			// The table is locked until both calls are queued, and the row longer.
			held := g.Lock(t, `key = $1`, test.RowKey(x.ID))
			_, err := held.Exec(t.Context(), `SAVEPOINT before; LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE`)
			require.NoError(t, err)
			started := test.Many(1, func() error { return write(t.Context(), g, first) })
			held.WaitFor(t, 1)
			var waiting, free <-chan error
			waiting = test.Many(1, func() error { return write(t.Context(), g, x) })
			g.WaitUntilQueued(t, 1)
			gone, leave := context.WithCancel(t.Context())
			free = test.Many(1, func() error { return write(gone, g, y) })
			g.WaitUntilQueued(t, 2)
			_, err = held.Exec(t.Context(), `ROLLBACK TO before`)
			require.NoError(t, err)
			require.NoError(t, <-started)
			held.WaitFor(t, 1)
			require.NoError(t, <-free, "the row that nobody holds")
			leave()
			require.NoError(t, other.Delete(t.Context(), y.ID))
			require.ErrorIs(t, test.Err(other.Load(t.Context(), y.ID)), pgsession.ErrRevoked)
			held.Release(t)
			require.NoError(t, <-waiting)
		})
	}
}
