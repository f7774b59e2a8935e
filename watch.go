package pgsession

import (
	"context"
	"sync"
	"time"

	"github.com/pgsession/pgsession/internal/rows"
)

const (
	// watchInterval is how often a store looks for watched sessions that have ended.
	watchInterval = time.Second

	// maxWatchedAtOnce is how many it looks for at once.
	maxWatchedAtOnce = 10_000
)

// Watch returns a copy of ctx that also ends soon after the session does, on whatever node that
// happens. Its [context.Cause] is then [ErrRevoked] if the session was ended, and [ErrNotFound] if
// it has expired or there is none. A session that moves to a new id (Renew, Cycle) ends under the
// old one. It is for what goes on while a user is logged in, such as event streams and web sockets.
//
// The store asks once a second for all that is watched together, and for at most 10,000 sessions at
// once. So the context ends within about a second, and with n watched sessions within n/10,000
// seconds if that is longer. An outage of the database ends nothing. What ended meanwhile is found
// when the database is back. If the pool has a hook that sees the context of a call, as pools of
// several tenants have, the store asks for one session after another, each with the context that
// was given here.
//
// Call cancel when the context is no longer needed. A store has one goroutine for this, while
// anything is watched.
func (s *Store) Watch(ctx context.Context, h Handle) (watched context.Context, cancel context.CancelFunc) {
	ctx, end := context.WithCancelCause(ctx)
	w := &watch{key: h.key(), ctx: ctx, end: end}
	s.watches.add(s.table, w)
	return ctx, func() {
		end(context.Canceled)
		s.watches.remove(w)
	}
}

// A watch is one call of Watch.
type watch struct {
	key rows.Key
	ctx context.Context
	end context.CancelCauseFunc
}

// watches are those of a store. The zero value is ready.
type watches struct {
	apart bool // each is asked for with its own context

	mu    sync.Mutex
	all   map[*watch]struct{}
	queue []*watch           // the one that was looked for longest ago first; it may have those that are gone
	stop  context.CancelFunc // ends the goroutine; nil if there is none
}

func (w *watches) add(table rows.Table, added *watch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all == nil {
		w.all = make(map[*watch]struct{})
	}
	w.all[added] = struct{}{}
	w.queue = append(w.queue, added)
	if w.stop == nil {
		var ctx context.Context
		ctx, w.stop = context.WithCancel(context.Background())
		go w.run(ctx, table)
	}
}

func (w *watches) remove(gone *watch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.all, gone)
	w.stopIfIdle()
}

func (w *watches) stopIfIdle() {
	if len(w.all) == 0 && w.stop != nil {
		w.stop()
		w.stop, w.queue = nil, nil
	}
}

func (w *watches) run(ctx context.Context, table rows.Table) {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			w.look(ctx, table)
		}
	}
}

// look ends the watches whose sessions have ended. If the table cannot be asked, it ends none.
func (w *watches) look(ctx context.Context, table rows.Table) {
	taken := w.take()
	if !w.apart {
		w.lookFor(ctx, table, taken)
		return
	}
	for i := 0; i < len(taken) && ctx.Err() == nil; i++ {
		w.lookFor(taken[i].ctx, table, taken[i:i+1])
	}
}

func (w *watches) lookFor(ctx context.Context, table rows.Table, taken []*watch) {
	if len(taken) == 0 {
		return
	}
	keys := make([]rows.Key, len(taken))
	for i, watch := range taken {
		keys[i] = watch.key
	}
	outcomes, err := table.LoadOutcomes(ctx, keys)
	if err != nil {
		return
	}
	for i, watch := range taken {
		if outcomes[i] != rows.OK {
			watch.end(outcomeError(outcomes[i]))
			w.remove(watch)
		}
	}
}

// take returns the watches that come next. They go to the end of the queue. Those that are gone, or
// whose contexts have ended, are dropped.
func (w *watches) take() (taken []*watch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	next := 0
	for ; next < len(w.queue) && len(taken) < maxWatchedAtOnce; next++ {
		watch := w.queue[next]
		if _, ok := w.all[watch]; !ok {
			continue
		}
		if watch.ctx.Err() != nil {
			delete(w.all, watch)
			continue
		}
		taken = append(taken, watch)
	}
	w.queue = append(w.queue[next:], taken...)
	w.stopIfIdle()
	return taken
}
