package main

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"html/template"
	"net/http"
	"time"

	"github.com/pgsession/pgsession/httpsession"
)

//go:embed templates static
var files embed.FS

// A page is what the layout shows.
type page struct {
	Name      string // of its template
	Title     string
	Session   *httpsession.Session[values] // nil if it is not known, in an outage
	IsAdmin   bool
	EndReason string // if the session has ended
	Flash     string
	Content   any // for the template
}

var templates = parseTemplates("notes", "login", "devices", "ended", "error")

func parseTemplates(names ...string) map[string]*template.Template {
	functions := template.FuncMap{
		"asset":   assetURL,
		"date":    func(t time.Time) string { return t.UTC().Format("2 Jan 2006, 15:04 UTC") },
		"machine": func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
	}
	parsed := make(map[string]*template.Template)
	for _, name := range names {
		parsed[name] = template.Must(template.New("layout.html").Funcs(functions).
			ParseFS(files, "templates/layout.html", "templates/"+name+".html"))
	}
	return parsed
}

// assetURL returns a file's address, which changes with its content.
func assetURL(name string) (string, error) {
	content, err := files.ReadFile("static/" + name)
	hash := sha256.Sum256(content)
	return "/static/" + name + "?" + hex.EncodeToString(hash[:8]), err
}

// show answers with a page of the request's session, and takes the message out that was left for
// it.
func (a *App) show(w http.ResponseWriter, r *http.Request, status int, p page) error {
	if a.sessions.Get(r).Values.Flash != "" { // pages without a message write nothing
		err := a.sessions.Update(w, r, func(v *values) error {
			p.Flash, v.Flash = v.Flash, ""
			return nil
		})
		if err != nil {
			return err
		}
	}
	session := a.sessions.Get(r)
	p.Session = &session
	a.write(w, r, status, p)
	return nil
}

// write answers with a whole page.
func (a *App) write(w http.ResponseWriter, r *http.Request, status int, p page) {
	if p.Session != nil {
		p.IsAdmin, p.EndReason = a.accounts[p.Session.UserID].IsAdmin, endReason(r)
	}
	var body bytes.Buffer
	if err := templates[p.Name].Execute(&body, p); err != nil {
		a.log.ErrorContext(r.Context(), "webapp: a page was not rendered", "page", p.Name, "error", err)
		http.Error(w, "This page cannot be shown.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = body.WriteTo(w) // an error means that the browser has gone
}

// serveStatic lets browsers keep the files.
func serveStatic(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "public, max-age=86400")
	http.ServeFileFS(w, r, files, "static/"+r.PathValue("file"))
}
