package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pgsession/pgsession/bench/internal/measure"
)

// A report is what the run writes as JSON.
type report struct {
	Environment environment        `json:"environment"`
	Results     []result           `json:"results"`
	Checkpoints []checkpointResult `json:"checkpoints,omitempty"`
}

// A checkpointResult is the WAL of a contender's saves just after a checkpoint, when
// that share of the sessions is saved once.
type checkpointResult struct {
	Size            int     `json:"value_bytes"`
	Share           float64 `json:"share_of_sessions"`
	Contender       string  `json:"contender"`
	WALBytesPerSave float64 `json:"wal_bytes_per_save"`
}

type environment struct {
	Date        time.Time         `json:"date"`
	Go          string            `json:"go"`
	System      string            `json:"system"`
	Processors  int               `json:"processors"`
	Server      string            `json:"server"` // where it came from
	PostgreSQL  string            `json:"postgresql"`
	Settings    map[string]string `json:"settings"`
	Connections int               `json:"connections"`
	Sessions    int               `json:"sessions"`
	Rounds      int               `json:"rounds"`
	TurnSeconds float64           `json:"turn_seconds"`
}

// A result is one contender's in one case. But for the extremes, each figure is the
// median of the rounds.
type result struct {
	Operation           string  `json:"operation"`
	Size                int     `json:"value_bytes"`
	AddedRoundTripMS    float64 `json:"added_round_trip_ms"` // 0 is the server's own socket
	Callers             int     `json:"callers"`
	Contender           string  `json:"contender"`
	PerSecond           float64 `json:"calls_per_second"`
	Ratio               float64 `json:"ratio"` // to the reference's calls a second in the same round
	PerSecondMin        float64 `json:"calls_per_second_min"`
	PerSecondMax        float64 `json:"calls_per_second_max"`
	P50                 float64 `json:"p50_ms"`
	P99                 float64 `json:"p99_ms"`
	AllocsPerCall       float64 `json:"allocations_per_call"`
	HeapBytesPerCall    float64 `json:"heap_bytes_per_call"`
	StatementsPerCall   float64 `json:"statements_per_call"`
	WALBytesPerCall     float64 `json:"wal_bytes_per_call"`
	ServerMicrosPerCall float64 `json:"server_cpu_us_per_call,omitempty"`
	ClientMicrosPerCall float64 `json:"client_cpu_us_per_call"`
	HeapOnly            float64 `json:"hot_share,omitempty"` // of the updates
}

func summarize(testCase testCase, contender string, turns, reference []turn, heapOnly float64) result {
	figures := func(of func(turn) float64) (all []float64) {
		for _, t := range turns {
			all = append(all, of(t))
		}
		return all
	}
	median := func(of func(turn) float64) float64 { return measure.Median(figures(of)) }
	perSecond := figures(func(t turn) float64 { return t.Throughput })
	ratios := make([]float64, len(turns))
	for i := range turns {
		ratios[i] = turns[i].Throughput / reference[i].Throughput
	}
	return result{
		Operation:           testCase.operation,
		Size:                testCase.size,
		AddedRoundTripMS:    milliseconds(testCase.roundTrip),
		Callers:             testCase.callers,
		Contender:           contender,
		PerSecond:           measure.Median(perSecond),
		Ratio:               measure.Median(ratios),
		PerSecondMin:        slices.Min(perSecond),
		PerSecondMax:        slices.Max(perSecond),
		P50:                 median(func(t turn) float64 { return milliseconds(t.P50) }),
		P99:                 median(func(t turn) float64 { return milliseconds(t.P99) }),
		AllocsPerCall:       median(func(t turn) float64 { return t.Allocs }),
		HeapBytesPerCall:    median(func(t turn) float64 { return t.Bytes }),
		StatementsPerCall:   median(func(t turn) float64 { return t.statements }),
		WALBytesPerCall:     median(func(t turn) float64 { return t.wal }),
		ServerMicrosPerCall: median(func(t turn) float64 { return t.serverSeconds * 1e6 }),
		ClientMicrosPerCall: median(func(t turn) float64 { return t.ownSeconds * 1e6 }),
		HeapOnly:            heapOnly,
	}
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }

func (b *bench) describe(ctx context.Context) *report {
	env := environment{
		Date: time.Now().UTC().Truncate(time.Second), Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH,
		Processors: runtime.NumCPU(), Server: b.server.Kind, Settings: map[string]string{},
		Connections: b.connections, Sessions: b.sessions, Rounds: b.rounds, TurnSeconds: b.length.Seconds(),
	}
	for _, name := range []string{"server_version", "fsync", "full_page_writes", "synchronous_commit", "shared_buffers", "autovacuum"} {
		var value string
		if err := b.admin.QueryRow(ctx, `SELECT current_setting($1)`, name).Scan(&value); err == nil {
			env.Settings[name] = value
		}
	}
	env.PostgreSQL = env.Settings["server_version"]
	delete(env.Settings, "server_version")
	return &report{Environment: env}
}

func readReport(path string) (*report, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := &report{}
	return r, json.Unmarshal(content, r)
}

func (r *report) write(path string) error {
	content, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(content, '\n'), 0o644)
}

// A group is the results of one case.
func (r *report) groups() (groups [][]result) {
	key := func(r result) result {
		return result{Operation: r.Operation, Size: r.Size, AddedRoundTripMS: r.AddedRoundTripMS, Callers: r.Callers}
	}
	for _, one := range r.Results {
		last := len(groups) - 1
		if last < 0 || key(groups[last][0]) != key(one) {
			groups = append(groups, nil)
			last++
		}
		groups[last] = append(groups[last], one)
	}
	return groups
}

// print writes a table for each case, with ratios to the reference.
func (r *report) print(to io.Writer) {
	env := r.Environment
	fmt.Fprintf(to, "PostgreSQL %s, %s, %s, %d processors for client and server, %d connections, %d sessions, medians of %d rounds of %gs\n",
		env.PostgreSQL, env.Go, env.System, env.Processors, env.Connections, env.Sessions, env.Rounds, env.TurnSeconds)
	for _, group := range r.groups() {
		first := group[0]
		network := "socket"
		if first.AddedRoundTripMS > 0 {
			network = fmt.Sprintf("%g ms round trip", first.AddedRoundTripMS)
		}
		fmt.Fprintf(to, "\n%s, %d bytes, %s, callers: %d\n", first.Operation, first.Size, network, first.Callers)
		reference := group[max(slices.IndexFunc(group, func(r result) bool { return r.Contender == scsPgx }), 0)]
		table := tabwriter.NewWriter(to, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(table, strings.Join([]string{"", "calls/s", "ratio", "p50 ms", "p99 ms", "ratio", "allocs", "bytes", "statements", "WAL bytes", "server µs", "client µs", "HOT", ""}, "\t"))
		for _, one := range group {
			heapOnly := ""
			if one.Operation == opSave {
				heapOnly = fmt.Sprintf("%.0f%%", 100*one.HeapOnly)
			}
			fmt.Fprintf(table, "%s\t%.0f\t%.2f\t%.2f\t%.2f\t%.2f\t%.1f\t%.0f\t%.3f\t%.0f\t%.0f\t%.0f\t%s\t\n", one.Contender,
				one.PerSecond, one.Ratio, one.P50, one.P99, one.P99/reference.P99,
				one.AllocsPerCall, one.HeapBytesPerCall, one.StatementsPerCall, one.WALBytesPerCall, one.ServerMicrosPerCall, one.ClientMicrosPerCall, heapOnly)
		}
		table.Flush()
	}
	if len(r.Checkpoints) == 0 {
		return
	}
	fmt.Fprintln(to, "\nWAL bytes a save, page images included, where a share of the sessions is saved once after a checkpoint")
	table := tabwriter.NewWriter(to, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, strings.Join([]string{"", "value bytes", "share", "WAL bytes", "ratio", ""}, "\t"))
	for _, one := range r.Checkpoints {
		reference := slices.IndexFunc(r.Checkpoints, func(other checkpointResult) bool {
			return other.Contender == scsPgx && other.Size == one.Size && other.Share == one.Share
		})
		ratio := math.NaN()
		if reference >= 0 {
			ratio = one.WALBytesPerSave / r.Checkpoints[reference].WALBytesPerSave
		}
		fmt.Fprintf(table, "%s\t%d\t%g%%\t%.0f\t%.2f\t\n", one.Contender, one.Size, 100*one.Share, one.WALBytesPerSave, ratio)
	}
	table.Flush()
}
