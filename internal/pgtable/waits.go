package pgtable

import (
	"context"
	"sync"

	"github.com/pgsession/pgsession/internal/deadline"
	"github.com/pgsession/pgsession/internal/rows"
)

// waits lets one call at a time run a statement that waits for a row's lock, so that a locked row
// occupies one connection, however many calls want it. The others wait here, first in, first out.
// The zero value is ready.
type waits struct {
	mu    sync.Mutex
	turns map[rows.Key]*turn
	spare []*turn
}

// A turn is for one key.
type turn struct {
	taken chan struct{} // holds a token while a call has its turn
	calls int           // those that have it or wait for it
}

const maxSpareTurns = 64

// enter waits for the key's turn. An error is that of ctx or of its caller, which may have gone earlier.
func (w *waits) enter(ctx context.Context, key rows.Key) error {
	turn := w.join(key)
	select {
	case turn.taken <- struct{}{}:
		return nil
	default:
	}
	caller := deadline.Caller(ctx)
	select {
	case turn.taken <- struct{}{}:
		return nil
	case <-caller.Done():
		ctx = caller
	case <-ctx.Done():
	}
	w.forget(key, turn)
	return ctx.Err()
}

// tryEnter takes the turn if nobody has it or waits for it.
func (w *waits) tryEnter(key rows.Key) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.turns[key] != nil {
		return false
	}
	w.add(key).taken <- struct{}{}
	return true
}

func (w *waits) leave(key rows.Key) {
	w.mu.Lock()
	turn := w.turns[key]
	w.mu.Unlock()
	<-turn.taken
	w.forget(key, turn)
}

func (w *waits) join(key rows.Key) *turn {
	w.mu.Lock()
	defer w.mu.Unlock()
	if turn := w.turns[key]; turn != nil {
		turn.calls++
		return turn
	}
	return w.add(key)
}

func (w *waits) add(key rows.Key) *turn {
	if w.turns == nil {
		w.turns = make(map[rows.Key]*turn)
	}
	var added *turn
	if n := len(w.spare); n > 0 {
		added, w.spare = w.spare[n-1], w.spare[:n-1]
	} else {
		added = &turn{taken: make(chan struct{}, 1)}
	}
	added.calls = 1
	w.turns[key] = added
	return added
}

func (w *waits) forget(key rows.Key, turn *turn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	turn.calls--
	if turn.calls > 0 {
		return
	}
	delete(w.turns, key)
	if len(w.spare) < maxSpareTurns {
		w.spare = append(w.spare, turn)
	}
}
