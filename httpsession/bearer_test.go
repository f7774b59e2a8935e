package httpsession_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/httpsession"
)

func TestManager_Bearer(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t, httpsession.WithBearer(), httpsession.WithTTL(time.Hour), httpsession.WithLogInPage("/login"))
		mux := f.app()
		mux.Handle("GET /in", f.RequireUser(http.HandlerFunc(f.write)))
		b := f.serve(t, mux)
		token, err := f.IssueToken(t.Context(), "ann", Values{Cart: []string{"read"}})
		require.NoError(t, err)
		with := func(authorization string) func(*http.Request) {
			return func(r *http.Request) {
				r.Header.Set("Authorization", authorization)
				r.Header.Set("Sec-Fetch-Mode", "navigate")
			}
		}
		for name, authorization := range map[string]string{
			"usual": "Bearer " + token, "lower case": "bearer " + token, "spaces": "BEARER   " + token + " ",
		} {
			answer := b.do("GET /in", with(authorization))
			s := answer.session(t)
			require.Equal(t, "ann", s.UserID, name)
			require.Equal(t, []string{"read"}, s.Values.Cart)
			require.Empty(t, answer.setCookies())
		}
		for name, tc := range map[string]struct{ authorization, challenge string }{
			"none":           {"", "Bearer"},
			"another scheme": {"Basic " + token, `Bearer error="invalid_token"`},
			"no scheme":      {token, `Bearer error="invalid_token"`},
			"garbage":        {"Bearer garbage", `Bearer error="invalid_token"`},
			"never issued":   {"Bearer " + pgsession.NewIDFor("bearer:session").Token(), `Bearer error="invalid_token"`},
			"a cookie's":     {"Bearer " + f.plant(t, "session", "ann").ID.Token(), `Bearer error="invalid_token"`},
			"the store's":    {"Bearer " + pgsession.NewID().Token(), `Bearer error="invalid_token"`},
		} {
			answer := b.do("GET /in", with(tc.authorization))
			require.Equal(t, http.StatusUnauthorized, answer.StatusCode, name)
			require.Equal(t, tc.challenge, answer.Header.Get("WWW-Authenticate"), name)
			require.Equal(t, "no-store", answer.Header.Get("Cache-Control"))
			answer = b.do("POST /add", with(tc.authorization))
			require.Equal(t, http.StatusUnauthorized, answer.StatusCode, "there are no guests' sessions")
		}
		b.Jar.SetCookies(b.address(), []*http.Cookie{{Name: "session", Value: token}})
		require.Equal(t, http.StatusUnauthorized, b.do("GET /in").StatusCode, "a cookie is none")

		user := with("Bearer " + token)
		require.Equal(t, 1, b.do("POST /add", user).session(t).Values.Count)
		f.clock.Advance(50 * time.Minute)
		require.Equal(t, time.Hour, b.do("GET /in", user).session(t).ExpiresAt.Sub(f.clock.Now().Truncate(time.Microsecond)), "it slides")
		require.Equal(t, http.StatusInternalServerError, b.do("POST /login?user=bob", user).StatusCode)
		require.Equal(t, http.StatusInternalServerError, b.do("POST /renew", user).StatusCode)
		require.Equal(t, "ann", b.do("GET /in", user).session(t).UserID)
		answer := b.do("POST /logout", user)
		require.Equal(t, http.StatusOK, answer.StatusCode)
		require.Empty(t, answer.setCookies())
		require.Equal(t, http.StatusUnauthorized, b.do("GET /in", user).StatusCode)
		require.True(t, b.do("GET /session", user).session(t).Ended)
	})
}

// A request whose user was logged out meanwhile gets no token, whichever Manager its session is of.
func TestManager_IssueToken_SessionEnded(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t)
		tokens := httpsession.New[Values](f.store, httpsession.WithBearer())
		for name, present := range map[string]func(r *http.Request){
			"a token": func(r *http.Request) {
				issued, err := tokens.IssueToken(t.Context(), "ann", Values{})
				require.NoError(t, err)
				r.Header.Set("Authorization", "Bearer "+issued)
			},
			"a cookie": func(r *http.Request) {
				r.AddCookie(&http.Cookie{Name: "session", Value: f.plant(t, "session", "ann").ID.Token()})
			},
		} {
			r := httptest.NewRequest("POST", "/", nil)
			present(r)
			called := false
			f.Handler(tokens.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				called = true
				token, err := tokens.IssueToken(r.Context(), "ann", Values{})
				require.NoError(t, err, name)
				require.NotEmpty(t, token)
				_, err = f.store.DeleteByUser(r.Context(), "ann")
				require.NoError(t, err)
				_, err = tokens.IssueToken(r.Context(), "ann", Values{})
				require.ErrorIs(t, err, pgsession.ErrNotFound, name)
				require.Zero(t, f.count(t))
				f.Reload(r)
				tokens.Reload(r)
				_, err = tokens.IssueToken(r.Context(), "ann", Values{})
				require.ErrorIs(t, err, pgsession.ErrNotFound, name)
				_, err = tokens.IssueToken(r.Context(), "bob", Values{})
				require.NoError(t, err, "another user's")
				_, err = f.store.DeleteByUser(r.Context(), "bob")
				require.NoError(t, err)
			}))).ServeHTTP(httptest.NewRecorder(), r)
			require.True(t, called)
		}
	})
}

func TestManager_IssueToken(t *testing.T) {
	onEach(t, func(t *testing.T, newFixture makeFixture) {
		f := newFixture(t, httpsession.WithBearer(), httpsession.WithMaxSessions(2))
		_, err := f.IssueToken(t.Context(), "", Values{})
		require.ErrorContains(t, err, "user id")
		_, err = newFixture(t).IssueToken(t.Context(), "ann", Values{})
		require.ErrorContains(t, err, "WithBearer")
		_, err = f.IssueToken(t.Context(), "ann", Values{Flash: string(make([]byte, 100_000))})
		require.ErrorIs(t, err, pgsession.ErrTooLarge)
		for range 3 {
			_, err := f.IssueToken(t.Context(), "ann", Values{}, httpsession.Remember())
			require.NoError(t, err)
			f.clock.Advance(time.Second)
		}
		sessions, err := f.store.FindByUser(t.Context(), "ann", 0)
		require.NoError(t, err)
		require.Len(t, sessions, 2)
		require.Equal(t, 90*24*time.Hour, sessions[0].EndsAt.Sub(sessions[0].CreatedAt))
		require.Equal(t, 30*24*time.Hour, sessions[0].IdleTimeout)

		named := httpsession.New[Values](f.store, httpsession.WithBearer(), httpsession.WithCookie(http.Cookie{Name: "api"}))
		token, err := named.IssueToken(t.Context(), "bob", Values{})
		require.NoError(t, err)
		b := f.serve(t, f.app())
		answer := b.do("GET /session", func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) })
		require.Empty(t, answer.session(t).UserID, "another Manager's token")
	})
}
