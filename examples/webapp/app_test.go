package main

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
)

func TestNotes_GuestHasNoSessionBeforeTheFirst(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	guest := s.newBrowser(t, firefox)
	for _, path := range []string{"/", "/login", "/devices", "/nowhere"} {
		require.Empty(t, guest.get(t, path).Header.Values("Set-Cookie"))
	}
	require.Empty(t, guest.post(t, "/notes/remove", "id", "none").Header.Values("Set-Cookie"))
	require.Contains(t, guest.get(t, "/").body, "nothing about you is stored")
	require.Zero(t, s.liveSessions(t))

	require.Contains(t, guest.post(t, "/notes", "text", "milk & honey").body, "milk &amp; honey")
	page := guest.post(t, "/notes", "text", "bread").body
	require.Equal(t, 1, s.liveSessions(t))
	found := regexp.MustCompile(`id="note-(\w+)">milk`).FindStringSubmatch(page)
	require.NotNil(t, found)
	page = guest.post(t, "/notes/remove", "id", found[1]).body
	require.NotContains(t, page, "milk")
	require.Contains(t, page, "bread")
}

func TestNotes_Refused(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		text    string
		status  int
		problem string
	}{
		"empty":    {" ", http.StatusUnprocessableEntity, "Write something first."},
		"too long": {strings.Repeat("ä", maxNoteLength+1), http.StatusUnprocessableEntity, "That is too long for a note."},
		"no room":  {"one more", http.StatusUnprocessableEntity, "There is no room for more notes."},
		"huge":     {strings.Repeat("a", maxBodySize+1), http.StatusRequestEntityTooLarge, "That is more than can be kept here."},
	}
	s := newSite(t)
	guest := s.newBrowser(t, firefox)
	for range maxNotes {
		require.Equal(t, http.StatusOK, guest.post(t, "/notes", "text", strings.Repeat("<", maxNoteLength)).StatusCode)
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			answer := guest.post(t, "/notes", "text", test.text)
			require.Equal(t, test.status, answer.StatusCode)
			require.Contains(t, answer.body, test.problem)
			require.Contains(t, answer.body, `<nav `)
		})
	}
}

func TestNotes_NoneIsLostInARace(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	guest := s.newBrowser(t, firefox)
	guest.post(t, "/notes", "text", "begin")
	var group sync.WaitGroup
	for range 10 {
		group.Go(func() { guest.post(t, "/notes", "text", "at once") })
	}
	group.Wait()
	require.Equal(t, 10, strings.Count(guest.get(t, "/").body, ">at once<"))
}

func TestLogIn_GuestsNotesComeAlong(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.newBrowser(t, firefox)
	b.post(t, "/notes", "text", "from before")
	require.Contains(t, b.get(t, "/login").body, "Your note comes along.")
	require.Contains(t, b.logIn(t, "alice", alicesPassword).body, "from before")
	require.Equal(t, 1, s.liveSessions(t))
	require.NotContains(t, b.get(t, "/").body, "Welcome", "said once")
	require.Equal(t, "/", b.get(t, "/login").path(), "nothing to log in to")
	require.NotContains(t, b.logIn(t, "bob", bobsPassword).body, "from before", "they are alice's by now")
	require.Equal(t, 1, s.liveSessions(t))
}

func TestLogIn_Refused(t *testing.T) {
	t.Parallel()
	cases := map[string]struct{ name, password string }{
		"wrong password":         {"alice", bobsPassword},
		"no such user":           {"carol", alicesPassword},
		"no such user, no hash":  {"carol", "opens nothing"},
		"no name":                {"", "opens nothing"},
		"user names are exact":   {"Alice", alicesPassword},
		"password over 72 bytes": {"alice", strings.Repeat("a", 100)},
	}
	s := newSite(t)
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			answer := s.newBrowser(t, firefox).post(t, "/login", "name", test.name, "password", test.password, "next", "/devices")
			require.Equal(t, http.StatusUnauthorized, answer.StatusCode)
			require.Contains(t, answer.body, "This name and password do not go together.")
			require.Contains(t, answer.body, `name="next" value="/devices"`)
			require.Empty(t, answer.Header.Values("Set-Cookie"))
		})
	}
	require.Zero(t, s.liveSessions(t))
}

func TestLogIn_LeadsToThePageThatWasWanted(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.newBrowser(t, firefox)
	answer := b.get(t, "/devices")
	require.Equal(t, "/login?next=%2Fdevices", answer.path())
	require.Contains(t, answer.body, `name="next" value="/devices"`)
	require.Equal(t, "/devices", b.logIn(t, "alice", alicesPassword, "next", "/devices").path())
	require.Equal(t, "/", b.logIn(t, "alice", alicesPassword, "next", "https://evil.example").path())
}

func TestLogOut_SaysWhereTheNotesAre(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		notes int
		want  string
	}{
		"none": {0, "You are logged out.</p>"},
		"one":  {1, "Your note was kept in that session, and was deleted with it."},
		"two":  {2, "Your 2 notes were kept in that session, and were deleted with it."},
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			b := s.newBrowser(t, firefox)
			b.logIn(t, "alice", alicesPassword)
			for range test.notes {
				require.Contains(t, b.post(t, "/notes", "text", "short-lived").body, "are deleted when you log out")
			}
			answer := b.post(t, "/logout")
			require.Contains(t, answer.body, test.want)
			require.NotContains(t, answer.body, "short-lived")
			found, err := s.store.FindByUser(t.Context(), "alice", 0)
			require.NoError(t, err)
			require.Empty(t, found)
			require.NotContains(t, b.get(t, "/").body, "You are logged out.")
		})
	}
}

func TestDevices_LogOutOne(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	laptop, phone := s.newBrowser(t, firefox), s.newBrowser(t, safari)
	phone.logIn(t, "alice", alicesPassword)
	phones := s.handle(t, "alice")
	s.clock.Advance(time.Hour)
	laptop.logIn(t, "alice", alicesPassword)

	page := laptop.get(t, "/devices").body
	require.Regexp(t, `(?s)Firefox on Linux</span> <span class="badge">This device.*Safari on iPhone`, page)
	require.Equal(t, 1, strings.Count(page, "This device"))
	require.Contains(t, laptop.post(t, "/devices/log-out", "handle", phones).body, "The device is logged out.")
	for _, handle := range []string{phones, "none"} {
		require.Contains(t, laptop.post(t, "/devices/log-out", "handle", handle).body, "That device is not logged in any more.")
	}
	answer := phone.get(t, "/devices")
	require.Equal(t, "/login?next=%2Fdevices", answer.path())
	require.Contains(t, answer.body, `You were logged out from elsewhere, or by a log-in on more than 3 devices. Please <a href="/login">log in again`)
	require.Equal(t, "/", phone.logIn(t, "alice", alicesPassword).path())
}

func TestDevices_LastSeen(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.newBrowser(t, firefox)
	b.logIn(t, "alice", alicesPassword)
	lastSeen := func() time.Time {
		found, err := s.store.FindByUser(t.Context(), "alice", 0)
		require.NoError(t, err)
		kept, err := pgsession.Decode[values](found[0])
		require.NoError(t, err)
		return kept.LastSeen
	}
	loggedIn := s.clock.Now()
	s.clock.Advance(lastSeenInterval - time.Second)
	b.get(t, "/")
	require.True(t, lastSeen().Equal(loggedIn), "no write so soon")
	s.clock.Advance(time.Second)
	require.Contains(t, b.get(t, "/devices").body, s.clock.Now().UTC().Format(`"2006-01-02T15:04:05Z"`))
	require.True(t, lastSeen().Equal(s.clock.Now()))
}

func TestDevices_OneThatCannotBeReadCanBeLoggedOut(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.newBrowser(t, firefox)
	b.logIn(t, "alice", alicesPassword)
	unreadable, err := s.store.Create(t.Context(), pgsession.Data{UserID: "alice", Values: "of an earlier release"}, time.Hour)
	require.NoError(t, err)
	require.Contains(t, b.get(t, "/devices").body, "A session that cannot be read")
	require.Contains(t, b.post(t, "/devices/log-out", "handle", unreadable.Handle.String()).body, "The device is logged out.")
}

func TestDevices_OfOthersAreOutOfReach(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	alice, bob, guest := s.newBrowser(t, firefox), s.newBrowser(t, safari), s.newBrowser(t, firefox)
	alice.logIn(t, "alice", alicesPassword)
	bob.logIn(t, "bob", bobsPassword)
	handle := s.handle(t, "alice")
	require.NotContains(t, bob.get(t, "/devices").body, handle)
	require.Contains(t, bob.post(t, "/devices/log-out", "handle", handle, "user", "alice").body, "That device is not logged in any more.")
	require.Contains(t, bob.post(t, "/devices/log-out-others", "user", "alice").body, "0 devices are logged out.")
	for path, who := range map[string]*browser{
		"/admin/sessions": bob, "/devices/log-out": guest, "/devices/log-out-others": guest, "/stay": guest,
	} {
		want := map[*browser]int{bob: http.StatusForbidden, guest: http.StatusUnauthorized}[who]
		answer := who.post(t, path, "action", "end", "handle", handle, "user", "alice")
		require.Equal(t, want, answer.StatusCode, path)
		require.Contains(t, answer.body, "<nav ")
	}
	require.Equal(t, http.StatusForbidden, bob.get(t, "/admin/sessions").StatusCode)
	require.NotContains(t, bob.get(t, "/").body, `href="/admin/sessions"`)
	require.Equal(t, "/login?next=%2Fadmin%2Fsessions", guest.get(t, "/admin/sessions").path())
	require.Equal(t, handle, s.handle(t, "alice"))
}

func TestDevices_LogOutEverywhereElse(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	here, there, elsewhere, bob := s.newBrowser(t, firefox), s.newBrowser(t, safari), s.newBrowser(t, ""), s.newBrowser(t, firefox)
	for _, b := range []*browser{here, there, elsewhere} {
		b.logIn(t, "alice", alicesPassword)
	}
	bob.logIn(t, "bob", bobsPassword)
	require.Contains(t, here.post(t, "/devices/log-out-others").body, "2 devices are logged out.")
	require.Contains(t, here.get(t, "/devices").body, "You are not logged in anywhere else.")
	for _, b := range []*browser{there, elsewhere} {
		require.Equal(t, "/login?next=%2Fdevices", b.get(t, "/devices").path())
	}
	require.Equal(t, "/devices", bob.get(t, "/devices").path())
}

func TestAdmin(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var log lockedBuffer
	s.serve(NewApp(t.Context(), s.store, testAccounts(), s.clock.Now, slog.New(slog.NewTextHandler(&log, nil))))
	ada, laptop, phone := s.newBrowser(t, firefox), s.newBrowser(t, firefox), s.newBrowser(t, safari)
	ada.logIn(t, "ada", adasPassword)
	phone.logIn(t, "alice", alicesPassword)
	phones := s.handle(t, "alice")
	laptop.logIn(t, "alice", alicesPassword)
	require.Contains(t, ada.get(t, "/").body, `href="/admin/sessions"`)
	require.Equal(t, http.StatusOK, ada.get(t, "/admin/sessions").StatusCode)
	page := ada.post(t, "/admin/sessions", "action", "list", "user", "alice").body
	require.Contains(t, page, "Safari on iPhone")
	require.Contains(t, page, "Firefox on Linux")

	page = ada.post(t, "/admin/sessions", "action", "end others", "user", "alice", "handle", phones).body
	require.Contains(t, page, "Sessions ended: 1.")
	require.NotContains(t, page, "Firefox on Linux")
	require.Equal(t, "/login?next=%2Fdevices", laptop.get(t, "/devices").path())
	require.Equal(t, "/devices", phone.get(t, "/devices").path())
	require.Contains(t, log.String(), `msg="webapp: audit" operator=ada action="end others" user=alice session=`+phones+" ended=1 failed=false")
}

func TestDevices_ThreeAtMost(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var browsers []*browser
	for range maxDevices + 1 {
		b := s.newBrowser(t, firefox)
		b.logIn(t, "alice", alicesPassword)
		browsers = append(browsers, b)
		s.clock.Advance(time.Minute)
	}
	require.Equal(t, maxDevices, s.liveSessions(t))
	oldest := browsers[0].get(t, "/")
	require.Contains(t, oldest.body, `or by a log-in on more than 3 devices. Please <a href="/login">log in again`)
	require.NotContains(t, oldest.body, "live.js")
	require.NotContains(t, browsers[1].get(t, "/").body, "log in again")
}

func TestStream(t *testing.T) {
	t.Parallel()
	cases := map[string]func(s *site, b *browser){
		"logged out from elsewhere": func(s *site, _ *browser) {
			_, err := s.store.DeleteByUser(t.Context(), "alice")
			require.NoError(t, err)
		},
		"logged out in another window": func(_ *site, b *browser) { b.post(t, "/logout") },
		"expired":                      func(s *site, _ *browser) { s.clock.Advance(13 * time.Hour) },
	}
	for name, end := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			b := s.newBrowser(t, firefox)
			b.logIn(t, "alice", alicesPassword)
			before, err := s.store.FindByUser(t.Context(), "alice", 0)
			require.NoError(t, err)
			s.clock.Advance(6 * time.Hour)
			response, err := b.client.Get(b.URL + "/events")
			require.NoError(t, err)
			defer response.Body.Close()
			lines := bufio.NewScanner(response.Body)
			next := func() (event string) {
				for range 3 {
					require.True(t, lines.Scan(), lines.Err())
					event += lines.Text() + " "
				}
				return event
			}
			require.Equal(t, "event: left data: 21600  ", next())
			after, err := s.store.FindByUser(t.Context(), "alice", 0)
			require.NoError(t, err)
			require.Equal(t, before[0].ExpiresAt, after[0].ExpiresAt, "the stream prolongs nothing")
			end(s, b)
			ended := time.Now()
			require.Equal(t, "event: ended data:   ", next())
			require.Less(t, time.Since(ended), soon)
			require.False(t, lines.Scan())
		})
	}
}

func TestStream_EndsWithTheServer(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ctx, stop := context.WithCancel(t.Context())
	s.serve(NewApp(ctx, s.store, testAccounts(), s.clock.Now, silent))
	b := s.newBrowser(t, firefox)
	b.logIn(t, "alice", alicesPassword)
	response, err := b.client.Get(b.URL + "/events")
	require.NoError(t, err)
	defer response.Body.Close()
	stop()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.NotContains(t, string(body), "ended")
}

func TestEnded(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.newBrowser(t, firefox)
	require.Contains(t, b.get(t, "/ended").body, "You have logged out in another window.")
	b.logIn(t, "alice", alicesPassword)
	require.Equal(t, "/", b.get(t, "/ended").path(), "a new id")
	s.clock.Advance(10 * time.Hour)
	require.Equal(t, http.StatusNoContent, b.post(t, "/stay").StatusCode)
	s.clock.Advance(10 * time.Hour)
	require.Equal(t, "/devices", b.get(t, "/devices").path())
	s.clock.Advance(13 * time.Hour)
	require.Contains(t, b.get(t, "/ended").body, "Your session has ended. Please")
	require.Contains(t, b.get(t, "/ended").body, "Notes of that session were deleted with it.")
}

func TestSession_Expires(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for name, test := range map[string]struct {
		remember string
		idle     time.Duration // after which the session is alive
		end      time.Duration
	}{
		"not remembered": {"", 11 * time.Hour, absoluteLifetime},
		"remembered":     {"on", 29 * day, 90 * day},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			b := s.newBrowser(t, firefox)
			b.logIn(t, "alice", alicesPassword, "remember", test.remember)
			for age := test.idle; age < test.end; age += test.idle {
				s.clock.Advance(test.idle)
				require.Equal(t, "/devices", b.get(t, "/devices").path())
			}
			s.clock.Advance(test.idle)
			require.Equal(t, "/login?next=%2Fdevices", b.get(t, "/devices").path())
		})
	}
}

func TestSession_EndedIsToldToUsersAlone(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	guest, alice := s.newBrowser(t, firefox), s.newBrowser(t, safari)
	guest.post(t, "/notes", "text", "forgotten")
	alice.logIn(t, "alice", alicesPassword)
	s.clock.Advance(24 * time.Hour)
	for _, path := range []string{"/", "/login", "/nowhere"} {
		require.NotContains(t, guest.get(t, path).body, "log in again", "a guest never logged in")
		require.Contains(t, alice.get(t, path).body, `Your session has ended. Please <a href="/login">log in again`)
	}
	require.NotContains(t, guest.post(t, "/notes", "text", "another").body, "ended")

	require.Contains(t, alice.get(t, "/").body, "The notes of that session were deleted with it.")
	answer := alice.post(t, "/notes", "text", "another")
	require.Contains(t, answer.body, "Your earlier session had ended.")
	require.Contains(t, answer.body, "another")
	require.NotContains(t, alice.get(t, "/").body, "ended")
}

func TestOutage_LogsNobodyOut(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	app := *s.app.Load()
	b := s.newBrowser(t, firefox)
	b.logIn(t, "alice", alicesPassword)
	b.post(t, "/notes", "text", "still here")
	s.loseDatabase(t)
	for _, request := range []string{
		"GET /", "GET /login", "GET /devices", "GET /healthz", "POST /notes", "POST /notes/remove", "POST /login", "POST /logout",
		"POST /devices/log-out", "POST /devices/log-out-others", "GET /events", "GET /ended",
	} {
		method, path, _ := strings.Cut(request, " ")
		answer := b.do(t, method, path, url.Values{"text": {"x"}})
		require.Equal(t, http.StatusServiceUnavailable, answer.StatusCode, request)
		require.Empty(t, answer.Header.Values("Set-Cookie"))
		require.Equal(t, "no-store", answer.Header.Get("Cache-Control"))
		if path != "/healthz" {
			require.Contains(t, answer.body, "You have not been logged out")
			require.Contains(t, answer.body, "<nav ")
			require.NotContains(t, answer.body, `href="/login"`)
			require.Equal(t, "5", answer.Header.Get("Retry-After"))
		}
	}
	guest := s.newBrowser(t, safari)
	require.Equal(t, http.StatusOK, guest.get(t, "/").StatusCode, "without a cookie nothing is asked")
	require.Equal(t, http.StatusServiceUnavailable, guest.post(t, "/notes", "text", "x").StatusCode)

	s.serve(app)
	require.Contains(t, b.get(t, "/").body, "still here")
	require.Contains(t, b.get(t, "/").body, "You are alice")
	require.JSONEq(t, `{"status":"healthy"}`, b.get(t, "/healthz").body)
}

func TestRequests_FromOtherSitesAreRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.newBrowser(t, firefox)
	b.logIn(t, "alice", alicesPassword)
	for name, headers := range map[string][]string{
		"by Sec-Fetch-Site": {"Sec-Fetch-Site", "cross-site"},
		"by Origin":         {"Origin", "https://example.com"},
	} {
		t.Run(name, func(t *testing.T) {
			answer := b.do(t, http.MethodPost, "/logout", nil, headers...)
			require.Equal(t, http.StatusForbidden, answer.StatusCode)
			require.Contains(t, answer.body, "This form was sent from another site.")
		})
	}
	require.Contains(t, b.get(t, "/").body, "You are alice")
}

func TestRequests_Malformed(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for path, status := range map[string]int{"/?%zz": http.StatusBadRequest, "/nowhere": http.StatusNotFound, "/notes": http.StatusNotFound} {
		answer := s.newBrowser(t, firefox).get(t, path)
		require.Equal(t, status, answer.StatusCode)
		require.Contains(t, answer.body, "<nav ")
	}
	require.Equal(t, http.StatusNotFound, s.newBrowser(t, firefox).get(t, "/static/nothing").StatusCode)
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.newBrowser(t, firefox)
	stylesheet := regexp.MustCompile(`/static/style\.css\?\w+`).FindString(b.get(t, "/").body)
	require.NotEmpty(t, stylesheet)
	for path, caching := range map[string]string{
		"/": "no-store", "/login": "no-store", "/devices": "no-store", "/nowhere": "no-store", "/healthz": "no-store",
		stylesheet: "public, max-age=86400", "/static/icon.svg": "public, max-age=86400",
	} {
		header := b.get(t, path).Header
		require.Equal(t, caching, header.Get("Cache-Control"), path)
		require.Contains(t, header.Get("Content-Security-Policy"), "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'")
		require.Contains(t, header.Get("Content-Security-Policy"), "frame-ancestors 'none'")
		require.Equal(t, "same-origin", header.Get("Referrer-Policy"))
		require.Equal(t, "nosniff", header.Get("X-Content-Type-Options"))
		require.Empty(t, header.Get("Strict-Transport-Security"), "not by plain HTTP")
	}
	require.Equal(t, "text/css; charset=utf-8", b.get(t, stylesheet).Header.Get("Content-Type"))
	require.NotEmpty(t, b.do(t, http.MethodGet, "/", nil, "X-Forwarded-Proto", "https").Header.Get("Strict-Transport-Security"))
}

func TestTLS(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	server := httptest.NewTLSServer(*s.app.Load())
	t.Cleanup(server.Close)
	client := server.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	response, err := client.PostForm(server.URL+"/login", url.Values{"name": {"alice"}, "password": {alicesPassword}})
	require.NoError(t, err)
	response.Body.Close()
	require.Regexp(t, `^__Host-session=[\w-]{43}; Path=/; HttpOnly; Secure; SameSite=Lax$`, response.Header.Get("Set-Cookie"))
	require.Equal(t, "max-age=31536000", response.Header.Get("Strict-Transport-Security"))
}

func TestBrowserName(t *testing.T) {
	t.Parallel()
	for userAgent, want := range map[string]string{
		firefox: "Firefox on Linux",
		safari:  "Safari on iPhone",
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Safari/537.36 Edg/138.0.0.0":     "Edge on Windows",
		"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Safari/537.36":             "Chrome on Mac",
		"Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Mobile Safari/537.36":                   "Chrome on Android",
		"Mozilla/5.0 (iPad; CPU OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/138.0.0.0 Mobile/15E148 Safari/604.1": "Chrome on iPad",
		"curl/8.14.1": "curl",
		"":            "Unknown browser",
	} {
		require.Equal(t, want, browserName(userAgent), userAgent)
	}
}

func TestAccounts_UnknownNameTakesAsLong(t *testing.T) {
	t.Parallel()
	accounts := testAccounts()
	shortest := func(name string) time.Duration { // of several, since the machine may stand still in one
		shortest := time.Hour
		for range 3 {
			started := time.Now()
			require.False(t, accounts.accepts(name, "wrong"))
			shortest = min(shortest, time.Since(started))
		}
		return shortest
	}
	// Without the work it takes less than a thousandth.
	require.Greater(t, shortest("carol"), shortest("alice")/10)
}
