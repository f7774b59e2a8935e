package pgsession

import (
	"context"
	"time"

	"github.com/pgsession/pgsession/internal/rows"
)

// A KeyValue is a plain key/value view of a store's table, for what lives shortly and is not a session:
// the state of an OAuth log-in, a one-time code. It seals values as the store does. Keys may be any
// string except the empty one, which is never found. They are kept as plain hashes: whoever steals the
// table recognizes a key that can be guessed, so a secret belongs in the value, or is long and random.
//
// Entries have no user and no tombstones: the last Put or Delete wins. They never meet a session, but
// lie beside them, so that [Store.All] lists them and [Store.DeleteAll] ends them; a store of their own,
// with [WithTable], keeps them apart. [WithAbsoluteLifetime] does not count for them. A KeyValue is safe
// for concurrent use.
type KeyValue struct{ store *Store }

// KeyValue returns the key/value view of the store.
func (s *Store) KeyValue() *KeyValue { return &KeyValue{s} }

func keyValueID(key string) ID { return derivedID(keyValueDomain, key) }

// Get returns the value under key. Errors: [ErrNotFound] if there is none or it has expired,
// [ErrTampered], [ErrUnknownKey].
func (kv *KeyValue) Get(ctx context.Context, key string) ([]byte, error) {
	return kv.read(ctx, "get", key, kv.store.table.Load)
}

// Take removes the value under key and returns it: of many calls one gets it, so that a one-time code
// works once. Errors: [ErrNotFound] if there is none or it has expired; [ErrTampered] or
// [ErrUnknownKey] if it does not open, and then it is removed too.
func (kv *KeyValue) Take(ctx context.Context, key string) ([]byte, error) {
	return kv.read(ctx, "take", key, kv.store.table.TakeEntry)
}

func (kv *KeyValue) read(ctx context.Context, operation, key string, run func(context.Context, rows.Key) (rows.Row, error)) ([]byte, error) {
	s := kv.store
	s.stats.loads.Add(1)
	id := keyValueID(key)
	if id.IsZero() {
		return nil, ErrNotFound
	}
	now := s.now()
	row, err := run(ctx, id.handle.sum)
	if err != nil {
		return nil, wrap(operation, err)
	}
	if !row.IsLive(now) {
		return nil, ErrNotFound
	}
	entry := s.session(row, now)
	if entry.broken != nil {
		return nil, entry.broken
	}
	s.stats.hits.Add(1)
	return Decode[[]byte](entry)
}

// Put stores value under key for ttl, whatever was there. Errors: [ErrNotFound] for the empty key,
// [ErrInvalidTTL], [ErrTooLarge].
func (kv *KeyValue) Put(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	s := kv.store
	id := keyValueID(key)
	if id.IsZero() {
		return ErrNotFound
	}
	ttl, err := s.checkTTL(ttl)
	if err != nil {
		return err
	}
	w, _, err := s.encode(id.handle, Data{Values: value})
	if err != nil {
		return err
	}
	w.TTL = ttl
	if err := s.table.PutEntry(ctx, w); err != nil {
		return wrap("put", err)
	}
	s.stats.saves.Add(1)
	return nil
}

// Delete removes the entry under key. Removing one that is not there is no error.
func (kv *KeyValue) Delete(ctx context.Context, key string) error {
	return wrapIfAny("delete", kv.store.table.RemoveEntry(ctx, keyValueID(key).handle.sum))
}

// PruneExpired is [Store.CleanupExpired].
func (kv *KeyValue) PruneExpired(ctx context.Context) (int64, error) {
	return kv.store.CleanupExpired(ctx)
}
