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

	"github.com/pgsession/pgsession/internal/model"
)

// A history is what was asked of a group of ids, and what was answered. Its times count events, so that no two are alike.
type history struct {
	mu         sync.Mutex
	operations []porcupine.Operation
	slots      int
	marks      [1 + maxSlots]int // by the slot that is spared, and one
	unknown    int               // in this epoch
}

// ticks is the clock of all histories.
var ticks atomic.Int64

func tick() int64 { return ticks.Add(1) }

// add records a call that was made at started and has returned by now. One with an unknown outcome is given its end by
// settle.
func (h *history) add(c call, a answer, client int, started int64) {
	ended := tick()
	if a.unknown {
		ended = 0
	}
	one := func(kind kind, from, to int64) {
		c.kind = kind
		h.operations = append(h.operations, porcupine.Operation{ClientId: client, Input: c, Call: from, Output: a, Return: to})
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if a.unknown {
		h.unknown++
	}
	switch c.kind {
	case opEndUser:
		if !a.unknown {
			one(opEndUserBegin, started, started)
		}
		for i := range h.slots {
			if i != c.except {
				c.slot = i
				one(opEndUserSlot, started, ended)
			}
		}
		c.slot = 0
		if !a.unknown {
			one(opEndUserFinish, ended, ended)
		}
	case opClean:
		for i := range h.slots {
			c.slot = i
			one(opClean, started, ended)
		}
	default:
		one(c.kind, started, ended)
	}
}

// newMark returns the mark of a new call of DeleteByUser, if there is one left.
func (h *history) newMark(except int) (mark marks, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	number := h.marks[1+except]
	if number == maxMarks || except >= 0 && number == maxSparingMarks {
		return marks{}, false
	}
	h.marks[1+except]++
	return newMark(except, number), true
}

// settle is called when no statement is left on the server: what has not happened by now never will.
func (h *history) settle() {
	ended := tick()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.unknown = 0
	for i := range h.operations {
		if h.operations[i].Return == 0 {
			h.operations[i].Return = ended
		}
	}
}

func (h *history) check(timeout time.Duration) porcupine.CheckResult {
	return porcupine.CheckOperationsTimeout(sequential, h.operations, timeout)
}

// shrink returns a smaller history that is wrong as well, of a wrong one. What it leaves out asserted nothing: calls that had
// not begun when the last that matters returned, and reads. A write that does not matter is not left out, since what
// follows may rest on it, but marked as unknown: it may have happened or not.
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
		mayHaveWritten := !c.kind.reads() && (a.outcome == model.OK || c.kind == opRevoke)
		if mayHaveWritten && c.kind != opEndUserBegin && c.kind != opEndUserFinish {
			less = less || !a.unknown
			a.moot, a.unknown = a.moot || !a.unknown, true
			o.Output = a
			smaller = append(smaller, o)
			continue
		}
		less = true
	}
	return append(smaller, operations[end:]...), less
}

// connected leaves out the calls without an answer that have nothing to do with those that have one.
func connected(operations []porcupine.Operation) []porcupine.Operation {
	var slots [maxSlots]bool
	everywhere := false
	for grown := true; grown; {
		grown = false
		for _, o := range operations {
			c, a := o.Input.(call), o.Output.(answer)
			everywhere = everywhere || !a.unknown && (c.kind == opFind || c.kind == opEndUserBegin || c.kind == opEndUserFinish)
			if a.unknown && !slots[c.slot] && !(c.kind == opCycle && slots[c.to]) {
				continue
			}
			if !slots[c.slot] || c.kind == opCycle && !slots[c.to] {
				grown = true
			}
			slots[c.slot] = true
			if c.kind == opCycle {
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
		case o.Return > last && (o.Input.(call).kind.reads() || o.Input.(call).kind == opEndUserBegin):
			continue
		case o.Return > last:
			a := o.Output.(answer)
			a.unknown, a.moot, a.outcome = true, true, model.OK
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
		if a.unknown && (c.kind == opClean || c.kind == opEndUserSlot) {
			maybe++
			continue
		}
		fmt.Fprintf(&text, "  %8d to %-8d worker %-3d at %s  %s: %s\n", o.Call, o.Return, o.ClientId, clockText(c.at.UnixMicro()), c, a)
	}
	if maybe > 0 {
		fmt.Fprintf(&text, "  and %d passes of clean-ups and of delete by user that may have happened or not\n", maybe)
	}
	return text.String()
}
