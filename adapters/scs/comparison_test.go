package scsstore_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/alexedwards/scs/pgxstore"
	"github.com/alexedwards/scs/v2"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/test"
)

// silence is how long the database says nothing, and timeout how long an operation may take.
const (
	silence = 3 * time.Second
	timeout = time.Second
)

const silent = "the database silent for 3 s: a request took"

// TestComparison does the same to scs's own store and to ours. Its log has the README's table.
func TestComparison(t *testing.T) {
	t.Parallel()
	theirs := func(t testing.TB, pool *pgxpool.Pool) *app {
		oldTable(t, pool)
		return newSite(t, nil, pgxstore.NewWithCleanupInterval(pool, 0), func(m *scs.SessionManager, next http.Handler) http.Handler { return m.LoadAndSave(next) })
	}
	ours := func(t testing.TB, pool *pgxpool.Pool) *app {
		return newApp(t, newStore(t, pool))
	}
	impatient := func(t testing.TB, pool *pgxpool.Pool) *app {
		return newApp(t, newStore(t, pool, pgsession.WithTimeout(timeout)))
	}
	for name, compare := range map[string]func(t *testing.T, newApp func(testing.TB, *pgxpool.Pool) *app) string{
		"50 parallel changes of different keys":  differentKeys,
		"50 parallel additions to one counter":   oneCounter,
		"a log-out during a slow request":        logOut,
		"a log-in during a slow request":         logIn,
		"a log-out everywhere during RenewToken": logOutEverywhere,
		"a cookie of another host":               tossedCookie,
		silent:                                   silentDatabase,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mine := ours
			if name == silent {
				mine = impatient
			}
			with, without := compare(t, mine), compare(t, theirs)
			t.Logf("| %s | %s | %s |", name, without, with)
			switch name {
			case "50 parallel changes of different keys":
				require.Equal(t, "50 kept", with)
			case "a log-out during a slow request":
				require.Equal(t, "stays logged out", with)
			case "a log-in during a slow request":
				require.Equal(t, "stays logged in", with)
			case "a log-out everywhere during RenewToken":
				require.Equal(t, "stays logged out", with)
			case "a cookie of another host":
				require.Equal(t, "stays logged in", with)
			}
		})
	}
}

const parallel = 50

func differentKeys(t *testing.T, newApp func(testing.TB, *pgxpool.Pool) *app) string {
	app := newApp(t, pgtest.Pool(t))
	ann := app.newBrowser(t)
	ann.ok("/put?key=first&value=1")
	together(app, ann, func(r *http.Request) { app.Put(r.Context(), "key"+r.FormValue("n"), "x") })
	kept := 0
	app.on("/keys", func(w http.ResponseWriter, r *http.Request) { kept = len(app.Keys(r.Context())) - 1 })
	ann.ok("/keys")
	return fmt.Sprint(kept, " kept")
}

func oneCounter(t *testing.T, newApp func(testing.TB, *pgxpool.Pool) *app) string {
	app := newApp(t, pgtest.Pool(t))
	ann := app.newBrowser(t)
	ann.ok("/put?key=first&value=1")
	together(app, ann, func(r *http.Request) { app.Put(r.Context(), "n", app.GetInt(r.Context(), "n")+1) })
	n := 0
	app.on("/n", func(w http.ResponseWriter, r *http.Request) { n = app.GetInt(r.Context(), "n") })
	ann.ok("/n")
	return fmt.Sprint(n, " kept")
}

// together sends requests that have all loaded the session before the first one saves it.
func together(app *app, ann *browser, change func(r *http.Request)) {
	var loaded, running sync.WaitGroup
	loaded.Add(parallel)
	app.on("/together", func(w http.ResponseWriter, r *http.Request) {
		loaded.Done()
		loaded.Wait()
		change(r)
	})
	for n := range parallel {
		window := ann.same()
		running.Go(func() { window.get("/together?n=" + strconv.Itoa(n)) })
	}
	running.Wait()
}

func logOut(t *testing.T, newApp func(testing.TB, *pgxpool.Pool) *app) string {
	app := newApp(t, pgtest.Pool(t))
	ann := app.newBrowser(t)
	ann.ok("/login?user=ann")
	stolen := ann.same()
	app.during(ann.same(), func(w http.ResponseWriter, r *http.Request) { app.Put(r.Context(), "late", "x") }, func() { ann.ok("/logout") })
	if stolen.ok("/get") != "" {
		return "logged in again"
	}
	return "stays logged out"
}

func logIn(t *testing.T, newApp func(testing.TB, *pgxpool.Pool) *app) string {
	app := newApp(t, pgtest.Pool(t))
	ann := app.newBrowser(t)
	ann.ok("/put?key=cart&value=tea")
	// The slow answer's cookie goes to the same browser.
	app.during(ann, func(w http.ResponseWriter, r *http.Request) { app.Put(r.Context(), "late", "x") }, func() { ann.ok("/login?user=ann") })
	app.on("/who", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, app.GetString(r.Context(), "userID")) })
	if ann.ok("/who") != "ann" {
		return "a guest again"
	}
	return "stays logged in"
}

func logOutEverywhere(t *testing.T, newApp func(testing.TB, *pgxpool.Pool) *app) string {
	app := newApp(t, pgtest.Pool(t))
	ann := app.newBrowser(t)
	ann.ok("/login?user=ann")
	app.on("/renew", func(_ http.ResponseWriter, r *http.Request) {
		require.NoError(t, app.RenewToken(r.Context()))
		if app.store != nil {
			_, err := app.store.DeleteByUser(t.Context(), "ann")
			require.NoError(t, err)
			return
		}
		require.NoError(t, app.Iterate(t.Context(), func(ctx context.Context) error {
			if app.GetString(ctx, "userID") != "ann" {
				return nil
			}
			return app.Destroy(ctx)
		}))
	})
	ann.get("/renew")
	if ann.ok("/get") != "" {
		return "logged in"
	}
	return "stays logged out"
}

func tossedCookie(t *testing.T, newApp func(testing.TB, *pgxpool.Pool) *app) string {
	app := newApp(t, pgtest.Pool(t))
	ann := app.newBrowser(t)
	ann.ok("/login?user=ann")
	site, err := url.Parse(ann.site + "/get")
	require.NoError(t, err)
	ann.client.Jar.SetCookies(site, []*http.Cookie{{Name: "session", Value: "tossed", Path: "/get"}})
	if ann.ok("/get") == "" {
		return "a guest"
	}
	return "stays logged in"
}

func silentDatabase(t *testing.T, newApp func(testing.TB, *pgxpool.Pool) *app) string {
	n := test.NewNetwork(t)
	app := newApp(t, n.Pool)
	ann := app.newBrowser(t)
	ann.ok("/login?user=ann")
	timer := time.AfterFunc(silence, n.Hang())
	defer timer.Stop()
	started := time.Now()
	got := ann.get("/get")
	took := time.Since(started)
	require.Eventually(t, func() bool { return ann.get("/get").body == "userID=ann" }, patience, 10*time.Millisecond)
	return fmt.Sprintf("%.1f s, status %d, still logged in", took.Seconds(), got.status)
}
