// Package adminpages has pages for whoever operates an application: how its sessions fare, and
// which sessions a user has, with buttons that end them.
//
// [New] takes the store and a [Guard], which is the application's own and says who may use the
// pages:
//
//	pages := adminpages.New(store, func(r *http.Request) (operator string, ok bool) {
//		session := sessions.Get(r)
//		return session.UserID, session.Values.IsAdmin
//	})
//	go pages.Record(ctx)
//	mux.Handle("/admin/sessions", sessions.Handler(pages))
//
// All pages have one address, so they can be mounted under any path. They are plain HTML without
// scripts, and load nothing from elsewhere. Requests from other sites change nothing
// ([http.CrossOriginProtection]). User ids are sent in the bodies of requests, and so do not appear
// in the access log. Tokens, keys and values appear nowhere.
package adminpages

import (
	"context"
	_ "embed"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/bridge"
)

// A Guard says who makes a request, by a name for the audit trail, and whether they may use the
// pages. It is called for each request. Wrap the pages in the middleware that it needs.
type Guard func(r *http.Request) (operator string, ok bool)

// Pages is an [http.Handler]. It is made by [New] and safe for concurrent use.
type Pages struct {
	store   *pgsession.Store
	guard   Guard
	device  func(*pgsession.Session) string
	audit   func(context.Context, Action)
	logger  *slog.Logger
	handler http.Handler
	history history

	counting sync.Mutex // held while the rows are counted
	mu       sync.Mutex
	counted  counted // the last count
}

// An Option changes what the pages do. It is given to [New].
type Option func(*Pages)

// WithDevice sets what describes a session's device, from the values that the application keeps in
// it: "Firefox on Linux", for instance. If describe panics, the session is shown without a device.
// The default describes none.
func WithDevice(describe func(*pgsession.Session) string) Option {
	return func(p *Pages) { p.device = describe }
}

// WithAudit sets what is told of each action, after it was done or has failed, for an audit trail.
// The page is sent after audit has returned, so audit must not take long. If audit panics, no page
// is sent, but what was ended stays ended. The default is none.
func WithAudit(audit func(context.Context, Action)) Option {
	return func(p *Pages) { p.audit = audit }
}

// WithLogger sets the logger. Each action is one line at level info, without the operator and the
// user. The default, also for nil, is [slog.Default].
func WithLogger(logger *slog.Logger) Option {
	return func(p *Pages) {
		if logger != nil {
			p.logger = logger
		}
	}
}

// An Action is what an operator did.
type Action struct {
	Operator string           // as the Guard named them
	Name     string           // "list", "show", "end", "end all", "end others"
	UserID   string           // of the sessions, if the operator named the user
	Handle   pgsession.Handle // the session that was shown, ended, or kept ("end others"); or zero
	Ended    int64            // how many live sessions were ended
	Err      error            // nil if it succeeded
}

// New returns the pages for a store. It panics if store or guard is nil: without a guard, everybody
// could log everybody out.
func New(store *pgsession.Store, guard Guard, opts ...Option) *Pages {
	if store == nil {
		panic("adminpages: New: nil store")
	}
	if guard == nil {
		panic("adminpages: New: nil guard; say who may use the pages")
	}
	p := &Pages{store: store, guard: guard, logger: slog.Default()}
	for _, opt := range opts {
		opt(p)
	}
	p.handler = http.NewCrossOriginProtection().Handler(http.HandlerFunc(p.serve))
	return p
}

// ServeHTTP serves the pages. It answers 403 if the Guard refuses, or if a form was sent by another
// site.
func (p *Pages) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.handler.ServeHTTP(w, r) }

func (p *Pages) serve(w http.ResponseWriter, r *http.Request) {
	operator, ok := p.guard(r)
	if !ok {
		http.Error(w, "You may not use these pages.", http.StatusForbidden)
		return
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		p.get(w, r, operator)
	case http.MethodPost:
		p.post(w, r, operator)
	default:
		w.Header().Set("Allow", "GET, HEAD, POST")
		http.Error(w, "These pages take GET and POST.", http.StatusMethodNotAllowed)
	}
}

// The names of form fields and query parameters.
const (
	actionField = "action"
	userField   = "user"
	handleField = "handle"

	// userHexField is a user id in hex. Browsers change other texts: their newlines, for instance.
	userHexField = "user-hex"
)

func (p *Pages) get(w http.ResponseWriter, r *http.Request, operator string) {
	if r.URL.Query().Has(handleField) {
		p.showSession(w, r, operator, r.URL.Query().Get(handleField), "")
		return
	}
	p.render(w, http.StatusOK, "overview", p.overview(r.Context()))
}

// maxFormSize bounds a form: a user id has at most 1,000 bytes, of which each may take three.
const maxFormSize = 8 << 10

func (p *Pages) post(w http.ResponseWriter, r *http.Request, operator string) {
	r.Body = http.MaxBytesReader(w, r.Body, maxFormSize)
	if err := r.ParseForm(); err != nil {
		http.Error(w, "The form could not be read.", http.StatusBadRequest)
		return
	}
	user, handle := r.PostForm.Get(userField), r.PostForm.Get(handleField)
	if r.PostForm.Has(userHexField) {
		exact, err := hex.DecodeString(r.PostForm.Get(userHexField))
		if err != nil {
			http.Error(w, "The form could not be read.", http.StatusBadRequest)
			return
		}
		user = string(exact)
	}
	// What was begun goes on if the operator's browser hangs up.
	ctx := context.WithoutCancel(r.Context())
	switch action := r.PostForm.Get(actionField); action {
	case "count":
		p.count(ctx)
		p.render(w, http.StatusOK, "overview", p.overview(r.Context()))
	case "list":
		p.showUser(w, r, operator, user, "")
	case "end":
		p.end(ctx, w, r, operator, user, handle)
	case "end all":
		n, err := p.store.DeleteByUser(ctx, user)
		p.done(ctx, Action{Operator: operator, Name: action, UserID: user, Ended: n, Err: err})
		p.showUser(w, r, operator, user, outcome(n, err))
	case "end others":
		kept, err := pgsession.ParseHandle(handle)
		var n int64
		if err == nil {
			n, err = p.store.DeleteByUser(ctx, user, kept)
		}
		p.done(ctx, Action{Operator: operator, Name: action, UserID: user, Handle: kept, Ended: n, Err: err})
		p.showUser(w, r, operator, user, outcome(n, err))
	default:
		http.Error(w, "There is no such action.", http.StatusBadRequest)
	}
}

// end ends one session, and shows the rest of the user's sessions if the operator came from them.
func (p *Pages) end(ctx context.Context, w http.ResponseWriter, r *http.Request, operator, user, handle string) {
	h, err := pgsession.ParseHandle(handle)
	switch {
	case err != nil:
	case user != "":
		err = p.store.Revoke(ctx, user, h)
	default:
		err = p.store.RevokeAny(ctx, h)
	}
	var ended int64
	if err == nil {
		ended = 1
	}
	p.done(ctx, Action{Operator: operator, Name: "end", UserID: user, Handle: h, Ended: ended, Err: err})
	if user != "" {
		p.showUser(w, r, operator, user, outcome(ended, err))
		return
	}
	p.showSession(w, r, operator, handle, outcome(ended, err))
}

// done tells of an action.
func (p *Pages) done(ctx context.Context, a Action) {
	attrs := []slog.Attr{slog.String("action", a.Name), slog.Int64("ended", a.Ended)}
	if !a.Handle.IsZero() {
		attrs = append(attrs, slog.String("session", a.Handle.String()))
	}
	level := slog.LevelInfo
	if a.Err != nil && !errors.Is(a.Err, pgsession.ErrNotFound) {
		level, attrs = slog.LevelError, append(attrs, slog.Any("error", a.Err))
	}
	p.logger.LogAttrs(ctx, level, "adminpages: an operator's action", attrs...)
	if p.audit != nil {
		p.audit(ctx, a)
	}
}

// counted is what a count found, and when.
type counted struct {
	pgsession.Count
	Keys []bridge.RowsOfKey
	At   time.Time // zero: never
	Err  error
}

// countInterval is how old a count is before the rows are counted again.
const countInterval = time.Minute

// count counts the rows. It does nothing if a count is under way, or was made a moment ago.
func (p *Pages) count(ctx context.Context) {
	if !p.counting.TryLock() {
		return
	}
	defer p.counting.Unlock()
	if last := p.lastCount(); last.Err == nil && time.Since(last.At) < countInterval {
		return
	}
	var c counted
	if c.Count, c.Err = p.store.Count(ctx); c.Err == nil {
		c.Keys, c.Err = bridge.RowsByKey(ctx, p.store)
	}
	c.At = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counted = c
}

func (p *Pages) lastCount() counted {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counted
}
