package coalesce

import (
	"slices"
	"time"
)

// run is a run in flight.
type run struct {
	began time.Duration // by the clock of inFlight
}

// inFlight holds the runs that count towards a limit. A run counts until it ends, or until it is
// found to have lasted longer than slowAfter. Group.mu guards it.
type inFlight struct {
	limit     int
	slowAfter time.Duration
	start     time.Time // where its clock begins; reading time.Since costs less than time.Now
	runs      []*run    // oldest first

	timer    *time.Timer // calls onSlow
	timerSet bool
	onSlow   func()
}

func newInFlight(limit int, slowAfter time.Duration, onSlow func()) inFlight {
	return inFlight{limit: limit, slowAfter: slowAfter, start: time.Now(), onSlow: onSlow}
}

func (f *inFlight) full() bool { return len(f.runs) >= f.limit }

func (f *inFlight) add(r *run) {
	if f.slowAfter > 0 {
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
	return true
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
