package conformance_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/test"
)

// Operations on more than one session.
func TestUser(t *testing.T) {
	t.Parallel()
	onEveryKind(t, userCases)
}

var userCases = []useCase{
	{"FindByUser", nil, func(t *testing.T, f *subject) {
		var ids []pgsession.ID
		for range 3 {
			f.Clock.Advance(time.Second)
			ids = append(ids, f.Begin(t, test.Ann(len(ids)), time.Hour))
		}
		f.Begin(t, pgsession.Data{UserID: "bob"}, time.Hour)
		f.Begin(t, pgsession.Data{}, time.Hour)
		for limit, want := range map[int][]int{0: {2, 1, 0}, -1: {2, 1, 0}, 1: {2}, 2: {2, 1}, 4: {2, 1, 0}} {
			found, err := f.FindByUser(t.Context(), "ann", limit)
			require.NoError(t, err)
			var values []int
			for _, session := range found {
				values = append(values, test.Decode[int](t, session))
				require.True(t, session.ID.IsZero(), "a list opens nothing")
			}
			require.Equal(t, want, values, "limit %d: the newest first", limit)
			loaded := f.MustLoad(t, ids[2])
			loaded.ID = pgsession.ID{}
			require.Equal(t, loaded, found[0])
		}
		found, err := f.FindByUser(t.Context(), "", 0)
		require.NoError(t, err)
		require.Empty(t, found)
	}},
	{"FindByUser/a hundred at most", nil, func(t *testing.T, f *subject) {
		for range 101 {
			f.Begin(t, test.Ann(1), time.Hour)
		}
		found, err := f.FindByUser(t.Context(), "ann", 0)
		require.NoError(t, err)
		require.Len(t, found, 100)
		found, err = f.FindByUser(t.Context(), "ann", 1000)
		require.NoError(t, err)
		require.Len(t, found, 101)
	}},
	{"DeleteByUser/except", nil, func(t *testing.T, f *subject) {
		here, there, bobs := f.Begin(t, test.Ann(1), time.Hour), f.Begin(t, test.Ann(2), time.Hour), f.Begin(t, pgsession.Data{UserID: "bob"}, time.Hour)
		ended, err := f.DeleteByUser(t.Context(), "ann", here.Handle(), bobs.Handle(), pgsession.Handle{})
		require.NoError(t, err)
		require.EqualValues(t, 1, ended)
		f.MustLoad(t, here)
		f.MustLoad(t, bobs)
		require.Equal(t, "ended", f.stateOf(t, there))
		ended, err = f.DeleteByUser(t.Context(), "")
		require.NoError(t, err)
		require.Zero(t, ended)
	}},
	{"All/is in pages", nil, func(t *testing.T, f *subject) {
		const many = 503
		want := map[pgsession.Handle]bool{}
		for range many {
			want[f.Begin(t, test.Ann(1), time.Hour).Handle()] = true
		}
		got := map[pgsession.Handle]bool{}
		for session, err := range f.All(t.Context()) {
			require.NoError(t, err)
			require.True(t, session.ID.IsZero(), "a list opens nothing")
			require.False(t, got[session.Handle])
			got[session.Handle] = true
		}
		require.Equal(t, want, got)
		for session := range f.All(t.Context()) {
			require.NoError(t, f.RevokeAny(t.Context(), session.Handle), "the loop may call the store, and end early")
			break
		}
		ended, err := f.DeleteAll(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, many-1, ended)
	}},
}
