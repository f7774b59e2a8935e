package gorillastore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/gorilla/securecookie"
	"github.com/gorilla/sessions"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/move"
)

// A PGStore says where the sessions of github.com/antonlindstrom/pgstore are. See [WithPGStore].
type PGStore struct {
	// Codecs are those of pgstore: securecookie.CodecsFromPairs with the same keys, and with the same MaxAge
	// and MaxLength if pgstore's were changed.
	Codecs []securecookie.Codec

	// Table is pgstore's table, from [move.FromGorilla]. If it is nil, all sessions have moved, and only
	// cookies of pgstore are still accepted.
	Table *move.Table

	// Stay begins new sessions in pgstore's table, under pgstore's cookies. It is for a release that runs
	// beside one which uses pgstore itself.
	Stay bool
}

// WithPGStore makes the store accept the sessions of github.com/antonlindstrom/pgstore. [move.Import] moves
// them, with [Store.FromPGStore]. The first Save after that gives the visitor a token of this store. Requests
// of one visitor that run beside that Save may get [pgsession.ErrRevoked] from theirs, once. Until it has
// moved, a session behaves as in pgstore: it keeps its cookie at a log-in, and the last Save wins.
//
// The module's README shows how to change over without downtime. WithPGStore panics if there are no codecs, or
// if p.Stay is set without a table.
func WithPGStore(p PGStore) Option {
	if len(p.Codecs) == 0 {
		panic("gorillastore: WithPGStore: no codecs")
	}
	if p.Stay && p.Table == nil {
		panic("gorillastore: WithPGStore: no table")
	}
	return func(s *Store) { s.pgstore = p }
}

// FromPGStore returns what converts the rows of pgstore's table for [move.Import]. A row does not say which of
// the application's sessions it is, so names are the names of all of them. Most applications have one. The
// result's error is [pgsession.ErrDecode] for a row that is none of these. FromPGStore needs [WithPGStore].
func (s *Store) FromPGStore(names ...string) move.Convert {
	return func(row move.Row) (pgsession.ID, pgsession.Data, time.Time, error) {
		reason := pgsession.ErrDecode
		for _, name := range names {
			values, encoded, err := s.pgstore.decode(name, row.Data)
			if err == nil {
				return pgsession.DeriveID(row.Token), pgsession.Data{UserID: s.userID(values), Values: encoded}, row.Expiry, nil
			}
			reason = err
		}
		return pgsession.ID{}, pgsession.Data{}, time.Time{}, reason
	}
}

// decode returns the values in a row, and their form in ours.
func (p PGStore) decode(name string, data []byte) (values map[any]any, encoded []byte, err error) {
	if err := securecookie.DecodeMulti(name, string(data), &values, p.Codecs...); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", pgsession.ErrDecode, err)
	}
	encoded, err = encode(name, values)
	return values, encoded, err
}

// key returns the key in a cookie of pgstore, or "".
func (p PGStore) key(name, cookie string) (key string) {
	if len(p.Codecs) == 0 || securecookie.DecodeMulti(name, cookie, &key, p.Codecs...) != nil {
		return ""
	}
	return key
}

// loadOld loads the session that a cookie of pgstore names, wherever it is.
func (s *Store) loadOld(ctx context.Context, name, cookie string) (loaded, map[any]any, error) {
	key := s.pgstore.key(name, cookie)
	l, values, err := s.loadID(ctx, name, pgsession.DeriveID(key))
	absent := errors.Is(err, pgsession.ErrNotFound) && !errors.Is(err, pgsession.ErrRevoked)
	if absent && s.pgstore.Table != nil && key != "" {
		row, found, rowErr := s.pgstore.Table.Load(ctx, key)
		switch {
		case rowErr != nil:
			return loaded{}, nil, rowErr
		case found:
			values, encoded, err := s.pgstore.decode(name, row.Data)
			return loaded{oldKey: key, inOld: true, values: encoded}, values, err
		}
		l, values, err = s.loadID(ctx, name, pgsession.DeriveID(key)) // it may have moved in between
	}
	l.oldKey = key
	return l, values, err
}

// saveOld saves a session in pgstore's table. If the session has moved meanwhile, saveOld loads it into l and
// returns false.
func (s *Store) saveOld(ctx context.Context, w http.ResponseWriter, session *sessions.Session, l *loaded, values []byte) (done bool, err error) {
	table, name := s.pgstore.Table, session.Name()
	data, err := securecookie.EncodeMulti(name, session.Values, s.pgstore.Codecs...)
	if err != nil {
		return false, fmt.Errorf("%w: %w", pgsession.ErrEncode, err)
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
		if err = table.Finish(ctx, s.store, row.Token, s.FromPGStore(name)); err == nil {
			l.inOld = false
			l.session, err = s.store.Load(ctx, pgsession.DeriveID(row.Token))
		}
		return false, err
	}
	cookie, err := securecookie.EncodeMulti(name, row.Token, s.pgstore.Codecs...)
	if err != nil {
		return false, fmt.Errorf("%w: %w", pgsession.ErrEncode, err)
	}
	s.setCookie(w, sessions.NewCookie(name, cookie, session.Options))
	session.ID = pgsession.DeriveID(row.Token).Handle().String()
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
	return s.pgstore.Table.Finish(ctx, s.store, key, s.FromPGStore(name))
}
