// Command gin counts for each visitor, before and after a log-in, with the framework gin.
package main

import (
	"html/template"
	"log"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/httpsession"
)

type visitor struct{ Count int }

var page = template.Must(template.New("").Parse(`<p>Hello {{or .UserID "guest"}}, you have counted to {{.Values.Count}}.
	<form method=post><input name=name value=ann><button formaction=/login>Log in</button><button formaction=/logout>Log out</button><button formaction=/count>Count</button></form>`))

// wrap makes net/http's middleware gin's. If the middleware does not call the next handler, neither
// does gin.
func wrap(middleware func(http.Handler) http.Handler) gin.HandlerFunc {
	return func(c *gin.Context) {
		called := false
		next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			called = true
			c.Request = r
			c.Next()
		})
		middleware(next).ServeHTTP(c.Writer, c.Request)
		if !called {
			c.Abort()
		}
	}
}

func main() {
	sessions := httpsession.New[visitor](pgsession.InMemory()) // README.md shows a store in PostgreSQL
	show := func(c *gin.Context) {
		c.Header("Cache-Control", "private")
		c.HTML(http.StatusOK, "", sessions.Get(c.Request))
	}
	redirect := func(c *gin.Context, err error) {
		if err != nil {
			sessions.Error(c.Writer, c.Request, err)
			return
		}
		c.Redirect(http.StatusSeeOther, "/")
	}

	router := gin.Default()
	router.SetHTMLTemplate(page)
	router.Use(wrap(http.NewCrossOriginProtection().Handler), wrap(sessions.Handler))
	router.GET("/", show)
	router.POST("/count", func(c *gin.Context) {
		redirect(c, sessions.Update(c.Writer, c.Request, func(v *visitor) error { v.Count++; return nil }))
	})
	router.POST("/login", func(c *gin.Context) {
		redirect(c, sessions.LogIn(c.Writer, c.Request, c.PostForm("name"), nil)) // check a password first
	})
	router.POST("/logout", func(c *gin.Context) {
		redirect(c, sessions.LogOut(c.Writer, c.Request))
	})
	router.GET("/account", wrap(sessions.RequireUser), show)
	server := http.Server{Addr: "localhost:8080", Handler: router, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second}
	log.Fatal(server.ListenAndServe())
}
