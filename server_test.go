package pgsession_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
)

// The tests in this file set a server up so that it would say that all is well when it
// is not.

func TestStore_Init_RowLevelSecurity(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	schema := s.pool.Config().ConnConfig.RuntimeParams["search_path"]
	role := "rls_" + schema
	s.sql(t, `CREATE ROLE `+role)
	t.Cleanup(func() {
		_, err := s.pool.Exec(context.WithoutCancel(t.Context()), `DROP OWNED BY `+role+`; DROP ROLE `+role, pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err)
	})
	s.sql(t, `GRANT USAGE ON SCHEMA `+schema+` TO `+role)
	s.sql(t, `GRANT ALL ON sessions TO `+role)
	s.sql(t, `ALTER TABLE sessions ENABLE ROW LEVEL SECURITY`)
	require.NoError(t, s.Init(t.Context()), "the owner sees all rows")

	pool := pgtest.Pool(t, func(config *pgxpool.Config) {
		config.ConnConfig.RuntimeParams["search_path"] = schema
		config.ConnConfig.RuntimeParams["role"] = role
	})
	hidden := pgsession.New(pool, newCrypto(t, testKey))
	err := hidden.Init(t.Context())
	require.ErrorIs(t, err, pgsession.ErrSchema)
	require.ErrorContains(t, err, "row level security")
}

func TestStore_Health_Unlogged(t *testing.T) {
	t.Parallel()
	s := newStore(t, pgsession.WithClock(pgsession.SystemClock{}))
	require.Equal(t, pgsession.Healthy, s.Health(t.Context()).Status)
	s.sql(t, `ALTER TABLE sessions SET UNLOGGED`)
	health := s.Health(t.Context())
	require.Equal(t, pgsession.Degraded, health.Status)
	require.Contains(t, health.Reasons[0], "unlogged")
}

func TestStore_Create_SwallowedByTrigger(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.sql(t, `CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'`)
	s.sql(t, `CREATE TRIGGER swallow BEFORE INSERT ON sessions FOR EACH ROW EXECUTE FUNCTION swallow()`)
	_, err := s.Create(t.Context(), ann(1), time.Hour)
	require.Error(t, err)
	require.NotErrorIs(t, err, pgsession.ErrNotFound)
	require.Error(t, s.KeyValue().Put(t.Context(), "k", nil, time.Hour))
	require.Error(t, s.Put(t.Context(), pgsession.NewID(), ann(1), time.Hour))
}

// TestStore_Save_AcrossSetKeys queues a save that was encoded under the old key, and
// rotates before it leaves.
func TestStore_Save_AcrossSetKeys(t *testing.T) {
	t.Parallel()
	g := newTurnstile(t, false)
	crypto := newCrypto(t, testKey)
	g.Store = pgsession.New(g.pool, crypto, pgsession.WithClock(g.clock), pgsession.WithCoalescing(1))
	id, other := g.create(t, ann(1), time.Hour), g.create(t, ann(2), time.Hour)
	next := pgsession.GenerateKey()
	g.beforeOpening = func() { require.NoError(t, crypto.SetKeys(next, testKey)) }
	ctx := t.Context()
	errs, _ := g.together(t, func() error { return g.Save(ctx, other, ann(20), time.Hour) },
		func() error {
			return g.Save(ctx, id, ann(10), time.Hour)
		})
	requireErrors(t, errs, nil)
	require.Equal(t, 10, g.fixture.count(t, id))

}

// TestStore_DeleteByUser_WithoutEnd has a server that ends nothing and says nothing.
func TestStore_DeleteByUser_WithoutEnd(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.create(t, ann(1), time.Hour)
	s.sql(t, `CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'`)
	s.sql(t, `CREATE TRIGGER swallow BEFORE UPDATE OR DELETE ON sessions FOR EACH ROW EXECUTE FUNCTION swallow()`)
	for name, end := range map[string]func(context.Context) (int64, error){
		"DeleteByUser": func(ctx context.Context) (int64, error) { return s.DeleteByUser(ctx, "ann") },
		"DeleteAll":    s.DeleteAll,
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		_, err := end(ctx)
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded, name)
	}
}

// TestStore_Cycle_FailedCommit has both statements succeed, and the commit fail.
func TestStore_Cycle_FailedCommit(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	old, next := s.create(t, ann(1), time.Hour), pgsession.NewID()
	s.sql(t, `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''not today''; END'`)
	s.sql(t, `CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON sessions DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()`)
	require.ErrorContains(t, s.Cycle(t.Context(), old, next, ann(2), time.Hour), "not today")
	require.Equal(t, 1, s.count(t, old))
	_, err := s.Load(t.Context(), next)
	require.ErrorIs(t, err, pgsession.ErrNotFound)
}

// TestStore_Touch_Overtaken has a touch wait behind the end of its session: it must not
// say that it prolonged what is over.
func TestStore_Touch_Overtaken(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	ctx := t.Context()
	id := s.create(t, ann(1), time.Minute)
	end, err := s.pool.Begin(ctx)
	require.NoError(t, err)
	_, err = end.Exec(ctx, `UPDATE sessions SET data = NULL, sealed = NULL, user_key = NULL WHERE key = $1`, key(id))
	require.NoError(t, err)
	touched := make(chan error)
	go func() { touched <- s.Touch(ctx, id, time.Hour) }()
	require.Eventually(t, func() bool { return s.rows(t, `EXISTS (SELECT FROM pg_locks WHERE NOT granted)`) > 0 }, 10*time.Second, time.Millisecond)
	require.NoError(t, end.Commit(ctx))
	require.ErrorIs(t, <-touched, pgsession.ErrNotFound)
}
