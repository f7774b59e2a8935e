package recipes

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/httpsession"
)

// soon is a second and what a busy machine takes.
const soon = 15 * time.Second

func isSecret(user, secret string) bool { return secret == "secret of "+user }

func never(string) time.Time { return time.Time{} }

func TestSecondFactor(t *testing.T) {
	t.Parallel()
	v := newVisitor(t, SecondFactor(pgsession.InMemory(), isSecret, isSecret, never))
	v.send(t, "POST /code", form("code", "secret of ann"), http.StatusUnauthorized, "password first")
	require.Empty(t, v.jar.Cookies(v.address))
	v.send(t, "POST /login", form("user", "ann", "password", "guess"), http.StatusUnauthorized, "do not go together")
	v.send(t, "POST /login", form("user", "ann", "password", "secret of ann"), http.StatusSeeOther, "/code")
	planted := v.copy(t)
	v.send(t, "GET /account", nil, http.StatusUnauthorized, "log in")
	v.send(t, "POST /code", form("code", "guess"), http.StatusUnauthorized, "wrong")

	// Again, under another id: who knew the id before is not half logged in.
	v.send(t, "POST /login", form("user", "ann", "password", "secret of ann"), http.StatusSeeOther, "/code")
	planted.send(t, "POST /code", form("code", "secret of ann"), http.StatusUnauthorized, "password first")
	v.send(t, "POST /code", form("code", "secret of ann"), http.StatusSeeOther, "/account")
	v.send(t, "GET /account", nil, http.StatusOK, "The account of ann")
	v.send(t, "POST /code", form("code", "secret of ann"), http.StatusUnauthorized, "password first")
}

func TestSecondFactor_FiveTries(t *testing.T) {
	t.Parallel()
	v := newVisitor(t, SecondFactor(pgsession.InMemory(), isSecret, isSecret, never))
	v.send(t, "POST /login", form("user", "ann", "password", "secret of ann"), http.StatusSeeOther, "/code")
	for range 5 {
		v.send(t, "POST /code", form("code", "guess"), http.StatusUnauthorized, "wrong")
	}
	v.send(t, "POST /code", form("code", "secret of ann"), http.StatusUnauthorized, "password again")
}

func TestSecondFactor_Remember(t *testing.T) {
	t.Parallel()
	v := newVisitor(t, SecondFactor(pgsession.InMemory(), isSecret, isSecret, never))
	v.send(t, "POST /login", form("user", "ann", "password", "secret of ann", "remember", "on"), http.StatusSeeOther, "/code")
	code := v.send(t, "POST /code", form("code", "secret of ann"), http.StatusSeeOther, "/account")
	require.Contains(t, code.Header().Get("Set-Cookie"), "Max-Age=34560000")
}

// A password that was given before it was changed is worth nothing, although the visitor is a
// guest.
func TestSecondFactor_PasswordChanged(t *testing.T) {
	t.Parallel()
	var changed time.Time
	v := newVisitor(t, SecondFactor(pgsession.InMemory(), isSecret, isSecret, func(string) time.Time { return changed }))
	v.send(t, "POST /login", form("user", "ann", "password", "secret of ann"), http.StatusSeeOther, "/code")
	changed = time.Now()
	v.send(t, "POST /code", form("code", "secret of ann"), http.StatusUnauthorized, "password again")
	v.send(t, "POST /login", form("user", "ann", "password", "secret of ann"), http.StatusSeeOther, "/code")
	v.send(t, "POST /code", form("code", "secret of ann"), http.StatusSeeOther, "/account")
}

func TestImpersonation(t *testing.T) {
	t.Parallel()
	store := pgsession.InMemory()
	isAdmin := func(user string) bool { return user == "eve" || user == "ada" }
	app := Impersonation(store, isAdmin)
	eve, ann := newVisitor(t, app), newVisitor(t, app)
	ann.send(t, "POST /login", form("user", "ann"), http.StatusOK, "")
	ann.send(t, "POST /act", form("as", "bob"), http.StatusForbidden, "may not")
	eve.send(t, "POST /login", form("user", "eve"), http.StatusOK, "")
	eve.send(t, "POST /act", form("as", "ada"), http.StatusForbidden, "Administrators")
	eve.send(t, "POST /act", form("as", "ann"), http.StatusSeeOther, "/")
	eve.send(t, "GET /", nil, http.StatusOK, "orders of ann, for eve")
	eve.send(t, "POST /password", nil, http.StatusForbidden, "somebody else")
	acting := eve.copy(t) // the id under which streams that show ann's events are watched
	eve.send(t, "POST /act/stop", nil, http.StatusSeeOther, "/")
	acting.send(t, "GET /", nil, http.StatusUnauthorized, "log in")
	eve.send(t, "GET /", nil, http.StatusOK, "orders of eve, for eve")
	eve.send(t, "POST /password", nil, http.StatusOK, "")
	eve.send(t, "POST /act", form("as", "ann"), http.StatusSeeOther, "/")
	found, err := store.FindByUser(t.Context(), "ann", 0)
	require.NoError(t, err)
	require.Len(t, found, 1, "ann's devices do not show the administrator")
	end(t, store, "eve")
	eve.send(t, "GET /", nil, http.StatusUnauthorized, "log in")
	ann.send(t, "GET /", nil, http.StatusOK, "orders of ann, for ann")
}

func TestAPITokens(t *testing.T) {
	t.Parallel()
	sessionStore, tokenStore := pgsession.InMemory(), pgsession.InMemory()
	app := APITokens(sessionStore, tokenStore)
	ann, bob, script := newVisitor(t, app), newVisitor(t, app), newVisitor(t, app)
	ann.send(t, "POST /tokens", nil, http.StatusUnauthorized, "log in")
	ann.send(t, "POST /login", form("user", "ann"), http.StatusOK, "")
	bob.send(t, "POST /login", form("user", "bob"), http.StatusOK, "")
	token := ann.send(t, "POST /tokens", form("name", "laptop"), http.StatusOK, "").Body.String()
	list := ann.send(t, "GET /tokens", nil, http.StatusOK, `"laptop" until `).Body.String()
	require.NotContains(t, list, token)
	script.send(t, "GET /api/orders", nil, http.StatusUnauthorized, "")
	script.header.Set("Authorization", "Bearer "+token)
	script.send(t, "GET /api/orders", nil, http.StatusOK, "orders of ann")
	script.send(t, "GET /tokens", nil, http.StatusUnauthorized, "")
	ann.send(t, "GET /api/orders", nil, http.StatusUnauthorized, "")

	handle, _, _ := strings.Cut(list, " ")
	bob.send(t, "POST /tokens/"+handle+"/end", nil, http.StatusConflict, "")
	script.send(t, "GET /api/orders", nil, http.StatusOK, "orders of ann")
	end(t, sessionStore, "ann")
	script.send(t, "GET /api/orders", nil, http.StatusOK, "orders of ann")
	ann.send(t, "POST /login", form("user", "ann"), http.StatusOK, "")
	ann.send(t, "POST /tokens/"+handle+"/end", nil, http.StatusSeeOther, "/tokens")
	script.send(t, "GET /api/orders", nil, http.StatusUnauthorized, "")
}

func TestCORS(t *testing.T) {
	t.Parallel()
	sessions := httpsession.New[struct{}](pgsession.InMemory())
	app, err := CORS("https://app.example.com", sessions.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := sessions.LogIn(w, r, "ann", nil); err != nil {
			sessions.Error(w, r, err)
		}
	})))
	require.NoError(t, err)
	for name, test := range map[string]struct {
		method, origin, site string
		status               int
		allowed              string
	}{
		"the application":     {"POST", "https://app.example.com", "same-site", http.StatusOK, "https://app.example.com"},
		"before it":           {"OPTIONS", "https://app.example.com", "same-site", http.StatusNoContent, "https://app.example.com"},
		"another of the site": {"POST", "https://blog.example.com", "same-site", http.StatusForbidden, ""},
		"another site":        {"POST", "https://evil.example", "cross-site", http.StatusForbidden, ""},
		"no browser":          {"POST", "", "", http.StatusOK, ""},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVisitor(t, app)
			v.header.Set("Origin", test.origin)
			v.header.Set("Sec-Fetch-Site", test.site)
			v.header.Set("Access-Control-Request-Method", "POST")
			answer := v.send(t, test.method+" /", nil, test.status, "")
			require.Equal(t, test.allowed, answer.Header().Get("Access-Control-Allow-Origin"))
			require.Equal(t, "Origin", answer.Header().Get("Vary"))
		})
	}
	_, err = CORS("*", app)
	require.Error(t, err)
}

func TestOAuth(t *testing.T) {
	t.Parallel()
	userOf := func(_ context.Context, code, verifier string) (string, error) {
		if code != "code" || len(verifier) < 43 {
			return "", errors.New("refused")
		}
		return "ann", nil
	}
	clock := pgsession.NewManualClock(time.Now())
	app := OAuth(pgsession.InMemory(pgsession.WithClock(clock)), "https://other.example/authorize", "client", userOf)
	begin := func(v *visitor) (state string) {
		location := v.send(t, "POST /login", nil, http.StatusSeeOther, "https://other.example/authorize?").Header().Get("Location")
		address, err := url.Parse(location)
		require.NoError(t, err)
		return address.Query().Get("state")
	}
	ann, mallory := newVisitor(t, app), newVisitor(t, app)
	ann.send(t, "GET /callback?code=code&state=", nil, http.StatusBadRequest, "not begun here")
	require.Empty(t, ann.jar.Cookies(ann.address))

	// Mallory's attempt, ended in Ann's browser, would log her in as Mallory.
	mallorys := begin(mallory)
	ann.send(t, "GET /callback?code=code&state="+mallorys, nil, http.StatusBadRequest, "not begun here")
	begin(ann)
	planted := ann.copy(t)
	ann.send(t, "GET /callback?code=code&state="+mallorys, nil, http.StatusBadRequest, "not begun here")
	state := begin(planted)
	ann.send(t, "GET /callback?code=code&state="+state, nil, http.StatusBadRequest, "not begun here")
	ann.send(t, "POST /login", nil, http.StatusConflict, "reload") // she may have the new cookie in a moment
	clock.Advance(time.Minute)
	ann.send(t, "GET /", nil, http.StatusOK, "user ")

	state = begin(ann)
	callback := "GET /callback?code=code&state=" + state
	ann.send(t, callback, nil, http.StatusSeeOther, "/")
	ann.send(t, "GET /", nil, http.StatusOK, "user ann")
	ann.send(t, callback, nil, http.StatusBadRequest, "not begun here")
	state = begin(mallory)
	mallory.send(t, "GET /callback?code=wrong&state="+state, nil, http.StatusBadGateway, "")
	mallory.send(t, "GET /", nil, http.StatusOK, "user ")
}

func TestPasswordReset(t *testing.T) {
	t.Parallel()
	clock := pgsession.NewManualClock(time.Now())
	store := pgsession.InMemory(pgsession.WithClock(clock))
	passwords := map[string]string{}
	var token string
	app := PasswordReset(store, func(_, link string) {
		_, token, _ = strings.Cut(link, "#")
	}, func(user, password string) error {
		passwords[user] = password
		return nil
	})
	thief, err := store.Create(t.Context(), pgsession.Data{UserID: "ann"}, time.Hour)
	require.NoError(t, err)
	v := newVisitor(t, app)
	v.send(t, "POST /forgotten", form("user", "ann"), http.StatusOK, "If there is such a user")
	v.send(t, "POST /reset", form("token", "ann", "password", "new"), http.StatusGone, "")
	v.send(t, "POST /reset", form("token", token, "password", "new"), http.StatusOK, "log in")
	require.Equal(t, map[string]string{"ann": "new"}, passwords)
	_, err = store.Load(t.Context(), thief.ID)
	require.ErrorIs(t, err, pgsession.ErrRevoked)
	v.send(t, "POST /reset", form("token", token, "password", "newer"), http.StatusGone, "")
	v.send(t, "POST /forgotten", form("user", "ann"), http.StatusOK, "")
	clock.Advance(31 * time.Minute)
	v.send(t, "POST /reset", form("token", token, "password", "newer"), http.StatusGone, "")
	require.Equal(t, map[string]string{"ann": "new"}, passwords)
}

func TestIdleWarning(t *testing.T) {
	t.Parallel()
	clock := pgsession.NewManualClock(time.Now().Truncate(time.Second))
	v := newVisitor(t, IdleWarning(pgsession.InMemory(pgsession.WithClock(clock)), clock.Now))
	left := func(request string) (answer struct {
		LoggedIn bool `json:"logged_in"`
		Ended    bool
		Seconds  int
	}) {
		require.NoError(t, json.Unmarshal(v.send(t, request, nil, http.StatusOK, "").Body.Bytes(), &answer))
		return answer
	}
	require.False(t, left("GET /left").LoggedIn)
	v.send(t, "POST /login", form("user", "ann"), http.StatusOK, "")
	for minutes := range 29 {
		require.Equal(t, 60*(30-minutes), left("GET /left").Seconds, "asking prolongs nothing")
		clock.Advance(time.Minute)
	}
	require.Equal(t, 30*60, left("POST /stay").Seconds)
	clock.Advance(31 * time.Minute)
	require.True(t, left("GET /left").Ended)
	v.send(t, "POST /stay", nil, http.StatusUnauthorized, "")
}

// serve logs in at a server, and returns its address and a client with the cookie.
func serve(t *testing.T, sessions *httpsession.Manager[struct{}], app http.Handler) (address string, client *http.Client) {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle("POST /login", sessions.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := sessions.LogIn(w, r, "ann", nil); err != nil {
			sessions.Error(w, r, err)
		}
	})))
	mux.Handle("/", app)
	server := httptest.NewTLSServer(mux)
	t.Cleanup(server.Close)
	client = server.Client()
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	client.Jar = jar
	response, err := client.Post(server.URL+"/login", "", nil)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.NotEmpty(t, response.Cookies())
	return server.URL, client
}

func TestStream(t *testing.T) {
	t.Parallel()
	store := pgsession.InMemory()
	sessions := httpsession.New[struct{}](store)
	from := make(chan string)
	stream := Stream(t.Context(), sessions, func(_ context.Context, user string) <-chan string {
		require.Equal(t, "ann", user)
		return from
	})
	const timeout = 500 * time.Millisecond
	address, client := serve(t, sessions, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w) // as http.Server does with its time-outs
		require.NoError(t, control.SetReadDeadline(time.Now().Add(timeout)))
		require.NoError(t, control.SetWriteDeadline(time.Now().Add(timeout)))
		stream.ServeHTTP(w, r)
	}))
	begun := time.Now()
	response, err := client.Get(address)
	require.NoError(t, err)
	defer response.Body.Close()
	from <- "one"
	end(t, store, "ann")
	ended := time.Now()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Equal(t, "data: one\n\nevent: ended\ndata:\n\n", string(body))
	require.Less(t, time.Since(ended), soon)
	require.Greater(t, time.Since(begun), timeout)
	response, err = client.Get(address)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusUnauthorized, response.StatusCode)
}

func TestStream_Stopping(t *testing.T) {
	t.Parallel()
	sessions := httpsession.New[struct{}](pgsession.InMemory())
	from := make(chan string)
	stopping, stop := context.WithCancel(t.Context())
	address, client := serve(t, sessions, Stream(stopping, sessions, func(context.Context, string) <-chan string { return from }))
	response, err := client.Get(address)
	require.NoError(t, err)
	defer response.Body.Close()
	from <- "one"
	stop()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Equal(t, "data: one\n\n", string(body), "the page connects again, so it is not told that the session has ended")
}

func TestWebSocket(t *testing.T) {
	t.Parallel()
	store := pgsession.InMemory()
	sessions := httpsession.New[struct{}](store)
	address, client := serve(t, sessions, WebSocket(sessions, func(user string, message []byte) []byte {
		return append(message, " for "+user...)
	}))
	conn, _, err := websocket.Dial(t.Context(), address, &websocket.DialOptions{HTTPClient: client})
	require.NoError(t, err)
	defer conn.CloseNow()
	require.NoError(t, conn.Write(t.Context(), websocket.MessageText, []byte("news")))
	_, message, err := conn.Read(t.Context())
	require.NoError(t, err)
	require.Equal(t, "news for ann", string(message))
	end(t, store, "ann")
	ended := time.Now()
	_, _, err = conn.Read(t.Context())
	require.Equal(t, SessionEnded, websocket.CloseStatus(err), err)
	require.Less(t, time.Since(ended), soon)

	_, response, err := websocket.Dial(t.Context(), address, &websocket.DialOptions{HTTPClient: client})
	require.Error(t, err)
	require.Equal(t, http.StatusUnauthorized, response.StatusCode)
}

func TestWebSocket_OtherSites(t *testing.T) {
	t.Parallel()
	sessions := httpsession.New[struct{}](pgsession.InMemory())
	address, client := serve(t, sessions, WebSocket(sessions, func(_ string, message []byte) []byte { return message }))
	_, response, err := websocket.Dial(t.Context(), address, &websocket.DialOptions{HTTPClient: client,
		HTTPHeader: http.Header{"Origin": {"https://evil.example"}}})
	require.Error(t, err)
	require.Equal(t, http.StatusForbidden, response.StatusCode)
}

func TestFlash(t *testing.T) {
	t.Parallel()
	v := newVisitor(t, Flash(pgsession.InMemory()))
	v.send(t, "GET /", nil, http.StatusOK, `message ""`)
	require.Empty(t, v.jar.Cookies(v.address))
	v.send(t, "POST /save", nil, http.StatusSeeOther, "/")
	v.send(t, "GET /", nil, http.StatusOK, `message "Saved."`)
	v.send(t, "GET /", nil, http.StatusOK, `message ""`)
}

func TestSudo(t *testing.T) {
	t.Parallel()
	clock := pgsession.NewManualClock(time.Now())
	v := newVisitor(t, Sudo(pgsession.InMemory(pgsession.WithClock(clock)), isSecret, setNoPassword, clock.Now))
	v.send(t, "GET /account/delete?all", nil, http.StatusSeeOther, "/login?next=%2Faccount%2Fdelete%3Fall")
	v.send(t, "POST /login?next=%2Faccount%2Fdelete%3Fall", form("user", "ann"), http.StatusSeeOther, "/account/delete?all")
	v.send(t, "GET /account/delete", nil, http.StatusOK, "Really?")
	clock.Advance(15 * time.Minute)
	v.send(t, "GET /account/delete", nil, http.StatusSeeOther, "/confirm?next=%2Faccount%2Fdelete")
	v.send(t, "POST /account/delete", nil, http.StatusForbidden, "password again")
	stolen := v.copy(t)
	v.send(t, "POST /confirm", form("password", "guess"), http.StatusForbidden, "wrong")
	v.send(t, "GET /account/delete", nil, http.StatusSeeOther, "/confirm")
	v.send(t, "POST /confirm", form("password", "secret of ann"), http.StatusSeeOther, "/")
	v.send(t, "POST /account/delete", nil, http.StatusOK, "Really?")
	stolen.send(t, "POST /account/delete", nil, http.StatusUnauthorized, "log in")
}

func TestSudo_Password(t *testing.T) {
	t.Parallel()
	app := Sudo(pgsession.InMemory(), isSecret, setNoPassword, time.Now)
	v, other := newVisitor(t, app), newVisitor(t, app)
	v.send(t, "POST /login", form("user", "ann"), http.StatusSeeOther, "/")
	other.send(t, "POST /login", form("user", "ann"), http.StatusSeeOther, "/")
	stolen := v.copy(t)
	v.send(t, "POST /password", form("new", "secret of ann"), http.StatusSeeOther, "/")
	v.send(t, "GET /account/delete", nil, http.StatusOK, "Really?")
	other.send(t, "GET /account/delete", nil, http.StatusSeeOther, "/login")
	stolen.send(t, "GET /account/delete", nil, http.StatusSeeOther, "/login")
}

func setNoPassword(string, string) error { return nil }

func TestGateway(t *testing.T) {
	t.Parallel()
	sessions := httpsession.New[struct{}](pgsession.InMemory())
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Set-Cookie", "__Host-session=planted; Path=/; Secure")
		w.Header().Add("Set-Cookie", "color=blue")
		_ = json.NewEncoder(w).Encode([]string{r.Header.Get("X-User"), r.Header.Get("X_User"), r.Header.Get("Cookie")})
	}))
	t.Cleanup(service.Close)
	target, err := url.Parse(service.URL)
	require.NoError(t, err)
	address, client := serve(t, sessions, Gateway(sessions, target))
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	require.NoError(t, err)
	request.Header.Set("X-User", "eve")
	request.Header.Set("X_User", "eve")
	request.Header.Set("Cookie", "theme=dark; session=x; __Secure-session-guest=y")
	response, err := client.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	var seen []string
	require.NoError(t, json.NewDecoder(response.Body).Decode(&seen))
	require.Equal(t, []string{"ann", "", "theme=dark; session=x"}, seen, "plain \"session\" is none of the Manager's names over TLS")
	require.Equal(t, []string{"color=blue"}, response.Header.Values("Set-Cookie"))
	client.Jar = nil
	response, err = client.Get(address)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusUnauthorized, response.StatusCode)
}

func TestRefreshTokens(t *testing.T) {
	t.Parallel()
	tokens := RefreshTokens{pgsession.InMemory()}
	first, err := tokens.Issue(t.Context(), "ann")
	require.NoError(t, err)
	other, err := tokens.Issue(t.Context(), "ann")
	require.NoError(t, err)
	user, second, err := tokens.Rotate(t.Context(), first)
	require.NoError(t, err)
	require.Equal(t, "ann", user)
	user, third, err := tokens.Rotate(t.Context(), second)
	require.NoError(t, err)
	require.Equal(t, "ann", user)

	user, next, err := tokens.Rotate(t.Context(), first)
	require.ErrorIs(t, err, ErrReused)
	require.Empty(t, user+next)
	_, _, err = tokens.Rotate(t.Context(), third)
	require.ErrorIs(t, err, pgsession.ErrRevoked, "the family is over")
	_, _, err = tokens.Rotate(t.Context(), other)
	require.NoError(t, err, "that of another device is not")
	for _, text := range []string{"", ".", "x.y", strings.Repeat("A", 43) + ".y"} {
		_, _, err = tokens.Rotate(t.Context(), text)
		require.ErrorIs(t, err, pgsession.ErrNotFound, text)
	}
}

// Of two uses at once of one token, not both get a next one.
func TestRefreshTokens_AtOnce(t *testing.T) {
	t.Parallel()
	tokens := RefreshTokens{pgsession.InMemory()}
	token, err := tokens.Issue(t.Context(), "ann")
	require.NoError(t, err)
	errs := make(chan error, 2)
	for range cap(errs) {
		go func() {
			_, _, err := tokens.Rotate(context.WithoutCancel(t.Context()), token)
			errs <- err
		}()
	}
	first, second := <-errs, <-errs
	require.True(t, first != nil || second != nil)
}
