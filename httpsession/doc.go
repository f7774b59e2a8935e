// Package httpsession gives applications on net/http sessions that a [pgsession.Store] keeps.
//
// The application declares a struct for what a session holds, and calls [New] with it:
//
//	type Values struct {
//		Cart []string `json:"cart,omitempty"`
//	}
//
//	sessions := httpsession.New[Values](store)
//	http.ListenAndServe("localhost:8080", sessions.Handler(mux))
//
// [Manager.Handler] loads the session of each request that has a cookie. [Manager.Get] then says who the
// user is and what the session holds, [Manager.Update] changes what it holds, and [Manager.LogIn] and
// [Manager.LogOut] do what their names say. [Manager.RequireUser] keeps guests out. The Example of this
// package is a whole program.
//
// # Guests and users
//
// A visitor who has not logged in is a guest. A guest has no session, no cookie and no row in the
// database before the first Update. Requests without a cookie cost no I/O. A log-in keeps the guest's
// values, so a cart that was filled before is still there. Values never go from one user to another.
//
// # When something is written
//
// Each call writes to the store at once and returns its error while the handler can still answer
// "please try again". Nothing is saved after the handler returns. The [http.ResponseWriter] is the
// server's own, so flushing, hijacking, [http.ResponseController], panics and streams work as they do
// without sessions.
//
// Three calls set a cookie: a guest's first Update, LogIn and LogOut. Call them before the first byte of
// the response, since headers that are set later never reach the browser. They also set Cache-Control to
// no-store, so that no cache gives one visitor's cookie to another. Do not change that header
// afterwards. A page that shows what Get returned, and sets no cookie, must be kept from shared caches by
// the application: "Cache-Control: private" does that.
//
// # Requests that overlap
//
// Browsers send requests in parallel, and their responses arrive in any order. So a cookie is set only if
// the session's id changes, and it is never cleared because a session was not found: another response may
// just have replaced it. Sessions of guests and of users have cookies of different names, so that no
// response to a guest can replace the cookie of a log-in that happened meanwhile. Changes of parallel
// requests are all kept.
//
// If a guest's first requests run in parallel and call Update, each begins a session. The browser keeps
// one, and the others expire unused. If a log-in or a log-out in another tab ends the session while a
// request runs, Update returns [pgsession.ErrNotFound] and sets no cookie. If a guest's request arrives
// with the old cookie just after a log-in, its change goes to a new guest session, which the browser does
// not show while the user is logged in.
//
// The context of an [http.Request] ends when the client hangs up. Update and LogIn then fail, and may have
// taken effect, as with every write that fails in this way. LogOut goes on. To let an Update go on too,
// give it r.WithContext(context.WithoutCancel(r.Context())).
//
// # If the database cannot be asked
//
// Handler does not call the application. It answers 503 with Retry-After, or as [WithErrorHandler] says.
// The cookie stays, and users are still logged in when the database is back. Handlers call
// [Manager.Error] to give the same answer for the error of an Update, LogIn or LogOut.
//
// # How long a session lives
//
// A session ends when it was idle for [WithTTL]. Handler prolongs it when a tenth of that time has passed,
// so most requests write nothing. The cookie lasts as long as the browser runs. After a log-in with
// [Remember] both last longer: see [WithRemember]. The database alone decides whether a session has
// ended, so a cookie that outlives its session opens nothing.
//
// # The cookie
//
// The cookie is HttpOnly, SameSite=Lax and Secure, and its name begins with __Host-, or with __Secure- if
// [WithCookie] sets a Domain or another Path. The exception is plain HTTP to a loopback host such as
// localhost:8080. The cookie is then neither Secure nor prefixed, since some browsers refuse such cookies
// there. A proxy that ends TLS must pass the Host header on, or set X-Forwarded-Proto. Otherwise its
// requests look like plain HTTP to a loopback host.
//
// SameSite=Lax keeps most requests that other sites make without the cookie, but it is no full protection
// against cross-site request forgery. Wrap the application in [http.CrossOriginProtection]: see the
// example.
//
// # Devices, log out everywhere, administration
//
// The store's own methods do that, with [Session.UserID] and [Session.Handle]: FindByUser lists a user's
// sessions, Revoke ends one, DeleteByUser all or all but this one, RevokeAny any user's. See the examples.
//
// # Changing the type of the values
//
// Values are stored as JSON. A field that is added is zero in earlier sessions, and one that is removed is
// dropped by their next Update. A renamed field is both. If a field changes its type, the values of
// earlier sessions no longer decode, unless V has an UnmarshalJSON that takes them. They then begin anew,
// and a warning is logged. In all cases the user stays logged in.
//
// # Errors
//
// Handlers meet these: [pgsession.ErrNotFound] if the session ended while the request ran,
// [pgsession.ErrTooLarge] and [pgsession.ErrEncode] if the values cannot be stored,
// [pgsession.ErrConflict] if too many others change the same session, and whatever their own functions
// return. Other errors come from the database.
package httpsession
