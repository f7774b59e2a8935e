package main

import (
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/rows"
)

func TestTorture(t *testing.T) {
	t.Parallel()
	pgtest.RequireBinaries(t)
	for name, faults := range map[string]string{"calm": "off", "faults": "on"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			summary, err := run(t.Context(), options{duration: 5 * time.Second, profile: "mixed", coalescing: "mixed", faults: faults},
				func(text string) { t.Log(text) })
			require.NoError(t, err)
			t.Log(summary)
			require.NotContains(t, summary, "histories 0,")
		})
	}
}

var testTime = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// A happening is a call in a history that a test writes down.
type happening struct {
	from, to int64
	call     call
	answer   answer
}

func at(from, to int64, k kind, slot int, change ...func(*happening)) happening {
	h := happening{from, to, call{kind: k, slot: slot, user: "ann", values: "v", ttl: time.Hour, except: -1, times: []time.Time{testTime}}, answer{}}
	for _, apply := range change {
		apply(&h)
	}
	return h
}

func outcome(o rows.Outcome) func(*happening) { return func(h *happening) { h.answer.outcome = o } }
func writes(values string) func(*happening)   { return func(h *happening) { h.call.values = values } }
func to(slot int) func(*happening)            { return func(h *happening) { h.call.to = slot } }
func lost(h *happening)                       { h.answer.unknown = true }
func later(h *happening)                      { h.call.times = []time.Time{testTime.Add(2 * time.Hour)} }
func meanwhile(h *happening)                  { h.call.times = append(h.call.times, testTime.Add(2*time.Hour)) }
func gets(value string) func(*happening)      { return func(h *happening) { h.answer.value = value } }
func sees(values string) func(*happening) {
	return func(h *happening) {
		h.answer.seen = []session{shown(h.call.slot, values)}
	}
}

func shown(slot int, values string) session {
	return session{slot: slot, user: "ann", values: values, created: testTime.UnixMicro(), expires: testTime.Add(time.Hour).UnixMicro(), idle: time.Hour}
}

func TestHistory_Check(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		history []happening
		right   bool
	}{
		"a load sees the save before it": {[]happening{
			at(1, 2, opCreate, 0, writes("1")), at(3, 4, opSave, 0, writes("2")), at(5, 6, opLoad, 0, sees("2")),
		}, true},
		"a load sees what was overwritten": {[]happening{
			at(1, 2, opCreate, 0, writes("1")), at(3, 4, opSave, 0, writes("2")), at(5, 6, opLoad, 0, sees("1")),
		}, false},
		"a load beside a save may see either": {[]happening{
			at(1, 2, opCreate, 0, writes("1")), at(3, 6, opSave, 0, writes("2")), at(4, 5, opLoad, 0, sees("1")),
		}, true},
		"a save that failed happens late": {[]happening{
			at(1, 2, opCreate, 0, writes("1")), at(3, 9, opSave, 0, writes("2"), lost), at(5, 6, opLoad, 0, sees("1")), at(7, 8, opLoad, 0, sees("2")),
		}, true},
		"a save that failed is not undone": {[]happening{
			at(1, 2, opCreate, 0, writes("1")), at(3, 9, opSave, 0, writes("2"), lost), at(5, 6, opLoad, 0, sees("2")), at(7, 8, opLoad, 0, sees("1")),
		}, false},
		"an acknowledged save is lost": {[]happening{
			at(1, 2, opCreate, 0, writes("1")), at(3, 4, opLoad, 0, outcome(rows.NotFound)),
		}, false},
		"a session comes back": {[]happening{
			at(1, 2, opCreate, 0, writes("1")), at(3, 4, opDelete, 0), at(5, 6, opPut, 0, writes("2")),
		}, false},
		"a put finds the tombstone": {[]happening{
			at(1, 2, opCreate, 0, writes("1")), at(3, 4, opDelete, 0), at(5, 6, opPut, 0, writes("2"), outcome(rows.Revoked)),
		}, true},
		"a tombstone is cleaned in time": {[]happening{
			at(1, 2, opCreate, 0, writes("1")), at(3, 4, opDelete, 0), at(5, 6, opClean, 0, later), at(7, 8, opPut, 0, writes("2"), later),
		}, true},
		"a load takes a tombstone for nothing": {[]happening{
			at(1, 2, opCreate, 0, writes("1")), at(3, 4, opDelete, 0), at(5, 6, opLoad, 0, outcome(rows.NotFound)),
		}, false},
		"a put finds an expired session": {[]happening{
			at(1, 2, opCreate, 0, writes("1")), at(3, 4, opPut, 0, writes("2"), later, outcome(rows.NotFound)),
		}, true},
		"a put revives an expired session": {[]happening{
			at(1, 2, opCreate, 0, writes("1")), at(3, 4, opPut, 0, writes("2"), later),
		}, false},
		"a session may expire during a load": {[]happening{
			at(1, 2, opCreate, 0, writes("1")), at(3, 4, opLoad, 0, meanwhile, outcome(rows.NotFound)),
		}, true},
		"a session that expires during a load may be seen": {[]happening{
			at(1, 2, opCreate, 0, writes("1")), at(3, 4, opLoad, 0, meanwhile, sees("1")),
		}, true},
		"a clean-up may leave what somebody holds": {[]happening{
			at(1, 2, opCreate, 0, writes("1")), at(3, 4, opClean, 0, later), at(5, 6, opCreateAs, 0, later, outcome(rows.Exists)),
		}, true},
		"a clean-up at rest leaves nothing": {[]happening{
			at(1, 2, opCreate, 0, writes("1")), at(3, 4, opClean, 0, later, func(h *happening) { h.call.atRest = true }),
			at(5, 6, opCreateAs, 0, later, outcome(rows.Exists)),
		}, false},
		"a list leaves out a session that was there all the time": {[]happening{
			at(1, 2, opCreate, 0, writes("1")), at(3, 4, opShow, 0),
		}, false},
		"a list shows a session that had ended": {[]happening{
			at(1, 2, opCreate, 0, writes("1")), at(3, 4, opDelete, 0), at(5, 6, opShow, 0, sees("1")),
		}, false},
		"one take has the value, and one has nothing": {[]happening{
			at(1, 2, opPutEntry, 0, writes("1")), at(3, 6, opTakeEntry, 0, gets("1")), at(4, 5, opTakeEntry, 0, outcome(rows.NotFound)),
		}, true},
		"two takes have one value": {[]happening{
			at(1, 2, opPutEntry, 0, writes("1")), at(3, 6, opTakeEntry, 0, gets("1")), at(4, 5, opTakeEntry, 0, gets("1")),
		}, false},
		"a renewal does not see the save before it": {[]happening{
			at(1, 2, opCreate, 0, writes("1")), at(3, 4, opSave, 0, writes("2")), at(5, 6, opRenew, 0, to(1), writes("3"), sees("1")),
		}, false},
		"a tombstone is cleaned too early": {[]happening{
			at(1, 2, opCreate, 0, writes("1")), at(3, 4, opDelete, 0), at(5, 6, opClean, 0), at(7, 8, opPut, 0, writes("2")),
		}, false},
		"an update is lost": {[]happening{
			at(1, 2, opCreate, 0, writes("1")), at(3, 6, opUpdate, 0, writes("2"), sees("1")), at(4, 5, opUpdate, 0, writes("3"), sees("1")),
		}, false},
		"one cycle has two winners": {[]happening{
			at(1, 2, opCreate, 0, writes("1")), at(3, 6, opCycle, 0, to(1), writes("2")), at(4, 5, opCycle, 0, to(2), writes("3")),
		}, false},
		"both ids are live": {[]happening{
			at(1, 2, opCreate, 0, writes("1")), at(3, 8, opCycle, 0, to(1), writes("2")),
			at(4, 5, opLoad, 1, sees("2")), at(6, 7, opLoad, 0, sees("1")),
		}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := history{slots: 3}
			for _, one := range test.history {
				h.operations = append(h.operations, porcupine.Operation{Input: one.call, Output: one.answer, Call: one.from, Return: one.to})
			}
			require.Equal(t, test.right, h.check(time.Minute) == porcupine.Ok)
		})
	}
}

// DeleteByUser ends what was there when it began, and what Cycle makes of it meanwhile; a later
// log-in may stay.
func TestHistory_DeleteByUser(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		spared  int
		during  call
		after   int // the slot that lives on
		correct bool
	}{
		"a session that was there stays":     {-1, call{kind: opLoad, slot: 0}, 0, false},
		"a cycled session stays":             {-1, call{kind: opCycle, slot: 0, to: 1}, 1, false},
		"a log-in stays":                     {-1, call{kind: opPut, slot: 1}, 1, true},
		"the session that is spared stays":   {0, call{kind: opLoad, slot: 0}, 0, true},
		"a session cycled to the spared one": {1, call{kind: opCycle, slot: 0, to: 1}, 1, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := history{slots: 2}
			full := func(c call) call {
				c.user, c.values, c.ttl, c.except, c.times = "ann", "v", time.Hour, -1, []time.Time{testTime}
				return c
			}
			seen := func(slot int) answer { return answer{seen: []session{shown(slot, "v")}} }
			add := func(c call, a answer, client int, started int64) { h.add(c, a, client, started, openCall{}) }
			add(full(call{kind: opCreate}), answer{}, 0, tick())
			end := full(call{kind: opEndUser})
			end.except = test.spared
			var ok bool
			end.mark, ok = h.newMark(end.except, false)
			require.True(t, ok)
			began := tick()
			during := answer{}
			if test.during.kind == opLoad {
				during = seen(0)
			}
			add(full(test.during), during, 1, tick())
			add(end, answer{}, 0, began)
			add(full(call{kind: opLoad, slot: test.after}), seen(test.after), 0, tick())
			require.Equal(t, test.correct, h.check(time.Minute) == porcupine.Ok)
		})
	}
}

func TestShrink(t *testing.T) {
	t.Parallel()
	h := history{slots: 3}
	add := func(k kind, slot int, values string, a answer) {
		h.add(call{kind: k, slot: slot, values: values, ttl: time.Hour, except: -1, times: []time.Time{testTime}}, a, 0, tick(), openCall{})
	}
	for range 10 {
		add(opPut, 1, "beside", answer{})
		add(opLoad, 2, "", answer{outcome: rows.NotFound})
	}
	add(opCreate, 0, "1", answer{})
	add(opDelete, 0, "", answer{})
	add(opSave, 0, "2", answer{})
	add(opLoad, 0, "", answer{outcome: rows.Revoked})
	smallest := shrink(h.operations, time.Now().Add(time.Minute))
	text := describe(smallest)
	require.Len(t, smallest, 3, text)
	require.Equal(t, 2, strings.Count(text, ": ok"), text)
}
