package conformance_test

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/test"
)

// What is hashed before a token with a purpose, before a secret and before an entry's key. These
// are part of the table's format: if they change, no id leads to the rows of an earlier release.
const (
	purposeDomain = "pgsession/v1: the id of a session, and the purpose that it is for\x00"
	sessionDomain = "pgsession/v1: the id of a session, derived from a token of a framework\x00"
	entryDomain   = "pgsession/v1: the id of an entry of a key/value view, derived from its key\x00"
)

// TestDerivedIDs shows that no token leads to the row of a derived id, whatever the secret's
// length. A token is 32 bytes, and its row's key is their hash. So if a derived id were the hash of
// exactly 32 bytes, domain and secret, a cookie that an attacker can compute would open it.
func TestDerivedIDs(t *testing.T) {
	t.Parallel()
	const longest = 200
	domains := []string{
		sessionDomain, entryDomain,
		"pgsession derived session id\x00", "pgsession key/value entry\x00", // of 29 and 26 bytes, which a secret filled up to 32
		"",
	}
	secrets := map[string]func(n int) string{
		"digits": func(n int) string { return strings.Repeat("0123456789", longest/10)[:n] },
		"bytes":  func(n int) string { return strings.Repeat("\xff", n) },
	}
	for kind, newSubject := range storeKinds(t) {
		for name, secretOf := range secrets {
			t.Run(kind+"/"+name, func(t *testing.T) {
				t.Parallel()
				ctx, f := t.Context(), newSubject(t)
				require.ErrorIs(t, test.Err(f.CreateAs(ctx, pgsession.DeriveID(secretOf(0)), test.Ann(0), time.Hour)), pgsession.ErrForeignID)
				require.ErrorIs(t, f.KeyValue().Put(ctx, secretOf(0), nil, time.Hour), pgsession.ErrNotFound)
				want := map[string]bool{}
				for n := 1; n <= longest; n++ {
					secret := secretOf(n)
					id := pgsession.DeriveID(secret)
					require.Empty(t, id.Token())
					require.NoError(t, test.Err(f.CreateAs(ctx, id, test.Ann(n), time.Hour)))
					require.NoError(t, f.KeyValue().Put(ctx, secret, []byte(secret), time.Hour))
					require.Greater(t, len(sessionDomain), 64)
					want[fmt.Sprintf("%x", sha256.Sum256([]byte(sessionDomain+secret)))] = true
				}
				stored := map[string]bool{}
				for session, err := range f.All(ctx) {
					require.NoError(t, err)
					stored[session.Handle.String()] = true
				}
				require.Equal(t, want, stored, "each secret has a row of its own, whose key is the hash of more than 64 bytes")

				for n := range longest + 1 {
					for _, domain := range domains {
						for _, bits := range tokensFrom(domain + secretOf(n)) {
							id, err := pgsession.ParseID(base64.RawURLEncoding.EncodeToString(bits))
							if err != nil {
								continue // all zero
							}
							require.False(t, stored[id.Handle().String()], "%q and %d bytes", domain, n)
							require.Equal(t, "NotFound", errorName(test.Err(f.Load(ctx, id))), "%q and %d bytes", domain, n)
						}
					}
				}
			})
		}
	}
}

// purposes are strings that could be taken for each other, or for something else.
var purposes = []string{
	"", "\x00", "a", "a\x00", "ab", "b", "A", "staff", "staff\x00", "__Host-staff", "日本", "\xff", " ",
	purposeDomain, sessionDomain, strings.Repeat("x", 100), strings.Repeat("x", 101), strings.Repeat("x", 100_000),
}

// TestPurposes offers each token for every other purpose than its own. It opens nothing.
func TestPurposes(t *testing.T) {
	t.Parallel()
	for kind, newSubject := range storeKinds(t) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			ctx, f := t.Context(), newSubject(t)
			for i, purpose := range purposes {
				id := pgsession.NewIDFor(purpose)
				require.NoError(t, test.Err(f.CreateAs(ctx, id, test.Ann(i), time.Hour)))
				for j, other := range purposes {
					parsed, err := pgsession.ParseIDFor(other, id.Token())
					require.NoError(t, err)
					require.Equal(t, id.Token(), parsed.Token())
					session, err := f.Load(ctx, parsed)
					if i == j {
						require.NoError(t, f.eitherSessionOrError(ctx, session, err))
						require.Equal(t, i, test.Decode[int](t, session))
						continue
					}
					require.Equal(t, "NotFound", errorName(err), "%q for %q", purpose, other)
				}
				stranger, err := pgsession.ParseIDFor(purpose+"!", id.Token())
				require.NoError(t, err)
				for name, err := range map[string]error{
					"save":       f.Save(ctx, stranger, test.Ann(-1), time.Hour),
					"put":        f.Put(ctx, stranger, test.Ann(-1), time.Hour),
					"update":     test.Err(f.Update(ctx, test.Unloaded(stranger), 0, test.Keep(-1))),
					"touch":      test.Err(f.Touch(ctx, test.Unloaded(stranger), 2*time.Hour)),
					"renew":      test.Err(f.Renew(ctx, test.Unloaded(stranger), 0, test.LogIn(test.Ann(-1)))),
					"cycle":      f.Cycle(ctx, stranger, pgsession.NewID(), test.Ann(-1), time.Hour),
					"find":       test.Err(f.Find(ctx, stranger.Handle())),
					"revoke":     f.Revoke(ctx, "ann", stranger.Handle()),
					"revoke any": f.RevokeAny(ctx, stranger.Handle()),
				} {
					require.Equal(t, "NotFound", errorName(err), name)
				}
				require.NoError(t, f.Delete(ctx, stranger))
				require.Equal(t, i, f.Number(t, id))
			}
			f.requireSessions(t, int64(len(purposes)))
		})
	}
}

// TestPurposes_Renew moves sessions to new ids, which have the old ids' purposes.
func TestPurposes_Renew(t *testing.T) {
	t.Parallel()
	for kind, newSubject := range storeKinds(t) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			ctx, f := t.Context(), newSubject(t)
			for _, purpose := range purposes {
				id := pgsession.NewIDFor(purpose)
				require.NoError(t, test.Err(f.CreateAs(ctx, id, test.Guest, time.Hour)))
				parsed := test.Must(pgsession.ParseIDFor(purpose, id.Token()))
				for i, session := range []*pgsession.Session{f.MustLoad(t, parsed), nil, nil} {
					if session == nil {
						session = test.Unloaded(parsed)
					}
					renewed, err := f.Renew(ctx, session, 0, test.LogIn(test.Ann(i)))
					require.NoError(t, f.eitherSessionOrError(ctx, renewed, err))
					parsed = test.Must(pgsession.ParseIDFor(purpose, renewed.ID.Token()))
					require.Equal(t, renewed.Handle, parsed.Handle())
					require.Equal(t, i, f.Number(t, parsed))
					stranger := test.Must(pgsession.ParseIDFor(purpose+"!", renewed.ID.Token()))
					require.Equal(t, "NotFound", errorName(test.Err(f.Load(ctx, stranger))))
				}
			}
			derived := pgsession.DeriveID("secret")
			require.NoError(t, test.Err(f.CreateAs(ctx, derived, test.Guest, time.Hour)))
			renewed, err := f.Renew(ctx, test.Unloaded(derived), 0, test.LogIn(test.Ann(7)))
			require.NoError(t, f.eitherSessionOrError(ctx, renewed, err))
			require.Equal(t, 7, f.Number(t, test.Parsed(renewed.ID)), "a derived id has the purpose of ParseID")
		})
	}
}

// TestPurposes_Computed shows that no token without a purpose leads to the row of one that has a
// purpose, nor the other way round: what is hashed has never the same length.
func TestPurposes_Computed(t *testing.T) {
	t.Parallel()
	require.Greater(t, len(purposeDomain), 64)
	for _, purpose := range purposes[1:] {
		id := pgsession.NewIDFor(purpose)
		bits, err := base64.RawURLEncoding.DecodeString(id.Token())
		require.NoError(t, err)
		preimage := purposeDomain + string(bits) + purpose
		require.Equal(t, fmt.Sprintf("%x", sha256.Sum256([]byte(preimage))), id.Handle().String(), "it is the table's format")
		for _, computed := range tokensFrom(preimage) {
			token := base64.RawURLEncoding.EncodeToString(computed)
			for _, other := range purposes {
				parsed, err := pgsession.ParseIDFor(other, token)
				require.NoError(t, err)
				require.NotEqual(t, id.Handle(), parsed.Handle())
			}
		}
		require.NotEqual(t, id.Handle(), pgsession.DeriveID(string(bits)+purpose).Handle())
		require.NotEqual(t, id.Handle(), pgsession.DeriveID(preimage).Handle())
	}
}

// tokensFrom returns the bits of the tokens that can be computed from what a derived id hashes.
func tokensFrom(preimage string) (tokens [][]byte) {
	sum := sha256.Sum256([]byte(preimage))
	tokens = append(tokens, sum[:])
	if len(preimage) >= 32 {
		tokens = append(tokens, []byte(preimage[:32]), []byte(preimage[len(preimage)-32:]))
	}
	return tokens
}
