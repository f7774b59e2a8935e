package pgsession

import "github.com/pgsession/pgsession/internal/pgtable"

// Waiting returns how many calls wait to share a statement, for the tests that put them there.
func (s *Store) Waiting() int { return s.table.(*pgtable.Table).Waiting() }
