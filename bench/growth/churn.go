package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/pgsession/pgsession"
)

const (
	churnTable = "churn"
	idleLife   = time.Hour // rolling, from each touch and save
)

// A churnResult is how a table fared at a steady number of sessions.
type churnResult struct {
	Population int         `json:"population"`
	Storage    string      `json:"storage_parameters"`
	Hours      []churnHour `json:"hours"`
}

// A churnHour is how the table was at an hour's end.
type churnHour struct {
	Hour        int        `json:"hour"`
	WallSeconds float64    `json:"wall_seconds"`
	Live        int64      `json:"live_rows"`   // tombstones and expired rows included
	Dead        int64      `json:"dead_rows"`   // as the server estimates
	HeapOnly    float64    `json:"hot_share"`   // since the start
	Vacuums     int64      `json:"autovacuums"` // since the start
	Bytes       []relation `json:"bytes"`
	Ratio       float64    `json:"ratio"` // of all bytes to those after the first hour
}

func (h churnHour) total() (bytes int64) {
	for _, relation := range h.Bytes {
		bytes += relation.Bytes
	}
	return bytes
}

// A crowd is the users of a site, a steady number.
type crowd struct {
	*bench
	store *pgsession.Store
	clock *pgsession.ManualClock
	ids   []pgsession.ID
}

func (b *bench) churn(ctx context.Context) (*churnResult, error) {
	config, err := b.server.Config(b.connections)
	if err != nil {
		return nil, err
	}
	// The hours go by faster, and the table grows the same.
	config.ConnConfig.RuntimeParams["synchronous_commit"] = "off"
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	clock := pgsession.NewManualClock(time.Now().UTC().Truncate(time.Hour))
	c := &crowd{
		bench: b, clock: clock, ids: make([]pgsession.ID, b.population),
		store: pgsession.New(pool, b.crypto, pgsession.WithClock(clock), pgsession.WithTable(churnTable)),
	}
	if err := c.store.Init(ctx); err != nil {
		return nil, err
	}
	if b.storage != "" {
		if _, err := b.admin.Exec(ctx, `ALTER TABLE `+churnTable+` SET (`+b.storage+`)`); err != nil {
			return nil, err
		}
	}
	result := &churnResult{Population: b.population, Storage: "default"}
	var parameters []string
	if err := b.admin.QueryRow(ctx, `SELECT reloptions FROM pg_class WHERE oid = $1::regclass`, churnTable).Scan(&parameters); err != nil {
		return nil, err
	}
	result.Storage = strings.Join(parameters, ", ")
	b.progress("churn of %d sessions, with %s", b.population, result.Storage)
	if err := c.all(ctx, len(c.ids), func(ctx context.Context, i int) error { return c.logIn(ctx, i) }); err != nil {
		return nil, err
	}

	cleanup := c.store.SpawnCleanup(ctx, b.hour/6)
	defer cleanup.Stop()
	for hour := 1; hour <= b.hours; hour++ {
		began := time.Now()
		if err := c.liveAnHour(ctx); err != nil {
			return nil, fmt.Errorf("hour %d: %w", hour, err)
		}
		h := churnHour{Hour: hour, WallSeconds: time.Since(began).Seconds()}
		if err := c.look(ctx, &h); err != nil {
			return nil, err
		}
		first := h
		if len(result.Hours) > 0 {
			first = result.Hours[0]
		}
		h.Ratio = float64(h.total()) / float64(first.total())
		result.Hours = append(result.Hours, h)
		b.progress("hour %d of %d: %.1f MB, %.2f times the first hour's", hour, b.hours, float64(h.total())/1e6, h.Ratio)
	}
	return result, nil
}

// all does something for n of the sessions, no two at once for the same one.
func (c *crowd) all(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4 * c.callers)
	for _, i := range rand.Perm(len(c.ids))[:n] {
		group.Go(func() error { return do(ctx, i) })
	}
	return group.Wait()
}

// liveAnHour is what a site's users do: each minute some log in in the place of some
// who log out and as many who just leave, and the others go on, with twelve requests
// an hour each, of which two change the session.
func (c *crowd) liveAnHour(ctx context.Context) error {
	const minutes = 60
	ticker := time.NewTicker(c.hour / minutes)
	defer ticker.Stop()
	perMinute := func(timesAnHour float64) int { return int(timesAnHour * float64(len(c.ids)) / minutes) }
	for range minutes {
		c.clock.Advance(time.Minute)
		err := errors.Join(
			c.all(ctx, perMinute(1.0/8), func(ctx context.Context, i int) error {
				if err := c.store.Delete(ctx, c.ids[i]); err != nil {
					return err
				}
				return c.logIn(ctx, i)
			}),
			c.all(ctx, perMinute(1.0/8), c.logIn),
			c.all(ctx, perMinute(10), func(ctx context.Context, i int) error {
				return c.orLogIn(ctx, i, c.store.Touch(ctx, c.ids[i], idleLife))
			}),
			c.all(ctx, perMinute(2), func(ctx context.Context, i int) error {
				_, err := c.store.Update(ctx, c.ids[i], idleLife, func(*pgsession.Session) (any, error) { return c.someValue(), nil })
				return c.orLogIn(ctx, i, err)
			}),
		)
		if err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// orLogIn lets somebody log in whose session has expired.
func (c *crowd) orLogIn(ctx context.Context, i int, err error) error {
	if errors.Is(err, pgsession.ErrNotFound) {
		return c.logIn(ctx, i)
	}
	return err
}

// logIn is what a web application does: there is a guest first.
func (c *crowd) logIn(ctx context.Context, i int) error {
	guest, err := c.store.Create(ctx, pgsession.Data{Values: c.someValue()}, idleLife)
	if err != nil {
		return err
	}
	renewed, err := c.store.Renew(ctx, guest.ID, idleLife, func(*pgsession.Session) (pgsession.Data, error) {
		return pgsession.Data{UserID: fmt.Sprintf("user-%d", i), Values: c.someValue()}, nil
	})
	if err != nil {
		return err
	}
	c.ids[i] = renewed.ID
	return nil
}

// someValue has half to one and a half times the plan's bytes.
func (c *crowd) someValue() []byte {
	value := make([]byte, c.value/2+rand.IntN(c.value+1))
	for i := range value {
		value[i] = byte(i)
	}
	return value
}

func (c *crowd) look(ctx context.Context, h *churnHour) (err error) {
	if h.Bytes, err = relations(ctx, c.admin, churnTable); err != nil {
		return err
	}
	if err := c.admin.QueryRow(ctx, `SELECT count(*) FROM `+churnTable).Scan(&h.Live); err != nil {
		return err
	}
	return c.admin.QueryRow(ctx, `
		SELECT n_dead_tup, coalesce(n_tup_hot_upd::float8 / nullif(n_tup_upd, 0), 0), autovacuum_count
		FROM pg_stat_user_tables
		WHERE relid = $1::regclass`, churnTable).Scan(&h.Dead, &h.HeapOnly, &h.Vacuums)
}

func (r *churnResult) print(to io.Writer) {
	fmt.Fprintf(to, "\nchurn of %d sessions, with %s\n", r.Population, r.Storage)
	table := tabwriter.NewWriter(to, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(table, "hour\tseconds\trows\tdead\tHOT\tautovacuums\t")
	for _, relation := range r.Hours[0].Bytes {
		fmt.Fprintf(table, "%s MB\t", relation.Name)
	}
	fmt.Fprintln(table, "all\tratio\t")
	for _, h := range r.Hours {
		fmt.Fprintf(table, "%d\t%.0f\t%d\t%d\t%.0f%%\t%d\t", h.Hour, h.WallSeconds, h.Live, h.Dead, 100*h.HeapOnly, h.Vacuums)
		for _, relation := range h.Bytes {
			fmt.Fprintf(table, "%.1f\t", float64(relation.Bytes)/1e6)
		}
		fmt.Fprintf(table, "%.1f\t%.2f\t\n", float64(h.total())/1e6, h.Ratio)
	}
	table.Flush()
}
