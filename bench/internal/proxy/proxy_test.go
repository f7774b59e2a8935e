package proxy_test

import (
	"bytes"
	"io"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgsession/pgsession/bench/internal/proxy"
)

func TestMain(m *testing.M) {
	proxy.Main()
	os.Exit(m.Run())
}

// echo starts a server that sends back what it gets.
func echo(t *testing.T) (address string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				io.Copy(conn, conn)
			}()
		}
	}()
	return listener.Addr().String()
}

func dialProxy(t *testing.T, roundTrip time.Duration) net.Conn {
	p, err := proxy.Start(roundTrip, "tcp", echo(t))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Stop()) })
	conn, err := net.Dial("tcp", p.Address)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestProxy_Delays(t *testing.T) {
	t.Parallel()
	const roundTrip, calls = 4 * time.Millisecond, 50
	conn := dialProxy(t, roundTrip)
	sent, got := []byte("ping"), make([]byte, 4)
	start := time.Now()
	for range calls {
		_, err := conn.Write(sent)
		require.NoError(t, err)
		_, err = io.ReadFull(conn, got)
		require.NoError(t, err)
		require.Equal(t, sent, got)
	}
	require.GreaterOrEqual(t, time.Since(start), calls*roundTrip)
}

// What is sent while other bytes are under way is not held up by them: 8 MiB in
// pieces of 1 KiB would otherwise take 8,192 delays.
func TestProxy_KeepsThroughput(t *testing.T) {
	t.Parallel()
	const roundTrip, size = 50 * time.Millisecond, 8 << 20
	conn := dialProxy(t, roundTrip)
	sent := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	start := time.Now()
	go func() {
		for piece := range slices.Chunk(sent, 1<<10) {
			if _, err := conn.Write(piece); err != nil {
				return
			}
		}
	}()
	got := make([]byte, size)
	_, err := io.ReadFull(conn, got)
	require.NoError(t, err)
	require.True(t, bytes.Equal(sent, got))
	require.Less(t, time.Since(start), 100*roundTrip)
}

func TestProxy_EndsWithItsServer(t *testing.T) {
	t.Parallel()
	conn := dialProxy(t, time.Millisecond)
	require.NoError(t, conn.(*net.TCPConn).CloseWrite())
	_, err := conn.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err)
}
