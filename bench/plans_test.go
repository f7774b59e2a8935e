package bench

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/bench/app"
)

// TestPlans wants that no statement reads all of a large table, alone or shared, whether the server
// plans it for its parameters or once for all. Left out are DeleteAll, Init and the health check,
// which takes the first row that it finds.
func TestPlans(t *testing.T) {
	for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
		t.Run(mode, func(t *testing.T) {
			const together = 250
			table := "plans_" + mode
			var (
				mu    sync.Mutex
				plans []string
			)
			p := newPool(t, map[string]string{
				"plan_cache_mode": mode, "session_preload_libraries": "auto_explain", "client_min_messages": "notice",
				"auto_explain.log_min_duration": "0", "auto_explain.log_level": "notice",
			}, func(_ *pgconn.PgConn, notice *pgconn.Notice) {
				mu.Lock()
				defer mu.Unlock()
				plans = append(plans, notice.Message)
			})
			defer p.Close()
			ctx := t.Context()
			keys, err := pgsession.NewCrypto(pgsession.GenerateKey())
			require.NoError(t, err)
			clock := pgsession.NewManualClock(time.Now().Truncate(time.Hour))
			// With one statement in flight, calls that come meanwhile share the next one.
			store := pgsession.New(p.Pool, keys, pgsession.WithTable(table), pgsession.WithClock(clock), pgsession.WithCoalescing(1), pgsession.WithTimeout(time.Minute))
			_, err = admin.Exec(ctx, `DROP TABLE IF EXISTS `+table)
			require.NoError(t, err)
			require.NoError(t, store.Init(ctx))
			s := &site{handler: app.OnHTTPSession(store, app.NoHook)}
			guests := s.begin(t, together, "/add?item=pen")
			fill(t, insertOurs, table, 100_000, clock.Now(), clock.Now().Add(lifetime))
			vacuum(t, table)
			mu.Lock()
			plans = nil
			mu.Unlock()

			request := func(method, target string, cookies []string) {
				all(t, together, func(i int) error { return s.do(context.Background(), method, target, cookies[i], "") })
			}
			request("POST", "/add?item=ink", guests)
			request("POST", "/login?user=ann", guests)
			members := s.begin(t, together, "/login?user=ben")
			clock.Advance(2 * time.Hour) // so that pages prolong the session
			request("GET", "/", members)
			request("POST", "/logout", members)

			data := pgsession.Data{UserID: "carl", Values: []byte("value")}
			ids := make([]pgsession.ID, together)
			all(t, together, func(i int) error {
				created, err := store.Create(ctx, data, lifetime)
				ids[i] = created.ID
				return err
			})
			all(t, together, func(i int) error { return store.Save(ctx, ids[i], data, lifetime) })
			all(t, together, func(i int) error { return store.Put(ctx, ids[i], data, lifetime) })
			all(t, together, func(i int) error {
				id := pgsession.NewID()
				defer func() { ids[i] = id }()
				return store.Cycle(ctx, ids[i], id, data, lifetime)
			})
			require.ErrorIs(t, store.Save(ctx, pgsession.NewID(), data, lifetime), pgsession.ErrNotFound)
			found, err := store.FindByUser(ctx, "carl", 10)
			require.NoError(t, err)
			require.Len(t, found, 10)
			require.NoError(t, store.Revoke(ctx, "carl", ids[0].Handle()))
			require.NoError(t, store.RevokeAny(ctx, ids[1].Handle()))
			_, err = store.DeleteByUser(ctx, "carl")
			require.NoError(t, err)
			for range store.All(ctx) {
				break // a page is enough
			}
			_, err = store.Reseal(ctx)
			require.NoError(t, err)
			require.NoError(t, store.KeyValue().Put(ctx, "key", []byte("value"), time.Hour))
			_, err = store.KeyValue().Take(ctx, "key")
			require.NoError(t, err)
			require.NoError(t, store.KeyValue().Delete(ctx, "key"))
			fill(t, insertOurs, table, 2_000, clock.Now().Add(-3*time.Hour), clock.Now().Add(-time.Hour))
			_, err = store.CleanupExpired(ctx)
			require.NoError(t, err)

			scan := "Seq Scan on " + table
			statements := map[string]bool{}
			for _, plan := range plans {
				require.NotContains(t, plan, scan)
				_, text, _ := strings.Cut(plan, "Query Text: ")
				statements[text[:min(200, len(text))]] = true
			}
			require.Greater(t, len(statements), 15)
			_, err = p.Exec(ctx, `SELECT max(version) FROM `+table)
			require.NoError(t, err)
			require.Contains(t, plans[len(plans)-1], scan, "the plans are seen")
		})
	}
}
