package httpsession

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/pgsession/pgsession"
)

const (
	defaultCookieName = "session"
	guestSuffix       = "-guest"
	hostPrefix        = "__Host-"
	securePrefix      = "__Secure-"

	// rememberedAge is the most that browsers keep a cookie (RFC 6265bis, "The Max-Age Attribute").
	rememberedAge = 400 * 24 * time.Hour

	// maxSameName bounds the cookies of one name that are looked up, since each may cost a query.
	maxSameName = 4
)

// An owner is whose session a cookie names. Guests have a cookie of their own, since the response to a guest
// may arrive after that of a log-in, and must not replace the user's.
type owner int

const (
	user owner = iota
	guest
)

// A cookie says how the session cookies look.
type cookie struct {
	attributes    http.Cookie // without name and value
	secureOnly    bool        // on loopback hosts too
	plain, secure [2]string   // the names by owner, without and with the prefix
}

func newCookie(c http.Cookie) cookie {
	if c.Name == "" {
		c.Name = defaultCookieName
	}
	if c.Path == "" {
		c.Path = "/"
	}
	if c.SameSite == 0 || c.SameSite == http.SameSiteDefaultMode {
		c.SameSite = http.SameSiteLaxMode
	}
	prefix := hostPrefix
	if c.Domain != "" || c.Path != "/" {
		prefix = securePrefix
	}
	made := cookie{
		attributes: http.Cookie{Path: c.Path, Domain: c.Domain, SameSite: c.SameSite, Partitioned: c.Partitioned, HttpOnly: true},
		secureOnly: c.Secure || c.Partitioned || c.SameSite == http.SameSiteNoneMode,
		plain:      [2]string{user: c.Name, guest: c.Name + guestSuffix},
		secure:     [2]string{user: prefix + c.Name, guest: prefix + c.Name + guestSuffix},
	}
	example := made.attributes
	example.Name, example.Secure = made.secure[user], true
	if err := example.Valid(); err != nil {
		panic("httpsession: WithCookie: " + err.Error())
	}
	if name := strings.ToLower(c.Name); strings.HasPrefix(name, "__host-") || strings.HasPrefix(name, "__secure-") {
		panic("httpsession: WithCookie: the name's prefix is added by this package")
	}
	return made
}

func (c cookie) isSecure(r *http.Request) bool { return c.secureOnly || !isPlainLoopback(r) }

func (c cookie) names(r *http.Request) [2]string {
	if c.isSecure(r) {
		return c.secure
	}
	return c.plain
}

// isPlainLoopback reports whether a request came over plain HTTP to a loopback host, and through no proxy,
// behind which the browser may see another host.
func isPlainLoopback(r *http.Request) bool {
	if r.TLS != nil {
		return false
	}
	for _, header := range []string{"Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if r.Header[header] != nil {
			return false
		}
	}
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	address, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && address.IsLoopback()
}

// ids returns the ids that a request's cookies bear, the user's before the guest's. A browser may send
// several cookies of one name, one for each path and domain that it was set for. What is no id of ours,
// such as the cookie of an earlier session library, is left out. It also returns which cookies there are.
func (c cookie) ids(r *http.Request) (ids []pgsession.ID, has [2]bool) {
	if len(r.Header["Cookie"]) == 0 {
		return nil, has
	}
	for of, name := range c.names(r) {
		cookies, before := r.CookiesNamed(name), len(ids)
		has[of] = len(cookies) > 0
		for _, cookie := range cookies {
			id, err := pgsession.ParseID(cookie.Value)
			if err == nil && !containsID(ids, id) && len(ids)-before < maxSameName {
				ids = append(ids, id)
			}
		}
	}
	return ids, has
}

func containsID(ids []pgsession.ID, id pgsession.ID) bool {
	return slices.ContainsFunc(ids, func(other pgsession.ID) bool { return other.Handle() == id.Handle() })
}

// set lets the response set a cookie, in place of one of that name which it sets already (RFC 6265 allows
// one). A maxAge of 0 is as long as the browser runs, and a negative one clears the cookie.
func (c cookie) set(w http.ResponseWriter, r *http.Request, of owner, token string, maxAge time.Duration) {
	cookie := c.attributes
	cookie.Name, cookie.Value, cookie.MaxAge, cookie.Secure = c.names(r)[of], token, int(maxAge.Seconds()), c.isSecure(r)
	header := w.Header()
	header["Set-Cookie"] = slices.DeleteFunc(header["Set-Cookie"], func(line string) bool {
		return strings.HasPrefix(line, cookie.Name+"=")
	})
	http.SetCookie(w, &cookie)
	header.Set("Cache-Control", "no-store")
}

func (c cookie) clear(w http.ResponseWriter, r *http.Request, of owner) {
	c.set(w, r, of, "", -time.Second)
}
