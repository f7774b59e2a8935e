package move

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDrawn(t *testing.T) {
	t.Parallel()
	require.Equal(t, "[###############...............] 600 of 1200, 1 left", drawn(Progress{Moved: 599, Left: 1, Total: 1200}))
	require.Equal(t, "[##############################] 1300 of 1300\n", drawn(Progress{Moved: 1300, Total: 1200}))
	require.Equal(t, "[##############################] 0 of 0\n", drawn(Progress{}))
}
