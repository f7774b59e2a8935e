// Package cookies sets the session cookies of a response.
package cookies

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// Set lets a response set a cookie, in place of one of that name which it sets already (RFC 6265,
// section 4.1.1, allows one). It forbids caches to store the response.
func Set(w http.ResponseWriter, cookie *http.Cookie) {
	header := w.Header()
	header["Set-Cookie"] = slices.DeleteFunc(header["Set-Cookie"], func(line string) bool {
		return strings.HasPrefix(line, cookie.Name+"=")
	})
	http.SetCookie(w, cookie)
	header.Set("Cache-Control", "no-store")
}

// ClearOthers lets a response clear the cookies that have a cookie's name, and another Domain or
// Path than that. It tries those with which the browser would send it to this address, but no more
// than the closest three domains and the outermost three folders.
func ClearOthers(w http.ResponseWriter, r *http.Request, cookie http.Cookie) {
	const most = 3 // responses stay below the 4 KiB of headers that nginx takes
	domains, paths := []string{""}, []string{"/"}
	if domain, isAddress, _ := SplitHost(r.Host); !isAddress {
		for len(domains) <= most && strings.Contains(domain, ".") {
			domains = append(domains, domain)
			_, domain, _ = strings.Cut(domain, ".")
		}
	}
	path := ""
	for folder := range strings.SplitSeq(strings.Trim(AskedFor(r).EscapedPath(), "/"), "/") {
		if path += "/" + folder; folder != "" && len(paths) <= most {
			paths = append(paths, path)
		}
	}
	cleared := cookie
	cleared.Value, cleared.MaxAge = "", -1
	for _, cleared.Domain = range domains {
		for _, cleared.Path = range paths {
			isOther := cleared.Domain != cookie.Domain || cleared.Path != cookie.Path
			if isOther && cleared.Valid() == nil { // net/http would log a part that is not
				http.SetCookie(w, &cleared)
			}
		}
	}
}

// AskedFor returns the address that the browser asked for: middleware may have changed r.URL.
func AskedFor(r *http.Request) *url.URL {
	if asked, err := url.ParseRequestURI(r.RequestURI); err == nil {
		return asked
	}
	return r.URL
}

// SplitHost returns a Host header's name or address, and what it is.
func SplitHost(host string) (text string, isAddress, isLoopback bool) {
	text = host
	if name, _, err := net.SplitHostPort(host); err == nil {
		text = name
	}
	text = strings.ToLower(strings.TrimSuffix(text, "."))
	if text == "localhost" || strings.HasSuffix(text, ".localhost") {
		return text, false, true
	}
	address, err := netip.ParseAddr(strings.Trim(text, "[]"))
	return text, err == nil, err == nil && address.IsLoopback()
}
