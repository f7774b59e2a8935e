package faults_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/test"
)

// TestSetKeys_InFlight changes the key ring after a call has read it. When the call reaches the
// row, the row lies under the new primary key. It is still the same user's.
func TestSetKeys_InFlight(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]func(t *testing.T, s *test.Store, id pgsession.ID) error{
		"Revoke": func(t *testing.T, s *test.Store, id pgsession.ID) error {
			return s.Revoke(t.Context(), "ann", id.Handle())
		},
		"RevokeAny": func(t *testing.T, s *test.Store, id pgsession.ID) error { return s.RevokeAny(t.Context(), id.Handle()) },
		"DeleteByUser": func(t *testing.T, s *test.Store, _ pgsession.ID) error {
			n, err := s.DeleteByUser(t.Context(), "ann")
			if err == nil && n != 1 {
				err = errors.New("ended none")
			}
			return err
		},
		"FindByUser": func(t *testing.T, s *test.Store, _ pgsession.ID) error {
			found, err := s.FindByUser(t.Context(), "ann", 0)
			if err == nil && len(found) != 1 {
				err = errors.New("found none")
			}
			return err
		},
		"Save": func(t *testing.T, s *test.Store, id pgsession.ID) error {
			return s.Save(t.Context(), id, test.Ann(2), time.Hour)
		},
		"Put": func(t *testing.T, s *test.Store, id pgsession.ID) error {
			return s.Put(t.Context(), id, test.Ann(2), time.Hour)
		},
		"Touch": func(t *testing.T, s *test.Store, id pgsession.ID) error {
			return test.Err(s.Touch(t.Context(), test.Unloaded(id), 2*time.Hour))
		},
		"Update": func(t *testing.T, s *test.Store, id pgsession.ID) error {
			return test.Err(s.Update(t.Context(), test.Unloaded(id), 0, test.Keep(2)))
		},
		"Renew": func(t *testing.T, s *test.Store, id pgsession.ID) error {
			return test.Err(s.Renew(t.Context(), test.Unloaded(id), 0, test.LogIn(test.Ann(2))))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := test.NewStore(t)
			crypto := test.NewCrypto(t, test.Key)
			s = s.Node(crypto, pgsession.WithTimeout(test.Patience))
			id := s.Begin(t, test.Ann(1), time.Hour)
			// What a save of another caller under the new ring writes.
			columns := func() (userKey, sealed []byte) {
				require.NoError(t, s.Pool.QueryRow(t.Context(), `SELECT user_key, sealed FROM sessions`).Scan(&userKey, &sealed))
				return userKey, sealed
			}
			const write = `UPDATE sessions SET user_key = $1, sealed = $2, version = version + 1`
			userKey, sealed := columns()
			require.NoError(t, s.Node(test.NewCrypto(t, test.OtherKey, test.Key)).Save(t.Context(), id, test.Ann(1), time.Hour))
			newUserKey, newSealed := columns()
			s.SQL(t, write, userKey, sealed)

			held := s.LockTable(t)
			done := test.Many(1, func() error { return call(t, s, id) })
			held.WaitFor(t, 1)
			require.NoError(t, crypto.SetKeys(test.OtherKey, test.Key))
			_, err := held.Exec(t.Context(), write, newUserKey, newSealed)
			require.NoError(t, err)
			require.NoError(t, held.Commit(t.Context()))
			require.NoError(t, <-done)
		})
	}
}

// TestSetKeys_InRenew removes the row's key from the ring while a Renew runs. The user stays, and
// so do the beginning and the end of the log-in.
func TestSetKeys_InRenew(t *testing.T) {
	t.Parallel()
	crypto := test.NewCrypto(t, test.Key)
	s := test.NewStore(t).Node(crypto)
	id := s.Begin(t, pgsession.Data{UserID: "ann", Lifetime: 2 * time.Hour, Values: 1}, time.Hour)
	before := s.MustLoad(t, id)
	s.Clock.Advance(time.Minute)
	renewed, err := s.Renew(t.Context(), test.Unloaded(id), time.Hour, func(*pgsession.Session) (pgsession.Data, error) {
		return test.Ann(2), crypto.SetKeys(test.OtherKey)
	})
	require.NoError(t, err)
	after := s.MustLoad(t, renewed.ID)
	require.Equal(t, before.CreatedAt, after.CreatedAt)
	require.Equal(t, before.EndsAt, after.EndsAt)
}

// TestSetKeys_InFlight_Cycle changes the key ring under a Cycle, whose row another caller meanwhile
// saves under the new primary key. The user stays, and so does the end of the log-in.
func TestSetKeys_InFlight_Cycle(t *testing.T) {
	pgtest.NotDistributed(t, "it locks the whole table, and copies from row to row")
	t.Parallel()
	crypto := test.NewCrypto(t, test.Key)
	s := test.NewStore(t).Node(crypto, pgsession.WithTimeout(test.Patience))
	id := s.Begin(t, pgsession.Data{UserID: "ann", Lifetime: 2 * time.Hour, Values: 1}, time.Hour)
	before := s.MustLoad(t, id)
	other := s.Node(test.NewCrypto(t, test.OtherKey, test.Key)).Begin(t, test.Ann(1), time.Hour)
	s.Clock.Advance(time.Minute)

	held := s.LockTable(t)
	next := pgsession.NewID()
	done := test.Many(1, func() error { return s.Cycle(t.Context(), id, next, test.Ann(2), time.Hour) })
	held.WaitFor(t, 1)
	require.NoError(t, crypto.SetKeys(test.OtherKey, test.Key))
	_, err := held.Exec(t.Context(), `UPDATE sessions SET user_key = (SELECT user_key FROM sessions WHERE key = $2), version = version + 1
		WHERE key = $1`, test.RowKey(id), test.RowKey(other))
	require.NoError(t, err)
	require.NoError(t, held.Commit(t.Context()))
	require.NoError(t, <-done)
	after := s.MustLoad(t, next)
	require.Equal(t, before.CreatedAt, after.CreatedAt)
	require.Equal(t, before.EndsAt, after.EndsAt)
}

// TestSetKeys_UnderRevocation saves, lists and ends sessions while the ring changes all the time.
// Each session is found under its user, and opens.
func TestSetKeys_UnderRevocation(t *testing.T) {
	t.Parallel()
	crypto := test.NewCrypto(t, test.Key, test.OtherKey)
	s := test.NewStore(t).Node(crypto)
	ctx := t.Context()
	stop := make(chan struct{})
	var rotating sync.WaitGroup
	rotating.Go(func() {
		rings := [][2]pgsession.Key{{test.Key, test.OtherKey}, {test.OtherKey, test.Key}}
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				if err := crypto.SetKeys(rings[i%2][0], rings[i%2][1]); err != nil {
					t.Error(err)
				}
			}
		}
	})
	test.RequireAll(t, "a session", 30, func(n int) error {
		user := pgsession.Data{UserID: string(rune('a' + n)), Values: n}
		for range 10 {
			session, err := s.Create(ctx, user, time.Hour)
			if err != nil {
				return err
			}
			if err := s.Save(ctx, session.ID, user, time.Hour); err != nil {
				return err
			}
			if err := s.Put(ctx, session.ID, user, time.Hour); err != nil {
				return err
			}
			found, err := s.FindByUser(ctx, user.UserID, 0)
			if err != nil || len(found) != 1 || found[0].UserID != user.UserID {
				return errors.Join(err, errors.New("not found, or not opened"))
			}
			if err := s.Revoke(ctx, user.UserID, session.Handle); err != nil {
				return err
			}
			if err := test.Err(s.Create(ctx, user, time.Hour)); err != nil {
				return err
			}
			if ended, err := s.DeleteByUser(ctx, user.UserID); err != nil || ended != 1 {
				return errors.Join(err, errors.New("not ended"))
			}
		}
		return nil
	})
	close(stop)
	rotating.Wait()
}
