package test

import (
	"cmp"
	"context"
	"crypto/rand"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
)

// sample holds what an encoding, an escape or a quote may change.
const sample = "ä€漢😀 'quoted' \"twice\" \\x41 \\ $1 \x01\x7f"

// Exercise calls every operation of a store whose table has no live rows. It reads what that wrote
// by the store itself and by the reader, unless that is nil.
func Exercise(t testing.TB, s, reader *Store) {
	t.Helper()
	reader = cmp.Or(reader, s)
	ctx := t.Context()
	values := Profile{sample, -1}
	const (
		ttl      = 25*time.Hour + 3*time.Second + time.Microsecond
		lifetime = 1000 * time.Hour
	)
	data := func() pgsession.Data { return pgsession.Data{UserID: sample, Lifetime: lifetime, Values: values} }
	requireSession := func(id pgsession.ID, ttl time.Duration) *pgsession.Session {
		t.Helper()
		mine, theirs := s.MustLoad(t, id), reader.MustLoad(t, id)
		for _, session := range []*pgsession.Session{mine, theirs} {
			require.Equal(t, sample, session.UserID)
			require.Equal(t, values, Decode[Profile](t, session))
			require.Equal(t, ttl, session.IdleTimeout)
			require.Equal(t, lifetime, session.EndsAt.Sub(session.CreatedAt))
		}
		require.Equal(t, theirs.CreatedAt, mine.CreatedAt)
		require.Equal(t, theirs.ExpiresAt, mine.ExpiresAt)
		require.Equal(t, Version(theirs), Version(mine))
		return mine
	}
	before, err := s.Count(ctx)
	require.NoError(t, err)
	created, err := s.Create(ctx, data(), ttl)
	require.NoError(t, err)
	id := created.ID
	loaded := requireSession(id, ttl)
	require.Equal(t, created.ExpiresAt, loaded.ExpiresAt)
	require.NoError(t, s.Save(ctx, id, data(), 2*ttl))
	requireSession(id, 2*ttl)
	require.NoError(t, s.Put(ctx, id, data(), ttl))
	requireSession(id, ttl)
	require.NoError(t, Err(s.Touch(ctx, loaded, 3*ttl)))
	session := requireSession(id, 3*ttl)
	values.Count = -2
	session, err = s.Update(ctx, session, 0, Keep(values))
	require.NoError(t, err)
	requireSession(id, 3*ttl)
	renewed, err := s.Renew(ctx, session, ttl, LogIn(data()))
	require.NoError(t, err)
	require.ErrorIs(t, Err(s.Load(ctx, id)), pgsession.ErrRevoked)
	requireSession(renewed.ID, ttl)
	token := rand.Text()
	cycled := pgsession.DeriveID(token)
	require.NoError(t, s.Cycle(ctx, renewed.ID, cycled, data(), ttl))
	requireSession(cycled, ttl)
	raw := pgsession.NewID()
	require.NoError(t, s.Put(ctx, raw, pgsession.Data{UserID: sample, Values: []byte("\x00\xff\\")}, ttl))
	require.Equal(t, []byte("\x00\xff\\"), s.MustLoad(t, raw).Data().Values)

	// Calls that share statements.
	ids := []pgsession.ID{cycled, raw}
	for _, call := range []func(ctx context.Context, id pgsession.ID) error{
		func(ctx context.Context, id pgsession.ID) error { return Err(s.Load(ctx, id)) },
		func(ctx context.Context, id pgsession.ID) error { return s.Save(ctx, id, data(), ttl) },
		func(ctx context.Context, id pgsession.ID) error { return s.Put(ctx, id, data(), ttl) },
		func(ctx context.Context, id pgsession.ID) error {
			return Err(s.Touch(ctx, Unloaded(id), 2*ttl))
		},
	} {
		s.inCompany(t, func(i int) error { return call(ctx, ids[i%len(ids)]) })
	}
	requireSession(cycled, 2*ttl)
	begun, moved := make(chan pgsession.ID, company), make(chan pgsession.ID, company)
	s.inCompany(t, func(int) error {
		session, err := s.Create(ctx, data(), ttl)
		if err == nil {
			begun <- session.ID
		}
		return err
	})
	s.inCompany(t, func(int) error {
		to := pgsession.NewID()
		moved <- to
		return s.Cycle(ctx, <-begun, to, data(), ttl)
	})
	s.inCompany(t, func(int) error { return s.Delete(ctx, <-moved) })

	found, err := s.FindByUser(ctx, sample, 0)
	require.NoError(t, err)
	require.Equal(t, []pgsession.Handle{raw.Handle(), cycled.Handle()}, Handles(found), "the newest first")
	listed := 0
	for session, err := range s.All(ctx) {
		require.NoError(t, err)
		require.Equal(t, values, Decode[Profile](t, session))
		listed++
	}
	require.Equal(t, 2, listed)

	kv := s.KeyValue()
	require.NoError(t, kv.Put(ctx, "k", []byte(sample), ttl))
	RequireEntry(t, kv, "k", []byte(sample))
	taken, err := kv.Take(ctx, "k")
	require.NoError(t, err)
	require.Equal(t, sample, string(taken))
	require.NoError(t, kv.Put(ctx, "k", nil, ttl))
	count, err := s.Count(ctx)
	require.NoError(t, err)
	require.Equal(t, pgsession.Count{Users: 2, Tombstones: before.Tombstones + 2 + 2*company, Entries: 1}, count)
	require.NoError(t, kv.Delete(ctx, "k"))

	n, err := s.LimitByUser(ctx, sample, 1)
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	require.ErrorIs(t, Err(s.Find(ctx, cycled.Handle())), pgsession.ErrRevoked)
	require.NoError(t, Err(s.Find(ctx, raw.Handle())))
	require.NoError(t, s.Revoke(ctx, sample, raw.Handle()))
	require.ErrorIs(t, s.RevokeAny(ctx, raw.Handle()), pgsession.ErrRevoked)
	require.ErrorIs(t, s.Put(ctx, raw, data(), ttl), pgsession.ErrRevoked)
	require.ErrorIs(t, Err(s.CreateAs(ctx, pgsession.DeriveID(token), data(), ttl)), pgsession.ErrExists)
	spared, ended := s.Begin(t, data(), ttl), s.Begin(t, data(), ttl)
	n, err = s.DeleteByUser(ctx, sample, spared.Handle())
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	require.ErrorIs(t, Err(s.Load(ctx, ended)), pgsession.ErrRevoked)
	n, err = s.DeleteAll(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	require.NoError(t, s.Delete(ctx, s.Begin(t, data(), ttl)))
	s.SQL(t, `INSERT INTO `+s.table()+` (key, version, created_at, expires_at, idle_timeout)
		VALUES (convert_to('expired', 'UTF8'), 1, '2020-01-01 00:00+00', '2020-01-01 00:00+00', '1 hour')`)
	require.EqualValues(t, 1, s.MustCleanUp(t))
	require.NoError(t, Err(s.Reseal(ctx)))
	require.NoError(t, Examine(ctx, s.Store).Err)
}

// company is how many calls are made at once, more than may be in flight.
const company = 16

// inCompany makes calls while the table is locked, so that they share statements.
func (s *Store) inCompany(t testing.TB, call func(i int) error) {
	t.Helper()
	held := s.LockTable(t)
	before := s.saved()
	errs := make(chan error)
	for i := range company {
		go func() { errs <- call(i) }()
	}
	require.Eventually(t, func() bool { return s.saved() > before+1 }, Patience, time.Millisecond)
	held.Release(t)
	for range company {
		require.NoError(t, <-errs)
	}
}

// saved returns how many statements have been saved by calls that share one, or wait to.
func (s *Store) saved() (saved int64) {
	for _, kind := range s.Stats().Sharing {
		saved += kind.Calls - kind.Statements
	}
	return saved
}
