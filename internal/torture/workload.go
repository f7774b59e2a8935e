package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/rows"
)

// A round is a number of epochs on fresh ids.
type round struct {
	*torture
	number   int
	profile  profile
	groups   []*group
	entries  *group // nil if the profile has none
	stores   []*pgsession.Store
	lifetime time.Duration
	timeout  time.Duration // WithTimeout
}

var timeouts = []time.Duration{300 * time.Millisecond, time.Second, 2 * time.Second}

func (t *torture) runRound(ctx context.Context, number int, random *rand.Rand) error {
	r := &round{torture: t, number: number, profile: t.profiles[random.IntN(len(t.profiles))], timeout: 2 * time.Second}
	if !r.profile.plain && random.IntN(3) == 0 {
		r.lifetime = 2 * time.Hour
	}
	if t.faults {
		r.timeout = timeouts[random.IntN(len(timeouts))]
		if t.citus != nil {
			r.timeout += 2 * time.Second // its servers connect to each other anew after a crash
		}
	}
	for _, n := range t.nodes {
		options := append(t.withCoalescing(random), pgsession.WithClock(t.clock.clock), pgsession.WithTable(table),
			pgsession.WithAbsoluteLifetime(r.lifetime), pgsession.WithTimeout(r.timeout))
		r.stores = append(r.stores, pgsession.New(n.pool, n.crypto, options...))
	}
	if err := r.begin(ctx, random); err != nil {
		return fmt.Errorf("begin a round: %w", err)
	}
	for epoch := range r.profile.epochs {
		if epoch > 0 {
			t.clock.advance(r.profile.advance(random))
		}
		if err := r.runEpoch(ctx, epoch, random); err != nil {
			return err
		}
	}
	r.audit(ctx)
	if r.profile.unchecked {
		return nil
	}
	for _, g := range r.all() {
		g.history.settleAll()
		t.checking.add(r, g)
	}
	return nil
}

// all returns all groups, that of the entries too.
func (r *round) all() []*group {
	if r.entries == nil {
		return r.groups
	}
	return append(slices.Clip(r.groups), r.entries)
}

// begin makes the round's ids, half of which are sessions.
func (r *round) begin(ctx context.Context, random *rand.Rand) error {
	if r.profile.entries > 0 {
		r.entries = r.newEntries()
	}
	for name := range r.profile.groups {
		g := r.newGroup(name)
		for slot := range r.profile.slots {
			if slot%2 == 1 || r.profile.fresh {
				purpose := purposes[slot/2%2]
				g.bind(slot, pgsession.NewIDFor(purpose), purpose)
				continue
			}
			g.bind(slot, pgsession.ID{}, "") // so that newCall has a slot to pick
			c := r.newCall(opCreate, g, random)
			c.slot = slot
			c.user = g.users[slot%len(g.users)]
			if r.profile.plain && c.user == "" && !r.profile.guests {
				c.user = g.users[0]
			}
			c.reading = r.clock.reading()
			started := tick()
			data := pgsession.Data{UserID: c.user, Lifetime: c.lifetime, Values: values{Name: c.values}}
			purpose := purposes[slot/2%2]
			var s *pgsession.Session
			var err error
			if purpose == "" {
				s, err = r.stores[slot%2].Create(ctx, data, c.ttl)
			} else {
				s, err = r.stores[slot%2].CreateAs(ctx, pgsession.NewIDFor(purpose), data, c.ttl)
			}
			if err != nil {
				return err
			}
			g.bind(slot, s.ID, purpose)
			g.keep(slot, s)
			g.history.add(c, answer{returned: r.returned(slot, s, true)}, 0, started, openCall{})
		}
		r.groups = append(r.groups, g)
	}
	return r.ballast.fill(ctx, r.stores[0], r.profile.ballast)
}

// runEpoch lets all workers loose, and returns when nothing of what they did is on its way any
// more.
func (r *round) runEpoch(ctx context.Context, epoch int, random *rand.Rand) error {
	// Whatever a fault may do, an epoch ends.
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	number := uint64(r.number*100 + epoch)
	stopFaults := r.startFaults(ctx, r.groups, rand.New(rand.NewPCG(r.seed, number)))
	stopRotation := r.rotation.start(ctx, r.torture, r.stores, random.Uint64())
	moving := rand.New(rand.NewPCG(random.Uint64(), number))
	moves := random.IntN(r.profile.moves + 1)
	stopClock := r.clock.startMoving(ctx, moves, func() time.Duration { return r.profile.step(moving) }, moving)
	// Some epochs last long enough for calls that were given up to do harm after their time.
	var leisure time.Duration
	if r.faults && random.IntN(8) == 0 {
		leisure = 100 * time.Millisecond
	}
	var workers sync.WaitGroup
	for worker := range r.profile.workers {
		own := rand.New(rand.NewPCG(r.seed^uint64(worker+1)<<32, number))
		workers.Go(func() { r.work(ctx, worker, leisure, own) })
	}
	workers.Wait()
	stopClock()
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
	for _, g := range r.all() {
		g.history.settleAll()
	}
	r.rotation.settle(ctx, r.torture, r.stores)
	return nil
}

// maxUnsettled bounds what the search must try at one time.
const maxUnsettled = 5

func (r *round) work(ctx context.Context, worker int, leisure time.Duration, random *rand.Rand) {
	deadline := time.Now().Add(5 * time.Second)
	calls := r.profile.calls
	if r.faults {
		calls *= 2
	}
	for range calls {
		k := r.profile.pick(random)
		g := r.groups[random.IntN(len(r.groups))]
		if k.ofEntries() {
			g = r.entries
		}
		g.history.settle(time.Now(), r.brokenNetwork.since)
		if g.history.unsettled() >= maxUnsettled && !k.reads() {
			if k = opLoad; g == r.entries {
				k = opGetEntry
			}
		}
		failed := r.do(ctx, worker, r.stores[random.IntN(len(r.stores))], g, r.newCall(k, g, random), random)
		if time.Now().After(deadline) || ctx.Err() != nil {
			return
		}
		if failed { // a server that is down would use up the calls in no time
			pause(ctx, rand.N(30*time.Millisecond))
		}
		if leisure > 0 {
			pause(ctx, rand.N(leisure))
		}
	}
}

// do makes a call and records it. It reports whether the call failed.
func (r *round) do(ctx context.Context, worker int, store *pgsession.Store, g *group, c call, random *rand.Rand) (failed bool) {
	if c.kind == opRenew {
		var ok bool
		if c.to, ok = g.reserve(c.values); !ok {
			c = r.newCall(opLoad, g, random)
		}
	}
	histories := []*group{g}
	switch c.kind {
	case opAll:
		histories = r.groups
	case opEndAll:
		histories = r.groups
	case opClean:
		histories = r.all()
	}
	marked := make([]marks, len(histories))
	if c.kind == opEndUser || c.kind == opEndAll {
		for i, each := range histories {
			var ok bool
			if marked[i], ok = each.history.newMark(c.except, c.everybody); !ok {
				return false
			}
		}
	}
	ctx, cancel := r.callContext(ctx, random)
	defer cancel()
	c.reading = r.clock.reading()
	started, began := tick(), time.Now()
	result := r.perform(ctx, store, g, c, random)
	took := time.Since(began)
	r.operations.Add(1)
	r.checkDuration(ctx, c.kind, began, took)
	outOfTime := ctx.Err() != nil || took >= r.timeout

	a := answer{seen: result.seen, value: result.value, expires: microsecondsOf(result.expires)}
	if !outOfTime {
		r.checkServerError(fmt.Sprintf("round %d: %s", r.number, c.kind), result.err, began, &r.readOnly)
	}
	verdict := r.judge(c, result.err, &a)
	if c.kind == opRenew {
		r.endRenew(g, c, result, verdict, a.outcome)
	}
	if c.misread {
		ended := c.kind == opDelete && result.err == nil
		refused := errors.Is(result.err, pgsession.ErrNotFound) && !errors.Is(result.err, pgsession.ErrRevoked)
		if verdict == definite && !ended && !refused {
			r.complain(fmt.Sprintf("round %d: %s took a token for another purpose than its own: %v", r.number, c.kind, result.err))
		}
		return verdict != definite
	}
	if c.isForeign() {
		if !errors.Is(result.err, pgsession.ErrForeignID) {
			r.complain(fmt.Sprintf("round %d: %s did not refuse an id that came from outside: %v", r.number, c.kind, result.err))
		}
		return false
	}
	switch verdict {
	case definite:
		if result.session != nil {
			a.returned = r.returned(c.slot, result.session, c.base == nil || !c.base.ID.IsZero())
			if c.kind == opRenew {
				a.returned.slot = c.to
			}
			g.keep(a.returned.slot, result.session)
		}
	case leftNoTrace:
		return result.err != nil
	case unknown:
		if (c.kind == opUpdate || c.kind == opRenew) && len(result.seen) == 0 {
			return true
		}
		a.unknown, failed = true, true
	}
	open := openCall{began: began, givenUp: began.Add(took), deadline: began.Add(r.timeout)}
	if c.kind == opEndAll || c.kind == opClean { // each of their statements has that time
		open.deadline = open.givenUp.Add(r.timeout)
	}
	if !c.kind.isOfHistory() {
		return failed
	}
	for i, each := range histories {
		c.mark = marked[i]
		one := a
		if c.kind == opAll {
			one.seen = result.listed[each]
		}
		each.history.add(c, one, worker, started, open)
	}
	return failed
}

// endRenew tells the group the new id, or that there is none.
func (r *round) endRenew(g *group, c call, result result, verdict verdict, outcome rows.Outcome) {
	switch {
	case verdict == unknown && len(result.seen) > 0:
	case verdict == definite && outcome == rows.OK:
		g.bind(c.to, result.session.ID, g.purpose(c.slot))
		r.parse(result.session.ID, g.purpose(c.slot))
	case !g.release(c.values):
		r.complain(fmt.Sprintf("round %d, group %d: a renewal failed, and its new session was seen: %v", r.number, g.name, result.err))
	}
}

// A result is what a store returned.
type result struct {
	err     error
	seen    []session
	session *pgsession.Session
	value   string
	expires time.Time            // by Touch
	listed  map[*group][]session // by All
}

func (r *round) perform(ctx context.Context, store *pgsession.Store, g *group, c call, random *rand.Rand) (result result) {
	if c.kind.ofEntries() {
		return r.performOnEntry(ctx, store.KeyValue(), g.keys[c.slot], c)
	}
	data := pgsession.Data{UserID: c.user, Lifetime: c.lifetime, Values: values{Name: c.values}}
	if random.IntN(8) == 0 {
		data.Values = values{Name: c.values, Padding: padding[random.IntN(len(padding)):]}
	}
	id, to := g.id(c.slot), g.id(c.to)
	switch {
	case c.misread:
		id = misread(id)
	case c.parsed && c.kind == opCycle:
		to = r.parse(to, g.purpose(c.to))
	case c.parsed:
		id = r.parse(id, g.purpose(c.slot))
	}
	switch c.kind {
	case opCreateAs:
		result.session, result.err = store.CreateAs(ctx, id, data, c.ttl)
	case opLoad:
		var loaded *pgsession.Session
		if loaded, result.err = store.Load(ctx, id); result.err == nil {
			result.seen = r.show(g, loaded)
		}
	case opFind:
		var found *pgsession.Session
		if found, result.err = store.Find(ctx, id.Handle()); result.err == nil {
			result.seen = r.show(g, found)
			if !found.ID.IsZero() {
				r.complain(fmt.Sprintf("round %d: Find returned a session with an ID", r.number))
			}
		}
	case opCount:
		_, result.err = store.Count(ctx)
	case opLimit:
		_, result.err = store.LimitByUser(ctx, c.user, c.keep)
	case opSave:
		result.err = store.Save(ctx, id, data, c.ttl)
	case opUpdate:
		result.session, result.err = store.Update(ctx, c.base, c.ttl, func(loaded *pgsession.Session) (any, error) {
			result.seen = r.show(g, loaded)
			if c.refuses {
				return nil, errRefused
			}
			if c.values == "" {
				return loaded.Data().Values, nil
			}
			return data.Values, nil
		})
	case opTouch:
		result.expires, result.err = store.Touch(ctx, c.base, c.ttl)
	case opCycle:
		result.err = store.Cycle(ctx, id, to, data, c.ttl)
	case opRenew:
		result.session, result.err = store.Renew(ctx, c.base, c.ttl, func(loaded *pgsession.Session) (pgsession.Data, error) {
			result.seen = r.show(g, loaded)
			return data, nil
		})
	case opDelete:
		result.err = store.Delete(ctx, id)
	case opPut:
		result.err = store.Put(ctx, id, data, c.ttl)
	case opRevoke:
		result.err = store.Revoke(ctx, c.user, id.Handle())
	case opRevokeAny:
		result.err = store.RevokeAny(ctx, id.Handle())
	case opFindByUser:
		var found []*pgsession.Session
		if found, result.err = store.FindByUser(ctx, c.user, 0); result.err == nil {
			r.checkOrder(found)
			result.seen = r.show(g, found...)
			sortBySlot(result.seen)
		}
	case opAll:
		result.listed, result.err = r.list(ctx, store)
	case opEndUser:
		var except []pgsession.Handle
		if c.except >= 0 {
			except = append(except, g.id(c.except).Handle())
		}
		_, result.err = store.DeleteByUser(ctx, c.user, except...)
	case opEndAll:
		r.ballast.clear()
		_, result.err = store.DeleteAll(ctx)
	case opClean:
		_, result.err = store.CleanupExpired(ctx)
	case opReseal:
		_, result.err = store.Reseal(ctx)
	}
	return result
}

func (r *round) performOnEntry(ctx context.Context, entries *pgsession.KeyValue, key string, c call) (result result) {
	var value []byte
	switch c.kind {
	case opPutEntry:
		result.err = entries.Put(ctx, key, []byte(c.values), c.ttl)
	case opGetEntry:
		value, result.err = entries.Get(ctx, key)
	case opTakeEntry:
		value, result.err = entries.Take(ctx, key)
	case opRemoveEntry:
		result.err = entries.Delete(ctx, key)
	}
	result.value = string(value)
	return result
}

// purposes are those of the ids. Store.Create makes ids for the first.
var purposes = []string{"", "staff"}

// parse returns the id as a request's cookie gives it.
func (r *round) parse(id pgsession.ID, purpose string) pgsession.ID {
	parsed, err := pgsession.ParseIDFor(purpose, id.Token())
	if err != nil || parsed.Handle() != id.Handle() {
		r.complain(fmt.Sprintf("round %d: an id does not parse for its purpose, %q: %v", r.number, purpose, err))
	}
	return parsed
}

// misread returns the id of a token that is read for a purpose which none has.
func misread(id pgsession.ID) pgsession.ID {
	other, err := pgsession.ParseIDFor("customers", id.Token())
	must(err)
	return other
}

func (r *round) callContext(ctx context.Context, random *rand.Rand) (context.Context, context.CancelFunc) {
	if !r.faults {
		return context.WithCancel(ctx)
	}
	switch random.IntN(12) {
	case 0:
		r.injected.add("context ended")
		return context.WithTimeout(ctx, time.Duration(random.IntN(3000))*time.Microsecond)
	case 1, 2, 3: // WithTimeout alone bounds the call
		return context.WithCancel(ctx)
	case 4:
		r.injected.add("caller gone")
		after := time.Duration(random.IntN(3000)) * time.Microsecond
		ctx, cancel := context.WithCancel(context.WithValue(ctx, goneAfter{}, after))
		timer := time.AfterFunc(after, cancel)
		return ctx, func() { timer.Stop(); cancel() }
	}
	return context.WithTimeout(ctx, time.Second)
}

// goneAfter is the key of how long after the begin of a call its caller goes.
type goneAfter struct{}

// show reads what a store returned. A session that is not one of ours, or does not open, is wrong
// by itself.
func (r *round) show(g *group, sessions ...*pgsession.Session) []session {
	shown := make([]session, 0, len(sessions))
	for _, s := range sessions {
		v, err := pgsession.Decode[values](s)
		slot, ok := g.slotOf(s.Handle, v.Name)
		if err != nil || !ok {
			r.complain(fmt.Sprintf("round %d, group %d: a session of %q with values %s at id %d that nobody wrote: %v", r.number, g.name, s.UserID, v.Name, slot, err))
			continue
		}
		shown = append(shown, r.showOne(slot, v.Name, s))
		g.keep(slot, s)
	}
	if len(shown) == 0 {
		return nil
	}
	return shown
}

func (r *round) showOne(slot int, name string, s *pgsession.Session) session {
	// The model computes expiries by the rules that the store has, so it would not miss this one.
	if !s.EndsAt.IsZero() && s.ExpiresAt.After(s.EndsAt) {
		r.complain(fmt.Sprintf("round %d: a session expires at %s, after its end at %s", r.number, s.ExpiresAt, s.EndsAt))
	}
	return session{slot: slot, user: s.UserID, values: name, created: s.CreatedAt.UnixMicro(), expires: s.ExpiresAt.UnixMicro(),
		ends: microsecondsOf(s.EndsAt), idle: s.IdleTimeout}
}

// returned reads the session that a write returned. It has an ID unless the write began with a
// session from a list.
func (r *round) returned(slot int, s *pgsession.Session, hasID bool) *session {
	v, err := pgsession.Decode[values](s)
	if err != nil || s.ID.IsZero() == hasID || hasID && s.ID.Handle() != s.Handle {
		r.complain(fmt.Sprintf("round %d: a write returned a session that does not open, or whose ID is not what it should be: %v", r.number, err))
	}
	shown := r.showOne(slot, v.Name, s)
	return &shown
}

// list reads all sessions, and returns those of each group.
func (r *round) list(ctx context.Context, store *pgsession.Store) (listed map[*group][]session, err error) {
	listed = make(map[*group][]session)
	seen := make(map[pgsession.Handle]bool)
	for s, err := range store.All(ctx) {
		if err != nil {
			return nil, err
		}
		if seen[s.Handle] {
			r.complain(fmt.Sprintf("round %d: All shows a session twice", r.number))
		}
		seen[s.Handle] = true
		v, err := pgsession.Decode[values](s)
		ours := false
		for _, g := range r.groups {
			if slot, ok := g.slotOf(s.Handle, v.Name); ok {
				listed[g] = append(listed[g], r.showOne(slot, v.Name, s))
				g.keep(slot, s)
				ours = true
			}
			if !ours && s.UserID != "" && slices.Contains(g.users, s.UserID) {
				r.complain(fmt.Sprintf("round %d, group %d: All shows a session of %q with values %s that nobody wrote", r.number, g.name, s.UserID, v.Name))
			}
		}
		if err != nil {
			r.complain(fmt.Sprintf("round %d: All shows a session that does not open: %v", r.number, err))
		}
	}
	if !r.ballast.isIn(seen) {
		r.complain(fmt.Sprintf("round %d: All does not show a session that was there all the time", r.number))
	}
	return listed, nil
}

// checkOrder wants the newest log-in first.
func (r *round) checkOrder(found []*pgsession.Session) {
	sorted := slices.IsSortedFunc(found, func(a, b *pgsession.Session) int {
		return b.CreatedAt.Compare(a.CreatedAt)
	})
	if !sorted {
		r.complain(fmt.Sprintf("round %d: FindByUser does not show the newest log-in first", r.number))
	}
}

// errRefused is what the change of an Update returns that is to write nothing.
var errRefused = errors.New("refused")

// opensByToken reports whether the call names its session by a token.
func (c call) opensByToken() bool {
	return slices.Contains([]kind{opLoad, opSave, opPut, opDelete, opCycle}, c.kind)
}

// isForeign reports whether the store must refuse the call, since nothing may begin under its id.
func (c call) isForeign() bool {
	return c.parsed && (c.kind == opCreateAs || c.kind == opCycle) || c.kind == opRenew && c.base.ID.IsZero()
}

type verdict int

const (
	definite    verdict = iota // the answer says what happened
	leftNoTrace                // nothing happened
	unknown                    // it may have happened, or will, or never
)

// judge tells what an error says of what happened.
func (r *round) judge(c call, err error, a *answer) verdict {
	k := c.kind
	switch {
	case err == nil:
		return definite
	case errors.Is(err, pgsession.ErrForeignID) && c.isForeign():
		return leftNoTrace
	case errors.Is(err, pgsession.ErrRevoked):
		a.outcome = rows.Revoked
		return definite
	case errors.Is(err, pgsession.ErrNotFound):
		a.outcome = rows.NotFound
		return definite
	case errors.Is(err, pgsession.ErrExists):
		a.outcome = rows.Exists
		return definite
	case errors.Is(err, pgsession.ErrUserChanged):
		a.outcome = rows.OtherUser
		return definite
	case errors.Is(err, pgsession.ErrConflict):
		r.conflicts.Add(1)
		if !r.faults {
			r.complain(fmt.Sprintf("round %d: %s gave up against other writers, who are too few for that", r.number, k))
		}
		return leftNoTrace
	case errors.Is(err, errRefused):
		return definite
	}
	for _, wrong := range []error{pgsession.ErrTampered, pgsession.ErrUnknownKey, pgsession.ErrSchema, pgsession.ErrDecode, pgsession.ErrEncode,
		pgsession.ErrInvalidTTL, pgsession.ErrTooLarge, pgsession.ErrInvalidID, pgsession.ErrForeignID} {
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
	if errors.As(err, &server) && (server.Code == "57014" || server.Code == "55P03") {
		r.injected.add("statement or lock timeout, or cancel")
	}
	switch {
	case k.reads() || k == opReseal:
		return leftNoTrace
	case k == opEndUser || k == opLimit || k == opEndAll || k == opClean: // several transactions
		return unknown
	case errors.As(err, &connecting):
		return leftNoTrace
	case server != nil && server.SeverityUnlocalized == "ERROR" && r.citus == nil: // there the worker may have committed
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
			if ctx.Err() != nil {
				return nil
			}
			if time.Now().After(deadline) {
				_, err := store.Load(ctx, g.id(0))
				return err
			}
		}
	}
	return nil
}

// audit reads everything once more, at rest, and once more after a clean-up, which must now remove
// all that is over.
func (r *round) audit(ctx context.Context) {
	for pass := range 2 {
		if pass == 1 {
			r.auditLimits(ctx)
			r.auditCall(ctx, r.groups[0], call{kind: opClean, atRest: true})
			r.auditCount(ctx)
		}
		for _, g := range r.groups {
			for _, slot := range g.known() {
				r.auditCall(ctx, g, call{kind: opLoad, slot: slot})
			}
			if r.profile.weights[opFindByUser] == 0 || pass == 1 {
				continue // it would tie together what has nothing else to do with each other
			}
			for _, user := range g.users[:2] {
				r.auditCall(ctx, g, call{kind: opFindByUser, user: user})
			}
		}
		if r.entries != nil {
			for slot := range r.entries.keys {
				r.auditCall(ctx, r.entries, call{kind: opGetEntry, slot: slot})
			}
		}
	}
	if r.profile.weights[opAll] > 0 {
		r.auditCall(ctx, r.groups[0], call{kind: opAll})
	}
}

func (r *round) auditCall(ctx context.Context, g *group, c call) {
	c.absolute, c.except = r.lifetime, -1
	calm := rand.New(rand.NewPCG(1, 1))
	for attempt := range 10 { // a context may end here as well
		if !r.do(ctx, -1, r.stores[0], g, c, calm) {
			return
		}
		if attempt == 9 {
			r.complain(fmt.Sprintf("round %d: %s fails at rest", r.number, c.kind))
		}
	}
}

// auditLimits leaves the newest sessions of each user, at rest: those that FindByUser shows first.
func (r *round) auditLimits(ctx context.Context) {
	if r.profile.weights[opLimit] == 0 {
		return
	}
	keep := 1 + r.number%3
	for _, g := range r.groups {
		for _, user := range g.users[:2] {
			before := r.newest(ctx, user)
			kept, over := before[:min(keep, len(before))], before[min(keep, len(before)):]
			c := call{kind: opLimit, user: user, reading: r.clock.reading(), except: -1}
			started := tick()
			var total int64 // a call that failed has ended some
			r.atRest(ctx, c.kind, func(ctx context.Context) error {
				ended, err := r.stores[0].LimitByUser(ctx, user, keep)
				total += ended
				if err == nil && int(total) != len(over) {
					r.complain(fmt.Sprintf("round %d: LimitByUser ended %d sessions, not %d", r.number, total, len(over)))
				}
				return err
			})
			for _, s := range over {
				c.kind = opEndPass
				c.slot, _ = g.slotOf(s.Handle, "")
				g.history.add(c, answer{}, -1, started, openCall{})
			}
			after := r.newest(ctx, user)
			if !slices.EqualFunc(after, kept, func(a, b *pgsession.Session) bool { return a.Handle == b.Handle }) {
				r.complain(fmt.Sprintf("round %d: of %d sessions, LimitByUser was to keep the newest %d: it left %d, or others", r.number, len(before), keep, len(after)))
			}
		}
	}
}

func (r *round) newest(ctx context.Context, user string) (found []*pgsession.Session) {
	r.atRest(ctx, opFindByUser, func(ctx context.Context) (err error) {
		found, err = r.stores[1].FindByUser(ctx, user, 0)
		return err
	})
	return found
}

// auditCount compares what Count says after a clean-up with what All shows, and with the rows that
// there are.
func (r *round) auditCount(ctx context.Context) {
	if r.profile.weights[opCount] == 0 {
		return
	}
	var count, listed pgsession.Count
	r.atRest(ctx, opCount, func(ctx context.Context) (err error) {
		count, err = r.stores[0].Count(ctx) // whose node has no statement_timeout
		return err
	})
	r.atRest(ctx, opAll, func(ctx context.Context) error {
		listed = pgsession.Count{Tombstones: count.Tombstones, Entries: count.Entries}
		for s, err := range r.stores[1].All(ctx) {
			switch {
			case err != nil:
				return err
			case s.UserID == "":
				listed.Guests++
			default:
				listed.Users++
			}
		}
		return nil
	})
	var total int64
	r.atRest(ctx, opCount, func(ctx context.Context) error {
		return r.administer(ctx, func(conn *pgx.Conn) error {
			return conn.QueryRow(ctx, `SELECT count(*) FROM `+table).Scan(&total)
		})
	})
	if count != listed || count.Users+count.Guests+count.Tombstones+count.Entries != total {
		r.complain(fmt.Sprintf("round %d: Count says %+v; All shows %d and %d, and there are %d rows", r.number, count, listed.Users, listed.Guests, total))
	}
}

// atRest calls do until it succeeds: connections may still be what a fault has left, and the
// machine may be busy.
func (t *torture) atRest(ctx context.Context, k kind, do func(context.Context) error) (done bool) {
	var err error
	for range 10 {
		if err = do(ctx); err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
	}
	t.complain(fmt.Sprintf("%s fails at rest: %v", k, err))
	return false
}
