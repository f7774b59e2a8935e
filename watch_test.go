package pgsession_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/test"
	"github.com/pgsession/pgsession/pgsessiontest"
)

// The fake time of synctest stands still while the test works, so that a second is exact.
func TestStore_Watch(t *testing.T) {
	inMemory := func(t *testing.T, c func(t *testing.T, s *pgsessiontest.Store, clock *pgsession.ManualClock, id pgsession.ID)) {
		synctest.Test(t, func(t *testing.T) {
			clock := pgsession.NewManualClock(time.Now())
			s := pgsessiontest.New(pgsession.WithClock(clock))
			session, err := s.Create(t.Context(), pgsession.Data{UserID: "ann"}, time.Hour)
			require.NoError(t, err)
			c(t, s, clock, session.ID)
		})
	}
	const oneLook = time.Second + time.Millisecond

	t.Run("Ends/Deleted", func(t *testing.T) {
		inMemory(t, func(t *testing.T, s *pgsessiontest.Store, _ *pgsession.ManualClock, id pgsession.ID) {
			ctx, cancel := s.Watch(t.Context(), id.Handle())
			defer cancel()
			time.Sleep(10 * oneLook)
			require.NoError(t, ctx.Err())
			require.NoError(t, s.Delete(t.Context(), id))
			time.Sleep(oneLook)
			require.ErrorIs(t, context.Cause(ctx), pgsession.ErrRevoked)
		})
	})
	t.Run("Ends/Moved", func(t *testing.T) {
		inMemory(t, func(t *testing.T, s *pgsessiontest.Store, _ *pgsession.ManualClock, id pgsession.ID) {
			ctx, cancel := s.Watch(t.Context(), id.Handle())
			defer cancel()
			require.NoError(t, s.Cycle(t.Context(), id, pgsession.NewID(), pgsession.Data{UserID: "ann"}, time.Hour))
			time.Sleep(oneLook)
			require.ErrorIs(t, context.Cause(ctx), pgsession.ErrRevoked)
		})
	})
	t.Run("Ends/Expired", func(t *testing.T) {
		inMemory(t, func(t *testing.T, s *pgsessiontest.Store, clock *pgsession.ManualClock, id pgsession.ID) {
			ctx, cancel := s.Watch(t.Context(), id.Handle())
			defer cancel()
			clock.Advance(time.Hour)
			time.Sleep(oneLook)
			require.Equal(t, pgsession.ErrNotFound, context.Cause(ctx))
		})
	})
	t.Run("Ends/NeverThere", func(t *testing.T) {
		inMemory(t, func(t *testing.T, s *pgsessiontest.Store, _ *pgsession.ManualClock, _ pgsession.ID) {
			ctx, cancel := s.Watch(t.Context(), pgsession.NewID().Handle())
			defer cancel()
			time.Sleep(oneLook)
			require.Equal(t, pgsession.ErrNotFound, context.Cause(ctx))
		})
	})
	t.Run("OutageEndsNothing", func(t *testing.T) {
		inMemory(t, func(t *testing.T, s *pgsessiontest.Store, _ *pgsession.ManualClock, id pgsession.ID) {
			ctx, cancel := s.Watch(t.Context(), id.Handle())
			defer cancel()
			require.NoError(t, s.Delete(t.Context(), id))
			s.FailWith(errors.New("connection refused"))
			time.Sleep(10 * oneLook)
			require.NoError(t, ctx.Err())
			s.FailWith(nil)
			time.Sleep(oneLook)
			require.ErrorIs(t, context.Cause(ctx), pgsession.ErrRevoked)
		})
	})
	// synctest fails if the goroutine is left behind.
	t.Run("CallerGone", func(t *testing.T) {
		inMemory(t, func(t *testing.T, s *pgsessiontest.Store, _ *pgsession.ManualClock, id pgsession.ID) {
			parent, hangUp := context.WithCancel(t.Context())
			ctx, cancel := s.Watch(parent, id.Handle())
			hangUp()
			require.Equal(t, context.Canceled, context.Cause(ctx))
			time.Sleep(oneLook)
			again, cancelAgain := s.Watch(t.Context(), id.Handle())
			cancel()
			cancel()
			require.NoError(t, again.Err())
			cancelAgain()
			require.Equal(t, context.Canceled, context.Cause(again))
		})
	})
	t.Run("ManyTakeTurns", func(t *testing.T) {
		inMemory(t, func(t *testing.T, s *pgsessiontest.Store, _ *pgsession.ManualClock, id pgsession.ID) {
			var ended []context.Context
			for range 25_000 {
				ctx, cancel := s.Watch(t.Context(), id.Handle())
				defer cancel()
				ended = append(ended, ctx)
			}
			time.Sleep(7 * oneLook)
			require.NoError(t, s.Delete(t.Context(), id))
			time.Sleep(3 * oneLook)
			for _, ctx := range ended {
				require.ErrorIs(t, context.Cause(ctx), pgsession.ErrRevoked)
			}
		})
	})
}

// Two stores are as two nodes.
func TestStore_Watch_OtherNode(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	here, there := test.Open(pool), test.Open(pool)
	require.NoError(t, here.Init(t.Context()))
	session, err := here.Create(t.Context(), pgsession.Data{UserID: "ann"}, time.Hour)
	require.NoError(t, err)
	other, err := here.Create(t.Context(), pgsession.Data{UserID: "ann"}, time.Hour)
	require.NoError(t, err)

	ctx, cancel := here.Watch(t.Context(), session.Handle)
	defer cancel()
	stays, cancelStays := here.Watch(t.Context(), other.Handle)
	defer cancelStays()
	require.NoError(t, there.Delete(t.Context(), session.ID))
	<-ctx.Done()
	require.ErrorIs(t, context.Cause(ctx), pgsession.ErrRevoked)
	require.NoError(t, stays.Err())
}
