package pgsessionotel_test

import (
	"context"
	"log/slog"
	"os"
	"testing"

	"github.com/exaring/otelpgx"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/doctest"
)

func openStore(ctx context.Context, keys *pgsession.Crypto) (*pgsession.Store, error) {
	config, err := pgxpool.ParseConfig(os.Getenv("DATABASE_URL"))
	if err != nil {
		return nil, err
	}
	config.ConnConfig.Tracer = otelpgx.NewTracer() // leave WithIncludeQueryParameters off
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	return pgsession.New(pool, keys), nil
}

// A store on a pool that traces its statements.
func Example() {
	ctx := context.Background()
	keys, err := pgsession.ParseKeyRing(os.Getenv("SESSION_KEYS"))
	if err != nil {
		slog.Error("no keys", "error", err)
		return
	}
	store, err := openStore(ctx, keys)
	if err != nil {
		slog.Error("no database", "error", err)
		return
	}
	if err := store.Init(ctx); err != nil {
		slog.Error("no table", "error", err)
	}
}

// TestReadme wants the README's code in this file.
func TestReadme(t *testing.T) {
	t.Parallel()
	snippets := doctest.Snippets(t, "README.md", "go")
	require.NotEmpty(t, snippets)
	for _, s := range snippets {
		require.Contains(t, doctest.Read(t, "example_test.go"), s.Code)
	}
}
