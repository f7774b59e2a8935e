package pgsession_test

import (
	"context"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/test"
)

func TestStore_All(t *testing.T) {
	t.Parallel()
	s := test.NewStore(t)
	ctx := t.Context()
	const sessions = 1203 // two pages and a part
	want := map[pgsession.Handle]string{}
	for i := range sessions {
		id := s.Begin(t, pgsession.Data{UserID: strconv.Itoa(i)}, time.Hour)
		want[id.Handle()] = strconv.Itoa(i)
	}
	got := map[pgsession.Handle]string{}
	for session, err := range s.All(ctx) {
		require.NoError(t, err)
		got[session.Handle] = session.UserID
		require.Zero(t, s.Pool.Stat().AcquiredConns(), "no connection is held")
	}
	require.Equal(t, want, got)

	for range s.All(ctx) {
		break
	}
	cancelled, cancel := context.WithCancel(ctx)
	defer cancel()
	seen := 0
	var last error
	for session, err := range s.All(cancelled) {
		if seen++; seen == 1 {
			cancel()
		}
		if last = err; err != nil {
			require.Nil(t, session)
		}
	}
	require.ErrorIs(t, last, context.Canceled)
	require.Equal(t, 501, seen)
}

// TestStore_Pages_Bytes reads and reseals more than a page may hold, of which one value is larger
// than a page.
func TestStore_Pages_Bytes(t *testing.T) {
	t.Parallel()
	const values, size, fewestPages = 12, 1 << 20, 3
	var pages atomic.Int64
	s := test.NewTracedStore(t, &test.Tracer{Start: func(_ context.Context, sql string) {
		if strings.Contains(sql, "pgsession_bytes_before") {
			pages.Add(1)
		}
	}}, 2, pgsession.WithMaxSize(0))
	large := s.Begin(t, test.Ann(make([]byte, 5*size)), time.Hour)
	want := []pgsession.Handle{large.Handle()}
	for range values {
		want = append(want, s.Begin(t, test.Ann(make([]byte, size)), time.Hour).Handle())
	}

	before := pages.Load()
	var got []pgsession.Handle
	for session, err := range s.All(t.Context()) {
		require.NoError(t, err)
		got = append(got, session.Handle)
	}
	require.ElementsMatch(t, want, got)
	require.Greater(t, pages.Load()-before, int64(fewestPages))

	rotated := s.Node(test.NewCrypto(t, pgsession.GenerateKey(), test.Key), pgsession.WithMaxSize(0))
	before = pages.Load()
	n, err := rotated.Reseal(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, values+1, n)
	require.Greater(t, pages.Load()-before, int64(fewestPages))
	require.Len(t, test.Decode[[]byte](t, rotated.MustLoad(t, large)), 5*size)
}
