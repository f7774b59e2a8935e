package bench

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/alexedwards/scs/pgxstore"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
)

const (
	valueSize = 1024
	lifetime  = 24 * time.Hour
)

// A contender is a store with the users' sessions, by number. A call begins with the cookie's text
// and ends with the value's bytes.
type contender interface {
	create(ctx context.Context, i int, value []byte) error
	load(ctx context.Context, i int) ([]byte, error)
	save(ctx context.Context, i int, value []byte, ttl time.Duration) error
}

// A cycler moves a session to a new token, as a log-in does.
type cycler interface {
	cycle(ctx context.Context, i int, value []byte) error
}

type tokens [users]string

var (
	errAbsent    = errors.New("no such session")
	errDifferent = errors.New("not a value that was saved")
)

// BenchmarkStore is what calls of the store itself cost, beside scs's store, and beside the same
// statements sent by pgx alone. The values are random bytes, so that no encoding is compared.
func BenchmarkStore(b *testing.B) {
	// scs's table has always the same name.
	schema := map[string]string{"search_path": "store"}
	scs, bare, ours := newPool(b, schema, nil), newPool(b, schema, nil), newPool(b, schema, nil)
	_, err := admin.Exec(b.Context(), `CREATE SCHEMA IF NOT EXISTS store; SET LOCAL search_path = store; `+createSCS+`; `+
		pgsession.Schema("bare")+`; `+pgsession.Schema("ours"))
	require.NoError(b, err)
	keys, err := pgsession.NewCrypto(pgsession.GenerateKey())
	require.NoError(b, err)
	contenders := []struct {
		name, table string
		pool
		contender
	}{
		{"scs", "store.sessions", scs, &scsStore{store: pgxstore.NewWithCleanupInterval(scs.Pool, 0)}},
		{"pgx", "store.bare", bare, &bareStore{pool: bare}},
		{"pgsession", "store.ours", ours, &ourStore{store: pgsession.New(ours.Pool, keys, pgsession.WithTable("ours"))}},
	}
	random := make([]byte, users+valueSize)
	rand.NewChaCha8([32]byte{}).Read(random)
	value := func(i int) []byte { return random[i:][:valueSize] }
	for _, c := range contenders {
		all(b, users, func(i int) error { return c.create(context.Background(), i, value(i)) })
	}
	reuseLog(b)
	describe(b)

	for _, op := range []struct {
		name string
		call func(ctx context.Context, c contender, random *rand.Rand, n int) error
	}{
		{"load", func(ctx context.Context, c contender, random *rand.Rand, _ int) error {
			loaded, err := c.load(ctx, random.IntN(users))
			if err == nil && len(loaded) != valueSize {
				err = errDifferent
			}
			return err
		}},
		{"save", func(ctx context.Context, c contender, random *rand.Rand, _ int) error {
			ttl := lifetime
			if random.IntN(24) == 0 { // so that one save in twelve moves the expiry to another hour, as saves every five minutes do
				ttl += time.Hour
			}
			return c.save(ctx, random.IntN(users), value(random.IntN(users)), ttl)
		}},
		{"cycle", func(ctx context.Context, c contender, _ *rand.Rand, n int) error {
			return c.(cycler).cycle(ctx, n%users, value(n%users))
		}},
	} {
		for _, clients := range clientCounts {
			for _, c := range contenders {
				if _, cycles := c.contender.(cycler); op.name == "cycle" && !cycles {
					continue
				}
				b.Run(name("op", op.name, "clients", clients, "store", c.name), func(b *testing.B) {
					measure(b, c.pool, c.table, clients, func(random *rand.Rand, n int) error {
						ctx, cancel := context.WithCancel(context.Background())
						defer cancel()
						return op.call(ctx, c.contender, random, n)
					})
				})
			}
		}
	}
}

// scsStore is scs's, which takes no context.
type scsStore struct {
	tokens
	store *pgxstore.PostgresStore
}

func (s *scsStore) create(ctx context.Context, i int, value []byte) error {
	s.tokens[i] = pgsession.NewID().Token() // of the size of scs's own
	return s.save(ctx, i, value, lifetime)
}

func (s *scsStore) load(_ context.Context, i int) ([]byte, error) {
	value, exists, err := s.store.Find(s.tokens[i])
	if err == nil && !exists {
		err = errAbsent
	}
	return value, err
}

func (s *scsStore) save(_ context.Context, i int, value []byte, ttl time.Duration) error {
	return s.store.Commit(s.tokens[i], value, time.Now().Add(ttl))
}

// cycle does what RenewToken and LoadAndSave do.
func (s *scsStore) cycle(ctx context.Context, i int, value []byte) error {
	return errors.Join(s.store.Delete(s.tokens[i]), s.create(ctx, i, value))
}

// ourStore is this library's.
type ourStore struct {
	tokens
	store *pgsession.Store
}

func (s *ourStore) data(i int, value []byte) pgsession.Data {
	return pgsession.Data{UserID: fmt.Sprint("user-", i), Values: value}
}

func (s *ourStore) create(ctx context.Context, i int, value []byte) error {
	created, err := s.store.Create(ctx, s.data(i, value), lifetime)
	if err == nil {
		s.tokens[i] = created.ID.Token()
	}
	return err
}

func (s *ourStore) load(ctx context.Context, i int) ([]byte, error) {
	id, err := pgsession.ParseID(s.tokens[i])
	if err != nil {
		return nil, err
	}
	loaded, err := s.store.Load(ctx, id)
	if err != nil {
		return nil, err
	}
	return pgsession.Decode[[]byte](loaded)
}

func (s *ourStore) save(ctx context.Context, i int, value []byte, ttl time.Duration) error {
	id, err := pgsession.ParseID(s.tokens[i])
	if err != nil {
		return err
	}
	return s.store.Save(ctx, id, s.data(i, value), ttl)
}

func (s *ourStore) cycle(ctx context.Context, i int, value []byte) error {
	id, err := pgsession.ParseID(s.tokens[i])
	if err != nil {
		return err
	}
	next := pgsession.NewID()
	err = s.store.Cycle(ctx, id, next, s.data(i, value), lifetime)
	s.tokens[i] = next.Token()
	return err
}

// bareStore is what this library's table costs by itself: one statement a call, with the library's
// columns and conditions, and no encryption.
type bareStore struct {
	tokens
	pool
}

func (s *bareStore) key(i int) []byte {
	key := sha256.Sum256([]byte(s.tokens[i]))
	return key[:]
}

func (s *bareStore) create(ctx context.Context, i int, value []byte) error {
	s.tokens[i] = pgsession.NewID().Token()
	now := time.Now()
	_, err := s.Exec(ctx, `
		INSERT INTO bare (key, user_key, sealed, version, created_at, expires_at, idle_timeout)
		VALUES ($1, $1, $2, 1, $3, $4, $5)`, s.key(i), value, now, now.Add(lifetime), lifetime)
	return err
}

func (s *bareStore) load(ctx context.Context, i int) (value []byte, err error) {
	var (
		key, userKey     []byte
		isPlain          bool
		version          int64
		created, expires time.Time
		ends             *time.Time
		idleTimeout      time.Duration
	)
	err = s.QueryRow(ctx, `
		SELECT key, user_key, sealed, data IS NOT NULL, version, created_at, expires_at, ends_at, idle_timeout
		FROM bare
		WHERE key = $1`, s.key(i)).Scan(&key, &userKey, &value, &isPlain, &version, &created, &expires, &ends, &idleTimeout)
	if err == nil && !expires.After(time.Now()) {
		err = errAbsent
	}
	return value, err
}

func (s *bareStore) save(ctx context.Context, i int, value []byte, ttl time.Duration) error {
	now := time.Now()
	tag, err := s.Exec(ctx, `
		UPDATE bare
		SET user_key = $2, sealed = $3, data = NULL, version = (version & x'3fffffffffffffff'::bigint) + 1,
			expires_at = least($4::timestamptz, ends_at), idle_timeout = $5
		WHERE key = $2 AND (data IS NOT NULL OR sealed IS NOT NULL) AND expires_at > $1 AND user_key IS NOT DISTINCT FROM $2`,
		now, s.key(i), value, now.Add(ttl), ttl)
	if err == nil && tag.RowsAffected() == 0 {
		err = errAbsent
	}
	return err
}
