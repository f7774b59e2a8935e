package httpsession

import (
	"bytes"
	"encoding"
	"encoding/json"
	"iter"
	"maps"
	"reflect"
	"slices"
	"strings"
	"unicode"
)

// A shape says which members of a JSON object a struct has a place for. Those that it has none for
// were stored by another release of the application, and are kept. The shape of a list or of a map
// is that of its elements. A nil shape is that of other types, and of those that have methods of
// their own for JSON: what is stored is all their own.
type shape struct {
	members  map[string]*shape // of a struct, by name
	elements *shape            // of a list or a map
	isList   bool
}

// shapeOf returns the shape of a type. The shapes in known are not made again: types may be
// recursive.
func shapeOf(t reflect.Type, known map[reflect.Type]*shape) *shape {
	if hasOwnJSON(t) {
		return nil
	}
	if s, ok := known[t]; ok {
		return s
	}
	s := new(shape)
	switch t.Kind() {
	case reflect.Pointer:
		known[t] = nil // a type may be a pointer to itself
		known[t] = shapeOf(t.Elem(), known)
		return known[t]
	case reflect.Struct:
		known[t] = s
		s.members = make(map[string]*shape)
		for name, field := range fieldsOf(t) {
			s.members[name] = shapeOf(field, known)
		}
		return s
	case reflect.Slice, reflect.Array, reflect.Map:
		known[t] = s
		s.isList = t.Kind() != reflect.Map
		s.elements = shapeOf(t.Elem(), known)
		if s.elements == nil {
			known[t] = nil
		}
		return known[t]
	}
	return nil
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

// fieldsOf returns the types of a struct's fields by the names of their members, by the rules of
// encoding/json. Fields of embedded structs come after the struct's own. Of several at the same
// depth one with a tag counts, and if there are several of these, none.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	fields, seen := make(map[string]reflect.Type), make(map[reflect.Type]bool)
	for level := []reflect.Type{t}; len(level) > 0; {
		type candidate struct {
			t        reflect.Type // nil if there are several
			isTagged bool
		}
		found, next := make(map[string]candidate), []reflect.Type(nil)
		for _, t := range level {
			seen[t] = true
			for i := range t.NumField() {
				field := t.Field(i)
				inner := field.Type
				if inner.Kind() == reflect.Pointer && inner.Name() == "" {
					inner = inner.Elem()
				}
				isEmbedded := field.Anonymous && inner.Kind() == reflect.Struct
				tag := field.Tag.Get("json")
				if tag == "-" || !field.IsExported() && !isEmbedded {
					continue
				}
				name, _, _ := strings.Cut(tag, ",")
				isTagged := isName(name)
				if isEmbedded && !isTagged {
					next = append(next, inner)
					continue
				}
				if !isTagged {
					name = field.Name
				}
				if other, exists := found[name]; !exists || isTagged && !other.isTagged {
					found[name] = candidate{field.Type, isTagged}
				} else if isTagged == other.isTagged {
					found[name] = candidate{nil, isTagged}
				}
			}
		}
		for name, c := range found {
			if _, exists := fields[name]; !exists {
				fields[name] = c.t
			}
		}
		level = slices.DeleteFunc(next, func(t reflect.Type) bool { return seen[t] })
	}
	maps.DeleteFunc(fields, func(_ string, t reflect.Type) bool { return t == nil })
	return fields
}

// isName reports whether encoding/json takes the name in a tag.
func isName(name string) bool {
	const punctuation = "!#$%&()*+-./:;<=>?@[]^_{|}~ "
	return name != "" && !strings.ContainsFunc(name, func(c rune) bool {
		return !strings.ContainsRune(punctuation, c) && !unicode.IsLetter(c) && !unicode.IsDigit(c)
	})
}

// member returns the shape of a member, and whether there is a place for it. Names match as in
// encoding/json, whatever their case.
func (s *shape) member(quoted []byte) (*shape, bool) {
	if s.members == nil {
		return s.elements, true
	}
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

// keep returns encoded values with the members of the stored ones that there is no place for. All
// are valid JSON. The values before are those that were read from the stored ones, encoded before
// they were changed. They tell which element of a list is which, and may be nil.
func (s *shape) keep(encoded, before, stored []byte) []byte {
	if s == nil || !s.lacks(stored) {
		return encoded
	}
	if s.members != nil && !isObject(encoded) { // a nil pointer
		encoded = []byte("{}")
	}
	return s.merge(nil, encoded, before, stored)
}

// hasList reports whether keep wants to know the values before. The shapes in seen have none.
func (s *shape) hasList(seen map[*shape]bool) bool {
	if s == nil || seen[s] {
		return false
	}
	seen[s] = true
	for _, member := range s.members {
		if member.hasList(seen) {
			return true
		}
	}
	return s.isList || s.elements.hasList(seen)
}

// lacks reports whether a value has members that s has no place for, itself or further in.
func (s *shape) lacks(value []byte) bool {
	switch {
	case s == nil:
		return false
	case s.isList:
		for element := range elements(value) {
			if s.elements.lacks(element) {
				return true
			}
		}
		return false
	}
	for name, inner := range members(value) {
		if member, ok := s.member(name); !ok || member.lacks(inner) {
			return true
		}
	}
	return false
}

func (s *shape) merge(dst, encoded, before, stored []byte) []byte {
	switch {
	case s == nil:
		return append(dst, encoded...)
	case s.isList:
		return s.mergeList(dst, encoded, before, stored)
	case !isObject(encoded):
		return append(dst, encoded...)
	}
	dst = append(dst, '{')
	for name, value := range members(encoded) {
		dst = appendName(dst, name)
		member, _ := s.member(name)
		if inner, ok := s.find(stored, name); ok {
			innerBefore, _ := s.find(before, name)
			dst = member.merge(dst, value, innerBefore, inner)
		} else {
			dst = append(dst, value...)
		}
	}
	for name, value := range members(stored) {
		_, isOwn := s.member(name)
		if _, isThere := s.find(encoded, name); !isOwn && !isThere {
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

// mergeList merges the elements of a list. An element that was not changed keeps what is stored
// with it, wherever it is now. One that was changed keeps what is stored at its place, if the list
// is as long as before.
func (s *shape) mergeList(dst, encoded, before, stored []byte) []byte {
	now, then, there := slices.Collect(elements(encoded)), slices.Collect(elements(before)), slices.Collect(elements(stored))
	if len(now) == 0 || len(then) != len(there) {
		return append(dst, encoded...)
	}
	places, isTaken := make([]int, len(now)), make([]bool, len(then))
	for i := range places {
		places[i] = -1
	}
	isSame := func(i, place int) bool {
		return places[i] < 0 && !isTaken[place] && bytes.Equal(now[i], then[place])
	}
	take := func(i, place int) { places[i], isTaken[place] = place, true }
	for i := 0; i < min(len(now), len(then)) && isSame(i, i); i++ {
		take(i, i)
	}
	for i, place := len(now)-1, len(then)-1; i >= 0 && place >= 0 && isSame(i, place); i, place = i-1, place-1 {
		take(i, place)
	}
	free := make(map[string][]int) // the places of what is not found yet
	for place, element := range then {
		if !isTaken[place] {
			free[string(element)] = append(free[string(element)], place)
		}
	}
	for i, element := range now {
		if same := free[string(element)]; places[i] < 0 && len(same) > 0 {
			take(i, same[0])
			free[string(element)] = same[1:]
		}
	}
	for i := range now {
		if places[i] < 0 && len(now) == len(then) && !isTaken[i] {
			take(i, i)
		}
		if i == 0 {
			dst = append(dst, '[')
		} else {
			dst = append(dst, ',')
		}
		if place := places[i]; place >= 0 {
			dst = s.elements.merge(dst, now[i], then[place], there[place])
		} else {
			dst = append(dst, now[i]...)
		}
	}
	return append(dst, ']')
}

// find returns a member of an object. Of several it is the last, as in encoding/json. Keys of maps
// match only as they are.
func (s *shape) find(object, quoted []byte) (value []byte, ok bool) {
	for other, v := range members(object) {
		if a, b := unquote(other), unquote(quoted); a == b || s.members != nil && strings.EqualFold(a, b) {
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

// elements yields the elements of an array. The array must be valid JSON. Other values have none.
func elements(array []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		rest := trimSpace(array)
		if len(rest) == 0 || rest[0] != '[' {
			return
		}
		for rest = trimSpace(rest[1:]); rest[0] != ']'; {
			element := rest[:lengthOf(rest)]
			if !yield(element) {
				return
			}
			rest = trimSpace(rest[len(element):])
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
				return i // it is of the object or array that a number or a word stands in
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
