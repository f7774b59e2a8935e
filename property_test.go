package pgsessiontest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/pgsessiontest"
)

// A pair is a store in memory beside one on PostgreSQL, under one clock. Each step does
// the same to both, and compares what comes of it.
type pair struct {
	stores   [2]fixture
	ids      []pgsession.ID
	versions map[pgsession.Handle][2]int64 // as last seen in each
}

func TestProperty_SameAsOnPostgreSQL(t *testing.T) {
	t.Parallel()
	for kind, open := range realStores {
		for name, lifetime := range map[string]time.Duration{"without absolute lifetime": 0, "with absolute lifetime": 2 * time.Hour} {
			t.Run(kind+"/"+name, func(t *testing.T) {
				t.Parallel()
				pool := pgtest.Pool(t)
				clock, options := newClock([]pgsession.Option{
					pgsession.WithLogger(slog.New(slog.DiscardHandler)), pgsession.WithMaxSize(50), pgsession.WithAbsoluteLifetime(lifetime),
				})
				require.NoError(t, open(pool, options...).Init(t.Context()))
				pgtest.AfterInit(t, pool, "sessions")
				rapid.Check(t, func(t *rapid.T) {
					_, err := pool.Exec(t.Context(), `DELETE FROM sessions`)
					require.NoError(t, err)
					clock.Set(epoch)
					memory, real := pgsessiontest.New(options...), open(pool, options...)
					p := &pair{
						stores:   [2]fixture{{memory, memory.KeyValue(), clock}, {real, real.KeyValue(), clock}},
						ids:      []pgsession.ID{{}, pgsession.NewID(), pgsession.NewID(), pgsession.DeriveID("derived")},
						versions: make(map[pgsession.Handle][2]int64),
					}
					t.Repeat(p.steps())
				})
			})
		}
	}
}

// both does something to both stores, and compares what it returns.
func both[R any](t *rapid.T, p *pair, do func(ctx context.Context, f fixture) R) {
	t.Helper()
	now := p.stores[0].clock.Now()
	inMemory := do(t.Context(), p.stores[0])
	p.stores[0].clock.Set(now) // which do may have moved
	require.Equal(t, do(t.Context(), p.stores[1]), inMemory)
}

func (p *pair) steps() map[string]func(*rapid.T) {
	users := rapid.SampledFrom([]string{"", "ann", "bob", strings.Repeat("a", 1001)})
	userIDs := func(t *rapid.T) string {
		return rapid.OneOf(rapid.Just("ann"), users).Draw(t, "user")
	}
	data := func(t *rapid.T) pgsession.Data {
		values := rapid.OneOf(
			rapid.Map(rapid.Int(), func(n int) any { return n }),
			rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 51), func(b []byte) any { return b }),
			rapid.SampledFrom([]any{nil, math.NaN(), []byte(nil)}),
		)
		return pgsession.Data{UserID: userIDs(t), Values: values.Draw(t, "values")}
	}
	id := func(t *rapid.T) pgsession.ID { return rapid.SampledFrom(p.ids).Draw(t, "id") }
	ttl := func(t *rapid.T) time.Duration {
		return rapid.OneOf(
			rapid.SampledFrom([]time.Duration{time.Microsecond, time.Minute, time.Hour, 3 * time.Hour}),
			rapid.Map(rapid.Int64Range(-1, int64(4*time.Hour)), func(n int64) time.Duration { return time.Duration(n) }),
		).Draw(t, "ttl")
	}
	keys := rapid.SampledFrom([]string{"", "state", "code"})
	return map[string]func(*rapid.T){
		"put": func(t *rapid.T) {
			id, data, ttl := id(t), data(t), ttl(t)
			both(t, p, func(ctx context.Context, f fixture) string { return text(f.Put(ctx, id, data, ttl)) })
		},
		"save": func(t *rapid.T) {
			id, data, ttl := id(t), data(t), ttl(t)
			both(t, p, func(ctx context.Context, f fixture) string { return text(f.Save(ctx, id, data, ttl)) })
		},
		"update": func(t *rapid.T) {
			id, data, ttl := id(t), data(t), ttl(t)
			if rapid.Bool().Draw(t, "keep the expiry") {
				ttl = 0
			}
			meanwhile := rapid.SampledFrom([]string{"nothing", "save", "touch", "put", "delete", "time"}).Draw(t, "meanwhile")
			both(t, p, func(ctx context.Context, f fixture) []string {
				var seen []string
				err := f.Update(ctx, id, ttl, func(session *pgsession.Session) (any, error) {
					if seen = append(seen, describe(session)); len(seen) > 1 {
						return data.Values, nil
					}
					switch meanwhile {
					case "save":
						f.Save(ctx, id, session.Data(), time.Hour)
					case "touch":
						f.Touch(ctx, id, 2*time.Hour)
					case "put":
						f.Put(ctx, id, data, time.Hour)
					case "delete":
						f.Delete(ctx, id)
					case "time":
						f.clock.Advance(time.Hour)
					}
					return data.Values, nil
				})
				return append(seen, text(err))
			})
		},
		"touch": func(t *rapid.T) {
			id, ttl := id(t), ttl(t)
			both(t, p, func(ctx context.Context, f fixture) string { return text(f.Touch(ctx, id, ttl)) })
		},
		"cycle": func(t *rapid.T) {
			old, next, data, ttl := id(t), id(t), data(t), ttl(t)
			both(t, p, func(ctx context.Context, f fixture) string { return text(f.Cycle(ctx, old, next, data, ttl)) })
		},
		// Each store mints an id of its own: the session goes on under a common one, or
		// not at all.
		"create": func(t *rapid.T) {
			next, first, data, ttl := pgsession.NewID(), data(t), data(t), ttl(t)
			if len(p.ids) < 6 {
				p.ids = append(p.ids, next)
			}
			both(t, p, func(ctx context.Context, f fixture) []string {
				created, err := f.Create(ctx, first, ttl)
				return []string{text(err), text(f.Cycle(ctx, created, next, data, ttl)), text(f.Delete(ctx, created))}
			})
		},
		"delete": func(t *rapid.T) {
			id := id(t)
			both(t, p, func(ctx context.Context, f fixture) string { return text(f.Delete(ctx, id)) })
		},
		"revoke": func(t *rapid.T) {
			id, user := id(t), userIDs(t)
			both(t, p, func(ctx context.Context, f fixture) string { return text(f.Revoke(ctx, user, id.Handle())) })
		},
		"revoke any": func(t *rapid.T) {
			id := id(t)
			both(t, p, func(ctx context.Context, f fixture) string { return text(f.RevokeAny(ctx, id.Handle())) })
		},
		"find by user": func(t *rapid.T) {
			user, limit := userIDs(t), rapid.IntRange(-1, 3).Draw(t, "limit")
			both(t, p, func(ctx context.Context, f fixture) []string {
				found, err := f.FindByUser(ctx, user, limit)
				var list []string
				for _, session := range found {
					if limit > 0 { // which of those that began at one instant is open
						list = append(list, session.CreatedAt.String())
						continue
					}
					list = append(list, describe(session))
				}
				return append(list, text(err))
			})
		},
		"all": func(t *rapid.T) {
			both(t, p, func(ctx context.Context, f fixture) (list []string) {
				for session, err := range f.All(ctx) {
					list = append(list, text(err), describe(session))
				}
				return list
			})
		},
		"delete by user": func(t *rapid.T) {
			user, except := userIDs(t), id(t)
			both(t, p, func(ctx context.Context, f fixture) string {
				n, err := f.DeleteByUser(ctx, user, except.Handle())
				return fmt.Sprint(n, text(err))
			})
		},
		"delete all": func(t *rapid.T) {
			both(t, p, func(ctx context.Context, f fixture) string {
				n, err := f.DeleteAll(ctx)
				return fmt.Sprint(n, text(err))
			})
		},
		"clean up": func(t *rapid.T) {
			both(t, p, func(ctx context.Context, f fixture) string {
				n, err := f.CleanupExpired(ctx)
				return fmt.Sprint(n, text(err))
			})
		},
		"put entry": func(t *rapid.T) {
			key, value, ttl := keys.Draw(t, "key"), rapid.SliceOfN(rapid.Byte(), 0, 51).Draw(t, "value"), ttl(t)
			both(t, p, func(ctx context.Context, f fixture) string { return text(f.keyValue.Put(ctx, key, value, ttl)) })
		},
		"get entry": func(t *rapid.T) {
			key := keys.Draw(t, "key")
			both(t, p, func(ctx context.Context, f fixture) string {
				value, err := f.keyValue.Get(ctx, key)
				return fmt.Sprintf("%x %s", value, text(err))
			})
		},
		"delete entry": func(t *rapid.T) {
			key := keys.Draw(t, "key")
			both(t, p, func(ctx context.Context, f fixture) string { return text(f.keyValue.Delete(ctx, key)) })
		},
		"time goes by": func(t *rapid.T) {
			p.stores[0].clock.Advance(rapid.OneOf(
				rapid.SampledFrom([]time.Duration{1, time.Microsecond, time.Minute, 6 * time.Minute, time.Hour, 2 * time.Hour}),
				rapid.Map(rapid.Int64Range(0, int64(4*time.Hour)), func(n int64) time.Duration { return time.Duration(n) }),
			).Draw(t, "duration"))
		},
		"": p.check,
	}
}

// check compares the sessions and the counters, and whether the versions moved.
func (p *pair) check(t *rapid.T) {
	for _, id := range p.ids {
		before, known := p.versions[id.Handle()]
		var after [2]int64
		both(t, p, func(ctx context.Context, f fixture) string {
			session, err := f.Load(ctx, id)
			if err != nil {
				return text(err)
			}
			if f.store == p.stores[0].store {
				after[0] = session.Version
			} else {
				after[1] = session.Version
			}
			return describe(session)
		})
		if known {
			require.Equal(t, before[1] != after[1], before[0] != after[0], "both versions change, or neither")
		}
		p.versions[id.Handle()] = after
	}
	both(t, p, func(_ context.Context, f fixture) pgsession.Stats {
		stats := f.Stats()
		stats.LastCleanupDuration = 0
		return stats
	})
}

func text(err error) string {
	if err == nil {
		return "nil"
	}
	return err.Error()
}

// describe returns all of a session but its version.
func describe(session *pgsession.Session) string {
	data := session.Data()
	if values, ok := data.Values.(json.RawMessage); ok {
		var v any
		err := json.Unmarshal(values, &v) // PostgreSQL keeps no white space
		data.Values = fmt.Sprint("JSON ", v, err)
	}
	return fmt.Sprintf("%s %q %v %s %s %s", session.Handle, data.UserID, data.Values, session.CreatedAt, session.ExpiresAt, session.TTL())
}

func TestProperty_RoundTrip(t *testing.T) {
	t.Parallel()
	for kind, newStore := range kinds(t) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			// Without a limit: jsonb writes 1e159 as 160 digits, which may exceed one
			// when they are written back.
			f := newStore(t, pgsession.WithMaxSize(0))
			rapid.Check(t, func(t *rapid.T) {
				data := pgsession.Data{
					UserID: rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 1001), func(b []byte) string { return string(b) })).Draw(t, "user"),
					Values: rapid.OneOf(
						rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 500), func(b []byte) any { return b }),
						jsonValue(3),
					).Draw(t, "values"),
				}
				encoded, isRaw := data.Values.([]byte)
				if !isRaw {
					var err error
					encoded, err = json.Marshal(data.Values)
					require.NoError(t, err)
				}
				want := "nil"
				switch {
				case len(data.UserID) > 1000:
					want = "TooLarge"
				case kind == "plaintext" && !isRaw && refusedByPostgreSQL(encoded):
					want = "Encode"
				}

				id, err := f.Create(t.Context(), data, time.Hour)
				require.Equal(t, want, nameOf(err))
				if err != nil {
					return
				}
				first, err := f.Load(t.Context(), id)
				require.NoError(t, err)
				require.NoError(t, f.Save(t.Context(), id, first.Data(), time.Hour), "it can be written back")
				second, err := f.Load(t.Context(), id)
				require.NoError(t, err)
				require.Equal(t, describe(first), describe(second))

				require.Equal(t, data.UserID, second.UserID)
				if isRaw {
					value, err := pgsession.Decode[[]byte](second)
					require.NoError(t, err)
					require.True(t, bytes.Equal(encoded, value))
				} else {
					var wanted any
					wantedErr := json.Unmarshal(encoded, &wanted)
					value, err := pgsession.Decode[any](second)
					require.Equal(t, wantedErr == nil, err == nil)
					require.Equal(t, wanted, value)
				}
				if data.UserID != "" {
					ended, err := f.DeleteByUser(t.Context(), data.UserID)
					require.NoError(t, err)
					require.EqualValues(t, 1, ended)
				}
			})
		})
	}
}

// What is JSON, and hard to keep: as a Go value it would be tamed.
var hardJSON = []string{
	`{"pgsession:raw":"AAEC"}`, `{"pgsession:raw":null}`, `{"pgsession:json":{"pgsession:raw":""}}`, `{"pgsession:raw":1,"pgsession:raw":"AA=="}`,
	`{"PGSESSION:RAW":"AA=="}`, `{"":""}`, `{"a":1,"a":2}`, `-0`, `1.0`, `1E-300`, `1e400`, `12345678901234567890123`, `"\u0041\ud83d\ude00\u007f"`,
	noNumeric, nul, halfOfPair,
}

const (
	nul        = `"\u0000"`
	halfOfPair = `"\ud800"`
	noNumeric  = `1e200000`
)

func jsonValue(depth int) *rapid.Generator[any] {
	leaf := rapid.OneOf(
		rapid.Map(rapid.String(), func(s string) any { return s }),
		rapid.Map(rapid.Int64(), func(n int64) any { return n }),
		rapid.Map(rapid.Float64().Filter(isFinite), func(n float64) any { return n }),
		rapid.Map(rapid.SampledFrom(hardJSON), func(s string) any { return json.RawMessage(s) }),
		rapid.SampledFrom([]any{nil, true, false}),
	)
	if depth == 0 {
		return leaf
	}
	return rapid.OneOf(
		leaf,
		rapid.Map(rapid.SliceOfN(jsonValue(depth-1), 0, 4), func(list []any) any { return list }),
		rapid.Map(rapid.MapOfN(rapid.String(), jsonValue(depth-1), 0, 4), func(object map[string]any) any { return object }),
	)
}

func isFinite(n float64) bool { return !math.IsInf(n, 0) && !math.IsNaN(n) }

// refusedByPostgreSQL reports whether the values hold what jsonb has no form for.
func refusedByPostgreSQL(encoded []byte) bool {
	// An escaped backslash before a u is none of the escapes.
	text := strings.ReplaceAll(string(encoded), `\\`, "")
	return strings.Contains(text, `\u0000`) || strings.Contains(text, `\ud800`) || strings.Contains(text, noNumeric)
}
