package pgsession

import (
	"log/slog"
	"time"

	"github.com/pgsession/pgsession/internal/pgtable"
)

const (
	defaultTable   = "sessions"
	defaultMaxSize = 64 << 10
	defaultTimeout = 5 * time.Second
)

// An Option changes how a store behaves. It is given to [New], [Plaintext] or [InMemory], which
// panic for an option that only a programming error gives.
type Option func(*options)

type options struct {
	clock            Clock
	table            string
	logger           *slog.Logger
	maxSize          int
	absoluteLifetime time.Duration
	timeout          time.Duration
	maxInFlight      int           // negative: the pool and the network decide
	patience         time.Duration // of tests: see bridge.WithPatience
}

func newOptions(opts []Option) options {
	o := options{
		clock:       SystemClock{},
		table:       defaultTable,
		logger:      slog.Default(),
		maxSize:     defaultMaxSize,
		timeout:     defaultTimeout,
		maxInFlight: -1,
	}
	for _, opt := range opts {
		opt(&o)
	}
	return o
}

// WithClock sets the clock by which sessions expire, for tests. The default is [SystemClock]. A nil
// clock panics.
func WithClock(clock Clock) Option {
	return func(o *options) {
		if clock == nil {
			panic("pgsession: WithClock: nil clock")
		}
		o.clock = clock
	}
}

// WithTable sets the table's name: "sessions", the default, or a name with a schema, such as
// "web.sessions". The name is quoted, so that capitals and spaces stay as they are. A store in
// memory ignores it. WithTable panics for a name of three parts, with an empty part, or with a part
// of more than 63 bytes, which is PostgreSQL's limit for a name.
func WithTable(name string) Option {
	return func(o *options) {
		if _, err := pgtable.ParseName(name); err != nil {
			panic(err.Error())
		}
		o.table = name
	}
}

// WithLogger sets the logger for Init's warnings, the clean-up and the health handler. The default,
// also for nil, is [slog.Default].
func WithLogger(logger *slog.Logger) Option {
	return func(o *options) {
		if logger != nil {
			o.logger = logger
		}
	}
}

// WithMaxSize sets how many bytes a session's values may have once they are encoded. The default is
// 64 KiB, and 0 means no limit. A negative number panics.
func WithMaxSize(bytes int) Option {
	return func(o *options) {
		if bytes < 0 {
			panic("pgsession: WithMaxSize: negative size")
		}
		o.maxSize = bytes
	}
}

// WithAbsoluteLifetime sets how long after its log-in a session ends, however often it is touched,
// if the log-in sets no [Data.Lifetime]. The end is stored with the session when the log-in
// happens. A change of this option changes nothing for sessions that exist. The default, 0, means
// that sessions have no such end. OWASP recommends 4 to 8 hours for an application that is used all
// day (Session Management Cheat Sheet, "Absolute Timeout"). A negative duration panics.
func WithAbsoluteLifetime(d time.Duration) Option {
	return func(o *options) {
		if d < 0 {
			panic("pgsession: WithAbsoluteLifetime: negative duration")
		}
		o.absoluteLifetime = d
	}
}

// WithTimeout bounds each operation, including the wait for a connection. An operation ends within
// this time and its caller's context, and at most 0.2 seconds later, whatever the server, the
// network, the pool or other callers do. The default is 5 seconds, and 0 means that only the
// caller's context bounds it.
//
// If the context is cancelled, for example because a client hangs up, a statement that was sent
// before goes on for these 0.2 seconds, and no further one is sent. To cut a statement off costs
// its connection, and most statements end within a millisecond.
//
// [Store.Init], [Store.All], [Store.DeleteAll], [Store.CleanupExpired] and [Store.Reseal] work
// through the whole table. For them it bounds each step and not the operation. An operation whose
// context or time is over may still take effect, but not later than this time after its start,
// unless the network is cut while it waits for a lock: the server then does not hear that it was
// given up. The setting lock_timeout of the role bounds that. A negative duration panics.
func WithTimeout(d time.Duration) Option {
	return func(o *options) {
		if d < 0 {
			panic("pgsession: WithTimeout: negative duration")
		}
		o.timeout = d
	}
}

// WithCoalescing sets how many statements of one kind (see [Stats]) may be in flight before further
// calls queue to share the next one. The default is an eighth of the pool's connections, at least
// 2, and grows with the distance of the server: by one for each half of a millisecond that the
// fastest statement takes, up to half of the connections and at most 16. 0 turns sharing off. Most
// applications do not need this option: a call that finds fewer than n statements in flight runs at
// once by itself, and no call is delayed to fill a batch. If the context of a call ends while it is
// queued or shares a statement, the call returns at once.
//
// A shared statement runs under a context of its own, so that tracers see none of the callers'
// values. So sharing is off by default if the pool has a hook that sees the caller's context
// (BeforeAcquire or PrepareConn). Such hooks choose tenants, and a shared statement has no single
// caller. A negative number panics.
func WithCoalescing(n int) Option {
	return func(o *options) {
		if n < 0 {
			panic("pgsession: WithCoalescing: negative number")
		}
		o.maxInFlight = n
	}
}
