package coalesce

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// A caller whose context ends as it is answered may hear of either. It was counted
// already, and the batch goes on for the others.
func TestBatch_AnsweredAndAbandoned(t *testing.T) {
	t.Parallel()
	g := New(Config[string, string]{Places: 1})
	g.taken = 1
	a, b := g.enter(t.Context(), "a"), g.enter(t.Context(), "b")
	batch := g.next()
	batch.answer(0, "done")
	g.abandon(a)
	require.NoError(t, batch.ctx.Err())
	g.abandon(b)
	require.ErrorIs(t, batch.ctx.Err(), context.Canceled)
}
