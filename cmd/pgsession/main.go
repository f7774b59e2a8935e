// Command pgsession shows and ends the sessions of a store of package pgsession, and keeps its
// table in order. It is for whoever is on call, for deployments and for cron:
//
//	go run github.com/pgsession/pgsession/cmd/pgsession@latest --help
//
// The page docs/cli.md of the repository has a task a paragraph.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/pgtable"
)

// The exit codes.
const (
	exitDone      = 0
	exitFailed    = 1
	exitUsage     = 2
	exitUnhealthy = 3
)

const help = `pgsession shows and ends the sessions of a pgsession store, and keeps its table in order.

It finds the database by DATABASE_URL, or by PGHOST, PGUSER and the other variables of
PostgreSQL, and the keys by SESSION_KEYS, or in the file that --keys-file names: the primary
first, with commas or lines between. Only some commands need the keys, and say so. No key and
no password is ever an argument, since other users of the machine can see those.

A handle names a session, and opens nothing: 64 hex digits, as list, the application's logs and
encode(key, 'hex') in psql show them.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 unhealthy.`

const examples = `  pgsession check                             is it well, how large is it, may an old key go?
  pgsession list --user alice                 alice's sessions
  pgsession end --user alice                  log alice out everywhere
  pgsession end --begun-before now            log everybody out who is logged in, after a leak or a restore
  pgsession reseal                            the last step of a key rotation`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// clock is another one in tests.
var clock pgsession.Clock = pgsession.SystemClock{}

// An app is one call of the command.
type app struct {
	in, out, err *os.File

	table     string
	keysFile  string
	plaintext bool
	json      bool
	timeout   time.Duration

	begun bool // a command's own code runs: what fails from now on is not wrong usage
}

func run(ctx context.Context, args []string, stdin, stdout, stderr *os.File) int {
	a := &app{in: stdin, out: stdout, err: stderr}
	root := a.command()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	var exit *exitError
	switch {
	case errors.As(err, &exit):
		if exit.error != nil {
			fmt.Fprintln(stderr, withPrefix(exit.error))
		}
		return exit.code
	case !a.begun:
		fmt.Fprintln(stderr, withPrefix(err))
		fmt.Fprintln(stderr, "Run 'pgsession --help' or 'pgsession COMMAND --help'.")
		return exitUsage
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "pgsession: interrupted")
		return exitFailed
	}
	fmt.Fprintln(stderr, withPrefix(err))
	switch connecting := (*pgconn.ConnectError)(nil); {
	case errors.Is(err, context.DeadlineExceeded):
		fmt.Fprintln(stderr, "pgsession: a step took longer than --timeout, which is", a.timeout)
	case errors.As(err, &connecting) && os.Getenv("DATABASE_URL") == "" && os.Getenv("PGHOST") == "":
		fmt.Fprintln(stderr, "pgsession: neither DATABASE_URL nor PGHOST is set")
	}
	return exitFailed
}

// An exitError is an error with an exit code of its own. It may be silent.
type exitError struct {
	code int
	error
}

// usage returns the error of a call that cannot be meant so.
func usage(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:           "pgsession",
		Short:         "See and end sessions, rotate keys, keep the table in order",
		Long:          help,
		Version:       version(),
		Example:       examples,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if a.timeout < 0 {
				return errors.New("--timeout is negative")
			}
			_, err := pgtable.ParseName(a.table)
			return err
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	flags := root.PersistentFlags()
	flags.SortFlags = false
	flags.StringVar(&a.table, "table", "sessions", "the table's `name`, or schema.name")
	flags.StringVar(&a.keysFile, "keys-file", "", "read the keys from a `file` instead of SESSION_KEYS")
	flags.BoolVar(&a.plaintext, "plaintext", false, "the table is that of a store made by pgsession.Plaintext")
	flags.BoolVar(&a.json, "json", false, "print JSON")
	flags.DurationVar(&a.timeout, "timeout", 5*time.Minute, "how long each statement may take, and the wait for a row that another transaction holds")
	root.AddGroup(
		&cobra.Group{ID: "look", Title: "Look:"},
		&cobra.Group{ID: "end", Title: "End:"},
		&cobra.Group{ID: "keep", Title: "Keep in order:"},
		&cobra.Group{ID: "begin", Title: "Set up, move in and out:"},
	)
	root.AddCommand(
		a.checkCommand(), a.countCommand(), a.listCommand(), a.showCommand(),
		a.endCommand(), a.limitCommand(),
		a.cleanupCommand(), a.resealCommand(), a.sealCommand(),
		a.keygenCommand(), a.schemaCommand(), a.initCommand(), a.importCommand(), a.exportCommand(),
	)
	return root
}

// version is that of the module, as go run and go install know it.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}

// runs returns the function of a command, for cobra.
func (a *app) runs(do func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		a.begun = true
		return do(cmd.Context(), args)
	}
}

// noArgs refuses what was probably meant as a flag's value.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s takes flags only: %s", cmd.Name(), cmd.UseLine())
	}
	return nil
}

// isTerminal reports whether a person sits at a stream. /dev/null is no terminal, though it is a
// device.
func isTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}
