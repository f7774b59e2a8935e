package pgsession

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"testing"

	"github.com/stretchr/testify/require"
)

func newTestCrypto(t testing.TB, primary Key, others ...Key) *Crypto {
	t.Helper()
	crypto, err := NewCrypto(primary, others...)
	require.NoError(t, err)
	return crypto
}

func TestCrypto_Row(t *testing.T) {
	t.Parallel()
	crypto := newTestCrypto(t, GenerateKey())
	row := bytes.Repeat([]byte{7}, 32)
	for _, test := range []struct {
		name, userID string
		kind         byte
		values       []byte
	}{
		{"JSON", "alice", kindJSON, []byte(`{"cart":[]}`)},
		{"raw bytes", "alice", kindRaw, []byte{0, 1, 2}},
		{"a guest", "", kindJSON, []byte("null")},
		{"no values", "alice", kindRaw, nil},
		{"a guest without values", "", kindRaw, nil},
		{"a user id of two length bytes", string(bytes.Repeat([]byte("u"), 1000)), kindJSON, []byte("1")},
		{"a user id that is not UTF-8", "\xff\x00", kindJSON, []byte("1")},
		{"64 KiB", "alice", kindRaw, bytes.Repeat([]byte("v"), 64<<10)},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			sealed, userKey, err := crypto.sealRow(test.userID, test.kind, test.values, row)
			require.NoError(t, err)
			require.Equal(t, crypto.userKey(test.userID), userKey)
			id, ok := keyID(sealed)
			require.True(t, ok)
			primary := crypto.primaryID()
			require.Equal(t, binary.BigEndian.Uint32(primary[:]), id)

			userID, kind, values, err := crypto.openRow(bytes.Clone(sealed), row, userKey) // in place
			require.NoError(t, err)
			require.Equal(t, test.userID, userID)
			require.Equal(t, test.kind, kind)
			require.True(t, bytes.Equal(test.values, values))

			plaintext, err := crypto.Open(sealed, row)
			require.NoError(t, err)
			require.Equal(t, appendEnvelope(nil, test.userID, test.kind, test.values), plaintext)

			_, _, _, err = crypto.openRow(bytes.Clone(sealed), bytes.Repeat([]byte{8}, 32), userKey)
			require.Equal(t, ErrTampered, err, "another row")
			for _, wrong := range [][]byte{crypto.userKey("mallory"), {0}, make([]byte, 32), append(bytes.Clone(userKey), 0)} {
				_, _, _, err = crypto.openRow(bytes.Clone(sealed), row, wrong)
				require.Equal(t, ErrTampered, err, "another user's key")
			}
			if test.userID != "" {
				_, _, _, err = crypto.openRow(bytes.Clone(sealed), row, nil)
				require.Equal(t, ErrTampered, err, "a guest's key")
			}
		})
	}
}

func TestCrypto_Row_AfterRotation(t *testing.T) {
	t.Parallel()
	older, newer := GenerateKey(), GenerateKey()
	crypto := newTestCrypto(t, older)
	row := make([]byte, 32)
	sealed, userKey, err := crypto.sealRow("alice", kindJSON, []byte("1"), row)
	require.NoError(t, err)

	require.NoError(t, crypto.SetKeys(newer, older))
	userID, _, _, err := crypto.openRow(bytes.Clone(sealed), row, userKey)
	require.NoError(t, err, "the user key is that of the key that sealed")
	require.Equal(t, "alice", userID)
	_, _, _, err = crypto.openRow(bytes.Clone(sealed), row, crypto.userKey("alice"))
	require.Equal(t, ErrTampered, err, "the user key under another key of the ring")
	require.Equal(t, [][]byte{crypto.userKey("alice"), userKey}, crypto.userKeys("alice"))

	require.NoError(t, crypto.SetKeys(newer))
	_, _, _, err = crypto.openRow(sealed, row, userKey)
	require.Equal(t, ErrUnknownKey, err)
}

func TestCrypto_UserKeys(t *testing.T) {
	t.Parallel()
	a, b := GenerateKey(), GenerateKey()
	crypto := newTestCrypto(t, a, b, a, b)
	require.Equal(t, [][]byte{newTestCrypto(t, a).userKey("alice"), newTestCrypto(t, b).userKey("alice")}, crypto.userKeys("alice"))
	require.NotEqual(t, crypto.userKey("alice"), crypto.userKey("bob"))
	require.Len(t, crypto.userKey("alice"), 32)
	require.Nil(t, crypto.userKey(""))
	require.Nil(t, crypto.userKeys(""))

	// The key of the frozen payload in crypto_test.go: as the rows that are
	// there must be found again, this may never change.
	frozen, err := ParseKey("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f")
	require.NoError(t, err)
	crypto = newTestCrypto(t, frozen)
	require.Equal(t, [4]byte{0xc6, 0x83, 0x00, 0xd0}, crypto.primaryID())
	require.Equal(t, "84b2675645671b3738f46d8db33625eb9245082105bef78be12cae1758bdf83b", hex.EncodeToString(crypto.userKey("alice")))
}

func TestCrypto_Row_WithoutKeys(t *testing.T) {
	t.Parallel()
	sealed, userKey, err := newTestCrypto(t, GenerateKey()).sealRow("alice", kindJSON, nil, nil)
	require.NoError(t, err)
	for _, crypto := range []*Crypto{nil, {}} {
		require.False(t, crypto.hasKeys())
		require.Zero(t, crypto.primaryID())
		require.Nil(t, crypto.userKey("alice"))
		require.Nil(t, crypto.userKeys("alice"))
		_, _, err := crypto.sealRow("alice", kindJSON, nil, nil)
		require.ErrorIs(t, err, errNoKeys)
		_, _, _, err = crypto.openRow(sealed, nil, userKey)
		require.Equal(t, ErrUnknownKey, err)
	}
	require.True(t, newTestCrypto(t, GenerateKey()).hasKeys())
}

func TestParseEnvelope(t *testing.T) {
	t.Parallel()
	long := string(bytes.Repeat([]byte("u"), 128))
	for _, test := range []struct {
		name, envelope string
		ok             bool
	}{
		{"a guest", "\x00\x00null", true},
		{"a user", "\x05alice\x00null", true},
		{"raw bytes", "\x05alice\x01\xff", true},
		{"no values", "\x05alice\x01", true},
		{"a length of two bytes", "\x80\x01" + long + "\x00", true},
		{"empty", "", false},
		{"no kind", "\x00", false},
		{"a user and no kind", "\x05alice", false},
		{"a length past the end", "\x06alice\x00", false},
		{"a length past every end", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01a\x00", false},
		{"a length of 65 bits", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02a\x00", false},
		{"a length that does not end", "\x80", false},
		{"a needless length byte", "\x85\x00alice\x00null", false},
		{"a needless length byte for 0", "\x80\x00\x00null", false},
		{"an unknown kind", "\x05alice\x02null", false},
		{"the last kind", "\x05alice\xffnull", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, _, _, ok := parseEnvelope([]byte(test.envelope))
			require.Equal(t, test.ok, ok)

			crypto := newTestCrypto(t, GenerateKey())
			sealed, err := crypto.Seal([]byte(test.envelope), nil)
			require.NoError(t, err)
			if !test.ok {
				_, _, _, err = crypto.openRow(sealed, nil, nil)
				require.Equal(t, ErrTampered, err)
			}
		})
	}
}

// What is appended parses back, and what parses is appended the same.
func FuzzEnvelope(f *testing.F) {
	f.Add("alice", true, []byte("values"), []byte("\x05alice\x00null"))
	f.Fuzz(func(t *testing.T, userID string, raw bool, values, envelope []byte) {
		kind := kindJSON
		if raw {
			kind = kindRaw
		}
		gotUserID, gotKind, gotValues, ok := parseEnvelope(appendEnvelope(nil, userID, kind, values))
		require.True(t, ok)
		require.Equal(t, userID, string(gotUserID))
		require.Equal(t, kind, gotKind)
		require.True(t, bytes.Equal(values, gotValues))

		if userID, kind, values, ok := parseEnvelope(envelope); ok {
			require.True(t, bytes.Equal(envelope, appendEnvelope(nil, string(userID), kind, values)))
		}
	})
}

// userKey returns what a row bears for its user, under the primary key: nil for
// a guest, whom nothing looks up.
func (c *Crypto) userKey(userID string) []byte {
	ring := c.keys()
	if len(ring) == 0 {
		return nil
	}
	return ring[0].userKey(userID)
}
