package scsstore

import (
	"encoding/binary"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"time"

	"github.com/alexedwards/scs/v2"
)

// UserCodec returns codec, and tells the store who is logged in: the value under key. It may be a
// string, an integer, or a type with a method String, such as a UUID. No value, or its zero value,
// stands for a guest. With another type Commit fails.
//
// The user may change only after a RenewToken. A log-in without one lets an attacker log a victim in
// under a token that the attacker knows, and Commit refuses it with [pgsession.ErrUserChanged].
func UserCodec(codec scs.Codec, key string) scs.Codec { return userCodec{codec, key} }

type userCodec struct {
	scs.Codec
	key string
}

// userPrefix comes before the user's id in what userCodec encodes. No gob or JSON begins with it.
const userPrefix = "\x00pgsession user\x00"

func (c userCodec) Encode(deadline time.Time, values map[string]any) ([]byte, error) {
	userID, err := c.userID(values)
	if err != nil {
		return nil, err
	}
	encoded, err := c.Codec.Encode(deadline, values)
	if err != nil || userID == "" {
		return encoded, err
	}
	b := binary.AppendUvarint([]byte(userPrefix), uint64(len(userID)))
	return append(append(b, userID...), encoded...), nil
}

func (c userCodec) Decode(b []byte) (time.Time, map[string]any, error) {
	_, encoded := splitUser(b)
	return c.Codec.Decode(encoded)
}

// splitUser returns the user that a codec named, if any, and what its codec encoded.
func splitUser(b []byte) (userID string, encoded []byte) {
	if len(b) < len(userPrefix) || string(b[:len(userPrefix)]) != userPrefix {
		return "", b
	}
	userID, encoded, _ = cut(b[len(userPrefix):])
	return userID, encoded
}

func (c userCodec) userID(values map[string]any) (string, error) {
	value := reflect.ValueOf(values[c.key])
	switch {
	case !value.IsValid() || value.IsZero():
		return "", nil
	case value.Kind() == reflect.String, value.CanInt(), value.CanUint(), value.Type().Implements(reflect.TypeFor[fmt.Stringer]()):
		return fmt.Sprint(value.Interface()), nil
	case value.CanFloat() && value.Float() == math.Trunc(value.Float()): // an integer, after a codec that uses JSON
		return strconv.FormatFloat(value.Float(), 'f', 0, 64), nil
	}
	return "", fmt.Errorf("scsstore: the value of the user's key is a %T, which is neither a string nor an integer", values[c.key])
}

// decoded is a session as its codec reads it.
type decoded struct {
	deadline time.Time
	values   map[string]any
	userID   string // "" without UserCodec
}

func decode(codec scs.Codec, data []byte) (d decoded, err error) {
	if d.deadline, d.values, err = codec.Decode(data); err != nil {
		return d, fmt.Errorf("scsstore: decode: %w", err)
	}
	if d.values == nil {
		d.values = map[string]any{}
	}
	if c, ok := codec.(userCodec); ok {
		d.userID, err = c.userID(d.values)
	}
	return d, err
}

// isSame reports whether nothing has changed.
func (d decoded) isSame(other decoded) bool {
	return d.deadline.Equal(other.deadline) && reflect.DeepEqual(d.values, other.values)
}

// merged returns theirs with what changed from base to ours.
func merged(base, ours, theirs decoded) decoded {
	for key, value := range ours.values {
		if before, ok := base.values[key]; !ok || !reflect.DeepEqual(before, value) {
			theirs.values[key] = value
		}
	}
	for key := range base.values {
		if _, ok := ours.values[key]; !ok {
			delete(theirs.values, key)
		}
	}
	if !ours.deadline.Equal(base.deadline) {
		theirs.deadline = ours.deadline
	}
	return theirs
}

// carriesOn reports whether a session under a new token goes on with what the one before it was: with
// its user, or if there is none, with any of its values.
func (d decoded) carriesOn(before decoded) bool {
	if d.userID != "" || before.userID != "" {
		return d.userID == before.userID
	}
	for key, value := range d.values {
		if earlier, ok := before.values[key]; ok && reflect.DeepEqual(earlier, value) {
			return true
		}
	}
	return false
}
