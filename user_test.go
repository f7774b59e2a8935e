package pgsession_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/test"
)

func TestStore_FindByUser_AcrossKeys(t *testing.T) {
	t.Parallel()
	s := test.NewStore(t)
	ctx := t.Context()
	first := s.Begin(t, test.Ann(1), time.Hour)
	s.Clock.Advance(time.Minute)

	next := pgsession.GenerateKey()
	rotated := s.Node(test.NewCrypto(t, next, test.Key))
	secondID := rotated.Begin(t, test.Ann(2), time.Hour)
	s.Clock.Advance(time.Minute)
	third := s.Begin(t, test.Ann(3), time.Hour)

	want := []pgsession.Handle{third.Handle(), secondID.Handle(), first.Handle()}
	found, err := rotated.FindByUser(ctx, "ann", 0)
	require.NoError(t, err)
	require.Equal(t, want, test.Handles(found))
	found, err = rotated.FindByUser(ctx, "ann", 2)
	require.NoError(t, err)
	require.Equal(t, want[:2], test.Handles(found))

	t.Run("the user stays the user under another key", func(t *testing.T) {
		require.NoError(t, rotated.Save(ctx, first, test.Ann(4), time.Hour))
		require.NoError(t, rotated.Put(ctx, third, test.Ann(4), time.Hour))
		require.ErrorIs(t, rotated.Save(ctx, first, test.Bob, time.Hour), pgsession.ErrUserChanged)
	})
	t.Run("a move keeps when the log-in began", func(t *testing.T) {
		old, fresh := s.Begin(t, test.Ann(1), time.Hour), pgsession.NewID()
		began := s.MustLoad(t, old).CreatedAt
		s.Clock.Advance(time.Minute)
		require.NoError(t, rotated.Cycle(ctx, old, fresh, test.Ann(1), time.Hour))
		require.Equal(t, began, rotated.MustLoad(t, fresh).CreatedAt)
		renewed, err := s.Node(test.NewCrypto(t, pgsession.GenerateKey(), next, test.Key)).Renew(ctx, test.Unloaded(fresh), 0, test.LogIn(test.Ann(2)))
		require.NoError(t, err)
		require.Equal(t, began, renewed.CreatedAt)
		require.NoError(t, s.RevokeAny(ctx, renewed.Handle))
	})
	t.Run("log out everywhere", func(t *testing.T) {
		n, err := rotated.DeleteByUser(ctx, "ann")
		require.NoError(t, err)
		require.EqualValues(t, 3, n)
	})
}

func TestStore_DeleteByUser_MoreThanABatch(t *testing.T) {
	t.Parallel()
	s := test.NewPlaintextStore(t)
	s.SQL(t, `INSERT INTO sessions (key, user_key, data, version, created_at, expires_at, idle_timeout)
		SELECT sha256(i::text::bytea), 'ann', '1', 1, $1, $2, '1 hour' FROM generate_series(1, 2500) AS i`, test.Epoch, test.Epoch.Add(time.Hour))
	n, err := s.DeleteByUser(t.Context(), "ann")
	require.NoError(t, err)
	require.EqualValues(t, 2500, n)
}

// Revoke looks again if the key ring has changed meanwhile. It must not meet its own tombstone
// then.
func TestStore_Revoke_ExpiredUnderSetKeys(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := test.NewStore(t)
	old, next := pgsession.GenerateKey(), pgsession.GenerateKey()
	crypto := test.NewCrypto(t, old)
	node := s.Node(crypto)
	id := node.Expired(t)
	lock := node.Lock(t, "key = $1", test.RowKey(id))
	revoked := make(chan error, 1)
	go func() { revoked <- node.Revoke(ctx, "ann", id.Handle()) }()
	lock.WaitFor(t, 1)
	require.NoError(t, crypto.SetKeys(next, old))
	lock.Release(t)
	err := <-revoked
	require.ErrorIs(t, err, pgsession.ErrNotFound)
	require.NotErrorIs(t, err, pgsession.ErrRevoked)
	require.ErrorIs(t, test.Err(node.Load(ctx, id)), pgsession.ErrRevoked, "it was ended all the same")
}
