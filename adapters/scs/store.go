// Package scsstore keeps the sessions of [github.com/alexedwards/scs/v2] in a store of package
// pgsession: encrypted, found by user, and final once they are ended.
//
//	sessions := scs.New()
//	sessions.Store = scsstore.New(store)
//	sessions.Codec = scsstore.UserCodec(sessions.Codec, "userID")
//	http.ListenAndServe(addr, scsstore.LoadAndSave(sessions, mux))
//
// [New] alone makes scs work as it does on its other stores: the last writer wins. [LoadAndSave]
// takes the place of the manager's method, and makes parallel requests keep each other's changes.
// [UserCodec] tells the store who is logged in, for [pgsession.Store.FindByUser] and
// [pgsession.Store.DeleteByUser].
//
// # What is stored
//
// The token stays scs's, and the session's id is [pgsession.DeriveID] of it. The token also lies in the
// sealed value, beside what the manager's codec encoded, so that All can name it. The expiry that
// scs computes from its Lifetime and IdleTimeout is the session's ttl.
// [pgsession.WithAbsoluteLifetime] applies too. With UserCodec and LoadAndSave it also bounds a
// log-in whose token is renewed, which scs's Lifetime does not.
package scsstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/alexedwards/scs/v2"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/move"
)

var (
	_ scs.CtxStore         = (*Store)(nil)
	_ scs.IterableStore    = (*Store)(nil)
	_ scs.IterableCtxStore = (*Store)(nil)
)

// A Store is an [scs.CtxStore] and an [scs.IterableCtxStore]. Make it with [New]. Give each
// SessionManager a Store of its own; several may share one *pgsession.Store. It is safe for
// concurrent use.
type Store struct {
	store  *pgsession.Store
	moving Moving
}

// An Option changes how a store behaves.
type Option func(*Store)

// Moving is how a store works while sessions move from the table of another scs store. It finds a
// session in either place, and changes and ends it where it is. It needs [LoadAndSave] or
// [NewContext]. The README shows the steps.
type Moving struct {
	From *move.Table // by move.FromSCS

	// CreateInOld makes new sessions in the old table. It is for as long as instances run that
	// know the old table only.
	CreateInOld bool
}

// WithMoving is for the time while sessions move from another table. It panics if there is no table.
func WithMoving(m Moving) Option {
	if m.From == nil {
		panic("scsstore: WithMoving: no table")
	}
	return func(s *Store) { s.moving = m }
}

// New returns a Store for a SessionManager. It panics if store is nil.
func New(store *pgsession.Store, opts ...Option) *Store {
	if store == nil {
		panic("scsstore: New: nil store")
	}
	s := &Store{store: store}
	for _, opt := range opts {
		opt(s)
	}
	return s
}

// Find is [Store.FindCtx] without a context.
func (s *Store) Find(token string) ([]byte, bool, error) {
	return s.FindCtx(context.Background(), token)
}

// FindCtx returns a session's data, as its codec encoded it. If the database cannot be asked, it
// returns the error. A session that does not open is logged, and is not found.
func (s *Store) FindCtx(ctx context.Context, token string) ([]byte, bool, error) {
	f, err := s.find(ctx, token)
	if errors.Is(err, pgsession.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	requestOf(ctx, s).remember(token, f)
	return f.data, true, nil
}

func (s *Store) find(ctx context.Context, token string) (found, error) {
	f, err := s.load(ctx, token)
	if s.moving.From == nil || !errors.Is(err, pgsession.ErrNotFound) || errors.Is(err, pgsession.ErrRevoked) {
		return f, err
	}
	row, inOld, err := s.moving.From.Load(ctx, token)
	if err != nil {
		return found{}, err
	}
	if inOld {
		return found{data: row.Data}, nil
	}
	return s.load(ctx, token) // it may have moved in between
}

func (s *Store) load(ctx context.Context, token string) (found, error) {
	id := pgsession.DeriveID(token)
	session, err := s.store.Load(ctx, id)
	if err == nil {
		if data, ok := open(session, token); ok {
			return found{data: data, session: session}, nil
		}
		err = pgsession.ErrDecode
	}
	if errors.Is(err, pgsession.ErrTampered) || errors.Is(err, pgsession.ErrUnknownKey) || errors.Is(err, pgsession.ErrDecode) {
		slog.ErrorContext(ctx, "scsstore: a session does not open", "session", id, "error", err)
		return found{}, pgsession.ErrNotFound
	}
	return found{}, err
}

// Commit is [Store.CommitCtx] without a context.
func (s *Store) Commit(token string, b []byte, expiry time.Time) error {
	return s.CommitCtx(context.Background(), token, b, expiry)
}

var (
	errUserChanged = fmt.Errorf("scsstore: the user changed under the same token: call RenewToken before the user changes: %w", pgsession.ErrUserChanged)
	errNoRequest   = errors.New("scsstore: a store with Moving needs scsstore.LoadAndSave or scsstore.NewContext")
	errKeepExpiry  = errors.New("scsstore: another request moved the deadline")
)

// CommitCtx stores a session. It goes on if ctx is cancelled, since scs's other stores do, and ends
// within [pgsession.WithTimeout]. If expiry has passed, it ends the session. Under the empty token,
// which scs never looks for, it stores nothing.
//
// Under [LoadAndSave] it creates a session only under a token that is new in this request, and
// otherwise changes the session that the request found. Where another request has changed it
// meanwhile, the keys that this request set or removed are taken from it, and all others from the
// other one. If nothing has changed, it prolongs the session, and writes only if that gains a tenth
// of the time.
//
// Without LoadAndSave it replaces what is there. It brings no session back as long as its tombstone
// exists: until it would have expired, and for an hour at least.
//
// Errors: [pgsession.ErrNotFound] if the session was ended or has expired since it was loaded, or if
// it was ended before this request renewed its token. [pgsession.ErrUserChanged] if the user
// changed without a RenewToken. [pgsession.ErrExists] under a token that is in use, and that this
// request did not find. [pgsession.ErrTampered], [pgsession.ErrUnknownKey] and [pgsession.ErrDecode]
// if the session does not open any more. [pgsession.ErrTooLarge], [pgsession.ErrConflict],
// [pgsession.ErrInvalidTTL].
func (s *Store) CommitCtx(ctx context.Context, token string, b []byte, expiry time.Time) error {
	ctx = context.WithoutCancel(ctx)
	if time.Until(expiry) <= 0 {
		return s.DeleteCtx(ctx, token)
	}
	if token == "" {
		return nil
	}
	r := requestOf(ctx, s)
	c := change{Store: s, request: r, token: token, expiry: expiry}
	c.userID, c.data = splitUser(b)
	switch {
	case r != nil:
		r.mu.Lock()
		defer r.mu.Unlock()
		return c.commit(ctx)
	case s.moving.From != nil:
		return errNoRequest
	}
	err := s.store.Put(ctx, pgsession.DeriveID(token), pgsession.Data{UserID: c.userID, Values: seal(token, c.data)}, time.Until(expiry))
	if errors.Is(err, pgsession.ErrUserChanged) {
		return errUserChanged
	}
	return err
}

// Delete is [Store.DeleteCtx] without a context.
func (s *Store) Delete(token string) error { return s.DeleteCtx(context.Background(), token) }

// DeleteCtx ends a session for good. It goes on if ctx is cancelled. Ending one that is not there is
// no error.
func (s *Store) DeleteCtx(ctx context.Context, token string) error {
	ctx = context.WithoutCancel(ctx)
	r := requestOf(ctx, s)
	if r == nil {
		_, err := s.end(ctx, token)
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	wasLive, err := s.end(ctx, token)
	if f, ok := r.found[token]; ok && err == nil {
		r.ended, r.endedByOthers = f, !wasLive
		delete(r.found, token)
	}
	return err
}

// end reports whether it ended a live session.
func (s *Store) end(ctx context.Context, token string) (bool, error) {
	id := pgsession.DeriveID(token)
	if id.IsZero() {
		return false, nil // scs has no token before the first Commit
	}
	if from := s.moving.From; from != nil {
		inOld, err := from.Delete(ctx, token)
		if err != nil || inOld {
			return inOld, err
		}
		// The row of a session that is being moved must not be created after this.
		if err := from.Finish(ctx, s.store, token, nothing); err != nil {
			return false, err
		}
	}
	err := s.store.RevokeAny(ctx, id.Handle())
	if errors.Is(err, pgsession.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// nothing converts a session that is about to be ended.
func nothing(row move.Row) (pgsession.ID, pgsession.Data, time.Time, error) {
	return pgsession.DeriveID(row.Token), pgsession.Data{}, row.Expiry, nil
}

// All is [Store.AllCtx] without a context.
func (s *Store) All() (map[string][]byte, error) { return s.AllCtx(context.Background()) }

// AllCtx returns the data of all live sessions by token, for scs's Iterate. It holds them all in
// memory, as scs asks. Sessions that do not open are left out, and so are those that other code
// keeps in the same table.
func (s *Store) AllCtx(ctx context.Context) (map[string][]byte, error) {
	all := map[string][]byte{}
	r := requestOf(ctx, s)
	if s.moving.From != nil {
		rows, err := s.moving.From.All(ctx)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			all[row.Token] = row.Data
			r.remember(row.Token, found{data: row.Data})
		}
	}
	for session, err := range s.store.All(ctx) {
		if err != nil {
			return nil, err
		}
		if token, data, ok := split(session); ok {
			all[token] = data
			r.remember(token, found{data: data, session: session})
		}
	}
	return all, nil
}

// seal returns what is stored of a session: the token's length, the token and the data.
func seal(token string, data []byte) []byte {
	value := binary.AppendUvarint(make([]byte, 0, len(token)+len(data)+2), uint64(len(token)))
	return append(append(value, token...), data...)
}

// split returns what seal was given, unless the session is another's.
func split(session *pgsession.Session) (token string, data []byte, ok bool) {
	value, err := pgsession.Decode[[]byte](session)
	if err != nil {
		return "", nil, false
	}
	token, data, ok = cut(value)
	return token, data, ok && pgsession.DeriveID(token).Handle() == session.Handle
}

func open(session *pgsession.Session, token string) (data []byte, ok bool) {
	named, data, ok := split(session)
	return data, ok && named == token
}

// cut returns a string that follows its length, and the rest.
func cut(b []byte) (s string, rest []byte, ok bool) {
	length, n := binary.Uvarint(b)
	if n <= 0 || length > uint64(len(b)-n) {
		return "", nil, false
	}
	return string(b[n : n+int(length)]), b[n+int(length):], true
}

// Converter returns what [move.Import] needs to move scs's sessions, whose data the codec encoded:
// the manager's own, with [UserCodec] if the application uses that.
func Converter(codec scs.Codec) move.Convert {
	return func(row move.Row) (id pgsession.ID, data pgsession.Data, expiry time.Time, err error) {
		decoded, err := decode(codec, row.Data)
		if err != nil {
			return id, data, expiry, err
		}
		_, encoded := splitUser(row.Data)
		data = pgsession.Data{UserID: decoded.userID, Values: seal(row.Token, encoded)}
		return pgsession.DeriveID(row.Token), data, row.Expiry, nil
	}
}
