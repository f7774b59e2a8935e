// Package sessionmap encodes the values of a session that are a map, as those of scs, gorilla and
// fiber are, and merges what overlapping requests have made of them.
//
// Simple values, such as strings and numbers, are encoded together. Every other value is encoded
// apart. So a release of the application that does not know the type of a value, or not all of its
// fields, leaves that value as it is stored, unless it changes it.
package sessionmap

import (
	"bytes"
	"encoding/binary"
	"encoding/gob"
	"fmt"
	"reflect"
	"slices"

	"github.com/pgsession/pgsession"
)

// A Codec encodes values by an encoding of a framework's. What it returns of that encoding's errors
// is their kind. Their text may quote values.
type Codec[K comparable] struct {
	Marshal   func(map[K]any) ([]byte, error)
	Unmarshal func([]byte) (map[K]any, error)

	// Whole says that all values are encoded together, and that nothing is added to what Marshal
	// returns.
	Whole bool

	// Together is a key whose value is encoded with the simple ones, whatever its type.
	Together K
}

// Gob encodes by encoding/gob, as gorilla and fiber do.
var Gob = Codec[any]{
	Marshal: func(values map[any]any) ([]byte, error) {
		var encoded bytes.Buffer
		err := gob.NewEncoder(&encoded).Encode(&values)
		return encoded.Bytes(), err
	},
	Unmarshal: func(encoded []byte) (values map[any]any, err error) {
		err = gob.NewDecoder(bytes.NewReader(encoded)).Decode(&values)
		return values, err
	},
}

// Encode returns values, encoded. The error is [pgsession.ErrEncode], also if they would not decode
// again.
func (c Codec[K]) Encode(values map[K]any) ([]byte, error) {
	encoded, err := c.Merge(nil, nil, values)
	if err == nil && encoded == nil {
		encoded, err = c.join(nil, nil)
	}
	return encoded, err
}

// LeftOut is what to log if Decode has left out values.
const LeftOut = "values of a session do not decode, and stay as they are stored: are their types registered?"

// Decode returns the values of a session, and how many it left out because they do not decode, for
// example since their type is not registered with encoding/gob. It returns [pgsession.ErrDecode] if
// that is so of the simple values, or if encoded is not what Encode returned. Nil stands for no
// values.
func (c Codec[K]) Decode(encoded []byte) (values map[K]any, leftOut int, err error) {
	values, apart, err := c.split(encoded)
	for _, part := range apart {
		one, err := c.Unmarshal(part.encoded)
		if err != nil {
			leftOut++
		}
		for key, value := range one {
			values[key] = value
		}
	}
	return values, leftOut, err
}

// InOne returns values that Encode has returned in the form that Marshal gives them, without those
// that do not decode. The number and the error are Decode's.
func (c Codec[K]) InOne(encoded []byte) (inOne []byte, leftOut int, err error) {
	values, leftOut, err := c.Decode(encoded)
	if err == nil {
		inOne, err = c.encode(values)
	}
	return inOne, leftOut, err
}

// Merge returns theirs with what a request has changed: it loaded base, and ours is what it made of
// the values. If it changed nothing, Merge returns theirs. Errors: those of Encode and Decode.
func (c Codec[K]) Merge(base, theirs []byte, ours map[K]any) ([]byte, error) {
	before, _, err := c.Decode(base)
	if err != nil {
		return nil, err
	}
	together, apart, err := c.split(theirs)
	if err != nil {
		return nil, err
	}
	if c.isEmpty(ours) && !c.isEmpty(before) {
		return c.join(ours, nil) // also without those that do not decode here
	}
	changed := false
	remove := func(key K) {
		changed = true
		delete(together, key)
		apart = slices.DeleteFunc(apart, func(p part) bool { return c.isOf(p, key) })
	}
	for key := range before {
		if _, ok := ours[key]; !ok {
			remove(key)
		}
	}
	for key, value := range ours {
		if old, ok := before[key]; ok && reflect.DeepEqual(old, value) {
			continue
		}
		remove(key)
		if c.Whole || key == c.Together || isSimple(key) && isSimple(value) {
			together[key] = value
			continue
		}
		encoded, err := c.encode(map[K]any{key: value})
		if err != nil {
			return nil, fmt.Errorf("%w of type %T", err, value)
		}
		apart = append(apart, part{nameOf(key), encoded})
	}
	if !changed {
		return theirs, nil
	}
	return c.join(together, apart)
}

func (c Codec[K]) isEmpty(values map[K]any) bool {
	_, ok := values[c.Together]
	return len(values) == 0 || ok && len(values) == 1
}

// isSimple reports whether every release of an application can decode v, and all of it.
func isSimple(v any) bool {
	switch v.(type) {
	case string, []byte, bool, int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64, float32, float64:
		return true
	}
	return false
}

func (c Codec[K]) encode(values map[K]any) ([]byte, error) {
	encoded, err := c.Marshal(values)
	if err != nil {
		return nil, fmt.Errorf("%w: values", pgsession.ErrEncode)
	}
	if _, err := c.Unmarshal(encoded); err != nil {
		return nil, fmt.Errorf("%w: they would not decode again: values", pgsession.ErrEncode)
	}
	return encoded, nil
}

// A part is a map of one value, encoded.
type part struct {
	name    string // tells the key without decoding, if it is a string; "" otherwise
	encoded []byte
}

func nameOf(key any) string {
	if name, ok := key.(string); ok {
		return "=" + name
	}
	return ""
}

func (c Codec[K]) isOf(p part, key K) bool {
	if name := nameOf(key); name != "" || p.name != "" {
		return p.name == name
	}
	one, _ := c.Unmarshal(p.encoded)
	_, ok := one[key]
	return ok
}

// join returns the form in which values are stored: what was encoded together, and each part's name
// and encoding, each after its length.
func (c Codec[K]) join(together map[K]any, apart []part) ([]byte, error) {
	encoded, err := c.encode(together)
	if err != nil || c.Whole {
		return encoded, err
	}
	joined := appendBytes(nil, encoded)
	for _, p := range apart {
		joined = appendBytes(appendBytes(joined, []byte(p.name)), p.encoded)
	}
	return joined, nil
}

func appendBytes(to, b []byte) []byte {
	return append(binary.AppendUvarint(to, uint64(len(b))), b...)
}

// split is the inverse of join.
func (c Codec[K]) split(joined []byte) (together map[K]any, apart []part, err error) {
	if joined == nil {
		return make(map[K]any), nil, nil
	}
	encoded := joined
	if !c.Whole {
		var fields [][]byte
		for rest := joined; len(rest) > 0; {
			length, n := binary.Uvarint(rest)
			if n <= 0 || length > uint64(len(rest)-n) {
				return nil, nil, pgsession.ErrDecode
			}
			fields = append(fields, rest[n:n+int(length)])
			rest = rest[n+int(length):]
		}
		if len(fields)%2 == 0 {
			return nil, nil, pgsession.ErrDecode
		}
		encoded = fields[0]
		for pair := range slices.Chunk(fields[1:], 2) {
			apart = append(apart, part{string(pair[0]), pair[1]})
		}
	}
	together, err = c.Unmarshal(encoded)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: is every type registered with its encoding?", pgsession.ErrDecode)
	}
	if together == nil {
		together = make(map[K]any)
	}
	return together, apart, nil
}
