package pgsession_test

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
)

func TestMain(m *testing.M) {
	pgtest.Main(m, func() error { return goleak.Find() })
}

// epoch is when the tests' manual clocks start: not on an hour, so that the
// rounding of expires_hour shows.
var epoch = time.Date(2026, 3, 14, 15, 9, 26, 535_897_000, time.UTC)

var testKey = must(pgsession.ParseKey("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"))

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A fixture is a store on a table of its own.
type fixture struct {
	*pgsession.Store
	pool  *pgxpool.Pool
	clock *pgsession.ManualClock
}

func newStore(t testing.TB, opts ...pgsession.Option) *fixture {
	t.Helper()
	pool := pgtest.Pool(t)
	clock := pgsession.NewManualClock(epoch)
	opts = append([]pgsession.Option{pgsession.WithClock(clock), pgsession.WithLogger(slog.New(slog.DiscardHandler))}, opts...)
	store := pgsession.New(pool, newCrypto(t, testKey), opts...)
	require.NoError(t, store.Init(t.Context()))
	pgtest.AfterInit(t, pool, "sessions")
	return &fixture{store, pool, clock}
}

type profile struct {
	Name  string
	Count int
}

func TestSmoke(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := newStore(t)
	require.NoError(t, s.Init(ctx))
	id, err := s.Create(ctx, pgsession.Data{UserID: "ann", Values: profile{"x", 1}}, time.Hour)
	require.NoError(t, err)
	got, err := s.Load(ctx, id)
	require.NoError(t, err)
	p, err := pgsession.Decode[profile](got)
	require.NoError(t, err)
	require.Equal(t, profile{"x", 1}, p)
	require.Equal(t, epoch.Add(time.Hour), got.ExpiresAt)
	require.NoError(t, s.Save(ctx, id, pgsession.Data{UserID: "ann", Values: profile{"x", 2}}, time.Hour))
	require.ErrorIs(t, s.Save(ctx, id, pgsession.Data{UserID: "bob", Values: profile{"x", 2}}, time.Hour), pgsession.ErrUserChanged)
	require.NoError(t, s.Update(ctx, id, 0, func(s *pgsession.Session) (any, error) { return profile{"y", 3}, nil }))
	require.NoError(t, s.Touch(ctx, id, 2*time.Hour))
	next := pgsession.NewID()
	require.NoError(t, s.Cycle(ctx, id, next, pgsession.Data{UserID: "ann", Values: profile{"x", 1}}, time.Hour))
	require.ErrorIs(t, s.Cycle(ctx, id, next, pgsession.Data{UserID: "ann", Values: profile{"x", 1}}, time.Hour), pgsession.ErrNotFound)
	require.ErrorIs(t, s.Cycle(ctx, next, next, pgsession.Data{UserID: "ann", Values: profile{"x", 1}}, time.Hour), pgsession.ErrExists)
	require.ErrorIs(t, s.Put(ctx, id, pgsession.Data{UserID: "ann", Values: profile{"x", 1}}, time.Hour), pgsession.ErrRevoked)
	require.NoError(t, s.Put(ctx, next, pgsession.Data{UserID: "ann", Values: []byte{1}}, time.Hour))
	require.ErrorIs(t, s.Put(ctx, next, pgsession.Data{UserID: "bob", Values: []byte{1}}, time.Hour), pgsession.ErrUserChanged)
	list, err := s.FindByUser(ctx, "ann", 0)
	require.NoError(t, err)
	require.Len(t, list, 1)
	for session, err := range s.All(ctx) {
		require.NoError(t, err)
		require.Equal(t, "ann", session.UserID)
	}
	require.ErrorIs(t, s.Revoke(ctx, "bob", next.Handle()), pgsession.ErrNotFound)
	n, err := s.DeleteByUser(ctx, "ann", next.Handle())
	require.NoError(t, err)
	require.Zero(t, n)
	require.NoError(t, s.Revoke(ctx, "ann", next.Handle()))
	require.NoError(t, s.Delete(ctx, next))
	kv := s.KeyValue()
	require.NoError(t, kv.Put(ctx, "a", []byte("b"), time.Hour))
	v, err := kv.Get(ctx, "a")
	require.NoError(t, err)
	require.Equal(t, "b", string(v))
	require.NoError(t, kv.Delete(ctx, "a"))
	_, err = kv.Get(ctx, "a")
	require.ErrorIs(t, err, pgsession.ErrNotFound)
	second := pgsession.GenerateKey()
	c := must(pgsession.NewCrypto(second, testKey))
	other := pgsession.New(s.pool, c, pgsession.WithClock(s.clock))
	id, err = s.Create(ctx, pgsession.Data{UserID: "ann", Values: profile{"x", 1}}, time.Hour)
	require.NoError(t, err)
	require.NoError(t, other.Save(ctx, id, pgsession.Data{UserID: "ann", Values: profile{"z", 1}}, time.Hour))
	_, err = s.Load(ctx, id)
	require.ErrorIs(t, err, pgsession.ErrUnknownKey)
	id, err = s.Create(ctx, pgsession.Data{UserID: "ann", Values: profile{"x", 1}}, time.Hour)
	require.NoError(t, err)
	n, err = other.Reseal(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	list, err = other.FindByUser(ctx, "ann", 0)
	require.NoError(t, err)
	require.Len(t, list, 2)
	n, err = s.DeleteAll(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 2, n)
	s.clock.Advance(2 * time.Hour)
	n, err = s.CleanupExpired(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 4, n)
	h := s.Health(ctx)
	require.Equal(t, pgsession.Degraded, h.Status, "%v", h)
	require.NoError(t, s.Check(ctx))
	require.True(t, errors.Is(pgsession.ErrRevoked, pgsession.ErrNotFound))
}
