package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/bridge"
)

// lateCleanup is how long an expired row may lie there. Clean-ups run once an hour or more often,
// and leave the current hour.
const lateCleanup = 25 * time.Hour

// A checked is what check has found. Its members are nil if they could not be found out.
type checked struct {
	Status  pgsession.Status   `json:"status"`
	Reasons []string           `json:"reasons"`
	Server  string             `json:"server,omitempty"`
	Set     map[string]string  `json:"settings,omitempty"`
	Table   *tableFacts        `json:"table,omitempty"`
	Keys    []bridge.RowsOfKey `json:"keys,omitempty"`
}

type tableFacts struct {
	Name          string      `json:"name"`
	Schema        string      `json:"schema"` // its version, as the table's comment says
	Bytes         int64       `json:"bytes"`
	Indexes       []indexFact `json:"indexes"`
	Distributed   bool        `json:"distributed,omitempty"` // by Citus; then the statistics are not here
	Live          int64       `json:"live_rows"`             // as the statistics say
	Dead          int64       `json:"dead_rows"`
	HOT           *float64    `json:"hot_share"` // of updates; nil if there were none
	LastVacuum    *time.Time  `json:"last_vacuum"`
	OldestExpired *time.Time  `json:"oldest_expired"`
}

type indexFact struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"`
}

func (a *app) checkCommand() *cobra.Command {
	var quick, strict bool
	cmd := &cobra.Command{
		Use:     "check",
		GroupID: "look",
		Short:   "Is it well, how large is it, may an old key go?",
		Long: `check asks what a health endpoint asks, and shows the reasons: see docs/health.md. It also shows the
server's version and settings, the sizes of table and indexes, how many updates were heap-only (HOT),
the oldest expired row (does a clean-up run?), and how many rows each key has sealed (may an old key
go?). The last reads the whole table; --quick leaves it out.

It exits with 3 if the store is unhealthy, and with --strict also if it is degraded. Keys are not
needed, but without them it cannot say whose they are that it finds.`,
		Example: `  pgsession check --quick --json              for a monitor, each minute`,
		Args:    noArgs,
		RunE: a.runs(func(ctx context.Context, _ []string) error {
			return a.with(ctx, noKeys, func(ctx context.Context, d *database) error {
				c := check(ctx, d, quick)
				if ctx.Err() != nil {
					return ctx.Err() // nothing is known then
				}
				if err := a.print(c, c.print); err != nil {
					return err
				}
				if c.Status == pgsession.Unhealthy || strict && c.Status != pgsession.Healthy {
					return &exitError{code: exitUnhealthy}
				}
				return nil
			})
		}),
	}
	cmd.Flags().BoolVar(&quick, "quick", false, "leave out what reads the whole table")
	cmd.Flags().BoolVar(&strict, "strict", false, "exit with 3 if the store is degraded, too")
	return cmd
}

func check(ctx context.Context, d *database, quick bool) *checked {
	health := d.Health(ctx)
	c := &checked{Status: health.Status, Reasons: []string{}}
	for _, reason := range health.Reasons {
		c.Reasons = append(c.Reasons, strings.TrimPrefix(reason, "pgsession: health: "))
	}
	if health.Status == pgsession.Unhealthy {
		return c
	}
	err := c.find(ctx, d, quick)
	if err != nil {
		c.degrade("not all could be found out: " + err.Error())
	}
	return c
}

func (c *checked) degrade(reason string) {
	if c.Status == pgsession.Healthy {
		c.Status = pgsession.Degraded
	}
	c.Reasons = append(c.Reasons, reason)
}

func (c *checked) find(ctx context.Context, d *database, quick bool) error {
	some, cancel := d.within(ctx)
	defer cancel()
	if err := c.findServer(some, d); err != nil {
		return err
	}
	if err := c.findTable(some, d); err != nil {
		return err
	}
	if quick {
		return nil
	}
	keys, err := rowsByKey(ctx, d)
	c.Keys = keys
	for _, r := range keys {
		switch {
		case d.crypto == nil || r.Rows == 0:
		case r.State == bridge.InPlaintext:
			c.degrade(fmt.Sprintf("%s in plaintext, and are refused: run pgsession seal once if the table was a Plaintext store's", plural(r.Rows, "row")+lie(r.Rows)))
		case r.State == bridge.StrangeKey:
			c.degrade(fmt.Sprintf("%s under key %s, which is not among the keys", plural(r.Rows, "row")+lie(r.Rows), r.ID))
		}
	}
	return err
}

func lie(n int64) string {
	if n == 1 {
		return " lies"
	}
	return " lie"
}

var shownSettings = []string{"synchronous_commit", "synchronous_standby_names", "fsync", "autovacuum", "max_connections", "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"}

func (c *checked) findServer(ctx context.Context, d *database) error {
	result, err := d.pool.Query(ctx, `
		SELECT name, current_setting(name)
		FROM unnest($1::text[]) AS name`, append([]string{"server_version"}, shownSettings...))
	if err != nil {
		return err
	}
	c.Set = make(map[string]string)
	var name, value string
	_, err = pgx.ForEachRow(result, []any{&name, &value}, func() error {
		c.Set[name] = value
		return nil
	})
	c.Server = "PostgreSQL " + c.Set["server_version"]
	delete(c.Set, "server_version")
	return err
}

func (c *checked) findTable(ctx context.Context, d *database) error {
	now := clock.Now()
	t := &tableFacts{Name: d.table.Sanitize()}
	if err := d.pool.QueryRow(ctx, tableSQL, t.Name).Scan(&t.Schema, &t.Bytes, &t.Live, &t.Dead, &t.HOT, &t.LastVacuum); err != nil {
		return err
	}
	result, err := d.pool.Query(ctx, indexesSQL, t.Name)
	if err != nil {
		return err
	}
	if t.Indexes, err = pgx.CollectRows(result, pgx.RowToStructByPos[indexFact]); err != nil {
		return err
	}
	if err := t.findDistributed(ctx, d); err != nil {
		return err
	}
	if err := d.pool.QueryRow(ctx, d.sql(oldestExpiredSQL), now).Scan(&t.OldestExpired); err != nil {
		return err
	}
	if t.OldestExpired != nil {
		if age := now.Sub(*t.OldestExpired); age > lateCleanup {
			c.degrade(fmt.Sprintf("the oldest expired row has lain there for %s: does no clean-up run?", duration(age.Round(time.Hour))))
		}
	}
	c.Table = t
	return nil
}

// findDistributed takes the sizes from Citus, if that keeps the table on several machines.
func (t *tableFacts) findDistributed(ctx context.Context, d *database) error {
	var citus bool
	if err := d.pool.QueryRow(ctx, `SELECT to_regclass('pg_dist_partition') IS NOT NULL`).Scan(&citus); err != nil || !citus {
		return err
	}
	var all int64
	err := d.pool.QueryRow(ctx, `
		SELECT citus_table_size(logicalrelid), citus_total_relation_size(logicalrelid)
		FROM pg_dist_partition
		WHERE logicalrelid = $1::text::regclass`, t.Name).Scan(&t.Bytes, &all)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	t.Distributed, t.Indexes = true, []indexFact{{"all indexes", all - t.Bytes}}
	return err
}

const (
	tableSQL = `
	SELECT coalesce(obj_description(c.oid, 'pg_class'), ''), pg_table_size(c.oid), coalesce(st.n_live_tup, 0), coalesce(st.n_dead_tup, 0),
		st.n_tup_hot_upd::float8 / nullif(st.n_tup_upd, 0), greatest(st.last_vacuum, st.last_autovacuum)
	FROM pg_class AS c
	LEFT JOIN pg_stat_all_tables AS st ON st.relid = c.oid
	WHERE c.oid = $1::text::regclass`

	indexesSQL = `
	SELECT i.indexrelid::regclass::text, pg_relation_size(i.indexrelid)
	FROM pg_index AS i
	WHERE i.indrelid = $1::text::regclass
	ORDER BY i.indexrelid`

	oldestExpiredSQL = `
	SELECT (
		SELECT s.expires_at
		FROM sessions AS s
		WHERE s.expires_hour <= $1 AND s.expires_at <= $1
		ORDER BY s.expires_hour
		LIMIT 1
	)`
)

// rowsByKey reads the whole table.
func rowsByKey(ctx context.Context, d *database) ([]bridge.RowsOfKey, error) {
	list, err := bridge.RowsByKey(ctx, d.Store)
	if d.crypto == nil && len(list) > 0 && list[0].State == bridge.PrimaryKey {
		list = list[1:] // a store without keys was made with one that nobody has
	}
	return list, err
}

// warnOfOtherKeys warns if the table holds sessions that are not found when a user's are looked
// for: those under keys that were not given, in plaintext beside keys, or sealed beside
// --plaintext. It looks at some rows. After an error it says nothing, since the command itself
// will.
func (a *app) warnOfOtherKeys(ctx context.Context, d *database) {
	ctx, cancel := d.within(ctx)
	defer cancel()
	result, err := d.pool.Query(ctx, d.sql(someKeysSQL))
	if err != nil {
		return
	}
	ids, err := pgx.CollectRows(result, pgx.RowTo[[]byte])
	if err != nil {
		return
	}
	var given []uint32
	if d.crypto != nil {
		given = bridge.KeyIDs(d.crypto)
	}
	for _, id := range ids {
		where := ""
		switch {
		case id == nil && d.crypto != nil:
			where = "in plaintext"
		case len(id) == 4 && !slices.Contains(given, binary.BigEndian.Uint32(id)):
			where = fmt.Sprintf("under key %x, which is not among the keys", id)
		default:
			continue
		}
		fmt.Fprintf(a.err, "pgsession: sessions lie %s, and this user's that do are not found\n", where)
	}
}

const someKeysSQL = `
	SELECT DISTINCT looked_at.id
	FROM (
		SELECT substring(s.sealed FROM 2 FOR 4) AS id
		FROM sessions AS s
		WHERE s.sealed IS NOT NULL OR s.data IS NOT NULL
		LIMIT 1000
	) AS looked_at (id)`

func printKeys(w io.Writer, keys []bridge.RowsOfKey) {
	for _, r := range keys {
		name := "key " + r.ID
		if r.State == bridge.InPlaintext {
			name = "no key"
		}
		may := ""
		if r.MayGo() {
			may = ": it may go"
		}
		line(w, name, string(r.State)+", "+plural(r.Rows, "row")+may)
	}
}

func (c *checked) print(w io.Writer) {
	line(w, "status", c.Status)
	for _, reason := range c.Reasons {
		line(w, "", reason)
	}
	if c.Server != "" {
		line(w, "server", c.Server)
		for _, name := range shownSettings {
			line(w, "", name+" = "+c.Set[name])
		}
	}
	if t := c.Table; t != nil {
		line(w, "table", t.Name+", "+t.Schema+", "+size(t.Bytes))
		for _, index := range t.Indexes {
			line(w, "", index.Name+", "+size(index.Bytes))
		}
		if t.Distributed {
			line(w, "", "distributed by Citus: see pg_stat_user_tables on each machine for dead rows and HOT updates")
		} else {
			line(w, "rows", fmt.Sprintf("some %d, and %d dead, last vacuumed %s", t.Live, t.Dead, momentOr(t.LastVacuum, "never")))
		}
		if t.HOT != nil && !t.Distributed {
			line(w, "HOT updates", fmt.Sprintf("%.0f %%", 100**t.HOT))
		}
		line(w, "oldest expired", momentOr(t.OldestExpired, "none"))
	}
	printKeys(w, c.Keys)
}

func size(bytes int64) string {
	const unit = 1024
	if bytes < unit {
		return fmt.Sprintf("%d B", bytes)
	}
	value, units := float64(bytes)/unit, "KMGTP"
	for value >= unit && len(units) > 1 {
		value, units = value/unit, units[1:]
	}
	return fmt.Sprintf("%.1f %ciB", value, units[0])
}
