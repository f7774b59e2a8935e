package adminpages

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A chart is one or two lines over the last hours.
type chart struct {
	Title, Unit string
	Lines       []line
	Most        string // the largest value
	Summary     string // for those who do not see it
	Minutes     int
}

type line struct {
	Name, Now string
	Points    string // of an SVG polyline in a box of chartWidth by chartHeight
}

const (
	chartWidth  = 240
	chartHeight = 60
)

func (p *Pages) charts() []chart {
	per := func(of func(sample) float64) []float64 { return p.history.series(of) }
	return []chart{
		newChart("Sessions", "a minute", []string{"begun", "new ids", "ended"}, per(func(s sample) float64 { return s.begun }),
			per(func(s sample) float64 { return s.renewed }), per(func(s sample) float64 { return s.ended })),
		newChart("Loads", "ms, at most", []string{"median", "99 %"}, per(func(s sample) float64 { return s.median }),
			per(func(s sample) float64 { return s.p99 })),
		newChart("Failed calls", "a minute", []string{"failed"}, per(func(s sample) float64 { return s.failed })),
	}
}

func newChart(title, unit string, names []string, series ...[]float64) chart {
	c := chart{Title: title, Unit: unit, Minutes: len(series[0])}
	if c.Minutes == 0 {
		return c
	}
	most := 0.0
	for _, values := range series {
		most = max(most, slices.Max(values))
	}
	c.Most = number(most)
	var summary []string
	for i, values := range series {
		now := number(values[len(values)-1])
		c.Lines = append(c.Lines, line{names[i], now, points(values, most)})
		summary = append(summary, fmt.Sprintf("%s: now %s, at most %s", names[i], now, number(slices.Max(values))))
	}
	c.Summary = fmt.Sprintf("%s, %s, over the last %d min. %s.", title, unit, c.Minutes, strings.Join(summary, "; "))
	return c
}

func number(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

// points places the values in the box, the latest at the right.
func points(values []float64, most float64) string {
	var b strings.Builder
	for i, v := range values {
		x, y := float64(chartWidth), float64(chartHeight)
		if len(values) > 1 {
			x = float64(i) * chartWidth / float64(len(values)-1)
		}
		if most > 0 {
			y -= v / most * chartHeight
		}
		fmt.Fprintf(&b, "%.1f,%.1f ", x, y)
	}
	return strings.TrimSpace(b.String())
}
