package fiberstore_test

import (
	"bytes"
	"encoding/gob"
	"net/http"
	"testing"

	"github.com/gofiber/fiber/v3"
	"github.com/gofiber/fiber/v3/middleware/session"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	fiberstore "github.com/pgsession/pgsession/adapters/fiber"
)

func encoded(t *testing.T, key, value any) []byte {
	t.Helper()
	var out bytes.Buffer
	values := map[any]any{key: value}
	require.NoError(t, gob.NewEncoder(&out).Encode(&values))
	return out.Bytes()
}

func TestSetUser(t *testing.T) {
	t.Parallel()
	store, _ := newStore(t)
	site := newSite(t, fiberstore.NewSessions(store, "session_id"))
	sessionsOf := func(userID string) (ids []pgsession.Handle) {
		found, err := store.FindByUser(t.Context(), userID, 0)
		require.NoError(t, err)
		for _, s := range found {
			ids = append(ids, s.Handle)
		}
		return ids
	}
	one, two := site.newBrowser(t), site.newBrowser(t)
	one.mustDo(t, "/set/cart/full")
	guest := one.cookie
	one.mustDo(t, "/login/ann")
	two.mustDo(t, "/login/ann")
	require.NotEqual(t, guest, one.cookie)
	require.ElementsMatch(t, []pgsession.Handle{one.id().Handle(), two.id().Handle()}, sessionsOf("ann"))

	// Later saves keep the user, and so does Regenerate. Reset does not.
	one.mustDo(t, "/set/cart/fuller")
	one.mustDo(t, "/regenerate")
	one.mustDo(t, "/set/cart/fullest")
	require.Equal(t, "ann", one.mustDo(t, "/user"))
	require.ElementsMatch(t, []pgsession.Handle{one.id().Handle(), two.id().Handle()}, sessionsOf("ann"))
	two.mustDo(t, "/reset")
	require.Equal(t, []pgsession.Handle{one.id().Handle()}, sessionsOf("ann"))
	require.Equal(t, "", two.mustDo(t, "/user"))

	n, err := store.DeleteByUser(t.Context(), "ann")
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	require.Equal(t, "", one.mustDo(t, "/user"))
	require.Equal(t, "<nil>", one.mustDo(t, "/get/cart"))
}

func TestSetUser_UnderTheSameID(t *testing.T) {
	t.Parallel()
	store, _ := newStore(t)
	sessions := session.NewStore(session.Config{Storage: fiberstore.NewSessions(store, "session_id")})
	var id string
	require.Equal(t, http.StatusOK, inRequest(t, func(c fiber.Ctx) {
		sess, err := sessions.Get(c)
		require.NoError(t, err)
		defer sess.Release()
		id = sess.ID()
		require.NoError(t, fiberstore.SetUser(sess, ""))
		require.NoError(t, sess.Save())
		require.NoError(t, fiberstore.SetUser(sess, "ann"), "it is fresh")
		require.ErrorIs(t, sess.Save(), pgsession.ErrUserChanged, "it is stored as a guest's")
	}))
	sess, err := sessions.GetByID(t.Context(), id)
	require.NoError(t, err)
	require.ErrorIs(t, fiberstore.SetUser(sess, "ann"), pgsession.ErrUserChanged)
	require.Equal(t, "", fiberstore.User(sess))
	require.NoError(t, sess.Regenerate())
	require.NoError(t, fiberstore.SetUser(sess, "ann"))
	require.NoError(t, fiberstore.SetUser(sess, "ann"))
	require.NoError(t, sess.Save())
	id = sess.ID()
	sess.Release()

	sess, err = sessions.GetByID(t.Context(), id)
	require.NoError(t, err)
	defer sess.Release()
	require.NoError(t, fiberstore.SetUser(sess, "ann"))
	require.NoError(t, sess.Regenerate())
	err = fiberstore.SetUser(sess, "bob")
	require.ErrorIs(t, err, pgsession.ErrUserChanged, "the values are ann's")
	require.NotContains(t, err.Error(), "bob")
	require.NoError(t, sess.Reset())
	require.NoError(t, fiberstore.SetUser(sess, "bob"))
	require.NoError(t, sess.Save())
	loaded, err := store.Load(t.Context(), idOf(sess.ID()))
	require.NoError(t, err)
	require.Equal(t, "bob", loaded.UserID)
}

// The README says how much SetUser adds to a session.
func TestSetUser_Size(t *testing.T) {
	t.Parallel()
	store, _ := newStore(t)
	b := newSite(t, fiberstore.NewSessions(store, "session_id")).newBrowser(t)
	size := func() int {
		loaded, err := store.Load(t.Context(), b.id())
		require.NoError(t, err)
		values, err := pgsession.Decode[[]byte](loaded)
		require.NoError(t, err)
		return len(values)
	}
	before := size()
	b.mustDo(t, "/login/ann")
	require.Less(t, size()-before, 100+len("ann"))
}
