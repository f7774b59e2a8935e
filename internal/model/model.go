// Package model says what a store does, without a database: what each operation makes
// of one row. Its functions are pure, and the [Slot] that they change is small,
// comparable and free to copy; so it serves as the sequential model of a check for
// linearizability, and package pgsessiontest is a map of slots under a mutex.
package model

import (
	"math"
	"time"
)

const (
	maxTTL        = 100 * 365 * 24 * time.Hour
	tombstoneLife = int64(time.Hour / time.Microsecond)
)

// A State says what a [Slot] holds.
type State uint8

// The states of a slot.
const (
	Absent State = iota
	Stored       // a session, live or expired
	Ended        // a tombstone
)

// A Slot is the row of one session id. The zero Slot is absent. Two slots that a store
// would treat alike are ==, but for their versions.
type Slot struct {
	State   State
	User    string
	Values  string
	Version int64
	Created int64 // in microseconds since 1970, as all times here
	Expires int64
}

// A Moment is the time at which an operation happens, by the store's clock.
type Moment struct {
	Now    int64
	Oldest int64 // when a log-in began that is just too old to be live
}

// At returns the moment for a store's clock and its absolute lifetime, where 0 is none.
func At(now time.Time, absoluteLifetime time.Duration) Moment {
	now = now.Truncate(time.Microsecond)
	if absoluteLifetime == 0 {
		return Moment{now.UnixMicro(), math.MinInt64}
	}
	return Moment{now.UnixMicro(), now.Add(-absoluteLifetime).Truncate(time.Microsecond).UnixMicro()}
}

// A Write is what an operation stores.
type Write struct {
	User         string
	Values       string
	Expires      int64 // from Moment.Add
	FirstVersion int64 // where there was no row
}

// An Outcome is what an operation returns: OK for nil, and each other for the error of
// its name. What is wrong with an operation's input shows before there is a slot.
type Outcome uint8

// The outcomes.
const (
	OK Outcome = iota
	NotFound
	Revoked
	Exists
	UserChanged
	Conflict
)

// IsValid reports whether a session may be given so long to live.
func (at Moment) IsValid(ttl time.Duration) bool {
	return ttl > 0 && ttl <= maxTTL && time.UnixMicro(at.Add(ttl)).UTC().Year() <= 9999
}

// Add returns the expiry of a session that has a valid ttl from now on.
func (at Moment) Add(ttl time.Duration) int64 { return at.Now + microseconds(ttl) }

// microseconds rounds up.
func microseconds(d time.Duration) int64 {
	return int64((d + time.Microsecond - 1) / time.Microsecond)
}

// IsLive reports whether a load finds the session.
func (s Slot) IsLive(at Moment) bool {
	return s.State == Stored && s.Expires > at.Now && s.Created > at.Oldest
}

func (s Slot) nextVersion() int64 { return s.Version&(1<<62-1) + 1 }

func (w Write) begin(at Moment) Slot {
	return Slot{Stored, w.User, w.Values, w.FirstVersion, at.Now, w.Expires}
}

func (s Slot) replace(w Write) Slot {
	return Slot{Stored, w.User, w.Values, s.nextVersion(), s.Created, w.Expires}
}

// Create makes a session.
func Create(s Slot, w Write, at Moment) (Slot, Outcome) {
	if s.State != Absent {
		return s, Exists
	}
	return w.begin(at), OK
}

// Load finds a live session.
func Load(s Slot, at Moment) Outcome {
	if !s.IsLive(at) {
		return NotFound
	}
	return OK
}

// Save replaces a live session's values.
func Save(s Slot, w Write, at Moment) (Slot, Outcome) {
	switch {
	case !s.IsLive(at):
		return s, NotFound
	case s.User != w.User:
		return s, UserChanged
	}
	return s.replace(w), OK
}

// Swap is the write of an Update, which has loaded the slot as it was in seen. Where
// the ttl is 0, w expires as seen does. As one step, an Update is Swap with s as seen.
func Swap(s, seen Slot, w Write, at Moment) (Slot, Outcome) {
	switch {
	case !s.IsLive(at):
		return s, NotFound
	case s.Version != seen.Version || s.Created != seen.Created:
		return s, Conflict
	}
	w.User = seen.User
	return s.replace(w), OK
}

// Touch lets a live session live for ttl from now on, where it gains a tenth of it.
func Touch(s Slot, ttl time.Duration, at Moment) (Slot, Outcome) {
	expires := at.Add(ttl)
	switch {
	case !s.IsLive(at):
		return s, NotFound
	case s.Expires > expires-max(microseconds(ttl/10), 1):
		return s, OK
	}
	s.Version, s.Expires = s.nextVersion(), expires
	return s, OK
}

// Cycle moves a live session from one slot to another, which is free. Where both are
// one, the caller gives it twice.
func Cycle(from, to Slot, w Write, at Moment) (newFrom, newTo Slot, outcome Outcome) {
	switch {
	case !from.IsLive(at):
		return from, to, NotFound
	case to.State != Absent:
		return from, to, Exists
	}
	begun := w.begin(at)
	if from.User == w.User {
		begun.Created = from.Created
	}
	return from.end(at), begun, OK
}

// Delete ends what is stored, live or not.
func Delete(s Slot, at Moment) Slot {
	if s.State != Stored {
		return s
	}
	return s.end(at)
}

func (s Slot) end(at Moment) Slot {
	return Slot{State: Ended, Expires: max(s.Expires, at.Now+tombstoneLife)}
}

// Put creates a session, or replaces one.
func Put(s Slot, w Write, at Moment) (Slot, Outcome) {
	switch {
	case s.State == Absent:
		return w.begin(at), OK
	case s.State == Ended:
		return s, Revoked
	case s.IsLive(at) && s.User != w.User:
		return s, UserChanged
	}
	replaced := s.replace(w)
	if !s.IsLive(at) {
		replaced.Created = at.Now
	}
	return replaced, OK
}

// Revoke ends what is stored of the user's, and finds it where it was live. An empty
// user has no sessions.
func Revoke(s Slot, user string, at Moment) (Slot, Outcome) {
	if user == "" || s.User != user {
		return s, NotFound
	}
	return RevokeAny(s, at)
}

// RevokeAny ends what is stored, and finds it where it was live.
func RevokeAny(s Slot, at Moment) (Slot, Outcome) { return Delete(s, at), Load(s, at) }

// Clean removes what has expired, a tombstone too. A session beyond its absolute
// lifetime stays until it expires.
func Clean(s Slot, at Moment) Slot {
	if s.Expires <= at.Now {
		return Slot{}
	}
	return s
}

// PutEntry stores an entry of a KeyValue, whatever was there. Its Delete makes the slot
// the zero Slot, and its Get is Load.
func PutEntry(s Slot, w Write, at Moment) Slot {
	begun := w.begin(at)
	if s.State != Absent {
		begun.Version = s.nextVersion()
	}
	return begun
}
