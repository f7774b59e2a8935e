package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/bridge"
)

func (a *app) keygenCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "keygen",
		GroupID: "begin",
		Short:   "Print a new key",
		Long: `keygen prints a new random key, 64 hex digits, for SESSION_KEYS or a secret store. The key's id goes
to the error stream: check names keys by their ids.`,
		Example: `  pgsession keygen > new.key`,
		Args:    noArgs,
		RunE: a.runs(func(context.Context, []string) error {
			key := pgsession.GenerateKey()
			crypto, err := pgsession.NewCrypto(key)
			if err != nil {
				return err
			}
			id := keyID(bridge.KeyIDs(crypto)[0])
			if !a.json {
				fmt.Fprintln(a.err, "key id", id)
			}
			return a.print(struct {
				Key string `json:"key"`
				ID  keyID  `json:"id"`
			}{key.Secret(), id}, func(w io.Writer) { line(w, key.Secret()) })
		}),
	}
}

// A keyID is how a key is named. It tells nothing of the key.
type keyID uint32

func (id keyID) String() string               { return fmt.Sprintf("%08x", uint32(id)) }
func (id keyID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

func (a *app) schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "schema",
		GroupID: "begin",
		Short:   "Print the SQL that creates the table, for a migration tool",
		Example: `  pgsession schema --table app.sessions > migrations/0007_sessions.sql`,
		Args:    noArgs,
		RunE: a.runs(func(context.Context, []string) error {
			sql := pgsession.Schema(a.table)
			return a.print(struct {
				SQL string `json:"sql"`
			}{sql}, func(w io.Writer) { fmt.Fprint(a.out, sql) })
		}),
	}
}

func (a *app) initCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "init",
		GroupID: "begin",
		Short:   "Create the table, or check the one that is there",
		Long: `init creates the table with its indexes. If there is one, init checks its columns, indexes,
privileges and settings, and creates the indexes that it lacks. It may be run any number of times,
beside the application. It needs no keys; with them it also looks whether sessions open.`,
		Args: noArgs,
		RunE: a.runs(func(ctx context.Context, _ []string) error {
			return a.with(ctx, noKeys, func(ctx context.Context, d *database) error {
				some, cancel := d.within(ctx)
				defer cancel()
				var exists bool
				if err := d.pool.QueryRow(some, `SELECT to_regclass($1) IS NOT NULL`, d.table.Sanitize()).Scan(&exists); err != nil {
					return err
				}
				if err := d.Init(ctx); err != nil {
					return err
				}
				said := "created"
				if exists {
					said = "as it should be"
				}
				return a.print(struct {
					Table   string `json:"table"`
					Created bool   `json:"created"`
				}{a.table, !exists}, func(w io.Writer) { line(w, "table "+a.table+": "+said) })
			})
		}),
	}
}
