package pgsession

import (
	"time"

	"github.com/pgsession/pgsession/internal/pgtable"
)

// Waiting returns how many calls wait to share a statement, for the tests that put them there.
func (s *Store) Waiting() int { return s.table.(*pgtable.Table).Waiting() }

// WithSlowAfter sets when a statement stops counting towards WithCoalescing, for tests that keep one waiting.
func WithSlowAfter(d time.Duration) Option { return func(o *options) { o.slowAfter = d } }
