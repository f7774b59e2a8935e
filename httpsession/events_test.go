package httpsession_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/httpsession"
)

// recordTo collects events.
func recordTo(events *[]httpsession.Event) httpsession.Option {
	var mu sync.Mutex
	return httpsession.WithEvents(func(_ context.Context, event httpsession.Event) {
		mu.Lock()
		defer mu.Unlock()
		*events = append(*events, event)
	})
}

func TestWithEvents(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		var events []httpsession.Event
		f := newFixture(t, recordTo(&events))
		mux := f.app()
		var during func()
		mux.HandleFunc("POST /during", func(w http.ResponseWriter, r *http.Request) {
			during()
			f.Update(w, r, nil)
			f.Reload(r)
			f.RenewID(w, r, nil)
			f.LogOut(w, r)
		})
		mux.HandleFunc("POST /twice", func(w http.ResponseWriter, r *http.Request) {
			f.Get(r)
			require.NoError(t, f.Update(w, r, nil))
			f.Get(r)
		})
		b := f.serve(t, mux)
		expect := func(want ...httpsession.Event) {
			t.Helper()
			require.Equal(t, want, events)
			events = nil
		}
		handle := func() pgsession.Handle { return b.get().Handle }

		b.do("POST /add")
		guest := handle()
		expect(httpsession.Event{Kind: httpsession.SessionBegun, Handle: guest})
		b.do("POST /add")
		expect()
		b.do("POST /login?user=ann")
		first := handle()
		expect(httpsession.Event{Kind: httpsession.UserLoggedIn, Handle: first, Before: guest, UserID: "ann"})
		b.do("POST /renew")
		second := handle()
		expect(httpsession.Event{Kind: httpsession.IDChanged, Handle: second, Before: first, UserID: "ann"})
		stale := b.stale()
		b.do("POST /logout")
		expect(httpsession.Event{Kind: httpsession.LoggedOut, Handle: second, UserID: "ann"})
		b.do("POST /logout")
		expect()
		stale.get()
		expect(httpsession.Event{Kind: httpsession.EndedByOthers, Handle: second})

		b.do("POST /login?user=ann")
		events = nil
		third := handle()
		during = func() { require.NoError(t, f.store.RevokeAny(t.Context(), third)) }
		b.do("POST /during")
		expect(httpsession.Event{Kind: httpsession.EndedByOthers, Handle: third, UserID: "ann"})

		b.do("POST /login?user=ann")
		fourth := handle()
		events = nil
		f.clock.Advance(13 * time.Hour)
		b.get()
		expect(httpsession.Event{Kind: httpsession.Expired, Handle: fourth})

		b.do("POST /login?user=ann")
		fifth := handle()
		f.tamper(fifth)
		events = nil
		b.get()
		expect(httpsession.Event{Kind: httpsession.ValuesUnreadable, Handle: fifth})

		stored, err := f.store.CreateAs(t.Context(), pgsession.NewIDFor("session"), pgsession.Data{UserID: "ann", Values: []int{1}}, time.Hour)
		require.NoError(t, err)
		b.Jar.SetCookies(b.address(), []*http.Cookie{{Name: "session", Value: stored.ID.Token()}})
		b.get()
		unreadable := httpsession.Event{Kind: httpsession.ValuesUnreadable, Handle: stored.Handle, UserID: "ann"}
		expect(unreadable)
		b.do("POST /twice")
		expect(unreadable)
		b.do("POST /add")
		expect(unreadable)

		tokens := httpsession.New[Values](f.store, httpsession.WithBearer(), recordTo(&events))
		_, err = tokens.IssueToken(t.Context(), "bob", Values{})
		require.NoError(t, err)
		require.Equal(t, httpsession.SessionBegun, events[0].Kind)
		require.Equal(t, "bob", events[0].UserID)
	})
}

// An application whose function panics, or calls back, still answers: the cookie is set before.
func TestWithEvents_Panics(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		type key struct{}
		var f *fixture
		called := 0
		f = newFixture(t, httpsession.WithEvents(func(ctx context.Context, event httpsession.Event) {
			called++
			r := ctx.Value(key{}).(*http.Request)
			require.Equal(t, event.UserID, f.Get(r.WithContext(ctx)).UserID, "it is stored by then")
			_, err := f.Reload(r.WithContext(ctx))
			require.NoError(t, err, "and nothing is locked")
			panic("secret")
		}))
		mux := f.app()
		b := newBrowser(t, httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			f.Handler(mux).ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), key{}, r)))
		})))
		require.Equal(t, []string{"set session-guest"}, b.do("POST /add").setCookies())
		require.Equal(t, "ann", b.do("POST /login?user=ann").session(t).UserID)
		require.Equal(t, "ann", b.get().UserID)
		require.Equal(t, 2, called)
		require.Contains(t, f.logs.String(), "panicked")
		require.NotContains(t, f.logs.String(), "secret")
	})
}

// The context that an audit trail gets is not the one that bounds the store's work.
func TestWithEvents_Context(t *testing.T) {
	t.Parallel()
	var kinds []httpsession.EventKind
	record := httpsession.WithEvents(func(ctx context.Context, event httpsession.Event) {
		_, isBounded := ctx.Deadline()
		require.False(t, isBounded, event.Kind)
		kinds = append(kinds, event.Kind)
	})
	f := newOnPostgreSQL(t, record)
	f.serve(t, f.app()).do("GET /session", func(r *http.Request) {
		for range 2 {
			r.AddCookie(&http.Cookie{Name: "session", Value: pgsession.NewID().Token()})
		}
	})
	_, err := httpsession.New[Values](f.store, httpsession.WithBearer(), record).IssueToken(t.Context(), "ann", Values{})
	require.NoError(t, err)
	require.Equal(t, []httpsession.EventKind{httpsession.Expired, httpsession.Expired, httpsession.SessionBegun}, kinds)
}
