package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Each mutant is one of the library as it is: where the code has changed, the mutant has to follow.
func TestMutants_Apply(t *testing.T) {
	t.Parallel()
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			_, err := writeOverlay("../../..", t.TempDir(), m.edits)
			require.NoError(t, err)
		})
	}
}
