package httpsession

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/bridge"
)

// bindingMember is the member of the stored object that holds what WithBinding binds a session to,
// as a string of base64: a random key, and the HMAC-SHA256 of the client's value under it. V never
// sees the member.
const bindingMember = "httpsession:binding"

const bindingKeySize = 16

// bind returns values that are bound to the client of a request. The values must be a JSON object.
// If they are of type V and are none, bind returns an error. If another type has stored them, they
// begin anew.
func (m *Manager[V]) bind(r *http.Request, values any, areOfV bool) (bridge.JSON, error) {
	encoded, _ := values.(bridge.JSON)
	if !isObject(encoded) && string(encoded) != "null" {
		if areOfV {
			return nil, fmt.Errorf("%w: WithBinding needs values that are a JSON object", pgsession.ErrEncode)
		}
		encoded = nil
	}
	encoded, _ = cutBinding(encoded)
	key := make([]byte, bindingKeySize)
	rand.Read(key)
	binding := append(key, m.bindingUnder(key, r)...)
	return addBinding(encoded, []byte(`"`+base64.RawURLEncoding.EncodeToString(binding)+`"`)), nil
}

// isBoundElsewhere reports whether stored values are bound to another client than that of a
// request.
func (m *Manager[V]) isBoundElsewhere(r *http.Request, stored any) bool {
	encoded, _ := stored.(bridge.JSON)
	_, binding := cutBinding(encoded)
	if binding == nil {
		return false
	}
	decoded, err := base64.RawURLEncoding.DecodeString(string(bytes.Trim(binding, `"`)))
	if err != nil || len(decoded) < bindingKeySize {
		return true
	}
	key, mac := decoded[:bindingKeySize], decoded[bindingKeySize:]
	return !hmac.Equal(mac, m.bindingUnder(key, r))
}

func (m *Manager[V]) bindingUnder(key []byte, r *http.Request) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(m.binding(r)))
	return mac.Sum(nil)
}

// cutBinding returns values without the member of the binding, and that member's value; nil if
// there is none.
func cutBinding(encoded bridge.JSON) (own bridge.JSON, binding []byte) {
	if !bytes.Contains(encoded, []byte(bindingMember)) || !json.Valid(encoded) {
		return encoded, nil
	}
	own = bridge.JSON("{")
	for name, value := range members(encoded) {
		if unquote(name) == bindingMember {
			binding = value
			continue
		}
		own = append(appendName(own, name), value...)
	}
	if binding == nil {
		return encoded, nil // it stands further in
	}
	return append(own, '}'), binding
}

// addBinding returns values, an object or null, with the member of a binding.
func addBinding(encoded bridge.JSON, binding []byte) bridge.JSON {
	bound := bridge.JSON("{")
	for name, value := range members(encoded) {
		bound = append(appendName(bound, name), value...)
	}
	return append(append(appendName(bound, []byte(`"`+bindingMember+`"`)), binding...), '}')
}
