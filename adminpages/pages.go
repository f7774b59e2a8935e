package adminpages

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgsession/pgsession"
)

var (
	//go:embed pages.html
	pagesHTML string

	//go:embed style.css
	style string

	pages = template.Must(template.New("").Funcs(template.FuncMap{
		"style": func() template.CSS { return template.CSS(style) },
		"time":  func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
		"iso":   func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
	}).Parse(pagesHTML))

	// contentSecurityPolicy allows the pages' own style, and forms to themselves.
	contentSecurityPolicy = "default-src 'none'; style-src 'sha256-" + styleHash() + "'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)

func styleHash() string {
	sum := sha256.Sum256([]byte(style))
	return base64.StdEncoding.EncodeToString(sum[:])
}

func (p *Pages) render(w http.ResponseWriter, code int, name string, data any) {
	var page bytes.Buffer
	if err := pages.ExecuteTemplate(&page, name, data); err != nil {
		p.logger.Error("adminpages: a page could not be made", "error", err)
		http.Error(w, "The page could not be made.", http.StatusInternalServerError)
		return
	}
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Security-Policy", contentSecurityPolicy)
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "same-origin")
	w.WriteHeader(code)
	w.Write(page.Bytes())
}

// An overview is the first page.
type overview struct {
	Health     pgsession.Health
	Counted    counted
	Charts     []chart
	Operations []operation
	Rows       []figure
	Sharing    []figure
}

// An operation is a line of the table of operations.
type operation struct {
	Name                                                   string
	Calls, Failed, Unreadable, Conflict, NotFound, Refused int64
	Mean                                                   string
}

// A figure is a number with what it means.
type figure struct{ Name, Value string }

func (p *Pages) overview(ctx context.Context) overview {
	stats := p.store.Stats()
	o := overview{Health: p.store.Health(ctx), Counted: p.lastCount(), Charts: p.charts()}
	for name, op := range stats.Operations {
		o.Operations = append(o.Operations, operation{
			Name: strings.ReplaceAll(name, "_", " "), Calls: op.Calls, Failed: op.Failed, Unreadable: op.Unreadable,
			Conflict: op.Conflict, NotFound: op.NotFound + op.Revoked, Refused: op.Refused,
			Mean: milliseconds(op.Duration / time.Duration(max(op.Calls, 1))),
		})
	}
	slices.SortFunc(o.Operations, func(a, b operation) int { return strings.Compare(a.Name, b.Name) })
	o.Rows = []figure{
		{"expired rows removed", strconv.FormatInt(stats.Cleaned, 10)},
		{"last clean-up", never(stats.LastCleanup)},
		{"it took", milliseconds(stats.LastCleanupDuration)},
		{"rows that were tampered with", strconv.FormatInt(stats.Tampered, 10)},
		{"rows under an unknown key", strconv.FormatInt(stats.UnknownKey, 10)},
	}
	for kind, sharing := range stats.Sharing {
		o.Sharing = append(o.Sharing, figure{kind, fmt.Sprintf("%.1f", float64(sharing.Calls)/float64(max(sharing.Statements, 1)))})
	}
	slices.SortFunc(o.Sharing, func(a, b figure) int { return strings.Compare(a.Name, b.Name) })
	return o
}

func never(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

func milliseconds(d time.Duration) string {
	return strconv.FormatFloat(float64(d)/float64(time.Millisecond), 'f', 2, 64) + " ms"
}

// A userPage lists a user's sessions.
type userPage struct {
	UserID   string
	Sessions []session
	More     bool   // there are more than the page shows
	Outcome  string // of the action that led here
	Problem  string
}

// A session is a line of a list.
type session struct {
	Handle     string
	UserID     string
	Device     string
	Begun      time.Time
	LastSeen   time.Time
	Expires    time.Time
	Ends       time.Time
	Unreadable bool
}

const maxListed = 200

func (p *Pages) showUser(w http.ResponseWriter, r *http.Request, operator, user, outcome string) {
	page := userPage{UserID: user, Outcome: outcome}
	found, err := p.store.FindByUser(r.Context(), user, maxListed+1)
	if outcome == "" {
		p.done(r.Context(), Action{Operator: operator, Name: "list", UserID: user, Err: err})
	}
	if err != nil {
		page.Problem = problem(err)
	}
	if page.More = len(found) > maxListed; page.More {
		found = found[:maxListed]
	}
	for _, s := range found {
		page.Sessions = append(page.Sessions, p.line(s))
	}
	p.render(w, statusOf(err), "user", page)
}

func (p *Pages) line(s *pgsession.Session) session {
	line := session{
		Handle: s.Handle.String(), UserID: s.UserID, Begun: s.CreatedAt, LastSeen: lastSeen(s), Expires: s.ExpiresAt, Ends: s.EndsAt,
		Unreadable: errors.Is(s.Decode(new(any)), pgsession.ErrUnreadable),
	}
	if p.device != nil && !line.Unreadable {
		line.Device = p.describe(s)
	}
	return line
}

// describe survives a panic. A user who stores what the application does not expect must not hide
// the sessions from the operator.
func (p *Pages) describe(s *pgsession.Session) (device string) {
	defer func() {
		if panicked := recover(); panicked != nil {
			p.logger.Error("adminpages: the function of WithDevice panicked", "type", fmt.Sprintf("%T", panicked))
		}
	}()
	return p.device(s)
}

// lastSeen returns about when a session was last prolonged. It is zero if the row does not tell,
// since the session's end has cut its expiry.
func lastSeen(s *pgsession.Session) time.Time {
	if s.ExpiresAt.Equal(s.EndsAt) {
		return time.Time{}
	}
	return s.ExpiresAt.Add(-s.IdleTimeout)
}

// A sessionPage shows one session.
type sessionPage struct {
	Session *session
	Outcome string
	Problem string
}

func (p *Pages) showSession(w http.ResponseWriter, r *http.Request, operator, handle, outcome string) {
	page := sessionPage{Outcome: outcome}
	h, err := pgsession.ParseHandle(handle)
	if err == nil {
		var found *pgsession.Session
		if found, err = p.store.Find(r.Context(), h); err == nil {
			line := p.line(found)
			page.Session = &line
		}
	}
	if outcome == "" {
		p.done(r.Context(), Action{Operator: operator, Name: "show", Handle: h, Err: err})
	}
	if errors.Is(err, pgsession.ErrUnreadable) {
		page.Session = &session{Handle: handle, Unreadable: true}
	} else if err != nil && outcome == "" {
		page.Problem = problem(err)
	}
	p.render(w, statusOf(err), "session", page)
}

// outcome says what an action has done.
func outcome(ended int64, err error) string {
	switch {
	case errors.Is(err, pgsession.ErrInvalidID):
		return "Nothing was ended: this is not a session's handle."
	case errors.Is(err, pgsession.ErrNotFound):
		return "The session was over already."
	case err != nil:
		return fmt.Sprintf("It failed. Sessions ended before that: %d. Others may still be logged in. Please try again.", ended)
	}
	return fmt.Sprintf("Sessions ended: %d.", ended)
}

func problem(err error) string {
	switch {
	case errors.Is(err, pgsession.ErrInvalidID):
		return "This is not a session's handle: 64 hex digits."
	case errors.Is(err, pgsession.ErrRevoked):
		return "This session was ended."
	case errors.Is(err, pgsession.ErrNotFound):
		return "There is no such session, or it has expired."
	case errors.Is(err, pgsession.ErrTooLarge):
		return "This user id is too long."
	}
	return "The database could not be asked. Please try again."
}

func statusOf(err error) int {
	switch {
	case err == nil, errors.Is(err, pgsession.ErrUnreadable):
		return http.StatusOK
	case errors.Is(err, pgsession.ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, pgsession.ErrTooLarge):
		return http.StatusBadRequest
	}
	return http.StatusServiceUnavailable
}
