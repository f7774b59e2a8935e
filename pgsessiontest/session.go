package pgsessiontest

import (
	"bytes"
	"cmp"
	"time"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/bridge"
)

// SessionFields say what [NewSession] makes. The zero SessionFields make a guest's
// session without values, which began just now and has an hour to live.
type SessionFields struct {
	Handle    pgsession.Handle // that of a new id where it is zero
	Data      pgsession.Data
	LoadedAt  time.Time // the time from which TTL counts; now where it is zero
	CreatedAt time.Time // LoadedAt where it is zero
	ExpiresAt time.Time // an hour after LoadedAt where it is zero
	Version   int64     // 1 where it is zero

	// Broken makes a session that does not open, as a list of sessions may show
	// one: its Decode gives this error, [pgsession.ErrTampered] or
	// [pgsession.ErrUnknownKey].
	Broken error
}

// NewSession returns a session as a load gives it, for fakes of a store and for what
// takes a session. It panics where Data cannot be encoded.
func NewSession(fields SessionFields) *pgsession.Session {
	if err := bridge.CheckUserID(fields.Data.UserID); err != nil {
		panic("pgsessiontest: NewSession: " + err.Error())
	}
	kind, encoded, err := bridge.Encode(fields.Data.Values, 0)
	if err != nil {
		panic("pgsessiontest: NewSession: " + err.Error())
	}
	loadedAt := wholeUTC(cmp.Or(fields.LoadedAt, time.Now()))
	session := &pgsession.Session{
		Handle:    cmp.Or(fields.Handle, pgsession.NewID().Handle()),
		UserID:    fields.Data.UserID,
		CreatedAt: wholeUTC(cmp.Or(fields.CreatedAt, loadedAt)),
		ExpiresAt: wholeUTC(cmp.Or(fields.ExpiresAt, loadedAt.Add(time.Hour))),
		Version:   cmp.Or(fields.Version, 1),
	}
	if fields.Broken != nil {
		session.UserID = "" // which lies sealed in the payload
	}
	bridge.Fill(session, kind, bytes.Clone(encoded), loadedAt, fields.Broken)
	return session
}

// wholeUTC returns t as a store reads it from the table.
func wholeUTC(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }
