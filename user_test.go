package pgsession_test

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
)

func handles(sessions []*pgsession.Session) []pgsession.Handle {
	var found []pgsession.Handle
	for _, session := range sessions {
		found = append(found, session.Handle)
	}
	return found
}

func TestStore_FindByUser(t *testing.T) {
	t.Parallel()
	for name, s := range bothStores(t) {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			var newestFirst []pgsession.Handle
			for range 5 {
				newestFirst = append([]pgsession.Handle{s.create(t, ann(1), time.Hour).Handle()}, newestFirst...)
				s.clock.Advance(time.Minute)
			}
			s.ended(t)
			s.create(t, guest, time.Hour)
			s.create(t, pgsession.Data{UserID: "bob"}, time.Hour)
			s.create(t, pgsession.Data{UserID: "ann "}, time.Hour)
			s.create(t, ann(1), time.Microsecond)
			s.clock.Advance(time.Microsecond)

			for limit, want := range map[int]int{0: 5, -1: 5, 1: 1, 3: 3, 5: 5, 1000: 5} {
				found, err := s.FindByUser(ctx, "ann", limit)
				require.NoError(t, err)
				require.Equal(t, newestFirst[:want], handles(found), "limit %d", limit)
			}
			for _, nobody := range []string{"", "carl", "an"} {
				found, err := s.FindByUser(ctx, nobody, 0)
				require.NoError(t, err)
				require.Empty(t, found)
			}
		})
	}
	t.Run("limit 0 means 100", func(t *testing.T) {
		s := newStore(t)
		for range 101 {
			s.create(t, ann(1), time.Hour)
		}
		found, err := s.FindByUser(t.Context(), "ann", 0)
		require.NoError(t, err)
		require.Len(t, found, 100)
	})
}

func TestStore_FindByUser_AcrossKeys(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	ctx := t.Context()
	first := s.create(t, ann(1), time.Hour)
	s.clock.Advance(time.Minute)

	next := pgsession.GenerateKey()
	rotated := pgsession.New(s.pool, newCrypto(t, next, testKey), pgsession.WithClock(s.clock))
	secondID, err := rotated.Create(ctx, ann(2), time.Hour)
	require.NoError(t, err)
	s.clock.Advance(time.Minute)
	third := s.create(t, ann(3), time.Hour)

	want := []pgsession.Handle{third.Handle(), secondID.Handle(), first.Handle()}
	found, err := rotated.FindByUser(ctx, "ann", 0)
	require.NoError(t, err)
	require.Equal(t, want, handles(found))
	found, err = rotated.FindByUser(ctx, "ann", 2)
	require.NoError(t, err)
	require.Equal(t, want[:2], handles(found))

	t.Run("the user stays the user under another key", func(t *testing.T) {
		require.NoError(t, rotated.Save(ctx, first, ann(4), time.Hour))
		require.NoError(t, rotated.Put(ctx, third, ann(4), time.Hour))
		require.ErrorIs(t, rotated.Save(ctx, first, pgsession.Data{UserID: "bob"}, time.Hour), pgsession.ErrUserChanged)
	})
	t.Run("a cycle keeps created_at", func(t *testing.T) {
		old, fresh := s.create(t, ann(1), time.Hour), pgsession.NewID()
		began := s.load(t, old).CreatedAt
		s.clock.Advance(time.Minute)
		require.NoError(t, rotated.Cycle(ctx, old, fresh, ann(1), time.Hour))
		session, err := rotated.Load(ctx, fresh)
		require.NoError(t, err)
		require.Equal(t, began, session.CreatedAt)
	})
	t.Run("log out everywhere", func(t *testing.T) {
		n, err := rotated.DeleteByUser(ctx, "ann")
		require.NoError(t, err)
		require.EqualValues(t, 4, n)
	})
}

func TestStore_DeleteByUser(t *testing.T) {
	t.Parallel()
	for name, s := range bothStores(t) {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			here, there, elsewhere := s.create(t, ann(1), time.Hour), s.create(t, ann(2), time.Hour), s.create(t, ann(3), time.Hour)
			bob, visitor := s.create(t, pgsession.Data{UserID: "bob"}, time.Hour), s.create(t, guest, time.Hour)
			expired := s.create(t, ann(4), time.Microsecond)
			s.clock.Advance(time.Microsecond)

			n, err := s.DeleteByUser(ctx, "ann", here.Handle(), bob.Handle(), pgsession.Handle{})
			require.NoError(t, err)
			require.EqualValues(t, 2, n)
			for _, id := range []pgsession.ID{there, elsewhere, expired} {
				require.ErrorIs(t, s.Put(ctx, id, ann(1), time.Hour), pgsession.ErrRevoked)
			}
			for _, id := range []pgsession.ID{here, bob, visitor} {
				s.load(t, id)
			}
			n, err = s.DeleteByUser(ctx, "")
			require.NoError(t, err)
			require.Zero(t, n)
			n, err = s.DeleteByUser(ctx, "ann")
			require.NoError(t, err)
			require.EqualValues(t, 1, n)
			s.load(t, visitor)
		})
	}
	t.Run("more than a batch", func(t *testing.T) {
		s := newPlaintextStore(t)
		s.sql(t, `INSERT INTO sessions (key, user_key, data, version, created_at, expires_at, expires_hour)
			SELECT sha256(i::text::bytea), 'ann', '1', 1, $1, $2, $2 FROM generate_series(1, 2500) AS i`, epoch, epoch.Add(time.Hour))
		n, err := s.DeleteByUser(t.Context(), "ann")
		require.NoError(t, err)
		require.EqualValues(t, 2500, n)
	})
}

// TestStore_DeleteByUser_AgainstCycle logs a user out everywhere while each of the
// user's sessions is cycled without pause: none escapes.
func TestStore_DeleteByUser_AgainstCycle(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	ctx := t.Context()
	for range 30 {
		var cycling sync.WaitGroup
		var started sync.WaitGroup
		const sessions = 4
		started.Add(sessions)
		for range sessions {
			id := s.create(t, ann(1), time.Hour)
			cycling.Go(func() {
				for i := 0; ; i++ {
					next := pgsession.NewID()
					if err := s.Cycle(ctx, id, next, ann(1), time.Hour); err != nil {
						if i == 0 {
							started.Done()
						}
						if !isNotFound(err) {
							t.Error(err)
						}
						return
					}
					if i == 0 {
						started.Done()
					}
					id = next
				}
			})
		}
		started.Wait()
		_, err := s.DeleteByUser(ctx, "ann")
		require.NoError(t, err)
		found, err := s.FindByUser(ctx, "ann", 0)
		require.NoError(t, err)
		require.Empty(t, found)
		cycling.Wait()
	}
}

func TestStore_Revoke(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	ctx := t.Context()
	id, visitor := s.create(t, ann(1), time.Hour), s.create(t, guest, time.Hour)
	for name, err := range map[string]error{
		"another user's": s.Revoke(ctx, "bob", id.Handle()),
		"nobody's":       s.Revoke(ctx, "", id.Handle()),
		"a guest's":      s.Revoke(ctx, "ann", visitor.Handle()),
		"a guest's too":  s.Revoke(ctx, "", visitor.Handle()),
		"absent":         s.Revoke(ctx, "ann", pgsession.NewID().Handle()),
		"absent, any":    s.RevokeAny(ctx, pgsession.NewID().Handle()),
	} {
		require.ErrorIs(t, err, pgsession.ErrNotFound, name)
	}
	s.load(t, id)
	require.NoError(t, s.Revoke(ctx, "ann", id.Handle()))
	require.ErrorIs(t, s.Put(ctx, id, ann(1), time.Hour), pgsession.ErrRevoked)
	require.ErrorIs(t, s.Revoke(ctx, "ann", id.Handle()), pgsession.ErrNotFound)
	require.NoError(t, s.RevokeAny(ctx, visitor.Handle()))
	require.ErrorIs(t, s.Put(ctx, visitor, guest, time.Hour), pgsession.ErrRevoked)

	expired := s.create(t, ann(1), time.Minute)
	s.clock.Advance(time.Minute)
	require.ErrorIs(t, s.Revoke(ctx, "ann", expired.Handle()), pgsession.ErrNotFound)
	require.ErrorIs(t, s.Put(ctx, expired, ann(1), time.Hour), pgsession.ErrRevoked, "it was ended all the same")
}

func TestStore_All(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	ctx := t.Context()
	const sessions = 1203 // two pages and a part
	want := map[pgsession.Handle]string{}
	for i := range sessions {
		id := s.create(t, pgsession.Data{UserID: strconv.Itoa(i)}, time.Hour)
		want[id.Handle()] = strconv.Itoa(i)
	}
	s.ended(t)
	s.create(t, ann(1), time.Microsecond)
	s.clock.Advance(time.Microsecond)
	got := map[pgsession.Handle]string{}
	for session, err := range s.All(ctx) {
		require.NoError(t, err)
		got[session.Handle] = session.UserID
		require.Zero(t, s.pool.Stat().AcquiredConns(), "no connection is held")
	}
	require.Equal(t, want, got)

	for range s.All(ctx) {
		break
	}
	cancelled, cancel := context.WithCancel(ctx)
	defer cancel()
	seen := 0
	var last error
	for session, err := range s.All(cancelled) {
		if seen++; seen == 1 {
			cancel()
		}
		if last = err; err != nil {
			require.Nil(t, session)
		}
	}
	require.ErrorIs(t, last, context.Canceled)
	require.Equal(t, 501, seen)
}

func TestStore_DeleteAll(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	ctx := t.Context()
	ids := []pgsession.ID{s.create(t, ann(1), time.Hour), s.create(t, guest, time.Hour), s.create(t, pgsession.Data{UserID: "bob"}, time.Hour)}
	s.ended(t)
	n, err := s.DeleteAll(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 3, n)
	for _, id := range ids {
		require.ErrorIs(t, s.Put(ctx, id, guest, time.Hour), pgsession.ErrRevoked)
	}
	n, err = s.DeleteAll(ctx)
	require.NoError(t, err)
	require.Zero(t, n)
}

func TestStore_Reseal(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	ctx := t.Context()
	const sessions = 1100 // two pages and a part
	ids := make([]pgsession.ID, sessions)
	for i := range ids {
		ids[i] = s.create(t, ann(i), time.Hour)
	}
	bytesID := s.create(t, pgsession.Data{Values: []byte{1, 2}}, time.Hour)
	s.ended(t)
	next := pgsession.GenerateKey()
	crypto := newCrypto(t, next, testKey)
	rotated := pgsession.New(s.pool, crypto, pgsession.WithClock(s.clock))

	n, err := rotated.Reseal(ctx)
	require.NoError(t, err)
	require.EqualValues(t, sessions+1, n)
	n, err = rotated.Reseal(ctx)
	require.NoError(t, err)
	require.Zero(t, n)

	require.NoError(t, crypto.SetKeys(next), "the old key can be retired")
	for i, id := range ids {
		session, err := rotated.Load(ctx, id)
		require.NoError(t, err)
		values, err := pgsession.Decode[profile](session)
		require.NoError(t, err)
		require.Equal(t, i, values.Count)
	}
	session, err := rotated.Load(ctx, bytesID)
	require.NoError(t, err)
	require.Equal(t, []byte{1, 2}, session.Data().Values)
	ended, err := rotated.DeleteByUser(ctx, "ann")
	require.NoError(t, err)
	require.EqualValues(t, sessions, ended)

	t.Run("what does not open stays, and is told", func(t *testing.T) {
		s := newStore(t)
		good, tampered, unknown := s.create(t, ann(1), time.Hour), s.create(t, ann(2), time.Hour), s.create(t, ann(3), time.Hour)
		s.sql(t, `UPDATE sessions SET sealed = set_byte(sealed, 40, get_byte(sealed, 40) # 1) WHERE key = $1`, key(tampered))
		s.sql(t, `UPDATE sessions SET sealed = set_byte(sealed, 2, get_byte(sealed, 2) # 1) WHERE key = $1`, key(unknown))
		rotated := pgsession.New(s.pool, newCrypto(t, next, testKey), pgsession.WithClock(s.clock))
		n, err := rotated.Reseal(ctx)
		require.EqualValues(t, 1, n)
		require.ErrorIs(t, err, pgsession.ErrTampered)
		require.ErrorIs(t, err, pgsession.ErrUnknownKey)
		_, err = rotated.Load(ctx, good)
		require.NoError(t, err)
	})
	t.Run("under saves", func(t *testing.T) {
		s := newStore(t)
		id := s.create(t, ann(0), time.Hour)
		crypto := newCrypto(t, next, testKey)
		rotated := pgsession.New(s.pool, crypto, pgsession.WithClock(s.clock))
		var saving sync.WaitGroup
		const saves = 60
		saving.Go(func() {
			for range saves {
				err := rotated.Update(ctx, id, 0, func(session *pgsession.Session) (any, error) {
					values, err := pgsession.Decode[profile](session)
					values.Count++
					return values, err
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
		for i := range 30 {
			keys := []pgsession.Key{next, testKey}
			require.NoError(t, crypto.SetKeys(keys[i%2], keys[1-i%2]))
			_, err := rotated.Reseal(ctx)
			require.NoError(t, err)
		}
		saving.Wait()
		session, err := rotated.Load(ctx, id)
		require.NoError(t, err)
		values, err := pgsession.Decode[profile](session)
		require.NoError(t, err)
		require.Equal(t, saves, values.Count)
	})
	t.Run("plaintext", func(t *testing.T) {
		s := newPlaintextStore(t)
		s.create(t, ann(1), time.Hour)
		n, err := s.Reseal(ctx)
		require.NoError(t, err)
		require.Zero(t, n)
	})
}
