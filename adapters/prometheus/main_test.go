package pgsessionprom_test

import (
	"testing"
	"time"

	"github.com/IBM/pgxpoolprometheus"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pgsession/pgsession"
	pgsessionprom "github.com/pgsession/pgsession/adapters/prometheus"
	"github.com/pgsession/pgsession/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m, func() error { return goleak.Find() }) }

var (
	userID = "ann@example.com"
	values = map[string]string{"theme": "a secret theme"}
	key    = pgsession.GenerateKey()
)

// newStore returns a store in PostgreSQL, on a table of its own.
func newStore(t testing.TB) (*pgsession.Store, *pgxpool.Pool) {
	t.Helper()
	pool := pgtest.Pool(t)
	crypto, err := pgsession.NewCrypto(key)
	require.NoError(t, err)
	store := pgsession.New(pool, crypto)
	require.NoError(t, store.Init(t.Context()))
	return store, pool
}

// use calls every operation of a store, and returns the session that is left.
func use(t testing.TB, store *pgsession.Store) *pgsession.Session {
	t.Helper()
	ctx := t.Context()
	data := pgsession.Data{UserID: userID, Values: values}
	session, err := store.Create(ctx, data, time.Hour)
	require.NoError(t, err)
	_, err = store.Load(ctx, session.ID)
	require.NoError(t, err)
	require.NoError(t, store.Save(ctx, session.ID, data, time.Hour))
	require.NoError(t, store.Put(ctx, session.ID, data, time.Hour))
	_, err = store.Update(ctx, session, 0, func(*pgsession.Session) (any, error) { return 1, nil })
	require.NoError(t, err)
	_, err = store.Touch(ctx, session, 2*time.Hour)
	require.NoError(t, err)
	renewed, err := store.Renew(ctx, session, 0, func(*pgsession.Session) (pgsession.Data, error) { return data, nil })
	require.NoError(t, err)
	cycled := pgsession.NewID()
	require.NoError(t, store.Cycle(ctx, renewed.ID, cycled, data, time.Hour))
	_, err = store.FindByUser(ctx, userID, 0)
	require.NoError(t, err)
	require.NoError(t, store.RevokeAny(ctx, cycled.Handle()))
	_, err = store.Load(ctx, cycled)
	require.ErrorIs(t, err, pgsession.ErrRevoked)
	_, err = store.DeleteByUser(ctx, userID)
	require.NoError(t, err)
	require.NoError(t, store.Delete(ctx, cycled))
	kv := store.KeyValue()
	require.NoError(t, kv.Put(ctx, "key", []byte("value"), time.Hour))
	_, err = kv.Get(ctx, "key")
	require.NoError(t, err)
	_, err = kv.Take(ctx, "key")
	require.NoError(t, err)
	require.NoError(t, kv.Delete(ctx, "key"))
	_, err = store.CleanupExpired(ctx)
	require.NoError(t, err)
	session, err = store.Create(ctx, data, time.Hour)
	require.NoError(t, err)
	return session
}

// registryOf has the collectors of a store and its pool.
func registryOf(t testing.TB, store *pgsession.Store, pool *pgxpool.Pool) *prometheus.Registry {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, registry.Register(pgsessionprom.NewCollector(store, pgsessionprom.WithCounts(time.Minute))))
	require.NoError(t, registry.Register(pgxpoolprometheus.NewCollector(pool, nil)))
	return registry
}
