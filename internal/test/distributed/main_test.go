// Package distributed_test holds what a store does differently on a table that Citus distributes.
// make test-citus runs it, and the other tests on such a table.
package distributed_test

import (
	"testing"

	"github.com/pgsession/pgsession/internal/test"
)

func TestMain(m *testing.M) { test.Main(m) }
