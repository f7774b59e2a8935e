package pgsessiontest_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"iter"
	"log/slog"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/pgsessiontest"
)

func TestMain(m *testing.M) {
	// A few seconds' worth; -rapid.checks=1000 on the command line has the last word.
	if err := flag.Set("rapid.checks", "40"); err != nil {
		panic(err)
	}
	pgtest.Main(m, func() error { return goleak.Find() })
}

// epoch is not on an hour, so that what is rounded to hours shows.
var epoch = time.Date(2026, 3, 14, 15, 9, 26, 535_897_000, time.UTC)

// A store is what the store in memory has in common with that on PostgreSQL.
type store interface {
	Init(ctx context.Context) error
	Create(ctx context.Context, data pgsession.Data, ttl time.Duration) (pgsession.ID, error)
	Load(ctx context.Context, id pgsession.ID) (*pgsession.Session, error)
	Save(ctx context.Context, id pgsession.ID, data pgsession.Data, ttl time.Duration) error
	Update(ctx context.Context, id pgsession.ID, ttl time.Duration, change func(*pgsession.Session) (any, error)) error
	Touch(ctx context.Context, id pgsession.ID, ttl time.Duration) error
	Cycle(ctx context.Context, oldID, newID pgsession.ID, data pgsession.Data, ttl time.Duration) error
	Delete(ctx context.Context, id pgsession.ID) error
	Put(ctx context.Context, id pgsession.ID, data pgsession.Data, ttl time.Duration) error
	FindByUser(ctx context.Context, userID string, limit int) ([]*pgsession.Session, error)
	DeleteByUser(ctx context.Context, userID string, except ...pgsession.Handle) (int64, error)
	Revoke(ctx context.Context, userID string, h pgsession.Handle) error
	RevokeAny(ctx context.Context, h pgsession.Handle) error
	All(ctx context.Context) iter.Seq2[*pgsession.Session, error]
	DeleteAll(ctx context.Context) (int64, error)
	CleanupExpired(ctx context.Context) (int64, error)
	Reseal(ctx context.Context) (int64, error)
	Check(ctx context.Context) error
	Health(ctx context.Context) pgsession.Health
	Stats() pgsession.Stats
}

type keyValue interface {
	Get(ctx context.Context, key string) ([]byte, error)
	Put(ctx context.Context, key string, value []byte, ttl time.Duration) error
	Delete(ctx context.Context, key string) error
	PruneExpired(ctx context.Context) (int64, error)
}

var (
	_ store    = (*pgsession.Store)(nil)
	_ store    = (*pgsessiontest.Store)(nil)
	_ keyValue = (*pgsession.KeyValue)(nil)
	_ keyValue = (*pgsessiontest.KeyValue)(nil)
)

// A fixture is an empty store, and the clock that it goes by.
type fixture struct {
	store
	keyValue keyValue
	clock    *pgsession.ManualClock
}

// A newStore makes stores of one kind.
type newStore func(t testing.TB, opts ...pgsession.Option) fixture

var realStores = map[string]func(*pgxpool.Pool, ...pgsession.Option) *pgsession.Store{
	"encrypted": newEncrypted,
	"plaintext": pgsession.Plaintext,
}

// kinds returns a maker for each kind of store.
func kinds(t testing.TB) map[string]newStore {
	kinds := map[string]newStore{"memory": newMemory}
	for kind, open := range realStores {
		kinds[kind] = onPostgreSQL(t, open)
	}
	return kinds
}

func newClock(opts []pgsession.Option) (*pgsession.ManualClock, []pgsession.Option) {
	clock := pgsession.NewManualClock(epoch)
	return clock, append([]pgsession.Option{pgsession.WithClock(clock)}, opts...)
}

func newMemory(_ testing.TB, opts ...pgsession.Option) fixture {
	clock, opts := newClock(opts)
	s := pgsessiontest.New(opts...)
	return fixture{s, s.KeyValue(), clock}
}

func newEncrypted(pool *pgxpool.Pool, opts ...pgsession.Option) *pgsession.Store {
	crypto, err := pgsession.NewCrypto(pgsession.GenerateKey(), pgsession.GenerateKey())
	if err != nil {
		panic(err)
	}
	return pgsession.New(pool, crypto, opts...)
}

// onPostgreSQL gives each store a table of its own, in one schema.
func onPostgreSQL(t testing.TB, open func(*pgxpool.Pool, ...pgsession.Option) *pgsession.Store) newStore {
	pool := pgtest.Pool(t)
	var (
		mu     sync.Mutex
		tables int
	)
	return func(t testing.TB, opts ...pgsession.Option) fixture {
		t.Helper()
		mu.Lock()
		tables++
		table := "sessions_" + strconv.Itoa(tables)
		mu.Unlock()
		clock, opts := newClock(opts)
		opts = append(opts, pgsession.WithTable(table), pgsession.WithLogger(slog.New(slog.DiscardHandler)))
		s := open(pool, opts...)
		require.NoError(t, s.Init(t.Context()))
		pgtest.AfterInit(t, pool, `"`+table+`"`)
		return fixture{s, s.KeyValue(), clock}
	}
}

// The store in memory keeps up with the other one.
func TestStore_HasTheSameMethods(t *testing.T) {
	t.Parallel()
	different := map[string]string{
		"HealthHandler": "a route of the program, and not of its handlers",
		"SpawnCleanup":  "returns a Cleanup of its own",
		"KeyValue":      "returns a KeyValue of its own",
	}
	common := reflect.TypeFor[store]()
	real := reflect.TypeFor[*pgsession.Store]()
	for i := range real.NumMethod() {
		name := real.Method(i).Name
		if different[name] != "" {
			continue
		}
		_, ok := common.MethodByName(name)
		require.True(t, ok, "pgsession.Store has a method %s", name)
	}
}

func TestStore_FailWith(t *testing.T) {
	t.Parallel()
	outage := errors.New("no database")
	for name, operation := range operations() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := pgsessiontest.New()
			id, err := s.Create(t.Context(), ann(1), time.Hour)
			require.NoError(t, err)
			before, err := s.Load(t.Context(), id)
			require.NoError(t, err)

			s.FailWith(outage)
			err = operation(t.Context(), fixture{s, s.KeyValue(), nil}, id)
			require.ErrorIs(t, err, outage)
			require.NotErrorIs(t, err, pgsession.ErrNotFound)
			require.Regexp(t, `^pgsession: [a-z ]+: no database$`, err.Error())

			s.FailWith(nil)
			after, err := s.Load(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, before.Version, after.Version)
		})
	}
}

func TestStore_SpawnCleanup(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := pgsessiontest.New()
		_, err := s.Create(t.Context(), ann(1), time.Minute)
		require.NoError(t, err)
		cleanup := s.SpawnCleanup(t.Context(), time.Hour)
		<-time.After(time.Hour + time.Second)
		synctest.Wait()
		require.EqualValues(t, 1, s.Stats().Cleaned)
		cleanup.Stop()
		cleanup.Stop()

		ctx, cancel := context.WithCancel(t.Context())
		s.SpawnCleanup(ctx, time.Hour)
		cancel()
		require.Panics(t, func() { s.SpawnCleanup(ctx, 0) })
	})
}

// A slowClock tells the time when it is let go.
type slowClock struct{ asked, letGo chan struct{} }

func (c slowClock) Now() time.Time {
	c.asked <- struct{}{}
	<-c.letGo
	return epoch
}

func TestCleanup_StopWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		clock := slowClock{make(chan struct{}), make(chan struct{})}
		cleanup := pgsessiontest.New(pgsession.WithClock(clock)).SpawnCleanup(t.Context(), time.Hour)
		<-clock.asked
		stopped := false
		go func() {
			cleanup.Stop()
			stopped = true
		}()
		synctest.Wait()
		require.False(t, stopped, "while a run is under way")
		close(clock.letGo)
		synctest.Wait()
		require.True(t, stopped)
	})
}

func TestStore_IsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	s := pgsessiontest.New()
	id, err := s.Create(t.Context(), ann(0), time.Hour)
	require.NoError(t, err)
	const writers, times = 8, 20
	var group sync.WaitGroup
	for range writers {
		group.Go(func() {
			for range times {
				err := s.Update(t.Context(), id, 0, func(session *pgsession.Session) (any, error) {
					n, err := pgsession.Decode[int](session)
					return n + 1, err
				})
				if err != nil {
					t.Error(err)
				}
				for _, err := range s.All(t.Context()) {
					if err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	group.Wait()
	session, err := s.Load(t.Context(), id)
	require.NoError(t, err)
	n, err := pgsession.Decode[int](session)
	require.NoError(t, err)
	require.Equal(t, writers*times, n)
}

func TestNewSession(t *testing.T) {
	t.Parallel()
	t.Run("zero", func(t *testing.T) {
		t.Parallel()
		session := pgsessiontest.NewSession(pgsessiontest.SessionFields{})
		require.Equal(t, time.Hour, session.TTL())
		require.False(t, session.Handle.IsZero())
		require.Equal(t, pgsession.Data{Values: json.RawMessage("null")}, session.Data())
		require.EqualValues(t, 1, session.Version)
		require.WithinDuration(t, time.Now(), session.CreatedAt, time.Minute)
	})
	t.Run("all fields", func(t *testing.T) {
		t.Parallel()
		given := []byte("abc")
		fields := pgsessiontest.SessionFields{
			Handle:    pgsession.NewID().Handle(),
			Data:      pgsession.Data{UserID: "ann", Values: given},
			LoadedAt:  epoch,
			CreatedAt: epoch.Add(-time.Hour),
			ExpiresAt: epoch.Add(time.Minute),
			Version:   7,
		}
		session := pgsessiontest.NewSession(fields)
		given[0] = 'x'
		require.Equal(t, fields.Handle, session.Handle)
		require.Equal(t, "ann", session.UserID)
		require.Equal(t, fields.CreatedAt, session.CreatedAt)
		require.Equal(t, fields.ExpiresAt, session.ExpiresAt)
		require.Equal(t, time.Minute, session.TTL())
		require.EqualValues(t, 7, session.Version)
		value, err := pgsession.Decode[[]byte](session)
		require.NoError(t, err)
		require.Equal(t, "abc", string(value), "a copy")
	})
	t.Run("broken", func(t *testing.T) {
		t.Parallel()
		session := pgsessiontest.NewSession(pgsessiontest.SessionFields{Data: ann(1), Broken: pgsession.ErrTampered})
		_, err := pgsession.Decode[int](session)
		require.ErrorIs(t, err, pgsession.ErrTampered)
		require.Empty(t, session.UserID)
	})
	t.Run("panics", func(t *testing.T) {
		t.Parallel()
		require.Panics(t, func() {
			pgsessiontest.NewSession(pgsessiontest.SessionFields{Data: pgsession.Data{Values: make(chan int)}})
		})
		require.Panics(t, func() {
			pgsessiontest.NewSession(pgsessiontest.SessionFields{Data: pgsession.Data{UserID: strings.Repeat("a", 1001)}})
		})
	})
}
