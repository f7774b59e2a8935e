package httpsession

import (
	"net/http"
	"strings"
)

const nextParameter = "next"

// RequireUser is middleware for what users alone may see. It answers guests with 401 Unauthorized. With
// [WithLogInPage] it redirects the pages that a guest opens to the log-in page instead, by 303 See Other.
// The requests of scripts, and those that are neither GET nor HEAD, still get 401: a script would
// take the log-in page for its answer, and a form's content would be lost. RequireUser includes
// [Manager.Handler].
func (m *Manager[V]) RequireUser(next http.Handler) http.Handler {
	return m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m.state(r).userID() != "" {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		if m.logInPage == nil || !isNavigation(r) {
			http.Error(w, "Please log in.", http.StatusUnauthorized)
			return
		}
		page := *m.logInPage
		query := page.Query()
		query.Set(nextParameter, r.RequestURI) // as the browser sent it: middleware may have changed r.URL
		page.RawQuery = query.Encode()
		http.Redirect(w, r, page.String(), http.StatusSeeOther)
	}))
}

// isNavigation reports whether the browser shows the answer as a page. Browsers that say so are those
// since 2023; of others all GETs count.
func isNavigation(r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	mode := r.Header.Get("Sec-Fetch-Mode")
	return mode == "" || mode == "navigate"
}

// NextPage returns where to redirect to after a log-in: the page that [Manager.RequireUser] sent the visitor
// away from, from the form or query value "next", or "/". It never leads to another site. The log-in
// page's form passes it on, in a hidden field or as it is in the page's own address.
func NextPage(r *http.Request) string {
	next := r.FormValue(nextParameter)
	// Browsers take a backslash for a slash, and leave out tabs and newlines.
	isUnsafe := func(c rune) bool { return c == '\\' || c < ' ' || c == 0x7f }
	if !strings.HasPrefix(next, "/") || strings.HasPrefix(next, "//") || strings.ContainsFunc(next, isUnsafe) {
		return "/"
	}
	return next
}
