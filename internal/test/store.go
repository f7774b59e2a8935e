package test

import (
	"encoding/hex"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/bridge"
	"github.com/pgsession/pgsession/internal/pgtest"
)

// A Store is a store on a table of its own, under a clock that the test moves.
type Store struct {
	*pgsession.Store
	Pool  *pgxpool.Pool          // nil if the table is in memory
	Clock *pgsession.ManualClock // nil if the store goes by the machine's
	Table string                 // as SQL names it, if that is not sessions
}

// An Opener is [pgsession.Plaintext] or [Encrypted].
type Opener func(*pgxpool.Pool, ...pgsession.Option) *pgsession.Store

// Encrypted opens a store under [Key].
func Encrypted(pool *pgxpool.Pool, opts ...pgsession.Option) *pgsession.Store {
	return pgsession.New(pool, Must(pgsession.NewCrypto(Key)), opts...)
}

// Open returns a quiet, patient store under [Key] that goes by the machine's clock, without Init.
func Open(pool *pgxpool.Pool, opts ...pgsession.Option) *pgsession.Store {
	return Encrypted(pool, append([]pgsession.Option{Quiet(), Patient()}, opts...)...)
}

// OpenTable is [Open] on a table of that name, which it makes.
func OpenTable(t testing.TB, pool *pgxpool.Pool, table string, opts ...pgsession.Option) *pgsession.Store {
	t.Helper()
	store := Open(pool, append([]pgsession.Option{pgsession.WithTable(table)}, opts...)...)
	require.NoError(t, store.Init(t.Context()))
	pgtest.AfterInit(t, pool, table)
	return store
}

// NewStore returns an encrypted store in a schema of its own.
func NewStore(t testing.TB, opts ...pgsession.Option) *Store {
	t.Helper()
	return NewStoreOn(t, pgtest.Pool(t), Encrypted, opts...)
}

// NewPlaintextStore returns a plaintext store in a schema of its own.
func NewPlaintextStore(t testing.TB, opts ...pgsession.Option) *Store {
	t.Helper()
	return NewStoreOn(t, pgtest.Pool(t), pgsession.Plaintext, opts...)
}

// NewTracedStore is NewStore with a trace of its queries, if traced is not nil, and a pool of so
// many connections.
func NewTracedStore(t testing.TB, traced *Tracer, connections int32, opts ...pgsession.Option) *Store {
	t.Helper()
	pool := pgtest.Pool(t, func(config *pgxpool.Config) {
		if traced != nil {
			config.ConnConfig.Tracer = traced
		}
		config.MaxConns = connections
	})
	return NewStoreOn(t, pool, Encrypted, opts...)
}

// NewStoreOn opens a store on a pool and makes its table.
func NewStoreOn(t testing.TB, pool *pgxpool.Pool, open Opener, opts ...pgsession.Option) *Store {
	t.Helper()
	clock := pgsession.NewManualClock(Epoch)
	store := open(pool, append([]pgsession.Option{pgsession.WithClock(clock), Quiet(), Patient()}, opts...)...)
	require.NoError(t, store.Init(t.Context()))
	pgtest.AfterInit(t, pool, "sessions")
	if pgtest.IsDistributed() {
		require.NoError(t, store.Init(t.Context()), "so that the store knows")
	}
	return &Store{Store: store, Pool: pool, Clock: clock}
}

// BothStores are the kinds of stores on PostgreSQL.
func BothStores(t testing.TB, opts ...pgsession.Option) map[string]*Store {
	t.Helper()
	return map[string]*Store{"encrypted": NewStore(t, opts...), "plaintext": NewPlaintextStore(t, opts...)}
}

// Node returns another store on the table, as another node of the application has one.
func (s *Store) Node(crypto *pgsession.Crypto, opts ...pgsession.Option) *Store {
	opts = append([]pgsession.Option{pgsession.WithClock(s.Clock), Quiet(), Patient()}, opts...)
	return &Store{Store: pgsession.New(s.Pool, crypto, opts...), Pool: s.Pool, Clock: s.Clock}
}

// Waiting returns how many calls wait to share a statement.
func (s *Store) Waiting() int {
	return bridge.Table(s.Store).(interface{ Waiting() int }).Waiting()
}

// Sessions.

// Begin creates a session and returns its id.
func (s *Store) Begin(t testing.TB, data pgsession.Data, ttl time.Duration) pgsession.ID {
	t.Helper()
	session, err := s.Create(t.Context(), data, ttl)
	require.NoError(t, err)
	return session.ID
}

// Ended creates a session and ends it.
func (s *Store) Ended(t testing.TB) pgsession.ID {
	t.Helper()
	id := s.Begin(t, Ann(1), time.Hour)
	require.NoError(t, s.Delete(t.Context(), id))
	return id
}

// Expired creates a session and lets the smallest unit of time pass, after which it is over.
func (s *Store) Expired(t testing.TB) pgsession.ID {
	t.Helper()
	id := s.Begin(t, Ann(1), time.Microsecond)
	s.Clock.Advance(time.Microsecond)
	return id
}

// MustLoad loads a session that is live.
func (s *Store) MustLoad(t testing.TB, id pgsession.ID) *pgsession.Session {
	t.Helper()
	session, err := s.Load(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, id.Handle(), session.Handle)
	return session
}

// Number returns the values of a live session that holds a number.
func (s *Store) Number(t testing.TB, id pgsession.ID) int {
	t.Helper()
	return Decode[int](t, s.MustLoad(t, id))
}

// MustCleanUp removes what has expired, and returns how many rows.
func (s *Store) MustCleanUp(t testing.TB) int64 {
	t.Helper()
	removed, err := s.CleanupExpired(t.Context())
	require.NoError(t, err)
	return removed
}

// RequireEntry wants a value under a key.
func RequireEntry(t testing.TB, kv *pgsession.KeyValue, key string, want []byte) {
	t.Helper()
	value, err := kv.Get(t.Context(), key)
	require.NoError(t, err)
	require.Equal(t, string(want), string(value))
}

// Rows.

func (s *Store) table() string {
	if s.Table == "" {
		return "sessions"
	}
	return s.Table
}

// RowKey returns the primary key of an id's row.
func RowKey(id pgsession.ID) []byte { return Must(hex.DecodeString(id.Handle().String())) }

// CountRows counts the rows that meet a condition.
func (s *Store) CountRows(t testing.TB, condition string, args ...any) (n int) {
	t.Helper()
	query := `SELECT count(*) FROM ` + s.table() + ` AS s WHERE ` + condition
	require.NoError(t, s.Pool.QueryRow(t.Context(), query, args...).Scan(&n))
	return n
}

// SQL runs a statement.
func (s *Store) SQL(t testing.TB, sql string, args ...any) {
	t.Helper()
	_, err := s.Pool.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

// RunScript runs SQL of any number of statements.
func RunScript(t testing.TB, pool *pgxpool.Pool, sql string) {
	t.Helper()
	_, err := pool.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
}

// AddExpired writes n rows that expire at the clock's time.
func (s *Store) AddExpired(t testing.TB, n int) {
	t.Helper()
	s.SQL(t, `
		INSERT INTO sessions (key, sealed, version, created_at, expires_at, idle_timeout)
		SELECT sha256(convert_to(i::text, 'UTF8')), '\x01', 1, $1, $1, '1 hour'
		FROM generate_series(1, $2::int) AS i`, s.Clock.Now(), n)
}
