package fiberstore_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	fiberstore "github.com/pgsession/pgsession/adapters/fiber"
	"github.com/pgsession/pgsession/internal/test"
)

func TestKeyValue(t *testing.T) {
	t.Parallel()
	clock := pgsession.NewManualClock(time.Now())
	store, pool := newStore(t, pgsession.WithClock(clock), pgsession.WithTable("entries"))
	kv := fiberstore.NewKeyValue(store, "test")
	get := func(key string) string {
		value, err := kv.Get(key)
		require.NoError(t, err)
		return string(value)
	}
	value, err := kv.Get("absent")
	require.NoError(t, err)
	require.Nil(t, value)
	require.NoError(t, kv.Delete("absent"))
	require.NoError(t, kv.Set("", []byte("value"), time.Hour))
	require.NoError(t, kv.Set("empty", nil, time.Hour))
	require.Empty(t, get("empty"))

	require.NoError(t, kv.Set("a", []byte("1"), time.Hour))
	require.NoError(t, kv.Set("a", []byte("2"), time.Hour))
	require.Equal(t, "2", get("a"))
	require.NoError(t, kv.Delete("a"))
	require.Empty(t, get("a"))
	require.NoError(t, kv.Set("a", []byte("3"), time.Hour), "an entry may come back")
	require.NoError(t, kv.Set("for ever", []byte("4"), 0))
	require.ErrorIs(t, kv.Set("never", []byte("5"), -1), pgsession.ErrInvalidTTL)
	clock.Advance(time.Hour)
	require.Empty(t, get("a"))
	clock.Advance(99 * 365 * 24 * time.Hour)
	require.Equal(t, "4", get("for ever"))

	require.ErrorIs(t, kv.Reset(), errors.ErrUnsupported)
	require.Equal(t, "4", get("for ever"))
	for _, name := range []string{"tes", `test"`, "other"} {
		value, err := fiberstore.NewKeyValue(store, name).Get("for ever")
		require.NoError(t, err)
		require.Nil(t, value, "each name has entries of its own")
	}
	require.NoError(t, kv.Close())
	require.NoError(t, pool.Ping(t.Context()))
}

func TestKeyValue_Outage(t *testing.T) {
	t.Parallel()
	n := test.NewNetwork(t)
	kv := fiberstore.NewKeyValue(test.OpenTable(t, n.Pool, "sessions"), "test")
	require.NoError(t, kv.Set("a", []byte("1"), time.Hour))
	n.Cut()
	_, err := kv.Get("a")
	require.Error(t, err)
	require.Error(t, kv.Set("a", []byte("2"), time.Hour))
	require.Error(t, kv.Delete("a"))
}
