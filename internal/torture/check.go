package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/pgsession/pgsession/internal/rows"
)

// A history is what was asked of a group of ids, and what was answered. Its times count events, so
// that no two are alike.
type history struct {
	timeline *timeline // nil in a history that a test writes down

	mu         sync.Mutex
	operations []porcupine.Operation
	slots      int
	marks      map[int]int // how many are in use: by the slot that is spared, -1 for none, allMarks for DeleteAll
	open       []openCall  // those with an unknown outcome that may still happen
}

// An openCall may take effect until its deadline. If the network was broken when it was given up,
// the server may not have heard of that, and there is no deadline.
type openCall struct {
	operation      int
	began, givenUp time.Time
	deadline       time.Time
	heard          time.Time // when the network was found to have been whole, or broken, since the call began
}

// settleGrace is how long after its deadline a call may take effect: the server must hear that it
// was given up.
const settleGrace = 500 * time.Millisecond

const allMarks = maxSlots

// ticks is the clock of all histories.
var ticks atomic.Int64

func tick() int64 { return ticks.Add(1) }

// add records a call that was made at started and has returned by now. One with an unknown outcome
// is given its end by settle.
func (h *history) add(c call, a answer, client int, started int64, open openCall) {
	ended := tick()
	if a.unknown {
		ended = 0
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.timeline != nil {
		c.times = h.timeline.since(c.reading)
	}
	one := func(kind kind, from, to int64) {
		c.kind = kind
		if to == 0 {
			open.operation = len(h.operations)
			h.open = append(h.open, open)
		}
		h.operations = append(h.operations, porcupine.Operation{ClientId: client, Input: c, Call: from, Output: a, Return: to})
	}
	switch c.kind {
	case opEndUser, opEndAll:
		if !a.unknown {
			one(opEndBegin, started, started)
		}
		for i := range h.slots {
			if i != c.except {
				c.slot = i
				one(opEndPass, started, ended)
				// It may look again, and meet what was begun anew since the first tombstone was removed.
				if n := len(c.times); n > 1 && c.times[n-1].Sub(c.times[0]) >= time.Hour {
					known := a
					a.unknown = true
					one(opEndPass, started, ended)
					a = known
				}
			}
		}
		c.slot = 0
		if !a.unknown {
			one(opEndFinish, ended, ended)
		}
	case opLimit:
		a.unknown = true // others decide meanwhile which are the newest
		for i := range h.slots {
			c.slot = i
			one(opEndPass, started, ended)
		}
	case opAll:
		seen := a.seen
		for i := range h.slots {
			c.slot, a.seen = i, nil
			for _, s := range seen {
				if s.slot == i {
					a.seen = append(a.seen, s)
				}
			}
			one(opShow, started, ended)
		}
	default:
		one(c.kind, started, ended)
	}
}

// newMark returns the mark of a new call of DeleteByUser or DeleteAll, if there is one left.
func (h *history) newMark(except int, everybody bool) (mark marks, ok bool) {
	most := maxMarks
	switch {
	case everybody:
		except = allMarks
	case except >= 0:
		most = maxSparingMarks
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	number := h.marks[except]
	if number == most {
		return marks{}, false
	}
	if h.marks == nil {
		h.marks = make(map[int]int)
	}
	h.marks[except]++
	return newMark(except, everybody, number), true
}

// unsettled returns how many calls may still take effect.
func (h *history) unsettled() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.open)
}

// settle ends the calls whose deadline has passed: what has not happened by now never will. Broken
// tells whether the network was broken at any time since.
func (h *history) settle(now time.Time, broken func(since time.Time) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range h.open {
		open := &h.open[i]
		if open.heard.IsZero() && now.After(open.givenUp.Add(settleGrace/2)) {
			open.heard = now
			if broken(open.began) {
				open.deadline = time.Time{}
			}
		}
	}
	h.open = slices.DeleteFunc(h.open, func(open openCall) bool {
		if open.deadline.IsZero() || now.Before(open.deadline.Add(settleGrace)) {
			return false
		}
		h.end(open)
		return true
	})
}

// settleAll is called when no statement is left on the server.
func (h *history) settleAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, open := range h.open {
		h.end(open)
	}
	h.open = nil
}

func (h *history) end(open openCall) {
	o := &h.operations[open.operation]
	c := o.Input.(call)
	if h.timeline != nil {
		c.times = h.timeline.since(c.reading)
	}
	o.Input, o.Return = c, tick()
}

func (h *history) check(timeout time.Duration) porcupine.CheckResult {
	return porcupine.CheckOperationsTimeout(sequential, h.operations, timeout)
}

// shrink returns a smaller history that is wrong as well, of a wrong one. What it leaves out
// asserted nothing: calls that had not begun when the last that matters returned, and reads. A
// write that does not matter is not left out, since what follows may rest on it, but marked as
// unknown: it may have happened or not.
func shrink(operations []porcupine.Operation, deadline time.Time) []porcupine.Operation {
	fails := func(h []porcupine.Operation) bool {
		return time.Now().Before(deadline) && porcupine.CheckOperationsTimeout(sequential, h, 2*time.Second) == porcupine.Illegal
	}
	for _, part := range partition(operations) {
		if fails(part) {
			operations = part
			break
		}
	}
	shortest := operations
	returns := make([]int64, 0, len(operations))
	for _, o := range operations {
		returns = append(returns, o.Return)
	}
	slices.Sort(returns)
	low, high := 0, len(returns)-1 // a prefix of a right history is right
	for low < high {
		middle := (low + high) / 2
		if cut := prefix(operations, returns[middle]); fails(cut) {
			high, shortest = middle, cut
		} else {
			low = middle + 1
		}
	}
	slices.SortFunc(shortest, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	for size := max(1, len(shortest)/2); size > 0; size /= 2 {
		for end := len(shortest); end > 0; end -= size {
			start := max(0, end-size)
			if smaller, less := reduce(shortest, start, end); less && fails(smaller) {
				shortest = smaller
			}
		}
	}
	return connected(shortest)
}

// reduce leaves out, or makes moot, a part of the operations.
func reduce(operations []porcupine.Operation, start, end int) (smaller []porcupine.Operation, less bool) {
	smaller = slices.Clone(operations[:start])
	for _, o := range operations[start:end] {
		c, a := o.Input.(call), o.Output.(answer)
		mayHaveWritten := !c.kind.reads() && (a.outcome == rows.OK || c.kind == opRevoke || c.kind == opRevokeAny)
		if mayHaveWritten && c.kind != opEndBegin && c.kind != opEndFinish {
			less = less || !a.unknown
			a.moot, a.unknown, a.outcome, a.returned = a.moot || !a.unknown, true, rows.OK, nil
			o.Output = a
			smaller = append(smaller, o)
			continue
		}
		less = true
	}
	return append(smaller, operations[end:]...), less
}

// connected leaves out the calls without an answer that have nothing to do with those that have
// one.
func connected(operations []porcupine.Operation) []porcupine.Operation {
	var slots [maxSlots]bool
	everywhere := false
	for grown := true; grown; {
		grown = false
		for _, o := range operations {
			c, a := o.Input.(call), o.Output.(answer)
			everywhere = everywhere || !a.unknown && (c.kind == opFindByUser || c.kind == opEndBegin || c.kind == opEndFinish)
			if a.unknown && !slots[c.slot] && !(c.kind.moves() && slots[c.to]) {
				continue
			}
			if !slots[c.slot] || c.kind.moves() && !slots[c.to] {
				grown = true
			}
			slots[c.slot] = true
			if c.kind.moves() {
				slots[c.to] = true
			}
		}
	}
	if everywhere {
		return operations
	}
	return slices.DeleteFunc(operations, func(o porcupine.Operation) bool { return !slots[o.Input.(call).slot] })
}

// prefix returns what was known when the last had returned.
func prefix(operations []porcupine.Operation, last int64) []porcupine.Operation {
	var known []porcupine.Operation
	for _, o := range operations {
		switch {
		case o.Call > last:
			continue
		case o.Return > last && (o.Input.(call).kind.reads() || o.Input.(call).kind == opEndBegin):
			continue
		case o.Return > last:
			a := o.Output.(answer)
			a.unknown, a.moot, a.outcome, a.returned = true, true, rows.OK, nil
			o.Output, o.Return = a, last
		}
		known = append(known, o)
	}
	return known
}

func describe(operations []porcupine.Operation) string {
	var text strings.Builder
	maybe := 0
	for _, o := range operations {
		c, a := o.Input.(call), o.Output.(answer)
		if a.unknown && (c.kind == opClean || c.kind == opEndPass) {
			maybe++
			continue
		}
		at := clockText(c.times[0].UnixMicro())
		if n := len(c.times); n > 1 {
			at += " to " + clockText(c.times[n-1].UnixMicro())
		}
		fmt.Fprintf(&text, "  %8d to %-8d worker %-3d at %s  %s: %s\n", o.Call, o.Return, o.ClientId, at, c, a)
	}
	if maybe > 0 {
		fmt.Fprintf(&text, "  and %d passes of clean-ups, delete by user and delete all that may have happened or not\n", maybe)
	}
	return text.String()
}
