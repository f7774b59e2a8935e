package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/pgsession/pgsession"
)

// A limiter lets log-ins of one user race, each of which is followed by a LimitByUser, while their
// sessions move to new ids. When all calls have returned, the user has the newest sessions, and not
// more than maxSessions of them.
type limiter struct {
	store   *pgsession.Store
	logIns  sync.RWMutex // each log-in holds it for reading
	cancel  context.CancelFunc
	workers sync.WaitGroup

	mu            sync.Mutex
	newest        []time.Time // when the newest acknowledged log-ins began
	done          int
	over, missing int
}

const (
	maxSessions    = 2
	limiterTimeout = time.Second
	limiterTTL     = 24 * time.Hour
	limitedUser    = "limited"
)

func newLimiter(store *pgsession.Store) *limiter {
	return &limiter{store: store}
}

func (l *limiter) open(ctx context.Context, workers int, counts bool) {
	ctx, l.cancel = context.WithCancel(ctx)
	for worker := range workers {
		random := rand.New(rand.NewPCG(uint64(worker), 11))
		l.workers.Go(func() {
			for ctx.Err() == nil {
				l.logIn(ctx, random)
				pause(ctx, milliseconds(random, 5))
			}
		})
	}
	if !counts {
		return
	}
	l.workers.Go(func() {
		for ctx.Err() == nil {
			pause(ctx, 200*time.Millisecond)
			l.count(ctx)
		}
	})
}

func (l *limiter) logIn(ctx context.Context, random *rand.Rand) {
	l.logIns.RLock()
	defer l.logIns.RUnlock()
	began := time.Now()
	data := pgsession.Data{UserID: limitedUser}
	s, err := l.store.Create(ctx, data, limiterTTL)
	if err != nil { // it may still happen, but not later than this
		pause(ctx, time.Until(began.Add(limiterTimeout+settleGrace)))
	} else {
		l.mu.Lock()
		l.done++
		l.newest = append(l.newest, s.CreatedAt)
		slices.SortFunc(l.newest, func(a, b time.Time) int { return b.Compare(a) })
		l.newest = l.newest[:min(maxSessions, len(l.newest))]
		l.mu.Unlock()
	}
	l.limit(ctx)
	for err == nil && random.IntN(8) > 0 { // while other log-ins' limits look for it
		s, err = l.store.Renew(ctx, s, 0, func(*pgsession.Session) (pgsession.Data, error) { return data, nil })
	}
}

func (l *limiter) limit(ctx context.Context) {
	for ctx.Err() == nil {
		if _, err := l.store.LimitByUser(ctx, limitedUser, maxSessions); err == nil {
			return
		}
		pause(ctx, 10*time.Millisecond)
	}
}

// count looks what there is while no log-in is going on.
func (l *limiter) count(ctx context.Context) {
	l.logIns.Lock()
	defer l.logIns.Unlock()
	found, err := l.store.FindByUser(ctx, limitedUser, 0)
	if err != nil || ctx.Err() != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over += max(0, len(found)-maxSessions)
	for _, began := range l.newest {
		isIt := func(s *pgsession.Session) bool { return s.CreatedAt.Equal(began) }
		isOlder := func(s *pgsession.Session) bool { return s.CreatedAt.Before(began) }
		if !slices.ContainsFunc(found, isIt) && (len(found) < maxSessions || slices.ContainsFunc(found, isOlder)) {
			l.missing++
		}
	}
}

func (l *limiter) wrong() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.over + l.missing
}

func (l *limiter) close() string {
	l.cancel()
	l.workers.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	l.limit(ctx)
	l.count(ctx)
	return fmt.Sprintf("; limits: %d log-ins, %d sessions too many, %d missing", l.done, l.over, l.missing)
}
