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
	tokens   string // all of them, as the cookies have them: one string, so that the garbage collector has little to scan
	keys     []byte // of those tokens' rows in this library's table, all of them
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

// withPlaces returns the encrypted store with so many statements in flight, all on one
// table.
func withPlaces(d *dataSet, crypto *pgsession.Crypto, places []int) (all []contender) {
	for _, n := range places {
		one := d.ours(fmt.Sprintf("WithCoalescing(%d)", n), "places", crypto, pgsession.WithCoalescing(n))
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
				id, err := pgsession.ParseID(d.token(session))
				if err != nil {
					return err
				}
				return store.Put(ctx, id, pgsession.Data{UserID: userOf(session), Values: d.value(session, 0)}, time.Until(rolling.next(session)))
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
// no more in it than must be, and no encryption.
type bareTarget struct {
	d       *dataSet
	rolling *rolling
	pool    *pgxpool.Pool
}

func (t bareTarget) load(ctx context.Context, session int) (value []byte, err error) {
	var (
		userKey          []byte
		version          int64
		created, expires time.Time
	)
	err = t.pool.QueryRow(ctx, `
		SELECT user_key, sealed, version, created_at, expires_at
		FROM bare
		WHERE key = $1 AND expires_at > $2`, t.d.key(session), time.Now()).Scan(&userKey, &value, &version, &created, &expires)
	return value, err
}

func (t bareTarget) save(ctx context.Context, session int, value []byte) error {
	now := time.Now()
	expires := t.rolling.next(session)
	tag, err := t.pool.Exec(ctx, `
		UPDATE bare
		SET sealed = $2, version = version + 1, expires_at = $3, expires_hour = $4
		WHERE key = $1 AND expires_at > $5`, t.d.key(session), value, expires, expires.Truncate(time.Hour).Add(time.Hour), now)
	if err == nil && tag.RowsAffected() == 0 {
		err = errNotFound
	}
	return err
}

func (d *dataSet) fillBare(rolling *rolling) func(context.Context, connections) error {
	return func(ctx context.Context, c connections) error {
		if _, err := c.pgx.Exec(ctx, pgsession.Schema("bare"), pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
		now := time.Now()
		return each(ctx, d.sessions, func(ctx context.Context, session int) error {
			expires := rolling.next(session)
			_, err := c.pgx.Exec(ctx, `
			INSERT INTO bare (key, user_key, sealed, version, created_at, expires_at, expires_hour)
			VALUES ($1, $2, $3, 1, $4, $5, $6)`,
				d.key(session), []byte(fmt.Sprintf("%032s", userOf(session))), d.value(session, 0), now, expires, expires.Truncate(time.Hour).Add(time.Hour))
			return err
		})
	}
}
