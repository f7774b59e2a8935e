package faults_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/test"
)

// TestStore_Move_Race has many move one session to new ids at once, while others look: one wins,
// and in every snapshot there is one live session.
func TestStore_Move_Race(t *testing.T) {
	t.Parallel()
	for name, move := range map[string]func(ctx context.Context, s *test.Store, id pgsession.ID) (pgsession.ID, error){
		"Cycle": func(ctx context.Context, s *test.Store, id pgsession.ID) (pgsession.ID, error) {
			next := pgsession.NewID()
			return next, s.Cycle(ctx, id, next, test.Ann(1), time.Hour)
		},
		"Renew": func(ctx context.Context, s *test.Store, id pgsession.ID) (pgsession.ID, error) {
			session, err := s.Renew(ctx, test.Unloaded(id), time.Hour, test.LogIn(test.Ann(1)))
			if err != nil {
				return pgsession.ID{}, err
			}
			return session.ID, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := test.NewStore(t)
			current := s.Begin(t, test.Ann(0), time.Hour)
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			var watchers sync.WaitGroup
			for range 2 {
				if pgtest.IsDistributed() {
					break // no snapshot spans the shards
				}
				watchers.Go(func() {
					for ctx.Err() == nil {
						var live int
						err := s.Pool.QueryRow(ctx, `SELECT count(*) FROM sessions WHERE sealed IS NOT NULL`).Scan(&live)
						if ctx.Err() == nil && (err != nil || live != 1) {
							t.Errorf("%d live sessions, %v", live, err)
						}
					}
				})
			}
			for range 30 {
				const racers = 4
				var (
					errs   [racers]error
					nexts  [racers]pgsession.ID
					racing sync.WaitGroup
				)
				for i := range racers {
					racing.Go(func() { nexts[i], errs[i] = move(t.Context(), s, current) })
				}
				racing.Wait()
				winners := 0
				for i, err := range errs {
					if err == nil {
						winners++
						current = nexts[i]
					} else {
						require.ErrorIs(t, err, pgsession.ErrRevoked)
					}
				}
				require.Equal(t, 1, winners)
			}
			stop()
			watchers.Wait()
		})
	}
}

// TestStore_Move_Refused has a trigger refuse the new row, at once or at the commit: the old
// session goes on.
func TestStore_Move_Refused(t *testing.T) {
	t.Parallel()
	for name, trigger := range map[string]string{
		"at once":       `CREATE TRIGGER refuse BEFORE INSERT ON sessions FOR EACH ROW EXECUTE FUNCTION refuse()`,
		"at the commit": `CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON sessions DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := test.NewStore(t)
			old, next := s.Begin(t, test.Ann(1), time.Hour), pgsession.NewID()
			before := s.MustLoad(t, old)
			s.SQL(t, `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''not today''; END'`)
			s.SQL(t, trigger)
			require.ErrorContains(t, s.Cycle(t.Context(), old, next, test.Ann(2), time.Hour), "not today")
			require.ErrorContains(t, test.Err(s.Renew(t.Context(), test.Unloaded(old), 0, test.LogIn(test.Ann(2)))), "not today")
			require.Equal(t, before, s.MustLoad(t, old))
			require.ErrorIs(t, test.Err(s.Load(t.Context(), next)), pgsession.ErrNotFound)
			require.Equal(t, 1, s.CountRows(t, "true"))
		})
	}
}

// TestStore_Renew_Overtaken lets others write between the look and the write of a log-in.
func TestStore_Renew_Overtaken(t *testing.T) {
	t.Parallel()
	s := test.NewStore(t)
	ctx := t.Context()
	t.Run("by a write", func(t *testing.T) {
		id, calls := s.Begin(t, test.Guest, time.Hour), 0
		session, err := s.Renew(ctx, test.Unloaded(id), 0, func(session *pgsession.Session) (pgsession.Data, error) {
			if calls++; calls == 1 {
				require.NoError(t, test.Err(s.Update(ctx, test.Unloaded(id), 0, test.Keep(7))))
			}
			values, err := test.Increment(session)
			return test.Ann(values), err
		})
		require.NoError(t, err)
		require.Equal(t, 2, calls)
		require.Equal(t, 8, test.Decode[int](t, session), "no change is lost")
		require.Equal(t, "ann", session.UserID)
	})
	t.Run("by an end", func(t *testing.T) {
		id := s.Begin(t, test.Guest, time.Hour)
		before := s.CountRows(t, "true")
		require.ErrorIs(t, test.Err(s.Renew(ctx, test.Unloaded(id), 0, func(*pgsession.Session) (pgsession.Data, error) {
			return test.Ann(1), s.Delete(ctx, id)
		})), pgsession.ErrRevoked)
		require.Equal(t, before, s.CountRows(t, "true"), "no new row")
	})
	t.Run("again and again", func(t *testing.T) {
		id := s.Begin(t, test.Guest, time.Hour)
		require.ErrorIs(t, test.Err(s.Renew(ctx, test.Unloaded(id), 0, func(*pgsession.Session) (pgsession.Data, error) {
			return test.Ann(1), s.Save(ctx, id, test.Guest, time.Hour)
		})), pgsession.ErrConflict)
		require.Empty(t, s.MustLoad(t, id).UserID)
	})
}

// TestStore_Touch_Overtaken has a touch wait behind the end of its session: it must not say that it
// prolonged what is over.
func TestStore_Touch_Overtaken(t *testing.T) {
	t.Parallel()
	s := test.NewStore(t)
	id := s.Begin(t, test.Ann(1), time.Minute)
	end := s.Hold(t, `UPDATE sessions SET sealed = NULL, user_key = NULL WHERE key = $1`, test.RowKey(id))
	touched := make(chan error, 1)
	go func() { touched <- test.Err(s.Touch(t.Context(), test.Unloaded(id), time.Hour)) }()
	end.WaitFor(t, 1)
	require.NoError(t, end.Commit(t.Context()))
	require.ErrorIs(t, <-touched, pgsession.ErrRevoked)
}

// TestStore_DeleteByUser_AgainstMoves logs a user out everywhere while each of the user's sessions
// moves to new ids without pause: none escapes.
func TestStore_DeleteByUser_AgainstMoves(t *testing.T) {
	t.Parallel()
	s := test.NewStore(t)
	ctx := t.Context()
	for range 30 {
		var moving, started sync.WaitGroup
		const sessions = 4
		started.Add(sessions)
		for n := range sessions {
			id := s.Begin(t, test.Ann(1), time.Hour)
			moving.Go(func() {
				for i := 0; ; i++ {
					next := pgsession.NewID()
					var err error
					if n%2 == 0 {
						err = s.Cycle(ctx, id, next, test.Ann(1), time.Hour)
					} else if session, renewErr := s.Renew(ctx, test.Unloaded(id), time.Hour, test.LogIn(test.Ann(1))); renewErr == nil {
						next = session.ID
					} else {
						err = renewErr
					}
					if i == 0 {
						started.Done()
					}
					if err != nil {
						if !errors.Is(err, pgsession.ErrRevoked) {
							t.Error(err)
						}
						return
					}
					id = next
				}
			})
		}
		started.Wait()
		require.NoError(t, test.Err(s.DeleteByUser(ctx, "ann")))
		found, err := s.FindByUser(ctx, "ann", 0)
		require.NoError(t, err)
		require.Empty(t, found)
		moving.Wait()
	}
}
