package main

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"time"
	"unique"

	"github.com/anishathalye/porcupine"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/rows"
)

// maxSlots bounds the ids of a group.
const maxSlots = 12

type kind uint8

const (
	opCreate kind = iota
	opCreateAs
	opLoad
	opSave
	opUpdate
	opTouch
	opCycle
	opRenew
	opDelete
	opPut
	opRevoke
	opRevokeAny
	opFind
	opFindByUser
	opLimit   // in a history, it is an opEndPass for each slot, which may end nothing
	opCount   // changes nothing that can be seen, so no history shows it
	opAll     // in a history, it is opShow for each slot
	opEndUser // in a history, it is the three that begin with opEnd
	opEndAll  // the same, for everybody's sessions
	opClean
	opReseal // as opCount
	opPutEntry
	opGetEntry
	opTakeEntry
	opRemoveEntry
	kinds

	opShow
	opEndBegin
	opEndPass
	opEndFinish
)

var kindNames = map[kind]string{
	opCreate: "create", opCreateAs: "create as", opLoad: "load", opSave: "save", opUpdate: "update", opTouch: "touch",
	opCycle: "cycle", opRenew: "renew", opDelete: "delete", opPut: "put", opRevoke: "revoke", opRevokeAny: "revoke any",
	opFind: "find", opFindByUser: "find by user", opLimit: "limit by user", opCount: "count", opAll: "all", opEndUser: "delete by user", opEndAll: "delete all", opClean: "clean up",
	opReseal: "reseal", opPutEntry: "put entry", opGetEntry: "get entry", opTakeEntry: "take entry",
	opRemoveEntry: "delete entry", opShow: "all passes", opEndBegin: "begin", opEndPass: "pass", opEndFinish: "return",
}

func (k kind) String() string { return kindNames[k] }

// isOfHistory reports whether a history shows the call.
func (k kind) isOfHistory() bool { return k != opCount && k != opReseal }

// reads reports whether the call changes nothing, whatever it returns.
func (k kind) reads() bool {
	return k == opLoad || k == opFind || k == opFindByUser || k == opCount || k == opAll || k == opShow || k == opGetEntry
}

// ofEntries reports whether the call is one of a KeyValue.
func (k kind) ofEntries() bool { return k >= opPutEntry && k <= opRemoveEntry }

// moves reports whether the call moves a session to another slot.
func (k kind) moves() bool { return k == opCycle || k == opRenew }

// A call is what a worker asks of a store.
type call struct {
	kind      kind
	slot, to  int
	parsed    bool // the id was read by ParseIDFor
	misread   bool // the token was read for another purpose than its own
	user      string
	values    string // what it writes; unique; "" in an Update that keeps the values
	ttl       time.Duration
	lifetime  time.Duration      // that it names; 0 for the store's
	absolute  time.Duration      // the store's
	except    int                // the slot that DeleteByUser spares, or -1
	keep      int                // of LimitByUser
	everybody bool               // the end of all sessions, not of a user's
	mark      marks              // of a DeleteByUser or DeleteAll
	atRest    bool               // nothing else is going on
	refuses   bool               // the change of an Update returns an error
	base      *pgsession.Session // what Update, Renew and Touch begin with

	reading int         // the clock's, before the call
	times   []time.Time // that the clock has shown from then until the call's end
}

// A session is what a store showed of one.
type session struct {
	slot                   int
	user, values           string
	created, expires, ends int64 // in microseconds since 1970; ends is 0 if there is no end
	idle                   time.Duration
}

// An answer is what the store returned.
type answer struct {
	outcome  rows.Outcome
	unknown  bool      // the call has happened, or will until its Return, or never
	moot     bool      // the call returned, but a smaller history does without the knowledge
	seen     []session // by the calls that read; by Update and Renew, the session that they changed at last
	returned *session  // by the calls that write and return what they wrote
	value    string    // by Get and Take
	expires  int64     // by Touch, in microseconds since 1970
}

// Marks are calls of DeleteByUser and DeleteAll, one bit each: the first word holds those of
// DeleteByUser that spare no slot, the next two hold one byte for each slot that is spared, and the
// last holds those of DeleteAll.
type marks [4]uint64

const (
	maxMarks        = 64
	maxSparingMarks = 8
)

// newMark returns the mark of the n-th call of its kind.
func newMark(except int, everybody bool, n int) (m marks) {
	switch {
	case everybody:
		m[3] = 1 << n
	case except < 0:
		m[0] = 1 << n
	default:
		bit := maxSparingMarks*except + n
		m[1+bit/64] = 1 << (bit % 64)
	}
	return m
}

func (m marks) with(other marks) marks {
	for i := range m {
		m[i] |= other[i]
	}
	return m
}

func (m marks) has(other marks) bool {
	for i := range m {
		if m[i]&other[i] != 0 {
			return true
		}
	}
	return false
}

// movedTo returns the marks of a session that moves to another slot: without the calls that spare
// this slot, and without those of DeleteByUser if the user changes.
func (m marks) movedTo(slot int, sameUser bool) marks {
	if !sameUser {
		return marks{3: m[3]}
	}
	bit := maxSparingMarks * slot
	m[1+bit/64] &^= 0xff << (bit % 64)
	return m
}

// A slot is a row, in a form that is comparable, and its marks: the calls of DeleteByUser and
// DeleteAll that began while it was there. Each of them must end it, or what Cycle or Renew made of
// it, before it returns. A log-in that comes later may stay.
type slot struct {
	state                  rows.State
	user, values           string
	created, expires, ends int64
	idle                   time.Duration
	marks                  marks

	// maybeGone says that a clean-up has removed the row, or left it since somebody held it. The next
	// call that could tell decides. Without it, each clean-up would double the states for each row.
	maybeGone bool
}

// row returns the slot as rows knows it. All versions are alike: values are unique, and show as
// much.
func (s slot) row() rows.Row {
	return rows.Row{
		State:       s.state,
		UserKey:     userKey(s.user),
		Payload:     []byte(s.values),
		Version:     1,
		CreatedAt:   timeOf(s.created),
		ExpiresAt:   timeOf(s.expires),
		EndsAt:      timeOf(s.ends),
		IdleTimeout: s.idle,
	}
}

func userKey(user string) []byte {
	if user == "" {
		return nil
	}
	return []byte(user)
}

func userKeys(user string) [][]byte {
	if user == "" {
		return [][]byte{}
	}
	return [][]byte{[]byte(user)}
}

func timeOf(microseconds int64) time.Time {
	if microseconds == 0 {
		return time.Time{}
	}
	return time.UnixMicro(microseconds).UTC()
}

func microsecondsOf(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// slotOf returns what can be observed of a row.
func slotOf(r rows.Row, m marks) slot {
	switch r.State {
	case rows.Absent:
		return slot{}
	case rows.Ended:
		return slot{state: rows.Ended, expires: microsecondsOf(r.ExpiresAt)}
	}
	return slot{
		state: r.State, user: string(r.UserKey), values: string(r.Payload),
		created: microsecondsOf(r.CreatedAt), expires: microsecondsOf(r.ExpiresAt), ends: microsecondsOf(r.EndsAt),
		idle: r.IdleTimeout, marks: m,
	}
}

func (s slot) show(i int) session {
	return session{slot: i, user: s.user, values: s.values, created: s.created, expires: s.expires, ends: s.ends, idle: s.idle}
}

// A state is all slots of a group. Each is held once in the process, so that states are small.
type state [maxSlots]unique.Handle[slot]

var absent = unique.Make(slot{})

func newState() (s state) {
	for i := range s {
		s[i] = absent
	}
	return s
}

func (s *state) set(i int, r rows.Row, m marks) { s[i] = unique.Make(slotOf(r, m)) }

var hashSeed = maphash.MakeSeed()

// sequential is what one store does that runs one call after another.
var sequential = (&porcupine.NondeterministicModel{
	Partition: partition,
	Init:      func() []any { return []any{newState()} },
	Step:      func(before, input, output any) []any { return steps(before.(state), input.(call), output.(answer)) },
	Hash:      func(s any) uint64 { return maphash.Comparable(hashSeed, s.(state)) },
}).ToModel()

// steps returns all states that the call can have left behind, given what it answered.
func steps(before state, c call, a answer) (after []any) {
	add := func(s state) {
		if len(after) == 0 || after[len(after)-1].(state) != s {
			after = append(after, s)
		}
	}
	if a.unknown {
		add(before)
	}
	for _, certain := range before.decide(c) {
		for _, at := range c.times {
			if s, ok := certain.step(c, a, at); ok || a.unknown {
				add(s)
			}
		}
	}
	return after
}

// decide returns the states in which it is decided whether the rows that the call meets are there.
func (s state) decide(c call) []state {
	all := []state{s}
	for i := range s {
		if !s[i].Value().maybeGone || !c.meets(i) {
			continue
		}
		there := s[i].Value()
		there.maybeGone = false
		for _, one := range slices.Clone(all) {
			one[i] = absent
			all = append(all, one)
		}
		for j := range all[:len(all)/2] {
			all[j][i] = unique.Make(there)
		}
	}
	return all
}

// meets reports whether what the call does depends on the row in the slot.
func (c call) meets(slot int) bool {
	switch c.kind {
	case opFindByUser, opEndFinish:
		return true
	case opClean, opEndBegin:
		return false
	}
	return slot == c.slot || c.kind.moves() && slot == c.to
}

// partition parts a history into those of slots that have nothing to do with each other: Cycle and
// Renew connect two, and FindByUser all.
func partition(operations []porcupine.Operation) [][]porcupine.Operation {
	var part [maxSlots]int
	for i := range part {
		part[i] = i
	}
	for _, o := range operations {
		c := o.Input.(call)
		if c.kind == opFindByUser {
			return [][]porcupine.Operation{operations}
		}
		if c.kind.moves() {
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
		if c := o.Input.(call); !c.everywhere() {
			parts[part[c.slot]] = append(parts[part[c.slot]], o)
		}
	}
	parts = slices.DeleteFunc(parts, func(p []porcupine.Operation) bool { return len(p) == 0 })
	for _, o := range operations {
		if o.Input.(call).everywhere() {
			for i := range parts {
				parts[i] = append(parts[i], o)
			}
		}
	}
	return parts
}

// everywhere reports whether the call belongs to every slot, but to each of them alone.
func (c call) everywhere() bool {
	return c.kind == opEndBegin || c.kind == opEndFinish || c.kind == opClean
}

// step returns what the call makes of the state at that time, and whether it can have given the
// answer there.
func (s state) step(c call, a answer, at time.Time) (after state, ok bool) {
	before := s[c.slot].Value()
	row := before.row()
	w := rows.Write{UserKey: userKey(c.user), Payload: []byte(c.values), TTL: c.ttl, Lifetime: c.lifetime}
	marked := before.marks
	var outcome rows.Outcome
	switch c.kind {
	case opCreate, opCreateAs:
		row, outcome = row.Insert(c.begin(w), at)
		marked = marks{}
	case opLoad, opFind:
		outcome = row.Load(at)
		return s, outcome == a.outcome && (outcome != rows.OK || shows(a.seen, before.show(c.slot)))
	case opShow:
		if row.Load(at) != rows.OK {
			return s, len(a.seen) == 0
		}
		return s, shows(a.seen, before.show(c.slot))
	case opFindByUser:
		return s, slices.Equal(a.seen, s.find(c.user, at))
	case opSave:
		row, outcome = row.Save(w, at)
	case opPut:
		switch {
		case c.parsed:
			row, outcome = row.Save(w, at)
		default:
			row, outcome = row.Put(c.begin(w), at)
		}
	case opUpdate:
		if a.outcome == rows.OK && !saw(a.seen, before) {
			return s, false
		}
		if c.refuses {
			return s, row.Load(at) == a.outcome
		}
		w.UserKey = row.UserKey
		if c.values == "" {
			w.Payload = row.Payload
		}
		row, outcome = row.Swap(row, w, at)
	case opTouch:
		if expires, ok := c.gainsLittle(at); ok && !a.unknown {
			return s, a.outcome == rows.OK && a.expires == expires
		}
		row, outcome = row.Touch(c.ttl, at)
		if outcome == rows.OK && !a.unknown && a.expires != microsecondsOf(row.ExpiresAt) {
			return s, false
		}
	case opCycle, opRenew:
		return s.move(c, a, w, at)
	case opDelete:
		row = row.End(at)
	case opRevoke:
		if c.user == "" {
			return s, a.outcome == rows.NotFound
		}
		row, outcome = row.Revoke(userKeys(c.user), at)
	case opRevokeAny:
		row, outcome = row.Revoke(nil, at)
	case opEndBegin:
		return s.mark(c), true
	case opEndPass:
		if c.everybody {
			row = row.End(at)
		} else {
			row, _ = row.Revoke(userKeys(c.user), at)
		}
	case opEndFinish:
		return s, !slices.ContainsFunc(s[:], func(h unique.Handle[slot]) bool { return h.Value().marks.has(c.mark) })
	case opClean:
		return s.clean(at, c.atRest), true
	case opPutEntry:
		row, marked = row.PutEntry(w, at), marks{}
	case opGetEntry:
		live := row.IsLive(at)
		return s, live == (a.outcome == rows.OK) && (!live || a.value == before.values)
	case opTakeEntry:
		if !row.IsLive(at) {
			return s, a.outcome == rows.NotFound
		}
		if a.outcome != rows.OK || !a.unknown && a.value != before.values {
			return s, false
		}
		row = rows.Row{}
	case opRemoveEntry:
		row = rows.Row{}
	default:
		panic("no such operation in a history: " + c.kind.String())
	}
	if outcome == rows.Expired {
		outcome = rows.NotFound // for the caller
	}
	s.set(c.slot, row, marked)
	if outcome == rows.OK && a.returned != nil && *a.returned != s[c.slot].Value().show(c.slot) {
		return s, false
	}
	return s, outcome == a.outcome
}

// move is Cycle or Renew.
func (s state) move(c call, a answer, w rows.Write, at time.Time) (after state, ok bool) {
	before := s[c.slot].Value()
	from, to := before.row(), s[c.to].Value().row()
	if c.kind == opRenew && a.outcome == rows.OK && !saw(a.seen, before) {
		return s, false
	}
	if before.user != c.user {
		w = c.begin(w)
	}
	from, to, outcome := rows.Renew(from, to, from, w, at) // Cycle is blind: it has seen what is there
	if outcome != rows.OK {
		return s, outcome == a.outcome
	}
	s.set(c.slot, from, marks{})
	s.set(c.to, to, before.marks.movedTo(c.to, before.user == c.user))
	if a.returned != nil && *a.returned != s[c.to].Value().show(c.to) {
		return s, false
	}
	return s, a.outcome == rows.OK
}

// begin returns the write of a call with which a log-in begins.
func (c call) begin(w rows.Write) rows.Write {
	w.Lifetime = cmp.Or(w.Lifetime, c.absolute)
	return w
}

// gainsLittle reports whether a Touch at that time asks nothing of the database, and the expiry
// that it returns then. What it was given may have been loaded long before.
func (c call) gainsLittle(at time.Time) (expires int64, ok bool) {
	if c.base == nil {
		return 0, false
	}
	loaded := rows.Row{State: rows.Stored, ExpiresAt: c.base.ExpiresAt, EndsAt: c.base.EndsAt, IdleTimeout: c.base.IdleTimeout}
	touched, outcome := loaded.Touch(c.ttl, at)
	return microsecondsOf(touched.ExpiresAt), outcome == rows.OK && touched.Version == loaded.Version
}

// mark marks what DeleteByUser or DeleteAll must end.
func (s state) mark(c call) state {
	for i := range s {
		one := s[i].Value()
		if one.state == rows.Stored && i != c.except && (c.everybody || c.user != "" && one.user == c.user) {
			one.marks = one.marks.with(c.mark)
			s[i] = unique.Make(one)
		}
	}
	return s
}

// clean is a clean-up, which leaves the rows that somebody holds. At rest nobody does.
func (s state) clean(at time.Time, atRest bool) state {
	for i := range s {
		one := s[i].Value()
		switch {
		case !one.row().IsExpired(at):
		case atRest:
			s[i] = absent
		default:
			one.maybeGone = true
			s[i] = unique.Make(one)
		}
	}
	return s
}

func shows(seen []session, want session) bool { return len(seen) == 1 && seen[0] == want }

// saw reports whether a change was made to what is there now.
func saw(seen []session, now slot) bool {
	return len(seen) == 1 && seen[0].values == now.values && seen[0].user == now.user
}

// find returns the user's live sessions, by slot.
func (s state) find(user string, at time.Time) (found []session) {
	if user == "" {
		return nil // guests have no name to be found by
	}
	for i := range s {
		if one := s[i].Value(); one.user == user && one.row().IsLive(at) {
			found = append(found, one.show(i))
		}
	}
	return found
}

func sortBySlot(seen []session) {
	slices.SortFunc(seen, func(a, b session) int { return cmp.Compare(a.slot, b.slot) })
}

func (c call) String() string {
	var text strings.Builder
	if c.kind == opEndBegin || c.kind == opEndPass || c.kind == opEndFinish {
		text.WriteString(map[bool]string{false: "delete by user: ", true: "delete all: "}[c.everybody])
	}
	text.WriteString(c.kind.String())
	switch c.kind {
	case opFindByUser, opEndBegin, opEndFinish:
	case opCycle, opRenew:
		fmt.Fprintf(&text, " id %d to id %d", c.slot, c.to)
	default:
		fmt.Fprintf(&text, " id %d", c.slot)
	}
	if c.parsed {
		text.WriteString(" (parsed)")
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
	if c.lifetime != 0 {
		text.WriteString(" lifetime " + c.lifetime.String())
	}
	if c.refuses {
		text.WriteString(" (change refuses)")
	}
	if c.except >= 0 && (c.kind == opEndBegin) {
		fmt.Fprintf(&text, " except id %d", c.except)
	}
	return text.String()
}

var outcomes = map[rows.Outcome]string{
	rows.OK: "ok", rows.NotFound: "not found", rows.Revoked: "revoked", rows.Exists: "exists", rows.OtherUser: "user changed",
}

func (a answer) String() string {
	if a.moot {
		return "moot"
	}
	if a.unknown {
		return "unknown"
	}
	text := outcomes[a.outcome]
	for _, s := range a.seen {
		text += " saw " + s.String()
	}
	if a.returned != nil {
		text += " returned " + a.returned.String()
	}
	if a.value != "" {
		text += " " + a.value
	}
	if a.expires != 0 {
		text += " until " + clockText(a.expires)
	}
	return text
}

func (s session) String() string {
	text := fmt.Sprintf("[id %d user %q values %s created %s expires %s idle %s", s.slot, s.user, s.values, clockText(s.created), clockText(s.expires), s.idle)
	if s.ends != 0 {
		text += " ends " + clockText(s.ends)
	}
	return text + "]"
}

func clockText(microseconds int64) string {
	return time.UnixMicro(microseconds).UTC().Format("02 15:04:05")
}
