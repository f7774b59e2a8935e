//go:build browser

package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession/internal/pgtest"
)

const screenshots = "screenshots"

// A window is a Chromium of its own, with its own cookies.
type window struct {
	context.Context
	site string
}

func openWindow(t *testing.T, site string) *window {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(findChromium(t)), chromedp.UserDataDir(t.TempDir()), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-component-update", true))
	allocator, cancel := chromedp.NewExecAllocator(context.WithoutCancel(t.Context()), options...)
	t.Cleanup(cancel)
	browser, cancel := chromedp.NewContext(allocator)
	t.Cleanup(cancel)
	t.Cleanup(func() { _ = chromedp.Cancel(browser) }) // waits for Chromium's end, so that its folder can be removed
	require.NoError(t, chromedp.Do(browser))
	ctx, cancel := context.WithTimeout(browser, 2*time.Minute)
	t.Cleanup(cancel)
	return &window{ctx, site}
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

// photograph writes pictures of the page: light, dark, and as narrow as a small telephone.
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
		image, err := chromedp.Run(w, chromedp.FullScreenshot(100))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(screenshots, name+"-"+picture.kind+".png"), image, 0o644))
	}
	w.do(t, chromedp.EmulateReset())
}

func TestBrowser_GuestsNotesComeAlong(t *testing.T) {
	s := newSite(t, pgtest.Pool(t), false)
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
	require.Contains(t, w.text(t, "body"), "You are logged out.")
	require.NotContains(t, w.text(t, "body"), "teapot")
	w.photograph(t, "logged-out")
}

func TestBrowser_RevokeOneFromTheOther(t *testing.T) {
	s := newSite(t, pgtest.Pool(t), false)
	here, there := openWindow(t, s.URL), openWindow(t, s.URL)
	here.logIn(t, "alice", alicesPassword)
	here.open(t, "/devices")
	here.photograph(t, "devices-one")
	there.logIn(t, "alice", alicesPassword)
	here.open(t, "/devices")
	here.photograph(t, "devices-two")
	here.press(t, ".devices button")
	require.Contains(t, here.text(t, "body"), "The device is logged out.")
	here.photograph(t, "devices-revoked")

	there.open(t, "/")
	require.Equal(t, "Log in", there.text(t, "h1"))
	require.Contains(t, there.text(t, "body"), "Your session has ended.")
	there.photograph(t, "login-ended")
	here.open(t, "/devices")
	require.Equal(t, "Your devices", here.text(t, "h1"))
}

func TestBrowser_LogOutEverywhereElse(t *testing.T) {
	s := newSite(t, pgtest.Pool(t), false)
	here, there := openWindow(t, s.URL), openWindow(t, s.URL)
	here.logIn(t, "alice", alicesPassword)
	there.logIn(t, "alice", alicesPassword)
	here.open(t, "/devices")
	here.press(t, ".devices + form button")
	require.Contains(t, here.text(t, "body"), "One other device is logged out.")
	there.open(t, "/")
	require.Equal(t, "Log in", there.text(t, "h1"))
	here.open(t, "/")
	require.Contains(t, here.text(t, "body"), "You are alice")
}

func TestBrowser_OutageLogsNobodyOut(t *testing.T) {
	s := newSite(t, pgtest.Pool(t), false)
	w := openWindow(t, s.URL)
	w.logIn(t, "bob", bobsPassword)
	s.pool.Close()
	w.open(t, "/")
	require.Contains(t, w.text(t, "body"), "You have not been logged out")
	w.photograph(t, "outage")
}
