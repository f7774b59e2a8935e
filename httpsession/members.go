package httpsession

import (
	"bytes"
	"cmp"
	"encoding"
	"encoding/json"
	"iter"
	"reflect"
	"slices"
	"strings"
)

// A shape says which members of a JSON object a struct has a place for. Those that it has none for
// were stored by another release of the application, and are kept. A nil shape is that of a type
// which is no struct, or which has methods of its own for JSON: all members are its own.
type shape struct {
	members map[string]*shape // by name
}

// shapeOf returns the shape of a type. The shapes in known are not made again: types may be
// recursive.
func shapeOf(t reflect.Type, known map[reflect.Type]*shape) *shape {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || hasOwnJSON(t) {
		return nil
	}
	s := known[t]
	if s == nil {
		s = &shape{make(map[string]*shape)}
		known[t] = s
		s.add(t, known)
	}
	return s
}

var ownJSON = []reflect.Type{
	reflect.TypeFor[json.Marshaler](), reflect.TypeFor[json.Unmarshaler](),
	reflect.TypeFor[encoding.TextMarshaler](), reflect.TypeFor[encoding.TextUnmarshaler](),
}

func hasOwnJSON(t reflect.Type) bool {
	for _, methods := range ownJSON {
		if reflect.PointerTo(t).Implements(methods) {
			return true
		}
	}
	return false
}

// add adds the fields of a struct by the rules of encoding/json: those of embedded structs come
// after its own.
func (s *shape) add(t reflect.Type, known map[reflect.Type]*shape, within ...reflect.Type) {
	var embedded []reflect.Type
	for i := range t.NumField() {
		field := t.Field(i)
		tag := field.Tag.Get("json")
		name, _, _ := strings.Cut(tag, ",")
		inner := field.Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		switch {
		case tag == "-":
		case field.Anonymous && name == "" && inner.Kind() == reflect.Struct:
			embedded = append(embedded, inner)
		case field.IsExported():
			name = cmp.Or(name, field.Name)
			if _, exists := s.members[name]; !exists {
				s.members[name] = shapeOf(field.Type, known)
			}
		}
	}
	within = append(within, t)
	for _, inner := range embedded {
		if !slices.Contains(within, inner) { // a struct may embed a pointer to itself
			s.add(inner, known, within...)
		}
	}
}

// member returns the shape of a member, and whether the struct has a place for it. Names match as
// in encoding/json, whatever their case.
func (s *shape) member(quoted []byte) (*shape, bool) {
	if member, ok := s.members[string(quoted[1:len(quoted)-1])]; ok { // without a copy
		return member, true
	}
	name := unquote(quoted)
	for known, member := range s.members {
		if strings.EqualFold(known, name) {
			return member, true
		}
	}
	return nil, false
}

// keep returns an encoded struct with the members of a stored one that it has no place for. Both
// are valid JSON.
func (s *shape) keep(encoded, stored []byte) []byte {
	if s == nil || !s.lacks(stored) {
		return encoded
	}
	return s.merge(nil, encoded, stored)
}

// lacks reports whether an object has members that s has no place for, itself or further in.
func (s *shape) lacks(object []byte) bool {
	for name, value := range members(object) {
		if member, ok := s.member(name); !ok || member != nil && member.lacks(value) {
			return true
		}
	}
	return false
}

func (s *shape) merge(dst, encoded, stored []byte) []byte {
	if !isObject(encoded) {
		return append(dst, encoded...)
	}
	dst = append(dst, '{')
	for name, value := range members(encoded) {
		dst = appendName(dst, name)
		member, _ := s.member(name)
		before, ok := find(stored, name)
		if ok && member != nil {
			dst = member.merge(dst, value, before)
		} else {
			dst = append(dst, value...)
		}
	}
	for name, value := range members(stored) {
		_, isOwn := s.member(name)
		if _, isThere := find(encoded, name); !isOwn && !isThere {
			dst = append(appendName(dst, name), value...)
		}
	}
	return append(dst, '}')
}

// appendName appends the name of a member to an object that has no closing brace yet.
func appendName(object, quoted []byte) []byte {
	if object[len(object)-1] != '{' {
		object = append(object, ',')
	}
	return append(append(object, quoted...), ':')
}

// find returns a member of an object. Of several it is the last, as in encoding/json.
func find(object, quoted []byte) (value []byte, ok bool) {
	for other, v := range members(object) {
		if strings.EqualFold(unquote(other), unquote(quoted)) {
			value, ok = v, true
		}
	}
	return value, ok
}

func isObject(value []byte) bool {
	value = trimSpace(value)
	return len(value) > 0 && value[0] == '{'
}

// members yields the names, in quotes, and the values of an object. The object must be valid JSON.
// Other values have no members.
func members(object []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		if !isObject(object) {
			return
		}
		rest := trimSpace(trimSpace(object)[1:])
		for rest[0] != '}' {
			name := rest[:lengthOf(rest)]
			rest = trimSpace(rest[len(name):])
			rest = trimSpace(rest[len(":"):])
			value := rest[:lengthOf(rest)]
			if !yield(name, value) {
				return
			}
			rest = trimSpace(rest[len(value):])
			if rest[0] == ',' {
				rest = trimSpace(rest[1:])
			}
		}
	}
}

// lengthOf returns how long the value is with which data begins.
func lengthOf(data []byte) int {
	depth := 0
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '"':
			for i++; data[i] != '"'; i++ {
				if data[i] == '\\' {
					i++
				}
			}
			if depth == 0 {
				return i + 1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i // it is of the object that a number or a word stands in
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return i
			}
		}
	}
	return len(data)
}

func trimSpace(data []byte) []byte { return bytes.TrimLeft(data, " \t\n\r") }

// unquote returns the text of a JSON string.
func unquote(quoted []byte) string {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return string(quoted[1 : len(quoted)-1])
	}
	var text string
	json.Unmarshal(quoted, &text)
	return text
}
