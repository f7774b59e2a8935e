// Package handover gives a session another id for frameworks that do it in two steps: they delete
// the session, and later, at the end of the request, store its values under the new id. They do not
// say at the first step whether there will be a second one.
package handover

import (
	"context"
	"errors"
	"time"

	"github.com/pgsession/pgsession"
)

// patience is how long after the first step the second one may come.
const patience = 5 * time.Minute

// A Left is a session that a request has left. Its old id opens nothing. Make it with [Leave].
type Left struct {
	// IsOver says that somebody else has ended the session.
	IsOver bool

	// Session is the session as it was when it was left, with what others have changed since it was
	// loaded. It is nil if the session was over.
	Session *pgsession.Session

	// kept has the user of the session and no values, under an id that nobody else knows, so that
	// DeleteByUser ends it between the two steps. It is nil for a guest.
	kept *pgsession.Session
}

var noValues = []byte{}

// Leave ends a session. If it is a user's, call [Left.Arrive] or [Left.End] afterwards.
func Leave(ctx context.Context, store *pgsession.Store, session *pgsession.Session) (left Left, err error) {
	ttl := patience
	if session.UserID == "" {
		ttl = 1 // nobody needs it
	}
	left.kept, err = store.Renew(ctx, session, ttl, func(stored *pgsession.Session) (pgsession.Data, error) {
		left.Session = stored
		return pgsession.Data{UserID: stored.UserID, Values: noValues}, nil
	})
	switch {
	case errors.Is(err, pgsession.ErrUnreadable): // since it was loaded; it must not go on
		return Left{IsOver: true}, store.Delete(ctx, session.ID)
	case errors.Is(err, pgsession.ErrNotFound):
		return Left{IsOver: true}, nil
	case session.UserID == "":
		left.kept = nil
	}
	return left, err
}

// Keep is Leave for a session that is not in the store. The caller ends that session afterwards.
func Keep(ctx context.Context, store *pgsession.Store, userID string) (left Left, err error) {
	if userID != "" {
		left.kept, err = store.Create(ctx, pgsession.Data{UserID: userID, Values: noValues}, patience)
	}
	return left, err
}

// Handle returns the handle under which the user's log-in is kept. For a guest it is zero.
func (l *Left) Handle() pgsession.Handle {
	if l.kept == nil {
		return pgsession.Handle{}
	}
	return l.kept.Handle
}

// Arrive stores a session under its new id, with the data that goesOn returns. If the session that
// was left has been ended, it sets IsOver, and stores the data that anew returns: what the ended
// session held must not live on. Its errors are those of the two functions and of
// [pgsession.Store.CreateAs].
func (l *Left) Arrive(ctx context.Context, store *pgsession.Store, id pgsession.ID, ttl time.Duration, goesOn, anew func() (pgsession.Data, error)) error {
	data, err := goesOn()
	if err != nil {
		return err
	}
	if l.kept != nil && !l.IsOver {
		err = store.Cycle(ctx, l.kept.ID, id, data, ttl)
		l.IsOver = errors.Is(err, pgsession.ErrNotFound)
		if err == nil || l.IsOver {
			l.kept = nil
		}
		if !l.IsOver {
			return err
		}
	}
	if l.IsOver {
		if data, err = anew(); err != nil {
			return err
		}
	}
	_, err = store.CreateAs(ctx, id, data, ttl)
	return err
}

// NotEnded is what to log if End fails when the request is over.
const NotEnded = "a session that was ended stays among its user's for a few minutes, and opens nothing"

// End is for a session that is to have no new id. It sets IsOver if the session has been ended.
func (l *Left) End(ctx context.Context, store *pgsession.Store) error {
	if l.kept == nil {
		return nil
	}
	err := store.RevokeAny(ctx, l.kept.Handle)
	if errors.Is(err, pgsession.ErrNotFound) {
		l.IsOver, err = true, nil
	}
	if err == nil {
		l.kept = nil
	}
	return err
}
