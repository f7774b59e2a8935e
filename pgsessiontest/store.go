// Package pgsessiontest is for the unit tests of applications that keep their sessions
// with pgsession: a store in memory, which behaves as the one on PostgreSQL does, and
// sessions made by hand.
//
// Handlers ask for what they use of a store, with an interface of their own:
//
//	// Sessions is what the handlers need of a *pgsession.Store.
//	type Sessions interface {
//		Load(ctx context.Context, id pgsession.ID) (*pgsession.Session, error)
//		Cycle(ctx context.Context, oldID, newID pgsession.ID, data pgsession.Data, ttl time.Duration) error
//		Delete(ctx context.Context, id pgsession.ID) error
//	}
//
// The program then passes a [pgsession.Store] to its handlers, and their tests pass a
// [Store]: see the example. Tests move a [pgsession.ManualClock] to see sessions expire,
// and call [Store.FailWith] to see what users get while the database is down.
package pgsessiontest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/bridge"
	"github.com/pgsession/pgsession/internal/model"
)

// updateAttempts is how often the store on PostgreSQL tries.
const updateAttempts = 100

// A Store keeps sessions in memory. Its methods do, and return, what those of a
// [pgsession.Store] of the same names do; values are encoded and size limits enforced as
// there. It is safe for concurrent use, and begins empty.
//
// What it cannot show: it seals nothing, so that no session gives
// [pgsession.ErrTampered] or [pgsession.ErrUnknownKey] ([NewSession] makes such a one),
// and it takes JSON that a plaintext store refuses, as an encrypted one does.
type Store struct {
	clock            pgsession.Clock
	maxSize          int
	absoluteLifetime time.Duration

	mu      sync.Mutex
	slots   map[pgsession.Handle]model.Slot // none is absent
	stats   pgsession.Stats
	failure error
}

// New returns an empty store. It takes the options of [pgsession.New], so that both can
// be given the same; those for the table and the logger make no difference.
func New(opts ...pgsession.Option) *Store {
	clock, maxSize, absoluteLifetime := bridge.Settings(opts)
	return &Store{
		clock:            clock.(pgsession.Clock),
		maxSize:          maxSize,
		absoluteLifetime: absoluteLifetime,
		slots:            make(map[pgsession.Handle]model.Slot),
	}
}

// FailWith makes every operation fail that would ask the database: it returns err,
// wrapped as a database's error is, and changes nothing. FailWith(nil) ends that.
func (s *Store) FailWith(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failure = err
}

// enter stands where the store on PostgreSQL asks the database. Without an error, the
// caller holds the lock.
func (s *Store) enter(ctx context.Context, operation string) (model.Moment, error) {
	s.mu.Lock()
	err := s.failure
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		s.mu.Unlock()
		return model.Moment{}, fmt.Errorf("pgsession: %s: %w", operation, err)
	}
	return s.now(), nil
}

// set keeps a slot under the lock.
func (s *Store) set(h pgsession.Handle, slot model.Slot) {
	if slot.State == model.Absent {
		delete(s.slots, h)
		return
	}
	s.slots[h] = slot
}

func (s *Store) now() model.Moment { return model.At(s.clock.Now(), s.absoluteLifetime) }

// Init does nothing but fail when told to: see [pgsession.Store.Init].
func (s *Store) Init(ctx context.Context) error { return s.ping(ctx, "init") }

func (s *Store) ping(ctx context.Context, operation string) error {
	_, err := s.enter(ctx, operation)
	if err == nil {
		s.mu.Unlock()
	}
	return err
}

// Create is [pgsession.Store.Create].
func (s *Store) Create(ctx context.Context, data pgsession.Data, ttl time.Duration) (pgsession.ID, error) {
	id := pgsession.NewID()
	if err := s.put(ctx, "create", id, data, ttl, model.Create); err != nil {
		return pgsession.ID{}, err
	}
	return id, nil
}

// put is each operation that stores data under one id.
func (s *Store) put(ctx context.Context, operation string, id pgsession.ID, data pgsession.Data, ttl time.Duration,
	step func(model.Slot, model.Write, model.Moment) (model.Slot, model.Outcome)) error {
	if id.IsZero() {
		return pgsession.ErrNotFound
	}
	w, err := s.write(data, ttl)
	if err != nil {
		return err
	}
	at, err := s.enter(ctx, operation)
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	w.Expires = at.Add(ttl)
	before := s.slots[id.Handle()]
	after, outcome := step(before, w, at)
	s.set(id.Handle(), after)
	switch {
	case outcome == model.OK:
		s.stats.Saves++
	case before.State == model.Ended:
		s.stats.Revoked++
	}
	return errorOf(outcome)
}

// write returns what is to be stored, but for the expiry, which counts from when it is.
func (s *Store) write(data pgsession.Data, ttl time.Duration) (model.Write, error) {
	if !s.now().IsValid(ttl) {
		return model.Write{}, pgsession.ErrInvalidTTL
	}
	values, err := s.encode(data)
	// Random, as there: no test should come to depend on it.
	return model.Write{User: data.UserID, Values: values, FirstVersion: 1 + rand.Int64N(1<<52)}, err
}

// encode returns the kind of the values, in the first byte, and the values.
func (s *Store) encode(data pgsession.Data) (string, error) {
	if err := bridge.CheckUserID(data.UserID); err != nil {
		return "", err
	}
	kind, encoded, err := bridge.Encode(data.Values, s.maxSize)
	if err != nil {
		return "", err
	}
	return string([]byte{kind}) + string(encoded), nil
}

func errorOf(outcome model.Outcome) error {
	switch outcome {
	case model.OK:
		return nil
	case model.NotFound:
		return pgsession.ErrNotFound
	case model.Revoked:
		return pgsession.ErrRevoked
	case model.Exists:
		return pgsession.ErrExists
	case model.UserChanged:
		return pgsession.ErrUserChanged
	case model.Conflict:
		return pgsession.ErrConflict
	}
	panic(fmt.Sprintf("pgsessiontest: no error for outcome %d", outcome))
}

// Load is [pgsession.Store.Load].
func (s *Store) Load(ctx context.Context, id pgsession.ID) (*pgsession.Session, error) {
	slot, at, err := s.load(ctx, id.Handle())
	if err != nil {
		return nil, err
	}
	return s.session(id.Handle(), slot, at), nil
}

func (s *Store) load(ctx context.Context, h pgsession.Handle) (model.Slot, model.Moment, error) {
	s.count(&s.stats.Loads)
	if h.IsZero() {
		return model.Slot{}, model.Moment{}, pgsession.ErrNotFound
	}
	at, err := s.enter(ctx, "load")
	if err != nil {
		return model.Slot{}, at, err
	}
	defer s.mu.Unlock()
	slot := s.slots[h]
	if outcome := model.Load(slot, at); outcome != model.OK {
		return slot, at, errorOf(outcome)
	}
	s.stats.Hits++
	return slot, at, nil
}

func (s *Store) count(counter *int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*counter++
}

// session returns what a load gives.
func (s *Store) session(h pgsession.Handle, slot model.Slot, at model.Moment) *pgsession.Session {
	session := &pgsession.Session{
		Handle:    h,
		UserID:    slot.User,
		CreatedAt: time.UnixMicro(slot.Created).UTC(),
		ExpiresAt: time.UnixMicro(slot.Expires).UTC(),
		Version:   slot.Version,
	}
	if end := session.CreatedAt.Add(s.absoluteLifetime); s.absoluteLifetime > 0 && end.Before(session.ExpiresAt) {
		session.ExpiresAt = end
	}
	bridge.Fill(session, slot.Values[0], []byte(slot.Values[1:]), time.UnixMicro(at.Now), nil)
	return session
}

// Save is [pgsession.Store.Save].
func (s *Store) Save(ctx context.Context, id pgsession.ID, data pgsession.Data, ttl time.Duration) error {
	return s.put(ctx, "save", id, data, ttl, model.Save)
}

// Update is [pgsession.Store.Update]. It holds no lock while change runs, which may call
// the store.
func (s *Store) Update(ctx context.Context, id pgsession.ID, ttl time.Duration, change func(*pgsession.Session) (values any, err error)) error {
	if ttl != 0 && !s.now().IsValid(ttl) {
		return pgsession.ErrInvalidTTL
	}
	for attempt := range updateAttempts {
		if attempt > 0 {
			s.count(&s.stats.Conflicts)
			if err := pause(ctx); err != nil {
				return fmt.Errorf("pgsession: update: %w", err)
			}
		}
		written, err := s.tryUpdate(ctx, id, ttl, change)
		if written || err != nil {
			return err
		}
	}
	return pgsession.ErrConflict
}

func (s *Store) tryUpdate(ctx context.Context, id pgsession.ID, ttl time.Duration, change func(*pgsession.Session) (any, error)) (written bool, err error) {
	seen, loadedAt, err := s.load(ctx, id.Handle())
	if err != nil {
		return false, err
	}
	changed, err := change(s.session(id.Handle(), seen, loadedAt))
	if err != nil {
		return false, err
	}
	values, err := s.encode(pgsession.Data{UserID: seen.User, Values: changed})
	if err != nil {
		return false, err
	}
	at, err := s.enter(ctx, "update")
	if err != nil {
		return false, err
	}
	defer s.mu.Unlock()
	w := model.Write{Values: values, Expires: seen.Expires}
	if ttl != 0 {
		w.Expires = at.Add(ttl)
	}
	after, outcome := model.Swap(s.slots[id.Handle()], seen, w, at)
	s.set(id.Handle(), after)
	if outcome != model.OK {
		return false, nil // if the session is over, the next load says so
	}
	s.stats.Saves++
	return true, nil
}

// pause lets the other writers get on.
func pause(ctx context.Context) error {
	timer := time.NewTimer(rand.N(time.Millisecond))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Touch is [pgsession.Store.Touch].
func (s *Store) Touch(ctx context.Context, id pgsession.ID, ttl time.Duration) error {
	if id.IsZero() {
		return pgsession.ErrNotFound
	}
	if !s.now().IsValid(ttl) {
		return pgsession.ErrInvalidTTL
	}
	at, err := s.enter(ctx, "touch")
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	after, outcome := model.Touch(s.slots[id.Handle()], ttl, at)
	s.set(id.Handle(), after)
	return errorOf(outcome)
}

// Cycle is [pgsession.Store.Cycle].
func (s *Store) Cycle(ctx context.Context, oldID, newID pgsession.ID, data pgsession.Data, ttl time.Duration) error {
	if oldID.IsZero() || newID.IsZero() {
		return pgsession.ErrNotFound
	}
	w, err := s.write(data, ttl)
	if err != nil {
		return err
	}
	at, err := s.enter(ctx, "cycle")
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	w.Expires = at.Add(ttl)
	from, to, outcome := model.Cycle(s.slots[oldID.Handle()], s.slots[newID.Handle()], w, at)
	s.set(oldID.Handle(), from)
	s.set(newID.Handle(), to)
	if outcome == model.OK {
		s.stats.Saves++
	}
	return errorOf(outcome)
}

// Delete is [pgsession.Store.Delete].
func (s *Store) Delete(ctx context.Context, id pgsession.ID) error {
	if id.IsZero() {
		return nil
	}
	at, err := s.enter(ctx, "delete")
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	s.set(id.Handle(), model.Delete(s.slots[id.Handle()], at))
	return nil
}

// Put is [pgsession.Store.Put].
func (s *Store) Put(ctx context.Context, id pgsession.ID, data pgsession.Data, ttl time.Duration) error {
	return s.put(ctx, "put", id, data, ttl, model.Put)
}
