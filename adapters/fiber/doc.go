// Package fiberstore keeps what a fiber application stores in PostgreSQL, by pgsession.
//
// [NewSessions] returns the Storage for fiber's session middleware, and [SetUser] names the user
// that a session belongs to. [NewKeyValue] returns the Storage for the other middleware that takes
// one: csrf, limiter, cache and idempotency.
//
// # Contexts
//
// Fiber's middleware passes its fiber.Ctx as the context, which never ends. The storages use what
// Ctx.Context returns instead, so a deadline or a value that the application gave to Ctx.SetContext
// counts. Fiber sees no client hang up. The store's WithTimeout bounds each operation, also those
// without a context.
//
// # Rows that do not open
//
// A row that was edited, or is sealed under a key that is not in the ring, is as good as absent: a
// visitor with a broken session becomes a guest and is not locked out. It is logged at level error,
// by fiber's package log, a line a second at most, and pgsession's health check is degraded. An
// outage is an error.
package fiberstore

import (
	"context"
	"errors"
	"time"

	"github.com/gofiber/fiber/v3"

	"github.com/pgsession/pgsession"
)

// noExpiration is the longest ttl of a store. It stands for fiber's 0, which is no expiration.
const noExpiration = 100 * 365 * 24 * time.Hour

func ttlOf(expiration time.Duration) time.Duration {
	if expiration == 0 {
		return noExpiration
	}
	return expiration
}

func requestContext(ctx context.Context) context.Context {
	if c, ok := ctx.(fiber.Ctx); ok {
		return c.Context()
	}
	return ctx
}

func ignoreNotFound(err error) error {
	if errors.Is(err, pgsession.ErrNotFound) {
		return nil
	}
	return err
}
