package main

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtest"
)

func TestRun_ServesUntilItIsTold(t *testing.T) {
	t.Parallel()
	environment := map[string]string{
		"DATABASE_URL": pgtest.Pool(t).Config().ConnString(),
		"SESSION_KEYS": pgsession.GenerateKey().Secret(),
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	output, log := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"-addr", "localhost:0"}, func(name string) string { return environment[name] },
			slog.New(slog.NewTextHandler(log, nil)))
		log.Close()
	}()

	lines := bufio.NewScanner(output)
	require.True(t, lines.Scan())
	address := regexp.MustCompile(`url=(\S+)`).FindStringSubmatch(lines.Text())
	require.NotNil(t, address, lines.Text())
	response, err := http.Get(address[1] + "/healthz")
	require.NoError(t, err)
	response.Body.Close()
	require.Equal(t, http.StatusOK, response.StatusCode)

	cancel()
	_, _ = io.Copy(io.Discard, output)
	require.NoError(t, <-ended)
	_, err = http.Get(address[1])
	require.Error(t, err)
}

func TestRun_Refuses(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	cases := map[string]struct {
		addr        string
		environment map[string]string
		want        string
	}{
		"a port that is taken":    {listener.Addr().String(), nil, "is taken by another program"},
		"a database without keys": {"127.0.0.1:0", map[string]string{"DATABASE_URL": "postgres://127.0.0.1:1/none"}, "DATABASE_URL needs SESSION_KEYS too"},
		"keys that are none":      {"127.0.0.1:0", map[string]string{"SESSION_KEYS": "secret"}, "SESSION_KEYS: pgsession: parse key ring"},
		"no such database": {"127.0.0.1:0", map[string]string{
			"DATABASE_URL": "postgres://127.0.0.1:1/none", "SESSION_KEYS": pgsession.GenerateKey().Secret(),
		}, "pgsession: init"},
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := run(t.Context(), []string{"-addr", test.addr}, func(name string) string { return test.environment[name] }, slog.New(slog.DiscardHandler))
			require.ErrorContains(t, err, test.want)
		})
	}
}
