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
// [Manager.Handler] loads the session of each request that has a cookie. [Manager.Get] then says
// who the user is and what the session holds, [Manager.Update] changes what it holds, and
// [Manager.LogIn] and [Manager.LogOut] do what their names say. [Manager.RequireUser] keeps guests
// out. The Example of this package is a whole program.
//
// # Guests and users
//
// A visitor who has not logged in is a guest. A guest has no session, no cookie and no row in the
// database before the first Update. Requests without a cookie cost no I/O. A log-in keeps the
// guest's values, so a cart that was filled before is still there. Values never go from one user to
// another.
//
// # When something is written
//
// Each call writes to the store at once and returns its error while the handler can still answer
// "please try again". Nothing is saved after the handler returns. The [http.ResponseWriter] is the
// server's own, so flushing, hijacking, [http.ResponseController], panics and streams work as they
// do without sessions.
//
// Four calls set or clear a cookie: a guest's first Update, LogIn, RenewID and LogOut. Call them
// before the first byte of the response, since headers that are set later never reach the browser.
// They also set Cache-Control to no-store, so that no cache gives one visitor's cookie to another.
// Do not change that header afterwards. A page that shows what Get returned, and sets no cookie,
// must be kept from shared caches by the application: "Cache-Control: private" does that.
//
// # Ended stays ended
//
// A session that was logged out, here or elsewhere, never comes back. A request that was in flight
// when it ended gets [pgsession.ErrNotFound] from Update, RenewID and also from LogIn: a new
// session of that user needs a new request, in which the user proves again who they are. To change
// the id after a change of the password, call RenewID, and not LogIn.
//
// # Requests that overlap
//
// Browsers send requests in parallel, and their responses arrive in any order. So a cookie is set
// only if the session's id changes, and it is not cleared because a session was not found: another
// response may just have replaced it. Sessions of guests and of users have cookies of different
// names, so that no response to a guest can replace the cookie of a log-in that happened meanwhile.
// Changes of parallel requests are all kept, or their requests get an error.
//
// There are two exceptions. The cookie of a remembered user is set anew before browsers forget it:
// see [WithRemember]. And if a guest's request arrives with the old cookie after a log-in has moved
// the session, that cookie is cleared, and Update returns ErrNotFound: nobody would see the change.
//
// RenewID, and a LogIn of the same user, give a session another id while the visitor stays the
// same. A request that arrives with the old id afterwards finds no session. Its Update, LogIn,
// RenewID and LogOut return ErrNotFound, and no cookie is cleared: the browser has the new one, or
// will have it soon. If the answer with the new cookie was lost, the visitor has the old one. It is
// treated in this way for a minute, and then as one whose session has ended.
//
// If a guest's first requests run in parallel and call Update, each begins a session. The browser
// keeps one, and the others expire unused.
//
// The context of an [http.Request] ends when the client hangs up. Update, LogIn and RenewID then
// fail, and may have taken effect, as with every write that fails in this way. LogOut goes on. To
// let an Update go on too, give it r.WithContext(context.WithoutCancel(r.Context())).
//
// # If the database cannot be asked
//
// Handler does not call the application. It answers 503 with Retry-After, or as [WithErrorHandler]
// says. The cookie stays, and users are still logged in when the database is back. Handlers call
// [Manager.Error] to give the same answer for the error of an Update, LogIn, RenewID or LogOut.
//
// # How long a session lives
//
// A session ends when it was idle for [WithTTL]. Handler prolongs it when a tenth of that time has
// passed, so most requests write nothing. [Manager.Passive] does not prolong it: it is for requests
// that no person makes. The cookie lasts as long as the browser runs. After a log-in with
// [Remember] both last longer: see [WithRemember]. The database alone decides whether a session has
// ended, so a cookie that outlives its session opens nothing.
//
// # The cookie
//
// The cookie is HttpOnly, SameSite=Lax and Secure, and its name begins with __Host-, or with
// __Secure- if [WithCookie] sets a Domain or another Path. Chrome, Firefox, Edge and curl send such
// cookies to http://localhost too. Safari does not: [WithPlainHTTP] is for development with it, and
// for networks without TLS.
//
// SameSite=Lax keeps most requests that other sites make without the cookie, but it is no full
// protection against cross-site request forgery. Wrap the application in
// [http.CrossOriginProtection]: see the example.
//
// A site below the same domain, such as blog.example.com beside shop.example.com, can give a
// browser cookies whose names begin with __Secure-. It can make a visitor a user or a guest of its
// choice in that way, and plant what such a guest has in the cart into the visitor's log-in. It
// cannot hide or replace a cookie whose name begins with __Host-.
//
// # Several kinds of sessions
//
// Tokens are worth nothing outside of the Manager that issued them. Two Managers on one store have
// cookies of different names ([WithCookie]): customers and staff, for instance, or people in a
// browser and programs with an API token ([WithBearer]). User ids are the table's. If they overlap,
// each kind needs a table of its own: see [Manager].
//
// # Devices, log out everywhere, administration
//
// The store's own methods do that, with [Session.UserID] and [Session.Handle]: FindByUser lists a
// user's sessions, Revoke ends one, DeleteByUser all or all but this one, RevokeAny any user's. See
// the examples. [Manager.Watch] ends what is still open in a revoked session's tab.
// [WithMaxSessions] limits how many sessions a user has, and [WithEvents] tells an audit trail what
// happens.
//
// # Changing the type of the values
//
// Values are stored as JSON. During a deployment, releases with different types run side by side.
// What a release does not know of the stored object, it keeps: members that V has no field for stay
// through Update, LogIn and RenewID, also those of structs inside V and of the elements of its maps
// and lists. An element of a list keeps them wherever it goes, and if it is changed itself, as long
// as the list has the same length. So a field that an application no longer has stays in its
// sessions until they end. A field that is added is zero in earlier sessions. A nil change function
// leaves the stored values as they are, byte for byte.
//
// A type with methods such as UnmarshalJSON has all members to itself. With UnmarshalJSON, V
// converts what earlier releases wrote. Values that do not decode into V begin anew, and a warning
// is logged, without them. The user stays logged in. Values that would not decode again are refused
// with [pgsession.ErrEncode]: those with a field of type error, for instance, or of a type that has
// MarshalText alone.
//
// # Errors
//
// Handlers meet these: [pgsession.ErrNotFound] if the session ended while the request ran,
// [pgsession.ErrTooLarge] and [pgsession.ErrEncode] if the values cannot be stored,
// [pgsession.ErrConflict] if too many others change the same session, and whatever their own
// functions return. Other errors come from the database, or say that a call was wrong, such as a
// LogIn after the first byte of the response.
package httpsession
