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
// or values, and a row that was edited gives [ErrTampered]. Every operation ends within
// [WithTimeout].
//
// # Errors
//
// Test for the package's variables with [errors.Is]. The comment of each function names those that
// it returns. Each function that asks the database may also return an error of the database or of
// its context, wrapped with the operation. No message holds a token, a key, a user id or a value.
//
// A write that returned such an error may have taken effect, or may still take effect, as with
// every database, but not later than WithTimeout after it began.
//
// # Compatibility
//
// The payload's first byte names its format, and the table's comment names the schema's version.
// Later releases read the rows that a release has written.
package pgsession

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsession/pgsession/internal/pgtable"
	"github.com/pgsession/pgsession/internal/rows"
)

// updateAttempts bounds how often Update and Renew run against other writers. In each round one of
// them succeeds, so that at least this many can compete.
const updateAttempts = 100

// A Store keeps sessions in one table. Make it with [New], [Plaintext] or [InMemory]. It is safe
// for concurrent use. Several stores, in several processes, may share a table. It never closes the
// pool.
type Store struct {
	options
	table    rows.Table
	codec    codec
	crypto   *Crypto // nil unless made by New
	stats    counters
	cleanups cleanupRegistry
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
	return &Store{options: newOptions(opts), codec: codec}
}

func (s *Store) newTable(pool *pgxpool.Pool, plaintext bool) rows.Table {
	if pool == nil {
		panic("pgsession: nil pool")
	}
	_, isSystemClock := s.clock.(SystemClock)
	return pgtable.New(pgtable.Config{
		Pool:           pool,
		Name:           s.options.table,
		Plaintext:      plaintext,
		Now:            s.now,
		ServerClockToo: isSystemClock,
		Timeout:        s.timeout,
		MaxInFlight:    s.maxInFlight,
		SlowAfter:      s.slowAfter,
	})
}

func (s *Store) now() time.Time { return rows.Time(s.clock.Now()) }

// bounded returns a context for an operation of several steps.
func (s *Store) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if s.timeout == 0 {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, s.timeout, rows.ErrTimeout)
}

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

// encode returns what is to be stored under a handle, without its times.
func (s *Store) encode(h Handle, data Data) (rows.Write, values, error) {
	if len(data.UserID) > maxUserIDSize {
		return rows.Write{}, values{}, errUserIDTooLarge(data.UserID)
	}
	encoded, err := encodeValues(data.Values, s.maxSize)
	if err != nil {
		return rows.Write{}, values{}, err
	}
	w, err := s.seal(h, data.UserID, encoded)
	return w, encoded, err
}

func (s *Store) seal(h Handle, userID string, encoded values) (rows.Write, error) {
	userKey, payload, err := s.codec.encode(h, userID, encoded)
	if err != nil {
		return rows.Write{}, fmt.Errorf("pgsession: seal: %w", err)
	}
	s.stats.bytesWritten.Add(int64(len(payload)))
	return rows.Write{Key: h.sum, UserKey: userKey, OtherUserKeys: s.codec.otherUserKeys(userID), Payload: payload}, nil
}

func errUserIDTooLarge(userID string) error {
	return fmt.Errorf("%w: a user id of %d bytes; at most %d are allowed", ErrTooLarge, len(userID), maxUserIDSize)
}

var errEndsAtPassed = fmt.Errorf("%w: EndsAt has passed", ErrInvalidTTL)

// begin adds to a write when a log-in that begins with it ends.
func (s *Store) begin(w rows.Write, endsAt time.Time) (rows.Write, error) {
	if endsAt.IsZero() {
		w.Lifetime = s.absoluteLifetime
		return w, nil
	}
	w.EndsAt = rows.Time(endsAt)
	switch {
	case !w.EndsAt.After(s.now()):
		return w, errEndsAtPassed
	case w.EndsAt.Year() > 9999:
		return w, fmt.Errorf("%w: EndsAt lies past the year 9999", ErrInvalidTTL)
	}
	return w, nil
}

// login returns what a write that may begin a log-in stores.
func (s *Store) login(h Handle, data Data, ttl time.Duration) (rows.Write, values, error) {
	ttl, err := s.checkTTL(ttl)
	if err != nil {
		return rows.Write{}, values{}, err
	}
	w, encoded, err := s.encode(h, data)
	if err != nil {
		return rows.Write{}, values{}, err
	}
	w.TTL = ttl
	w, err = s.begin(w, data.EndsAt)
	return w, encoded, err
}

// session returns what a row holds, as loaded at the time now.
func (s *Store) session(row rows.Row, now time.Time) *Session {
	s.stats.bytesRead.Add(int64(len(row.Payload)))
	session := s.fields(row, now)
	session.UserID, session.values, session.broken = s.codec.decode(row)
	s.stats.open(session.broken)
	return session
}

// fields returns a session with what a row shows without being opened.
func (s *Store) fields(row rows.Row, now time.Time) *Session {
	return &Session{
		Handle:      Handle{row.Key},
		CreatedAt:   row.CreatedAt,
		ExpiresAt:   row.ExpiresAt,
		EndsAt:      row.EndsAt,
		IdleTimeout: row.IdleTimeout,
		Version:     row.Version,
		loadedAt:    now,
	}
}

// written returns the session that a write has stored.
func (s *Store) written(id ID, row rows.Row, userID string, stored values) *Session {
	s.stats.saves.Add(1)
	if stored.kind == kindRaw {
		stored.bytes = bytes.Clone(stored.bytes) // these are the caller's
	}
	session := s.fields(row, s.now())
	session.ID, session.UserID, session.values = id, userID, stored
	return session
}

// Create stores a new session under a new id and returns it. The cookie's value is [ID.Token] of
// its ID. The session expires after ttl, or at [Data.EndsAt] if that is sooner.
//
// Errors: [ErrInvalidTTL], [ErrTooLarge], [ErrEncode].
func (s *Store) Create(ctx context.Context, data Data, ttl time.Duration) (session *Session, err error) {
	defer s.stats.observe(opCreate, time.Now(), &err)
	return s.create(ctx, NewID(), data, ttl)
}

// CreateAs is [Store.Create] under an id that the caller chooses: one of [DeriveID], for a
// framework that makes its own tokens, or one of [NewID].
//
// Errors: [ErrExists] if there is a row under the id, including a tombstone; [ErrInvalidID] for the
// zero ID and for one that [ParseID] read, since an attacker may have chosen it; [ErrInvalidTTL],
// [ErrTooLarge], [ErrEncode].
func (s *Store) CreateAs(ctx context.Context, id ID, data Data, ttl time.Duration) (session *Session, err error) {
	defer s.stats.observe(opCreate, time.Now(), &err)
	if !id.mayBegin() {
		return nil, ErrInvalidID
	}
	return s.create(ctx, id, data, ttl)
}

func (s *Store) create(ctx context.Context, id ID, data Data, ttl time.Duration) (*Session, error) {
	w, encoded, err := s.login(id.handle, data, ttl)
	if err != nil {
		return nil, err
	}
	row, outcome, err := s.table.Insert(ctx, w)
	switch {
	case err != nil:
		return nil, wrap("create", err)
	case outcome != rows.OK:
		return nil, outcomeError(outcome)
	}
	return s.written(id, row, data.UserID, encoded), nil
}

// Load returns a live session. Errors: [ErrNotFound], [ErrRevoked], [ErrTampered], [ErrUnknownKey].
func (s *Store) Load(ctx context.Context, id ID) (session *Session, err error) {
	defer s.stats.observe(opLoad, time.Now(), &err)
	_, session, err = s.load(ctx, id)
	return session, err
}

func (s *Store) load(ctx context.Context, id ID) (rows.Row, *Session, error) {
	s.stats.loads.Add(1)
	if id.IsZero() {
		return rows.Row{}, nil, ErrNotFound
	}
	now := s.now()
	row, err := s.table.Load(ctx, id.handle.sum)
	if err != nil {
		return rows.Row{}, nil, wrap("load", err)
	}
	if outcome := row.Load(now); outcome != rows.OK {
		return rows.Row{}, nil, outcomeError(outcome)
	}
	session := s.session(row, now)
	if session.broken != nil {
		return rows.Row{}, nil, session.broken
	}
	session.ID = id
	s.stats.hits.Add(1)
	return row, session, nil
}

// Save replaces a live session's values, and lets it expire after ttl. It overwrites what others
// wrote since the session was loaded; [Store.Update] does not. The user stays: data.UserID must be
// the session's. The end stays too: data.EndsAt is ignored.
//
// Errors: [ErrNotFound], [ErrRevoked], [ErrUserChanged], [ErrConflict], [ErrInvalidTTL],
// [ErrTooLarge], [ErrEncode].
func (s *Store) Save(ctx context.Context, id ID, data Data, ttl time.Duration) (err error) {
	defer s.stats.observe(opSave, time.Now(), &err)
	return s.save(ctx, id, data, ttl)
}

func (s *Store) save(ctx context.Context, id ID, data Data, ttl time.Duration) error {
	if id.IsZero() {
		return ErrNotFound
	}
	return s.replace(ctx, "save", data, s.table.Save, func() (rows.Write, error) {
		ttl, err := s.checkTTL(ttl)
		if err != nil {
			return rows.Write{}, err
		}
		w, _, err := s.encode(id.handle, data)
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
// another user's; [ErrConflict], [ErrInvalidTTL], [ErrTooLarge], [ErrEncode].
func (s *Store) Put(ctx context.Context, id ID, data Data, ttl time.Duration) (err error) {
	defer s.stats.observe(opPut, time.Now(), &err)
	if !id.mayBegin() {
		return s.save(ctx, id, data, ttl)
	}
	err = s.replace(ctx, "put", data, s.table.Put, func() (rows.Write, error) {
		w, _, err := s.login(id.handle, data, ttl)
		return w, err
	})
	if err == errEndsAtPassed {
		return s.putOver(ctx, id, data, ttl)
	}
	return err
}

// putOver is Put with an EndsAt that has passed. It counts only if there is no session yet:
// otherwise a session's own data could not be put back.
func (s *Store) putOver(ctx context.Context, id ID, data Data, ttl time.Duration) error {
	row, err := s.table.Load(ctx, id.handle.sum)
	switch {
	case err != nil:
		return wrap("put", err)
	case row.State == rows.Absent:
		return errEndsAtPassed
	}
	return s.save(ctx, id, data, ttl)
}

// replace runs Save or Put. If the outcome is OtherUser and the key ring has changed since the
// write was made, the user's keys may have changed, and it tries again.
func (s *Store) replace(ctx context.Context, operation string, data Data,
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
			return wrap(operation, err)
		case outcome == rows.OK:
			s.stats.saves.Add(1)
			return nil
		case outcome == rows.OtherUser && s.codec.ring() != ring:
			continue
		case outcome == rows.Revoked:
			s.stats.revoked.Add(1)
		}
		return outcomeError(outcome)
	}
}

// Update changes a live session's values without losing another writer's change, and returns the
// session as it then is. It loads the session, calls change, and writes the values that change
// returns if the session is still as it was loaded. Otherwise it begins anew. So change may run
// several times. It must not keep what it was given, nor build on an earlier run. Update returns
// change's error as it is, and then writes nothing.
//
// A ttl of 0 keeps the expiry. The user stays. If neither the encoded values nor the expiry change,
// nothing is written.
//
// Errors: those of change, [ErrNotFound], [ErrRevoked], [ErrConflict], [ErrTampered],
// [ErrUnknownKey], [ErrInvalidTTL], [ErrTooLarge], [ErrEncode].
func (s *Store) Update(ctx context.Context, id ID, ttl time.Duration, change func(*Session) (values any, err error)) (session *Session, err error) {
	defer s.stats.observe(opUpdate, time.Now(), &err)
	ttl, err = s.checkTTLOrKeep(ttl)
	if err != nil {
		return nil, err
	}
	return s.swap(ctx, "update", id, func(ctx context.Context, row rows.Row, loaded *Session) (*Session, rows.Outcome, error) {
		user, before := loaded.UserID, loaded.values
		changed, err := change(loaded)
		if err != nil {
			return nil, rows.OK, err
		}
		encoded, err := encodeValues(changed, s.maxSize)
		if err != nil {
			return nil, rows.OK, err
		}
		now := s.now()
		if unchanged := row.Replace(rows.Write{TTL: ttl}, now); s.codec.isSame(encoded, before) &&
			unchanged.ExpiresAt.Equal(row.ExpiresAt) && unchanged.IdleTimeout == row.IdleTimeout {
			session := s.fields(row, now)
			session.ID, session.UserID, session.values = id, user, before
			return session, rows.OK, nil
		}
		w, err := s.seal(id.handle, user, encoded)
		if err != nil {
			return nil, rows.OK, err
		}
		w.TTL = ttl
		swapped, outcome, err := s.table.Swap(ctx, row, w)
		if err != nil || outcome != rows.OK {
			return nil, outcome, wrapIfAny("update", err)
		}
		return s.written(id, swapped, user, encoded), rows.OK, nil
	})
}

// Renew is [Store.Update] under a new id, for a log-in above all: an id that was known before it
// opens nothing afterwards. At one instant, the data that change returns is stored under the new id
// and the old session ends. The user may be another. If the user stays, CreatedAt and EndsAt stay.
// If the user changes, a log-in begins, and both are set anew. A ttl of 0 keeps the expiry.
//
// Renew returns the new session. The cookie's new value is [ID.Token] of its ID.
//
// Errors: those of change, [ErrNotFound], [ErrRevoked], [ErrConflict], [ErrTampered],
// [ErrUnknownKey], [ErrInvalidTTL], [ErrTooLarge], [ErrEncode].
func (s *Store) Renew(ctx context.Context, id ID, ttl time.Duration, change func(*Session) (Data, error)) (session *Session, err error) {
	defer s.stats.observe(opRenew, time.Now(), &err)
	ttl, err = s.checkTTLOrKeep(ttl)
	if err != nil {
		return nil, err
	}
	newID := NewID()
	return s.swap(ctx, "renew", id, func(ctx context.Context, row rows.Row, loaded *Session) (*Session, rows.Outcome, error) {
		user := loaded.UserID
		data, err := change(loaded)
		if err != nil {
			return nil, rows.OK, err
		}
		w, encoded, err := s.encode(newID.handle, data)
		if err != nil {
			return nil, rows.OK, err
		}
		w.TTL = ttl
		if data.UserID == user {
			w.OtherUserKeys = append(w.OtherUserKeys, row.UserKey)
		} else if w, err = s.begin(w, data.EndsAt); err != nil {
			return nil, rows.OK, err
		}
		renewed, outcome, err := s.table.Renew(ctx, row, w)
		if err != nil || outcome != rows.OK {
			return nil, outcome, wrapIfAny("renew", err)
		}
		return s.written(newID, renewed, data.UserID, encoded), rows.OK, nil
	})
}

// swap loads a session and calls try to write it, until no other writer has changed it in between.
// The values that try gets are its own to change.
func (s *Store) swap(ctx context.Context, operation string, id ID,
	try func(ctx context.Context, row rows.Row, loaded *Session) (*Session, rows.Outcome, error)) (*Session, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	for attempt := range updateAttempts {
		if attempt > 0 {
			s.stats.conflicts.Add(1)
			if err := backOff(ctx, attempt); err != nil {
				return nil, wrap(operation, err)
			}
		}
		row, loaded, err := s.load(ctx, id)
		if err != nil {
			return nil, err
		}
		written, outcome, err := try(ctx, row, loaded)
		if err != nil || outcome == rows.OK {
			return written, err
		}
		// If the session is over, the next load says so.
	}
	return nil, ErrConflict
}

// backOff waits for a random time, which is longer at each attempt, so that other writers make
// progress.
func backOff(ctx context.Context, attempt int) error {
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

// Touch lets a live session expire after ttl, or after its own [Session.IdleTimeout] if ttl is 0.
// It never shortens a session's life. It writes nothing if the session would gain less than a tenth
// of the ttl, so it may be called at each request. [Session.TTL] helps to spare most of the calls.
//
// Errors: [ErrNotFound], [ErrRevoked], [ErrConflict], [ErrInvalidTTL].
func (s *Store) Touch(ctx context.Context, id ID, ttl time.Duration) (err error) {
	defer s.stats.observe(opTouch, time.Now(), &err)
	if id.IsZero() {
		return ErrNotFound
	}
	ttl, err = s.checkTTLOrKeep(ttl)
	if err != nil {
		return err
	}
	outcome, err := s.table.Touch(ctx, id.handle.sum, ttl)
	if err != nil {
		return wrap("touch", err)
	}
	return outcomeError(outcome)
}

// Cycle is the blind form of [Store.Renew]: it moves a live session to newID with new data, and
// overwrites what others wrote since the session was loaded. Take newID from [NewID] or
// [DeriveID]. The change happens at one instant: at no time are both ids live, or neither. Of
// racing cycles of one id, one wins.
//
// Errors: [ErrNotFound] or [ErrRevoked] if the old session is not live, [ErrExists] if there is a
// row under newID, [ErrInvalidID] if newID is zero or was read by [ParseID], [ErrConflict],
// [ErrInvalidTTL], [ErrTooLarge], [ErrEncode].
func (s *Store) Cycle(ctx context.Context, oldID, newID ID, data Data, ttl time.Duration) (err error) {
	defer s.stats.observe(opCycle, time.Now(), &err)
	if oldID.IsZero() {
		return ErrNotFound
	}
	if !newID.mayBegin() {
		return ErrInvalidID
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var leaving []byte
	for range updateAttempts {
		ring := s.codec.ring()
		w, _, err := s.login(newID.handle, data, ttl)
		if err == errEndsAtPassed {
			w, err = s.cycleOver(ctx, oldID, w)
			if err == errEndsAtPassed && s.codec.ring() != ring {
				continue // the user may be the same after all
			}
		}
		if err != nil {
			return err
		}
		w.Leaving = leaving
		outcome, err := s.table.Cycle(ctx, oldID.handle.sum, w)
		switch {
		case err != nil:
			return wrap("cycle", err)
		case outcome == rows.OK:
			s.stats.saves.Add(1)
			return nil
		case outcome != rows.OtherUser:
			return outcomeError(outcome)
		}
		// The user changes; or stays, and the row was written under a key that the ring has had only
		// since. The next attempt tells them apart, by a ring that is newer than the row.
		row, err := s.table.Load(ctx, oldID.handle.sum)
		if err != nil {
			return wrap("cycle", err)
		}
		leaving = row.UserKey
	}
	return ErrConflict
}

// cycleOver returns what Cycle writes if EndsAt has passed. It counts only if the user changes.
func (s *Store) cycleOver(ctx context.Context, oldID ID, w rows.Write) (rows.Write, error) {
	now := s.now()
	row, err := s.table.Load(ctx, oldID.handle.sum)
	if err != nil {
		return w, wrap("cycle", err)
	}
	if outcome := row.Load(now); outcome != rows.OK {
		return w, outcomeError(outcome)
	}
	if !w.IsUser(row.UserKey) {
		return w, errEndsAtPassed
	}
	w.EndsAt = time.Time{}
	return w, nil
}

// Delete ends a session for good. It returns nil if there is no session, or if it was ended before.
func (s *Store) Delete(ctx context.Context, id ID) (err error) {
	defer s.stats.observe(opDelete, time.Now(), &err)
	if id.IsZero() {
		return nil
	}
	return wrapIfAny("delete", s.table.End(ctx, id.handle.sum))
}
