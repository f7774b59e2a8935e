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
}
