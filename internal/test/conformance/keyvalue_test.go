package conformance_test

import (
	"crypto/sha256"
	"encoding/hex"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/test"
)

// The key/value view.
func TestKeyValue(t *testing.T) {
	t.Parallel()
	onEveryKind(t, keyValueCases)
}

var keyValueCases = []useCase{
	{"KeyValue", nil, func(t *testing.T, f *subject) {
		ctx, kv := t.Context(), f.KeyValue()
		get := func(want string) {
			t.Helper()
			value, err := kv.Get(ctx, "state")
			require.NoError(t, err)
			require.Equal(t, want, string(value))
		}
		requireNone := func() {
			t.Helper()
			require.Equal(t, "NotFound", errorName(test.Err(kv.Get(ctx, "state"))))
			require.Equal(t, "NotFound", errorName(test.Err(kv.Take(ctx, "state"))))
		}
		requireNone()
		given := []byte("abc")
		require.NoError(t, kv.Put(ctx, "state", given, time.Hour))
		given[0] = 'x'
		get("abc")
		require.NoError(t, kv.Put(ctx, "state", nil, time.Minute))
		get("")

		f.Clock.Advance(time.Minute)
		requireNone()
		removed, err := kv.PruneExpired(ctx)
		require.NoError(t, err)
		require.EqualValues(t, 1, removed)

		require.NoError(t, kv.Put(ctx, "state", []byte("a"), time.Hour))
		require.NoError(t, kv.Delete(ctx, "state"))
		require.NoError(t, kv.Delete(ctx, "state"))
		f.Clock.Advance(3 * time.Hour)
		require.EqualValues(t, 0, f.MustCleanUp(t))
		requireNone()
		require.NoError(t, kv.Put(ctx, "state", []byte("b"), time.Minute))
		f.Clock.Advance(time.Hour)
		require.NoError(t, kv.Put(ctx, "state", []byte("b"), time.Hour), "over an expired entry")
		get("b")
		require.NoError(t, kv.Put(ctx, "state", []byte("c"), time.Hour), "the last Put wins")
		get("c")
	}},
	{"KeyValue/no operation on sessions meets an entry", nil, func(t *testing.T, f *subject) {
		ctx, kv := t.Context(), f.KeyValue()
		f.Begin(t, test.Ann(1), time.Hour)
		f.Begin(t, test.Guest, time.Hour)
		hash := sha256.Sum256([]byte(entryDomain + "state"))
		entry := test.Must(pgsession.ParseHandle(hex.EncodeToString(hash[:]))) // what the entry's key begins with
		byHand := &pgsession.Session{Handle: entry}
		require.NoError(t, kv.Put(ctx, "state", []byte("abc"), time.Hour))
		for _, step := range []struct {
			name, want string
			run        func() error
		}{
			{"load", "NotFound", func() error { return test.Err(f.Load(ctx, pgsession.DeriveID("state"))) }},
			{"find", "NotFound", func() error { return test.Err(f.Find(ctx, entry)) }},
			{"update", "NotFound", func() error { return test.Err(f.Update(ctx, byHand, 0, test.Keep(1))) }},
			{"touch", "NotFound", func() error { return test.Err(f.Touch(ctx, byHand, 100*time.Hour)) }},
			{"revoke", "NotFound", func() error { return f.Revoke(ctx, "ann", entry) }},
			{"revoke nobody's", "NotFound", func() error { return f.Revoke(ctx, "", entry) }},
			{"revoke any", "NotFound", func() error { return f.RevokeAny(ctx, entry) }},
			{"delete", "nil", func() error { return f.Delete(ctx, pgsession.DeriveID("state")) }},
			{"create as", "nil", func() error {
				return test.Err(f.CreateAs(ctx, pgsession.DeriveID("state"), test.Ann(1), time.Hour))
			}},
			{"all", "3", func() error {
				n := int64(0)
				for session, err := range f.All(ctx) {
					require.NoError(t, err)
					require.NotEqual(t, entry, session.Handle)
					n++
				}
				return countedAs(n, nil)
			}},
			{"limit by user", "1", func() error { return countedAs(f.LimitByUser(ctx, "ann", 1)) }},
			{"limit guests", "nil", func() error { return countedAs(f.LimitByUser(ctx, "", 1)) }},
			{"delete guests", "nil", func() error { return countedAs(f.DeleteByUser(ctx, "")) }},
			{"delete by user", "1", func() error { return countedAs(f.DeleteByUser(ctx, "ann")) }},
			{"delete all", "1", func() error { return countedAs(f.DeleteAll(ctx)) }},
			{"delete all again", "nil", func() error { return countedAs(f.DeleteAll(ctx)) }},
			{"clean up", "nil", func() error { return countedAs(f.CleanupExpired(ctx)) }},
		} {
			require.Equal(t, step.want, errorName(step.run()), step.name)
			test.RequireEntry(t, kv, "state", []byte("abc"))
			count, err := f.Count(ctx)
			require.NoError(t, err)
			require.EqualValues(t, 1, count.Entries, step.name)
		}
		f.Clock.Advance(100 * time.Hour)
		require.EqualValues(t, 4, f.MustCleanUp(t), "three tombstones and the entry")
		count, err := f.Count(ctx)
		require.NoError(t, err)
		require.Zero(t, count)
	}},
	{"KeyValue/bad input", []pgsession.Option{pgsession.WithMaxSize(3)}, func(t *testing.T, f *subject) {
		ctx, kv := t.Context(), f.KeyValue()
		require.ErrorIs(t, kv.Put(ctx, "", nil, time.Hour), pgsession.ErrNotFound)
		require.ErrorIs(t, test.Err(kv.Get(ctx, "")), pgsession.ErrNotFound)
		require.ErrorIs(t, test.Err(kv.Take(ctx, "")), pgsession.ErrNotFound)
		require.NoError(t, kv.Delete(ctx, ""))
		require.ErrorIs(t, kv.Put(ctx, "key", []byte("long"), time.Hour), pgsession.ErrTooLarge)
		require.ErrorIs(t, kv.Put(ctx, "key", []byte("long"), 0), pgsession.ErrInvalidTTL)
		require.ErrorIs(t, test.Err(kv.Get(ctx, "key")), pgsession.ErrNotFound)
		require.NoError(t, kv.Put(ctx, "a\x00\xff", []byte("abc"), time.Hour))
		value, err := kv.Get(ctx, "a\x00\xff")
		require.NoError(t, err)
		require.Equal(t, "abc", string(value))
	}},
	{"KeyValue/is not cut by the absolute lifetime", []pgsession.Option{pgsession.WithAbsoluteLifetime(time.Hour)}, func(t *testing.T, f *subject) {
		require.NoError(t, f.KeyValue().Put(t.Context(), "key", []byte("a"), 3*time.Hour))
		f.Clock.Advance(3*time.Hour - time.Microsecond)
		require.NoError(t, test.Err(f.KeyValue().Get(t.Context(), "key")))
		f.Clock.Advance(time.Microsecond)
		require.ErrorIs(t, test.Err(f.KeyValue().Get(t.Context(), "key")), pgsession.ErrNotFound)
	}},
	{"KeyValue/Take once", nil, func(t *testing.T, f *subject) {
		ctx, kv := t.Context(), f.KeyValue()
		require.NoError(t, kv.Put(ctx, "code", []byte("abc"), time.Hour))
		require.NoError(t, kv.Put(ctx, "other", []byte("other"), time.Hour))
		value, err := kv.Take(ctx, "code")
		require.NoError(t, err)
		require.Equal(t, "abc", string(value))
		require.Equal(t, "NotFound", errorName(test.Err(kv.Take(ctx, "code"))))
		require.Equal(t, "NotFound", errorName(test.Err(kv.Get(ctx, "code"))))
		require.NoError(t, test.Err(kv.Get(ctx, "other")))

		for range 10 {
			require.NoError(t, kv.Put(ctx, "code", []byte("abc"), time.Hour))
			const callers = 8
			var (
				group sync.WaitGroup
				errs  [callers]error
			)
			for i := range callers {
				group.Go(func() { errs[i] = test.Err(kv.Take(ctx, "code")) })
			}
			group.Wait()
			taken := 0
			for _, err := range errs {
				if err == nil {
					taken++
				} else {
					require.Equal(t, "NotFound", errorName(err))
				}
			}
			require.Equal(t, 1, taken)
		}

		require.NoError(t, kv.Put(ctx, "code", []byte("abc"), time.Minute))
		f.Clock.Advance(time.Minute)
		require.ErrorIs(t, test.Err(kv.Take(ctx, "code")), pgsession.ErrNotFound, "once it has expired")
	}},
}
