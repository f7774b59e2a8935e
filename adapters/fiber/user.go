package fiberstore

import (
	"encoding/gob"
	"fmt"

	"github.com/pgsession/pgsession"
)

// userKey is the key of the user id among a session's values. So fiber's Regenerate keeps the user,
// and Reset and Destroy do not. It is a type of its own, so that no key of the application meets
// it.
type userKey uint8

func init() { gob.Register(userKey(0)) }

// A Session is a *session.Session or a *session.Middleware of fiber's.
type Session interface {
	Fresh() bool
	Get(key any) any
	Set(key, value any)
}

// SetUser names the user that a session belongs to, when a user logs in. When fiber saves the
// session, the store knows whose it is: pgsession's FindByUser lists it and DeleteByUser ends it.
// Call Regenerate first:
//
//	if err := sess.Regenerate(); err != nil {
//		return err
//	}
//	if err := fiberstore.SetUser(sess, userID); err != nil {
//		return err
//	}
//
// A session with the old id never gets another user. SetUser returns [pgsession.ErrUserChanged] if
// the session is not fresh, and if it holds the values of another user. In the second case call
// Reset instead of Regenerate, which drops those values. Naming the same user again does nothing.
func SetUser(sess Session, userID string) error {
	switch current := User(sess); {
	case current == userID:
		return nil
	case current != "":
		return fmt.Errorf("%w: call Reset before SetUser", pgsession.ErrUserChanged)
	case !sess.Fresh():
		return fmt.Errorf("%w: call Regenerate before SetUser", pgsession.ErrUserChanged)
	}
	sess.Set(userKey(0), userID)
	return nil
}

func userOf(values map[any]any) string {
	userID, _ := values[userKey(0)].(string)
	return userID
}

// User returns the user that [SetUser] named, and "" for a guest.
func User(sess Session) string {
	userID, _ := sess.Get(userKey(0)).(string)
	return userID
}
