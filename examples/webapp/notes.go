package main

import (
	"crypto/rand"
	"errors"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/pgsession/pgsession"
)

const (
	maxNotes      = 50
	maxNoteLength = 200 // characters
)

type note struct {
	ID   string `json:"id"`
	Text string `json:"text"`
}

type notesContent struct {
	Notes     []note
	MaxLength int
	Text      string // as it was typed
	Problem   string // what is wrong with it
}

func (a *App) showNotes(w http.ResponseWriter, r *http.Request) error {
	v, err := a.visitor(w, r)
	if err != nil {
		return err
	}
	flash, err := a.takeFlash(w, r, v)
	if err != nil {
		return err
	}
	return renderNotes(w, v, http.StatusOK, flash, notesContent{})
}

func renderNotes(w http.ResponseWriter, v *visitor, status int, flash string, content notesContent) error {
	content.Notes, content.MaxLength = v.Values.Notes, maxNoteLength
	return render(w, status, page{Name: "notes", Title: "Notes", Visitor: v, Flash: flash, Content: content})
}

var errTooManyNotes = errors.New("too many notes")

func (a *App) addNote(w http.ResponseWriter, r *http.Request) error {
	v, err := a.visitor(w, r)
	if err != nil {
		return err
	}
	text := strings.TrimSpace(r.PostFormValue("text"))
	if problem := checkNote(text); problem != "" {
		return renderNotes(w, v, http.StatusUnprocessableEntity, "", notesContent{Text: text, Problem: problem})
	}
	added := note{ID: rand.Text(), Text: text}
	if v.Session == nil {
		err = a.createSession(w, r, pgsession.Data{Values: values{Browser: browserName(r.UserAgent()), Notes: []note{added}}})
	} else {
		err = a.change(r.Context(), v.ID, func(kept *values) error {
			if len(kept.Notes) >= maxNotes {
				return errTooManyNotes
			}
			kept.Notes = append(kept.Notes, added)
			return nil
		})
	}
	switch {
	case errors.Is(err, errTooManyNotes):
		return renderNotes(w, v, http.StatusUnprocessableEntity, "", notesContent{Text: text, Problem: "There is no room for more notes. Remove one first."})
	case err != nil:
		return err
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
	return nil
}

func checkNote(text string) (problem string) {
	switch {
	case text == "":
		return "Write something first."
	case utf8.RuneCountInString(text) > maxNoteLength:
		return "That is too long for a note."
	}
	return ""
}

func (a *App) removeNote(w http.ResponseWriter, r *http.Request) error {
	v, err := a.visitor(w, r)
	if err != nil {
		return err
	}
	if v.Session != nil {
		unwanted := r.PostFormValue("id")
		err = a.change(r.Context(), v.ID, func(kept *values) error {
			kept.Notes = slices.DeleteFunc(kept.Notes, func(n note) bool { return n.ID == unwanted })
			return nil
		})
	}
	if err == nil {
		http.Redirect(w, r, "/", http.StatusSeeOther)
	}
	return err
}
