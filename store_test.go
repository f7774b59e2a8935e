package pgsession_test

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
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
	return newFixture(t, pgtest.Pool(t), func(pool *pgxpool.Pool, opts ...pgsession.Option) *pgsession.Store {
		return pgsession.New(pool, newCrypto(t, testKey), opts...)
	}, opts)
}

func newPlaintextStore(t testing.TB, opts ...pgsession.Option) *fixture {
	t.Helper()
	return newFixture(t, pgtest.Pool(t), pgsession.Plaintext, opts)
}

func newFixture(t testing.TB, pool *pgxpool.Pool, open func(*pgxpool.Pool, ...pgsession.Option) *pgsession.Store, opts []pgsession.Option) *fixture {
	t.Helper()
	clock := pgsession.NewManualClock(epoch)
	opts = append([]pgsession.Option{pgsession.WithClock(clock), pgsession.WithLogger(slog.New(slog.DiscardHandler))}, opts...)
	store := open(pool, opts...)
	require.NoError(t, store.Init(t.Context()))
	pgtest.AfterInit(t, pool, "sessions")
	return &fixture{store, pool, clock}
}

func bothStores(t testing.TB, opts ...pgsession.Option) map[string]*fixture {
	t.Helper()
	return map[string]*fixture{"encrypted": newStore(t, opts...), "plaintext": newPlaintextStore(t, opts...)}
}

type profile struct {
	Name  string
	Count int
}

func ann(count int) pgsession.Data {
	return pgsession.Data{UserID: "ann", Values: profile{"ann", count}}
}

var guest = pgsession.Data{Values: profile{"guest", 0}}

func (f *fixture) create(t testing.TB, data pgsession.Data, ttl time.Duration) pgsession.ID {
	t.Helper()
	id, err := f.Create(t.Context(), data, ttl)
	require.NoError(t, err)
	return id
}

func (f *fixture) load(t testing.TB, id pgsession.ID) *pgsession.Session {
	t.Helper()
	session, err := f.Load(t.Context(), id)
	require.NoError(t, err)
	return session
}

func (f *fixture) count(t testing.TB, id pgsession.ID) int {
	t.Helper()
	values, err := pgsession.Decode[profile](f.load(t, id))
	require.NoError(t, err)
	return values.Count
}

// ended makes a session and ends it.
func (f *fixture) ended(t testing.TB) pgsession.ID {
	t.Helper()
	id := f.create(t, ann(1), time.Hour)
	require.NoError(t, f.Delete(t.Context(), id))
	return id
}

// rows counts the rows that meet a condition.
func (f *fixture) rows(t testing.TB, condition string, args ...any) (n int) {
	t.Helper()
	require.NoError(t, f.pool.QueryRow(t.Context(), `SELECT count(*) FROM sessions AS s WHERE `+condition, args...).Scan(&n))
	return n
}

func (f *fixture) sql(t testing.TB, sql string, args ...any) {
	t.Helper()
	_, err := f.pool.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

// key returns the primary key of an id's row.
func key(id pgsession.ID) []byte {
	return must(hex.DecodeString(id.Handle().String()))
}

func keep(values any) func(*pgsession.Session) (any, error) {
	return func(*pgsession.Session) (any, error) { return values, nil }
}

func TestNew_Panics(t *testing.T) {
	t.Parallel()
	pool, crypto := pgtest.Pool(t), newCrypto(t, testKey)
	require.Panics(t, func() { pgsession.New(nil, crypto) })
	require.Panics(t, func() { pgsession.New(pool, nil) })
	require.Panics(t, func() { pgsession.New(pool, &pgsession.Crypto{}) })
	require.Panics(t, func() { pgsession.Plaintext(nil) })
	require.Panics(t, func() { pgsession.New(pool, crypto, pgsession.WithClock(nil)) })
	require.Panics(t, func() { pgsession.New(pool, crypto, pgsession.WithMaxSize(-1)) })
	require.Panics(t, func() { pgsession.New(pool, crypto, pgsession.WithAbsoluteLifetime(-1)) })
	require.Panics(t, func() { pgsession.New(pool, crypto, pgsession.WithCoalescing(-1)) })
	require.NotPanics(t, func() { pgsession.New(pool, crypto, pgsession.WithLogger(nil)) })
}

func TestPlaintext_WarnsOnce(t *testing.T) {
	t.Parallel()
	var log lines
	s := newPlaintextStore(t, pgsession.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
	id := s.create(t, ann(1), time.Hour)
	s.load(t, id)
	require.Equal(t, 1, strings.Count(log.String(), "level=WARN"))
	require.Contains(t, log.String(), "plaintext")
}

func TestStore_Create(t *testing.T) {
	t.Parallel()
	for name, s := range bothStores(t) {
		t.Run(name, func(t *testing.T) {
			id := s.create(t, ann(1), 90*time.Minute)
			session := s.load(t, id)
			require.Equal(t, id.Handle(), session.Handle)
			require.Equal(t, "ann", session.UserID)
			require.Equal(t, epoch, session.CreatedAt)
			require.Equal(t, epoch.Add(90*time.Minute), session.ExpiresAt)
			require.Equal(t, 90*time.Minute, session.TTL())
			require.Equal(t, 1, s.count(t, id))
			require.Equal(t, 1, s.rows(t, `key = $1 AND expires_hour = '2026-03-14 17:00Z'`, key(id)))
		})
	}
	t.Run("the expiry on an hour", func(t *testing.T) {
		s := newStore(t)
		s.clock.Set(epoch.Truncate(time.Hour))
		s.create(t, ann(1), time.Hour)
		require.Equal(t, 1, s.rows(t, `expires_hour = expires_at`))
	})
	t.Run("a ttl below what the table keeps", func(t *testing.T) {
		s := newStore(t)
		id := s.create(t, ann(1), 1)
		require.Equal(t, time.Microsecond, s.load(t, id).TTL())
	})
	t.Run("a clock of another zone, with nanoseconds", func(t *testing.T) {
		s := newStore(t)
		s.clock.Set(epoch.Add(123).In(time.FixedZone("", 5*3600)))
		session := s.load(t, s.create(t, ann(1), time.Hour))
		require.Equal(t, epoch, session.CreatedAt)
		require.Equal(t, epoch.Add(time.Hour), session.ExpiresAt)
	})
}

func TestStore_Load_ErrNotFound(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	id := s.create(t, ann(1), time.Hour)
	for name, id := range map[string]pgsession.ID{
		"absent": pgsession.NewID(), "zero": {}, "ended": s.ended(t), "derived from the token": pgsession.DeriveID(id.Token()),
	} {
		_, err := s.Load(t.Context(), id)
		require.ErrorIs(t, err, pgsession.ErrNotFound, name)
	}
	s.clock.Advance(time.Hour - time.Microsecond)
	require.Equal(t, time.Microsecond, s.load(t, id).TTL())
	s.clock.Advance(time.Microsecond)
	_, err := s.Load(t.Context(), id)
	require.ErrorIs(t, err, pgsession.ErrNotFound)
}

func TestStore_Save(t *testing.T) {
	t.Parallel()
	for name, s := range bothStores(t) {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			id := s.create(t, ann(1), time.Hour)
			before := s.load(t, id)
			s.clock.Advance(time.Minute)
			require.NoError(t, s.Save(ctx, id, ann(2), 10*time.Minute))
			after := s.load(t, id)
			require.Equal(t, 2, s.count(t, id))
			require.Equal(t, before.CreatedAt, after.CreatedAt)
			require.Equal(t, 10*time.Minute, after.TTL())
			require.NotEqual(t, before.Version, after.Version)

			visitor := s.create(t, guest, time.Hour)
			require.NoError(t, s.Save(ctx, visitor, guest, time.Hour))

			t.Run("ErrUserChanged", func(t *testing.T) {
				for id, data := range map[pgsession.ID]pgsession.Data{id: {UserID: "bob"}, visitor: ann(1)} {
					require.ErrorIs(t, s.Save(ctx, id, data, time.Hour), pgsession.ErrUserChanged)
				}
				require.ErrorIs(t, s.Save(ctx, id, guest, time.Hour), pgsession.ErrUserChanged)
				require.Equal(t, after, s.load(t, id))
			})
			t.Run("ErrNotFound", func(t *testing.T) {
				require.ErrorIs(t, s.Save(ctx, pgsession.NewID(), ann(1), time.Hour), pgsession.ErrNotFound)
				require.ErrorIs(t, s.Save(ctx, s.ended(t), ann(1), time.Hour), pgsession.ErrNotFound)
				s.clock.Advance(10 * time.Minute)
				require.ErrorIs(t, s.Save(ctx, id, ann(1), time.Hour), pgsession.ErrNotFound)
				_, err := s.Load(ctx, id)
				require.ErrorIs(t, err, pgsession.ErrNotFound)
			})
		})
	}
}

func TestStore_Update(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	ctx := t.Context()

	t.Run("keeps the expiry", func(t *testing.T) {
		id := s.create(t, ann(1), time.Hour)
		require.NoError(t, s.Update(ctx, id, 0, keep(profile{"ann", 2})))
		require.Equal(t, 2, s.count(t, id))
		require.Equal(t, time.Hour, s.load(t, id).TTL())
	})
	t.Run("moves the expiry", func(t *testing.T) {
		id := s.create(t, ann(1), time.Hour)
		require.NoError(t, s.Update(ctx, id, 2*time.Hour, keep(profile{"ann", 2})))
		require.Equal(t, 2*time.Hour, s.load(t, id).TTL())
	})
	t.Run("the error of change", func(t *testing.T) {
		id := s.create(t, ann(1), time.Hour)
		mine := errors.New("mine")
		err := s.Update(ctx, id, 0, func(*pgsession.Session) (any, error) { return profile{"ann", 2}, mine })
		require.True(t, err == mine, "as it is")
		require.Equal(t, 1, s.count(t, id))
	})
	t.Run("the user stays", func(t *testing.T) {
		id := s.create(t, ann(1), time.Hour)
		require.NoError(t, s.Update(ctx, id, 0, func(session *pgsession.Session) (any, error) {
			session.UserID = "bob"
			session.Version = 0
			return profile{"ann", 2}, nil
		}))
		require.Equal(t, "ann", s.load(t, id).UserID)
	})
	t.Run("sees what came between", func(t *testing.T) {
		id := s.create(t, ann(1), time.Hour)
		calls := 0
		require.NoError(t, s.Update(ctx, id, 0, func(session *pgsession.Session) (any, error) {
			if calls++; calls == 1 {
				require.NoError(t, s.Save(ctx, id, ann(10), time.Hour))
			}
			values, err := pgsession.Decode[profile](session)
			values.Count++
			return values, err
		}))
		require.Equal(t, 2, calls)
		require.Equal(t, 11, s.count(t, id))
	})
	t.Run("an id that was stored anew in the same instant", func(t *testing.T) {
		kv := s.KeyValue()
		id := s.create(t, ann(1), time.Hour)
		require.NoError(t, kv.Put(ctx, "k", nil, time.Hour))
		calls := 0
		require.NoError(t, s.Update(ctx, id, 0, func(session *pgsession.Session) (any, error) {
			if calls++; calls == 1 {
				s.sql(t, `DELETE FROM sessions WHERE key = $1`, key(id))
				require.NoError(t, s.Put(ctx, id, ann(10), time.Hour))
			}
			return profile{"ann", 2}, nil
		}))
		require.Equal(t, 2, calls)
	})
	t.Run("ended between", func(t *testing.T) {
		id := s.create(t, ann(1), time.Hour)
		err := s.Update(ctx, id, 0, func(session *pgsession.Session) (any, error) {
			require.NoError(t, s.Delete(ctx, id))
			return profile{"ann", 2}, nil
		})
		require.ErrorIs(t, err, pgsession.ErrNotFound)
		_, err = s.Load(ctx, id)
		require.ErrorIs(t, err, pgsession.ErrNotFound)
	})
	t.Run("ErrConflict", func(t *testing.T) {
		id := s.create(t, ann(0), time.Hour)
		before := s.Stats().Conflicts
		err := s.Update(ctx, id, 0, func(session *pgsession.Session) (any, error) {
			return profile{"ann", -1}, s.Save(ctx, id, ann(7), time.Hour)
		})
		require.ErrorIs(t, err, pgsession.ErrConflict)
		require.Equal(t, 7, s.count(t, id))
		require.Positive(t, s.Stats().Conflicts-before)
	})
	t.Run("of many at once none is lost", func(t *testing.T) {
		id := s.create(t, ann(0), time.Hour)
		const writers, rounds = 16, 5
		var group sync.WaitGroup
		for range writers {
			group.Go(func() {
				for range rounds {
					err := s.Update(ctx, id, 0, func(session *pgsession.Session) (any, error) {
						values, err := pgsession.Decode[profile](session)
						values.Count++
						return values, err
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		group.Wait()
		require.Equal(t, writers*rounds, s.count(t, id))
	})
}

func TestStore_Touch(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	ctx := t.Context()
	id := s.create(t, ann(1), time.Hour)
	touched := func(ttl time.Duration) (time.Duration, bool) {
		before := s.load(t, id)
		require.NoError(t, s.Touch(ctx, id, ttl))
		after := s.load(t, id)
		return after.TTL(), before.Version != after.Version
	}
	for _, step := range []struct {
		name    string
		advance time.Duration
		ttl     time.Duration
		want    time.Duration
		written bool
	}{
		{"no gain", 0, time.Hour, time.Hour, false},
		{"just under a tenth", 6*time.Minute - time.Microsecond, time.Hour, 54*time.Minute + time.Microsecond, false},
		{"a tenth", time.Microsecond, time.Hour, time.Hour, true},
		{"never shortens", 0, time.Minute, time.Hour, false},
		{"more", 0, 3 * time.Hour, 3 * time.Hour, true},
		{"the last moment", 3*time.Hour - time.Microsecond, time.Hour, time.Hour, true},
	} {
		s.clock.Advance(step.advance)
		got, written := touched(step.ttl)
		require.Equal(t, step.want, got, step.name)
		require.Equal(t, step.written, written, step.name)
	}
	require.Equal(t, 1, s.count(t, id))
	s.clock.Advance(time.Hour)
	require.ErrorIs(t, s.Touch(ctx, id, time.Hour), pgsession.ErrNotFound)
	require.ErrorIs(t, s.Touch(ctx, s.ended(t), time.Hour), pgsession.ErrNotFound)
	require.ErrorIs(t, s.Touch(ctx, pgsession.NewID(), time.Hour), pgsession.ErrNotFound)
}

func TestStore_Cycle(t *testing.T) {
	t.Parallel()
	for name, s := range bothStores(t) {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			for name, test := range map[string]struct {
				from, to pgsession.Data
				began    time.Time
			}{
				"the user stays":  {ann(1), ann(2), epoch},
				"a guest stays":   {guest, guest, epoch},
				"a guest logs in": {guest, ann(2), epoch.Add(time.Minute)},
				"a user logs out": {ann(1), guest, epoch.Add(time.Minute)},
				"another user":    {pgsession.Data{UserID: "bob"}, ann(2), epoch.Add(time.Minute)},
			} {
				t.Run(name, func(t *testing.T) {
					s.clock.Set(epoch)
					old, next := s.create(t, test.from, time.Hour), pgsession.NewID()
					s.clock.Advance(time.Minute)
					require.NoError(t, s.Cycle(ctx, old, next, test.to, 2*time.Hour))
					_, err := s.Load(ctx, old)
					require.ErrorIs(t, err, pgsession.ErrNotFound)
					session := s.load(t, next)
					require.Equal(t, test.to.UserID, session.UserID)
					require.Equal(t, test.began, session.CreatedAt)
					require.Equal(t, 2*time.Hour, session.TTL())
					require.Equal(t, 1, s.rows(t, `key = $1 AND data IS NULL AND sealed IS NULL AND user_key IS NULL`, key(old)))
					require.ErrorIs(t, s.Put(ctx, old, test.from, time.Hour), pgsession.ErrRevoked)
				})
			}
			t.Run("ErrNotFound", func(t *testing.T) {
				s.clock.Set(epoch)
				expired := s.create(t, ann(1), time.Minute)
				s.clock.Advance(time.Minute)
				for _, old := range []pgsession.ID{pgsession.NewID(), {}, expired, s.ended(t)} {
					next := pgsession.NewID()
					require.ErrorIs(t, s.Cycle(ctx, old, next, ann(1), time.Hour), pgsession.ErrNotFound)
					require.Zero(t, s.rows(t, `key = $1`, key(next)))
				}
				old := s.create(t, ann(1), time.Hour)
				require.ErrorIs(t, s.Cycle(ctx, old, pgsession.ID{}, ann(1), time.Hour), pgsession.ErrNotFound)
				s.load(t, old)
			})
			t.Run("ErrExists", func(t *testing.T) {
				s.clock.Set(epoch)
				old, live := s.create(t, ann(1), time.Hour), s.create(t, ann(5), time.Hour)
				for _, taken := range []pgsession.ID{old, live, s.ended(t)} {
					require.ErrorIs(t, s.Cycle(ctx, old, taken, ann(2), time.Hour), pgsession.ErrExists)
				}
				require.Equal(t, 1, s.count(t, old))
				require.Equal(t, 5, s.count(t, live))
			})
		})
	}
}

// TestStore_Cycle_Race has many cycle one id at once, while others look: one wins,
// and whoever looks sees one live session.
func TestStore_Cycle_Race(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	current := s.create(t, ann(0), time.Hour)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var watchers sync.WaitGroup
	for range 2 {
		watchers.Go(func() {
			for ctx.Err() == nil {
				var live int
				err := s.pool.QueryRow(ctx, `SELECT count(*) FROM sessions WHERE sealed IS NOT NULL`).Scan(&live)
				if ctx.Err() == nil && (err != nil || live != 1) {
					t.Errorf("%d live sessions, %v", live, err)
				}
			}
		})
	}
	for round := range 30 {
		const racers = 4
		var (
			wins   [racers]error
			nexts  [racers]pgsession.ID
			racing sync.WaitGroup
		)
		for i := range racers {
			nexts[i] = pgsession.NewID()
			racing.Go(func() { wins[i] = s.Cycle(t.Context(), current, nexts[i], ann(round), time.Hour) })
		}
		racing.Wait()
		winners := 0
		for i, err := range wins {
			if err == nil {
				winners++
				current = nexts[i]
			} else {
				require.ErrorIs(t, err, pgsession.ErrNotFound)
			}
		}
		require.Equal(t, 1, winners)
	}
	stop()
	watchers.Wait()
}

func TestStore_Delete(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	ctx := t.Context()

	t.Run("for good", func(t *testing.T) {
		id := s.create(t, ann(1), 3*time.Hour)
		require.NoError(t, s.Delete(ctx, id))
		require.NoError(t, s.Delete(ctx, id), "idempotent")
		require.ErrorIs(t, s.Save(ctx, id, ann(1), time.Hour), pgsession.ErrNotFound)
		require.ErrorIs(t, s.Touch(ctx, id, time.Hour), pgsession.ErrNotFound)
		require.ErrorIs(t, s.Update(ctx, id, 0, keep(1)), pgsession.ErrNotFound)
		require.ErrorIs(t, s.Cycle(ctx, id, pgsession.NewID(), ann(1), time.Hour), pgsession.ErrNotFound)
		err := s.Put(ctx, id, ann(1), time.Hour)
		require.ErrorIs(t, err, pgsession.ErrRevoked)
		require.ErrorIs(t, err, pgsession.ErrNotFound)
		_, err = s.Load(ctx, id)
		require.ErrorIs(t, err, pgsession.ErrNotFound)
		require.Equal(t, 1, s.rows(t, `key = $1 AND expires_at = $2 AND num_nulls(user_key, data, sealed) = 3`, key(id), epoch.Add(3*time.Hour)))
	})
	t.Run("the tombstone stands for an hour at least", func(t *testing.T) {
		id := s.create(t, ann(1), time.Minute)
		require.NoError(t, s.Delete(ctx, id))
		require.Equal(t, 1, s.rows(t, `key = $1 AND expires_at = $2 AND expires_hour = $3`, key(id), epoch.Add(time.Hour), epoch.Add(time.Hour).Truncate(time.Hour).Add(time.Hour)))
	})
	t.Run("what has expired", func(t *testing.T) {
		id := s.create(t, ann(1), time.Minute)
		s.clock.Advance(2 * time.Minute)
		require.NoError(t, s.Delete(ctx, id))
		require.ErrorIs(t, s.Put(ctx, id, ann(1), time.Hour), pgsession.ErrRevoked)
	})
	t.Run("what was never there leaves nothing", func(t *testing.T) {
		before := s.rows(t, "true")
		require.NoError(t, s.Delete(ctx, pgsession.NewID()))
		require.NoError(t, s.Delete(ctx, pgsession.ID{}))
		require.Equal(t, before, s.rows(t, "true"))
	})
}

func TestStore_Put(t *testing.T) {
	t.Parallel()
	for name, s := range bothStores(t) {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			id := pgsession.DeriveID("a framework's token")
			require.NoError(t, s.Put(ctx, id, ann(1), time.Hour))
			s.clock.Advance(time.Minute)
			require.NoError(t, s.Put(ctx, id, ann(2), time.Hour))
			session := s.load(t, id)
			require.Equal(t, 2, s.count(t, id))
			require.Equal(t, epoch, session.CreatedAt)
			require.Equal(t, time.Hour, session.TTL())

			require.ErrorIs(t, s.Put(ctx, id, guest, time.Hour), pgsession.ErrUserChanged)
			require.ErrorIs(t, s.Put(ctx, id, pgsession.Data{UserID: "bob"}, time.Hour), pgsession.ErrUserChanged)
			require.Equal(t, session, s.load(t, id))

			s.clock.Advance(time.Hour)
			require.NoError(t, s.Put(ctx, id, pgsession.Data{UserID: "bob"}, time.Hour), "what has expired begins anew")
			session = s.load(t, id)
			require.Equal(t, "bob", session.UserID)
			require.Equal(t, epoch.Add(61*time.Minute), session.CreatedAt)
		})
	}
}

func TestStore_WithAbsoluteLifetime(t *testing.T) {
	t.Parallel()
	s := newStore(t, pgsession.WithAbsoluteLifetime(2*time.Hour))
	ctx := t.Context()
	id := s.create(t, ann(1), time.Hour)
	require.Equal(t, epoch.Add(time.Hour), s.load(t, id).ExpiresAt)
	require.NoError(t, s.Touch(ctx, id, 24*time.Hour))
	require.Equal(t, epoch.Add(2*time.Hour), s.load(t, id).ExpiresAt)

	s.clock.Advance(2*time.Hour - time.Microsecond)
	require.NoError(t, s.Save(ctx, id, ann(2), time.Hour))
	require.Equal(t, time.Microsecond, s.load(t, id).TTL())
	next := pgsession.NewID()
	require.NoError(t, s.Cycle(ctx, id, next, ann(2), time.Hour))
	require.Equal(t, time.Microsecond, s.load(t, next).TTL(), "a cycle does not prolong it")

	s.clock.Advance(time.Microsecond)
	_, err := s.Load(ctx, next)
	require.ErrorIs(t, err, pgsession.ErrNotFound)
	require.ErrorIs(t, s.Save(ctx, next, ann(2), time.Hour), pgsession.ErrNotFound)
	require.ErrorIs(t, s.Touch(ctx, next, time.Hour), pgsession.ErrNotFound)
	require.ErrorIs(t, s.Cycle(ctx, next, pgsession.NewID(), ann(2), time.Hour), pgsession.ErrNotFound)
	found, err := s.FindByUser(ctx, "ann", 0)
	require.NoError(t, err)
	require.Empty(t, found)
	require.NoError(t, s.Put(ctx, next, ann(3), time.Hour), "begins anew")
	require.Equal(t, time.Hour, s.load(t, next).TTL())
}

func TestStore_BadInput(t *testing.T) {
	t.Parallel()
	cyclic := map[string]any{}
	cyclic["self"] = cyclic
	type badCase struct {
		data pgsession.Data
		ttl  time.Duration
		want error
	}
	cases := map[string]badCase{
		"ttl zero":            {ann(1), 0, pgsession.ErrInvalidTTL},
		"ttl negative":        {ann(1), -1, pgsession.ErrInvalidTTL},
		"ttl most negative":   {ann(1), math.MinInt64, pgsession.ErrInvalidTTL},
		"ttl overflows":       {ann(1), math.MaxInt64, pgsession.ErrInvalidTTL},
		"channel":             {pgsession.Data{Values: make(chan int)}, time.Hour, pgsession.ErrEncode},
		"not a number":        {pgsession.Data{Values: math.NaN()}, time.Hour, pgsession.ErrEncode},
		"cyclic":              {pgsession.Data{Values: cyclic}, time.Hour, pgsession.ErrEncode},
		"a marshaler's error": {pgsession.Data{Values: failing{}}, time.Hour, pgsession.ErrEncode},
		"no JSON":             {pgsession.Data{Values: json.RawMessage("{secret")}, time.Hour, pgsession.ErrEncode},
		"values too large":    {pgsession.Data{Values: strings.Repeat("x", 64<<10)}, time.Hour, pgsession.ErrTooLarge},
		"bytes too large":     {pgsession.Data{Values: make([]byte, 64<<10+1)}, time.Hour, pgsession.ErrTooLarge},
		"user id of 1,001":    {pgsession.Data{UserID: strings.Repeat("u", 1001)}, time.Hour, pgsession.ErrTooLarge},
		"user id of a MiB":    {pgsession.Data{UserID: strings.Repeat("u", 1<<20)}, time.Hour, pgsession.ErrTooLarge},
	}
	plaintextOnly := map[string]badCase{
		"NUL in JSON":           {pgsession.Data{Values: "secret\x00"}, time.Hour, pgsession.ErrEncode},
		"a lone surrogate":      {pgsession.Data{Values: json.RawMessage(`"\ud800secret"`)}, time.Hour, pgsession.ErrEncode},
		"a number beyond jsonb": {pgsession.Data{Values: json.RawMessage(`1e999999`)}, time.Hour, pgsession.ErrEncode},
		"not UTF-8":             {pgsession.Data{Values: json.RawMessage("\"secret\xff\"")}, time.Hour, pgsession.ErrEncode},
	}
	for name, s := range bothStores(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			live := s.create(t, ann(1), time.Hour)
			before := s.load(t, live)
			tests := map[string]badCase{}
			for name, test := range cases {
				tests[name] = test
			}
			if name == "plaintext" {
				for name, test := range plaintextOnly {
					tests[name] = test
				}
			}
			for name, test := range tests {
				t.Run(name, func(t *testing.T) {
					next := pgsession.NewID()
					_, err := s.Create(ctx, test.data, test.ttl)
					errs := map[string]error{
						"Create": err,
						"Put":    s.Put(ctx, next, test.data, test.ttl),
						"Cycle":  s.Cycle(ctx, live, next, test.data, test.ttl),
					}
					test.data.UserID += "ann"
					if !strings.HasPrefix(name, "user id") {
						test.data.UserID = "ann"
					}
					errs["Save"] = s.Save(ctx, live, test.data, test.ttl)
					if test.want == pgsession.ErrInvalidTTL {
						errs["Touch"] = s.Touch(ctx, live, test.ttl)
						errs["KeyValue.Put"] = s.KeyValue().Put(ctx, "k", nil, test.ttl)
					}
					if !strings.HasPrefix(name, "user id") && test.ttl != 0 {
						errs["Update"] = s.Update(ctx, live, test.ttl, keep(test.data.Values))
					}
					for operation, err := range errs {
						require.ErrorIs(t, err, test.want, operation)
						require.NotContains(t, err.Error(), "secret", operation)
						require.Less(t, len(err.Error()), 200, operation)
					}
					require.Equal(t, before, s.load(t, live))
					require.Equal(t, 1, s.rows(t, "true"))
				})
			}
			t.Run("a user id too long to exist", func(t *testing.T) {
				long := strings.Repeat("u", 1001)
				_, err := s.FindByUser(ctx, long, 0)
				require.ErrorIs(t, err, pgsession.ErrTooLarge)
				_, err = s.DeleteByUser(ctx, long)
				require.ErrorIs(t, err, pgsession.ErrTooLarge)
				require.ErrorIs(t, s.Revoke(ctx, long, live.Handle()), pgsession.ErrTooLarge)
			})
		})
	}
}

type failing struct{}

func (failing) MarshalJSON() ([]byte, error) { return nil, errors.New("secret") }

func TestStore_ZeroID(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	ctx := t.Context()
	var zero pgsession.ID
	for name, err := range map[string]error{
		"Load":      second(s.Load(ctx, zero)),
		"Save":      s.Save(ctx, zero, ann(1), time.Hour),
		"Update":    s.Update(ctx, zero, 0, keep(1)),
		"Touch":     s.Touch(ctx, zero, time.Hour),
		"Cycle":     s.Cycle(ctx, zero, pgsession.NewID(), ann(1), time.Hour),
		"Put":       s.Put(ctx, zero, ann(1), time.Hour),
		"Revoke":    s.Revoke(ctx, "ann", zero.Handle()),
		"RevokeAny": s.RevokeAny(ctx, zero.Handle()),
	} {
		require.ErrorIs(t, err, pgsession.ErrNotFound, name)
	}
	require.NoError(t, s.Delete(ctx, zero))
	require.Zero(t, s.rows(t, "true"))
}

func second[T any](_ T, err error) error { return err }

func TestStore_UserIDs(t *testing.T) {
	t.Parallel()
	for name, s := range bothStores(t) {
		for name2, userID := range map[string]string{
			"1,000 bytes": strings.Repeat("u", 1000), "with NUL": "a\x00b", "not UTF-8": "a\xff\xfeb", "quotes": `a'b"c`, "emoji": "🦉", "one byte": "\x00",
		} {
			t.Run(name+"/"+name2, func(t *testing.T) {
				ctx := t.Context()
				id := s.create(t, pgsession.Data{UserID: userID}, time.Hour)
				require.Equal(t, userID, s.load(t, id).UserID)
				found, err := s.FindByUser(ctx, userID, 0)
				require.NoError(t, err)
				require.Len(t, found, 1)
				require.NoError(t, s.Save(ctx, id, pgsession.Data{UserID: userID}, time.Hour))
				require.NoError(t, s.Revoke(ctx, userID, id.Handle()))
			})
		}
	}
}

func TestStore_WithMaxSize(t *testing.T) {
	t.Parallel()
	s := newStore(t, pgsession.WithMaxSize(10))
	s.create(t, pgsession.Data{Values: make([]byte, 10)}, time.Hour)
	s.create(t, pgsession.Data{Values: "12345678"}, time.Hour) // 10 with its quotes
	_, err := s.Create(t.Context(), pgsession.Data{Values: "123456789"}, time.Hour)
	require.ErrorIs(t, err, pgsession.ErrTooLarge)

	unlimited := newStore(t, pgsession.WithMaxSize(0))
	large := make([]byte, 4<<20)
	id := unlimited.create(t, pgsession.Data{Values: large}, time.Hour)
	got, err := pgsession.Decode[[]byte](unlimited.load(t, id))
	require.NoError(t, err)
	require.Equal(t, large, got)
}

// TestStore_Outage asks every operation while the database cannot answer: none may
// say that there is no session, and none that it did what it did not.
func TestStore_Outage(t *testing.T) {
	t.Parallel()
	outages := map[string]func(t *testing.T, s *fixture) (context.Context, error){
		"a closed pool": func(t *testing.T, s *fixture) (context.Context, error) {
			s.pool.Close()
			return t.Context(), nil
		},
		"a cancelled context": func(t *testing.T, s *fixture) (context.Context, error) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			return ctx, context.Canceled
		},
		"a missing table": func(t *testing.T, s *fixture) (context.Context, error) {
			s.sql(t, `DROP TABLE sessions`)
			return t.Context(), nil
		},
	}
	for name, begin := range outages {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			id := s.create(t, ann(1), time.Hour)
			ctx, want := begin(t, s)
			errs := map[string]error{
				"create": second(s.Create(ctx, ann(1), time.Hour)), "load": second(s.Load(ctx, id)), "save": s.Save(ctx, id, ann(1), time.Hour),
				"load ": s.Update(ctx, id, 0, keep(1)), "touch": s.Touch(ctx, id, time.Hour), "cycle": s.Cycle(ctx, id, pgsession.NewID(), ann(1), time.Hour),
				"delete": s.Delete(ctx, id), "put": s.Put(ctx, id, ann(1), time.Hour), "find by user": second(s.FindByUser(ctx, "ann", 0)),
				"delete by user": second(s.DeleteByUser(ctx, "ann")), "revoke": s.Revoke(ctx, "ann", id.Handle()), "revoke ": s.RevokeAny(ctx, id.Handle()),
				"delete all": second(s.DeleteAll(ctx)), "clean up": second(s.CleanupExpired(ctx)), "reseal": second(s.Reseal(ctx)),
				"load  ": second(s.KeyValue().Get(ctx, "k")), "put ": s.KeyValue().Put(ctx, "k", nil, time.Hour), "delete ": s.KeyValue().Delete(ctx, "k"),
				"health": s.Check(ctx),
			}
			for _, err := range s.All(ctx) {
				errs["all"] = err
			}
			if name != "a missing table" {
				errs["init"] = s.Init(ctx)
			}
			for operation, err := range errs {
				require.Error(t, err, operation)
				require.NotErrorIs(t, err, pgsession.ErrNotFound, operation)
				require.True(t, strings.HasPrefix(err.Error(), "pgsession: "+strings.TrimSpace(operation)+": "), "%s: %v", operation, err)
				if want != nil {
					require.ErrorIs(t, err, want, operation)
				}
				if name == "a missing table" {
					require.Contains(t, err.Error(), "Init", operation)
				}
				for _, secret := range []string{id.Token(), "ann"} {
					require.NotContains(t, err.Error(), secret, operation)
				}
			}
		})
	}
}

// TestStore_RoundTrips counts what goes to the server and back.
func TestStore_RoundTrips(t *testing.T) {
	t.Parallel()
	trips := &roundTrips{}
	pool := pgtest.Pool(t, func(config *pgxpool.Config) {
		config.MaxConns = 1
		config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec // no preparing
		config.ConnConfig.Tracer = trips
	})
	s := newFixture(t, pool, func(pool *pgxpool.Pool, opts ...pgsession.Option) *pgsession.Store {
		return pgsession.New(pool, newCrypto(t, testKey), opts...)
	}, nil)
	ctx := t.Context()
	id, next := s.create(t, ann(1), time.Hour), pgsession.NewID()
	for _, step := range []struct {
		name string
		want int
		run  func() error
	}{
		{"Create", 1, func() error { return second(s.Create(ctx, ann(1), time.Hour)) }},
		{"Load", 1, func() error { return second(s.Load(ctx, id)) }},
		{"Save", 1, func() error { return s.Save(ctx, id, ann(2), time.Hour) }},
		{"Touch", 1, func() error { return s.Touch(ctx, id, 2*time.Hour) }},
		{"Touch without gain", 1, func() error { return s.Touch(ctx, id, 2*time.Hour) }},
		{"Update", 2, func() error { return s.Update(ctx, id, 0, keep(1)) }},
		{"Put", 1, func() error { return s.Put(ctx, id, ann(3), time.Hour) }},
		{"Cycle", 1, func() error { return s.Cycle(ctx, id, next, ann(3), time.Hour) }},
		{"FindByUser", 1, func() error { return second(s.FindByUser(ctx, "ann", 0)) }},
		{"Revoke", 1, func() error { return s.Revoke(ctx, "ann", next.Handle()) }},
		{"Delete", 1, func() error { return s.Delete(ctx, next) }},
	} {
		before := trips.count()
		require.NoError(t, step.run(), step.name)
		require.Equal(t, step.want, trips.count()-before, step.name)
	}
}

// roundTrips counts queries and batches: in pgx's mode exec, each is one round trip.
type roundTrips struct {
	mu      sync.Mutex
	started int
}

func (r *roundTrips) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.started++
	return ctx
}

func (r *roundTrips) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (r *roundTrips) TraceBatchStart(ctx context.Context, conn *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return r.TraceQueryStart(ctx, conn, pgx.TraceQueryStartData{})
}

func (r *roundTrips) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (r *roundTrips) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

func (r *roundTrips) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.started
}

// lines collects what a logger writes.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
