// Package bridge lets other packages of this module, and its nested modules, reach into a store of
// package pgsession, which sets its variables. What would be a type of pgsession's is an any here,
// since pgsession imports this package.
package bridge

import (
	"context"
	"errors"
	"time"

	"github.com/pgsession/pgsession/internal/rows"
)

var (
	// Table returns the table of store, a *pgsession.Store.
	Table func(store any) rows.Table

	// Reseal is Store.Reseal.
	Reseal Job

	// SealPlaintext seals the rows that a store made by pgsession.Plaintext has left in the table
	// of a store made by pgsession.New. Its errors are Reseal's.
	SealPlaintext Job

	// CleanUp is Store.CleanupExpired.
	CleanUp Job

	// EndBegunBefore ends the sessions whose log-in began before a time, and returns how many were
	// live.
	EndBegunBefore func(ctx context.Context, store any, begun time.Time) (int64, error)

	// WithPurpose returns a derived ID from which Store.Renew goes on to ids of a purpose.
	WithPurpose func(id any, purpose string) any

	// EndElsewhere is for sessions that move to store from another place. From then on, every
	// operation that ends many sessions of store, such as DeleteByUser, calls end before and after
	// it ends those in the table, so that it also ends a session that moves meanwhile. The function
	// end ends the sessions for which doomed returns true, and returns how many were live. A handle
	// is a pgsession.Handle; the zero one is for a session that cannot be read.
	EndElsewhere func(store any, end func(ctx context.Context, doomed func(userID string, handle any) bool) (int64, error))

	// KeyIDs returns the ids of the keys of a *pgsession.Crypto, the primary's first.
	KeyIDs func(crypto any) []uint32

	// RowsByKey returns how many rows of store, a *pgsession.Store, lie under which key. It reads the
	// whole table.
	RowsByKey func(ctx context.Context, store any) ([]RowsOfKey, error)

	// Session returns the *pgsession.Session that store, a *pgsession.Store, makes of a row.
	Session func(store any, row rows.Row, loadedAt time.Time) any

	// Marshal returns v as JSON. Its errors are pgsession.ErrEncode, and quote no values.
	Marshal func(v any) (JSON, error)

	// Values returns the values of a *pgsession.Session as they are stored, a JSON or a []byte. They
	// must not be changed.
	Values func(session any) any

	// Touch is Store.Touch with a ttl of 0. It changes session, a *pgsession.Session: it has the new
	// expiry, and Store.Update can begin with it.
	Touch func(ctx context.Context, store, session any) error

	// Row returns the row that session, a *pgsession.Session, was read from, without its payload.
	Row func(session any) rows.Row

	// HasMoved reports whether err, a pgsession.ErrRevoked, says that a session of the same user's, or
	// the same guest's, has got another id within the last minute. A request with the old id may then
	// be one that its visitor sent before.
	HasMoved func(err error) bool

	// End is Store.Delete, but it returns an error for which HasMoved is true instead of nil.
	End func(ctx context.Context, store any, id any) error

	// LimitOthers is Store.LimitByUser for the user of session, a *pgsession.Session, but it spares
	// that session, and keep counts the others, and may be 0.
	LimitOthers func(ctx context.Context, store, session any, keep int) error

	// Health is Store.Health with another timeout. It returns a pgsession.Health.
	Health func(ctx context.Context, store any, timeout time.Duration) any

	// WithPatience returns a pgsession.Option for tests. It sets three times that are fractions of a
	// second otherwise: how long a statement counts towards pgsession.WithCoalescing, how long it goes
	// on after its caller has gone, and how long an Update keeps its turn. If they are long, a test
	// does not fail because the machine stood still for a moment.
	WithPatience func(d time.Duration) any
)

// A Job works through the whole table of store, a *pgsession.Store. It calls report, which may be
// nil, with the number of rows so far.
type Job = func(ctx context.Context, store any, report func(rows int64)) (int64, error)

// Memory is Table for a store that pgsession.InMemory made.
func Memory(store any) *rows.Memory { return Table(store).(*rows.Memory) }

// Within returns a context for several operations of store that together have the time of one.
func Within(ctx context.Context, store any) (context.Context, context.CancelFunc) {
	return Table(store).Within(ctx)
}

// An OutageError says why a store could not work: the database, the pool or the context did not let
// it. It names the operation that it ended.
type OutageError struct {
	Operation string
	Err       error
}

func (e *OutageError) Error() string { return "pgsession: " + e.Operation + ": " + e.Err.Error() }
func (e *OutageError) Unwrap() error { return e.Err }

// Outage returns the OutageError in err, or nil. It is a function of its own so that only an error
// costs an allocation.
func Outage(err error) error {
	if outage := (*OutageError)(nil); errors.As(err, &outage) {
		return outage
	}
	return nil
}

// RowsOfKey is how many rows a key has sealed.
type RowsOfKey struct {
	ID    string   `json:"id,omitempty"` // 8 hex digits; "" for what lies in plaintext
	State KeyState `json:"state"`
	Rows  int64    `json:"rows"`
}

// MayGo reports whether the key can be taken out of the ring.
func (r RowsOfKey) MayGo() bool { return r.State == OldKey && r.Rows == 0 }

// A KeyState says what a key is in the ring.
type KeyState string

// The states of a key.
const (
	PrimaryKey  KeyState = "primary"
	OldKey      KeyState = "old"
	StrangeKey  KeyState = "not among the keys"
	InPlaintext KeyState = "plaintext"
)

// JSON are values that were marshalled already. A store keeps them as they are.
type JSON []byte
