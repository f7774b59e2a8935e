package sessionmap_test

import (
	"bytes"
	"encoding/gob"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/sessionmap"
)

var byGob = sessionmap.Gob

var whole = sessionmap.Codec[any]{Marshal: byGob.Marshal, Unmarshal: byGob.Unmarshal, Whole: true}

type (
	olderPrefs struct{ Theme string }
	newerPrefs struct {
		Theme string
		MFA   bool
	}
	otherKey int
	leaky    string
)

func (leaky) GobEncode() ([]byte, error) { return nil, errors.New("a secret") }
func (*leaky) GobDecode(b []byte) error  { return nil }

// A forgetful value does not read what it writes.
type forgetful struct{ Text string }

func (f forgetful) GobEncode() ([]byte, error) { return []byte(f.Text), nil }
func (*forgetful) GobDecode(b []byte) error    { return errors.New(string(b)) }

func init() {
	gob.RegisterName("prefs-older", olderPrefs{})
	gob.RegisterName("prefs-newer", newerPrefs{})
	gob.Register(otherKey(0))
	gob.Register(leaky(""))
	gob.Register(forgetful{})
}

// inOlderRelease returns what a newer release has encoded, as an older one sees it that has fewer
// fields, or does not know the type at all.
func inOlderRelease(encoded []byte, name string) []byte {
	return bytes.ReplaceAll(encoded, []byte("prefs-newer"), []byte(name))
}

func TestCodec_Encode(t *testing.T) {
	for name, c := range map[string]sessionmap.Codec[any]{"apart": byGob, "whole": whole} {
		for _, values := range []map[any]any{
			{},
			{"a": "1", 2: 3.5, "bytes": []byte{0}},
			{"a": "1", "prefs": newerPrefs{"dark", true}, otherKey(1): newerPrefs{"light", true}, "": newerPrefs{}},
		} {
			encoded, err := c.Encode(values)
			require.NoError(t, err, name)
			require.NotNil(t, encoded)
			decoded, leftOut, err := c.Decode(encoded)
			require.NoError(t, err)
			require.Zero(t, leftOut)
			require.Equal(t, values, decoded)
			inOne, leftOut, err := c.InOne(encoded)
			require.NoError(t, err)
			require.Zero(t, leftOut)
			decoded, err = c.Unmarshal(inOne)
			require.NoError(t, err)
			require.Equal(t, values, decoded)
		}
	}
}

func TestCodec_Encode_ErrEncode(t *testing.T) {
	type unregistered struct{ Text string }
	for name, value := range map[string]any{
		"not registered":    unregistered{"a secret"},
		"a failing encoder": leaky("a secret"),
		"not to be decoded": forgetful{"a secret"},
		"a function":        func() {},
	} {
		t.Run(name, func(t *testing.T) {
			for _, c := range []sessionmap.Codec[any]{byGob, whole} {
				_, err := c.Encode(map[any]any{"key": value})
				require.ErrorIs(t, err, pgsession.ErrEncode)
				require.NotContains(t, err.Error(), "secret")
			}
		})
	}
}

func TestCodec_Decode_ErrDecode(t *testing.T) {
	encoded, err := byGob.Encode(map[any]any{"a": "1", "prefs": newerPrefs{}})
	require.NoError(t, err)
	for n := range encoded {
		if n == 0 {
			continue
		}
		if values, _, err := byGob.Decode(encoded[:n]); err != nil {
			require.ErrorIs(t, err, pgsession.ErrDecode)
		} else {
			require.Equal(t, map[any]any{"a": "1"}, values, "what was encoded together ends here")
		}
	}
	for _, c := range []sessionmap.Codec[any]{byGob, whole} {
		_, _, err := c.Decode([]byte("\x06secret"))
		require.ErrorIs(t, err, pgsession.ErrDecode)
		require.NotContains(t, err.Error(), "secret")
	}
}

func TestCodec_Merge(t *testing.T) {
	type values = map[any]any
	prefs, otherPrefs := newerPrefs{"dark", true}, newerPrefs{"light", true}
	base := values{"a": "1", "b": "2", "prefs": prefs}
	for name, test := range map[string]struct{ ours, theirs, want values }{
		"different keys": {values{"a": "1", "b": "3", "prefs": prefs}, values{"a": "4", "b": "2", "prefs": prefs}, values{"a": "4", "b": "3", "prefs": prefs}},
		"one key":        {values{"a": "1", "b": "3", "prefs": prefs}, values{"a": "1", "b": "4", "prefs": prefs}, values{"a": "1", "b": "3", "prefs": prefs}},
		"added":          {values{"a": "1", "b": "2", "prefs": prefs, "c": "3"}, values{"a": "1", "d": "4"}, values{"a": "1", "c": "3", "d": "4"}},
		"removed":        {values{"a": "1"}, values{"a": "1", "b": "2", "prefs": prefs, otherKey(1): prefs}, values{"a": "1", otherKey(1): prefs}},
		"all removed":    {values{}, values{"a": "1", "b": "2", "prefs": prefs, "c": "3"}, values{}},
		"apart":          {values{"a": "1", "b": "2", "prefs": otherPrefs}, values{"a": "4", "prefs": prefs}, values{"a": "4", "prefs": otherPrefs}},
		"apart by both":  {values{"a": "1", "b": "2", "prefs": otherPrefs}, values{"a": "4"}, values{"a": "4", "prefs": otherPrefs}},
		"becomes simple": {values{"a": "1", "b": "2", "prefs": "none"}, base, values{"a": "1", "b": "2", "prefs": "none"}},
		"simple no more": {values{"a": prefs, "b": "2", "prefs": prefs}, base, values{"a": prefs, "b": "2", "prefs": prefs}},
		"another key":    {values{"a": "1", "b": "2", "prefs": prefs, otherKey(1): prefs}, values{otherKey(1): otherPrefs, otherKey(2): prefs}, values{otherKey(1): prefs, otherKey(2): prefs}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, c := range []sessionmap.Codec[any]{byGob, whole} {
				stored, err := c.Encode(base)
				require.NoError(t, err)
				theirs, err := c.Encode(test.theirs)
				require.NoError(t, err)
				merged, err := c.Merge(stored, theirs, test.ours)
				require.NoError(t, err)
				got, leftOut, err := c.Decode(merged)
				require.NoError(t, err)
				require.Zero(t, leftOut)
				require.Equal(t, test.want, got)

				same, err := c.Merge(stored, theirs, base)
				require.NoError(t, err)
				require.Equal(t, theirs, same, "the same bytes, so that nothing is written")
			}
		})
	}
}

// During a deploy an older release changes sessions that a newer one has written.
func TestCodec_Merge_OlderRelease(t *testing.T) {
	newer := map[any]any{"a": "1", "prefs": newerPrefs{"dark", true}, otherKey(1): newerPrefs{"dark", true}}
	encoded, err := byGob.Encode(newer)
	require.NoError(t, err)
	for name, leftOut := range map[string]int{"prefs-older": 0, "prefs-never": 2} {
		t.Run(name, func(t *testing.T) {
			loaded := inOlderRelease(encoded, name)
			values, got, err := byGob.Decode(loaded)
			require.NoError(t, err)
			require.Equal(t, leftOut, got)
			require.Equal(t, "1", values["a"])
			require.NotContains(t, values, newerPrefs{})

			values["a"] = "2"
			merged, err := byGob.Merge(loaded, loaded, values)
			require.NoError(t, err)
			inNewer, got, err := byGob.Decode(bytes.ReplaceAll(merged, []byte(name), []byte("prefs-newer")))
			require.NoError(t, err)
			require.Zero(t, got)
			require.Equal(t, map[any]any{"a": "2", "prefs": newerPrefs{"dark", true}, otherKey(1): newerPrefs{"dark", true}}, inNewer)

			values["prefs"] = "none"
			merged, err = byGob.Merge(loaded, loaded, values)
			require.NoError(t, err)
			inNewer, _, err = byGob.Decode(bytes.ReplaceAll(merged, []byte(name), []byte("prefs-newer")))
			require.NoError(t, err)
			require.Equal(t, "none", inNewer["prefs"])

			clear(values)
			merged, err = byGob.Merge(loaded, loaded, values)
			require.NoError(t, err)
			require.NotContains(t, string(merged), name)
		})
	}
}
