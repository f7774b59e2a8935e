package pgsession_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
)

func TestID_Token(t *testing.T) {
	t.Parallel()
	id := pgsession.NewID()
	require.Len(t, id.Token(), 43)
	parsed, err := pgsession.ParseID(id.Token())
	require.NoError(t, err)
	require.Equal(t, id.Token(), parsed.Token())
	require.Equal(t, id.Handle(), parsed.Handle())
	require.NotEqual(t, id.Token(), pgsession.NewID().Token())

	bits, err := base64.RawURLEncoding.DecodeString(id.Token())
	require.NoError(t, err)
	sum := sha256.Sum256(bits)
	require.Equal(t, hex.EncodeToString(sum[:]), id.Handle().String())
}

func TestParseID_ErrInvalidID(t *testing.T) {
	t.Parallel()
	token := pgsession.NewID().Token()
	for name, bad := range map[string]string{
		"empty":             "",
		"one short":         token[:42],
		"one long":          token + "A",
		"padded":            token + "=",
		"a MiB":             strings.Repeat("A", 1<<20),
		"NUL":               token[:42] + "\x00",
		"standard alphabet": token[:42] + "+",
		"a space":           " " + token[:42],
		"a line break":      token[:21] + "\n" + token[21:42],
		"stray bits":        strings.Repeat("A", 42) + "B",
		"all zero":          strings.Repeat("A", 43),
		"a handle":          pgsession.NewID().Handle().String(),
	} {
		t.Run(name, func(t *testing.T) {
			id, err := pgsession.ParseID(bad)
			require.ErrorIs(t, err, pgsession.ErrInvalidID)
			require.ErrorIs(t, err, pgsession.ErrNotFound)
			require.True(t, id.IsZero())
			id, err = pgsession.ParseIDFor("purpose", bad)
			require.ErrorIs(t, err, pgsession.ErrInvalidID)
			require.True(t, id.IsZero())
		})
	}
}

func TestDeriveID(t *testing.T) {
	t.Parallel()
	id := pgsession.DeriveID("a framework's token")
	require.Equal(t, id.Handle(), pgsession.DeriveID("a framework's token").Handle())
	require.NotEqual(t, id.Handle(), pgsession.DeriveID("another token").Handle())
	require.Empty(t, id.Token())
	require.False(t, id.IsZero())
	require.True(t, pgsession.DeriveID("").IsZero())
}

// IDs with one handle differ in where they came from, so that == would mislead. It does not
// compile.
func TestID_Comparable(t *testing.T) {
	t.Parallel()
	require.False(t, reflect.TypeFor[pgsession.ID]().Comparable())
	require.True(t, reflect.TypeFor[pgsession.Handle]().Comparable())
}

func TestHandle(t *testing.T) {
	t.Parallel()
	h := pgsession.NewID().Handle()
	parsed, err := pgsession.ParseHandle(h.String())
	require.NoError(t, err)
	require.True(t, h == parsed)
	parsed, err = pgsession.ParseHandle(strings.ToUpper(h.String()))
	require.NoError(t, err)
	require.True(t, h == parsed)

	encoded, err := json.Marshal(map[pgsession.Handle]pgsession.Handle{h: h})
	require.NoError(t, err)
	require.Equal(t, fmt.Sprintf("{%q:%q}", h.String(), h.String()), string(encoded))
	var decoded map[pgsession.Handle]pgsession.Handle
	require.NoError(t, json.Unmarshal(encoded, &decoded))
	require.Equal(t, map[pgsession.Handle]pgsession.Handle{h: h}, decoded)

	for name, bad := range map[string]string{
		"empty": "", "short": h.String()[:63], "long": h.String() + "0", "not hex": strings.Repeat("g", 64),
		"a token": pgsession.NewID().Token(), "zero": strings.Repeat("0", 64), "a MiB": strings.Repeat("0", 1<<20),
	} {
		_, err := pgsession.ParseHandle(bad)
		require.ErrorIs(t, err, pgsession.ErrInvalidID, name)
	}
}
