package pgsessionotel_test

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/exaring/otelpgx"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m, func() error { return goleak.Find() }) }

const (
	userID   = "ann@example.com"
	secret   = "a secret theme"
	patience = 30 * time.Second
)

// traced has a pool with otelpgx's tracer, and what it exports.
type traced struct {
	pool     *pgxpool.Pool
	exporter *tracetest.InMemoryExporter
	tracer   trace.Tracer
}

func newTraced(t testing.TB, options ...otelpgx.Option) traced {
	t.Helper()
	exporter := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter))
	t.Cleanup(func() { require.NoError(t, provider.Shutdown(context.Background())) })
	pool := pgtest.Pool(t, func(config *pgxpool.Config) {
		config.ConnConfig.Tracer = otelpgx.NewTracer(append(options, otelpgx.WithTracerProvider(provider))...)
	})
	return traced{pool, exporter, provider.Tracer("test")}
}

func newCrypto(t testing.TB, key pgsession.Key) *pgsession.Crypto {
	t.Helper()
	crypto, err := pgsession.NewCrypto(key)
	require.NoError(t, err)
	return crypto
}

// queries returns the spans of statements on the table that were run, without those that were
// prepared.
func (tr traced) queries() (spans tracetest.SpanStubs) {
	for _, span := range tr.exporter.GetSpans() {
		attributes := make(map[attribute.Key]string)
		for _, pair := range span.Attributes {
			attributes[pair.Key] = pair.Value.Emit()
		}
		_, prepared := attributes[otelpgx.PrepareStmtNameKey]
		if !prepared && strings.Contains(attributes["db.query.text"], `"sessions"`) {
			spans = append(spans, span)
		}
	}
	return spans
}

// text returns everything that is exported of all spans.
func (tr traced) text() string {
	var text strings.Builder
	for _, span := range tr.exporter.GetSpans() {
		fmt.Fprintln(&text, span.Name, span.Status, span.Links)
		for _, pair := range span.Attributes {
			fmt.Fprintln(&text, pair.Key, pair.Value.Emit())
		}
		for _, event := range span.Events {
			fmt.Fprintln(&text, event.Name)
			for _, pair := range event.Attributes {
				fmt.Fprintln(&text, pair.Key, pair.Value.Emit())
			}
		}
	}
	return text.String()
}

// use runs operations that succeed and that fail, under one span, and returns what no span may
// show, by name.
func (tr traced) use(t testing.TB, store *pgsession.Store, key pgsession.Key) map[string]string {
	t.Helper()
	ctx, span := tr.tracer.Start(t.Context(), "request")
	defer span.End()
	data := pgsession.Data{UserID: userID, Values: map[string]string{"theme": secret}}
	session, err := store.Create(ctx, data, time.Hour)
	require.NoError(t, err)
	_, err = store.CreateAs(ctx, pgsession.NewID(), data, time.Hour)
	require.NoError(t, err)
	_, err = store.Load(ctx, session.ID)
	require.NoError(t, err)
	_, err = store.Update(ctx, session, 0, func(*pgsession.Session) (any, error) { return secret, nil })
	require.NoError(t, err)
	require.NoError(t, store.Save(ctx, session.ID, data, time.Hour))
	require.NoError(t, store.Put(ctx, session.ID, data, time.Hour))
	_, err = store.Touch(ctx, session, 2*time.Hour)
	require.NoError(t, err)
	_, err = store.FindByUser(ctx, userID, 0)
	require.NoError(t, err)
	require.NoError(t, store.KeyValue().Put(ctx, "a secret name", []byte(secret), time.Hour))
	_, err = store.KeyValue().Take(ctx, "a secret name")
	require.NoError(t, err)

	_, err = store.CreateAs(ctx, session.ID, data, time.Hour)
	require.ErrorIs(t, err, pgsession.ErrExists)
	_, err = tr.pool.Exec(t.Context(), `ALTER TABLE sessions ADD CONSTRAINT small CHECK (expires_at < '2100-01-01')`)
	require.NoError(t, err)
	_, err = store.Touch(ctx, session, 99*365*24*time.Hour)
	require.ErrorContains(t, err, "23514", "its detail shows the whole row")
	late, cancel := context.WithCancel(ctx)
	cancel()
	_, err = store.Load(late, session.ID)
	require.ErrorIs(t, err, context.Canceled)

	_, err = store.DeleteByUser(ctx, userID, session.Handle)
	require.NoError(t, err)
	require.NoError(t, store.Delete(ctx, session.ID))
	_, err = store.Load(ctx, session.ID)
	require.ErrorIs(t, err, pgsession.ErrRevoked)

	handle, err := hex.DecodeString(session.Handle.String())
	require.NoError(t, err)
	return map[string]string{
		"token": session.ID.Token(), "handle": session.Handle.String(), "handle in base64": base64.StdEncoding.EncodeToString(handle),
		"handle's bytes": fmt.Sprint(handle), "user id": userID, "user id's bytes": bytesOf(userID),
		"value": secret, "value's bytes": bytesOf(secret), "entry": "a secret name", "key": key.Secret(),
	}
}

// bytesOf returns how Go prints a text's bytes, which is how otelpgx shows a parameter.
func bytesOf(text string) string { return strings.Trim(fmt.Sprint([]byte(text)), "[]") }

// TestSpans_NoSecrets holds that the spans of every operation show the statement, and no token,
// handle, key, user id or value, not even where the database refuses a row.
func TestSpans_NoSecrets(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(*pgxpool.Pool, pgsession.Key) *pgsession.Store{
		"encrypted": func(pool *pgxpool.Pool, key pgsession.Key) *pgsession.Store {
			return pgsession.New(pool, newCrypto(t, key))
		},
		"plaintext": func(pool *pgxpool.Pool, _ pgsession.Key) *pgsession.Store { return pgsession.Plaintext(pool) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := newTraced(t)
			key := pgsession.GenerateKey()
			store := open(tr.pool, key)
			require.NoError(t, store.Init(t.Context()))
			secrets := tr.use(t, store, key)
			text := tr.text()
			require.Contains(t, text, `FROM "sessions" AS s`)
			require.Contains(t, text, "23505", "an error is told")
			require.Contains(t, text, "23514")
			for what, secret := range secrets {
				require.NotContains(t, text, secret, what)
			}
		})
	}
}

// TestSpans_WithParameters shows why otelpgx.WithIncludeQueryParameters must stay off, and that the
// test above would see what it must not find.
func TestSpans_WithParameters(t *testing.T) {
	t.Parallel()
	tr := newTraced(t, otelpgx.WithIncludeQueryParameters())
	key := pgsession.GenerateKey()
	store := pgsession.Plaintext(tr.pool)
	require.NoError(t, store.Init(t.Context()))
	secrets := tr.use(t, store, key)
	text := tr.text()
	for _, what := range []string{"handle's bytes", "user id's bytes", "value's bytes"} {
		require.Contains(t, text, secrets[what], what)
	}
	require.NotContains(t, text, secrets["token"], "the store never sends one")
}

// TestSpans_Parent wants the span of a statement below the span of its call.
func TestSpans_Parent(t *testing.T) {
	t.Parallel()
	tr := newTraced(t)
	store := pgsession.New(tr.pool, newCrypto(t, pgsession.GenerateKey()))
	require.NoError(t, store.Init(t.Context()))
	ctx, span := tr.tracer.Start(t.Context(), "request")
	_, err := store.Load(ctx, pgsession.NewID())
	require.ErrorIs(t, err, pgsession.ErrNotFound)
	span.End()
	queries := tr.queries()
	require.Len(t, queries, 1)
	require.Equal(t, span.SpanContext().SpanID(), queries[0].Parent.SpanID())
}

// TestSpans_Sharing shows what becomes of the spans of calls that share a statement: they have
// none. Without sharing each has its own.
func TestSpans_Sharing(t *testing.T) {
	t.Parallel()
	const callers = 6
	for name, test := range map[string]struct {
		inFlight int
		check    func(t *testing.T, statements int)
	}{
		"on":  {1, func(t *testing.T, statements int) { require.Less(t, statements, callers) }},
		"off": {0, func(t *testing.T, statements int) { require.Equal(t, callers, statements) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := newTraced(t)
			store := pgsession.New(tr.pool, newCrypto(t, pgsession.GenerateKey()), pgsession.WithCoalescing(test.inFlight), pgsession.WithTimeout(patience))
			require.NoError(t, store.Init(t.Context()))
			release := lockTable(t, tr.pool)
			var group sync.WaitGroup
			for range callers {
				group.Go(func() {
					ctx, span := tr.tracer.Start(t.Context(), "request")
					defer span.End()
					if _, err := store.Load(ctx, pgsession.NewID()); err == nil {
						t.Error("there is no such session")
					}
				})
			}
			require.Eventually(t, func() bool { return store.Stats().Sharing["load"].Calls == callers }, patience, time.Millisecond)
			release()
			group.Wait()
			queries := tr.queries()
			require.NotEmpty(t, queries)
			test.check(t, len(queries))
			for _, query := range queries {
				require.True(t, query.Parent.IsValid(), "no statement has a trace of its own")
				require.Empty(t, query.Links)
			}
		})
	}
}

// lockTable keeps every statement on the table waiting until it is released.
func lockTable(t testing.TB, pool *pgxpool.Pool) (release func()) {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE`)
	require.NoError(t, err)
	return func() { require.NoError(t, tx.Rollback(context.Background())) }
}
