package pgtable

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession/internal/deadline"
	"github.com/pgsession/pgsession/internal/rows"
)

// A call that waits for its turn gives up as soon as its caller has gone, or its time is over.
func TestWaits_Enter(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		timeout, goesAfter, latest time.Duration
		want                       error
	}{
		"the caller goes":  {time.Hour, time.Second, time.Second, context.Canceled},
		"its time is over": {time.Second, time.Hour, time.Second + deadline.Precision, context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var (
					w         waits
					deadlines deadline.Watch
					key       rows.Key
				)
				require.NoError(t, w.enter(t.Context(), key))
				caller, leave := context.WithCancel(t.Context())
				timer := time.AfterFunc(test.goesAfter, leave)
				defer timer.Stop()
				began := time.Now()
				ctx, cancel := deadlines.WithGrace(caller, began.Add(test.timeout))
				defer cancel()
				require.Equal(t, test.want, w.enter(ctx, key))
				require.LessOrEqual(t, time.Since(began), test.latest)
				w.leave(key)
				require.True(t, w.tryEnter(key), "its turn was given back")
			})
		})
	}
}
