package chart_test

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession/bench/internal/chart"
)

func TestChart_Write(t *testing.T) {
	t.Parallel()
	fast := chart.Style{Name: "fast & furious", Colour: chart.Blue}
	slow := chart.Style{Name: "slow", Colour: chart.Orange, Dashed: true}
	c := chart.Chart{
		Title: "Title", Subtitle: "Subtitle", Legend: []chart.Style{fast, slow},
		Rows: [][]chart.Panel{{{
			Title: "Panel", XLabel: "callers", YLabel: "calls a second", Categories: []string{"1", "", "64"},
			Lines: []chart.Line{{fast, []float64{1000, 20_000, 30_000}}, {slow, []float64{1000, math.NaN(), 5_000}}},
		}}},
	}
	path := filepath.Join(t.TempDir(), "chart")
	require.NoError(t, c.Write(path))
	for _, theme := range []string{"light", "dark"} {
		texts := textsOf(t, path+"-"+theme+".svg")
		for _, want := range []string{"Title", "Subtitle", "fast & furious", "slow", "Panel", "callers", "calls a second", "1", "64", "0", "30 k"} {
			require.Contains(t, texts, want, theme)
		}
	}
}

func textsOf(t *testing.T, path string) (texts []string) {
	file, err := os.Open(path)
	require.NoError(t, err)
	defer file.Close()
	for decoder := xml.NewDecoder(file); ; {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return texts
		}
		require.NoError(t, err)
		if text, ok := token.(xml.CharData); ok {
			texts = append(texts, string(text))
		}
	}
}

func TestShort(t *testing.T) {
	t.Parallel()
	for figure, want := range map[float64]string{0: "0", 2.5: "2.5", 999: "999", 10_000: "10 k", 12_500: "12.5 k", 10_000_000: "10 M"} {
		require.Equal(t, want, chart.Short(figure))
	}
}
