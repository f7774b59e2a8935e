package recipes

import (
	"maps"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"

	"github.com/pgsession/pgsession/httpsession"
)

// Gateway passes users' requests on to a service that knows no sessions. The service learns who the
// user is, and never the token.
func Gateway[V any](sessions *httpsession.Manager[V], service *url.URL) http.Handler {
	names := sessions.CookieNames()
	return sessions.RequireUser(&httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(service)
			p.SetXForwarded()
			p.Out.Header.Del("Cookie")
			for _, cookie := range p.In.Cookies() {
				if !slices.Contains(names, cookie.Name) {
					p.Out.AddCookie(cookie)
				}
			}
			// Services take X_User for X-User, if they have headers as CGI does.
			maps.DeleteFunc(p.Out.Header, func(name string, _ []string) bool {
				return strings.EqualFold(strings.ReplaceAll(name, "_", "-"), "X-User")
			})
			p.Out.Header.Set("X-User", sessions.Get(p.In).UserID)
		},
		ModifyResponse: func(response *http.Response) error { // the service sets no session cookie
			response.Header["Set-Cookie"] = slices.DeleteFunc(response.Header["Set-Cookie"], func(line string) bool {
				name, _, _ := strings.Cut(line, "=")
				return slices.Contains(names, strings.TrimSpace(name))
			})
			return nil
		},
	})
}
