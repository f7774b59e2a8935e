package pgsessiontest_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/test"
	"github.com/pgsession/pgsession/pgsessiontest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	epoch = time.Date(2026, 3, 14, 15, 9, 26, 535_897_000, time.UTC)
	ann   = pgsession.Data{UserID: "ann", Values: 1}
)

func second[T any](_ T, err error) error { return err }

// operations are the methods that ask the database, and what test.Operations calls them.
var operations = map[string]string{
	"Init": "init", "Create": "create", "CreateAs": "create/CreateAs", "Load": "load", "Save": "save", "Put": "put",
	"Update": "update", "Touch": "touch", "Renew": "renew", "Cycle": "cycle", "Delete": "delete", "Find": "find",
	"FindByUser": "find by user", "DeleteByUser": "delete by user", "LimitByUser": "limit by user",
	"Revoke": "revoke", "RevokeAny": "revoke/RevokeAny", "All": "all", "DeleteAll": "delete all", "Count": "count",
	"CleanupExpired": "clean up", "Check": "health",
	"KeyValue.Get": "get", "KeyValue.Take": "take", "KeyValue.Put": "put/KeyValue", "KeyValue.Delete": "delete/KeyValue",
	"KeyValue.PruneExpired": "clean up/PruneExpired",
}

func TestStore_FailWith(t *testing.T) {
	t.Parallel()
	outage := errors.New("no database")
	for method, name := range operations {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			s := pgsessiontest.New(pgsession.WithClock(pgsession.NewManualClock(epoch)))
			created, err := s.Create(ctx, ann, time.Hour)
			require.NoError(t, err)
			require.NoError(t, s.KeyValue().Put(ctx, "k", []byte("abc"), time.Hour))
			operation := test.Operations(&test.Store{Store: s.Store}, created.ID)[name]
			before := contents(t, s)

			s.FailWith(outage)
			err = operation(ctx)
			require.ErrorIs(t, err, outage)
			require.NotErrorIs(t, err, pgsession.ErrNotFound)
			require.Regexp(t, `^pgsession: [a-z ]+: no database$`, err.Error())
			require.ErrorIs(t, s.Health(ctx).Err, outage)

			s.FailWith(nil)
			require.Equal(t, before, contents(t, s), "nothing has changed")
			require.NoError(t, operation(ctx), "it works again")
		})
	}
}

// contents returns all that is live.
func contents(t *testing.T, s *pgsessiontest.Store) map[string]any {
	t.Helper()
	contents := make(map[string]any)
	for session, err := range s.All(t.Context()) {
		require.NoError(t, err)
		contents[session.Handle.String()] = session
	}
	value, err := s.KeyValue().Get(t.Context(), "k")
	require.NoError(t, err)
	contents["k"] = string(value)
	count, err := s.Count(t.Context())
	require.NoError(t, err)
	contents["count"] = count
	return contents
}

// A new method that asks the database belongs in operations.
func TestStore_FailWith_CoversAll(t *testing.T) {
	t.Parallel()
	asksNothing := map[string]bool{
		"KeyValue":      true, // see its own methods
		"Health":        true, // is Check
		"HealthHandler": true, // is Health
		"SpawnCleanup":  true, // is CleanupExpired
		"Watch":         true, // returns no error
		"Reseal":        true, // a store in memory has nothing to reseal
		"Stats":         true,
	}
	for prefix, methods := range map[string]reflect.Type{
		"": reflect.TypeFor[*pgsession.Store](), "KeyValue.": reflect.TypeFor[*pgsession.KeyValue](),
	} {
		for i := range methods.NumMethod() {
			name := prefix + methods.Method(i).Name
			require.True(t, asksNothing[name] != (operations[name] != ""), name)
		}
	}
}

func TestNew_Options(t *testing.T) {
	t.Parallel()
	ctx, clock := t.Context(), pgsession.NewManualClock(epoch)
	s := pgsessiontest.New(pgsession.WithClock(clock), pgsession.WithMaxSize(3), pgsession.WithAbsoluteLifetime(time.Minute), pgsession.WithTable("web.sessions"))
	require.NoError(t, s.Init(ctx))
	require.ErrorIs(t, second(s.Create(ctx, pgsession.Data{Values: []byte("long")}, time.Hour)), pgsession.ErrTooLarge)
	session, err := s.Create(ctx, ann, time.Hour)
	require.NoError(t, err)
	require.Equal(t, epoch, session.CreatedAt)
	require.Equal(t, time.Minute, session.Remaining())
	clock.Advance(time.Minute)
	require.ErrorIs(t, second(s.Load(ctx, session.ID)), pgsession.ErrNotFound)
	require.Panics(t, func() { pgsessiontest.New(pgsession.WithClock(nil)) })
}

func TestNewSession(t *testing.T) {
	t.Parallel()
	t.Run("zero", func(t *testing.T) {
		t.Parallel()
		session := pgsessiontest.NewSession(pgsessiontest.SessionFields{})
		require.Equal(t, time.Hour, session.Remaining())
		require.Equal(t, time.Hour, session.IdleTimeout)
		require.True(t, session.ID.IsZero())
		require.False(t, session.Handle.IsZero())
		require.Equal(t, pgsession.Data{Values: json.RawMessage("null")}, session.Data())
		require.WithinDuration(t, time.Now(), session.CreatedAt, time.Minute)
	})
	t.Run("all fields", func(t *testing.T) {
		t.Parallel()
		given := []byte("abc")
		fields := pgsessiontest.SessionFields{
			ID:          pgsession.NewID(),
			Handle:      pgsession.NewID().Handle(),
			Data:        pgsession.Data{UserID: "ann", Lifetime: 59 * time.Minute, Values: given},
			LoadedAt:    epoch,
			CreatedAt:   epoch.Add(-time.Hour),
			ExpiresAt:   epoch.Add(time.Minute),
			IdleTimeout: 7 * time.Minute,
		}
		session := pgsessiontest.NewSession(fields)
		given[0] = 'x'
		require.Equal(t, fields.ID.Token(), session.ID.Token())
		require.Equal(t, fields.Handle, session.Handle)
		require.Equal(t, "ann", session.UserID)
		require.Equal(t, fields.CreatedAt, session.CreatedAt)
		require.Equal(t, fields.ExpiresAt, session.ExpiresAt)
		require.Equal(t, epoch.Add(-time.Minute), session.EndsAt)
		require.Equal(t, fields.IdleTimeout, session.IdleTimeout)
		require.Equal(t, time.Minute, session.Remaining())
		value, err := pgsession.Decode[[]byte](session)
		require.NoError(t, err)
		require.Equal(t, "abc", string(value), "a copy")
	})
	t.Run("the handle of the ID", func(t *testing.T) {
		t.Parallel()
		id := pgsession.NewID()
		require.Equal(t, id.Handle(), pgsessiontest.NewSession(pgsessiontest.SessionFields{ID: id}).Handle)
	})
	for _, broken := range []error{pgsession.ErrTampered, pgsession.ErrUnknownKey} {
		t.Run("broken/"+broken.Error(), func(t *testing.T) {
			t.Parallel()
			session := pgsessiontest.NewSession(pgsessiontest.SessionFields{Data: ann, Broken: broken})
			require.ErrorIs(t, second(pgsession.Decode[int](session)), broken)
			require.Empty(t, session.UserID)
			require.False(t, session.Handle.IsZero())
		})
	}
	for name, fields := range map[string]pgsessiontest.SessionFields{
		"values that do not encode":  {Data: pgsession.Data{Values: make(chan int)}},
		"a user id that is too long": {Data: pgsession.Data{UserID: strings.Repeat("a", 1001)}},
		"another error":              {Broken: pgsession.ErrNotFound},
	} {
		t.Run("panics/"+name, func(t *testing.T) {
			t.Parallel()
			require.Panics(t, func() { pgsessiontest.NewSession(fields) })
		})
	}
}
