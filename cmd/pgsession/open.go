package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtable"
)

// A database is a table, and the store on it.
type database struct {
	*pgsession.Store
	pool   *pgxpool.Pool
	table  pgx.Identifier
	crypto *pgsession.Crypto // nil if there are no keys

	timeout time.Duration // of each statement; 0: none
}

// within bounds a statement of a command's own.
func (d *database) within(ctx context.Context) (context.Context, context.CancelFunc) {
	if d.timeout == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, d.timeout)
}

// sql returns a statement for the table, which is called sessions in it.
func (d *database) sql(statement string) string {
	return strings.ReplaceAll(statement, "sessions AS s", d.table.Sanitize()+" AS s")
}

// needs says whether a command opens sessions or looks for a user's.
type needs bool

const (
	noKeys needs = false
	keys   needs = true
)

// with calls do with the database, and closes it. A store without keys can be asked for nothing
// that opens a session.
func (a *app) with(ctx context.Context, need needs, do func(ctx context.Context, d *database) error) error {
	crypto, err := a.crypto()
	switch {
	case err != nil:
		return err
	case crypto == nil && need == keys && !a.plaintext:
		return usage("this needs the keys of the store: set SESSION_KEYS, or name a file by --keys-file")
	}
	config, err := pgxpool.ParseConfig(os.Getenv("DATABASE_URL"))
	if err != nil {
		if parsing := (*pgconn.ParseConfigError)(nil); errors.As(err, &parsing) {
			parsing.ConnString = "DATABASE_URL" // pgx does not find every password in it
		}
		return &exitError{exitUsage, err}
	}
	if parameters := config.ConnConfig.RuntimeParams; parameters["application_name"] == "" {
		parameters["application_name"] = "pgsession"
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	table, err := pgtable.ParseName(a.table)
	if err != nil {
		return err
	}
	return do(ctx, &database{a.store(pool, crypto), pool, table, crypto, a.timeout})
}

func (a *app) store(pool *pgxpool.Pool, crypto *pgsession.Crypto) *pgsession.Store {
	logger := slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{ReplaceAttr: withoutTime}))
	if a.plaintext || crypto == nil {
		logger = slog.New(slog.DiscardHandler) // what is known, and that no session opens
	}
	options := []pgsession.Option{pgsession.WithClock(clock), pgsession.WithTable(a.table), pgsession.WithTimeout(a.timeout), pgsession.WithLogger(logger)}
	switch {
	case a.plaintext:
		return pgsession.Plaintext(pool, options...)
	case crypto == nil:
		crypto, _ = pgsession.NewCrypto(pgsession.GenerateKey())
	}
	return pgsession.New(pool, crypto, options...)
}

func withoutTime(_ []string, attr slog.Attr) slog.Attr {
	if attr.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return attr
}

// crypto returns the keys, or nil if none are named, or none are wanted.
func (a *app) crypto() (*pgsession.Crypto, error) {
	if a.plaintext {
		return nil, nil
	}
	ring, from := os.Getenv("SESSION_KEYS"), "SESSION_KEYS"
	if a.keysFile != "" {
		content, err := os.ReadFile(a.keysFile)
		if failed := (*fs.PathError)(nil); errors.As(err, &failed) {
			err = failed.Err // without the name, which may be a key that was meant for SESSION_KEYS
		}
		if err != nil {
			return nil, usage("--keys-file: %w", err)
		}
		ring, from = string(content), a.keysFile
	} else if ring == "" {
		return nil, nil
	}
	crypto, err := pgsession.ParseKeyRing(ring)
	if err != nil {
		return nil, usage("%s: %s", from, strings.TrimPrefix(err.Error(), "pgsession: "))
	}
	return crypto, nil
}
