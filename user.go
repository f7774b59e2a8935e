package pgsession

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/pgsession/pgsession/internal/rows"
)

const defaultLimit = 100

// FindByUser returns a user's live sessions, the newest log-in first, and at most limit of them, or
// 100 if limit is 0 or less. It returns none for "", since guests have no user id. A session that
// does not open is in the list, so that it can be revoked: its Decode returns the error.
//
// Errors: [ErrTooLarge] for a user id that is too long.
func (s *Store) FindByUser(ctx context.Context, userID string, limit int) (sessions []*Session, err error) {
	defer s.stats.observe(opFindByUser, time.Now(), &err)
	if len(userID) > maxUserIDSize {
		return nil, errUserIDTooLarge(userID)
	}
	if userID == "" {
		return nil, nil
	}
	if limit <= 0 {
		limit = defaultLimit
	}
	ctx, cancel := s.table.Within(ctx)
	defer cancel()
	var (
		found []rows.Row
		now   time.Time
	)
	err = s.underOneRing(func() (err error) {
		now = s.now()
		found, err = s.table.FindByUser(ctx, s.codec.userKeys(userID), limit)
		return err
	})
	if err != nil {
		return nil, wrap("find by user", err)
	}
	return s.sessions(found, now), nil
}

// sessions returns what a list of rows holds.
func (s *Store) sessions(found []rows.Row, now time.Time) []*Session {
	sessions := make([]*Session, len(found))
	for i, row := range found {
		sessions[i] = s.session(row, now)
	}
	return sessions
}

// DeleteByUser ends a user's sessions, except those named: "log out everywhere else". It returns
// how many of them were live. It ends none for "". A session that moves to a new id at the same
// time is ended there. One that a log-in creates at the same time may stay. DeleteByUser ends at
// once what it can, and then waits for rows that others hold.
//
// Errors: [ErrTooLarge] for a user id that is too long. With any error, the number says how many
// sessions were ended before it.
func (s *Store) DeleteByUser(ctx context.Context, userID string, except ...Handle) (ended int64, err error) {
	defer s.stats.observe(opDeleteByUser, time.Now(), &err)
	spared := make([]rows.Key, len(except))
	for i, h := range except {
		spared[i] = h.key()
	}
	isDoomed := func(of string, h Handle) bool { return of == userID && of != "" && !slices.Contains(except, h) }
	return s.elsewhere.around(ctx, isDoomed, func() (int64, error) {
		return s.endByUser(ctx, "delete by user", userID, spared, 0)
	})
}

// LimitByUser ends all sessions of a user except the newest log-ins: keep is how many of these
// stay. It returns how many sessions it ended. It ends none for "". If it is called after each
// log-in, then racing log-ins leave no more than that many sessions once the last call has
// returned.
//
// Errors: one of its own if keep is not positive ([Store.DeleteByUser] ends all); [ErrTooLarge] for
// a user id that is too long. With any error, the number says how many sessions were ended before
// it.
func (s *Store) LimitByUser(ctx context.Context, userID string, keep int) (ended int64, err error) {
	defer s.stats.observe(opLimitByUser, time.Now(), &err)
	if keep < 1 {
		return 0, errors.New("pgsession: limit by user: the number of sessions to keep must be positive")
	}
	return s.endByUser(ctx, "limit by user", userID, nil, keep)
}

// limitOthers is LimitByUser for the user of a session, but it spares that session, and keep counts
// the others, and may be 0. Package httpsession calls it.
func (s *Store) limitOthers(ctx context.Context, session *Session, keep int) (err error) {
	defer s.stats.observe(opLimitByUser, time.Now(), &err)
	_, err = s.endByUser(ctx, "limit by user", session.user, []rows.Key{session.key()}, keep)
	return err
}

func (s *Store) endByUser(ctx context.Context, operation, userID string, except []rows.Key, keep int) (ended int64, err error) {
	if len(userID) > maxUserIDSize {
		return 0, errUserIDTooLarge(userID)
	}
	if userID == "" {
		return 0, nil
	}
	keep = min(keep, math.MaxInt32) // an integer of SQL
	ctx, cancel := s.table.Within(ctx)
	defer cancel()
	err = s.underOneRing(func() error {
		n, err := s.table.EndByUser(ctx, s.codec.userKeys(userID), except, keep)
		ended += n
		return err
	})
	return ended, wrap(operation, err)
}

// underOneRing runs do again if the key ring got another key while it ran: do did not look for rows
// that were written under the new key.
func (s *Store) underOneRing(do func() error) error {
	for {
		ring := s.codec.ring()
		if err := do(); err != nil || ring.hasAllOf(s.codec.ring()) {
			return err
		}
	}
}

// Find returns a live session by its handle, for operators. Its ID is zero. Never call it for a
// handle that a user sent.
//
// Errors: [ErrNotFound], [ErrRevoked], [ErrTampered], [ErrUnknownKey].
func (s *Store) Find(ctx context.Context, h Handle) (session *Session, err error) {
	defer s.stats.observe(opFind, time.Now(), &err)
	return s.load(ctx, "find", h.key())
}

// Revoke ends one of a user's sessions by its handle. It is for a page that lists the user's
// devices.
//
// Errors: [ErrNotFound] if the handle names no live session of that user, [ErrRevoked] if it names
// one that was ended, [ErrConflict], [ErrTooLarge] for a user id that is too long.
func (s *Store) Revoke(ctx context.Context, userID string, h Handle) (err error) {
	defer s.stats.observe(opRevoke, time.Now(), &err)
	if len(userID) > maxUserIDSize {
		return errUserIDTooLarge(userID)
	}
	if userID == "" || h.IsZero() {
		return ErrNotFound
	}
	ctx, cancel := s.table.Within(ctx)
	defer cancel()
	// A row that was not found may lie under a key that was added to the ring meanwhile.
	outcome := rows.NotFound
	err = s.underOneRing(func() (err error) {
		if outcome == rows.NotFound {
			outcome, err = s.table.Revoke(ctx, h.key(), s.codec.userKeys(userID))
		}
		return err
	})
	return result("revoke", outcome, err)
}

// RevokeAny ends the session of any user by its handle. It is for operators. Never call it for a
// handle that a user sent.
//
// Errors: [ErrNotFound] if the handle names no live session, [ErrRevoked] if it names one that was
// ended, [ErrConflict].
func (s *Store) RevokeAny(ctx context.Context, h Handle) (err error) {
	defer s.stats.observe(opRevoke, time.Now(), &err)
	outcome, err := s.table.Revoke(ctx, h.key(), nil)
	return result("revoke", outcome, err)
}
