package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"github.com/pgsession/pgsession"
)

const application = "torture"

// A node is what one process of an application would have: a pool, and a key ring. With faults, its
// network is a proxy.
type node struct {
	pool    *pgxpool.Pool
	crypto  *pgsession.Crypto
	server  string
	network atomic.Pointer[toxiproxy.Proxy] // nil without faults
}

const nodeConns = 6

func newNode(ctx context.Context, url string, key pgsession.Key, faults bool, settings map[string]string) (*node, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	crypto, err := pgsession.NewCrypto(key)
	if err != nil {
		return nil, err
	}
	n := &node{crypto: crypto, server: net.JoinHostPort(config.ConnConfig.Host, fmt.Sprint(config.ConnConfig.Port))}
	config.MaxConns = nodeConns
	config.ConnConfig.ConnectTimeout = 2 * time.Second
	config.ConnConfig.RuntimeParams["application_name"] = application
	for name, value := range settings {
		config.ConnConfig.RuntimeParams[name] = value
	}
	if faults {
		if err := n.newNetwork(); err != nil {
			return nil, err
		}
		config.ConnConfig.DialFunc = func(ctx context.Context, network, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, network, n.network.Load().Listen)
		}
	}
	n.pool, err = pgxpool.NewWithConfig(ctx, config)
	return n, err
}

// newNetwork replaces the proxy, with all its connections and toxics: what was on its way is lost.
func (n *node) newNetwork() error {
	old, err := n.leaveNetwork()
	if err == nil && old != nil {
		old.Stop()
	}
	return err
}

// leaveNetwork gives new connections another proxy, and returns that of the old ones.
func (n *node) leaveNetwork() (old *toxiproxy.Proxy, err error) {
	proxy := toxiproxy.NewProxy(toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), "node", "127.0.0.1:0", n.server)
	if err := proxy.Start(); err != nil {
		return nil, err
	}
	return n.network.Swap(proxy), nil
}

func (n *node) toxic(name, direction string, attributes string) error {
	return addToxic(n.network.Load(), name, direction, attributes)
}

func addToxic(proxy *toxiproxy.Proxy, name, direction, attributes string) error {
	_, err := proxy.Toxics.AddToxicJson(strings.NewReader(
		fmt.Sprintf(`{"type": %q, "stream": %q, "attributes": {%s}}`, name, direction, attributes)))
	return err
}

// A fault breaks something, for a while at most, and mends it.
type fault struct {
	name   string
	weight int
	inject func(*torture, context.Context, []*group, *rand.Rand) error
}

// Faults happen one after another, and slow faults beside them, one after another too.
var (
	faults = []fault{
		{"backend terminated", 25, (*torture).terminateBackend},
		{"network cut", 8, network("", "")},
		{"network slowed", 8, network("latency", `"latency": 20, "jitter": 20`)},
		{"network silent", 6, network("timeout", `"timeout": 0`)},
		{"connection reset", 8, network("reset_peer", `"timeout": 0`)},
		{"message cut short", 12, network("limit_data", "")},
		{"pool exhausted", 10, (*torture).exhaustPool},
		{"rows held", 12, (*torture).holdRows},
		{"rows held in another order", 12, (*torture).crossRows},
		{"connections read-only", 8, spoilConnections(`SET default_transaction_read_only = on`)},
		{"prepared statements discarded", 8, spoilConnections(`DISCARD ALL`)},
		{"clean-up a day ahead", 8, (*torture).cleanUpAhead},
		{"server read-only", 3, (*torture).makeReadOnly},
		{"server stopped (immediate)", 3, (*torture).stopServer},
		{"server killed", 3, (*torture).killServer},
	}
	slowFaults = []fault{
		{"row held for long", 10, (*torture).holdLong},
		{"old connections silent", 6, (*torture).silenceConnections},
	}
)

// faultsOf returns those whose names contain a text.
func faultsOf(faults []fault, text string) []fault {
	if text == "on" {
		return faults
	}
	return slices.DeleteFunc(slices.Clone(faults), func(f fault) bool { return !strings.Contains(f.name, text) })
}

// startFaults injects faults until the function that it returns is called, which waits until all is
// mended.
func (t *torture) startFaults(ctx context.Context, groups []*group, random *rand.Rand) (stop func() error) {
	if !t.faults {
		return func() error { return nil }
	}
	stopping := make(chan struct{})
	fast, slow := make(chan error, 1), make(chan error, 1)
	slowRandom := rand.New(rand.NewPCG(random.Uint64(), 0))
	slowCtx, cancel := context.WithCancel(ctx)
	leisure := 40
	if len(t.fast) < len(faults) {
		leisure = 300
	}
	go func() { fast <- t.injectUntil(ctx, stopping, t.fast, leisure, groups, random) }()
	go func() { slow <- t.injectUntil(slowCtx, stopping, t.slow, 100, groups, slowRandom) }()
	return func() error {
		close(stopping)
		cancel() // a slow fault is mended at once
		return errors.Join(<-fast, <-slow)
	}
}

func (t *torture) injectUntil(ctx context.Context, stopping <-chan struct{}, faults []fault, leisure int, groups []*group, random *rand.Rand) error {
	for len(faults) > 0 {
		pause := time.NewTimer(milliseconds(random, leisure))
		select {
		case <-stopping:
			return nil
		case <-pause.C:
		}
		if err := t.injectOne(ctx, faults, groups, random); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

func (t *torture) injectOne(ctx context.Context, faults []fault, groups []*group, random *rand.Rand) error {
	total := 0
	for _, f := range faults {
		total += f.weight
	}
	n := random.IntN(total)
	for _, f := range faults {
		if n -= f.weight; n < 0 {
			t.injected.add(f.name)
			if err := f.inject(t, ctx, groups, random); err != nil {
				return fmt.Errorf("%s: %w", f.name, err)
			}
			return nil
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func milliseconds(random *rand.Rand, most int) time.Duration {
	return time.Duration(random.IntN(most+1)) * time.Millisecond
}

// administer connects past all faults.
func (t *torture) administer(ctx context.Context, do func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, t.cluster.URL())
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return do(conn)
}

func (t *torture) terminateBackend(ctx context.Context, _ []*group, _ *rand.Rand) error {
	return t.administer(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE application_name IN ('torture', 'ledger') ORDER BY (state = 'active') DESC, random() LIMIT 1`)
		return err
	})
}

func network(toxic, attributes string) func(*torture, context.Context, []*group, *rand.Rand) error {
	return func(t *torture, ctx context.Context, _ []*group, random *rand.Rand) error {
		t.brokenNetwork.turnOn()
		defer t.brokenNetwork.turnOff()
		n := t.nodes[random.IntN(len(t.nodes))]
		direction := []string{"upstream", "downstream"}[random.IntN(2)]
		if toxic == "limit_data" {
			attributes = fmt.Sprintf(`"bytes": %d`, random.IntN(3000))
		}
		if toxic != "" {
			if err := n.toxic(toxic, direction, attributes); err != nil {
				return err
			}
			pause(ctx, milliseconds(random, 150))
		}
		return n.newNetwork()
	}
}

func (t *torture) exhaustPool(ctx context.Context, _ []*group, random *rand.Rand) error {
	n := t.nodes[random.IntN(len(t.nodes))]
	waiting, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	for range nodeConns {
		conn, err := n.pool.Acquire(waiting)
		if err != nil {
			return nil // others hold some
		}
		defer conn.Release()
	}
	pause(ctx, milliseconds(random, 100))
	return nil
}

func (t *torture) holdRows(ctx context.Context, groups []*group, random *rand.Rand) error {
	return t.hold(ctx, groups, random, 1)
}

// crossRows takes rows in no order, so that it and a statement that takes several may wait for each
// other.
func (t *torture) crossRows(ctx context.Context, groups []*group, random *rand.Rand) error {
	return t.hold(ctx, groups, random, 3)
}

func (t *torture) hold(ctx context.Context, groups []*group, random *rand.Rand, rows int) error {
	g := groups[random.IntN(len(groups))]
	err := t.administer(ctx, func(conn *pgx.Conn) error {
		tx, err := conn.Begin(ctx)
		if err != nil {
			return err
		}
		defer tx.Rollback(context.WithoutCancel(ctx))
		for range rows {
			key, err := hex.DecodeString(g.id(g.pick(random)).Handle().String())
			if err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `SELECT FROM `+table+` WHERE key = $1 FOR UPDATE`, key); err != nil {
				return err
			}
			pause(ctx, milliseconds(random, 60))
		}
		return nil
	})
	var server *pgconn.PgError
	if errors.As(err, &server) && (server.Code == "40P01" || t.citus != nil) {
		return nil // as intended; or a worker was killed meanwhile
	}
	return err
}

// holdLong holds a row for longer than a statement may count as in flight, and often for longer
// than WithTimeout.
func (t *torture) holdLong(ctx context.Context, groups []*group, random *rand.Rand) error {
	g := groups[random.IntN(len(groups))]
	key, err := hex.DecodeString(g.id(g.pick(random)).Handle().String())
	if err != nil {
		return err
	}
	t.administer(ctx, func(conn *pgx.Conn) error {
		tx, err := conn.Begin(ctx)
		if err != nil {
			return err
		}
		defer tx.Rollback(context.WithoutCancel(ctx))
		if _, err := tx.Exec(ctx, `SELECT FROM `+table+` WHERE key = $1 FOR UPDATE`, key); err != nil {
			return err
		}
		pause(ctx, 150*time.Millisecond+milliseconds(random, 1000))
		return nil
	})
	return nil // another fault may have ended the connection
}

// silenceConnections lets the connections of a node hang, while new ones work.
func (t *torture) silenceConnections(ctx context.Context, _ []*group, random *rand.Rand) error {
	old, err := t.nodes[random.IntN(len(t.nodes))].leaveNetwork()
	if err != nil {
		return err
	}
	defer old.Stop()
	for _, direction := range []string{"upstream", "downstream"} {
		addToxic(old, "timeout", direction, `"timeout": 0`) // fails if another fault has made it silent already
	}
	pause(ctx, 150*time.Millisecond+milliseconds(random, 2000))
	return nil
}

// spoilConnections runs a statement on connections of a pool, as an application may that shares the
// pool.
func spoilConnections(sql string) func(*torture, context.Context, []*group, *rand.Rand) error {
	return func(t *torture, ctx context.Context, _ []*group, random *rand.Rand) error {
		pool, readOnly := t.nodes[random.IntN(len(t.nodes))].pool, &t.readOnly
		if random.IntN(3) == 0 {
			pool, readOnly = t.books.pools[random.IntN(len(t.books.pools))], &t.books.readOnly
		}
		if strings.Contains(sql, "read_only") {
			readOnly.turnOn()
			defer readOnly.turnOff()
		}
		waiting, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		for range 1 + random.IntN(int(pool.Config().MaxConns)) {
			conn, err := pool.Acquire(waiting)
			if err != nil {
				return nil // others hold some, or another fault has come between
			}
			defer conn.Release()
			conn.Conn().PgConn().Exec(waiting, sql).Close()
		}
		return nil
	}
}

// makeReadOnly lets the server refuse writes, as one does that was demoted.
func (t *torture) makeReadOnly(ctx context.Context, _ []*group, random *rand.Rand) error {
	for _, readOnly := range []*switched{&t.readOnly, &t.books.readOnly} {
		readOnly.turnOn()
		defer readOnly.turnOff()
	}
	ctx = context.WithoutCancel(ctx)
	return t.administer(ctx, func(conn *pgx.Conn) error {
		for _, sql := range []string{`ALTER SYSTEM SET default_transaction_read_only = on`, `ALTER SYSTEM RESET default_transaction_read_only`} {
			for _, statement := range []string{sql, `SELECT pg_reload_conf()`} {
				if _, err := conn.Exec(ctx, statement, pgx.QueryExecModeSimpleProtocol); err != nil {
					return err
				}
			}
			pause(ctx, 50*time.Millisecond+milliseconds(random, 150))
		}
		return nil
	})
}

// cleanUpAhead runs a clean-up on a node whose clock is more than a day ahead. By the server's
// clock all sessions of the ledger are live.
func (t *torture) cleanUpAhead(ctx context.Context, _ []*group, _ *rand.Rand) error {
	t.books.ahead.RemoveExpired(ctx, false, nil) // an error is another fault's doing
	return nil
}

func (t *torture) stopServer(ctx context.Context, _ []*group, random *rand.Rand) error {
	if err := t.cluster.StopImmediate(); err != nil {
		return err
	}
	pause(ctx, milliseconds(random, 200))
	return t.cluster.Restart(context.WithoutCancel(ctx))
}

func (t *torture) killServer(ctx context.Context, _ []*group, random *rand.Rand) error {
	if err := t.cluster.Kill(); err != nil {
		return err
	}
	pause(ctx, milliseconds(random, 200))
	return t.cluster.Restart(context.WithoutCancel(ctx))
}

// quiesce returns when no statement is left on the server, nor on its way to it: with every
// connection gone, there is none.
func (t *torture) quiesce(ctx context.Context) error {
	if !t.faults {
		return nil // every call has had its answer
	}
	for _, n := range t.nodes {
		if err := n.newNetwork(); err != nil {
			return err
		}
		n.pool.Reset()
	}
	return t.administer(ctx, func(conn *pgx.Conn) error {
		for {
			var left int
			err := conn.QueryRow(ctx, `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1`, application).Scan(&left)
			if err != nil {
				return err
			}
			if left == 0 {
				return t.settleCitus(ctx, conn)
			}
			pause(ctx, 2*time.Millisecond)
		}
	})
}
