package conformance_test

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/test"
)

type cyclicValues struct{ Next *cyclicValues }

// longestTTL is the longest ttl that is allowed.
const longestTTL = 100 * 365 * 24 * time.Hour

func TestConformance_Input(t *testing.T) {
	t.Parallel()
	const maxSize = 100
	round := &cyclicValues{}
	round.Next = round
	nested := func(depth int) (v any) {
		for range depth {
			v = []any{v}
		}
		return v
	}
	quoted := func(size int) string { return strings.Repeat("x", size-len(`""`)) }
	cases := []struct {
		name   string
		userID string
		values any
		ttl    time.Duration
		want   string
	}{
		{"ttl of 0", "ann", 1, 0, "InvalidTTL"},
		{"negative ttl", "ann", 1, -time.Second, "InvalidTTL"},
		{"least ttl", "ann", 1, math.MinInt64, "InvalidTTL"},
		{"largest ttl", "ann", 1, math.MaxInt64, "InvalidTTL"},
		{"ttl over the longest", "ann", 1, longestTTL + 1, "InvalidTTL"},
		{"longest ttl", "ann", 1, longestTTL, "nil"},
		{"ttl of a nanosecond", "ann", 1, 1, "nil"},
		{"channel", "ann", make(chan int), time.Hour, "Encode"},
		{"function", "ann", func() {}, time.Hour, "Encode"},
		{"NaN", "ann", math.NaN(), time.Hour, "Encode"},
		{"infinity", "ann", math.Inf(1), time.Hour, "Encode"},
		{"cyclic", "ann", round, time.Hour, "Encode"},
		{"deeper than it can be read", "ann", nested(10_001), time.Hour, "Encode"},
		{"deeper, and JSON already", "ann", json.RawMessage(strings.Repeat("[", 10_001) + strings.Repeat("]", 10_001)), time.Hour, "Encode"},
		{"bytes of the largest size", "ann", make([]byte, maxSize), time.Hour, "nil"},
		{"bytes too large", "ann", make([]byte, maxSize+1), time.Hour, "TooLarge"},
		{"JSON of the largest size", "ann", quoted(maxSize), time.Hour, "nil"},
		{"JSON too large", "ann", quoted(maxSize + 1), time.Hour, "TooLarge"},
		{"no values", "ann", nil, time.Hour, "nil"},
		{"no bytes", "ann", []byte(nil), time.Hour, "nil"},
		{"guest", "", 1, time.Hour, "nil"},
		{"user id of 1,000 bytes", strings.Repeat("a", 1000), 1, time.Hour, "nil"},
		{"user id of 1,001 bytes", strings.Repeat("a", 1001), 1, time.Hour, "TooLarge"},
		{"user id of 1 MiB", strings.Repeat("a", 1<<20), 1, time.Hour, "TooLarge"},
		{"user id with NUL", "a\x00b", 1, time.Hour, "nil"},
		{"user id that is not UTF-8", "a\xff", 1, time.Hour, "nil"},
		{"bad ttl before bad values", "ann", math.NaN(), 0, "InvalidTTL"},
		{"long user id before bad values", strings.Repeat("a", 1001), math.NaN(), time.Hour, "TooLarge"},
	}
	for kind, newSubject := range storeKinds(t) {
		for _, c := range cases {
			t.Run(kind+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				ctx := t.Context()
				f := newSubject(t, pgsession.WithMaxSize(maxSize))
				data := pgsession.Data{UserID: c.userID, Values: c.values}

				created, err := f.Create(ctx, data, c.ttl)
				require.Equal(t, c.want, errorName(f.eitherSessionOrError(ctx, created, err)), "create")
				derived := pgsession.DeriveID(c.name)
				createdAs, err := f.CreateAs(ctx, derived, data, c.ttl)
				require.Equal(t, c.want, errorName(f.eitherSessionOrError(ctx, createdAs, err)), "create as")
				put := pgsession.NewID()
				require.Equal(t, c.want, errorName(f.Put(ctx, put, data, c.ttl)), "put")
				require.Equal(t, c.want, errorName(f.Put(ctx, put, data, c.ttl)), "put again")

				// A session that takes the data if any does.
				user := pgsession.Data{UserID: c.userID, Values: 0}
				if len(user.UserID) > 1000 {
					user.UserID = "ann"
				}
				old := f.Begin(t, user, time.Hour)
				before := f.MustLoad(t, old)
				require.Equal(t, c.want, errorName(f.Save(ctx, old, data, c.ttl)), "save")
				if len(c.userID) <= 1000 && c.ttl != 0 {
					updated, err := f.Update(ctx, test.Unloaded(old), c.ttl, func(*pgsession.Session) (any, error) { return c.values, nil })
					require.Equal(t, c.want, errorName(f.eitherSessionOrError(ctx, updated, err)), "update")
				}
				if c.want == "InvalidTTL" {
					require.ErrorIs(t, f.KeyValue().Put(ctx, "key", nil, c.ttl), pgsession.ErrInvalidTTL)
					if c.ttl != 0 {
						require.ErrorIs(t, test.Err(f.Touch(ctx, test.Unloaded(old), c.ttl)), pgsession.ErrInvalidTTL)
					}
				}
				next := pgsession.NewID()
				renew := func(id pgsession.ID) (*pgsession.Session, error) {
					return f.Renew(ctx, test.Unloaded(id), c.ttl, func(*pgsession.Session) (pgsession.Data, error) { return data, nil })
				}
				if c.want != "nil" {
					require.Equal(t, before, f.MustLoad(t, old), "a refused write changes nothing")
					require.Equal(t, c.want, errorName(f.Cycle(ctx, old, next, data, c.ttl)), "cycle")
					if c.ttl != 0 {
						renewed, err := renew(old)
						require.Equal(t, c.want, errorName(f.eitherSessionOrError(ctx, renewed, err)), "renew")
					}
					require.Equal(t, before, f.MustLoad(t, old), "nor does a refused cycle or renew")
					f.requireSessions(t, 1)
					return
				}
				require.NoError(t, f.Cycle(ctx, old, next, data, c.ttl))
				renewed, err := renew(created.ID)
				require.NoError(t, f.eitherSessionOrError(ctx, renewed, err))
				for _, id := range []pgsession.ID{renewed.ID, derived, put, next} {
					session := f.MustLoad(t, id)
					require.Equal(t, c.userID, session.UserID)
					require.Equal(t, max(c.ttl, time.Microsecond), session.Remaining())
					require.Equal(t, max(c.ttl, time.Microsecond), session.IdleTimeout)
				}
				wanted := 4
				if c.userID == "" {
					wanted = 0
				}
				found, err := f.FindByUser(ctx, c.userID, 0)
				require.NoError(t, err)
				require.Len(t, found, wanted)
				ended, err := f.DeleteByUser(ctx, c.userID)
				require.NoError(t, err)
				require.EqualValues(t, wanted, ended)
			})
		}
		t.Run(kind+"/lists of a user id that is too long", func(t *testing.T) {
			t.Parallel()
			f, long := newSubject(t), strings.Repeat("a", 1001)
			require.ErrorIs(t, test.Err(f.FindByUser(t.Context(), long, 0)), pgsession.ErrTooLarge)
			require.ErrorIs(t, test.Err(f.DeleteByUser(t.Context(), long)), pgsession.ErrTooLarge)
			require.ErrorIs(t, f.Revoke(t.Context(), long, pgsession.NewID().Handle()), pgsession.ErrTooLarge)
			require.ErrorIs(t, f.Revoke(t.Context(), "", pgsession.NewID().Handle()), pgsession.ErrNotFound)
		})
		t.Run(kind+"/ttl past the year 9999", func(t *testing.T) {
			t.Parallel()
			f := newSubject(t)
			f.Clock.Set(time.Date(9999, 12, 31, 23, 0, 0, 0, time.UTC))
			require.ErrorIs(t, test.Err(f.Create(t.Context(), test.Ann(1), time.Hour)), pgsession.ErrInvalidTTL)
			f.MustLoad(t, f.Begin(t, test.Ann(1), time.Hour-time.Microsecond))
		})
		t.Run(kind+"/absolute lifetime of 292 years", func(t *testing.T) {
			t.Parallel()
			f := newSubject(t, pgsession.WithAbsoluteLifetime(math.MaxInt64))
			session := f.MustLoad(t, f.Begin(t, test.Ann(1), time.Hour))
			require.Equal(t, time.Hour, session.Remaining())
			require.Equal(t, test.Epoch.Year()+292, session.EndsAt.Year())
		})
	}
}
