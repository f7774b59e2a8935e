package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/examples/internal/programtest"
	"github.com/pgsession/pgsession/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m, nil) }

func TestProgram(t *testing.T) {
	pool, databaseURL := programtest.Schema(t)
	site := programtest.Start(t, "DATABASE_URL="+databaseURL, "SESSION_KEYS="+pgsession.GenerateKey().Secret())
	programtest.RequireCounts(t, site)
	var rows int
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM sessions`).Scan(&rows))
	require.Positive(t, rows)
}
