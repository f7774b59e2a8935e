package fiberstore

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/gofiber/fiber/v3"
	"github.com/gofiber/fiber/v3/log"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/quiet"
)

var _ fiber.Storage = (*KeyValue)(nil)

// A KeyValue is a fiber.Storage for middleware that keeps values by key, and no sessions: csrf,
// limiter, cache, idempotency. The last Set or Delete of a key wins. Make it with [NewKeyValue];
// the zero KeyValue is of no use. It is safe for concurrent use.
type KeyValue struct {
	entries *pgsession.KeyValue
	prefix  string
	logs    quiet.Limiter
}

// NewKeyValue returns a storage in the table of store. Storages of different names are apart, so
// give each middleware a name of its own. The application calls Init and SpawnCleanup, as for every
// store. A value may have as many bytes as pgsession.WithMaxSize allows, 64 KiB by default, which
// is little for the cache of large pages. NewKeyValue panics if store is nil, or name is empty.
func NewKeyValue(store *pgsession.Store, name string) *KeyValue {
	if store == nil || name == "" {
		panic("fiberstore: NewKeyValue: no store or no name")
	}
	return &KeyValue{entries: store.KeyValue(), prefix: strconv.Quote(name)}
}

// GetWithContext returns the value under key, and nil if there is none, if it has expired, or if it
// does not open. Errors are those of the database and of the context.
func (kv *KeyValue) GetWithContext(ctx context.Context, key string) ([]byte, error) {
	value, err := kv.entries.Get(requestContext(ctx), kv.prefix+key)
	switch {
	case errors.Is(err, pgsession.ErrNotFound):
		return nil, nil
	case errors.Is(err, pgsession.ErrUnreadable):
		kv.logs.By(log.Errorw, "fiberstore: an entry does not open", "error", err.Error())
		return nil, nil
	}
	return value, err
}

// SetWithContext stores value under key until the expiration has passed. An expiration of 0 means
// 100 years. An empty key or value is ignored, as fiber asks for.
//
// Errors: [pgsession.ErrInvalidTTL] for a negative expiration and for one over 100 years,
// [pgsession.ErrTooLarge], and those of the database and of the context.
func (kv *KeyValue) SetWithContext(ctx context.Context, key string, value []byte, expiration time.Duration) error {
	if key == "" || len(value) == 0 {
		return nil
	}
	return kv.entries.Put(requestContext(ctx), kv.prefix+key, value, ttlOf(expiration))
}

// DeleteWithContext removes the value under key. Removing one that is not there is no error. Errors
// are those of the database and of the context.
func (kv *KeyValue) DeleteWithContext(ctx context.Context, key string) error {
	return kv.entries.Delete(requestContext(ctx), kv.prefix+key)
}

// ResetWithContext removes nothing and returns [errors.ErrUnsupported]: the table knows entries by
// the hashes of their names and keys. None of fiber's middleware calls it. Empty the table in SQL.
func (kv *KeyValue) ResetWithContext(context.Context) error {
	return fmt.Errorf("fiberstore: KeyValue.Reset: %w", errors.ErrUnsupported)
}

// Get is [KeyValue.GetWithContext] without a context.
func (kv *KeyValue) Get(key string) ([]byte, error) {
	return kv.GetWithContext(context.Background(), key)
}

// Set is [KeyValue.SetWithContext] without a context.
func (kv *KeyValue) Set(key string, value []byte, expiration time.Duration) error {
	return kv.SetWithContext(context.Background(), key, value, expiration)
}

// Delete is [KeyValue.DeleteWithContext] without a context.
func (kv *KeyValue) Delete(key string) error {
	return kv.DeleteWithContext(context.Background(), key)
}

// Reset is [KeyValue.ResetWithContext] without a context.
func (kv *KeyValue) Reset() error { return kv.ResetWithContext(context.Background()) }

// Close does nothing: the pool is the application's. It returns nil.
func (kv *KeyValue) Close() error { return nil }
