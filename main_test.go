package pgsession_test

import (
	"testing"

	"github.com/pgsession/pgsession/internal/test"
)

func TestMain(m *testing.M) { test.Main(m) }
