package httpsession_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"time"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/httpsession"
)

// must ends an example, where a handler calls sessions.Error.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// visit sends requests as one browser does, and prints the answers.
func visit(app http.Handler, requests ...string) { newVisitor(app).send(requests...) }

type visitor struct {
	app     http.Handler
	jar     http.CookieJar
	address *url.URL
	header  http.Header
}

func newVisitor(app http.Handler) *visitor {
	jar, err := cookiejar.New(nil)
	must(err)
	return &visitor{app, jar, &url.URL{Scheme: "https", Host: "example.com"}, http.Header{"Sec-Fetch-Mode": {"navigate"}}}
}

func (v *visitor) send(requests ...string) {
	for _, request := range requests {
		method, path, _ := strings.Cut(request, " ")
		r := httptest.NewRequest(method, v.address.String()+path, nil)
		r.Header = v.header.Clone()
		r.RequestURI = path
		for _, cookie := range v.jar.Cookies(v.address) {
			r.AddCookie(cookie)
		}
		w := httptest.NewRecorder()
		v.app.ServeHTTP(w, r)
		v.jar.SetCookies(v.address, w.Result().Cookies())
		answer := strings.TrimSpace(w.Body.String())
		if w.Code != http.StatusOK {
			answer = fmt.Sprint(w.Code, " ", cmp.Or(w.Header().Get("Location"), answer))
		}
		fmt.Println(strings.TrimSpace(request + ": " + answer))
	}
}

// The box "remember me" of a log-in form. A session that is remembered may be idle for 14 days
// here, and ends 60 days after its log-in.
func Example_rememberMe() {
	clock := pgsession.NewManualClock(time.Date(2026, 3, 14, 9, 0, 0, 0, time.UTC))
	sessions := httpsession.New[struct{}](pgsession.InMemory(pgsession.WithClock(clock)),
		httpsession.WithRemember(14*24*time.Hour, 60*24*time.Hour))
	mux := http.NewServeMux()
	mux.HandleFunc("POST /log-in", func(w http.ResponseWriter, r *http.Request) {
		var opts []httpsession.LogInOption
		if r.FormValue("remember") == "on" {
			opts = append(opts, httpsession.Remember())
		}
		must(sessions.LogIn(w, r, r.FormValue("user"), nil, opts...))
	})
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		s := sessions.Get(r)
		fmt.Fprintf(w, "user %q, ended %v", s.UserID, s.Ended)
	})
	app := sessions.Handler(mux)
	ann, bob := newVisitor(app), newVisitor(app)
	ann.send("POST /log-in?user=ann&remember=on")
	bob.send("POST /log-in?user=bob")
	clock.Advance(13 * 24 * time.Hour)
	ann.send("GET /")
	bob.send("GET /")
	// Output:
	// POST /log-in?user=ann&remember=on:
	// POST /log-in?user=bob:
	// GET /: user "ann", ended false
	// GET /: user "", ended true
}

// A user changes the password. RenewID gives this session another id, and all others end. Both go
// on if the browser hangs up.
func Example_logOutEverywhere() {
	store := pgsession.InMemory()
	sessions := httpsession.New[struct{}](store)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /log-in", func(w http.ResponseWriter, r *http.Request) {
		must(sessions.LogIn(w, r, r.FormValue("user"), nil))
	})
	mux.Handle("POST /password", sessions.RequireUser(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The new password is stored by now, so that nobody logs in with the old one.
		r = r.WithContext(context.WithoutCancel(r.Context()))
		must(sessions.RenewID(w, r, nil))
		this := sessions.Get(r)
		ended, err := store.DeleteByUser(r.Context(), this.UserID, this.Handle)
		must(err)
		fmt.Fprintf(w, "%d other sessions ended", ended)
	})))
	mux.Handle("GET /", sessions.RequireUser(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "hello")
	})))
	app := sessions.Handler(mux)
	phone, laptop := newVisitor(app), newVisitor(app)
	phone.send("POST /log-in?user=ann", "GET /")
	laptop.send("POST /log-in?user=ann", "POST /password", "GET /")
	phone.send("GET /")
	// Output:
	// POST /log-in?user=ann:
	// GET /: hello
	// POST /log-in?user=ann:
	// POST /password: 1 other sessions ended
	// GET /: hello
	// GET /: 401 Please log in.
}

// An administrator sees a user's sessions, and ends them all; RevokeAny would end one by its
// handle. The administrator's own session is that of another Manager, with a cookie of its own and
// 15 minutes to live. A customer's token under the name of that cookie opens nothing. User ids are
// those of the table, so administrators' begin with "admin:". If customers may choose such a name,
// give the administrators a table of their own.
func Example_admin() {
	store := pgsession.InMemory()
	users := httpsession.New[struct{}](store)
	admins := httpsession.New[struct{}](store, httpsession.WithTTL(15*time.Minute),
		httpsession.WithCookie(http.Cookie{Name: "admin", SameSite: http.SameSiteStrictMode}))

	mux := http.NewServeMux()
	mux.Handle("POST /log-in", users.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		must(users.LogIn(w, r, r.FormValue("user"), nil))
	})))
	mux.Handle("POST /admin/log-in", admins.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		must(admins.LogIn(w, r, "admin:"+r.FormValue("user"), nil)) // FindByUser must not take it for a user of that name
	})))
	mux.Handle("GET /admin/{user}", admins.RequireUser(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		list, err := store.FindByUser(r.Context(), r.PathValue("user"), 100)
		must(err)
		fmt.Fprintf(w, "%d sessions", len(list))
	})))
	mux.Handle("POST /admin/{user}/log-out", admins.RequireUser(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ended, err := store.DeleteByUser(r.Context(), r.PathValue("user"))
		must(err)
		fmt.Fprintf(w, "%d ended", ended)
	})))

	visit(mux, "POST /log-in?user=ann", "GET /admin/ann")
	mallory := newVisitor(mux)
	mallory.send("POST /log-in?user=mallory")
	for _, cookie := range mallory.jar.Cookies(mallory.address) {
		cookie.Name = "__Host-admin"
		cookie.Secure, cookie.Path = true, "/"
		mallory.jar.SetCookies(mallory.address, []*http.Cookie{cookie})
	}
	mallory.send("GET /admin/ann")
	visit(mux, "POST /admin/log-in?user=eve", "GET /admin/ann", "POST /admin/ann/log-out", "GET /admin/ann")
	// Output:
	// POST /log-in?user=ann:
	// GET /admin/ann: 401 Please log in.
	// POST /log-in?user=mallory:
	// GET /admin/ann: 401 Please log in.
	// POST /admin/log-in?user=eve:
	// GET /admin/ann: 1 sessions
	// POST /admin/ann/log-out: 1 ended
	// GET /admin/ann: 0 sessions
}

// A guest is sent to the log-in page, and from there to where they wanted to go.
func ExampleManager_RequireUser() {
	sessions := httpsession.New[struct{}](pgsession.InMemory(), httpsession.WithLogInPage("/log-in"))
	mux := http.NewServeMux()
	mux.HandleFunc("POST /log-in", func(w http.ResponseWriter, r *http.Request) {
		must(sessions.LogIn(w, r, r.FormValue("user"), nil))
		http.Redirect(w, r, httpsession.NextPage(r), http.StatusSeeOther)
	})
	mux.Handle("/account", sessions.RequireUser(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "The account of ", sessions.Get(r).UserID)
	})))
	visit(sessions.Handler(mux),
		"GET /account?tab=2",
		"POST /log-in?next=%2Faccount%3Ftab%3D2&user=ann",
		"GET /account?tab=2",
		"POST /log-in?next=https%3A%2F%2Fevil.example&user=ann")
	// Output:
	// GET /account?tab=2: 303 /log-in?next=%2Faccount%3Ftab%3D2
	// POST /log-in?next=%2Faccount%3Ftab%3D2&user=ann: 303 /account?tab=2
	// GET /account?tab=2: The account of ann
	// POST /log-in?next=https%3A%2F%2Fevil.example&user=ann: 303 /
}

// An audit trail. The function must be quick: it runs before the request is answered.
func ExampleWithEvents() {
	sessions := httpsession.New[struct{}](pgsession.InMemory(), httpsession.WithEvents(func(_ context.Context, e httpsession.Event) {
		fmt.Printf("%s, user %q\n", e.Kind, e.UserID)
	}))
	mux := http.NewServeMux()
	mux.HandleFunc("POST /log-in", func(w http.ResponseWriter, r *http.Request) {
		must(sessions.LogIn(w, r, "ann", nil))
	})
	mux.HandleFunc("POST /log-out", func(w http.ResponseWriter, r *http.Request) {
		must(sessions.LogOut(w, r))
	})
	visit(sessions.Handler(mux), "POST /log-in", "POST /log-out")
	// Output:
	// user logged in, user "ann"
	// POST /log-in:
	// logged out, user "ann"
	// POST /log-out:
}

// An identity provider ends a session by its own id (OpenID Connect Back-Channel Logout 1.0,
// "sid"). The log-in stores that id with the session, and an entry that leads from it to the user.
// A log-out looks through the user's sessions, whose ids may have changed since.
//
// The entry costs a log-in one more statement: some 50 µs, 500 bytes of WAL, and 345 bytes in the
// table until it expires (64 callers logged in 7,100 times a second instead of 20,200, 30 November
// 2026). A second hashed, indexed column would cost 160 bytes of WAL at the log-in, but then 50 at
// each save and 180 bytes a row: an entry is paid for by log-ins alone, and by no other application.
func Example_backChannelLogOut() {
	type Values struct {
		ProviderID string `json:"provider_id"`
	}
	const lifetime = 30 * 24 * time.Hour // of entries, and of sessions: none may outlive its entry
	store := pgsession.InMemory(pgsession.WithAbsoluteLifetime(lifetime))
	sessions := httpsession.New[Values](store)
	entries := store.KeyValue()

	mux := http.NewServeMux()
	mux.Handle("POST /log-in", sessions.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, sid := "ann", "08a5019c-17e1-4977-8f42-65a12843ea02" // from the checked id token
		must(entries.Put(r.Context(), "sid:"+sid, []byte(user), lifetime))
		must(sessions.LogIn(w, r, user, func(v *Values) error { v.ProviderID = sid; return nil }))
	})))
	mux.HandleFunc("POST /back-channel", func(w http.ResponseWriter, r *http.Request) {
		sid := "08a5019c-17e1-4977-8f42-65a12843ea02" // from the checked log-out token
		user, err := entries.Get(r.Context(), "sid:"+sid)
		if errors.Is(err, pgsession.ErrNotFound) {
			return
		}
		must(err)
		for isOver := false; !isOver; { // a session may get another id between the two steps
			list, err := store.FindByUser(r.Context(), string(user), 0)
			must(err)
			isOver = true
			for _, s := range list {
				if values, err := pgsession.Decode[Values](s); err == nil && values.ProviderID == sid {
					isOver = false
					if err := store.RevokeAny(r.Context(), s.Handle); !errors.Is(err, pgsession.ErrNotFound) {
						must(err)
					}
				}
			}
		}
		must(entries.Delete(r.Context(), "sid:"+sid))
	})
	mux.Handle("GET /", sessions.RequireUser(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "hello")
	})))
	ann := newVisitor(mux)
	ann.send("POST /log-in", "GET /")
	newVisitor(mux).send("POST /back-channel")
	ann.send("GET /")
	// Output:
	// POST /log-in:
	// GET /: hello
	// POST /back-channel:
	// GET /: 401 Please log in.
}
