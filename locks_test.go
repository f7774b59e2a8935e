package pgsession_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
)

// slack is what an operation may take beyond its timeout. The promise is a second, and the machine may be
// slow; an operation that is not bounded takes for ever.
const slack = 5 * time.Second

// writesOf are the operations on one row that have to wait while somebody holds it, the session's and the
// entry's, under their names in operationsOf.
var writesOf = []string{
	"save", "put", "touch", "update", "renew", "cycle", "delete", "revoke", "revoke/RevokeAny", "delete by user",
	"put/KeyValue", "delete/KeyValue", "take", "reseal",
}

// otherKey is the primary key of stores whose table holds rows under testKey.
var otherKey = pgsession.GenerateKey()

// newLockedStore returns a store in which somebody holds the rows of the session and of the entry "k", so
// that each of writesOf has to wait. They lie under an old key of the ring.
func newLockedStore(t *testing.T, connections int32, opts ...pgsession.Option) (s *fixture, id pgsession.ID, held *lock) {
	t.Helper()
	old := newTracedStore(t, nil, connections)
	id = old.create(t, ann(1), time.Hour)
	require.NoError(t, old.KeyValue().Put(t.Context(), "k", nil, time.Hour))
	s = old.node(newCrypto(t, otherKey, testKey), opts...)
	return s, id, s.lock(t, "true")
}

// many calls an operation n times at once. The channel gives what they return.
func many(n int, call func() error) <-chan error {
	errs := make(chan error, n)
	for range n {
		go func() { errs <- call() }()
	}
	return errs
}

// TestLocks_OneWait has more callers want a row that somebody holds than the pool has connections. One of
// them waits in the server. The callers that want other rows do not wait at all.
func TestLocks_OneWait(t *testing.T) {
	t.Parallel()
	const connections, callers = 3, 20
	for _, places := range []int{0, 1} {
		for _, name := range writesOf {
			t.Run(fmt.Sprintf("%s/WithCoalescing(%d)", name, places), func(t *testing.T) {
				t.Parallel()
				s, id, held := newLockedStore(t, connections, pgsession.WithTimeout(patience), pgsession.WithCoalescing(places))
				errs := many(callers, func() error { return operationsOf(s, id)[name](t.Context()) })
				held.waitFor(t, 1)
				requireOthersGoOn(t, s)
				require.Eventually(t, func() bool { return s.pool.Stat().AcquiredConns() == 1 && s.Waiting() == 0 }, patience, time.Millisecond)
				held.waitFor(t, 1)
				requireOthersGoOn(t, s)

				held.release(t)
				done := 0
				for range callers {
					err := <-errs
					if err == nil {
						done++
						continue
					}
					// Of those that end a session or move it, one gets it.
					require.ErrorIs(t, err, pgsession.ErrNotFound)
				}
				require.Positive(t, done)
			})
		}
	}
}

// requireOthersGoOn runs each operation on another user's sessions.
func requireOthersGoOn(t *testing.T, s *fixture) {
	t.Helper()
	ctx, kv := t.Context(), s.KeyValue()
	for range 3 {
		id := s.create(t, bob, time.Hour)
		require.NoError(t, s.Save(ctx, id, bob, time.Hour))
		require.NoError(t, s.Put(ctx, id, bob, time.Hour))
		require.NoError(t, second(s.Touch(ctx, at(id), 2*time.Hour)))
		require.NoError(t, second(s.Update(ctx, at(id), 0, increment)))
		require.Equal(t, 1, s.count(t, id))
		renewed, err := s.Renew(ctx, at(id), 0, login(bob))
		require.NoError(t, err)
		cycled := pgsession.NewID()
		require.NoError(t, s.Cycle(ctx, renewed.ID, cycled, bob, time.Hour))
		found, err := s.FindByUser(ctx, "bob", 0)
		require.NoError(t, err)
		require.Equal(t, []pgsession.Handle{cycled.Handle()}, handles(found))
		require.NoError(t, s.Revoke(ctx, "bob", cycled.Handle()))
		require.NoError(t, s.Delete(ctx, s.create(t, bob, time.Hour)))
		require.NoError(t, kv.Put(ctx, "free", nil, time.Hour))
		requireEntry(t, kv, "free", nil)
		require.NoError(t, second(kv.Take(ctx, "free")))
		require.NoError(t, kv.Delete(ctx, "free"))
		s.create(t, bob, time.Hour)
		n, err := s.DeleteByUser(ctx, "bob")
		require.NoError(t, err)
		require.EqualValues(t, 1, n)
		require.Zero(t, s.cleanUp(t))
		require.NoError(t, s.Check(ctx))
	}
}

// TestLocks_NobodyHeldByABatch has two saves share a statement, one of them of a row that somebody holds. The
// statement must not hold the other row for as long: another node ends that session meanwhile.
func TestLocks_NobodyHeldByABatch(t *testing.T) {
	pgtest.NotDistributed(t, "writes share no statement")
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
			other := g.node(newCrypto(t, testKey))
			g.fixture = g.node(newCrypto(t, testKey), pgsession.WithCoalescing(1), pgsession.WithTimeout(patience))
			first, x, y := g.create(t, ann(0), time.Hour), g.create(t, ann(1), time.Hour), g.create(t, ann(1), time.Hour)

			// The table is locked until both calls are queued, and the row longer.
			held := g.lock(t, `key = $1`, key(x))
			_, err := held.Exec(t.Context(), `SAVEPOINT before; LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE`)
			require.NoError(t, err)
			started := many(1, func() error { return write(t.Context(), g, first) })
			held.waitFor(t, 1)
			var waiting, free <-chan error
			waiting = many(1, func() error { return write(t.Context(), g, x) })
			g.waitUntilQueued(t, 1)
			gone, leave := context.WithCancel(t.Context())
			free = many(1, func() error { return write(gone, g, y) })
			g.waitUntilQueued(t, 2)
			_, err = held.Exec(t.Context(), `ROLLBACK TO before`)
			require.NoError(t, err)
			require.NoError(t, <-started)
			held.waitFor(t, 1)
			require.NoError(t, <-free, "the row that nobody holds")
			leave()
			require.NoError(t, other.Delete(t.Context(), y))
			require.ErrorIs(t, second(other.Load(t.Context(), y)), pgsession.ErrRevoked)
			held.release(t)
			require.NoError(t, <-waiting)
		})
	}
}

// withoutDeadline returns a context that has no deadline, and ends after patience, so that a test of what is not
// bounded fails.
func withoutDeadline(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	timer := time.AfterFunc(patience, cancel)
	t.Cleanup(func() {
		timer.Stop()
		cancel()
	})
	return ctx
}

// TestLocks_EndsInTime has many callers without a deadline want a row that somebody holds. Each gets its
// answer within WithTimeout, and the next call does not suffer from it.
func TestLocks_EndsInTime(t *testing.T) {
	t.Parallel()
	for _, places := range []int{0, 1} {
		for _, name := range append(writesOf, "delete all") {
			t.Run(fmt.Sprintf("%s/WithCoalescing(%d)", name, places), func(t *testing.T) {
				t.Parallel()
				s, id, held := newLockedStore(t, 2, pgsession.WithTimeout(shortTimeout), pgsession.WithCoalescing(places))
				ctx, started := withoutDeadline(t), time.Now()
				errs := many(10, func() error { return operationsOf(s, id)[name](ctx) })
				for range 10 {
					requireTimeout(t, <-errs, name)
				}
				require.Less(t, time.Since(started), shortTimeout+slack)
				s.waitUntilGone(t, held)
				held.waitFor(t, 0)
				held.release(t)
				other := s.node(newCrypto(t, testKey))
				require.Equal(t, 1, other.count(t, id), "it takes no effect later")
				requireEntry(t, other.KeyValue(), "k", nil)
				require.NoError(t, operationsOf(s, id)[name](t.Context()))
			})
		}
	}
}

// TestLocks_AbandonedWrite has A give up, of whose calls one waits in the server for a row that somebody holds
// and the others behind it. B writes the row after that, and B's value stays.
func TestLocks_AbandonedWrite(t *testing.T) {
	t.Parallel()
	for _, places := range []int{0, 1} {
		for _, company := range []int{0, 4} { // callers who give up with A
			for _, name := range []string{"save", "put", "update", "touch", "reseal", "put/KeyValue"} {
				t.Run(fmt.Sprintf("%s/WithCoalescing(%d)/%d", name, places, company), func(t *testing.T) {
					t.Parallel()
					s, id, held := newLockedStore(t, 4, pgsession.WithTimeout(patience), pgsession.WithCoalescing(places))
					other := s.node(newCrypto(t, testKey, otherKey), pgsession.WithTimeout(patience))
					ctx, giveUp := context.WithCancel(t.Context())
					a := many(1+company, func() error { return operationsOf(s, id)[name](ctx) })
					held.waitFor(t, 1)
					require.Eventually(t, func() bool { return s.pool.Stat().AcquiredConns() == 1 && s.Waiting() == 0 }, patience, time.Millisecond)
					giveUp()
					for range 1 + company {
						require.ErrorIs(t, <-a, context.Canceled)
					}
					s.waitUntilGone(t, held)
					b := many(1, func() error {
						if name == "put/KeyValue" {
							return other.KeyValue().Put(t.Context(), "k", []byte("B"), time.Hour)
						}
						return other.Save(t.Context(), id, ann(100), 3*time.Hour)
					})
					held.waitFor(t, 1)
					held.release(t)
					require.NoError(t, <-b)
					s.lock(t, "true").release(t) // behind everything that has waited
					if name == "put/KeyValue" {
						requireEntry(t, other.KeyValue(), "k", []byte("B"))
						return
					}
					require.Equal(t, 100, other.count(t, id))
					require.Equal(t, 3*time.Hour, other.load(t, id).Remaining())
				})
			}
		}
	}
}

// waitUntilGone waits until the backends of calls that gave up have ended: a statement that was on its way
// may take effect until then.
func (f *fixture) waitUntilGone(t *testing.T, held *lock) {
	t.Helper()
	require.Eventually(t, func() bool {
		_, err := held.Exec(t.Context(), `SELECT pg_stat_clear_snapshot()`)
		var backends int32
		if err == nil {
			err = held.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity
				WHERE application_name = current_setting('application_name') AND pid <> pg_backend_pid()`).Scan(&backends)
		}
		stat := f.pool.Stat()
		return err == nil && stat.AcquiredConns() == 0 && stat.ConstructingConns() == 0 && backends <= stat.TotalConns()
	}, patience, time.Millisecond)
}

// TestLocks_DeleteAll ends at once what nobody holds.
func TestLocks_DeleteAll(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	locked, free := s.create(t, ann(1), time.Hour), s.create(t, bob, time.Hour)
	held := s.lock(t, `key = $1`, key(locked))
	var ended atomic.Int64
	done := many(1, func() error {
		n, err := s.DeleteAll(t.Context())
		ended.Store(n)
		return err
	})
	held.waitFor(t, 1)
	require.ErrorIs(t, second(s.Load(t.Context(), free)), pgsession.ErrRevoked)
	held.release(t)
	require.NoError(t, <-done)
	require.EqualValues(t, 2, ended.Load())
	require.ErrorIs(t, second(s.Load(t.Context(), locked)), pgsession.ErrRevoked)
}

// TestLocks_DeleteAll_Moved has a session move to a new id when DeleteAll has read the old one. It is ended there.
func TestLocks_DeleteAll_Moved(t *testing.T) {
	pgtest.NotDistributed(t, "it waits for a statement of an undistributed table")
	t.Parallel()
	var move atomic.Pointer[func()]
	s := newTracedStore(t, &tracer{start: func(_ context.Context, sql string) {
		if strings.Contains(sql, "pgsession_seen") {
			if once := move.Swap(nil); once != nil {
				(*once)()
			}
		}
	}}, 4)
	id, next := s.create(t, ann(1), time.Hour), pgsession.NewID()
	cycle := func() {
		if err := s.Cycle(t.Context(), id, next, ann(1), time.Hour); err != nil {
			t.Error(err)
		}
	}
	move.Store(&cycle)
	n, err := s.DeleteAll(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	require.ErrorIs(t, second(s.Load(t.Context(), next)), pgsession.ErrRevoked)
}

// TestLocks_DeleteByUser_Error ends four of a user's five sessions, and says so, though the fifth is held for
// longer than the call may take.
func TestLocks_DeleteByUser_Error(t *testing.T) {
	t.Parallel()
	patientStore := newStore(t)
	s := patientStore.node(newCrypto(t, testKey), pgsession.WithTimeout(shortTimeout))
	var ids [5]pgsession.ID
	for i := range ids {
		ids[i] = patientStore.create(t, ann(i), time.Hour)
	}
	held := s.lock(t, `key = $1`, key(ids[2]))
	n, err := s.DeleteByUser(t.Context(), "ann")
	requireTimeout(t, err, "delete by user")
	require.EqualValues(t, 4, n)
	for i, id := range ids {
		if i != 2 {
			require.ErrorIs(t, second(patientStore.Load(t.Context(), id)), pgsession.ErrRevoked)
		}
	}
	held.waitFor(t, 0)
	held.release(t)
	patientStore.load(t, ids[2])
	n, err = patientStore.DeleteByUser(t.Context(), "ann")
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
}

// TestLocks_CleanUp gets past the rows that somebody holds, in each way to clean up, at each run.
func TestLocks_CleanUp(t *testing.T) {
	t.Parallel()
	for name, cleanUp := range map[string]func(s *fixture) (int64, error){
		"CleanupExpired": func(s *fixture) (int64, error) { return s.CleanupExpired(t.Context()) },
		"PruneExpired":   func(s *fixture) (int64, error) { return s.KeyValue().PruneExpired(t.Context()) },
		"SpawnCleanup": func(s *fixture) (int64, error) {
			before := s.Stats()
			cleanup := s.SpawnCleanup(t.Context(), time.Millisecond)
			defer cleanup.Stop()
			for s.Stats().LastCleanup.Equal(before.LastCleanup) {
				if err := t.Context().Err(); err != nil {
					return 0, err
				}
			}
			return s.Stats().Cleaned - before.Cleaned, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			for run := range 2 {
				s.expire(t, 50)
				s.clock.Advance(2 * time.Hour)
				held := s.lock(t, `key = (SELECT key FROM sessions ORDER BY key LIMIT 1)`)
				removed, err := cleanUp(s)
				require.NoError(t, err, run)
				require.EqualValues(t, 49, removed, run)
				require.Equal(t, 1, s.rows(t, "true"))
				held.waitFor(t, 0)
				held.release(t)
				s.clock.Advance(2 * time.Hour)
				removed, err = cleanUp(s)
				require.NoError(t, err, run)
				require.EqualValues(t, 1, removed, run)
			}
		})
	}
}

// TestLocks_CleanUp_ManyHeld has more rows held than one look reads. What lies behind them is removed, and the
// clean-up ends.
func TestLocks_CleanUp_ManyHeld(t *testing.T) {
	pgtest.NotDistributed(t, "it takes a statement for each row there")
	t.Parallel()
	s := newStore(t)
	const rows, free = 11_000, 10
	s.expire(t, rows)
	s.lock(t, `key IN (SELECT key FROM sessions ORDER BY key LIMIT $1)`, rows-free)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	removed, err := s.CleanupExpired(ctx)
	require.NoError(t, err)
	require.EqualValues(t, free, removed)
}

// TestLocks_Init builds an index that is missing while a transaction is open that has written the table. Its
// wait must not make all other writers wait behind it.
func TestLocks_Init(t *testing.T) {
	t.Parallel()
	for _, index := range []string{"sessions_expires_hour_idx", "sessions_user_key_created_at_idx"} {
		t.Run(index, func(t *testing.T) {
			t.Parallel()
			s := newStore(t, pgsession.WithTimeout(patience))
			id := s.create(t, ann(0), time.Hour)
			runScript(t, s.pool, `DROP INDEX `+index)
			held := s.hold(t, `DELETE FROM sessions WHERE false`)
			initialized := many(1, func() error { return s.Init(t.Context()) })
			held.waitFor(t, 1)
			for i := range 20 { // behind Init, or beside it
				ctx, cancel := context.WithTimeout(t.Context(), slack)
				require.NoError(t, s.Save(ctx, id, ann(i), time.Hour))
				cancel()
			}
			err := <-initialized
			require.ErrorContains(t, err, "the table is in use")
			require.ErrorContains(t, err, "CONCURRENTLY: CREATE INDEX ON")
			require.NotErrorIs(t, err, pgsession.ErrSchema)
			held.release(t)
			require.NoError(t, s.Init(t.Context()))
			require.True(t, must(exists(t, s, index)))
		})
	}
	t.Run("an end in time", func(t *testing.T) {
		t.Parallel()
		gaveUp := make(chan struct{}, 10)
		s := newTracedStore(t, &tracer{end: func(_ string, err error) {
			var server *pgconn.PgError
			if errors.As(err, &server) && server.Code == "55P03" {
				gaveUp <- struct{}{}
			}
		}}, 2)
		runScript(t, s.pool, `DROP INDEX sessions_expires_hour_idx`)
		held := s.hold(t, `DELETE FROM sessions WHERE false`)
		initialized := many(1, func() error { return s.Init(t.Context()) })
		<-gaveUp
		held.release(t)
		require.NoError(t, <-initialized, "it tries again")
		require.True(t, must(exists(t, s, "sessions_expires_hour_idx")))
	})
}

func exists(t *testing.T, s *fixture, index string) (found bool, err error) {
	err = s.pool.QueryRow(t.Context(), `SELECT to_regclass($1) IS NOT NULL`, index).Scan(&found)
	return found, err
}
