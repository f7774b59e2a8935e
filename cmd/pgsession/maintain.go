package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/pgsession/pgsession/internal/bridge"
)

func (a *app) cleanupCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "cleanup",
		GroupID: "keep",
		Short:   "Remove what has expired",
		Long: `cleanup removes sessions that have expired and tombstones that are no longer needed, in transactions
of at most 1,000 rows, beside the application. Run it from cron if the application does not call
SpawnCleanup, or once if rows have piled up. It needs no keys.`,
		Args: noArgs,
		RunE: a.runs(func(ctx context.Context, _ []string) error {
			return a.with(ctx, noKeys, func(ctx context.Context, d *database) error {
				meter := a.newMeter("removed", 0)
				removed, err := bridge.CleanUp(ctx, d.Store, meter.report)
				meter.end()
				if err != nil && removed == 0 {
					return err
				}
				printed := a.print(struct {
					Removed int64 `json:"removed"`
				}{removed}, func(w io.Writer) { line(w, "removed "+plural(removed, "row")) })
				return errors.Join(err, printed)
			})
		}),
	}
}

func (a *app) resealCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "reseal",
		GroupID: "keep",
		Short:   "Seal what lies under old keys anew, under the primary: the last step of a rotation",
		Long: `reseal seals rows that lie under an old key anew, under the primary one, beside the application. All
nodes must have the new primary already: see docs/keys.md. It may be stopped and run again, and goes
on. At the end it says what is left, and which keys may go. It needs the keys, old ones too.`,
		Args: noArgs,
		RunE: a.runs(func(ctx context.Context, _ []string) error {
			return a.with(ctx, keys, func(ctx context.Context, d *database) error {
				if d.crypto == nil {
					return usage("a plaintext store has nothing to reseal")
				}
				return a.sealing(ctx, d, "resealed", bridge.Reseal, func(r bridge.RowsOfKey) bool { return r.State != bridge.PrimaryKey && r.State != bridge.InPlaintext })
			})
		}),
	}
}

func (a *app) sealCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "seal",
		GroupID: "keep",
		Short:   "Seal the rows that a Plaintext store has left in the table",
		Long: `seal takes a table from pgsession.Plaintext to pgsession.New. First give every node the keys and
pgsession.New. From then on the nodes refuse rows that lie in plaintext, with an error that says so,
and seal, in place, is what lets them open again. It runs beside the application, may be stopped and
run again, and goes on. It needs the keys.

Run it once. It believes what lies in plaintext: whoever can write the table could plant a session
there before. A log-out everywhere (end --user, DeleteByUser) does not see rows that are not sealed
yet, so repeat those that fell into that time.`,
		Args: noArgs,
		RunE: a.runs(func(ctx context.Context, _ []string) error {
			if a.plaintext {
				return usage("seal needs keys, and not --plaintext")
			}
			return a.with(ctx, keys, func(ctx context.Context, d *database) error {
				return a.sealing(ctx, d, "sealed", bridge.SealPlaintext, func(r bridge.RowsOfKey) bool { return r.State == bridge.InPlaintext })
			})
		}),
	}
}

// sealing runs Reseal or SealPlaintext on the rows that are to do, and says what is left of them.
func (a *app) sealing(ctx context.Context, d *database, verb string, run bridge.Job, toDo func(bridge.RowsOfKey) bool) error {
	before, err := rowsByKey(ctx, d)
	if err != nil {
		return err
	}
	meter := a.newMeter(verb, total(before, toDo))
	sealed, failed := run(ctx, d.Store, meter.report)
	meter.end()
	if failed != nil && ctx.Err() != nil {
		fmt.Fprintf(a.err, "pgsession: interrupted after %s; run it again to go on\n", plural(sealed, "row"))
		return &exitError{code: exitFailed}
	}
	after, err := rowsByKey(ctx, d)
	if err != nil {
		return errors.Join(failed, err)
	}
	left := total(after, toDo)
	printed := a.print(struct {
		Sealed int64              `json:"sealed"`
		Left   int64              `json:"left"`
		Keys   []bridge.RowsOfKey `json:"keys"`
	}{sealed, left, after}, func(w io.Writer) {
		line(w, fmt.Sprintf("%s %s, %d left", verb, plural(sealed, "row"), left))
		printKeys(w, after)
	})
	return errors.Join(explain(failed), printed)
}

func total(rows []bridge.RowsOfKey, toDo func(bridge.RowsOfKey) bool) (n int64) {
	for _, r := range rows {
		if toDo(r) {
			n += r.Rows
		}
	}
	return n
}
