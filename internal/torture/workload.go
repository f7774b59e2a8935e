package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/model"
)

// A profile is a mix of operations on so few ids that they collide.
type profile struct {
	weights [kinds]int
	groups  int // of ids, in a round
	slots   int // in a group
	workers int
	calls   int // of a worker, in an epoch
	epochs  int // in a round: between two, the clock moves
	// plain leaves out what makes histories richer and a search slower: an absolute lifetime, foreign users, long advances.
	plain bool
	// guests lets a plain profile's sessions have no user: a tombstone has none either.
	guests bool
	// unchecked histories are too wide to be searched: the profile is after something else.
	unchecked bool
}

var profiles = map[string]profile{
	"default": {
		weights: [kinds]int{opLoad: 20, opSave: 12, opUpdate: 10, opTouch: 8, opCycle: 12, opDelete: 5, opPut: 14, opRevoke: 3, opFind: 8,
			opEndUser: 3, opClean: 3, opReseal: 1},
		groups: 4, slots: 4, workers: 10, calls: 12, epochs: 3,
	},
	// Ends and writes of one id, nearly at once.
	"revival": {
		weights: [kinds]int{opLoad: 10, opSave: 20, opDelete: 6, opPut: 20, opRevoke: 4},
		groups:  3, slots: 2, workers: 10, calls: 12, epochs: 2, plain: true, guests: true,
	},
	"update": {
		weights: [kinds]int{opLoad: 5, opSave: 5, opUpdate: 30, opTouch: 5, opPut: 3},
		groups:  3, slots: 2, workers: 10, calls: 12, epochs: 1, plain: true,
	},
	// Racing cycles of one id, to ids that are mostly new.
	"cycle": {
		weights: [kinds]int{opLoad: 5, opCycle: 40, opFind: 10, opDelete: 5},
		groups:  2, slots: 8, workers: 8, calls: 4, epochs: 1, plain: true,
	},
	// Cycle against DeleteByUser.
	"everywhere": {
		weights: [kinds]int{opLoad: 5, opCycle: 40, opEndUser: 15},
		groups:  2, slots: 5, workers: 6, calls: 3, epochs: 1, plain: true,
	},
	// Statements that write many rows, and no Cycle: two that swap ids may wait for each other, which is no fault of an order.
	"order": {
		weights: [kinds]int{opSave: 30, opTouch: 5, opDelete: 1, opPut: 30, opEndUser: 1, opClean: 1},
		groups:  3, slots: 8, workers: 60, calls: 20, epochs: 1, plain: true, unchecked: true,
	},
	// Clean-ups of ids that are put anew.
	"sweep": {
		weights: [kinds]int{opLoad: 10, opPut: 30, opClean: 6},
		groups:  4, slots: 3, workers: 8, calls: 6, epochs: 4, plain: true,
	},
}

const minute = time.Minute

// Where an expiry and the clock meet exactly is worth a visit, so that both move by the same measure.
var (
	ttls     = []time.Duration{10 * minute, 20 * minute, 60 * minute, 90 * minute, 180 * minute}
	advances = []time.Duration{minute, 10 * minute, 20 * minute, 60 * minute, 61 * minute, 180 * minute, 300 * minute}
)

// values are what sessions hold: a name for the write, and sometimes enough to need several packets.
type values struct {
	Name    string `json:"name"`
	Padding string `json:"padding,omitempty"`
}

var padding = strings.Repeat("0123456789abcdef", 1<<10)

// A group is the ids that Cycle connects, and the users that own them alone.
type group struct {
	name    int
	ids     []pgsession.ID // in the order of their keys
	users   []string
	history history
}

func newGroup(round, name, slots int) *group {
	g := &group{name: name}
	g.history.slots = slots
	for range slots {
		g.ids = append(g.ids, pgsession.NewID())
	}
	for _, user := range []string{"ann", "bob"} {
		g.users = append(g.users, fmt.Sprintf("%s-%d-%d", user, round, name))
	}
	g.users = append(g.users, "")
	return g
}

func (g *group) sort() {
	slices.SortFunc(g.ids, func(a, b pgsession.ID) int { return strings.Compare(a.String(), b.String()) })
}

func (g *group) slotOf(handle pgsession.Handle) int {
	return slices.IndexFunc(g.ids, func(id pgsession.ID) bool { return id.Handle() == handle })
}

// A round is a number of epochs on fresh ids.
type round struct {
	*torture
	number   int
	profile  profile
	groups   []*group
	stores   []*pgsession.Store
	lifetime time.Duration
	now      time.Time // in this epoch
}

func (t *torture) runRound(ctx context.Context, number int, random *rand.Rand) error {
	r := &round{torture: t, number: number, profile: t.profile}
	if !r.profile.plain && random.IntN(3) == 0 {
		r.lifetime = 2 * time.Hour
	}
	for _, n := range t.nodes {
		r.stores = append(r.stores, pgsession.New(n.pool, n.crypto, pgsession.WithClock(t.clock), pgsession.WithTable(table),
			pgsession.WithAbsoluteLifetime(r.lifetime), pgsession.WithCoalescing(t.places(random))))
	}
	if err := r.begin(ctx, random); err != nil {
		return fmt.Errorf("begin a round: %w", err)
	}
	for epoch := range r.profile.epochs {
		if epoch > 0 {
			t.advance(r.profile, random)
		}
		if err := r.runEpoch(ctx, epoch, random); err != nil {
			return err
		}
	}
	r.audit(ctx)
	if r.profile.unchecked {
		return nil
	}
	for _, g := range r.groups {
		t.checking.add(r.number, g)
	}
	return nil
}

// advance moves the clock. No statement is on its way that could have read it before.
func (t *torture) advance(p profile, random *rand.Rand) {
	d := advances[random.IntN(len(advances))]
	if p.plain {
		d = advances[1+random.IntN(2)]
	}
	t.clock.Advance(d)
}

// begin makes the round's ids, half of which are sessions.
func (r *round) begin(ctx context.Context, random *rand.Rand) error {
	r.now = r.clock.Now()
	for name := range r.profile.groups {
		g := newGroup(r.number, name, r.profile.slots)
		created := make(map[pgsession.ID]func())
		for i := range (len(g.ids) + 1) / 2 {
			c := r.newCall(opCreate, g, random)
			started := tick()
			id, err := r.stores[i%len(r.stores)].Create(ctx, pgsession.Data{UserID: c.user, Values: values{Name: c.values}}, c.ttl)
			if err != nil {
				return err
			}
			g.ids[i] = id
			created[id] = func() {
				c.slot = g.slotOf(id.Handle())
				g.history.add(c, answer{}, 0, started)
			}
		}
		g.sort()
		for _, record := range created {
			record()
		}
		r.groups = append(r.groups, g)
	}
	return nil
}

func (r *round) newCall(k kind, g *group, random *rand.Rand) call {
	c := call{kind: k, slot: random.IntN(len(g.ids)), except: -1, at: r.now, lifetime: r.lifetime}
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
	switch k {
	case opCreate, opSave, opPut, opUpdate, opCycle:
		c.values = fmt.Sprintf("w%d", r.written.Add(1))
	}
	switch k {
	case opUpdate:
		c.user = ""
		if random.IntN(2) == 0 {
			c.ttl = 0
		}
	case opCycle:
		c.to = random.IntN(len(g.ids))
		if !r.profile.plain && random.IntN(3) == 0 {
			c.user = g.users[random.IntN(len(g.users))]
		}
	case opTouch:
		c.user = ""
	case opLoad, opDelete:
		c.user, c.ttl = "", 0
	case opRevoke, opFind:
		c.ttl = 0
	case opEndUser:
		c.ttl = 0
		if !r.profile.plain && random.IntN(3) == 0 {
			c.except = c.slot
		}
	case opClean, opReseal:
		c.user, c.ttl, c.slot = "", 0, 0
	}
	return c
}

// runEpoch lets all workers loose, and returns when nothing of what they did is on its way any more.
func (r *round) runEpoch(ctx context.Context, epoch int, random *rand.Rand) error {
	r.now = r.clock.Now()
	// Whatever a fault may do, an epoch ends.
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	stopFaults := r.startFaults(ctx, r.groups, rand.New(rand.NewPCG(r.seed, uint64(r.number*100+epoch))))
	stopRotation := r.rotation.start(ctx, r.torture, r.stores, random.Uint64())
	var workers sync.WaitGroup
	for worker := range r.profile.workers {
		own := rand.New(rand.NewPCG(r.seed^uint64(worker+1)<<32, uint64(r.number*100+epoch)))
		workers.Go(func() { r.work(ctx, worker, own) })
	}
	workers.Wait()
	if err := stopFaults(); err != nil {
		return fmt.Errorf("undo a fault: %w", err)
	}
	stopRotation()
	if r.faults {
		if err := r.recovers(ctx); err != nil {
			r.complain(fmt.Sprintf("round %d: the store does not recover from an outage: %v", r.number, err))
		}
	}
	if err := r.quiesce(ctx); err != nil {
		return fmt.Errorf("wait for the server to be idle: %w", err)
	}
	for _, g := range r.groups {
		g.history.settle()
	}
	r.rotation.settle(ctx, r.torture, r.stores)
	return nil
}

// maxUnknown bounds what the search must try, in an epoch of a history.
const maxUnknown = 5

func (r *round) work(ctx context.Context, worker int, random *rand.Rand) {
	deadline := time.Now().Add(5 * time.Second)
	total := 0
	for _, weight := range r.profile.weights {
		total += weight
	}
	for range r.profile.calls {
		g := r.groups[random.IntN(len(r.groups))]
		k, n := kind(0), random.IntN(total)
		for ; n >= r.profile.weights[k]; k++ {
			n -= r.profile.weights[k]
		}
		g.history.mu.Lock()
		if g.history.unknown >= maxUnknown && !k.reads() {
			k = opLoad
		}
		g.history.mu.Unlock()
		failed := r.do(ctx, worker, r.stores[random.IntN(len(r.stores))], g, r.newCall(k, g, random), random)
		if time.Now().After(deadline) || ctx.Err() != nil {
			return
		}
		if failed { // a server that is down would use up the calls in no time
			timer := time.NewTimer(rand.N(30 * time.Millisecond))
			<-timer.C
		}
	}
}

// do makes a call and records it. It reports whether the call failed.
func (r *round) do(ctx context.Context, worker int, store *pgsession.Store, g *group, c call, random *rand.Rand) (failed bool) {
	ctx, cancel := r.callContext(ctx, random)
	defer cancel()
	if c.kind == opEndUser {
		var ok bool
		if c.mark, ok = g.history.newMark(c.except); !ok {
			return false
		}
	}
	data := pgsession.Data{UserID: c.user, Values: values{Name: c.values}}
	if random.IntN(8) == 0 {
		data.Values = values{Name: c.values, Padding: padding[random.IntN(len(padding)):]}
	}
	id := g.ids[c.slot]
	var seen []session
	var err error
	started := tick()
	switch c.kind {
	case opLoad:
		var loaded *pgsession.Session
		if loaded, err = store.Load(ctx, id); err == nil {
			seen = r.show(g, loaded)
		}
	case opSave:
		err = store.Save(ctx, id, data, c.ttl)
	case opUpdate:
		err = store.Update(ctx, id, c.ttl, func(loaded *pgsession.Session) (any, error) {
			seen = r.show(g, loaded)
			return data.Values, nil
		})
	case opTouch:
		err = store.Touch(ctx, id, c.ttl)
	case opCycle:
		err = store.Cycle(ctx, id, g.ids[c.to], data, c.ttl)
	case opDelete:
		err = store.Delete(ctx, id)
	case opPut:
		err = store.Put(ctx, id, data, c.ttl)
	case opRevoke:
		err = store.Revoke(ctx, c.user, id.Handle())
	case opFind:
		var found []*pgsession.Session
		if found, err = store.FindByUser(ctx, c.user, 0); err == nil {
			seen = r.show(g, found...)
		}
	case opEndUser:
		var except []pgsession.Handle
		if c.except >= 0 {
			except = append(except, g.ids[c.except].Handle())
		}
		_, err = store.DeleteByUser(ctx, c.user, except...)
	case opClean:
		_, err = store.CleanupExpired(ctx)
	case opReseal:
		_, err = store.Reseal(ctx)
	}
	r.operations.Add(1)
	a := answer{seen: seen}
	switch verdict := r.judge(c.kind, err, &a); verdict {
	case definite:
	case leftNoTrace:
		return true
	case unknown:
		if c.kind == opUpdate && len(seen) == 0 {
			return true
		}
		a.unknown, failed = true, true
	}
	switch {
	case c.kind == opReseal:
	case c.kind == opClean: // of all groups
		for _, each := range r.groups {
			each.history.add(c, a, worker, started)
		}
	default:
		g.history.add(c, a, worker, started)
	}
	return failed
}

func (r *round) callContext(ctx context.Context, random *rand.Rand) (context.Context, context.CancelFunc) {
	if !r.faults {
		return context.WithCancel(ctx)
	}
	if random.IntN(12) == 0 {
		r.injected.add("context cancelled")
		return context.WithTimeout(ctx, time.Duration(random.IntN(3000))*time.Microsecond)
	}
	return context.WithTimeout(ctx, time.Second)
}

// show reads what a store returned. A session that is not one of ours, or does not open, is wrong by itself.
func (r *round) show(g *group, sessions ...*pgsession.Session) []session {
	shown := make([]session, 0, len(sessions))
	for _, s := range sessions {
		v, err := pgsession.Decode[values](s)
		slot := g.slotOf(s.Handle)
		if err != nil || slot < 0 {
			r.complain(fmt.Sprintf("round %d, group %d: a session at id %d that nobody wrote: %v", r.number, g.name, slot, err))
			continue
		}
		shown = append(shown, session{slot: slot, user: s.UserID, values: v.Name, created: s.CreatedAt.UnixMicro(), expires: s.ExpiresAt.UnixMicro()})
	}
	if len(shown) == 0 {
		return nil
	}
	return shown
}

type verdict int

const (
	definite    verdict = iota // the answer says what happened
	leftNoTrace                // nothing happened
	unknown                    // it may have happened, or will, or never
)

// judge tells what an error says of what happened.
func (r *round) judge(k kind, err error, a *answer) verdict {
	switch {
	case err == nil:
		return definite
	case errors.Is(err, pgsession.ErrRevoked):
		a.outcome = model.Revoked
		return definite
	case errors.Is(err, pgsession.ErrNotFound):
		a.outcome = model.NotFound
		return definite
	case errors.Is(err, pgsession.ErrExists):
		a.outcome = model.Exists
		return definite
	case errors.Is(err, pgsession.ErrUserChanged):
		a.outcome = model.UserChanged
		return definite
	case errors.Is(err, pgsession.ErrConflict):
		r.conflicts.Add(1)
		return leftNoTrace
	}
	for _, wrong := range []error{pgsession.ErrTampered, pgsession.ErrUnknownKey, pgsession.ErrSchema, pgsession.ErrDecode, pgsession.ErrEncode,
		pgsession.ErrInvalidTTL, pgsession.ErrTooLarge, pgsession.ErrInvalidID} {
		if errors.Is(err, wrong) {
			r.complain(fmt.Sprintf("round %d: %s: an error that nothing explains: %v", r.number, k, err))
			return unknown
		}
	}
	if !r.faults {
		r.complain(fmt.Sprintf("round %d: %s failed though nothing was wrong: %v", r.number, k, err))
	}
	r.errors.Add(1)
	var server *pgconn.PgError
	var connecting *pgconn.ConnectError
	switch {
	case k.reads() || k == opReseal:
		return leftNoTrace
	case k == opEndUser || k == opClean: // several transactions
		return unknown
	case errors.As(err, &connecting):
		return leftNoTrace
	case errors.As(err, &server) && server.SeverityUnlocalized == "ERROR":
		switch server.Code {
		case "57014":
			r.injected.add("statement or lock timeout, or cancel")
		case "55P03":
			r.injected.add("statement or lock timeout, or cancel")
		}
		return leftNoTrace
	}
	return unknown
}

// recovers asks every node for a session, and wants an answer soon: nothing is wrong any more.
func (r *round) recovers(ctx context.Context) error {
	random := rand.New(rand.NewPCG(r.seed, uint64(r.number)))
	for _, store := range r.stores {
		g := r.groups[0]
		deadline := time.Now().Add(10 * time.Second)
		for r.do(ctx, -1, store, g, r.newCall(opLoad, g, random), random) {
			if time.Now().After(deadline) {
				_, err := store.Load(ctx, g.ids[0])
				return err
			}
		}
	}
	return nil
}

// audit reads everything once more, at rest.
func (r *round) audit(ctx context.Context) {
	for _, g := range r.groups {
		for i := range g.ids {
			r.auditCall(ctx, g, call{kind: opLoad, slot: i})
		}
		if r.profile.weights[opFind] == 0 {
			continue // it would tie together what has nothing else to do with each other
		}
		for _, user := range g.users[:2] {
			r.auditCall(ctx, g, call{kind: opFind, user: user})
		}
	}
}

func (r *round) auditCall(ctx context.Context, g *group, c call) {
	c.at, c.lifetime, c.except = r.now, r.lifetime, -1
	calm := rand.New(rand.NewPCG(1, 1))
	for attempt := range 10 { // a context may be cancelled here as well
		if !r.do(ctx, -1, r.stores[0], g, c, calm) {
			return
		}
		if attempt == 9 {
			r.complain(fmt.Sprintf("round %d: %s fails at rest", r.number, c.kind))
		}
	}
}
