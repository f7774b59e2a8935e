package pgsession

import (
	"context"
	"time"
)

// A KeyValue is a plain key/value view of a store's table, for what lives shortly
// and is no session: the state of an OAuth log-in, a one-time code. It seals
// values as the store does. Keys may be any string but the empty one, which is never
// found. They are kept as plain hashes: whoever steals the table recognizes a key that
// can be guessed, so that a secret belongs in the value, or is long and random.
//
// Entries have no user, and no tombstones: the last Put or Delete wins. They never
// meet a session, but lie beside them, so that [Store.All] lists them,
// [Store.DeleteAll] ends them and [WithAbsoluteLifetime] bounds them; a store of their
// own, with [WithTable], keeps them apart. A KeyValue is safe for concurrent use.
type KeyValue struct{ store *Store }

// KeyValue returns the key/value view of the store.
func (s *Store) KeyValue() *KeyValue { return &KeyValue{s} }

func keyValueID(key string) ID { return derivedID("pgsession key/value entry\x00", key) }

// Get returns the value under key. Errors: [ErrNotFound] where there is none or it
// has expired, [ErrTampered], [ErrUnknownKey].
func (kv *KeyValue) Get(ctx context.Context, key string) ([]byte, error) {
	entry, err := kv.store.Load(ctx, keyValueID(key))
	if err != nil {
		return nil, err
	}
	return Decode[[]byte](entry)
}

// Put stores value under key for ttl, whatever was there. Errors: [ErrNotFound]
// for the empty key, [ErrInvalidTTL], [ErrTooLarge].
func (kv *KeyValue) Put(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	s := kv.store
	id := keyValueID(key)
	if id.IsZero() {
		return ErrNotFound
	}
	r, err := s.newRow(id.handle, Data{Values: value}, ttl)
	if err != nil {
		return err
	}
	now, _ := s.times()
	expires := expiry(now, ttl)
	n, err := s.exec(ctx, putEntrySQL, r.handle.sum[:], r.payload, firstVersion(), now, expires, hourAfter(expires))
	if err == nil && n == 0 {
		err = errNotStored
	}
	if err != nil {
		return s.wrap("put", err)
	}
	s.stats.saves.Add(1)
	return nil
}

var putEntrySQL = newStatement(`
	INSERT INTO {sessions} AS s (key, {payload}, version, created_at, expires_at, expires_hour)
	VALUES ($1, {value $2}, $3, $4, $5, $6)
	ON CONFLICT (key) DO UPDATE
	SET user_key = NULL, {payload} = excluded.{payload}, {other} = NULL, version = {next},
		created_at = excluded.created_at, expires_at = excluded.expires_at, expires_hour = excluded.expires_hour`)

// Delete removes the entry under key. Removing one that is not there is no error.
func (kv *KeyValue) Delete(ctx context.Context, key string) error {
	id := keyValueID(key)
	if _, err := kv.store.exec(ctx, deleteEntrySQL, id.handle.sum[:]); err != nil {
		return kv.store.wrap("delete", err)
	}
	return nil
}

var deleteEntrySQL = newStatement(`DELETE FROM {sessions} AS s WHERE s.key = $1`)

// PruneExpired is [Store.CleanupExpired].
func (kv *KeyValue) PruneExpired(ctx context.Context) (int64, error) {
	return kv.store.CleanupExpired(ctx)
}
