package httpsession

import (
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/pgsession/pgsession"
	responses "github.com/pgsession/pgsession/internal/cookies"
)

const (
	defaultCookieName = "session"
	guestSuffix       = "-guest"
	hostPrefix        = "__Host-"
	securePrefix      = "__Secure-"

	// rememberedAge is the most that browsers keep a cookie (RFC 6265bis, "The Max-Age Attribute").
	rememberedAge = 400 * 24 * time.Hour

	// maxTokens bounds the tokens of one request that are looked up. It is more than the 180
	// cookies that browsers keep for a site, so all of a request's are looked up.
	maxTokens = 256
)

// A name is one that a session cookie may have. Guests have a cookie of their own, since the
// response to a guest may arrive after that of a log-in, and must not replace the user's.
type name struct {
	text    string
	prefix  string // of text; "" over plain HTTP
	isGuest bool
}

// cookies says how the session cookies look.
type cookies struct {
	attributes http.Cookie // of those that are Secure; without name and value
	prefix     string      // of those that are Secure
	base       string      // of their names
	plainHTTP  bool        // requests without TLS get cookies that are not Secure

	// All names that are read, the user's before the guest's. In each half, the first is the one
	// that is set.
	overTLS, overPlainHTTP []name
}

func checkedCookie(c http.Cookie) http.Cookie {
	if c.Name == "" {
		c.Name = defaultCookieName
	}
	if c.Path == "" {
		c.Path = "/"
	}
	if c.SameSite == 0 || c.SameSite == http.SameSiteDefaultMode {
		c.SameSite = http.SameSiteLaxMode
	}
	c = http.Cookie{
		Name: c.Name, Path: c.Path, Domain: c.Domain, SameSite: c.SameSite, Partitioned: c.Partitioned,
		HttpOnly: true, Secure: true,
	}
	if err := c.Valid(); err != nil {
		panic("httpsession: WithCookie: " + err.Error())
	}
	if c.Path[0] != '/' {
		panic("httpsession: WithCookie: the Path must begin with a slash: browsers would take another")
	}
	lower := strings.ToLower(c.Name)
	if strings.HasPrefix(lower, "__host-") || strings.HasPrefix(lower, "__secure-") || strings.HasSuffix(lower, guestSuffix) {
		panic("httpsession: WithCookie: the prefix and the suffix of the name are added by this package")
	}
	return c
}

func newCookies(c http.Cookie, plainHTTP bool) cookies {
	made := cookies{
		base:       c.Name,
		attributes: c,
		prefix:     hostPrefix,
		plainHTTP:  plainHTTP && c.SameSite != http.SameSiteNoneMode && !c.Partitioned,
	}
	other := securePrefix
	if c.Domain != "" || c.Path != "/" {
		made.prefix, other = securePrefix, hostPrefix
	}
	secure := []string{made.prefix, other}
	made.overTLS = namesOf(c.Name, secure)
	if made.plainHTTP {
		made.overTLS = namesOf(c.Name, append(secure, ""))
		made.overPlainHTTP = namesOf(c.Name, append([]string{""}, secure...))
	}
	return made
}

func namesOf(base string, prefixes []string) (all []name) {
	for _, prefix := range prefixes {
		all = append(all, name{prefix + base, prefix, false})
	}
	for _, prefix := range prefixes {
		all = append(all, name{prefix + base + guestSuffix, prefix, true})
	}
	return all
}

func (c *cookies) names(r *http.Request) []name {
	if c.plainHTTP && r.TLS == nil {
		return c.overPlainHTTP
	}
	return c.overTLS
}

// A token is what a request presents.
type token struct {
	id      pgsession.ID
	isGuest bool
	place   int // of its cookie's name
}

// read returns the tokens in a request's cookies, those that count first before the others, and the
// places of the names that there are, as bits. A browser may send several cookies of one name, one
// for each path and domain that it was set for. What is no token of ours, such as the cookie of
// another library, is left out. It returns at most maxTokens+1.
func (c *cookies) read(r *http.Request, purpose string) (tokens []token, present uint) {
	names := c.names(r)
	for _, line := range r.Header["Cookie"] {
		for line != "" && len(tokens) <= maxTokens {
			var pair string
			pair, line, _ = strings.Cut(line, ";")
			text, value, _ := strings.Cut(strings.Trim(pair, " \t"), "=")
			place := slices.IndexFunc(names, func(n name) bool { return n.text == text })
			if place < 0 {
				continue
			}
			present |= 1 << place
			id, err := pgsession.ParseIDFor(purpose, strings.Trim(value, `"`))
			found := token{id, names[place].isGuest, place}
			if err == nil && !slices.ContainsFunc(tokens, found.isSame) {
				tokens = append(tokens, found)
			}
		}
	}
	if len(tokens) > 1 {
		slices.SortStableFunc(tokens, func(a, b token) int { return a.place - b.place })
	}
	return tokens, present
}

func (t token) isSame(other token) bool {
	return t.isGuest == other.isGuest && t.id.Handle() == other.id.Handle()
}

// set lets the response set a cookie. A maxAge of 0 is as long as the browser runs, and a negative
// one clears the cookie.
func (c *cookies) set(w http.ResponseWriter, n name, token string, maxAge time.Duration) {
	cookie := c.named(n)
	cookie.Value, cookie.MaxAge = token, int(maxAge.Seconds())
	responses.Set(w, &cookie)
}

// clear lets the response clear a cookie. Another release may have set it with another Domain or
// Path, unless its prefix rules these out.
func (c *cookies) clear(w http.ResponseWriter, r *http.Request, n name) {
	c.set(w, n, "", -time.Second)
	if n.prefix != hostPrefix {
		responses.ClearOthers(w, r, c.named(n))
	}
}

// named returns a cookie without its value.
func (c *cookies) named(n name) http.Cookie {
	cookie := c.attributes
	cookie.Name = n.text
	switch {
	case n.prefix == "":
		cookie.Secure = false
	case n.prefix != c.prefix:
		cookie.Domain, cookie.Path = "", "/"
	}
	return cookie
}

// plainHTTPHint returns what to tell a developer about a Secure cookie that goes over plain HTTP,
// or "". Behind a proxy there is nothing to tell.
func plainHTTPHint(r *http.Request) string {
	if r.TLS != nil {
		return ""
	}
	for _, header := range []string{"Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if r.Header[header] != nil {
			return ""
		}
	}
	switch _, isAddress, isLoopback := responses.SplitHost(r.Host); {
	case isLoopback:
		return "httpsession: a Secure cookie was set over plain HTTP to this machine. Chrome, Firefox and Edge keep it, " +
			"and Safari does not: WithPlainHTTP is for that. Behind a proxy that ends TLS, all is well"
	case isAddress:
		return "httpsession: a Secure cookie was set over plain HTTP to an address. Browsers do not keep it: " +
			"WithPlainHTTP is for that. Behind a proxy that ends TLS, all is well"
	}
	return ""
}

// setCookie lets the response set the cookie of a guest or a user.
func (m *Manager[V]) setCookie(w http.ResponseWriter, r *http.Request, st *requestState[V], id pgsession.ID, isGuest bool, maxAge time.Duration) {
	names := m.cookies.names(r)
	for place, name := range names {
		if name.isGuest != isGuest {
			continue
		}
		m.cookies.set(w, name, id.Token(), maxAge)
		st.cookies |= 1 << place
		if name.prefix != "" {
			m.hint(r)
		}
		return
	}
}

// hint logs once what a developer over plain HTTP should know.
func (m *Manager[V]) hint(r *http.Request) {
	hint := plainHTTPHint(r)
	if hint == "" {
		return
	}
	if _, isKnown := m.hints.LoadOrStore(hint, true); !isKnown {
		m.logger.LogAttrs(r.Context(), slog.LevelWarn, hint)
	}
}

// clearCookies lets the response clear the cookies of guests, or of users, that the request came
// with or the response sets. It leaves others alone, since a parallel response may just be setting
// one.
func (m *Manager[V]) clearCookies(w http.ResponseWriter, r *http.Request, st *requestState[V], ofGuests bool) {
	for place, name := range m.cookies.names(r) {
		if name.isGuest == ofGuests && st.cookies&(1<<place) != 0 {
			m.cookies.clear(w, r, name)
		}
	}
}
