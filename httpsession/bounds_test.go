package httpsession_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/httpsession"
	"github.com/pgsession/pgsession/internal/test"
)

// A log-in and a log-out of many steps end within one WithTimeout: all their statements have one
// deadline. A log-out sends them side by side.
func TestManager_OneDeadline(t *testing.T) {
	t.Parallel()
	var (
		mu        sync.Mutex
		deadlines []time.Time
		barrier   func()
	)
	traced := &test.Tracer{Start: func(ctx context.Context, _ string) {
		deadline, ok := ctx.Deadline()
		mu.Lock()
		defer mu.Unlock()
		if ok {
			deadlines = append(deadlines, deadline)
		}
		if barrier != nil {
			mu.Unlock()
			barrier()
			mu.Lock()
		}
	}}
	s := test.NewTracedStore(t, traced, 8, pgsession.WithTimeout(patience), pgsession.WithCoalescing(0))
	f := newFixture(s.Store, s.Clock, []httpsession.Option{httpsession.WithMaxSessions(1)})
	call := func(do func(w http.ResponseWriter, r *http.Request) error, users ...string) {
		r := httptest.NewRequest("POST", "/", nil)
		for _, user := range users {
			r.AddCookie(&http.Cookie{Name: "session", Value: f.plant(t, "session", user).ID.Token()})
		}
		f.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			deadlines = nil
			mu.Unlock()
			require.NoError(t, do(w, r))
		})).ServeHTTP(httptest.NewRecorder(), r)
	}
	logIn := func(w http.ResponseWriter, r *http.Request) error { return f.LogIn(w, r, "ann", nil) }
	requireOne := func(atLeast int) {
		require.GreaterOrEqual(t, len(deadlines), atLeast)
		for _, deadline := range deadlines {
			require.Equal(t, deadlines[0], deadline)
		}
	}
	call(logIn, "ann", "bob", "carl")
	requireOne(4) // two others, the id, the limit
	call(logIn)
	requireOne(2)

	const sessions = 4
	var arrived atomic.Int64
	all := make(chan struct{})
	call(func(w http.ResponseWriter, r *http.Request) error {
		barrier = func() {
			if arrived.Add(1) == sessions {
				close(all)
			}
			receive(t, all) // none goes on before all have come
		}
		defer func() { barrier = nil }()
		return f.LogOut(w, r)
	}, "ann", "bob", "carl", "dora")
	requireOne(sessions)
}
