package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
)

func TestRun_ServesUntilItIsTold(t *testing.T) {
	t.Parallel()
	type testCase struct {
		databaseURL, keys string
		atRestart         string
	}
	cases := map[string]testCase{"in memory": {"", "", "Sessions are in memory, so a restart forgets them all"}}
	if testDatabase != "" {
		cases["PostgreSQL"] = testCase{testDatabase, testKey.Secret(), "so a restart keeps them"}
		cases["PostgreSQL, random key"] = testCase{testDatabase, "random", "so a restart forgets them all"}
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			environment := map[string]string{"DATABASE_URL": test.databaseURL, "SESSION_KEYS": test.keys}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			port, err := pgtest.FreePort()
			require.NoError(t, err)
			reader, writer := io.Pipe()
			ended := make(chan error, 1)
			go func() {
				ended <- run(ctx, []string{"-addr", "0", "-metrics", strconv.Itoa(port)}, func(name string) string { return environment[name] }, writer)
				writer.Close()
			}()

			lines := bufio.NewScanner(reader)
			require.True(t, lines.Scan())
			require.Contains(t, lines.Text(), "log in as alice with the password white-rabbit-42.")
			require.Contains(t, lines.Text(), test.atRestart)
			address := regexp.MustCompile(`ready at (http://localhost:\d+):`).FindStringSubmatch(lines.Text())
			require.NotNil(t, address, lines.Text())
			response, err := http.Get(address[1] + "/healthz")
			require.NoError(t, err)
			response.Body.Close()
			require.Equal(t, http.StatusOK, response.StatusCode)

			response, err = http.Get(fmt.Sprint("http://localhost:", port))
			require.NoError(t, err)
			defer response.Body.Close()
			require.NoError(t, json.NewDecoder(response.Body).Decode(new(pgsession.Stats)))

			cancel()
			_, _ = io.Copy(io.Discard, reader)
			require.NoError(t, <-ended)
			_, err = http.Get(address[1])
			require.Error(t, err)
		})
	}
}

func TestRun_Refuses(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "localhost:0")
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	key := pgsession.GenerateKey().Secret()
	const unreachable = "postgres://127.0.0.1:1/none"
	cases := map[string]struct{ addr, databaseURL, keys, want string }{
		"a port that is taken":    {listener.Addr().String(), "", "", "another program listens on"},
		"an address that is none": {"nowhere", "", "", "-addr needs a port, such as 8081"},
		"a database without keys": {"0", unreachable, "", "set both DATABASE_URL and SESSION_KEYS"},
		"keys without a database": {"0", "", key, "set both DATABASE_URL and SESSION_KEYS"},
		"keys that are none":      {"0", unreachable, "secret", "SESSION_KEYS: pgsession: parse key ring"},
		"a malformed address":     {"0", "postgres://host:port", key, "DATABASE_URL: cannot parse"},
		"no such database":        {"0", unreachable, key, "pgsession: init"},
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			environment := map[string]string{"DATABASE_URL": test.databaseURL, "SESSION_KEYS": test.keys}
			err := run(t.Context(), []string{"-addr", test.addr}, func(name string) string { return environment[name] }, io.Discard)
			require.ErrorContains(t, err, test.want)
		})
	}
}
