// Package coalescing_test holds what becomes of calls that share a statement.
package coalescing_test

import (
	"testing"

	"github.com/pgsession/pgsession/internal/test"
)

func TestMain(m *testing.M) { test.Main(m) }
