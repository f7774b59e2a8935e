package pgsession_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
)

// What every kind of store does is in conformance_test.go and behaviour_test.go. The tests here and
// beside are about PostgreSQL: rows, races, locks, outages and round trips.

func TestNew_Panics(t *testing.T) {
	t.Parallel()
	pool, crypto := pgtest.Pool(t), newCrypto(t, testKey)
	require.Panics(t, func() { pgsession.New(nil, crypto) })
	require.Panics(t, func() { pgsession.New(pool, nil) })
	require.Panics(t, func() { pgsession.New(pool, &pgsession.Crypto{}) })
	require.Panics(t, func() { pgsession.Plaintext(nil) })
	for name, option := range map[string]func() pgsession.Option{
		"WithClock":            func() pgsession.Option { return pgsession.WithClock(nil) },
		"WithMaxSize":          func() pgsession.Option { return pgsession.WithMaxSize(-1) },
		"WithAbsoluteLifetime": func() pgsession.Option { return pgsession.WithAbsoluteLifetime(-1) },
		"WithTimeout":          func() pgsession.Option { return pgsession.WithTimeout(-1) },
		"WithCoalescing":       func() pgsession.Option { return pgsession.WithCoalescing(-1) },
	} {
		require.Panics(t, func() { pgsession.New(pool, crypto, option()) }, name)
		require.Panics(t, func() { pgsession.InMemory(option()) }, name)
	}
	require.NotPanics(t, func() { pgsession.New(pool, crypto, pgsession.WithLogger(nil)) })
}

func TestPlaintext_WarnsOnce(t *testing.T) {
	t.Parallel()
	log := newRecorder()
	s := newPlaintextStore(t, pgsession.WithLogger(slog.New(log)), pgsession.WithClock(pgsession.SystemClock{}))
	s.load(t, s.create(t, ann(1), time.Hour))
	require.Len(t, log, 1)
	warning := <-log
	require.Equal(t, slog.LevelWarn, warning.Level)
	require.Contains(t, warning.Message, "plaintext")
}

// TestStore_Rows reads what lies in the table.
func TestStore_Rows(t *testing.T) {
	t.Parallel()
	for name, s := range bothStores(t) {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			live := s.create(t, pgsession.Data{UserID: "ann", Lifetime: 24 * time.Hour, Values: 1}, 90*time.Minute)
			require.Equal(t, 1, s.rows(t, `key = $1 AND created_at = $2 AND expires_at = $3 AND ends_at = $4 AND idle_timeout = '90 minutes'
				AND expires_hour = '2026-03-14 16:00Z'`, key(live), epoch, epoch.Add(90*time.Minute), epoch.Add(24*time.Hour)))
			require.Equal(t, 1, s.rows(t, `key = $1 AND user_key IS NOT NULL AND num_nulls(data, sealed) = 1`, key(live)))
			if name == "plaintext" {
				require.Equal(t, 1, s.rows(t, `data = '1' AND user_key = 'ann'`))
			}
			visitor := s.create(t, guest, time.Hour)
			require.Equal(t, 1, s.rows(t, `key = $1 AND num_nulls(user_key, ends_at) = 2`, key(visitor)))

			short, long := s.create(t, ann(1), time.Minute), s.create(t, ann(1), 3*time.Hour)
			cycled, renewed := s.create(t, ann(1), time.Minute), s.create(t, ann(1), time.Minute)
			require.NoError(t, s.Delete(ctx, short))
			require.NoError(t, s.Delete(ctx, long))
			require.NoError(t, s.Cycle(ctx, cycled, pgsession.NewID(), ann(2), time.Hour))
			require.NoError(t, second(s.Renew(ctx, at(renewed), time.Hour, login(ann(2)))))
			const tombstone = `key = $1 AND expires_at = $2 AND num_nulls(data, sealed) = 2 AND (user_key IS NULL) = $3`
			require.Equal(t, 1, s.rows(t, tombstone, key(long), epoch.Add(3*time.Hour), true), "until the session would have expired")
			require.Equal(t, 1, s.rows(t, tombstone, key(short), epoch.Add(time.Hour), true), "for an hour at least")
			for _, id := range []pgsession.ID{cycled, renewed} {
				// In a distributed table it tells where the session was moved.
				require.Equal(t, 1, s.rows(t, tombstone, key(id), epoch.Add(time.Hour), !pgtest.IsDistributed()), "for an hour at least")
			}
			before := s.rows(t, "true")
			require.NoError(t, s.Delete(ctx, pgsession.NewID()))
			require.Equal(t, before, s.rows(t, "true"), "an id that was never stored leaves none")
		})
	}
	t.Run("an expiry on the hour", func(t *testing.T) {
		s := newStore(t)
		s.clock.Set(epoch.Truncate(time.Hour))
		s.create(t, ann(1), time.Hour)
		require.Equal(t, 1, s.rows(t, `expires_hour = expires_at`))
	})
}

// TestStore_Returned compares the sessions that writes return with what Load gives afterwards.
func TestStore_Returned(t *testing.T) {
	t.Parallel()
	for name, s := range bothStores(t, pgsession.WithAbsoluteLifetime(20*time.Hour)) {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			s.clock.Set(epoch.Add(123).In(time.FixedZone("", 5*3600))) // another zone, with nanoseconds
			requireLoaded := func(returned *pgsession.Session, err error) *pgsession.Session {
				t.Helper()
				require.NoError(t, err)
				require.Equal(t, s.load(t, returned.ID), returned)
				require.Equal(t, returned.ID.Handle(), returned.Handle)
				return returned
			}
			visitor := requireLoaded(s.Create(ctx, guest, 90*time.Minute))
			require.Equal(t, epoch, visitor.CreatedAt)
			require.Equal(t, epoch.Add(90*time.Minute), visitor.ExpiresAt)
			require.Equal(t, epoch.Add(20*time.Hour), visitor.EndsAt)
			require.Equal(t, 90*time.Minute, visitor.IdleTimeout)
			require.Equal(t, visitor.ID.Token(), s.load(t, visitor.ID).ID.Token())
			requireLoaded(s.Create(ctx, ann([]byte{0, 255}), 1))
			requireLoaded(s.CreateAs(ctx, pgsession.DeriveID("token"), pgsession.Data{UserID: "ann", Lifetime: 10*time.Hour + 7}, 48*time.Hour))

			s.clock.Advance(time.Minute + 1)
			updated := requireLoaded(s.Update(ctx, at(visitor.ID), 0, increment))
			require.Equal(t, visitor.ExpiresAt, updated.ExpiresAt)
			require.NotEqual(t, version(visitor), version(updated))
			requireLoaded(s.Update(ctx, at(visitor.ID), 0, keep(1))) // writes nothing
			requireLoaded(s.Update(ctx, at(visitor.ID), 48*time.Hour, keep([]byte("raw"))))

			s.clock.Advance(time.Minute)
			same := requireLoaded(s.Renew(ctx, at(visitor.ID), 0, login(guest)))
			require.Equal(t, epoch, same.CreatedAt)
			require.Equal(t, 48*time.Hour, same.IdleTimeout)
			hers := requireLoaded(s.Renew(ctx, at(same.ID), time.Hour, login(pgsession.Data{UserID: "ann", Lifetime: 10*time.Hour - 999, Values: 2})))
			require.Equal(t, epoch.Add(2*time.Minute), hers.CreatedAt)
			require.Equal(t, hers.CreatedAt.Add(10*time.Hour), hers.EndsAt)
			require.NotEqual(t, same.Handle, hers.Handle)
			require.NotEmpty(t, hers.ID.Token())
		})
	}
	t.Run("the values are a copy", func(t *testing.T) {
		s, given := newStore(t), []byte("abc")
		session, err := s.Create(t.Context(), ann(given), time.Hour)
		require.NoError(t, err)
		given[0] = 'x'
		require.Equal(t, "abc", string(decode[[]byte](t, session)))
	})
}

func TestStore_CreateAs(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	ctx := t.Context()
	for name, taken := range map[string]pgsession.ID{"live": s.create(t, ann(1), time.Hour), "ended": s.ended(t), "expired": s.expired(t)} {
		before := s.rows(t, `key = $1`, key(taken))
		require.ErrorIs(t, second(s.CreateAs(ctx, taken, ann(2), time.Hour)), pgsession.ErrExists, name)
		require.Equal(t, before, s.rows(t, `key = $1`, key(taken)), name)
	}
	t.Run("one of many", func(t *testing.T) {
		for round := range 10 {
			const callers = 8
			id := pgsession.NewID()
			var errs [callers]error
			var group sync.WaitGroup
			for i := range callers {
				group.Go(func() { errs[i] = second(s.CreateAs(ctx, id, ann(i), time.Hour)) })
			}
			group.Wait()
			won := -1
			for i, err := range errs {
				if err == nil {
					require.Negative(t, won, "round %d: two created one session", round)
					won = i
				} else {
					require.ErrorIs(t, err, pgsession.ErrExists)
				}
			}
			require.Equal(t, won, s.count(t, id))
		}
	})
}

// TestStore_ParsedID uses ids as they come from cookies: they do all that an id does, and begin nothing.
func TestStore_ParsedID(t *testing.T) {
	t.Parallel()
	for name, s := range bothStores(t) {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			parsed := must(pgsession.ParseID(s.create(t, ann(1), time.Hour).Token()))
			require.NoError(t, s.Save(ctx, parsed, ann(2), time.Hour))
			require.NoError(t, s.Put(ctx, parsed, ann(3), time.Hour), "it replaces")
			require.NoError(t, second(s.Touch(ctx, at(parsed), 2*time.Hour)))
			require.Equal(t, 3, s.count(t, parsed))
			session, err := s.Update(ctx, at(parsed), 0, increment)
			require.NoError(t, err)
			require.Equal(t, parsed.Token(), session.ID.Token())
			require.ErrorIs(t, second(s.CreateAs(ctx, s.load(t, parsed).ID, ann(1), time.Hour)), pgsession.ErrForeignID, "Load tells no other id")

			renewed, err := s.Renew(ctx, at(parsed), 0, login(ann(5)))
			require.NoError(t, err)
			require.ErrorIs(t, second(s.Load(ctx, parsed)), pgsession.ErrRevoked)
			require.NoError(t, s.Cycle(ctx, must(pgsession.ParseID(renewed.ID.Token())), pgsession.NewID(), ann(6), time.Hour))
		})
	}
}

func TestStore_Update(t *testing.T) {
	t.Parallel()
	t.Run("an id that was stored anew in the same instant", func(t *testing.T) {
		t.Parallel()
		s := newStore(t)
		ctx, id, calls := t.Context(), pgsession.DeriveID("token"), 0
		require.NoError(t, s.Put(ctx, id, ann(1), time.Hour))
		session, err := s.Update(ctx, at(id), 0, func(session *pgsession.Session) (any, error) {
			if calls++; calls == 1 {
				s.sql(t, `DELETE FROM sessions WHERE key = $1`, key(id))
				require.NoError(t, s.Put(ctx, id, ann(10), time.Hour))
			}
			return increment(session)
		})
		require.NoError(t, err)
		require.Equal(t, 2, calls)
		require.Equal(t, 11, decode[int](t, session))
	})
	t.Run("of many at once none is lost", func(t *testing.T) {
		t.Parallel()
		s := newStore(t)
		id := s.create(t, ann(0), time.Hour)
		const writers, rounds = 16, 5
		var group sync.WaitGroup
		for range writers {
			group.Go(func() {
				for range rounds {
					if err := second(s.Update(t.Context(), at(id), 0, increment)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		group.Wait()
		require.Equal(t, writers*rounds, s.count(t, id))
	})
	t.Run("writes nothing for nothing", func(t *testing.T) {
		t.Parallel()
		for name, s := range bothStores(t) {
			values := json.RawMessage(`{"b":1,"a":[1.50,"é"]}`) // jsonb sorts the members
			id := s.create(t, ann(values), time.Hour)
			before := s.load(t, id)
			require.NoError(t, second(s.Update(t.Context(), at(id), 0, keep(values))), name)
			require.NoError(t, second(s.Update(t.Context(), at(id), time.Hour, keep(values))), name)
			require.Equal(t, before, s.load(t, id), name)
			require.NoError(t, second(s.Update(t.Context(), at(id), 2*time.Hour, keep(values))), name)
			require.NotEqual(t, version(before), version(s.load(t, id)), name)
		}
	})
}

// TestStore_Move_Race has many move one session to new ids at once, while others look: one wins, and in
// every snapshot there is one live session.
func TestStore_Move_Race(t *testing.T) {
	t.Parallel()
	for name, move := range map[string]func(ctx context.Context, s *fixture, id pgsession.ID) (pgsession.ID, error){
		"Cycle": func(ctx context.Context, s *fixture, id pgsession.ID) (pgsession.ID, error) {
			next := pgsession.NewID()
			return next, s.Cycle(ctx, id, next, ann(1), time.Hour)
		},
		"Renew": func(ctx context.Context, s *fixture, id pgsession.ID) (pgsession.ID, error) {
			session, err := s.Renew(ctx, at(id), time.Hour, login(ann(1)))
			if err != nil {
				return pgsession.ID{}, err
			}
			return session.ID, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			current := s.create(t, ann(0), time.Hour)
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			var watchers sync.WaitGroup
			for range 2 {
				if pgtest.IsDistributed() {
					break // no snapshot spans the shards
				}
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
			for range 30 {
				const racers = 4
				var (
					errs   [racers]error
					nexts  [racers]pgsession.ID
					racing sync.WaitGroup
				)
				for i := range racers {
					racing.Go(func() { nexts[i], errs[i] = move(t.Context(), s, current) })
				}
				racing.Wait()
				winners := 0
				for i, err := range errs {
					if err == nil {
						winners++
						current = nexts[i]
					} else {
						require.ErrorIs(t, err, pgsession.ErrRevoked)
					}
				}
				require.Equal(t, 1, winners)
			}
			stop()
			watchers.Wait()
		})
	}
}

// TestStore_Move_Refused has a trigger refuse the new row, at once or at the commit: the old session
// goes on.
func TestStore_Move_Refused(t *testing.T) {
	t.Parallel()
	for name, trigger := range map[string]string{
		"at once":       `CREATE TRIGGER refuse BEFORE INSERT ON sessions FOR EACH ROW EXECUTE FUNCTION refuse()`,
		"at the commit": `CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON sessions DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			old, next := s.create(t, ann(1), time.Hour), pgsession.NewID()
			before := s.load(t, old)
			s.sql(t, `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''not today''; END'`)
			s.sql(t, trigger)
			require.ErrorContains(t, s.Cycle(t.Context(), old, next, ann(2), time.Hour), "not today")
			require.ErrorContains(t, second(s.Renew(t.Context(), at(old), 0, login(ann(2)))), "not today")
			require.Equal(t, before, s.load(t, old))
			require.ErrorIs(t, second(s.Load(t.Context(), next)), pgsession.ErrNotFound)
			require.Equal(t, 1, s.rows(t, "true"))
		})
	}
}

// TestStore_Renew_Overtaken lets others write between the look and the write of a log-in.
func TestStore_Renew_Overtaken(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	ctx := t.Context()
	t.Run("by a write", func(t *testing.T) {
		id, calls := s.create(t, guest, time.Hour), 0
		session, err := s.Renew(ctx, at(id), 0, func(session *pgsession.Session) (pgsession.Data, error) {
			if calls++; calls == 1 {
				require.NoError(t, second(s.Update(ctx, at(id), 0, keep(7))))
			}
			values, err := increment(session)
			return ann(values), err
		})
		require.NoError(t, err)
		require.Equal(t, 2, calls)
		require.Equal(t, 8, decode[int](t, session), "no change is lost")
		require.Equal(t, "ann", session.UserID)
	})
	t.Run("by an end", func(t *testing.T) {
		id := s.create(t, guest, time.Hour)
		before := s.rows(t, "true")
		require.ErrorIs(t, second(s.Renew(ctx, at(id), 0, func(*pgsession.Session) (pgsession.Data, error) {
			return ann(1), s.Delete(ctx, id)
		})), pgsession.ErrRevoked)
		require.Equal(t, before, s.rows(t, "true"), "no new row")
	})
	t.Run("again and again", func(t *testing.T) {
		id := s.create(t, guest, time.Hour)
		require.ErrorIs(t, second(s.Renew(ctx, at(id), 0, func(*pgsession.Session) (pgsession.Data, error) {
			return ann(1), s.Save(ctx, id, guest, time.Hour)
		})), pgsession.ErrConflict)
		require.Empty(t, s.load(t, id).UserID)
	})
}

// TestStore_Touch_Overtaken has a touch wait behind the end of its session: it must not say that it
// prolonged what is over.
func TestStore_Touch_Overtaken(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	id := s.create(t, ann(1), time.Minute)
	end := s.hold(t, `UPDATE sessions SET sealed = NULL, user_key = NULL WHERE key = $1`, key(id))
	touched := make(chan error, 1)
	go func() { touched <- second(s.Touch(t.Context(), at(id), time.Hour)) }()
	end.waitFor(t, 1)
	require.NoError(t, end.Commit(t.Context()))
	require.ErrorIs(t, <-touched, pgsession.ErrRevoked)
}

// TestStore_SwallowedInsert has a trigger swallow new rows.
func TestStore_SwallowedInsert(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.swallow(t, "INSERT")
	ctx := t.Context()
	for name, err := range map[string]error{
		"Create":       second(s.Create(ctx, ann(1), time.Hour)),
		"CreateAs":     second(s.CreateAs(ctx, pgsession.NewID(), ann(1), time.Hour)),
		"Put":          s.Put(ctx, pgsession.NewID(), ann(1), time.Hour),
		"KeyValue.Put": s.KeyValue().Put(ctx, "k", nil, time.Hour),
	} {
		require.Error(t, err, name)
		require.NotErrorIs(t, err, pgsession.ErrNotFound, name)
	}
}

// TestStore_Create_ErrEncode gives a plaintext store JSON that jsonb does not keep.
func TestStore_Create_ErrEncode(t *testing.T) {
	t.Parallel()
	s := newPlaintextStore(t)
	ctx := t.Context()
	live := s.create(t, ann(1), time.Hour)
	before := s.load(t, live)
	for name, values := range map[string]any{
		"NUL":                   "secret\x00",
		"a lone surrogate":      json.RawMessage(`"\ud800secret"`),
		"a number beyond jsonb": json.RawMessage(`1e999999`),
		"not UTF-8":             json.RawMessage("\"secret\xff\""),
		"a marshaler's error":   failing{},
	} {
		t.Run(name, func(t *testing.T) {
			data, next := ann(values), pgsession.NewID()
			for operation, err := range map[string]error{
				"Create":   second(s.Create(ctx, data, time.Hour)),
				"CreateAs": second(s.CreateAs(ctx, next, data, time.Hour)),
				"Put":      s.Put(ctx, next, data, time.Hour),
				"Save":     s.Save(ctx, live, data, time.Hour),
				"Update":   second(s.Update(ctx, at(live), time.Hour, keep(values))),
				"Renew":    second(s.Renew(ctx, at(live), time.Hour, login(data))),
				"Cycle":    s.Cycle(ctx, live, next, data, time.Hour),
			} {
				require.ErrorIs(t, err, pgsession.ErrEncode, operation)
				require.NotContains(t, err.Error(), "secret", operation)
				require.Less(t, len(err.Error()), 200, operation)
			}
			require.Equal(t, before, s.load(t, live))
			require.Equal(t, 1, s.rows(t, "true"))
		})
	}
}

type failing struct{}

func (failing) MarshalJSON() ([]byte, error) { return nil, errors.New("secret") }

func TestStore_WithMaxSize_Unlimited(t *testing.T) {
	t.Parallel()
	for _, s := range bothStores(t, pgsession.WithMaxSize(0)) {
		large := make([]byte, 4<<20)
		require.Equal(t, large, decode[[]byte](t, s.load(t, s.create(t, ann(large), time.Hour))))
	}
}

// TestStore_Outage calls every operation while the database cannot answer. None may say that there is
// no session, and none that it did what it did not.
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
			for operation, call := range operationsOf(s, id) {
				if operation == "init" && name == "a missing table" {
					continue
				}
				err := call(ctx)
				require.Error(t, err, operation)
				require.NotErrorIs(t, err, pgsession.ErrNotFound, operation)
				prefix, _, _ := strings.Cut(operation, "/")
				require.True(t, strings.HasPrefix(err.Error(), "pgsession: "+prefix+": "), "%s: %v", operation, err)
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

// operationsOf returns every operation of a store with ann's live session id. The names begin with what
// their errors begin with.
func operationsOf(s *fixture, id pgsession.ID) map[string]func(ctx context.Context) error {
	kv := s.KeyValue()
	return map[string]func(ctx context.Context) error{
		"create":                func(ctx context.Context) error { return second(s.Create(ctx, ann(1), time.Hour)) },
		"create/CreateAs":       func(ctx context.Context) error { return second(s.CreateAs(ctx, pgsession.NewID(), ann(1), time.Hour)) },
		"load":                  func(ctx context.Context) error { return second(s.Load(ctx, id)) },
		"save":                  func(ctx context.Context) error { return s.Save(ctx, id, ann(1), time.Hour) },
		"put":                   func(ctx context.Context) error { return s.Put(ctx, id, ann(1), time.Hour) },
		"update":                func(ctx context.Context) error { return second(s.Update(ctx, at(id), 0, keep(2))) },
		"renew":                 func(ctx context.Context) error { return second(s.Renew(ctx, at(id), 0, login(ann(2)))) },
		"touch":                 func(ctx context.Context) error { return second(s.Touch(ctx, at(id), 2*time.Hour)) },
		"cycle":                 func(ctx context.Context) error { return s.Cycle(ctx, id, pgsession.NewID(), ann(1), time.Hour) },
		"delete":                func(ctx context.Context) error { return s.Delete(ctx, id) },
		"find by user":          func(ctx context.Context) error { return second(s.FindByUser(ctx, "ann", 0)) },
		"delete by user":        func(ctx context.Context) error { return second(s.DeleteByUser(ctx, "ann")) },
		"revoke":                func(ctx context.Context) error { return s.Revoke(ctx, "ann", id.Handle()) },
		"revoke/RevokeAny":      func(ctx context.Context) error { return s.RevokeAny(ctx, id.Handle()) },
		"delete all":            func(ctx context.Context) error { return second(s.DeleteAll(ctx)) },
		"clean up":              func(ctx context.Context) error { return second(s.CleanupExpired(ctx)) },
		"clean up/PruneExpired": func(ctx context.Context) error { return second(kv.PruneExpired(ctx)) },
		"reseal":                func(ctx context.Context) error { return second(s.Reseal(ctx)) },
		"get":                   func(ctx context.Context) error { return second(kv.Get(ctx, "k")) },
		"take":                  func(ctx context.Context) error { return second(kv.Take(ctx, "k")) },
		"put/KeyValue":          func(ctx context.Context) error { return kv.Put(ctx, "k", nil, time.Hour) },
		"delete/KeyValue":       func(ctx context.Context) error { return kv.Delete(ctx, "k") },
		"health":                s.Check,
		"init":                  s.Init,
		"all": func(ctx context.Context) (last error) {
			for _, err := range s.All(ctx) {
				last = err
			}
			return last
		},
	}
}

// TestStore_RoundTrips counts what goes to the server and back.
func TestStore_RoundTrips(t *testing.T) {
	t.Parallel()
	traced := &tracer{}
	pool := pgtest.Pool(t, func(config *pgxpool.Config) {
		config.MaxConns = 1
		config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec // prepares nothing
		config.ConnConfig.Tracer = traced
	})
	s := newFixture(t, pool, encrypted, nil)
	require.NoError(t, s.Init(t.Context()))
	var more int64 // what DeleteByUser takes in a distributed table: two that read, one for each session, and one for each last place of those that moved
	if pgtest.IsDistributed() {
		more = 4
	}
	ctx, kv := t.Context(), s.KeyValue()
	id, next := s.create(t, ann(1), time.Hour), pgsession.NewID()
	var renewed *pgsession.Session
	for _, step := range []struct {
		name string
		want int64
		run  func() error
	}{
		{"Create", 1, func() error { return second(s.Create(ctx, ann(1), time.Hour)) }},
		{"CreateAs", 1, func() error { return second(s.CreateAs(ctx, pgsession.NewID(), ann(1), time.Hour)) }},
		{"Load", 1, func() error { return second(s.Load(ctx, id)) }},
		{"Save", 1, func() error { return s.Save(ctx, id, ann(2), time.Hour) }},
		{"Touch", 1, func() error { return second(s.Touch(ctx, at(id), 2*time.Hour)) }},
		{"Touch without gain", 1, func() error { return second(s.Touch(ctx, at(id), 2*time.Hour)) }},
		{"Touch by its own ttl", 1, func() error { return second(s.Touch(ctx, at(id), 0)) }},
		{"Update", 2, func() error { return second(s.Update(ctx, at(id), 0, increment)) }},
		{"Update of nothing", 1, func() error { return second(s.Update(ctx, at(id), 0, keep(3))) }},
		{"Put", 1, func() error { return s.Put(ctx, id, ann(3), time.Hour) }},
		{"Cycle", 2, func() error { return s.Cycle(ctx, id, next, ann(3), time.Hour) }},
		{"Renew", 2, func() (err error) {
			renewed, err = s.Renew(ctx, at(next), time.Hour, login(ann(4)))
			return err
		}},
		{"FindByUser", 1, func() error { return second(s.FindByUser(ctx, "ann", 0)) }},
		{"Revoke", 1, func() error { return s.Revoke(ctx, "ann", renewed.Handle) }},
		{"Delete", 1, func() error { return s.Delete(ctx, renewed.ID) }},
		{"DeleteByUser", 1 + more, func() error { return second(s.DeleteByUser(ctx, "ann")) }},
		{"KeyValue.Put", 1, func() error { return kv.Put(ctx, "k", nil, time.Hour) }},
		{"KeyValue.Get", 1, func() error { return second(kv.Get(ctx, "k")) }},
		{"KeyValue.Take", 1, func() error { return second(kv.Take(ctx, "k")) }},
		{"KeyValue.Delete", 1, func() error { return kv.Delete(ctx, "k") }},
	} {
		before := traced.roundTrips.Load()
		require.NoError(t, step.run(), step.name)
		require.Equal(t, step.want, traced.roundTrips.Load()-before, step.name)
	}
}
