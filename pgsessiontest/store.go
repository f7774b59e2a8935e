// Package pgsessiontest is for the unit tests of applications that keep their sessions with
// pgsession: a store in memory that fails when it is told to, and sessions made by hand.
//
// Handlers that take a [*pgsession.Store] are tested with the Store that a [Store] embeds. Tests
// move a [pgsession.ManualClock] to see sessions expire, and call [Store.FailWith] to see what
// users get while the database is down: see the example.
package pgsessiontest

import (
	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/bridge"
	"github.com/pgsession/pgsession/internal/rows"
)

// A Store is a [pgsession.Store] in memory. It behaves as the one in PostgreSQL does.
//
// What it cannot show: it seals nothing, so that no session gives [pgsession.ErrTampered] or
// [pgsession.ErrUnknownKey] ([NewSession] makes such a one), and it takes JSON that a plaintext
// store in PostgreSQL refuses.
type Store struct {
	*pgsession.Store
	table *rows.Memory
}

// New returns an empty store. It takes the options of [pgsession.New].
func New(opts ...pgsession.Option) *Store {
	store := pgsession.InMemory(opts...)
	return &Store{store, bridge.Memory(store)}
}

// FailWith makes every operation fail that would ask the database: it returns err, wrapped as an
// error of the database is, and changes nothing. FailWith(nil) ends that.
func (s *Store) FailWith(err error) { s.table.FailWith(err) }
