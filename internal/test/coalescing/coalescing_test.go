package coalescing_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/test"
)

func onBothStores(t *testing.T, c func(t *testing.T, g *test.Turnstile)) {
	for name, open := range map[string]test.Opener{"encrypted": test.Encrypted, "plaintext": pgsession.Plaintext} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c(t, test.NewTurnstile(t, open))
		})
	}
}

// A distantServer answers after some milliseconds. It traces how many statements are in flight at once.
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

// TestCoalescing_Network has a server that is far away. By default, up to half of the pool's connections
// then have a statement in flight, so that few callers do not wait for each other's answers to come back.
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
			options := append(c.options, test.WithSlowAfter(test.Patience)) // however busy the machine is
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

func TestCoalescing_Load(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, g *test.Turnstile) {
		one, two, expired, ended := g.Begin(t, test.Ann(1), time.Hour), g.Begin(t, test.Bob, time.Hour), g.Expired(t), g.Ended(t)
		var sessions [7]*pgsession.Session
		load := func(i int, id pgsession.ID) func() error {
			return func() (err error) {
				sessions[i], err = g.Load(t.Context(), id)
				return err
			}
		}
		errs, sent := g.Together(t, load(0, one), load(1, one), load(2, one), load(3, two), load(4, expired), load(5, ended), load(6, pgsession.NewID()))
		test.RequireErrors(t, errs, nil, nil, nil, pgsession.ErrNotFound, pgsession.ErrRevoked, pgsession.ErrNotFound)
		require.Equal(t, 1, sent)
		require.Equal(t, sessions[0], sessions[1])
		require.Equal(t, sessions[1], sessions[2])
		require.NotSame(t, sessions[1], sessions[2], "each caller has its own")
		require.Equal(t, "bob", sessions[3].UserID)
	})
}

// The server keeps the plan of a shared statement, however few the calls, since to plan it
// anew costs more than to run it; and the plan goes through the index, however few the
// sessions, since there may be more before the server looks again.
func TestCoalescing_KeepsPlans(t *testing.T) {
	pgtest.NotDistributed(t, "the plans are those of the machines with the shards")
	t.Parallel()
	const connections, keptAfter = 3, 5
	pool := pgtest.Pool(t, func(config *pgxpool.Config) {
		config.MaxConns = connections
		config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement
	})
	f := test.NewStoreOn(t, pool, pgsession.Plaintext, pgsession.WithCoalescing(1), test.WithSlowAfter(test.Patience), pgsession.WithTimeout(test.Patience))
	g := &test.Turnstile{Store: f, Traced: &test.Tracer{}}
	g.SQL(t, `
		INSERT INTO sessions (key, data, version, created_at, expires_at, idle_timeout)
		SELECT sha256(i::text::bytea), '0', 1, $1, $2, '1 hour' FROM generate_series(1, 1000) AS i`, test.Epoch, test.Epoch.Add(time.Hour))
	g.SQL(t, `ANALYZE sessions`)
	before := sequentialScans(t, g.Store)
	for range connections*keptAfter + 1 {
		one, two := g.Begin(t, test.Ann(1), time.Hour), g.Begin(t, test.Bob, time.Hour)
		for _, call := range []func(id pgsession.ID, data pgsession.Data) error{
			func(id pgsession.ID, _ pgsession.Data) error { return test.Err(g.Load(t.Context(), id)) },
			func(id pgsession.ID, data pgsession.Data) error { return g.Save(t.Context(), id, data, time.Hour) },
			func(id pgsession.ID, data pgsession.Data) error { return g.Put(t.Context(), id, data, time.Hour) },
			func(id pgsession.ID, _ pgsession.Data) error {
				return test.Err(g.Touch(t.Context(), test.Unloaded(id), 2*time.Hour))
			},
			func(id pgsession.ID, _ pgsession.Data) error { return g.Delete(t.Context(), id) },
		} {
			first := func() error { return call(one, test.Ann(1)) }
			errs, _ := g.Together(t, first, first, func() error { return call(two, test.Bob) })
			test.RequireErrors(t, errs, nil, nil)
		}
	}
	kept := make(map[string]bool)
	for _, conn := range pool.AcquireAllIdle(t.Context()) {
		result, err := conn.Query(t.Context(), `SELECT statement, generic_plans > 0 FROM pg_prepared_statements WHERE statement LIKE '%unnest($_::bytea[]%' AND statement LIKE '%JOIN %' AND statement NOT LIKE '%pg_prepared%'`)
		require.NoError(t, err)
		var statement string
		var generic bool
		_, err = pgx.ForEachRow(result, []any{&statement, &generic}, func() error {
			kept[statement] = kept[statement] || generic
			return nil
		})
		require.NoError(t, err)
		conn.Release()
	}
	require.Len(t, kept, 5)
	for statement, generic := range kept {
		require.True(t, generic, statement)
	}
	require.Equal(t, before, sequentialScans(t, g.Store))
}

func sequentialScans(t *testing.T, s *test.Store) (scans int) {
	t.Helper()
	for _, conn := range s.Pool.AcquireAllIdle(t.Context()) {
		_, err := conn.Exec(t.Context(), `SELECT pg_stat_force_next_flush()`)
		require.NoError(t, err)
		conn.Release()
	}
	require.NoError(t, s.Pool.QueryRow(t.Context(), `SELECT seq_scan FROM pg_stat_user_tables WHERE relid = 'sessions'::regclass`).Scan(&scans))
	return scans
}

// So large a value would make a shared statement too large for the server.
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

// TestCoalescing_Bytes queues calls whose values are too large together for one statement. They take two.
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

func TestCoalescing_Save(t *testing.T) {
	pgtest.NotDistributed(t, "writes share no statement")
	t.Parallel()
	onBothStores(t, func(t *testing.T, g *test.Turnstile) {
		ctx := t.Context()
		one, two, bobs := g.Begin(t, test.Ann(1), time.Hour), g.Begin(t, test.Ann(2), time.Hour), g.Begin(t, test.Bob, time.Hour)
		expired, ended := g.Expired(t), g.Ended(t)
		save := func(id pgsession.ID, data pgsession.Data) func() error {
			return func() error { return g.Save(ctx, id, data, 2*time.Hour) }
		}
		errs, _ := g.Together(t, save(one, test.Ann(9)),
			save(one, test.Ann(10)), save(one, test.Ann(11)), save(two, test.Ann(20)),
			save(bobs, test.Ann(30)), save(bobs, test.Bob), save(bobs, test.Ann(32)),
			save(expired, test.Ann(1)), save(ended, test.Ann(1)), save(pgsession.NewID(), test.Ann(1)))
		test.RequireErrors(t, errs, nil, nil, nil, pgsession.ErrUserChanged, nil, pgsession.ErrUserChanged,
			pgsession.ErrNotFound, pgsession.ErrRevoked, pgsession.ErrNotFound)
		require.Equal(t, 11, g.Number(t, one), "the later of two")
		require.Equal(t, 20, g.Number(t, two))
		require.Equal(t, "bob", g.MustLoad(t, bobs).UserID)
		require.Equal(t, 2*time.Hour, g.MustLoad(t, one).Remaining())

		errs, sent := g.Together(t, save(one, test.Ann(1)), save(one, test.Ann(2)), save(two, test.Ann(3)), save(one, test.Ann(4)))
		test.RequireErrors(t, errs, nil, nil, nil)
		require.Equal(t, 1, sent)
		require.Equal(t, 4, g.Number(t, one))
	})
}

func TestCoalescing_Put(t *testing.T) {
	pgtest.NotDistributed(t, "writes share no statement")
	t.Parallel()
	onBothStores(t, func(t *testing.T, g *test.Turnstile) {
		ctx := t.Context()
		one, bobs, ended, expired := g.Begin(t, test.Ann(1), time.Hour), g.Begin(t, test.Bob, time.Hour), g.Ended(t), g.Begin(t, test.Bob, time.Microsecond)
		fresh, derived := pgsession.NewID(), pgsession.DeriveID("token")
		g.Clock.Advance(time.Minute)
		put := func(id pgsession.ID, data pgsession.Data) func() error {
			return func() error { return g.Put(ctx, id, data, time.Hour) }
		}
		errs, _ := g.Together(t, put(one, test.Ann(2)),
			put(one, test.Ann(3)), put(bobs, test.Ann(4)), put(ended, test.Ann(5)), put(expired, test.Ann(6)), put(fresh, test.Ann(7)), put(fresh, test.Ann(8)), put(derived, test.Guest))
		test.RequireErrors(t, errs, nil, pgsession.ErrUserChanged, pgsession.ErrRevoked, pgsession.ErrNotFound, nil, nil, nil)
		require.Equal(t, 3, g.Number(t, one))
		require.Equal(t, test.Epoch, g.MustLoad(t, one).CreatedAt)
		require.Equal(t, 8, g.Number(t, fresh))
		require.Equal(t, "bob", g.MustLoad(t, bobs).UserID)
		g.MustLoad(t, derived)
	})
}

func TestCoalescing_Touch(t *testing.T) {
	pgtest.NotDistributed(t, "writes share no statement")
	t.Parallel()
	onBothStores(t, func(t *testing.T, g *test.Turnstile) {
		ctx := t.Context()
		one, two, three, expired, ended := g.Begin(t, test.Ann(1), time.Hour), g.Begin(t, test.Ann(2), time.Hour), g.Begin(t, test.Ann(3), time.Hour), g.Begin(t, test.Ann(1), time.Minute), g.Ended(t)
		g.Clock.Advance(time.Minute)
		before := test.Version(g.MustLoad(t, three))
		touch := func(id pgsession.ID, ttl time.Duration) func() error {
			return func() error { return test.Err(g.Touch(ctx, test.Unloaded(id), ttl)) }
		}
		errs, sent := g.Together(t, touch(one, time.Minute),
			touch(one, 3*time.Hour), touch(one, 2*time.Hour), touch(two, time.Second), touch(three, time.Hour), touch(expired, time.Hour), touch(ended, time.Hour), touch(pgsession.NewID(), time.Hour))
		test.RequireErrors(t, errs, nil, nil, nil, nil, pgsession.ErrNotFound, pgsession.ErrRevoked, pgsession.ErrNotFound)
		require.Equal(t, 4, sent, "a second ttl for one session goes by itself, and two loads tell of those that gained nothing")
		require.Equal(t, 3*time.Hour, g.MustLoad(t, one).Remaining(), "the longest")
		require.Equal(t, 59*time.Minute, g.MustLoad(t, two).Remaining(), "never shortened")
		require.Equal(t, before, test.Version(g.MustLoad(t, three)), "nothing written for less than a tenth")
	})
}

func TestCoalescing_Delete(t *testing.T) {
	pgtest.NotDistributed(t, "writes share no statement")
	t.Parallel()
	onBothStores(t, func(t *testing.T, g *test.Turnstile) {
		ctx := t.Context()
		zero, one, two, expired := g.Begin(t, test.Ann(0), time.Hour), g.Begin(t, test.Ann(1), time.Hour), g.Begin(t, test.Ann(2), time.Hour), g.Begin(t, test.Ann(1), time.Microsecond)
		absent := pgsession.NewID()
		g.Clock.Advance(time.Microsecond)
		remove := func(id pgsession.ID) func() error { return func() error { return g.Delete(ctx, id) } }
		errs, sent := g.Together(t, remove(zero), remove(one), remove(two), remove(one), remove(expired), remove(absent))
		test.RequireErrors(t, errs, nil, nil, nil, nil, nil)
		require.Equal(t, 2, sent, "a load tells that nothing is stored under the last one")
		for _, id := range []pgsession.ID{zero, one, two, expired} {
			require.ErrorIs(t, g.Put(ctx, id, test.Ann(1), time.Hour), pgsession.ErrRevoked)
		}
		require.Zero(t, g.CountRows(t, `key = $1`, test.RowKey(absent)))
	})
}

// TestCoalescing_OneBadApple has one call's values refused by the server, and
// the statement with them: its company does not notice.
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

// TestCoalescing_AcrossKeys saves a session whose row lies under another key of
// the ring, in company.
func TestCoalescing_AcrossKeys(t *testing.T) {
	pgtest.NotDistributed(t, "writes share no statement")
	t.Parallel()
	g := test.NewTurnstile(t, test.Encrypted)
	ctx := t.Context()
	old, visitor := g.Begin(t, test.Ann(1), time.Hour), g.Begin(t, test.Guest, time.Hour)
	g.Store = g.Node(test.NewCrypto(t, pgsession.GenerateKey(), test.Key), pgsession.WithCoalescing(1), test.WithSlowAfter(test.Patience), pgsession.WithTimeout(test.Patience))
	fresh := g.Begin(t, test.Ann(2), time.Hour)
	save := func(id pgsession.ID, data pgsession.Data) func() error {
		return func() error { return g.Save(ctx, id, data, time.Hour) }
	}
	errs, _ := g.Together(t, save(fresh, test.Ann(3)), save(old, test.Ann(4)), save(fresh, test.Ann(5)), save(visitor, test.Guest), save(visitor, test.Ann(6)), save(old, test.Bob))
	test.RequireErrors(t, errs, nil, nil, nil, pgsession.ErrUserChanged, pgsession.ErrUserChanged)
	require.Equal(t, 4, g.Number(t, old))
	require.Equal(t, 5, g.Number(t, fresh))
}

// TestCoalescing_GivenUp cancels a caller in company: it leaves at once, and
// the others do not notice.
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

// TestCoalescing_NoDeadlocks has batches and single statements write the same
// sessions in all orders.
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

// TestCoalescing_Distributed works on a server that imitates Citus: it refuses to lock the rows of a
// list, and says that the table is distributed. From then on calls share no statement that writes.
func TestCoalescing_Distributed(t *testing.T) {
	pgtest.NotDistributed(t, "it imitates one")
	t.Parallel()
	g := test.NewTurnstile(t, test.Encrypted)
	ctx := t.Context()
	g.SQL(t, `CREATE TABLE pg_dist_partition AS SELECT 'sessions'::regclass AS logicalrelid, 'h'::"char" AS partmethod`)
	g.SQL(t, `CREATE FUNCTION refuse_locks() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF current_query() LIKE '%SKIP LOCKED%' THEN
				RAISE 'no such lock' USING ERRCODE = 'feature_not_supported';
			END IF;
			RETURN CASE TG_OP WHEN 'DELETE' THEN old ELSE new END;
		END $$`)
	g.SQL(t, `CREATE TRIGGER refuse_locks BEFORE UPDATE OR DELETE ON sessions FOR EACH ROW EXECUTE FUNCTION refuse_locks()`)
	one, two, three := g.Begin(t, test.Ann(1), time.Hour), g.Begin(t, test.Ann(2), time.Hour), g.Begin(t, test.Ann(3), time.Hour)
	errs, _ := g.Together(t, func() error { return test.Err(g.Touch(ctx, test.Unloaded(one), time.Hour)) },
		func() error { return test.Err(g.Touch(ctx, test.Unloaded(one), 2*time.Hour)) },
		func() error { return test.Err(g.Touch(ctx, test.Unloaded(two), 2*time.Hour)) })
	test.RequireErrors(t, errs, nil, nil)
	require.Equal(t, 2*time.Hour, g.MustLoad(t, one).Remaining())

	held := g.LockTable(t)
	var group sync.WaitGroup
	for _, id := range []pgsession.ID{one, two, three} {
		group.Go(func() {
			if err := g.Save(ctx, id, test.Ann(4), 2*time.Hour); err != nil {
				t.Error(err)
			}
		})
	}
	held.WaitFor(t, 3) // none queues, though one in flight is all that may share
	held.Release(t)
	group.Wait()

	require.NoError(t, g.Revoke(ctx, "ann", three.Handle()))
	n, err := g.DeleteByUser(ctx, "ann")
	require.NoError(t, err)
	require.EqualValues(t, 2, n)
	g.Clock.Advance(3 * time.Hour)
	require.EqualValues(t, 3, g.MustCleanUp(t))
}

// TestCoalescing_HeldRow has more callers write one session whose row somebody holds than the pool
// has connections. One of them waits in the server, and no other session's caller waits at all.
func TestCoalescing_HeldRow(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]func(ctx context.Context, g *test.Turnstile, id pgsession.ID) error{
		"Save": func(ctx context.Context, g *test.Turnstile, id pgsession.ID) error {
			return g.Save(ctx, id, test.Ann(2), time.Hour)
		},
		"Put": func(ctx context.Context, g *test.Turnstile, id pgsession.ID) error {
			return g.Put(ctx, id, test.Ann(2), time.Hour)
		},
		"Touch": func(ctx context.Context, g *test.Turnstile, id pgsession.ID) error {
			return test.Err(g.Touch(ctx, test.Unloaded(id), 2*time.Hour))
		},
		"Delete": func(ctx context.Context, g *test.Turnstile, id pgsession.ID) error { return g.Delete(ctx, id) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := test.NewTurnstile(t, test.Encrypted)
			g.Store = g.Node(test.NewCrypto(t, test.Key), pgsession.WithCoalescing(1), pgsession.WithTimeout(test.Patience))
			locked, free := g.Begin(t, test.Ann(1), time.Hour), g.Begin(t, test.Ann(1), time.Hour)
			held := g.Lock(t, `key = $1`, test.RowKey(locked))
			callers := 3 * int(g.Pool.Config().MaxConns)
			var called, finished sync.WaitGroup
			called.Add(callers)
			for range callers {
				finished.Go(func() {
					called.Done()
					if err := write(t.Context(), g, locked); err != nil {
						t.Error(err)
					}
				})
			}
			called.Wait()
			for range 10 {
				require.NoError(t, g.Save(t.Context(), free, test.Ann(3), time.Hour))
				require.NoError(t, test.Err(g.Touch(t.Context(), test.Unloaded(free), time.Hour)))
				require.Equal(t, 3, g.Number(t, free))
			}
			require.Eventually(t, func() bool {
				return g.Waiting() == 0 && g.Pool.Stat().AcquiredConns() == 1
			}, test.Patience, time.Millisecond)
			held.WaitFor(t, 1)
			held.Release(t)
			finished.Wait()
		})
	}
}

// TestCoalescing_AcrossSetKeys queues a save that was encoded under the old key, and rotates
// before it leaves.
func TestCoalescing_AcrossSetKeys(t *testing.T) {
	pgtest.NotDistributed(t, "writes share no statement")
	t.Parallel()
	g := test.NewTurnstile(t, test.Encrypted)
	ctx, crypto, next := t.Context(), test.NewCrypto(t, test.Key), pgsession.GenerateKey()
	g.Store = g.Node(crypto, pgsession.WithCoalescing(1), test.WithSlowAfter(test.Patience), pgsession.WithTimeout(test.Patience))
	id, other := g.Begin(t, test.Ann(1), time.Hour), g.Begin(t, test.Ann(2), time.Hour)
	g.BeforeOpening = func(*test.Lock) { require.NoError(t, crypto.SetKeys(next, test.Key)) }
	errs, _ := g.Together(t,
		func() error { return g.Save(ctx, other, test.Ann(20), time.Hour) },
		func() error { return g.Save(ctx, id, test.Ann(10), time.Hour) })
	test.RequireErrors(t, errs, nil)
	require.Equal(t, 10, g.Number(t, id))
}

// TestCoalescing_HoldsNobody has two saves share a statement, one of them of a row that somebody holds. The
// statement must not hold the other row for as long: another node ends that session meanwhile.
func TestCoalescing_HoldsNobody(t *testing.T) {
	pgtest.NotDistributed(t, "writes share no statement")
	t.Parallel()
	for name, write := range map[string]func(ctx context.Context, g *test.Turnstile, id pgsession.ID) error{
		"Save": func(ctx context.Context, g *test.Turnstile, id pgsession.ID) error {
			return g.Save(ctx, id, test.Ann(2), time.Hour)
		},
		"Put": func(ctx context.Context, g *test.Turnstile, id pgsession.ID) error {
			return g.Put(ctx, id, test.Ann(2), time.Hour)
		},
		"Touch": func(ctx context.Context, g *test.Turnstile, id pgsession.ID) error {
			return test.Err(g.Touch(ctx, test.Unloaded(id), 2*time.Hour))
		},
		"Delete": func(ctx context.Context, g *test.Turnstile, id pgsession.ID) error { return g.Delete(ctx, id) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := test.NewTurnstile(t, test.Encrypted)
			other := g.Node(test.NewCrypto(t, test.Key))
			g.Store = g.Node(test.NewCrypto(t, test.Key), pgsession.WithCoalescing(1), pgsession.WithTimeout(test.Patience))
			first, x, y := g.Begin(t, test.Ann(0), time.Hour), g.Begin(t, test.Ann(1), time.Hour), g.Begin(t, test.Ann(1), time.Hour)

			// The table is locked until both calls are queued, and the row longer.
			held := g.Lock(t, `key = $1`, test.RowKey(x))
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
			require.NoError(t, other.Delete(t.Context(), y))
			require.ErrorIs(t, test.Err(other.Load(t.Context(), y)), pgsession.ErrRevoked)
			held.Release(t)
			require.NoError(t, <-waiting)
		})
	}
}
