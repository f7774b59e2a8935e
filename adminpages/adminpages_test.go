package adminpages_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"html"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/adminpages"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/pgsessiontest"
)

// A fixture is pages over a store in memory. The operator is root, unless the request has the
// header Stranger.
type fixture struct {
	store *pgsessiontest.Store
	pages *adminpages.Pages
	done  []adminpages.Action
	log   bytes.Buffer
}

func newFixture() *fixture {
	f := &fixture{store: pgsessiontest.New()}
	guard := func(r *http.Request) (string, bool) { return "root", r.Header.Get("Stranger") == "" }
	f.pages = adminpages.New(f.store.Store, guard,
		adminpages.WithAudit(func(_ context.Context, a adminpages.Action) { f.done = append(f.done, a) }),
		adminpages.WithDevice(func(s *pgsession.Session) string {
			device, _ := pgsession.Decode[string](s)
			return device
		}),
		adminpages.WithLogger(slog.New(slog.NewTextHandler(&f.log, nil))))
	return f
}

func (f *fixture) create(t *testing.T, user, device string) *pgsession.Session {
	t.Helper()
	s, err := f.store.Create(t.Context(), pgsession.Data{UserID: user, Values: device}, time.Hour)
	require.NoError(t, err)
	return s
}

func (f *fixture) isLive(t *testing.T, s *pgsession.Session) bool {
	t.Helper()
	_, err := f.store.Load(t.Context(), s.ID)
	if err != nil {
		require.ErrorIs(t, err, pgsession.ErrNotFound)
	}
	return err == nil
}

func (f *fixture) send(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	f.pages.ServeHTTP(w, r)
	return w
}

func (f *fixture) get(query string) *httptest.ResponseRecorder {
	return f.send(httptest.NewRequest(http.MethodGet, "/any/where"+query, nil))
}

func form(fields ...string) *http.Request {
	values := make(url.Values)
	for i := 0; i < len(fields); i += 2 {
		values.Set(fields[i], fields[i+1])
	}
	r := httptest.NewRequest(http.MethodPost, "/any/where", strings.NewReader(values.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	return r
}

func TestMain(m *testing.M) { pgtest.Main(m, nil) }

func TestNew(t *testing.T) {
	store := pgsessiontest.New().Store
	require.Panics(t, func() { adminpages.New(store, nil) })
	require.Panics(t, func() { adminpages.New(nil, func(*http.Request) (string, bool) { return "", true }) })
}

func TestPages_Guard(t *testing.T) {
	f := newFixture()
	s := f.create(t, "ann", "")
	for _, r := range []*http.Request{
		httptest.NewRequest(http.MethodGet, "/", nil),
		form("action", "list", "user", "ann"),
		form("action", "end all", "user", "ann"),
		form("action", "end", "handle", s.Handle.String()),
	} {
		r.Header.Set("Stranger", "1")
		require.Equal(t, http.StatusForbidden, f.send(r).Code)
	}
	require.True(t, f.isLive(t, s))
	require.Empty(t, f.done)
}

func TestPages_OtherSites(t *testing.T) {
	f := newFixture()
	s := f.create(t, "ann", "")
	r := form("action", "end all", "user", "ann")
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	require.Equal(t, http.StatusForbidden, f.send(r).Code)
	r = form("action", "end all", "user", "ann") // an old browser
	r.Header.Del("Sec-Fetch-Site")
	r.Header.Set("Origin", "https://evil.example")
	require.Equal(t, http.StatusForbidden, f.send(r).Code)
	require.True(t, f.isLive(t, s))
	require.Equal(t, http.StatusMethodNotAllowed, f.send(httptest.NewRequest(http.MethodPut, "/", nil)).Code)
	require.Equal(t, http.StatusBadRequest, f.send(form("action", "no such")).Code)
	require.Equal(t, http.StatusBadRequest, f.send(form("action", "list", "user", strings.Repeat("x", 9<<10))).Code)
}

func TestPages_Actions(t *testing.T) {
	f := newFixture()
	phone, laptop, tablet := f.create(t, "ann", "a phone"), f.create(t, "ann", "a laptop"), f.create(t, "ann", "a tablet")
	bob := f.create(t, "bob", "")

	listed := f.send(form("action", "list", "user", "ann"))
	require.Equal(t, http.StatusOK, listed.Code)
	for _, text := range []string{"a phone", "a laptop", "a tablet", phone.Handle.String()} {
		require.Contains(t, listed.Body.String(), text)
	}
	require.NotContains(t, listed.Body.String(), bob.Handle.String())
	require.NotContains(t, listed.Body.String(), phone.ID.Token())
	shown := f.get("?handle=" + laptop.Handle.String())
	require.Contains(t, shown.Body.String(), "a laptop")
	require.Contains(t, shown.Body.String(), "ann")

	f.send(form("action", "end", "user", "ann", "handle", phone.Handle.String()))
	require.False(t, f.isLive(t, phone))
	f.send(form("action", "end", "user", "ann", "handle", bob.Handle.String()))
	require.True(t, f.isLive(t, bob), "a user's page ends that user's sessions only")
	f.send(form("action", "end others", "user", "ann", "handle", laptop.Handle.String()))
	require.True(t, f.isLive(t, laptop))
	require.False(t, f.isLive(t, tablet))
	require.Contains(t, f.send(form("action", "end others", "user", "ann", "handle", "garbage")).Body.String(), "Nothing was ended")
	require.True(t, f.isLive(t, laptop), "nothing is ended if it is unclear which one to keep")
	require.Contains(t, f.send(form("action", "end all", "user", "ann")).Body.String(), "Sessions ended: 1.")
	require.False(t, f.isLive(t, laptop))
	require.Contains(t, f.send(form("action", "end", "handle", bob.Handle.String())).Body.String(), "Sessions ended: 1.")
	require.False(t, f.isLive(t, bob))
	require.Contains(t, f.get("?handle="+bob.Handle.String()).Body.String(), "This session was ended.")

	var names []string
	var ended int64
	for _, a := range f.done {
		require.Equal(t, "root", a.Operator)
		names, ended = append(names, a.Name), ended+a.Ended
	}
	require.Equal(t, []string{"list", "show", "end", "end", "end others", "end others", "end all", "end", "show"}, names)
	require.EqualValues(t, 4, ended)
	require.ErrorIs(t, f.done[3].Err, pgsession.ErrNotFound)
	for _, secret := range []string{"ann", "bob", "root", phone.ID.Token()} {
		require.NotContains(t, f.log.String(), secret)
	}
	require.Equal(t, len(names), strings.Count(f.log.String(), "\n"))
}

func TestPages_Bad(t *testing.T) {
	f := newFixture()
	require.Equal(t, http.StatusNotFound, f.get("?handle=garbage").Code)
	require.Equal(t, http.StatusNotFound, f.get("?handle="+pgsession.NewID().Handle().String()).Code)
	require.Equal(t, http.StatusBadRequest, f.send(form("action", "list", "user", strings.Repeat("x", 1001))).Code)
	require.Contains(t, f.send(form("action", "list", "user", `<script>"'`)).Body.String(), "&lt;script&gt;")

	s := f.create(t, "ann", "")
	f.store.FailWith(errors.New("connection refused"))
	require.Equal(t, http.StatusServiceUnavailable, f.send(form("action", "list", "user", "ann")).Code)
	page := f.send(form("action", "end all", "user", "ann"))
	require.Contains(t, page.Body.String(), "may still be logged in")
	require.Contains(t, f.get("").Body.String(), "unhealthy")
	require.Contains(t, f.send(form("action", "count")).Body.String(), "could not be counted")
	f.store.FailWith(nil)
	require.True(t, f.isLive(t, s))
}

func TestPages_Overview(t *testing.T) {
	f := newFixture()
	f.create(t, "ann", "")
	f.create(t, "", "")
	require.Contains(t, f.get("").Body.String(), "not been counted yet")
	page := f.send(form("action", "count")).Body.String()
	require.Regexp(t, `users&#39; sessions|users' sessions`, page)
	require.Contains(t, page, "<dd>1</dd>")
	require.Contains(t, page, "<dt>plaintext</dt><dd>2</dd>")
	require.Contains(t, page, `<th scope="row">create</th><td>2</td>`)
}

// An old key may go when no row lies under it.
func TestPages_RowsByKey(t *testing.T) {
	pool := pgtest.Pool(t)
	oldKey, newKey := pgsession.GenerateKey(), pgsession.GenerateKey()
	keys, err := pgsession.NewCrypto(oldKey)
	require.NoError(t, err)
	store := pgsession.New(pool, keys)
	require.NoError(t, store.Init(t.Context()))
	_, err = store.Create(t.Context(), pgsession.Data{UserID: "ann"}, time.Hour)
	require.NoError(t, err)
	require.NoError(t, keys.SetKeys(newKey, oldKey))
	count := func() string {
		w := httptest.NewRecorder()
		adminpages.New(store, func(*http.Request) (string, bool) { return "root", true }).ServeHTTP(w, form("action", "count"))
		return w.Body.String()
	}
	require.Regexp(t, `<dt>key [0-9a-f]{8}, primary</dt><dd>0</dd></div>\n<div><dt>key [0-9a-f]{8}, old</dt><dd>1</dd>`, count())
	require.NoError(t, keys.SetKeys(newKey))
	require.Regexp(t, `<dt>key [0-9a-f]{8}, primary</dt><dd>0</dd></div>\n<div><dt>key [0-9a-f]{8}, not among the keys</dt><dd>1</dd>`, count())
	require.NoError(t, keys.SetKeys(newKey, oldKey))
	_, err = store.Reseal(t.Context())
	require.NoError(t, err)
	require.Regexp(t, `<dt>key [0-9a-f]{8}, primary</dt><dd>1</dd></div>\n<div><dt>key [0-9a-f]{8}, old: it may go</dt><dd>0</dd>`, count())
}

// A count reads the whole table, so an operator who presses the button again and again starts none.
func TestPages_CountInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture()
		count := func() string { return f.send(form("action", "count")).Body.String() }
		count()
		f.create(t, "ann", "")
		time.Sleep(59 * time.Second) // of the bubble's clock, as those that follow
		require.NotContains(t, count(), "<dt>plaintext</dt>")
		time.Sleep(time.Second)
		require.Contains(t, count(), "<dt>plaintext</dt><dd>1</dd>")
		f.store.FailWith(errors.New("connection refused"))
		time.Sleep(time.Minute)
		require.Contains(t, count(), "could not be counted")
		f.store.FailWith(nil)
		require.Contains(t, count(), "<dt>plaintext</dt><dd>1</dd>")
	})
}

// The policy that the browser holds the pages to names the style that they have, and the pages load
// nothing.
func TestPages_Policy(t *testing.T) {
	w := newFixture().get("")
	style := regexp.MustCompile(`(?s)<style>(.*?)</style>`).FindStringSubmatch(w.Body.String())
	require.NotNil(t, style)
	sum := sha256.Sum256([]byte(style[1]))
	require.Contains(t, w.Header().Get("Content-Security-Policy"), base64.StdEncoding.EncodeToString(sum[:]))
	require.NotRegexp(t, `<script|<link|<img|style="|https?://`, w.Body.String())
	require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
}

func TestPages_Record(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture()
		ctx, stop := context.WithCancel(t.Context())
		go f.pages.Record(ctx)
		synctest.Wait()
		require.Contains(t, f.get("").Body.String(), "No sample yet")
		for range 3 {
			f.create(t, "ann", "")
		}
		time.Sleep(time.Minute + time.Millisecond)
		page := f.get("").Body.String()
		require.Contains(t, page, "begun: now 3, at most 3")
		time.Sleep(7 * time.Hour)
		page = f.get("").Body.String()
		require.Contains(t, page, "over the last 360 min")
		require.Contains(t, page, "begun: now 0, at most 0")
		stop()
		synctest.Wait()
	})
}

// A browser sends the lines of a field with CRLF between, and can send neither NUL nor what is not
// UTF-8. Users may have chosen such an id.
func TestPages_OddUserIDs(t *testing.T) {
	hidden := regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)">`)
	for _, user := range []string{"a\nb", "a\rb", "a\x00b", "\xff", `"><script>'`, "\u202enna", " ann "} {
		f := newFixture()
		sessions := []*pgsession.Session{f.create(t, user, ""), f.create(t, user, ""), f.create(t, user, ""), f.create(t, user, "")}
		// press sends the last form of a page that has the button, as a browser does.
		press := func(page, button string) string {
			for part := range strings.SplitSeq(page, "<form") {
				if end := strings.Index(part, "</form>"); end < 0 || !strings.Contains(part[:end], `value="`+button+`"`) {
					continue
				}
				fields := []string{"action", button}
				for _, field := range hidden.FindAllStringSubmatch(part, -1) {
					value := strings.ToValidUTF8(html.UnescapeString(field[2]), "\ufffd")
					value = strings.NewReplacer("\r\n", "\r\n", "\r", "\r\n", "\n", "\r\n", "\x00", "\ufffd").Replace(value)
					fields = append(fields, field[1], value)
				}
				return f.send(form(fields...)).Body.String()
			}
			require.Fail(t, "no such button", button)
			return ""
		}
		list := press(f.get("?handle="+sessions[0].Handle.String()).Body.String(), "list")
		require.Contains(t, list, ": 4 live sessions", "%q", user)
		require.NotContains(t, list, "<script")
		list = press(list, "end")
		require.Contains(t, list, "Sessions ended: 1.", "%q", user)
		list = press(list, "end others")
		require.Contains(t, list, "Sessions ended: 2.", "%q", user)
		require.Contains(t, press(list, "end all"), "Sessions ended: 1.", "%q", user)
		for _, s := range sessions {
			require.False(t, f.isLive(t, s), "%q", user)
		}
		for _, action := range f.done[1:] {
			require.Equal(t, user, action.UserID)
		}
		require.Equal(t, http.StatusBadRequest, f.send(form("action", "end all", "user-hex", "no hex")).Code)
	}
}

// What a user has made the application store keeps nobody from ending the session.
func TestPages_DevicePanics(t *testing.T) {
	store := pgsessiontest.New().Store
	var log bytes.Buffer
	pages := adminpages.New(store, func(*http.Request) (string, bool) { return "root", true },
		adminpages.WithDevice(func(s *pgsession.Session) string {
			words, _ := pgsession.Decode[[]string](s)
			return words[1]
		}),
		adminpages.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
	_, err := store.Create(t.Context(), pgsession.Data{UserID: "ann", Values: []string{"secret"}}, time.Hour)
	require.NoError(t, err)
	w := httptest.NewRecorder()
	pages.ServeHTTP(w, form("action", "list", "user", "ann"))
	require.Contains(t, w.Body.String(), ": 1 live session.")
	require.Contains(t, log.String(), "WithDevice panicked")
}
