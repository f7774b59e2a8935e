package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/internal/bridge"
)

// manySessions is how many of a user's sessions are counted before the question says "or more".
const manySessions = 1000

func (a *app) endCommand() *cobra.Command {
	var (
		user, begunBefore string
		except            []string
		all, yes          bool
	)
	cmd := &cobra.Command{
		Use:     "end HANDLE... | --user ID [--except HANDLE] | --begun-before TIME | --all",
		GroupID: "end",
		Short:   "End sessions",
		Long: `end ends the sessions that it is given, a user's, those that were begun before a time, or all. It is
final: whoever had them has to log in again. It asks before it ends more than one, unless --yes is given.

With --begun-before, a session counts as begun when its user logged in (or a guest's when it was
created). TIME is "now", by this machine's clock, or a time as RFC 3339 has it: 2026-11-30T05:00:00Z.

Only --user needs the keys. Entries of the key/value view stay.`,
		Example: `  pgsession end 6f1ed002ab5595859014ebf0951522d97dd8b5f1b6f9a4a1b8b0c1e3b7a0d9aa
  pgsession end --user alice                          log out everywhere
  pgsession end --user alice --except HANDLE          log out everywhere else
  pgsession end --begun-before now --yes              after a restore: what was logged out before is out again`,
		RunE: a.runs(func(ctx context.Context, args []string) error {
			handles, err := parseHandles(slices.Concat(args, except))
			switch {
			case err != nil:
				return err
			case len(args) > 0:
				return a.with(ctx, noKeys, func(ctx context.Context, d *database) error { return a.endHandles(ctx, d, handles, yes) })
			case user != "":
				return a.with(ctx, keys, func(ctx context.Context, d *database) error { return a.endUser(ctx, d, user, handles, yes) })
			case begunBefore != "":
				begun, err := parseTime(begunBefore)
				if err != nil {
					return err
				}
				return a.with(ctx, noKeys, func(ctx context.Context, d *database) error { return a.endBegunBefore(ctx, d, begun, yes) })
			case all:
				return a.with(ctx, noKeys, func(ctx context.Context, d *database) error { return a.endAll(ctx, d, yes) })
			}
			return usage("name what to end: a handle, --user, --begun-before or --all")
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&user, "user", "", "end the sessions of the user with this `id`")
	flags.StringSliceVar(&except, "except", nil, "with --user: but not the one with this `handle`; may be repeated")
	flags.StringVar(&begunBefore, "begun-before", "", "end the sessions that were begun before this `time`, or before now")
	flags.BoolVar(&all, "all", false, "end all sessions")
	addYes(cmd, &yes)
	cmd.MarkFlagsMutuallyExclusive("user", "begun-before", "all")
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		chosen := min(len(args), 1)
		for _, name := range []string{"user", "begun-before", "all"} {
			if cmd.Flags().Changed(name) {
				chosen++
			}
		}
		switch {
		case chosen > 1:
			return errors.New("name one thing to end: a handle, --user, --begun-before or --all")
		case cmd.Flags().Changed("except") && user == "":
			return errors.New("--except goes with --user")
		case cmd.Flags().Changed("except") && len(except) == 0: // a shell's variable that is not set
			return errors.New("--except is empty, and names no session to keep")
		}
		return nil
	}
	return cmd
}

func addYes(cmd *cobra.Command, yes *bool) {
	cmd.Flags().BoolVarP(yes, "yes", "y", false, "do not ask before more than one session is ended")
}

func parseTime(text string) (time.Time, error) {
	if text == "now" {
		return clock.Now(), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, usage(`%q is neither "now" nor a time such as 2026-11-30T05:00:00Z`, text)
	}
	return t, nil
}

// ended prints how many live sessions were ended, also if that failed half-way.
func (a *app) ended(n int64, err error) error {
	if err != nil && n == 0 {
		return err
	}
	printed := a.print(struct {
		Ended int64 `json:"ended"`
	}{n}, func(w io.Writer) { line(w, "ended "+plural(n, "session")) })
	return errors.Join(err, printed)
}

func (a *app) endHandles(ctx context.Context, d *database, handles []pgsession.Handle, yes bool) error {
	if !yes {
		if err := a.confirmMany(ctx, len(handles), "End %s?"); err != nil {
			return err
		}
	}
	var ended int64
	var missing error
	for _, handle := range handles {
		switch err := d.RevokeAny(ctx, handle); {
		case err == nil:
			ended++
		case errors.Is(err, pgsession.ErrRevoked): // it is over, as was wanted
		case errors.Is(err, pgsession.ErrNotFound):
			missing = explain(err)
		default:
			return a.ended(ended, err)
		}
	}
	return a.ended(ended, missing)
}

func (a *app) endUser(ctx context.Context, d *database, user string, except []pgsession.Handle, yes bool) error {
	a.warnOfOtherKeys(ctx, d)
	if !yes {
		sessions, err := d.FindByUser(ctx, user, manySessions)
		if err != nil {
			return err
		}
		n := 0
		for _, session := range sessions {
			if !slices.Contains(except, session.Handle) {
				n++
			}
		}
		if err := a.confirmMany(ctx, n, "End %s of this user?"); err != nil {
			return err
		}
	}
	return a.ended(d.DeleteByUser(ctx, user, except...))
}

// confirmMany asks if there is more than one session to end.
func (a *app) confirmMany(ctx context.Context, n int, question string) error {
	if n <= 1 {
		return nil
	}
	what := plural(int64(n), "session")
	if n >= manySessions {
		what += " or more"
	}
	return a.confirm(ctx, fmt.Sprintf(question, what))
}

func (a *app) endBegunBefore(ctx context.Context, d *database, begun time.Time, yes bool) error {
	if !yes {
		some, cancel := d.within(ctx)
		defer cancel()
		var n int
		if err := d.pool.QueryRow(some, d.sql(begunBeforeSQL), clock.Now(), begun, manySessions).Scan(&n); err != nil {
			return err
		}
		if err := a.confirmMany(ctx, n, "End %s begun before "+moment(begun)+"?"); err != nil {
			return err
		}
	}
	return a.ended(bridge.EndBegunBefore(ctx, d.Store, begun))
}

const begunBeforeSQL = `
	SELECT count(*)
	FROM (
		SELECT s.key
		FROM sessions AS s
		WHERE (s.data IS NOT NULL OR s.sealed IS NOT NULL) AND s.expires_at > $1 AND s.created_at < $2 AND octet_length(s.key) = 32
		LIMIT $3
	) AS begun_before`

func (a *app) endAll(ctx context.Context, d *database, yes bool) error {
	if !yes {
		count, err := d.Count(ctx)
		if err != nil {
			return err
		}
		if n := count.Users + count.Guests; n > 1 {
			if err := a.confirm(ctx, fmt.Sprintf("End all %s?", plural(n, "session"))); err != nil {
				return err
			}
		}
	}
	return a.ended(d.DeleteAll(ctx))
}

func (a *app) limitCommand() *cobra.Command {
	var (
		user string
		keep int
		yes  bool
	)
	cmd := &cobra.Command{
		Use:     "limit --user ID --keep N",
		GroupID: "end",
		Short:   "End all but a user's newest sessions",
		Long: `limit ends a user's sessions but for the newest log-ins, of which it keeps so many. It asks before it
ends more than one, unless --yes is given. It needs the keys.`,
		Args: noArgs,
		RunE: a.runs(func(ctx context.Context, _ []string) error {
			if keep < 1 || user == "" {
				return usage("--keep must be 1 at least, and --user not empty; to end them all: pgsession end --user ID")
			}
			return a.with(ctx, keys, func(ctx context.Context, d *database) error {
				a.warnOfOtherKeys(ctx, d)
				if !yes {
					sessions, err := d.FindByUser(ctx, user, keep+manySessions)
					if err != nil {
						return err
					}
					if err := a.confirmMany(ctx, len(sessions)-keep, "End %s of this user?"); err != nil {
						return err
					}
				}
				return a.ended(d.LimitByUser(ctx, user, keep))
			})
		}),
	}
	cmd.Flags().StringVar(&user, "user", "", "the user's `id`")
	cmd.Flags().IntVar(&keep, "keep", 0, "how many of the newest log-ins to keep")
	addYes(cmd, &yes)
	_ = cmd.MarkFlagRequired("user")
	_ = cmd.MarkFlagRequired("keep")
	return cmd
}
