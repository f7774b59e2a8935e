package faults_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/test"
)

// swallowedWrites are all operations that write rows, under their names in test.Operations.
var swallowedWrites = []string{
	"create", "create/CreateAs", "save", "put", "update", "renew", "touch", "cycle",
	"delete", "revoke", "revoke/RevokeAny", "delete by user", "limit by user", "delete all", "reseal",
	"put/KeyValue", "delete/KeyValue", "take",
}

// waysToSwallow make the server write nothing and say that all is well.
var waysToSwallow = map[string]struct{ begin, end string }{
	"trigger": {
		`CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
		CREATE TRIGGER swallow BEFORE INSERT OR UPDATE OR DELETE ON sessions FOR EACH ROW EXECUTE FUNCTION swallow()`,
		`DROP TRIGGER swallow ON sessions`,
	},
	"rule": {
		`CREATE RULE swallow_insert AS ON INSERT TO sessions DO INSTEAD NOTHING;
		CREATE RULE swallow_update AS ON UPDATE TO sessions DO INSTEAD NOTHING;
		CREATE RULE swallow_delete AS ON DELETE TO sessions DO INSTEAD NOTHING`,
		`DROP RULE swallow_insert ON sessions; DROP RULE swallow_update ON sessions; DROP RULE swallow_delete ON sessions`,
	},
}

// TestSwallowed has a trigger or a rule of the table's owner swallow what an operation writes. A
// call that returned nil would say that it did what it did not.
func TestSwallowed(t *testing.T) {
	pgtest.NotDistributed(t, "a distributed table takes no such triggers and rules")
	t.Parallel()
	for how, swallow := range waysToSwallow {
		for _, places := range []int{0, 1} {
			t.Run(fmt.Sprintf("%s/WithCoalescing(%d)", how, places), func(t *testing.T) {
				t.Parallel()
				owner := test.NewStore(t)
				id, other := owner.Begin(t, test.Ann(1), time.Hour), owner.Begin(t, test.Ann(2), time.Hour)
				require.NoError(t, owner.KeyValue().Put(t.Context(), "k", []byte("v"), time.Hour))
				before, otherBefore := owner.MustLoad(t, id), owner.MustLoad(t, other)
				s := owner.Node(test.NewCrypto(t, test.OtherKey, test.Key), pgsession.WithCoalescing(places))

				test.RunScript(t, owner.Pool, swallow.begin)
				for _, name := range swallowedWrites {
					errs := test.Many(3, func() error { return test.Operations(s, id)[name](t.Context()) })
					for range 3 {
						err := <-errs
						require.Error(t, err, name)
						require.NotErrorIs(t, err, pgsession.ErrNotFound, name)
						require.NotErrorIs(t, err, context.DeadlineExceeded, "%s: it need not wait to know", name)
					}
				}
				test.RunScript(t, owner.Pool, swallow.end)
				require.Equal(t, before, owner.MustLoad(t, id))
				require.Equal(t, otherBefore, owner.MustLoad(t, other))
				test.RequireEntry(t, owner.KeyValue(), "k", []byte("v"))
				require.Equal(t, 3, owner.CountRows(t, "true"))
			})
		}
	}
}

// TestSwallowed_Nothing has nothing to write, so that a trigger swallows nothing.
func TestSwallowed_Nothing(t *testing.T) {
	pgtest.NotDistributed(t, "a distributed table takes no such triggers")
	t.Parallel()
	s := test.NewStore(t)
	ctx, ended, expired := t.Context(), s.Ended(t), s.Expired(t)
	test.RunScript(t, s.Pool, waysToSwallow["trigger"].begin)
	require.NoError(t, s.Delete(ctx, pgsession.NewID()))
	require.NoError(t, s.Delete(ctx, ended))
	require.ErrorIs(t, s.RevokeAny(ctx, ended.Handle()), pgsession.ErrRevoked)
	require.ErrorIs(t, s.Save(ctx, expired, test.Ann(1), time.Hour), pgsession.ErrNotFound)
	require.NoError(t, s.KeyValue().Delete(ctx, "k"))
	require.ErrorIs(t, test.Err(s.KeyValue().Take(ctx, "k")), pgsession.ErrNotFound)
	require.NoError(t, test.Err(s.DeleteByUser(ctx, "bob")))
	require.NoError(t, test.Err(s.CleanupExpired(ctx)))
}
