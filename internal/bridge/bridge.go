// Package bridge lets package pgsessiontest use what package pgsession does not
// export. Its variables are set when pgsession is initialized. What would be a type of
// pgsession's is an any here, since pgsession imports this package.
package bridge

import "time"

var (
	// Settings returns what opts, a []pgsession.Option, make of the defaults. The
	// clock is a pgsession.Clock.
	Settings func(opts any) (clock any, maxSize int, absoluteLifetime time.Duration)

	// CheckUserID returns pgsession.ErrTooLarge for a user id that is too long.
	CheckUserID func(userID string) error

	// Encode returns values as a store writes them, and what kind they are of. They
	// may share memory with what was given. A maxSize of 0 is no limit.
	Encode func(values any, maxSize int) (kind byte, encoded []byte, err error)

	// Fill sets the unexported fields of session, a *pgsession.Session. A session
	// that does not open has the reason in broken.
	Fill func(session any, kind byte, encoded []byte, loadedAt time.Time, broken error)

	// KeyValueHandle returns the pgsession.Handle under which a KeyValue keeps an
	// entry.
	KeyValueHandle func(key string) any
)
