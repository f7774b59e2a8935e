package fiberstore_test

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gofiber/fiber/v3"
	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	fiberstore "github.com/pgsession/pgsession/adapters/fiber"
	"github.com/pgsession/pgsession/internal/test"
)

// comparedTimeout is the store's WithTimeout. A storage that has none has four times as long to
// answer.
const comparedTimeout = 3 * time.Second

// A comparedStorage is a column of the README's table.
type comparedStorage struct {
	name       string
	newStorage func(t *testing.T) (fiber.Storage, *test.Network) // without a network if it needs none
}

var compared = []comparedStorage{
	{"fiber's in memory", func(*testing.T) (fiber.Storage, *test.Network) { return nil, nil }},
	{"pgsession", func(t *testing.T) (fiber.Storage, *test.Network) {
		n := test.NewNetwork(t)
		return fiberstore.NewSessions(test.OpenTable(t, n.Pool, "sessions", pgsession.WithTimeout(comparedTimeout)), "session_id"), n
	}},
}

// scenarios are the rows of the README's table.
var scenarios = []struct {
	name string
	run  func(t *testing.T, ann *browser, n *test.Network) (result string)
}{
	{"50 requests at once change 50 keys of a session", func(t *testing.T, ann *browser, _ *test.Network) string {
		var finishes []func() (int, string)
		for i := range 50 {
			finishes = append(finishes, ann.another().begin(t, fmt.Sprintf("/set/key%d/x", i)))
		}
		for _, finish := range finishes {
			finish()
		}
		kept := 0
		for i := range 50 {
			if ann.mustDo(t, fmt.Sprintf("/get/key%d", i)) == "x" {
				kept++
			}
		}
		return fmt.Sprintf("%d kept", kept)
	}},
	{"a change, while a slow request reads", func(t *testing.T, ann *browser, _ *test.Network) string {
		finish := ann.another().begin(t, "/get/a")
		ann.another().mustDo(t, "/set/a/changed")
		finish()
		return either(ann.mustDo(t, "/get/a") == "changed", "kept", "**lost**")
	}},
	{"a log-out, while a slow request reads", func(t *testing.T, ann *browser, _ *test.Network) string {
		finish := ann.another().begin(t, "/get/a")
		ann.another().mustDo(t, "/logout")
		finish()
		return either(ann.mustDo(t, "/user") == "", "stays logged out", "**logged in again**")
	}},
	{"a log-out, while a slow request writes", func(t *testing.T, ann *browser, _ *test.Network) string {
		finish := ann.another().begin(t, "/set/a/b")
		ann.another().mustDo(t, "/logout")
		finish()
		return either(ann.mustDo(t, "/user") == "", "stays logged out", "**logged in again**")
	}},
	{"a log-out, while a slow request calls Regenerate", func(t *testing.T, ann *browser, _ *test.Network) string {
		slow := ann.another()
		finish := slow.begin(t, "/regenerate")
		ann.another().mustDo(t, "/logout")
		finish()
		return either(slow.mustDo(t, "/user") == "", "stays logged out", "**logged in again**, under a new id")
	}},
	{"a log-in, while a slow request runs with the guest's id", func(t *testing.T, ann *browser, _ *test.Network) string {
		guest := ann.site.newBrowser(t)
		guest.mustDo(t, "/set/cart/full")
		finish := guest.another().begin(t, "/set/a/b")
		guest.another().mustDo(t, "/login/bob")
		finish()
		return either(guest.mustDo(t, "/get/cart") == "full", "**the guest's id lives on**", "the guest's id is over")
	}},
	{"a log-in, and then the answer of a slow request from before", func(t *testing.T, ann *browser, _ *test.Network) string {
		guest := ann.site.newBrowser(t)
		finish := guest.begin(t, "/get/a")
		guest.mustDo(t, "/login/bob")
		finish()
		return either(guest.mustDo(t, "/user") == "bob", "stays logged in", "**the browser has the guest's cookie again**")
	}},
	{"two log-ins at once of a guest with a full cart", func(t *testing.T, ann *browser, _ *test.Network) string {
		guest := ann.site.newBrowser(t)
		guest.mustDo(t, "/set/cart/full")
		one, two := guest.another(), guest.another()
		finish := one.begin(t, "/login/bob")
		two.mustDo(t, "/login/bob")
		finish()
		full := one.mustDo(t, "/get/cart") == "full" && two.mustDo(t, "/get/cart") == "full"
		return either(full, "**two full carts**", "one full cart")
	}},
	{"the database refuses connections for some time", func(t *testing.T, ann *browser, n *test.Network) string {
		if n == nil {
			return "–"
		}
		n.Cut()
		status, _ := ann.do(t, "/user")
		require.Equal(t, http.StatusServiceUnavailable, status)
		n.Mend()
		return either(ann.mustDo(t, "/user") == "ann", "an error, then logged in as before", "**logged out**")
	}},
	{"the database does not answer", func(t *testing.T, ann *browser, n *test.Network) string {
		if n == nil {
			return "–"
		}
		goOn := n.Hang()
		answered := make(chan int)
		go func() {
			status, _ := ann.another().do(t, "/user")
			answered <- status
		}()
		select {
		case status := <-answered:
			require.Equal(t, http.StatusServiceUnavailable, status)
			goOn()
			require.Equal(t, "ann", ann.mustDo(t, "/user"))
			return "an error after WithTimeout"
		case <-time.After(4 * comparedTimeout):
			goOn()
			<-answered
			return "**the request waits without end**"
		}
	}},
}

func either(condition bool, yes, no string) string {
	if condition {
		return yes
	}
	return no
}

// TestComparison runs what the README's table compares, and wants the table to say what happened.
func TestComparison(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	cells := map[string][]string{}
	for line := range strings.Lines(string(readme)) {
		if row := strings.Split(strings.TrimSuffix(strings.TrimSpace(line), " |"), " | "); len(row) > 1 {
			cells[strings.TrimPrefix(row[0], "| ")] = row
		}
	}
	for _, scenario := range scenarios {
		t.Run(scenario.name, func(t *testing.T) {
			t.Parallel()
			for _, storage := range compared {
				made, n := storage.newStorage(t)
				ann := newSite(t, made).newBrowser(t)
				ann.mustDo(t, "/login/ann")
				result := scenario.run(t, ann, n)
				t.Logf("%s: %s", storage.name, result)
				column := slices.Index(cells["what happens"], storage.name)
				require.Positive(t, column, storage.name)
				require.Greater(t, len(cells[scenario.name]), column)
				require.Equal(t, cells[scenario.name][column], result)
			}
		})
	}
}
