// Package proxy puts a network between a client and a server on one machine: a
// relay that delivers every byte so much later, and holds none back for it. However
// much is under way, it stays a delay, and does not become a limit.
//
// It runs as a process of its own, so that its work is not counted as the client's.
package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

const childArgument = "pgsession-bench-proxy"

// Main is for the first line of main: in the process that [Start] made, it is the
// proxy, and does not return.
func Main() {
	if len(os.Args) != 5 || os.Args[1] != childArgument {
		return
	}
	if err := child(os.Args[2], os.Args[3], os.Args[4]); err != nil {
		fmt.Fprintln(os.Stderr, "proxy:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func child(roundTrip, network, address string) error {
	delay, err := time.ParseDuration(roundTrip)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	go Serve(listener, delay, network, address)
	_, err = io.Copy(io.Discard, os.Stdin) // until the parent has gone
	return err
}

// A Proxy is a running proxy process.
type Proxy struct {
	// Address is where it listens.
	Address string

	command *exec.Cmd
	stdin   io.Closer
}

// Start starts a proxy to a server, with so much delay a round trip, half of it each
// way. The program must call [Main].
func Start(roundTrip time.Duration, network, address string) (*Proxy, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	command := exec.Command(program, childArgument, roundTrip.String(), network, address)
	command.Stderr = os.Stderr
	stdin, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	p := &Proxy{command: command, stdin: stdin}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the proxy does not start: %w", err), p.Stop())
	}
	p.Address = strings.TrimSpace(line)
	return p, nil
}

// Stop ends the proxy.
func (p *Proxy) Stop() error {
	return errors.Join(p.stdin.Close(), p.command.Wait())
}

// Serve relays the listener's connections until it is closed.
func Serve(listener net.Listener, roundTrip time.Duration, network, address string) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer client.Close()
			server, err := net.Dial(network, address)
			if err != nil {
				return
			}
			defer server.Close()
			var both sync.WaitGroup
			both.Go(func() { relay(server, client, roundTrip/2) })
			both.Go(func() { relay(client, server, roundTrip/2) })
			both.Wait()
		}()
	}
}

type chunk struct {
	due   time.Time
	bytes []byte
}

// relay copies until from ends, and then ends both.
func relay(to, from net.Conn, delay time.Duration) {
	const (
		chunks = 256
		size   = 32 << 10
	)
	underWay, free := make(chan chunk, chunks), make(chan []byte, chunks)
	go func() {
		defer close(underWay)
		for {
			var buffer []byte
			select {
			case buffer = <-free:
			default:
				buffer = make([]byte, size)
			}
			n, err := from.Read(buffer[:size])
			if n > 0 {
				underWay <- chunk{time.Now().Add(delay), buffer[:n]}
			}
			if err != nil {
				return
			}
		}
	}()
	defer func() {
		to.Close()
		from.Close()
		for range underWay { // lets the reader end
		}
	}()
	alarm, err := newAlarm()
	if err != nil {
		return
	}
	defer alarm.close()
	for c := range underWay {
		if err := alarm.wait(time.Until(c.due)); err != nil {
			return
		}
		if _, err := to.Write(c.bytes); err != nil {
			return
		}
		select {
		case free <- c.bytes[:size]:
		default:
		}
	}
}
