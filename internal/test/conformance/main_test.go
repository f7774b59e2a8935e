// Package conformance_test holds what every kind of store does alike: the one in memory, the
// plaintext one and the encrypted one. One operation on one session belongs in the table of
// conformance_test.go. What takes several steps is a useCase, in the file of its subject.
package conformance_test

import (
	"testing"

	"github.com/pgsession/pgsession/internal/test"
)

func TestMain(m *testing.M) { test.Main(m) }
