// Package rows says what a row of the sessions table is, and what each operation makes of it.
//
// A [Row] and a [Write] go in, and the new Row and an [Outcome] come out: the functions are pure.
// They are the rules of liveness, expiry and ownership, each written once. [Memory] applies them to
// a map, a table in PostgreSQL applies them in SQL and uses them here to tell why a statement wrote
// nothing, and the torture test checks histories against them.
package rows

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

const (
	// MaxTTL bounds a ttl.
	MaxTTL = 100 * 365 * 24 * time.Hour

	// maxYear is the last year that a session may live in.
	maxYear = 9999

	// tombstoneLife is how long a tombstone stays at least.
	tombstoneLife = time.Hour

	// overlap is how long after a session got another id requests with the old one may still come
	// from its visitor.
	overlap = time.Minute

	// movedMark is the IdleTimeout in the tombstone of a session that has moved. It is not 0: as
	// text, PostgreSQL may write that in a form that pgx does not read.
	movedMark = time.Microsecond

	maxVersion = 1<<62 - 1
)

// KeySize is the length of a session's key.
const KeySize = sha256.Size

// A Key is the primary key: the SHA-256 of a session's id. The key of an entry of a key/value view
// has one byte more, which is 1, so that no operation on sessions meets an entry.
type Key [KeySize + 1]byte

// SessionKey returns the key of a session whose id has that hash.
func SessionKey(hash [KeySize]byte) (key Key) {
	copy(key[:], hash[:])
	return key
}

// EntryKey returns the key of an entry whose name has that hash.
func EntryKey(hash [KeySize]byte) Key {
	key := SessionKey(hash)
	key[KeySize] = 1
	return key
}

// ParseKey reads what [Key.Bytes] returned. It reports whether that is a key of ours.
func ParseKey(b []byte) (key Key, ok bool) {
	copy(key[:], b)
	return key, len(b) == KeySize || len(b) == KeySize+1 && key.IsEntry()
}

// IsEntry reports whether the key is an entry's.
func (k *Key) IsEntry() bool { return k[KeySize] == 1 }

// Bytes returns what the column key holds. It is part of k.
func (k *Key) Bytes() []byte {
	if k.IsEntry() {
		return k[:]
	}
	return k[:KeySize]
}

// A State says what a [Row] is.
type State uint8

// The states of a row.
const (
	Absent State = iota // there is no row
	Stored              // a session, live or expired
	Ended               // a tombstone: the session was ended
)

// A Row is one row of the table. The zero Row is absent. Times are in UTC and whole microseconds.
//
// If a session has moved to another key and its user stayed the same, the tombstone that it left
// has an IdleTimeout of one microsecond, and its CreatedAt is the time of that.
type Row struct {
	Key         Key
	State       State
	UserKey     []byte // nil for a guest, and in a tombstone
	Payload     []byte // nil in a tombstone, and in a row of the other kind of store
	Version     int64  // another at each write
	CreatedAt   time.Time
	ExpiresAt   time.Time
	EndsAt      time.Time // zero: none
	IdleTimeout time.Duration

	// Malformed says that the row holds what no store writes, such as an infinite time. Such a row
	// does not open.
	Malformed bool
}

// A Write is what an operation stores.
type Write struct {
	Key           Key
	UserKey       []byte   // nil for a guest
	OtherUserKeys [][]byte // more values that name the same user
	Payload       []byte

	// TTL is how long the session may be idle, in whole microseconds. 0 keeps the expiry and the
	// idle timeout, where there is a row to keep them of.
	TTL time.Duration

	// Lifetime is how long a log-in that begins with this write lasts, however often it is touched,
	// in whole microseconds. 0 is no bound.
	Lifetime time.Duration
}

// An Outcome is what an operation found. All outcomes except OK and Expired mean that nothing was
// written.
type Outcome uint8

// The outcomes.
const (
	OK        Outcome = iota
	NotFound          // no row, or an expired one
	Expired           // an expired row, which Revoke has ended
	Revoked           // a tombstone
	Exists            // a row, a tombstone included, where there should be none
	OtherUser         // a live session of another user
	Changed           // the row is not as it was seen
)

// Time returns t as a table keeps it.
func Time(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

// RoundUp returns d in whole microseconds, so that no session is born expired.
func RoundUp(d time.Duration) time.Duration {
	if whole := d.Truncate(time.Microsecond); whole == d || whole > math.MaxInt64-time.Microsecond {
		return whole
	}
	return d.Truncate(time.Microsecond) + time.Microsecond
}

// IsValidTTL reports whether a session may have that long to live.
func IsValidTTL(ttl time.Duration, now time.Time) bool {
	return ttl > 0 && ttl <= MaxTTL && now.Add(ttl).Year() <= maxYear
}

// NewVersion returns the version of a new row: the machine's time in microseconds and ten random
// bits. A row that was removed, and written anew within one tick of the store's clock, is then not
// taken for the one before. Of two log-ins within one tick, the later one has the larger version.
func NewVersion() int64 {
	return (time.Now().UnixMicro()<<10 | rand.Int64N(1<<10)) & maxVersion
}

// NextVersion returns the version after v. It stays below the largest int64, so that nobody can
// plant a version after which no statement can write.
func NextVersion(v int64) int64 { return v&maxVersion + 1 }

// TombstoneExpiry returns when a tombstone that is left now may be removed at the earliest.
func TombstoneExpiry(now time.Time) time.Time { return now.Add(tombstoneLife) }

// IsLive reports whether a load finds the session.
func (r Row) IsLive(now time.Time) bool { return r.State == Stored && r.ExpiresAt.After(now) }

// IsExpired reports whether a clean-up removes the row.
func (r Row) IsExpired(now time.Time) bool { return r.State != Absent && !r.ExpiresAt.After(now) }

// Load finds a live session.
func (r Row) Load(now time.Time) Outcome {
	switch {
	case r.State == Ended:
		return Revoked
	case !r.IsLive(now):
		return NotFound
	}
	return OK
}

// HasMoved reports whether the row is the tombstone of a session that has just moved to another
// key, and whose user stayed the same. After a minute it is a tombstone like any other: a visitor
// who has still not heard of the new id never will.
func (r Row) HasMoved(now time.Time) bool {
	return r.State == Ended && r.IdleTimeout == movedMark && now.Sub(r.CreatedAt) < overlap
}

// Insert makes a session where there is no row.
func (r Row) Insert(w Write, now time.Time) (Row, Outcome) {
	if r.State != Absent {
		return r, Exists
	}
	return w.Begin(now), OK
}

// Begin returns the row of a log-in that begins now.
func (w Write) Begin(now time.Time) Row {
	row := Row{
		Key:         w.Key,
		State:       Stored,
		UserKey:     w.UserKey,
		Payload:     w.Payload,
		Version:     NewVersion(),
		CreatedAt:   now,
		EndsAt:      w.EndsAt(now),
		IdleTimeout: w.TTL,
	}
	row.ExpiresAt = row.capped(now.Add(w.TTL))
	return row
}

// EndsAt returns when a log-in that begins now ends, or the zero time. An end past the year 9999 is
// none.
func (w Write) EndsAt(now time.Time) time.Time {
	if end := now.Add(w.Lifetime); w.Lifetime > 0 && end.Year() <= maxYear {
		return end
	}
	return time.Time{}
}

// capped returns the earlier of an expiry and the session's end.
func (r Row) capped(expiry time.Time) time.Time {
	if !r.EndsAt.IsZero() && r.EndsAt.Before(expiry) {
		return r.EndsAt
	}
	return expiry
}

// Save replaces what a live session holds.
func (r Row) Save(w Write, now time.Time) (Row, Outcome) {
	if outcome := r.Load(now); outcome != OK {
		return r, outcome
	}
	if !w.IsUser(r.UserKey) {
		return r, OtherUser
	}
	return r.Replace(w, now), OK
}

// Put is Insert or Save.
func (r Row) Put(w Write, now time.Time) (Row, Outcome) {
	if r.State == Absent {
		return r.Insert(w, now)
	}
	return r.Save(w, now)
}

// IsUser reports whether userKey names the user of the write.
func (w Write) IsUser(userKey []byte) bool {
	return bytes.Equal(userKey, w.UserKey) ||
		slices.ContainsFunc(w.OtherUserKeys, func(other []byte) bool { return bytes.Equal(userKey, other) })
}

// Replace returns the row with what w stores. The log-in goes on: its begin and its end stay.
func (r Row) Replace(w Write, now time.Time) Row {
	r.UserKey, r.Payload, r.Version = w.UserKey, w.Payload, NextVersion(r.Version)
	if w.TTL != 0 {
		r.ExpiresAt, r.IdleTimeout = r.capped(now.Add(w.TTL)), w.TTL
	}
	return r
}

// Swap is Replace for a live session that is still as it was seen.
func (r Row) Swap(seen Row, w Write, now time.Time) (Row, Outcome) {
	if outcome := r.compare(seen, now); outcome != OK {
		return r, outcome
	}
	return r.Replace(w, now), OK
}

func (r Row) compare(seen Row, now time.Time) Outcome {
	if outcome := r.Load(now); outcome != OK {
		return outcome
	}
	if r.Version != seen.Version || !r.CreatedAt.Equal(seen.CreatedAt) {
		return Changed
	}
	return OK
}

// Touch moves the expiry of a live session to ttl from now, if it gains a tenth of the ttl by that.
// A ttl of 0 is the session's own idle timeout.
func (r Row) Touch(ttl time.Duration, now time.Time) (Row, Outcome) {
	if outcome := r.Load(now); outcome != OK {
		return r, outcome
	}
	if ttl == 0 {
		ttl = r.IdleTimeout
	}
	expiry := r.capped(now.Add(ttl))
	if gain := expiry.Sub(r.ExpiresAt); gain <= 0 || gain < ttl/10 {
		return r, OK
	}
	r.ExpiresAt, r.IdleTimeout, r.Version = expiry, ttl, NextVersion(r.Version)
	return r, OK
}

// Renew moves a live session that is still as it was seen to another key, where there must be no
// row. What the write stores lies there, and a tombstone at the old key.
func Renew(from, to, seen Row, w Write, now time.Time) (newFrom, newTo Row, outcome Outcome) {
	if outcome := from.compare(seen, now); outcome != OK {
		return from, to, outcome
	}
	if to.State != Absent {
		return from, to, Exists
	}
	return from.Leave(w, now), from.Move(w, now), OK
}

// Leave returns what Renew leaves at the old key.
func (r Row) Leave(w Write, now time.Time) Row {
	left := r.End(now)
	if w.IsUser(r.UserKey) {
		left.IdleTimeout, left.CreatedAt = movedMark, now
	}
	return left
}

// Move returns what Renew stores under the new key. The log-in begins anew if the user changes. It
// goes on if the user stays, and then ends no later than it would have.
func (r Row) Move(w Write, now time.Time) Row {
	moved := w.Begin(now)
	if w.IsUser(r.UserKey) {
		moved.CreatedAt = r.CreatedAt
		if moved.EndsAt.IsZero() || !r.EndsAt.IsZero() && r.EndsAt.Before(moved.EndsAt) {
			moved.EndsAt = r.EndsAt
		}
	}
	if w.TTL == 0 {
		moved.ExpiresAt, moved.IdleTimeout = r.ExpiresAt, r.IdleTimeout
	} else {
		moved.ExpiresAt = now.Add(w.TTL)
	}
	moved.ExpiresAt = moved.capped(moved.ExpiresAt)
	return moved
}

// End returns what is left of a session that is ended: a tombstone. Other rows stay as they are.
func (r Row) End(now time.Time) Row {
	if r.State != Stored {
		return r
	}
	r.State, r.UserKey, r.Payload, r.Version = Ended, nil, nil, NextVersion(r.Version)
	if expiry := TombstoneExpiry(now); r.ExpiresAt.Before(expiry) {
		r.ExpiresAt = expiry
	}
	return r
}

// Revoke ends a session that lies under one of the user's keys, or anybody's if userKeys is nil. It
// is OK if the session was live, and Expired if it had expired.
func (r Row) Revoke(userKeys [][]byte, now time.Time) (Row, Outcome) {
	outcome := r.Load(now)
	if r.State == Stored && userKeys != nil && !contains(userKeys, r.UserKey) {
		return r, NotFound
	}
	if r.State == Stored && outcome == NotFound {
		outcome = Expired
	}
	return r.End(now), outcome
}

// contains reports whether userKey is among the keys of a user. A guest's is not.
func contains(userKeys [][]byte, userKey []byte) bool {
	return len(userKey) > 0 && slices.ContainsFunc(userKeys, func(key []byte) bool { return bytes.Equal(key, userKey) })
}

// Newest compares two rows so that the newest log-in sorts first.
func Newest(a, b Row) int {
	return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(b.Version, a.Version), bytes.Compare(a.Key[:], b.Key[:]))
}

// PutEntry stores an entry of a key/value view, whatever was there.
func (r Row) PutEntry(w Write, now time.Time) Row {
	row := w.Begin(now)
	if r.State != Absent {
		row.Version = NextVersion(r.Version)
	}
	return row
}
