package bench

import (
	"context"
	"encoding/hex"
	"flag"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
)

var sizes = flag.String("growth", "10000,100000", "BenchmarkGrowth's numbers of sessions, a list; 10 million take 10 GB of disk and some minutes")

const (
	called       = 2_000 // sessions that the store wrote itself
	callersUsers = called / 4
	expired      = 5_000 // rows for each clean-up
)

// BenchmarkGrowth is what calls cost as the table grows: compare the sizes of one run. Its values
// have 512 bytes.
func BenchmarkGrowth(b *testing.B) {
	const table = "growth"
	// The middle of an hour, so that the clean-ups meet live sessions in it.
	clock := pgsession.NewManualClock(time.Now().UTC().Truncate(time.Hour).Add(30 * time.Minute))
	keys, err := pgsession.NewCrypto(pgsession.GenerateKey())
	require.NoError(b, err)
	p := newPool(b, nil, nil)
	store := pgsession.New(p.Pool, keys, pgsession.WithClock(clock), pgsession.WithTable(table), pgsession.WithTimeout(0))
	require.NoError(b, store.Init(b.Context()))
	describe(b)
	data := func(i int) pgsession.Data {
		return pgsession.Data{UserID: fmt.Sprint("user-", i%callersUsers), Values: make([]byte, 512)}
	}
	ids := make([]pgsession.ID, called)
	all(b, called, func(i int) error {
		created, err := store.Create(context.Background(), data(i), lifetime)
		if err == nil {
			ids[i] = created.ID
		}
		return err
	})

	rows := called
	for size := range strings.SplitSeq(*sizes, ",") {
		wanted, err := strconv.Atoi(size)
		require.NoError(b, err)
		fill(b, insertOurs, table, wanted-rows, clock.Now(), clock.Now().Add(lifetime))
		rows = wanted
		vacuum(b, table)
		reuseLog(b)
		var bytes int64
		require.NoError(b, admin.QueryRow(b.Context(), `SELECT pg_total_relation_size($1)`, table).Scan(&bytes))
		b.Run(name("op", "disk", "sessions", size), func(b *testing.B) {
			b.ReportMetric(float64(bytes)/float64(rows), "B/session")
			b.ReportMetric(0, "ns/op") // leaves it out
		})
		run := func(op string, clients int, call func(ctx context.Context, i int) error) {
			b.Run(name("op", op, "clients", clients, "sessions", size), func(b *testing.B) {
				measure(b, p, table, clients, func(random *rand.Rand, _ int) error {
					ctx, cancel := context.WithCancel(context.Background())
					defer cancel()
					return call(ctx, random.IntN(called))
				})
			})
		}
		load := func(ctx context.Context, i int) error { _, err := store.Load(ctx, ids[i]); return err }
		run("load", 16, load)
		run("load", 256, load)
		run("save", 16, func(ctx context.Context, i int) error { return store.Save(ctx, ids[i], data(i), lifetime) })
		run("find-by-user", 16, func(ctx context.Context, i int) error {
			found, err := store.FindByUser(ctx, data(i).UserID, 10)
			if err == nil && len(found) != called/callersUsers {
				err = errDifferent
			}
			return err
		})
		var (
			mu       sync.Mutex
			loggedIn [][]byte
		)
		run("create", 16, func(ctx context.Context, i int) error {
			created, err := store.Create(ctx, pgsession.Data{UserID: "new", Values: make([]byte, 512)}, lifetime)
			if err != nil {
				return err
			}
			key, err := hex.DecodeString(created.Handle.String())
			mu.Lock()
			defer mu.Unlock()
			loggedIn = append(loggedIn, key)
			return err
		})
		_, err = admin.Exec(b.Context(), `DELETE FROM `+table+` WHERE key = ANY($1)`, loggedIn)
		require.NoError(b, err)
		cleanUp(b, name("op", "cleanup", "sessions", size), store, clock, table, func() (removed int64, err error) {
			before := store.Stats().Cleaned
			cleanup := store.SpawnCleanup(b.Context(), time.Millisecond)
			defer cleanup.Stop()
			for removed < expired && err == nil {
				<-time.After(time.Millisecond)
				removed, err = store.Stats().Cleaned-before, b.Context().Err()
			}
			return removed, err
		})
		cleanUp(b, name("op", "cleanup-expired", "sessions", size), store, clock, table, func() (int64, error) { return store.CleanupExpired(b.Context()) })
	}
}

// cleanUp removes expired rows once a call.
func cleanUp(b *testing.B, name string, store *pgsession.Store, clock *pgsession.ManualClock, table string, remove func() (removed int64, err error)) {
	b.Run(name, func(b *testing.B) {
		for range b.N {
			b.StopTimer()
			fill(b, insertOurs, table, expired, clock.Now().Add(-3*time.Hour), clock.Now().Add(-time.Hour))
			b.StartTimer()
			removed, err := remove()
			require.NoError(b, err)
			require.GreaterOrEqual(b, removed, int64(expired))
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*expired), "ns/row")
	})
}
