package faults_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
	"github.com/pgsession/pgsession/internal/test"
)

type tenant struct{} // the key of a context's tenant

// tenantHooks are the hooks of a pool that may choose a tenant by the caller's context.
var tenantHooks = map[string]func(config *pgxpool.Config, choose func(ctx context.Context, conn *pgx.Conn) error){
	"BeforeAcquire": func(config *pgxpool.Config, choose func(context.Context, *pgx.Conn) error) {
		//lint:ignore SA1019 a pool may still have it
		config.BeforeAcquire = func(ctx context.Context, conn *pgx.Conn) bool { return choose(ctx, conn) == nil }
	},
	"PrepareConn": func(config *pgxpool.Config, choose func(context.Context, *pgx.Conn) error) {
		config.PrepareConn = func(ctx context.Context, conn *pgx.Conn) (bool, error) { return true, choose(ctx, conn) }
	},
}

// tenants are two tenants with a schema each, of one store. The hook sets the search_path.
type tenants struct {
	*test.Store
	contexts [2]context.Context
	schemas  [2]string
	strays   atomic.Int64 // statements without a tenant
}

func newTenants(t *testing.T, hook func(*pgxpool.Config, func(context.Context, *pgx.Conn) error)) *tenants {
	t.Helper()
	s := &tenants{}
	for i := range s.contexts {
		_, s.schemas[i] = pgtest.Schema(t)
		s.contexts[i] = context.WithValue(t.Context(), tenant{}, s.schemas[i])
	}
	pool := pgtest.Pool(t, func(config *pgxpool.Config) {
		config.MaxConns = 4
		config.ConnConfig.RuntimeParams["search_path"] = "nowhere"
		hook(config, func(ctx context.Context, conn *pgx.Conn) error {
			schema, ok := ctx.Value(tenant{}).(string)
			if !ok {
				s.strays.Add(1)
				schema = "nowhere"
			}
			_, err := conn.Exec(ctx, `SET search_path = `+schema)
			return err
		})
	})
	s.Store = &test.Store{Store: test.Open(pool), Pool: pool, Clock: nil}
	for _, ctx := range s.contexts {
		require.NoError(t, s.Init(ctx))
	}
	return s
}

// inSchema counts a tenant's rows.
func (s *tenants) inSchema(t *testing.T, i int, condition string) (n int) {
	t.Helper()
	require.NoError(t, s.Pool.QueryRow(s.contexts[i], `SELECT count(*) FROM `+s.schemas[i]+`.sessions WHERE `+condition).Scan(&n))
	return n
}

// TestTenants has two tenants' callers make every call at once, many more of them than there are
// connections. Each call must reach its own tenant's table.
func TestTenants(t *testing.T) {
	t.Parallel()
	for name, hook := range tenantHooks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newTenants(t, hook)
			const callers = 50
			var ids [2][callers]pgsession.ID
			for i, ctx := range s.contexts {
				for n := range ids[i] {
					session, err := s.Create(ctx, pgsession.Data{UserID: "ann", Values: i}, time.Hour)
					require.NoError(t, err)
					ids[i][n] = session.ID
				}
			}
			kv := s.KeyValue()
			for operation, call := range map[string]func(ctx context.Context, i int, id pgsession.ID) error{
				"load": func(ctx context.Context, _ int, id pgsession.ID) error { return test.Err(s.Load(ctx, id)) },
				"save": func(ctx context.Context, i int, id pgsession.ID) error {
					return s.Save(ctx, id, test.Ann(i), time.Hour)
				},
				"put": func(ctx context.Context, i int, id pgsession.ID) error { return s.Put(ctx, id, test.Ann(i), time.Hour) },
				"touch": func(ctx context.Context, _ int, id pgsession.ID) error {
					return test.Err(s.Touch(ctx, test.Unloaded(id), 2*time.Hour))
				},
				"update": func(ctx context.Context, i int, id pgsession.ID) error {
					return test.Err(s.Update(ctx, test.Unloaded(id), 0, test.Keep(i)))
				},
				"put anew": func(ctx context.Context, i int, id pgsession.ID) error {
					return s.Put(ctx, pgsession.DeriveID(id.Token()), test.Ann(i), time.Hour)
				},
				"create": func(ctx context.Context, i int, _ pgsession.ID) error {
					return test.Err(s.Create(ctx, pgsession.Data{UserID: "bob", Values: i}, time.Hour))
				},
				"key/value": func(ctx context.Context, _ int, id pgsession.ID) error {
					if err := kv.Put(ctx, id.Token(), nil, time.Hour); err != nil {
						return err
					}
					return test.Err(kv.Take(ctx, id.Token()))
				},
				"health":         func(ctx context.Context, _ int, _ pgsession.ID) error { return test.Examine(ctx, s.Store.Store).Err },
				"find by user":   func(ctx context.Context, _ int, _ pgsession.ID) error { return test.Err(s.FindByUser(ctx, "ann", 0)) },
				"clean up":       func(ctx context.Context, _ int, _ pgsession.ID) error { return test.Err(s.CleanupExpired(ctx)) },
				"reseal":         func(ctx context.Context, _ int, _ pgsession.ID) error { return test.Err(s.Reseal(ctx)) },
				"delete by user": func(ctx context.Context, _ int, _ pgsession.ID) error { return test.Err(s.DeleteByUser(ctx, "bob")) },
			} {
				test.RequireAll(t, operation, 2*callers, func(n int) error { return call(s.contexts[n%2], n%2, ids[n%2][n/2]) })
			}
			for i, ctx := range s.contexts {
				for session, err := range s.All(ctx) {
					require.NoError(t, err)
					require.Equal(t, i, test.Decode[int](t, session), "of the other tenant")
				}
			}
			test.RequireAll(t, "touch", 2*callers, func(n int) error {
				return test.Err(s.Touch(s.contexts[n%2], test.Unloaded(ids[n%2][n/2]), 2*time.Hour))
			})
			test.RequireAll(t, "delete", 2*callers, func(n int) error { return s.Delete(s.contexts[n%2], ids[n%2][n/2]) })
			for i := range s.contexts {
				require.Equal(t, callers, s.inSchema(t, i, `sealed IS NULL AND user_key IS NULL AND expires_at > now() + interval '90 minutes'`),
					"ended, each in its own table")
			}
			require.Zero(t, s.strays.Load(), "no statement is without its caller's context")
		})
	}
}

// TestTenants_Probe asks the health endpoint for one tenant and then for the other. Probes at the
// same time share one look, which is that of the first probe's tenant.
func TestTenants_Probe(t *testing.T) {
	t.Parallel()
	for name, hook := range tenantHooks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newTenants(t, hook)
			for _, ctx := range s.contexts {
				response := httptest.NewRecorder()
				s.HealthHandler().ServeHTTP(response, httptest.NewRequestWithContext(ctx, http.MethodGet, "/health", nil))
				require.Equal(t, http.StatusOK, response.Code)
			}
			require.Zero(t, s.strays.Load())
		})
	}
}

// TestTenants_Watch watches two sessions of each tenant, and ends one of each.
func TestTenants_Watch(t *testing.T) {
	t.Parallel()
	for name, hook := range tenantHooks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newTenants(t, hook)
			var ended, live []context.Context
			for _, ctx := range s.contexts {
				watched := make([]context.Context, 2)
				for i := range watched {
					session, err := s.Create(ctx, pgsession.Data{}, time.Hour)
					require.NoError(t, err)
					var cancel context.CancelFunc
					watched[i], cancel = s.Watch(ctx, session.Handle)
					defer cancel()
					if i == 0 {
						require.NoError(t, s.Delete(ctx, session.ID))
					}
				}
				ended, live = append(ended, watched[0]), append(live, watched[1])
			}
			for _, ctx := range ended {
				<-ctx.Done()
				require.ErrorIs(t, context.Cause(ctx), pgsession.ErrRevoked)
			}
			for _, ctx := range live {
				require.NoError(t, ctx.Err())
			}
			require.Zero(t, s.strays.Load())
		})
	}
}

// TestTenants_Roles has the hook set a role, which row level security would go by: a pool where a
// tenant's calls ran under another role would be denied.
func TestTenants_Roles(t *testing.T) {
	t.Parallel()
	for name, hook := range tenantHooks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			owner, schema := pgtest.Schema(t)
			require.NoError(t, test.Open(owner).Init(t.Context()))
			granted, _ := test.NewRole(t, owner, schema)
			denied, _ := test.NewRole(t, owner, schema)
			test.RunScript(t, owner, `GRANT SELECT, INSERT, UPDATE, DELETE ON sessions TO `+granted)
			pool := pgtest.Pool(t, func(config *pgxpool.Config) {
				config.MaxConns = 4
				config.ConnConfig.RuntimeParams["search_path"] = schema
				hook(config, func(ctx context.Context, conn *pgx.Conn) error {
					_, err := conn.Exec(ctx, `SET ROLE `+ctx.Value(tenant{}).(string))
					return err
				})
			})
			s := test.Open(pool)
			may, mayNot := context.WithValue(t.Context(), tenant{}, granted), context.WithValue(t.Context(), tenant{}, denied)
			session, err := s.Create(may, test.Ann(1), time.Hour)
			require.NoError(t, err)
			test.RequireAll(t, "load", 100, func(n int) error {
				if n%2 == 0 {
					return test.Err(s.Load(may, session.ID))
				}
				if err := test.Err(s.Load(mayNot, session.ID)); err == nil {
					return context.Canceled // by the other's privilege
				}
				return nil
			})
			require.NoError(t, test.Examine(may, s).Err)
			require.Error(t, test.Examine(mayNot, s).Err)
			cleanup := s.SpawnCleanup(may, time.Millisecond)
			defer cleanup.Stop()
			require.Eventually(t, func() bool { return !s.Stats().LastCleanup.IsZero() }, test.Patience, time.Millisecond)
		})
	}
}
