package gorillastore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/gorilla/securecookie"
	"github.com/gorilla/sessions"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/bridge"
	"github.com/pgsession/pgsession/internal/cookies"
	"github.com/pgsession/pgsession/internal/sessionmap"
	"github.com/pgsession/pgsession/move"
)

// A PGStore says where the sessions of github.com/antonlindstrom/pgstore are. See [WithPGStore].
type PGStore struct {
	// Codecs are those of pgstore: securecookie.CodecsFromPairs with the same keys, and with the
	// same MaxAge and MaxLength if pgstore's were changed.
	Codecs []securecookie.Codec

	// Table is pgstore's table, from [move.FromGorilla]. If it is nil, all sessions have moved, and
	// only cookies of pgstore are still accepted. Until then DeleteByUser and DeleteAll of the
	// pgsession.Store end sessions in both tables.
	Table *move.Table

	// Names are the names of the application's sessions, since a row in the table does not say its
	// own. Most applications have one.
	Names []string

	// Stay begins new sessions in pgstore's table, under pgstore's cookies. It is for a release
	// that runs beside one which uses pgstore itself.
	Stay bool
}

// WithPGStore makes the store accept the sessions of github.com/antonlindstrom/pgstore.
// [move.Import] moves them, with [Store.Convert]. The first Save after that gives the visitor a
// token of this store. Requests of one visitor that run beside that Save may get
// [pgsession.ErrRevoked] from theirs, once. Until it has moved, a session behaves as in pgstore: it
// keeps its cookie at a log-in, and the last Save wins.
//
// The module's README shows how to change over without downtime. WithPGStore panics if there are no
// codecs, if there is a table and no name, or if p.Stay is set without a table.
func WithPGStore(p PGStore) Option {
	if len(p.Codecs) == 0 {
		panic("gorillastore: WithPGStore: no codecs")
	}
	if p.Stay && p.Table == nil {
		panic("gorillastore: WithPGStore: no table")
	}
	if p.Table != nil && len(p.Names) == 0 {
		panic("gorillastore: WithPGStore: no names")
	}
	return func(s *Store) { s.pgstore = p }
}

// Convert is what [move.Import] needs to move the sessions of pgstore's table. Its error is
// [pgsession.ErrDecode] for a row of none of [PGStore]'s names.
func (s *Store) Convert(row move.Row) (pgsession.ID, pgsession.Data, time.Time, error) {
	for _, name := range s.pgstore.Names {
		values, encoded, err := s.pgstore.decode(name, row.Data)
		if err == nil {
			return oldID(name, row.Token), pgsession.Data{UserID: s.userID(values), Values: encoded}, row.Expiry, nil
		}
	}
	return pgsession.ID{}, pgsession.Data{}, time.Time{}, pgsession.ErrDecode
}

// oldID returns the id of a session that pgstore had under a key.
func oldID(name, key string) pgsession.ID {
	if key == "" {
		return pgsession.ID{}
	}
	id := pgsession.DeriveID("gorilla " + strconv.Quote(name) + key)
	return bridge.WithPurpose(id, purposeOf(name)).(pgsession.ID)
}

// decode returns the values in a row, and their form in ours. The text of securecookie's errors may
// quote values.
func (p PGStore) decode(name string, data []byte) (values map[any]any, encoded []byte, err error) {
	if securecookie.DecodeMulti(name, string(data), &values, p.Codecs...) != nil {
		return nil, nil, pgsession.ErrDecode
	}
	encoded, err = sessionmap.Gob.Encode(values)
	return values, encoded, err
}

// key returns the key in a cookie of pgstore, or "".
func (p PGStore) key(name, cookie string) (key string) {
	if len(p.Codecs) == 0 || securecookie.DecodeMulti(name, cookie, &key, p.Codecs...) != nil {
		return ""
	}
	return key
}

// loadOld loads a session that pgstore had under a key, wherever it is.
func (s *Store) loadOld(ctx context.Context, name, key string) (loaded, map[any]any, error) {
	l, values, err := s.loadID(ctx, oldID(name, key))
	absent := errors.Is(err, pgsession.ErrNotFound) && !errors.Is(err, pgsession.ErrRevoked)
	if absent && s.pgstore.Table != nil {
		row, found, rowErr := s.pgstore.Table.Load(ctx, key)
		switch {
		case rowErr != nil:
			return loaded{}, nil, rowErr
		case found:
			values, encoded, err := s.pgstore.decode(name, row.Data)
			return loaded{oldKey: key, inOld: true, values: encoded}, values, err
		}
		l, values, err = s.loadID(ctx, oldID(name, key)) // it may have moved in between
	}
	l.oldKey = key
	return l, values, err
}

// saveOld saves a session in pgstore's table. If the session has moved meanwhile, saveOld loads it
// into l and returns false.
func (s *Store) saveOld(ctx context.Context, w http.ResponseWriter, session *sessions.Session, l *loaded, values []byte) (done bool, err error) {
	table, name := s.pgstore.Table, session.Name()
	data, err := securecookie.EncodeMulti(name, session.Values, s.pgstore.Codecs...)
	if err != nil {
		return false, fmt.Errorf("%w: values", pgsession.ErrEncode)
	}
	row := move.Row{Token: l.oldKey, Data: []byte(data), Expiry: time.Now().Add(s.ttlOf(session.Options.MaxAge))}
	if l.inOld {
		done, err = table.Replace(ctx, row)
	} else {
		row.Token = rand.Text() + rand.Text() // base32, as pgstore's own
		done, err = true, table.Insert(ctx, row)
	}
	if err != nil {
		return false, err
	}
	if !done {
		if err = table.Finish(ctx, s.store, row.Token, s.Convert); err == nil {
			l.inOld = false
			l.session, err = s.store.Load(ctx, oldID(name, row.Token))
		}
		return false, err
	}
	cookie, err := securecookie.EncodeMulti(name, row.Token, s.pgstore.Codecs...)
	if err != nil {
		return false, fmt.Errorf("%w: the key of a session", pgsession.ErrEncode)
	}
	cookies.Set(w, sessions.NewCookie(name, cookie, session.Options))
	session.ID = oldID(name, row.Token).Handle().String()
	s.remember(session, &loaded{oldKey: row.Token, inOld: true, cookie: name, values: values})
	return true, nil
}

// endOld deletes a session from pgstore's table.
func (s *Store) endOld(ctx context.Context, name, key string) error {
	if s.pgstore.Table == nil || key == "" {
		return nil
	}
	deleted, err := s.pgstore.Table.Delete(ctx, key)
	if err != nil || deleted {
		return err
	}
	return s.pgstore.Table.Finish(ctx, s.store, key, func(row move.Row) (pgsession.ID, pgsession.Data, time.Time, error) {
		return oldID(name, row.Token), pgsession.Data{}, row.Expiry, nil // it is ended then
	})
}
