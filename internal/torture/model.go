package main

import (
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/pgsession/pgsession/internal/model"
)

// maxSlots bounds the ids of a group.
const maxSlots = 8

// A mark is a call of DeleteByUser: one of the first word's bits, or where it spares a slot, one of that slot's byte in the
// second.
const (
	maxMarks        = 64
	maxSparingMarks = 8
)

type marks [2]uint64

func newMark(except, number int) marks {
	if except < 0 {
		return marks{1 << number, 0}
	}
	return marks{0, 1 << (maxSparingMarks*except + number)}
}

func (m marks) with(other marks) marks { return marks{m[0] | other[0], m[1] | other[1]} }
func (m marks) has(other marks) bool   { return m[0]&other[0] != 0 || m[1]&other[1] != 0 }

// movedTo leaves out the calls that spare the slot.
func (m marks) movedTo(slot int) marks {
	return marks{m[0], m[1] &^ (0xff << (maxSparingMarks * slot))}
}

type kind uint8

const (
	opCreate kind = iota
	opLoad
	opSave
	opUpdate
	opTouch
	opCycle
	opDelete
	opPut
	opRevoke
	opFind
	opEndUser // in a history, it is the three that follow
	opClean   // in a history, one for each slot
	opReseal  // changes nothing that can be seen, so that no history shows it
	kinds

	opEndUserBegin
	opEndUserSlot
	opEndUserFinish
)

func (k kind) String() string {
	switch k {
	case opEndUserBegin:
		return "delete by user begins"
	case opEndUserSlot:
		return "delete by user passes"
	case opEndUserFinish:
		return "delete by user returns"
	}
	return [...]string{"create", "load", "save", "update", "touch", "cycle", "delete", "put", "revoke", "find by user", "delete by user",
		"clean up", "reseal"}[k]
}

// reads reports whether the call changes nothing, whatever it returns.
func (k kind) reads() bool { return k == opLoad || k == opFind }

// A call is what a worker asks of a store.
type call struct {
	kind     kind
	slot, to int
	user     string
	values   string // what it writes; unique
	ttl      time.Duration
	except   int   // the slot that DeleteByUser spares, or -1
	mark     marks // of a DeleteByUser
	at       time.Time
	lifetime time.Duration // absolute
}

// A session is what a store showed of one.
type session struct {
	slot             int
	user, values     string
	created, expires int64
}

// An answer is what the store returned.
type answer struct {
	outcome model.Outcome
	unknown bool      // the call has happened, or will until its Return, or never
	moot    bool      // the call returned, but a smaller history does without the knowledge
	seen    []session // by Load and FindByUser; by Update, the one that it changed last
}

// A slot is a row and the calls of DeleteByUser that began while it was their user's: each of them must end it, or what
// Cycle made of it, before it returns. A log-in that comes later may stay.
type slot struct {
	model.Slot
	marks marks
}

type state [maxSlots]slot

var hashSeed = maphash.MakeSeed()

// sequential is what one store does that runs one call after another.
var sequential = (&porcupine.NondeterministicModel{
	Partition: partition,
	Init:      func() []any { return []any{state{}} },
	Step: func(before, input, output any) []any {
		c, a := input.(call), output.(answer)
		after, ok := before.(state).step(c, a)
		switch {
		case a.unknown && after != before:
			return []any{before, after}
		case a.unknown:
			return []any{before}
		case ok:
			return []any{after}
		}
		return nil
	},
	Hash: func(s any) uint64 { return maphash.Comparable(hashSeed, s.(state)) },
}).ToModel()

// partition parts a history into those of slots that have nothing to do with each other: Cycle connects two, and a call for
// a user all.
func partition(operations []porcupine.Operation) [][]porcupine.Operation {
	var part [maxSlots]int
	for i := range part {
		part[i] = i
	}
	for _, o := range operations {
		switch c := o.Input.(call); c.kind {
		case opFind, opEndUserBegin, opEndUserSlot, opEndUserFinish:
			return [][]porcupine.Operation{operations}
		case opCycle:
			from, to := part[c.slot], part[c.to]
			for i := range part {
				if part[i] == from {
					part[i] = to
				}
			}
		}
	}
	parts := make([][]porcupine.Operation, maxSlots)
	for _, o := range operations {
		i := part[o.Input.(call).slot]
		parts[i] = append(parts[i], o)
	}
	return slices.DeleteFunc(parts, func(p []porcupine.Operation) bool { return len(p) == 0 })
}

// step returns what the call makes of the state, and whether it can have given the answer there.
func (s state) step(c call, a answer) (after state, ok bool) {
	at := model.At(c.at, c.lifetime)
	write := model.Write{User: c.user, Values: c.values, Expires: at.Add(c.ttl)}
	before := s[c.slot]
	var outcome model.Outcome
	switch c.kind {
	case opCreate:
		s[c.slot].Slot, outcome = model.Create(before.Slot, write, at)
	case opLoad:
		outcome = model.Load(before.Slot, at)
		if outcome == model.OK && a.outcome == model.OK {
			return s, len(a.seen) == 1 && a.seen[0] == before.show(c)
		}
	case opSave:
		s[c.slot].Slot, outcome = model.Save(before.Slot, write, at)
	case opUpdate:
		if a.outcome == model.OK && (len(a.seen) != 1 || a.seen[0].values != before.Values || a.seen[0].user != before.User) {
			return s, false
		}
		if c.ttl == 0 {
			write.Expires = before.Expires
		}
		s[c.slot].Slot, outcome = model.Swap(before.Slot, before.Slot, write, at)
	case opTouch:
		s[c.slot].Slot, outcome = model.Touch(before.Slot, c.ttl, at)
	case opCycle:
		var to model.Slot
		s[c.slot].Slot, to, outcome = model.Cycle(before.Slot, s[c.to].Slot, write, at)
		if outcome == model.OK {
			s[c.to].Slot, s[c.to].marks = to, marks{}
			if before.User == c.user {
				s[c.to].marks = before.marks.movedTo(c.to)
			}
		}
	case opDelete:
		s[c.slot].Slot = model.Delete(before.Slot, at)
	case opPut:
		s[c.slot].Slot, outcome = model.Put(before.Slot, write, at)
		if outcome == model.OK && !before.IsLive(at) {
			s[c.slot].marks = marks{}
		}
	case opRevoke:
		s[c.slot].Slot, outcome = model.Revoke(before.Slot, c.user, at)
	case opFind:
		return s, slices.Equal(a.seen, s.find(c, at))
	case opEndUserBegin:
		for i := range s {
			if i != c.except && c.user != "" && s[i].State == model.Stored && s[i].User == c.user {
				s[i].marks = s[i].marks.with(c.mark)
			}
		}
	case opEndUserSlot:
		s[c.slot].Slot, _ = model.Revoke(before.Slot, c.user, at)
	case opEndUserFinish:
		for i := range s {
			if s[i].marks.has(c.mark) {
				return s, false
			}
		}
	case opClean:
		s[c.slot].Slot = model.Clean(before.Slot, at)
	default:
		panic("no such operation in a history: " + c.kind.String())
	}
	for i := range s {
		s[i].Version = 0 // the values are unique, and show as much
		if s[i].State != model.Stored {
			s[i].marks = marks{}
		}
	}
	return s, outcome == a.outcome
}

func (s slot) show(c call) session {
	expires := s.Expires
	if c.lifetime > 0 {
		expires = min(expires, s.Created+c.lifetime.Microseconds())
	}
	return session{slot: c.slot, user: s.User, values: s.Values, created: s.Created, expires: expires}
}

// find returns the user's live sessions, the newest first, and those of one moment in the order of their keys, which is that
// of the slots.
func (s state) find(c call, at model.Moment) []session {
	if c.user == "" {
		return nil // guests have no name to be found by
	}
	var found []session
	for i := range s {
		if s[i].IsLive(at) && s[i].User == c.user {
			c.slot = i
			found = append(found, s[i].show(c))
		}
	}
	slices.SortStableFunc(found, func(a, b session) int { return int(b.created - a.created) })
	return found
}

func (c call) String() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s id %d", c.kind, c.slot)
	switch c.kind {
	case opFind, opEndUserBegin, opEndUserFinish:
		text.Reset()
		text.WriteString(c.kind.String())
	case opCycle:
		fmt.Fprintf(&text, " to id %d", c.to)
	}
	if c.user != "" {
		text.WriteString(" user " + c.user)
	}
	if c.values != "" {
		text.WriteString(" values " + c.values)
	}
	if c.ttl != 0 {
		text.WriteString(" ttl " + c.ttl.String())
	}
	if c.except >= 0 && (c.kind == opEndUserBegin) {
		fmt.Fprintf(&text, " except id %d", c.except)
	}
	return text.String()
}

func (a answer) String() string {
	if a.moot {
		return "moot"
	}
	if a.unknown {
		return "unknown"
	}
	text := [...]string{"ok", "not found", "revoked", "exists", "user changed", "conflict"}[a.outcome]
	for _, s := range a.seen {
		text += fmt.Sprintf(" [id %d user %q values %s created %s expires %s]", s.slot, s.user, s.values, clockText(s.created), clockText(s.expires))
	}
	return text
}

func clockText(microseconds int64) string {
	return time.UnixMicro(microseconds).UTC().Format("02 15:04:05")
}
