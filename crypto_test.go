package pgsession_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/test"
)

// A payload that was sealed once, by the first version: every later one must
// open it.
const (
	frozenKey = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
	frozenRow = "634768dae1474506e4bf7d341890542b09987d7e6aea5d446c02e37581a56954"
	// The length of the user id, the user id, 0 for JSON, and the values.
	frozenPlaintext = "\x05alice\x00" + `{"cart":["tea","milk"]}`
	frozenSealed    = "01c68300d0" + // format, key id
		"aa0d36a3264ebef5cc5007dd" + // derivation salt
		"e595431c668b65c9acd439df" + // GCM nonce
		"5f4d1398bdf2604330a3f35c008715ae51f135d4b5bd720b47e88e723805" +
		"94fd0479447175f5e78333ffeaa773c0"
)

func fromHex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	require.NoError(t, err)
	return b
}

func parseKey(t testing.TB, s string) pgsession.Key {
	t.Helper()
	key, err := pgsession.ParseKey(s)
	require.NoError(t, err)
	return key
}

func TestCrypto_FrozenPayload(t *testing.T) {
	t.Parallel()
	crypto := test.NewCrypto(t, parseKey(t, frozenKey))
	plaintext, err := crypto.Open(fromHex(t, frozenSealed), fromHex(t, frozenRow))
	require.NoError(t, err)
	require.Equal(t, frozenPlaintext, string(plaintext))
}

func TestCrypto_SealOpen(t *testing.T) {
	t.Parallel()
	crypto := test.NewCrypto(t, pgsession.GenerateKey())
	row := []byte("row")
	sizes := []int{1 << 10, 4<<10 - 1, 4 << 10, 16<<10 + 1, 64<<10 - 1, 64 << 10}
	for size := range 300 {
		sizes = append(sizes, size)
	}
	for _, size := range sizes {
		plaintext := make([]byte, size)
		rand.Read(plaintext)
		before := bytes.Clone(plaintext)
		sealed, err := crypto.Seal(plaintext, row)
		require.NoError(t, err)
		require.Len(t, sealed, size+45)
		require.True(t, bytes.Equal(before, plaintext), "Seal wrote to its argument")

		again, err := crypto.Seal(plaintext, row)
		require.NoError(t, err)
		require.False(t, bytes.Equal(sealed, again), "a nonce was used twice")

		before = bytes.Clone(sealed)
		opened, err := crypto.Open(sealed, row)
		require.NoError(t, err)
		require.True(t, bytes.Equal(plaintext, opened), "%d bytes", size)
		require.True(t, bytes.Equal(before, sealed), "Open wrote to its argument")
	}
}

func TestCrypto_Open_ErrTampered(t *testing.T) {
	t.Parallel()
	crypto := test.NewCrypto(t, parseKey(t, frozenKey))
	sealed, row := fromHex(t, frozenSealed), fromHex(t, frozenRow)
	refused := func(t *testing.T, err error, payload, associatedData []byte, what ...any) {
		t.Helper()
		plaintext, got := crypto.Open(payload, associatedData)
		require.Nil(t, plaintext, what...)
		require.Equal(t, err, got, what...)
	}

	t.Run("a flipped bit", func(t *testing.T) {
		t.Parallel()
		for i := range len(sealed) * 8 {
			flipped := bytes.Clone(sealed)
			flipped[i/8] ^= 0x80 >> (i % 8)
			err := pgsession.ErrTampered
			if i/8 >= 1 && i/8 < 5 {
				err = pgsession.ErrUnknownKey // the key id
			}
			refused(t, err, flipped, row, "bit %d", i)
		}
	})
	t.Run("cut", func(t *testing.T) {
		t.Parallel()
		for n := range sealed {
			refused(t, pgsession.ErrTampered, sealed[:n], row, "to %d bytes", n)
			if n > 0 && n < len(sealed)-45 {
				refused(t, pgsession.ErrTampered, append(bytes.Clone(sealed[:29]), sealed[29+n:]...), row, "%d bytes out", n)
			}
		}
	})
	t.Run("too short to be told an unknown key", func(t *testing.T) {
		t.Parallel()
		for n := range 45 {
			_, err := test.NewCrypto(t, pgsession.GenerateKey()).Open(sealed[:n], row)
			require.Equal(t, pgsession.ErrTampered, err, "%d bytes", n)
		}
		_, err := test.NewCrypto(t, pgsession.GenerateKey()).Open(sealed[:45], row)
		require.Equal(t, pgsession.ErrUnknownKey, err)
	})
	t.Run("lengthened", func(t *testing.T) {
		t.Parallel()
		for n := 1; n < 64; n++ {
			refused(t, pgsession.ErrTampered, append(bytes.Clone(sealed), make([]byte, n)...), row, "by %d bytes", n)
		}
		refused(t, pgsession.ErrTampered, append(bytes.Clone(sealed), sealed...), row, "twice")
	})
	t.Run("other associated data", func(t *testing.T) {
		t.Parallel()
		refused(t, pgsession.ErrTampered, sealed, nil)
		refused(t, pgsession.ErrTampered, sealed, row[:31])
		refused(t, pgsession.ErrTampered, sealed, append(bytes.Clone(row), 0))
		for i := range len(row) * 8 {
			flipped := bytes.Clone(row)
			flipped[i/8] ^= 0x80 >> (i % 8)
			refused(t, pgsession.ErrTampered, sealed, flipped, "bit %d", i)
		}
	})
	t.Run("every other format", func(t *testing.T) {
		t.Parallel()
		for format := range 256 {
			if format != 1 {
				refused(t, pgsession.ErrTampered, append([]byte{byte(format)}, sealed[1:]...), row, "format %d", format)
			}
		}
	})
	t.Run("re-labelled with the id of another key of the ring", func(t *testing.T) {
		t.Parallel()
		other := pgsession.GenerateKey()
		label, err := test.NewCrypto(t, other).Seal(nil, nil)
		require.NoError(t, err)
		both := test.NewCrypto(t, parseKey(t, frozenKey), other)
		_, err = both.Open(append(bytes.Clone(label[:5]), sealed[5:]...), row)
		require.Equal(t, pgsession.ErrTampered, err)
	})
}

func TestCrypto_Rotation(t *testing.T) {
	t.Parallel()
	older, newer, stranger := pgsession.GenerateKey(), pgsession.GenerateKey(), pgsession.GenerateKey()
	row := []byte("row")
	crypto := test.NewCrypto(t, older)
	underOlder, err := crypto.Seal([]byte("older"), row)
	require.NoError(t, err)

	require.NoError(t, crypto.SetKeys(newer, older))
	underNewer, err := crypto.Seal([]byte("newer"), row)
	require.NoError(t, err)
	require.NotEqual(t, underOlder[1:5], underNewer[1:5], "the new primary seals")
	for sealed, want := range map[string]string{string(underOlder): "older", string(underNewer): "newer"} {
		opened, err := crypto.Open([]byte(sealed), row)
		require.NoError(t, err)
		require.Equal(t, want, string(opened))
	}

	require.NoError(t, crypto.SetKeys(newer))
	_, err = crypto.Open(underOlder, row)
	require.Equal(t, pgsession.ErrUnknownKey, err)
	_, err = test.NewCrypto(t, stranger).Open(underNewer, row)
	require.Equal(t, pgsession.ErrUnknownKey, err)
}

// Different keys with one key id, found among the first 73,147 of a search.
const (
	collidingKey      = "59a45f1542efd58cb8eba3010db43b030cd84e11fe827e94e32f1d120b741ee8"
	otherCollidingKey = "d45697b024d347f8b7b579802a36ef590a6d1e196563506208411e79b083fe0c"
)

func TestNewCrypto(t *testing.T) {
	t.Parallel()
	a, b := pgsession.GenerateKey(), pgsession.GenerateKey()
	colliding, otherColliding := parseKey(t, collidingKey), parseKey(t, otherCollidingKey)
	for _, c := range []struct {
		name string
		keys []pgsession.Key
		err  string
	}{
		{"one key", []pgsession.Key{a}, ""},
		{"two keys", []pgsession.Key{a, b}, ""},
		{"the primary twice", []pgsession.Key{a, a}, ""},
		{"another twice", []pgsession.Key{a, b, b}, ""},
		{"the zero key first", []pgsession.Key{{}}, "key 1 of the ring is the zero key"},
		{"the zero key among the others", []pgsession.Key{a, {}}, "key 2 of the ring is the zero key"},
		{"one key of a colliding pair", []pgsession.Key{colliding, a}, ""},
		{"the other key of a colliding pair, twice", []pgsession.Key{otherColliding, otherColliding}, ""},
		{"a colliding pair", []pgsession.Key{colliding, otherColliding}, "key 2 of the ring has the key id of another"},
		{"a colliding pair among the others", []pgsession.Key{a, otherColliding, b, colliding}, "key 4 of the ring has the key id of another"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			crypto, err := pgsession.NewCrypto(c.keys[0], c.keys[1:]...)
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				require.Nil(t, crypto)
				requireNoSecret(t, err.Error(), c.keys...)
				return
			}
			require.NoError(t, err)
			for _, key := range c.keys {
				sealed, err := test.NewCrypto(t, key).Seal([]byte("plaintext"), nil)
				require.NoError(t, err)
				_, err = crypto.Open(sealed, nil)
				require.NoError(t, err)
			}
		})
	}
}

func TestCrypto_WithoutKeys(t *testing.T) {
	t.Parallel()
	sealed, err := test.NewCrypto(t, pgsession.GenerateKey()).Seal([]byte("plaintext"), nil)
	require.NoError(t, err)
	for _, c := range []struct {
		name   string
		crypto *pgsession.Crypto
	}{
		{"nil", nil},
		{"zero", new(pgsession.Crypto)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := c.crypto.Seal([]byte("plaintext"), nil)
			require.ErrorContains(t, err, "holds no keys")
			for _, payload := range [][]byte{nil, []byte("short"), sealed} {
				_, err = c.crypto.Open(payload, nil)
				require.Equal(t, pgsession.ErrUnknownKey, err)
			}
		})
	}
	require.Error(t, (*pgsession.Crypto)(nil).SetKeys(pgsession.GenerateKey()))

	var crypto pgsession.Crypto
	require.NoError(t, crypto.SetKeys(pgsession.GenerateKey()))
	sealed, err = crypto.Seal([]byte("plaintext"), nil)
	require.NoError(t, err)
	_, err = crypto.Open(sealed, nil)
	require.NoError(t, err)
}

func TestCrypto_SetKeys_ErrorKeepsTheRing(t *testing.T) {
	t.Parallel()
	crypto := test.NewCrypto(t, pgsession.GenerateKey())
	sealed, err := crypto.Seal([]byte("plaintext"), nil)
	require.NoError(t, err)
	require.Error(t, crypto.SetKeys(pgsession.Key{}))
	require.Error(t, crypto.SetKeys(pgsession.GenerateKey(), pgsession.Key{}))
	require.Error(t, crypto.SetKeys(parseKey(t, collidingKey), parseKey(t, otherCollidingKey)))

	_, err = crypto.Open(sealed, nil)
	require.NoError(t, err)
	again, err := crypto.Seal([]byte("plaintext"), nil)
	require.NoError(t, err)
	require.Equal(t, sealed[:5], again[:5])
}

// requireNoSecret looks for the keys in a text, in all the forms in which fmt
// and the encoders print bytes.
func requireNoSecret(t *testing.T, text string, keys ...pgsession.Key) {
	t.Helper()
	for _, key := range keys {
		b := fromHex(t, key.Secret())
		if len(b) == 0 || key == (pgsession.Key{}) {
			continue
		}
		for _, secret := range []string{
			string(b),
			fmt.Sprintf("%x", b), fmt.Sprintf("%X", b), fmt.Sprintf("% x", b), fmt.Sprintf("%d", b)[1:60],
			fmt.Sprintf("%q", b), fmt.Sprintf("%#v", b)[7:60], strings.Trim(fmt.Sprintf("%o", b), "[]"),
			strings.Trim(fmt.Sprintf("%b", b), "[]"), strings.Trim(fmt.Sprintf("%U", b), "[]"),
			base64.RawStdEncoding.EncodeToString(b), base64.RawURLEncoding.EncodeToString(b),
		} {
			require.NotContains(t, text, secret)
		}
	}
}

// Nothing but the frozen payload itself, for its own row, may open.
func FuzzOpen(f *testing.F) {
	crypto := test.NewCrypto(f, parseKey(f, frozenKey))
	frozen, row := fromHex(f, frozenSealed), fromHex(f, frozenRow)
	f.Add(frozen, row)
	f.Fuzz(func(t *testing.T, sealed, associatedData []byte) {
		plaintext, err := crypto.Open(sealed, associatedData)
		if bytes.Equal(sealed, frozen) && bytes.Equal(associatedData, row) {
			require.NoError(t, err)
			require.Equal(t, frozenPlaintext, string(plaintext))
			return
		}
		require.Nil(t, plaintext)
		if len(sealed) >= 45 && sealed[0] == 1 && !bytes.Equal(sealed[:5], frozen[:5]) {
			require.Equal(t, pgsession.ErrUnknownKey, err)
			return
		}
		require.Equal(t, pgsession.ErrTampered, err)
	})
}

// Go runs the seeds below testdata/fuzz with the tests, and says nothing if it
// finds none.
func TestFuzzSeeds(t *testing.T) {
	t.Parallel()
	for target, least := range map[string]int{"FuzzOpen": 5, "FuzzEnvelope": 5} {
		seeds, err := os.ReadDir(filepath.Join("testdata", "fuzz", target))
		require.NoError(t, err)
		require.GreaterOrEqual(t, len(seeds), least, target)
		for _, seed := range seeds {
			content, err := os.ReadFile(filepath.Join("testdata", "fuzz", target, seed.Name()))
			require.NoError(t, err)
			version, values, _ := strings.Cut(string(content), "\n")
			require.Equal(t, "go test fuzz v1", version, seed.Name())
			require.Contains(t, values, "(", seed.Name())
		}
	}
}
