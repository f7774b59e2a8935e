// Command echo counts for each visitor, before and after a log-in, with the framework echo.
package main

import (
	"html/template"
	"log"
	"net/http"
	"time"

	"github.com/labstack/echo/v5"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/httpsession"
)

type visitor struct{ Count int }

var page = template.Must(template.New("").Parse(`<p>Hello {{or .UserID "guest"}}, you have counted to {{.Values.Count}}.
	<form method=post><input name=name value=ann><button formaction=/login>Log in</button><button formaction=/logout>Log out</button><button formaction=/count>Count</button></form>`))

func main() {
	sessions := httpsession.New[visitor](pgsession.InMemory()) // README.md shows a store in PostgreSQL
	show := func(c *echo.Context) error {
		c.Response().Header().Set(echo.HeaderContentType, echo.MIMETextHTMLCharsetUTF8)
		c.Response().Header().Set(echo.HeaderCacheControl, "private")
		return page.Execute(c.Response(), sessions.Get(c.Request()))
	}

	redirect := func(c *echo.Context, err error) error {
		if err != nil {
			sessions.Error(c.Response(), c.Request(), err)
			return nil
		}
		return c.Redirect(http.StatusSeeOther, "/")
	}

	router := echo.New()
	router.Use(echo.WrapMiddleware(http.NewCrossOriginProtection().Handler), echo.WrapMiddleware(sessions.Handler))
	router.GET("/", show)
	router.POST("/count", func(c *echo.Context) error {
		return redirect(c, sessions.Update(c.Response(), c.Request(), func(v *visitor) error { v.Count++; return nil }))
	})
	router.POST("/login", func(c *echo.Context) error {
		return redirect(c, sessions.LogIn(c.Response(), c.Request(), c.FormValue("name"), nil)) // check a password first
	})
	router.POST("/logout", func(c *echo.Context) error {
		return redirect(c, sessions.LogOut(c.Response(), c.Request()))
	})
	router.GET("/account", show, echo.WrapMiddleware(sessions.RequireUser))
	server := http.Server{Addr: "localhost:8080", Handler: router, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second}
	log.Fatal(server.ListenAndServe())
}
