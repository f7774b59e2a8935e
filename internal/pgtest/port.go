package pgtest

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

var givenPorts sync.Map // of this process

// FreePort returns a port of 127.0.0.1 on which nothing listens, for a program that will be told to
// listen on it, and never returns it again. It lies below the ports that Linux, macOS and Windows
// give to whoever asks for any and to clients, so that none of them takes it before that program
// does, or while a server is down that will start again.
func FreePort() (int, error) {
	const first, end = 20_000, 32_768
	for range 100 {
		port := first + rand.IntN(end-first)
		listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		listener.Close()
		if _, given := givenPorts.LoadOrStore(port, nil); !given {
			return port, nil
		}
	}
	return 0, errors.New("pgtest: there is no free port")
}
