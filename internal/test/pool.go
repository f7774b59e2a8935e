package test

import (
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"net"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession/internal/pgtest"
)

// NodePool returns another pool on a test's schema, as another process of the application has one.
func NodePool(t testing.TB, schema string, params map[string]string) *pgxpool.Pool {
	t.Helper()
	return pgtest.Pool(t, func(config *pgxpool.Config) {
		maps.Copy(config.ConnConfig.RuntimeParams, params)
		config.ConnConfig.RuntimeParams["search_path"] = schema
	})
}

// BrokenPool returns a pool without a server, for tests in a bubble of synctest: it calls connect
// instead of connecting, and fails.
func BrokenPool(t testing.TB, connect func(ctx context.Context)) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig("postgres://nobody@192.0.2.1/nothing?sslmode=disable")
	require.NoError(t, err)
	config.ConnConfig.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		connect(ctx)
		return nil, errors.New("no server")
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// NewRole makes a role that may use the schema and nothing in it. It returns the parameters of
// connections that act as the role.
func NewRole(t testing.TB, pool *pgxpool.Pool, schema string) (role string, params map[string]string) {
	t.Helper()
	role = "test_" + strings.ToLower(rand.Text())
	RunScript(t, pool, `CREATE ROLE `+role+`; GRANT USAGE ON SCHEMA `+schema+` TO `+role)
	t.Cleanup(func() {
		_, err := pool.Exec(context.Background(), `DROP OWNED BY `+role+`; DROP ROLE `+role, pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err)
	})
	return role, map[string]string{"role": role}
}

// HoldConnections takes n connections of the pool, until the test's end if not released before.
func HoldConnections(t testing.TB, pool *pgxpool.Pool, n int32) (release func()) {
	t.Helper()
	var held []*pgxpool.Conn
	release = func() {
		for _, conn := range held {
			conn.Release()
		}
		held = nil
	}
	t.Cleanup(release)
	for range n {
		conn, err := pool.Acquire(t.Context())
		require.NoError(t, err)
		held = append(held, conn)
	}
	return release
}
