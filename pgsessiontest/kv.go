package pgsessiontest

import (
	"context"
	"time"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/bridge"
	"github.com/pgsession/pgsession/internal/model"
)

// A KeyValue is a [pgsession.KeyValue] in memory.
type KeyValue struct{ store *Store }

// KeyValue is [pgsession.Store.KeyValue].
func (s *Store) KeyValue() *KeyValue { return &KeyValue{s} }

func keyValueHandle(key string) pgsession.Handle {
	return bridge.KeyValueHandle(key).(pgsession.Handle)
}

// Get is [pgsession.KeyValue.Get].
func (kv *KeyValue) Get(ctx context.Context, key string) ([]byte, error) {
	h := keyValueHandle(key)
	slot, at, err := kv.store.load(ctx, h)
	if err != nil {
		return nil, err
	}
	return pgsession.Decode[[]byte](kv.store.session(h, slot, at))
}

// Put is [pgsession.KeyValue.Put].
func (kv *KeyValue) Put(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	s, h := kv.store, keyValueHandle(key)
	if h.IsZero() {
		return pgsession.ErrNotFound
	}
	w, err := s.write(pgsession.Data{Values: value}, ttl)
	if err != nil {
		return err
	}
	at, err := s.enter(ctx, "put")
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	w.Expires = at.Add(ttl)
	s.set(h, model.PutEntry(s.slots[h], w, at))
	s.stats.Saves++
	return nil
}

// Delete is [pgsession.KeyValue.Delete].
func (kv *KeyValue) Delete(ctx context.Context, key string) error {
	if _, err := kv.store.enter(ctx, "delete"); err != nil {
		return err
	}
	defer kv.store.mu.Unlock()
	kv.store.set(keyValueHandle(key), model.Slot{})
	return nil
}

// PruneExpired is [Store.CleanupExpired].
func (kv *KeyValue) PruneExpired(ctx context.Context) (int64, error) {
	return kv.store.CleanupExpired(ctx)
}
