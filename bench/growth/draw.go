package main

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pgsession/pgsession/bench/internal/chart"
)

// draw makes one chart of what there is.
func (r *report) draw(folder string) error {
	env := r.Environment
	version, _, _ := strings.Cut(env.PostgreSQL, " ")
	c := chart.Chart{
		Title: "As the table grows, and as it ages",
		Subtitle: fmt.Sprintf("Values of %d bytes, %d callers, %d connections; PostgreSQL %s and its client on the same %d processors.",
			env.ValueBytes, env.Callers, env.Connections, version, env.Processors),
	}
	if len(r.Sizes) > 1 {
		c.Rows = append(c.Rows, r.operationPanels())
	}
	var row []chart.Panel
	if len(r.Sizes) > 1 {
		row = append(row, r.bytesPanel())
	}
	if r.Churn != nil && len(r.Churn.Hours) > 1 {
		row = append(row, r.Churn.panel())
	}
	if len(row) > 0 {
		c.Rows = append(c.Rows, row)
	}
	if len(c.Rows) == 0 {
		return nil
	}
	return c.Write(filepath.Join(folder, "growth"))
}

func (r *report) bySize(title, label string, lines ...sizeLine) chart.Panel {
	panel := chart.Panel{Title: title, XLabel: "sessions in the table", YLabel: label, ShowLegend: true}
	for _, size := range r.Sizes {
		panel.Categories = append(panel.Categories, chart.Short(float64(size.Sessions)))
	}
	for _, line := range lines {
		var figures []float64
		for _, size := range r.Sizes {
			figures = append(figures, line.of(size))
		}
		panel.Lines = append(panel.Lines, chart.Line{Style: line.style, Figures: figures})
	}
	return panel
}

type sizeLine struct {
	style chart.Style
	of    func(sizeResult) float64
}

func (r *report) operationPanels() []chart.Panel {
	return []chart.Panel{
		r.bySize("Throughput", "calls a second",
			sizeLine{chart.Style{Name: "Load", Colour: chart.Blue}, func(s sizeResult) float64 { return s.Load.PerSecond }},
			sizeLine{chart.Style{Name: "Save", Colour: chart.Orange}, func(s sizeResult) float64 { return s.Save.PerSecond }},
			sizeLine{chart.Style{Name: "FindByUser", Colour: chart.Purple}, func(s sizeResult) float64 { return s.FindByUser.PerSecond }}),
		r.bySize("Clean-up", "µs an expired row",
			sizeLine{chart.Style{Name: "in the background", Colour: chart.Blue}, func(s sizeResult) float64 { return s.BackgroundCleanupMicros }},
			sizeLine{chart.Style{Name: "CleanupExpired", Colour: chart.Orange}, func(s sizeResult) float64 { return s.CleanupExpiredMicros }}),
	}
}

// The table and its indexes have short names here, as relations lists them.
var relationStyles = []chart.Style{
	{Name: "table", Colour: chart.Blue},
	{Name: "key", Colour: chart.Orange},
	{Name: "expires_hour", Colour: chart.Purple},
	{Name: "user_key", Colour: chart.Green},
}

func (r *report) bytesPanel() chart.Panel {
	var lines []sizeLine
	for i, style := range relationStyles {
		lines = append(lines, sizeLine{style, func(s sizeResult) float64 { return float64(s.Bytes[i].Bytes) / float64(s.Sessions) }})
	}
	return r.bySize("Size of the table and its indexes", "bytes a session", lines...)
}

func (r *churnResult) panel() chart.Panel {
	panel := chart.Panel{
		Title:  fmt.Sprintf("Size while %s sessions come and go", chart.Short(float64(r.Population))),
		XLabel: "simulated hours, with autovacuum alone", YLabel: "megabytes", ShowLegend: true,
	}
	every := max(1, len(r.Hours)/8)
	for i := range r.Hours {
		label := ""
		if i%every == every-1 || i == 0 {
			label = strconv.Itoa(i + 1)
		}
		panel.Categories = append(panel.Categories, label)
	}
	for i, style := range relationStyles {
		line := chart.Line{Style: style}
		for _, hour := range r.Hours {
			line.Figures = append(line.Figures, float64(hour.Bytes[i].Bytes)/1e6)
		}
		panel.Lines = append(panel.Lines, line)
	}
	return panel
}
