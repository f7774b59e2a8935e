package distributed_test

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
	"github.com/pgsession/pgsession/internal/test"
)

// requireDistributed is for tests of what only Citus has. make test-citus runs them.
func requireDistributed(t *testing.T) {
	t.Helper()
	if !pgtest.IsDistributed() {
		t.Skip("needs Citus: make test-citus")
	}
}

// TestDistributed_NotKnownYet makes each call the first of a store that has not seen that the table
// is distributed, and five of it at once, so that they would share a statement.
func TestDistributed_NotKnownYet(t *testing.T) {
	requireDistributed(t)
	t.Parallel()
	old := test.NewStore(t)
	id := old.Begin(t, test.Ann(1), time.Hour)
	for name := range test.Operations(old, id) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := test.NewStore(t)
			id := s.Begin(t, test.Ann(1), time.Hour)
			require.NoError(t, s.KeyValue().Put(t.Context(), "k", nil, time.Hour))
			s.Store = pgsession.New(s.Pool, test.NewCrypto(t, test.OtherKey, test.Key), pgsession.WithClock(s.Clock), test.Quiet(), test.Patient(), pgsession.WithCoalescing(1))
			errs := test.Many(5, func() error { return test.Operations(s, id)[name](t.Context()) })
			for range 5 {
				if err := <-errs; !errors.Is(err, pgsession.ErrNotFound) { // of those that end or move it, one gets it
					require.NoError(t, err)
				}
			}
			if name == "cycle" || name == "renew" {
				require.Equal(t, 1, s.CountRows(t, `num_nulls(data, sealed) = 2 AND user_key IS NOT NULL`), "it tells where the session was moved")
			}
		})
	}
}

// TestDistributed_TakenID moves sessions to an id that is taken, which Citus tells by no SQLSTATE.
func TestDistributed_TakenID(t *testing.T) {
	requireDistributed(t)
	t.Parallel()
	s := test.NewStore(t)
	taken := s.Begin(t, test.Ann(1), time.Hour)
	for range 20 { // on one shard or on two
		id := s.Begin(t, test.Ann(2), time.Hour)
		require.ErrorIs(t, s.Cycle(t.Context(), id, taken, test.Ann(3), time.Hour), pgsession.ErrExists)
		require.Equal(t, 2, s.Number(t, id))
	}
	require.Equal(t, 1, s.Number(t, taken))
}

// TestDistributed_MovedAway ends a user's sessions after a session was moved and then removed by a
// clean-up. The tombstone still names the id that it was moved to, and nothing is there.
func TestDistributed_MovedAway(t *testing.T) {
	requireDistributed(t)
	t.Parallel()
	s := test.NewStore(t)
	ctx := t.Context()
	first, next, live := s.Begin(t, test.Ann(1), 5*time.Hour), pgsession.NewID(), s.Begin(t, test.Ann(1), 24*time.Hour)
	require.NoError(t, s.Cycle(ctx, first, next, test.Ann(1), time.Minute))
	s.Clock.Advance(2 * time.Hour)
	require.EqualValues(t, 1, s.MustCleanUp(t))
	n, err := s.DeleteByUser(ctx, "ann")
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	require.ErrorIs(t, test.Err(s.Load(ctx, live)), pgsession.ErrRevoked)
	n, err = s.DeleteAll(ctx)
	require.NoError(t, err)
	require.Zero(t, n)
	require.NotErrorIs(t, test.Err(s.Load(ctx, next)), pgsession.ErrRevoked, "nothing is left there")
}

// TestDistributed_Shards reads from the coordinator's notices which shards each operation goes to,
// and whether it commits there in two phases.
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
	s := test.NewStoreOn(t, pool, test.Encrypted)
	ctx, kv := t.Context(), s.KeyValue()
	id, other, revoked := s.Begin(t, test.Ann(1), time.Hour), s.Begin(t, test.Bob, time.Hour), s.Begin(t, test.Ann(1), time.Hour)
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
		{"Create", func() error { return test.Err(s.Create(ctx, test.Ann(1), time.Hour)) }},
		{"CreateAs", func() error { return test.Err(s.CreateAs(ctx, pgsession.NewID(), test.Ann(1), time.Hour)) }},
		{"Load", func() error { return test.Err(s.Load(ctx, id)) }},
		{"Save", func() error { return s.Save(ctx, id, test.Ann(2), time.Hour) }},
		{"Update", func() error { return test.Err(s.Update(ctx, test.Unloaded(id), 0, test.Increment)) }},
		{"Touch", func() error { return test.Err(s.Touch(ctx, test.Unloaded(id), 2*time.Hour)) }},
		{"Put", func() error { return s.Put(ctx, id, test.Ann(3), time.Hour) }},
		{"Put of a new id", func() error { return s.Put(ctx, pgsession.NewID(), test.Ann(3), time.Hour) }},
		{"Revoke", func() error { return s.Revoke(ctx, "ann", revoked.Handle()) }},
		{"Delete", func() error { return s.Delete(ctx, other) }},
		{"KeyValue.Put", func() error { return kv.Put(ctx, "k", nil, time.Hour) }},
		{"KeyValue.Get", func() error { return test.Err(kv.Get(ctx, "k")) }},
		{"KeyValue.Take", func() error { return test.Err(kv.Take(ctx, "k")) }},
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
		shards, prepares := touched(func() error { return s.Cycle(ctx, id, next, test.Ann(3), time.Hour) })
		require.Contains(t, []int{1, 2}, shards, "Cycle")
		renewed, err := s.Load(ctx, next)
		require.NoError(t, err)
		shards, again := touched(func() (err error) {
			renewed, err = s.Renew(ctx, test.Unloaded(next), time.Hour, test.LogIn(test.Ann(4)))
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
		"FindByUser":     func() error { return test.Err(s.FindByUser(ctx, "ann", 0)) },
		"DeleteByUser":   func() error { return test.Err(s.DeleteByUser(ctx, "ann")) },
		"CleanupExpired": func() error { return test.Err(s.CleanupExpired(ctx)) },
		"DeleteAll":      func() error { return test.Err(s.DeleteAll(ctx)) },
	} {
		shards, prepares := touched(run)
		t.Logf("%s: %d shards, two-phase %t", name, shards, prepares)
	}
}

// TestDistributed_InDoubt ends a user's sessions while one of them moves. Its tombstone is there,
// and its new row is not yet, or the other way round. That is so between the two phases of a
// commit, or for longer after a crash.
func TestDistributed_InDoubt(t *testing.T) {
	requireDistributed(t)
	t.Parallel()
	const (
		insert = `INSERT INTO sessions (key, user_key, sealed, version, created_at, expires_at, idle_timeout)
			VALUES ($1, $2, $3, 1, $4, $5, '1 hour')`
		end = `UPDATE sessions SET sealed = NULL, user_key = $2 WHERE key = $1`
	)
	for _, isFirst := range []string{"tombstone", "new row"} {
		for name, op := range map[string]struct {
			end  func(s *test.Store, moved pgsession.ID) (int64, error)
			left int
		}{
			"DeleteByUser": {func(s *test.Store, _ pgsession.ID) (int64, error) { return s.DeleteByUser(t.Context(), "ann") }, 0},
			"DeleteByUser but for it": {func(s *test.Store, moved pgsession.ID) (int64, error) {
				return s.DeleteByUser(t.Context(), "ann", moved.Handle())
			}, 1},
			"LimitByUser": {func(s *test.Store, _ pgsession.ID) (int64, error) { return s.LimitByUser(t.Context(), "ann", 2) }, 2},
		} {
			t.Run(name+"/"+isFirst, func(t *testing.T) {
				t.Parallel()
				s := test.NewStore(t)
				var ids []pgsession.ID
				for range 3 {
					ids = append(ids, s.Begin(t, test.Ann(1), time.Hour))
					s.Clock.Advance(time.Second)
				}
				id, next := ids[2], pgsession.NewID()
				var userKey, sealed []byte
				require.NoError(t, s.Pool.QueryRow(t.Context(), `SELECT user_key, sealed FROM sessions WHERE key = $1`, test.RowKey(id)).Scan(&userKey, &sealed))
				begun := test.Epoch.Add(2 * time.Second)
				inserts := []any{test.RowKey(next), userKey, sealed, begun, begun.Add(time.Hour)}
				ends := []any{test.RowKey(id), slices.Concat(userKey, []byte{0}, test.RowKey(next))}
				var held *test.Lock
				if isFirst == "tombstone" {
					held = s.Hold(t, insert, inserts...)
					s.SQL(t, end, ends...)
				} else {
					held = s.Hold(t, end, ends...)
					s.SQL(t, insert, inserts...)
				}
				var ended int64
				done := test.Many(1, func() (err error) {
					ended, err = op.end(s, next)
					return err
				})
				held.WaitFor(t, 1)
				require.NoError(t, held.Commit(t.Context()))
				require.NoError(t, <-done)
				require.EqualValues(t, 3-op.left, ended)
				left, err := s.FindByUser(t.Context(), "ann", 0)
				require.NoError(t, err)
				want := []pgsession.Handle{next.Handle(), ids[1].Handle()}[:op.left]
				require.ElementsMatch(t, want, test.Handles(left))
			})
		}
	}
}
