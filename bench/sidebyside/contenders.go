package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/alexedwards/scs/pgxstore"
	"github.com/alexedwards/scs/postgresstore"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/pgsession/pgsession"
)

// minSize is what a value's own part takes.
const minSize = 16

// A rolling expiry moves on by the same step at each save of a session, as if five
// minutes had gone by since the last. So one save in twelve crosses an hour, at any
// speed, and sessions cross at different times.
type rolling struct {
	start time.Time
	saves []atomic.Uint32 // of each session
}

// rolling returns that of a table's sessions.
func (d *dataSet) rolling(table string) *rolling {
	if d.expiries[table] == nil {
		d.expiries[table] = &rolling{start: time.Now(), saves: make([]atomic.Uint32, d.sessions)}
	}
	return d.expiries[table]
}

// next returns when a session expires that is saved now.
func (r *rolling) next(session int) time.Time {
	saves := time.Duration(r.saves[session].Add(1))
	return r.start.Add(24*time.Hour + time.Duration(session%3600)*time.Second + saves*5*time.Minute)
}

// A target is one store, opened over one network.
type target interface {
	load(ctx context.Context, session int) ([]byte, error)
	save(ctx context.Context, session int, value []byte) error
}

// A contender is a store with a table of its own.
type contender struct {
	name  string
	table string // as to_regclass takes it
	open  func(connections) target
	// fill makes the table, with all sessions of the data set. It is nil where
	// another contender has.
	fill func(ctx context.Context, c connections) error
}

// connections are the pools that all contenders share, over one network.
type connections struct {
	pgx *pgxpool.Pool
	sql *sql.DB
}

// A dataSet is the sessions that every contender holds.
type dataSet struct {
	sessions int
	ids      []pgsession.ID // to fill the tables with; an ID has no pointers, so that the garbage collector has little to scan
	tokens   string         // all of them, as the cookies have them: one string, for the same reason
	keys     []byte         // of those tokens' rows in this library's table, all of them
	size     int
	bodies   []byte
	// similar values differ in their first bytes only. PostgreSQL leaves out of the
	// WAL what both ends of a row's new version share with the old one; sealed
	// values share nothing.
	similar bool

	expiries map[string]*rolling // by table
}

const bodies = 1 << 16

func newDataSet(sessions, size int, similar bool) (*dataSet, error) {
	d := &dataSet{sessions: sessions, size: size, bodies: make([]byte, bodies+size), similar: similar, expiries: map[string]*rolling{}}
	var tokens strings.Builder
	for range sessions {
		id := pgsession.NewID()
		d.ids = append(d.ids, id)
		tokens.WriteString(id.Token())
		var err error
		if d.keys, err = hex.AppendDecode(d.keys, []byte(id.Handle().String())); err != nil {
			return nil, err
		}
	}
	d.tokens = tokens.String()
	// Random bytes: nobody gains by compression.
	random := rand.NewChaCha8([32]byte{})
	random.Read(d.bodies)
	return d, nil
}

const (
	tokenSize = 43
	keySize   = 32
)

func (d *dataSet) token(session int) string { return d.tokens[session*tokenSize:][:tokenSize] }

func (d *dataSet) key(session int) []byte { return d.keys[session*keySize:][:keySize] }

// value returns what session i holds after a save: its number, the save's, and bytes
// that depend on the latter.
func (d *dataSet) value(session int, save uint64) []byte {
	value := make([]byte, 0, d.size)
	value = binary.BigEndian.AppendUint64(value, uint64(session))
	value = binary.BigEndian.AppendUint64(value, save)
	return append(value, d.body(save)...)
}

func (d *dataSet) body(save uint64) []byte {
	start := int(save % bodies)
	if d.similar {
		start = 0
	}
	return d.bodies[start : start+d.size-minSize]
}

// check looks whether value is one of the session's.
func (d *dataSet) check(session int, value []byte) error {
	if len(value) != d.size || binary.BigEndian.Uint64(value) != uint64(session) ||
		!bytes.Equal(value[minSize:], d.body(binary.BigEndian.Uint64(value[8:]))) {
		return fmt.Errorf("session %d: not a value that was saved", session)
	}
	return nil
}

// userOf gives each user two sessions.
func userOf(session int) string { return "user-" + strconv.Itoa(session/2) }

const (
	oursSealed = "pgsession"
	oursAlone  = "pgsession, not coalescing"
	oursPlain  = "pgsession, plaintext"
	plainPgx   = "bare pgx"
	scsPgx     = "scs pgxstore"
	scsSQL     = "scs postgresstore"
)

func contenders(d *dataSet, crypto *pgsession.Crypto) []contender {
	pgxExpiries, sqlExpiries, bareExpiries := d.rolling("sessions"), d.rolling("sessions_sql"), d.rolling("bare")
	return []contender{
		{scsPgx, "sessions", func(c connections) target {
			return scsTarget{d, pgxExpiries, pgxstore.NewWithCleanupInterval(c.pgx, 0)}
		}, d.fillSCS("sessions", pgxExpiries)},
		{scsSQL, "sessions_sql", func(c connections) target {
			return scsTarget{d, sqlExpiries, postgresstore.NewWithConfig(c.sql, postgresstore.Config{TableName: "sessions_sql"})}
		}, d.fillSCS("sessions_sql", sqlExpiries)},
		{plainPgx, "bare", func(c connections) target { return bareTarget{d, bareExpiries, c.pgx} }, d.fillBare(bareExpiries)},
		d.ours(oursSealed, "sealed", crypto),
		d.ours(oursAlone, "alone", crypto, pgsession.WithCoalescing(0)),
		d.ours(oursPlain, "plain", nil),
	}
}

// withInFlight returns the encrypted store with so many statements in flight, all on one
// table.
func withInFlight(d *dataSet, crypto *pgsession.Crypto, inFlight []int) (all []contender) {
	for _, n := range inFlight {
		one := d.ours(fmt.Sprintf("WithCoalescing(%d)", n), "in_flight", crypto, pgsession.WithCoalescing(n))
		if len(all) > 0 {
			one.fill = nil
		}
		all = append(all, one)
	}
	return all
}

type ourTarget struct {
	d       *dataSet
	rolling *rolling
	store   *pgsession.Store
}

func (t ourTarget) load(ctx context.Context, session int) ([]byte, error) {
	id, err := pgsession.ParseID(t.d.token(session))
	if err != nil {
		return nil, err
	}
	loaded, err := t.store.Load(ctx, id)
	if err != nil {
		return nil, err
	}
	return pgsession.Decode[[]byte](loaded)
}

func (t ourTarget) save(ctx context.Context, session int, value []byte) error {
	id, err := pgsession.ParseID(t.d.token(session))
	if err != nil {
		return err
	}
	return t.store.Save(ctx, id, pgsession.Data{UserID: userOf(session), Values: value}, time.Until(t.rolling.next(session)))
}

// ours is this library's store, in plaintext where crypto is nil.
func (d *dataSet) ours(name, table string, crypto *pgsession.Crypto, opts ...pgsession.Option) contender {
	opts = append(opts, pgsession.WithTable(table))
	rolling := d.rolling(table)
	open := func(c connections) *pgsession.Store {
		if crypto == nil {
			return pgsession.Plaintext(c.pgx, append(opts, pgsession.WithLogger(slog.New(slog.DiscardHandler)))...)
		}
		return pgsession.New(c.pgx, crypto, opts...)
	}
	return contender{
		name: name, table: table,
		open: func(c connections) target { return ourTarget{d, rolling, open(c)} },
		fill: func(ctx context.Context, c connections) error {
			store := open(c)
			if err := store.Init(ctx); err != nil {
				return err
			}
			return each(ctx, d.sessions, func(ctx context.Context, session int) error {
				return store.Put(ctx, d.ids[session], pgsession.Data{UserID: userOf(session), Values: d.value(session, 0)}, time.Until(rolling.next(session)))
			})
		},
	}
}

// each does it for 0 to n-1, with many callers.
func each(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	const workers = 128
	for worker := range workers {
		group.Go(func() error {
			for i := worker; i < n; i += workers {
				if err := do(ctx, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

type scsStore interface {
	Find(token string) (b []byte, exists bool, err error)
	Commit(token string, b []byte, expiry time.Time) error
}

// scsTarget is a store of scs's. Its session manager would encode the values by gob;
// here the stores alone are compared. They take no context.
type scsTarget struct {
	d       *dataSet
	rolling *rolling
	store   scsStore
}

var errNotFound = errors.New("session not found")

func (t scsTarget) load(_ context.Context, session int) ([]byte, error) {
	value, exists, err := t.store.Find(t.d.token(session))
	if err == nil && !exists {
		err = errNotFound
	}
	return value, err
}

func (t scsTarget) save(_ context.Context, session int, value []byte) error {
	return t.store.Commit(t.d.token(session), value, t.rolling.next(session))
}

// fillSCS makes the table as scs's documentation tells.
func (d *dataSet) fillSCS(table string, rolling *rolling) func(context.Context, connections) error {
	return func(ctx context.Context, c connections) error {
		_, err := c.pgx.Exec(ctx, `
			CREATE TABLE `+table+` (token TEXT PRIMARY KEY, data BYTEA NOT NULL, expiry TIMESTAMPTZ NOT NULL);
			CREATE INDEX ON `+table+` (expiry)`)
		if err != nil {
			return err
		}
		return each(ctx, d.sessions, func(ctx context.Context, session int) error {
			_, err := c.pgx.Exec(ctx, `INSERT INTO `+table+` VALUES ($1, $2, $3)`, d.token(session), d.value(session, 0), rolling.next(session))
			return err
		})
	}
}

// bareTarget is what this library's table costs by itself: one statement a call, with
// the columns and conditions of the library's own, and no encryption.
type bareTarget struct {
	d       *dataSet
	rolling *rolling
	pool    *pgxpool.Pool
}

func (t bareTarget) load(ctx context.Context, session int) (value []byte, err error) {
	var (
		key, userKey     []byte
		otherKind        bool
		version          int64
		created, expires time.Time
		endsAt           *time.Time
		idleTimeout      time.Duration
	)
	err = t.pool.QueryRow(ctx, `
		SELECT key, user_key, sealed, data IS NOT NULL, version, created_at, expires_at, ends_at, idle_timeout
		FROM bare
		WHERE key = $1`, t.d.key(session)).Scan(&key, &userKey, &value, &otherKind, &version, &created, &expires, &endsAt, &idleTimeout)
	if err == nil && !expires.After(time.Now()) {
		err = errNotFound
	}
	return value, err
}

func (t bareTarget) save(ctx context.Context, session int, value []byte) error {
	now := time.Now()
	expires := t.rolling.next(session)
	tag, err := t.pool.Exec(ctx, `
		UPDATE bare
		SET user_key = $3, sealed = $6, data = NULL, version = (version & x'3fffffffffffffff'::bigint) + 1,
			expires_at = least($4::timestamptz, ends_at), idle_timeout = $5
		WHERE key = $2 AND (data IS NOT NULL OR sealed IS NOT NULL) AND expires_at > $1 AND user_key IS NOT DISTINCT FROM $3`,
		now, t.d.key(session), bareUserKey(session), expires, expires.Sub(now), value)
	if err == nil && tag.RowsAffected() == 0 {
		err = errNotFound
	}
	return err
}

// bareUserKey has the size of the library's own.
func bareUserKey(session int) []byte { return fmt.Appendf(nil, "%032s", userOf(session)) }

func (d *dataSet) fillBare(rolling *rolling) func(context.Context, connections) error {
	return func(ctx context.Context, c connections) error {
		if _, err := c.pgx.Exec(ctx, pgsession.Schema("bare"), pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
		now := time.Now()
		return each(ctx, d.sessions, func(ctx context.Context, session int) error {
			expires := rolling.next(session)
			_, err := c.pgx.Exec(ctx, `
			INSERT INTO bare (key, user_key, sealed, version, created_at, expires_at, idle_timeout)
			VALUES ($1, $2, $3, 1, $4, $5, $6)`,
				d.key(session), bareUserKey(session), d.value(session, 0), now, expires, expires.Sub(now))
			return err
		})
	}
}
