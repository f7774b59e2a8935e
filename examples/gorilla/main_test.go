package main

import (
	"testing"

	"github.com/pgsession/pgsession/examples/internal/programtest"
)

func TestProgram(t *testing.T) { programtest.RequireCounts(t, programtest.Start(t)) }
