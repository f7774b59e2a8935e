package httpsession_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
)

// BenchmarkHandler compares a request that reads its session with the Load alone and with the same
// request without sessions: read them as ratios and differences, in one run.
func BenchmarkHandler(b *testing.B) {
	for name, newFixture := range map[string]makeFixture{"memory": newInMemory, "postgres": newOnPostgreSQL} {
		f := newFixture(b)
		stored, err := f.store.CreateAs(b.Context(), pgsession.NewIDFor("session"), pgsession.Data{UserID: "ann", Values: Values{Count: 1, Cart: []string{"pen", "ink"}}}, 12*time.Hour)
		require.NoError(b, err)
		empty := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
		reads := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if f.Get(r).UserID != "ann" {
				b.Fatal("no session")
			}
		})
		withCookie := httptest.NewRequest("GET", "https://example.com/", nil)
		withCookie.AddCookie(&http.Cookie{Name: "__Host-session", Value: stored.ID.Token()})
		without := httptest.NewRequest("GET", "https://example.com/", nil)

		b.Run(name+"/Load alone", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := f.store.Load(b.Context(), stored.ID); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/Load and Decode alone", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				loaded, err := f.store.Load(b.Context(), stored.ID)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := pgsession.Decode[Values](loaded); err != nil {
					b.Fatal(err)
				}
			}
		})
		for _, request := range []struct {
			name    string
			handler http.Handler
			r       *http.Request
		}{
			{"request of a user, session read", f.Handler(reads), withCookie},
			{"request of a user, session not read", f.Handler(empty), withCookie},
			{"request without a cookie", f.Handler(empty), without},
			{"request without this package", empty, withCookie},
		} {
			b.Run(name+"/"+request.name, func(b *testing.B) {
				w := httptest.NewRecorder()
				b.ReportAllocs()
				for b.Loop() {
					request.handler.ServeHTTP(w, request.r)
				}
			})
		}
	}
}
