package pgsession_test

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
)

// A turnstile is a store that has one statement of a kind in flight, so that a test decides which calls
// share the next.
type turnstile struct {
	*fixture
	traced        *tracer
	beforeOpening func(held *lock) // what a test does while the calls are queued
}

func newTurnstile(t *testing.T, open opener) *turnstile {
	t.Helper()
	traced := &tracer{}
	pool := pgtest.Pool(t, func(config *pgxpool.Config) { config.ConnConfig.Tracer = traced })
	f := newFixture(t, pool, open, []pgsession.Option{pgsession.WithCoalescing(1), pgsession.WithSlowAfter(patience),
		pgsession.WithTimeout(patience), pgsession.WithMaxSize(0)})
	return &turnstile{fixture: f, traced: traced}
}

func onBothStores(t *testing.T, test func(t *testing.T, g *turnstile)) {
	for name, open := range map[string]opener{"encrypted": encrypted, "plaintext": pgsession.Plaintext} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, newTurnstile(t, open))
		})
	}
}

// together makes the first call, whose statement waits for a lock, and then the others, which queue in
// their order and leave together. It returns their errors, and how many statements they took.
func (g *turnstile) together(t *testing.T, first func() error, calls ...func() error) (errs []error, sent int) {
	t.Helper()
	held := g.lockTable(t)
	var group sync.WaitGroup
	var firstErr error
	group.Go(func() { firstErr = first() })
	held.waitFor(t, 1)

	errs = make([]error, len(calls))
	for i, call := range calls {
		group.Go(func() { errs[i] = call() })
		g.waitUntilQueued(t, i+1)
	}
	if g.beforeOpening != nil {
		g.beforeOpening(held)
	}
	before := g.traced.roundTrips.Load()
	held.release(t)
	group.Wait()
	require.NoError(t, firstErr)
	return errs, int(g.traced.roundTrips.Load() - before)
}

func (g *turnstile) waitUntilQueued(t *testing.T, calls int) {
	t.Helper()
	require.Eventually(t, func() bool { return g.Waiting() == calls }, patience, 100*time.Microsecond)
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

// TestStore_Coalescing_Network has a server that is far away. By default, up to half of the pool's connections
// then have a statement in flight, so that few callers do not wait for each other's answers to come back.
func TestStore_Coalescing_Network(t *testing.T) {
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
			options := append(c.options, pgsession.WithSlowAfter(patience)) // however busy the machine is
			s := newFixture(t, pgtest.Pool(t, server.configure), encrypted, options)
			id := s.create(t, ann(0), time.Hour)
			s.load(t, id) // which tells how far away the server is
			server.most.Store(0)
			began := time.Now()
			var group sync.WaitGroup
			for range 32 {
				group.Go(func() {
					for n := 0; n < 10 || server.most.Load() < c.most && time.Since(began) < patience; n++ {
						if !assert.NoError(t, second(s.Load(t.Context(), id))) {
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

func TestStore_Coalescing_Load(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, g *turnstile) {
		one, two, expired, ended := g.create(t, ann(1), time.Hour), g.create(t, bob, time.Hour), g.expired(t), g.ended(t)
		var sessions [7]*pgsession.Session
		load := func(i int, id pgsession.ID) func() error {
			return func() (err error) {
				sessions[i], err = g.Load(t.Context(), id)
				return err
			}
		}
		errs, sent := g.together(t, load(0, one), load(1, one), load(2, one), load(3, two), load(4, expired), load(5, ended), load(6, pgsession.NewID()))
		requireErrors(t, errs, nil, nil, nil, pgsession.ErrNotFound, pgsession.ErrRevoked, pgsession.ErrNotFound)
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
func TestStore_Coalescing_KeepsPlans(t *testing.T) {
	pgtest.NotDistributed(t, "the plans are those of the machines with the shards")
	t.Parallel()
	const connections, keptAfter = 3, 5
	pool := pgtest.Pool(t, func(config *pgxpool.Config) {
		config.MaxConns = connections
		config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement
	})
	f := newFixture(t, pool, pgsession.Plaintext, []pgsession.Option{pgsession.WithCoalescing(1), pgsession.WithSlowAfter(patience), pgsession.WithTimeout(patience)})
	g := &turnstile{fixture: f, traced: &tracer{}}
	g.sql(t, `
		INSERT INTO sessions (key, data, version, created_at, expires_at, idle_timeout)
		SELECT sha256(i::text::bytea), '0', 1, $1, $2, '1 hour' FROM generate_series(1, 1000) AS i`, epoch, epoch.Add(time.Hour))
	g.sql(t, `ANALYZE sessions`)
	before := g.sequentialScans(t)
	for range connections*keptAfter + 1 {
		one, two := g.create(t, ann(1), time.Hour), g.create(t, bob, time.Hour)
		for _, call := range []func(id pgsession.ID, data pgsession.Data) error{
			func(id pgsession.ID, _ pgsession.Data) error { return second(g.Load(t.Context(), id)) },
			func(id pgsession.ID, data pgsession.Data) error { return g.Save(t.Context(), id, data, time.Hour) },
			func(id pgsession.ID, data pgsession.Data) error { return g.Put(t.Context(), id, data, time.Hour) },
			func(id pgsession.ID, _ pgsession.Data) error {
				return second(g.Touch(t.Context(), at(id), 2*time.Hour))
			},
			func(id pgsession.ID, _ pgsession.Data) error { return g.Delete(t.Context(), id) },
		} {
			first := func() error { return call(one, ann(1)) }
			errs, _ := g.together(t, first, first, func() error { return call(two, bob) })
			requireErrors(t, errs, nil, nil)
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
	require.Equal(t, before, g.sequentialScans(t))
}

func (f *fixture) sequentialScans(t *testing.T) (scans int) {
	t.Helper()
	for _, conn := range f.pool.AcquireAllIdle(t.Context()) {
		_, err := conn.Exec(t.Context(), `SELECT pg_stat_force_next_flush()`)
		require.NoError(t, err)
		conn.Release()
	}
	require.NoError(t, f.pool.QueryRow(t.Context(), `SELECT seq_scan FROM pg_stat_user_tables WHERE relid = 'sessions'::regclass`).Scan(&scans))
	return scans
}

// So large a value would make a shared statement too large for the server.
func TestStore_Coalescing_LargeValues(t *testing.T) {
	pgtest.NotDistributed(t, "writes share no statement")
	t.Parallel()
	const size = 64 << 10
	onBothStores(t, func(t *testing.T, g *turnstile) {
		id, other := g.create(t, ann(1), time.Hour), g.create(t, ann(2), time.Hour)
		large := pgsession.Data{UserID: "ann", Values: strings.Repeat("x", size)}
		var saving sync.WaitGroup
		var err error
		g.beforeOpening = func(held *lock) {
			saving.Go(func() { err = g.Save(t.Context(), other, large, time.Hour) })
			held.waitFor(t, 2)
			require.Equal(t, 1, g.Waiting())
		}
		save := func() error { return g.Save(t.Context(), id, ann(1), time.Hour) }
		errs, _ := g.together(t, save, save)
		requireErrors(t, errs, nil)
		saving.Wait()
		require.NoError(t, err)
		loaded, err := g.Load(t.Context(), other)
		require.NoError(t, err)
		value, err := pgsession.Decode[string](loaded)
		require.NoError(t, err)
		require.Len(t, value, size)
	})
}

// TestStore_Coalescing_Bytes queues calls whose values are too large together for one statement. They take two.
func TestStore_Coalescing_Bytes(t *testing.T) {
	t.Parallel()
	const size, calls = 60 << 10, 20
	onBothStores(t, func(t *testing.T, g *turnstile) {
		ctx := t.Context()
		data := ann(strings.Repeat("x", size))
		for name, call := range map[string]func(id pgsession.ID) error{
			"Load": func(id pgsession.ID) error { return second(g.Load(ctx, id)) },
			"Save": func(id pgsession.ID) error { return g.Save(ctx, id, data, time.Hour) },
			"Put":  func(id pgsession.ID) error { return g.Put(ctx, id, data, time.Hour) },
		} {
			if name != "Load" && pgtest.IsDistributed() {
				continue // writes share no statement
			}
			run := func() error { return call(g.create(t, data, time.Hour)) }
			require.NoError(t, run()) // the size of a row to come is known from those that have come
			queued := make([]func() error, calls)
			for i := range queued {
				id := g.create(t, data, time.Hour)
				queued[i] = func() error { return call(id) }
			}
			first := g.create(t, data, time.Hour)
			errs, sent := g.together(t, func() error { return call(first) }, queued...)
			requireErrors(t, errs, make([]error, calls)...)
			require.Equal(t, 2, sent, name)
		}
	})
}

func TestStore_Coalescing_Save(t *testing.T) {
	pgtest.NotDistributed(t, "writes share no statement")
	t.Parallel()
	onBothStores(t, func(t *testing.T, g *turnstile) {
		ctx := t.Context()
		one, two, bobs := g.create(t, ann(1), time.Hour), g.create(t, ann(2), time.Hour), g.create(t, bob, time.Hour)
		expired, ended := g.expired(t), g.ended(t)
		save := func(id pgsession.ID, data pgsession.Data) func() error {
			return func() error { return g.Save(ctx, id, data, 2*time.Hour) }
		}
		errs, _ := g.together(t, save(one, ann(9)),
			save(one, ann(10)), save(one, ann(11)), save(two, ann(20)),
			save(bobs, ann(30)), save(bobs, bob), save(bobs, ann(32)),
			save(expired, ann(1)), save(ended, ann(1)), save(pgsession.NewID(), ann(1)))
		requireErrors(t, errs, nil, nil, nil, pgsession.ErrUserChanged, nil, pgsession.ErrUserChanged,
			pgsession.ErrNotFound, pgsession.ErrRevoked, pgsession.ErrNotFound)
		require.Equal(t, 11, g.count(t, one), "the later of two")
		require.Equal(t, 20, g.count(t, two))
		require.Equal(t, "bob", g.load(t, bobs).UserID)
		require.Equal(t, 2*time.Hour, g.load(t, one).Remaining())

		errs, sent := g.together(t, save(one, ann(1)), save(one, ann(2)), save(two, ann(3)), save(one, ann(4)))
		requireErrors(t, errs, nil, nil, nil)
		require.Equal(t, 1, sent)
		require.Equal(t, 4, g.count(t, one))
	})
}

func TestStore_Coalescing_Put(t *testing.T) {
	pgtest.NotDistributed(t, "writes share no statement")
	t.Parallel()
	onBothStores(t, func(t *testing.T, g *turnstile) {
		ctx := t.Context()
		one, bobs, ended, expired := g.create(t, ann(1), time.Hour), g.create(t, bob, time.Hour), g.ended(t), g.create(t, bob, time.Microsecond)
		fresh, derived := pgsession.NewID(), pgsession.DeriveID("token")
		g.clock.Advance(time.Minute)
		put := func(id pgsession.ID, data pgsession.Data) func() error {
			return func() error { return g.Put(ctx, id, data, time.Hour) }
		}
		errs, _ := g.together(t, put(one, ann(2)),
			put(one, ann(3)), put(bobs, ann(4)), put(ended, ann(5)), put(expired, ann(6)), put(fresh, ann(7)), put(fresh, ann(8)), put(derived, guest))
		requireErrors(t, errs, nil, pgsession.ErrUserChanged, pgsession.ErrRevoked, pgsession.ErrNotFound, nil, nil, nil)
		require.Equal(t, 3, g.count(t, one))
		require.Equal(t, epoch, g.load(t, one).CreatedAt)
		require.Equal(t, 8, g.count(t, fresh))
		require.Equal(t, "bob", g.load(t, bobs).UserID)
		g.load(t, derived)
	})
}

func TestStore_Coalescing_Touch(t *testing.T) {
	pgtest.NotDistributed(t, "writes share no statement")
	t.Parallel()
	onBothStores(t, func(t *testing.T, g *turnstile) {
		ctx := t.Context()
		one, two, three, expired, ended := g.create(t, ann(1), time.Hour), g.create(t, ann(2), time.Hour), g.create(t, ann(3), time.Hour), g.create(t, ann(1), time.Minute), g.ended(t)
		g.clock.Advance(time.Minute)
		before := version(g.load(t, three))
		touch := func(id pgsession.ID, ttl time.Duration) func() error {
			return func() error { return second(g.Touch(ctx, at(id), ttl)) }
		}
		errs, sent := g.together(t, touch(one, time.Minute),
			touch(one, 3*time.Hour), touch(one, 2*time.Hour), touch(two, time.Second), touch(three, time.Hour), touch(expired, time.Hour), touch(ended, time.Hour), touch(pgsession.NewID(), time.Hour))
		requireErrors(t, errs, nil, nil, nil, nil, pgsession.ErrNotFound, pgsession.ErrRevoked, pgsession.ErrNotFound)
		require.Equal(t, 2, sent, "a second ttl for one session goes by itself")
		require.Equal(t, 3*time.Hour, g.load(t, one).Remaining(), "the longest")
		require.Equal(t, 59*time.Minute, g.load(t, two).Remaining(), "never shortened")
		require.Equal(t, before, version(g.load(t, three)), "nothing written for less than a tenth")
	})
}

func TestStore_Coalescing_Delete(t *testing.T) {
	pgtest.NotDistributed(t, "writes share no statement")
	t.Parallel()
	onBothStores(t, func(t *testing.T, g *turnstile) {
		ctx := t.Context()
		zero, one, two, expired := g.create(t, ann(0), time.Hour), g.create(t, ann(1), time.Hour), g.create(t, ann(2), time.Hour), g.create(t, ann(1), time.Microsecond)
		absent := pgsession.NewID()
		g.clock.Advance(time.Microsecond)
		remove := func(id pgsession.ID) func() error { return func() error { return g.Delete(ctx, id) } }
		errs, sent := g.together(t, remove(zero), remove(one), remove(two), remove(one), remove(expired), remove(absent))
		requireErrors(t, errs, nil, nil, nil, nil, nil)
		require.Equal(t, 1, sent)
		for _, id := range []pgsession.ID{zero, one, two, expired} {
			require.ErrorIs(t, g.Put(ctx, id, ann(1), time.Hour), pgsession.ErrRevoked)
		}
		require.Zero(t, g.rows(t, `key = $1`, key(absent)))
	})
}

// TestStore_Coalescing_OneBadApple has one call's values refused by the server, and
// the statement with them: its company does not notice.
func TestStore_Coalescing_OneBadApple(t *testing.T) {
	pgtest.NotDistributed(t, "writes share no statement")
	t.Parallel()
	g := newTurnstile(t, pgsession.Plaintext)
	ctx := t.Context()
	one, two, three := g.create(t, ann(1), time.Hour), g.create(t, ann(2), time.Hour), g.create(t, ann(3), time.Hour)
	save := func(id pgsession.ID, values any) func() error {
		return func() error { return g.Save(ctx, id, ann(values), time.Hour) }
	}
	errs, _ := g.together(t, save(one, 0), save(one, 10), save(two, json.RawMessage(`"\u0000"`)), save(three, 30))
	requireErrors(t, errs, nil, pgsession.ErrEncode, nil)
	require.Equal(t, 10, g.count(t, one))
	require.Equal(t, 2, g.count(t, two))
	require.Equal(t, 30, g.count(t, three))
}

// TestStore_Coalescing_AcrossKeys saves a session whose row lies under another key of
// the ring, in company.
func TestStore_Coalescing_AcrossKeys(t *testing.T) {
	pgtest.NotDistributed(t, "writes share no statement")
	t.Parallel()
	g := newTurnstile(t, encrypted)
	ctx := t.Context()
	old, visitor := g.create(t, ann(1), time.Hour), g.create(t, guest, time.Hour)
	g.fixture = g.node(newCrypto(t, pgsession.GenerateKey(), testKey), pgsession.WithCoalescing(1), pgsession.WithSlowAfter(patience), pgsession.WithTimeout(patience))
	fresh := g.create(t, ann(2), time.Hour)
	save := func(id pgsession.ID, data pgsession.Data) func() error {
		return func() error { return g.Save(ctx, id, data, time.Hour) }
	}
	errs, _ := g.together(t, save(fresh, ann(3)), save(old, ann(4)), save(fresh, ann(5)), save(visitor, guest), save(visitor, ann(6)), save(old, bob))
	requireErrors(t, errs, nil, nil, nil, pgsession.ErrUserChanged, pgsession.ErrUserChanged)
	require.Equal(t, 4, g.count(t, old))
	require.Equal(t, 5, g.count(t, fresh))
}

// TestStore_Coalescing_GivenUp cancels a caller in company: it leaves at once, and
// the others do not notice.
func TestStore_Coalescing_GivenUp(t *testing.T) {
	pgtest.NotDistributed(t, "writes share no statement")
	t.Parallel()
	g := newTurnstile(t, encrypted)
	one, two := g.create(t, ann(1), time.Hour), g.create(t, ann(2), time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	g.beforeOpening = func(*lock) {
		cancel()
		g.waitUntilQueued(t, 1)
	}
	errs, _ := g.together(t,
		func() error { return g.Save(t.Context(), one, ann(10), time.Hour) },
		func() error { return g.Save(ctx, one, ann(11), time.Hour) },
		func() error { return g.Save(t.Context(), two, ann(20), time.Hour) })
	requireErrors(t, errs, context.Canceled, nil)
	require.Equal(t, 10, g.count(t, one))
	require.Equal(t, 20, g.count(t, two))
}

// TestStore_Coalescing_NoDeadlocks has batches and single statements write the same
// sessions in all orders.
func TestStore_Coalescing_NoDeadlocks(t *testing.T) {
	t.Parallel()
	var deadlocks atomic.Int32 // those that the store has retried, too
	s := newTracedStore(t, &tracer{end: func(_ string, err error) {
		var server *pgconn.PgError
		if errors.As(err, &server) && server.Code == "40P01" {
			deadlocks.Add(1)
		}
	}}, 8, pgsession.WithCoalescing(2))
	ctx := t.Context()
	ids := make([]pgsession.ID, 20)
	for i := range ids {
		ids[i] = s.create(t, ann(i), time.Hour)
	}
	other := s.node(newCrypto(t, testKey), pgsession.WithCoalescing(2))
	var group sync.WaitGroup
	for worker := range 32 {
		store := []*fixture{s, other}[worker%2]
		group.Go(func() {
			for i := range 40 {
				id := ids[(worker*7+i*13)%len(ids)]
				var err error
				switch i % 3 {
				case 0:
					err = store.Save(ctx, id, ann(i), time.Hour)
				case 1:
					err = store.Put(ctx, id, ann(i), time.Hour)
				case 2:
					err = second(store.Touch(ctx, at(id), 24*time.Hour))
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

// TestStore_Coalescing_Distributed works on a server that imitates Citus: it refuses to lock the rows of a
// list, and says that the table is distributed. From then on calls share no statement that writes.
func TestStore_Coalescing_Distributed(t *testing.T) {
	pgtest.NotDistributed(t, "it imitates one")
	t.Parallel()
	g := newTurnstile(t, encrypted)
	ctx := t.Context()
	g.sql(t, `CREATE TABLE pg_dist_partition AS SELECT 'sessions'::regclass AS logicalrelid, 'h'::"char" AS partmethod`)
	g.sql(t, `CREATE FUNCTION refuse_locks() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF current_query() LIKE '%SKIP LOCKED%' THEN
				RAISE 'no such lock' USING ERRCODE = 'feature_not_supported';
			END IF;
			RETURN CASE TG_OP WHEN 'DELETE' THEN old ELSE new END;
		END $$`)
	g.sql(t, `CREATE TRIGGER refuse_locks BEFORE UPDATE OR DELETE ON sessions FOR EACH ROW EXECUTE FUNCTION refuse_locks()`)
	one, two, three := g.create(t, ann(1), time.Hour), g.create(t, ann(2), time.Hour), g.create(t, ann(3), time.Hour)
	errs, _ := g.together(t, func() error { return second(g.Touch(ctx, at(one), time.Hour)) },
		func() error { return second(g.Touch(ctx, at(one), 2*time.Hour)) },
		func() error { return second(g.Touch(ctx, at(two), 2*time.Hour)) })
	requireErrors(t, errs, nil, nil)
	require.Equal(t, 2*time.Hour, g.load(t, one).Remaining())

	held := g.lockTable(t)
	var group sync.WaitGroup
	for _, id := range []pgsession.ID{one, two, three} {
		group.Go(func() {
			if err := g.Save(ctx, id, ann(4), 2*time.Hour); err != nil {
				t.Error(err)
			}
		})
	}
	held.waitFor(t, 3) // none queues, though one in flight is all that may share
	held.release(t)
	group.Wait()

	require.NoError(t, g.Revoke(ctx, "ann", three.Handle()))
	n, err := g.DeleteByUser(ctx, "ann")
	require.NoError(t, err)
	require.EqualValues(t, 2, n)
	g.clock.Advance(3 * time.Hour)
	require.EqualValues(t, 3, g.cleanUp(t))
}

// TestStore_Coalescing_HeldRow has more callers write one session whose row somebody holds than the pool
// has connections. One of them waits in the server, and no other session's caller waits at all.
func TestStore_Coalescing_HeldRow(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]func(ctx context.Context, g *turnstile, id pgsession.ID) error{
		"Save": func(ctx context.Context, g *turnstile, id pgsession.ID) error {
			return g.Save(ctx, id, ann(2), time.Hour)
		},
		"Put": func(ctx context.Context, g *turnstile, id pgsession.ID) error {
			return g.Put(ctx, id, ann(2), time.Hour)
		},
		"Touch": func(ctx context.Context, g *turnstile, id pgsession.ID) error {
			return second(g.Touch(ctx, at(id), 2*time.Hour))
		},
		"Delete": func(ctx context.Context, g *turnstile, id pgsession.ID) error { return g.Delete(ctx, id) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newTurnstile(t, encrypted)
			g.fixture = g.node(newCrypto(t, testKey), pgsession.WithCoalescing(1), pgsession.WithTimeout(patience))
			locked, free := g.create(t, ann(1), time.Hour), g.create(t, ann(1), time.Hour)
			held := g.lock(t, `key = $1`, key(locked))
			callers := 3 * int(g.pool.Config().MaxConns)
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
				require.NoError(t, g.Save(t.Context(), free, ann(3), time.Hour))
				require.NoError(t, second(g.Touch(t.Context(), at(free), time.Hour)))
				require.Equal(t, 3, g.count(t, free))
			}
			require.Eventually(t, func() bool {
				return g.Waiting() == 0 && g.pool.Stat().AcquiredConns() == 1
			}, patience, time.Millisecond)
			held.waitFor(t, 1)
			held.release(t)
			finished.Wait()
		})
	}
}

// TestStore_Coalescing_AcrossSetKeys queues a save that was encoded under the old key, and rotates
// before it leaves.
func TestStore_Coalescing_AcrossSetKeys(t *testing.T) {
	pgtest.NotDistributed(t, "writes share no statement")
	t.Parallel()
	g := newTurnstile(t, encrypted)
	ctx, crypto, next := t.Context(), newCrypto(t, testKey), pgsession.GenerateKey()
	g.fixture = g.node(crypto, pgsession.WithCoalescing(1), pgsession.WithSlowAfter(patience), pgsession.WithTimeout(patience))
	id, other := g.create(t, ann(1), time.Hour), g.create(t, ann(2), time.Hour)
	g.beforeOpening = func(*lock) { require.NoError(t, crypto.SetKeys(next, testKey)) }
	errs, _ := g.together(t,
		func() error { return g.Save(ctx, other, ann(20), time.Hour) },
		func() error { return g.Save(ctx, id, ann(10), time.Hour) })
	requireErrors(t, errs, nil)
	require.Equal(t, 10, g.count(t, id))
}
