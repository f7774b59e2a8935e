package faults_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/test"
)

// TestStore_SwallowedInsert has a trigger swallow new rows.
func TestStore_SwallowedInsert(t *testing.T) {
	t.Parallel()
	s := test.NewStore(t)
	swallow(t, s, "INSERT")
	ctx := t.Context()
	for name, err := range map[string]error{
		"Create":       test.Err(s.Create(ctx, test.Ann(1), time.Hour)),
		"CreateAs":     test.Err(s.CreateAs(ctx, pgsession.NewID(), test.Ann(1), time.Hour)),
		"Put":          s.Put(ctx, pgsession.NewID(), test.Ann(1), time.Hour),
		"KeyValue.Put": s.KeyValue().Put(ctx, "k", nil, time.Hour),
	} {
		require.Error(t, err, name)
		require.NotErrorIs(t, err, pgsession.ErrNotFound, name)
	}
}

// TestStore_SwallowedEnd has a trigger swallow what ends sessions and removes entries. A call that
// returned nil would say that they are gone.
func TestStore_SwallowedEnd(t *testing.T) {
	t.Parallel()
	for name, places := range map[string]int{"alone": 0, "shared": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := test.NewStore(t, pgsession.WithCoalescing(places))
			ctx, kv := t.Context(), s.KeyValue()
			id := s.Begin(t, test.Ann(1), time.Hour)
			s.Begin(t, test.Ann(2), time.Hour)
			require.NoError(t, kv.Put(ctx, "k", nil, time.Hour))
			swallow(t, s, "UPDATE OR DELETE")
			for name, end := range map[string]func() error{
				"Delete":          func() error { return s.Delete(ctx, id) },
				"Revoke":          func() error { return s.Revoke(ctx, "ann", id.Handle()) },
				"RevokeAny":       func() error { return s.RevokeAny(ctx, id.Handle()) },
				"DeleteByUser":    func() error { return test.Err(s.DeleteByUser(ctx, "ann")) },
				"LimitByUser":     func() error { return test.Err(s.LimitByUser(ctx, "ann", 1)) },
				"DeleteAll":       func() error { return test.Err(s.DeleteAll(ctx)) },
				"Cycle":           func() error { return s.Cycle(ctx, id, pgsession.NewID(), test.Ann(1), time.Hour) },
				"Renew":           func() error { return test.Err(s.Renew(ctx, test.Unloaded(id), 0, test.LogIn(test.Ann(1)))) },
				"Update":          func() error { return test.Err(s.Update(ctx, test.Unloaded(id), 0, test.Increment)) },
				"Touch":           func() error { return test.Err(s.Touch(ctx, test.Unloaded(id), 2*time.Hour)) },
				"Save":            func() error { return s.Save(ctx, id, test.Ann(1), time.Hour) },
				"Put":             func() error { return s.Put(ctx, id, test.Ann(1), time.Hour) },
				"KeyValue.Delete": func() error { return kv.Delete(ctx, "k") },
				"KeyValue.Take":   func() error { return test.Err(kv.Take(ctx, "k")) },
			} {
				errs := test.Many(3, end)
				for range 3 {
					err := <-errs
					require.Error(t, err, name)
					require.NotErrorIs(t, err, pgsession.ErrNotFound, name)
					require.NotErrorIs(t, err, context.DeadlineExceeded, name)
				}
			}
		})
	}
}

// swallow has a trigger make the server do nothing and say that all is well.
func swallow(t *testing.T, s *test.Store, events string) {
	t.Helper()
	s.SQL(t, `CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'`)
	s.SQL(t, `CREATE TRIGGER swallow BEFORE `+events+` ON sessions FOR EACH ROW EXECUTE FUNCTION swallow()`)
}
