package fiberstore

import (
	"bytes"
	"encoding/gob"
	"reflect"
)

// values are a session's, as fiber encodes them: a map in gob, whose types the application has
// registered with gob. They are nil if the bytes are something else.
type values map[any]any

func decodeValues(encoded []byte) values {
	decoded := make(values)
	if err := gob.NewDecoder(bytes.NewReader(encoded)).Decode((*map[any]any)(&decoded)); err != nil {
		return nil
	}
	return decoded
}

func (v values) encode() ([]byte, error) {
	var encoded bytes.Buffer
	err := gob.NewEncoder(&encoded).Encode((*map[any]any)(&v))
	return encoded.Bytes(), err
}

func (v values) user() string {
	userID, _ := v[userKey(0)].(string)
	return userID
}

// isSame tells values apart that gob, which writes a map in random order, has encoded differently.
func (v values) isSame(other values) bool {
	return v != nil && reflect.DeepEqual(v, other)
}

// merge applies the changes that lead from v to changed to other values, key by key.
func (v values) merge(changed, other values) {
	for key := range v {
		if _, isKept := changed[key]; !isKept {
			delete(other, key)
		}
	}
	for key, value := range changed {
		if before, isOld := v[key]; !isOld || !reflect.DeepEqual(before, value) {
			other[key] = value
		}
	}
}
