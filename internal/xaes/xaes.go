// Package xaes implements XAES-256-GCM, the extended-nonce AEAD of https://c2sp.org/XAES-256-GCM,
// with nonces that it chooses itself.
//
// Each message is sealed by AES-256-GCM under a key of its own, which is derived from the
// long-lived key and the first half of a random 192-bit nonce. That lifts the limit of NIST SP
// 800-38D, section 8.3: plain AES-GCM with random 96-bit nonces may seal 2³² messages under one
// key. This construction may seal 2⁸⁰ with the same risk of a repeated nonce.
//
// A caller can neither see nor choose a nonce before it is used, and so cannot repeat one by
// mistake.
//
// All calls are to parts of the standard library that its FIPS 140-3 module counts as approved
// services: the derivation (NIST SP 800-108r1 in counter mode with CMAC) goes through CBC, and GCM
// uses a nonce that the module draws. So the package also works under GODEBUG=fips140=only.
package xaes

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"slices"
	"sync"
)

const (
	// KeySize is the length of a key in bytes.
	KeySize = 32

	// SaltSize is the length of the derivation salt, the first half of the nonce. A sealed message
	// begins with it.
	SaltSize = 12

	// Overhead is how much longer a sealed message is than its plaintext: the derivation salt, the
	// 12 bytes of the GCM nonce and the 16 of the tag.
	Overhead = SaltSize + 12 + 16
)

var (
	errKeySize = errors.New("xaes: a key is 32 bytes long")
	errOpen    = errors.New("xaes: message authentication failed")
)

// An AEAD seals and opens messages under one key. It is safe for concurrent use.
type AEAD struct {
	subkey      [aes.BlockSize]byte // K1 in the specification, the same for every message
	derivations sync.Pool           // of *derivation: a CBC mode holds a copy of the expanded key
}

// A derivation makes message keys, one after the other.
type derivation struct {
	cbc  cipher.BlockMode
	last [aes.BlockSize]byte // the ciphertext before, with which CBC xors the next block
	key  [KeySize]byte
}

// New returns an AEAD for a key of [KeySize] bytes.
func New(key []byte) (*AEAD, error) {
	if len(key) != KeySize {
		return nil, errKeySize
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	a := new(AEAD)
	var l, zero [aes.BlockSize]byte
	a.derivations.New = func() any { return &derivation{cbc: cipher.NewCBCEncrypter(block, zero[:])} }
	cipher.NewCBCEncrypter(block, zero[:]).CryptBlocks(l[:], l[:])
	var carry byte
	for i := len(l) - 1; i >= 0; i-- {
		a.subkey[i] = l[i]<<1 | carry
		carry = l[i] >> 7
	}
	// A multiplication and not a branch, since the bit is secret.
	a.subkey[len(l)-1] ^= carry * 0b10000111

	// A toolchain with another AES (GOEXPERIMENT=boringcrypto) may lack GCM with random nonces.
	// This fails here rather than at the first message.
	if _, err := a.messageCipher(make([]byte, SaltSize)); err != nil {
		return nil, err
	}
	return a, nil
}

// Seal encrypts and authenticates plaintext, authenticates additionalData, and appends the nonce,
// the ciphertext and the tag to dst.
//
// To seal without a second buffer, let plaintext begin [SaltSize] bytes after dst's end, in an
// array with room for plaintext and [Overhead]. Any other overlap panics.
func (a *AEAD) Seal(dst, plaintext, additionalData []byte) ([]byte, error) {
	dst = slices.Grow(dst, len(plaintext)+Overhead)
	salt := dst[len(dst) : len(dst)+SaltSize]
	rand.Read(salt)
	gcm, err := a.messageCipher(salt)
	if err != nil {
		return nil, err
	}
	return gcm.Seal(dst[:len(dst)+SaltSize], nil, plaintext, additionalData), nil
}

// Open authenticates and decrypts what Seal appended, and appends the plaintext to dst. Its error
// is the same for every reason.
//
// To open without a second buffer, pass sealed[SaltSize:SaltSize] as dst. Sealed is then
// overwritten, even if Open fails. Any other overlap panics.
func (a *AEAD) Open(dst, sealed, additionalData []byte) ([]byte, error) {
	if len(sealed) < Overhead {
		return nil, errOpen
	}
	gcm, err := a.messageCipher(sealed[:SaltSize])
	if err != nil {
		return nil, errOpen
	}
	plaintext, err := gcm.Open(dst, nil, sealed[SaltSize:], additionalData)
	if err != nil {
		return nil, errOpen
	}
	return plaintext, nil
}

// messageCipher returns AES-256-GCM under the key for one message.
func (a *AEAD) messageCipher(salt []byte) (cipher.AEAD, error) {
	d := a.derivations.Get().(*derivation)
	defer a.derivations.Put(d)
	block, err := aes.NewCipher(d.deriveKey(&a.subkey, salt))
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// deriveKey is steps 3 to 5 of the specification: two single blocks, each xored with the subkey and
// encrypted. CBC itself xors each block with the ciphertext before it, so deriveKey xors that in
// once more, which cancels it. The key is valid until the next call.
func (d *derivation) deriveKey(subkey *[aes.BlockSize]byte, salt []byte) []byte {
	d.key = [KeySize]byte{1: 1, 2: 'X', aes.BlockSize + 1: 2, aes.BlockSize + 2: 'X'}
	for block := range slices.Chunk(d.key[:], aes.BlockSize) {
		copy(block[4:], salt)
		subtle.XORBytes(block, block, subkey[:])
		subtle.XORBytes(block, block, d.last[:])
		d.cbc.CryptBlocks(block, block)
		copy(d.last[:], block)
	}
	return d.key[:]
}
