package pgsessiontest_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/pgsessiontest"
)

type app struct{ sessions *pgsession.Store }

// home greets the user who is logged in.
func (a app) home(w http.ResponseWriter, r *http.Request) {
	var token string
	if cookie, err := r.Cookie("session"); err == nil {
		token = cookie.Value
	}
	id, err := pgsession.ParseID(token)
	var session *pgsession.Session
	if err == nil {
		session, err = a.sessions.Load(r.Context(), id)
	}
	switch {
	case errors.Is(err, pgsession.ErrNotFound):
		http.Redirect(w, r, "/login", http.StatusSeeOther)
	case err != nil:
		http.Error(w, "We will be back soon.", http.StatusServiceUnavailable)
	default:
		fmt.Fprintf(w, "Hello, %s.\n", session.UserID)
	}
}

// A handler is tested with a store in memory: while the session is live, while the database is
// down, and after the session has expired.
func Example() {
	clock := pgsession.NewManualClock(time.Date(2026, 3, 14, 9, 0, 0, 0, time.UTC))
	store := pgsessiontest.New(pgsession.WithClock(clock))
	handler := http.HandlerFunc(app{store.Store}.home)

	session, err := store.Create(context.Background(), pgsession.Data{UserID: "ann"}, time.Hour)
	if err != nil {
		panic(err)
	}
	get := func() {
		request := httptest.NewRequest(http.MethodGet, "/", nil)
		request.AddCookie(&http.Cookie{Name: "session", Value: session.ID.Token()})
		response := httptest.NewRecorder()
		handler.ServeHTTP(response, request)
		fmt.Println(response.Code, cmp.Or(response.Header().Get("Location"), strings.TrimSpace(response.Body.String())))
	}

	get()
	store.FailWith(errors.New("connection refused"))
	get()
	store.FailWith(nil)
	clock.Advance(time.Hour)
	get()
	// Output:
	// 200 Hello, ann.
	// 503 We will be back soon.
	// 303 /login
}

// A function that takes a session is tested with one made by hand.
func ExampleNewSession() {
	session := pgsessiontest.NewSession(pgsessiontest.SessionFields{
		Data: pgsession.Data{UserID: "ann", Values: map[string]string{"theme": "dark"}},
	})
	values, err := pgsession.Decode[map[string]string](session)
	fmt.Println(session.UserID, values["theme"], session.Remaining(), err)
	// Output: ann dark 1h0m0s <nil>
}
