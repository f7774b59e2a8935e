package pgsession

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"

	"github.com/pgsession/pgsession/internal/rows"
)

const tokenLength = 43 // base64url, without padding, of 32 bytes

// An ID names one session and opens it: a client that presents it is logged in. It is made by
// [NewID], read from a cookie by [ParseID], or derived from a framework's own token by [DeriveID].
//
// IDs are safe to print: however it is formatted (fmt, slog, encoding/json), an ID gives its
// [Handle]. Only [ID.Token] gives the secret. IDs do not compile with ==: compare their Handles.
//
// An ID knows where it came from. One that ParseID read never begins a session, since an attacker
// may have chosen it: [Store.CreateAs] and [Store.Cycle] refuse it as a new id, and [Store.Put]
// only replaces with it.
//
// An ID may have a purpose. It is part of what the Handle hashes, so a token opens nothing when it
// is read for another purpose. An application with two kinds of sessions in one table gives each a
// purpose of its own. [NewID] and [ParseID] are for the purpose "".
//
// The zero ID names no session. Loads and writes of it return [ErrNotFound], and deleting it does
// nothing.
type ID struct {
	_       [0]func() // IDs with one handle differ in parsed, so that == would mislead
	masked  [32]byte  // the token, xored with maskOf(handle); zero for a derived id
	handle  Handle
	purpose string
	parsed  bool // by ParseIDFor
}

// NewID is [NewIDFor] with the purpose "". [Store.Create] makes its own id; NewID is for
// [Store.CreateAs] and [Store.Cycle].
func NewID() ID { return NewIDFor("") }

// NewIDFor returns a new ID for a purpose, which may be any string: 256 random bits from
// crypto/rand. OWASP asks for at least 64 bits (Session Management Cheat Sheet, "Session ID
// Entropy").
func NewIDFor(purpose string) ID {
	var token [32]byte
	rand.Read(token[:]) // never fails, and fills it whole
	return mintedID(purpose, token)
}

var tokenEncoding = base64.RawURLEncoding.Strict()

// ParseID is [ParseIDFor] with the purpose "".
func ParseID(token string) (ID, error) { return ParseIDFor("", token) }

// ParseIDFor reads a token that [ID.Token] returned: 43 characters of base64url. For anything else
// it returns the zero ID and [ErrInvalidID], which is also [ErrNotFound]. An ID that parses need
// not belong to a session: the ID of a token that was made for another purpose belongs to none.
func ParseIDFor(purpose, token string) (ID, error) {
	if len(token) != tokenLength {
		return ID{}, ErrInvalidID
	}
	var bits [32]byte
	n, err := tokenEncoding.Decode(bits[:], []byte(token))
	if err != nil || n != len(bits) || bits == [32]byte{} {
		return ID{}, ErrInvalidID
	}
	id := mintedID(purpose, bits)
	id.parsed = true
	return id, nil
}

// DeriveID returns the ID for a secret that a framework made, such as its session token, in any
// form. The same secret gives the same ID. The empty secret gives the zero ID. A derived ID has no
// token, and no token that [ParseID] accepts leads to its session.
//
// The secret must be as hard to guess as a session token. Most applications need no DeriveID.
func DeriveID(secret string) ID {
	if secret == "" {
		return ID{}
	}
	return ID{handle: Handle{hashOf(derivedIDDomain, secret)}}
}

// What is hashed has 32 bytes if it is a token without a purpose. Otherwise it begins with a domain
// and has more than 64 bytes. The domains end in a zero byte, and none is another's prefix. So no
// token leads to the row of a derived id, or of another purpose.
const (
	purposeDomain   = "pgsession/v1: the id of a session, and the purpose that it is for\x00"
	derivedIDDomain = "pgsession/v1: the id of a session, derived from a token of a framework\x00"
	keyValueDomain  = "pgsession/v1: the id of an entry of a key/value view, derived from its key\x00"
)

// These do not compile if a domain has fewer than 64 bytes. What follows has one at least.
var (
	_ [len(purposeDomain) - 64]struct{}
	_ [len(derivedIDDomain) - 64]struct{}
	_ [len(keyValueDomain) - 64]struct{}
)

// hashOf returns the hash of what has a purpose or was derived.
func hashOf(domain string, parts ...string) [sha256.Size]byte {
	hashed := append(make([]byte, 0, 256), domain...) // on the stack, if the parts are short
	for _, part := range parts {
		hashed = append(hashed, part...)
	}
	return sha256.Sum256(hashed)
}

func mintedID(purpose string, token [32]byte) ID {
	var handle Handle
	if purpose == "" {
		handle.sum = sha256.Sum256(token[:])
	} else {
		handle.sum = hashOf(purposeDomain, string(token[:]), purpose) // the token has a fixed length
	}
	mask := maskOf(handle)
	subtle.XORBytes(token[:], token[:], mask[:])
	return ID{masked: token, handle: handle, purpose: purpose}
}

// maskOf returns the mask of a token. fmt calls no method of an ID in an unexported field, and
// prints its bits. They are masked, with another mask in each process.
func maskOf(handle Handle) [32]byte {
	var both [len(processSecret) + len(handle.sum)]byte // short enough for one block of SHA-256
	copy(both[copy(both[:], processSecret[:]):], handle.sum[:])
	return sha256.Sum256(both[:])
}

var processSecret = func() (secret [16]byte) {
	rand.Read(secret[:])
	return secret
}()

// Token returns the value for the session cookie, 43 characters of base64url: the secret itself. It
// returns "" for the zero ID and for a derived one.
func (id ID) Token() string {
	if id.masked == [32]byte{} {
		return ""
	}
	token := maskOf(id.handle)
	subtle.XORBytes(token[:], token[:], id.masked[:])
	return tokenEncoding.EncodeToString(token[:])
}

// Handle returns the id's public name, which may be shown and logged.
func (id ID) Handle() Handle { return id.handle }

// IsZero reports whether id is the zero ID.
func (id ID) IsZero() bool { return id.handle.IsZero() }

// mayBegin reports whether a session may begin under the id.
func (id ID) mayBegin() bool { return !id.parsed && !id.IsZero() }

// String returns the handle's String, never the token.
func (id ID) String() string { return id.handle.String() }

// Format writes the handle for every verb.
func (id ID) Format(f fmt.State, _ rune) { io.WriteString(f, id.String()) }

// LogValue returns the handle.
func (id ID) LogValue() slog.Value { return slog.StringValue(id.String()) }

// MarshalText returns the handle. There is no UnmarshalText, since only a token gives an ID back.
func (id ID) MarshalText() ([]byte, error) { return id.handle.MarshalText() }

// A Handle is the SHA-256 of an [ID]. It names a session in a page, a log or the table's key
// column, and opens nothing. Handles can be compared with == and used as map keys. The zero Handle
// names no session.
type Handle struct{ sum [sha256.Size]byte }

// ParseHandle reads what [Handle.String] returned: 64 hex digits, in upper or lower case. For
// anything else it returns the zero Handle and [ErrInvalidID].
func ParseHandle(s string) (Handle, error) {
	if len(s) != hex.EncodedLen(sha256.Size) {
		return Handle{}, ErrInvalidID
	}
	var h Handle
	if _, err := hex.Decode(h.sum[:], []byte(s)); err != nil || h.IsZero() {
		return Handle{}, ErrInvalidID
	}
	return h, nil
}

func (h Handle) key() rows.Key { return rows.SessionKey(h.sum) }

// IsZero reports whether h is the zero Handle.
func (h Handle) IsZero() bool { return h == Handle{} }

// String returns 64 hex digits, as encode(key, 'hex') does in psql.
func (h Handle) String() string { return hex.EncodeToString(h.sum[:]) }

// Format writes the 64 hex digits for every verb.
func (h Handle) Format(f fmt.State, _ rune) { io.WriteString(f, h.String()) }

// MarshalText returns the 64 hex digits.
func (h Handle) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText is [ParseHandle], with its error.
func (h *Handle) UnmarshalText(text []byte) (err error) {
	*h, err = ParseHandle(string(text))
	return err
}
