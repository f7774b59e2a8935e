package pgtest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"

	"github.com/jackc/pgx/v5"
)

// citusWorkers is how many workers [Start] gives a Citus.
const citusWorkers = 2

// citusSettings are those of each server of a Citus, in addition to the defaults of every cluster.
var citusSettings = map[string]string{
	"shared_preload_libraries":  "citus",
	"wal_level":                 "logical", // the rebalancer moves shards by logical replication
	"max_prepared_transactions": "400",     // of two-phase commits
	"max_connections":           "400",
	"max_locks_per_transaction": "256",
	"max_worker_processes":      "32",
	"citus.node_conninfo":       "sslmode=disable",

	// A worker whose coordinator has gone notices, though it waits for a lock.
	"client_connection_check_interval": "1s",

	// The tests' own triggers. The library has none.
	"citus.enable_unsafe_triggers": "on",
}

// A Citus is a throw-away cluster of servers with the extension Citus. They reach each other
// through sockets.
type Citus struct {
	Coordinator *Cluster
	Workers     []*Cluster
	options     ClusterOptions
}

// StartCitus starts a coordinator and workers, of the binaries on this machine. The options are
// those of each server.
func StartCitus(ctx context.Context, logf func(format string, args ...any), workers int, options ClusterOptions) (*Citus, error) {
	binaries, err := findBinaries()
	if err != nil {
		return nil, err
	}
	if err := hasCitus(ctx, binaries); err != nil {
		return nil, err
	}
	settings := maps.Clone(citusSettings)
	maps.Copy(settings, options.Settings)
	options.Settings = settings
	c := &Citus{options: options}
	if c.Coordinator, err = c.startNode(ctx, logf); err != nil {
		return nil, err
	}
	err = c.Coordinator.exec(ctx, `SELECT citus_set_coordinator_host($1, $2)`, c.Coordinator.folder, c.Coordinator.port)
	for range workers {
		if err != nil {
			break
		}
		_, err = c.addWorker(ctx)
	}
	if err != nil {
		c.Stop()
		return nil, err
	}
	return c, nil
}

// hasCitus returns errAbsent if the server's binaries come without Citus.
func hasCitus(ctx context.Context, binaries string) error {
	folder, err := exec.CommandContext(ctx, filepath.Join(binaries, "pg_config"), "--pkglibdir").Output()
	if err != nil {
		return fmt.Errorf("%w: pg_config --pkglibdir: %w", errAbsent, err)
	}
	libraries, err := filepath.Glob(filepath.Join(string(bytes.TrimSpace(folder)), "citus.*"))
	if err != nil {
		return err
	}
	if len(libraries) == 0 {
		return fmt.Errorf("%w: no library citus in %s", errAbsent, bytes.TrimSpace(folder))
	}
	return nil
}

func (c *Citus) startNode(ctx context.Context, logf func(format string, args ...any)) (*Cluster, error) {
	node, err := newCluster(logf, c.options)
	if err != nil {
		return nil, err
	}
	if c.Coordinator != nil {
		node.password = c.Coordinator.password // Citus copies it to the workers
	}
	// A server reaches itself by this name.
	node.settings["citus.local_hostname"] = node.folder
	if err := node.initialize(ctx); err != nil {
		node.Stop()
		return nil, err
	}
	if err := node.startFirst(ctx); err != nil {
		return nil, err
	}
	if err := node.exec(ctx, `CREATE EXTENSION citus`); err != nil {
		node.Stop()
		return nil, err
	}
	return node, nil
}

// addWorker starts one more worker and makes it known. It holds no shards until they are
// rebalanced.
func (c *Citus) addWorker(ctx context.Context) (*Cluster, error) {
	worker, err := c.startNode(ctx, c.Coordinator.logf)
	if err != nil {
		return nil, err
	}
	c.Workers = append(c.Workers, worker)
	return worker, c.Coordinator.exec(ctx, `SELECT citus_add_node($1, $2)`, worker.folder, worker.port)
}

// Stop ends all servers and removes everything.
func (c *Citus) Stop() {
	c.Coordinator.Stop()
	for _, worker := range c.Workers {
		worker.Stop()
	}
}

// exec runs a statement on a connection of its own.
func (c *Cluster) exec(ctx context.Context, sql string, args ...any) error {
	return onConnection(ctx, c.URL(), func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, sql, args...)
		return err
	})
}

func startCitus(ctx context.Context, logf func(string, ...any)) (*Server, error) {
	// Few shards, since each test makes a table of its own.
	citus, err := StartCitus(ctx, logf, citusWorkers, ClusterOptions{Settings: map[string]string{"citus.shard_count": "4"}})
	if err != nil {
		return nil, err
	}
	return &Server{kind: "citus", url: citus.Coordinator.URL(), stop: citus.Stop}, nil
}
