package pgsession_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/bridge"
)

// What bridge offers to cmd/pgsession.

func sealPlaintext(t testing.TB, store *pgsession.Store) int64 {
	t.Helper()
	n, err := bridge.SealPlaintext(t.Context(), store, nil)
	require.NoError(t, err)
	return n
}

// sealed returns a store with keys on the table of a plaintext one.
func (f *fixture) sealed(t testing.TB, opts ...pgsession.Option) *fixture {
	t.Helper()
	return f.node(newCrypto(t, testKey), opts...)
}

// Every row that a plaintext store has written opens in an encrypted one once it is sealed, with the same user,
// values and times. Nothing is left in clear.
func TestSealPlaintext(t *testing.T) {
	t.Parallel()
	f := newPlaintextStore(t, pgsession.WithAbsoluteLifetime(24*time.Hour))
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
			ids[name+user] = f.create(t, pgsession.Data{UserID: user, Values: v}, time.Hour)
			before[name+user] = f.load(t, ids[name+user])
		}
	}
	ended, expired := f.ended(t), f.expired(t)
	require.NoError(t, f.KeyValue().Put(t.Context(), "code", []byte("42"), time.Hour))

	s := f.sealed(t)
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
		session, was := s.load(t, id), before[name]
		require.Equal(t, was.UserID, session.UserID)
		require.Equal(t, was.Data(), session.Data(), name)
		require.Equal(t, []time.Time{was.CreatedAt, was.ExpiresAt, was.EndsAt}, []time.Time{session.CreatedAt, session.ExpiresAt, session.EndsAt})
		require.Equal(t, was.IdleTimeout, session.IdleTimeout)
		_, err := f.Load(t.Context(), id)
		require.ErrorIs(t, err, pgsession.ErrUnknownKey)
		require.ErrorContains(t, err, "this is a Plaintext store")
	}
	requireEntry(t, s.KeyValue(), "code", []byte("42"))
	require.ErrorIs(t, second(s.Load(t.Context(), ended)), pgsession.ErrRevoked)
	require.ErrorIs(t, second(s.Load(t.Context(), expired)), pgsession.ErrNotFound)
	require.Zero(t, f.rows(t, `data IS NOT NULL OR user_key = 'ann'`))
	found, err := s.FindByUser(t.Context(), "ann", 0)
	require.NoError(t, err)
	require.Len(t, found, len(values))
	require.Zero(t, sealPlaintext(t, s.Store))
}

// A change that a plaintext node commits while the row is being sealed is sealed with it. An end stays one.
func TestSealPlaintext_Meanwhile(t *testing.T) {
	t.Parallel()
	f := newPlaintextStore(t)
	changed, ended := f.create(t, ann(1), time.Hour), f.create(t, ann(1), time.Hour)
	s := f.sealed(t)
	held := f.lock(t, `true`)
	done := many(1, func() error { return second(bridge.SealPlaintext(t.Context(), s.Store, nil)) })
	held.waitFor(t, 1)
	_, err := held.Exec(t.Context(), `UPDATE sessions SET data = '2', version = version + 1 WHERE key = $1`, key(changed))
	require.NoError(t, err)
	_, err = held.Exec(t.Context(), `UPDATE sessions SET data = NULL, user_key = NULL, version = version + 1 WHERE key = $1`, key(ended))
	require.NoError(t, err)
	require.NoError(t, held.Commit(t.Context()))
	require.NoError(t, <-done)
	require.Equal(t, 2, s.count(t, changed))
	require.ErrorIs(t, second(s.Load(t.Context(), ended)), pgsession.ErrRevoked)
}

// A seal that is interrupted goes on where it was, page by page.
func TestSealPlaintext_Resumes(t *testing.T) {
	t.Parallel()
	f := newPlaintextStore(t)
	const rows = 1200
	f.sql(t, `
		INSERT INTO sessions (key, user_key, data, version, created_at, expires_at, idle_timeout)
		SELECT sha256(convert_to(i::text, 'UTF8')), 'ann', to_jsonb(i), 1, $1, $1::timestamptz + interval '1 hour', '1 hour'
		FROM generate_series(1, $2::int) AS i`, f.clock.Now(), rows)
	s := f.sealed(t)
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

// What does not read as a plaintext store's stays, and is counted. A payload that is sealed already is left alone,
// whatever was planted beside it, until it is written: then that is gone.
func TestSealPlaintext_Hostile(t *testing.T) {
	t.Parallel()
	f := newPlaintextStore(t)
	bad, good := f.create(t, ann(1), time.Hour), f.create(t, ann(1), time.Hour)
	f.sql(t, `UPDATE sessions SET data = '{"pgsession:raw": 1}' WHERE key = $1`, key(bad))
	s := f.sealed(t)
	n, err := bridge.SealPlaintext(t.Context(), s.Store, nil)
	require.EqualValues(t, 1, n)
	require.ErrorIs(t, err, pgsession.ErrTampered)
	require.ErrorContains(t, err, "1 rows")

	f.sql(t, `UPDATE sessions SET data = '"planted"' WHERE key = $1`, key(good))
	_, err = bridge.SealPlaintext(t.Context(), s.Store, nil)
	require.ErrorContains(t, err, "1 rows")
	require.Equal(t, 1, s.count(t, good))
	rotated := f.node(newCrypto(t, otherKey, testKey))
	require.NoError(t, second(rotated.Reseal(t.Context())))
	require.Zero(t, f.rows(t, `data IS NOT NULL AND key = $1`, key(good)))
	require.Equal(t, 1, rotated.count(t, good))
}

// An encrypted store says at start-up, and to whoever asks how it is, that rows lie in plaintext.
func TestPlaintextRows_AreNamed(t *testing.T) {
	t.Parallel()
	f := newPlaintextStore(t)
	id := f.create(t, ann(1), time.Hour)
	log := newRecorder()
	s := f.sealed(t, pgsession.WithLogger(slog.New(log)))
	require.NoError(t, s.Init(t.Context()))
	require.Len(t, log, 2)
	require.Contains(t, (<-log).Message, "the clocks")
	require.Contains(t, (<-log).Message, "sessions lie in plaintext, and this store refuses them: run pgsession seal once")
	require.ErrorIs(t, second(s.Load(t.Context(), id)), pgsession.ErrTampered)
	health := s.Health(t.Context())
	require.Equal(t, pgsession.Degraded, health.Status)
	require.Contains(t, health.Reasons[len(health.Reasons)-1], "rows were met that lie in plaintext, and were refused: run pgsession seal once")
}

// Sessions that were begun before a time are ended, on every kind of table, and none else.
func TestEndBegunBefore(t *testing.T) {
	t.Parallel()
	inMemory := func() *fixture {
		clock := pgsession.NewManualClock(epoch)
		return &fixture{pgsession.InMemory(pgsession.WithClock(clock), quiet()), nil, clock}
	}
	stores := bothStores(t)
	stores["in memory"] = inMemory()
	for name, f := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before, guestBefore := f.create(t, ann(1), time.Hour), f.create(t, guest, time.Hour)
			require.NoError(t, f.KeyValue().Put(t.Context(), "code", []byte("42"), time.Hour))
			f.clock.Advance(time.Minute)
			limit := f.clock.Now()
			after := f.create(t, ann(1), time.Hour)
			f.clock.Advance(time.Minute)
			renewed, err := f.Renew(t.Context(), f.load(t, before), 0, login(ann(1))) // the log-in goes on
			require.NoError(t, err)
			loggedIn, err := f.Renew(t.Context(), f.load(t, guestBefore), 0, login(bob)) // another begins
			require.NoError(t, err)

			n, err := bridge.EndBegunBefore(t.Context(), f.Store, limit)
			require.NoError(t, err)
			require.EqualValues(t, 1, n)
			require.ErrorIs(t, second(f.Load(t.Context(), renewed.ID)), pgsession.ErrRevoked)
			f.load(t, after)
			f.load(t, loggedIn.ID)
			requireEntry(t, f.KeyValue(), "code", []byte("42"))
		})
	}
}
