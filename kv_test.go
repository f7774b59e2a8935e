package pgsession_test

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/test"
)

// What every kind of store does is in internal/test/conformance.

func TestKeyValue_Rows(t *testing.T) {
	t.Parallel()
	for name, s := range test.BothStores(t, pgsession.WithAbsoluteLifetime(time.Minute)) {
		t.Run(name, func(t *testing.T) {
			ctx, kv := t.Context(), s.KeyValue()
			const entry = `num_nulls(user_key, ends_at, coalesce(data, to_jsonb(sealed))) = 2 AND expires_at = $1 AND idle_timeout = '1 hour'`
			require.NoError(t, kv.Put(ctx, "日本", []byte("one"), 2*time.Hour))
			require.NoError(t, kv.Put(ctx, "日本", []byte("two"), time.Hour))
			require.Equal(t, 1, s.CountRows(t, entry, test.Epoch.Add(time.Hour)))
			require.Equal(t, 1, s.CountRows(t, "true"))
			hash := sha256.Sum256([]byte("pgsession/v1: the id of an entry of a key/value view, derived from its key\x00日本"))
			require.Equal(t, 1, s.CountRows(t, `key = $1`, append(hash[:], 1)), "keys are kept hashed, in 33 bytes")

			require.NoError(t, kv.Delete(ctx, "日本"))
			require.Zero(t, s.CountRows(t, "true"), "an entry leaves no tombstone")
			require.NoError(t, kv.Put(ctx, "日本", []byte("four"), time.Hour))
			require.NoError(t, test.Err(kv.Take(ctx, "日本")))
			require.Zero(t, s.CountRows(t, "true"))
		})
	}
}

// TestKeyValue_AnyBytes stores what a text column would refuse.
func TestKeyValue_AnyBytes(t *testing.T) {
	t.Parallel()
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for name, s := range test.BothStores(t) {
		t.Run(name, func(t *testing.T) {
			kv := s.KeyValue()
			for _, text := range [][]byte{
				{0}, {0, 0}, all, []byte("\xff\xfe"), []byte(`{"a":1}`), []byte("null"), []byte(`'"\`), []byte(" "), []byte("日本"),
				[]byte(`{"pgsession:raw":"QQ=="}`), make([]byte, 64<<10),
			} {
				require.NoError(t, kv.Put(t.Context(), string(text), text, time.Hour))
				test.RequireEntry(t, kv, string(text), text)
			}
		})
	}
}

// TestKeyValue_MeetsNoSession uses one text as a session's id, in every form that it
// has, and as an entry's key.
func TestKeyValue_MeetsNoSession(t *testing.T) {
	t.Parallel()
	for name, s := range test.BothStores(t) {
		t.Run(name, func(t *testing.T) {
			ctx, kv := t.Context(), s.KeyValue()
			minted, derived := pgsession.NewID(), pgsession.DeriveID("text")
			for _, id := range []pgsession.ID{minted, derived} {
				require.NoError(t, s.Put(ctx, id, test.Ann(1), time.Hour))
			}
			bits, err := base64.RawURLEncoding.DecodeString(minted.Token())
			require.NoError(t, err)
			sum := sha256.Sum256(bits)
			keys := []string{"text", minted.Token(), string(bits), minted.Handle().String(), string(sum[:]), derived.Handle().String(),
				string(test.RowKey(derived)), "pgsession/v1: the id of a session, derived from a token of a framework\x00text"}
			for _, text := range keys {
				require.ErrorIs(t, test.Err(kv.Get(ctx, text)), pgsession.ErrNotFound)
				require.NoError(t, kv.Delete(ctx, text))
				require.NoError(t, kv.Put(ctx, text, []byte(text), time.Hour))
			}
			require.Equal(t, len(keys)+2, s.CountRows(t, "true"))
			for _, id := range []pgsession.ID{minted, derived} {
				require.Equal(t, 1, s.Number(t, id))
				require.NoError(t, s.Delete(ctx, id))
			}
			for _, text := range keys {
				test.RequireEntry(t, kv, text, []byte(text))
				id := pgsession.DeriveID("pgsession/v1: the id of an entry of a key/value view, derived from its key\x00" + text)
				require.ErrorIs(t, test.Err(s.Load(ctx, id)), pgsession.ErrNotFound, "no session id leads to an entry")
			}
		})
	}
}

func TestKeyValue_Get_ErrTampered(t *testing.T) {
	t.Parallel()
	s := test.NewStore(t)
	ctx, kv := t.Context(), s.KeyValue()
	require.NoError(t, kv.Put(ctx, "mine", []byte("mine"), time.Hour))
	s.SQL(t, `CREATE TABLE mine AS SELECT sealed FROM sessions`)
	require.NoError(t, kv.Put(ctx, "yours", []byte("yours"), time.Hour))
	require.Zero(t, s.CountRows(t, `data IS NOT NULL OR position('mine'::bytea IN sealed) > 0`), "it is sealed")

	s.SQL(t, `UPDATE sessions SET sealed = mine.sealed FROM mine`)
	test.RequireEntry(t, kv, "mine", []byte("mine"))
	require.ErrorIs(t, test.Err(kv.Get(ctx, "yours")), pgsession.ErrTampered)
	require.EqualValues(t, 1, s.Stats().Tampered)

	other := s.Node(test.NewCrypto(t, pgsession.GenerateKey())).KeyValue()
	require.ErrorIs(t, test.Err(other.Get(ctx, "mine")), pgsession.ErrUnknownKey)
	require.NoError(t, other.Put(ctx, "mine", []byte("again"), time.Hour), "whatever was there")
	test.RequireEntry(t, other, "mine", []byte("again"))

	for key, want := range map[string]error{"mine": pgsession.ErrUnknownKey, "yours": pgsession.ErrTampered} {
		require.ErrorIs(t, test.Err(kv.Take(ctx, key)), want)
		require.ErrorIs(t, test.Err(kv.Take(ctx, key)), pgsession.ErrNotFound, "what does not open is removed too")
	}
}

func TestKeyValue_ConcurrentUse(t *testing.T) {
	t.Parallel()
	s := test.NewStore(t)
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
	test.RequireEntry(t, kv, "shared", []byte("last"))
	require.Equal(t, 1, s.CountRows(t, "true"))
}
