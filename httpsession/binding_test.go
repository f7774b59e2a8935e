package httpsession_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/httpsession"
)

func userAgent(name string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("User-Agent", name) }
}

func TestWithBinding(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		var events []httpsession.Event
		f := newFixture(t, httpsession.WithBinding((*http.Request).UserAgent), recordTo(&events))
		b := f.serve(t, f.app())
		firefox, curl := userAgent("Firefox"), userAgent("curl")

		b.do("POST /add?item=pen", firefox)
		require.Equal(t, []string{"pen"}, b.do("GET /session", curl).session(t).Values.Cart, "a guest's is not bound")
		b.do("POST /login?user=ann", firefox)
		for range 2 {
			b.do("POST /add?item=ink", firefox)
			b.do("POST /renew", firefox)
		}
		want := b.do("GET /session", firefox).session(t)
		require.Equal(t, "ann", want.UserID)
		require.Equal(t, []string{"pen", "ink", "ink"}, want.Values.Cart)

		events = nil
		answer := b.do("GET /session", curl)
		require.Zero(t, answer.session(t), "a guest")
		require.Empty(t, answer.setCookies())
		require.Equal(t, []httpsession.Event{{Kind: httpsession.BindingDiffered, Handle: want.Handle, UserID: "ann"}}, events)
		require.Contains(t, f.logs.String(), "bound to another client")
		require.NotContains(t, f.logs.String(), "curl")
		require.Equal(t, want, b.do("GET /session", firefox).session(t), "the session goes on")

		stored, err := f.store.Find(t.Context(), want.Handle)
		require.NoError(t, err)
		raw, err := pgsession.Decode[map[string]any](stored)
		require.NoError(t, err)
		require.Contains(t, raw, "httpsession:binding")
		require.NotContains(t, raw["httpsession:binding"], "Firefox")

		b.do("POST /login?user=ann", curl)
		require.Equal(t, "ann", b.do("GET /session", curl).session(t).UserID)
		require.Empty(t, b.do("GET /session", firefox).session(t).UserID)
		require.Equal(t, 1, f.count(t), "the log-in ended the other one")
		b.do("POST /logout", firefox)
		require.Zero(t, f.count(t), "so does a log-out, from wherever")
	})
}

// The member of the binding belongs to no values, whatever their type and whichever release writes.
func TestWithBinding_Values(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		store := newFixture(t).store
		binding := func(value string) httpsession.Option {
			return httpsession.WithBinding(func(*http.Request) string { return value })
		}
		jar := map[string]string{}
		bound, elsewhere := newRelease[map[string]any](t, store, jar, binding("a")),
			newRelease[map[string]any](t, store, jar, binding("b"))
		without := newRelease[Values](t, store, jar)
		require.NoError(t, without.logIn("ann", nil))
		require.Equal(t, "ann", elsewhere.get().UserID, "a log-in from before is not bound")
		require.NoError(t, bound.logIn("bob", nil))
		require.Empty(t, bound.get().Values)
		set := func(v *map[string]any) error { *v = map[string]any{"flash": "x"}; return nil }
		require.NoError(t, bound.update(set))
		require.NoError(t, without.update(func(v *Values) error { v.Flash = "y"; return nil }))
		require.NoError(t, without.renewID(nil))
		require.Equal(t, "y", bound.get().Values["flash"])
		require.NotContains(t, bound.get().Values, "httpsession:binding")
		require.Empty(t, elsewhere.get().UserID, "it is bound after all that")
		require.ErrorIs(t, bound.update(func(v *map[string]any) error { (*v)["httpsession:binding"] = "mine"; return nil }), pgsession.ErrEncode)

		anything := newRelease[any](t, store, map[string]string{}, binding("a"))
		require.ErrorIs(t, anything.logIn("ann", func(v *any) error { *v = 5; return nil }), pgsession.ErrEncode, "no object")
		require.NoError(t, anything.logIn("ann", nil))
		require.Equal(t, "ann", anything.get().UserID)

		for _, foreign := range []any{[]int{1}, []byte("bytes"), 5} {
			planted, err := store.CreateAs(t.Context(), pgsession.NewIDFor("session"), pgsession.Data{Values: foreign}, 1e12)
			require.NoError(t, err)
			values := newRelease[Values](t, store, map[string]string{"__Host-session-guest": planted.ID.Token()}, binding("a"))
			require.NoError(t, values.logIn("ann", nil), "a guest's, of another type")
			require.Equal(t, "ann", values.get().UserID)
			require.Zero(t, values.get().Values)
		}

		require.Panics(t, func() { httpsession.New[int](store, binding("a")) })
		require.Panics(t, func() { httpsession.New[Values](store, binding("a"), httpsession.WithBearer()) })
	})
}

// A member that somebody has damaged opens nothing.
func TestWithBinding_Damaged(t *testing.T) {
	t.Parallel()
	store := pgsession.InMemory()
	m := httpsession.New[Values](store, httpsession.WithBinding(func(*http.Request) string { return "" }),
		httpsession.WithLogger(new(logs).logger()))
	for _, member := range []any{nil, 1, "", "short", "!!", []int{1}, map[string]int{}} {
		planted, err := store.CreateAs(t.Context(), pgsession.NewIDFor("session"),
			pgsession.Data{UserID: "ann", Values: map[string]any{"httpsession:binding": member}}, 1e9)
		require.NoError(t, err)
		r := httptest.NewRequest("GET", "https://example.com/", nil)
		r.AddCookie(&http.Cookie{Name: "__Host-session", Value: planted.ID.Token()})
		m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			require.Empty(t, m.Get(r).UserID, "%v", member)
		})).ServeHTTP(httptest.NewRecorder(), r)
	}
}
