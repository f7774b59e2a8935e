// Package results holds the figures that README and docs quote. Its tests keep the quotations true.
package results

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/perf/benchfmt"
	"golang.org/x/perf/benchproc"
)

// figures are a file of results, as benchstat reads it.
type figures struct {
	t       *testing.T
	results []*benchfmt.Result
}

func read(t *testing.T, file string) (f figures) {
	f.t = t
	content, err := os.Open(file)
	require.NoError(t, err)
	defer content.Close()
	reader := benchfmt.NewReader(content, file)
	for reader.Scan() {
		switch r := reader.Result().(type) {
		case *benchfmt.Result:
			f.results = append(f.results, r.Clone())
		case *benchfmt.SyntaxError:
			require.NoError(t, r)
		}
	}
	require.NoError(t, reader.Err())
	return f
}

// all returns a unit's figures of all results that a query selects, in benchstat's language.
func (f figures) all(unit, query string, args ...any) (values []float64) {
	f.t.Helper()
	query = fmt.Sprintf(query, args...)
	filter, err := benchproc.NewFilter(query)
	require.NoError(f.t, err, query)
	for _, r := range f.results {
		if match, _ := filter.Match(r); match.All() {
			if value, isThere := r.Value(unit); isThere {
				values = append(values, value)
			}
		}
	}
	require.NotEmpty(f.t, values, "%s of %s", unit, query)
	return values
}

func (f figures) median(unit, query string, args ...any) float64 {
	f.t.Helper()
	values := slices.Sorted(slices.Values(f.all(unit, query, args...)))
	middle := len(values) / 2
	if len(values)%2 == 0 {
		return (values[middle-1] + values[middle]) / 2
	}
	return values[middle]
}

const (
	seconds = "sec/op"
	p99     = "p99-sec"
	log     = "WAL-B/op"
)

// toSCS returns scs's median divided by this library's: how many times as many calls a second, if
// the unit is a call's time.
func (f figures) toSCS(unit, query string, args ...any) float64 {
	f.t.Helper()
	query = fmt.Sprintf(query, args...)
	return f.median(unit, query+" /store:scs") / f.median(unit, query+" /store:pgsession")
}

// cpu returns the microseconds of CPU of a call, client and server together.
func (f figures) cpu(query string, args ...any) float64 {
	f.t.Helper()
	return 1e6 * (f.median("client-sec/op", query, args...) + f.median("server-sec/op", query, args...))
}

// requireQuoted wants each claim in a document, however its lines are broken.
func requireQuoted(t *testing.T, document string, claims ...string) {
	t.Helper()
	content, err := os.ReadFile("../../" + document)
	require.NoError(t, err)
	text := strings.Join(strings.Fields(string(content)), " ")
	for _, claim := range claims {
		assert.True(t, strings.Contains(text, claim), "%s does not say: %s", document, claim)
	}
}

// thousands writes a number as prose has it.
func thousands(n float64) string {
	if n < 1000 {
		return fmt.Sprintf("%.0f", n)
	}
	return fmt.Sprintf("%d,%03d", int(n+0.5)/1000, int(n+0.5)%1000)
}

// requests are the kinds of requests, in the order of the tables.
var requests = []struct{ name, query string }{
	{"page", "/op:page /keys:uniform"},
	{"change", "/op:change /keys:uniform"},
	{"log-in", "/op:login"},
	{"log-in without a session", "/op:first-login"},
}

func TestHTTP(t *testing.T) {
	t.Parallel()
	f := read(t, "http.txt")
	const query = ".name:HTTP rtt:%s %s /clients:%d"
	// faster returns how many times as many requests of each kind are answered a second, with a table's
	// column for each. slower is the same of what the slowest percent take.
	faster := func(roundTrip string, clients int) (ratios []any) {
		for _, r := range requests {
			ratios = append(ratios, f.toSCS(seconds, query, roundTrip, r.query, clients))
		}
		return ratios
	}
	slower := func(clients int) (ratios []any) {
		for _, r := range requests {
			ratios = append(ratios, 1/f.toSCS(p99, query, "0s", r.query, clients))
		}
		return ratios
	}
	const document = "docs/performance.md"
	for _, clients := range []int{1, 16, 64, 256} {
		requireQuoted(t, document, fmt.Sprintf("| %d | ", clients)+
			fmt.Sprintf("%.1f | %.1f | %.1f | %.1f | ", faster("0s", clients)...)+fmt.Sprintf("%.2f, %.2f, %.2f, %.2f |", slower(clients)...))
	}
	requireQuoted(t, document, "Over a network of 2 ms, "+
		fmt.Sprintf("256 clients get %.1f times the pages, %.1f times the changes, and %.1f and %.1f times the log-ins.", faster("2ms", 256)...))
	const skewed = ".name:HTTP rtt:0s /op:%s /keys:zipf /clients:256"
	requireQuoted(t, document, fmt.Sprintf("If they are called by Zipf's law, the first of them in one call of seven, "+
		"256 clients get %.1f times the pages and %.1f times the changes.", f.toSCS(seconds, skewed, "page"), f.toSCS(seconds, skewed, "change")))
	for _, clients := range []int{1, 256} {
		for _, r := range requests {
			of := func(unit, store string) float64 {
				return f.median(unit, query+" /store:"+store, "0s", r.query, clients)
			}
			cpu := func(store string) string {
				return fmt.Sprintf("%.0f + %.0f", 1e6*of("client-sec/op", store), 1e6*of("server-sec/op", store))
			}
			requireQuoted(t, document, fmt.Sprintf("| %s, %d | %s | %s | %.0f, %.0f | %.2f, %.2f |", r.name, clients, cpu("pgsession"), cpu("scs"),
				of("allocs/op", "pgsession"), of("allocs/op", "scs"), of("stmts/op", "pgsession"), of("stmts/op", "scs")))
		}
	}
	at256 := faster("0s", 256)
	requireQuoted(t, "README.md", fmt.Sprintf("256 clients get %.1f times as many pages, %.1f times as many changes and %.1f times as many log-ins answered as with scs, which does not encrypt.",
		at256[:3]...), fmt.Sprintf("One client gets %.1f, %.1f and %.1f times as many.", faster("0s", 1)[:3]...))
	requireQuoted(t, "docs/httpsession.md", fmt.Sprintf("With 256 clients, pages that read the session came %.1f times as often as scs's, changes %.1f times and log-ins %.1f times", at256[:3]...))
}

func TestStore(t *testing.T) {
	t.Parallel()
	f := read(t, "store.txt")
	for _, network := range []struct{ roundTrip, words string }{{"0s", ""}, {"2ms", ", over a network of 2 ms"}} {
		for _, callers := range []int{1, 16, 64, 256} {
			load, save := "/op:load /clients:%d rtt:%s", "/op:save /clients:%d rtt:%s"
			requireQuoted(t, "docs/performance.md", fmt.Sprintf("| %d%s | %.2f | %.2f | %.2f, %.2f |", callers, network.words,
				f.toSCS(seconds, load, callers, network.roundTrip), f.toSCS(seconds, save, callers, network.roundTrip),
				1/f.toSCS(p99, load, callers, network.roundTrip), 1/f.toSCS(p99, save, callers, network.roundTrip)))
		}
	}
	const load, save = "rtt:0s /clients:256 /op:load /store:", "rtt:0s /clients:256 /op:save /store:"
	requireQuoted(t, "docs/performance.md",
		fmt.Sprintf("At 256 callers a load costs %.0f µs of CPU, client and server together, and scs's costs %.0f. A save costs %.0f µs, and scs's %.0f.",
			f.cpu(load+"pgsession"), f.cpu(load+"scs"), f.cpu(save+"pgsession"), f.cpu(save+"scs")),
		fmt.Sprintf("A save writes %s bytes of WAL against %s", thousands(f.median(log, save+"pgsession")), thousands(f.median(log, save+"scs"))))
	requireQuoted(t, "docs/scaling.md", fmt.Sprintf("A load cost %.0f µs of CPU at 256 callers, client and server together, and a save %.0f µs.",
		f.cpu(load+"pgsession"), f.cpu(save+"pgsession")))
}

func TestGrowth(t *testing.T) {
	t.Parallel()
	f := read(t, "growth.txt")
	// slower returns how many times as long an operation takes with so many sessions as with 10
	// thousand.
	slower := func(op string, sessions int, value string) float64 {
		query := fmt.Sprintf("value:%s %s /sessions:", value, op)
		return f.median(seconds, "%s%d", query, sessions) / f.median(seconds, "%s10000", query)
	}
	const load, save, find, crowd = "/op:load /clients:16", "/op:save", "/op:find-by-user", "/op:load /clients:256"
	of := func(op string) float64 { return slower(op, 1e7, "512B") }
	requireQuoted(t, "docs/performance.md", fmt.Sprintf("At 10 million sessions a load took %.2f times as long as at 10 thousand, a save %.2f and `FindByUser` %.2f times.",
		of(load), of(save), of(find)))
	background := f.all("sec/row", "value:512B /op:cleanup")
	requireQuoted(t, "docs/performance.md", fmt.Sprintf("The background clean-up took %.0f to %.0f µs an expired row at any size",
		1e6*slices.Min(background), 1e6*slices.Max(background)))
	requireQuoted(t, "docs/scaling.md", fmt.Sprintf("With 10 million sessions a load took %.2f times as long as with 10 thousand, and a save %.2f times", of(load), of(save)))

	of = func(op string) float64 { return slower(op, 1e8, "16B") }
	const large, small = "value:16B /sessions:100000000", "value:16B /sessions:10000"
	requireQuoted(t, "docs/scaling.md",
		fmt.Sprintf("With 100 million sessions of 16 bytes, which take %.0f bytes each with their indexes, loads took %.2f times as long as with 10 thousand, saves %.2f and `FindByUser` %.2f times, and loads of 256 callers %.2f times. The background clean-up took %.0f µs an expired row, and %.0f before",
			f.median("B/session", large), of(load), of(save), of(find), of(crowd),
			1e6*f.median("sec/row", large+" /op:cleanup"), 1e6*f.median("sec/row", small+" /op:cleanup")),
		fmt.Sprintf("A log-in took %.2f times as long and wrote %s bytes of WAL", of("/op:create"), thousands(f.median(log, large+" /op:create"))),
		fmt.Sprintf("`CleanupExpired` took %.0f ms an expired row", 1e3*f.median("sec/row", large+" /op:cleanup-expired")))
}

// TestHistory is about experiments that have ended.
func TestHistory(t *testing.T) {
	t.Parallel()
	f := read(t, "history.txt")
	withHash := func(op, sessions string) (ratios []float64) {
		query := ".name:HashIndex /op:" + op + " /sessions:" + sessions + " /index:"
		without := f.all(seconds, "%snone", query)
		for i, with := range f.all(seconds, "%shash", query) {
			ratios = append(ratios, with/without[i])
		}
		return ratios
	}
	loads, creates := withHash("load", "/./"), withHash("create", "/./")
	disk := f.all("B/session", "/index:hash /sessions:(1000000 OR 10000000)")
	sharing := func(op, size string) float64 {
		return f.median("shared-to-alone", ".name:Sharing /op:%s /value:%s", op, size)
	}
	afterCheckpoint := func(store, share string) string {
		return thousands(f.median(log, ".name:AfterCheckpoint /store:%s /share:%s", store, share))
	}
	requireQuoted(t, "docs/performance.md",
		fmt.Sprintf("256 callers got up to %.0f %% more loads, but %.0f %% more at 10 million sessions; log-ins took %.0f to %.0f %% longer, and from a million on a session took %.0f to %.0f bytes more",
			100/slices.Min(loads)-100, 100/withHash("load", "10000000")[0]-100, 100*slices.Min(creates)-100, 100*slices.Max(creates)-100, slices.Min(disk), slices.Max(disk)),
		fmt.Sprintf("256 callers got %.1f times the loads and %.1f times the saves with values of 1 KiB, %.1f and %.1f times with 16 KiB, and %.1f and %.1f times with 64 KiB",
			sharing("load", "1KiB"), sharing("save", "1KiB"), sharing("load", "16KiB"), sharing("save", "16KiB"), sharing("load", "64KiB"), sharing("save", "64KiB")),
		fmt.Sprintf("a save wrote %s bytes of WAL against scs's %s if one session in a hundred was saved, and %s against %s if all were",
			afterCheckpoint("pgsession", "1%"), afterCheckpoint("scs", "1%"), afterCheckpoint("pgsession", "100%"), afterCheckpoint("scs", "100%")),
		fmt.Sprintf("%.0f %% of the updates were heap-only (HOT)", 100*f.median("HOT/op", ".name:HeapOnly")),
		fmt.Sprintf("the table with its indexes was %.2f times as large as after the first hour", f.median("size-to-first-hour", ".name:Churn")))
}
