package pgsession_test

import (
	"testing"
	"time"

	"github.com/pgsession/pgsession"
)

// BenchmarkLoad and BenchmarkSave compare one caller with the bare statement on the
// same table, through the same pool: read them as ratios, in one run.
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
			row              = key(id)
			userKey, sealed  []byte
			version          int64
			created, expires time.Time
		)
		for b.Loop() {
			err := s.pool.QueryRow(b.Context(), `
				SELECT user_key, sealed, version, created_at, expires_at FROM sessions
				WHERE key = $1 AND expires_at > $2`, row, epoch).Scan(&userKey, &sealed, &version, &created, &expires)
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
		row, sealed := key(id), make([]byte, 1024)
		for b.Loop() {
			expires := time.Now().Add(time.Hour)
			tag, err := s.pool.Exec(b.Context(), `
				UPDATE sessions SET sealed = $2, version = version + 1, expires_at = $3, expires_hour = $4
				WHERE key = $1 AND expires_at > $5`, row, sealed, expires, expires.Truncate(time.Hour).Add(time.Hour), epoch)
			if err != nil || tag.RowsAffected() != 1 {
				b.Fatal(tag, err)
			}
		}
	})
}
