package pgsession

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strconv"
	"strings"

	"github.com/pgsession/pgsession/internal/rows"
)

// A codec turns a session's user and values into the columns of a row, and back. It is the only
// difference between an encrypted store and a plaintext one.
type codec interface {
	// encode returns the user key and the payload for the row at a key.
	encode(key rows.Key, userID string, v values) (userKey, payload []byte, err error)

	// decode is the inverse of encode. It may overwrite the row's payload and keep it. A nil
	// payload means a row of the other kind of store.
	decode(row rows.Row) (userID string, v values, err error)

	// userKeys returns all user keys under which a user's rows may lie, and none for a guest.
	userKeys(userID string) [][]byte

	// otherUserKeys returns what userKeys does if there may be more than the one that encode
	// returns, and nil otherwise.
	otherUserKeys(userID string) [][]byte

	// ring identifies the key ring that the user keys come from. As long as it is the same, so are
	// they.
	ring() *keyRing

	// isSame reports whether encoded values would be stored as those that were loaded.
	isSame(encoded, loaded values) bool
}

// sealedCodec is the codec of an encrypted store. It never reads the column data, where anybody who
// can write the table could put values in clear.
type sealedCodec struct{ *Crypto }

func (c sealedCodec) encode(key rows.Key, userID string, v values) (userKey, payload []byte, err error) {
	payload, userKey, err = c.sealRow(userID, v.kind, v.bytes, key.Bytes())
	return userKey, payload, err
}

func (c sealedCodec) decode(row rows.Row) (string, values, error) {
	switch {
	case row.Malformed:
		return "", values{}, ErrTampered
	case row.Payload == nil:
		return "", values{}, errPlaintextRow
	}
	userID, kind, encoded, err := c.openRow(row.Payload, row.Key.Bytes(), row.UserKey)
	return userID, values{kind, encoded}, err
}

func (c sealedCodec) otherUserKeys(userID string) [][]byte {
	if userID == "" || len(c.keys()) == 1 {
		return nil
	}
	return c.userKeys(userID)
}

func (c sealedCodec) ring() *keyRing { return c.Crypto.ring.Load() }

func (sealedCodec) isSame(encoded, loaded values) bool {
	return encoded.kind == loaded.kind && bytes.Equal(encoded.bytes, loaded.bytes)
}

// plainCodec is the codec of a plaintext store, and of one in memory: JSON values lie in the
// payload as they are, to be read in psql.
type plainCodec struct{}

// JSON has no bytes. Raw values are stored as an object with the one member rawMember; a JSON value
// that happens to be an object with one member of either name is wrapped, so that the two are never
// mistaken.
const (
	rawMember     = "pgsession:raw"
	wrappedMember = "pgsession:json"
)

func (plainCodec) encode(_ rows.Key, userID string, v values) (userKey, payload []byte, err error) {
	payload = v.bytes
	if v.kind == kindRaw {
		payload = []byte(`{"` + rawMember + `":"` + base64.StdEncoding.EncodeToString(v.bytes) + `"}`)
	} else if member, _ := envelope(v.bytes); member != "" {
		payload, err = json.Marshal(map[string]json.RawMessage{wrappedMember: v.bytes})
	}
	if userID != "" {
		userKey = []byte(userID)
	}
	return userKey, payload, err
}

func (plainCodec) decode(row rows.Row) (userID string, v values, err error) {
	switch {
	case row.Malformed:
		return "", values{}, ErrTampered
	case row.Payload == nil:
		return "", values{}, errSealedRow
	}
	v = values{kindJSON, row.Payload}
	switch member, content := envelope(row.Payload); member {
	case wrappedMember:
		v.bytes = content
	case rawMember:
		v = values{kind: kindRaw}
		if json.Unmarshal(content, &v.bytes) != nil || v.bytes == nil {
			return "", values{}, ErrTampered
		}
	}
	return string(row.UserKey), v, nil
}

// envelope returns the member of an object that has only one, which is rawMember or wrappedMember.
// Of other data it returns "".
func envelope(data []byte) (member string, content json.RawMessage) {
	if !bytes.Contains(data, []byte("pgsession:")) && !bytes.ContainsRune(data, '\\') {
		return "", nil // the common case, without parsing
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(data, &members) != nil || len(members) != 1 {
		return "", nil
	}
	for _, member := range []string{rawMember, wrappedMember} {
		if content, ok := members[member]; ok {
			return member, content
		}
	}
	return "", nil
}

func (plainCodec) userKeys(userID string) [][]byte {
	if userID == "" {
		return nil
	}
	return [][]byte{[]byte(userID)}
}

func (plainCodec) otherUserKeys(string) [][]byte { return nil }

func (plainCodec) ring() *keyRing { return nil }

// isSame compares what JSON means: jsonb keeps neither space, nor the order of members, nor the
// form of numbers.
func (plainCodec) isSame(encoded, loaded values) bool {
	if encoded.kind != loaded.kind {
		return false
	}
	if bytes.Equal(encoded.bytes, loaded.bytes) {
		return true
	}
	return encoded.kind == kindJSON && bytes.Equal(canonical(encoded.bytes), canonical(loaded.bytes))
}

// canonical returns JSON without space, with sorted members, and with numbers in one form.
func canonical(data []byte) []byte {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var v any
	if decoder.Decode(&v) != nil {
		return data
	}
	sorted, err := json.Marshal(canonicalNumbers(v))
	if err != nil {
		return data
	}
	return sorted
}

// canonicalNumbers brings the numbers in v into one form, in place where that can be.
func canonicalNumbers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name, value := range v {
			v[name] = canonicalNumbers(value)
		}
	case []any:
		for i, value := range v {
			v[i] = canonicalNumbers(value)
		}
	case json.Number:
		return canonicalNumber(string(v))
	}
	return v
}

// canonicalNumber returns digits without zeros around them, and an exponent: -12e-3 for -0.0120.
func canonicalNumber(number string) json.Number {
	digits, isNegative := strings.CutPrefix(number, "-")
	exponent := 0
	if i := strings.IndexAny(digits, "eE"); i >= 0 {
		written, err := strconv.Atoi(digits[i+1:])
		if err != nil {
			return json.Number(number) // as no column holds it
		}
		digits, exponent = digits[:i], written
	}
	whole, fraction, _ := strings.Cut(digits, ".")
	digits = strings.TrimLeft(whole+fraction, "0")
	significant := strings.TrimRight(digits, "0")
	if significant == "" {
		return "0"
	}
	exponent += len(digits) - len(significant) - len(fraction)
	if isNegative {
		significant = "-" + significant
	}
	return json.Number(significant + "e" + strconv.Itoa(exponent))
}
