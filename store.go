// Package pgsession keeps the sessions of web applications in PostgreSQL. Applications on net/http
// use package httpsession, which is built on this one and handles the cookie.
//
// Call [New] with a pgx pool and a [Crypto] for a store that seals everything it writes, and
// [Store.Init] at start-up, which creates the table. At a log-in, call [Store.Renew] if the guest
// already has a session, and otherwise [Store.Create], and set [ID.Token] as the cookie. In a
// request, call [ParseID] and [Store.Load], and [Store.Touch] to keep the session alive.
// [Store.Update] changes its values without losing another caller's change. [Store.Delete] logs
// out. [Store.SpawnCleanup] removes what has expired. [Store.Check] and [Store.HealthHandler] are
// for a health endpoint. [InMemory] is the same store without a database, for tests and first
// steps.
//
// # What it promises
//
// A session that was ended stays ended, whatever was in flight. A write that returned nil is
// durable. No id changes hands: who the user is changes only through [Store.Renew] and
// [Store.Cycle], under a new id. [ErrNotFound] means that the session is provably absent, expired
// or ended, and never that the database could not be asked. A stolen table reveals no tokens, users
// or values, and a row that was edited gives [ErrTampered]. Every operation ends within its
// context and [WithTimeout], and at most 0.2 seconds later.
//
// # Errors
//
// Test for the package's variables with [errors.Is]. The comment of each function names those that
// it returns. Each function that asks the database may also return an error of the database or of
// its context, wrapped with the operation. No message holds a token, a key, a user id or a value.
//
// A write that returned such an error may have taken effect, or may still take effect, as with
// every database. That is not later than WithTimeout after it began, if the server hears that it
// was given up. If the network is cut while it waits for a row that is locked, it takes effect when
// the row is free. The setting lock_timeout bounds that.
//
// # Compatibility
//
// The payload's first byte names its format, and the table's comment names the schema's version.
// Later releases read the rows that a release has written.
package pgsession

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsession/pgsession/internal/backoff"
	"github.com/pgsession/pgsession/internal/pgtable"
	"github.com/pgsession/pgsession/internal/rows"
	"github.com/pgsession/pgsession/internal/turns"
)

// updateAttempts bounds how often Update and Renew run against other writers. In each round one of
// them succeeds, so that at least this many can compete.
const updateAttempts = 100

// turnPatience is how long Updates and Renews of one session wait for one of them that has its
// turn. A function given to Update might itself update the session, and would otherwise wait for
// itself.
const turnPatience = 200 * time.Millisecond

// A Store keeps sessions in one table. Make it with [New], [Plaintext] or [InMemory]. It is safe
// for concurrent use. Several stores, in several processes, may share a table. It never closes the
// pool.
type Store struct {
	options
	table     rows.Table
	codec     codec
	crypto    *Crypto // nil unless made by New
	stats     counters
	cleanups  cleanupRegistry
	probes    probes
	elsewhere elsewhere
	turns     turns.Turns[rows.Key, *Session] // of Updates and Renews of one session, after a conflict
	watches   watches
}

// New returns a store in PostgreSQL that seals what it writes with crypto. Give each table keys of
// its own, since a payload is bound to its row and its keys, and not to the table's name. New
// panics if pool is nil, or if crypto is nil or holds no keys.
func New(pool *pgxpool.Pool, crypto *Crypto, opts ...Option) *Store {
	if crypto == nil || !crypto.hasKeys() {
		panic("pgsession: New: no crypto")
	}
	s := newStore(opts, sealedCodec{crypto})
	s.crypto = crypto
	s.table = s.newTable(pool, false)
	return s
}

// Plaintext returns a store in PostgreSQL that encrypts nothing, for development: values can be
// read and edited in psql. It logs a warning. It panics if pool is nil.
func Plaintext(pool *pgxpool.Pool, opts ...Option) *Store {
	s := newStore(opts, plainCodec{})
	s.table = s.newTable(pool, true)
	s.logger.Warn("pgsession: sessions are stored in plaintext; use pgsession.New in production")
	return s
}

// InMemory returns a store without a database, for tests and first steps. Its sessions are gone
// with the process. It behaves as a store in PostgreSQL, but seals nothing. [WithTable],
// [WithTimeout] and [WithCoalescing] change nothing.
func InMemory(opts ...Option) *Store {
	s := newStore(opts, plainCodec{})
	s.table = rows.NewMemory(s.now)
	return s
}

func newStore(opts []Option, codec codec) *Store {
	s := &Store{options: newOptions(opts), codec: codec}
	s.turns.Patience = cmp.Or(s.patience, turnPatience)
	return s
}

func (s *Store) newTable(pool *pgxpool.Pool, plaintext bool) rows.Table {
	if pool == nil {
		panic("pgsession: nil pool")
	}
	s.watches.apart = pgtable.DependsOnContext(pool)
	_, isManual := s.clock.(*ManualClock)
	return pgtable.New(pgtable.Config{
		Pool:           pool,
		Name:           s.options.table,
		Plaintext:      plaintext,
		Now:            s.now,
		ServerClockToo: !isManual,
		Timeout:        s.timeout,
		MaxInFlight:    s.maxInFlight,
		Patience:       s.patience,
	})
}

func (s *Store) now() time.Time { return rows.Time(s.clock.Now()) }

// checkTTL returns a ttl in whole microseconds.
func (s *Store) checkTTL(ttl time.Duration) (time.Duration, error) {
	if !rows.IsValidTTL(ttl, s.now()) {
		return 0, ErrInvalidTTL
	}
	return rows.RoundUp(ttl), nil
}

// checkTTLOrKeep is checkTTL for an operation that keeps the expiry if ttl is 0.
func (s *Store) checkTTLOrKeep(ttl time.Duration) (time.Duration, error) {
	if ttl == 0 {
		return 0, nil
	}
	return s.checkTTL(ttl)
}

// encode returns what is to be stored at a key, without its times.
func (s *Store) encode(key rows.Key, data Data) (rows.Write, values, error) {
	if len(data.UserID) > maxUserIDSize {
		return rows.Write{}, values{}, errUserIDTooLarge(data.UserID)
	}
	if data.Lifetime != 0 && !rows.IsValidTTL(data.Lifetime, s.now()) {
		return rows.Write{}, values{}, errLifetime
	}
	encoded, err := encodeValues(data.Values, s.maxSize)
	if err != nil {
		return rows.Write{}, values{}, err
	}
	w, err := s.seal(key, data.UserID, encoded)
	w.Lifetime = rows.RoundUp(data.Lifetime)
	return w, encoded, err
}

func (s *Store) seal(key rows.Key, userID string, encoded values) (rows.Write, error) {
	userKey, payload, err := s.codec.encode(key, userID, encoded)
	if err != nil {
		return rows.Write{}, fmt.Errorf("pgsession: seal: %w", err)
	}
	s.stats.bytesWritten.Add(int64(len(payload)))
	return rows.Write{Key: key, UserKey: userKey, OtherUserKeys: s.codec.otherUserKeys(userID), Payload: payload}, nil
}

func errUserIDTooLarge(userID string) error {
	return fmt.Errorf("%w: a user id of %d bytes; at most %d are allowed", ErrTooLarge, len(userID), maxUserIDSize)
}

var errLifetime = fmt.Errorf("%w: Lifetime", ErrInvalidTTL)

// login returns what a write that may begin a log-in stores.
func (s *Store) login(id ID, data Data, ttl time.Duration) (rows.Write, values, error) {
	ttl, err := s.checkTTL(ttl)
	if err != nil {
		return rows.Write{}, values{}, err
	}
	w, encoded, err := s.encode(id.handle.key(), data)
	w.TTL = ttl
	return s.begin(w), encoded, err
}

// begin adds to a write with which a log-in begins what WithAbsoluteLifetime says.
func (s *Store) begin(w rows.Write) rows.Write {
	if w.Lifetime == 0 {
		w.Lifetime = rows.RoundUp(s.absoluteLifetime)
	}
	return w
}

// session returns what a row holds, as loaded at the time now.
func (s *Store) session(row rows.Row, now time.Time) *Session {
	s.stats.bytesRead.Add(int64(len(row.Payload)))
	session := s.fields(row, now)
	session.user, session.values, session.broken = s.codec.decode(row)
	session.UserID = session.user
	s.stats.open(session.broken)
	return session
}

func (s *Store) seals() bool { return s.codec.ring() != nil }

// fields returns a session with what a row shows without being opened.
func (s *Store) fields(row rows.Row, now time.Time) *Session {
	row.Payload = nil
	return &Session{
		Handle:      Handle{[rows.KeySize]byte(row.Key.Bytes())},
		CreatedAt:   row.CreatedAt,
		ExpiresAt:   row.ExpiresAt,
		EndsAt:      row.EndsAt,
		IdleTimeout: row.IdleTimeout,
		row:         row,
		loadedAt:    now,
		sealed:      s.seals(),
	}
}

// written returns the session that a write has stored.
func (s *Store) written(id ID, row rows.Row, userID string, stored values) *Session {
	s.stats.saves.Add(1)
	if stored.kind == kindRaw {
		stored.bytes = bytes.Clone(stored.bytes) // these are the caller's
	}
	session := s.fields(row, s.now())
	session.ID, session.UserID, session.user, session.values = id, userID, userID, stored
	return session
}

// Create stores a new session under a new id and returns it. The cookie's value is [ID.Token] of
// its ID. The session expires after ttl, or after [Data.Lifetime] if that is shorter.
//
// Errors: [ErrInvalidTTL], [ErrTooLarge], [ErrEncode].
func (s *Store) Create(ctx context.Context, data Data, ttl time.Duration) (session *Session, err error) {
	defer s.stats.observe(opCreate, time.Now(), &err)
	return s.create(ctx, NewID(), data, ttl)
}

// CreateAs is [Store.Create] under an id that the caller chooses: one of [DeriveID], for a
// framework that makes its own tokens, or one of [NewID].
//
// Errors: [ErrExists] if there is a row under the id, including a tombstone; [ErrForeignID] for the
// zero ID and for one that [ParseID] read, since an attacker may have chosen it; [ErrInvalidTTL],
// [ErrTooLarge], [ErrEncode].
func (s *Store) CreateAs(ctx context.Context, id ID, data Data, ttl time.Duration) (session *Session, err error) {
	defer s.stats.observe(opCreate, time.Now(), &err)
	if !id.mayBegin() {
		return nil, ErrForeignID
	}
	return s.create(ctx, id, data, ttl)
}

func (s *Store) create(ctx context.Context, id ID, data Data, ttl time.Duration) (*Session, error) {
	w, encoded, err := s.login(id, data, ttl)
	if err != nil {
		return nil, err
	}
	row, outcome, err := s.table.Insert(ctx, w)
	if err := result("create", outcome, err); err != nil {
		return nil, err
	}
	return s.written(id, row, data.UserID, encoded), nil
}

// Load returns a live session. Errors: [ErrNotFound], [ErrRevoked], [ErrTampered], [ErrUnknownKey].
func (s *Store) Load(ctx context.Context, id ID) (session *Session, err error) {
	defer s.stats.observe(opLoad, time.Now(), &err)
	session, err = s.load(ctx, "load", id.handle.key())
	if err != nil {
		return nil, err
	}
	session.ID = id
	return session, nil
}

func (s *Store) load(ctx context.Context, operation string, key rows.Key) (*Session, error) {
	s.stats.loads.Add(1)
	if key == (rows.Key{}) {
		return nil, ErrNotFound
	}
	now := s.now()
	row, err := s.table.Load(ctx, key)
	if err != nil {
		return nil, wrap(operation, err)
	}
	if err := rowError(row, row.Load(now), now); err != nil {
		return nil, err
	}
	session := s.session(row, now)
	if session.broken != nil {
		return nil, session.broken
	}
	s.stats.hits.Add(1)
	return session, nil
}

// Save replaces a live session's values, and lets it expire after ttl. It overwrites what others
// wrote since the session was loaded; [Store.Update] does not. The user stays: data.UserID must be
// the session's. The end stays too: data.Lifetime is ignored.
//
// Errors: [ErrNotFound], [ErrRevoked], [ErrUserChanged], [ErrInvalidTTL], [ErrTooLarge],
// [ErrEncode].
func (s *Store) Save(ctx context.Context, id ID, data Data, ttl time.Duration) (err error) {
	defer s.stats.observe(opSave, time.Now(), &err)
	return s.save(ctx, id, data, ttl)
}

func (s *Store) save(ctx context.Context, id ID, data Data, ttl time.Duration) error {
	if id.IsZero() {
		return ErrNotFound
	}
	return s.replace(ctx, "save", s.table.Save, func() (rows.Write, error) {
		ttl, err := s.checkTTL(ttl)
		if err != nil {
			return rows.Write{}, err
		}
		w, _, err := s.encode(id.handle.key(), data)
		w.TTL = ttl
		return w, err
	})
}

// Put is [Store.CreateAs] or [Store.Save] in one statement, depending on whether there is a session
// under the id. It is for adapters to frameworks that cannot say which of the two they mean.
//
// Under an id that [ParseID] read, Put only replaces a live session. It never brings back a session
// that is over, as long as its row exists: an expired row stays until the next clean-up, and a
// tombstone until the session would have expired, and for an hour at least.
//
// Errors: [ErrRevoked] for a tombstone; [ErrNotFound] for an expired session, for the zero ID, and
// for an id that ParseID read if it has no live session; [ErrUserChanged] if a live session is
// another user's; [ErrInvalidTTL], [ErrTooLarge], [ErrEncode].
func (s *Store) Put(ctx context.Context, id ID, data Data, ttl time.Duration) (err error) {
	defer s.stats.observe(opPut, time.Now(), &err)
	if !id.mayBegin() {
		return s.save(ctx, id, data, ttl)
	}
	return s.replace(ctx, "put", s.table.Put, func() (rows.Write, error) {
		w, _, err := s.login(id, data, ttl)
		return w, err
	})
}

// replace runs Save or Put. If the outcome is OtherUser and the key ring has changed since the
// write was made, the user's keys may have changed, and it tries again.
func (s *Store) replace(ctx context.Context, operation string,
	run func(context.Context, rows.Write) (rows.Outcome, error), newWrite func() (rows.Write, error)) error {
	for {
		ring := s.codec.ring()
		w, err := newWrite()
		if err != nil {
			return err
		}
		outcome, err := run(ctx, w)
		switch {
		case err != nil:
		case outcome == rows.OK:
			s.stats.saves.Add(1)
		case outcome == rows.OtherUser && s.codec.ring() != ring:
			continue
		case outcome == rows.Revoked:
			s.stats.revoked.Add(1)
		}
		return result(operation, outcome, err)
	}
}

// Update changes a live session's values without losing another writer's change, and returns the
// session as it then is. It takes the session as it was loaded, calls change, and writes the values
// that change returns, unless another writer has changed the session meanwhile. It then loads the
// session and begins anew. It also does that if change returns an error, or the same values, for
// the session as it was loaded, since that may be out of date. So change may run several times. It
// must not keep what it was given, nor build on an earlier run. Update returns change's error as it
// is, and then writes nothing.
//
// A ttl of 0 keeps the expiry. The user stays. If neither the encoded values nor the expiry change,
// nothing is written. The session that Update was given stays as it is.
//
// Errors: those of change, [ErrNotFound] (for a nil or zero Session too), [ErrRevoked],
// [ErrConflict], [ErrTampered], [ErrUnknownKey], [ErrInvalidTTL], [ErrTooLarge], [ErrEncode].
func (s *Store) Update(ctx context.Context, session *Session, ttl time.Duration, change func(*Session) (values any, err error)) (updated *Session, err error) {
	defer s.stats.observe(opUpdate, time.Now(), &err)
	ttl, err = s.checkTTLOrKeep(ttl)
	if err != nil {
		return nil, err
	}
	return s.swap(ctx, "update", session, func(ctx context.Context, seen *Session) attempt {
		given := seen.asRead()
		changed, err := change(&given)
		if err != nil {
			return attempt{err: err}
		}
		encoded, err := encodeValues(changed, s.maxSize)
		if err != nil {
			return attempt{err: err}
		}
		row, now := seen.row, s.now()
		if unchanged := row.Replace(rows.Write{TTL: ttl}, now); s.codec.isSame(encoded, seen.values) &&
			unchanged.ExpiresAt.Equal(row.ExpiresAt) && unchanged.IdleTimeout == row.IdleTimeout {
			same := s.fields(row, now)
			same.ID, same.UserID, same.user, same.values = seen.ID, seen.user, seen.user, seen.values
			return attempt{session: same, next: seen, err: errUnchanged}
		}
		w, err := s.seal(row.Key, seen.user, encoded)
		if err != nil {
			return attempt{err: err}
		}
		w.TTL = ttl
		swapped, outcome, err := s.table.Swap(ctx, row, w)
		if err != nil || outcome != rows.OK {
			return attempt{row: swapped, outcome: outcome, err: wrap("update", err)}
		}
		written := s.written(seen.ID, swapped, seen.user, encoded)
		return attempt{session: written, next: written}
	})
}

// Renew is [Store.Update] under a new id, for a log-in above all: an id that was known before it
// opens nothing afterwards. At one instant, the data that change returns is stored under the new id
// and the old session ends. The new id has the purpose of the old one. The user may be another. If
// the user stays, CreatedAt and EndsAt stay. If the user changes, a log-in begins, and both are set
// anew. A ttl of 0 keeps the expiry.
//
// Renew returns the new session. The cookie's new value is [ID.Token] of its ID.
//
// Errors: those of change; [ErrForeignID] for a session without an ID, as one from a list, and for
// a nil one; [ErrNotFound], [ErrRevoked], [ErrConflict], [ErrTampered], [ErrUnknownKey],
// [ErrInvalidTTL], [ErrTooLarge], [ErrEncode].
func (s *Store) Renew(ctx context.Context, session *Session, ttl time.Duration, change func(*Session) (Data, error)) (renewed *Session, err error) {
	defer s.stats.observe(opRenew, time.Now(), &err)
	ttl, err = s.checkTTLOrKeep(ttl)
	if err != nil {
		return nil, err
	}
	if session == nil || session.ID.IsZero() {
		return nil, ErrForeignID
	}
	newID := NewIDFor(session.ID.purpose)
	return s.swap(ctx, "renew", session, func(ctx context.Context, seen *Session) attempt {
		given := seen.asRead()
		data, err := change(&given)
		if err != nil {
			return attempt{err: err}
		}
		w, encoded, err := s.encode(newID.handle.key(), data)
		if err != nil {
			return attempt{err: err}
		}
		w.TTL = ttl
		if data.UserID == seen.user {
			w.OtherUserKeys = append(w.OtherUserKeys, seen.row.UserKey)
		}
		row, outcome, err := s.renew(ctx, "renew", seen.row, w)
		if err != nil || outcome != rows.OK {
			return attempt{row: row, outcome: outcome, err: err}
		}
		// What was written lies under another key, and is not for those who wait for the old one.
		return attempt{session: s.written(newID, row, data.UserID, encoded)}
	})
}

// renew moves a session, if it is still as it was seen.
func (s *Store) renew(ctx context.Context, operation string, seen rows.Row, w rows.Write) (rows.Row, rows.Outcome, error) {
	if !w.IsUser(seen.UserKey) {
		w = s.begin(w)
	}
	row, outcome, err := s.table.Renew(ctx, seen, w)
	return row, outcome, wrap(operation, err)
}

// errUnchanged says that change left the session as it is.
var errUnchanged = errors.New("pgsession: unchanged")

// An attempt is what came of one try to change a session.
type attempt struct {
	session *Session // as written, or with errUnchanged
	next    *Session // what the next call for this key may begin with
	row     rows.Row // as it is, if the outcome is Changed
	outcome rows.Outcome
	err     error
}

// swap calls try with a session to write it, until no other writer has changed it in between. The
// first try is with the session as the caller has loaded it, if that is live. If a store of the
// other kind has loaded it, this one loads it anew, and that fails: a Plaintext store must not
// write a sealed session's values in clear.
//
// Calls for one session take turns once two of them have met. Each begins with what the one before
// has written, which costs no statement.
func (s *Store) swap(ctx context.Context, operation string, session *Session,
	try func(ctx context.Context, seen *Session) attempt) (*Session, error) {
	if session == nil {
		return nil, ErrNotFound
	}
	ctx, cancel := s.table.Within(ctx)
	defer cancel()
	key := session.key()
	seen, isNew := session, false // new: it was so after this call began
	if session.broken != nil || session.sealed != s.seals() || session.row.Key != key || session.row.Load(s.now()) != rows.OK {
		seen = nil
	}
	var (
		turn turns.Turn[rows.Key, *Session]
		next *Session
	)
	inTurn, mustWait := false, s.turns.IsTaken(key)
	defer func() {
		if !inTurn {
			return
		}
		if next != nil {
			next = next.loadedBy(next) // a copy, since the caller may change its own
		}
		turn.Leave(next)
	}()
	for n := range updateAttempts {
		if mustWait && !inTurn {
			var err error
			if turn, next, err = s.turns.Enter(ctx, key); err != nil {
				return nil, wrap(operation, err)
			}
			inTurn = true
			if next.isAfter(seen) {
				seen, isNew = next.loadedBy(session), false
			}
		}
		if seen == nil {
			loaded, err := s.load(ctx, operation, key)
			if err != nil {
				return nil, err // if the session is over, it says so
			}
			seen, isNew = loaded.loadedBy(session), true
		}
		result := try(ctx, seen)
		switch {
		case result.err == errUnchanged && isNew:
			next = result.next
			return result.session, nil
		case result.err != nil && (isNew || isOutage(result.err)):
			return nil, result.err
		case result.err != nil:
			seen = nil
		case result.outcome == rows.OK:
			next = result.next
			return result.session, nil
		case result.outcome != rows.Changed:
			return nil, rowError(result.row, result.outcome, s.now())
		default:
			s.stats.conflicts.Add(1)
			if isNew && inTurn { // others change it that do not wait for this turn
				if err := backoff.Wait(ctx, n+1); err != nil {
					return nil, wrap(operation, err)
				}
			}
			seen, mustWait = nil, true
			if now := s.now(); result.row.Load(now) == rows.OK {
				seen, isNew = s.session(result.row, now).loadedBy(session), true
				if seen.broken != nil {
					return nil, seen.broken
				}
			}
		}
	}
	return nil, ErrConflict
}

// isAfter reports whether s is a later state of the session than other. Either may be nil.
func (s *Session) isAfter(other *Session) bool {
	return s != nil && (other == nil || s.row.CreatedAt.Equal(other.row.CreatedAt) && s.row.Version > other.row.Version)
}

// asRead returns a copy of s with the user that was read, whatever the caller has made of UserID.
func (s *Session) asRead() Session {
	read := *s
	read.UserID = s.user
	return read
}

// loadedBy returns a copy of s as it would be if it were loaded under the ID of other.
func (s *Session) loadedBy(other *Session) *Session {
	loaded := *s
	loaded.ID = other.ID
	return &loaded
}

// Touch lets a live session expire after ttl, or after its own [Session.IdleTimeout] if ttl is 0,
// and returns when it expires then. It never shortens a session's life. If the session, as it was
// loaded, would gain less than a tenth of the ttl, Touch asks nothing of the database. So it may be
// called at each request. The session that Touch was given stays as it is.
//
// Errors: [ErrNotFound] (for a nil or zero Session too), [ErrRevoked], [ErrInvalidTTL].
func (s *Store) Touch(ctx context.Context, session *Session, ttl time.Duration) (expiresAt time.Time, err error) {
	row, err := s.touch(ctx, session, ttl)
	return row.ExpiresAt, err
}

// touch returns the row that the session was loaded from, with the new expiry. If nothing else was
// written since the load, Update can begin with it.
func (s *Store) touch(ctx context.Context, session *Session, ttl time.Duration) (row rows.Row, err error) {
	defer s.stats.observe(opTouch, time.Now(), &err)
	ttl, err = s.checkTTLOrKeep(ttl)
	if err != nil {
		return rows.Row{}, err
	}
	if session == nil || session.key() == (rows.Key{}) {
		return rows.Row{}, ErrNotFound
	}
	row = session.row
	if row.Key == session.key() {
		if touched, outcome := row.Touch(ttl, s.now()); outcome == rows.OK && touched.Version == row.Version {
			return touched, nil
		}
	}
	expiresAt, version, outcome, err := s.table.Touch(ctx, session.key(), ttl)
	if err := result("touch", outcome, err); err != nil {
		return rows.Row{}, err
	}
	row.ExpiresAt = expiresAt
	if version == rows.NextVersion(row.Version) {
		row.Version, row.IdleTimeout = version, cmp.Or(ttl, row.IdleTimeout)
	}
	return row, nil
}

// Cycle is the blind form of [Store.Renew]: it moves a live session to newID with new data, and
// overwrites what others wrote since the session was loaded. Take newID from [NewID] or
// [DeriveID]. The change happens at one instant: at no time are both ids live, or neither. Of
// racing cycles of one id, one wins.
//
// Errors: [ErrNotFound] or [ErrRevoked] if the old session is not live, [ErrExists] if there is a
// row under newID, [ErrForeignID] if newID is zero or was read by [ParseID], [ErrConflict],
// [ErrInvalidTTL], [ErrTooLarge], [ErrEncode].
func (s *Store) Cycle(ctx context.Context, oldID, newID ID, data Data, ttl time.Duration) (err error) {
	defer s.stats.observe(opCycle, time.Now(), &err)
	if oldID.IsZero() {
		return ErrNotFound
	}
	if !newID.mayBegin() {
		return ErrForeignID
	}
	ttl, err = s.checkTTL(ttl)
	if err != nil {
		return err
	}
	ctx, cancel := s.table.Within(ctx)
	defer cancel()
	row, err := s.table.Load(ctx, oldID.handle.key())
	if err != nil {
		return wrap("cycle", err)
	}
	for attempt := range updateAttempts {
		if attempt > 0 {
			if err := backoff.Wait(ctx, attempt); err != nil {
				return wrap("cycle", err)
			}
		}
		if outcome := row.Load(s.now()); outcome != rows.OK {
			return outcomeError(outcome)
		}
		ring := s.codec.ring()
		w, _, err := s.encode(newID.handle.key(), data)
		if err != nil {
			return err
		}
		w.TTL = ttl
		if !w.IsUser(row.UserKey) && s.codec.ring() != ring {
			continue // the row may lie under another key of the same user's
		}
		current, outcome, err := s.renew(ctx, "cycle", row, w)
		switch {
		case err != nil:
			return err
		case outcome == rows.OK:
			s.stats.saves.Add(1)
			return nil
		case outcome != rows.Changed:
			return outcomeError(outcome)
		}
		row = current
	}
	return ErrConflict
}

// Delete ends a session for good. It returns nil if there is no session, or if it was ended before.
func (s *Store) Delete(ctx context.Context, id ID) error {
	_, err := s.end(ctx, id)
	return err
}

// end is Delete, and reports whether the session goes on under another id: see rows.Row.HasMoved.
func (s *Store) end(ctx context.Context, id ID) (hasMoved bool, err error) {
	defer s.stats.observe(opDelete, time.Now(), &err)
	if id.IsZero() {
		return false, nil
	}
	row, err := s.table.End(ctx, id.handle.key())
	return row.HasMoved(s.now()), wrap("delete", err)
}
