package main

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsession/pgsession/internal/pgtest"
)

// citusWorkers hold the shards of a torture on Citus.
const citusWorkers = 2

// startCitus starts a Citus in place of a server.
func (t *torture) startCitus(ctx context.Context) (err error) {
	t.citus, err = pgtest.StartCitus(ctx, nil, citusWorkers, pgtest.ClusterOptions{TCP: true, Settings: map[string]string{
		"deadlock_timeout": "50ms",
		// What a crash leaves in doubt is settled soon.
		"citus.recover_2pc_interval": "200ms",
	}})
	if err != nil {
		return err
	}
	t.cluster = t.citus.Coordinator
	// No snapshot spans the shards, so that a list may show a session that moves twice, or not at all.
	for i := range t.profiles {
		t.profiles[i].weights[opFindByUser], t.profiles[i].weights[opAll] = 0, 0
	}
	if t.faults {
		t.fast = append(t.fast, faultsOf([]fault{
			{"worker's backend killed", 25, (*torture).killWorkerBackend},
		}, t.wantedFaults)...)
		t.slow = append(t.slow, faultsOf([]fault{
			{"worker killed", 3, (*torture).killWorker},
		}, t.wantedFaults)...)
	}
	return nil
}

// distribute distributes a table of the torture if it runs on Citus.
func (t *torture) distribute(ctx context.Context, name string) error {
	if t.citus == nil {
		return nil
	}
	return t.administer(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `SELECT create_distributed_table($1, 'key')`, name)
		return err
	})
}

// killWorkerBackend ends the connection of a worker to the coordinator, perhaps between the two
// phases of a commit.
func (t *torture) killWorkerBackend(ctx context.Context, _ []*group, random *rand.Rand) error {
	worker := t.citus.Workers[random.IntN(citusWorkers)]
	conn, err := pgx.Connect(ctx, worker.URL())
	if err != nil {
		return nil // the worker was killed
	}
	defer conn.Close(context.WithoutCancel(ctx))
	conn.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE application_name LIKE 'citus_internal%' ORDER BY (state = 'active') DESC, random() LIMIT 1`)
	return nil
}

func (t *torture) killWorker(ctx context.Context, _ []*group, random *rand.Rand) error {
	worker := t.citus.Workers[random.IntN(citusWorkers)]
	if err := worker.Kill(); err != nil {
		return err
	}
	pause(ctx, milliseconds(random, 200))
	if err := worker.Restart(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	pause(ctx, 2*time.Second)
	return nil
}

// settleCitus returns when no worker runs a statement for the coordinator any more, and no commit
// is in doubt.
func (t *torture) settleCitus(ctx context.Context, coordinator *pgx.Conn) error {
	if t.citus == nil {
		return nil
	}
	for _, worker := range t.citus.Workers {
		conn, err := pgx.Connect(ctx, worker.URL())
		if err != nil {
			return err
		}
		defer conn.Close(context.WithoutCancel(ctx))
		for {
			if _, err := coordinator.Exec(ctx, `SELECT recover_prepared_transactions()`); err != nil {
				return err
			}
			var left int
			err := conn.QueryRow(ctx, `SELECT (SELECT count(*) FROM pg_prepared_xacts) + (SELECT count(*) FROM pg_stat_activity
				WHERE application_name LIKE 'citus_internal%' AND state <> 'idle' AND query LIKE '%'||$1||'%')`, table).Scan(&left)
			if err != nil {
				return err
			}
			if left == 0 {
				break
			}
			pause(ctx, 5*time.Millisecond)
		}
	}
	return nil
}
