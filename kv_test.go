package pgsession_test

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
)

// requireEntry says what lies under a key.
func requireEntry(t testing.TB, kv *pgsession.KeyValue, key string, want []byte) {
	t.Helper()
	value, err := kv.Get(t.Context(), key)
	require.NoError(t, err)
	require.Equal(t, string(want), string(value))
}

func TestKeyValue(t *testing.T) {
	t.Parallel()
	for name, s := range bothStores(t) {
		kv := s.KeyValue()
		requireNone := func(t testing.TB, key string) {
			t.Helper()
			require.ErrorIs(t, second(kv.Get(t.Context(), key)), pgsession.ErrNotFound)
		}
		t.Run(name+"/Put replaces", func(t *testing.T) {
			requireNone(t, "state")
			require.NoError(t, kv.Put(t.Context(), "state", []byte("one"), time.Hour))
			requireEntry(t, kv, "state", []byte("one"))
			require.NoError(t, kv.Put(t.Context(), "state", []byte("two"), time.Minute))
			requireEntry(t, kv, "state", []byte("two"))
			requireNone(t, "State")
			requireNone(t, "state ")
			require.Equal(t, 1, s.rows(t, `user_key IS NULL`))
		})
		t.Run(name+"/expiry", func(t *testing.T) {
			s.clock.Set(epoch)
			require.NoError(t, kv.Put(t.Context(), "code", []byte("one"), time.Minute))
			s.clock.Advance(time.Minute - time.Microsecond)
			requireEntry(t, kv, "code", []byte("one"))
			s.clock.Advance(time.Microsecond)
			requireNone(t, "code")
			require.NoError(t, kv.Put(t.Context(), "code", []byte("two"), time.Minute), "over an expired one")
			requireEntry(t, kv, "code", []byte("two"))
			s.clock.Advance(time.Minute - time.Microsecond)
			requireEntry(t, kv, "code", []byte("two"))
		})
		t.Run(name+"/Delete leaves no tombstone", func(t *testing.T) {
			s.sql(t, `DELETE FROM sessions`)
			require.NoError(t, kv.Put(t.Context(), "state", []byte("one"), time.Hour))
			require.NoError(t, kv.Put(t.Context(), "other", []byte("other"), time.Hour))
			require.NoError(t, kv.Delete(t.Context(), "state"))
			requireNone(t, "state")
			require.Equal(t, 1, s.rows(t, "true"))
			require.NoError(t, kv.Delete(t.Context(), "state"), "idempotent")
			require.NoError(t, kv.Put(t.Context(), "state", []byte("two"), time.Hour))
			requireEntry(t, kv, "state", []byte("two"))
			requireEntry(t, kv, "other", []byte("other"))
		})
		t.Run(name+"/the store's DeleteAll", func(t *testing.T) {
			require.NoError(t, kv.Put(t.Context(), "state", []byte("one"), 3*time.Hour))
			require.NoError(t, second(s.DeleteAll(t.Context())))
			requireNone(t, "state")
			require.NoError(t, kv.Put(t.Context(), "state", []byte("two"), time.Hour), "the last Put wins")
			requireEntry(t, kv, "state", []byte("two"))
		})
		t.Run(name+"/PruneExpired", func(t *testing.T) {
			s.sql(t, `DELETE FROM sessions`)
			s.clock.Set(epoch)
			require.NoError(t, kv.Put(t.Context(), "short", nil, time.Minute))
			require.NoError(t, kv.Put(t.Context(), "long", nil, time.Hour))
			s.create(t, ann(1), time.Minute)
			s.clock.Advance(time.Minute - time.Microsecond)
			removed, err := kv.PruneExpired(t.Context())
			require.NoError(t, err)
			require.Zero(t, removed)
			s.clock.Advance(time.Microsecond)
			removed, err = kv.PruneExpired(t.Context())
			require.NoError(t, err)
			require.EqualValues(t, 2, removed)
			require.Equal(t, 1, s.rows(t, "true"))
			requireEntry(t, kv, "long", nil)
		})
		t.Run(name+"/the empty key", func(t *testing.T) {
			before := s.rows(t, "true")
			requireNone(t, "")
			require.ErrorIs(t, kv.Put(t.Context(), "", []byte("one"), time.Hour), pgsession.ErrNotFound)
			requireNone(t, "")
			require.NoError(t, kv.Delete(t.Context(), ""))
			require.Equal(t, before, s.rows(t, "true"))
		})
		t.Run(name+"/keys", func(t *testing.T) {
			keys := map[string]string{
				"NUL": "\x00", "two NULs": "\x00\x00", "not UTF-8": "\xff\xfe", "a MiB": strings.Repeat("k", 1<<20), "quotes": `'"`, "unicode": "日本",
				"a blank": " ",
			}
			for name, key := range keys {
				require.NoError(t, kv.Put(t.Context(), key, []byte(name), time.Hour), name)
			}
			for name, key := range keys {
				requireEntry(t, kv, key, []byte(name))
			}
			require.Zero(t, s.rows(t, `key::text LIKE '%' || encode('日本', 'hex') || '%'`), "keys are kept hashed")
		})
		t.Run(name+"/values", func(t *testing.T) {
			all := make([]byte, 256)
			for i := range all {
				all[i] = byte(i)
			}
			for name, value := range map[string][]byte{
				"nil": nil, "empty": {}, "NUL": {0}, "all bytes": all, "not UTF-8": []byte("\xff\xfe"), "JSON": []byte(`{"a":1}`), "JSON null": []byte("null"),
				"quotes": []byte(`'"\`), "the plaintext store's own form": []byte(`{"pgsession:raw":"QQ=="}`), "64 KiB": make([]byte, 64<<10),
			} {
				require.NoError(t, kv.Put(t.Context(), "value", value, time.Hour), name)
				requireEntry(t, kv, "value", value)
			}
			require.NoError(t, kv.Put(t.Context(), "value", []byte("small"), time.Hour))
			require.ErrorIs(t, kv.Put(t.Context(), "value", make([]byte, 64<<10+1), time.Hour), pgsession.ErrTooLarge)
			requireEntry(t, kv, "value", []byte("small"))
		})
		t.Run(name+"/a value is a copy", func(t *testing.T) {
			value := []byte("one")
			require.NoError(t, kv.Put(t.Context(), "copy", value, time.Hour))
			got, err := kv.Get(t.Context(), "copy")
			require.NoError(t, err)
			value[0], got[0] = 'X', 'X'
			requireEntry(t, kv, "copy", []byte("one"))
		})
		t.Run(name+"/ErrInvalidTTL", func(t *testing.T) {
			for _, ttl := range []time.Duration{0, -1, -time.Hour, 101 * 365 * 24 * time.Hour} {
				require.ErrorIs(t, kv.Put(t.Context(), "ttl", []byte("one"), ttl), pgsession.ErrInvalidTTL)
			}
			requireNone(t, "ttl")
		})
	}
}

// TestKeyValue_MeetsNoSession uses one text as a session's id, in every form that it
// has, and as an entry's key.
func TestKeyValue_MeetsNoSession(t *testing.T) {
	t.Parallel()
	for name, s := range bothStores(t) {
		t.Run(name, func(t *testing.T) {
			ctx, kv := t.Context(), s.KeyValue()
			minted, derived := pgsession.NewID(), pgsession.DeriveID("text")
			for _, id := range []pgsession.ID{minted, derived} {
				require.NoError(t, s.Put(ctx, id, ann(1), time.Hour))
			}
			bits, err := base64.RawURLEncoding.DecodeString(minted.Token())
			require.NoError(t, err)
			sum := sha256.Sum256(bits)
			keys := []string{"text", minted.Token(), string(bits), minted.Handle().String(), string(sum[:]), derived.Handle().String(),
				string(key(derived)), "pgsession derived session id\x00text"}
			for _, text := range keys {
				require.ErrorIs(t, second(kv.Get(ctx, text)), pgsession.ErrNotFound)
				require.NoError(t, kv.Delete(ctx, text))
				require.NoError(t, kv.Put(ctx, text, []byte(text), time.Hour))
			}
			require.Equal(t, len(keys)+2, s.rows(t, "true"))
			for _, id := range []pgsession.ID{minted, derived} {
				require.Equal(t, 1, s.count(t, id))
				require.NoError(t, s.Delete(ctx, id))
			}
			for _, text := range keys {
				requireEntry(t, kv, text, []byte(text))
				id := pgsession.DeriveID("pgsession key/value entry\x00" + text)
				require.ErrorIs(t, second(s.Load(ctx, id)), pgsession.ErrNotFound, "no session id leads to an entry")
			}
		})
	}
}

func TestKeyValue_Get_ErrTampered(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	ctx, kv := t.Context(), s.KeyValue()
	require.NoError(t, kv.Put(ctx, "mine", []byte("mine"), time.Hour))
	s.sql(t, `CREATE TABLE mine AS SELECT sealed FROM sessions`)
	require.NoError(t, kv.Put(ctx, "yours", []byte("yours"), time.Hour))
	require.Zero(t, s.rows(t, `data IS NOT NULL OR position('mine'::bytea IN sealed) > 0`), "it is sealed")

	s.sql(t, `UPDATE sessions SET sealed = mine.sealed FROM mine`)
	requireEntry(t, kv, "mine", []byte("mine"))
	require.ErrorIs(t, second(kv.Get(ctx, "yours")), pgsession.ErrTampered)
	require.EqualValues(t, 1, s.Stats().Tampered)

	other := pgsession.New(s.pool, newCrypto(t, must(pgsession.ParseKey(strings.Repeat("ab", 32)))), pgsession.WithClock(s.clock)).KeyValue()
	require.ErrorIs(t, second(other.Get(ctx, "mine")), pgsession.ErrUnknownKey)
	require.NoError(t, other.Put(ctx, "mine", []byte("again"), time.Hour), "whatever was there")
	requireEntry(t, other, "mine", []byte("again"))
}

func TestKeyValue_ConcurrentUse(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	ctx, kv := t.Context(), s.KeyValue()
	var group sync.WaitGroup
	for i := range 16 {
		group.Go(func() {
			for range 10 {
				if err := kv.Put(ctx, "shared", fmt.Append(nil, i), time.Hour); err != nil {
					t.Error(err)
				}
				if i%4 == 0 {
					if err := kv.Delete(ctx, "shared"); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	group.Wait()
	require.NoError(t, kv.Put(ctx, "shared", []byte("last"), time.Hour))
	requireEntry(t, kv, "shared", []byte("last"))
	require.Equal(t, 1, s.rows(t, "true"))
}
