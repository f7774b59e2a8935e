package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtable"
	"github.com/pgsession/pgsession/internal/rows"
)

// Books are kept beside the histories: a ledger by the system's clock, which another node's
// clean-up with a wrong clock must leave alone; one for each of two tenants, who share a pool; and
// log-ins that are limited.
type books struct {
	single  *ledger
	tenants []*ledger
	limits  *limiter
	pools   []*pgxpool.Pool

	readOnly switched   // some connections of the pools
	ahead    rows.Table // on a node whose clock is wrong
}

// dayAhead is longer than any session of a ledger lives.
const dayAhead = ledgerTTL + time.Hour

// tenantBeat lets many calls of both tenants come at once, so that they would share statements.
const tenantBeat = 100 * time.Millisecond

var tenants = []string{"north", "south"}

type tenantKey struct{}

func withTenant(tenant string) func(context.Context) context.Context {
	return func(ctx context.Context) context.Context { return context.WithValue(ctx, tenantKey{}, tenant) }
}

func (t *torture) openBooks(ctx context.Context) (err error) {
	b := &books{}
	t.books = b
	pool, err := b.open(ctx, t.cluster.URL(), nil)
	if err != nil {
		return err
	}
	store, err := newBookStore(pool, "ledger")
	if err != nil {
		return err
	}
	if err := store.Init(ctx); err != nil {
		return err
	}
	if err := t.distribute(ctx, "ledger"); err != nil {
		return err
	}
	b.ahead = pgtable.New(pgtable.Config{Pool: pool, Name: "ledger", ServerClockToo: true, Timeout: 2 * time.Second,
		Now: func() time.Time { return rows.Time(time.Now().Add(dayAhead)) }})
	b.single = newLedger(store, "user")
	b.single.leisure, b.single.failed = 20, t.checkLedgerError
	b.single.open(ctx, 2)
	limited, err := newBookStore(pool, "ledger", pgsession.WithTimeout(limiterTimeout))
	if err != nil {
		return err
	}
	b.limits = newLimiter(limited)
	b.limits.open(ctx, 4, t.citus == nil) // a list of a distributed table may miss a session whose move is in doubt
	return t.openTenants(ctx)
}

func (t *torture) checkLedgerError(err error, began time.Time) {
	t.checkServerError("a write of a ledger", err, began, &t.books.readOnly)
}

// openTenants starts a ledger for each tenant, on one store. A hook of the pool gives each call's
// connection the schema that the call's context names.
func (t *torture) openTenants(ctx context.Context) error {
	b := t.books
	chooseSchema := func(ctx context.Context, conn *pgx.Conn) (bool, error) {
		tenant, ok := ctx.Value(tenantKey{}).(string)
		if !ok {
			return true, nil // the connection stays in the schema of its last user
		}
		_, err := conn.Exec(ctx, `SELECT set_config('search_path', $1, false)`, tenant)
		return err == nil, nil
	}
	pool, err := b.open(ctx, t.cluster.URL(), chooseSchema)
	if err != nil {
		return err
	}
	store, err := newBookStore(pool, "tenants")
	if err != nil {
		return err
	}
	for _, tenant := range tenants {
		scope := withTenant(tenant)
		if _, err := pool.Exec(scope(ctx), `CREATE SCHEMA `+tenant); err != nil {
			return err
		}
		if err := store.Init(scope(ctx)); err != nil {
			return err
		}
		if err := t.distribute(ctx, tenant+".tenants"); err != nil {
			return err
		}
		l := newLedger(store, tenant)
		l.scope, l.beat, l.failed = scope, tenantBeat, t.checkLedgerError
		b.tenants = append(b.tenants, l)
	}
	for _, l := range b.tenants {
		l.open(ctx, 5)
	}
	return nil
}

func (b *books) open(ctx context.Context, url string, prepare func(context.Context, *pgx.Conn) (bool, error)) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.ConnConfig.RuntimeParams["application_name"] = "ledger"
	config.MaxConns = 4
	config.PrepareConn = prepare
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err == nil {
		b.pools = append(b.pools, pool)
	}
	return pool, err
}

func newBookStore(pool *pgxpool.Pool, name string, options ...pgsession.Option) (*pgsession.Store, error) {
	crypto, err := pgsession.NewCrypto(pgsession.GenerateKey())
	if err != nil {
		return nil, err
	}
	return pgsession.New(pool, crypto, append(options, pgsession.WithTable(name))...), nil
}

// close ends the ledgers, and returns what they say and how much of it is wrong.
func (b *books) close() (text string, wrong int, err error) {
	for _, pool := range b.pools {
		defer pool.Close()
	}
	for name, ledgers := range map[string][]*ledger{"ledger": {b.single}, "tenants": b.tenants} {
		saves, ended, lost, resurrected, foreign, watches := 0, 0, 0, 0, 0, 0
		for _, l := range ledgers {
			lostOne, resurrectedOne, errOne := l.close()
			err = errors.Join(err, errOne)
			saves, ended, foreign = saves+l.saves, ended+len(l.ended), foreign+l.foreign
			lost, resurrected, watches = lost+lostOne, resurrected+resurrectedOne, watches+l.toldOver+l.notTold
		}
		if name == "tenants" {
			crossed, errCrossed := b.crossed()
			err = errors.Join(err, errCrossed)
			foreign += crossed
		}
		text += fmt.Sprintf("; %s: %d acknowledged saves, %d ended, %d lost, %d resurrected, %d of another's, %d wrong watches", name, saves, ended, lost, resurrected, foreign, watches)
		wrong += lost + resurrected + foreign + watches
	}
	text += b.limits.close()
	return text, wrong + b.limits.wrong(), err
}

// wrong returns how much was found wrong so far.
func (b *books) wrong() (n int) {
	for _, l := range append(slices.Clip(b.tenants), b.single) {
		n += l.wrong()
	}
	return n + b.limits.wrong()
}

// crossed counts what a tenant sees of the other's.
func (b *books) crossed() (crossed int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for i, tenant := range tenants {
		own := withTenant(tenant)(ctx)
		store := b.tenants[i].store
		for s, err := range store.All(own) {
			if err != nil {
				return crossed, err
			}
			if !strings.HasPrefix(s.UserID, tenant) {
				crossed++
			}
		}
		for _, e := range b.tenants[1-i].live {
			if _, err := store.Load(own, e.id); !errors.Is(err, pgsession.ErrNotFound) {
				if err != nil {
					return crossed, err
				}
				crossed++
			}
		}
	}
	return crossed, nil
}
