// Package turns lets calls for one key take turns, first come, first served. Each is handed what
// the one before it left.
package turns

import (
	"context"
	"sync"
	"time"

	"github.com/pgsession/pgsession/internal/deadline"
)

// Turns are the turns for all keys. The zero Turns is ready, and safe for concurrent use.
type Turns[K comparable, V any] struct {
	// Patience is how long another call waits for one that has its turn, before it takes the turn
	// away. So a call that waits for itself does not wait for ever. 0 means that a turn ends only by
	// Leave.
	Patience time.Duration

	mu     sync.Mutex
	queues map[K]*queue[V]
	spare  []*queue[V]
}

// A queue is for one key.
type queue[V any] struct {
	taken chan struct{} // holds a token while a call has its turn
	calls int           // that have the turn or wait for it
	turn  uint64        // another one whenever a turn begins or ends
	left  V
}

const maxSpare = 64

// A Turn is one call's turn.
type Turn[K comparable, V any] struct {
	turns  *Turns[K, V]
	queue  *queue[V]
	key    K
	number uint64
}

// Enter waits for a turn, and returns it with what the call before left, or the zero V if there was
// none. An error is that of ctx, or of its caller, which may have gone earlier.
func (t *Turns[K, V]) Enter(ctx context.Context, key K) (turn Turn[K, V], left V, err error) {
	q, seen := t.join(key)
	select {
	case q.taken <- struct{}{}:
		turn, left = t.begin(key, q)
		return turn, left, nil
	default:
	}
	caller := deadline.Caller(ctx)
	var impatient <-chan time.Time
	if t.Patience > 0 {
		ticker := time.NewTicker(t.Patience)
		defer ticker.Stop()
		impatient = ticker.C
	}
	for {
		select {
		case q.taken <- struct{}{}:
			turn, left = t.begin(key, q)
			return turn, left, nil
		case <-impatient:
			if turn, left, ok := t.takeAway(key, q, &seen); ok {
				return turn, left, nil
			}
		case <-caller.Done():
			t.giveUp(key, q)
			return turn, left, caller.Err()
		case <-ctx.Done():
			t.giveUp(key, q)
			return turn, left, ctx.Err()
		}
	}
}

// TryEnter takes the turn if no other call has it or waits for it.
func (t *Turns[K, V]) TryEnter(key K) (turn Turn[K, V], ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.queues[key] != nil {
		return turn, false
	}
	q := t.add(key)
	q.taken <- struct{}{}
	return Turn[K, V]{t, q, key, q.turn}, true
}

// IsTaken reports whether a call has the turn for a key, or waits for it.
func (t *Turns[K, V]) IsTaken(key K) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.queues[key] != nil
}

// Leave ends a turn, and hands left to the next call. If the turn was taken away, left is
// forgotten.
func (t *Turn[K, V]) Leave(left V) {
	t.turns.mu.Lock()
	defer t.turns.mu.Unlock()
	if q := t.queue; q.turn == t.number {
		q.turn++
		q.left = left
		<-q.taken
	}
	t.turns.forget(t.key, t.queue)
}

func (t *Turns[K, V]) join(key K) (q *queue[V], turn uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	q = t.queues[key]
	if q == nil {
		q = t.add(key)
	} else {
		q.calls++
	}
	return q, q.turn
}

func (t *Turns[K, V]) begin(key K, q *queue[V]) (Turn[K, V], V) {
	t.mu.Lock()
	defer t.mu.Unlock()
	q.turn++
	return Turn[K, V]{t, q, key, q.turn}, q.left
}

// takeAway begins a turn if the one that was seen has not ended. Otherwise it looks at the one that
// is there now.
func (t *Turns[K, V]) takeAway(key K, q *queue[V], seen *uint64) (turn Turn[K, V], left V, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if q.turn != *seen {
		*seen = q.turn
		return turn, left, false
	}
	q.turn++
	return Turn[K, V]{t, q, key, q.turn}, q.left, true
}

func (t *Turns[K, V]) add(key K) *queue[V] {
	if t.queues == nil {
		t.queues = make(map[K]*queue[V])
	}
	var q *queue[V]
	if n := len(t.spare); n > 0 {
		q, t.spare = t.spare[n-1], t.spare[:n-1]
	} else {
		q = &queue[V]{taken: make(chan struct{}, 1)}
	}
	q.calls = 1
	t.queues[key] = q
	return q
}

func (t *Turns[K, V]) giveUp(key K, q *queue[V]) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget(key, q)
}

func (t *Turns[K, V]) forget(key K, q *queue[V]) {
	q.calls--
	if q.calls > 0 {
		return
	}
	delete(t.queues, key)
	if len(t.spare) < maxSpare {
		var none V
		q.left = none
		t.spare = append(t.spare, q)
	}
}
