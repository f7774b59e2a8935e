package pgsession

import (
	"context"
	"time"

	"github.com/pgsession/pgsession/internal/rows"
)

// A KeyValue is a plain key/value view of a store's table, for short-lived values that are no
// sessions, such as the state of an OAuth log-in or a one-time code. It is safe for concurrent use.
// It seals values as the store does. A key may be any string except "", which is never found. The
// table holds keys as plain hashes, so a key that can be guessed can be recognized in a stolen
// table. Keep a secret in the value, or make it long and random.
//
// Entries have no user and no tombstones: the last Put or Delete wins. No operation on sessions
// meets an entry. The clean-up and [Store.Reseal] work on both. [WithAbsoluteLifetime] does not
// apply to entries.
type KeyValue struct{ store *Store }

// KeyValue returns the key/value view of the store.
func (s *Store) KeyValue() *KeyValue { return &KeyValue{s} }

func entryKey(key string) rows.Key { return rows.EntryKey(hashOf(keyValueDomain, key)) }

// Get returns the value under key. Errors: [ErrNotFound] if there is none or it has expired,
// [ErrTampered], [ErrUnknownKey].
func (kv *KeyValue) Get(ctx context.Context, key string) (value []byte, err error) {
	defer kv.store.stats.observe(opEntryGet, time.Now(), &err)
	return kv.read(ctx, "get", key, kv.store.table.Load)
}

// Take removes the value under key and returns it. Of several calls for one key, one gets the
// value, so that a one-time code works once.
//
// Errors: [ErrNotFound] if there is none or it has expired; [ErrTampered] or [ErrUnknownKey] if it
// does not open, and then it is removed too.
func (kv *KeyValue) Take(ctx context.Context, key string) (value []byte, err error) {
	defer kv.store.stats.observe(opEntryTake, time.Now(), &err)
	return kv.read(ctx, "take", key, kv.store.table.TakeEntry)
}

func (kv *KeyValue) read(ctx context.Context, operation, key string, run func(context.Context, rows.Key) (rows.Row, error)) ([]byte, error) {
	s := kv.store
	s.stats.loads.Add(1)
	if key == "" {
		return nil, ErrNotFound
	}
	now := s.now()
	row, err := run(ctx, entryKey(key))
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
func (kv *KeyValue) Put(ctx context.Context, key string, value []byte, ttl time.Duration) (err error) {
	s := kv.store
	defer s.stats.observe(opEntryPut, time.Now(), &err)
	if key == "" {
		return ErrNotFound
	}
	ttl, err = s.checkTTL(ttl)
	if err != nil {
		return err
	}
	w, _, err := s.encode(entryKey(key), Data{Values: value})
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
func (kv *KeyValue) Delete(ctx context.Context, key string) (err error) {
	defer kv.store.stats.observe(opEntryDelete, time.Now(), &err)
	if key == "" {
		return nil
	}
	return wrap("delete", kv.store.table.RemoveEntry(ctx, entryKey(key)))
}

// PruneExpired is [Store.CleanupExpired].
func (kv *KeyValue) PruneExpired(ctx context.Context) (int64, error) {
	return kv.store.CleanupExpired(ctx)
}
