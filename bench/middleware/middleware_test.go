package main

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Every part runs for a moment, and what httpsession promises holds.
func TestCompare(t *testing.T) {
	t.Parallel()
	made, err := compare(t.Context(), plan{
		outage: 200 * time.Millisecond, rounds: 1, length: 300 * time.Millisecond, connections: 4, sessions: 20, callers: []int{4},
	})
	require.NoError(t, err)
	require.Len(t, made.Cases, 16)
	outcomes := map[string]string{}
	for _, one := range made.Cases {
		if one.Contender == "httpsession" {
			outcomes[one.Case] = one.Outcome
		}
	}
	require.Equal(t, map[string]string{
		"50 requests in parallel, each adds an item":              "50 acknowledged, 0 lost",
		"50 requests in parallel, each adds one to a counter":     "50 acknowledged, 0 lost",
		"a log-in while a request of the guest changes something": "answered 409, and not kept; the user is logged in",
		"a log-out while a request changes something":             "answered 409; the session is over",
		"the database is away for 200ms":                          "answered [503]; afterwards the user is logged in",
		"the database goes away between load and change":          "answered 503, and not kept; the user is logged in",
		"a panic after a change":                                  "the change is kept",
		"a change after the first byte of the answer":             "answered 200, and kept",
	}, outcomes)
	require.Len(t, made.Requests, 2)
	require.Len(t, made.Loads, 4)
	for _, load := range made.Loads {
		require.Positive(t, load.PerSecond[0])
		require.Positive(t, load.P99[0])
	}
	var table bytes.Buffer
	made.print(&table)
	require.Contains(t, table.String(), "httpsession")
}
