package httpsession

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
)

type known struct {
	Name   string `json:"name,omitempty"`
	Inner  part   `json:"inner"`
	Ptr    *part  `json:"ptr"`
	Plain  int
	Hidden int `json:"-"`
	//lint:ignore SA5008 the name is "-"
	Dash int            `json:"-,"`
	Any  any            `json:"any"`
	Map  map[string]any `json:"map"`
	List []part         `json:"list"`
	Raw  json.RawMessage
	embedded
}

type part struct {
	A int  `json:"a"`
	B *int `json:"b,omitempty"`
}

type embedded struct{ Promoted int }

func TestShape_Keep(t *testing.T) {
	t.Parallel()
	shape := shapeOf(reflect.TypeFor[known](), make(map[reflect.Type]*shape))
	for name, tc := range map[string]struct{ encoded, stored, want string }{
		"nothing stored":        {`{"inner":{"a":1}}`, `{}`, `{"inner":{"a":1}}`},
		"null stored":           {`{"inner":{"a":1}}`, `null`, `{"inner":{"a":1}}`},
		"a list stored":         {`{"Plain":1}`, `[1]`, `{"Plain":1}`},
		"all known":             {`{"Plain":1}`, `{"name":"x","Plain":2,"-":1,"Promoted":2}`, `{"Plain":1}`},
		"in another case":       {`{"Plain":1}`, `{"NAME":"x","plain":2,"PROMOTED":1}`, `{"Plain":1}`},
		"unknown":               {`{"Plain":1}`, `{"new":[1,{"a":"}"}],"Plain":2}`, `{"Plain":1,"new":[1,{"a":"}"}]}`},
		"hidden here":           {`{"Plain":1}`, `{"Hidden":3}`, `{"Plain":1,"Hidden":3}`},
		"order stays":           {`{"Plain":1}`, `{"z":1,"y":2,"x":3}`, `{"Plain":1,"z":1,"y":2,"x":3}`},
		"nothing encoded":       {`{}`, `{"new":1}`, `{"new":1}`},
		"further in":            {`{"inner":{"a":1}}`, `{"inner":{"a":2,"new":3}}`, `{"inner":{"a":1,"new":3}}`},
		"in another case, in":   {`{"inner":{"a":1}}`, `{"Inner":{"A":2,"New":3}}`, `{"inner":{"a":1,"New":3}}`},
		"a pointer":             {`{"ptr":{"a":1}}`, `{"ptr":{"new":3}}`, `{"ptr":{"a":1,"new":3}}`},
		"a pointer, nil now":    {`{"ptr":null}`, `{"ptr":{"new":3}}`, `{"ptr":null}`},
		"any and map":           {`{"any":{},"map":{}}`, `{"any":{"x":1},"map":{"x":1}}`, `{"any":{},"map":{}}`},
		"space":                 {`{"Plain":1}`, " { \"new\" :\n\t1.5e3 , \"b\" : true } ", `{"Plain":1,"new":1.5e3,"b":true}`},
		"escapes":               {`{"Plain":1}`, `{"\u006eame":"x","a\"}\\":"\"}"}`, `{"Plain":1,"a\"}\\":"\"}"}`},
		"the last of several":   {`{"inner":{"a":1}}`, `{"inner":{"x":1},"inner":{"y":1}}`, `{"inner":{"a":1,"y":1}}`},
		"encoded is no object":  {`null`, `{"new":1}`, `{"new":1}`},
		"numbers at the end":    {`{"Plain":-1}`, `{"new":-1}`, `{"Plain":-1,"new":-1}`},
		"the long s is an s":    {`{"Plain":1}`, `{"li` + "\u017f" + `t":1}`, `{"Plain":1}`},
		"unknown, but encoded":  {`{"Plain":1,"new":2}`, `{"new":1}`, `{"Plain":1,"new":2}`},
		"words":                 {`{"Plain":1}`, `{"a":null,"b":false,"c":true}`, `{"Plain":1,"a":null,"b":false,"c":true}`},
		"empty things":          {`{"Plain":1}`, `{"a":{},"b":[],"c":""}`, `{"Plain":1,"a":{},"b":[],"c":""}`},
		"brackets in strings":   {`{"Plain":1}`, `{"a":"[{","b":["]"]}`, `{"Plain":1,"a":"[{","b":["]"]}`},
		"a name with a newline": {`{"Plain":1}`, `{"a\n":1}`, `{"Plain":1,"a\n":1}`},
	} {
		require.Equal(t, tc.want, string(shape.keep([]byte(tc.encoded), nil, []byte(tc.stored))), name)
	}
	shape = shapeOf(reflect.TypeFor[map[string]int](), make(map[reflect.Type]*shapeType))
	require.Equal(t, `{"a":1}`, string(shape.keep([]byte(`{"a":1}`), nil, []byte(`{"b":1}`))), "a map has all members to itself")
}

// What belongs to an element of a list goes where the element goes.
func TestShape_Keep_Elements(t *testing.T) {
	t.Parallel()
	shape := shapeOf(reflect.TypeFor[struct {
		List []part           `json:"list"`
		Map  map[string]*part `json:"map"`
	}](), make(map[reflect.Type]*shape))
	require.True(t, shape.hasList(make(map[*shapeType]bool)))
	const (
		before = `{"list":[{"a":1},{"a":2},{"a":2}]}`
		stored = `{"list":[{"a":1,"x":1}, {"a":2,"x":2},{"a":2,"x":3}]}`
	)
	for name, tc := range map[string]struct{ encoded, before, stored, want string }{
		"not changed":      {before, before, stored, `{"list":[{"a":1,"x":1},{"a":2,"x":2},{"a":2,"x":3}]}`},
		"one changed":      {`{"list":[{"a":1},{"a":9},{"a":2}]}`, before, stored, `{"list":[{"a":1,"x":1},{"a":9,"x":2},{"a":2,"x":3}]}`},
		"appended":         {`{"list":[{"a":1},{"a":2},{"a":2},{"a":2}]}`, before, stored, `{"list":[{"a":1,"x":1},{"a":2,"x":2},{"a":2,"x":3},{"a":2}]}`},
		"removed":          {`{"list":[{"a":2},{"a":2}]}`, before, stored, `{"list":[{"a":2,"x":2},{"a":2,"x":3}]}`},
		"changed, shorter": {`{"list":[{"a":9}]}`, before, stored, `{"list":[{"a":9}]}`},
		"moved":            {`{"list":[{"a":2},{"a":2},{"a":1}]}`, before, stored, `{"list":[{"a":2,"x":2},{"a":2,"x":3},{"a":1,"x":1}]}`},
		"emptied":          {`{"list":[]}`, before, stored, `{"list":[]}`},
		"null":             {`{"list":null}`, before, stored, `{"list":null}`},
		"not known before": {`{"list":[{"a":1}]}`, ``, `{"list":[{"a":1,"x":1}]}`, `{"list":[{"a":1}]}`},
		"a map":            {`{"map":{"k":{"a":2},"K":{"a":3}}}`, `{}`, `{"map":{"k":{"a":1,"x":1},"gone":{"a":1,"x":2}}}`, `{"map":{"k":{"a":2,"x":1},"K":{"a":3}}}`},
	} {
		require.Equal(t, tc.want, string(shape.keep([]byte(tc.encoded), []byte(tc.before), []byte(tc.stored))), name)
	}
}

type (
	shapeType = shape
	first     struct{ A, Both int }
	second    struct {
		B, Both int
		Tagged  int `json:"Wins"`
	}
	deep struct {
		second
		Wins int `json:"deep"`
	}
	pointer struct{ P int }
	odd     struct {
		first
		second
		deep     `json:"inner"`
		*pointer `json:",omitempty"`
		//lint:ignore SA5008 encoding/json ignores such a name, and so must we
		NotAName int    `json:"it's"`
		Name     int    `json:"a name!"`
		Wins     string // no tag, but further out
	}
)

// What a struct has a place for is what encoding/json says.
func TestFieldsOf(t *testing.T) {
	t.Parallel()
	encoded, err := json.Marshal(odd{pointer: new(pointer)})
	require.NoError(t, err)
	var members map[string]any
	require.NoError(t, json.Unmarshal(encoded, &members))
	fields := fieldsOf(reflect.TypeFor[odd]())
	for name := range members {
		require.Contains(t, fields, name)
	}
	require.Len(t, fields, len(members), "%v", fields)
	require.Equal(t, reflect.TypeFor[string](), fields["Wins"])
}

// FuzzShape_Keep holds what is kept to what encoding/json says: the known values are those that
// were encoded, and nothing unknown is lost.
func FuzzShape_Keep(f *testing.F) {
	for _, seed := range []string{
		`{"name":"x","new":1}`, `{"Inner":{"c":{"d":[1,2]}},"ptr":{"z":"\u0000"}}`, `{"a":1,"a":2,"A":3}`, `[]`, `{"list":[{"x":1}]}`, `{"\\":"\\\""}`,
	} {
		f.Add(seed)
	}
	shape := shapeOf(reflect.TypeFor[known](), make(map[reflect.Type]*shape))
	f.Fuzz(func(t *testing.T, stored string) {
		var v known
		if !json.Valid([]byte(stored)) || json.Unmarshal([]byte(stored), &v) != nil {
			return
		}
		encoded, err := json.Marshal(&v)
		require.NoError(t, err)
		kept := shape.keep(encoded, encoded, []byte(stored))
		require.True(t, json.Valid(kept), "%s", kept)
		var again known
		require.NoError(t, json.Unmarshal(kept, &again))
		reencoded, err := json.Marshal(&again)
		require.NoError(t, err)
		require.JSONEq(t, string(encoded), string(reencoded))
		require.Equal(t, string(kept), string(shape.keep(encoded, encoded, kept)), "twice is once")

		var before, after map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(kept, &after))
		if json.Unmarshal([]byte(stored), &before) != nil {
			return
		}
		for name := range before {
			if _, isKnown := shape.member([]byte(quoted(t, name))); !isKnown {
				require.Contains(t, after, name)
			}
		}
	})
}

func quoted(t *testing.T, name string) string {
	q, err := json.Marshal(name)
	require.NoError(t, err)
	return string(q)
}
