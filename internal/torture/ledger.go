package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsession/pgsession"
)

// A ledger keeps the books on sessions with one writer each: what was acknowledged must be there, and what was ended must
// not. It says of a long run with crashes what no search through histories can: nothing was lost, and nothing came back.
type ledger struct {
	store *pgsession.Store

	mu    sync.Mutex
	live  map[pgsession.ID]*entry
	ended []pgsession.ID
	saves int

	lost, resurrected int

	leisure int // the longest pause between saves, in milliseconds
	cancel  context.CancelFunc
	workers sync.WaitGroup
	pool    *pgxpool.Pool // closed with the ledger, or nil
}

// An entry is a session whose values count its saves.
type entry struct {
	acknowledged, sent int
	ending             bool // an end was sent, and its answer never came
}

const ledgerTTL = 24 * time.Hour

func newLedger(ctx context.Context, store *pgsession.Store, workers, leisure int) *ledger {
	ctx, cancel := context.WithCancel(ctx)
	l := &ledger{store: store, live: make(map[pgsession.ID]*entry), leisure: leisure, cancel: cancel}
	for worker := range workers {
		random := rand.New(rand.NewPCG(uint64(worker), 7))
		l.workers.Go(func() {
			for ctx.Err() == nil {
				l.keepOne(ctx, random)
			}
		})
	}
	return l
}

func (t *torture) openLedger(ctx context.Context) (*ledger, error) {
	config, err := pgxpool.ParseConfig(t.cluster.URL())
	if err != nil {
		return nil, err
	}
	config.ConnConfig.RuntimeParams["application_name"] = "ledger"
	config.MaxConns = 4
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	crypto, err := pgsession.NewCrypto(pgsession.GenerateKey())
	if err != nil {
		return nil, err
	}
	store := pgsession.New(pool, crypto, pgsession.WithTable("ledger"))
	if err := store.Init(ctx); err != nil {
		return nil, err
	}
	l := newLedger(ctx, store, 2, 20)
	l.pool = pool
	return l, nil
}

// keepOne makes a session, saves it a few times and ends it, or leaves it.
func (l *ledger) keepOne(ctx context.Context, random *rand.Rand) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	user := fmt.Sprintf("user-%d", random.IntN(1000))
	id, err := l.store.Create(ctx, pgsession.Data{UserID: user, Values: 1}, ledgerTTL)
	if err != nil {
		pause(ctx, 5*time.Millisecond)
		return
	}
	e := &entry{acknowledged: 1, sent: 1}
	l.record(func() { l.live[id], l.saves = e, l.saves+1 })
	for range 1 + random.IntN(10) {
		pause(ctx, milliseconds(random, l.leisure))
		l.record(func() { e.sent++ })
		err := l.store.Save(ctx, id, pgsession.Data{UserID: user, Values: e.sent}, ledgerTTL)
		switch {
		case err == nil:
			l.record(func() { e.acknowledged, l.saves = e.sent, l.saves+1 })
		case errors.Is(err, pgsession.ErrNotFound):
			l.record(func() { l.lost++; delete(l.live, id) })
			return
		default:
			pause(ctx, 5*time.Millisecond)
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
			l.record(func() { l.live[next] = &entry{acknowledged: 1, sent: 1} })
		}
	default:
		err = l.store.Delete(ctx, id)
	}
	if err == nil {
		l.record(func() { delete(l.live, id); l.ended = append(l.ended, id) })
	}
}

func (l *ledger) record(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
}

// verify loads everything, and counts what is not as it was acknowledged.
func (l *ledger) verify(ctx context.Context) (lost, resurrected int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lost, resurrected = l.lost, l.resurrected
	for id, e := range l.live {
		s, err := l.store.Load(ctx, id)
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
		if err := l.store.Put(ctx, id, pgsession.Data{}, ledgerTTL); !errors.Is(err, pgsession.ErrRevoked) {
			if err != nil {
				return lost, resurrected, err
			}
			resurrected++
		}
	}
	return lost, resurrected, nil
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
	if l.pool != nil {
		defer l.pool.Close()
	}
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
