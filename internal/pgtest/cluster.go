package pgtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// ClusterOptions are the options of [StartCluster]. The zero value is the cluster that [Start]
// makes.
type ClusterOptions struct {
	// TCP makes the server listen on a free port of 127.0.0.1 too. URL then names that port, with a
	// password. A proxy between the server and its client needs it.
	TCP bool

	// Settings are parameters of postgresql.conf, in addition to the defaults below. What is set
	// here cannot be changed by ALTER SYSTEM. A test of durability sets fsync and full_page_writes
	// to on.
	Settings map[string]string
}

// defaultSettings make a server that starts fast and loses its data at a power failure. It compiles
// no queries, which takes seconds on a busy machine and is done for small tables too if a test
// makes the planner's costs high. In everything else it behaves as any other: synchronous_commit
// and wal_level keep their defaults.
var defaultSettings = map[string]string{
	"fsync":            "off",
	"full_page_writes": "off",
	"jit":              "off",
	"max_connections":  "200",
	"shared_buffers":   "32MB",
}

// A Cluster is a throw-away server of the binaries on this machine, which a test can kill, stop and
// restart. Calls of the methods that start or stop it must not overlap, except Stop.
type Cluster struct {
	binaries string
	folder   string // holds the data, the log, the password and the socket
	host     string
	port     int
	password string
	settings map[string]string
	owner    *syscall.Credential
	watchdog *watchdog
	logf     func(format string, args ...any)

	postmaster *postmaster
	mu         sync.Mutex
	stopped    bool
}

// StartCluster makes a cluster with PostgreSQL's binaries on this machine and starts it. It ignores
// PGSESSION_DATABASE_URL and Docker. The context bounds the start and not the cluster's life. logf
// may be nil.
func StartCluster(ctx context.Context, logf func(format string, args ...any), options ClusterOptions) (*Cluster, error) {
	c, err := newCluster(logf, options)
	if err != nil {
		return nil, err
	}
	if err := c.initialize(ctx); err != nil {
		c.Stop()
		return nil, err
	}
	if err := c.startFirst(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

func newCluster(logf func(format string, args ...any), options ClusterOptions) (_ *Cluster, err error) {
	if logf == nil {
		logf = func(string, ...any) {}
	}
	c := &Cluster{password: rand.Text(), logf: logf, port: 5432}
	if c.binaries, err = findBinaries(); err != nil {
		return nil, err
	}
	if c.owner, err = serverUser(); err != nil {
		return nil, err
	}
	// The watchdog starts before the folder is made, so that the folder is removed even if this
	// process dies at once.
	c.folder = newFolderName(c.owner)
	if c.watchdog, err = startWatchdog(removeCluster, c.folder); err != nil {
		return nil, err
	}
	if err := makeFolder(c.folder, c.owner); err != nil {
		c.Stop()
		return nil, err
	}
	c.host = c.folder
	c.settings = maps.Clone(defaultSettings)
	c.settings["listen_addresses"] = ""
	if options.TCP {
		c.host = "127.0.0.1"
		c.settings["listen_addresses"] = c.host
	}
	maps.Copy(c.settings, options.Settings)
	return c, nil
}

func (c *Cluster) initialize(ctx context.Context) error {
	passwordFile := filepath.Join(c.folder, "password")
	if err := os.WriteFile(passwordFile, []byte(c.password), 0o644); err != nil { // other users cannot enter the folder
		return err
	}
	return c.run(ctx, "initdb", "--no-sync", "--username=postgres", "--pwfile="+passwordFile,
		"--auth-local=trust", "--auth-host=scram-sha-256", // other users cannot reach the socket either
		"--encoding=UTF8", "--locale=C", "--pgdata="+c.DataDir())
}

func (c *Cluster) run(ctx context.Context, program string, args ...string) error {
	command := exec.CommandContext(ctx, filepath.Join(c.binaries, program), args...)
	c.asServer(command)
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", program, err, bytes.TrimSpace(output))
	}
	return nil
}

func (c *Cluster) asServer(command *exec.Cmd) {
	command.Dir = c.folder
	command.Env = serverEnvironment()
	command.SysProcAttr = &syscall.SysProcAttr{
		Credential: c.owner,
		Setsid:     true, // so that Ctrl-C in the terminal does not reach it
	}
}

// startFirst starts a new cluster, and removes it if that fails.
func (c *Cluster) startFirst(ctx context.Context) error {
	if c.host != c.folder {
		var err error
		if c.port, err = FreePort(); err != nil {
			c.Stop()
			return err
		}
	}
	if err := c.start(ctx); err != nil {
		c.Stop()
		return err
	}
	version, err := serverVersion(ctx, c.URL())
	if err != nil {
		c.Stop()
		return err
	}
	c.logf("pgtest: PostgreSQL %s from %s, at %s, port %d", version, c.binaries, c.host, c.port)
	return nil
}

func (c *Cluster) start(ctx context.Context) error {
	args := []string{"-D", c.DataDir(), "-k", c.folder, "-p", strconv.Itoa(c.port)}
	for _, name := range slices.Sorted(maps.Keys(c.settings)) {
		args = append(args, "-c", name+"="+c.settings[name])
	}
	command := exec.Command(filepath.Join(c.binaries, "postgres"), args...)
	c.asServer(command)
	started, err := startPostmaster(command, c.logFile())
	if err != nil {
		return err
	}
	c.postmaster = started
	if _, err := waitUntilReady(ctx, c.URL(), started.exited); err != nil {
		return errors.Join(fmt.Errorf("%w\n%s", err, c.logTail()), c.postmaster.end(syscall.SIGQUIT))
	}
	return nil
}

func (c *Cluster) logFile() string { return filepath.Join(c.folder, "log") }

func (c *Cluster) logTail() string {
	content, err := os.ReadFile(c.logFile())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}

// URL returns a connection string for pgx, and for psql.
func (c *Cluster) URL() string {
	if c.host != c.folder {
		return (&url.URL{
			Scheme: "postgres", User: url.UserPassword("postgres", c.password), Host: net.JoinHostPort(c.host, strconv.Itoa(c.port)),
			Path: "/postgres", RawQuery: "sslmode=disable",
		}).String()
	}
	query := url.Values{"host": {c.host}, "port": {strconv.Itoa(c.port)}, "sslmode": {"disable"}}
	return (&url.URL{Scheme: "postgres", User: url.User("postgres"), Path: "/postgres", RawQuery: query.Encode()}).String()
}

// Host returns 127.0.0.1 with TCP, and the socket's folder without.
func (c *Cluster) Host() string { return c.host }

// Port returns the port that the server listens on.
func (c *Cluster) Port() int { return c.port }

// DataDir returns the folder of the server's data, which belongs to the user that the server runs
// as.
func (c *Cluster) DataDir() string { return filepath.Join(c.folder, "data") }

// Kill ends the server as the kernel's out-of-memory killer or kill -9 does: nothing is flushed. It
// returns when none of the server's processes is left.
func (c *Cluster) Kill() error {
	pidFile := filepath.Join(c.DataDir(), "postmaster.pid")
	content, err := os.ReadFile(pidFile)
	if err != nil {
		return err
	}
	if err := c.postmaster.kill(); err != nil {
		return err
	}
	// A killed server leaves a segment of System V shared memory, and macOS has only 32. The file's
	// seventh line holds its key and id.
	if lines := strings.Split(string(content), "\n"); len(lines) > 6 {
		if segment := strings.Fields(lines[6]); len(segment) == 2 {
			if err := exec.Command("ipcrm", "-m", segment[1]).Run(); err != nil {
				c.logf("pgtest: ipcrm -m %s: %v", segment[1], err)
			}
		}
	}
	// If the file stayed, the watchdog would signal the process that has this pid by then.
	return os.Remove(pidFile)
}

// StopImmediate ends the server as `pg_ctl stop -m immediate` does: without a checkpoint, so that
// the next start recovers. It returns when none of the server's processes is left.
func (c *Cluster) StopImmediate() error { return c.postmaster.end(syscall.SIGQUIT) }

// Restart starts a server that was killed or stopped, at the same address. If the server runs,
// Restart first stops it, with a checkpoint. It returns when the server accepts connections.
func (c *Cluster) Restart(ctx context.Context) error {
	if err := c.postmaster.end(syscall.SIGINT); err != nil {
		return err
	}
	return c.start(ctx)
}

// Promote makes a standby a primary, and returns when it takes writes.
func (c *Cluster) Promote(ctx context.Context) error {
	return onConnection(ctx, c.URL(), func(conn *pgx.Conn) error {
		var promoted bool
		err := conn.QueryRow(ctx, `SELECT pg_promote(true, 60)`).Scan(&promoted)
		if err == nil && !promoted {
			err = errors.New("pgtest: the standby was not promoted within a minute")
		}
		return err
	})
}

// Stop ends the server and removes everything. Calls after the first do nothing.
func (c *Cluster) Stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return
	}
	c.stopped = true
	c.watchdog.cleanUp()
	if c.postmaster != nil {
		c.postmaster.waitForAll(time.Minute)
	}
}

// StandbyOf starts a cluster that streams from the primary. The primary's synchronous_standby_names
// can hold the name. StandbyOf returns when the stream flows. The standby's URL has the primary's
// password.
func StandbyOf(ctx context.Context, primary *Cluster, name string, options ClusterOptions) (*Cluster, error) {
	c, err := newCluster(primary.logf, options)
	if err != nil {
		return nil, err
	}
	c.password = primary.password     // the copy has the primary's roles
	c.settings["cluster_name"] = name // the stream's application_name
	err = c.run(ctx, "pg_basebackup", "--host="+primary.folder, "--port="+strconv.Itoa(primary.port), "--username=postgres",
		"--pgdata="+c.DataDir(), "--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync")
	if err != nil {
		c.Stop()
		return nil, err
	}
	if err := c.startFirst(ctx); err != nil {
		return nil, err
	}
	if err := primary.waitForStream(ctx, name); err != nil {
		c.Stop()
		return nil, fmt.Errorf("%w\n%s", err, c.logTail())
	}
	return c, nil
}

func (c *Cluster) waitForStream(ctx context.Context, name string) error {
	err := onConnection(ctx, c.URL(), func(conn *pgx.Conn) error {
		return poll(ctx, nil, func(ctx context.Context) (streaming bool, err error) {
			err = conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_stat_replication WHERE application_name = $1 AND state = 'streaming')`,
				name).Scan(&streaming)
			return err != nil || streaming, err
		})
	})
	if err != nil {
		return fmt.Errorf("the standby %s does not stream: %w", name, err)
	}
	return nil
}
