package main

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// A profile is a mix of operations on so few ids that they collide.
type profile struct {
	name    string
	weights [kinds]int
	groups  int // of ids, in a round
	slots   int // in a group
	renewed int // ids in a group that Renew may make, beside the slots
	entries int // keys of the KeyValue; 0 if no operation uses it
	workers int
	calls   int // of a worker, in an epoch
	epochs  int // in a round: between two, the clock moves
	moves   int // of the clock, at most, within an epoch
	ballast int // sessions that are only listed
	// plain leaves out what makes histories richer and a search slower: an absolute lifetime,
	// foreign users, long advances.
	plain bool
	// guests lets a plain profile's sessions have no user: a tombstone has none either.
	guests bool
	// fresh rounds begin without sessions.
	fresh bool
	// unchecked histories are too wide to be searched: the profile is after something else.
	unchecked bool
}

var profiles = map[string]profile{
	"default": {
		weights: [kinds]int{opLoad: 20, opCreateAs: 4, opSave: 12, opUpdate: 10, opTouch: 10, opCycle: 8, opRenew: 8, opDelete: 4, opPut: 14,
			opRevoke: 3, opRevokeAny: 2, opFind: 3, opFindByUser: 6, opLimit: 1, opCount: 1, opEndUser: 3, opEndAll: 1, opClean: 4, opReseal: 1,
			opPutEntry: 5, opGetEntry: 3, opTakeEntry: 5, opRemoveEntry: 1},
		groups: 4, slots: 4, renewed: 2, entries: 3, workers: 10, calls: 12, epochs: 3, moves: 2,
	},
	// Ends and writes of one id, nearly at once.
	"revival": {
		weights: [kinds]int{opLoad: 10, opSave: 20, opDelete: 6, opPut: 20, opRevoke: 3, opRevokeAny: 3, opTouch: 4, opCreateAs: 2},
		groups:  3, slots: 2, workers: 10, calls: 12, epochs: 2, plain: true, guests: true,
	},
	"update": {
		weights: [kinds]int{opLoad: 5, opSave: 5, opUpdate: 30, opTouch: 5, opPut: 3},
		groups:  3, slots: 2, workers: 10, calls: 12, epochs: 1, plain: true,
	},
	// Racing cycles of one id, to ids that are mostly new.
	"cycle": {
		weights: [kinds]int{opLoad: 5, opCycle: 40, opFindByUser: 10, opDelete: 5},
		groups:  2, slots: 8, workers: 8, calls: 4, epochs: 1, plain: true,
	},
	// Renew against other writers of its session, and against others of its kind.
	"renew": {
		weights: [kinds]int{opLoad: 10, opRenew: 30, opUpdate: 10, opSave: 8, opCycle: 4, opDelete: 3, opTouch: 3},
		groups:  3, slots: 3, renewed: 8, workers: 8, calls: 8, epochs: 1, plain: true,
	},
	// Cycle and Renew against DeleteByUser.
	"everywhere": {
		weights: [kinds]int{opLoad: 5, opCycle: 30, opRenew: 10, opEndUser: 15},
		groups:  2, slots: 5, renewed: 3, workers: 6, calls: 3, epochs: 1, plain: true,
	},
	// Racing log-ins, each with a limit of its own, and sessions that move away from under it.
	"limits": {
		weights: [kinds]int{opCreateAs: 20, opCycle: 10, opRenew: 10, opLimit: 10, opDelete: 2},
		groups:  2, slots: 5, renewed: 3, workers: 6, calls: 4, epochs: 2, plain: true,
	},
	// Cycle and Renew against DeleteAll, which leaves the entries of a KeyValue alone.
	"everybody": {
		weights: [kinds]int{opLoad: 5, opCycle: 30, opRenew: 10, opEndAll: 8, opPutEntry: 5, opGetEntry: 5, opTakeEntry: 2},
		groups:  2, slots: 5, renewed: 3, entries: 2, workers: 6, calls: 3, epochs: 1, plain: true,
	},
	// Sessions that begin, move and end while others list all of them, on several pages.
	"lists": {
		weights: [kinds]int{opAll: 10, opCreateAs: 10, opDelete: 6, opRevokeAny: 3, opCycle: 4, opRenew: 3, opTouch: 3, opClean: 2},
		groups:  4, slots: 4, renewed: 2, workers: 6, calls: 8, epochs: 2, moves: 1, ballast: 1100, plain: true,
	},
	// Sessions that end however often they are touched, and others that are over, with the clock on
	// its way.
	"expiry": {
		weights: [kinds]int{opLoad: 20, opCreateAs: 4, opSave: 10, opUpdate: 10, opTouch: 20, opCycle: 6, opRenew: 8, opPut: 14, opDelete: 2, opFindByUser: 3},
		groups:  4, slots: 4, renewed: 4, workers: 8, calls: 10, epochs: 4, moves: 3,
	},
	// A KeyValue, of which Take has one winner.
	"entries": {
		weights: [kinds]int{opPutEntry: 20, opGetEntry: 10, opTakeEntry: 20, opRemoveEntry: 3, opClean: 2},
		groups:  1, slots: 1, entries: 3, workers: 8, calls: 12, epochs: 2, moves: 1, plain: true,
	},
	// Writes of one id by several users, in one batch if calls share statements.
	"users": {
		weights: [kinds]int{opLoad: 10, opSave: 30, opPut: 30, opCycle: 3},
		groups:  2, slots: 4, workers: 16, calls: 6, epochs: 2,
	},
	// Touches of one id by different ttls, in one batch if calls share statements.
	"touches": {
		weights: [kinds]int{opLoad: 10, opTouch: 40, opSave: 4},
		groups:  2, slots: 2, workers: 16, calls: 6, epochs: 3, moves: 2, plain: true,
	},
	// Statements that write many rows, and no Cycle: two that swap ids may wait for each other,
	// which is no fault of an order.
	"order": {
		weights: [kinds]int{opSave: 30, opTouch: 5, opDelete: 1, opPut: 30, opEndUser: 1, opClean: 1},
		groups:  3, slots: 8, workers: 60, calls: 20, epochs: 1, plain: true, unchecked: true,
	},
	// The same for ids that are all new, so that statements meet at what they insert.
	"insert": {
		weights: [kinds]int{opPut: 1},
		groups:  2, slots: 12, workers: 60, calls: 3, epochs: 1, plain: true, fresh: true, unchecked: true,
	},
	// Clean-ups of ids that are touched, or put anew.
	"sweep": {
		weights: [kinds]int{opLoad: 10, opPut: 30, opTouch: 10, opClean: 6},
		groups:  4, slots: 3, workers: 8, calls: 6, epochs: 4, moves: 2, plain: true,
	},
}

// profilesOf returns those of that name. "mixed" are all whose histories are checked.
func profilesOf(name string) (found []profile) {
	if name != "mixed" {
		p, ok := profiles[name]
		if !ok {
			return nil
		}
		p.name = name
		return []profile{p}
	}
	for _, name := range slices.Sorted(maps.Keys(profiles)) {
		if p := profiles[name]; !p.unchecked {
			p.name = name
			found = append(found, p)
		}
	}
	return found
}

const minute = time.Minute

// Where an expiry and the clock meet exactly is worth a visit, so that both move by the same
// measure.
var (
	ttls      = []time.Duration{10 * minute, 20 * minute, 60 * minute, 90 * minute, 180 * minute}
	advances  = []time.Duration{minute, 10 * minute, 20 * minute, 60 * minute, 61 * minute, 180 * minute, 300 * minute}
	lifetimes = []time.Duration{20 * minute, 60 * minute, 180 * minute}
)

func (p profile) advance(random *rand.Rand) time.Duration {
	if p.plain {
		return advances[1+random.IntN(2)]
	}
	return advances[random.IntN(len(advances))]
}

// step is by how much the clock moves within an epoch. Two steps are shorter than a tombstone's
// life.
func (p profile) step(random *rand.Rand) time.Duration { return advances[random.IntN(3)] }

func (p profile) pick(random *rand.Rand) kind {
	total := 0
	for _, weight := range p.weights {
		total += weight
	}
	k, n := kind(0), random.IntN(total)
	for ; n >= p.weights[k]; k++ {
		n -= p.weights[k]
	}
	return k
}

func (r *round) newCall(k kind, g *group, random *rand.Rand) call {
	c := call{kind: k, slot: g.pick(random), except: -1, absolute: r.lifetime}
	if k.ofEntries() {
		return r.newEntryCall(c, random)
	}
	// An id has a user of its own, mostly, so that more than refusals is seen.
	c.user = g.users[c.slot%len(g.users)]
	if r.profile.plain {
		c.user = g.users[0]
		if r.profile.guests && c.slot%2 == 1 {
			c.user = ""
		}
	} else if random.IntN(4) == 0 {
		c.user = g.users[random.IntN(len(g.users))]
	}
	c.ttl = ttls[random.IntN(len(ttls))]
	c.parsed = random.IntN(4) == 0
	c.misread = c.opensByToken() && random.IntN(16) == 0
	switch k {
	case opCreate, opCreateAs, opSave, opPut, opUpdate, opCycle, opRenew:
		c.values = fmt.Sprintf("w%d", r.written.Add(1))
		if !r.profile.plain && random.IntN(3) == 0 {
			c.lifetime = lifetimes[random.IntN(len(lifetimes))]
		}
	}
	switch k {
	case opUpdate, opRenew, opTouch:
		c.parsed, c.misread = false, false // what the call begins with may be of an id that was
		if c.base = g.base(c.slot, random); c.base == nil {
			return r.newCall(opLoad, g, random)
		}
	}
	switch k {
	case opCreate:
		c.parsed = false
	case opCreateAs:
		c.parsed = random.IntN(8) == 0
	case opUpdate:
		c.user, c.lifetime = "", 0
		c.refuses = random.IntN(8) == 0
		if random.IntN(2) == 0 {
			c.ttl = 0
		}
		if random.IntN(6) == 0 {
			c.values = ""
		}
	case opCycle, opRenew:
		if k == opCycle {
			c.to = g.pick(random)
			c.parsed = random.IntN(8) == 0
		} else if random.IntN(2) == 0 {
			c.ttl = 0
		}
		if !r.profile.plain && random.IntN(3) == 0 {
			c.user = g.users[random.IntN(len(g.users))]
		}
	case opTouch:
		c.user = ""
		if random.IntN(3) == 0 {
			c.ttl = 0
		}
	case opLoad, opDelete:
		c.user, c.ttl = "", 0
	case opFind, opRevokeAny:
		c.user, c.ttl, c.parsed = "", 0, false
	case opRevoke, opFindByUser, opLimit:
		c.keep = 1 + random.IntN(3)
		c.ttl, c.parsed = 0, false
	case opEndUser:
		c.ttl, c.parsed = 0, false
		if !r.profile.plain && random.IntN(3) == 0 {
			c.except = c.slot
		}
	case opAll, opCount, opEndAll, opClean, opReseal:
		c.user, c.ttl, c.slot, c.parsed = "", 0, 0, false
		c.everybody = k == opEndAll
	}
	return c
}

func (r *round) newEntryCall(c call, random *rand.Rand) call {
	c.absolute = 0
	if c.kind == opPutEntry {
		c.values = fmt.Sprintf("w%d", r.written.Add(1))
		c.ttl = ttls[random.IntN(len(ttls))]
	}
	return c
}

// values are what sessions hold: a name for the write, and sometimes enough to need several
// packets.
type values struct {
	Name    string `json:"name"`
	Padding string `json:"padding,omitempty"`
}

var padding = strings.Repeat("0123456789abcdef", 1<<10)
