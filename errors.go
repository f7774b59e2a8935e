package pgsession

import (
	"errors"
	"fmt"
	"time"

	"github.com/pgsession/pgsession/internal/bridge"
	"github.com/pgsession/pgsession/internal/rows"
)

// The errors that callers may want to tell apart, with [errors.Is].
var (
	// ErrNotFound says that the session is absent, expired or ended. It never means that the
	// database could not be asked. [KeyValue], [ParseHandle] and [Store.Revoke] return it too,
	// about an entry or a handle and not about the visitor's session.
	ErrNotFound = errors.New("pgsession: session not found")

	// ErrRevoked says that the session was ended, and its tombstone is still there. A request that
	// was in flight when its user logged out sees this error. It is also ErrNotFound.
	ErrRevoked error = &alsoError{"pgsession: session was ended", ErrNotFound}

	// errMoved is ErrRevoked about a session that goes on under another id: see rows.Row.HasMoved.
	errMoved error = &alsoError{"pgsession: session has another id now", ErrRevoked}

	// ErrInvalidID says that a string is not a token or a handle. It is also ErrNotFound, since
	// code that parses a cookie treats both alike.
	ErrInvalidID error = &alsoError{"pgsession: not a session id", ErrNotFound}

	// ErrForeignID says that no session may begin under an id, because [ParseID] read it, so that
	// an attacker may have chosen it, or because it is the zero ID. It is a programming error.
	ErrForeignID = errors.New("pgsession: no session may begin under an id that came from outside")

	// ErrExists says that there is a row under the new id: a session, live or expired, or a
	// tombstone.
	ErrExists = errors.New("pgsession: session id is taken")

	// ErrUserChanged says that a write named another user than the session's. Only Renew and Cycle
	// may change the user, under a new id.
	ErrUserChanged = errors.New("pgsession: session belongs to another user")

	// ErrConflict says that an operation gave up because other writers kept changing the session.
	ErrConflict = errors.New("pgsession: session keeps changing")

	// ErrInvalidTTL says that a ttl is not positive, is over 100 years, or leads past the year
	// 9999; or that a Data.Lifetime is negative or as long as that.
	ErrInvalidTTL = errors.New("pgsession: ttl must be positive, and at most 100 years")

	// ErrTooLarge says that the values are over WithMaxSize, or a user id is over 1,000 bytes.
	ErrTooLarge = errors.New("pgsession: too large")

	// ErrEncode says that the values have no JSON form that can be read again. In a plaintext store
	// it also says that PostgreSQL's jsonb refuses them: it takes neither the character U+0000 nor
	// numbers that its numeric type cannot hold.
	ErrEncode = errors.New("pgsession: values cannot be encoded")

	// ErrDecode says that the values do not fit the target.
	ErrDecode = errors.New("pgsession: values do not fit the target")

	// ErrUnreadable says that a row does not open. The error is ErrTampered or ErrUnknownKey.
	ErrUnreadable = errors.New("pgsession: session does not open")

	// ErrTampered says that a row is not what this store wrote there. It is also ErrUnreadable.
	ErrTampered error = &alsoError{"pgsession: session does not open: it was tampered with", ErrUnreadable}

	// ErrUnknownKey says that a row was sealed under a key that is not in the key ring. It is also
	// ErrUnreadable.
	ErrUnknownKey error = &alsoError{"pgsession: session is sealed under an unknown key", ErrUnreadable}

	// The errors about a row of the other kind of store.
	errPlaintextRow error = &alsoError{"pgsession: session does not open: it lies in plaintext, which only a Plaintext store reads; " + sealHint, ErrTampered}
	errSealedRow    error = &alsoError{"pgsession: session does not open: it is sealed, and this is a Plaintext store", ErrUnknownKey}

	// ErrSchema says that the table is not one of ours, is newer than this release, or that this
	// role lacks a privilege on it.
	ErrSchema = rows.ErrSchema
)

// sealHint tells an operator what to do about rows in plaintext.
const sealHint = "run pgsession seal once if the table was a Plaintext store's"

// An alsoError is one of this package's errors that is also another one of them.
type alsoError struct {
	text  string
	other error
}

func (e *alsoError) Error() string { return e.text }
func (e *alsoError) Unwrap() error { return e.other }

// outcomeError returns what an operation returns for an outcome.
func outcomeError(outcome rows.Outcome) error {
	switch outcome {
	case rows.OK:
		return nil
	case rows.NotFound, rows.Expired:
		return ErrNotFound
	case rows.Revoked:
		return ErrRevoked
	case rows.Exists:
		return ErrExists
	case rows.OtherUser:
		return ErrUserChanged
	case rows.Changed:
		return ErrConflict
	}
	panic(fmt.Sprintf("pgsession: no error for outcome %d", outcome))
}

// rowError is outcomeError for an operation that has read the row.
func rowError(row rows.Row, outcome rows.Outcome, now time.Time) error {
	if outcome == rows.Revoked && row.HasMoved(now) {
		return errMoved
	}
	return outcomeError(outcome)
}

// wrap names the operation that failed. It returns nil for nil.
func wrap(operation string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, rows.ErrPayload):
		return fmt.Errorf("%w: %w", ErrEncode, err)
	}
	return &bridge.OutageError{Operation: operation, Err: err}
}

// result returns the error of an operation for a table's answer.
func result(operation string, outcome rows.Outcome, err error) error {
	if err != nil {
		return wrap(operation, err)
	}
	return outcomeError(outcome)
}

func isOutage(err error) bool { return bridge.Outage(err) != nil }
