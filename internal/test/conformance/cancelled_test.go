package conformance_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/test"
)

func TestConformance_CancelledContext(t *testing.T) {
	t.Parallel()
	for kind, newSubject := range storeKinds(t) {
		for name, operation := range sessionOperations() {
			if strings.HasSuffix(name, "-parsed") || name == "renew-listed" {
				continue // the id is refused, or it is the same operation
			}
			t.Run(kind+"/"+name, func(t *testing.T) {
				t.Parallel()
				f := newSubject(t)
				seen := f.MustLoad(t, f.Begin(t, test.Ann(1), time.Hour))
				f.Clock.Advance(10 * time.Minute)
				before := f.MustLoad(t, seen.ID)

				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				err := operation(ctx, f, seen)
				if kind != "encrypted" && name == "reseal" {
					require.NoError(t, err, "there is nothing to do")
				} else {
					require.ErrorIs(t, err, context.Canceled)
					require.NotErrorIs(t, err, pgsession.ErrNotFound)
					require.Regexp(t, "^pgsession: ", err.Error())
				}
				require.Equal(t, before, f.MustLoad(t, seen.ID))
			})
		}
		t.Run(kind+"/others", func(t *testing.T) {
			t.Parallel()
			f := newSubject(t)
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			for name, err := range map[string]error{
				"init":   f.Init(ctx),
				"create": test.Err(f.Create(ctx, test.Ann(1), time.Hour)),
				"check":  f.Check(ctx),
				"prune":  test.Err(f.KeyValue().PruneExpired(ctx)),
			} {
				require.ErrorIs(t, err, context.Canceled, name)
			}
			require.ErrorIs(t, f.Revoke(ctx, "", pgsession.NewID().Handle()), pgsession.ErrNotFound, "there is nothing to ask")
			require.Equal(t, pgsession.Unhealthy, f.Health(ctx).Status)
			require.ErrorIs(t, f.Health(ctx).Err, context.Canceled)
			require.NoError(t, f.Check(t.Context()))
		})
	}
}
