package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/pgsession/pgsession"
)

type deviceContent struct {
	*pgsession.Session
	values
	IsReadable bool
	IsCurrent  bool
}

// showDevices shows the user's live sessions.
func (a *App) showDevices(w http.ResponseWriter, r *http.Request) error {
	this := a.sessions.Get(r)
	found, err := a.store.FindByUser(r.Context(), this.UserID, 0)
	if err != nil {
		return err
	}
	var content []deviceContent
	for _, session := range found {
		kept, err := pgsession.Decode[values](session)
		content = append(content, deviceContent{session, kept, err == nil, session.Handle == this.Handle})
	}
	return a.show(w, r, http.StatusOK, page{Name: "devices", Title: "Your devices", Content: content})
}

func (a *App) logOutDevice(w http.ResponseWriter, r *http.Request) error {
	handle, err := pgsession.ParseHandle(r.PostFormValue("handle"))
	if err == nil {
		err = a.store.Revoke(r.Context(), a.sessions.Get(r).UserID, handle)
	}
	switch {
	case errors.Is(err, pgsession.ErrNotFound):
		return a.redirect(w, r, "/devices", "That device is not logged in any more.")
	case err != nil:
		return err
	}
	return a.redirect(w, r, "/devices", "The device is logged out.")
}

// logOutOthers ends all sessions of the user but this one, even if the browser hangs up.
func (a *App) logOutOthers(w http.ResponseWriter, r *http.Request) error {
	this := a.sessions.Get(r)
	ended, err := a.store.DeleteByUser(context.WithoutCancel(r.Context()), this.UserID, this.Handle)
	if err != nil {
		return err
	}
	message := fmt.Sprintf("%d devices are logged out.", ended)
	if ended == 1 {
		message = "One device is logged out."
	}
	return a.redirect(w, r, "/devices", message)
}

// device describes a session's device to administrators.
func device(session *pgsession.Session) string {
	kept, _ := pgsession.Decode[values](session)
	return kept.Browser
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
