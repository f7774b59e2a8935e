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

// Key is a master key of 256 bits. Make one with [GenerateKey], keep the text
// that [Key.Secret] gives in a secret store, and read it back with [ParseKey].
//
// A Key redacts itself: fmt, log/slog and encoding/json print it as
// Key(REDACTED), or as an address where it lies in an unexported field. Only
// Secret tells. Keys can be compared with ==, and used as map keys. The zero
// Key is 256 zero bits, which [NewCrypto] refuses.
type Key struct {
	// fmt calls no method on a Key in an unexported field, but prints it by
	// reflection: there it follows one pointer, for a verb that does not suit
	// pointers, such as %s, and never two.
	bytes unique.Handle[unique.Handle[[keySize]byte]]
}

// GenerateKey returns a new random key.
func GenerateKey() Key {
	var b [keySize]byte
	rand.Read(b[:])
	return newKey(b)
}

// ParseKey reads a key: 64 hex digits, or 32 bytes in base64, with the standard
// or the URL alphabet, padded or not. Space around it is ignored. The error says
// nothing about what was read.
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
	// encoding/base64 skips line breaks: half a key could hide on each side.
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

// Secret returns the key as 64 hex digits, for a secret store. It is the only
// way to a key's bits.
func (k Key) Secret() string {
	b := k.reveal()
	return hex.EncodeToString(b[:])
}

// Format implements [fmt.Formatter]: whatever the verb, it prints Key(REDACTED).
func (Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redactedKey) }

// LogValue implements [slog.LogValuer] with Key(REDACTED).
func (Key) LogValue() slog.Value { return slog.StringValue(redactedKey) }

// MarshalText implements [encoding.TextMarshaler], and so JSON, with
// Key(REDACTED). To store a key, use [Key.Secret].
func (Key) MarshalText() ([]byte, error) { return []byte(redactedKey), nil }

// Crypto seals and opens session payloads under a ring of keys. The first key,
// the primary, seals; every key opens what was sealed under it. Make one with
// [NewCrypto] or [ParseKeyRing], and pass it to [New]. Most applications need no
// other function of it than [Crypto.SetKeys]: the store calls Seal and Open.
//
// A Crypto is safe for concurrent use and must not be copied. The zero Crypto
// holds no keys: it seals nothing and opens nothing until SetKeys gives it some.
//
// # Algorithms
//
// Payloads are sealed by XAES-256-GCM (https://c2sp.org/XAES-256-GCM):
// AES-256-GCM under a key derived for each message, with a random nonce of 192
// bits. Plain AES-GCM with random nonces may seal no more than 2³² messages under
// one key (NIST SP 800-38D, section 8.3), which a busy site reaches within days;
// with this, 2⁸⁰ messages carry the same risk, so no key wears out.
//
// A master key seals nothing itself. HKDF-SHA256 (RFC 5869) expands it into
// independent keys: one for sealing, one for the index of users, and the public
// four-byte key id that every payload bears. The id alone picks the key to open
// with. The header that holds it is authenticated together with the associated
// data, so a payload opens under the key, the format and the row that it was
// sealed for, or not at all.
//
// It all works under GODEBUG=fips140=only.
//
// # Rotation
//
// The order matters, because nodes switch one after the other:
//
//  1. Give every node the new key among its others. Until the last one has it,
//     no node may seal under it, or the rest answer [ErrUnknownKey].
//  2. Make the new key the primary on every node, the old one among its others.
//  3. Call [Store.Reseal] once every node has the new primary. It moves what the
//     old key sealed.
//  4. Drop the old key when no row bears its id any more.
//
// A row is found by its user under the key that sealed it. If a key is dropped
// too early, its rows do not open, and [Store.DeleteByUser], "log out
// everywhere", misses them: they come back to life with the key.
type Crypto struct {
	ring atomic.Pointer[keyRing]
}

// A keyRing is the primary first, none twice, and never empty.
type keyRing []*ringKey

// ringKey is what a master key is expanded to.
type ringKey struct {
	header    [payloadHeaderSize]byte
	sealing   *xaes.AEAD
	scratches sync.Pool // of *scratch
}

// A scratch is what a call under a key needs besides its input and output.
type scratch struct {
	userMAC hash.Hash // to set an HMAC up costs more than to hash a user id
	buffer  []byte
	sum     [sha256.Size]byte
}

// NewCrypto returns a Crypto that seals under primary, and opens under primary
// and the others. A key given twice counts once. It refuses the zero Key, and two
// different keys with the same key id, for which the odds are one in four billion.
func NewCrypto(primary Key, others ...Key) (*Crypto, error) {
	c := new(Crypto)
	if err := c.SetKeys(primary, others...); err != nil {
		return nil, err
	}
	return c, nil
}

// ParseKeyRing is [NewCrypto] for keys in a text, such as an environment
// variable or a mounted secret: the primary first, commas or line breaks between
// them, each as [ParseKey] reads it. Blank lines are skipped, and a line may end
// in a comma. Any other empty entry is an error: in ",old", where the primary
// failed to expand, the old key must not take its place.
//
// The error tells the place of a bad key in the ring, and nothing of the key.
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
		return nil, errors.New("pgsession: parse key ring: no key in it")
	}
	return NewCrypto(keys[0], keys[1:]...)
}

// SetKeys replaces the whole ring at once, under the rules of [NewCrypto]. Calls
// under way end with the ring that they began with. On an error the old ring
// stays. See [Crypto] for the order of a rotation.
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

// Seal encrypts plaintext and authenticates it together with associatedData,
// which is not part of the result. Open needs the same associatedData again: the
// store passes the row's key, so that a payload is worthless in another row.
//
// The result is 45 bytes longer than plaintext: the format, the key id, the
// nonce and the tag. Sealing the same plaintext twice gives different results.
func (c *Crypto) Seal(plaintext, associatedData []byte) ([]byte, error) {
	ring := c.keys()
	if len(ring) == 0 {
		return nil, errNoKeys
	}
	dst := make([]byte, 0, payloadHeaderSize+len(plaintext)+xaes.Overhead)
	return ring[0].seal(dst, plaintext, associatedData)
}

// Open decrypts what [Crypto.Seal] returned for the same associatedData.
//
// It returns [ErrTampered] if sealed is not such a payload, was changed, or
// belongs to other associatedData, and [ErrUnknownKey] if it was sealed under a
// key that is not in the ring. Neither says anything more, on purpose.
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
	// The id picks the key. To try one after the other would let whoever writes
	// the table choose it, and AES-GCM does not commit to a key.
	i := slices.IndexFunc(ring, func(k *ringKey) bool { return k.id() == id })
	if i < 0 {
		return nil, nil, ErrUnknownKey
	}
	plaintext, err := ring[i].open(dst, sealed, associatedData)
	return ring[i], plaintext, err
}

// keys returns the ring, the primary first, or nil for a Crypto without one.
// Whoever needs two keys that match takes them from one call.
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

// keyID returns the id of the key that sealed a payload, and whether it has the
// form of one.
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

// sealRow seals the columns of a row, and returns the user key under the same
// primary: openRow holds one against the other.
func (c *Crypto) sealRow(userID string, kind byte, values, rowKey []byte) (sealed, userKey []byte, err error) {
	ring := c.keys()
	if len(ring) == 0 {
		return nil, nil, errNoKeys
	}
	// The envelope is written where its ciphertext will stand, so that the
	// values are copied once.
	const start = payloadHeaderSize + xaes.SaltSize
	size := payloadHeaderSize + binary.MaxVarintLen64 + len(userID) + 1 + len(values) + xaes.Overhead
	buffer := appendEnvelope(make([]byte, start, size), userID, kind, values)
	sealed, err = ring[0].seal(buffer[:0], buffer[start:], rowKey)
	if err != nil {
		return nil, nil, err
	}
	return sealed, ring[0].userKey(userID), nil
}

// openRow opens what sealRow sealed, in place. The user key of the row must be that of the
// sealed user: otherwise whoever writes the table could show a session, and its
// log-out, to another user.
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

// seal appends the payload to dst. Plaintext may lie in dst's array, as
// [xaes.AEAD.Seal] allows.
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

// bind joins the header to the associated data: its length is fixed, so no two
// pairs join alike.
func (k *ringKey) bind(scratch *scratch, associatedData []byte) []byte {
	scratch.buffer = append(append(scratch.buffer[:0], k.header[:]...), associatedData...)
	return scratch.buffer
}

// userKey is an HMAC and no plain hash: user ids can be guessed.
func (k *ringKey) userKey(userID string) []byte {
	if userID == "" {
		return nil
	}
	scratch := k.scratches.Get().(*scratch)
	defer k.scratches.Put(scratch)
	scratch.buffer = append(scratch.buffer[:0], userID...)
	return bytes.Clone(scratch.sumUser(scratch.buffer))
}

// isUserKey reports whether userKey gives userKey for that user.
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

// parseEnvelope is the inverse of appendEnvelope. What it returns aliases b. Each
// envelope has one form only: a length with needless bytes is refused.
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
