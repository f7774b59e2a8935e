// Package faults_test holds what a store does when something goes wrong around it: rows and tables
// are locked, connections break or hang, the pool is exhausted, privileges or settings are not what
// they should be, clocks differ, keys change meanwhile, triggers swallow what is written.
package faults_test

import (
	"testing"

	"github.com/pgsession/pgsession/internal/test"
)

func TestMain(m *testing.M) { test.Main(m) }
