package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession/internal/pgtest"
)

func TestWeb(t *testing.T) {
	t.Parallel()
	pgtest.RequireBinaries(t)
	for name, memory := range map[string]bool{"PostgreSQL": false, "memory": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			summary, err := run(t.Context(), options{duration: 5 * time.Second, memory: memory})
			t.Log(summary)
			require.NoError(t, err)
			require.NotContains(t, summary, "web: 0 requests")
		})
	}
}

// The oracle finds what it should, and nothing else.
func TestOracle_Judge(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		show                   func(o *oracle, mine, other *tab)
		revived, crossed, lost int
	}{
		"a page of what was appended": {show: func(o *oracle, mine, _ *tab) {
			root, n := begin(o, mine, "")
			o.judge(mine, "", view{Root: root, Numbers: []int64{n}, SeesOdd: true}, o.tick())
		}},
		"a page without a number that was acknowledged": {lost: 1, show: func(o *oracle, mine, _ *tab) {
			root, _ := begin(o, mine, "")
			o.judge(mine, "", view{Root: root, SeesOdd: true}, o.tick())
		}},
		"a page that was asked for before": {show: func(o *oracle, mine, _ *tab) {
			asked := o.tick()
			root, _ := begin(o, mine, "")
			o.judge(mine, "", view{Root: root, SeesOdd: true}, asked)
		}},
		"a page of an ended session": {revived: 1, show: func(o *oracle, mine, _ *tab) {
			root, n := begin(o, mine, "")
			o.end(root)
			o.judge(mine, "", view{Root: root, Numbers: []int64{n}, SeesOdd: true}, o.tick())
		}},
		"a page of a session that ended meanwhile": {show: func(o *oracle, mine, _ *tab) {
			root, n := begin(o, mine, "")
			asked := o.tick()
			o.end(root)
			o.judge(mine, "", view{Root: root, Numbers: []int64{n}, SeesOdd: true}, asked)
		}},
		"a page after a log-out everywhere": {revived: 1, show: func(o *oracle, mine, _ *tab) {
			root, n := begin(o, mine, "ann")
			v := view{User: "ann", Named: "ann", Root: root, Numbers: []int64{n}, SeesOdd: true}
			o.judge(mine, "", v, o.tick())
			require.NoError(t, o.endAll("ann", func() error { return nil }))
			o.judge(mine, "", v, o.tick())
		}},
		"a page of a log-in beside a log-out everywhere": {show: func(o *oracle, mine, _ *tab) {
			root, n := begin(o, mine, "ann")
			v := view{User: "ann", Named: "ann", Root: root, Numbers: []int64{n}, SeesOdd: true}
			require.NoError(t, o.endAll("ann", func() error {
				o.judge(mine, "", v, o.tick())
				return nil
			}))
			o.judge(mine, "", v, o.tick())
		}},
		"a page of another user": {crossed: 1, show: func(o *oracle, mine, _ *tab) {
			o.judge(mine, "", view{User: "bob", Named: "bob"}, o.tick())
		}},
		"a page with another user's number": {crossed: 1, show: func(o *oracle, mine, _ *tab) {
			root, n := begin(o, mine, "ann")
			mine.tries("bob")
			o.judge(mine, "", view{User: "bob", Named: "bob", Root: root, Numbers: []int64{n}, SeesOdd: true}, o.tick())
		}},
		"a page of another browser's session": {crossed: 2, show: func(o *oracle, mine, other *tab) {
			root, n := begin(o, mine, "")
			o.judge(other, "", view{Root: root, Numbers: []int64{n}, SeesOdd: true}, o.tick())
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, b := newOracle(), &browser{}
			mine, other := newTab(b, &application{}), newTab(b, &application{})
			mine.tries("ann")
			test.show(o, mine, other)
			require.Len(t, o.revived, test.revived)
			require.Len(t, o.crossed, test.crossed)
			require.Len(t, o.lost, test.lost)
		})
	}
}

// begin returns a session, and the number that is acknowledged in it.
func begin(o *oracle, t *tab, user string) (rootID, n int64) {
	rootID, n = o.newRoot(t), o.newNumber(t, user, true)
	o.acknowledge(rootID, n)
	return rootID, n
}
