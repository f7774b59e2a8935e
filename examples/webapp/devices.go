package main

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/pgsession/pgsession"
)

// A device is one of the user's live sessions.
type device struct {
	*pgsession.Session
	Browser string // "" where the session does not open
	Current bool
}

func (a *App) showDevices(w http.ResponseWriter, r *http.Request) error {
	v, err := a.user(w, r)
	if err != nil {
		return err
	}
	flash, err := a.takeFlash(w, r, v)
	if err != nil {
		return err
	}
	sessions, err := a.sessions.FindByUser(r.Context(), v.User(), 0)
	if err != nil {
		return err
	}
	devices := make([]device, len(sessions))
	for i, session := range sessions {
		kept, err := pgsession.Decode[values](session)
		if err != nil {
			a.log.WarnContext(r.Context(), "webapp: a session does not open", "session", session, "error", err)
		}
		devices[i] = device{session, kept.Browser, session.Handle == v.Session.Handle}
	}
	return render(w, http.StatusOK, page{Name: "devices", Title: "Your devices", Visitor: v, Flash: flash, Content: devices})
}

func (a *App) revokeDevice(w http.ResponseWriter, r *http.Request) error {
	v, err := a.user(w, r)
	if err != nil {
		return err
	}
	message := "The device is logged out."
	handle, err := pgsession.ParseHandle(r.PostFormValue("handle"))
	if err == nil {
		err = a.sessions.Revoke(r.Context(), v.User(), handle)
	}
	if errors.Is(err, pgsession.ErrNotFound) {
		message, err = "That device is not logged in any more.", nil
	}
	if err != nil {
		return err
	}
	return a.redirectWith(w, r, v, "/devices", message)
}

func (a *App) revokeOtherDevices(w http.ResponseWriter, r *http.Request) error {
	v, err := a.user(w, r)
	if err != nil {
		return err
	}
	ended, err := a.sessions.DeleteByUser(r.Context(), v.User(), v.Session.Handle)
	if err != nil {
		return err
	}
	message := fmt.Sprintf("%d other devices are logged out.", ended)
	if ended == 1 {
		message = "One other device is logged out."
	}
	return a.redirectWith(w, r, v, "/devices", message)
}

// browserName makes a name to recognize a browser by of its User-Agent.
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
