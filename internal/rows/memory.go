package rows

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"time"
)

// Memory is a [Table] in memory. It is gone with the process. Most of its methods are documented
// there.
type Memory struct {
	now func() time.Time

	mu      sync.Mutex
	rows    map[Key]Row // none is absent
	failure error
}

// NewMemory returns an empty table that takes the time from now, which returns what [Time] does.
func NewMemory(now func() time.Time) *Memory {
	return &Memory{now: now, rows: make(map[Key]Row)}
}

// FailWith lets every method fail with err and change nothing, until FailWith(nil).
func (m *Memory) FailWith(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failure = err
}

// enter takes the lock, unless it returns an error.
func (m *Memory) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	if m.failure != nil {
		defer m.mu.Unlock()
		return m.failure
	}
	return nil
}

// set keeps a row, under the lock. Payloads are opened in place, so that each side has its own.
func (m *Memory) set(key Key, row Row) {
	if row.State == Absent {
		delete(m.rows, key)
		return
	}
	m.rows[key] = row.Clone()
}

// Clone returns a copy that shares no memory with r.
func (r Row) Clone() Row {
	r.UserKey, r.Payload = bytes.Clone(r.UserKey), bytes.Clone(r.Payload)
	return r
}

// Init fails if the table was told to.
func (m *Memory) Init(ctx context.Context) error {
	err := m.enter(ctx)
	if err == nil {
		m.mu.Unlock()
	}
	return err
}

// change applies one of the functions of this package to the row at key.
func (m *Memory) change(ctx context.Context, key Key, step func(Row, time.Time) (Row, Outcome)) (Row, Outcome, error) {
	if err := m.enter(ctx); err != nil {
		return Row{}, NotFound, err
	}
	defer m.mu.Unlock()
	row, outcome := step(m.rows[key], m.now())
	if outcome == OK {
		m.set(key, row)
	}
	return row.Clone(), outcome, nil
}

func (m *Memory) Insert(ctx context.Context, w Write) (Row, Outcome, error) {
	return m.change(ctx, w.Key, func(r Row, now time.Time) (Row, Outcome) { return r.Insert(w, now) })
}

func (m *Memory) Load(ctx context.Context, key Key) (Row, error) {
	if err := m.enter(ctx); err != nil {
		return Row{}, err
	}
	defer m.mu.Unlock()
	return m.rows[key].Clone(), nil
}

func (m *Memory) LoadOutcomes(ctx context.Context, keys []Key) ([]Outcome, error) {
	if err := m.enter(ctx); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	outcomes := make([]Outcome, len(keys))
	for i, key := range keys {
		outcomes[i] = m.rows[key].Load(m.now())
	}
	return outcomes, nil
}

func (m *Memory) Save(ctx context.Context, w Write) (Outcome, error) {
	_, outcome, err := m.change(ctx, w.Key, func(r Row, now time.Time) (Row, Outcome) { return r.Save(w, now) })
	return outcome, err
}

func (m *Memory) Put(ctx context.Context, w Write) (Outcome, error) {
	_, outcome, err := m.change(ctx, w.Key, func(r Row, now time.Time) (Row, Outcome) { return r.Put(w, now) })
	return outcome, err
}

func (m *Memory) Swap(ctx context.Context, seen Row, w Write) (Row, Outcome, error) {
	return m.change(ctx, seen.Key, func(r Row, now time.Time) (Row, Outcome) { return r.Swap(seen, w, now) })
}

func (m *Memory) Touch(ctx context.Context, key Key, ttl time.Duration) (time.Time, int64, Outcome, error) {
	var version int64
	row, outcome, err := m.change(ctx, key, func(r Row, now time.Time) (Row, Outcome) {
		touched, outcome := r.Touch(ttl, now)
		if touched.Version != r.Version {
			version = touched.Version
		}
		return touched, outcome
	})
	return row.ExpiresAt, version, outcome, err
}

func (m *Memory) Renew(ctx context.Context, seen Row, w Write) (Row, Outcome, error) {
	if err := m.enter(ctx); err != nil {
		return Row{}, NotFound, err
	}
	defer m.mu.Unlock()
	from, to, outcome := Renew(m.rows[seen.Key], m.rows[w.Key], seen, w, m.now())
	if outcome != OK {
		return from.Clone(), outcome, nil
	}
	m.set(seen.Key, from)
	m.set(w.Key, to)
	return to.Clone(), outcome, nil
}

func (m *Memory) End(ctx context.Context, key Key) (Row, error) {
	row, _, err := m.change(ctx, key, func(r Row, now time.Time) (Row, Outcome) { return r.End(now), OK })
	return row, err
}

func (m *Memory) Revoke(ctx context.Context, key Key, userKeys [][]byte) (outcome Outcome, err error) {
	_, _, err = m.change(ctx, key, func(r Row, now time.Time) (Row, Outcome) {
		r, outcome = r.Revoke(userKeys, now)
		return r, OK // an expired session is ended too
	})
	return outcome, err
}

func (m *Memory) EndByUser(ctx context.Context, userKeys [][]byte, except []Key, keep int) (live int64, err error) {
	return m.endEach(ctx, func(r Row) bool { return contains(userKeys, r.UserKey) && !slices.Contains(except, r.Key) }, keep)
}

func (m *Memory) EndAll(ctx context.Context, begunBefore time.Time) (int64, error) {
	return m.endEach(ctx, func(r Row) bool {
		return !r.Key.IsEntry() && (begunBefore.IsZero() || r.CreatedAt.Before(begunBefore))
	}, 0)
}

func (m *Memory) endEach(ctx context.Context, matches func(Row) bool, keep int) (live int64, err error) {
	if err := m.enter(ctx); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	now := m.now()
	var found []Row
	for _, row := range m.rows {
		if matches(row) && (keep == 0 || row.IsLive(now)) {
			found = append(found, row)
		}
	}
	slices.SortFunc(found, Newest)
	for _, row := range found[min(keep, len(found)):] {
		if row.IsLive(now) {
			live++
		}
		m.set(row.Key, row.End(now))
	}
	return live, nil
}

func (m *Memory) FindByUser(ctx context.Context, userKeys [][]byte, limit int) ([]Row, error) {
	found, err := m.find(ctx, func(r Row, now time.Time) bool { return r.IsLive(now) && contains(userKeys, r.UserKey) })
	slices.SortFunc(found, Newest)
	return found[:min(limit, len(found))], err
}

// find returns the rows that match, in the order of their keys.
func (m *Memory) find(ctx context.Context, matches func(Row, time.Time) bool) ([]Row, error) {
	if err := m.enter(ctx); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	now := m.now()
	var found []Row
	for _, row := range m.rows {
		if matches(row, now) {
			found = append(found, row.Clone())
		}
	}
	slices.SortFunc(found, func(a, b Row) int { return bytes.Compare(a.Key[:], b.Key[:]) })
	return found, nil
}

func (m *Memory) Page(ctx context.Context, after Key, limit int) ([]Row, error) {
	found, err := m.find(ctx, func(r Row, now time.Time) bool { return r.IsLive(now) && !r.Key.IsEntry() && r.isAfter(after) })
	return found[:min(limit, len(found))], err
}

func (r Row) isAfter(key Key) bool { return bytes.Compare(r.Key[:], key[:]) > 0 }

func (m *Memory) Count(ctx context.Context) (count Count, err error) {
	if err := m.enter(ctx); err != nil {
		return Count{}, err
	}
	defer m.mu.Unlock()
	now := m.now()
	for _, row := range m.rows {
		count.Add(row, now)
	}
	return count, nil
}

// CountByKeyID counts all as plaintext: there is only one kind of store in memory.
func (m *Memory) CountByKeyID(ctx context.Context) (map[string]int64, error) {
	stored, err := m.find(ctx, func(r Row, _ time.Time) bool { return r.State == Stored })
	if len(stored) == 0 {
		return nil, err
	}
	return map[string]int64{"": int64(len(stored))}, nil
}

func (m *Memory) RemoveExpired(ctx context.Context, wholeHours bool, _ func(int64)) (removed int64, err error) {
	if err := m.enter(ctx); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	now := m.now()
	if wholeHours {
		now = now.Truncate(time.Hour).Add(-time.Microsecond)
	}
	for key, row := range m.rows {
		if row.IsExpired(now) {
			delete(m.rows, key)
			removed++
		}
	}
	return removed, nil
}

func (m *Memory) PutEntry(ctx context.Context, w Write) error {
	_, _, err := m.change(ctx, w.Key, func(r Row, now time.Time) (Row, Outcome) { return r.PutEntry(w, now), OK })
	return err
}

func (m *Memory) RemoveEntry(ctx context.Context, key Key) error {
	_, _, err := m.change(ctx, key, func(Row, time.Time) (Row, Outcome) { return Row{}, OK })
	return err
}

func (m *Memory) TakeEntry(ctx context.Context, key Key) (taken Row, err error) {
	_, _, err = m.change(ctx, key, func(r Row, now time.Time) (Row, Outcome) {
		if !r.IsLive(now) {
			return r, NotFound
		}
		taken = r
		return Row{}, OK
	})
	return taken, err
}

func (m *Memory) PageToReseal(ctx context.Context, after Key, limit int, keyID [4]byte) ([]Row, error) {
	found, err := m.find(ctx, func(r Row, _ time.Time) bool {
		return r.isAfter(after) && len(r.Payload) >= 5 && [4]byte(r.Payload[1:5]) != keyID
	})
	return found[:min(limit, len(found))], err
}

// PageToSeal finds none: there is only one kind of store in memory.
func (m *Memory) PageToSeal(ctx context.Context, _ Key, _ int) ([]Row, error) {
	return m.find(ctx, func(Row, time.Time) bool { return false })
}

func (m *Memory) Reseal(ctx context.Context, resealed []Resealed) (swapped int64, err error) {
	if err := m.enter(ctx); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	for _, r := range resealed {
		row := m.rows[r.Seen.Key]
		if row.State != Stored || row.Version != r.Seen.Version || !row.CreatedAt.Equal(r.Seen.CreatedAt) {
			continue
		}
		row.UserKey, row.Payload, row.Version = r.UserKey, r.Payload, NextVersion(row.Version)
		m.set(row.Key, row)
		swapped++
	}
	return swapped, nil
}

func (m *Memory) Examine(ctx context.Context) (Condition, error) { return Condition{}, m.Init(ctx) }

func (m *Memory) Within(ctx context.Context) (context.Context, context.CancelFunc) {
	return ctx, func() {}
}

func (m *Memory) Sharing() map[string]Sharing { return nil }

// Set keeps a row as it is, for tests.
func (m *Memory) Set(row Row) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.set(row.Key, row)
}
