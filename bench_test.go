package pgsession_test

import (
	"testing"
	"time"

	"github.com/pgsession/pgsession"
)

// BenchmarkLoad and BenchmarkSave compare one caller with the same statement sent by pgx
// alone, on a table of its own: read them as ratios, in one run.
func BenchmarkLoad(b *testing.B) {
	for name, s := range bothStores(b, pgsession.WithClock(pgsession.SystemClock{})) {
		id := s.create(b, pgsession.Data{UserID: "ann", Values: make([]byte, 1024)}, time.Hour)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Load(b.Context(), id); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	s := newStore(b)
	id := s.create(b, pgsession.Data{UserID: "ann", Values: make([]byte, 1024)}, time.Hour)
	b.Run("bare pgx", func(b *testing.B) {
		b.ReportAllocs()
		var (
			row                    = key(id)
			found, userKey, sealed []byte
			version                int64
			created, expires       time.Time
			ends                   *time.Time
			idle                   time.Duration
		)
		for b.Loop() {
			err := s.pool.QueryRow(b.Context(), `
				SELECT s.key, s.user_key, s.sealed, s.version, s.created_at, s.expires_at, s.ends_at, s.idle_timeout
				FROM sessions AS s
				WHERE s.key = $1`, row).Scan(&found, &userKey, &sealed, &version, &created, &expires, &ends, &idle)
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkSave(b *testing.B) {
	data := pgsession.Data{UserID: "ann", Values: make([]byte, 1024)}
	for name, s := range bothStores(b, pgsession.WithClock(pgsession.SystemClock{})) {
		id := s.create(b, data, time.Hour)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := s.Save(b.Context(), id, data, time.Hour); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	s := newStore(b)
	id := s.create(b, data, time.Hour)
	b.Run("bare pgx", func(b *testing.B) {
		b.ReportAllocs()
		row, sealed := key(id), make([]byte, 1024+45+5)
		var userKey []byte
		if err := s.pool.QueryRow(b.Context(), `SELECT user_key FROM sessions`).Scan(&userKey); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			expires := time.Now().Add(time.Hour)
			tag, err := s.pool.Exec(b.Context(), `
				UPDATE sessions AS s
				SET user_key = $3, sealed = $4, data = NULL, version = (s.version & x'3fffffffffffffff'::bigint) + 1,
					expires_at = least($5::timestamptz, s.ends_at), idle_timeout = $6
				WHERE s.key = $2 AND (s.data IS NOT NULL OR s.sealed IS NOT NULL) AND s.expires_at > $1 AND s.user_key IS NOT DISTINCT FROM $3`,
				epoch, row, userKey, sealed, expires, time.Hour)
			if err != nil || tag.RowsAffected() != 1 {
				b.Fatal(tag, err)
			}
		}
	})
}
