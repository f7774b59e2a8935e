package gorillastore_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/gorilla/sessions"
	"github.com/stretchr/testify/require"
)

// A compared store is one that an application might use.
type compared struct {
	name   string
	store  sessions.Store
	outage func(t *testing.T) (end func()) // nil if it cannot have one
}

func comparedStores(t *testing.T) []compared {
	t.Helper()
	f := newFixture(t)
	folder := filepath.Join(t.TempDir(), "sessions")
	require.NoError(t, os.Mkdir(folder, 0o700))
	key := []byte("a key for the stores of gorilla.")
	return []compared{
		{"this one", f, f.outage},
		{"pgstore", newPGStore(t, f.pool), func(t *testing.T) func() {
			execute := func(sql string) {
				_, err := f.pool.Exec(t.Context(), sql)
				require.NoError(t, err)
			}
			execute(`ALTER TABLE http_sessions RENAME TO old_away`)
			return func() { execute(`ALTER TABLE old_away RENAME TO http_sessions`) }
		}},
		{"FilesystemStore", sessions.NewFilesystemStore(folder, key), func(t *testing.T) func() {
			require.NoError(t, os.Rename(folder, folder+"-away"))
			return func() { require.NoError(t, os.Rename(folder+"-away", folder)) }
		}},
		{"CookieStore", sessions.NewCookieStore(key), nil},
	}
}

// TestComparison does to each store what goes wrong in production. The application ignores the
// error of Get, as many do. The README has the results.
func TestComparison(t *testing.T) {
	t.Parallel()
	stores := comparedStores(t)
	table := "|  |"
	for _, c := range stores {
		table += " " + c.name + " |"
	}
	for _, trial := range []struct {
		name string
		run  func(*testing.T, compared) string
	}{
		{"50 parallel requests change different keys of one session: changes kept", parallelChanges},
		{"a request that was slow saves after the log-out", slowAfterLogOut},
		{"a copy of the cookie, after the log-out", copyAfterLogOut},
		{"a guest's request that was slow saves after the log-in", slowAfterLogIn},
		{"another host of the domain sets four cookies of the same name", tossed},
		{"a token that was known before the log-in", fixation},
		{"two users log in at once from one guest's session", logInRace},
		{"the database is away while a request loads its session, and back when it saves", outage},
	} {
		row := "| " + trial.name + " |"
		for _, c := range stores {
			row += " " + trial.run(t, c) + " |"
		}
		table += "\n" + row
	}
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	require.Contains(t, withoutRules(string(readme)), table)
}

// load ignores errors.
func (r *request) load(c compared) *sessions.Session {
	session, _ := c.store.Get(r.Request, sessionName)
	return session
}

func (c compared) user(b *browser) any { return b.request().load(c).Values["user"] }

func parallelChanges(t *testing.T, c compared) string {
	b := newBrowser()
	b.logIn(t, c.store, "ann")
	const changes = 50
	results := make([]*request, changes)
	var loaded, saved sync.WaitGroup
	loaded.Add(changes)
	for i := range changes {
		saved.Go(func() {
			r := b.request()
			session := r.load(c)
			loaded.Done()
			loaded.Wait()
			session.Values[i] = i
			if err := session.Save(r.Request, r.ResponseRecorder); err != nil {
				t.Error(err)
			}
			results[i] = r
		})
	}
	saved.Wait()
	for _, r := range results {
		r.respond()
	}
	return fmt.Sprint(len(b.request().load(c).Values) - 1)
}

func slowAfterLogOut(t *testing.T, c compared) string {
	b := newBrowser()
	b.logIn(t, c.store, "ann")
	slow := b.request()
	session := slow.load(c)
	b.logOut(t, c.store)
	session.Values["late"] = true
	err := session.Save(slow.Request, slow.ResponseRecorder)
	slow.respond()
	switch {
	case c.user(b) != nil:
		return "**logged in again**"
	case err == nil:
		return "logged out; **told that it was saved**"
	}
	return "logged out; gets an error"
}

func copyAfterLogOut(t *testing.T, c compared) string {
	b := newBrowser()
	b.logIn(t, c.store, "ann")
	stolen := b.clone()
	b.logOut(t, c.store)
	return opens(c.user(stolen) != nil)
}

func opens(it bool) string {
	if it {
		return "**opens the session**"
	}
	return "opens nothing"
}

func slowAfterLogIn(t *testing.T, c compared) string {
	b := newBrowser()
	b.set(t, c.store, "k", 1)
	slow := b.request()
	session := slow.load(c)
	b.logIn(t, c.store, "ann")
	session.Values["k"] = 2
	_ = session.Save(slow.Request, slow.ResponseRecorder)
	slow.respond()
	if c.user(b) == nil {
		return "**logged out**"
	}
	return "logged in"
}

func tossed(t *testing.T, c compared) string {
	b := newBrowser()
	b.logIn(t, c.store, "ann")
	r := b.request()
	r.Request.Header.Set("Cookie", strings.Repeat(sessionName+"=tossed; ", 4)+r.Request.Header.Get("Cookie"))
	if r.load(c).Values["user"] == nil {
		return "**logged out**"
	}
	return "logged in"
}

func fixation(t *testing.T, c compared) string {
	b := newBrowser()
	b.set(t, c.store, "k", 1)
	planted := b.clone()
	b.logIn(t, c.store, "ann")
	return opens(c.user(planted) != nil)
}

func logInRace(t *testing.T, c compared) string {
	b := newBrowser()
	b.set(t, c.store, "k", 1)
	ann, bob := b.clone().request(), b.clone().request()
	annSession, bobSession := ann.load(c), bob.load(c)
	annSession.Values["user"], annSession.Values["secret"] = "ann", "of ann"
	bobSession.Values["user"] = "bob"
	_ = annSession.Save(ann.Request, ann.ResponseRecorder)
	err := bobSession.Save(bob.Request, bob.ResponseRecorder)
	ann.respond()
	bob.respond()
	switch {
	case c.user(ann.browser) == "bob":
		return "**the first is logged in as the second**"
	case err != nil:
		return "the first is logged in, the second gets an error"
	}
	return "each is logged in as themselves"
}

func outage(t *testing.T, c compared) string {
	if c.outage == nil {
		return "–"
	}
	b := newBrowser()
	b.logIn(t, c.store, "ann")
	end := c.outage(t)
	r := b.request()
	session := r.load(c)
	end()
	session.Values["k"] = 1
	err := session.Save(r.Request, r.ResponseRecorder)
	r.respond()
	switch after := b.request().load(c); {
	case after.Values["user"] == nil:
		return "**logged out**"
	case err != nil:
		return "logged in; the request gets an error"
	case after.Values["k"] == nil:
		return "logged in; **told that it was saved**"
	}
	return "logged in"
}
