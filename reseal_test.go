package pgsession_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/bridge"
	"github.com/pgsession/pgsession/internal/test"
)

func TestStore_Reseal(t *testing.T) {
	t.Parallel()
	s := test.NewStore(t)
	ctx := t.Context()
	const sessions = 1100 // two pages and a part
	ids := make([]pgsession.ID, sessions)
	for i := range ids {
		ids[i] = s.Begin(t, test.Ann(i), time.Hour)
	}
	bytesID := s.Begin(t, pgsession.Data{Values: []byte{1, 2}}, time.Hour)
	require.NoError(t, s.KeyValue().Put(ctx, "k", []byte("v"), time.Hour))
	s.Ended(t)
	next := pgsession.GenerateKey()
	crypto := test.NewCrypto(t, next, test.Key)
	rotated := s.Node(crypto)

	n, err := rotated.Reseal(ctx)
	require.NoError(t, err)
	require.EqualValues(t, sessions+2, n, "an entry too")
	n, err = rotated.Reseal(ctx)
	require.NoError(t, err)
	require.Zero(t, n)

	require.NoError(t, crypto.SetKeys(next), "the old key can be retired")
	for i, id := range ids {
		require.Equal(t, i, rotated.Number(t, id))
	}
	require.Equal(t, []byte{1, 2}, rotated.MustLoad(t, bytesID).Data().Values)
	test.RequireEntry(t, rotated.KeyValue(), "k", []byte("v"))
	ended, err := rotated.DeleteByUser(ctx, "ann")
	require.NoError(t, err)
	require.EqualValues(t, sessions, ended)

	t.Run("what does not open stays, and is told", func(t *testing.T) {
		s := test.NewStore(t)
		good, tampered, unknown := s.Begin(t, test.Ann(1), time.Hour), s.Begin(t, test.Ann(2), time.Hour), s.Begin(t, test.Ann(3), time.Hour)
		s.SQL(t, `UPDATE sessions SET sealed = set_byte(sealed, 40, get_byte(sealed, 40) # 1) WHERE key = $1`, test.RowKey(tampered))
		s.SQL(t, `UPDATE sessions SET sealed = set_byte(sealed, 2, get_byte(sealed, 2) # 1) WHERE key = $1`, test.RowKey(unknown))
		rotated := s.Node(test.NewCrypto(t, next, test.Key))
		n, err := rotated.Reseal(ctx)
		require.EqualValues(t, 1, n)
		require.ErrorIs(t, err, pgsession.ErrTampered)
		require.ErrorIs(t, err, pgsession.ErrUnknownKey)
		_, err = rotated.Load(ctx, good)
		require.NoError(t, err)
	})
	t.Run("under saves", func(t *testing.T) {
		s := test.NewStore(t)
		id := s.Begin(t, test.Ann(0), time.Hour)
		crypto := test.NewCrypto(t, next, test.Key)
		rotated := s.Node(crypto)
		var saving sync.WaitGroup
		const saves = 60
		saving.Go(func() {
			for range saves {
				if err := test.Err(rotated.Update(ctx, test.Unloaded(id), 0, test.Increment)); err != nil {
					t.Error(err)
				}
			}
		})
		for i := range 30 {
			keys := []pgsession.Key{next, test.Key}
			require.NoError(t, crypto.SetKeys(keys[i%2], keys[1-i%2]))
			_, err := rotated.Reseal(ctx)
			require.NoError(t, err)
		}
		saving.Wait()
		require.Equal(t, saves, rotated.Number(t, id))
	})
	t.Run("a row that somebody holds", func(t *testing.T) {
		s := test.NewStore(t)
		locked := s.Begin(t, test.Ann(1), time.Hour)
		s.Begin(t, test.Ann(2), time.Hour)
		rotated := s.Node(test.NewCrypto(t, next, test.Key))
		held := s.Lock(t, `key = $1`, test.RowKey(locked))
		type result struct {
			resealed int64
			err      error
		}
		done := make(chan result, 1)
		go func() {
			n, err := rotated.Reseal(ctx)
			done <- result{n, err}
		}()
		held.WaitFor(t, 1)
		require.Equal(t, 1, s.CountRows(t, `substring(sealed FROM 2 FOR 4) <> (SELECT substring(sealed FROM 2 FOR 4) FROM sessions WHERE key = $1)`,
			test.RowKey(locked)), "the other one did not wait")
		held.Release(t)
		require.Equal(t, result{resealed: 2}, <-done)
	})
	t.Run("plaintext", func(t *testing.T) {
		s := test.NewPlaintextStore(t)
		s.Begin(t, test.Ann(1), time.Hour)
		n, err := s.Reseal(ctx)
		require.NoError(t, err)
		require.Zero(t, n)
	})
}

func sealPlaintext(t testing.TB, store *pgsession.Store) int64 {
	t.Helper()
	n, err := bridge.SealPlaintext(t.Context(), store, nil)
	require.NoError(t, err)
	return n
}

// sealed returns a store with keys on the table of a plaintext one.
func sealed(t testing.TB, f *test.Store, opts ...pgsession.Option) *test.Store {
	t.Helper()
	return f.Node(test.NewCrypto(t, test.Key), opts...)
}

// Every row that a plaintext store has written opens in an encrypted one once it is sealed, with
// the same user, values and times. Nothing is left in clear.
func TestSealPlaintext(t *testing.T) {
	t.Parallel()
	f := test.NewPlaintextStore(t, pgsession.WithAbsoluteLifetime(24*time.Hour))
	values := map[string]any{
		"JSON":       map[string]any{"cart": []any{"tea", "milk"}},
		"bytes":      []byte("\x00\xffraw"),
		"like bytes": map[string]any{"pgsession:raw": "AA=="},
		"null":       nil,
	}
	ids := map[string]pgsession.ID{}
	before := map[string]*pgsession.Session{}
	for name, v := range values {
		for _, user := range []string{"", "ann"} {
			ids[name+user] = f.Begin(t, pgsession.Data{UserID: user, Values: v}, time.Hour)
			before[name+user] = f.MustLoad(t, ids[name+user])
		}
	}
	ended, expired := f.Ended(t), f.Expired(t)
	require.NoError(t, f.KeyValue().Put(t.Context(), "code", []byte("42"), time.Hour))

	s := sealed(t, f)
	for name, id := range ids {
		_, err := s.Load(t.Context(), id)
		require.ErrorIs(t, err, pgsession.ErrTampered, name)
		require.ErrorContains(t, err, "pgsession seal", name)
	}
	var reported int64
	n, err := bridge.SealPlaintext(t.Context(), s.Store, func(sealed int64) { reported = sealed })
	require.NoError(t, err)
	require.EqualValues(t, len(ids)+2, n) // and the expired one, and the entry
	require.Equal(t, n, reported)

	for name, id := range ids {
		session, was := s.MustLoad(t, id), before[name]
		require.Equal(t, was.UserID, session.UserID)
		require.Equal(t, was.Data(), session.Data(), name)
		require.Equal(t, []time.Time{was.CreatedAt, was.ExpiresAt, was.EndsAt}, []time.Time{session.CreatedAt, session.ExpiresAt, session.EndsAt})
		require.Equal(t, was.IdleTimeout, session.IdleTimeout)
		_, err := f.Load(t.Context(), id)
		require.ErrorIs(t, err, pgsession.ErrUnknownKey)
		require.ErrorContains(t, err, "this is a Plaintext store")
	}
	test.RequireEntry(t, s.KeyValue(), "code", []byte("42"))
	require.ErrorIs(t, test.Err(s.Load(t.Context(), ended)), pgsession.ErrRevoked)
	require.ErrorIs(t, test.Err(s.Load(t.Context(), expired)), pgsession.ErrNotFound)
	require.Zero(t, f.CountRows(t, `data IS NOT NULL OR user_key = 'ann'`))
	found, err := s.FindByUser(t.Context(), "ann", 0)
	require.NoError(t, err)
	require.Len(t, found, len(values))
	require.Zero(t, sealPlaintext(t, s.Store))
}

// A change that a plaintext node commits while the row is being sealed is sealed with it. An end
// stays one.
func TestSealPlaintext_Meanwhile(t *testing.T) {
	t.Parallel()
	f := test.NewPlaintextStore(t)
	changed, ended := f.Begin(t, test.Ann(1), time.Hour), f.Begin(t, test.Ann(1), time.Hour)
	s := sealed(t, f)
	held := f.Lock(t, `true`)
	done := test.Many(1, func() error { return test.Err(bridge.SealPlaintext(t.Context(), s.Store, nil)) })
	held.WaitFor(t, 1)
	_, err := held.Exec(t.Context(), `UPDATE sessions SET data = '2', version = version + 1 WHERE key = $1`, test.RowKey(changed))
	require.NoError(t, err)
	_, err = held.Exec(t.Context(), `UPDATE sessions SET data = NULL, user_key = NULL, version = version + 1 WHERE key = $1`, test.RowKey(ended))
	require.NoError(t, err)
	require.NoError(t, held.Commit(t.Context()))
	require.NoError(t, <-done)
	require.Equal(t, 2, s.Number(t, changed))
	require.ErrorIs(t, test.Err(s.Load(t.Context(), ended)), pgsession.ErrRevoked)
}

// A seal that is interrupted goes on where it was, page by page.
func TestSealPlaintext_Resumes(t *testing.T) {
	t.Parallel()
	f := test.NewPlaintextStore(t)
	const rows = 1200
	f.SQL(t, `
		INSERT INTO sessions (key, user_key, data, version, created_at, expires_at, idle_timeout)
		SELECT sha256(convert_to(i::text, 'UTF8')), 'ann', to_jsonb(i), 1, $1, $1::timestamptz + interval '1 hour', '1 hour'
		FROM generate_series(1, $2::int) AS i`, f.Clock.Now(), rows)
	s := sealed(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	first, err := bridge.SealPlaintext(ctx, s.Store, func(int64) { cancel() })
	require.ErrorIs(t, err, context.Canceled)
	require.Positive(t, first)
	require.EqualValues(t, rows-first, sealPlaintext(t, s.Store))
	for session, err := range s.All(t.Context()) {
		require.NoError(t, err)
		require.Equal(t, "ann", session.UserID)
	}
}

// What does not read as a plaintext store's stays, and is counted. A payload that is sealed already
// is left alone, whatever was planted beside it, until it is written: then that is gone.
func TestSealPlaintext_Hostile(t *testing.T) {
	t.Parallel()
	f := test.NewPlaintextStore(t)
	bad, good := f.Begin(t, test.Ann(1), time.Hour), f.Begin(t, test.Ann(1), time.Hour)
	f.SQL(t, `UPDATE sessions SET data = '{"pgsession:raw": 1}' WHERE key = $1`, test.RowKey(bad))
	s := sealed(t, f)
	n, err := bridge.SealPlaintext(t.Context(), s.Store, nil)
	require.EqualValues(t, 1, n)
	require.ErrorIs(t, err, pgsession.ErrTampered)
	require.ErrorContains(t, err, "1 rows")

	f.SQL(t, `UPDATE sessions SET data = '"planted"' WHERE key = $1`, test.RowKey(good))
	_, err = bridge.SealPlaintext(t.Context(), s.Store, nil)
	require.ErrorContains(t, err, "1 rows")
	require.Equal(t, 1, s.Number(t, good))
	rotated := f.Node(test.NewCrypto(t, test.OtherKey, test.Key))
	require.NoError(t, test.Err(rotated.Reseal(t.Context())))
	require.Zero(t, f.CountRows(t, `data IS NOT NULL AND key = $1`, test.RowKey(good)))
	require.Equal(t, 1, rotated.Number(t, good))
}

// A store that meets rows of the other kind says so at start-up, and in its Health.
func TestRowsOfTheOtherKind_AreNamed(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"in plaintext": "lie in plaintext, and this store refuses them: run pgsession seal once",
		"sealed":       "are sealed, and this is a Plaintext store, which refuses them",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := test.NewRecorder()
			writer, open := test.NewPlaintextStore(t), test.Encrypted
			if name == "sealed" {
				writer, open = test.NewStore(t), pgsession.Plaintext
			}
			other := open(writer.Pool, pgsession.WithClock(writer.Clock), pgsession.WithLogger(slog.New(log)))
			id := writer.Begin(t, test.Ann(1), time.Hour)
			log.Forget()
			require.NoError(t, other.Init(t.Context()))
			require.Len(t, log, 2)
			require.Contains(t, (<-log).Message, "the clocks")
			require.Contains(t, (<-log).Message, "sessions "+want)
			require.ErrorIs(t, test.Err(other.Load(t.Context(), id)), pgsession.ErrUnreadable)
			health := other.Health(t.Context())
			require.Equal(t, pgsession.Degraded, health.Status)
			require.Len(t, health.Reasons, 2) // and the clock
			require.Contains(t, health.Reasons[1]+health.Reasons[0], "rows were met that "+want)
		})
	}
}

// Sessions that were begun before a time are ended, on every kind of table, and none else.
func TestEndBegunBefore(t *testing.T) {
	t.Parallel()
	inMemory := func() *test.Store {
		clock := pgsession.NewManualClock(test.Epoch)
		return &test.Store{Store: pgsession.InMemory(pgsession.WithClock(clock), test.Quiet()), Pool: nil, Clock: clock}
	}
	stores := test.BothStores(t)
	stores["in memory"] = inMemory()
	for name, f := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before, guestBefore := f.Begin(t, test.Ann(1), time.Hour), f.Begin(t, test.Guest, time.Hour)
			require.NoError(t, f.KeyValue().Put(t.Context(), "code", []byte("42"), time.Hour))
			f.Clock.Advance(time.Minute)
			limit := f.Clock.Now()
			after := f.Begin(t, test.Ann(1), time.Hour)
			f.Clock.Advance(time.Minute)
			renewed, err := f.Renew(t.Context(), f.MustLoad(t, before), 0, test.LogIn(test.Ann(1))) // the log-in goes on
			require.NoError(t, err)
			loggedIn, err := f.Renew(t.Context(), f.MustLoad(t, guestBefore), 0, test.LogIn(test.Bob)) // another begins
			require.NoError(t, err)

			n, err := bridge.EndBegunBefore(t.Context(), f.Store, limit)
			require.NoError(t, err)
			require.EqualValues(t, 1, n)
			require.ErrorIs(t, test.Err(f.Load(t.Context(), renewed.ID)), pgsession.ErrRevoked)
			f.MustLoad(t, after)
			f.MustLoad(t, loggedIn.ID)
			test.RequireEntry(t, f.KeyValue(), "code", []byte("42"))
		})
	}
}
