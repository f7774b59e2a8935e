// Package pgsession keeps the sessions of web applications in PostgreSQL.
//
// Call [New] with a pgx pool and a [Crypto] for a store that seals everything it
// writes, then [Store.Init] at start-up, which creates the table. A log-in calls
// [Store.Create], or [Store.Cycle] where the guest already had a session, and sets
// [ID.Token] as the cookie. A request calls [ParseID] and [Store.Load], and
// [Store.Touch] to keep the session alive. [Store.Update] changes its values
// without losing anybody else's change, and [Store.Delete] logs out.
// [Store.SpawnCleanup] removes what expired, and [Store.Check] and
// [Store.HealthHandler] plug into a health endpoint.
//
// # What it promises
//
// A session that was ended stays ended, whatever was in flight. A write that
// returned nil is durable. No id changes hands: who the user is can change only
// through [Store.Cycle]. [ErrNotFound] means that the session is provably absent,
// expired or ended, and never that the database could not be asked. Who steals
// the table reads neither tokens nor users nor values, and who edits it gets
// [ErrTampered].
//
// # Errors
//
// The errors to tell apart are the package's variables, for [errors.Is]. All
// others wrap the database's error with the operation. No message holds a token,
// a key, a user id or a value.
//
// # Compatibility
//
// The payload's first byte names its format, and the table's comment the schema's
// version: a row that one release wrote, later ones read.
package pgsession

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	defaultTable   = "sessions"
	defaultMaxSize = 64 << 10

	maxTTL        = 100 * 365 * 24 * time.Hour
	tombstoneLife = time.Hour

	// updateAttempts bounds how often Update runs against other writers. One of
	// them gets through in each round, so that so many at least can meet.
	updateAttempts = 100
	// retryAttempts bounds how often a statement is sent again that the server
	// rolled back, or that was never sent.
	retryAttempts = 10
)

// The errors that callers may want to tell apart.
var (
	// ErrNotFound says that the session is absent, expired or ended.
	ErrNotFound = errors.New("pgsession: session not found")

	// ErrRevoked says that Put met the tombstone of a session that was ended. It
	// is also ErrNotFound.
	ErrRevoked error = &notFoundError{"pgsession: session was ended"}

	// ErrInvalidID says that a string is no token, or no handle. It is also
	// ErrNotFound, since whoever reads a cookie treats both alike.
	ErrInvalidID error = &notFoundError{"pgsession: not a session id"}

	// ErrExists says that Cycle's new id is taken.
	ErrExists = errors.New("pgsession: session id is taken")

	// ErrUserChanged says that a write named another user than the session's:
	// only Cycle may change it, under a new id.
	ErrUserChanged = errors.New("pgsession: session belongs to another user")

	// ErrConflict says that Update gave up, since others kept changing the
	// session.
	ErrConflict = errors.New("pgsession: session keeps changing")

	// ErrInvalidTTL says that a ttl is not positive, or is over 100 years, or
	// leads past the year 9999.
	ErrInvalidTTL = errors.New("pgsession: ttl must be positive, and at most 100 years")

	// ErrTooLarge says that the values are over WithMaxSize, or a user id over
	// 1,000 bytes.
	ErrTooLarge = errors.New("pgsession: too large")

	// ErrEncode says that the values have no JSON form, or, in a plaintext
	// store, none that PostgreSQL's jsonb takes: it refuses the character
	// U+0000, and numbers that its numeric type cannot hold.
	ErrEncode = errors.New("pgsession: values cannot be encoded")

	// ErrDecode says that the values do not fit the target.
	ErrDecode = errors.New("pgsession: values do not fit the target")

	// ErrTampered says that a row does not open: it is not what this store
	// wrote there.
	ErrTampered = errors.New("pgsession: session does not open")

	// ErrUnknownKey says that a row was sealed under a key that is not in the
	// key ring.
	ErrUnknownKey = errors.New("pgsession: session is sealed under an unknown key")

	// ErrSchema says that the table is not one of ours, or is newer than this
	// release.
	ErrSchema = errors.New("pgsession: unexpected table")
)

// errNotStored is the answer to an INSERT that a trigger swallowed.
var errNotStored = errors.New("the server stored nothing, and said that all is well")

type notFoundError struct{ text string }

func (e *notFoundError) Error() string { return e.text }
func (e *notFoundError) Unwrap() error { return ErrNotFound }

// An Option changes how a store behaves. It is given to [New] or [Plaintext], which
// panic where it says that it does.
type Option func(*options)

type options struct {
	clock            Clock
	table            string
	logger           *slog.Logger
	maxSize          int
	absoluteLifetime time.Duration
	places           int // negative: from the pool's size
}

// WithClock sets the clock by which sessions expire, for tests. The default is
// [SystemClock]. A nil clock panics.
func WithClock(clock Clock) Option {
	return func(o *options) {
		if clock == nil {
			panic("pgsession: WithClock: nil clock")
		}
		o.clock = clock
	}
}

// WithTable sets the table's name: "sessions", the default, or with a schema,
// "web.sessions". The name is quoted, so that capitals and blanks stay as they
// are. A name of three parts, with an empty part, or with a part of more than 63
// bytes (PostgreSQL's limit for a name) panics.
func WithTable(name string) Option {
	return func(o *options) { o.table = name }
}

// WithLogger sets the logger for the clean-up and the health checks. The
// default, also for nil, is [slog.Default].
func WithLogger(logger *slog.Logger) Option {
	return func(o *options) {
		if logger != nil {
			o.logger = logger
		}
	}
}

// WithMaxSize sets how many bytes a session's values may have, encoded. The
// default is 64 KiB, and 0 is no limit. A negative number panics.
func WithMaxSize(bytes int) Option {
	return func(o *options) {
		if bytes < 0 {
			panic("pgsession: WithMaxSize: negative size")
		}
		o.maxSize = bytes
	}
}

// WithAbsoluteLifetime ends sessions so long after the log-in, however often they
// are touched; their rows stay until the ttl is over too. The default, 0, is never. OWASP recommends 4 to 8 hours for an
// application that is used all day (Session Management Cheat Sheet, "Absolute
// Timeout"). A negative duration panics.
func WithAbsoluteLifetime(d time.Duration) Option {
	return func(o *options) {
		if d < 0 {
			panic("pgsession: WithAbsoluteLifetime: negative duration")
		}
		o.absoluteLifetime = d
	}
}

// WithCoalescing sets how many statements of one kind (load, save, put, touch,
// delete) may be in flight before further calls queue, to share the next one. The
// default is a fifth of the pool's connections, between 2 and 8, and 0 turns
// sharing off. Most applications will not need this: a call that finds less than n
// in flight goes out at once by itself, and nothing ever waits for company.
//
// A shared statement runs under a context of its own, so that tracers see none of
// the callers' values; and where a row is locked by somebody else, it waits with
// all its callers. A negative number panics.
func WithCoalescing(n int) Option {
	return func(o *options) {
		if n < 0 {
			panic("pgsession: WithCoalescing: negative number")
		}
		o.places = n
	}
}

// A Store keeps sessions in one table of a PostgreSQL database. It is safe for
// concurrent use, and several stores, in several processes, may share the table.
// It never closes the pool. It is made by [New] or [Plaintext].
type Store struct {
	options
	shared
	saving, putting writeKind

	pool     *pgxpool.Pool
	codec    codec
	crypto   *Crypto           // nil in a plaintext store
	fill     *strings.Replacer // of templates
	sql      []string          // by statement
	fallback []string          // by statement, without {lock} and {few}
	fellBack atomic.Bool       // see text
	stats    counters
	cleanups cleanupRegistry
}

// New returns a store that seals what it writes with crypto. Give each table keys of
// its own: a payload is bound to its row and its keys, and not to the table's name. It
// panics where pool is nil, or crypto is nil or holds no keys.
func New(pool *pgxpool.Pool, crypto *Crypto, opts ...Option) *Store {
	if crypto == nil || !crypto.hasKeys() {
		panic("pgsession: New: no crypto")
	}
	return newStore(pool, sealedCodec{crypto}, crypto, opts)
}

// Plaintext returns a store that encrypts nothing, for development: values can be
// read and edited in psql. It logs a warning. It panics where pool is nil.
func Plaintext(pool *pgxpool.Pool, opts ...Option) *Store {
	s := newStore(pool, plainCodec{}, nil, opts)
	s.logger.Warn("pgsession: sessions are stored in plaintext; use pgsession.New in production")
	return s
}

func newStore(pool *pgxpool.Pool, codec codec, crypto *Crypto, opts []Option) *Store {
	if pool == nil {
		panic("pgsession: nil pool")
	}
	s := &Store{
		options: options{
			clock:   SystemClock{},
			table:   defaultTable,
			logger:  slog.Default(),
			maxSize: defaultMaxSize,
			places:  -1,
		},
		pool:   pool,
		codec:  codec,
		crypto: crypto,
	}
	for _, opt := range opts {
		opt(&s.options)
	}
	payload, other := codec.columns()
	s.fill = strings.NewReplacer(
		"{sessions}", parseTable(s.table).Sanitize(),
		"{columns}", "s.key, s.user_key, s."+payload+", s.version, s.created_at, s.expires_at",
		"{new payload}", codec.fromBytes(newPayload), "{new expires_at}", newExpiresAt, "{new expires_hour}", newExpiresHour,
		"{payload}", payload, "{other}", other,
		"{lock}", "FOR UPDATE OF s", "{few}", "LIMIT (SELECT NULL::bigint)",
		// In this form the planner expects most rows to pass, and keeps the index.
		"{ours}", "(octet_length(s.key) = 32)::int <> 0",
		"{stored}", "(s.data IS NOT NULL OR s.sealed IS NOT NULL)",
		"{live}", "(s.data IS NOT NULL OR s.sealed IS NOT NULL) AND s.expires_at > $1 AND s.created_at >= $2",
		// Whoever plants the largest bigint must not make a row that no
		// statement can end.
		"{next}", "(s.version & x'3fffffffffffffff'::bigint) + 1",
	)
	for _, template := range templates {
		template = valueParameter.ReplaceAllString(template, codec.fromBytes("${1}::bytea"))
		s.sql = append(s.sql, s.fill.Replace(template))
		s.fallback = append(s.fallback, s.fill.Replace(strings.NewReplacer("{lock}", "", "{few}", "").Replace(template)))
	}
	if s.places < 0 {
		s.places = defaultPlaces(pool)
	}
	s.shared = s.newShared(s.places)
	s.saving = writeKind{operation: "save", shared: s.saves.Do, alone: s.save, ended: ErrNotFound, gone: ErrNotFound}
	s.putting = writeKind{operation: "put", shared: s.puts.Do, alone: s.put, ended: ErrRevoked}
	return s
}

// A statement is SQL that stands beside its only caller, as a template that
// newStore fills in: the table's name {sessions}, always with the alias s; the
// {columns} that make a session; {payload} and {other}; the {value $1} of a parameter
// as the payload's type; the {new payload} and so on of newRows; the conditions
// {stored}, which a tombstone fails, and {live}, for which $1 and $2 are what times
// returns; the {next} version; the {lock} on the rows of a list; and the condition
// {ours}, since a key of another length has no handle. The names of common table
// expressions are long, since they hide a table of the same name.
//
// Behind a list stands {few}, which limits nothing. The planner, who does not see that,
// expects a tenth of the list: one row. Otherwise a short list seems to cost less than
// the ten elements that it assumes of a list it does not know, and it plans the
// statement anew at each call; or it keeps a plan from when the table was small, which
// reads all of it.
type statement int

var (
	templates      []string
	valueParameter = regexp.MustCompile(`\{value (\$[0-9]+)\}`)
)

func newStatement(template string) statement {
	templates = append(templates, template)
	return statement(len(templates) - 1)
}

// text returns a statement as this server takes it. Whoever writes several rows locks
// them in key order first, so that no two wait for each other; a table that Citus
// distributes has no such lock, and there the retry after a deadlock serves alone. It may
// not take {few} either.
func (s *Store) text(sql statement) string {
	if s.fellBack.Load() {
		return s.fallback[sql]
	}
	return s.sql[sql]
}

// times returns the time as the table keeps it, in UTC and whole microseconds, and
// when the oldest session may have begun that lives now.
func (s *Store) times() (now, oldest time.Time) {
	now = s.clock.Now().UTC().Truncate(time.Microsecond)
	if s.absoluteLifetime > 0 {
		oldest = now.Add(time.Microsecond - s.absoluteLifetime)
	}
	return now, oldest
}

func (s *Store) checkTTL(ttl time.Duration) error {
	now, _ := s.times()
	if ttl <= 0 || ttl > maxTTL || expiry(now, ttl).Year() > 9999 {
		return ErrInvalidTTL
	}
	return nil
}

// expiry returns now plus ttl, rounded up to what the table can keep: no session
// is born expired.
func expiry(now time.Time, ttl time.Duration) time.Time {
	return now.Add(roundUp(ttl, time.Microsecond))
}

func roundUp(d, unit time.Duration) time.Duration { return (d + unit - 1) / unit * unit }

// hourAfter returns t rounded up to the hour, for the column expires_hour.
func hourAfter(t time.Time) time.Time {
	hour := t.Truncate(time.Hour)
	if hour.Before(t) {
		hour = hour.Add(time.Hour)
	}
	return hour
}

// A row is what a write stores under a handle. Its ttl begins when the statement is
// sent.
type row struct {
	handle  Handle
	userKey []byte
	payload []byte
	// formerKeys are the values of user_key under which the user's row may still
	// lie while the ring holds several keys; nil is NULL, which equals nothing.
	formerKeys [][]byte
	ttl        time.Duration
}

func (s *Store) newRow(handle Handle, data Data, ttl time.Duration) (row, error) {
	if err := s.checkTTL(ttl); err != nil {
		return row{}, err
	}
	r, err := s.encode(handle, data)
	r.ttl = ttl
	return r, err
}

func (s *Store) encode(handle Handle, data Data) (row, error) {
	if len(data.UserID) > maxUserIDSize {
		return row{}, errUserIDTooLarge(data.UserID)
	}
	encoded, err := encodeValues(data.Values, s.maxSize)
	if err != nil {
		return row{}, err
	}
	userKey, payload, err := s.codec.encode(handle, data.UserID, encoded)
	if err != nil {
		return row{}, fmt.Errorf("pgsession: seal: %w", err)
	}
	return row{handle: handle, userKey: userKey, payload: payload, formerKeys: s.codec.formerKeys(data.UserID)}, nil
}

func errUserIDTooLarge(userID string) error {
	return fmt.Errorf("%w: a user id of %d bytes, where %d are allowed", ErrTooLarge, len(userID), maxUserIDSize)
}

// Create stores a new session and returns its id, whose [ID.Token] is the cookie's
// value. Errors: [ErrInvalidTTL], [ErrTooLarge], [ErrEncode].
func (s *Store) Create(ctx context.Context, data Data, ttl time.Duration) (ID, error) {
	id := NewID()
	r, err := s.newRow(id.handle, data, ttl)
	if err != nil {
		return ID{}, err
	}
	now, _ := s.times()
	expires := expiry(now, ttl)
	n, err := s.exec(ctx, insertSQL, r.handle.sum[:], r.userKey, r.payload, firstVersion(), now, expires, hourAfter(expires))
	if err == nil && n == 0 {
		err = errNotStored
	}
	if err != nil {
		return ID{}, s.wrap("create", err)
	}
	s.stats.saves.Add(1)
	return id, nil
}

var insertSQL = newStatement(`
	INSERT INTO {sessions} (key, user_key, {payload}, version, created_at, expires_at, expires_hour)
	VALUES ($1, $2, {value $3}, $4, $5, $6, $7)`)

// firstVersion is random, so that a row which was removed and written anew within
// one tick of the clock is not taken for the one before. It is small enough for any
// JSON reader.
func firstVersion() int64 { return 1 + rand.Int64N(1<<52) }

// Load returns a live session. Errors: [ErrNotFound], [ErrTampered],
// [ErrUnknownKey].
func (s *Store) Load(ctx context.Context, id ID) (*Session, error) {
	s.stats.loads.Add(1)
	if id.IsZero() {
		return nil, ErrNotFound
	}
	session, err := s.loads.Do(ctx, id.handle)
	switch {
	case err != nil:
		return nil, s.wrap("load", err)
	case session == nil:
		return nil, ErrNotFound
	case session.broken != nil:
		return nil, session.broken
	}
	s.stats.hits.Add(1)
	return session, nil
}

// load returns nil where there is no live session.
func (s *Store) load(ctx context.Context, handle Handle) (found *Session, err error) {
	now, oldest := s.times()
	err = s.retryRead(ctx, func() error {
		found = nil
		return s.query(ctx, now, func(session *Session) { found = session }, s.sql[loadSQL], now, oldest, handle.sum[:])
	})
	return found, err
}

var loadSQL = newStatement(`
	SELECT {columns}
	FROM {sessions} AS s
	WHERE s.key = $3 AND {live}`)

// Save replaces a live session's values, and lets it expire after ttl. The user
// stays: data must name the session's. Save overwrites what others wrote since the
// session was loaded, where [Store.Update] does not. Errors: [ErrNotFound],
// [ErrUserChanged], [ErrInvalidTTL], [ErrTooLarge], [ErrEncode].
func (s *Store) Save(ctx context.Context, id ID, data Data, ttl time.Duration) error {
	if id.IsZero() {
		return ErrNotFound
	}
	r, err := s.newRow(id.handle, data, ttl)
	if err != nil {
		return err
	}
	return s.write(ctx, r, data, &s.saving)
}

// save reports whether there was a live session of that user's to write.
func (s *Store) save(ctx context.Context, r row) (written bool, err error) {
	now, oldest := s.times()
	expires := expiry(now, r.ttl)
	n, err := s.exec(ctx, saveSQL, now, oldest, r.handle.sum[:], r.userKey, r.payload, expires, hourAfter(expires), r.formerKeys)
	return n > 0, err
}

var saveSQL = newStatement(`
	UPDATE {sessions} AS s
	SET user_key = $4, {payload} = {value $5}, {other} = NULL, version = {next}, expires_at = $6, expires_hour = $7
	WHERE s.key = $3 AND {live} AND (s.user_key IS NOT DISTINCT FROM $4 OR s.user_key = ANY($8::bytea[]))`)

// writeKind is what tells Save and Put apart.
type writeKind struct {
	operation string
	shared    func(context.Context, row) (bool, error) // may leave a row under a former key
	alone     func(context.Context, row) (bool, error)
	ended     error // for a tombstone
	gone      error // for no row, or an expired one; nil where that is worth another try
}

func (s *Store) write(ctx context.Context, r row, data Data, kind *writeKind) error {
	run := kind.shared
	if len(r.payload) > maxShared {
		run = kind.alone
	}
	for range retryAttempts {
		written, err := run(ctx, r)
		if err != nil {
			return s.wrap(kind.operation, err)
		}
		if written {
			s.stats.saves.Add(1)
			return nil
		}
		// The key ring may have changed since, and the user's keys with it.
		if r, err = s.newRow(r.handle, data, r.ttl); err != nil {
			return err
		}
		if err := s.explainRefusal(ctx, r, kind); err != nil {
			return err
		}
		run = kind.alone
	}
	return ErrConflict
}

// explainRefusal tells why there was no row that might be written. It returns nil
// where there may be one by now.
func (s *Store) explainRefusal(ctx context.Context, r row, kind *writeKind) error {
	var stored, live, sameUser bool
	err := s.retryRead(ctx, func() error {
		now, oldest := s.times()
		return s.pool.QueryRow(ctx, s.sql[explainSQL], now, oldest, r.handle.sum[:], r.userKey, r.formerKeys).Scan(&stored, &live, &sameUser)
	})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return kind.gone
	case err != nil:
		return s.wrap(kind.operation, err)
	case !stored:
		s.stats.revoked.Add(1)
		return kind.ended
	case !live:
		return kind.gone
	case !sameUser:
		return ErrUserChanged
	}
	return nil
}

var explainSQL = newStatement(`
	SELECT {stored}, {live}, s.user_key IS NOT DISTINCT FROM $4 OR coalesce(s.user_key = ANY($5::bytea[]), false)
	FROM {sessions} AS s
	WHERE s.key = $3`)

// Update changes a live session's values without losing a change that somebody
// else made: it loads the session, calls change, and writes the values that change
// returns if the session is still as it was loaded; otherwise it begins anew.
// So change may run several times, and must not keep what it was given. Its error
// is returned as it is, and nothing is written. A ttl of 0 keeps the expiry; the
// user stays. Errors: those of change, [ErrNotFound], [ErrConflict],
// [ErrTampered], [ErrUnknownKey], [ErrInvalidTTL], [ErrTooLarge], [ErrEncode].
func (s *Store) Update(ctx context.Context, id ID, ttl time.Duration, change func(*Session) (values any, err error)) error {
	if ttl != 0 {
		if err := s.checkTTL(ttl); err != nil {
			return err
		}
	}
	for attempt := range updateAttempts {
		if attempt > 0 {
			s.stats.conflicts.Add(1)
			if err := pause(ctx, attempt); err != nil {
				return s.wrap("update", err)
			}
		}
		written, err := s.tryUpdate(ctx, id, ttl, change)
		if written || err != nil {
			return err
		}
	}
	return ErrConflict
}

func (s *Store) tryUpdate(ctx context.Context, id ID, ttl time.Duration, change func(*Session) (any, error)) (written bool, err error) {
	session, err := s.Load(ctx, id)
	if err != nil {
		return false, err
	}
	loaded := *session // change is free to write on its copy
	changed, err := change(session)
	if err != nil {
		return false, err
	}
	r, err := s.encode(id.handle, Data{UserID: loaded.UserID, Values: changed})
	if err != nil {
		return false, err
	}
	now, oldest := s.times()
	var expires, expiresHour *time.Time
	if ttl != 0 {
		at := expiry(now, ttl)
		hour := hourAfter(at)
		expires, expiresHour = &at, &hour
	}
	n, err := s.exec(ctx, swapSQL, now, oldest, r.handle.sum[:], r.userKey, r.payload, expires, expiresHour, loaded.Version, loaded.CreatedAt)
	if err != nil {
		return false, s.wrap("update", err)
	}
	s.stats.saves.Add(n)
	return n > 0, nil
}

var swapSQL = newStatement(`
	UPDATE {sessions} AS s
	SET user_key = $4, {payload} = {value $5}, {other} = NULL, version = {next},
		expires_at = coalesce($6::timestamptz, s.expires_at), expires_hour = coalesce($7::timestamptz, s.expires_hour)
	WHERE s.key = $3 AND {live} AND s.version = $8 AND s.created_at = $9`)

// Touch lets a live session expire after ttl, unless it would live longer as it
// is: it never shortens. It writes nothing where it would gain less than a tenth
// of ttl, so that it may be called at each request; [Session.TTL] spares most of
// the calls. Errors: [ErrNotFound], [ErrInvalidTTL].
func (s *Store) Touch(ctx context.Context, id ID, ttl time.Duration) error {
	if id.IsZero() {
		return ErrNotFound
	}
	if err := s.checkTTL(ttl); err != nil {
		return err
	}
	for range retryAttempts {
		found, err := s.touches.Do(ctx, touch{id.handle, ttl})
		switch {
		case err != nil:
			return s.wrap("touch", err)
		case found == notLive:
			return ErrNotFound
		case found == liveLongEnough:
			return nil
		}
	}
	return ErrConflict
}

// touched is what a touch found, and left.
type touched int

const (
	notLive touched = iota
	liveLongEnough
	// overtaken is a session that was live when the statement began, and had been
	// ended or prolonged by somebody else when its row could be written.
	overtaken
)

func foundLive(longEnough bool) touched {
	if longEnough {
		return liveLongEnough
	}
	return overtaken
}

type touch struct {
	handle Handle
	ttl    time.Duration
}

// expiries returns the new expiry, and the latest old one that is worth moving.
func (t touch) expiries(now time.Time) (expires, worthwhile time.Time) {
	expires = expiry(now, t.ttl)
	return expires, expires.Add(-max(roundUp(t.ttl/10, time.Microsecond), time.Microsecond))
}

func (s *Store) touch(ctx context.Context, t touch) (touched, error) {
	var longEnough bool
	err := s.retry(ctx, func() error {
		now, oldest := s.times()
		expires, worthwhile := t.expiries(now)
		return s.pool.QueryRow(ctx, s.sql[touchSQL], now, oldest, t.handle.sum[:], expires, hourAfter(expires), worthwhile).Scan(&longEnough)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return notLive, nil
	}
	return foundLive(longEnough), err
}

var touchSQL = newStatement(`
	WITH pgsession_extended AS (
		UPDATE {sessions} AS s
		SET version = {next}, expires_at = $4, expires_hour = $5
		WHERE s.key = $3 AND {live} AND s.expires_at <= $6
		RETURNING s.key
	)
	SELECT s.expires_at > $6 OR EXISTS (SELECT FROM pgsession_extended)
	FROM {sessions} AS s
	WHERE s.key = $3 AND {live}`)

// Cycle moves a live session to a new id, from [NewID], with new data: at every
// change of who the user is, log-in above all, so that an id which somebody knew
// before is worth nothing after. It happens at one instant: nobody sees both ids
// live, or neither. created_at stays where the user stays, and begins anew where
// it changes. Errors: [ErrNotFound] where the old session is not live, [ErrExists]
// where the new id is taken, [ErrInvalidTTL], [ErrTooLarge], [ErrEncode].
func (s *Store) Cycle(ctx context.Context, oldID, newID ID, data Data, ttl time.Duration) error {
	if oldID.IsZero() || newID.IsZero() {
		return ErrNotFound
	}
	r, err := s.newRow(newID.handle, data, ttl)
	if err != nil {
		return err
	}
	var cycled bool
	err = s.retry(ctx, func() error {
		cycled, err = s.cycle(ctx, oldID.handle, r)
		return err
	})
	switch {
	case sqlState(err) == uniqueViolation:
		return ErrExists
	case err != nil:
		return s.wrap("cycle", err)
	case !cycled:
		return ErrNotFound
	}
	s.stats.saves.Add(1)
	return nil
}

// cycle reports whether the old session was live.
func (s *Store) cycle(ctx context.Context, old Handle, r row) (cycled bool, err error) {
	// Only the tombstone that this very attempt leaves bears the marker, so that of
	// racing cycles one alone finds what it looks for.
	marker := rand.Int64()
	now, oldest := s.times()
	grave, expires := now.Add(tombstoneLife), expiry(now, r.ttl)
	batch := &pgx.Batch{}
	batch.Queue(s.sql[cycleOldSQL], now, oldest, old.sum[:], r.userKey, r.formerKeys, marker, grave, hourAfter(grave))
	batch.Queue(s.sql[cycleNewSQL], r.handle.sum[:], r.userKey, r.payload, firstVersion(), expires, hourAfter(expires), old.sum[:], marker)
	results := s.pool.SendBatch(ctx, batch)
	// The batch is one transaction, and Close its commit.
	defer func() {
		if closeErr := results.Close(); err == nil {
			err = closeErr
		}
	}()
	if _, err := results.Exec(); err != nil {
		return false, err
	}
	inserted, err := results.Exec()
	return inserted.RowsAffected() > 0, err
}

var cycleOldSQL = newStatement(`
	UPDATE {sessions} AS s
	SET user_key = NULL, data = NULL, sealed = NULL, version = $6,
		created_at = CASE WHEN s.user_key IS NOT DISTINCT FROM $4 OR s.user_key = ANY($5::bytea[]) THEN s.created_at ELSE $1 END,
		expires_at = greatest(s.expires_at, $7), expires_hour = greatest(s.expires_hour, $8)
	WHERE s.key = $3 AND {live}`)

var cycleNewSQL = newStatement(`
	INSERT INTO {sessions} (key, user_key, {payload}, version, created_at, expires_at, expires_hour)
	SELECT $1::bytea, $2::bytea, {value $3}, $4::bigint, s.created_at, $5::timestamptz, $6::timestamptz
	FROM {sessions} AS s
	WHERE s.key = $7 AND s.version = $8`)

// Delete ends a session, for good: nothing brings it back. Ending a session that
// is not there, or was ended, is no error.
func (s *Store) Delete(ctx context.Context, id ID) error {
	if id.IsZero() {
		return nil
	}
	if _, err := s.deletes.Do(ctx, id.handle); err != nil {
		return s.wrap("delete", err)
	}
	return nil
}

func (s *Store) delete(ctx context.Context, handle Handle) (none struct{}, err error) {
	now, _ := s.times()
	grave := now.Add(tombstoneLife)
	_, err = s.exec(ctx, deleteSQL, handle.sum[:], grave, hourAfter(grave))
	return none, err
}

var deleteSQL = newStatement(`
	UPDATE {sessions} AS s
	SET user_key = NULL, data = NULL, sealed = NULL, version = {next},
		expires_at = greatest(s.expires_at, $2), expires_hour = greatest(s.expires_hour, $3)
	WHERE s.key = $1 AND {stored}`)

// Put stores a session under an id of the caller's, whether there is one or not.
// It is for adapters to frameworks that cannot say whether they create or replace;
// applications use [Store.Create] and [Store.Save]. It does not bring back a
// session that was ended, as long as the tombstone stands: until the session would
// have expired, and for an hour at least. Errors: [ErrRevoked], [ErrUserChanged]
// where a live session is another user's, [ErrNotFound] for the zero ID,
// [ErrInvalidTTL], [ErrTooLarge], [ErrEncode].
func (s *Store) Put(ctx context.Context, id ID, data Data, ttl time.Duration) error {
	if id.IsZero() {
		return ErrNotFound
	}
	r, err := s.newRow(id.handle, data, ttl)
	if err != nil {
		return err
	}
	return s.write(ctx, r, data, &s.putting)
}

// put reports whether no tombstone stood there, and no other user's live session.
func (s *Store) put(ctx context.Context, r row) (written bool, err error) {
	now, oldest := s.times()
	expires := expiry(now, r.ttl)
	n, err := s.exec(ctx, putSQL, now, oldest, r.handle.sum[:], r.userKey, r.payload, firstVersion(), expires, hourAfter(expires), r.formerKeys)
	return n > 0, err
}

var putSQL = newStatement(`
	INSERT INTO {sessions} AS s (key, user_key, {payload}, version, created_at, expires_at, expires_hour)
	VALUES ($3, $4, {value $5}, $6, $1, $7, $8)
	ON CONFLICT (key) DO UPDATE
	SET user_key = excluded.user_key, {payload} = excluded.{payload}, {other} = NULL, version = {next},
		created_at = CASE WHEN {live} THEN s.created_at ELSE excluded.created_at END,
		expires_at = excluded.expires_at, expires_hour = excluded.expires_hour
	WHERE {stored} AND (NOT ({live}) OR s.user_key IS NOT DISTINCT FROM excluded.user_key OR s.user_key = ANY($9::bytea[]))`)

// query runs a SELECT of {columns}, and gives each session to found as soon as its row
// has come. An error may follow.
func (s *Store) query(ctx context.Context, now time.Time, found func(*Session), sql string, args ...any) error {
	rows, err := s.pool.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	scanner := s.newScanner(now)
	for rows.Next() {
		session, err := scanner.scan(rows)
		if err != nil {
			return err
		}
		found(session)
	}
	return rows.Err()
}

// A scanner reads rows of {columns}, all rows of a result one after the other.
type scanner struct {
	store                 *Store
	now                   time.Time
	key, userKey, payload pgtype.DriverBytes // the driver's, until the next row
	version               int64
	created, expires      pgtype.Timestamptz // a time.Time would fail on infinity
	targets               []any
}

func (s *Store) newScanner(now time.Time) *scanner {
	row := &scanner{store: s, now: now}
	row.targets = []any{&row.key, &row.userKey, &row.payload, &row.version, &row.created, &row.expires}
	return row
}

// scan reads the current row. What is wrong with it is for the session to say, so
// that a hostile row does not hide the others; an error is the database's.
func (row *scanner) scan(rows pgx.Rows) (*Session, error) {
	if err := rows.Scan(row.targets...); err != nil {
		return nil, err
	}
	s := row.store
	found := &Session{Version: row.version, loadedAt: row.now}
	copy(found.Handle.sum[:], row.key)
	if len(row.key) != len(found.Handle.sum) || !isPlausible(row.created) || !isPlausible(row.expires) {
		found.broken = ErrTampered
	} else {
		found.CreatedAt, found.ExpiresAt = row.created.Time.UTC(), row.expires.Time.UTC()
		if end := found.CreatedAt.Add(s.absoluteLifetime); s.absoluteLifetime > 0 && end.Before(found.ExpiresAt) {
			found.ExpiresAt = end
		}
		found.UserID, found.values, found.broken = s.codec.decode(found.Handle, row.userKey, row.payload)
	}
	switch found.broken {
	case ErrTampered:
		s.stats.tampered.Add(1)
	case ErrUnknownKey:
		s.stats.unknownKey.Add(1)
	}
	return found, nil
}

// isPlausible reports whether a store of ours may have written t.
func isPlausible(t pgtype.Timestamptz) bool {
	return t.InfinityModifier == pgtype.Finite && !t.Time.Before(yearZero) && t.Time.Before(yearTenThousand)
}

var (
	yearZero        = time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)
	yearTenThousand = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)
)

// exec runs a statement, and returns how many rows it wrote or found.
func (s *Store) exec(ctx context.Context, sql statement, args ...any) (int64, error) {
	var tag pgconn.CommandTag
	err := s.retry(ctx, func() (err error) {
		tag, err = s.pool.Exec(ctx, s.text(sql), args...)
		return err
	})
	return tag.RowsAffected(), err
}

// retry runs a statement again that certainly left no trace: the server rolled it
// back for the sake of another transaction, or it was never sent.
func (s *Store) retry(ctx context.Context, run func() error) error {
	return s.retryWhen(ctx, s.leftNoTrace, run)
}

// retryRead runs a read again also where its connection was lost.
func (s *Store) retryRead(ctx context.Context, run func() error) error {
	return s.retryWhen(ctx, func(err error) bool { return s.leftNoTrace(err) || isConnectionLost(err) }, run)
}

func (s *Store) retryWhen(ctx context.Context, again func(error) bool, run func() error) error {
	for attempt := 1; ; attempt++ {
		err := run()
		if err == nil || ctx.Err() != nil || attempt == retryAttempts || !again(err) {
			return err
		}
		if pause(ctx, attempt) != nil {
			return err
		}
	}
}

// pause waits for a random while, longer at each attempt, so that those who met
// do not meet again.
func pause(ctx context.Context, attempt int) error {
	longest := min(time.Millisecond<<min(attempt, 6), 50*time.Millisecond)
	timer := time.NewTimer(rand.N(longest))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// The SQLSTATEs that make a difference (PostgreSQL manual, appendix A).
const (
	uniqueViolation      = "23505"
	serializationFailure = "40001"
	deadlockDetected     = "40P01"
	featureNotSupported  = "0A000"
	duplicateTable       = "42P07"
	undefinedTable       = "42P01"
	undefinedColumn      = "42703"

	classConnectionException  = "08"
	classProgramLimitExceeded = "54"
)

// refusedByJSONB are the SQLSTATEs with which jsonb refuses a text.
var refusedByJSONB = []string{
	"22003", // numeric_value_out_of_range
	"22021", // character_not_in_repertoire
	"22P02", // invalid_text_representation
	"22P05", // untranslatable_character
}

// serverError returns what the server answered, or nil.
func serverError(err error) *pgconn.PgError {
	var server *pgconn.PgError
	errors.As(err, &server)
	return server
}

func sqlState(err error) string {
	if server := serverError(err); server != nil {
		return server.Code
	}
	return ""
}

// isFatal reports whether the connection ended with the answer. PgBouncer, which
// speaks for a server that it lost, leaves the unlocalized severity out.
func isFatal(server *pgconn.PgError) bool {
	severity := cmp.Or(server.SeverityUnlocalized, server.Severity)
	return severity == "FATAL" || severity == "PANIC" || strings.HasPrefix(server.Code, classConnectionException)
}

func (s *Store) leftNoTrace(err error) bool {
	switch sqlState(err) {
	case serializationFailure, deadlockDetected:
		return true
	case featureNotSupported:
		// Either a plan from before a change of the table, or what the fallback
		// does without.
		if serverError(err).Routine != "RevalidateCachedQuery" {
			s.fellBack.Store(true)
		}
		return true
	case "":
		return pgconn.SafeToRetry(err)
	}
	return false
}

// isConnectionLost reports whether an established connection broke, or the server
// closed it. A connection that could not be made is an outage to be told at once.
func isConnectionLost(err error) bool {
	if server := serverError(err); server != nil {
		return isFatal(server)
	}
	var connecting *pgconn.ConnectError
	var network *net.OpError
	return !errors.As(err, &connecting) &&
		(errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed))
}

// wrap names the operation that failed, and what to do about it where that is
// known.
func (s *Store) wrap(operation string, err error) error {
	state := sqlState(err)
	switch {
	case state == undefinedTable:
		return fmt.Errorf("pgsession: %s: there is no table %s; call Init at start-up: %w", operation, s.table, err)
	case state == undefinedColumn:
		return fmt.Errorf("pgsession: %s: table %s: %w; Init tells what differs: %w", operation, s.table, ErrSchema, err)
	case s.crypto == nil && (slices.Contains(refusedByJSONB, state) || strings.HasPrefix(state, classProgramLimitExceeded)):
		return fmt.Errorf("%w: jsonb refuses them (SQLSTATE %s)", ErrEncode, state)
	}
	return fmt.Errorf("pgsession: %s: %w", operation, err)
}
