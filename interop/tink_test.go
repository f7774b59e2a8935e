// Package interop holds a payload of this library against an independent
// implementation of the same format: Tink's X-AES-GCM with the TINK prefix. It is
// a module of its own, so that nobody who uses the library depends on Tink.
package interop

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/aead/xaesgcm"
	"github.com/tink-crypto/tink-go/v2/insecuresecretdataaccess"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/secretdata"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/pgsession/pgsession"
)

// The frozen payload of the library's own tests.
const (
	frozenKey       = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
	frozenRow       = "634768dae1474506e4bf7d341890542b09987d7e6aea5d446c02e37581a56954"
	frozenPlaintext = "\x05alice\x00" + `{"cart":["tea","milk"]}`
	frozenSealed    = "01c68300d0aa0d36a3264ebef5cc5007dde595431c668b65c9acd439df5f4d1398bdf2604330a3f35c" +
		"008715ae51f135d4b5bd720b47e88e72380594fd0479447175f5e78333ffeaa773c0"
)

func fromHex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	require.NoError(t, err)
	return b
}

// expand is HKDF-SHA256 as RFC 5869 writes it down, for outputs of one block.
func expand(t *testing.T, key pgsession.Key, info string, length int) []byte {
	t.Helper()
	extract := hmac.New(sha256.New, []byte("pgsession/v1"))
	extract.Write(fromHex(t, key.Secret()))
	block := hmac.New(sha256.New, extract.Sum(nil))
	block.Write([]byte(info))
	block.Write([]byte{1})
	return block.Sum(nil)[:length]
}

// newTink returns Tink's AEAD for the sealing key that the design derives from a
// master key, and the header that its payloads bear.
func newTink(t *testing.T, key pgsession.Key) (primitive tink.AEAD, header []byte) {
	t.Helper()
	id := expand(t, key, "key-id", 4)
	parameters, err := xaesgcm.NewParameters(xaesgcm.VariantTink, 12)
	require.NoError(t, err)
	sealing := secretdata.NewBytesFromData(expand(t, key, "seal", 32), insecuresecretdataaccess.Token{})
	tinkKey, err := xaesgcm.NewKey(sealing, binary.BigEndian.Uint32(id), parameters)
	require.NoError(t, err)

	manager := keyset.NewManager()
	keyID, err := manager.AddKey(tinkKey)
	require.NoError(t, err)
	require.NoError(t, manager.SetPrimary(keyID))
	handle, err := manager.Handle()
	require.NoError(t, err)
	primitive, err = aead.New(handle)
	require.NoError(t, err)
	return primitive, append([]byte{1}, id...)
}

func TestTink_OpensTheFrozenPayload(t *testing.T) {
	t.Parallel()
	key, err := pgsession.ParseKey(frozenKey)
	require.NoError(t, err)
	primitive, header := newTink(t, key)
	plaintext, err := primitive.Decrypt(fromHex(t, frozenSealed), slices.Concat(header, fromHex(t, frozenRow)))
	require.NoError(t, err)
	require.Equal(t, frozenPlaintext, string(plaintext))

	_, err = primitive.Decrypt(fromHex(t, frozenSealed), fromHex(t, frozenRow))
	require.Error(t, err, "the header is part of the associated data")
}

func TestTink_OpensOurs_AndWeOpenTinks(t *testing.T) {
	t.Parallel()
	for range 50 {
		key := pgsession.GenerateKey()
		crypto, err := pgsession.NewCrypto(key)
		require.NoError(t, err)
		primitive, header := newTink(t, key)
		for _, size := range []int{0, 1, 15, 16, 17, 255, 1 << 10, 64 << 10} {
			plaintext, row := make([]byte, size), make([]byte, size%33)
			rand.Read(plaintext)
			rand.Read(row)
			associatedData := slices.Concat(header, row)

			ours, err := crypto.Seal(plaintext, row)
			require.NoError(t, err)
			opened, err := primitive.Decrypt(ours, associatedData)
			require.NoError(t, err)
			require.True(t, bytes.Equal(plaintext, opened))

			tinks, err := primitive.Encrypt(plaintext, associatedData)
			require.NoError(t, err)
			require.Len(t, tinks, len(ours))
			opened, err = crypto.Open(tinks, row)
			require.NoError(t, err)
			require.True(t, bytes.Equal(plaintext, opened))

			tinks[len(tinks)-1] ^= 1
			_, err = crypto.Open(tinks, row)
			require.ErrorIs(t, err, pgsession.ErrTampered)
		}
	}
}
