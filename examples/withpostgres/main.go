// Command withpostgres runs a command with a throw-away PostgreSQL, whose address is in
// DATABASE_URL, and removes the server when the command has ended:
//
//	go run ./withpostgres go run ./webapp
//
// SESSION_KEYS is "random" for it unless it is set. If DATABASE_URL is set, the command gets that
// database instead.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/pgsession/pgsession/internal/pgtest"
)

func main() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	err := run(signals, os.Args[1:], os.Stdout, os.Stderr)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(max(exit.ExitCode(), 1))
	case err != nil:
		fmt.Fprintln(os.Stderr, "withpostgres:", err)
		os.Exit(1)
	}
}

func run(signals <-chan os.Signal, args []string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		return errors.New("usage: withpostgres COMMAND [ARGUMENT...]")
	}
	command := exec.Command(args[0], args[1:]...)
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, stdout, stderr
	if os.Getenv("DATABASE_URL") != "" {
		fmt.Fprintln(stderr, "withpostgres: using the database that DATABASE_URL names")
		return runCommand(signals, command)
	}

	fmt.Fprintln(stderr, "withpostgres: starting a throw-away PostgreSQL: set DATABASE_URL and SESSION_KEYS to use another")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	started := make(chan struct{})
	go func() {
		select {
		case <-signals:
			cancel()
		case <-started:
		}
	}()
	server, err := pgtest.Start(ctx, func(format string, args ...any) { fmt.Fprintf(stderr, format+"\n", args...) })
	close(started)
	if err != nil {
		return err
	}
	defer server.Stop()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	command.Env = append(os.Environ(), "DATABASE_URL="+server.URL())
	if os.Getenv("SESSION_KEYS") == "" {
		command.Env = append(command.Env, "SESSION_KEYS=random")
	}
	return runCommand(signals, command)
}

func runCommand(signals <-chan os.Signal, command *exec.Cmd) error {
	if err := command.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	for {
		select {
		case signal := <-signals:
			if signal != os.Interrupt { // a terminal's Ctrl-C reaches the command by itself
				_ = command.Process.Signal(signal) // an error means that the command has ended
			}
		case err := <-ended:
			return err
		}
	}
}
