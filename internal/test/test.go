// Package test has what the tests of the store share: a store on a table of its own under a clock
// that the test moves, locks, tracers, and connections that fail.
//
// The tests of a file of the root package stand beside that file. The tests that are about more
// than one file stand in folders below this one, each with a package of its own.
package test

import (
	"flag"
	"log/slog"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/bridge"
	"github.com/pgsession/pgsession/internal/pgtest"
)

// Main is for TestMain of a package that uses this one.
func Main(m *testing.M) {
	// A few seconds' worth of the property tests, unless the command line says how many.
	if flag.Lookup("rapid.checks") != nil {
		if err := flag.Set("rapid.checks", "40"); err != nil {
			panic(err)
		}
	}
	// The tests wait for the server, or for time to pass, more than they compute. So more of them
	// run at once than there are processors, unless -parallel says how many.
	flag.Parse()
	if parallel := flag.Lookup("test.parallel"); parallel.Value.String() == parallel.DefValue {
		if err := parallel.Value.Set(strconv.Itoa(3 * runtime.GOMAXPROCS(0))); err != nil {
			panic(err)
		}
	}
	pgtest.Main(m, func() error { return goleak.Find() })
}

// Patience is how long a test waits for what must happen. No test that passes waits so long.
const Patience = 30 * time.Second

// Slack is what an operation may take beyond its timeout in a test. The promise is less, but the
// machine may be slow. An operation without a bound never ends.
const Slack = 5 * time.Second

// ShortTimeout is a WithTimeout for tests in which it has to end. An operation has more to do until
// then on a distributed table.
var ShortTimeout = func() time.Duration {
	if pgtest.IsDistributed() {
		return time.Second
	}
	return 400 * time.Millisecond
}()

// Epoch is when the tests' manual clocks start. It is not on an hour, so that a test sees how
// expires_hour is rounded.
var Epoch = time.Date(2026, 3, 14, 15, 9, 26, 535_897_000, time.UTC)

// Ann returns a session's data: ann's, with any values.
func Ann(values any) pgsession.Data { return pgsession.Data{UserID: "ann", Values: values} }

// The data of another user and of a guest.
var (
	Bob   = pgsession.Data{UserID: "bob", Values: 0}
	Guest = pgsession.Data{Values: 0}
)

// A Profile is values of several members.
type Profile struct {
	Name  string
	Count int
}

// Must returns v, and panics if there is an error.
func Must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Err returns the error of a call that returns something else before it.
func Err[T any](_ T, err error) error { return err }

// Options.

// Patient lets the operations of a slow machine take their time. Tests of WithTimeout set another.
func Patient() pgsession.Option { return pgsession.WithTimeout(Patience) }

// Quiet is the option of a store that logs nothing.
func Quiet() pgsession.Option { return pgsession.WithLogger(slog.New(slog.DiscardHandler)) }

// Unhurried is bridge.WithPatience with [Patience].
func Unhurried() pgsession.Option { return bridge.WithPatience(Patience).(pgsession.Option) }

// A Shifted clock is ahead of the machine's.
type Shifted time.Duration

// Now is part of [pgsession.Clock].
func (s Shifted) Now() time.Time { return time.Now().Add(time.Duration(s)) }

// Keys.

// Key is the primary key of most stores, and OtherKey the one of stores whose table holds rows
// under Key.
var (
	Key      = Must(pgsession.ParseKey("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"))
	OtherKey = pgsession.GenerateKey()
)

// NewCrypto is pgsession.NewCrypto for keys that are good.
func NewCrypto(t testing.TB, primary pgsession.Key, others ...pgsession.Key) *pgsession.Crypto {
	t.Helper()
	crypto, err := pgsession.NewCrypto(primary, others...)
	require.NoError(t, err)
	return crypto
}

// Sessions.

// Unloaded returns a session made by hand, with which an operation begins by loading it.
func Unloaded(id pgsession.ID) *pgsession.Session {
	return &pgsession.Session{ID: id, Handle: id.Handle()}
}

// Parsed returns an id as a request's cookie gives it.
func Parsed(id pgsession.ID) pgsession.ID {
	if id.IsZero() {
		return id
	}
	return Must(pgsession.ParseID(id.Token()))
}

// Version returns what each write of a session changes.
func Version(session *pgsession.Session) int64 { return bridge.Row(session).Version }

// Keep is a change for Update that stores the same values, whatever was there.
func Keep(values any) func(*pgsession.Session) (any, error) {
	return func(*pgsession.Session) (any, error) { return values, nil }
}

// Increment is a change for Update of a session that holds a number.
func Increment(session *pgsession.Session) (any, error) {
	n, err := pgsession.Decode[int](session)
	return n + 1, err
}

// LogIn is a change for Renew that logs a user in.
func LogIn(data pgsession.Data) func(*pgsession.Session) (pgsession.Data, error) {
	return func(*pgsession.Session) (pgsession.Data, error) { return data, nil }
}

// Decode returns the values of a session that has such values.
func Decode[T any](t testing.TB, session *pgsession.Session) T {
	t.Helper()
	v, err := pgsession.Decode[T](session)
	require.NoError(t, err)
	return v
}

// Handles returns the handles of a list of sessions.
func Handles(sessions []*pgsession.Session) []pgsession.Handle {
	var found []pgsession.Handle
	for _, session := range sessions {
		found = append(found, session.Handle)
	}
	return found
}

// CountsOf returns the counters that depend neither on the time nor on the kind of store.
func CountsOf(stats pgsession.Stats) pgsession.Stats {
	stats.LastCleanupDuration, stats.BytesRead, stats.BytesWritten = 0, 0, 0
	stats.Operations, stats.Sharing = nil, nil
	return stats
}
