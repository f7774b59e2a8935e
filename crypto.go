package pgsession

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"unique"

	"github.com/pgsession/pgsession/internal/xaes"
)

const (
	keySize = 32

	// A payload begins with its format and the id of the key that sealed it.
	payloadFormat     = 0x01
	payloadHeaderSize = 1 + 4

	redactedKey = "Key(REDACTED)"
)

var (
	errKeyFormat = errors.New("a key is 64 hex digits or the base64 of 32 bytes")
	errNoKeys    = errors.New("pgsession: the Crypto holds no keys: make it with NewCrypto or ParseKeyRing")
)

// A Key is a master key of 256 bits. Make one with [GenerateKey], keep the text that [Key.Secret]
// returns in a secret store, and read it back with [ParseKey].
//
// A Key redacts itself: fmt, log/slog and encoding/json print Key(REDACTED). If the Key is in an
// unexported field of a struct, fmt prints an address. Only [Key.Secret] reveals the key. Keys can
// be compared with == and used as map keys. The zero Key is 256 zero bits, which [NewCrypto]
// refuses.
type Key struct {
	// fmt calls no method of a Key in an unexported field. It prints the field by reflection, and
	// then follows one pointer for a verb that does not suit pointers, such as %s, but never two.
	bytes unique.Handle[unique.Handle[[keySize]byte]]
}

// GenerateKey returns a new random key.
func GenerateKey() Key {
	var b [keySize]byte
	rand.Read(b[:])
	return newKey(b)
}

// ParseKey reads a key: 64 hex digits, or 32 bytes in base64, with the standard or the URL
// alphabet, padded or not. It ignores space around the key. The error contains nothing of s.
func ParseKey(s string) (Key, error) {
	key, err := parseKey(s)
	if err != nil {
		return Key{}, fmt.Errorf("pgsession: parse key: %w", err)
	}
	return key, nil
}

func parseKey(s string) (Key, error) {
	s = strings.TrimSpace(s)
	decode := base64.StdEncoding.Strict().DecodeString
	switch padded, url := strings.HasSuffix(s, "="), strings.ContainsAny(s, "-_"); {
	// encoding/base64 skips line breaks. The halves of two keys would be read as one key.
	case strings.ContainsAny(s, "\r\n"):
		return Key{}, errKeyFormat
	case len(s) == hex.EncodedLen(keySize):
		decode = hex.DecodeString
	case padded && url:
		decode = base64.URLEncoding.Strict().DecodeString
	case url:
		decode = base64.RawURLEncoding.Strict().DecodeString
	case !padded:
		decode = base64.RawStdEncoding.Strict().DecodeString
	}
	b, err := decode(s)
	if err != nil || len(b) != keySize {
		return Key{}, errKeyFormat
	}
	return newKey([keySize]byte(b)), nil
}

func newKey(b [keySize]byte) Key {
	if b == [keySize]byte{} {
		return Key{}
	}
	return Key{unique.Make(unique.Make(b))}
}

func (k Key) reveal() [keySize]byte {
	if k == (Key{}) {
		return [keySize]byte{}
	}
	return k.bytes.Value().Value()
}

// Secret returns the key as 64 hex digits, for a secret store. No other function reveals a key.
func (k Key) Secret() string {
	b := k.reveal()
	return hex.EncodeToString(b[:])
}

// Format implements [fmt.Formatter]. It writes Key(REDACTED) for every verb.
func (Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redactedKey) }

// LogValue implements [slog.LogValuer]. It returns Key(REDACTED).
func (Key) LogValue() slog.Value { return slog.StringValue(redactedKey) }

// MarshalText implements [encoding.TextMarshaler], and so JSON. It returns Key(REDACTED). To store
// a key, use [Key.Secret].
func (Key) MarshalText() ([]byte, error) { return []byte(redactedKey), nil }

// A Crypto seals and opens payloads under a ring of keys. The first key, the primary, seals. Every
// key opens what was sealed under it. Make a Crypto with [NewCrypto] or [ParseKeyRing], and pass it
// to [New]. The store calls Seal and Open; most applications call SetKeys at most. A Crypto is safe
// for concurrent use and must not be copied. The zero Crypto holds no keys.
//
// Payloads are sealed by XAES-256-GCM (https://c2sp.org/XAES-256-GCM) and bound to their row. Keys
// do not wear out. The page docs/keys.md of the repository describes the format.
//
// To rotate keys, finish each step on all nodes before the next:
//
//  1. Add the new key behind the primary.
//  2. Make the new key the primary, and keep the old one behind it.
//  3. Call [Store.Reseal] once.
//  4. Remove the old key. If this is done too early, rows that the old key sealed give
//     [ErrUnknownKey], and [Store.DeleteByUser] does not find them.
type Crypto struct {
	ring atomic.Pointer[keyRing]
}

// A keyRing holds the primary first. It holds no key twice, and is never empty.
type keyRing []*ringKey

// hasAllOf reports whether every key of another ring is in this one. A nil ring is that of a store
// without keys.
func (r *keyRing) hasAllOf(other *keyRing) bool {
	if r == other {
		return true
	}
	for _, key := range *other {
		if !slices.ContainsFunc(*r, func(own *ringKey) bool { return own.header == key.header }) {
			return false
		}
	}
	return true
}

// A ringKey is what a master key is expanded to.
type ringKey struct {
	header    [payloadHeaderSize]byte
	sealing   *xaes.AEAD
	scratches sync.Pool // of *scratch
}

// A scratch is what a call under a key needs besides its input and output.
type scratch struct {
	userMAC hash.Hash // kept, since making an HMAC costs more than hashing a user id
	buffer  []byte
	sum     [sha256.Size]byte
}

// NewCrypto returns a Crypto that seals under primary, and opens under primary and the others. A
// key that is given twice counts once. NewCrypto returns an error for the zero Key, and for two
// different keys that have the same key id. Two random keys have the same id with a probability of
// 2⁻³².
func NewCrypto(primary Key, others ...Key) (*Crypto, error) {
	c := new(Crypto)
	if err := c.SetKeys(primary, others...); err != nil {
		return nil, err
	}
	return c, nil
}

// ParseKeyRing is [NewCrypto] for keys in a text, such as an environment variable or a mounted
// secret: the primary first, with commas or line breaks between the keys, each as [ParseKey] reads
// it. Blank lines are skipped, and a line may end with a comma. Any other empty entry is an error.
// So in ",old", the result of "$NEW,old" if NEW is not set, the old key does not become the
// primary.
//
// The error names the position of a bad key in the ring, and contains nothing of the key.
func ParseKeyRing(s string) (*Crypto, error) {
	var keys []Key
	for line := range strings.Lines(s) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		for entry := range strings.SplitSeq(strings.TrimSuffix(line, ","), ",") {
			key, err := parseKey(entry)
			if err != nil {
				return nil, fmt.Errorf("pgsession: parse key ring: key %d: %w", len(keys)+1, err)
			}
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("pgsession: parse key ring: no key in it; is SESSION_KEYS, or the variable that you read, set?")
	}
	return NewCrypto(keys[0], keys[1:]...)
}

// SetKeys replaces the whole ring at once. Calls that are running finish with the ring that they
// began with. It returns an error for the rings for which [NewCrypto] does, and then keeps the old
// ring. See [Crypto] for the order of a rotation.
func (c *Crypto) SetKeys(primary Key, others ...Key) error {
	if c == nil {
		return errNoKeys
	}
	ring := make(keyRing, 0, 1+len(others))
	byID := make(map[uint32]Key, 1+len(others))
	for i, key := range append([]Key{primary}, others...) {
		if key == (Key{}) {
			return fmt.Errorf("pgsession: key %d of the ring is the zero key", i+1)
		}
		expanded, err := expandKey(key)
		if err != nil {
			return fmt.Errorf("pgsession: key %d of the ring: %w", i+1, err)
		}
		switch known, taken := byID[expanded.id()]; {
		case !taken:
			byID[expanded.id()] = key
			ring = append(ring, expanded)
		case known != key:
			return fmt.Errorf("pgsession: key %d of the ring has the key id of another: generate a new one", i+1)
		}
	}
	c.ring.Store(&ring)
	return nil
}

func expandKey(key Key) (*ringKey, error) {
	secret := key.reveal()
	pseudorandom, err := hkdf.Extract(sha256.New, secret[:], []byte("pgsession/v1"))
	if err != nil {
		return nil, err
	}
	expand := func(info string, length int) []byte {
		var out []byte
		if err == nil {
			out, err = hkdf.Expand(sha256.New, pseudorandom, info, length)
		}
		return out
	}
	sealing, userIndex, id := expand("seal", xaes.KeySize), expand("user-index", sha256.Size), expand("key-id", 4)
	if err != nil {
		return nil, err
	}
	k := new(ringKey)
	k.scratches.New = func() any { return &scratch{userMAC: hmac.New(sha256.New, userIndex)} }
	k.header[0] = payloadFormat
	copy(k.header[1:], id)
	k.sealing, err = xaes.New(sealing)
	return k, err
}

// Seal encrypts plaintext and authenticates it together with associatedData, which is not part of
// the result. [Crypto.Open] needs the same associatedData again. The store passes the row's key, so
// that a payload does not open in another row. Seal returns an error if c holds no keys.
//
// The result is 45 bytes longer than plaintext: the format, the key id, the nonce and the tag.
// Sealing the same plaintext twice gives different results.
func (c *Crypto) Seal(plaintext, associatedData []byte) ([]byte, error) {
	ring := c.keys()
	if len(ring) == 0 {
		return nil, errNoKeys
	}
	dst := make([]byte, 0, payloadHeaderSize+len(plaintext)+xaes.Overhead)
	return ring[0].seal(dst, plaintext, associatedData)
}

// Open decrypts what [Crypto.Seal] returned for the same associatedData. It returns [ErrTampered]
// if sealed is not such a payload, was changed, or belongs to other associatedData. It returns
// [ErrUnknownKey] if sealed was sealed under a key that is not in the ring. Neither error says
// more, so that an attacker learns nothing from it.
func (c *Crypto) Open(sealed, associatedData []byte) ([]byte, error) {
	_, plaintext, err := c.open(nil, sealed, associatedData)
	return plaintext, err
}

// open appends the plaintext to dst, as [xaes.AEAD.Open] does.
func (c *Crypto) open(dst, sealed, associatedData []byte) (*ringKey, []byte, error) {
	ring := c.keys()
	if len(ring) == 0 {
		return nil, nil, ErrUnknownKey
	}
	id, ok := keyID(sealed)
	if !ok {
		return nil, nil, ErrTampered
	}
	// The id picks the key. If keys were tried in turn, somebody who can write the table could
	// choose the key, and AES-GCM does not commit to a key.
	i := slices.IndexFunc(ring, func(k *ringKey) bool { return k.id() == id })
	if i < 0 {
		return nil, nil, ErrUnknownKey
	}
	plaintext, err := ring[i].open(dst, sealed, associatedData)
	return ring[i], plaintext, err
}

// keys returns the ring, the primary first, or nil for a Crypto without one. A caller that needs
// two keys of one ring must take both from one call.
func (c *Crypto) keys() keyRing {
	if c == nil {
		return nil
	}
	if ring := c.ring.Load(); ring != nil {
		return *ring
	}
	return nil
}

func (c *Crypto) hasKeys() bool { return len(c.keys()) > 0 }

// primaryID returns the id of the key that seals, as payloads bear it.
func (c *Crypto) primaryID() (id [4]byte) {
	if ring := c.keys(); len(ring) > 0 {
		copy(id[:], ring[0].header[1:])
	}
	return id
}

// keyID returns the id of the key that sealed a payload, and whether sealed has the form of a
// payload.
func keyID(sealed []byte) (id uint32, ok bool) {
	if len(sealed) < payloadHeaderSize+xaes.Overhead || sealed[0] != payloadFormat {
		return 0, false
	}
	return binary.BigEndian.Uint32(sealed[1:]), true
}

// userKeys returns the user's key under each key of the ring, the primary first.
func (c *Crypto) userKeys(userID string) [][]byte {
	if userID == "" {
		return nil
	}
	var keys [][]byte
	for _, k := range c.keys() {
		keys = append(keys, k.userKey(userID))
	}
	return keys
}

// sealRow seals the columns of a row, and returns the user key under the same primary. openRow
// compares the two.
func (c *Crypto) sealRow(userID string, kind byte, values, rowKey []byte) (sealed, userKey []byte, err error) {
	ring := c.keys()
	if len(ring) == 0 {
		return nil, nil, errNoKeys
	}
	// The envelope is written at the place of its ciphertext, so that the values are copied once.
	const start = payloadHeaderSize + xaes.SaltSize
	size := payloadHeaderSize + binary.MaxVarintLen64 + len(userID) + 1 + len(values) + xaes.Overhead
	buffer := appendEnvelope(make([]byte, start, size), userID, kind, values)
	sealed, err = ring[0].seal(buffer[:0], buffer[start:], rowKey)
	if err != nil {
		return nil, nil, err
	}
	return sealed, ring[0].userKey(userID), nil
}

// openRow opens in place what sealRow sealed. The row's user key must be that of the sealed user.
// Otherwise somebody who can write the table could list a session under another user, whose log-out
// would end it.
func (c *Crypto) openRow(sealed, rowKey, userKey []byte) (userID string, kind byte, values []byte, err error) {
	start := min(payloadHeaderSize+xaes.SaltSize, len(sealed))
	key, plaintext, err := c.open(sealed[start:start], sealed, rowKey)
	if err != nil {
		return "", 0, nil, err
	}
	user, kind, values, ok := parseEnvelope(plaintext)
	if !ok || !key.isUserKey(userKey, user) {
		return "", 0, nil, ErrTampered
	}
	return string(user), kind, values, nil
}

func (k *ringKey) id() uint32 { return binary.BigEndian.Uint32(k.header[1:]) }

// seal appends the payload to dst. As in [xaes.AEAD.Seal], plaintext may lie in dst's array.
func (k *ringKey) seal(dst, plaintext, associatedData []byte) ([]byte, error) {
	scratch := k.scratches.Get().(*scratch)
	defer k.scratches.Put(scratch)
	sealed, err := k.sealing.Seal(append(dst, k.header[:]...), plaintext, k.bind(scratch, associatedData))
	if err != nil {
		return nil, fmt.Errorf("pgsession: seal: %w", err)
	}
	return sealed, nil
}

func (k *ringKey) open(dst, sealed, associatedData []byte) ([]byte, error) {
	scratch := k.scratches.Get().(*scratch)
	defer k.scratches.Put(scratch)
	plaintext, err := k.sealing.Open(dst, sealed[payloadHeaderSize:], k.bind(scratch, associatedData))
	if err != nil {
		return nil, ErrTampered
	}
	return plaintext, nil
}

// bind joins the header and the associated data. The header's length is fixed, so that two
// different pairs never give the same result.
func (k *ringKey) bind(scratch *scratch, associatedData []byte) []byte {
	scratch.buffer = append(append(scratch.buffer[:0], k.header[:]...), associatedData...)
	return scratch.buffer
}

// userKey is an HMAC and not a plain hash, since user ids can be guessed.
func (k *ringKey) userKey(userID string) []byte {
	if userID == "" {
		return nil
	}
	scratch := k.scratches.Get().(*scratch)
	defer k.scratches.Put(scratch)
	scratch.buffer = append(scratch.buffer[:0], userID...)
	return bytes.Clone(scratch.sumUser(scratch.buffer))
}

// isUserKey reports whether userKey is what k.userKey returns for the user.
func (k *ringKey) isUserKey(userKey, userID []byte) bool {
	if len(userID) == 0 {
		return len(userKey) == 0
	}
	scratch := k.scratches.Get().(*scratch)
	defer k.scratches.Put(scratch)
	return hmac.Equal(scratch.sumUser(userID), userKey)
}

func (s *scratch) sumUser(userID []byte) []byte {
	s.userMAC.Reset()
	_, _ = s.userMAC.Write(userID)
	return s.userMAC.Sum(s.sum[:0])
}

// appendEnvelope appends the plaintext of a row to dst.
func appendEnvelope(dst []byte, userID string, kind byte, values []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(userID)))
	dst = append(dst, userID...)
	dst = append(dst, kind)
	return append(dst, values...)
}

// parseEnvelope is the inverse of appendEnvelope. Its results alias b. It refuses a length that is
// written with more bytes than it needs, so that each envelope has one form.
func parseEnvelope(b []byte) (userID []byte, kind byte, values []byte, ok bool) {
	length, n := binary.Uvarint(b)
	if n <= 0 || n > 1 && b[n-1] == 0 {
		return nil, 0, nil, false
	}
	b = b[n:]
	if length >= uint64(len(b)) { // the kind follows
		return nil, 0, nil, false
	}
	userID, kind, values = b[:length], b[length], b[length+1:]
	if kind != kindJSON && kind != kindRaw {
		return nil, 0, nil, false
	}
	return userID, kind, values, true
}
