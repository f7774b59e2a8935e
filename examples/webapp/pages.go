package main

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"html/template"
	"net/http"
	"time"
)

//go:embed templates static
var files embed.FS

// A page is what the layout shows.
type page struct {
	Name    string // its template
	Title   string
	Visitor *visitor // nil where it is not known who that is: in an outage
	Flash   string
	Content any // for the template
}

type failure struct {
	Text      string
	MayLogOut bool
}

var templates = parseTemplates("notes", "login", "devices", "error")

func parseTemplates(names ...string) map[string]*template.Template {
	stylesheet, err := files.ReadFile("static/style.css")
	if err != nil {
		panic(err)
	}
	hash := sha256.Sum256(stylesheet)
	functions := template.FuncMap{
		"stylesheet": func() string { return "/static/style.css?" + hex.EncodeToString(hash[:8]) },
		"date":       func(t time.Time) string { return t.Format("2 January 2006, 15:04 UTC") },
		"machine":    func(t time.Time) string { return t.Format(time.RFC3339) },
	}
	parsed := make(map[string]*template.Template)
	for _, name := range names {
		parsed[name] = template.Must(template.New("layout.html").Funcs(functions).
			ParseFS(files, "templates/layout.html", "templates/"+name+".html"))
	}
	return parsed
}

// render writes the page whole, or nothing and an error.
func render(w http.ResponseWriter, status int, p page) error {
	var body bytes.Buffer
	if err := templates[p.Name].Execute(&body, p); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = body.WriteTo(w) // the browser has gone
	return nil
}

// serveStatic lets browsers keep the files: the stylesheet's address changes with it.
func serveStatic(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "public, max-age=86400")
	http.ServeFileFS(w, r, files, "static/"+r.PathValue("file"))
}
