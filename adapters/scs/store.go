// Package scsstore keeps the sessions of [github.com/alexedwards/scs/v2] in a store of package
// pgsession: encrypted, found by user, and final once they are ended.
//
//	sessions := scs.New()
//	sessions.Store = scsstore.New(store, "session")
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
// The token stays scs's, and the session's id is [pgsession.DeriveID] of it and of the manager's
// name. The token also lies in the sealed value, beside what the manager's codec encoded, so that
// All can name it. The expiry that scs computes from its Lifetime and IdleTimeout is the session's
// ttl. [pgsession.WithAbsoluteLifetime] applies too. With UserCodec and LoadAndSave it also bounds
// a log-in whose token is renewed, which scs's Lifetime does not.
package scsstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/alexedwards/scs/v2"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/bridge"
	"github.com/pgsession/pgsession/internal/quiet"
	"github.com/pgsession/pgsession/move"
)

var (
	_ scs.CtxStore         = (*Store)(nil)
	_ scs.IterableStore    = (*Store)(nil)
	_ scs.IterableCtxStore = (*Store)(nil)
)

var logs quiet.Limiter

// A Store is an [scs.CtxStore] and an [scs.IterableCtxStore]. Make it with [New]. It is safe for
// concurrent use.
type Store struct {
	store  *pgsession.Store
	name   string
	moving Moving
}

// An Option changes how a store behaves.
type Option func(*Store)

// Moving is how a store works while sessions move from the table of another scs store. It finds a
// session in either place, and changes and ends it where it is. It needs [LoadAndSave] or
// [NewContext]. The README shows the steps.
type Moving struct {
	From *move.Table // by move.FromSCS

	// Codec is the manager's.
	Codec scs.Codec

	// CreateInOld makes new sessions in the old table. It is for as long as instances run that
	// know the old table only.
	CreateInOld bool
}

// WithMoving is for the time while sessions move from another table. It panics if there is no table
// or no codec.
func WithMoving(m Moving) Option {
	if m.From == nil || m.Codec == nil {
		panic("scsstore: WithMoving: no table or no codec")
	}
	return func(s *Store) { s.moving = m }
}

// New returns a Store for a SessionManager. A token opens sessions of its own name only. So give
// each manager a name of its own, such as that of its cookie. A new name logs everybody out. User
// ids are the table's: managers whose users may have the same id need a table each. New panics if
// store is nil, or name is empty.
func New(store *pgsession.Store, name string, opts ...Option) *Store {
	if store == nil || name == "" {
		panic("scsstore: New: no store or no name")
	}
	s := &Store{store: store, name: name}
	for _, opt := range opts {
		opt(s)
	}
	if s.moving.From != nil {
		s.moving.From.EndWith(store, s.Convert)
	}
	return s
}

func (s *Store) id(token string) pgsession.ID {
	if token == "" { // scs has none before the first Commit
		return pgsession.ID{}
	}
	return pgsession.DeriveID("scs " + strconv.Quote(s.name) + token)
}

// A storeError is an error of the store's, whose text shows nothing of a session. Those of a codec
// may.
type storeError struct{ error }

func (e storeError) Unwrap() error { return e.error }

func markError(err *error) {
	if *err != nil {
		*err = storeError{*err}
	}
}

// Find is [Store.FindCtx] without a context.
func (s *Store) Find(token string) ([]byte, bool, error) {
	return s.FindCtx(context.Background(), token)
}

// FindCtx returns a session's data, as its codec encoded it. If the database cannot be asked, it
// returns the error. A session that does not open is logged, and is not found.
func (s *Store) FindCtx(ctx context.Context, token string) (data []byte, isFound bool, err error) {
	defer markError(&err)
	f, err := s.find(ctx, token)
	if errors.Is(err, pgsession.ErrNotFound) {
		if bridge.HasMoved(err) {
			requestOf(ctx, s).noteMove()
		}
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
	id := s.id(token)
	session, err := s.store.Load(ctx, id)
	if err == nil {
		if data, ok := s.open(session, token); ok {
			return found{data: data, session: session}, nil
		}
		err = pgsession.ErrDecode
	}
	if errors.Is(err, pgsession.ErrUnreadable) || errors.Is(err, pgsession.ErrDecode) {
		logs.Log(ctx, slog.Default(), slog.LevelError, "scsstore: a session does not open", "session", id, "error", err)
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
// otherwise changes the session that the request found. If another request has changed it
// meanwhile, the keys that this request set or removed become as this request has them, and all
// others stay as the other request has stored them. If nothing has changed, it prolongs the
// session, and writes only if that gains a tenth of the time.
//
// Without LoadAndSave it replaces what is there. It brings no session back as long as its tombstone
// exists: until it would have expired, and for an hour at least.
//
// Errors: [pgsession.ErrNotFound] if the session was ended or has expired since it was loaded, also
// if this request has renewed its token; and if another request had renewed it before this one was
// loaded with the old token, unless this one logs a user in. [pgsession.ErrUserChanged] if the user
// changed without a RenewToken. [pgsession.ErrExists] under a token that is in use, and that this
// request did not find. [pgsession.ErrEncode] for values that would not decode again.
// [pgsession.ErrUnreadable] and [pgsession.ErrDecode] if the session does not open any more.
// [pgsession.ErrTooLarge], [pgsession.ErrConflict], [pgsession.ErrInvalidTTL].
func (s *Store) CommitCtx(ctx context.Context, token string, b []byte, expiry time.Time) (err error) {
	if time.Until(expiry) <= 0 {
		return s.DeleteCtx(ctx, token)
	}
	if token == "" {
		return nil
	}
	defer markError(&err)
	ctx, cancel := bridge.Within(context.WithoutCancel(ctx), s.store)
	defer cancel()
	userID := userOf(b)
	if r := requestOf(ctx, s); r != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		return change{Store: s, request: r, token: token, data: b, expiry: expiry, userID: userID}.commit(ctx)
	}
	if s.moving.From != nil {
		return errNoRequest
	}
	err = s.store.Put(ctx, s.id(token), pgsession.Data{UserID: userID, Values: seal(token, b)}, time.Until(expiry))
	if errors.Is(err, pgsession.ErrUserChanged) {
		return errUserChanged
	}
	return err
}

// Delete is [Store.DeleteCtx] without a context.
func (s *Store) Delete(token string) error { return s.DeleteCtx(context.Background(), token) }

// DeleteCtx ends a session for good. It goes on if ctx is cancelled. Ending one that is not there
// is no error.
//
// scs calls it for Destroy and for RenewToken, and does not say which. So under [LoadAndSave] the
// user's log-in is kept until the end of the request, under an id that nobody knows. Until then
// FindByUser lists it.
func (s *Store) DeleteCtx(ctx context.Context, token string) (err error) {
	defer markError(&err)
	ctx, cancel := bridge.Within(context.WithoutCancel(ctx), s.store)
	defer cancel()
	r := requestOf(ctx, s)
	if r == nil {
		_, err := s.end(ctx, token)
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.leave(ctx, s, token)
}

// end reports whether it ended a live session.
func (s *Store) end(ctx context.Context, token string) (bool, error) {
	id := s.id(token)
	if id.IsZero() {
		return false, nil
	}
	inOld, err := s.endInOld(ctx, token)
	if err != nil || inOld {
		return inOld, err
	}
	err = s.store.RevokeAny(ctx, id.Handle())
	if errors.Is(err, pgsession.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

func (s *Store) endInOld(ctx context.Context, token string) (wasLive bool, err error) {
	from := s.moving.From
	if from == nil {
		return false, nil
	}
	wasLive, err = from.Delete(ctx, token)
	if err == nil && !wasLive {
		// The row of a session that is being moved must not be created after this.
		err = from.Finish(ctx, s.store, token, s.nothing)
	}
	return wasLive, err
}

// nothing converts a session that is about to be ended.
func (s *Store) nothing(row move.Row) (pgsession.ID, pgsession.Data, time.Time, error) {
	return s.id(row.Token), pgsession.Data{}, row.Expiry, nil
}

// All is [Store.AllCtx] without a context.
func (s *Store) All() (map[string][]byte, error) { return s.AllCtx(context.Background()) }

// AllCtx returns the data of all live sessions by token, for scs's Iterate. It holds them all in
// memory, as scs asks. Sessions that do not open are left out, and so are those of another name, or
// that other code keeps in the same table.
func (s *Store) AllCtx(ctx context.Context) (_ map[string][]byte, err error) {
	defer markError(&err)
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
		if token, data, ok := s.split(session); ok {
			all[token] = data
			session.ID = s.id(token)
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
func (s *Store) split(session *pgsession.Session) (token string, data []byte, ok bool) {
	value, err := pgsession.Decode[[]byte](session)
	if err != nil {
		return "", nil, false
	}
	token, data, ok = cut(value)
	return token, data, ok && s.id(token).Handle() == session.Handle
}

func (s *Store) open(session *pgsession.Session, token string) (data []byte, ok bool) {
	named, data, ok := s.split(session)
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

// Convert is what [move.Import] needs to move scs's sessions. It is for a store [WithMoving].
func (s *Store) Convert(row move.Row) (id pgsession.ID, data pgsession.Data, expiry time.Time, err error) {
	values, err := decode(s.moving.Codec, row.Data)
	if err != nil {
		return id, data, expiry, err
	}
	if c, ok := s.moving.Codec.(userCodec); ok {
		if data.UserID, err = c.userID(values); err != nil {
			return id, data, expiry, err
		}
	}
	data.Values = seal(row.Token, row.Data)
	return s.id(row.Token), data, row.Expiry, nil
}
