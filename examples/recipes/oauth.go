package recipes

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/httpsession"
)

// OAuth logs in by another site. The attempt is in the visitor's own session, so only the browser
// that began it can end it, once.
func OAuth(store *pgsession.Store, authorizeURL, clientID string, userOf func(ctx context.Context, code, verifier string) (string, error)) http.Handler {
	type attempt struct {
		State    string    `json:"state"`
		Verifier string    `json:"verifier"` // RFC 7636
		Until    time.Time `json:"until"`
	}
	type values struct {
		LogIn *attempt `json:"log_in,omitempty"`
	}
	sessions := httpsession.New[values](store)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		begun := attempt{rand.Text(), rand.Text() + rand.Text(), time.Now().Add(10 * time.Minute)}
		begin := func(v *values) error { v.LogIn = &begun; return nil }
		err := sessions.RenewID(w, r, begin) // somebody who has planted the guest's cookie must not be part of it
		if errors.Is(err, pgsession.ErrNotFound) {
			err = sessions.Update(w, r, begin) // there was no session
		}
		if err != nil {
			sessions.Error(w, r, err)
			return
		}
		challenge := sha256.Sum256([]byte(begun.Verifier))
		http.Redirect(w, r, authorizeURL+"?"+url.Values{
			"response_type": {"code"}, "client_id": {clientID}, "state": {begun.State},
			"code_challenge_method": {"S256"}, "code_challenge": {base64.RawURLEncoding.EncodeToString(challenge[:])},
		}.Encode(), http.StatusSeeOther)
	})
	mux.HandleFunc("GET /callback", func(w http.ResponseWriter, r *http.Request) {
		var begun *attempt
		if sessions.Get(r).Values.LogIn != nil { // an Update would begin a session
			err := sessions.Update(w, r, func(v *values) error { begun, v.LogIn = v.LogIn, nil; return nil })
			if err != nil {
				sessions.Error(w, r, err)
				return
			}
		}
		if begun == nil || time.Now().After(begun.Until) ||
			subtle.ConstantTimeCompare([]byte(begun.State), []byte(r.FormValue("state"))) == 0 {
			http.Error(w, "This log-in was not begun here, or is too old. Please begin again.", http.StatusBadRequest)
			return
		}
		user, err := userOf(r.Context(), r.FormValue("code"), begun.Verifier)
		if err != nil {
			http.Error(w, "The other site did not log you in.", http.StatusBadGateway)
			return
		}
		if err := sessions.LogIn(w, r, user, nil); err != nil {
			sessions.Error(w, r, err)
			return
		}
		http.Redirect(w, r, "/", http.StatusSeeOther)
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte("user " + sessions.Get(r).UserID))
	})
	return http.NewCrossOriginProtection().Handler(sessions.Handler(mux))
}
