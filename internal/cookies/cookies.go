// Package cookies sets the session cookies of a response.
package cookies

import (
	"net/http"
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
