package pgsession_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/test"
)

func TestGenerateKey(t *testing.T) {
	t.Parallel()
	seen := map[pgsession.Key]bool{{}: true}
	for range 1000 {
		key := pgsession.GenerateKey()
		require.False(t, seen[key])
		seen[key] = true
		require.True(t, key == parseKey(t, key.Secret()))
	}
}

func TestParseKey(t *testing.T) {
	t.Parallel()
	// Its base64 has both of the characters in which the alphabets differ.
	b := bytes.Repeat([]byte{0xfb, 0xef, 0xff, 0x12}, 8)
	digits := hex.EncodeToString(b)
	std, url := base64.StdEncoding.EncodeToString(b), base64.URLEncoding.EncodeToString(b)
	require.Contains(t, std, "+")
	require.Contains(t, std, "/")
	for _, c := range []struct {
		name, text, secret string
	}{
		{"hex", digits, digits},
		{"capital hex", strings.ToUpper(digits), digits},
		{"base64", std, digits},
		{"base64, not padded", strings.TrimRight(std, "="), digits},
		{"base64url", url, digits},
		{"base64url, not padded", strings.TrimRight(url, "="), digits},
		{"space around it", " \t\r\n" + std + "\r\n ", digits},
		{"base64 that has hex digits only", strings.Repeat("a", 42) + "A", strings.Repeat("69a", 21) + "0"},
		{"zeros", strings.Repeat("0", 64), strings.Repeat("0", 64)},
		{"empty", "", ""},
		{"space only", " \n", ""},
		{"hex, a digit short", digits[1:], ""},
		{"hex, a digit long", digits + "0", ""},
		{"hex, a byte short", digits[2:], ""},
		{"hex with 0x", "0x" + digits, ""},
		{"no hex digit", "g" + digits[1:], ""},
		{"hex with a space inside", digits[:31] + " " + digits[32:], ""},
		{"hex with a line break inside", digits[:32] + "\n" + digits[32:], ""},
		{"base64 with a line break inside", std[:20] + "\n" + std[20:], ""},
		{"base64 with a carriage return inside", std[:20] + "\r" + std[20:], ""},
		{"both alphabets", std[:22] + url[22:], ""},
		{"too much padding", std + "=", ""},
		{"trailing bits", std[:42] + "T=", ""},
		{"trailing bits, not padded", std[:42] + "T", ""},
		{"31 bytes", base64.StdEncoding.EncodeToString(b[1:]), ""},
		{"33 bytes", base64.StdEncoding.EncodeToString(append(b, 0)), ""},
		{"a passphrase", "correct horse battery staple", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			key, err := pgsession.ParseKey(c.text)
			if c.secret == "" {
				require.EqualError(t, err, "pgsession: parse key: a key is 64 hex digits or the base64 of 32 bytes")
				require.True(t, key == pgsession.Key{})
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.secret, key.Secret())
		})
	}
	zero := parseKey(t, strings.Repeat("0", 64))
	require.True(t, zero == pgsession.Key{})
	require.True(t, parseKey(t, digits) == parseKey(t, std))
}

func TestParseKeyRing(t *testing.T) {
	t.Parallel()
	keyA, keyB, keyC := pgsession.GenerateKey(), pgsession.GenerateKey(), pgsession.GenerateKey()
	a, b, c := keyA.Secret(), base64.StdEncoding.EncodeToString(fromHex(t, keyB.Secret())), keyC.Secret()
	onlyA, all := []pgsession.Key{keyA}, []pgsession.Key{keyA, keyB, keyC}
	for _, c := range []struct {
		name, text string
		keys       []pgsession.Key // the primary first
		err        string
	}{
		{"one key", a, onlyA, ""},
		{"commas", a + "," + b + "," + c, all, ""},
		{"commas and spaces", " " + a + " , " + b + " ,\t" + c + " ", all, ""},
		{"lines", a + "\n" + b + "\n" + c, all, ""},
		{"lines and a last line break", a + "\n" + b + "\n" + c + "\n", all, ""},
		{"lines of Windows", a + "\r\n" + b + "\r\n" + c + "\r\n", all, ""},
		{"lines that end in commas", a + ",\n" + b + ", \n" + c + ",", all, ""},
		{"blank lines", "\n\n" + a + "\n \n" + b + "," + c + "\n\t\n", all, ""},
		{"the same key twice", a + "," + a, onlyA, ""},
		{"empty", "", nil, "no key in it"},
		{"blank lines only", "\n \n", nil, "no key in it"},
		{"an empty primary", "," + a, nil, "key 1: a key is"},
		{"an empty primary, with space", " ," + a, nil, "key 1: a key is"},
		{"an empty entry", a + ",," + b, nil, "key 2: a key is"},
		{"two trailing commas", a + ",,", nil, "key 2: a key is"},
		{"a comma only", ",", nil, "key 1: a key is"},
		{"a line with a comma only", a + "\n,\n" + b, nil, "key 2: a key is"},
		{"a line that begins with a comma", a + "\n," + b, nil, "key 2: a key is"},
		{"no key", a + ",secret", nil, "key 2: a key is"},
		{"space between keys", a + " " + c, nil, "key 1: a key is"},
		{"the zero key", a + "," + strings.Repeat("0", 64), nil, "key 2 of the ring is the zero key"},
		{"colliding keys", collidingKey + "," + otherCollidingKey, nil, "key 2 of the ring has the key id of another"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			crypto, err := pgsession.ParseKeyRing(c.text)
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				require.Nil(t, crypto)
				requireNoSecret(t, err.Error(), all...)
				require.NotContains(t, err.Error(), "secret")
				return
			}
			require.NoError(t, err)
			sealed, err := crypto.Seal(nil, nil)
			require.NoError(t, err)
			_, err = test.NewCrypto(t, c.keys[0]).Open(sealed, nil)
			require.NoError(t, err, "another key is the primary")
			for _, key := range c.keys {
				sealed, err := test.NewCrypto(t, key).Seal(nil, nil)
				require.NoError(t, err)
				_, err = crypto.Open(sealed, nil)
				require.NoError(t, err)
			}
		})
	}
}

func TestKey_Redaction(t *testing.T) {
	t.Parallel()
	key := pgsession.GenerateKey()
	type nested struct {
		Exported   pgsession.Key
		unexported pgsession.Key
	}
	type deep struct {
		unexported []nested
		pointer    *pgsession.Key
		interfaces any
		keys       map[pgsession.Key]pgsession.Key
		array      [1]pgsession.Key
	}
	shapes := map[string]any{
		"a key":              key,
		"a pointer":          &key,
		"a slice":            []pgsession.Key{key},
		"an array":           [1]pgsession.Key{key},
		"a map's value":      map[string]pgsession.Key{"key": key},
		"a map's key":        map[pgsession.Key]string{key: "key"},
		"a slice of any":     []any{key, &key},
		"a struct":           nested{key, key},
		"a struct's pointer": &nested{key, key},
		"deep": &deep{
			[]nested{{key, key}}, &key, key,
			map[pgsession.Key]pgsession.Key{key: key}, [1]pgsession.Key{key},
		},
		"a crypto": test.NewCrypto(t, key),
		"an error": fmt.Errorf("with the key %v, %+v", key, nested{key, key}),
	}
	verbs := []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%#x", "%d", "%o", "%b", "%c", "%U", "%e", "%g", "%t", "%5.1v", "%T", "%p", "%w", "%z"}

	for name, shape := range shapes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, verb := range verbs {
				requireNoSecret(t, fmt.Sprintf(verb, shape), key)
			}
			requireNoSecret(t, fmt.Sprint(shape), key)

			if name != "deep" { // no exported fields: {}
				text, err := json.Marshal(shape)
				require.NoError(t, err)
				requireNoSecret(t, string(text), key)
			}
			var log bytes.Buffer
			for _, handler := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
				logger := slog.New(handler)
				logger.Info("message", "value", shape)
				logger.Info("message", slog.Group("group", "value", shape))
				logger.With("value", shape).Info(fmt.Sprint("message", shape))
			}
			requireNoSecret(t, log.String(), key)
		})
	}

	for _, verb := range verbs {
		if verb != "%T" && verb != "%p" && verb != "%w" { // for these fmt asks no Formatter
			require.Equal(t, "Key(REDACTED)", fmt.Sprintf(verb, key), verb)
			require.Equal(t, "Key(REDACTED)", fmt.Sprintf(verb, &key), verb)
		}
	}
	require.Contains(t, fmt.Sprintf("%+v", nested{key, key}), "Exported:Key(REDACTED)")
	text, err := json.Marshal(map[string]any{"key": key, "keys": []pgsession.Key{key}})
	require.NoError(t, err)
	require.JSONEq(t, `{"key":"Key(REDACTED)","keys":["Key(REDACTED)"]}`, string(text))
	require.Equal(t, slog.StringValue("Key(REDACTED)"), slog.AnyValue(key).Resolve())
	require.Equal(t, "Key(REDACTED)", fmt.Sprint(pgsession.Key{}), "a zero key prints no differently")
}
