package faults_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/test"
)

// TestStore_SwallowedInsert has a trigger swallow new rows.
func TestStore_SwallowedInsert(t *testing.T) {
	t.Parallel()
	s := test.NewStore(t)
	swallow(t, s, "INSERT")
	ctx := t.Context()
	for name, err := range map[string]error{
		"Create":       test.Err(s.Create(ctx, test.Ann(1), time.Hour)),
		"CreateAs":     test.Err(s.CreateAs(ctx, pgsession.NewID(), test.Ann(1), time.Hour)),
		"Put":          s.Put(ctx, pgsession.NewID(), test.Ann(1), time.Hour),
		"KeyValue.Put": s.KeyValue().Put(ctx, "k", nil, time.Hour),
	} {
		require.Error(t, err, name)
		require.NotErrorIs(t, err, pgsession.ErrNotFound, name)
	}
}

// TestStore_DeleteByUser_WithoutEnd has a trigger let no session be ended, and say nothing.
func TestStore_DeleteByUser_WithoutEnd(t *testing.T) {
	t.Parallel()
	s := test.NewStore(t)
	s.Begin(t, test.Ann(1), time.Hour)
	swallow(t, s, "UPDATE OR DELETE")
	for name, end := range map[string]func(context.Context) (int64, error){
		"DeleteByUser": func(ctx context.Context) (int64, error) { return s.DeleteByUser(ctx, "ann") },
		"DeleteAll":    s.DeleteAll,
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		_, err := end(ctx)
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded, name)
	}
}

// swallow has a trigger make the server do nothing and say that all is well.
func swallow(t *testing.T, s *test.Store, events string) {
	t.Helper()
	s.SQL(t, `CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'`)
	s.SQL(t, `CREATE TRIGGER swallow BEFORE `+events+` ON sessions FOR EACH ROW EXECUTE FUNCTION swallow()`)
}
