package pgsession

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/pgsession/pgsession/internal/bridge"
	"github.com/pgsession/pgsession/internal/rows"
)

const (
	maxUserIDSize = 1000

	redacted = "REDACTED"
)

// Data is what a session holds: who the user is, and the application's values. It is redacted
// however it is formatted. If it is in an unexported field of a struct, or formatted by %p or %w,
// fmt prints it in full, since fmt calls no methods then.
type Data struct {
	// UserID is the application's name for who is logged in, "" for a guest. Any string of up to
	// 1,000 bytes will do.
	UserID string

	// Lifetime is how long after the log-in the session ends, however often it is touched. It
	// counts where a log-in begins: in Create, CreateAs and a Put of a new session, and in Renew
	// and Cycle to another user. 0 stands for [WithAbsoluteLifetime]. "Remember me" is a longer
	// Lifetime and a longer ttl.
	//
	// A Renew or Cycle of the same user continues a log-in. A Lifetime there counts from that
	// moment, and can only bring the session's end nearer, or set one if there was none. Every
	// other write ignores it.
	Lifetime time.Duration

	// Values is marshalled by encoding/json; a []byte is kept as it is. Values that are nested so
	// deeply that encoding/json cannot read them again give [ErrEncode].
	Values any
}

// Format writes a redaction for every verb.
func (d Data) Format(f fmt.State, _ rune) { io.WriteString(f, "Data("+redacted+")") }

// LogValue returns a redaction.
func (d Data) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns a redaction.
func (d Data) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// A Session is a live session as it was when it was loaded. It is a copy: changing it changes
// nothing that is stored. Several goroutines may read it at once.
//
// However it is formatted (fmt, slog, encoding/json), it shows its handle and times, and neither
// user nor values, with the exceptions of [Data].
type Session struct {
	ID        ID        // what it was loaded or stored under; zero in lists
	Handle    Handle    // the ID's public name
	UserID    string    // "" for a guest, and if the session does not open
	CreatedAt time.Time // when this log-in began, in UTC, as all times here
	ExpiresAt time.Time // when it ends unless it is touched; never after EndsAt
	EndsAt    time.Time // when it ends however often it is touched; zero: never

	// IdleTimeout is the ttl of the last write that named one.
	IdleTimeout time.Duration

	row      rows.Row // as it was read, without its payload
	user     string   // UserID as it was read
	values   values
	broken   error // why the row does not open: ErrTampered or ErrUnknownKey
	loadedAt time.Time
	sealed   bool // whether the store that read it seals
}

// Decode stores the session's values in what v points to, by encoding/json. Values that were given
// as a []byte go to a *[]byte, as a copy. Errors: [ErrDecode] if the values do not fit v;
// [ErrTampered] or [ErrUnknownKey] if the session comes from a list and does not open.
func (s *Session) Decode(v any) error {
	if s.broken != nil {
		return s.broken
	}
	return s.values.decode(v)
}

// Decode returns the session's values as a T. Its errors are those of [Session.Decode].
func Decode[T any](s *Session) (T, error) {
	var v T
	err := s.Decode(&v)
	return v, err
}

// Data returns what is stored, in a form that can be written back unchanged: Values is a
// [json.RawMessage], or a []byte if it was given as one. If the session does not open, writing the
// Data back fails with [ErrEncode].
func (s *Session) Data() Data {
	if s.broken != nil {
		return Data{Values: unreadable{s.broken}}
	}
	data := Data{UserID: s.UserID, Values: s.values.stored()}
	if !s.EndsAt.IsZero() {
		// A clock that was set back may have made an end before the begin.
		data.Lifetime = min(max(s.EndsAt.Sub(s.CreatedAt), time.Microsecond), rows.MaxTTL)
	}
	return data
}

// Remaining returns how long the session had to live when it was loaded, by the store's clock.
func (s *Session) Remaining() time.Duration { return s.ExpiresAt.Sub(s.loadedAt) }

// key returns the key of the session's row, which is that of its ID if it has one.
func (s *Session) key() rows.Key { return cmp.Or(s.ID.handle, s.Handle).key() }

// Format writes handle and times for every verb.
func (s Session) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "Session(%s, %s to %s)", s.Handle, s.CreatedAt.Format(time.RFC3339), s.ExpiresAt.Format(time.RFC3339))
}

// LogValue returns a group of handle and times.
func (s Session) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("handle", s.Handle.String()),
		slog.Time("created_at", s.CreatedAt),
		slog.Time("expires_at", s.ExpiresAt))
}

// MarshalJSON returns an object of handle and times.
func (s Session) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Handle    Handle    `json:"handle"`
		CreatedAt time.Time `json:"created_at"`
		ExpiresAt time.Time `json:"expires_at"`
	}{s.Handle, s.CreatedAt, s.ExpiresAt})
}

// unreadable takes the place of the values of a row that does not open. Writing them back fails,
// instead of storing nothing.
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

// encodeValues returns v encoded. The error is ErrEncode or ErrTooLarge; a maxSize of 0 is no
// limit.
func encodeValues(v any, maxSize int) (values, error) {
	var encoded values
	switch v := v.(type) {
	case []byte:
		encoded = values{kindRaw, v}
	case bridge.JSON:
		encoded = values{kindJSON, v}
	default:
		var err error
		if encoded, err = encodeJSON(v); err != nil {
			return values{}, err
		}
	}
	if maxSize > 0 && len(encoded.bytes) > maxSize {
		return values{}, fmt.Errorf("%w: %d bytes of values; at most %d are allowed", ErrTooLarge, len(encoded.bytes), maxSize)
	}
	return encoded, nil
}

// maxDepth is how deeply nested a JSON text may be for encoding/json to read it. It writes any.
const maxDepth = 10_000

func encodeJSON(v any) (values, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return values{}, encodeError(err)
	}
	if len(data) > 2*maxDepth && !json.Valid(data) {
		return values{}, fmt.Errorf("%w: they are nested too deeply to be read again", ErrEncode)
	}
	return values{kindJSON, data}, nil
}

// encodeError and decodeError name types, which are in the program's source. They leave out the
// text of encoding/json's errors, which quotes values and keys.
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
		return fmt.Errorf("%w: a value does not fit type %s", ErrDecode, mismatch.Type)
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
		if target != nil {
			*target = bytes.Clone(v.bytes)
			return nil
		}
	case *any:
		if target != nil {
			*target = bytes.Clone(v.bytes)
			return nil
		}
	}
	return fmt.Errorf("%w: raw bytes go to a *[]byte", ErrDecode)
}

func (v values) stored() any {
	if v.kind == kindJSON {
		return json.RawMessage(bytes.Clone(v.bytes))
	}
	return bytes.Clone(v.bytes)
}
