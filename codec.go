package pgsession

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
)

// A codec turns a session's user and values into a row's columns and back. An
// encrypted store and a plaintext one differ in it alone.
type codec interface {
	// columns names the column that holds the payload, and the column that such
	// a store leaves empty.
	columns() (payload, other string)

	// fromBytes returns the SQL that makes a payload of a bytea.
	fromBytes(expression string) string

	// encode returns the columns user_key and payload for the row at handle.
	encode(handle Handle, userID string, v values) (userKey, payload []byte, err error)

	// decode undoes encode, and keeps nothing of userKey and payload. A nil payload
	// is a row of the other kind of store.
	decode(handle Handle, userKey, payload []byte) (userID string, v values, err error)

	// userKeys returns all the values of user_key under which a user's rows may
	// lie, and none for a guest.
	userKeys(userID string) [][]byte

	// formerKeys returns the same where there may be others than that of encode,
	// and otherwise nil.
	formerKeys(userID string) [][]byte
}

// sealedCodec is the codec of an encrypted store. It never reads the column
// data, so that nothing planted there in clear is believed.
type sealedCodec struct{ *Crypto }

func (sealedCodec) columns() (payload, other string) { return "sealed", "data" }

func (sealedCodec) fromBytes(expression string) string { return expression }

func (c sealedCodec) encode(handle Handle, userID string, v values) (userKey, payload []byte, err error) {
	payload, userKey, err = c.sealRow(userID, v.kind, v.bytes, handle.sum[:])
	return userKey, payload, err
}

func (c sealedCodec) formerKeys(userID string) [][]byte {
	if userID == "" || len(c.keys()) == 1 {
		return nil
	}
	return c.userKeys(userID)
}

func (c sealedCodec) decode(handle Handle, userKey, payload []byte) (string, values, error) {
	if payload == nil {
		return "", values{}, ErrTampered
	}
	userID, kind, encoded, err := c.openRow(payload, handle.sum[:], userKey)
	return userID, values{kind, encoded}, err
}

// plainCodec is the codec of a plaintext store: JSON values lie in the column
// data as they are, to be read in psql.
type plainCodec struct{}

// JSON has no bytes. Raw values are stored as an object with the one member
// rawMember; a JSON value that happens to be an object with one member of
// either name is wrapped, so that the two are never mistaken.
type (
	rawObject struct {
		Raw []byte `json:"pgsession:raw"`
	}
	wrappedObject struct {
		JSON json.RawMessage `json:"pgsession:json"`
	}
)

const (
	rawMember     = "pgsession:raw"
	wrappedMember = "pgsession:json"
)

func (plainCodec) columns() (payload, other string) { return "data", "sealed" }

func (plainCodec) fromBytes(expression string) string {
	return "convert_from(" + expression + ", 'UTF8')::jsonb"
}

func (plainCodec) encode(_ Handle, userID string, v values) (userKey, payload []byte, err error) {
	payload = v.bytes
	if v.kind == kindRaw {
		payload = []byte(`{"` + rawMember + `":"` + base64.StdEncoding.EncodeToString(v.bytes) + `"}`)
	} else if isEnvelope(v.bytes) {
		payload, err = json.Marshal(wrappedObject{v.bytes})
	}
	if userID != "" {
		userKey = []byte(userID)
	}
	return userKey, payload, err
}

func (plainCodec) decode(_ Handle, userKey, payload []byte) (string, values, error) {
	if payload == nil {
		return "", values{}, ErrUnknownKey
	}
	if !isEnvelope(payload) {
		return string(userKey), values{kindJSON, bytes.Clone(payload)}, nil
	}
	var raw rawObject
	if err := json.Unmarshal(payload, &raw); err == nil && raw.Raw != nil {
		return string(userKey), values{kindRaw, raw.Raw}, nil
	}
	var wrapped wrappedObject
	if err := json.Unmarshal(payload, &wrapped); err != nil || wrapped.JSON == nil {
		return "", values{}, ErrTampered
	}
	return string(userKey), values{kindJSON, wrapped.JSON}, nil
}

// isEnvelope reports whether data is an object with the one member rawMember or
// wrappedMember.
func isEnvelope(data []byte) bool {
	if !bytes.Contains(data, []byte("pgsession:")) && !bytes.ContainsRune(data, '\\') {
		return false // the common case, without parsing
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(data, &members) != nil || len(members) != 1 {
		return false
	}
	_, raw := members[rawMember]
	_, wrapped := members[wrappedMember]
	return raw || wrapped
}

func (plainCodec) userKeys(userID string) [][]byte {
	if userID == "" {
		return nil
	}
	return [][]byte{[]byte(userID)}
}

func (plainCodec) formerKeys(string) [][]byte { return nil }
