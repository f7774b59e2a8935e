package main

import (
	"crypto/rand"
	"errors"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"
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
	MaxLength int
	Text      string // as it was typed
	Problem   string // what is wrong with it
}

func (a *App) showNotes(w http.ResponseWriter, r *http.Request) error {
	return a.show(w, r, http.StatusOK, page{Name: "notes", Title: "Notes", Content: notesContent{MaxLength: maxNoteLength}})
}

var errTooManyNotes = errors.New("too many notes")

func (a *App) addNote(w http.ResponseWriter, r *http.Request) error {
	text := strings.TrimSpace(r.PostFormValue("text"))
	problem := checkNote(text)
	if problem == "" {
		hasEnded := a.sessions.Get(r).Ended // it was a user's
		err := a.sessions.Update(w, r, func(v *values) error {
			if len(v.Notes) >= maxNotes {
				return errTooManyNotes
			}
			v.Notes = append(v.Notes, note{ID: rand.Text(), Text: text})
			if hasEnded {
				v.Flash = "Your earlier session had ended. This note is in a new one, as a guest's."
			}
			return nil
		})
		if !errors.Is(err, errTooManyNotes) {
			if err == nil {
				err = a.redirect(w, r, "/", "")
			}
			return err
		}
		problem = "There is no room for more notes. Remove one first."
	}
	return a.show(w, r, http.StatusUnprocessableEntity, page{Name: "notes", Title: "Notes",
		Content: notesContent{MaxLength: maxNoteLength, Text: text, Problem: problem}})
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
	if len(a.sessions.Get(r).Values.Notes) > 0 { // an Update would begin a session
		err := a.sessions.Update(w, r, func(v *values) error {
			v.Notes = slices.DeleteFunc(v.Notes, func(n note) bool { return n.ID == r.PostFormValue("id") })
			return nil
		})
		if err != nil {
			return err
		}
	}
	return a.redirect(w, r, "/", "")
}
