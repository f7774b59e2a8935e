package pgsession_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/test"
)

// TestRedaction prints what must not be printed in every way that there is.
func TestRedaction(t *testing.T) {
	t.Parallel()
	s := test.NewStore(t)
	const user, value = "ann.user@example.org", "a very private value"
	data := pgsession.Data{UserID: user, Values: test.Profile{Name: value}}
	id := s.Begin(t, data, time.Hour)
	session := s.MustLoad(t, id)
	bits, err := base64.RawURLEncoding.DecodeString(id.Token())
	require.NoError(t, err)

	tokens := map[string]string{
		"token": id.Token(), "token in hex": hex.EncodeToString(bits), "token as bytes": string(bits),
		"token as numbers": strings.Trim(fmt.Sprint(bits[:8]), "[]"), "token in Go": strings.TrimSuffix(fmt.Sprintf("%#v", bits[:8])[7:], "}"),
	}
	contents := map[string]string{
		"user": user, "user in hex": hex.EncodeToString([]byte(user)), "user as numbers": strings.Trim(fmt.Sprint([]byte(user)), "[]"),
		"value": value, "value in hex": hex.EncodeToString([]byte(value)), "value as numbers": strings.Trim(fmt.Sprint([]byte(value)), "[]"),
	}
	type exported struct {
		ID      pgsession.ID
		Data    pgsession.Data
		Session *pgsession.Session
		Copy    pgsession.Session
	}
	type unexported struct {
		id      pgsession.ID
		pointer *pgsession.ID
		session *pgsession.Session
	}
	everything := exported{id, data, session, *session}
	for name, v := range map[string]any{
		"id": id, "pointer to id": &id, "data": data, "pointer to data": &data, "session": session, "session by value": *session,
		"struct": everything, "pointer to struct": &everything, "hidden": unexported{id, &id, session}, "pointer to hidden": &unexported{id, &id, session},
		"slice": []any{id, data, session}, "ids": []pgsession.ID{id}, "array": [1]pgsession.ID{id}, "map": map[string]any{"id": id, "data": data, "session": session},
		"keys": map[pgsession.Handle]pgsession.Data{id.Handle(): data}, "hidden in a map": map[string][]unexported{"x": {{id, &id, session}}},
		"error": fmt.Errorf("%v %v %v", id, data, session),
	} {
		t.Run(name, func(t *testing.T) {
			printed := map[string]string{}
			for _, verb := range "vTtbcdoOqxXUeEfFgGsp" {
				for _, flags := range []string{"", "+", "#", "0", " ", "-"} {
					format := "%" + flags + string(verb)
					printed[format] = fmt.Sprintf(format, v)
				}
			}
			printed["Sprint"], printed["Sprintln"] = fmt.Sprint(v), fmt.Sprintln(v)
			var text, structured bytes.Buffer
			slog.New(slog.NewTextHandler(&text, nil)).Info("x", "v", v, slog.Group("g", slog.Any("v", v)))
			slog.New(slog.NewJSONHandler(&structured, nil)).Info("x", "v", v, slog.Group("g", slog.Any("v", v)))
			printed["slog text"], printed["slog JSON"] = text.String(), structured.String()
			encoded, err := json.Marshal(v)
			require.NoError(t, err)
			printed["JSON"] = string(encoded)
			for how, got := range printed {
				for what, secret := range tokens {
					require.NotContains(t, got, secret, "%s shows the %s", how, what)
				}
				// fmt calls no method for %p, nor, for a verb that does not fit, for
				// a session in an unexported field: UserID is there to be read.
				if strings.HasSuffix(how, "p") || strings.Contains(name, "hidden") && !strings.HasSuffix(how, "v") {
					continue
				}
				for what, secret := range contents {
					require.NotContains(t, got, secret, "%s shows the %s", how, what)
				}
			}
		})
	}
	require.Contains(t, fmt.Sprintf("%v %s %x %q", id, id, id, id), id.Handle().String())
	require.Contains(t, fmt.Sprint(session), id.Handle().String())
}

// TestSession_Decode has the kinds of stores on PostgreSQL keep values that one of them could
// mistake.
func TestSession_Decode(t *testing.T) {
	t.Parallel()
	for name, s := range test.BothStores(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			load := func(values any) *pgsession.Session { return s.MustLoad(t, s.Begin(t, test.Ann(values), time.Hour)) }

			t.Run("JSON", func(t *testing.T) {
				session := load(test.Profile{Name: "ann", Count: 7})
				got, err := pgsession.Decode[test.Profile](session)
				require.NoError(t, err)
				require.Equal(t, test.Profile{Name: "ann", Count: 7}, got)
				require.Equal(t, "ann", session.Data().UserID)
				require.JSONEq(t, `{"Name":"ann","Count":7}`, string(session.Data().Values.(json.RawMessage)))
			})
			t.Run("nothing", func(t *testing.T) {
				got, err := pgsession.Decode[*test.Profile](load(nil))
				require.NoError(t, err)
				require.Nil(t, got)
			})
			for name, raw := range map[string][]byte{"bytes": {0, 1, 0xff}, "no bytes": {}, "JSON as bytes": []byte(`{"a":1}`)} {
				t.Run(name, func(t *testing.T) {
					session := load(raw)
					got, err := pgsession.Decode[[]byte](session)
					require.NoError(t, err)
					require.Equal(t, raw, append([]byte{}, got...))
					require.Equal(t, raw, append([]byte{}, session.Data().Values.([]byte)...))
					asAny, err := pgsession.Decode[any](session)
					require.NoError(t, err)
					require.IsType(t, []byte{}, asAny)
				})
			}
			for name, object := range map[string]string{
				"our member for bytes": `{"pgsession:raw":"AAEC"}`, "our member for JSON": `{"pgsession:json":{"pgsession:raw":"AAEC"}}`,
				"null in it": `{"pgsession:json":null}`, "twice": `{"pgsession:raw":"AAEC","pgsession:json":1}`,
			} {
				t.Run(name, func(t *testing.T) {
					got, err := pgsession.Decode[json.RawMessage](load(json.RawMessage(object)))
					require.NoError(t, err)
					require.JSONEq(t, object, string(got))
				})
			}
			t.Run("a copy each time", func(t *testing.T) {
				session := load([]byte("abc"))
				first, err := pgsession.Decode[[]byte](session)
				require.NoError(t, err)
				first[0] = 'X'
				session.Data().Values.([]byte)[1] = 'X'
				second, err := pgsession.Decode[[]byte](session)
				require.NoError(t, err)
				require.Equal(t, "abc", string(second))
			})
			t.Run("ErrDecode", func(t *testing.T) {
				const secret = "815162342"
				for name, decode := range map[string]func() error{
					"another type": func() error {
						_, err := pgsession.Decode[test.Profile](load(map[string]string{"Count": secret}))
						return err
					},
					"a number": func() error {
						_, err := pgsession.Decode[map[string]int8](load(map[string]int{"n": 815162342}))
						return err
					},
					"bad time":        func() error { _, err := pgsession.Decode[time.Time](load(secret)); return err },
					"bytes to JSON":   func() error { _, err := pgsession.Decode[test.Profile](load([]byte(secret))); return err },
					"no pointer":      func() error { return load(test.Profile{Name: secret, Count: 1}).Decode(test.Profile{}) },
					"nil":             func() error { return load(test.Profile{Name: secret, Count: 1}).Decode(nil) },
					"nil pointer":     func() error { return load(test.Profile{Name: secret, Count: 1}).Decode((*test.Profile)(nil)) },
					"bytes to nil":    func() error { return load([]byte(secret)).Decode((*[]byte)(nil)) },
					"bytes to no any": func() error { return load([]byte(secret)).Decode((*any)(nil)) },
				} {
					err := decode()
					require.ErrorIs(t, err, pgsession.ErrDecode, name)
					require.NotContains(t, err.Error(), secret, name)
				}
			})
		})
	}
}

func TestSession_Data_WrittenBack(t *testing.T) {
	t.Parallel()
	for name, s := range test.BothStores(t) {
		for kind, values := range map[string]any{"JSON": test.Profile{Name: "ann", Count: 7}, "bytes": []byte{0, 1, 0xff}} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				id := s.Begin(t, test.Ann(values), time.Hour)
				before := s.MustLoad(t, id)
				require.NoError(t, s.Save(t.Context(), id, before.Data(), time.Hour))
				after := s.MustLoad(t, id)
				require.Equal(t, before.Data(), after.Data())
				require.NotEqual(t, test.Version(before), test.Version(after))
			})
		}
	}
	t.Run("after the clock was set back", func(t *testing.T) {
		s := test.NewStore(t)
		session := s.MustLoad(t, s.Begin(t, test.Ann(1), time.Hour))
		s.Clock.Advance(-2 * time.Hour)
		session, err := s.Renew(t.Context(), session, 0, test.LogIn(pgsession.Data{UserID: "ann", Lifetime: time.Hour}))
		require.NoError(t, err)
		require.True(t, session.EndsAt.Before(session.CreatedAt))
		require.NoError(t, s.Save(t.Context(), session.ID, session.Data(), time.Hour))
	})
}
