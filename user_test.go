package pgsession_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
)

func TestStore_FindByUser_AcrossKeys(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	ctx := t.Context()
	first := s.create(t, ann(1), time.Hour)
	s.clock.Advance(time.Minute)

	next := pgsession.GenerateKey()
	rotated := s.node(newCrypto(t, next, testKey))
	secondID := rotated.create(t, ann(2), time.Hour)
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
		require.ErrorIs(t, rotated.Save(ctx, first, bob, time.Hour), pgsession.ErrUserChanged)
	})
	t.Run("a move keeps when the log-in began", func(t *testing.T) {
		old, fresh := s.create(t, ann(1), time.Hour), pgsession.NewID()
		began := s.load(t, old).CreatedAt
		s.clock.Advance(time.Minute)
		require.NoError(t, rotated.Cycle(ctx, old, fresh, ann(1), time.Hour))
		require.Equal(t, began, rotated.load(t, fresh).CreatedAt)
		renewed, err := s.node(newCrypto(t, pgsession.GenerateKey(), next, testKey)).Renew(ctx, at(fresh), 0, login(ann(2)))
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
	s := newPlaintextStore(t)
	s.sql(t, `INSERT INTO sessions (key, user_key, data, version, created_at, expires_at, idle_timeout)
		SELECT sha256(i::text::bytea), 'ann', '1', 1, $1, $2, '1 hour' FROM generate_series(1, 2500) AS i`, epoch, epoch.Add(time.Hour))
	n, err := s.DeleteByUser(t.Context(), "ann")
	require.NoError(t, err)
	require.EqualValues(t, 2500, n)
}

// TestStore_DeleteByUser_HeldRow has somebody hold one of a user's rows: the others end at once, and that
// one when it is free.
func TestStore_DeleteByUser_HeldRow(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	locked, free := s.create(t, ann(1), time.Hour), s.create(t, ann(2), time.Hour)
	held := s.lock(t, `key = $1`, key(locked))
	type result struct {
		ended int64
		err   error
	}
	done := make(chan result, 1)
	go func() {
		n, err := s.DeleteByUser(t.Context(), "ann")
		done <- result{n, err}
	}()
	held.waitFor(t, 1)
	require.ErrorIs(t, second(s.Load(t.Context(), free)), pgsession.ErrRevoked)
	s.load(t, locked)
	held.release(t)
	require.Equal(t, result{ended: 2}, <-done)
	require.ErrorIs(t, second(s.Load(t.Context(), locked)), pgsession.ErrRevoked)
}

// TestStore_DeleteByUser_WithoutEnd has a trigger let no session be ended, and say nothing.
func TestStore_DeleteByUser_WithoutEnd(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.create(t, ann(1), time.Hour)
	s.swallow(t, "UPDATE OR DELETE")
	for name, end := range map[string]func(context.Context) (int64, error){
		"DeleteByUser": func(ctx context.Context) (int64, error) { return s.DeleteByUser(ctx, "ann") },
		"DeleteAll":    s.DeleteAll,
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		_, err := end(ctx)
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded, name)
	}
}

// TestStore_DeleteByUser_AgainstMoves logs a user out everywhere while each of the user's sessions moves to
// new ids without pause: none escapes.
func TestStore_DeleteByUser_AgainstMoves(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	ctx := t.Context()
	for range 30 {
		var moving, started sync.WaitGroup
		const sessions = 4
		started.Add(sessions)
		for n := range sessions {
			id := s.create(t, ann(1), time.Hour)
			moving.Go(func() {
				for i := 0; ; i++ {
					next := pgsession.NewID()
					var err error
					if n%2 == 0 {
						err = s.Cycle(ctx, id, next, ann(1), time.Hour)
					} else if session, renewErr := s.Renew(ctx, at(id), time.Hour, login(ann(1))); renewErr == nil {
						next = session.ID
					} else {
						err = renewErr
					}
					if i == 0 {
						started.Done()
					}
					if err != nil {
						if !errors.Is(err, pgsession.ErrRevoked) {
							t.Error(err)
						}
						return
					}
					id = next
				}
			})
		}
		started.Wait()
		require.NoError(t, second(s.DeleteByUser(ctx, "ann")))
		found, err := s.FindByUser(ctx, "ann", 0)
		require.NoError(t, err)
		require.Empty(t, found)
		moving.Wait()
	}
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

// TestStore_Pages_Bytes reads and reseals more than a page may hold, of which one value is larger than a page.
func TestStore_Pages_Bytes(t *testing.T) {
	t.Parallel()
	const values, size, fewestPages = 12, 1 << 20, 3
	var pages atomic.Int64
	s := newTracedStore(t, &tracer{start: func(_ context.Context, sql string) {
		if strings.Contains(sql, "pgsession_bytes_before") {
			pages.Add(1)
		}
	}}, 2, pgsession.WithMaxSize(0))
	large := s.create(t, ann(make([]byte, 5*size)), time.Hour)
	want := []pgsession.Handle{large.Handle()}
	for range values {
		want = append(want, s.create(t, ann(make([]byte, size)), time.Hour).Handle())
	}

	before := pages.Load()
	var got []pgsession.Handle
	for session, err := range s.All(t.Context()) {
		require.NoError(t, err)
		got = append(got, session.Handle)
	}
	require.ElementsMatch(t, want, got)
	require.Greater(t, pages.Load()-before, int64(fewestPages))

	rotated := s.node(newCrypto(t, pgsession.GenerateKey(), testKey), pgsession.WithMaxSize(0))
	before = pages.Load()
	n, err := rotated.Reseal(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, values+1, n)
	require.Greater(t, pages.Load()-before, int64(fewestPages))
	require.Len(t, decode[[]byte](t, rotated.load(t, large)), 5*size)
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
	rotated := s.node(crypto)

	n, err := rotated.Reseal(ctx)
	require.NoError(t, err)
	require.EqualValues(t, sessions+1, n)
	n, err = rotated.Reseal(ctx)
	require.NoError(t, err)
	require.Zero(t, n)

	require.NoError(t, crypto.SetKeys(next), "the old key can be retired")
	for i, id := range ids {
		require.Equal(t, i, rotated.count(t, id))
	}
	require.Equal(t, []byte{1, 2}, rotated.load(t, bytesID).Data().Values)
	ended, err := rotated.DeleteByUser(ctx, "ann")
	require.NoError(t, err)
	require.EqualValues(t, sessions, ended)

	t.Run("what does not open stays, and is told", func(t *testing.T) {
		s := newStore(t)
		good, tampered, unknown := s.create(t, ann(1), time.Hour), s.create(t, ann(2), time.Hour), s.create(t, ann(3), time.Hour)
		s.sql(t, `UPDATE sessions SET sealed = set_byte(sealed, 40, get_byte(sealed, 40) # 1) WHERE key = $1`, key(tampered))
		s.sql(t, `UPDATE sessions SET sealed = set_byte(sealed, 2, get_byte(sealed, 2) # 1) WHERE key = $1`, key(unknown))
		rotated := s.node(newCrypto(t, next, testKey))
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
		rotated := s.node(crypto)
		var saving sync.WaitGroup
		const saves = 60
		saving.Go(func() {
			for range saves {
				if err := second(rotated.Update(ctx, at(id), 0, increment)); err != nil {
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
		require.Equal(t, saves, rotated.count(t, id))
	})
	t.Run("a row that somebody holds", func(t *testing.T) {
		s := newStore(t)
		locked := s.create(t, ann(1), time.Hour)
		s.create(t, ann(2), time.Hour)
		rotated := s.node(newCrypto(t, next, testKey))
		held := s.lock(t, `key = $1`, key(locked))
		type result struct {
			resealed int64
			err      error
		}
		done := make(chan result, 1)
		go func() {
			n, err := rotated.Reseal(ctx)
			done <- result{n, err}
		}()
		held.waitFor(t, 1)
		require.Equal(t, 1, s.rows(t, `substring(sealed FROM 2 FOR 4) <> (SELECT substring(sealed FROM 2 FOR 4) FROM sessions WHERE key = $1)`,
			key(locked)), "the other one did not wait")
		held.release(t)
		require.Equal(t, result{resealed: 2}, <-done)
	})
	t.Run("plaintext", func(t *testing.T) {
		s := newPlaintextStore(t)
		s.create(t, ann(1), time.Hour)
		n, err := s.Reseal(ctx)
		require.NoError(t, err)
		require.Zero(t, n)
	})
}

// Revoke looks again if the key ring has changed meanwhile. It must not meet its own tombstone then.
func TestStore_Revoke_ExpiredUnderSetKeys(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := newStore(t)
	old, next := pgsession.GenerateKey(), pgsession.GenerateKey()
	crypto := newCrypto(t, old)
	node := s.node(crypto)
	id := node.expired(t)
	lock := node.lock(t, "key = $1", key(id))
	revoked := make(chan error, 1)
	go func() { revoked <- node.Revoke(ctx, "ann", id.Handle()) }()
	lock.waitFor(t, 1)
	require.NoError(t, crypto.SetKeys(next, old))
	lock.release(t)
	err := <-revoked
	require.ErrorIs(t, err, pgsession.ErrNotFound)
	require.NotErrorIs(t, err, pgsession.ErrRevoked)
	require.ErrorIs(t, second(node.Load(ctx, id)), pgsession.ErrRevoked, "it was ended all the same")
}
