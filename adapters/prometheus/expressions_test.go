package pgsessionprom_test

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/stretchr/testify/require"
)

// scraped are the series that a used store and its pool give, as a server keeps them.
func scraped(t testing.TB) []labels.Labels {
	t.Helper()
	store, pool := newStore(t)
	use(t, store)
	var all []labels.Labels
	for name := range gather(t, registryOf(t, store, pool)) {
		parsed, err := parser.ParseMetric(name)
		require.NoError(t, err)
		all = append(all, parsed)
	}
	return all
}

// ofServer are the labels that the server or the application adds.
var ofServer = []string{"job", "instance", "store"}

// requireExpression wants an expression that parses, and whose every selector finds a series that
// the collectors give.
func requireExpression(t testing.TB, series []labels.Labels, text string) {
	t.Helper()
	expr, err := parser.ParseExpr(text)
	require.NoError(t, err, text)
	selectors := 0
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		switch node := node.(type) {
		case *parser.VectorSelector:
			selectors++
			require.True(t, finds(node.LabelMatchers, series), "%s finds nothing", node)
		case *parser.AggregateExpr:
			for _, label := range node.Grouping {
				require.True(t, isLabel(label, series), "%s: no series has the label %s", text, label)
			}
		}
		return nil
	})
	require.Positive(t, selectors, text)
}

// finds reports whether one of the series has all labels that the matchers want, but those of the
// server.
func finds(matchers []*labels.Matcher, series []labels.Labels) bool {
	return slices.ContainsFunc(series, func(one labels.Labels) bool {
		return !slices.ContainsFunc(matchers, func(m *labels.Matcher) bool {
			return !isOfServer(m.Name) && (!one.Has(m.Name) || !m.Matches(one.Get(m.Name)))
		})
	})
}

func isLabel(name string, series []labels.Labels) bool {
	return isOfServer(name) || slices.ContainsFunc(series, func(one labels.Labels) bool { return one.Has(name) })
}

func isOfServer(name string) bool { return slices.Contains(ofServer, name) }

type dashboard struct {
	Title         string
	UID           string
	SchemaVersion int
	Templating    struct {
		List []struct{ Name, Type string }
	}
	Panels []struct {
		ID         int
		Type       string
		Title      string
		Datasource datasource
		GridPos    struct{ X, Y, W, H int }
		Targets    []struct {
			RefID        string
			Expr         string
			LegendFormat string
			Datasource   datasource
		}
	}
}

type datasource struct{ Type, UID string }

// TestDashboard wants what Grafana imports, and expressions over metrics that there are.
func TestDashboard(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("dashboard.json")
	require.NoError(t, err)
	var board dashboard
	require.NoError(t, json.Unmarshal(content, &board))
	require.NotEmpty(t, board.Title)
	require.Equal(t, "pgsession", board.UID)
	require.GreaterOrEqual(t, board.SchemaVersion, 36)
	require.NotEmpty(t, board.Panels)

	series := scraped(t)
	variables := map[string]bool{"__rate_interval": true}
	for _, variable := range board.Templating.List {
		variables[variable.Name] = true
	}
	used := map[string]bool{}
	taken := map[string]int{}
	ids := map[int]bool{}
	source := datasource{"prometheus", "${datasource}"}
	for _, panel := range board.Panels {
		require.False(t, ids[panel.ID], "panel id %d", panel.ID)
		ids[panel.ID] = true
		require.Positive(t, panel.ID)
		require.Contains(t, []string{"stat", "timeseries"}, panel.Type)
		require.Equal(t, source, panel.Datasource, panel.Title)
		at := panel.GridPos
		require.LessOrEqual(t, at.X+at.W, 24, panel.Title)
		for x := at.X; x < at.X+at.W; x++ {
			for y := at.Y; y < at.Y+at.H; y++ {
				cell := fmt.Sprintf("%d/%d", x, y)
				require.Zero(t, taken[cell], "%s lies over panel %d", panel.Title, taken[cell])
				taken[cell] = panel.ID
			}
		}
		require.NotEmpty(t, panel.Targets, panel.Title)
		refs := map[string]bool{}
		for _, target := range panel.Targets {
			require.False(t, refs[target.RefID], panel.Title)
			refs[target.RefID] = true
			require.Equal(t, source, target.Datasource, panel.Title)
			require.NotEmpty(t, target.LegendFormat, panel.Title)
			for _, name := range regexp.MustCompile(`\$(\w+)`).FindAllStringSubmatch(target.Expr, -1) {
				require.True(t, variables[name[1]], "%s: there is no variable %s", panel.Title, name[1])
				used[name[1]] = true
			}
			requireExpression(t, series, strings.ReplaceAll(target.Expr, "$__rate_interval", "5m"))
		}
	}
	for _, label := range ofServer {
		require.True(t, used[label], label)
	}
	metrics := map[string]bool{}
	for _, one := range series {
		metrics[regexp.MustCompile(`_(bucket|count|sum)$`).ReplaceAllString(one.Get(model.MetricNameLabel), "")] = true
	}
	for name := range metrics {
		if strings.HasPrefix(name, "pgsession_") {
			require.Contains(t, string(content), name, "a metric without a panel")
		}
	}
}

// alerts are the rules of alerts.yml, as Prometheus reads them.
func alerts(t testing.TB) []rulefmt.Rule {
	t.Helper()
	groups, errs := rulefmt.ParseFile("alerts.yml", false, model.UTF8Validation)
	require.Empty(t, errs)
	require.Len(t, groups.Groups, 1)
	return groups.Groups[0].Rules
}

func TestAlerts(t *testing.T) {
	t.Parallel()
	series := scraped(t)
	for _, rule := range alerts(t) {
		require.True(t, strings.HasPrefix(rule.Alert, "Pgsession"), rule.Alert)
		requireExpression(t, series, rule.Expr)
		require.Contains(t, []string{"critical", "warning"}, rule.Labels["severity"], rule.Alert)
		require.NotEmpty(t, rule.Annotations["summary"], rule.Alert)
		require.NotEmpty(t, rule.Annotations["description"], rule.Alert)
	}
}
