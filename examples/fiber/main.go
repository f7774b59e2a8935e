// Command fiber counts a visitor's visits, before and after a log-in. Its sessions are in the PostgreSQL that DATABASE_URL names, and
// in memory if it names none.
package main

import (
	"context"
	"errors"
	"html/template"
	"log"
	"os"
	"time"

	"github.com/gofiber/fiber/v3"
	"github.com/gofiber/fiber/v3/middleware/recover"
	"github.com/gofiber/fiber/v3/middleware/session"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pgsession/pgsession"
	fiberstore "github.com/pgsession/pgsession/adapters/fiber"
)

var page = template.Must(template.New("").Parse(`<p>Hello {{or .User "guest"}}, this is visit {{.Visits}}.
	<form method=post><input name=name value=ann><button formaction=/login>Log in</button><button formaction=/logout>Log out</button></form>`))

func main() {
	app := fiber.New(fiber.Config{ErrorHandler: fail})
	app.Use(recover.New()) // the session middleware panics if the database is down
	app.Use(session.New(session.Config{
		Storage:        fiberstore.NewSessions(newStore()),
		ErrorHandler:   func(c fiber.Ctx, err error) { _ = fail(c, err) },
		CookieHTTPOnly: true, // and CookieSecure, behind TLS
	}))
	app.Get("/", func(c fiber.Ctx) error {
		s := session.FromContext(c)
		visits, _ := s.Get("visits").(int)
		s.Set("visits", visits+1)
		c.Type("html", "utf-8")
		return page.Execute(c, map[string]any{"User": fiberstore.User(s), "Visits": visits + 1})
	})
	app.Post("/login", func(c fiber.Ctx) error { // check a password first
		s := session.FromContext(c)
		if err := s.Regenerate(); err != nil {
			return err
		}
		if err := fiberstore.SetUser(s, c.FormValue("name")); err != nil {
			return err
		}
		return c.Redirect().Status(fiber.StatusSeeOther).To("/")
	})
	app.Post("/logout", func(c fiber.Ctx) error {
		if err := session.FromContext(c).Destroy(); err != nil {
			return err
		}
		return c.Redirect().Status(fiber.StatusSeeOther).To("/")
	})
	check(app.Listen("localhost:8080"))
}

// fail answers if a session could not be loaded or saved.
func fail(c fiber.Ctx, err error) error {
	if errors.As(err, new(*fiber.Error)) { // not found, for instance
		return fiber.DefaultErrorHandler(c, err)
	}
	if errors.Is(err, pgsession.ErrNotFound) || errors.Is(err, pgsession.ErrUserChanged) {
		return c.Status(fiber.StatusConflict).SendString("Your session has changed. Please load the page again.")
	}
	log.Print(err)
	return c.Status(fiber.StatusServiceUnavailable).SendString("You are still logged in. Please try again.")
}

func newStore() *pgsession.Store {
	url := os.Getenv("DATABASE_URL")
	if url == "" {
		return pgsession.InMemory()
	}
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, url)
	check(err)
	keys, err := pgsession.ParseKeyRing(os.Getenv("SESSION_KEYS")) // openssl rand -hex 32 prints one
	check(err)
	store := pgsession.New(pool, keys)
	check(store.Init(ctx))
	store.SpawnCleanup(ctx, 10*time.Minute)
	return store
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
