package conformance_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/test"
)

// TestExpiry tries every operation on the last microsecond of a session, and on
// the one after.
func TestExpiry(t *testing.T) {
	t.Parallel()
	operations := map[string]func(ctx context.Context, s *test.Store, id pgsession.ID) error{
		"Load": func(ctx context.Context, s *test.Store, id pgsession.ID) error { return test.Err(s.Load(ctx, id)) },
		"Save": func(ctx context.Context, s *test.Store, id pgsession.ID) error {
			return s.Save(ctx, id, test.Ann(2), time.Hour)
		},
		"Touch": func(ctx context.Context, s *test.Store, id pgsession.ID) error {
			return test.Err(s.Touch(ctx, test.Unloaded(id), time.Hour))
		},
		"Update": func(ctx context.Context, s *test.Store, id pgsession.ID) error {
			return test.Err(s.Update(ctx, test.Unloaded(id), time.Hour, test.Keep(2)))
		},
		"Update keeping the expiry": func(ctx context.Context, s *test.Store, id pgsession.ID) error {
			return test.Err(s.Update(ctx, test.Unloaded(id), 0, test.Keep(2)))
		},
		"Cycle": func(ctx context.Context, s *test.Store, id pgsession.ID) error {
			return s.Cycle(ctx, id, pgsession.NewID(), test.Ann(2), time.Hour)
		},
		"Cycle to another user": func(ctx context.Context, s *test.Store, id pgsession.ID) error {
			return s.Cycle(ctx, id, pgsession.NewID(), test.Bob, time.Hour)
		},
		"Renew": func(ctx context.Context, s *test.Store, id pgsession.ID) error {
			return test.Err(s.Renew(ctx, test.Unloaded(id), 0, test.LogIn(test.Bob)))
		},
		"Touch by its own ttl": func(ctx context.Context, s *test.Store, id pgsession.ID) error {
			return test.Err(s.Touch(ctx, test.Unloaded(id), 0))
		},
		"Put": func(ctx context.Context, s *test.Store, id pgsession.ID) error {
			return s.Put(ctx, id, test.Ann(2), time.Hour)
		},
		"Revoke": func(ctx context.Context, s *test.Store, id pgsession.ID) error {
			return s.Revoke(ctx, "ann", id.Handle())
		},
		"RevokeAny": func(ctx context.Context, s *test.Store, id pgsession.ID) error { return s.RevokeAny(ctx, id.Handle()) },
		"FindByUser": func(ctx context.Context, s *test.Store, id pgsession.ID) error {
			found, err := s.FindByUser(ctx, "ann", 0)
			return foundOne(len(found), err)
		},
		"DeleteByUser": func(ctx context.Context, s *test.Store, id pgsession.ID) error {
			ended, err := s.DeleteByUser(ctx, "ann")
			return foundOne(int(ended), err)
		},
		"DeleteAll": func(ctx context.Context, s *test.Store, id pgsession.ID) error {
			ended, err := s.DeleteAll(ctx)
			return foundOne(int(ended), err)
		},
		"All": func(ctx context.Context, s *test.Store, id pgsession.ID) error {
			seen := 0
			for _, err := range s.All(ctx) {
				if err != nil {
					return err
				}
				seen++
			}
			return foundOne(seen, nil)
		},
	}
	for name, c := range map[string]struct{ ttl, lifetime, ends time.Duration }{
		"idle":                     {time.Hour, 0, time.Hour},
		"idle before the absolute": {time.Hour, time.Hour + time.Microsecond, time.Hour},
		"absolute":                 {10 * time.Hour, time.Hour, time.Hour},
		"both at once":             {time.Hour, time.Hour, time.Hour},
		"in nanoseconds":           {10*time.Microsecond - 1, 0, 10 * time.Microsecond},
		"absolute in nanoseconds":  {time.Hour, 10*time.Microsecond - 1, 10 * time.Microsecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := test.NewStore(t, pgsession.WithAbsoluteLifetime(c.lifetime))
			for name, run := range operations {
				for _, edge := range []struct {
					name  string
					after time.Duration
					want  error
				}{
					{"the last microsecond", c.ends - time.Microsecond, nil},
					{"over", c.ends, pgsession.ErrNotFound},
					{"long over", c.ends + 24*time.Hour, pgsession.ErrNotFound},
				} {
					s.SQL(t, `DELETE FROM sessions`)
					s.Clock.Set(test.Epoch)
					id := s.Begin(t, test.Ann(1), c.ttl)
					s.Clock.Advance(edge.after)
					require.ErrorIs(t, run(t.Context(), s, id), edge.want, "%s: %s", name, edge.name)
					if edge.want != nil {
						require.ErrorIs(t, test.Err(s.Load(t.Context(), id)), pgsession.ErrNotFound, "%s does not bring it back", name)
						s.Clock.Set(test.Epoch)
					}
				}
			}
		})
	}
}

func foundOne(n int, err error) error {
	if err == nil && n != 1 {
		return pgsession.ErrNotFound
	}
	return err
}
