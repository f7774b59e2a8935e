package main

import (
	"cmp"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/pgsession/pgsession/bench/internal/measure"
)

const (
	// maxDisturbance is the share of all processors that other programs may use in a round.
	maxDisturbance = 0.1

	// maxTries is how many times as many rounds are tried to find quiet ones.
	maxTries = 4
)

// quietRounds runs rounds until as many as the plan has were quiet, or it has tried too often. It
// keeps the quietest.
func (b *bench) quietRounds(name string, round func(n int) (keep func(), err error)) error {
	type tried struct {
		disturbance float64
		keep        func()
	}
	var all []tried
	quiet := 0
	for n := 0; quiet < b.rounds && n < maxTries*b.rounds; n++ {
		b.progress("%s: round %d, %d of %d were quiet", name, n+1, quiet, b.rounds)
		before, err := b.usage()
		if err != nil {
			return err
		}
		keep, err := round(n)
		if err != nil {
			return err
		}
		after, err := b.usage()
		if err != nil {
			return err
		}
		disturbance := after.disturbanceSince(before)
		if disturbance <= maxDisturbance {
			quiet++
		}
		all = append(all, tried{disturbance, keep})
	}
	slices.SortStableFunc(all, func(a, b tried) int { return cmp.Compare(a.disturbance, b.disturbance) })
	for _, t := range all[:b.rounds] {
		t.keep()
		b.disturbances = append(b.disturbances, t.disturbance)
	}
	return nil
}

// usage is how long processors were in use since they started, at a time.
type usage struct {
	at       time.Time
	all, own time.Duration // own: by this process and the server
}

// usage returns no usage at all where it cannot be seen. Each round then counts as quiet. So it does
// if there is a proxy, a process of its own.
func (b *bench) usage() (u usage, err error) {
	content, err := os.ReadFile("/proc/stat")
	if err != nil || b.roundTrip > 0 {
		return usage{}, nil
	}
	server, err := b.server.CPU()
	if err != nil || server == nil {
		return usage{}, err
	}
	u = usage{at: time.Now(), own: measure.CPU() + server.Since(nil)}
	line, _, _ := strings.Cut(string(content), "\n")
	var user, nice, system, idle, iowait, irq, softirq, steal int64 // proc(5)
	if _, err := fmt.Sscanf(line, "cpu %d %d %d %d %d %d %d %d", &user, &nice, &system, &idle, &iowait, &irq, &softirq, &steal); err != nil {
		return u, fmt.Errorf("/proc/stat: %w", err)
	}
	const ticksPerSecond = 100
	u.all = time.Duration(user+nice+system+irq+softirq+steal) * time.Second / ticksPerSecond
	return u, nil
}

// disturbanceSince returns the share of the processors that other programs used.
func (u usage) disturbanceSince(before usage) float64 {
	if u.all == 0 {
		return 0
	}
	others := (u.all - before.all) - (u.own - before.own)
	return max(0, float64(others)/float64(u.at.Sub(before.at))/float64(runtime.NumCPU()))
}
