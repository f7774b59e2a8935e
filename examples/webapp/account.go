package main

import (
	"errors"
	"net/http"

	"golang.org/x/crypto/bcrypt"

	"github.com/pgsession/pgsession"
)

// The demo's users, and their passwords, which the log-in page shows.
var demoUsers = []struct{ Name, Password string }{
	{"alice", "white-rabbit-42"},
	{"bob", "yellow-digger-17"},
}

// accounts holds the hashes of passwords. A real application has its users in a table, and limits how often a password may be
// tried.
type accounts struct {
	hashes map[string][]byte // by user name
	decoy  []byte            // compared where there is no such user, so that the time it takes tells nothing
}

func demoAccounts() accounts {
	a := accounts{hashes: make(map[string][]byte), decoy: hashPassword("opens nothing")}
	for _, user := range demoUsers {
		a.hashes[user.Name] = hashPassword(user.Password)
	}
	return a
}

func hashPassword(password string) []byte {
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.DefaultCost)
	if err != nil {
		panic(err) // a password of over 72 bytes
	}
	return hash
}

func (a accounts) accepts(name, password string) bool {
	hash, known := a.hashes[name]
	if !known {
		hash = a.decoy
	}
	err := bcrypt.CompareHashAndPassword(hash, []byte(password))
	return known && err == nil
}

type logInContent struct {
	Name    string // as it was typed
	Problem string
	Users   any
}

func (a *App) showLogIn(w http.ResponseWriter, r *http.Request) error {
	flash := ""
	v, err := a.visitor(w, r)
	if errors.Is(err, pgsession.ErrNotFound) {
		// Every page leads here when its session has ended. The cookie is deleted no sooner, since by now the browser sends the
		// new one if a log-in in another tab was what ended the session.
		a.clearCookie(w)
		v, err, flash = &visitor{}, nil, "Your session has ended. Please log in again."
	}
	if err != nil {
		return err
	}
	if v.User() != "" {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return nil
	}
	return renderLogIn(w, v, http.StatusOK, flash, logInContent{})
}

func renderLogIn(w http.ResponseWriter, v *visitor, status int, flash string, content logInContent) error {
	content.Users = demoUsers
	return render(w, status, page{Name: "login", Title: "Log in", Visitor: v, Flash: flash, Content: content})
}

func (a *App) logIn(w http.ResponseWriter, r *http.Request) error {
	name := r.PostFormValue("name")
	accepted := a.accounts.accepts(name, r.PostFormValue("password"))
	v, err := a.visitor(w, r)
	if errors.Is(err, pgsession.ErrNotFound) {
		v, err = &visitor{}, nil // logs in from a session that has ended
	}
	if err != nil {
		return err
	}
	if !accepted {
		return renderLogIn(w, v, http.StatusUnauthorized, "", logInContent{Name: name, Problem: "This name and password do not go together."})
	}

	kept := values{Browser: browserName(r.UserAgent()), Flash: "Welcome, " + name + "."}
	if v.User() == "" || v.User() == name { // another user's notes stay behind
		kept.Notes = v.Values.Notes
	}
	data := pgsession.Data{UserID: name, Values: kept}
	if v.Session != nil {
		// Under a new id: whoever knew the guest's id does not get into the account.
		err = a.cycleSession(w, r, v.ID, data)
	}
	if v.Session == nil || errors.Is(err, pgsession.ErrNotFound) { // it may have ended by now, when the button was pressed twice
		err = a.createSession(w, r, data)
	}
	if err == nil {
		http.Redirect(w, r, "/", http.StatusSeeOther)
	}
	return err
}

// logOut ends the user's session, and says so under a new id, as a guest's. It does not load the session: one that does not
// open can be left too.
func (a *App) logOut(w http.ResponseWriter, r *http.Request) error {
	id := a.sessionID(r)
	if !id.IsZero() {
		farewell := pgsession.Data{Values: values{Browser: browserName(r.UserAgent()), Flash: "You are logged out."}}
		if err := a.cycleSession(w, r, id, farewell); err != nil {
			return err
		}
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
	return nil
}
