// Package results holds the figures that README and docs quote. Its test keeps the quotations true.
package results

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

type sideBySide struct {
	Results     []result
	Checkpoints []struct {
		Contender       string
		Size            int     `json:"value_bytes"`
		Share           float64 `json:"share_of_sessions"`
		WALBytesPerSave float64 `json:"wal_bytes_per_save"`
	}
}

type result struct {
	Operation        string
	Size             int     `json:"value_bytes"`
	AddedRoundTripMS float64 `json:"added_round_trip_ms"`
	Callers          int
	Contender        string
	Ratio            float64
	P99              float64 `json:"p99_ms"`
	WALBytesPerCall  float64 `json:"wal_bytes_per_call"`
	ServerMicros     float64 `json:"server_cpu_us_per_call"`
	ClientMicros     float64 `json:"client_cpu_us_per_call"`
	HeapOnly         float64 `json:"hot_share"`
}

const (
	own   = "pgsession"
	other = "scs pgxstore"
)

func read[T any](t *testing.T, file string) (content T) {
	t.Helper()
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &content))
	return content
}

func (s *sideBySide) of(t *testing.T, contender, operation string, callers int, roundTripMS float64) result {
	t.Helper()
	for _, r := range s.Results {
		if r.Contender == contender && r.Operation == operation && r.Callers == callers && r.AddedRoundTripMS == roundTripMS && r.Size == 1024 {
			return r
		}
	}
	require.Fail(t, "not measured", "%s, %s, %d callers, %g ms", contender, operation, callers, roundTripMS)
	return result{}
}

// requireQuoted wants each claim in a document, however its lines are broken.
func requireQuoted(t *testing.T, file string, claims ...string) {
	t.Helper()
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	text := strings.Join(strings.Fields(string(data)), " ")
	for _, claim := range claims {
		require.Contains(t, text, claim, file)
	}
}

// thousands writes a number of bytes as prose has it.
func thousands(n float64) string {
	if n < 1000 {
		return fmt.Sprintf("%.0f", n)
	}
	return fmt.Sprintf("%d,%03d", int(n+0.5)/1000, int(n+0.5)%1000)
}

func TestSideBySide(t *testing.T) {
	t.Parallel()
	measured := read[sideBySide](t, "sidebyside.json")
	ratio := func(operation string, callers int) float64 { return measured.of(t, own, operation, callers, 0).Ratio }
	requireQuoted(t, "../../README.md", fmt.Sprintf(
		"One caller alone gets %.2f times the loads and %.2f times the saves of scs's store, which does not encrypt. 256 concurrent callers get %.1f and %.1f times as many.",
		ratio("load", 1), ratio("save", 1), ratio("load", 256), ratio("save", 256)))

	var claims []string
	for _, row := range []struct {
		callers     int
		roundTripMS float64
		name        string
	}{
		{1, 0, "1"}, {16, 0, "16"}, {64, 0, "64"}, {256, 0, "256"},
		{16, 2, "16, over a network of 2 ms"}, {64, 2, "64, over a network of 2 ms"}, {256, 2, "256, over a network of 2 ms"},
	} {
		load, save := measured.of(t, own, "load", row.callers, row.roundTripMS), measured.of(t, own, "save", row.callers, row.roundTripMS)
		claims = append(claims, fmt.Sprintf("| %s | %.2f | %.2f | %.2f, %.2f |", row.name, load.Ratio, save.Ratio,
			load.P99/measured.of(t, other, "load", row.callers, row.roundTripMS).P99,
			save.P99/measured.of(t, other, "save", row.callers, row.roundTripMS).P99))
	}
	cpu := func(contender, operation string) float64 {
		r := measured.of(t, contender, operation, 256, 0)
		return r.ServerMicros + r.ClientMicros
	}
	costs := fmt.Sprintf("%.0f µs of CPU, server and client together, and scs's costs %.0f. A save costs %.0f µs, and scs's %.0f.",
		cpu(own, "load"), cpu(other, "load"), cpu(own, "save"), cpu(other, "save"))
	save := measured.of(t, own, "save", 256, 0)
	claims = append(claims, "At 256 callers a load costs "+costs,
		fmt.Sprintf("Of the updates %.0f %% were heap-only (HOT)", 100*save.HeapOnly),
		fmt.Sprintf("A save writes %s bytes of WAL against %s", thousands(save.WALBytesPerCall), thousands(measured.of(t, other, "save", 256, 0).WALBytesPerCall)))
	requireQuoted(t, "../../docs/performance.md", claims...)
	requireQuoted(t, "../../docs/scaling.md", fmt.Sprintf("A load cost %.0f µs of CPU at 256 callers, server and client together, and a save %.0f µs.",
		cpu(own, "load"), cpu(own, "save")))
}

func TestSideBySide_FiveRuns(t *testing.T) {
	t.Parallel()
	measured := read[struct{ Runs []sideBySide }](t, "sidebyside-five.json")
	require.Len(t, measured.Runs, 5)
	var claims []string
	for _, roundTripMS := range []float64{0, 2} {
		for _, callers := range []int{1, 16, 64, 256} {
			name := fmt.Sprint(callers)
			if roundTripMS > 0 {
				name = fmt.Sprintf("%d, over a network of %g ms", callers, roundTripMS)
			}
			var ratios, p99s []string
			for _, operation := range []string{"load", "save"} {
				var of, tails []float64
				for _, run := range measured.Runs {
					r := run.of(t, own, operation, callers, roundTripMS)
					of, tails = append(of, r.Ratio), append(tails, r.P99/run.of(t, other, operation, callers, roundTripMS).P99)
				}
				ratios = append(ratios, strings.Trim(fmt.Sprintf("%.2f", of), "[]"))
				p99s = append(p99s, fmt.Sprintf("%.2f to %.2f", slices.Min(tails), slices.Max(tails)))
			}
			claims = append(claims, fmt.Sprintf("| %s | %s | %s | %s; %s |", name, ratios[0], ratios[1], p99s[0], p99s[1]))
		}
	}
	requireQuoted(t, "../../docs/performance.md", claims...)
}

func TestSideBySide_Checkpoints(t *testing.T) {
	t.Parallel()
	measured := read[sideBySide](t, "sidebyside-full.json")
	wal := func(contender string, share float64) string {
		for _, c := range measured.Checkpoints {
			if c.Contender == contender && c.Share == share && c.Size == 1024 {
				return thousands(c.WALBytesPerSave)
			}
		}
		require.Fail(t, "not measured", "%s, %g", contender, share)
		return ""
	}
	requireQuoted(t, "../../docs/performance.md", fmt.Sprintf(
		"The page images that follow a checkpoint make it %s against %s if one in a hundred sessions is saved, and %s against %s if all are.",
		wal(own, 0.01), wal(other, 0.01), wal(own, 1), wal(other, 1)))
}

type growth struct{ Sizes []size }

type size struct {
	Sessions          int
	Load, Save        operation
	Load256           operation `json:"load_256_callers"`
	FindByUser        operation `json:"find_by_user"`
	LogIn             operation `json:"log_in"`
	CleanupExpired    float64   `json:"cleanup_expired_us_per_row"`
	BackgroundCleanup float64   `json:"background_cleanup_us_per_row"`
	Bytes             []struct{ Bytes int64 }
}

type operation struct {
	PerSecond float64 `json:"calls_per_second"`
	WAL       float64 `json:"wal_bytes_per_call"`
}

// slower returns how many times as long an operation takes at the last size as at the first.
func (g growth) slower(of func(size) operation) float64 {
	return of(g.Sizes[0]).PerSecond / of(g.Sizes[len(g.Sizes)-1]).PerSecond
}

func TestGrowth_Large(t *testing.T) {
	t.Parallel()
	measured := read[growth](t, "growth-large.json")
	first, last := measured.Sizes[0], measured.Sizes[len(measured.Sizes)-1]
	var bytes int64
	for _, relation := range last.Bytes {
		bytes += relation.Bytes
	}
	requireQuoted(t, "../../docs/scaling.md",
		fmt.Sprintf("With %d million sessions of 16 bytes, which take %d bytes each with their indexes, loads took %.2f times as long as with 10 thousand, saves %.2f and `FindByUser` %.2f times, and loads of 256 callers %.2f times. The background clean-up took %.0f µs an expired row, and %.0f before",
			last.Sessions/1e6, bytes/int64(last.Sessions),
			measured.slower(func(s size) operation { return s.Load }), measured.slower(func(s size) operation { return s.Save }),
			measured.slower(func(s size) operation { return s.FindByUser }), measured.slower(func(s size) operation { return s.Load256 }),
			last.BackgroundCleanup, first.BackgroundCleanup),
		fmt.Sprintf("A log-in took %.2f times as long and wrote %s bytes of WAL", measured.slower(func(s size) operation { return s.LogIn }), thousands(last.LogIn.WAL)),
		fmt.Sprintf("`CleanupExpired` took %.0f ms an expired row", last.CleanupExpired/1000))
}

func TestGrowth(t *testing.T) {
	t.Parallel()
	measured := read[growth](t, "growth.json")
	slower := measured.slower
	load, save := slower(func(s size) operation { return s.Load }), slower(func(s size) operation { return s.Save })
	requireQuoted(t, "../../docs/performance.md", fmt.Sprintf("At 10 million sessions a load took %.2f times as long as at 10 thousand, a save %.2f and `FindByUser` %.2f times.",
		load, save, slower(func(s size) operation { return s.FindByUser })))
	requireQuoted(t, "../../docs/scaling.md", fmt.Sprintf("With 10 million sessions a load took %.2f times as long as with 10 thousand, and a save %.2f times",
		load, save))
}

func TestMiddleware(t *testing.T) {
	t.Parallel()
	type load struct {
		Contender, Request string
		Clients            int
		Ratio              float64 `json:"requests_per_second_to_scs"`
		P99                float64 `json:"p99_to_scs"`
	}
	measured := read[struct{ Loads []load }](t, "middleware.json")
	of := func(request string, clients int) load {
		for _, l := range measured.Loads {
			if l.Contender == "httpsession" && l.Request == request && l.Clients == clients {
				return l
			}
		}
		require.Fail(t, "not measured", "%s, %d clients", request, clients)
		return load{}
	}
	page64, page256, change64, change256 := of("GET /", 64), of("GET /", 256), of("POST /count", 64), of("POST /count", 256)
	requireQuoted(t, "../../docs/httpsession.md",
		fmt.Sprintf("With 64 and 256 clients, pages that read the session came %.1f and %.1f times as often as scs's, at %.2f and %.2f of its p99",
			page64.Ratio, page256.Ratio, page64.P99, page256.P99),
		fmt.Sprintf("changes %.1f and %.1f times as often, at %.2f and %.2f of its p99", change64.Ratio, change256.Ratio, change64.P99, change256.P99))
}
