package test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
)

// Operations returns every operation of a store that asks the database, with ann's live session id
// and the entry "k". The names begin with what the operations' errors begin with.
func Operations(s *Store, id pgsession.ID) map[string]func(ctx context.Context) error {
	kv := s.KeyValue()
	return map[string]func(ctx context.Context) error{
		"create": func(ctx context.Context) error { return Err(s.Create(ctx, Ann(1), time.Hour)) },
		"create/CreateAs": func(ctx context.Context) error {
			return Err(s.CreateAs(ctx, pgsession.NewID(), Ann(1), time.Hour))
		},
		"load":           func(ctx context.Context) error { return Err(s.Load(ctx, id)) },
		"save":           func(ctx context.Context) error { return s.Save(ctx, id, Ann(1), time.Hour) },
		"put":            func(ctx context.Context) error { return s.Put(ctx, id, Ann(1), time.Hour) },
		"update":         func(ctx context.Context) error { return Err(s.Update(ctx, Unloaded(id), 0, Keep(2))) },
		"renew":          func(ctx context.Context) error { return Err(s.Renew(ctx, Unloaded(id), 0, LogIn(Ann(2)))) },
		"touch":          func(ctx context.Context) error { return Err(s.Touch(ctx, Unloaded(id), 2*time.Hour)) },
		"cycle":          func(ctx context.Context) error { return s.Cycle(ctx, id, pgsession.NewID(), Ann(1), time.Hour) },
		"delete":         func(ctx context.Context) error { return s.Delete(ctx, id) },
		"find":           func(ctx context.Context) error { return Err(s.Find(ctx, id.Handle())) },
		"find by user":   func(ctx context.Context) error { return Err(s.FindByUser(ctx, "ann", 0)) },
		"delete by user": func(ctx context.Context) error { return Err(s.DeleteByUser(ctx, "ann")) },
		"limit by user": func(ctx context.Context) error {
			return Err(s.LimitByUser(ctx, "ann", 1))
		},
		"revoke":                func(ctx context.Context) error { return s.Revoke(ctx, "ann", id.Handle()) },
		"revoke/RevokeAny":      func(ctx context.Context) error { return s.RevokeAny(ctx, id.Handle()) },
		"count":                 func(ctx context.Context) error { return Err(s.Count(ctx)) },
		"delete all":            func(ctx context.Context) error { return Err(s.DeleteAll(ctx)) },
		"clean up":              func(ctx context.Context) error { return Err(s.CleanupExpired(ctx)) },
		"clean up/PruneExpired": func(ctx context.Context) error { return Err(kv.PruneExpired(ctx)) },
		"reseal":                func(ctx context.Context) error { return Err(s.Reseal(ctx)) },
		"get":                   func(ctx context.Context) error { return Err(kv.Get(ctx, "k")) },
		"take":                  func(ctx context.Context) error { return Err(kv.Take(ctx, "k")) },
		"put/KeyValue":          func(ctx context.Context) error { return kv.Put(ctx, "k", nil, time.Hour) },
		"delete/KeyValue":       func(ctx context.Context) error { return kv.Delete(ctx, "k") },
		"health":                s.Check,
		"init":                  s.Init,
		"all": func(ctx context.Context) (last error) {
			for _, err := range s.All(ctx) {
				last = err
			}
			return last
		},
	}
}

// RequireErrors wants these errors of these calls, nil among them.
func RequireErrors(t testing.TB, errs []error, want ...error) {
	t.Helper()
	require.Len(t, errs, len(want))
	for i := range want {
		require.ErrorIs(t, errs[i], want[i], "call %d", i)
	}
}

// RequireTimeout wants an error that says that WithTimeout was over.
func RequireTimeout(t testing.TB, err error, operation string) {
	t.Helper()
	require.ErrorIs(t, err, context.DeadlineExceeded, operation)
	require.ErrorContains(t, err, "WithTimeout", operation)
	require.NotErrorIs(t, err, pgsession.ErrNotFound, operation)
}

// Many calls an operation n times at once. The channel gives what they return.
func Many(n int, call func() error) <-chan error {
	errs := make(chan error, n)
	for range n {
		go func() { errs <- call() }()
	}
	return errs
}

// RequireAll makes n calls at once, and wants no error of them.
func RequireAll(t testing.TB, name string, n int, call func(n int) error) {
	t.Helper()
	errs := make(chan error, n)
	for i := range n {
		go func() { errs <- call(i) }()
	}
	for range n {
		require.NoError(t, <-errs, name)
	}
}

// WithoutDeadline returns a context that has no deadline and ends after Patience, so that a test of
// what is not bounded fails.
func WithoutDeadline(t testing.TB) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	timer := time.AfterFunc(Patience, cancel)
	t.Cleanup(func() {
		timer.Stop()
		cancel()
	})
	return ctx
}
