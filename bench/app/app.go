// Package app is one small application, on httpsession and on scs.
package app

import (
	"encoding/json"
	"net/http"
)

// A Page is what each request is answered with: the session as it is then.
type Page struct {
	User  string
	Items []string
	Count int
}

// A Hook is called at a step of a request: "add" before an item is added, "added" after it.
type Hook func(step string, w http.ResponseWriter, r *http.Request)

// NoHook does nothing.
func NoHook(string, http.ResponseWriter, *http.Request) {}

func write(w http.ResponseWriter, p Page) {
	if err := json.NewEncoder(w).Encode(p); err != nil {
		panic(http.ErrAbortHandler) // the client has gone
	}
}
