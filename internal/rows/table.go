package rows

import (
	"context"
	"errors"
	"time"
)

// The errors that a table tells apart from an outage.
var (
	// ErrSchema says that the table is not as it should be, or that a privilege is missing.
	ErrSchema = errors.New("pgsession: unexpected table")

	// ErrPayload says that the table cannot keep the payload.
	ErrPayload = errors.New("the table cannot keep these values")
)

// A Table keeps rows. Each method does in one step what the function of the same name in this
// package says, by the table's clock. An error is an outage: the operation may have happened or
// not, and it happens no later than the table's timeout after the call, if the database hears that
// it was given up. Methods are safe for concurrent use. They keep nothing of the slices that they
// are given once they have returned, and the rows that they return belong to the caller.
type Table interface {
	// Within returns a context for an operation of several steps, which ends when one operation
	// that begins now must have ended.
	Within(ctx context.Context) (context.Context, context.CancelFunc)

	// Init creates the table, or checks the one that is there.
	Init(ctx context.Context) error

	// Insert returns the new row, or Exists.
	Insert(ctx context.Context, w Write) (Row, Outcome, error)

	// Load returns the row at key, whatever its state.
	Load(ctx context.Context, key Key) (Row, error)

	// LoadOutcomes returns what Row.Load says of the row at each key.
	LoadOutcomes(ctx context.Context, keys []Key) ([]Outcome, error)

	Save(ctx context.Context, w Write) (Outcome, error)
	Put(ctx context.Context, w Write) (Outcome, error)

	// Swap returns the new row. If the row is not as it was seen, the outcome is Changed, or that of
	// Row.Load, and Swap returns the row as it is.
	Swap(ctx context.Context, seen Row, w Write) (Row, Outcome, error)

	// Touch returns when the session expires. If a Touch has just moved that, it returns the version
	// that the row got by it, and otherwise 0.
	Touch(ctx context.Context, key Key, ttl time.Duration) (expiresAt time.Time, version int64, outcome Outcome, err error)

	// Renew returns the row under the new key. If the old row is not as it was seen, it is as in Swap.
	Renew(ctx context.Context, seen Row, w Write) (Row, Outcome, error)

	// End leaves a tombstone at key, if a session is stored there. Otherwise it returns the row that
	// is there.
	End(ctx context.Context, key Key) (Row, error)

	Revoke(ctx context.Context, key Key, userKeys [][]byte) (Outcome, error)

	// EndByUser ends all sessions that lie under a user's keys, except those at the keys in except.
	// Of the others, the newest keep live ones stay too. It ends sessions that are moved meanwhile
	// under their new keys. It returns how many were live, also with an error.
	EndByUser(ctx context.Context, userKeys [][]byte, except []Key, keep int) (live int64, err error)

	// EndAll ends all sessions, as EndByUser does, or if begunBefore is not the zero time, those
	// whose log-in began before it.
	EndAll(ctx context.Context, begunBefore time.Time) (live int64, err error)

	// FindByUser returns the live sessions that lie under a user's keys, in the order of [Newest].
	FindByUser(ctx context.Context, userKeys [][]byte, limit int) ([]Row, error)

	// Page returns at most so many live sessions with keys after the given one, in the order of
	// their keys. It may return fewer, but not none, if more are left.
	Page(ctx context.Context, after Key, limit int) ([]Row, error)

	// Count reads the whole table.
	Count(ctx context.Context) (Count, error)

	// CountByKeyID returns how many sessions and entries, live or not, bear each key id, and with ""
	// how many lie in plaintext. It reads the whole table.
	CountByKeyID(ctx context.Context) (map[string]int64, error)

	// RemoveExpired removes what has expired, or only what expired in hours that are over. It returns
	// how many rows, also with an error. It calls report, which may be nil, after each batch with the
	// number of rows so far.
	RemoveExpired(ctx context.Context, wholeHours bool, report func(removed int64)) (int64, error)

	PutEntry(ctx context.Context, w Write) error
	RemoveEntry(ctx context.Context, key Key) error

	// TakeEntry removes the row at key if it is live, and returns it as it was.
	TakeEntry(ctx context.Context, key Key) (Row, error)

	// PageToReseal returns rows with keys after the given one whose payloads bear another key
	// id, as Page does.
	PageToReseal(ctx context.Context, after Key, limit int, keyID [4]byte) ([]Row, error)

	// PageToSeal returns rows with keys after the given one that the other kind of store wrote in
	// plaintext, with that as their payload, as Page does. They may be live or not.
	PageToSeal(ctx context.Context, after Key, limit int) ([]Row, error)

	// Reseal gives rows that are still as they were seen another user key and payload, live or not,
	// and returns how many. Every Resealed is of another row.
	Reseal(ctx context.Context, resealed []Resealed) (int64, error)

	// Examine reads the table and looks for what an operator should know. An error means that the
	// table does not work.
	Examine(ctx context.Context) (Condition, error)

	// Sharing returns what sharing has gained for each kind of call that may share statements.
	Sharing() map[string]Sharing
}

// Sharing is what sharing has gained for one kind of call.
type Sharing struct {
	Calls      int64 // made
	Statements int64 // that they took: fewer, if calls shared one
}

// A Count says how many rows there are of each kind.
type Count struct {
	Users      int64 // live sessions of users
	Guests     int64 // live sessions of guests
	Expired    int64 // rows of any kind that the next clean-up removes
	Tombstones int64 // that are not expired
	Entries    int64 // of a key/value view, live
}

// Add counts a row.
func (c *Count) Add(r Row, now time.Time) {
	switch {
	case r.State == Absent:
	case r.IsExpired(now):
		c.Expired++
	case r.Key.IsEntry():
		c.Entries++
	case r.State == Ended:
		c.Tombstones++
	case r.UserKey == nil:
		c.Guests++
	default:
		c.Users++
	}
}

// Resealed is a row as it was seen, and what Reseal writes.
type Resealed struct {
	Seen             Row
	UserKey, Payload []byte
}

// A Condition is what Examine found.
type Condition struct {
	// Clock is how far the table's own clock is ahead of the store's, 0 if it has none.
	Clock time.Duration

	// CannotDelete says that this role lacks the privilege to delete rows.
	CannotDelete bool

	// Reasons say why the table works and should yet be looked at.
	Reasons []string
}
