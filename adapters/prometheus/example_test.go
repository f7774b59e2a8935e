package pgsessionprom_test

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/IBM/pgxpoolprometheus"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	pgsessionprom "github.com/pgsession/pgsession/adapters/prometheus"
	"github.com/pgsession/pgsession/internal/doctest"
)

// register adds the metrics of a store and of its pool to those of the process.
func register(store *pgsession.Store, pool *pgxpool.Pool) {
	prometheus.MustRegister(pgsessionprom.NewCollector(store))
	prometheus.MustRegister(pgxpoolprometheus.NewCollector(pool, nil)) // the pool's connections
}

var _ = register

func ExampleNewCollector() {
	store := pgsession.InMemory()
	registry := prometheus.NewRegistry()
	registry.MustRegister(pgsessionprom.NewCollector(store))

	_, err := store.Load(context.Background(), pgsession.NewID())
	fmt.Println(err)
	families, err := registry.Gather()
	if err != nil {
		panic(err)
	}
	for _, family := range families {
		if family.GetName() != "pgsession_operations_total" {
			continue
		}
		for _, metric := range family.GetMetric() {
			if n := metric.GetCounter().GetValue(); n > 0 {
				fmt.Println(metric.GetLabel()[0].GetValue(), metric.GetLabel()[1].GetValue(), n)
			}
		}
	}
	// Output:
	// pgsession: session not found
	// load not_found 1
}

// Several stores of one process are told apart by a label.
func ExampleNewCollector_severalStores() {
	registry := prometheus.NewRegistry()
	for name, store := range map[string]*pgsession.Store{"shop": pgsession.InMemory(), "admin": pgsession.InMemory()} {
		prometheus.WrapRegistererWith(prometheus.Labels{"store": name}, registry).MustRegister(pgsessionprom.NewCollector(store))
	}
	families, err := registry.Gather()
	if err != nil {
		panic(err)
	}
	for _, metric := range families[0].GetMetric() {
		fmt.Println(metric.GetLabel()[0].GetValue())
	}
	// Output:
	// admin
	// shop
}

// TestReadme builds the README's program, and wants its other code in this file.
func TestReadme(t *testing.T) {
	t.Parallel()
	snippets := doctest.Snippets(t, "README.md", "go")
	require.Len(t, snippets, 3)
	unindented := strings.ReplaceAll(doctest.Read(t, "example_test.go"), "\n\t", "\n")
	for _, s := range snippets {
		if !strings.Contains(s.Code, "package main") {
			require.Contains(t, unindented, strings.TrimSpace(s.Code))
			continue
		}
		doctest.Context{}.Build(t, []doctest.Snippet{s})
	}
}

// TestReadme_Metrics wants every metric in the README's table, and no other.
func TestReadme_Metrics(t *testing.T) {
	t.Parallel()
	store, _ := newStore(t)
	use(t, store)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(pgsessionprom.NewCollector(store, pgsessionprom.WithCounts(time.Minute)))
	families, err := registry.Gather()
	require.NoError(t, err)
	var names, listed []string
	for _, family := range families {
		names = append(names, family.GetName())
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `(pgsession_\\w+)`").FindAllStringSubmatch(doctest.Read(t, "README.md"), -1) {
		listed = append(listed, row[1])
	}
	require.ElementsMatch(t, names, listed)
}
