package httpsession

import (
	"mime"
	"net/http"
	"strings"

	responses "github.com/pgsession/pgsession/internal/cookies"
)

const nextParameter = "next"

// RequireUser is middleware for what users alone may see. It answers guests with 401 Unauthorized.
// With [WithLogInPage] it redirects the pages that a guest opens to the log-in page instead, by 303
// See Other. Other requests still get 401: those that are neither GET nor HEAD, since a form's
// content would be lost, and those of scripts, event streams and web sockets, which would take the
// log-in page for their answer. What opens a page is told by Sec-Fetch-Mode, and in its absence by
// an Accept header that names text/html.
//
// RequireUser includes [Manager.Handler]. It may be around the whole application: requests for the
// log-in page itself are let through, of whatever method.
func (m *Manager[V]) RequireUser(next http.Handler) http.Handler {
	return m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if stored := m.state(r).current.Load().stored; stored != nil && stored.UserID != "" || m.isLogInPage(r) {
			next.ServeHTTP(w, r)
			return
		}
		m.askToLogIn(w, r)
	}))
}

// Require is RequireUser for users of whom allowed returns true: because they have given a second
// factor, for instance, or have a role. It answers others with 403 Forbidden. The function is not
// called for guests.
//
//	mux.Handle("/admin/", sessions.Require(isAdmin)(admin))
func (m *Manager[V]) Require(allowed func(Session[V]) bool) func(next http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return m.RequireUser(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if session := m.Get(r); session.UserID != "" && !allowed(session) {
				w.Header().Set("Cache-Control", "no-store")
				http.Error(w, "You may not do this.", http.StatusForbidden)
				return
			}
			next.ServeHTTP(w, r)
		}))
	}
}

func (m *Manager[V]) askToLogIn(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	switch {
	case m.bearer:
		m.unauthorized(w, r)
	case m.logInPage == nil || !opensPage(r) || m.isAddressOfLogInPage(r):
		http.Error(w, "Please log in.", http.StatusUnauthorized)
	default:
		page := *m.logInPage
		query := page.Query()
		query.Set(nextParameter, r.RequestURI) // as the browser sent it: middleware may have changed r.URL
		page.RawQuery = query.Encode()
		http.Redirect(w, r, page.String(), http.StatusSeeOther)
	}
}

// isLogInPage reports whether a request is for the log-in page. Both what the browser asked for and
// what middleware has made of it must be that page, so that no rewritten request for another page
// passes.
func (m *Manager[V]) isLogInPage(r *http.Request) bool {
	return m.isAddressOfLogInPage(r) && r.URL.Path == m.logInPage.Path
}

// isAddressOfLogInPage reports whether the browser asked for the log-in page. A redirect to it
// would never end.
func (m *Manager[V]) isAddressOfLogInPage(r *http.Request) bool {
	if m.logInPage == nil || m.bearer {
		return false
	}
	return responses.AskedFor(r).Path == m.logInPage.Path && (m.logInPage.Host == "" || m.logInPage.Host == r.Host)
}

// opensPage reports whether the browser shows the answer as a page.
func opensPage(r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	if mode := r.Header.Get("Sec-Fetch-Mode"); mode != "" {
		return mode == "navigate"
	}
	for _, accepted := range strings.Split(strings.Join(r.Header["Accept"], ","), ",") {
		if media, _, err := mime.ParseMediaType(accepted); err == nil && (media == "text/html" || media == "application/xhtml+xml") {
			return r.Header.Get("Upgrade") == ""
		}
	}
	return false
}

// NextPage returns where to redirect to after a log-in: the page that [Manager.RequireUser] sent
// the visitor away from, from the form or query value "next", or "/". It never leads to another
// site. The log-in page's form passes it on, in a hidden field or as it is in the page's own
// address.
func NextPage(r *http.Request) string {
	next := r.FormValue(nextParameter)
	// Browsers take a backslash for a slash, and leave out tabs and newlines.
	isUnsafe := func(c rune) bool { return c == '\\' || c < ' ' || c == 0x7f }
	if !strings.HasPrefix(next, "/") || strings.HasPrefix(next, "//") || strings.ContainsFunc(next, isUnsafe) {
		return "/"
	}
	return next
}
