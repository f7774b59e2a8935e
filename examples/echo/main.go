// Command echo counts a visitor's visits, before and after a log-in, with the framework echo.
package main

import (
	"html/template"
	"log"
	"net/http"

	"github.com/labstack/echo/v5"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/httpsession"
)

type visitor struct{ Visits int }

var page = template.Must(template.New("").Parse(`<p>Hello {{or .UserID "guest"}}, this is visit {{.Values.Visits}}.
	<form method=post><input name=name value=ann><button formaction=/login>Log in</button><button formaction=/logout>Log out</button></form>`))

func main() {
	sessions := httpsession.New[visitor](pgsession.InMemory()) // README.md shows a store in PostgreSQL
	show := func(c *echo.Context) error {
		c.Response().Header().Set(echo.HeaderContentType, echo.MIMETextHTMLCharsetUTF8)
		return page.Execute(c.Response(), sessions.Get(c.Request()))
	}

	router := echo.New()
	router.Use(echo.WrapMiddleware(http.NewCrossOriginProtection().Handler), echo.WrapMiddleware(sessions.Handler))
	fail := func(c *echo.Context, err error) error {
		sessions.Error(c.Response(), c.Request(), err)
		return nil
	}
	router.GET("/", func(c *echo.Context) error {
		err := sessions.Update(c.Response(), c.Request(), func(v *visitor) error { v.Visits++; return nil })
		if err != nil {
			return fail(c, err)
		}
		return show(c)
	})
	router.POST("/login", func(c *echo.Context) error {
		err := sessions.LogIn(c.Response(), c.Request(), c.FormValue("name"), nil) // check a password first
		if err != nil {
			return fail(c, err)
		}
		return c.Redirect(http.StatusSeeOther, "/")
	})
	router.POST("/logout", func(c *echo.Context) error {
		if err := sessions.LogOut(c.Response(), c.Request()); err != nil {
			return fail(c, err)
		}
		return c.Redirect(http.StatusSeeOther, "/")
	})
	router.GET("/account", show, echo.WrapMiddleware(sessions.RequireUser))
	log.Fatal(router.Start("localhost:8080"))
}
