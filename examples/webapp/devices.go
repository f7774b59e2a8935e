package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/pgsession/pgsession"
)

// devicesOf is the page of a user's live sessions: of the visitor's own, or, for administrators, of whichever user the
// request names.
type devicesOf struct {
	*App
	user func(*http.Request) string
	path string
}

type devicesContent struct {
	Path    string
	User    string
	Devices []device
}

type device struct {
	*pgsession.Session
	values
	IsReadable bool
	IsCurrent  bool
}

func (d devicesOf) show(w http.ResponseWriter, r *http.Request) error {
	content := devicesContent{Path: d.path, User: d.user(r)}
	found, err := d.store.FindByUser(r.Context(), content.User, 0)
	if err != nil {
		return err
	}
	for _, session := range found {
		kept, err := pgsession.Decode[values](session)
		content.Devices = append(content.Devices, device{session, kept, err == nil, session.Handle == d.sessions.Get(r).Handle})
	}
	title := "Your devices"
	if d.path == "/admin" {
		title = "Sessions of a user"
	}
	return d.App.show(w, r, http.StatusOK, page{Name: "devices", Title: title, Content: content})
}

func (d devicesOf) logOut(w http.ResponseWriter, r *http.Request) error {
	handle, err := pgsession.ParseHandle(r.PostFormValue("handle"))
	if err == nil {
		err = d.store.Revoke(r.Context(), d.user(r), handle)
	}
	switch {
	case errors.Is(err, pgsession.ErrNotFound):
		return d.back(w, r, "That device is not logged in any more.")
	case err != nil:
		return err
	}
	return d.back(w, r, "The device is logged out.")
}

// logOutOthers ends all sessions of the user but the visitor's own.
func (d devicesOf) logOutOthers(w http.ResponseWriter, r *http.Request) error {
	ended, err := d.store.DeleteByUser(r.Context(), d.user(r), d.sessions.Get(r).Handle)
	if err != nil {
		return err
	}
	if ended == 1 {
		return d.back(w, r, "One device is logged out.")
	}
	return d.back(w, r, fmt.Sprintf("%d devices are logged out.", ended))
}

func (d devicesOf) back(w http.ResponseWriter, r *http.Request, message string) error {
	path := d.path
	if path == "/admin" {
		path += "?user=" + url.QueryEscape(d.user(r))
	}
	return d.redirect(w, r, path, message)
}

// browserName makes a name to recognize a browser by from its User-Agent.
func browserName(userAgent string) string {
	browser := firstMatch(userAgent, [][2]string{ // most pretend to be Chrome, and all to be Safari
		{"Edg", "Edge"}, {"OPR/", "Opera"}, {"SamsungBrowser/", "Samsung Internet"}, {"Firefox/", "Firefox"}, {"FxiOS/", "Firefox"},
		{"Chrome/", "Chrome"}, {"CriOS/", "Chrome"}, {"Safari/", "Safari"}, {"curl/", "curl"},
	})
	system := firstMatch(userAgent, [][2]string{ // an iPhone is "like Mac OS X", an Android a Linux
		{"iPhone", "iPhone"}, {"iPad", "iPad"}, {"Android", "Android"}, {"Windows", "Windows"}, {"Mac OS X", "Mac"},
		{"CrOS", "ChromeOS"}, {"Linux", "Linux"},
	})
	switch {
	case browser == "":
		return "Unknown browser"
	case system == "":
		return browser
	}
	return browser + " on " + system
}

func firstMatch(userAgent string, names [][2]string) string {
	for _, name := range names {
		if strings.Contains(userAgent, name[0]) {
			return name[1]
		}
	}
	return ""
}
