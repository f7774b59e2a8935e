package conformance_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/bridge"
	"github.com/pgsession/pgsession/internal/test"
)

// Changes of a session that give it a new id.
func TestRenew(t *testing.T) {
	t.Parallel()
	onEveryKind(t, renewCases)
}

var renewCases = []useCase{
	{"Renew/returns what a load gives", nil, func(t *testing.T, f *subject) {
		old := f.Begin(t, pgsession.Data{Values: 1}, time.Hour)
		f.Clock.Advance(time.Minute)
		given := []byte("abc")
		session, err := f.Renew(t.Context(), f.MustLoad(t, test.Parsed(old)), 2*time.Hour, func(session *pgsession.Session) (pgsession.Data, error) {
			require.Empty(t, session.UserID)
			require.Equal(t, old.Handle(), session.Handle)
			require.Equal(t, 1, test.Decode[int](t, session))
			return pgsession.Data{UserID: "ann", Lifetime: 9 * time.Hour, Values: given}, nil
		})
		require.NoError(t, f.eitherSessionOrError(t.Context(), session, err))
		given[0] = 'x'
		require.Equal(t, "abc", string(test.Decode[[]byte](t, session)), "a copy")
		require.Equal(t, "ann", session.UserID)
		require.Equal(t, 2*time.Hour, session.Remaining())
		require.Equal(t, f.Clock.Now(), session.CreatedAt)
		require.NotEqual(t, old.Handle(), session.Handle)
		require.Equal(t, session.Handle, f.MustLoad(t, test.Parsed(session.ID)).Handle, "its token is the cookie")
		require.Equal(t, "ended", f.stateOf(t, old))
		require.NoError(t, f.Put(t.Context(), session.ID, test.Ann(2), time.Hour), "its id may begin sessions, since it was made here")
	}},
	{"Renew/a ttl of 0 keeps the expiry", nil, func(t *testing.T, f *subject) {
		id := f.Begin(t, test.Ann(1), time.Hour)
		for _, userID := range []string{"ann", "bob", ""} {
			f.Clock.Advance(time.Minute)
			session, err := f.Renew(t.Context(), f.MustLoad(t, id), 0, test.LogIn(pgsession.Data{UserID: userID}))
			require.NoError(t, f.eitherSessionOrError(t.Context(), session, err))
			require.Equal(t, test.Epoch.Add(time.Hour), session.ExpiresAt)
			require.Equal(t, time.Hour, session.IdleTimeout)
			id = session.ID
		}
		session, err := f.Renew(t.Context(), f.MustLoad(t, id), 0, test.LogIn(pgsession.Data{UserID: "ann", Lifetime: 27 * time.Minute}))
		require.NoError(t, f.eitherSessionOrError(t.Context(), session, err))
		require.Equal(t, test.Epoch.Add(30*time.Minute), session.ExpiresAt, "but not past the end")
		session, err = f.Renew(t.Context(), f.MustLoad(t, session.ID), time.Minute, test.LogIn(test.Ann(1)))
		require.NoError(t, f.eitherSessionOrError(t.Context(), session, err))
		require.Equal(t, time.Minute, session.Remaining(), "a ttl may shorten")
	}},
	{"Renew/returns the error of change", nil, func(t *testing.T, f *subject) {
		id := f.Begin(t, test.Ann(1), time.Hour)
		before, mine := f.MustLoad(t, id), errors.New("mine")
		session, err := f.Renew(t.Context(), f.MustLoad(t, id), time.Hour, func(*pgsession.Session) (pgsession.Data, error) { return test.Ann(2), mine })
		require.True(t, err == mine)
		require.Nil(t, session)
		require.Equal(t, before, f.MustLoad(t, id))
		f.requireSessions(t, 1)
	}},
	{"Renew/who the user was is what was stored", nil, func(t *testing.T, f *subject) {
		id := f.Begin(t, test.Ann(1), time.Hour)
		f.Clock.Advance(time.Minute)
		session, err := f.Renew(t.Context(), f.MustLoad(t, id), 0, func(session *pgsession.Session) (pgsession.Data, error) {
			session.UserID = "bob"
			return pgsession.Data{UserID: "bob"}, nil
		})
		require.NoError(t, err)
		require.Equal(t, f.Clock.Now(), session.CreatedAt, "bob logs in")
	}},
	{"Renew/runs change again after another write", nil, func(t *testing.T, f *subject) {
		for name, write := range map[string]func(id pgsession.ID) error{
			"save":  func(id pgsession.ID) error { return f.Save(t.Context(), id, test.Ann(10), 2*time.Hour) },
			"touch": func(id pgsession.ID) error { return test.Err(f.Touch(t.Context(), f.MustLoad(t, id), 2*time.Hour)) },
			"update": func(id pgsession.ID) error {
				return test.Err(f.Update(t.Context(), f.MustLoad(t, id), 2*time.Hour, test.Keep(10)))
			},
			"put": func(id pgsession.ID) error { return f.Put(t.Context(), id, test.Ann(10), 2*time.Hour) },
		} {
			id, runs, conflicts := f.Begin(t, test.Ann(10), time.Hour), 0, f.Stats().Conflicts
			session, err := f.Renew(t.Context(), f.MustLoad(t, id), 0, func(session *pgsession.Session) (pgsession.Data, error) {
				if runs++; runs == 1 {
					require.NoError(t, write(id), name)
				}
				return test.Ann(test.Decode[int](t, session) + 1), nil
			})
			require.NoError(t, f.eitherSessionOrError(t.Context(), session, err), name)
			require.Equal(t, 2, runs, name)
			require.Equal(t, 11, test.Decode[int](t, session), name)
			require.Equal(t, 2*time.Hour, session.Remaining(), "%s: the expiry that it saw last", name)
			require.Equal(t, conflicts+1, f.Stats().Conflicts, name)
			require.Equal(t, "ended", f.stateOf(t, id), name)
		}
	}},
	{"Renew/gives up", []pgsession.Option{pgsession.WithTimeout(0)}, func(t *testing.T, f *subject) {
		id, runs := f.Begin(t, test.Ann(0), time.Hour), 0
		err := test.Err(f.Renew(t.Context(), f.MustLoad(t, id), 0, func(*pgsession.Session) (pgsession.Data, error) {
			runs++
			return test.Ann(1), f.Save(t.Context(), id, test.Ann(-runs), time.Hour)
		}))
		require.ErrorIs(t, err, pgsession.ErrConflict)
		require.Equal(t, -runs, test.Decode[int](t, f.MustLoad(t, id)))
		f.requireSessions(t, 1)
	}},
	{"Renew/does not bring back", nil, func(t *testing.T, f *subject) {
		for name, end := range waysToEnd(f) {
			id := f.Begin(t, test.Ann(1), time.Hour)
			session, err := f.Renew(t.Context(), f.MustLoad(t, id), time.Hour, func(*pgsession.Session) (pgsession.Data, error) {
				return pgsession.Data{UserID: "carol"}, end(t, id)
			})
			require.ErrorIs(t, err, pgsession.ErrRevoked, name)
			require.Nil(t, session)
			require.Equal(t, "ended", f.stateOf(t, id), name)
			found, err := f.FindByUser(t.Context(), "carol", 0)
			require.NoError(t, err)
			require.Empty(t, found, name)
		}
	}},
	{"Renew/of what expires meanwhile", nil, func(t *testing.T, f *subject) {
		id := f.Begin(t, test.Ann(1), time.Hour)
		err := test.Err(f.Renew(t.Context(), f.MustLoad(t, id), time.Hour, func(session *pgsession.Session) (pgsession.Data, error) {
			f.Clock.Advance(time.Hour)
			return test.Ann(2), nil
		}))
		require.ErrorIs(t, err, pgsession.ErrNotFound)
		require.Equal(t, "expired", f.stateOf(t, id))
	}},
	{"Renew/the ttl begins with the write", nil, func(t *testing.T, f *subject) {
		id := f.Begin(t, test.Ann(1), time.Hour)
		session, err := f.Renew(t.Context(), f.MustLoad(t, id), time.Hour, func(session *pgsession.Session) (pgsession.Data, error) {
			f.Clock.Advance(time.Minute)
			return pgsession.Data{UserID: "bob"}, nil
		})
		require.NoError(t, f.eitherSessionOrError(t.Context(), session, err))
		require.Equal(t, time.Hour, session.Remaining())
		require.Equal(t, test.Epoch.Add(time.Minute), session.CreatedAt)
	}},
	// A request with the old id may be one that the visitor sent before they had the new one.
	{"Renew/tells for a minute that the session has another id", nil, func(t *testing.T, f *subject) {
		ctx := t.Context()
		move := func(data pgsession.Data) func(*pgsession.Session) error {
			return func(session *pgsession.Session) error {
				return test.Err(f.Renew(ctx, session, 0, test.LogIn(data)))
			}
		}
		for name, c := range map[string]struct {
			before pgsession.Data
			end    func(*pgsession.Session) error
			tells  bool
		}{
			"a guest":        {test.Guest, move(test.Guest), true},
			"a user":         {test.Ann(1), move(test.Ann(2)), true},
			"a log-in":       {test.Guest, move(test.Ann(1)), false},
			"another user":   {test.Ann(1), move(test.Bob), false},
			"a user no more": {test.Ann(1), move(test.Guest), false},
			"a cycle": {test.Ann(1), func(session *pgsession.Session) error {
				return f.Cycle(ctx, session.ID, pgsession.NewID(), test.Ann(2), time.Hour)
			}, true},
			"a log-out": {test.Ann(1), func(session *pgsession.Session) error { return f.Delete(ctx, session.ID) }, false},
		} {
			session := f.MustLoad(t, f.Begin(t, c.before, time.Hour))
			f.Clock.Advance(2 * time.Minute)
			require.NoError(t, c.end(session), name)
			require.NoError(t, f.Delete(ctx, session.ID), "%s: it leaves the tombstone as it is", name)
			tells := func() []bool {
				errs := []error{
					test.Err(f.Load(ctx, session.ID)),
					test.Err(f.Update(ctx, session, 0, test.Keep(3))),
					test.Err(f.Renew(ctx, session, 0, test.LogIn(c.before))),
				}
				var told []bool
				for _, err := range errs {
					require.ErrorIs(t, err, pgsession.ErrRevoked, name)
					told = append(told, bridge.HasMoved(err))
				}
				err := bridge.End(ctx, f.Store.Store, session.ID)
				require.Equal(t, bridge.HasMoved(err), err != nil, name)
				return append(told, bridge.HasMoved(err))
			}
			f.Clock.Advance(59 * time.Second)
			require.Equal(t, []bool{c.tells, c.tells, c.tells, c.tells}, tells(), name)
			f.Clock.Advance(time.Second)
			require.Equal(t, make([]bool, 4), tells(), "%s: it is a tombstone like any other", name)
		}
	}},
}

// waysToEnd returns what ends a session while another operation is at work on it.
func waysToEnd(f *subject) map[string]func(t *testing.T, id pgsession.ID) error {
	return map[string]func(t *testing.T, id pgsession.ID) error{
		"delete":         func(t *testing.T, id pgsession.ID) error { return f.Delete(t.Context(), id) },
		"revoke":         func(t *testing.T, id pgsession.ID) error { return f.RevokeAny(t.Context(), id.Handle()) },
		"delete by user": func(t *testing.T, id pgsession.ID) error { return test.Err(f.DeleteByUser(t.Context(), "ann")) },
		"delete all":     func(t *testing.T, id pgsession.ID) error { return test.Err(f.DeleteAll(t.Context())) },
		"cycle": func(t *testing.T, id pgsession.ID) error {
			return f.Cycle(t.Context(), id, pgsession.NewID(), test.Ann(1), time.Hour)
		},
		"renew": func(t *testing.T, id pgsession.ID) error {
			return test.Err(f.Renew(t.Context(), f.MustLoad(t, id), 0, test.LogIn(test.Ann(1))))
		},
	}
}
