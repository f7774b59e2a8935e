package gorillastore

import (
	"bytes"
	"encoding/gob"
	"fmt"
	"reflect"

	"github.com/pgsession/pgsession"
)

// content is what a session's row holds. The name keeps a visitor from using the token of one of the
// application's sessions as that of another.
type content struct {
	Name   string
	Values map[any]any
}

func encode(name string, values map[any]any) ([]byte, error) {
	var encoded bytes.Buffer
	if err := gob.NewEncoder(&encoded).Encode(content{name, values}); err != nil {
		return nil, fmt.Errorf("%w: %w", pgsession.ErrEncode, err)
	}
	return encoded.Bytes(), nil
}

// decode returns [pgsession.ErrNotFound] for a session of another name.
func decode(name string, encoded []byte) (map[any]any, error) {
	c := content{Values: map[any]any{}}
	if err := gob.NewDecoder(bytes.NewReader(encoded)).Decode(&c); err != nil {
		return nil, fmt.Errorf("%w: %w", pgsession.ErrDecode, err)
	}
	if c.Name != name {
		return nil, pgsession.ErrNotFound
	}
	return c.Values, nil
}

func encodedValues(session *pgsession.Session) (encoded []byte, err error) {
	err = session.Decode(&encoded)
	return encoded, err
}

// merge returns stored's values with what the request has made of them: base is what it loaded, and ours,
// which is also there encoded, what it saves.
func merge(name string, base, encoded []byte, ours map[any]any, stored *pgsession.Session) ([]byte, error) {
	theirs, err := encodedValues(stored)
	if err != nil {
		return nil, err
	}
	before, err := decode(name, base)
	if err != nil {
		return nil, err
	}
	merged, err := decode(name, theirs)
	if err != nil {
		return nil, err
	}
	changed := false
	for key, value := range ours {
		if old, ok := before[key]; !ok || !reflect.DeepEqual(old, value) {
			merged[key], changed = value, true
		}
	}
	for key := range before {
		if _, ok := ours[key]; !ok {
			delete(merged, key)
			changed = true
		}
	}
	switch {
	case !changed:
		return theirs, nil // the same bytes, so that nothing is written
	case bytes.Equal(theirs, base):
		return encoded, nil
	}
	return encode(name, merged)
}
