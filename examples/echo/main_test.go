package main

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession/examples/internal/programtest"
)

func TestProgram(t *testing.T) {
	site := programtest.Start(t)
	programtest.RequireCounts(t, site)

	// What the middleware refuses, no handler answers.
	response, err := http.Get(site + "/account")
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusUnauthorized, response.StatusCode)
	request, err := http.NewRequestWithContext(t.Context(), "POST", site+"/login", nil)
	require.NoError(t, err)
	request.Header.Set("Sec-Fetch-Site", "cross-site")
	response, err = http.DefaultTransport.RoundTrip(request)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusForbidden, response.StatusCode)
	require.Empty(t, response.Cookies())
}
