package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/pgsession/pgsession"
)

// A group is the ids that Cycle and Renew connect, and the users that own them alone. An id has a
// slot, which is its number in the history. Or it is the keys of a KeyValue.
type group struct {
	name    int
	users   []string
	keys    []string // of a KeyValue
	history history

	mu       sync.Mutex
	ids      map[int]pgsession.ID // by slot
	slots    map[pgsession.Handle]int
	purposes map[int]string               // of the ids, by slot
	free     []int                        // slots for the ids that Renew makes
	renewals map[string]int               // by the values that Renew stores under an id which is not known yet
	kept     map[int][]*pgsession.Session // by slot: some of those that calls returned, from any node and of any age
}

func (r *round) newGroup(name int) *group {
	p := r.profile
	g := &group{name: name, ids: make(map[int]pgsession.ID), slots: make(map[pgsession.Handle]int), purposes: make(map[int]string), renewals: make(map[string]int),
		kept: make(map[int][]*pgsession.Session)}
	g.history.slots, g.history.timeline = p.slots+p.renewed, r.clock
	for slot := p.slots; slot < g.history.slots; slot++ {
		g.free = append(g.free, slot)
	}
	for _, user := range []string{"ann", "bob"} {
		g.users = append(g.users, fmt.Sprintf("%s-%d-%d", user, r.number, name))
	}
	g.users = append(g.users, "")
	return g
}

func (r *round) newEntries() *group {
	g := &group{name: -1}
	g.history.slots, g.history.timeline = r.profile.entries, r.clock
	for i := range r.profile.entries {
		g.keys = append(g.keys, fmt.Sprintf("key-%d-%d", r.number, i))
	}
	return g
}

func (g *group) bind(slot int, id pgsession.ID, purpose string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ids[slot], g.slots[id.Handle()], g.purposes[slot] = id, slot, purpose
}

func (g *group) purpose(slot int) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.purposes[slot]
}

func (g *group) id(slot int) pgsession.ID {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.ids[slot]
}

// known returns the slots whose ids are known.
func (g *group) known() (slots []int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for slot := range g.ids {
		slots = append(slots, slot)
	}
	slices.Sort(slots)
	return slots
}

func (g *group) pick(random *rand.Rand) int {
	if g.keys != nil {
		return random.IntN(len(g.keys))
	}
	known := g.known()
	return known[random.IntN(len(known))]
}

// maxKept bounds the sessions that a group keeps of a slot.
const maxKept = 8

// keep remembers a session that a call returned, for others to begin with.
func (g *group) keep(slot int, s *pgsession.Session) {
	g.mu.Lock()
	defer g.mu.Unlock()
	kept := g.kept[slot]
	if len(kept) == maxKept {
		forgotten := rand.IntN(maxKept)
		kept = slices.Delete(kept, forgotten, forgotten+1)
	}
	g.kept[slot] = append(kept, s)
}

// base returns a session that a call returned earlier, most often the latest, or nil if there is
// none.
func (g *group) base(slot int, random *rand.Rand) *pgsession.Session {
	g.mu.Lock()
	defer g.mu.Unlock()
	kept := g.kept[slot]
	switch {
	case len(kept) == 0:
		return nil
	case random.IntN(2) == 0:
		return kept[len(kept)-1]
	}
	return kept[random.IntN(len(kept))]
}

// reserve takes a slot for the id that Renew will make, if one is left.
func (g *group) reserve(values string) (slot int, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.free) == 0 {
		return 0, false
	}
	slot, g.free = g.free[0], g.free[1:]
	g.renewals[values] = slot
	return slot, true
}

// release gives back the slot of a Renew that certainly made no id. It returns false if a list has
// shown one.
func (g *group) release(values string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	slot, ok := g.renewals[values]
	if ok {
		g.free = append(g.free, slot)
		delete(g.renewals, values)
	}
	return ok
}

// slotOf returns the slot of a session that a list showed. The session may be of a Renew that has
// not returned.
func (g *group) slotOf(handle pgsession.Handle, values string) (slot int, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if slot, ok = g.slots[handle]; ok {
		return slot, true
	}
	if slot, ok = g.renewals[values]; ok {
		g.slots[handle] = slot
		delete(g.renewals, values)
	}
	return slot, ok
}
