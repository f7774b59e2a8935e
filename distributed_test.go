package pgsession_test

import (
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
)

// requireDistributed is for tests of what only Citus has. make test-citus runs them.
func requireDistributed(t *testing.T) {
	t.Helper()
	if !pgtest.IsDistributed() {
		t.Skip("needs Citus: make test-citus")
	}
}

// TestDistributed_NotKnownYet makes each call the first of a store that has not seen that the table is
// distributed, and five of it at once, so that they would share a statement.
func TestDistributed_NotKnownYet(t *testing.T) {
	requireDistributed(t)
	t.Parallel()
	old := newStore(t)
	id := old.create(t, ann(1), time.Hour)
	for name := range operationsOf(old, id) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			id := s.create(t, ann(1), time.Hour)
			require.NoError(t, s.KeyValue().Put(t.Context(), "k", nil, time.Hour))
			s.Store = pgsession.New(s.pool, newCrypto(t, otherKey, testKey), pgsession.WithClock(s.clock), quiet(), patient(), pgsession.WithCoalescing(1))
			errs := many(5, func() error { return operationsOf(s, id)[name](t.Context()) })
			for range 5 {
				if err := <-errs; !errors.Is(err, pgsession.ErrNotFound) { // of those that end or move it, one gets it
					require.NoError(t, err)
				}
			}
			if name == "cycle" || name == "renew" {
				require.Equal(t, 1, s.rows(t, `num_nulls(data, sealed) = 2 AND user_key IS NOT NULL`), "it tells where the session was moved")
			}
		})
	}
}

// TestDistributed_TakenID moves sessions to an id that is taken, which Citus tells by no SQLSTATE.
func TestDistributed_TakenID(t *testing.T) {
	requireDistributed(t)
	t.Parallel()
	s := newStore(t)
	taken := s.create(t, ann(1), time.Hour)
	for range 20 { // on one shard or on two
		id := s.create(t, ann(2), time.Hour)
		require.ErrorIs(t, s.Cycle(t.Context(), id, taken, ann(3), time.Hour), pgsession.ErrExists)
		require.Equal(t, 2, s.count(t, id))
	}
	require.Equal(t, 1, s.count(t, taken))
}

// TestDistributed_MovedAway ends a user's sessions after some were moved and ended, and removed by a clean-up: what
// the tombstones tell leads nowhere then.
func TestDistributed_MovedAway(t *testing.T) {
	requireDistributed(t)
	t.Parallel()
	s := newStore(t)
	ctx := t.Context()
	first, next, live := s.create(t, ann(1), 5*time.Hour), pgsession.NewID(), s.create(t, ann(1), 24*time.Hour)
	require.NoError(t, s.Cycle(ctx, first, next, ann(1), time.Minute))
	s.clock.Advance(2 * time.Hour)
	require.EqualValues(t, 1, s.cleanUp(t))
	n, err := s.DeleteByUser(ctx, "ann")
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	require.ErrorIs(t, second(s.Load(ctx, live)), pgsession.ErrRevoked)
	n, err = s.DeleteAll(ctx)
	require.NoError(t, err)
	require.Zero(t, n)
	require.NotErrorIs(t, second(s.Load(ctx, next)), pgsession.ErrRevoked, "nothing is left there")
}

// TestDistributed_Shards reads from the coordinator's notices which shards each operation goes to, and whether it
// commits there in two phases.
func TestDistributed_Shards(t *testing.T) {
	requireDistributed(t)
	t.Parallel()
	var remote []string
	pool := pgtest.Pool(t, func(config *pgxpool.Config) {
		config.MaxConns = 1
		config.ConnConfig.RuntimeParams["citus.log_remote_commands"] = "on"
		config.ConnConfig.RuntimeParams["client_min_messages"] = "notice"
		config.ConnConfig.OnNotice = func(_ *pgconn.PgConn, notice *pgconn.Notice) { remote = append(remote, notice.Message) }
	})
	s := newFixture(t, pool, encrypted, nil)
	ctx, kv := t.Context(), s.KeyValue()
	id, other, revoked := s.create(t, ann(1), time.Hour), s.create(t, bob, time.Hour), s.create(t, ann(1), time.Hour)
	shard := regexp.MustCompile(`sessions_\d+`)
	touched := func(run func() error) (shards int, prepares bool) {
		remote = nil
		require.NoError(t, run())
		seen := make(map[string]bool)
		for _, message := range remote {
			if name := shard.FindString(message); name != "" {
				seen[name] = true
			}
			prepares = prepares || strings.Contains(message, "PREPARE TRANSACTION")
		}
		return len(seen), prepares
	}
	for _, step := range []struct {
		name string
		run  func() error
	}{
		{"Create", func() error { return second(s.Create(ctx, ann(1), time.Hour)) }},
		{"CreateAs", func() error { return second(s.CreateAs(ctx, pgsession.NewID(), ann(1), time.Hour)) }},
		{"Load", func() error { return second(s.Load(ctx, id)) }},
		{"Save", func() error { return s.Save(ctx, id, ann(2), time.Hour) }},
		{"Update", func() error { return second(s.Update(ctx, at(id), 0, increment)) }},
		{"Touch", func() error { return second(s.Touch(ctx, at(id), 2*time.Hour)) }},
		{"Put", func() error { return s.Put(ctx, id, ann(3), time.Hour) }},
		{"Put of a new id", func() error { return s.Put(ctx, pgsession.NewID(), ann(3), time.Hour) }},
		{"Revoke", func() error { return s.Revoke(ctx, "ann", revoked.Handle()) }},
		{"Delete", func() error { return s.Delete(ctx, other) }},
		{"KeyValue.Put", func() error { return kv.Put(ctx, "k", nil, time.Hour) }},
		{"KeyValue.Get", func() error { return second(kv.Get(ctx, "k")) }},
		{"KeyValue.Take", func() error { return second(kv.Take(ctx, "k")) }},
		{"KeyValue.Delete", func() error { return kv.Delete(ctx, "k") }},
	} {
		shards, prepares := touched(step.run)
		t.Logf("%s: %d shard, two-phase %t", step.name, shards, prepares)
		require.Equal(t, 1, shards, step.name)
		require.False(t, prepares, step.name)
	}
	prepared := 0
	for range 20 {
		next := pgsession.NewID()
		shards, prepares := touched(func() error { return s.Cycle(ctx, id, next, ann(3), time.Hour) })
		require.Contains(t, []int{1, 2}, shards, "Cycle")
		renewed, err := s.Load(ctx, next)
		require.NoError(t, err)
		shards, again := touched(func() (err error) {
			renewed, err = s.Renew(ctx, at(next), time.Hour, login(ann(4)))
			return err
		})
		require.Contains(t, []int{1, 2}, shards, "Renew")
		if prepares || again {
			prepared++
		}
		id = renewed.ID
	}
	require.Positive(t, prepared)
	for name, run := range map[string]func() error{
		"FindByUser":     func() error { return second(s.FindByUser(ctx, "ann", 0)) },
		"DeleteByUser":   func() error { return second(s.DeleteByUser(ctx, "ann")) },
		"CleanupExpired": func() error { return second(s.CleanupExpired(ctx)) },
		"DeleteAll":      func() error { return second(s.DeleteAll(ctx)) },
	} {
		shards, prepares := touched(run)
		t.Logf("%s: %d shards, two-phase %t", name, shards, prepares)
	}
}

// TestDistributed_InDoubt ends a user's sessions while one moves whose tombstone is there already, and whose new row
// is not yet: as between the two phases of a commit, or for longer after a crash.
func TestDistributed_InDoubt(t *testing.T) {
	requireDistributed(t)
	t.Parallel()
	s := newStore(t)
	id, next := s.create(t, ann(1), time.Hour), pgsession.NewID()
	var userKey, sealed []byte
	require.NoError(t, s.pool.QueryRow(t.Context(), `SELECT user_key, sealed FROM sessions`).Scan(&userKey, &sealed))
	held := s.hold(t, `INSERT INTO sessions (key, user_key, sealed, version, created_at, expires_at, idle_timeout) VALUES ($1, $2, $3, 1, $4, $5, '1 hour')`,
		key(next), userKey, sealed, epoch, epoch.Add(time.Hour))
	s.sql(t, `UPDATE sessions SET sealed = NULL, user_key = $2 WHERE key = $1`, key(id), slices.Concat(userKey, []byte{0}, key(next)))
	var ended int64
	done := many(1, func() (err error) {
		ended, err = s.DeleteByUser(t.Context(), "ann")
		return err
	})
	held.waitFor(t, 1)
	require.NoError(t, held.Commit(t.Context()))
	require.NoError(t, <-done)
	require.EqualValues(t, 1, ended)
	require.ErrorIs(t, second(s.Load(t.Context(), next)), pgsession.ErrRevoked)
}
