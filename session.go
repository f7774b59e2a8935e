package pgsession

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"
)

const (
	tokenLength   = 43 // base64url, without padding, of 32 bytes
	maxUserIDSize = 1000

	redacted = "REDACTED"
)

// An ID names one session and opens it: whoever holds it is logged in. It is
// made by [NewID], read from a cookie by [ParseID], or derived from a
// framework's own token by [DeriveID].
//
// IDs are comparable with ==, and safe to print: formatted in any way (fmt,
// slog, encoding/json) an ID gives its [Handle]. Only [ID.Token] gives the
// secret.
//
// The zero ID names no session: loads and writes of it give [ErrNotFound], and
// deleting it does nothing.
type ID struct {
	masked [32]byte // the token, xored with maskOf(handle); zero for a derived id
	handle Handle
}

// NewID returns a new random ID of 256 bits, from crypto/rand. OWASP asks for
// at least 64 (Session Management Cheat Sheet, "Session ID Entropy").
//
// [Store.Create] mints its own; NewID is for [Store.Cycle].
func NewID() ID {
	var token [32]byte
	rand.Read(token[:]) // never fails, and fills it whole
	return mintedID(token)
}

var tokenEncoding = base64.RawURLEncoding.Strict()

// ParseID reads a token that [ID.Token] gave: 43 characters of base64url. It
// returns the zero ID and [ErrInvalidID] (which is also [ErrNotFound]) for
// anything else. That an ID parses does not mean that there is such a session.
func ParseID(token string) (ID, error) {
	if len(token) != tokenLength {
		return ID{}, ErrInvalidID
	}
	var bits [32]byte
	n, err := tokenEncoding.Decode(bits[:], []byte(token))
	if err != nil || n != len(bits) || bits == [32]byte{} {
		return ID{}, ErrInvalidID
	}
	return mintedID(bits), nil
}

// DeriveID returns the ID for a secret that a framework made for itself: its
// session token, whatever its form. The same secret gives the same ID; the
// empty one gives the zero ID. Such an ID has no token, and no token that
// [ParseID] accepts leads to its session.
//
// The secret must be as hard to guess as a session token. Most applications
// use [NewID], and need no DeriveID.
func DeriveID(secret string) ID {
	return derivedID("pgsession derived session id\x00", secret)
}

// derivedID hashes more than 32 bytes, where a minted id's handle is the hash
// of exactly 32: the two, and two domains, never meet.
func derivedID(domain, secret string) ID {
	if secret == "" {
		return ID{}
	}
	hash := sha256.New()
	io.WriteString(hash, domain)
	io.WriteString(hash, secret)
	var id ID
	hash.Sum(id.handle.sum[:0])
	return id
}

func mintedID(token [32]byte) ID {
	handle := Handle{sha256.Sum256(token[:])}
	mask := maskOf(handle)
	subtle.XORBytes(token[:], token[:], mask[:])
	return ID{masked: token, handle: handle}
}

// fmt calls no method on an ID in somebody's unexported field, but prints its bits: so
// they lie under a mask, which is another in each process.
func maskOf(handle Handle) [32]byte {
	var both [len(processSecret) + len(handle.sum)]byte // short enough for one block of SHA-256
	copy(both[copy(both[:], processSecret[:]):], handle.sum[:])
	return sha256.Sum256(both[:])
}

var processSecret = func() (secret [16]byte) {
	rand.Read(secret[:])
	return secret
}()

// Token returns the value for the session cookie, 43 characters of base64url:
// the secret itself. It returns "" for the zero ID and for a derived one.
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

// String returns the handle's String, never the token.
func (id ID) String() string { return id.handle.String() }

// Format writes the handle for every verb.
func (id ID) Format(f fmt.State, _ rune) { io.WriteString(f, id.String()) }

// LogValue returns the handle.
func (id ID) LogValue() slog.Value { return slog.StringValue(id.String()) }

// MarshalText returns the handle. There is no UnmarshalText: only a token
// gives an ID back.
func (id ID) MarshalText() ([]byte, error) { return id.handle.MarshalText() }

// A Handle is the SHA-256 of an [ID]: it names a session in a page, a log or
// the table's key column, and opens nothing. Handles are comparable. The zero
// Handle names no session.
type Handle struct{ sum [sha256.Size]byte }

// ParseHandle reads what [Handle.String] gave: 64 hex digits of either case. It
// returns the zero Handle and [ErrInvalidID] for anything else.
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

// IsZero reports whether h is the zero Handle.
func (h Handle) IsZero() bool { return h == Handle{} }

// String returns 64 hex digits, as encode(key, 'hex') does in psql.
func (h Handle) String() string { return hex.EncodeToString(h.sum[:]) }

// Format writes the 64 hex digits for every verb.
func (h Handle) Format(f fmt.State, _ rune) { io.WriteString(f, h.String()) }

// MarshalText returns the 64 hex digits.
func (h Handle) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText is [ParseHandle].
func (h *Handle) UnmarshalText(text []byte) (err error) {
	*h, err = ParseHandle(string(text))
	return err
}

// Data is what a session holds: who the user is, and the application's values.
// Formatted in any way it is redacted; fmt asks no value in an unexported field, though.
type Data struct {
	// UserID is the application's name for who is logged in, "" for a guest.
	// Any string of up to 1,000 bytes will do.
	UserID string

	// Values is marshalled by encoding/json; a []byte is kept as it is.
	Values any
}

// Format writes a redaction for every verb.
func (d Data) Format(f fmt.State, _ rune) { io.WriteString(f, "Data("+redacted+")") }

// LogValue returns a redaction.
func (d Data) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns a redaction.
func (d Data) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// A Session is a live session as it was when it was loaded. It is a copy:
// changing it changes nothing that is stored, and it may be read by several
// goroutines at once.
//
// Formatted in any way (fmt, slog, encoding/json) it shows its handle, times
// and version, and neither user nor values.
type Session struct {
	Handle    Handle
	UserID    string    // "" for a guest, and where the session does not open
	CreatedAt time.Time // when this log-in began, in UTC
	ExpiresAt time.Time // the earlier of the idle expiry and the absolute one, in UTC
	Version   int64     // another at each write, in no useful order

	values   values
	broken   error // why the row does not open: ErrTampered or ErrUnknownKey
	loadedAt time.Time
}

// Decode stores the session's values in what v points to, by encoding/json;
// values that were given as a []byte go to a *[]byte, as a copy. It returns
// [ErrDecode] where they do not fit, and [ErrTampered] or [ErrUnknownKey] for a
// row that a list showed and that does not open.
func (s *Session) Decode(v any) error {
	if s.broken != nil {
		return s.broken
	}
	return s.values.decode(v)
}

// Decode returns the session's values as a T. See [Session.Decode].
func Decode[T any](s *Session) (T, error) {
	var v T
	err := s.Decode(&v)
	return v, err
}

// Data returns what is stored, so that it can be written back unchanged: Values
// is a [json.RawMessage], or a []byte where it was given as one. Where the
// session does not open, writing it back fails with [ErrEncode].
func (s *Session) Data() Data {
	if s.broken != nil {
		return Data{Values: unreadable{s.broken}}
	}
	return Data{UserID: s.UserID, Values: s.values.stored()}
}

// TTL returns how long the session had to live when it was loaded, by the
// store's clock.
func (s *Session) TTL() time.Duration { return s.ExpiresAt.Sub(s.loadedAt) }

// Format writes handle, version and times for every verb.
func (s Session) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "Session(%s version %d, %s to %s)", s.Handle, s.Version,
		s.CreatedAt.Format(time.RFC3339), s.ExpiresAt.Format(time.RFC3339))
}

// LogValue returns a group of handle, version and times.
func (s Session) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("handle", s.Handle.String()),
		slog.Int64("version", s.Version),
		slog.Time("created_at", s.CreatedAt),
		slog.Time("expires_at", s.ExpiresAt))
}

// MarshalJSON returns an object of handle, version and times.
func (s Session) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Handle    Handle    `json:"handle"`
		Version   int64     `json:"version"`
		CreatedAt time.Time `json:"created_at"`
		ExpiresAt time.Time `json:"expires_at"`
	}{s.Handle, s.Version, s.CreatedAt, s.ExpiresAt})
}

// unreadable stands for the values of a row that does not open, so that
// writing them back fails instead of storing nothing.
type unreadable struct{ err error }

func (u unreadable) MarshalJSON() ([]byte, error) { return nil, u.err }

// The kinds of values, as the sealed payload tells them apart.
const (
	kindJSON byte = 0
	kindRaw  byte = 1
)

// values is what an application stored, encoded.
type values struct {
	kind  byte
	bytes []byte
}

// encodeValues returns v encoded. The error is ErrEncode or ErrTooLarge; a
// maxSize of 0 is no limit.
func encodeValues(v any, maxSize int) (values, error) {
	encoded := values{kind: kindRaw}
	switch v := v.(type) {
	case []byte:
		encoded.bytes = v
	default:
		data, err := json.Marshal(v)
		if err != nil {
			return values{}, encodeError(err)
		}
		encoded = values{kindJSON, data}
	}
	if maxSize > 0 && len(encoded.bytes) > maxSize {
		return values{}, fmt.Errorf("%w: %d bytes of values, where %d are allowed", ErrTooLarge, len(encoded.bytes), maxSize)
	}
	return encoded, nil
}

// encodeError and decodeError name types, which the programmer wrote. The errors of
// encoding/json quote values and keys.
func encodeError(err error) error {
	var unsupported *json.UnsupportedTypeError
	if errors.As(err, &unsupported) {
		return fmt.Errorf("%w: encoding/json has no form for type %s", ErrEncode, unsupported.Type)
	}
	var marshaler *json.MarshalerError
	if errors.As(err, &marshaler) {
		return fmt.Errorf("%w: the marshaler of type %s failed", ErrEncode, marshaler.Type)
	}
	return ErrEncode
}

func decodeError(err error) error {
	var mismatch *json.UnmarshalTypeError
	if errors.As(err, &mismatch) {
		return fmt.Errorf("%w: there is no place for them in type %s", ErrDecode, mismatch.Type)
	}
	return ErrDecode
}

func (v values) decode(target any) error {
	if v.kind == kindJSON {
		if err := json.Unmarshal(v.bytes, target); err != nil {
			return decodeError(err)
		}
		return nil
	}
	switch target := target.(type) {
	case *[]byte:
		if target == nil {
			return ErrDecode
		}
		*target = bytes.Clone(v.bytes)
		return nil
	case *any:
		if target == nil {
			return ErrDecode
		}
		*target = bytes.Clone(v.bytes)
		return nil
	}
	return fmt.Errorf("%w: raw bytes go to a *[]byte", ErrDecode)
}

func (v values) stored() any {
	if v.kind == kindJSON {
		return json.RawMessage(bytes.Clone(v.bytes))
	}
	return bytes.Clone(v.bytes)
}
