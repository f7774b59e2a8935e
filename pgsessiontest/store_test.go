package pgsessiontest_test

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/pgsessiontest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	epoch = time.Date(2026, 3, 14, 15, 9, 26, 535_897_000, time.UTC)
	ann   = pgsession.Data{UserID: "ann", Values: 1}
)

// at returns a session made by hand, with which an operation begins by loading it.
func at(id pgsession.ID) *pgsession.Session {
	return &pgsession.Session{ID: id, Handle: id.Handle()}
}

func second[T any](_ T, err error) error { return err }

// operations are all that ask the database, by the names of their methods.
var operations = map[string]func(ctx context.Context, s *pgsessiontest.Store, id pgsession.ID) error{
	"Init": func(ctx context.Context, s *pgsessiontest.Store, _ pgsession.ID) error { return s.Init(ctx) },
	"Create": func(ctx context.Context, s *pgsessiontest.Store, _ pgsession.ID) error {
		return second(s.Create(ctx, ann, time.Hour))
	},
	"CreateAs": func(ctx context.Context, s *pgsessiontest.Store, _ pgsession.ID) error {
		return second(s.CreateAs(ctx, pgsession.NewID(), ann, time.Hour))
	},
	"Load": func(ctx context.Context, s *pgsessiontest.Store, id pgsession.ID) error {
		return second(s.Load(ctx, id))
	},
	"Save": func(ctx context.Context, s *pgsessiontest.Store, id pgsession.ID) error {
		return s.Save(ctx, id, ann, time.Hour)
	},
	"Put": func(ctx context.Context, s *pgsessiontest.Store, id pgsession.ID) error {
		return s.Put(ctx, id, ann, time.Hour)
	},
	"Update": func(ctx context.Context, s *pgsessiontest.Store, id pgsession.ID) error {
		return second(s.Update(ctx, at(id), 0, func(*pgsession.Session) (any, error) { return 2, nil }))
	},
	"Touch": func(ctx context.Context, s *pgsessiontest.Store, id pgsession.ID) error {
		return second(s.Touch(ctx, at(id), 2*time.Hour))
	},
	"Renew": func(ctx context.Context, s *pgsessiontest.Store, id pgsession.ID) error {
		return second(s.Renew(ctx, at(id), 0, func(*pgsession.Session) (pgsession.Data, error) { return ann, nil }))
	},
	"Cycle": func(ctx context.Context, s *pgsessiontest.Store, id pgsession.ID) error {
		return s.Cycle(ctx, id, pgsession.NewID(), ann, time.Hour)
	},
	"Delete": func(ctx context.Context, s *pgsessiontest.Store, id pgsession.ID) error { return s.Delete(ctx, id) },
	"Find": func(ctx context.Context, s *pgsessiontest.Store, id pgsession.ID) error {
		return second(s.Find(ctx, id.Handle()))
	},
	"FindByUser": func(ctx context.Context, s *pgsessiontest.Store, _ pgsession.ID) error {
		return second(s.FindByUser(ctx, "ann", 0))
	},
	"DeleteByUser": func(ctx context.Context, s *pgsessiontest.Store, _ pgsession.ID) error {
		return second(s.DeleteByUser(ctx, "ann"))
	},
	"LimitByUser": func(ctx context.Context, s *pgsessiontest.Store, _ pgsession.ID) error {
		return second(s.LimitByUser(ctx, "ann", 1))
	},
	"Revoke": func(ctx context.Context, s *pgsessiontest.Store, id pgsession.ID) error {
		return s.Revoke(ctx, "ann", id.Handle())
	},
	"RevokeAny": func(ctx context.Context, s *pgsessiontest.Store, id pgsession.ID) error {
		return s.RevokeAny(ctx, id.Handle())
	},
	"All": func(ctx context.Context, s *pgsessiontest.Store, _ pgsession.ID) error {
		for session, err := range s.All(ctx) {
			if session == nil {
				return err
			}
		}
		return nil
	},
	"DeleteAll": func(ctx context.Context, s *pgsessiontest.Store, _ pgsession.ID) error {
		return second(s.DeleteAll(ctx))
	},
	"Count": func(ctx context.Context, s *pgsessiontest.Store, _ pgsession.ID) error {
		return second(s.Count(ctx))
	},
	"CleanupExpired": func(ctx context.Context, s *pgsessiontest.Store, _ pgsession.ID) error {
		return second(s.CleanupExpired(ctx))
	},
	"Check": func(ctx context.Context, s *pgsessiontest.Store, _ pgsession.ID) error { return s.Check(ctx) },
	"Health": func(ctx context.Context, s *pgsessiontest.Store, _ pgsession.ID) error {
		return s.Health(ctx).Err
	},
	"KeyValue.Get": func(ctx context.Context, s *pgsessiontest.Store, _ pgsession.ID) error {
		return second(s.KeyValue().Get(ctx, "key"))
	},
	"KeyValue.Take": func(ctx context.Context, s *pgsessiontest.Store, _ pgsession.ID) error {
		return second(s.KeyValue().Take(ctx, "key"))
	},
	"KeyValue.Put": func(ctx context.Context, s *pgsessiontest.Store, _ pgsession.ID) error {
		return s.KeyValue().Put(ctx, "key", nil, time.Hour)
	},
	"KeyValue.Delete": func(ctx context.Context, s *pgsessiontest.Store, _ pgsession.ID) error {
		return s.KeyValue().Delete(ctx, "key")
	},
	"KeyValue.PruneExpired": func(ctx context.Context, s *pgsessiontest.Store, _ pgsession.ID) error {
		return second(s.KeyValue().PruneExpired(ctx))
	},
}

func TestStore_FailWith(t *testing.T) {
	t.Parallel()
	outage := errors.New("no database")
	for name, operation := range operations {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			s := pgsessiontest.New(pgsession.WithClock(pgsession.NewManualClock(epoch)))
			created, err := s.Create(ctx, ann, time.Hour)
			require.NoError(t, err)
			require.NoError(t, s.KeyValue().Put(ctx, "key", []byte("abc"), time.Hour))
			before := contents(t, s)

			s.FailWith(outage)
			err = operation(ctx, s, created.ID)
			require.ErrorIs(t, err, outage)
			require.NotErrorIs(t, err, pgsession.ErrNotFound)
			require.Regexp(t, `^pgsession: [a-z ]+: no database$`, err.Error())

			s.FailWith(nil)
			require.Equal(t, before, contents(t, s), "nothing has changed")
			require.NoError(t, operation(ctx, s, created.ID), "it works again")
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
	value, err := s.KeyValue().Get(t.Context(), "key")
	require.NoError(t, err)
	contents["key"] = string(value)
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
			require.True(t, asksNothing[name] != (operations[name] != nil), name)
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
