package coalesce

import (
	"slices"
	"time"
)

// run is a run in flight.
type run struct {
	began time.Duration // by the clock of places
	alone bool          // of one call
	ok    bool          // ended without an error
}

// places holds the runs that count as in flight, up to a limit. A run counts until it ends, or
// until it is found to have lasted longer than slowAfter. Group.mu guards it.
type places struct {
	limit     int
	limitFor  func(fastest time.Duration) int // Config.Limit
	fastest   time.Duration                   // about what the fastest of the latest runs took
	slowAfter time.Duration
	start     time.Time // of its clock; time.Since costs less than time.Now
	runs      []*run    // oldest first

	timer    *time.Timer // calls onSlow
	timerSet bool
	onSlow   func()
}

func newPlaces(limit int, limitFor func(time.Duration) int, slowAfter time.Duration, onSlow func()) places {
	if limitFor != nil {
		limit = limitFor(0)
	}
	return places{limit: limit, limitFor: limitFor, slowAfter: slowAfter, start: time.Now(), onSlow: onSlow}
}

func (p *places) full() bool { return len(p.runs) >= p.limit }

func (p *places) add(r *run) {
	if p.slowAfter > 0 || p.limitFor != nil {
		r.began = time.Since(p.start)
	}
	p.runs = append(p.runs, r)
}

// remove returns false if the run has already stopped counting. It then has no place to give back.
func (p *places) remove(r *run) bool {
	i := slices.Index(p.runs, r)
	if i < 0 {
		return false
	}
	p.runs = slices.Delete(p.runs, i, i+1)
	if p.limitFor != nil && r.ok {
		p.observe(r)
	}
	return true
}

// observe adjusts the limit to how long a run took. A faster run counts at once. A slower one
// counts little, because it may have waited for something. A slower run of several calls counts for
// nothing, because several calls take longer than one.
func (p *places) observe(ended *run) {
	took := time.Since(p.start) - ended.began
	switch {
	case p.fastest == 0 || took < p.fastest:
		p.fastest = took
	case ended.alone:
		p.fastest += min(took-p.fastest, p.fastest) / 64
	default:
		return
	}
	p.limit = p.limitFor(p.fastest)
}

// removeSlow removes the runs that have lasted longer than slowAfter.
func (p *places) removeSlow() {
	if p.slowAfter == 0 {
		return
	}
	latest := time.Since(p.start) - p.slowAfter
	slow := 0
	for slow < len(p.runs) && p.runs[slow].began <= latest {
		slow++
	}
	p.runs = slices.Delete(p.runs, 0, slow)
}

// watch makes sure that onSlow is called once the oldest run has become slow. It may be called
// earlier, because the timer is left alone if that run ends before.
func (p *places) watch() {
	if p.slowAfter == 0 || p.timerSet {
		return
	}
	p.timerSet = true
	wait := p.runs[0].began + p.slowAfter - time.Since(p.start)
	if p.timer == nil {
		p.timer = time.AfterFunc(wait, p.onSlow)
	} else {
		p.timer.Reset(wait)
	}
}

// timerFired must be called by onSlow.
func (p *places) timerFired() {
	p.timerSet = false
	p.removeSlow()
}
