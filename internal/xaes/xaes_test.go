package xaes

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha3"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"testing"

	"github.com/stretchr/testify/require"
)

var million = flag.Bool("million", false, "also run the accumulated test of a million messages")

func (a *AEAD) messageKey(salt []byte) []byte {
	d := a.derivations.Get().(*derivation)
	defer a.derivations.Put(d)
	return bytes.Clone(d.deriveKey(&a.subkey, salt))
}

func TestKnownAnswers(t *testing.T) {
	t.Parallel()
	// From https://c2sp.org/XAES-256-GCM, "Test vectors".
	const nonce = "ABCDEFGHIJKLMNOPQRSTUVWX"
	for _, test := range []struct {
		name                                           string
		key                                            byte
		additionalData, subkey, messageKey, ciphertext string
	}{
		{
			name:       "the top bit of L is 0",
			key:        0x01,
			subkey:     "e531954aca063d5b8d9c47a47d4cc6f0",
			messageKey: "c8612c9ed53fe43e8e005b828a1631a0bbcb6ab2f46514ec4f439fcfd0fa969b",
			ciphertext: "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271",
		},
		{
			name:           "the top bit of L is 1",
			key:            0x03,
			additionalData: "c2sp.org/XAES-256-GCM",
			subkey:         "23810ec50edb99f374409466ed1f4b7b",
			messageKey:     "e9c621d4cdd9b11b00a6427ad7e559aeedd66b3857646677748f8ca796cb3fd8",
			ciphertext:     "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			aead, err := New(bytes.Repeat([]byte{test.key}, KeySize))
			require.NoError(t, err)
			require.Equal(t, test.subkey, hex.EncodeToString(aead.subkey[:]))
			for range 2 { // the second time with what the first left
				require.Equal(t, test.messageKey, hex.EncodeToString(aead.messageKey([]byte(nonce)[:SaltSize])))
			}

			ciphertext, err := hex.DecodeString(test.ciphertext)
			require.NoError(t, err)
			plaintext, err := aead.Open(nil, append([]byte(nonce), ciphertext...), []byte(test.additionalData))
			require.NoError(t, err)
			require.Equal(t, "XAES-256-GCM", string(plaintext))
		})
	}
}

// The specification's accumulated tests: the messages come from one SHAKE-128,
// and another one hashes the ciphertexts.
func TestAccumulated(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		messages int
		hash     string
	}{
		{"10,000 messages", 10_000, "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939"},
	}
	if *million {
		tests = append(tests, struct {
			name     string
			messages int
			hash     string
		}{"1,000,000 messages", 1_000_000, "2163ae1445985a30b60585ee67daa55674df06901b890593e824b8a7c885ab15"})
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			random, hash := sha3.NewSHAKE128(), sha3.NewSHAKE128()
			read := func(n int) []byte {
				b := make([]byte, n)
				_, err := random.Read(b)
				require.NoError(t, err)
				return b
			}
			for range test.messages {
				key, nonce := read(KeySize), read(SaltSize+12)
				plaintext := read(int(read(1)[0]))
				additionalData := read(int(read(1)[0]))

				aead, err := New(key)
				require.NoError(t, err)
				ciphertext := referenceSeal(t, aead.messageKey(nonce[:SaltSize]), nonce[SaltSize:], plaintext, additionalData)
				_, err = hash.Write(ciphertext)
				require.NoError(t, err)

				opened, err := aead.Open(nil, append(nonce, ciphertext...), additionalData)
				require.NoError(t, err)
				require.True(t, bytes.Equal(plaintext, opened))
			}
			sum := make([]byte, 32)
			_, err := hash.Read(sum)
			require.NoError(t, err)
			require.Equal(t, test.hash, hex.EncodeToString(sum))
		})
	}
}

// referenceSeal is AES-GCM as NIST SP 800-38D writes it down, for tests only:
// it is slow and its time depends on the data. The standard library's GCM takes
// no given nonce under GODEBUG=fips140=only, where these tests run too.
func referenceSeal(t *testing.T, key, nonce, plaintext, additionalData []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(key)
	require.NoError(t, err)
	encrypt := func(b []byte) []byte {
		out := make([]byte, aes.BlockSize)
		cipher.NewCBCEncrypter(block, make([]byte, aes.BlockSize)).CryptBlocks(out, b)
		return out
	}
	counter := append(bytes.Clone(nonce), 0, 0, 0, 1)
	tagMask := encrypt(counter)
	counter[len(counter)-1] = 2
	ciphertext := make([]byte, len(plaintext))
	cipher.NewCTR(block, counter).XORKeyStream(ciphertext, plaintext)

	hashKey := encrypt(make([]byte, aes.BlockSize))
	high, low := binary.BigEndian.Uint64(hashKey), binary.BigEndian.Uint64(hashKey[8:])
	sum := make([]byte, aes.BlockSize)
	absorb := func(b []byte) {
		for len(b) > 0 {
			b = b[subtle.XORBytes(sum, sum, b[:min(len(b), aes.BlockSize)]):]
			x := [2]uint64{binary.BigEndian.Uint64(sum), binary.BigEndian.Uint64(sum[8:])}
			var productHigh, productLow uint64
			vHigh, vLow := high, low
			for i := range 128 {
				if x[i/64]>>(63-i%64)&1 == 1 {
					productHigh, productLow = productHigh^vHigh, productLow^vLow
				}
				carry := vLow & 1
				vHigh, vLow = vHigh>>1^carry*0xe1<<56, vLow>>1|vHigh<<63
			}
			binary.BigEndian.PutUint64(sum, productHigh)
			binary.BigEndian.PutUint64(sum[8:], productLow)
		}
	}
	absorb(additionalData)
	absorb(ciphertext)
	absorb(binary.BigEndian.AppendUint64(
		binary.BigEndian.AppendUint64(nil, uint64(len(additionalData))*8), uint64(len(ciphertext))*8))
	subtle.XORBytes(sum, sum, tagMask)
	return append(ciphertext, sum...)
}

func newAEAD(t testing.TB) *AEAD {
	t.Helper()
	aead, err := New(bytes.Repeat([]byte{0x42}, KeySize))
	require.NoError(t, err)
	return aead
}

func TestNew_KeySize(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 16, 24, 31, 33, 64} {
		_, err := New(make([]byte, size))
		require.ErrorIs(t, err, errKeySize, "%d bytes", size)
	}
}

func TestSeal_OpensAgain(t *testing.T) {
	t.Parallel()
	aead := newAEAD(t)
	additionalData := []byte("row")
	for size := range 200 {
		plaintext := bytes.Repeat([]byte{byte(size)}, size)
		sealed, err := aead.Seal([]byte("before"), plaintext, additionalData)
		require.NoError(t, err)
		require.Len(t, sealed, len("before")+size+Overhead)
		require.Equal(t, "before", string(sealed[:6]))

		opened, err := aead.Open([]byte("in front"), sealed[6:], additionalData)
		require.NoError(t, err)
		require.Equal(t, "in front"+string(plaintext), string(opened))
	}
}

func TestSeal_InPlace(t *testing.T) {
	t.Parallel()
	aead := newAEAD(t)
	for size := range 200 {
		plaintext := bytes.Repeat([]byte{byte(size)}, size)
		buffer := make([]byte, 5+SaltSize, 5+Overhead+size)
		inPlace := append(buffer, plaintext...)[5+SaltSize:]
		sealed, err := aead.Seal(buffer[:5], inPlace, nil)
		require.NoError(t, err)
		require.Same(t, &buffer[0], &sealed[0])

		opened, err := aead.Open(nil, sealed[5:], nil)
		require.NoError(t, err)
		require.True(t, bytes.Equal(plaintext, opened))
	}
}

func TestOpen_InPlace(t *testing.T) {
	t.Parallel()
	aead := newAEAD(t)
	for size := range 200 {
		plaintext := bytes.Repeat([]byte{byte(size)}, size)
		sealed, err := aead.Seal([]byte("before"), plaintext, []byte("row"))
		require.NoError(t, err)
		message := sealed[len("before"):]
		opened, err := aead.Open(message[SaltSize:SaltSize], message, []byte("row"))
		require.NoError(t, err)
		require.True(t, bytes.Equal(plaintext, opened))
		require.Same(t, &message[:SaltSize+1][SaltSize], &opened[:1][0], "%d bytes", size)
		require.Equal(t, "before", string(sealed[:len("before")]))

		message, err = aead.Seal(nil, plaintext, []byte("row"))
		require.NoError(t, err)
		message[len(message)-1] ^= 1
		opened, err = aead.Open(message[SaltSize:SaltSize], message, []byte("row"))
		require.ErrorIs(t, err, errOpen)
		require.Nil(t, opened)
	}
}

func TestSeal_FreshNonce(t *testing.T) {
	t.Parallel()
	aead := newAEAD(t)
	salts, nonces := map[string]bool{}, map[string]bool{}
	for range 1000 {
		sealed, err := aead.Seal(nil, nil, nil)
		require.NoError(t, err)
		salts[string(sealed[:SaltSize])] = true
		nonces[string(sealed[SaltSize:SaltSize+12])] = true
	}
	require.Len(t, salts, 1000)
	require.Len(t, nonces, 1000)
}

func TestOpen_Refuses(t *testing.T) {
	t.Parallel()
	aead := newAEAD(t)
	additionalData := []byte("row")
	sealed, err := aead.Seal(nil, []byte("plaintext"), additionalData)
	require.NoError(t, err)

	other, err := New(make([]byte, KeySize))
	require.NoError(t, err)
	_, err = other.Open(nil, sealed, additionalData)
	require.ErrorIs(t, err, errOpen, "another key")
	_, err = aead.Open(nil, sealed, []byte("another row"))
	require.ErrorIs(t, err, errOpen, "other additional data")
	for n := range sealed {
		_, err = aead.Open(nil, sealed[:n], additionalData)
		require.ErrorIs(t, err, errOpen, "cut to %d bytes", n)
	}
	for i := range len(sealed) * 8 {
		flipped := bytes.Clone(sealed)
		flipped[i/8] ^= 1 << (i % 8)
		_, err = aead.Open(nil, flipped, additionalData)
		require.ErrorIs(t, err, errOpen, "bit %d flipped", i)
	}
}
