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
	"text/tabwriter"
	"time"

	"github.com/pgsession/pgsession/bench/internal/measure"
)

// A report is what the run writes as JSON.
type report struct {
	Environment environment    `json:"environment"`
	Locked      []lockedResult `json:"locked,omitempty"`
	Sizes       []sizeResult   `json:"sizes,omitempty"`
	Pages       []pageResult   `json:"pages,omitempty"`
}

type environment struct {
	Date             time.Time         `json:"date"`
	Go               string            `json:"go"`
	System           string            `json:"system"`
	Processors       int               `json:"processors"`
	Server           string            `json:"server"` // where it came from
	Settings         map[string]string `json:"settings"`
	Connections      int               `json:"connections"`
	AddedRoundTripMS float64           `json:"added_round_trip_ms"`
	Others           int               `json:"callers_of_other_rows"`
	LockedCalls      int               `json:"callers_of_the_locked_row"`
	Callers          int               `json:"callers_with_large_values"`
	Rounds           int               `json:"rounds"`
	TurnSeconds      float64           `json:"turn_seconds"`
	Disturbance      float64           `json:"processors_used_by_others"` // a share, median of the rounds
}

// A ratio is the median of the rounds' ratios, and their extremes.
type ratio struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// ratioOf compares the figures of the same rounds.
func ratioOf(figures, reference []float64) ratio {
	ratios := make([]float64, len(figures))
	for i := range figures {
		ratios[i] = figures[i] / reference[i]
	}
	return ratio{measure.Median(ratios), slices.Min(ratios), slices.Max(ratios)}
}

func (r ratio) String() string { return fmt.Sprintf("%.2f (%.2f to %.2f)", r.Median, r.Min, r.Max) }

func medians(figures map[string][]float64) map[string]float64 {
	all := make(map[string]float64, len(figures))
	for name, f := range figures {
		all[name] = measure.Median(f)
	}
	return all
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }

func (b *bench) environment(ctx context.Context) environment {
	env := environment{
		Date: time.Now().UTC().Truncate(time.Second), Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH,
		Processors: runtime.NumCPU(), Server: b.server.Kind, Settings: map[string]string{},
		Connections: b.connections, AddedRoundTripMS: milliseconds(b.roundTrip),
		Others: b.others, LockedCalls: b.lockedCalls, Callers: b.callers, Rounds: b.rounds, TurnSeconds: b.length.Seconds(),
	}
	for _, name := range []string{"server_version", "fsync", "full_page_writes", "synchronous_commit", "shared_buffers", "autovacuum"} {
		var value string
		if err := b.admin.QueryRow(ctx, `SELECT current_setting($1)`, name).Scan(&value); err == nil {
			env.Settings[name] = value
		}
	}
	return env
}

// write keeps three digits of each figure, which is more than the rounds agree on.
func (r *report) write(path string) error {
	content, err := json.Marshal(r)
	if err != nil {
		return err
	}
	var fields any
	if err := json.Unmarshal(content, &fields); err != nil {
		return err
	}
	if content, err = json.MarshalIndent(rounded(fields), "", "\t"); err != nil {
		return err
	}
	return os.WriteFile(path, append(content, '\n'), 0o644)
}

// rounded returns what encoding/json made of a value, with shorter fractions.
func rounded(value any) any {
	switch value := value.(type) {
	case map[string]any:
		for name, field := range value {
			value[name] = rounded(field)
		}
	case []any:
		for i := range value {
			value[i] = rounded(value[i])
		}
	case float64:
		if value == math.Trunc(value) {
			return value
		}
		digits := math.Pow(10, 2-math.Floor(math.Log10(math.Abs(value))))
		if digits < 1 {
			return math.Round(value)
		}
		return math.Round(value*digits) / digits
	}
	return value
}

func (r *report) print(to io.Writer) {
	fmt.Fprintf(to, "medians of %d rounds, with the extremes; other programs used %.0f %% of the processors\n",
		r.Environment.Rounds, 100*r.Environment.Disturbance)
	if len(r.Locked) > 0 {
		fmt.Fprintln(to, "\nsaves of others beside one row")
		table := tabwriter.NewWriter(to, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprint(table, "sharing\t")
		for _, state := range states {
			fmt.Fprintf(table, "%s: saves/s\tp99 ms\t", state)
		}
		fmt.Fprintln(table, "saves, wanted to free\twanted to held\tp99, wanted to free\twanted to held\twaiting, median\tmost\toccupied\t")
		for _, l := range r.Locked {
			fmt.Fprintf(table, "%s\t", l.Sharing)
			for _, state := range states {
				fmt.Fprintf(table, "%.0f\t%.1f\t", l.PerSecond[state], l.P99[state])
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%.0f\t%d\t%d\t\n", l.PerSecondToFree, l.PerSecondToHeld, l.P99ToFree, l.P99ToHeld,
				l.WaitingMedian, l.WaitingMax, l.Occupied)
		}
		table.Flush()
	}
	if len(r.Sizes) > 0 {
		fmt.Fprintln(to, "\nvalues of one size; memory is the peak in MiB")
		table := tabwriter.NewWriter(to, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(table, "operation\tKiB\tshared/s\talone/s\tratio\tcalls/statement\tp99 ms: shared\talone\tclient: shared\talone\tserver: shared\talone\t")
		for _, s := range r.Sizes {
			fmt.Fprintf(table, "%s\t%d\t%.0f\t%.0f\t%s\t%.1f\t", s.Operation, s.Size>>10, s.PerSecond[shared], s.PerSecond[alone], s.Ratio, s.Calls)
			for _, figures := range []map[string]float64{s.P99, s.Client, s.Server} {
				fmt.Fprintf(table, "%.0f\t%.0f\t", figures[shared], figures[alone])
			}
			fmt.Fprintln(table)
		}
		table.Flush()
	}
	if len(r.Pages) > 0 {
		fmt.Fprintln(to, "\nthe whole table in pages; memory is the peak in MiB")
		table := tabwriter.NewWriter(to, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(table, "operation\tKiB\tMiB/s\tclient\tserver\t")
		for _, p := range r.Pages {
			fmt.Fprintf(table, "%s\t%d\t%.0f\t%.0f\t%.0f\t\n", p.Operation, p.Size>>10, p.MiBPerSecond, p.Client, p.Server)
		}
		table.Flush()
	}
}
