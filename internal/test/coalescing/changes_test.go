package coalescing_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/bridge"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/test"
)

// load begins a session and loads it.
func load(t *testing.T, s *test.Store, data pgsession.Data) *pgsession.Session {
	t.Helper()
	return s.MustLoad(t, s.Begin(t, data, 5*time.Hour))
}

func TestCoalescing_Update(t *testing.T) {
	pgtest.NotDistributed(t, "writes share no statement")
	t.Parallel()
	onBothStores(t, func(t *testing.T, g *test.Turnstile) {
		ctx := t.Context()
		zero, one, two := load(t, g.Store, test.Ann(0)), load(t, g.Store, test.Ann(10)), load(t, g.Store, pgsession.Data{UserID: "bob", Values: 20})
		update := func(session *pgsession.Session, ttl time.Duration) func() error {
			return func() error { return test.Err(g.Update(ctx, session, ttl, test.Increment)) }
		}
		errs, sent := g.Together(t, update(zero, 0), update(one, 0), update(two, time.Hour))
		test.RequireErrors(t, errs, nil, nil)
		require.Equal(t, 1, sent)
		require.Equal(t, 11, g.Number(t, one.ID))
		require.Equal(t, 5*time.Hour, g.MustLoad(t, one.ID).Remaining())
		require.Equal(t, 21, g.Number(t, two.ID))
		require.Equal(t, time.Hour, g.MustLoad(t, two.ID).Remaining())

		// The first wins, and the others begin anew with what it wrote, one after the other. They take
		// turns, unless the scheduler lets one of them go on only when the other has written already.
		for round := range 10 {
			zero, one = g.MustLoad(t, zero.ID), g.MustLoad(t, one.ID)
			errs, sent = g.Together(t, update(zero, 0), update(one, 0), update(one, 0), update(one, 0))
			test.RequireErrors(t, errs, nil, nil, nil)
			require.Equal(t, 11+3*(round+1), g.Number(t, one.ID))
			if sent == 3 {
				return
			}
		}
		require.Fail(t, "the others never take turns")
	})
}

// TestCoalescing_Update_Meanwhile shares statements among updates of sessions that others have
// written since they were loaded.
func TestCoalescing_Update_Meanwhile(t *testing.T) {
	pgtest.NotDistributed(t, "writes share no statement")
	t.Parallel()
	onBothStores(t, func(t *testing.T, g *test.Turnstile) {
		ctx := t.Context()
		zero, touched, saved := load(t, g.Store, test.Ann(0)), load(t, g.Store, test.Ann(10)), load(t, g.Store, test.Ann(20))
		moved, ended := load(t, g.Store, test.Ann(30)), load(t, g.Store, test.Ann(40))
		anew := g.MustLoad(t, g.Begin(t, test.Ann(50), time.Hour))
		short := g.MustLoad(t, g.Begin(t, test.Ann(60), time.Hour))
		require.NoError(t, g.Delete(ctx, ended.ID))
		g.Clock.Advance(50 * time.Minute)
		require.NoError(t, test.Err(g.Touch(ctx, touched, 5*time.Hour)))
		require.NoError(t, g.Save(ctx, saved.ID, test.Ann(24), time.Hour))
		require.NoError(t, g.Cycle(ctx, moved.ID, pgsession.NewID(), test.Ann(0), time.Hour))
		g.SQL(t, `DELETE FROM sessions WHERE key = $1`, test.RowKey(anew.ID))
		require.NoError(t, g.Put(ctx, anew.ID, test.Ann(55), time.Hour))
		update := func(session *pgsession.Session) func() error {
			return func() error { return test.Err(g.Update(ctx, session, 0, test.Increment)) }
		}
		g.BeforeOpening = func(*test.Lock) { g.Clock.Advance(20 * time.Minute) }
		errs, _ := g.Together(t, update(zero), update(touched), update(saved), update(moved), update(ended), update(anew), update(short))
		test.RequireErrors(t, errs, nil, nil, pgsession.ErrRevoked, pgsession.ErrRevoked, nil, pgsession.ErrNotFound)
		require.Equal(t, 11, g.Number(t, touched.ID))
		require.Equal(t, test.Epoch.Add(5*time.Hour+50*time.Minute), g.MustLoad(t, touched.ID).ExpiresAt)
		require.Equal(t, 25, g.Number(t, saved.ID))
		require.Equal(t, 56, g.Number(t, anew.ID))
	})
}

func TestCoalescing_Renew(t *testing.T) {
	pgtest.NotDistributed(t, "writes share no statement")
	t.Parallel()
	onBothStores(t, func(t *testing.T, g *test.Turnstile) {
		ctx := t.Context()
		zero, guest, ann := load(t, g.Store, test.Guest), load(t, g.Store, test.Guest), load(t, g.Store, test.Ann(1))
		ended, stale := load(t, g.Store, test.Ann(1)), load(t, g.Store, test.Ann(1))
		g.Clock.Advance(time.Minute)
		require.NoError(t, g.Delete(ctx, ended.ID))
		require.NoError(t, g.Save(ctx, stale.ID, test.Ann(7), time.Hour))
		var renewed [5]*pgsession.Session
		renew := func(i int, session *pgsession.Session, ttl time.Duration, change func(*pgsession.Session) (pgsession.Data, error)) func() error {
			return func() (err error) {
				renewed[i], err = g.Renew(ctx, session, ttl, change)
				return err
			}
		}
		keep := func(session *pgsession.Session) (pgsession.Data, error) { return session.Data(), nil }
		errs, _ := g.Together(t, func() error { return test.Err(g.Renew(ctx, zero, 0, keep)) },
			renew(0, guest, 0, test.LogIn(test.Ann(2))), renew(1, guest, 0, test.LogIn(test.Bob)),
			renew(2, ann, time.Hour, keep), renew(3, ended, 0, keep), renew(4, stale, 0, keep))
		test.RequireErrors(t, errs, nil, pgsession.ErrRevoked, nil, pgsession.ErrRevoked, nil)
		for old, hasMoved := range map[*pgsession.Session]bool{guest: false, ann: true, stale: true} {
			err := test.Err(g.Load(ctx, old.ID))
			require.ErrorIs(t, err, pgsession.ErrRevoked)
			require.Equal(t, hasMoved, bridge.HasMoved(err), "its user stayed")
		}
		loggedIn := g.MustLoad(t, renewed[0].ID)
		require.Equal(t, "ann", loggedIn.UserID)
		require.Equal(t, g.Clock.Now(), loggedIn.CreatedAt)
		require.Equal(t, guest.ExpiresAt, loggedIn.ExpiresAt)
		kept := g.MustLoad(t, renewed[2].ID)
		require.Equal(t, ann.CreatedAt, kept.CreatedAt)
		require.Equal(t, time.Hour, kept.Remaining())
		require.Equal(t, 7, g.Number(t, renewed[4].ID), "it begins anew with what was saved")
		require.Equal(t, 4, g.CountRows(t, `num_nonnulls(data, sealed) = 1`))

		zero, one, two := load(t, g.Store, test.Guest), load(t, g.Store, test.Guest), load(t, g.Store, test.Guest)
		errs, sent := g.Together(t, func() error { return test.Err(g.Renew(ctx, zero, 0, keep)) }, renew(0, one, 0, keep), renew(1, two, 0, keep))
		test.RequireErrors(t, errs, nil, nil)
		require.Equal(t, 1, sent)

		zero, one = load(t, g.Store, test.Guest), load(t, g.Store, test.Guest)
		errs, _ = g.Together(t, func() error { return test.Err(g.Renew(ctx, zero, 0, keep)) }, renew(0, one, 0, keep), renew(1, one, 0, keep))
		test.RequireErrors(t, errs, nil, pgsession.ErrRevoked)
		require.True(t, bridge.HasMoved(errs[1]), "the one that lost is told so")
	})
}

func TestCoalescing_Create(t *testing.T) {
	pgtest.NotDistributed(t, "writes share no statement")
	t.Parallel()
	onBothStores(t, func(t *testing.T, g *test.Turnstile) {
		ctx := t.Context()
		taken, ended, fresh, twice := pgsession.DeriveID("taken"), g.Ended(t), pgsession.DeriveID("fresh"), pgsession.DeriveID("twice")
		require.NoError(t, test.Err(g.CreateAs(ctx, taken, test.Bob, time.Hour)))
		create := func(id pgsession.ID, data pgsession.Data) func() error {
			return func() error { return test.Err(g.CreateAs(ctx, id, data, time.Hour)) }
		}
		lifetime := test.Ann(5)
		lifetime.Lifetime = time.Minute
		var created *pgsession.Session
		errs, sent := g.Together(t, create(pgsession.NewID(), test.Ann(0)),
			create(taken, test.Ann(1)), create(ended, test.Ann(2)), create(fresh, lifetime), create(twice, test.Ann(3)), create(twice, test.Ann(4)),
			func() (err error) {
				created, err = g.Create(ctx, test.Bob, time.Hour)
				return err
			})
		test.RequireErrors(t, errs, pgsession.ErrExists, pgsession.ErrExists, nil, nil, pgsession.ErrExists, nil)
		require.LessOrEqual(t, sent, 3, "and those that load the two rows which are there")
		require.Equal(t, 3, g.Number(t, twice))
		require.Equal(t, "bob", g.MustLoad(t, taken).UserID)
		require.Equal(t, test.Epoch.Add(time.Minute), g.MustLoad(t, fresh).ExpiresAt)
		require.Equal(t, test.Epoch.Add(time.Minute), g.MustLoad(t, fresh).EndsAt)
		loaded := g.MustLoad(t, created.ID)
		require.Equal(t, created, loaded)
	})
}

// TestUpdate_Turns has many callers change one session at once. They take turns, so that each needs
// about one statement beside its load, and not one for each time that another one was faster.
func TestUpdate_Turns(t *testing.T) {
	t.Parallel()
	const callers = 64
	for name, open := range map[string]test.Opener{"encrypted": test.Encrypted, "plaintext": pgsession.Plaintext} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			traced := &test.Tracer{}
			pool := pgtest.Pool(t, func(config *pgxpool.Config) {
				config.ConnConfig.Tracer = traced
				config.MaxConns = 8
			})
			s := test.NewStoreOn(t, pool, open, test.Unhurried())
			id := s.Begin(t, test.Ann(0), time.Hour)
			sessions := make([]*pgsession.Session, callers)
			for i := range sessions {
				sessions[i] = s.MustLoad(t, id)
			}
			before, conflicts := traced.RoundTrips.Load(), s.Stats().Conflicts
			var runs atomic.Int64
			test.RequireAll(t, "update", callers, func(i int) error {
				return test.Err(s.Update(t.Context(), sessions[i], 0, func(session *pgsession.Session) (any, error) {
					runs.Add(1)
					return test.Increment(session)
				}))
			})
			require.Equal(t, callers, s.Number(t, id))
			most := int64(2 * callers)
			if pgtest.IsDistributed() {
				most = 5 * callers // the first attempts share no statement
			}
			require.Less(t, traced.RoundTrips.Load()-before, most)
			require.LessOrEqual(t, runs.Load(), int64(3*callers))
			require.Less(t, s.Stats().Conflicts-conflicts, int64(2*callers))
		})
	}
}

// TestUpdate_Turns_Inside updates a session from inside a function that was given to Update of the
// same session. It does not wait for itself for longer than a moment.
func TestUpdate_Turns_Inside(t *testing.T) {
	t.Parallel()
	s := test.NewStore(t)
	ctx := t.Context()
	session := load(t, s, test.Ann(0))
	runs := 0
	began := time.Now()
	updated, err := s.Update(ctx, session, 0, func(outer *pgsession.Session) (any, error) {
		if runs++; runs <= 2 { // in the second run, it has its turn
			if _, err := s.Update(ctx, test.Unloaded(session.ID), 0, test.Increment); err != nil {
				return nil, err
			}
		}
		n, err := pgsession.Decode[int](outer)
		return n + 10, err
	})
	require.NoError(t, err)
	require.Equal(t, 3, runs)
	require.Equal(t, 12, test.Decode[int](t, updated))
	require.Less(t, time.Since(began), test.Patience/2)
}

// TestUpdate_Turns_Renewed lets Updates wait for a Renew of the same session. What it wrote is not
// theirs.
func TestUpdate_Turns_Renewed(t *testing.T) {
	t.Parallel()
	s := test.NewStore(t)
	ctx := t.Context()
	session := load(t, s, test.Ann(0))
	require.NoError(t, test.Err(s.Update(ctx, session, 0, test.Increment))) // so that the next one meets a conflict
	var waiting sync.WaitGroup
	runs := 0
	renewed, err := s.Renew(ctx, session, 0, func(seen *pgsession.Session) (pgsession.Data, error) {
		if runs++; runs == 2 { // in its turn
			for range 3 {
				waiting.Go(func() {
					_, err := s.Update(ctx, session, 0, func(given *pgsession.Session) (any, error) {
						assert.Equal(t, session.ID, given.ID)
						return test.Increment(given)
					})
					assert.ErrorIs(t, err, pgsession.ErrRevoked)
				})
			}
		}
		return seen.Data(), nil
	})
	require.NoError(t, err)
	waiting.Wait()
	require.Equal(t, 2, runs)
	require.Equal(t, 1, s.Number(t, renewed.ID))
}
