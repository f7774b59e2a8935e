package pgsession

import (
	"time"

	"github.com/pgsession/pgsession/internal/bridge"
)

// Package pgsessiontest makes sessions without a database, and encodes their values
// by the same code.
func init() {
	bridge.Settings = func(opts any) (clock any, maxSize int, absoluteLifetime time.Duration) {
		settings := options{clock: SystemClock{}, maxSize: defaultMaxSize}
		for _, opt := range opts.([]Option) {
			opt(&settings)
		}
		return settings.clock, settings.maxSize, settings.absoluteLifetime
	}
	bridge.CheckUserID = func(userID string) error {
		if len(userID) > maxUserIDSize {
			return errUserIDTooLarge(userID)
		}
		return nil
	}
	bridge.Encode = func(v any, maxSize int) (byte, []byte, error) {
		encoded, err := encodeValues(v, maxSize)
		return encoded.kind, encoded.bytes, err
	}
	bridge.Fill = func(session any, kind byte, encoded []byte, loadedAt time.Time, broken error) {
		s := session.(*Session)
		s.values, s.loadedAt, s.broken = values{kind, encoded}, loadedAt, broken
	}
	bridge.KeyValueHandle = func(key string) any { return keyValueID(key).handle }
}
