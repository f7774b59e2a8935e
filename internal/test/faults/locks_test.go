package faults_test

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
	"github.com/pgsession/pgsession/internal/test"
)

// writesOf are the operations that have to wait while the row of the session or of the entry is
// locked, under their names in test.Operations.
var writesOf = []string{
	"save", "put", "touch", "update", "renew", "cycle", "delete", "revoke", "revoke/RevokeAny", "delete by user",
	"put/KeyValue", "delete/KeyValue", "take", "reseal",
}

// newLockedStore returns a store in which the rows of the session and of the entry "k" are locked,
// so that each of writesOf has to wait. The rows lie under an old key of the ring.
func newLockedStore(t *testing.T, connections int32, opts ...pgsession.Option) (s *test.Store, id pgsession.ID, held *test.Lock) {
	t.Helper()
	old := test.NewTracedStore(t, nil, connections)
	id = old.Begin(t, test.Ann(1), time.Hour)
	require.NoError(t, old.KeyValue().Put(t.Context(), "k", nil, time.Hour))
	s = old.Node(test.NewCrypto(t, test.OtherKey, test.Key), opts...)
	return s, id, s.Lock(t, "true")
}

// TestLocks_OneWait locks a row, and has more callers write it than the pool has connections. One
// of them waits in the server. Callers for other rows do not wait.
func TestLocks_OneWait(t *testing.T) {
	t.Parallel()
	const connections, callers = 3, 20
	for _, places := range []int{0, 1} {
		for _, name := range writesOf {
			t.Run(fmt.Sprintf("%s/WithCoalescing(%d)", name, places), func(t *testing.T) {
				t.Parallel()
				s, id, held := newLockedStore(t, connections, pgsession.WithTimeout(test.Patience), pgsession.WithCoalescing(places))
				errs := test.Many(callers, func() error { return test.Operations(s, id)[name](t.Context()) })
				held.WaitFor(t, waitsOf(name))
				requireOthersGoOn(t, s)
				requireWaits(t, s, waitsOf(name))
				held.WaitFor(t, waitsOf(name))
				requireOthersGoOn(t, s)

				held.Release(t)
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

// waitsOf returns how many statements of one of writesOf wait in the server, however many calls are
// made: one for each row that it wants at once.
func waitsOf(name string) int {
	if name == "reseal" && pgtest.IsDistributed() {
		return 2 // the session and the entry
	}
	return 1
}

func requireWaits(t *testing.T, s *test.Store, statements int) {
	t.Helper()
	require.Eventually(t, func() bool { return int(s.Pool.Stat().AcquiredConns()) == statements && s.Waiting() == 0 }, test.Patience, time.Millisecond)
}

// requireOthersGoOn runs each operation on another user's sessions.
func requireOthersGoOn(t *testing.T, s *test.Store) {
	t.Helper()
	ctx, kv := t.Context(), s.KeyValue()
	for range 3 {
		id := s.Begin(t, test.Bob, time.Hour)
		require.NoError(t, s.Save(ctx, id, test.Bob, time.Hour))
		require.NoError(t, s.Put(ctx, id, test.Bob, time.Hour))
		require.NoError(t, test.Err(s.Touch(ctx, test.Unloaded(id), 2*time.Hour)))
		require.NoError(t, test.Err(s.Update(ctx, test.Unloaded(id), 0, test.Increment)))
		require.Equal(t, 1, s.Number(t, id))
		renewed, err := s.Renew(ctx, test.Unloaded(id), 0, test.LogIn(test.Bob))
		require.NoError(t, err)
		cycled := pgsession.NewID()
		require.NoError(t, s.Cycle(ctx, renewed.ID, cycled, test.Bob, time.Hour))
		found, err := s.FindByUser(ctx, "bob", 0)
		require.NoError(t, err)
		require.Equal(t, []pgsession.Handle{cycled.Handle()}, test.Handles(found))
		require.NoError(t, s.Revoke(ctx, "bob", cycled.Handle()))
		require.NoError(t, s.Delete(ctx, s.Begin(t, test.Bob, time.Hour)))
		require.NoError(t, kv.Put(ctx, "free", nil, time.Hour))
		test.RequireEntry(t, kv, "free", nil)
		require.NoError(t, test.Err(kv.Take(ctx, "free")))
		require.NoError(t, kv.Delete(ctx, "free"))
		s.Begin(t, test.Bob, time.Hour)
		n, err := s.DeleteByUser(ctx, "bob")
		require.NoError(t, err)
		require.EqualValues(t, 1, n)
		require.Zero(t, s.MustCleanUp(t))
		require.NoError(t, test.Examine(ctx, s.Store).Err)
	}
}

// TestLocks_EndsInTime locks a row, and has many callers without a deadline write it. Each call
// ends within WithTimeout, and the next call works.
func TestLocks_EndsInTime(t *testing.T) {
	t.Parallel()
	for _, places := range []int{0, 1} {
		for _, name := range append(writesOf, "delete all") {
			t.Run(fmt.Sprintf("%s/WithCoalescing(%d)", name, places), func(t *testing.T) {
				t.Parallel()
				s, id, held := newLockedStore(t, 2, pgsession.WithTimeout(test.ShortTimeout), pgsession.WithCoalescing(places))
				other := s.Node(test.NewCrypto(t, test.Key))
				before := other.MustLoad(t, id)
				ctx, started := test.WithoutDeadline(t), time.Now()
				errs := test.Many(10, func() error { return test.Operations(s, id)[name](ctx) })
				for range 10 {
					test.RequireTimeout(t, <-errs, name)
				}
				require.Less(t, time.Since(started), test.ShortTimeout+test.Slack)
				s.WaitUntilGone(t, held)
				held.WaitFor(t, 0)
				held.Release(t)
				require.Equal(t, before, other.MustLoad(t, id), "it takes no effect later")
				require.Equal(t, 2, s.CountRows(t, "true"))
				test.RequireEntry(t, other.KeyValue(), "k", nil)
				require.Eventually(t, func() bool { // a machine that stands still may cut calls off
					err := test.Operations(s, id)[name](t.Context())
					return err == nil || errors.Is(err, pgsession.ErrNotFound) // one that was cut off had ended it
				}, test.Patience, time.Millisecond)
			})
		}
	}
}

// TestLocks_AbandonedWrite locks a row. Calls of A wait for it, one in the server and the others
// behind that, and are cancelled. B writes the row after that, and B's value stays.
func TestLocks_AbandonedWrite(t *testing.T) {
	t.Parallel()
	for _, places := range []int{0, 1} {
		for _, company := range []int{0, 4} { // callers who give up with A
			for _, name := range []string{"save", "put", "update", "touch", "reseal", "put/KeyValue"} {
				t.Run(fmt.Sprintf("%s/WithCoalescing(%d)/%d", name, places, company), func(t *testing.T) {
					t.Parallel()
					s, id, held := newLockedStore(t, 4, pgsession.WithTimeout(test.Patience), pgsession.WithCoalescing(places))
					other := s.Node(test.NewCrypto(t, test.Key, test.OtherKey), pgsession.WithTimeout(test.Patience))
					ctx, giveUp := context.WithCancel(t.Context())
					a := test.Many(1+company, func() error { return test.Operations(s, id)[name](ctx) })
					held.WaitFor(t, waitsOf(name))
					requireWaits(t, s, waitsOf(name))
					giveUp()
					for range 1 + company {
						require.ErrorIs(t, <-a, context.Canceled)
					}
					s.WaitUntilGone(t, held)
					b := test.Many(1, func() error {
						if name == "put/KeyValue" {
							return other.KeyValue().Put(t.Context(), "k", []byte("B"), time.Hour)
						}
						return other.Save(t.Context(), id, test.Ann(100), 3*time.Hour)
					})
					held.WaitFor(t, 1)
					held.Release(t)
					require.NoError(t, <-b)
					s.Lock(t, "true").Release(t) // behind everything that has waited
					if name == "put/KeyValue" {
						test.RequireEntry(t, other.KeyValue(), "k", []byte("B"))
						return
					}
					require.Equal(t, 100, other.Number(t, id))
					require.Equal(t, 3*time.Hour, other.MustLoad(t, id).Remaining())
				})
			}
		}
	}
}

// TestLocks_DeleteMany ends the sessions whose rows are not locked at once, and the others when their
// rows are free.
func TestLocks_DeleteMany(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]func(s *test.Store) (int64, error){
		"DeleteAll":    func(s *test.Store) (int64, error) { return s.DeleteAll(t.Context()) },
		"DeleteByUser": func(s *test.Store) (int64, error) { return s.DeleteByUser(t.Context(), "ann") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := test.NewStore(t)
			locked, free := s.Begin(t, test.Ann(1), time.Hour), s.Begin(t, test.Ann(2), time.Hour)
			held := s.Lock(t, `key = $1`, test.RowKey(locked))
			var ended int64
			done := test.Many(1, func() (err error) {
				ended, err = call(s)
				return err
			})
			held.WaitFor(t, 1)
			require.ErrorIs(t, test.Err(s.Load(t.Context(), free)), pgsession.ErrRevoked)
			s.MustLoad(t, locked)
			held.Release(t)
			require.NoError(t, <-done)
			require.EqualValues(t, 2, ended)
			require.ErrorIs(t, test.Err(s.Load(t.Context(), locked)), pgsession.ErrRevoked)
		})
	}
}

// TestLocks_DeleteAll_Moved moves a session to a new id after DeleteAll has read the old one.
// DeleteAll ends it under the new id.
func TestLocks_DeleteAll_Moved(t *testing.T) {
	pgtest.NotDistributed(t, "it waits for a statement of an undistributed table")
	t.Parallel()
	var move atomic.Pointer[func()]
	s := test.NewTracedStore(t, &test.Tracer{Start: func(_ context.Context, sql string) {
		if strings.Contains(sql, "given (key)") {
			if once := move.Swap(nil); once != nil {
				(*once)()
			}
		}
	}}, 4)
	id, next := s.Begin(t, test.Ann(1), time.Hour), pgsession.NewID()
	cycle := func() {
		if err := s.Cycle(t.Context(), id, next, test.Ann(1), time.Hour); err != nil {
			t.Error(err)
		}
	}
	move.Store(&cycle)
	n, err := s.DeleteAll(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	require.ErrorIs(t, test.Err(s.Load(t.Context(), next)), pgsession.ErrRevoked)
}

// TestLocks_DeleteByUser_Error locks one of a user's five sessions until the caller gives up.
// DeleteByUser ends the other four, and its error comes with that number.
func TestLocks_DeleteByUser_Error(t *testing.T) {
	t.Parallel()
	s := test.NewStore(t)
	var ids [5]pgsession.ID
	for i := range ids {
		ids[i] = s.Begin(t, test.Ann(i), time.Hour)
	}
	held := s.Lock(t, `key = $1`, test.RowKey(ids[2]))
	ctx, giveUp := context.WithCancel(t.Context())
	var n int64
	done := test.Many(1, func() (err error) {
		n, err = s.DeleteByUser(ctx, "ann")
		return err
	})
	held.WaitFor(t, 1)
	for i, id := range ids {
		if i != 2 {
			require.ErrorIs(t, test.Err(s.Load(t.Context(), id)), pgsession.ErrRevoked)
		}
	}
	giveUp()
	require.ErrorIs(t, <-done, context.Canceled)
	require.EqualValues(t, 4, n)
	held.WaitFor(t, 0)
	held.Release(t)
	s.MustLoad(t, ids[2])
	n, err := s.DeleteByUser(t.Context(), "ann")
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
}

// TestLocks_Init has Init build a missing index while a transaction is open that has written the
// table. Other writers must not have to wait behind Init.
func TestLocks_Init(t *testing.T) {
	t.Parallel()
	for _, index := range []string{"sessions_expires_hour_idx", "sessions_user_key_created_at_idx"} {
		t.Run(index, func(t *testing.T) {
			t.Parallel()
			s := test.NewStore(t, pgsession.WithTimeout(test.Patience))
			id := s.Begin(t, test.Ann(0), time.Hour)
			test.RunScript(t, s.Pool, `DROP INDEX `+index)
			held := s.Hold(t, `DELETE FROM sessions WHERE false`)
			initialized := test.Many(1, func() error { return s.Init(t.Context()) })
			held.WaitFor(t, 1)
			for i := range 20 { // behind Init, or beside it
				ctx, cancel := context.WithTimeout(t.Context(), test.Slack)
				require.NoError(t, s.Save(ctx, id, test.Ann(i), time.Hour))
				cancel()
			}
			err := <-initialized
			require.ErrorContains(t, err, "the table is in use")
			require.ErrorContains(t, err, "CONCURRENTLY: CREATE INDEX ON")
			require.NotErrorIs(t, err, pgsession.ErrSchema)
			held.Release(t)
			require.NoError(t, s.Init(t.Context()))
			require.True(t, test.Must(exists(t, s, index)))
		})
	}
	t.Run("an end in time", func(t *testing.T) {
		t.Parallel()
		gaveUp := make(chan struct{}, 10)
		s := test.NewTracedStore(t, &test.Tracer{End: func(_ string, err error) {
			var server *pgconn.PgError
			if errors.As(err, &server) && server.Code == "55P03" {
				gaveUp <- struct{}{}
			}
		}}, 2)
		test.RunScript(t, s.Pool, `DROP INDEX sessions_expires_hour_idx`)
		held := s.Hold(t, `DELETE FROM sessions WHERE false`)
		initialized := test.Many(1, func() error { return s.Init(t.Context()) })
		<-gaveUp
		held.Release(t)
		require.NoError(t, <-initialized, "it tries again")
		require.True(t, test.Must(exists(t, s, "sessions_expires_hour_idx")))
	})
}

func exists(t *testing.T, s *test.Store, index string) (found bool, err error) {
	err = s.Pool.QueryRow(t.Context(), `SELECT to_regclass($1) IS NOT NULL`, index).Scan(&found)
	return found, err
}
