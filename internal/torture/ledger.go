package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsession/pgsession"
)

// A ledger keeps the books on sessions with one writer each: what was acknowledged must be there,
// and what was ended must not. It says of a long run with crashes what no search through histories
// can: nothing was lost, and nothing came back.
type ledger struct {
	store *pgsession.Store
	scope func(context.Context) context.Context // what each call's context holds beside
	user  string                                // the prefix of all users

	mu    sync.Mutex
	live  map[pgsession.Handle]*entry
	ended []pgsession.ID
	saves int

	lost, resurrected, foreign int
	toldOver, notTold          int // by Watch: of a live session that it is over, and of one that was ended nothing for long

	leisure int                              // the longest pause between saves, in milliseconds
	beat    time.Duration                    // if positive, all workers pause until the next multiple of it, and then work at once
	failed  func(err error, began time.Time) // hears of calls that failed with time left; nil if nobody does

	cancel  context.CancelFunc
	workers sync.WaitGroup
}

// An entry is a session whose values count its saves.
type entry struct {
	id                 pgsession.ID
	base               *pgsession.Session // as it was loaded at some time
	acknowledged, sent int
	ending             bool // an end was sent, and its answer never came
}

const ledgerTTL = 24 * time.Hour

// newLedger returns a ledger that open has to start.
func newLedger(store *pgsession.Store, user string) *ledger {
	return &ledger{store: store, user: user, live: make(map[pgsession.Handle]*entry),
		scope: func(ctx context.Context) context.Context { return ctx }}
}

func (l *ledger) open(ctx context.Context, workers int) {
	ctx, l.cancel = context.WithCancel(ctx)
	for worker := range workers {
		random := rand.New(rand.NewPCG(uint64(worker), 7))
		l.workers.Go(func() {
			for ctx.Err() == nil {
				l.keepOne(ctx, random)
			}
		})
	}
}

// keepOne makes a session, saves it a few times and ends it, or leaves it.
func (l *ledger) keepOne(ctx context.Context, random *rand.Rand) {
	stopped := ctx
	ctx, cancel := context.WithTimeout(l.scope(ctx), 20*time.Second)
	defer cancel()
	user := fmt.Sprintf("%s-%d", l.user, random.IntN(1000))
	created, err := l.store.Create(ctx, pgsession.Data{UserID: user, Values: 1}, ledgerTTL)
	if err != nil {
		pause(ctx, 5*time.Millisecond)
		return
	}
	id := created.ID
	e := &entry{id: id, base: created, acknowledged: 1, sent: 1}
	l.record(func() { l.live[id.Handle()], l.saves = e, l.saves+1 })
	watched, unwatch := l.store.Watch(l.scope(context.Background()), id.Handle())
	defer func() { unwatch() }()
	for range 1 + random.IntN(10) {
		l.pause(ctx, random)
		l.record(func() { e.sent++ })
		began := time.Now()
		err := l.write(ctx, id, user, e, random)
		switch {
		case err == nil:
			l.record(func() { e.acknowledged, l.saves = e.sent, l.saves+1 })
		case errors.Is(err, pgsession.ErrNotFound):
			l.record(func() { l.lost++; delete(l.live, id.Handle()) })
			return
		default:
			if ctx.Err() == nil && l.failed != nil {
				l.failed(err, began)
			}
			pause(ctx, 5*time.Millisecond)
		}
		l.read(ctx, id, user, e)
		if watched.Err() != nil {
			l.record(func() { l.toldOver++ })
			return
		}
	}
	if random.IntN(2) == 0 {
		return
	}
	l.record(func() { e.ending = true })
	switch random.IntN(4) {
	case 0:
		err = l.store.Revoke(ctx, user, id.Handle())
	case 1:
		next := pgsession.NewID()
		if err = l.store.Cycle(ctx, id, next, pgsession.Data{UserID: user, Values: 1}, ledgerTTL); err == nil {
			l.record(func() { l.live[next.Handle()] = &entry{id: next, acknowledged: 1, sent: 1} })
		}
	default:
		err = l.store.Delete(ctx, id)
	}
	if err != nil {
		return
	}
	l.record(func() { delete(l.live, id.Handle()); l.ended = append(l.ended, id) })
	end := unwatch
	unwatch = func() {}
	l.workers.Go(func() {
		defer end()
		l.awaitEnd(stopped, watched)
	})
}

// maxUntold is how long after its end a session's Watch may say nothing, while the server is down
// at times.
const maxUntold = 10 * time.Second

func (l *ledger) awaitEnd(ctx, watched context.Context) {
	late := time.NewTimer(maxUntold)
	defer late.Stop()
	select {
	case <-watched.Done():
	case <-ctx.Done():
	case <-late.C:
		l.record(func() { l.notTold++ })
	}
}

func (l *ledger) pause(ctx context.Context, random *rand.Rand) {
	if l.beat > 0 {
		pause(ctx, time.Until(time.Now().Truncate(l.beat).Add(l.beat)))
		return
	}
	pause(ctx, milliseconds(random, l.leisure))
}

// wrong returns how much was found wrong so far.
func (l *ledger) wrong() (n int) {
	l.record(func() { n = l.lost + l.resurrected + l.foreign + l.toldOver + l.notTold })
	return n
}

func (l *ledger) write(ctx context.Context, id pgsession.ID, user string, e *entry, random *rand.Rand) error {
	data := pgsession.Data{UserID: user, Values: e.sent}
	switch random.IntN(3) {
	case 0:
		return l.store.Put(ctx, id, data, ledgerTTL)
	case 1:
		var seen *pgsession.Session
		_, err := l.store.Update(ctx, e.base, ledgerTTL, func(loaded *pgsession.Session) (any, error) {
			seen = loaded
			return e.sent, nil
		})
		if err == nil {
			l.compare(seen, user, e)
		}
		return err
	}
	return l.store.Save(ctx, id, data, ledgerTTL)
}

// read looks for the session in the two ways that there are.
func (l *ledger) read(ctx context.Context, id pgsession.ID, user string, e *entry) {
	loaded, err := l.store.Load(ctx, id)
	switch {
	case err == nil:
		l.compare(loaded, user, e)
		if e.sent%2 == 0 { // otherwise the next Update begins with what is out of date
			e.base = loaded
		}
	case errors.Is(err, pgsession.ErrNotFound):
		l.record(func() { l.lost++ })
	}
	found, err := l.store.FindByUser(ctx, user, 0)
	isIt := func(s *pgsession.Session) bool { return s.Handle == id.Handle() }
	if err == nil && len(found) < 100 && !slices.ContainsFunc(found, isIt) {
		l.record(func() { l.lost++ })
	}
}

// compare looks at a session whose only writer does nothing else meanwhile.
func (l *ledger) compare(loaded *pgsession.Session, user string, e *entry) {
	count, err := pgsession.Decode[int](loaded)
	l.record(func() {
		switch {
		case err != nil || loaded.UserID != user:
			l.foreign++
		case count < e.acknowledged || count > e.sent:
			l.lost++
		}
	})
}

func (l *ledger) record(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
}

// verify loads everything, and counts what is not as it was acknowledged.
func (l *ledger) verify(ctx context.Context) (lost, resurrected int, err error) {
	ctx = l.scope(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	lost, resurrected = l.lost, l.resurrected
	for _, e := range l.live {
		s, err := l.store.Load(ctx, e.id)
		switch {
		case errors.Is(err, pgsession.ErrNotFound):
			if !e.ending {
				lost++
			}
			continue
		case err != nil:
			return lost, resurrected, err
		}
		count, err := pgsession.Decode[int](s)
		if err != nil {
			return lost, resurrected, err
		}
		if count < e.acknowledged || count > e.sent {
			lost++
		}
	}
	for _, id := range l.ended {
		_, err := l.store.Load(ctx, id)
		switch {
		case err == nil:
			resurrected++
			continue
		case !errors.Is(err, pgsession.ErrNotFound):
			return lost, resurrected, err
		}
		// Nor may anything bring it back.
		if err := l.putPatiently(ctx, id); !errors.Is(err, pgsession.ErrRevoked) {
			if err != nil {
				return lost, resurrected, err
			}
			resurrected++
		}
	}
	return lost, resurrected, nil
}

// putPatiently puts a session. The last fault may have left read-only connections, which the store
// gives up within a second.
func (l *ledger) putPatiently(ctx context.Context, id pgsession.ID) error {
	for deadline := time.Now().Add(readOnlyMemory); ; pause(ctx, 50*time.Millisecond) {
		err := l.store.Put(ctx, id, pgsession.Data{}, ledgerTTL)
		var server *pgconn.PgError
		if !errors.As(err, &server) || server.Code != "25006" || time.Now().After(deadline) {
			return err
		}
	}
}

// stop waits for the workers.
func (l *ledger) stop() {
	l.cancel()
	l.workers.Wait()
}

func (l *ledger) close() (lost, resurrected int, err error) {
	l.stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return l.verify(ctx)
}

// grow returns when so many more saves were acknowledged.
func (l *ledger) grow(ctx context.Context, saves int) error {
	var enough int
	l.record(func() { enough = l.saves + saves })
	for {
		var now int
		l.record(func() { now = l.saves })
		if now >= enough || ctx.Err() != nil {
			return ctx.Err()
		}
		pause(ctx, time.Millisecond)
	}
}
