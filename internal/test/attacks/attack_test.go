package attacks_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/test"
)

// TestAttack_Table changes a row as an attacker who can write the table would, and says what must
// come of it. In each case another session of the same user goes on and is listed.
func TestAttack_Table(t *testing.T) {
	t.Parallel()
	const (
		// $1 is the victim's key, $2 the attacker's, who has a session too.
		flip       = `UPDATE sessions SET sealed = set_byte(sealed, %d, get_byte(sealed, %d) # 1) WHERE key = $1 AND $2::bytea IS NOT NULL`
		transplant = `UPDATE sessions SET sealed = other.sealed FROM (SELECT sealed FROM sessions WHERE key = $2 OFFSET 0) AS other WHERE key = $1`
	)
	type outcome struct {
		load error // nil: the session loads, and is what it was
		// lists is under whose name the session is listed, and "" where nowhere.
		lists string
	}
	for name, attack := range map[string]struct {
		sql  string
		want outcome
	}{
		// What they cannot do: read, forge, edit or transplant.
		"another row's payload":          {transplant, outcome{pgsession.ErrTampered, "ann"}},
		"another row's payload and user": {`UPDATE sessions SET sealed = other.sealed, user_key = other.user_key FROM (SELECT sealed, user_key FROM sessions WHERE key = $2 OFFSET 0) AS other WHERE key = $1`, outcome{pgsession.ErrTampered, "mallory"}},
		"another user's label":           {`UPDATE sessions SET user_key = other.user_key FROM (SELECT user_key FROM sessions WHERE key = $2 OFFSET 0) AS other WHERE key = $1`, outcome{pgsession.ErrTampered, "mallory"}},
		"a guest's label":                {`UPDATE sessions SET user_key = NULL WHERE key = $1 AND $2::bytea IS NOT NULL`, outcome{pgsession.ErrTampered, ""}},
		"a label cut short":              {`UPDATE sessions SET user_key = substring(user_key FROM 1 FOR 31) WHERE key = $1 AND $2::bytea IS NOT NULL`, outcome{pgsession.ErrTampered, ""}},
		"an empty label":                 {`UPDATE sessions SET user_key = '' WHERE key = $1 AND $2::bytea IS NOT NULL`, outcome{pgsession.ErrTampered, ""}},
		"a large label":                  {`UPDATE sessions SET user_key = decode(repeat('00', 2000), 'hex') WHERE key = $1 AND $2::bytea IS NOT NULL`, outcome{pgsession.ErrTampered, ""}},
		"the format":                     {fmt.Sprintf(flip, 0, 0), outcome{pgsession.ErrTampered, "ann"}},
		"the key id":                     {fmt.Sprintf(flip, 1, 1), outcome{pgsession.ErrUnknownKey, "ann"}},
		"the salt":                       {fmt.Sprintf(flip, 5, 5), outcome{pgsession.ErrTampered, "ann"}},
		"the nonce":                      {fmt.Sprintf(flip, 17, 17), outcome{pgsession.ErrTampered, "ann"}},
		"the ciphertext":                 {fmt.Sprintf(flip, 30, 30), outcome{pgsession.ErrTampered, "ann"}},
		"the tag":                        {`UPDATE sessions SET sealed = set_byte(sealed, length(sealed) - 1, get_byte(sealed, length(sealed) - 1) # 1) WHERE key = $1 AND $2::bytea IS NOT NULL`, outcome{pgsession.ErrTampered, "ann"}},
		"an empty payload":               {`UPDATE sessions SET sealed = '' WHERE key = $1 AND $2::bytea IS NOT NULL`, outcome{pgsession.ErrTampered, "ann"}},
		"one byte":                       {`UPDATE sessions SET sealed = '\x01' WHERE key = $1 AND $2::bytea IS NOT NULL`, outcome{pgsession.ErrTampered, "ann"}},
		"the header alone":               {`UPDATE sessions SET sealed = substring(sealed FROM 1 FOR 29) WHERE key = $1 AND $2::bytea IS NOT NULL`, outcome{pgsession.ErrTampered, "ann"}},
		"the last byte gone":             {`UPDATE sessions SET sealed = substring(sealed FROM 1 FOR length(sealed) - 1) WHERE key = $1 AND $2::bytea IS NOT NULL`, outcome{pgsession.ErrTampered, "ann"}},
		"a byte more":                    {`UPDATE sessions SET sealed = sealed || '\x00' WHERE key = $1 AND $2::bytea IS NOT NULL`, outcome{pgsession.ErrTampered, "ann"}},
		"16 MiB of zeros":                {`UPDATE sessions SET sealed = decode(repeat('00', 16777216), 'hex') WHERE key = $1 AND $2::bytea IS NOT NULL`, outcome{pgsession.ErrTampered, "ann"}},
		"values in clear":                {`UPDATE sessions SET sealed = NULL, data = '1' WHERE key = $1 AND $2::bytea IS NOT NULL`, outcome{pgsession.ErrTampered, "ann"}},
		"values in clear beside":         {`UPDATE sessions SET data = '99' WHERE key = $1 AND $2::bytea IS NOT NULL`, outcome{nil, "ann"}},
		"a plaintext store's row":        {`UPDATE sessions SET sealed = NULL, data = '1', user_key = 'ann' WHERE key = $1 AND $2::bytea IS NOT NULL`, outcome{pgsession.ErrTampered, ""}},
		"an endless expiry":              {`UPDATE sessions SET expires_at = 'infinity' WHERE key = $1 AND $2::bytea IS NOT NULL`, outcome{pgsession.ErrTampered, "ann"}},
		"the year 294276":                {`UPDATE sessions SET expires_at = '294276-01-01' WHERE key = $1 AND $2::bytea IS NOT NULL`, outcome{pgsession.ErrTampered, "ann"}},
		"an endless beginning":           {`UPDATE sessions SET created_at = 'infinity' WHERE key = $1 AND $2::bytea IS NOT NULL`, outcome{pgsession.ErrTampered, "ann"}},
		"4713 BC":                        {`UPDATE sessions SET created_at = '4713-01-01 BC' WHERE key = $1 AND $2::bytea IS NOT NULL`, outcome{pgsession.ErrTampered, "ann"}},

		// What they can do, since no seal covers it: delete, move the times, put
		// nonsense where nothing depends on it.
		"the row gone":        {`DELETE FROM sessions WHERE key = $1 AND $2::bytea IS NOT NULL`, outcome{pgsession.ErrNotFound, ""}},
		"a tombstone":         {`UPDATE sessions SET sealed = NULL WHERE key = $1 AND $2::bytea IS NOT NULL`, outcome{pgsession.ErrNotFound, ""}},
		"an expiry of before": {`UPDATE sessions SET expires_at = '-infinity' WHERE key = $1 AND $2::bytea IS NOT NULL`, outcome{pgsession.ErrNotFound, ""}},
		"the largest version": {`UPDATE sessions SET version = 9223372036854775807 WHERE key = $1 AND $2::bytea IS NOT NULL`, outcome{nil, "ann"}},
		"the least version":   {`UPDATE sessions SET version = -9223372036854775808 WHERE key = $1 AND $2::bytea IS NOT NULL`, outcome{nil, "ann"}},
		"an endless end":      {`UPDATE sessions SET ends_at = 'infinity' WHERE key = $1 AND $2::bytea IS NOT NULL`, outcome{pgsession.ErrTampered, "ann"}},
		"an end of before":    {`UPDATE sessions SET ends_at = '2020-01-01Z' WHERE key = $1 AND $2::bytea IS NOT NULL`, outcome{nil, "ann"}},
		"no patience":         {`UPDATE sessions SET idle_timeout = '0' WHERE key = $1 AND $2::bytea IS NOT NULL`, outcome{pgsession.ErrTampered, "ann"}},
		"negative patience":   {`UPDATE sessions SET idle_timeout = '-1 hour' WHERE key = $1 AND $2::bytea IS NOT NULL`, outcome{pgsession.ErrTampered, "ann"}},
		"patience for ages":   {`UPDATE sessions SET idle_timeout = '178000000 years' WHERE key = $1 AND $2::bytea IS NOT NULL`, outcome{pgsession.ErrTampered, "ann"}},
		"a mixed patience":    {`UPDATE sessions SET idle_timeout = '1 month -1 day 1 second' WHERE key = $1 AND $2::bytea IS NOT NULL`, outcome{nil, "ann"}},
		"a short key beside":  {`INSERT INTO sessions SELECT '\x00', user_key, data, sealed, version, created_at, expires_at, ends_at, idle_timeout FROM sessions WHERE key = $1 AND $2::bytea IS NOT NULL`, outcome{nil, "ann"}},
		"a long key beside":   {`INSERT INTO sessions SELECT key || '\x00', user_key, data, sealed, version, created_at, expires_at, ends_at, idle_timeout FROM sessions WHERE key = $1 AND $2::bytea IS NOT NULL`, outcome{nil, "ann"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := test.NewStore(t)
			ctx := t.Context()
			bystander := s.Begin(t, test.Ann(7), time.Hour)
			s.Clock.Advance(time.Second)
			victim := s.Begin(t, test.Ann(1), time.Hour)
			attacker := s.Begin(t, pgsession.Data{UserID: "mallory", Values: 99}, time.Hour)
			s.SQL(t, attack.sql, test.RowKey(victim), test.RowKey(attacker))

			session, err := s.Load(ctx, victim)
			require.ErrorIs(t, err, attack.want.load)
			unreadable := attack.want.load != nil && attack.want.load != pgsession.ErrNotFound
			require.Equal(t, unreadable, errors.Is(err, pgsession.ErrUnreadable))
			if attack.want.load == nil {
				require.Equal(t, "ann", session.UserID)
				require.Equal(t, 1, s.Number(t, victim))
			}
			for _, user := range []string{"ann", "mallory", "ann2"} {
				found, err := s.FindByUser(ctx, user, 0)
				require.NoError(t, err)
				require.Equal(t, attack.want.lists == user, contains(found, victim), user)
				require.Equal(t, user == "ann", contains(found, bystander), user)
				for _, session := range found {
					if session.Handle == victim.Handle() && attack.want.load != nil {
						require.ErrorIs(t, session.Decode(new(int)), attack.want.load)
						require.Empty(t, session.UserID)
						require.ErrorIs(t, s.Save(ctx, bystander, session.Data(), time.Hour), pgsession.ErrEncode)
					}
				}
			}
			all := 0
			for _, err := range s.All(ctx) {
				require.NoError(t, err)
				all++
			}
			require.GreaterOrEqual(t, all, 2)

			// A hostile row takes nothing down, and can be ended.
			_, err = s.Reseal(ctx)
			require.NoError(t, ignore(err, pgsession.ErrUnknownKey, pgsession.ErrTampered))
			require.NoError(t, test.Err(s.Touch(ctx, test.Unloaded(bystander), 2*time.Hour)))
			require.NoError(t, s.Delete(ctx, victim))
			_, err = s.Load(ctx, victim)
			require.ErrorIs(t, err, pgsession.ErrNotFound)
			_, err = s.CleanupExpired(ctx)
			require.NoError(t, err)
			require.NoError(t, test.Examine(ctx, s.Store).Err)
			require.Equal(t, 7, s.Number(t, bystander))
			_, err = s.DeleteByUser(ctx, "ann")
			require.NoError(t, err)
			_, err = s.DeleteAll(ctx)
			require.NoError(t, err)
		})
	}
}

func contains(sessions []*pgsession.Session, id pgsession.ID) bool {
	for _, session := range sessions {
		if session.Handle == id.Handle() {
			return true
		}
	}
	return false
}

func ignore(err error, expected ...error) error {
	for _, e := range expected {
		if errors.Is(err, e) {
			return nil
		}
	}
	return err
}

// TestAttack_OlderPayload puts an older payload of the same session back. The session loads: a seal
// of single rows cannot prevent this.
func TestAttack_OlderPayload(t *testing.T) {
	t.Parallel()
	s := test.NewStore(t)
	id := s.Begin(t, test.Ann(1), time.Hour)
	var older []byte
	require.NoError(t, s.Pool.QueryRow(t.Context(), `SELECT sealed FROM sessions`).Scan(&older))
	require.NoError(t, s.Save(t.Context(), id, test.Ann(2), time.Hour))
	s.SQL(t, `UPDATE sessions SET sealed = $1`, older)
	require.Equal(t, 1, s.Number(t, id))
}

// TestAttack_OtherStore has each kind of store read what the other kind wrote, and change it as the
// other kind has loaded it.
func TestAttack_OtherStore(t *testing.T) {
	t.Parallel()
	s := test.NewStore(t)
	plaintext := &test.Store{Store: pgsession.Plaintext(s.Pool, pgsession.WithClock(s.Clock), test.Quiet(), test.Patient()), Pool: s.Pool, Clock: s.Clock}
	sealed, plain := s.Begin(t, test.Ann(1), time.Hour), plaintext.Begin(t, test.Ann(1), time.Hour)
	require.ErrorIs(t, test.Err(plaintext.Load(t.Context(), sealed)), pgsession.ErrUnknownKey)
	require.ErrorIs(t, test.Err(s.Load(t.Context(), plain)), pgsession.ErrTampered)
	require.ErrorIs(t, s.Save(t.Context(), plain, test.Ann(2), time.Hour), pgsession.ErrUserChanged)

	for _, c := range []struct {
		loadedBy, store *test.Store
		id              pgsession.ID
		want            error
	}{
		{s, plaintext, sealed, pgsession.ErrUnknownKey},
		{plaintext, s, plain, pgsession.ErrTampered},
	} {
		loaded := test.Must(c.loadedBy.Load(t.Context(), c.id))
		require.ErrorIs(t, test.Err(c.store.Update(t.Context(), loaded, 0, test.Keep(2))), c.want)
		require.ErrorIs(t, test.Err(c.store.Renew(t.Context(), loaded, 0, test.LogIn(test.Ann(2)))), c.want)
		require.Equal(t, 1, c.loadedBy.Number(t, c.id))
	}
}

// TestAttack_StolenTable reads the whole table as text, and finds no token, user id or value.
func TestAttack_StolenTable(t *testing.T) {
	t.Parallel()
	s := test.NewStore(t)
	const user, value = "ann.user@example.org", "a very private value"
	id := s.Begin(t, pgsession.Data{UserID: user, Values: test.Profile{Name: value}}, time.Hour)
	again := s.Begin(t, pgsession.Data{UserID: user, Values: test.Profile{Name: value}}, time.Hour)
	var dump string
	require.NoError(t, s.Pool.QueryRow(t.Context(), `SELECT string_agg(s::text, ' ') FROM sessions AS s`).Scan(&dump))
	for _, secret := range []string{user, value, id.Token(), again.Token()} {
		require.NotContains(t, dump, secret)
		require.NotContains(t, dump, hex.EncodeToString([]byte(secret)))
	}
	var sealed int
	require.NoError(t, s.Pool.QueryRow(t.Context(), `SELECT count(DISTINCT sealed) FROM sessions`).Scan(&sealed))
	require.Equal(t, 2, sealed, "the same values look different")

	other := s.Node(test.NewCrypto(t, pgsession.GenerateKey()))
	_, err := other.Load(t.Context(), id)
	require.ErrorIs(t, err, pgsession.ErrUnknownKey)
	found, err := other.FindByUser(t.Context(), user, 0)
	require.NoError(t, err)
	require.Empty(t, found)
}

// TestAttack_PlantedID offers an id that a stranger chose: no operation begins a session under it.
func TestAttack_PlantedID(t *testing.T) {
	t.Parallel()
	s := test.NewStore(t)
	ctx := t.Context()
	chosen := pgsession.NewID().Token()
	planted := test.Must(pgsession.ParseID(chosen))
	for name, err := range map[string]error{
		"Save":   s.Save(ctx, planted, test.Ann(1), time.Hour),
		"Put":    s.Put(ctx, planted, test.Ann(1), time.Hour),
		"Update": test.Err(s.Update(ctx, test.Unloaded(planted), time.Hour, test.Keep(1))),
		"Touch":  test.Err(s.Touch(ctx, test.Unloaded(planted), time.Hour)),
		"Cycle":  s.Cycle(ctx, planted, pgsession.NewID(), test.Ann(1), time.Hour),
		"Renew":  test.Err(s.Renew(ctx, test.Unloaded(planted), time.Hour, test.LogIn(test.Ann(1)))),
	} {
		require.ErrorIs(t, err, pgsession.ErrNotFound, name)
	}
	require.Zero(t, s.CountRows(t, "true"))

	live := s.Begin(t, test.Ann(1), time.Hour)
	require.ErrorIs(t, test.Err(s.CreateAs(ctx, planted, test.Ann(1), time.Hour)), pgsession.ErrForeignID)
	require.ErrorIs(t, s.Cycle(ctx, live, planted, test.Ann(1), time.Hour), pgsession.ErrForeignID)
	require.Equal(t, 1, s.Number(t, live))
	require.Equal(t, 1, s.CountRows(t, "true"))
}
