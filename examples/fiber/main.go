// Command fiber counts for each visitor, before and after a log-in. Its sessions are in the
// PostgreSQL that DATABASE_URL names, and in memory if it names none.
package main

import (
	"context"
	"errors"
	"html/template"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/gofiber/fiber/v3"
	"github.com/gofiber/fiber/v3/middleware/adaptor"
	"github.com/gofiber/fiber/v3/middleware/recover"
	"github.com/gofiber/fiber/v3/middleware/session"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pgsession/pgsession"
	fiberstore "github.com/pgsession/pgsession/adapters/fiber"
)

var page = template.Must(template.New("").Parse(`<p>Hello {{or .User "guest"}}, you have counted to {{.Count}}.
	<form method=post><input name=name value=ann><button formaction=/login>Log in</button><button formaction=/logout>Log out</button><button formaction=/count>Count</button></form>`))

func main() {
	app := fiber.New(fiber.Config{ErrorHandler: fail, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second})
	protection := http.NewCrossOriginProtection()
	app.Use(func(c fiber.Ctx) error {
		if r, err := adaptor.ConvertRequest(c, true); err != nil || protection.Check(r) != nil {
			return fiber.ErrForbidden
		}
		return c.Next()
	})
	app.Use(recover.New()) // the session middleware panics if the database is down

	sessions := fiberstore.NewSessions(newStore(), "session_id") // the name of the cookie
	app.Use(session.New(session.Config{
		Storage:        sessions,
		Extractor:      sessions.Extractor(),
		ErrorHandler:   func(c fiber.Ctx, err error) { _ = fail(c, err) },
		CookieHTTPOnly: true,
		CookieSecure:   true, // Chrome, Firefox and Edge take it from http://localhost, Safari does not
	}))
	app.Get("/", func(c fiber.Ctx) error {
		s := session.FromContext(c)
		count, _ := s.Get("count").(int)
		c.Type("html", "utf-8")
		c.Set(fiber.HeaderCacheControl, "private")
		return page.Execute(c, map[string]any{"User": fiberstore.User(s), "Count": count})
	})
	app.Post("/count", func(c fiber.Ctx) error {
		s := session.FromContext(c)
		count, _ := s.Get("count").(int)
		s.Set("count", count+1)
		return c.Redirect().Status(fiber.StatusSeeOther).To("/")
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
