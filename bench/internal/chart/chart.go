// Package chart draws the benchmarks' figures as SVG, for light pages and dark ones.
package chart

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"os"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// A Chart is a title over rows of panels.
type Chart struct {
	Title, Subtitle string
	Legend          []Style // shared by all panels
	Rows            [][]Panel
}

// A Panel is lines over categories. Its vertical axis begins at 0.
type Panel struct {
	Title, XLabel, YLabel string
	Categories            []string // "" draws no label
	Lines                 []Line
	ShowLegend            bool // its own, where the panels differ
}

// A Line has a figure for each category; NaN is left out.
type Line struct {
	Style   Style
	Figures []float64
}

// A Style is how a line looks, and what it is called in a legend.
type Style struct {
	Name   string
	Colour Colour
	Dashed bool
	Thick  bool
}

// A Colour can be told from the others on light and on dark.
type Colour int

// The colours.
const (
	Blue Colour = iota
	Orange
	Purple
	Green
	Grey
)

type theme struct {
	name                   string
	background, text, grid color.Color
	colours                [5]color.Color
}

var themes = []theme{
	{"light", rgb(0xffffff), rgb(0x1f2328), rgb(0xd8dee4), [5]color.Color{rgb(0x0969da), rgb(0xd1570a), rgb(0x8250df), rgb(0x1a7f37), rgb(0x6e7781)}},
	{"dark", rgb(0x0d1117), rgb(0xe6edf3), rgb(0x30363d), [5]color.Color{rgb(0x58a6ff), rgb(0xf0883e), rgb(0xbc8cff), rgb(0x56d364), rgb(0x8b949e)}},
}

func rgb(hex uint32) color.Color {
	return color.NRGBA{R: uint8(hex >> 16), G: uint8(hex >> 8), B: uint8(hex), A: 0xff}
}

const (
	panelWidth  = 400 // points
	panelHeight = 235
	margin      = 14
)

// Write draws the chart to path-light.svg and path-dark.svg.
func (c Chart) Write(path string) error {
	for _, t := range themes {
		svg, err := c.draw(t)
		if err != nil {
			return err
		}
		if err := os.WriteFile(path+"-"+t.name+".svg", svg, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (c Chart) draw(t theme) ([]byte, error) {
	columns := 2 // the titles need them
	for _, row := range c.Rows {
		columns = max(columns, len(row))
	}
	header := vg.Length(58)
	if len(c.Legend) > 0 {
		header += 24
	}
	width := vg.Length(columns*panelWidth + margin)
	height := header + vg.Length(len(c.Rows)*panelHeight+margin)
	svg := vgsvg.New(width, height)
	all := draw.New(svg)
	all.SetColor(t.background)
	all.Fill(all.Rectangle.Path())

	y := height - 28
	all.FillText(t.style(17, true), vg.Point{X: margin, Y: y}, c.Title)
	y -= 19
	all.FillText(t.style(11.5, false), vg.Point{X: margin, Y: y}, c.Subtitle)
	if len(c.Legend) > 0 {
		y -= 24
		t.legend(all, vg.Point{X: margin, Y: y}, c.Legend)
	}
	for i, row := range c.Rows {
		for j, panel := range row {
			top := height - header - vg.Length(i*panelHeight)
			area := draw.Canvas{Canvas: all.Canvas, Rectangle: vg.Rectangle{
				Min: vg.Point{X: vg.Length(j*panelWidth + margin), Y: top - panelHeight + margin},
				Max: vg.Point{X: vg.Length((j + 1) * panelWidth), Y: top},
			}}
			if err := t.panel(area, panel); err != nil {
				return nil, err
			}
		}
	}
	var out bytes.Buffer
	if _, err := svg.WriteTo(&out); err != nil {
		return nil, err
	}
	return []byte(describe(out.String(), c)), nil
}

// describe gives the picture's text to those who do not see it.
func describe(svg string, c Chart) string {
	escape := strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace
	i := strings.Index(svg, "<svg")
	i += strings.Index(svg[i:], ">") + 1
	return svg[:i] + "\n<title>" + escape(c.Title) + "</title>\n<desc>" + escape(c.Subtitle) + "</desc>" + svg[i:]
}

func (t theme) style(size float64, bold bool) text.Style {
	face := font.Font{Typeface: "Liberation", Variant: "Sans", Size: font.Length(size)}
	if bold {
		face.Weight = 2 // golang.org/x/image/font.WeightSemiBold and above
	}
	return text.Style{Color: t.text, Font: face, Handler: plot.DefaultTextHandler}
}

func (t theme) legend(c draw.Canvas, at vg.Point, styles []Style) {
	label := t.style(11.5, false)
	for _, style := range styles {
		line := t.line(style)
		middle := at.Y + 4
		c.StrokeLine2(line, at.X, middle, at.X+24, middle)
		c.DrawGlyph(t.glyph(style), vg.Point{X: at.X + 12, Y: middle})
		at.X += 30
		c.FillText(label, at, style.Name)
		at.X += label.Width(style.Name) + 20
	}
}

func (t theme) line(s Style) draw.LineStyle {
	line := draw.LineStyle{Color: t.colours[s.Colour], Width: 1.6}
	if s.Thick {
		line.Width = 2.8
	}
	if s.Dashed {
		line.Dashes = []vg.Length{5, 3}
	}
	return line
}

func (t theme) glyph(s Style) draw.GlyphStyle {
	shapes := [...]draw.GlyphDrawer{draw.CircleGlyph{}, draw.SquareGlyph{}, draw.PyramidGlyph{}, draw.CircleGlyph{}, draw.SquareGlyph{}}
	glyph := draw.GlyphStyle{Color: t.colours[s.Colour], Radius: 3.2, Shape: shapes[s.Colour]}
	if s.Dashed {
		glyph.Shape = draw.RingGlyph{}
	}
	return glyph
}

func (t theme) panel(area draw.Canvas, panel Panel) error {
	area.FillText(t.style(13, true), vg.Point{X: area.Min.X, Y: area.Max.Y - 14}, panel.Title)
	area.Max.Y -= 22
	if panel.ShowLegend {
		var styles []Style
		for _, line := range panel.Lines {
			styles = append(styles, line.Style)
		}
		t.legend(area, vg.Point{X: area.Min.X, Y: area.Max.Y - 12}, styles)
		area.Max.Y -= 20
	}
	p := plot.New()
	p.BackgroundColor = nil
	p.X.Label.Text, p.Y.Label.Text = panel.XLabel, panel.YLabel
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Color, axis.Tick.Color = t.grid, t.grid
		axis.Label.TextStyle.Color, axis.Tick.Label.Color = t.text, t.text
		axis.Label.TextStyle.Font.Variant, axis.Tick.Label.Font.Variant = "Sans", "Sans"
		axis.Label.TextStyle.Font.Size, axis.Tick.Label.Font.Size = 11.5, 11
		axis.Padding = 4
	}
	p.X.Label.Padding, p.Y.Label.Padding = 3, 4
	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Horizontal.Width = t.grid, 0.8
	grid.Vertical.Width = 0
	p.Add(grid)

	highest := 0.0
	for _, line := range panel.Lines {
		var points plotter.XYs
		for x, y := range line.Figures {
			if !math.IsNaN(y) {
				points = append(points, plotter.XY{X: float64(x), Y: y})
				highest = max(highest, y)
			}
		}
		if len(points) == 0 {
			continue
		}
		drawn, marks, err := plotter.NewLinePoints(points)
		if err != nil {
			return err
		}
		drawn.LineStyle, marks.GlyphStyle = t.line(line.Style), t.glyph(line.Style)
		p.Add(drawn)
		if len(points) <= 10 {
			p.Add(marks)
		}
	}
	p.X.Min, p.X.Max = -0.15, float64(len(panel.Categories))-0.85
	p.Y.Min, p.Y.Max = 0, max(highest*1.06, 1e-9)
	p.X.Tick.Marker = plot.TickerFunc(func(float64, float64) (ticks []plot.Tick) {
		for x, label := range panel.Categories {
			if label != "" {
				ticks = append(ticks, plot.Tick{Value: float64(x), Label: label})
			}
		}
		return ticks
	})
	p.Y.Tick.Marker = plot.TickerFunc(yTicks)
	p.Draw(area)
	return nil
}

// yTicks are four to six round numbers.
func yTicks(_, highest float64) (ticks []plot.Tick) {
	step := math.Pow(10, math.Floor(math.Log10(highest/4)))
	for _, factor := range []float64{5, 2} {
		if highest/(step*factor) >= 3.5 {
			step *= factor
			break
		}
	}
	for i := 0; float64(i)*step <= highest; i++ {
		y := float64(i) * step
		ticks = append(ticks, plot.Tick{Value: y, Label: Short(y)})
	}
	return ticks
}

// Short returns a round number in few letters.
func Short(y float64) string {
	switch {
	case y >= 1e6:
		return strconv.FormatFloat(y/1e6, 'g', 4, 64) + " M"
	case y >= 1e3:
		return strconv.FormatFloat(y/1e3, 'g', 4, 64) + " k"
	}
	return fmt.Sprintf("%.4g", y)
}
