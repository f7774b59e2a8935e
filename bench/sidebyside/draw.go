package main

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/pgsession/pgsession/bench/internal/chart"
)

var styles = []chart.Style{
	{Name: oursSealed, Colour: chart.Blue, Thick: true},
	{Name: oursAlone, Colour: chart.Blue, Dashed: true},
	{Name: oursPlain, Colour: chart.Green},
	{Name: plainPgx, Colour: chart.Grey},
	{Name: scsPgx, Colour: chart.Orange},
	{Name: scsSQL, Colour: chart.Purple},
}

// draw makes a chart of the throughput and one of the p99, over the number of
// callers, for values of 1 KiB or what else was measured first.
func (r *report) draw(folder string) error {
	if len(r.Results) == 0 {
		return nil
	}
	size := r.Results[0].Size
	if slices.ContainsFunc(r.Results, func(r result) bool { return r.Size == 1024 }) {
		size = 1024
	}
	metrics := []struct {
		file, title, label string
		of                 func(result) float64
	}{
		{"throughput", "Throughput of session stores on PostgreSQL", "calls a second", func(r result) float64 { return r.PerSecond }},
		{"latency", "Slowest of a hundred calls (p99)", "milliseconds", func(r result) float64 { return r.P99 }},
	}
	env := r.Environment
	for _, metric := range metrics {
		c := chart.Chart{
			Title: metric.title,
			Subtitle: fmt.Sprintf("Values of %d bytes, %d connections; PostgreSQL %s and its client on the same %d processors; medians of %d rounds.",
				size, env.Connections, firstWord(env.PostgreSQL), env.Processors, env.Rounds),
		}
		for _, network := range []float64{0, 2} {
			var row []chart.Panel
			for _, operation := range []string{opLoad, opSave} {
				panel, shown := r.panel(operation, size, network, metric.label, metric.of)
				if len(panel.Categories) > 1 {
					row = append(row, panel)
					c.Legend = shown
				}
			}
			if len(row) > 0 {
				c.Rows = append(c.Rows, row)
			}
		}
		if len(c.Rows) == 0 {
			continue // a run of few cases
		}
		if err := c.Write(filepath.Join(folder, metric.file)); err != nil {
			return err
		}
	}
	return nil
}

func (r *report) panel(operation string, size int, network float64, label string, of func(result) float64) (panel chart.Panel, shown []chart.Style) {
	title := map[string]string{opLoad: "Load", opSave: "Save"}[operation] + ", server on the same machine's socket"
	if network > 0 {
		title = map[string]string{opLoad: "Load", opSave: "Save"}[operation] + fmt.Sprintf(", over a network of %g ms a round trip", network)
	}
	panel = chart.Panel{Title: title, XLabel: "concurrent callers", YLabel: label}
	var results []result
	var callers []int
	for _, one := range r.Results {
		if one.Operation == operation && one.Size == size && one.AddedRoundTripMS == network {
			results = append(results, one)
			if !slices.Contains(callers, one.Callers) {
				callers = append(callers, one.Callers)
			}
		}
	}
	for _, n := range callers {
		panel.Categories = append(panel.Categories, strconv.Itoa(n))
	}
	for _, style := range styles {
		line := chart.Line{Style: style}
		found := false
		for _, n := range callers {
			figure := math.NaN()
			if i := slices.IndexFunc(results, func(r result) bool { return r.Callers == n && r.Contender == style.Name }); i >= 0 {
				figure, found = of(results[i]), true
			}
			line.Figures = append(line.Figures, figure)
		}
		if found {
			panel.Lines = append(panel.Lines, line)
			shown = append(shown, style)
		}
	}
	return panel, shown
}

func firstWord(s string) string {
	for i, r := range s {
		if r == ' ' {
			return s[:i]
		}
	}
	return s
}
