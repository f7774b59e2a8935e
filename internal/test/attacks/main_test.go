// Package attacks_test holds what an attacker gains who reads or writes the table, or who chooses
// what the store is given: nothing.
package attacks_test

import (
	"testing"

	"github.com/pgsession/pgsession/internal/test"
)

func TestMain(m *testing.M) { test.Main(m) }
