package pgsessiontest

import (
	"cmp"
	"context"
	"encoding/hex"
	"time"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/bridge"
	"github.com/pgsession/pgsession/internal/rows"
)

// SessionFields say what [NewSession] makes. The zero SessionFields make a guest's session without
// values, which began just now and has an hour to live.
type SessionFields struct {
	ID          pgsession.ID     // zero in a session of a list
	Handle      pgsession.Handle // if it is zero, the ID's; if that is zero too, a new one
	Data        pgsession.Data
	LoadedAt    time.Time     // the time from which Remaining counts; now if it is zero
	CreatedAt   time.Time     // LoadedAt if it is zero
	ExpiresAt   time.Time     // an hour after LoadedAt if it is zero
	IdleTimeout time.Duration // an hour if it is 0

	// Broken makes a session that does not open, as a list of sessions may show one: its Decode
	// gives this error, [pgsession.ErrTampered] or [pgsession.ErrUnknownKey].
	Broken error
}

// NewSession returns a session as a load gives it, for fakes of a store and for what takes a
// session. It panics if Data cannot be encoded, and for any other error in Broken.
func NewSession(fields SessionFields) *pgsession.Session {
	loadedAt := rows.Time(cmp.Or(fields.LoadedAt, time.Now()))
	handle := cmp.Or(fields.Handle, fields.ID.Handle(), pgsession.NewID().Handle())

	store := New(pgsession.WithMaxSize(0))
	created, err := store.Create(context.Background(), pgsession.Data{UserID: fields.Data.UserID, Values: fields.Data.Values}, time.Hour)
	if err != nil {
		panic("pgsessiontest: NewSession: " + err.Error())
	}
	row, err := store.table.Load(context.Background(), keyOf(created.Handle))
	if err != nil {
		panic("pgsessiontest: NewSession: " + err.Error())
	}
	row.Key = keyOf(handle)
	row.CreatedAt = rows.Time(cmp.Or(fields.CreatedAt, loadedAt))
	row.ExpiresAt = rows.Time(cmp.Or(fields.ExpiresAt, loadedAt.Add(time.Hour)))
	row.EndsAt = rows.Write{Lifetime: fields.Data.Lifetime}.EndsAt(row.CreatedAt)
	row.IdleTimeout = cmp.Or(fields.IdleTimeout, time.Hour)
	switch fields.Broken {
	case nil:
	case pgsession.ErrTampered:
		row.Malformed = true
	case pgsession.ErrUnknownKey:
		row.Payload = nil // as a row of the other kind of store
	default:
		panic("pgsessiontest: NewSession: Broken is neither ErrTampered nor ErrUnknownKey")
	}
	session := bridge.Session(store.Store, row, loadedAt).(*pgsession.Session)
	session.ID = fields.ID
	return session
}

func keyOf(h pgsession.Handle) (key rows.Key) {
	hex.Decode(key[:rows.KeySize], []byte(h.String()))
	return key
}
