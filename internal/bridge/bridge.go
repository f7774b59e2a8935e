// Package bridge lets package pgsessiontest reach into a store of package pgsession, which sets its
// variables. What would be a type of pgsession's is an any here, since pgsession imports this package.
package bridge

import (
	"time"

	"github.com/pgsession/pgsession/internal/rows"
)

var (
	// Memory returns the table of store, a *pgsession.Store that pgsession.InMemory made.
	Memory func(store any) *rows.Memory

	// Session returns the *pgsession.Session that store, a *pgsession.Store, makes of a row.
	Session func(store any, row rows.Row, loadedAt time.Time) any

	// Row returns the row that session, a *pgsession.Session, was read from, without its payload.
	Row func(session any) rows.Row
)
