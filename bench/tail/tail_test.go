package main

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTail(t *testing.T) {
	t.Parallel()
	p := plan{sessions: 200, callers: 16, connections: 4, length: 200 * time.Millisecond, out: t.TempDir()}
	loads, err := p.run(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, loads)
	shared := 0
	for _, l := range loads {
		require.False(t, l.statement.began.Before(l.began))
		if l.statement.calls > 1 {
			shared++
		}
	}
	require.Positive(t, shared)
	var printed bytes.Buffer
	report(&printed, loads)
	require.Contains(t, printed.String(), "slowest hundredth")
	require.FileExists(t, p.out+"/tail.trace")
}
