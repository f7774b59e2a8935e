package pgsession_test

import (
	"encoding/json"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/test"
)

// What every kind of store does is in internal/test/conformance. The tests here are about
// PostgreSQL: rows, races and round trips.

func TestNew_Panics(t *testing.T) {
	t.Parallel()
	pool, crypto := pgtest.Pool(t), test.NewCrypto(t, test.Key)
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
	log := test.NewRecorder()
	s := test.NewPlaintextStore(t, pgsession.WithLogger(slog.New(log)), pgsession.WithClock(pgsession.SystemClock{}))
	s.MustLoad(t, s.Begin(t, test.Ann(1), time.Hour))
	require.Len(t, log, 1)
	warning := <-log
	require.Equal(t, slog.LevelWarn, warning.Level)
	require.Contains(t, warning.Message, "plaintext")
}

// TestStore_Rows reads what lies in the table.
func TestStore_Rows(t *testing.T) {
	t.Parallel()
	for name, s := range test.BothStores(t) {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			live := s.Begin(t, pgsession.Data{UserID: "ann", Lifetime: 24 * time.Hour, Values: 1}, 90*time.Minute)
			require.Equal(t, 1, s.CountRows(t, `key = $1 AND created_at = $2 AND expires_at = $3 AND ends_at = $4 AND idle_timeout = '90 minutes'
				AND expires_hour = '2026-03-14 16:00Z'`, test.RowKey(live), test.Epoch, test.Epoch.Add(90*time.Minute), test.Epoch.Add(24*time.Hour)))
			require.Equal(t, 1, s.CountRows(t, `key = $1 AND user_key IS NOT NULL AND num_nulls(data, sealed) = 1`, test.RowKey(live)))
			if name == "plaintext" {
				require.Equal(t, 1, s.CountRows(t, `data = '1' AND user_key = 'ann'`))
			}
			visitor := s.Begin(t, test.Guest, time.Hour)
			require.Equal(t, 1, s.CountRows(t, `key = $1 AND num_nulls(user_key, ends_at) = 2`, test.RowKey(visitor)))

			short, long := s.Begin(t, test.Ann(1), time.Minute), s.Begin(t, test.Ann(1), 3*time.Hour)
			cycled, renewed := s.Begin(t, test.Ann(1), time.Minute), s.Begin(t, test.Ann(1), time.Minute)
			require.NoError(t, s.Delete(ctx, short))
			require.NoError(t, s.Delete(ctx, long))
			require.NoError(t, s.Cycle(ctx, cycled, pgsession.NewID(), test.Ann(2), time.Hour))
			require.NoError(t, test.Err(s.Renew(ctx, test.Unloaded(renewed), time.Hour, test.LogIn(test.Ann(2)))))
			const tombstone = `key = $1 AND expires_at = $2 AND num_nulls(data, sealed) = 2 AND (user_key IS NULL) = $3`
			require.Equal(t, 1, s.CountRows(t, tombstone, test.RowKey(long), test.Epoch.Add(3*time.Hour), true), "until the session would have expired")
			require.Equal(t, 1, s.CountRows(t, tombstone, test.RowKey(short), test.Epoch.Add(time.Hour), true), "for an hour at least")
			for _, id := range []pgsession.ID{cycled, renewed} {
				// In a distributed table it tells where the session was moved.
				require.Equal(t, 1, s.CountRows(t, tombstone, test.RowKey(id), test.Epoch.Add(time.Hour), !pgtest.IsDistributed()), "for an hour at least")
			}
			before := s.CountRows(t, "true")
			require.NoError(t, s.Delete(ctx, pgsession.NewID()))
			require.Equal(t, before, s.CountRows(t, "true"), "an id that was never stored leaves none")
		})
	}
	t.Run("an expiry on the hour", func(t *testing.T) {
		s := test.NewStore(t)
		s.Clock.Set(test.Epoch.Truncate(time.Hour))
		s.Begin(t, test.Ann(1), time.Hour)
		require.Equal(t, 1, s.CountRows(t, `expires_hour = expires_at`))
	})
}

// TestStore_Returned compares the sessions that writes return with what Load gives afterwards.
func TestStore_Returned(t *testing.T) {
	t.Parallel()
	for name, s := range test.BothStores(t, pgsession.WithAbsoluteLifetime(20*time.Hour)) {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			s.Clock.Set(test.Epoch.Add(123).In(time.FixedZone("", 5*3600))) // another zone, with nanoseconds
			requireLoaded := func(returned *pgsession.Session, err error) *pgsession.Session {
				t.Helper()
				require.NoError(t, err)
				require.Equal(t, s.MustLoad(t, returned.ID), returned)
				require.Equal(t, returned.ID.Handle(), returned.Handle)
				return returned
			}
			visitor := requireLoaded(s.Create(ctx, test.Guest, 90*time.Minute))
			require.Equal(t, test.Epoch, visitor.CreatedAt)
			require.Equal(t, test.Epoch.Add(90*time.Minute), visitor.ExpiresAt)
			require.Equal(t, test.Epoch.Add(20*time.Hour), visitor.EndsAt)
			require.Equal(t, 90*time.Minute, visitor.IdleTimeout)
			require.Equal(t, visitor.ID.Token(), s.MustLoad(t, visitor.ID).ID.Token())
			requireLoaded(s.Create(ctx, test.Ann([]byte{0, 255}), 1))
			requireLoaded(s.CreateAs(ctx, pgsession.DeriveID("token"), pgsession.Data{UserID: "ann", Lifetime: 10*time.Hour + 7}, 48*time.Hour))

			s.Clock.Advance(time.Minute + 1)
			updated := requireLoaded(s.Update(ctx, test.Unloaded(visitor.ID), 0, test.Increment))
			require.Equal(t, visitor.ExpiresAt, updated.ExpiresAt)
			require.NotEqual(t, test.Version(visitor), test.Version(updated))
			requireLoaded(s.Update(ctx, test.Unloaded(visitor.ID), 0, test.Keep(1))) // writes nothing
			requireLoaded(s.Update(ctx, test.Unloaded(visitor.ID), 48*time.Hour, test.Keep([]byte("raw"))))

			s.Clock.Advance(time.Minute)
			same := requireLoaded(s.Renew(ctx, test.Unloaded(visitor.ID), 0, test.LogIn(test.Guest)))
			require.Equal(t, test.Epoch, same.CreatedAt)
			require.Equal(t, 48*time.Hour, same.IdleTimeout)
			hers := requireLoaded(s.Renew(ctx, test.Unloaded(same.ID), time.Hour, test.LogIn(pgsession.Data{UserID: "ann", Lifetime: 10*time.Hour - 999, Values: 2})))
			require.Equal(t, test.Epoch.Add(2*time.Minute), hers.CreatedAt)
			require.Equal(t, hers.CreatedAt.Add(10*time.Hour), hers.EndsAt)
			require.NotEqual(t, same.Handle, hers.Handle)
			require.NotEmpty(t, hers.ID.Token())
		})
	}
	t.Run("the values are a copy", func(t *testing.T) {
		s, given := test.NewStore(t), []byte("abc")
		session, err := s.Create(t.Context(), test.Ann(given), time.Hour)
		require.NoError(t, err)
		given[0] = 'x'
		require.Equal(t, "abc", string(test.Decode[[]byte](t, session)))
	})
}

func TestStore_CreateAs(t *testing.T) {
	t.Parallel()
	s := test.NewStore(t)
	ctx := t.Context()
	for name, taken := range map[string]pgsession.ID{"live": s.Begin(t, test.Ann(1), time.Hour), "ended": s.Ended(t), "expired": s.Expired(t)} {
		before := s.CountRows(t, `key = $1`, test.RowKey(taken))
		require.ErrorIs(t, test.Err(s.CreateAs(ctx, taken, test.Ann(2), time.Hour)), pgsession.ErrExists, name)
		require.Equal(t, before, s.CountRows(t, `key = $1`, test.RowKey(taken)), name)
	}
	t.Run("one of many", func(t *testing.T) {
		for round := range 10 {
			const callers = 8
			id := pgsession.NewID()
			var errs [callers]error
			var group sync.WaitGroup
			for i := range callers {
				group.Go(func() { errs[i] = test.Err(s.CreateAs(ctx, id, test.Ann(i), time.Hour)) })
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
			require.Equal(t, won, s.Number(t, id))
		}
	})
}

// TestStore_ParsedID uses ids as they come from cookies: they do all that an id does, and begin
// nothing.
func TestStore_ParsedID(t *testing.T) {
	t.Parallel()
	for name, s := range test.BothStores(t) {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			parsed := test.Must(pgsession.ParseID(s.Begin(t, test.Ann(1), time.Hour).Token()))
			require.NoError(t, s.Save(ctx, parsed, test.Ann(2), time.Hour))
			require.NoError(t, s.Put(ctx, parsed, test.Ann(3), time.Hour), "it replaces")
			require.NoError(t, test.Err(s.Touch(ctx, test.Unloaded(parsed), 2*time.Hour)))
			require.Equal(t, 3, s.Number(t, parsed))
			session, err := s.Update(ctx, test.Unloaded(parsed), 0, test.Increment)
			require.NoError(t, err)
			require.Equal(t, parsed.Token(), session.ID.Token())
			require.ErrorIs(t, test.Err(s.CreateAs(ctx, s.MustLoad(t, parsed).ID, test.Ann(1), time.Hour)), pgsession.ErrForeignID, "Load tells no other id")

			renewed, err := s.Renew(ctx, test.Unloaded(parsed), 0, test.LogIn(test.Ann(5)))
			require.NoError(t, err)
			require.ErrorIs(t, test.Err(s.Load(ctx, parsed)), pgsession.ErrRevoked)
			require.NoError(t, s.Cycle(ctx, test.Must(pgsession.ParseID(renewed.ID.Token())), pgsession.NewID(), test.Ann(6), time.Hour))
		})
	}
}

func TestStore_Update(t *testing.T) {
	t.Parallel()
	t.Run("an id that was stored anew in the same instant", func(t *testing.T) {
		t.Parallel()
		s := test.NewStore(t)
		ctx, id, calls := t.Context(), pgsession.DeriveID("token"), 0
		require.NoError(t, s.Put(ctx, id, test.Ann(1), time.Hour))
		session, err := s.Update(ctx, test.Unloaded(id), 0, func(session *pgsession.Session) (any, error) {
			if calls++; calls == 1 {
				s.SQL(t, `DELETE FROM sessions WHERE key = $1`, test.RowKey(id))
				require.NoError(t, s.Put(ctx, id, test.Ann(10), time.Hour))
			}
			return test.Increment(session)
		})
		require.NoError(t, err)
		require.Equal(t, 2, calls)
		require.Equal(t, 11, test.Decode[int](t, session))
	})
	t.Run("a change that panics or ends its goroutine gives back its turn", func(t *testing.T) {
		t.Parallel()
		for name, end := range map[string]func(){"panic": func() { panic("of the application") }, "Goexit": runtime.Goexit} {
			synctest.Test(t, func(t *testing.T) {
				s, ctx := pgsession.InMemory(), t.Context()
				stale, err := s.Create(ctx, test.Ann(1), time.Hour)
				require.NoError(t, err)
				require.NoError(t, test.Err(s.Update(ctx, stale, 0, test.Increment)))
				runs, ended := 0, make(chan struct{})
				go func() {
					defer close(ended)
					defer func() { recover() }()
					s.Update(ctx, stale, 0, func(session *pgsession.Session) (any, error) {
						if runs++; runs == 2 { // after a conflict, and so in its turn
							end()
						}
						return test.Increment(session)
					})
				}()
				<-ended
				require.Equal(t, 2, runs, name)
				began := time.Now()
				updated, err := s.Update(ctx, stale, 0, test.Increment)
				require.NoError(t, err, name)
				require.Zero(t, time.Since(began), "%s: it has waited for the turn", name)
				require.Equal(t, 3, test.Decode[int](t, updated), name)
			})
		}
	})
	t.Run("writes nothing for nothing", func(t *testing.T) {
		t.Parallel()
		for name, s := range test.BothStores(t) {
			values := json.RawMessage(`{"b":1,"a":[1.50,"é"]}`) // jsonb sorts the members
			id := s.Begin(t, test.Ann(values), time.Hour)
			before := s.MustLoad(t, id)
			require.NoError(t, test.Err(s.Update(t.Context(), test.Unloaded(id), 0, test.Keep(values))), name)
			require.NoError(t, test.Err(s.Update(t.Context(), test.Unloaded(id), time.Hour, test.Keep(values))), name)
			require.Equal(t, before, s.MustLoad(t, id), name)
			require.NoError(t, test.Err(s.Update(t.Context(), test.Unloaded(id), 2*time.Hour, test.Keep(values))), name)
			require.NotEqual(t, test.Version(before), test.Version(s.MustLoad(t, id)), name)
		}
	})
}

// TestStore_Create_ErrEncode gives a plaintext store JSON that jsonb does not keep.
func TestStore_Create_ErrEncode(t *testing.T) {
	t.Parallel()
	s := test.NewPlaintextStore(t)
	ctx := t.Context()
	live := s.Begin(t, test.Ann(1), time.Hour)
	before := s.MustLoad(t, live)
	for name, values := range map[string]any{
		"NUL":                   "secret\x00",
		"a lone surrogate":      json.RawMessage(`"\ud800secret"`),
		"a number beyond jsonb": json.RawMessage(`1e999999`),
		"not UTF-8":             json.RawMessage("\"secret\xff\""),
		"a marshaler's error":   failing{},
	} {
		t.Run(name, func(t *testing.T) {
			data, next := test.Ann(values), pgsession.NewID()
			for operation, err := range map[string]error{
				"Create":   test.Err(s.Create(ctx, data, time.Hour)),
				"CreateAs": test.Err(s.CreateAs(ctx, next, data, time.Hour)),
				"Put":      s.Put(ctx, next, data, time.Hour),
				"Save":     s.Save(ctx, live, data, time.Hour),
				"Update":   test.Err(s.Update(ctx, test.Unloaded(live), time.Hour, test.Keep(values))),
				"Renew":    test.Err(s.Renew(ctx, test.Unloaded(live), time.Hour, test.LogIn(data))),
				"Cycle":    s.Cycle(ctx, live, next, data, time.Hour),
			} {
				require.ErrorIs(t, err, pgsession.ErrEncode, operation)
				require.NotContains(t, err.Error(), "secret", operation)
				require.Less(t, len(err.Error()), 200, operation)
			}
			require.Equal(t, before, s.MustLoad(t, live))
			require.Equal(t, 1, s.CountRows(t, "true"))
		})
	}
}

type failing struct{}

func (failing) MarshalJSON() ([]byte, error) { return nil, errors.New("secret") }

func TestStore_WithMaxSize_Unlimited(t *testing.T) {
	t.Parallel()
	for _, s := range test.BothStores(t, pgsession.WithMaxSize(0)) {
		large := make([]byte, 4<<20)
		require.Equal(t, large, test.Decode[[]byte](t, s.MustLoad(t, s.Begin(t, test.Ann(large), time.Hour))))
	}
}

// TestStore_RoundTrips counts what goes to the server and back.
func TestStore_RoundTrips(t *testing.T) {
	t.Parallel()
	traced := &test.Tracer{}
	pool := pgtest.Pool(t, func(config *pgxpool.Config) {
		config.MaxConns = 1
		config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec // prepares nothing
		config.ConnConfig.Tracer = traced
	})
	s := test.NewStoreOn(t, pool, test.Encrypted)
	require.NoError(t, s.Init(t.Context()))
	// DeleteByUser takes more in a distributed table: two that read, one for each session, and one
	// for each last place of those that moved.
	var more int64
	if pgtest.IsDistributed() {
		more = 3
	}
	ctx, kv := t.Context(), s.KeyValue()
	id, next, deleted := s.Begin(t, test.Ann(1), time.Hour), pgsession.NewID(), s.Begin(t, test.Bob, time.Hour)
	var session, renewed *pgsession.Session
	for _, step := range []struct {
		name string
		want int64
		run  func() error
	}{
		{"Create", 1, func() error { return test.Err(s.Create(ctx, test.Ann(1), time.Hour)) }},
		{"CreateAs", 1, func() error { return test.Err(s.CreateAs(ctx, pgsession.NewID(), test.Ann(1), time.Hour)) }},
		{"Load", 1, func() error { return test.Err(s.Load(ctx, id)) }},
		{"Find", 1, func() error { return test.Err(s.Find(ctx, id.Handle())) }},
		{"Save", 1, func() error { return s.Save(ctx, id, test.Ann(2), time.Hour) }},
		{"Touch of a session made by hand", 1, func() error {
			return test.Err(s.Touch(ctx, test.Unloaded(id), 2*time.Hour))
		}},
		{"Touch of it without gain", 2, func() error { return test.Err(s.Touch(ctx, test.Unloaded(id), 0)) }},
		{"Update of a session made by hand", 2, func() (err error) {
			session, err = s.Update(ctx, test.Unloaded(id), 0, test.Increment)
			return err
		}},
		{"Update", 1, func() (err error) {
			session, err = s.Update(ctx, session, 0, test.Increment)
			return err
		}},
		{"Update without a change", 1, func() error { return test.Err(s.Update(ctx, session, 0, test.Keep(4))) }},
		{"Touch without gain", 0, func() error { return test.Err(s.Touch(ctx, session, 0)) }},
		{"Touch", 1, func() error { return test.Err(s.Touch(ctx, session, 3*time.Hour)) }},
		{"Update of a stale session", 3, func() error { return test.Err(s.Update(ctx, session, 0, test.Increment)) }},
		{"Put", 1, func() error { return s.Put(ctx, id, test.Ann(3), time.Hour) }},
		{"Cycle", 2, func() error { return s.Cycle(ctx, id, next, test.Ann(3), time.Hour) }},
		{"Renew of a session made by hand", 2, func() (err error) {
			renewed, err = s.Renew(ctx, test.Unloaded(next), time.Hour, test.LogIn(test.Ann(4)))
			return err
		}},
		{"Renew", 1, func() (err error) {
			renewed, err = s.Renew(ctx, renewed, time.Hour, test.LogIn(test.Ann(4)))
			return err
		}},
		{"FindByUser", 1, func() error { return test.Err(s.FindByUser(ctx, "ann", 0)) }},
		{"Revoke", 1, func() error { return s.Revoke(ctx, "ann", renewed.Handle) }},
		{"Delete of a session that was ended", 2, func() error { return s.Delete(ctx, renewed.ID) }},
		{"Delete", 1, func() error { return s.Delete(ctx, deleted) }},
		{"Count", 1, func() error { return test.Err(s.Count(ctx)) }},
		{"DeleteByUser", 2 + more, func() error { return test.Err(s.DeleteByUser(ctx, "ann")) }},
		{"KeyValue.Put", 1, func() error { return kv.Put(ctx, "k", nil, time.Hour) }},
		{"KeyValue.Get", 1, func() error { return test.Err(kv.Get(ctx, "k")) }},
		{"KeyValue.Take", 1, func() error { return test.Err(kv.Take(ctx, "k")) }},
		{"KeyValue.Delete of nothing", 2, func() error { return kv.Delete(ctx, "k") }},
	} {
		before := traced.RoundTrips.Load()
		require.NoError(t, step.run(), step.name)
		require.Equal(t, step.want, traced.RoundTrips.Load()-before, step.name)
	}
}
