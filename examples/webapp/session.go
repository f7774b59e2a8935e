package main

import (
	"context"
	"net/http"
	"time"

	"github.com/pgsession/pgsession"
)

const (
	sessionTTL       = 12 * time.Hour     // without a request
	absoluteLifetime = 7 * 24 * time.Hour // since the log-in
)

// values is what a session keeps.
type values struct {
	Browser string `json:"browser"`
	Notes   []note `json:"notes,omitempty"`
	Flash   string `json:"flash,omitempty"` // for the next page to show, once
}

// A visitor is whoever sent a request. Guests have no session before they have something to keep.
type visitor struct {
	ID      pgsession.ID
	Session *pgsession.Session // nil where there is none
	Values  values
}

// User returns the user's name, "" for a guest.
func (v *visitor) User() string {
	if v.Session == nil {
		return ""
	}
	return v.Session.UserID
}

// visitor loads the request's session, and keeps it alive. The error is ErrNotFound where the cookie's session has ended.
func (a *App) visitor(w http.ResponseWriter, r *http.Request) (*visitor, error) {
	id := a.sessionID(r)
	if id.IsZero() {
		return &visitor{}, nil
	}
	session, err := a.sessions.Load(r.Context(), id)
	if err != nil {
		return nil, err
	}
	if session.TTL() < sessionTTL*9/10 {
		if err := a.sessions.Touch(r.Context(), id, sessionTTL); err != nil {
			return nil, err
		}
		a.setCookie(w, id)
	}
	kept, err := pgsession.Decode[values](session)
	return &visitor{id, session, kept}, err
}

// user is visitor for what is for users alone. The error is ErrNotFound for a guest too.
func (a *App) user(w http.ResponseWriter, r *http.Request) (*visitor, error) {
	v, err := a.visitor(w, r)
	if err == nil && v.User() == "" {
		return nil, pgsession.ErrNotFound
	}
	return v, err
}

func (a *App) createSession(w http.ResponseWriter, r *http.Request, data pgsession.Data) error {
	session, err := a.sessions.Create(r.Context(), data, sessionTTL)
	if err == nil {
		a.setCookie(w, session.ID)
	}
	return err
}

func (a *App) cycleSession(w http.ResponseWriter, r *http.Request, oldID pgsession.ID, data pgsession.Data) error {
	newID := pgsession.NewID()
	err := a.sessions.Cycle(r.Context(), oldID, newID, data, sessionTTL)
	if err == nil {
		a.setCookie(w, newID)
	}
	return err
}

// change changes a session's values. It loses no change that another request makes meanwhile, and so may run apply again.
func (a *App) change(ctx context.Context, id pgsession.ID, apply func(*values) error) error {
	_, err := a.sessions.Update(ctx, id, 0, func(session *pgsession.Session) (any, error) {
		kept, err := pgsession.Decode[values](session)
		if err != nil {
			return nil, err
		}
		err = apply(&kept)
		return kept, err
	})
	return err
}

// redirectWith has the browser load a page that begins with a message.
func (a *App) redirectWith(w http.ResponseWriter, r *http.Request, v *visitor, path, message string) error {
	err := a.change(r.Context(), v.ID, func(kept *values) error {
		kept.Flash = message
		return nil
	})
	if err == nil {
		http.Redirect(w, r, path, http.StatusSeeOther)
	}
	return err
}

// takeFlash returns the message that was left for the visitor, if any, and forgets it.
func (a *App) takeFlash(w http.ResponseWriter, r *http.Request, v *visitor) (flash string, err error) {
	if v.Values.Flash == "" {
		return "", nil
	}
	err = a.change(r.Context(), v.ID, func(kept *values) error {
		flash, kept.Flash = kept.Flash, ""
		v.Values = *kept
		return nil
	})
	if err == nil && v.User() == "" && len(v.Values.Notes) == 0 {
		// The guest's session was for the message alone.
		v.Session = nil
		a.clearCookie(w)
		err = a.sessions.Delete(r.Context(), v.ID)
	}
	return flash, err
}

// sessionID returns the id in the request's cookie, or the zero ID.
func (a *App) sessionID(r *http.Request) pgsession.ID {
	cookie, err := r.Cookie(a.cookieName())
	if err != nil {
		return pgsession.ID{}
	}
	id, _ := pgsession.ParseID(cookie.Value) // what is no token is no session
	return id
}

func (a *App) setCookie(w http.ResponseWriter, id pgsession.ID) {
	http.SetCookie(w, a.cookie(id.Token(), int(sessionTTL.Seconds())))
}

func (a *App) clearCookie(w http.ResponseWriter) {
	http.SetCookie(w, a.cookie("", -1))
}

func (a *App) cookie(value string, maxAge int) *http.Cookie {
	return &http.Cookie{
		Name: a.cookieName(), Value: value, MaxAge: maxAge,
		Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: a.secure,
	}
}

// cookieName has the prefix by which browsers take the cookie over TLS alone, and from this host alone.
func (a *App) cookieName() string {
	if a.secure {
		return "__Host-session"
	}
	return "session"
}
