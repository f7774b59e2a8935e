package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/bench/internal/measure"
)

const (
	lockedTable = "locked"
	lockedValue = 512 // bytes
	whileLocked = 50 * time.Millisecond
)

// The states of the locked row. Another transaction that is open keeps the server from pruning dead
// row versions, which costs every save something. So the lock that no caller wants is the fair
// baseline for the lock that callers want.
const (
	free   = "free"
	held   = "held"
	wanted = "wanted"
)

var states = []string{free, held, wanted}

// A lockedResult is what the saves of others cost beside a locked row.
type lockedResult struct {
	Sharing   string             `json:"sharing"`
	PerSecond map[string]float64 `json:"saves_per_second"` // by the locked row's state
	P99       map[string]float64 `json:"p99_ms"`

	PerSecondToFree ratio `json:"saves_wanted_to_free"`
	PerSecondToHeld ratio `json:"saves_wanted_to_held"`
	P99ToFree       ratio `json:"p99_wanted_to_free"`
	P99ToHeld       ratio `json:"p99_wanted_to_held"`

	// WaitingMedian and WaitingMax are how many connections waited for the locked row, in samples
	// of the rounds. A caller that gives up leaves its connection, which the server has to cancel,
	// while the next one may wait already.
	WaitingMedian float64 `json:"connections_waiting_median"`
	WaitingMax    int     `json:"connections_waiting_max"`
	// Occupied is how many connections of the pool the callers of the locked row hold if nobody
	// else calls.
	Occupied int `json:"connections_occupied"`
}

// measureLocked lets others save beside a row that is free, that is held, and that is held and
// wanted, in another order in each round.
func (b *bench) measureLocked(ctx context.Context) ([]lockedResult, error) {
	both, closeAll, err := b.connect(ctx, lockedTable)
	if err != nil {
		return nil, err
	}
	defer closeAll()
	ids, err := b.fill(ctx, both[0].store, lockedTable, b.sessions+1, lockedValue)
	if err != nil {
		return nil, err
	}
	if err := b.prepareWAL(ctx, time.Duration(b.rounds*len(both)*len(states))*b.length*3/2); err != nil {
		return nil, err
	}
	l := &lockedMeter{bench: b, others: ids[1:], locked: ids[0]}
	if l.locker, err = pgx.Connect(ctx, b.server.URL); err != nil {
		return nil, err
	}
	defer l.locker.Close(context.Background())

	type turn struct {
		measure.Result
		waiting []int
	}
	turns := make(map[[2]string][]turn) // by contender and state
	err = b.quietRounds("beside a locked row", func(round int) (keep func(), err error) {
		keep = func() {}
		for i := range len(both) * len(states) {
			i := (i + round) % (len(both) * len(states))
			c, state := &both[i%len(both)], states[i/len(both)]
			result, waiting, err := l.takeTurn(ctx, c, state, uint64(round))
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", c.name, state, err)
			}
			before := keep
			keep = func() {
				before()
				turns[[2]string{c.name, state}] = append(turns[[2]string{c.name, state}], turn{result, waiting})
			}
		}
		return keep, nil
	})
	if err != nil {
		return nil, err
	}

	var results []lockedResult
	for i := range both {
		c := &both[i]
		result := lockedResult{Sharing: c.name, PerSecond: map[string]float64{}, P99: map[string]float64{}}
		perSecond, p99 := map[string][]float64{}, map[string][]float64{}
		var waiting []float64
		for _, state := range states {
			for _, t := range turns[[2]string{c.name, state}] {
				perSecond[state] = append(perSecond[state], t.Throughput)
				p99[state] = append(p99[state], milliseconds(t.P99))
				if state == wanted {
					for _, n := range t.waiting {
						waiting = append(waiting, float64(n))
					}
				}
			}
			result.PerSecond[state], result.P99[state] = measure.Median(perSecond[state]), measure.Median(p99[state])
		}
		result.PerSecondToFree, result.PerSecondToHeld = ratioOf(perSecond[wanted], perSecond[free]), ratioOf(perSecond[wanted], perSecond[held])
		result.P99ToFree, result.P99ToHeld = ratioOf(p99[wanted], p99[free]), ratioOf(p99[wanted], p99[held])
		result.WaitingMedian, result.WaitingMax = measure.Median(waiting), int(slices.Max(append(waiting, 0)))
		if result.Occupied, err = l.occupied(ctx, c); err != nil {
			return nil, err
		}
		results = append(results, result)
	}
	_, err = b.admin.Exec(ctx, `DROP TABLE `+lockedTable)
	return results, err
}

type lockedMeter struct {
	*bench
	others []pgsession.ID
	locked pgsession.ID
	locker *pgx.Conn
}

// takeTurn measures the saves of others, and how many connections wait for the locked row.
func (l *lockedMeter) takeTurn(ctx context.Context, c *contender, state string, seed uint64) (result measure.Result, waiting []int, err error) {
	if err := l.settle(ctx, lockedTable); err != nil {
		return result, nil, err
	}
	if state != free {
		unlock, err := l.lock(ctx, c)
		if err != nil {
			return result, nil, err
		}
		defer unlock()
	}
	if state == wanted {
		stop := l.callLocked(ctx, c)
		defer func() { err = errors.Join(err, stop()) }()
	}
	stopSampling := sample(whileLocked, func() {
		if n, err := l.waiting(ctx); err == nil {
			waiting = append(waiting, n)
		}
	})
	defer stopSampling()
	load := measure.Load{Callers: l.plan.others, WarmUp: l.length / 2, Length: l.length, Seed: seed}
	result, err = load.Run(ctx, func(ctx context.Context, random *rand.Rand) error {
		id := l.others[random.IntN(len(l.others))]
		return c.store.Save(ctx, id, pgsession.Data{Values: l.value(lockedValue, random.Uint64())}, timeToLive)
	})
	return result, waiting, err
}

// lock holds the locked row until it is unlocked. It saves the row first, so that touches gain and
// have to write. A touch that was given up in an earlier turn may take effect after that; then it
// begins anew.
func (l *lockedMeter) lock(ctx context.Context, c *contender) (unlock func() error, err error) {
	for {
		unlock, isTouched, err := l.saveAndLock(ctx, c)
		if err != nil || !isTouched {
			return unlock, err
		}
		if err := unlock(); err != nil {
			return nil, err
		}
	}
}

func (l *lockedMeter) saveAndLock(ctx context.Context, c *contender) (unlock func() error, isTouched bool, err error) {
	if err := c.store.Save(ctx, l.locked, pgsession.Data{Values: l.value(lockedValue, 0)}, timeToLive); err != nil {
		return nil, false, err
	}
	key, err := hex.DecodeString(l.locked.Handle().String())
	if err != nil {
		return nil, false, err
	}
	tx, err := l.locker.Begin(ctx)
	if err != nil {
		return nil, false, err
	}
	unlock = func() error { return tx.Rollback(context.WithoutCancel(ctx)) }
	err = tx.QueryRow(ctx, `SELECT idle_timeout > $2 FROM `+lockedTable+` WHERE key = $1 FOR UPDATE`, key, timeToLive).Scan(&isTouched)
	if err != nil {
		unlock()
		return nil, false, err
	}
	return unlock, isTouched, nil
}

var errNotLocked = errors.New("a call for the locked row came through")

// callLocked calls for the locked row from many goroutines, until it is stopped. Each gives up after
// a while, and calls again.
func (l *lockedMeter) callLocked(ctx context.Context, c *contender) (stop func() error) {
	ctx, cancel := context.WithCancel(ctx)
	var callers sync.WaitGroup
	failed := make([]error, l.lockedCalls)
	for i := range failed {
		callers.Go(func() {
			for ctx.Err() == nil && failed[i] == nil {
				call, end := context.WithTimeout(ctx, l.callPatience)
				err := l.callOnce(call, c, i)
				end()
				if err == nil {
					err = errNotLocked
				}
				if !errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
					failed[i] = err
				}
			}
		})
	}
	return func() error {
		cancel()
		callers.Wait()
		return errors.Join(failed...)
	}
}

// callOnce saves, touches or updates the locked row.
func (l *lockedMeter) callOnce(ctx context.Context, c *contender, caller int) error {
	value := l.value(lockedValue, rand.Uint64())
	switch caller % 3 {
	case 0:
		return c.store.Save(ctx, l.locked, pgsession.Data{Values: value}, timeToLive)
	case 1:
		return c.store.Touch(ctx, l.locked, 2*timeToLive) // gains, and so writes
	default:
		_, err := c.store.Update(ctx, l.locked, timeToLive, func(*pgsession.Session) (any, error) { return value, nil })
		return err
	}
}

// waiting returns how many connections wait for the locker, or for others that wait for it.
func (l *lockedMeter) waiting(ctx context.Context) (n int, err error) {
	err = l.admin.QueryRow(ctx, `
		WITH RECURSIVE blocked AS (
			SELECT pid, pg_blocking_pids(pid) AS by
			FROM pg_stat_activity
			WHERE wait_event_type = 'Lock'
		), waiting AS (
			SELECT pid FROM blocked WHERE $1 = ANY(by)
			UNION
			SELECT b.pid FROM blocked AS b JOIN waiting AS w ON w.pid = ANY(b.by)
		)
		SELECT count(*) FROM waiting`, l.locker.PgConn().PID()).Scan(&n)
	return n, err
}

// occupied returns how many connections of the pool the callers of the locked row hold, once they
// all wait and nobody else calls.
func (l *lockedMeter) occupied(ctx context.Context, c *contender) (most int, err error) {
	unlock, err := l.lock(ctx, c)
	if err != nil {
		return 0, err
	}
	defer unlock()
	stop := l.callLocked(ctx, c)
	time.Sleep(l.callPatience / 2)
	stopSampling := sample(time.Millisecond, func() { most = max(most, int(c.pool.Stat().AcquiredConns())) })
	time.Sleep(l.callPatience / 4)
	stopSampling()
	return most, stop()
}
