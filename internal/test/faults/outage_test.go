package faults_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/test"
)

// TestStore_Outage calls every operation while the database cannot answer. None may say that there
// is no session, and none that it did what it did not.
func TestStore_Outage(t *testing.T) {
	t.Parallel()
	outages := map[string]func(t *testing.T, s *test.Store) (context.Context, error){
		"a closed pool": func(t *testing.T, s *test.Store) (context.Context, error) {
			s.Pool.Close()
			return t.Context(), nil
		},
		"a cancelled context": func(t *testing.T, s *test.Store) (context.Context, error) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			return ctx, context.Canceled
		},
		"a missing table": func(t *testing.T, s *test.Store) (context.Context, error) {
			s.SQL(t, `DROP TABLE sessions`)
			return t.Context(), nil
		},
	}
	for name, begin := range outages {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := test.NewStore(t)
			id := s.Begin(t, test.Ann(1), time.Hour)
			ctx, want := begin(t, s)
			for operation, call := range test.Operations(s, id) {
				if operation == "init" && name == "a missing table" {
					continue
				}
				err := call(ctx)
				require.Error(t, err, operation)
				require.NotErrorIs(t, err, pgsession.ErrNotFound, operation)
				prefix, _, _ := strings.Cut(operation, "/")
				require.True(t, strings.HasPrefix(err.Error(), "pgsession: "+prefix+": "), "%s: %v", operation, err)
				if want != nil {
					require.ErrorIs(t, err, want, operation)
				}
				if name == "a missing table" {
					require.Contains(t, err.Error(), "Init", operation)
				}
				for _, secret := range []string{id.Token(), "ann"} {
					require.NotContains(t, err.Error(), secret, operation)
				}
			}
		})
	}
}
