package coalesce

import (
	"slices"
	"time"
)

// run is a run in flight.
type run struct {
	began time.Duration // by the clock of inFlight
	alone bool          // of one call
	ok    bool          // ended without an error
}

// inFlight holds the runs that count towards a limit. A run counts until it ends, or until it is
// found to have lasted longer than slowAfter. Group.mu guards it.
type inFlight struct {
	limit     int
	limitFor  func(fastest time.Duration) int // nil if the limit stays
	fastest   time.Duration                   // about what the fastest of the latest runs took
	slowAfter time.Duration
	start     time.Time // where its clock begins; reading time.Since costs less than time.Now
	runs      []*run    // oldest first

	timer    *time.Timer // calls onSlow
	timerSet bool
	onSlow   func()
}

func newInFlight(limit int, limitFor func(time.Duration) int, slowAfter time.Duration, onSlow func()) inFlight {
	if limitFor != nil {
		limit = limitFor(0)
	}
	return inFlight{limit: limit, limitFor: limitFor, slowAfter: slowAfter, start: time.Now(), onSlow: onSlow}
}

func (f *inFlight) full() bool { return len(f.runs) >= f.limit }

func (f *inFlight) add(r *run) {
	if f.slowAfter > 0 || f.limitFor != nil {
		r.began = time.Since(f.start)
	}
	f.runs = append(f.runs, r)
}

// remove returns false if the run has already stopped counting. It then has no place to give back.
func (f *inFlight) remove(r *run) bool {
	i := slices.Index(f.runs, r)
	if i < 0 {
		return false
	}
	f.runs = slices.Delete(f.runs, i, i+1)
	if f.limitFor != nil && r.ok {
		f.observe(r)
	}
	return true
}

// observe lets a run that was faster count at once. One that was slower counts little, since it may have
// waited for something, and not at all if it was of several calls, which take longer by themselves.
func (f *inFlight) observe(ended *run) {
	took := time.Since(f.start) - ended.began
	switch {
	case f.fastest == 0 || took < f.fastest:
		f.fastest = took
	case ended.alone:
		f.fastest += min(took-f.fastest, f.fastest) / 64
	default:
		return
	}
	f.limit = f.limitFor(f.fastest)
}

// removeSlow removes the runs that have lasted longer than slowAfter.
func (f *inFlight) removeSlow() {
	if f.slowAfter == 0 {
		return
	}
	latest := time.Since(f.start) - f.slowAfter
	slow := 0
	for slow < len(f.runs) && f.runs[slow].began <= latest {
		slow++
	}
	f.runs = slices.Delete(f.runs, 0, slow)
}

// watch makes sure that onSlow is called once the oldest run has become slow. It may be called
// earlier, because the timer is left alone if that run ends before.
func (f *inFlight) watch() {
	if f.slowAfter == 0 || f.timerSet {
		return
	}
	f.timerSet = true
	wait := f.runs[0].began + f.slowAfter - time.Since(f.start)
	if f.timer == nil {
		f.timer = time.AfterFunc(wait, f.onSlow)
	} else {
		f.timer.Reset(wait)
	}
}

// timerFired must be called by onSlow.
func (f *inFlight) timerFired() {
	f.timerSet = false
	f.removeSlow()
}
