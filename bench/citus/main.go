// Program citus measures a store on a table that Citus distributes, and what its users see while the table is
// distributed, and moved to another worker. It needs the extension among this machine's PostgreSQL.
//
//	cd bench && go run ./citus
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
)

var (
	rounds   = flag.Int("rounds", 5, "of which the median counts")
	length   = flag.Duration("length", 2*time.Second, "of one measurement")
	callers  = flag.Int("callers", 64, "at once")
	sessions = flag.Int("sessions", 2000, "in the table")
	moves    = flag.Bool("moves", true, "add a worker and rebalance, which takes a minute")
)

const (
	connections = 16
	ttl         = 24 * time.Hour
)

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Println("FAILED:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	citus, err := pgtest.StartCitus(ctx, nil, 2, pgtest.ClusterOptions{})
	if err != nil {
		return err
	}
	defer citus.Stop()
	config, err := pgxpool.ParseConfig(citus.Coordinator.URL())
	if err != nil {
		return err
	}
	config.MaxConns = connections
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	crypto, err := pgsession.NewCrypto(pgsession.GenerateKey())
	if err != nil {
		return err
	}
	shared, single := pgsession.New(pool, crypto), pgsession.New(pool, crypto, pgsession.WithCoalescing(0))
	if err := shared.Init(ctx); err != nil {
		return err
	}
	ids := make([]pgsession.ID, *sessions)
	for i := range ids {
		created, err := shared.Create(ctx, data(i), ttl)
		if err != nil {
			return err
		}
		ids[i] = created.ID
	}

	exec := func(sql string) func() error {
		return func() error {
			conn, err := pgx.Connect(ctx, citus.Coordinator.URL())
			if err != nil {
				return err
			}
			defer conn.Close(ctx)
			_, err = conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
			return err
		}
	}
	// The store is not told: it finds out by itself.
	if err := watch(ctx, shared, ids, "create_distributed_table", exec(`SELECT create_distributed_table('sessions', 'key')`)); err != nil {
		return err
	}
	for _, s := range []*pgsession.Store{shared, single} {
		if err := s.Check(ctx); err != nil {
			return err
		}
	}
	if err := compare(ctx, shared, single, ids); err != nil {
		return err
	}
	if *moves {
		if _, err := citus.AddWorker(ctx); err != nil {
			return err
		}
		if err := watch(ctx, shared, ids, "rebalance to a third worker", exec(`SELECT rebalance_table_shards('sessions', shard_transfer_mode => 'force_logical')`)); err != nil {
			return err
		}
		if err := spread(ctx, pool); err != nil {
			return err
		}
	}
	return loseWorker(ctx, shared, citus.Workers[0], ids[:min(len(ids), 200)])
}

// loseWorker kills a worker, and counts what loads say meanwhile and once it is back.
func loseWorker(ctx context.Context, store *pgsession.Store, worker *pgtest.Cluster, ids []pgsession.ID) error {
	if err := worker.Kill(); err != nil {
		return err
	}
	loadAll := func() (found, notFound, failed int) {
		for _, id := range ids {
			switch _, err := store.Load(ctx, id); {
			case err == nil:
				found++
			case errors.Is(err, pgsession.ErrNotFound):
				notFound++
			default:
				failed++
			}
		}
		return found, notFound, failed
	}
	found, notFound, failed := loadAll()
	fmt.Printf("without a worker: %d loads found their session, %d failed, %d said that there is none; health: %v\n", found, failed, notFound, store.Check(ctx))
	if err := worker.Restart(ctx); err != nil {
		return err
	}
	found, notFound, failed = loadAll()
	fmt.Printf("with it again: %d found, %d failed, %d said that there is none\n", found, failed, notFound)
	return nil
}

func data(i int) pgsession.Data {
	return pgsession.Data{UserID: fmt.Sprintf("user-%d", i/2), Values: map[string]int{"n": i}}
}

// compare measures loads and saves that share statements as the store does, and that do not.
func compare(ctx context.Context, shared, single *pgsession.Store, ids []pgsession.ID) error {
	for name, call := range map[string]func(*pgsession.Store, int) error{
		"load": func(s *pgsession.Store, i int) error { _, err := s.Load(ctx, ids[i]); return err },
		"save": func(s *pgsession.Store, i int) error { return s.Save(ctx, ids[i], data(i), ttl) },
	} {
		var ratios, rates []float64
		for round := range *rounds {
			var found [2]float64
			for i := range found {
				i = (i + round) % 2 // who comes first must not matter
				s := []*pgsession.Store{shared, single}[i]
				n, failed := load(ctx, *length, len(ids), func(i int) error { return call(s, i) })
				if failed != nil {
					return failed
				}
				found[i] = float64(n) / length.Seconds()
			}
			ratios, rates = append(ratios, found[0]/found[1]), append(rates, found[0])
		}
		slices.Sort(ratios)
		slices.Sort(rates)
		fmt.Printf("%s, %d callers, %d connections: %.0f a second, %.2f times those of a store that shares no statement (%.2f to %.2f)\n",
			name, *callers, connections, rates[len(rates)/2], ratios[len(ratios)/2], ratios[0], ratios[len(ratios)-1])
	}
	return nil
}

// load lets the callers call for a while.
func load(ctx context.Context, length time.Duration, n int, call func(int) error) (calls int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	var (
		done  atomic.Int64
		first atomic.Pointer[error]
		group sync.WaitGroup
	)
	for caller := range *callers {
		group.Go(func() {
			for i := caller; ctx.Err() == nil; i += *callers {
				if err := call(i % n); err != nil {
					first.CompareAndSwap(nil, &err)
					return
				}
				done.Add(1)
			}
		})
	}
	group.Wait()
	if err := first.Load(); err != nil {
		return 0, *err
	}
	return done.Load(), nil
}

// watch loads and saves while something happens to the table, and then loads every session.
func watch(ctx context.Context, store *pgsession.Store, ids []pgsession.ID, name string, do func() error) error {
	traffic, stop := context.WithCancel(ctx)
	defer stop()
	var (
		done, failed atomic.Int64
		longest      atomic.Int64
		sample       atomic.Pointer[error]
		group        sync.WaitGroup
		saved        = make([]atomic.Int64, len(ids)) // the value that was acknowledged last
	)
	for caller := range 8 {
		group.Go(func() {
			for n := int64(1); traffic.Err() == nil; n++ {
				for i := caller; i < len(ids) && traffic.Err() == nil; i += 8 {
					began := time.Now()
					_, err := store.Load(ctx, ids[i])
					if err == nil {
						if err = store.Save(ctx, ids[i], pgsession.Data{UserID: data(i).UserID, Values: map[string]int64{"n": n}}, ttl); err == nil {
							saved[i].Store(n)
						}
					}
					if took := time.Since(began).Milliseconds(); took > longest.Load() {
						longest.Store(took)
					}
					done.Add(1)
					if err != nil {
						failed.Add(1)
						sample.CompareAndSwap(nil, &err)
					}
				}
			}
		})
	}
	time.Sleep(time.Second)
	began := time.Now()
	err := do()
	took := time.Since(began)
	time.Sleep(time.Second)
	stop()
	group.Wait()
	lost := 0
	for i, id := range ids {
		s, loadErr := store.Load(ctx, id)
		if errors.Is(loadErr, pgsession.ErrNotFound) {
			lost++
			continue
		}
		err = errors.Join(err, loadErr)
		if loadErr == nil {
			values, decodeErr := pgsession.Decode[map[string]int64](s)
			if err = errors.Join(err, decodeErr); saved[i].Load() > 0 && values["n"] != saved[i].Load() {
				lost++
			}
		}
	}
	fmt.Printf("%s: %s; %d loads with a save, %d failed, the longest took %d ms; %d of %d sessions lost or older than acknowledged\n",
		name, took.Round(time.Millisecond), done.Load(), failed.Load(), longest.Load(), lost, len(ids))
	if failed := sample.Load(); failed != nil {
		fmt.Println("  one failed with:", *failed)
	}
	return err
}

func spread(ctx context.Context, pool *pgxpool.Pool) error {
	result, err := pool.Query(ctx, `SELECT count(*) FROM citus_shards WHERE table_name = 'sessions'::regclass GROUP BY nodename, nodeport ORDER BY 1`)
	if err != nil {
		return err
	}
	shards, err := pgx.CollectRows(result, pgx.RowTo[int])
	fmt.Println("shards on each worker:", shards)
	return err
}
