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

// What derived ids hash before the secret. These are part of the table's format: if they change, nobody
// finds the rows that an earlier release wrote.
const (
	sessionDomain = "pgsession/v1: the id of a session, derived from a token of a framework\x00"
	entryDomain   = "pgsession/v1: the id of an entry of a key/value view, derived from its key\x00"
)

// TestDerivedIDs shows that no token leads to the row of a derived id, whatever the secret's length. A
// token is 32 bytes, and its row's key is their hash. So a derived id whose hash is of exactly 32 bytes,
// domain and secret, could be opened by a cookie that anybody can compute.
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

// tokensFrom returns the bits of the tokens that can be computed from what a derived id hashes.
func tokensFrom(preimage string) (tokens [][]byte) {
	sum := sha256.Sum256([]byte(preimage))
	tokens = append(tokens, sum[:])
	if len(preimage) >= 32 {
		tokens = append(tokens, []byte(preimage[:32]), []byte(preimage[len(preimage)-32:]))
	}
	return tokens
}
