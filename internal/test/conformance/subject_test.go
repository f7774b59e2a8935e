package conformance_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/test"
)

// A subject is an empty store of one kind. A store in memory has no pool and no table.
type subject struct {
	*test.Store

	// beside returns another store on the same table, under the same clock. It is nil in memory.
	beside func(opts ...pgsession.Option) *pgsession.Store
}

// A newSubject makes subjects of one kind.
type newSubject func(t testing.TB, opts ...pgsession.Option) *subject

// storeKinds returns what makes a subject, for each kind of store.
func storeKinds(t testing.TB) map[string]newSubject {
	crypto := test.NewCrypto(t, test.Key, pgsession.GenerateKey()) // a user's rows may lie under two user keys
	return map[string]newSubject{
		"memory":    newSubjectInMemory,
		"plaintext": subjectsOnPostgreSQL(t, pgsession.Plaintext),
		"encrypted": subjectsOnPostgreSQL(t, func(pool *pgxpool.Pool, opts ...pgsession.Option) *pgsession.Store {
			return pgsession.New(pool, crypto, opts...)
		}),
	}
}

func newSubjectInMemory(_ testing.TB, opts ...pgsession.Option) *subject {
	clock := pgsession.NewManualClock(test.Epoch)
	opts = append([]pgsession.Option{pgsession.WithClock(clock), test.Quiet()}, opts...)
	return &subject{Store: &test.Store{Store: pgsession.InMemory(opts...), Clock: clock}}
}

// subjectsOnPostgreSQL gives each store a table of its own, in one schema.
func subjectsOnPostgreSQL(t testing.TB, open test.Opener) newSubject {
	pool := pgtest.Pool(t)
	var tables atomic.Int64
	return func(t testing.TB, opts ...pgsession.Option) *subject {
		t.Helper()
		table := "sessions_" + strconv.FormatInt(tables.Add(1), 10)
		clock := pgsession.NewManualClock(test.Epoch)
		beside := func(opts ...pgsession.Option) *pgsession.Store {
			return open(pool, append([]pgsession.Option{pgsession.WithClock(clock), test.Quiet(), test.Patient(), pgsession.WithTable(table)}, opts...)...)
		}
		store := beside(opts...)
		require.NoError(t, store.Init(t.Context()))
		pgtest.AfterInit(t, pool, table)
		return &subject{&test.Store{Store: store, Pool: pool, Clock: clock, Table: table}, beside}
	}
}

// eitherSessionOrError returns err, or another error if an operation returned a session and an
// error, neither, or a session that is not as a load gives it.
func (f *subject) eitherSessionOrError(ctx context.Context, session *pgsession.Session, err error) error {
	if (session == nil) == (err == nil) {
		return fmt.Errorf("either a session or an error: %v, %w", session, err)
	}
	if err != nil {
		return err
	}
	loaded, err := f.Load(ctx, session.ID)
	if err != nil {
		return fmt.Errorf("what was returned does not load: %w", err)
	}
	for _, s := range []*pgsession.Session{session, loaded} {
		if s.ID.Handle() != s.Handle || s.Handle.IsZero() {
			return fmt.Errorf("id %v under handle %v", s.ID, s.Handle)
		}
	}
	if got, want := describe(session), describe(loaded); got != want || test.Version(session) != test.Version(loaded) {
		return fmt.Errorf("returned %s, version %d; loaded %s, version %d", got, test.Version(session), want, test.Version(loaded))
	}
	return nil
}

// describe returns all of a session but its version and its id.
func describe(session *pgsession.Session) string {
	data := session.Data()
	if values, ok := data.Values.(json.RawMessage); ok {
		var v any
		err := json.Unmarshal(values, &v) // PostgreSQL keeps no white space
		data.Values = fmt.Sprint("JSON ", v, err)
	}
	return fmt.Sprintf("user %q, values %v, created at %v, expires at %v, ends at %v, idle timeout %v, ttl %v",
		data.UserID, data.Values, session.CreatedAt, session.ExpiresAt, session.EndsAt, session.IdleTimeout, session.Remaining())
}

// stateOf finds out in which state an id is. It may begin a session under it.
func (f *subject) stateOf(t testing.TB, id pgsession.ID) string {
	t.Helper()
	if id.IsZero() {
		return "zero"
	}
	_, err := f.Load(t.Context(), id)
	switch errorName(err) {
	case "nil":
		return "live"
	case "Revoked":
		return "ended"
	}
	require.Equal(t, "NotFound", errorName(err))
	if _, err = f.CreateAs(t.Context(), id, pgsession.Data{}, time.Hour); err == nil {
		return "absent"
	}
	require.ErrorIs(t, err, pgsession.ErrExists)
	return "expired"
}

// errorName returns the name of a sentinel error, without its Err. The text of one that has no name
// is returned as it is.
func errorName(err error) string {
	var n countError
	switch {
	case err == nil:
		return "nil"
	case errors.As(err, &n):
		return n.Error()
	}
	for _, sentinel := range []struct {
		name string
		err  error
	}{
		{"Revoked", pgsession.ErrRevoked},     // also ErrNotFound
		{"InvalidID", pgsession.ErrInvalidID}, // also ErrNotFound
		{"ForeignID", pgsession.ErrForeignID},
		{"NotFound", pgsession.ErrNotFound},
		{"Exists", pgsession.ErrExists},
		{"UserChanged", pgsession.ErrUserChanged},
		{"Conflict", pgsession.ErrConflict},
		{"InvalidTTL", pgsession.ErrInvalidTTL},
		{"TooLarge", pgsession.ErrTooLarge},
		{"Encode", pgsession.ErrEncode},
		{"Decode", pgsession.ErrDecode},
		{"Tampered", pgsession.ErrTampered},
		{"UnknownKey", pgsession.ErrUnknownKey},
		{"Schema", pgsession.ErrSchema},
	} {
		if errors.Is(err, sentinel.err) {
			if sentinel.name == "Revoked" || sentinel.name == "InvalidID" {
				if !errors.Is(err, pgsession.ErrNotFound) {
					return sentinel.name + " that is not NotFound"
				}
			}
			return sentinel.name
		}
	}
	return err.Error()
}

// A useCase is what takes several steps on one store. It runs on every kind of store.
type useCase struct {
	name    string
	options []pgsession.Option
	run     func(t *testing.T, f *subject)
}

func onEveryKind(t *testing.T, cases []useCase) {
	t.Helper()
	for kind, newSubject := range storeKinds(t) {
		for _, c := range cases {
			t.Run(kind+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				c.run(t, newSubject(t, c.options...))
			})
		}
	}
}

// requireSessions wants so many live sessions.
func (f *subject) requireSessions(t testing.TB, want int64) {
	t.Helper()
	count, err := f.Count(t.Context())
	require.NoError(t, err)
	require.Equal(t, want, count.Users+count.Guests)
}
