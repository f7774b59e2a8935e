// Package server gives the benchmarks a PostgreSQL, and reads from it what a call
// costs there.
package server

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsession/pgsession/internal/pgtest"
)

// settings are those of a small production server, but that it makes no checkpoint
// while a benchmark runs: after each, the first change of a page writes the whole
// page to the WAL, and whose turn it was would be chance. It keeps the log segments
// that PrepareWAL makes.
var settings = map[string]string{
	"fsync":              "on",
	"full_page_writes":   "on",
	"shared_buffers":     "1GB",
	"max_connections":    "300",
	"checkpoint_timeout": "1h",
	"max_wal_size":       "32GB",
	"min_wal_size":       "16GB",
}

// Server is a PostgreSQL.
type Server struct {
	URL  string
	Kind string // "local", "url" or "docker"

	stop       func()
	postmaster int // 0 where it is not ours
}

// Start starts a throw-away server with the binaries on this machine, with more
// settings than those of the package; or takes the one that PGSESSION_DATABASE_URL
// names, or Docker's, as it is.
func Start(ctx context.Context, more map[string]string) (*Server, error) {
	if wanted := os.Getenv("PGSESSION_TEST_SERVER"); os.Getenv("PGSESSION_DATABASE_URL") == "" && (wanted == "" || wanted == "local") {
		all := maps.Clone(settings)
		maps.Copy(all, more)
		cluster, err := pgtest.StartCluster(ctx, logf, pgtest.ClusterOptions{Settings: all})
		if err == nil {
			pid, err := postmasterPID(cluster.DataDir())
			if err != nil {
				cluster.Stop()
				return nil, err
			}
			return &Server{URL: cluster.URL(), Kind: "local", stop: cluster.Stop, postmaster: pid}, nil
		}
		logf("no server of our own: %v", err)
	}
	found, err := pgtest.Start(ctx, logf)
	if err != nil {
		return nil, err
	}
	return &Server{URL: found.URL(), Kind: found.Kind(), stop: found.Stop}, nil
}

func logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func postmasterPID(dataDir string) (int, error) {
	content, err := os.ReadFile(filepath.Join(dataDir, "postmaster.pid"))
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(content), "\n")
	return strconv.Atoi(strings.TrimSpace(line))
}

// Stop removes the server, where Start started it.
func (s *Server) Stop() { s.stop() }

// Statements counts what pools send. It is a pgx tracer.
type Statements struct{ sent atomic.Int64 }

// Count returns how many statements were sent.
func (s *Statements) Count() int64 { return s.sent.Load() }

// TraceQueryStart implements [pgx.QueryTracer].
func (s *Statements) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	s.sent.Add(1)
	return ctx
}

// TraceQueryEnd implements [pgx.QueryTracer].
func (*Statements) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// Config returns a pool's configuration, with all its connections kept open.
func (s *Server) Config(connections int) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(s.URL)
	if err != nil {
		return nil, err
	}
	config.MaxConns, config.MinConns = int32(connections), int32(connections)
	config.MaxConnLifetime, config.MaxConnIdleTime = 24*time.Hour, 24*time.Hour
	return config, nil
}

// Address returns where the server listens, for net.Dial.
func (s *Server) Address() (network, address string, err error) {
	config, err := pgx.ParseConfig(s.URL)
	if err != nil {
		return "", "", err
	}
	if strings.HasPrefix(config.Host, "/") {
		return "unix", filepath.Join(config.Host, ".s.PGSQL."+strconv.Itoa(int(config.Port))), nil
	}
	return "tcp", fmt.Sprintf("%s:%d", config.Host, config.Port), nil
}

// CPU is how long each process of the server has run, by process id.
type CPU map[int]time.Duration

// CPU returns nothing where the server's processes cannot be seen.
func (s *Server) CPU() (CPU, error) {
	if s.postmaster == 0 || runtime.GOOS != "linux" {
		return nil, nil
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", s.postmaster, s.postmaster))
	if err != nil {
		return nil, err
	}
	used := make(CPU)
	for _, field := range strings.Fields(string(children)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return nil, err
		}
		ran, err := timeOf(pid)
		if os.IsNotExist(err) {
			continue // it ended
		}
		if err != nil {
			return nil, err
		}
		used[pid] = ran
	}
	return used, nil
}

// timeOf returns how long a process has run. The figures in its stat are whole
// hundredths of a second; the scheduler's are nanoseconds.
func timeOf(pid int) (time.Duration, error) {
	if content, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid)); err == nil {
		if fields := strings.Fields(string(content)); len(fields) == 3 {
			ns, err := strconv.ParseInt(fields[0], 10, 64)
			return time.Duration(ns), err
		}
	}
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The program's name stands in brackets, and may hold blanks.
	fields := strings.Fields(string(content[strings.LastIndexByte(string(content), ')')+1:]))
	user, err := strconv.ParseInt(fields[11], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(fields[12], 10, 64)
	const ticksPerSecond = 100
	return time.Duration(user+system) * time.Second / ticksPerSecond, err
}

// Since returns how long the server's processes ran since the other reading.
func (c CPU) Since(before CPU) time.Duration {
	var total time.Duration
	for pid, ran := range c {
		total += ran - before[pid]
	}
	return total
}

// WAL returns how many bytes were ever written to the log.
func WAL(ctx context.Context, conn *pgx.Conn) (written int64, err error) {
	err = conn.QueryRow(ctx, `SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint`).Scan(&written)
	return written, err
}

// PrepareWAL gives a server of our own so many bytes of log segments to write over, as
// a server that has run for a while has them. A new one must first be filled with zeros
// and synced, 16 MiB at a time, and all that is committed meanwhile waits.
func (s *Server) PrepareWAL(ctx context.Context, conn *pgx.Conn, size int64) error {
	if s.Kind != "local" {
		return nil
	}
	const message = 1 << 20
	if _, err := conn.Exec(ctx, `SELECT pg_logical_emit_message(false, '', repeat(' ', $1)) FROM generate_series(1, $2)`, message, size/message); err != nil {
		return err
	}
	_, err := conn.Exec(ctx, `CHECKPOINT`)
	return err
}

// Updates returns how many rows of a table were updated, and how many of them
// without a change of any index. The connections that did it must have flushed their
// counters, by the statement [FlushStatistics].
func Updates(ctx context.Context, conn *pgx.Conn, table string) (all, heapOnly int64, err error) {
	err = conn.QueryRow(ctx, `
		SELECT n_tup_upd, n_tup_hot_upd
		FROM pg_stat_user_tables
		WHERE relid = to_regclass($1::text)`, table).Scan(&all, &heapOnly)
	return all, heapOnly, err
}

// FlushStatistics makes a connection report its counters at once. It is there since
// PostgreSQL 15.
const FlushStatistics = `SELECT pg_stat_force_next_flush()`
