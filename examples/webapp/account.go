package main

import (
	"fmt"
	"net/http"

	"golang.org/x/crypto/bcrypt"

	"github.com/pgsession/pgsession/httpsession"
)

// The demo's users, and their passwords, which the log-in page shows.
var demoUsers = []struct {
	Name, Password string
	IsAdmin        bool
}{
	{"alice", "white-rabbit-42", false},
	{"bob", "yellow-digger-17", false},
	{"ada", "paper-lantern-73", true},
}

// accounts holds the users by name. A real application has them in a table, and limits how often a
// password may be tried.
type accounts map[string]account

type account struct {
	hash    []byte // of the password
	IsAdmin bool
}

func demoAccounts() accounts {
	a := accounts{"": {hash: hashPassword("opens nothing")}}
	for _, user := range demoUsers {
		a[user.Name] = account{hashPassword(user.Password), user.IsAdmin}
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

// accepts compares a password with a hash even if there is no such user, so that the time it takes
// does not tell who is one.
func (a accounts) accepts(name, password string) bool {
	user, isKnown := a[name]
	if !isKnown {
		user = a[""]
	}
	err := bcrypt.CompareHashAndPassword(user.hash, []byte(password))
	return err == nil && isKnown && name != ""
}

type logInContent struct {
	Name    string // as it was typed
	Problem string
	Next    string // the page to show after the log-in
	Users   any
}

func (a *App) showLogIn(w http.ResponseWriter, r *http.Request) error {
	if a.sessions.Get(r).UserID != "" {
		return a.redirect(w, r, httpsession.NextPage(r), "")
	}
	return a.show(w, r, http.StatusOK, page{Name: "login", Title: "Log in",
		Content: logInContent{Next: httpsession.NextPage(r), Users: demoUsers}})
}

func (a *App) logIn(w http.ResponseWriter, r *http.Request) error {
	name := r.PostFormValue("name")
	if !a.accounts.accepts(name, r.PostFormValue("password")) {
		return a.show(w, r, http.StatusUnauthorized, page{Name: "login", Title: "Log in", Content: logInContent{
			Name: name, Problem: "This name and password do not go together.", Next: httpsession.NextPage(r), Users: demoUsers}})
	}
	var options []httpsession.LogInOption
	if r.PostFormValue("remember") != "" {
		options = append(options, httpsession.Remember())
	}
	err := a.sessions.LogIn(w, r, name, func(v *values) error {
		v.Browser, v.LastSeen, v.Flash = browserName(r.UserAgent()), a.now(), "Welcome, "+name+"."
		return nil
	}, options...)
	if err != nil {
		return err
	}
	return a.redirect(w, r, httpsession.NextPage(r), "")
}

func (a *App) logOut(w http.ResponseWriter, r *http.Request) error {
	session := a.sessions.Get(r)
	if err := a.sessions.LogOut(w, r); err != nil {
		return err
	}
	message := "You are logged out."
	switch n := len(session.Values.Notes); {
	case session.UserID == "":
		message = ""
	case n == 1:
		message += " Your note was kept in that session, and was deleted with it."
	case n > 1:
		message += fmt.Sprintf(" Your %d notes were kept in that session, and were deleted with it.", n)
	}
	if err := a.redirect(w, r, "/", message); err != nil {
		a.log.WarnContext(r.Context(), "webapp: the message after a log-out was not stored", "error", err)
		return a.redirect(w, r, "/", "")
	}
	return nil
}
