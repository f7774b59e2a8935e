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
		"any, map, list":        {`{"any":{},"map":{},"list":[{}]}`, `{"any":{"x":1},"map":{"x":1},"list":[{"x":1}]}`, `{"any":{},"map":{},"list":[{}]}`},
		"space":                 {`{"Plain":1}`, " { \"new\" :\n\t1.5e3 , \"b\" : true } ", `{"Plain":1,"new":1.5e3,"b":true}`},
		"escapes":               {`{"Plain":1}`, `{"\u006eame":"x","a\"}\\":"\"}"}`, `{"Plain":1,"a\"}\\":"\"}"}`},
		"the last of several":   {`{"inner":{"a":1}}`, `{"inner":{"x":1},"inner":{"y":1}}`, `{"inner":{"a":1,"y":1}}`},
		"encoded is no object":  {`null`, `{"new":1}`, `null`},
		"numbers at the end":    {`{"Plain":-1}`, `{"new":-1}`, `{"Plain":-1,"new":-1}`},
		"the long s is an s":    {`{"Plain":1}`, `{"li` + "\u017f" + `t":1}`, `{"Plain":1}`},
		"unknown, but encoded":  {`{"Plain":1,"new":2}`, `{"new":1}`, `{"Plain":1,"new":2}`},
		"words":                 {`{"Plain":1}`, `{"a":null,"b":false,"c":true}`, `{"Plain":1,"a":null,"b":false,"c":true}`},
		"empty things":          {`{"Plain":1}`, `{"a":{},"b":[],"c":""}`, `{"Plain":1,"a":{},"b":[],"c":""}`},
		"brackets in strings":   {`{"Plain":1}`, `{"a":"[{","b":["]"]}`, `{"Plain":1,"a":"[{","b":["]"]}`},
		"a name with a newline": {`{"Plain":1}`, `{"a\n":1}`, `{"Plain":1,"a\n":1}`},
	} {
		require.Equal(t, tc.want, string(shape.keep([]byte(tc.encoded), []byte(tc.stored))), name)
	}
	shape = shapeOf(reflect.TypeFor[map[string]int](), nil)
	require.Equal(t, `{"a":1}`, string(shape.keep([]byte(`{"a":1}`), []byte(`{"b":1}`))), "a map has all members to itself")
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
		kept := shape.keep(encoded, []byte(stored))
		require.True(t, json.Valid(kept), "%s", kept)
		var again known
		require.NoError(t, json.Unmarshal(kept, &again))
		reencoded, err := json.Marshal(&again)
		require.NoError(t, err)
		require.JSONEq(t, string(encoded), string(reencoded))
		require.Equal(t, string(kept), string(shape.keep(encoded, kept)), "twice is once")

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
