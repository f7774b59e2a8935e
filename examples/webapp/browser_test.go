//go:build browser

package main

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	pagedomain "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const screenshots = "screenshots"

func init() { streamInterval = 100 * time.Millisecond }

// A window is a Chromium of its own, with its own cookies.
type window struct {
	context.Context
	site string
}

func openWindow(t *testing.T, site string) *window {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(findChromium(t)), chromedp.UserDataDir(t.TempDir()), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-component-update", true), chromedp.WSURLReadTimeout(2*time.Minute))
	allocator, cancel := chromedp.NewExecAllocator(context.WithoutCancel(t.Context()), options...)
	t.Cleanup(cancel)
	browser, cancel := chromedp.NewContext(allocator)
	t.Cleanup(cancel)
	t.Cleanup(func() { _ = chromedp.Cancel(browser) }) // waits for Chromium's end, so that its folder can be removed
	require.NoError(t, chromedp.Do(browser))
	ctx, cancel := context.WithTimeout(browser, 5*time.Minute)
	t.Cleanup(cancel)
	return &window{ctx, site}
}

// leaves waits until the page has left by itself, since its session ended.
func (w *window) leaves(t *testing.T) {
	t.Helper()
	w.waitFor(t, `document.title.startsWith("You are logged out")`)
}

func findChromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	require.FailNow(t, "the browser tests need chromium, chromium-browser or google-chrome in the PATH: apt-get install chromium")
	return ""
}

func (w *window) do(t *testing.T, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	require.NoError(t, chromedp.Do(w, steps...))
}

func (w *window) open(t *testing.T, path string) {
	t.Helper()
	w.do(t, chromedp.Navigate(w.site+path))
}

func (w *window) enter(t *testing.T, field, text string) {
	t.Helper()
	w.do(t, chromedp.SendKeys(chromedp.CSS(field), text))
}

// press clicks, and waits for the page that follows.
func (w *window) press(t *testing.T, button string) {
	t.Helper()
	_, err := chromedp.RunResponse(w, chromedp.Click(chromedp.CSS(button)))
	require.NoError(t, err)
}

func (w *window) logIn(t *testing.T, name, password string) {
	t.Helper()
	w.open(t, "/login")
	w.fillLogIn(t, name, password)
}

func (w *window) fillLogIn(t *testing.T, name, password string) {
	t.Helper()
	w.enter(t, "#name", name)
	w.enter(t, "#password", password)
	w.press(t, "main form button")
	require.Contains(t, w.text(t, "main"), "Welcome, "+name)
}

func (w *window) addNote(t *testing.T, text string) {
	t.Helper()
	w.enter(t, "#text", text)
	w.press(t, ".add button")
}

func (w *window) text(t *testing.T, element string) string {
	t.Helper()
	text, err := chromedp.Run(w, chromedp.Text(chromedp.CSS(element)))
	require.NoError(t, err)
	return text
}

// photograph writes pictures of the page: light, dark, and as narrow as a small telephone. In each
// form axe looks for what keeps people from using it.
func (w *window) photograph(t *testing.T, name string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(screenshots, 0o755))
	for _, picture := range []struct {
		kind, scheme string
		width        int64
	}{{"light", "light", 1000}, {"dark", "dark", 1000}, {"narrow", "light", 340}} {
		_, err := chromedp.Call(w, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: picture.scheme}},
		})
		require.NoError(t, err)
		w.do(t, chromedp.EmulateViewport(picture.width, 760))
		scrolls, err := chromedp.Run(w, chromedp.Evaluate[bool](`document.documentElement.scrollWidth > document.documentElement.clientWidth`))
		require.NoError(t, err)
		require.False(t, scrolls, "%s scrolls sideways at a width of %d", name, picture.width)
		w.requireAccessible(t, name+"-"+picture.kind)
		image, err := chromedp.Run(w, chromedp.FullScreenshot(100))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(screenshots, name+"-"+picture.kind+".png"), image, 0o644))
	}
	w.do(t, chromedp.EmulateReset())
}

// axeCore is the script of https://github.com/dequelabs/axe-core.
var axeCore = sync.OnceValues(func() (string, error) {
	folder, err := os.MkdirTemp("", "axe-core")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(folder)
	for _, command := range []string{
		"for pause in 5 30 0; do npm pack --silent axe-core@4.14.1 && break; sleep $pause; done", // the network may fail once
		"tar -xzf axe-core-4.14.1.tgz package/axe.min.js",
	} {
		run := exec.Command("sh", "-c", command)
		run.Dir = folder
		if output, err := run.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s: %w: %s", command, err, output)
		}
	}
	script, err := os.ReadFile(filepath.Join(folder, "package", "axe.min.js"))
	return string(script), err
})

func (w *window) requireAccessible(t *testing.T, name string) {
	t.Helper()
	script, err := axeCore()
	require.NoError(t, err, "the browser tests need npm")
	found, err := chromedp.Run(w, chromedp.Evaluate[string](script+`;
		axe.run(document, {resultTypes: ["violations"]}).then(({violations}) => violations
			.filter(({impact}) => impact === "serious" || impact === "critical")
			.map(({id, nodes}) => id + ": " + nodes.map(({html}) => html).join(" "))
			.join("\n"))`, chromedp.EvalAwaitPromise))
	require.NoError(t, err, name)
	require.Empty(t, found, name)
}

// waitFor waits until an expression is true in the page, or in the one that follows it.
func (w *window) waitFor(t *testing.T, expression string) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		isTrue, err := chromedp.Run(w, chromedp.Evaluate[bool](expression))
		require.NoError(c, err)
		require.True(c, isTrue)
	}, 30*time.Second, 20*time.Millisecond, expression)
}

// script runs JavaScript in the page, and returns what its promise gives. The page's own policy
// forbids fetch.
func (w *window) script(t *testing.T, expression string) string {
	t.Helper()
	_, err := chromedp.Call(w, pagedomain.SetBypassCSP, pagedomain.SetBypassCSPParams{Enabled: true})
	require.NoError(t, err)
	w.open(t, "/")
	result, err := chromedp.Run(w, chromedp.Evaluate[string](expression, chromedp.EvalAwaitPromise))
	require.NoError(t, err)
	return result
}

// scriptedRequests are the functions that scripts use.
const scriptedRequests = `
	const send = async (path, fields) => (await fetch(path, fields && {method: "POST", body: new URLSearchParams(fields)})).text();
	const logIn = () => send("/login", {name: "alice", password: "white-rabbit-42"});
	const user = page => (/You are (\w+)/.exec(page) || ["", "?"])[1];
`

func TestBrowser_GuestsNotesComeAlong(t *testing.T) {
	s := newSite(t)
	w := openWindow(t, s.URL)
	w.open(t, "/")
	w.photograph(t, "notes-empty")
	w.addNote(t, "Return the teapot to the Hatter")
	w.addNote(t, "Ask the Caterpillar which side of the mushroom makes one taller, and which side makes one smaller")
	w.addNote(t, "Be late")
	w.photograph(t, "notes-guest")
	w.open(t, "/login")
	w.photograph(t, "login")
	w.enter(t, "#name", "alice")
	w.enter(t, "#password", "guess")
	w.press(t, "main form button")
	require.Contains(t, w.text(t, "body"), "do not go together")
	w.photograph(t, "login-refused")
	w.logIn(t, "alice", alicesPassword)
	require.Contains(t, w.text(t, "body"), "Return the teapot to the Hatter")
	w.photograph(t, "notes-user")
	w.press(t, `nav form button`)
	require.Contains(t, w.text(t, "body"), "You are logged out. Your 3 notes were kept in that session, and were deleted with it.")
	require.NotContains(t, w.text(t, "body"), "teapot")
	w.photograph(t, "logged-out")
}

func TestBrowser_LogOutOneFromTheOther(t *testing.T) {
	s := newSite(t)
	here, there := openWindow(t, s.URL), openWindow(t, s.URL)
	here.open(t, "/devices")
	require.Equal(t, "Log in", here.text(t, "h1"))
	here.fillLogIn(t, "alice", alicesPassword)
	require.Equal(t, "Your devices", here.text(t, "h1"))
	here.photograph(t, "devices-one")
	there.open(t, "/login")
	there.do(t, chromedp.Click(chromedp.CSS("input[name=remember]")))
	there.fillLogIn(t, "alice", alicesPassword)
	here.open(t, "/devices")
	here.photograph(t, "devices-two")
	here.press(t, ".devices button")
	require.Contains(t, here.text(t, "body"), "The device is logged out.")
	here.photograph(t, "devices-logged-out")

	there.leaves(t)
	there.open(t, "/")
	require.Equal(t, "Notes", there.text(t, "h1"), "a public page")
	require.Contains(t, there.text(t, "body"), "You were logged out from elsewhere")
	there.photograph(t, "notes-ended")
	there.open(t, "/devices")
	require.Equal(t, "Log in", there.text(t, "h1"))
	there.photograph(t, "login-ended")
	here.open(t, "/devices")
	require.Equal(t, "Your devices", here.text(t, "h1"))
}

func TestBrowser_LogOutEverywhereElse(t *testing.T) {
	s := newSite(t)
	here, there := openWindow(t, s.URL), openWindow(t, s.URL)
	here.logIn(t, "alice", alicesPassword)
	there.logIn(t, "alice", alicesPassword)
	here.open(t, "/devices")
	here.press(t, ".devices + form button")
	require.Contains(t, here.text(t, "body"), "One device is logged out.")
	there.leaves(t)
	there.open(t, "/devices")
	require.Equal(t, "Log in", there.text(t, "h1"))
	here.open(t, "/")
	require.Contains(t, here.text(t, "body"), "You are alice")
}

// A page of the session that ends leaves by itself, and says why.
func TestBrowser_RevokedDevicesPageCloses(t *testing.T) {
	s := newSite(t)
	here, there := openWindow(t, s.URL), openWindow(t, s.URL)
	there.logIn(t, "alice", alicesPassword)
	there.addNote(t, "private")
	here.logIn(t, "alice", alicesPassword)
	here.open(t, "/devices")
	here.press(t, ".devices button")
	ended := time.Now()
	there.leaves(t)
	require.Less(t, time.Since(ended), soon)
	require.Contains(t, there.text(t, "main"), "You were logged out from elsewhere, or by a log-in on more than 3 devices. Please log in again.")
	require.NotContains(t, there.text(t, "body"), "private")
	there.photograph(t, "ended")
	require.Contains(t, here.text(t, "body"), "The device is logged out.")
}

func TestBrowser_WarnsBeforeTheSessionEnds(t *testing.T) {
	s := newSite(t)
	w := openWindow(t, s.URL)
	w.logIn(t, "alice", alicesPassword)
	const isHidden = `document.getElementById("warning").hidden`
	w.waitFor(t, isHidden)
	s.clock.Advance(12*time.Hour - time.Minute)
	w.waitFor(t, "!"+isHidden)
	w.photograph(t, "warning")
	w.do(t, chromedp.Click(chromedp.CSS("#warning button")))
	w.waitFor(t, isHidden)
	s.clock.Advance(11 * time.Hour)
	w.open(t, "/devices")
	require.Equal(t, "Your devices", w.text(t, "h1"))
	s.clock.Advance(13 * time.Hour)
	w.waitFor(t, `document.title.startsWith("You are logged out")`)
	require.Contains(t, w.text(t, "main"), "Your session has ended. Please log in again.")
}

func TestBrowser_Admin(t *testing.T) {
	s := newSite(t)
	ada := openWindow(t, s.URL)
	for _, userAgent := range []string{firefox, safari, ""} {
		s.newBrowser(t, userAgent).logIn(t, "bob", bobsPassword)
		s.clock.Advance(time.Hour)
	}
	ada.logIn(t, "ada", adasPassword)
	ada.press(t, `nav a[href="/admin/sessions"]`)
	ada.press(t, `button[value="count"]`)
	ada.photograph(t, "admin")
	ada.enter(t, "#user", "bob")
	ada.press(t, `button[value="list"]`)
	require.Contains(t, ada.text(t, "body"), "3 live sessions")
	ada.photograph(t, "admin-user")
	ada.press(t, `.sessions li:first-child button[value="end"]`)
	require.Contains(t, ada.text(t, "body"), "Sessions ended: 1.")
	require.NotContains(t, ada.text(t, "body"), "Unknown browser")
	ada.press(t, `.sessions li:first-child button[value="end others"]`)
	require.Contains(t, ada.text(t, "body"), "1 live session.")
	require.Contains(t, ada.text(t, "body"), "Safari on iPhone")
	ada.photograph(t, "admin-user-kept-one")
	ada.press(t, `.sessions a`)
	ada.photograph(t, "admin-session")
	ada.press(t, `button[value="end"]`)
	require.Contains(t, ada.text(t, "body"), "Sessions ended: 1.")
	ada.photograph(t, "admin-session-ended")
}

func TestBrowser_Errors(t *testing.T) {
	s := newSite(t)
	w := openWindow(t, s.URL)
	w.logIn(t, "bob", bobsPassword)
	w.open(t, "/nowhere")
	w.photograph(t, "error-not-found")
	w.press(t, "main .button")
	require.Equal(t, "Notes", w.text(t, "h1"))
	w.open(t, "/admin/sessions")
	w.photograph(t, "error-refused")

	app := *s.app.Load()
	s.loseDatabase(t)
	w.open(t, "/")
	require.Contains(t, w.text(t, "body"), "You have not been logged out")
	w.photograph(t, "error-outage")
	s.serve(app)
	w.press(t, "main .button")
	require.Contains(t, w.text(t, "body"), "You are bob")
}

func TestBrowser_ParallelRequestsRightAfterLogIn(t *testing.T) {
	s := newSite(t)
	w := openWindow(t, s.URL)
	w.open(t, "/")
	w.addNote(t, "of a guest")
	users := w.script(t, scriptedRequests+`(async () => {
		const parallel = [user(await logIn())];
		for (let i = 0; i < 10; i++) parallel.push(send("/").then(user), send("/notes", {text: "parallel"}).then(user));
		return [...new Set(await Promise.all(parallel))].join();
	})()`)
	require.Equal(t, "alice", users)
	w.open(t, "/")
	require.Equal(t, 10, strings.Count(w.text(t, "main"), "parallel"))
	require.Contains(t, w.text(t, "main"), "of a guest")
}

// The requests of these cases are sent before a log-in, under a guest's id or none. Their answers
// arrive after it.
func TestBrowser_LateAnswer(t *testing.T) {
	for name, test := range map[string]struct {
		note    string // that the guest has; "" for a guest without a session
		request string
		handled bool // whether the application has seen the request before the log-in
	}{
		"a page":                             {"old", `send("/?late")`, true},
		"a page, handled late":               {"old", `send("/?late")`, false},
		"a note":                             {"old", `send("/notes?late", {text: "new"})`, true},
		"a note, handled late":               {"old", `send("/notes?late", {text: "new"})`, false},
		"a guest's first note":               {"", `send("/notes?late", {text: "new"})`, true},
		"a guest's first note, handled late": {"", `send("/notes?late", {text: "new"})`, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			late := &lateAnswers{next: *s.app.Load(), handled: test.handled, arrived: make(chan struct{}), loggedIn: make(chan struct{})}
			s.serve(late)
			w := openWindow(t, s.URL)
			if test.note != "" {
				w.open(t, "/")
				w.addNote(t, test.note)
			}
			user := w.script(t, scriptedRequests+`(async () => {
				const late = `+test.request+`;
				await send("/arrived");
				const after = user(await logIn());
				await send("/logged-in");
				await late;
				return after + "," + user(await send("/"));
			})()`)
			require.Equal(t, "alice,alice", user)
			w.open(t, "/devices")
			require.Equal(t, "Your devices", w.text(t, "h1"))
		})
	}
}

// lateAnswers holds the request for "?late" back until a log-in is over: its answer, or the request
// itself.
type lateAnswers struct {
	next              http.Handler
	handled           bool
	arrived, loggedIn chan struct{}
}

func (l *lateAnswers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/arrived":
		<-l.arrived
	case r.URL.Path == "/logged-in":
		close(l.loggedIn)
	case r.URL.RawQuery != "late":
		l.next.ServeHTTP(w, r)
	case l.handled:
		answer := httptest.NewRecorder()
		l.next.ServeHTTP(answer, r)
		close(l.arrived)
		<-l.loggedIn
		maps.Copy(w.Header(), answer.Header())
		w.WriteHeader(answer.Code)
		_, _ = answer.Body.WriteTo(w)
	default:
		close(l.arrived)
		<-l.loggedIn
		l.next.ServeHTTP(w, r)
	}
}
