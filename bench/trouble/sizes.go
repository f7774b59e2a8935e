package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/bench/internal/measure"
)

const (
	opLoad = "load"
	opSave = "save"

	maxPageRounds = 3
)

// A sizeResult compares stores at one size of the values.
type sizeResult struct {
	Operation string             `json:"operation"`
	Size      int                `json:"value_bytes"`
	PerSecond map[string]float64 `json:"calls_per_second"`    // by contender
	Calls     float64            `json:"calls_per_statement"` // of those that share
	P99       map[string]float64 `json:"p99_ms"`
	Ratio     ratio              `json:"shared_to_alone"`

	// Client is the peak of the process's heap in use, and Server the peak of the backends' private
	// memory, together. Each is the median of the rounds, in MiB.
	Client map[string]float64 `json:"client_mib"`
	Server map[string]float64 `json:"server_mib"`
}

// A pageResult is what an operation on the whole table took.
type pageResult struct {
	Operation    string  `json:"operation"`
	Size         int     `json:"value_bytes"`
	MiBPerSecond float64 `json:"mib_per_second"` // of values
	Client       float64 `json:"client_mib"`
	Server       float64 `json:"server_mib"`
}

// A sizeMeter measures values of one size.
type sizeMeter struct {
	*bench
	size  int
	table string
	ids   []pgsession.ID
	free  chan pgsession.ID // each call takes one, so that no two calls meet at a row
}

func (b *bench) measureSize(ctx context.Context, size int) (results []sizeResult, pages []pageResult, err error) {
	m := &sizeMeter{bench: b, size: size, table: fmt.Sprintf("size_%d", size)}
	both, closeAll, err := m.open(ctx)
	if err != nil {
		return nil, nil, err
	}
	sessions := max(2*b.callers, min(b.bytes/size, 16<<10))
	m.ids, err = b.fill(ctx, both[0].store, m.table, sessions, size)
	closeAll()
	if err != nil {
		return nil, nil, err
	}
	m.free = make(chan pgsession.ID, len(m.ids))
	for _, id := range m.ids {
		m.free <- id
	}
	if err := b.settle(ctx, m.table); err != nil {
		return nil, nil, err
	}
	if err := b.prepareWAL(ctx, time.Duration(len(both)*b.rounds)*m.turnLength()*3/2); err != nil {
		return nil, nil, err
	}
	for _, operation := range []string{opLoad, opSave} {
		result, err := m.compare(ctx, operation)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", operation, err)
		}
		results = append(results, result)
	}
	if b.pages {
		if pages, err = m.measurePages(ctx); err != nil {
			return nil, nil, err
		}
	}
	_, err = b.admin.Exec(ctx, `DROP TABLE `+m.table)
	return results, pages, err
}

func (m *sizeMeter) open(ctx context.Context) ([]contender, func(), error) {
	return m.connect(ctx, m.table, pgsession.WithMaxSize(0), pgsession.WithTimeout(time.Minute))
}

// turnLength is longer for large values, of which few are done in a second.
func (m *sizeMeter) turnLength() time.Duration {
	if m.size >= 256<<10 {
		return 4 * m.length
	}
	return m.length
}

// compare measures an operation by both stores, in turns. The connections are new, so that the
// server's memory is theirs alone.
func (m *sizeMeter) compare(ctx context.Context, operation string) (result sizeResult, err error) {
	both, closeAll, err := m.open(ctx)
	if err != nil {
		return result, err
	}
	defer closeAll()
	perSecond, p99 := map[string][]float64{}, map[string][]float64{}
	client, server := map[string][]float64{}, map[string][]float64{}
	var calls []float64
	err = m.quietRounds(fmt.Sprintf("%s, %d KiB", operation, m.size>>10), func(round int) (keep func(), err error) {
		keep = func() {}
		for i := range both {
			c := &both[(i+round)%len(both)]
			before, sent := keep, c.sent.Count()
			one, memory, err := m.takeTurn(ctx, c, operation, uint64(round))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			sent = c.sent.Count() - sent
			keep = func() {
				before()
				perSecond[c.name] = append(perSecond[c.name], one.Throughput)
				p99[c.name] = append(p99[c.name], milliseconds(one.P99))
				client[c.name], server[c.name] = append(client[c.name], memory.client), append(server[c.name], memory.server)
				if c.name == shared {
					calls = append(calls, float64(one.Calls)/float64(sent))
				}
			}
		}
		return keep, nil
	})
	if err != nil {
		return result, err
	}
	return sizeResult{
		Operation: operation, Size: m.size, Calls: measure.Median(calls),
		PerSecond: medians(perSecond), P99: medians(p99), Ratio: ratioOf(perSecond[shared], perSecond[alone]),
		Client: medians(client), Server: medians(server),
	}, nil
}

func (m *sizeMeter) takeTurn(ctx context.Context, c *contender, operation string, seed uint64) (result measure.Result, peak memory, err error) {
	if operation == opSave {
		if err := m.settle(ctx, m.table); err != nil {
			return result, peak, err
		}
	}
	watch, err := m.watchMemory(ctx, c.name)
	if err != nil {
		return result, peak, err
	}
	load := measure.Load{Callers: m.callers, WarmUp: m.turnLength() / 2, Length: m.turnLength(), Seed: seed}
	result, err = load.Run(ctx, func(ctx context.Context, random *rand.Rand) error {
		id := <-m.free
		defer func() { m.free <- id }()
		if operation == opSave {
			return c.store.Save(ctx, id, pgsession.Data{Values: m.value(m.size, random.Uint64())}, timeToLive)
		}
		session, err := c.store.Load(ctx, id)
		if err != nil {
			return err
		}
		return m.check(session)
	})
	return result, watch(), err
}

func (m *sizeMeter) check(session *pgsession.Session) error {
	value, err := pgsession.Decode[[]byte](session)
	if err == nil && len(value) != m.size {
		err = fmt.Errorf("a value of %d bytes", len(value))
	}
	return err
}

// measurePages measures All and Reseal, which read the table in pages.
func (m *sizeMeter) measurePages(ctx context.Context) (results []pageResult, err error) {
	both, closeAll, err := m.open(ctx)
	if err != nil {
		return nil, err
	}
	defer closeAll()
	c := &both[0]
	all := func() error {
		for session, err := range c.store.All(ctx) {
			if err != nil {
				return err
			}
			if err := m.check(session); err != nil {
				return err
			}
		}
		return nil
	}
	key := m.key
	reseal := func() error {
		next := pgsession.GenerateKey()
		ring, err := pgsession.NewCrypto(next, key)
		if err != nil {
			return err
		}
		store := pgsession.New(c.pool, ring, pgsession.WithTable(m.table), pgsession.WithMaxSize(0), pgsession.WithTimeout(time.Minute))
		resealed, err := store.Reseal(ctx)
		if err == nil && resealed != int64(len(m.ids)) {
			err = fmt.Errorf("resealed %d sessions of %d", resealed, len(m.ids))
		}
		key = next
		return err
	}
	for _, operation := range []struct {
		name string
		run  func() error
	}{{"All", all}, {"Reseal", reseal}} {
		m.progress("%s, %d KiB", operation.name, m.size>>10)
		var speeds, client, server []float64
		for range min(m.rounds, maxPageRounds) {
			if err := m.settle(ctx, m.table); err != nil {
				return nil, err
			}
			watch, err := m.watchMemory(ctx, c.name)
			if err != nil {
				return nil, err
			}
			began := time.Now()
			if err := operation.run(); err != nil {
				watch()
				return nil, fmt.Errorf("%s: %w", operation.name, err)
			}
			speeds = append(speeds, float64(len(m.ids)*m.size)/mib/time.Since(began).Seconds())
			peak := watch()
			client, server = append(client, peak.client), append(server, peak.server)
		}
		results = append(results, pageResult{operation.name, m.size, measure.Median(speeds), measure.Median(client), measure.Median(server)})
	}
	return results, nil
}

// memory is in MiB.
type memory struct{ client, server float64 }

// watchMemory returns a function that ends the watch and returns the peaks.
func (b *bench) watchMemory(ctx context.Context, application string) (end func() memory, err error) {
	pids, err := b.backends(ctx, application)
	if err != nil {
		return nil, err
	}
	runtime.GC()
	var peak memory
	samples := 0
	stop := sample(10*time.Millisecond, func() {
		peak.client = max(peak.client, heapInUse())
		if samples++; samples%10 == 0 {
			peak.server = max(peak.server, privateMemory(pids))
		}
	})
	return func() memory {
		stop()
		return peak
	}, nil
}

func (b *bench) backends(ctx context.Context, application string) (pids []int, err error) {
	err = b.admin.QueryRow(ctx, `SELECT array_agg(pid) FROM pg_stat_activity WHERE application_name = $1`, application).Scan(&pids)
	return pids, err
}

const mib = 1 << 20

// heapInUse is runtime.MemStats.HeapInuse, in MiB, without a stop of the world.
func heapInUse() float64 {
	samples := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}}
	metrics.Read(samples)
	return float64(samples[0].Value.Uint64()+samples[1].Value.Uint64()) / mib
}

// privateMemory is the anonymous memory of processes, in MiB. It leaves out the shared buffers, which
// /proc/PID/smaps_rollup counts as private if only one process has used them. It costs the kernel
// nothing to tell, so that the watch does not slow down what it watches. It is 0 if /proc cannot be
// read.
func privateMemory(pids []int) (sum float64) {
	for _, pid := range pids {
		content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue
		}
		_, after, _ := strings.Cut(string(content), "RssAnon:")
		line, _, _ := strings.Cut(after, "kB")
		kib, _ := strconv.Atoi(strings.TrimSpace(line))
		sum += float64(kib) / 1024
	}
	return sum
}
