package scsstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"reflect"
	"strconv"
	"time"

	"github.com/alexedwards/scs/v2"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/sessionmap"
)

// UserCodec returns codec, and tells the store who is logged in: the value under key. It may be a
// string, an integer, or a type with a method String, such as a UUID. No value, or its zero value,
// stands for a guest. With another type Commit fails.
//
// The user may change only after a RenewToken. A log-in without one lets an attacker log a victim
// in under a token that the attacker knows, and Commit refuses it with [pgsession.ErrUserChanged].
//
// UserCodec encodes values of types other than strings, numbers and the like one by one. So a
// release of the application that does not know such a type, or not all of its fields, leaves the
// value as it is stored, unless it changes it. With [LoadAndSave], that is: without it, what a
// commit does not know is lost.
//
// Add it when you take this store into use. If you add it later, sessions go on, but an instance
// from before cannot read what one with UserCodec has stored, and answers with an error.
func UserCodec(codec scs.Codec, key string) scs.Codec { return userCodec{codec, key} }

type userCodec struct {
	scs.Codec
	key string
}

const (
	// userPrefix comes before the user's id in what userCodec encodes, and mapPrefix before the
	// values. No gob or JSON begins with either. What has no mapPrefix was encoded by the inner codec.
	userPrefix = "\x00pgsession user\x00"
	mapPrefix  = "\x00pgsession map\x00"

	// deadlineKey is where the deadline stands among the values, for merges.
	deadlineKey = "\x00pgsession deadline\x00"
)

func (c userCodec) Encode(deadline time.Time, values map[string]any) ([]byte, error) {
	values = maps.Clone(values)
	if values == nil {
		values = make(map[string]any)
	}
	values[deadlineKey] = deadline
	encoded, err := mapsOf(c.Codec, false).Encode(values)
	if err != nil {
		return nil, err
	}
	return c.name(values, encoded)
}

// name puts before values' encoding whose they are.
func (c userCodec) name(values map[string]any, encoded []byte) ([]byte, error) {
	userID, err := c.userID(values)
	if err != nil {
		return nil, err
	}
	var named []byte
	if userID != "" {
		named = append(binary.AppendUvarint([]byte(userPrefix), uint64(len(userID))), userID...)
	}
	return append(append(named, mapPrefix...), encoded...), nil
}

func (c userCodec) Decode(b []byte) (time.Time, map[string]any, error) {
	parts, err := c.parts(b)
	if err != nil {
		return time.Time{}, nil, err
	}
	values, leftOut, err := mapsOf(c.Codec, false).Decode(parts)
	if err != nil {
		return time.Time{}, nil, err
	}
	if leftOut > 0 {
		if userID, err := c.userID(values); err != nil || userID != userOf(b) {
			return time.Time{}, nil, fmt.Errorf("%w: the user's id", pgsession.ErrDecode)
		}
		logs.Log(context.Background(), slog.Default(), slog.LevelWarn,
			"scsstore: "+sessionmap.LeftOut)
	}
	deadline, _ := values[deadlineKey].(time.Time)
	delete(values, deadlineKey)
	return deadline, values, nil
}

// parts returns encoded values in the form that Encode gives them, without the user.
func (c userCodec) parts(b []byte) ([]byte, error) {
	_, encoded := splitUser(b)
	if parts, ok := bytes.CutPrefix(encoded, []byte(mapPrefix)); ok {
		return parts, nil
	}
	values, _, err := mapsOf(c.Codec, true).Decode(encoded)
	if err != nil {
		return nil, err
	}
	return mapsOf(c.Codec, false).Encode(values)
}

// splitUser returns the user that a codec named, if any, and what follows.
func splitUser(b []byte) (userID string, rest []byte) {
	after, ok := bytes.CutPrefix(b, []byte(userPrefix))
	if !ok {
		return "", b
	}
	userID, rest, _ = cut(after)
	return userID, rest
}

func userOf(b []byte) string {
	userID, _ := splitUser(b)
	return userID
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

// userIn returns the user that a manager's codec names for values.
func userIn(codec scs.Codec, values map[string]any) string {
	c, ok := codec.(userCodec)
	if !ok {
		return ""
	}
	userID, _ := c.userID(values)
	return userID
}

// mapsOf returns a codec for values with the deadline among them.
func mapsOf(codec scs.Codec, whole bool) sessionmap.Codec[string] {
	return sessionmap.Codec[string]{
		Whole:    whole,
		Together: deadlineKey,
		Marshal: func(values map[string]any) ([]byte, error) {
			deadline, _ := values[deadlineKey].(time.Time)
			values = maps.Clone(values)
			delete(values, deadlineKey)
			return codec.Encode(deadline, values)
		},
		Unmarshal: func(b []byte) (map[string]any, error) {
			deadline, values, err := codec.Decode(b)
			if values == nil {
				values = make(map[string]any)
			}
			if !deadline.IsZero() {
				values[deadlineKey] = deadline
			}
			return values, err
		},
	}
}

// decode returns a session's values, with the deadline among them.
func decode(codec scs.Codec, data []byte) (map[string]any, error) {
	values, _, err := mapsOf(codec, true).Decode(data)
	return values, err
}

// merge returns theirs with the changes of a request, which loaded base and changed it into ours.
func merge(codec scs.Codec, base, theirs []byte, ours map[string]any) ([]byte, error) {
	c, ok := codec.(userCodec)
	if !ok {
		return mapsOf(codec, true).Merge(base, theirs, ours)
	}
	before, err := c.parts(base)
	if err != nil {
		return nil, err
	}
	stored, err := c.parts(theirs)
	if err != nil {
		return nil, err
	}
	merged, err := mapsOf(c.Codec, false).Merge(before, stored, ours)
	if err != nil || bytes.Equal(merged, stored) {
		return theirs, err
	}
	return c.name(ours, merged)
}

// encodeForOld returns values as the codec of an instance that does not know UserCodec has them.
func encodeForOld(codec scs.Codec, values map[string]any) ([]byte, error) {
	if c, ok := codec.(userCodec); ok {
		codec = c.Codec
	}
	return mapsOf(codec, true).Encode(values)
}

func shareKey(values, others map[string]any) bool {
	for key := range values {
		if _, ok := others[key]; ok && key != deadlineKey {
			return true
		}
	}
	return false
}

// carriesOn reports whether values under a new token continue those under the old one: whether they
// have the same user, or if there was none, any of the same values.
func carriesOn(values, before map[string]any, userID, userBefore string) bool {
	if userID != "" || userBefore != "" {
		return userID == userBefore
	}
	for key, value := range values {
		if earlier, ok := before[key]; ok && reflect.DeepEqual(earlier, value) {
			return true
		}
	}
	return false
}
