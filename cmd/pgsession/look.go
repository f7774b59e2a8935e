package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgsession/pgsession"
)

func (a *app) countCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "count",
		GroupID: "look",
		Short:   "Count live sessions, and what else the table holds",
		Long: `count reads the whole table. It counts the live sessions of users and of guests, rows that have
expired and that the next clean-up removes, tombstones (what is left of sessions that were ended, for
an hour at least), and entries of the key/value view. It needs no keys.`,
		Args: noArgs,
		RunE: a.runs(func(ctx context.Context, _ []string) error {
			return a.with(ctx, noKeys, func(ctx context.Context, d *database) error {
				count, err := d.Count(ctx)
				if err != nil {
					return err
				}
				return a.print(struct {
					Users      int64 `json:"users"`
					Guests     int64 `json:"guests"`
					Expired    int64 `json:"expired"`
					Tombstones int64 `json:"tombstones"`
					Entries    int64 `json:"entries"`
				}(count), func(w io.Writer) {
					line(w, "sessions of users", count.Users)
					line(w, "sessions of guests", count.Guests)
					line(w, "expired rows", count.Expired)
					line(w, "tombstones", count.Tombstones)
					line(w, "entries", count.Entries)
				})
			})
		}),
	}
}

// shownSession is a session as list and show print it. It never has a token.
type shownSession struct {
	Handle      string     `json:"handle"`
	UserID      *string    `json:"user,omitempty"` // "" for a guest; nil in lists
	CreatedAt   time.Time  `json:"created_at"`
	ExpiresAt   time.Time  `json:"expires_at"`
	EndsAt      *time.Time `json:"ends_at"`
	IdleTimeout string     `json:"idle_timeout"`

	// Values are the members of the values that were asked for, if they are a JSON object.
	Values     map[string]json.RawMessage `json:"values,omitempty"`
	Unreadable string                     `json:"unreadable,omitempty"`
}

func shown(session *pgsession.Session, wanted fields) shownSession {
	s := shownSession{
		Handle:      session.Handle.String(),
		CreatedAt:   session.CreatedAt,
		ExpiresAt:   session.ExpiresAt,
		IdleTimeout: duration(session.IdleTimeout),
	}
	if !session.EndsAt.IsZero() {
		s.EndsAt = &session.EndsAt
	}
	values, err := pgsession.Decode[map[string]json.RawMessage](session)
	switch {
	case errors.Is(err, pgsession.ErrUnreadable):
		s.Unreadable = strings.TrimPrefix(err.Error(), "pgsession: session ")
	case err == nil:
		maps.DeleteFunc(values, func(name string, _ json.RawMessage) bool { return !wanted.has(name) })
		s.Values = values
	}
	return s
}

// values is what is shown of the values on one line.
func (s shownSession) values() string {
	if s.Unreadable != "" {
		return s.Unreadable
	}
	var shown []string
	for _, name := range slices.Sorted(maps.Keys(s.Values)) {
		shown = append(shown, plain(name)+"="+plainJSON(s.Values[name]))
	}
	return strings.Join(shown, " ")
}

// fields are the members of the values that are asked for: none, some, or all if it holds "*".
type fields []string

func (f fields) has(name string) bool { return slices.Contains(f, "*") || slices.Contains(f, name) }

func addValues(cmd *cobra.Command, wanted *fields) {
	flags := cmd.Flags()
	flags.StringSliceVar((*[]string)(wanted), "values", nil, "show the values, if they are a JSON object, or only these `members` of it: --values=device,last_seen")
	flags.Lookup("values").NoOptDefVal = "*"
}

func (a *app) listCommand() *cobra.Command {
	var (
		user   string
		limit  int
		wanted fields
	)
	cmd := &cobra.Command{
		Use:     "list --user ID",
		GroupID: "look",
		Short:   "List a user's live sessions, the newest log-in first",
		Long:    `list shows a user's live sessions, the newest log-in first. It needs the keys.`,
		Example: `  pgsession list --user alice --values=device,last_seen`,
		Args:    noArgs,
		RunE: a.runs(func(ctx context.Context, _ []string) error {
			if user == "" {
				return usage("a guest's sessions cannot be listed: --user is empty")
			}
			return a.with(ctx, keys, func(ctx context.Context, d *database) error {
				a.warnOfOtherKeys(ctx, d)
				sessions, err := d.FindByUser(ctx, user, limit)
				if err != nil {
					return err
				}
				list := make([]shownSession, len(sessions))
				for i, session := range sessions {
					list[i] = shown(session, wanted)
				}
				return a.print(list, func(w io.Writer) {
					line(w, "HANDLE", "BEGUN", "EXPIRES", "ENDS", "IDLE TIMEOUT", "VALUES")
					for _, s := range list {
						line(w, s.Handle, moment(s.CreatedAt), moment(s.ExpiresAt), momentOr(s.EndsAt, "never"), s.IdleTimeout, s.values())
					}
				})
			})
		}),
	}
	cmd.Flags().StringVar(&user, "user", "", "the user's `id`, as the application gives it to the store")
	cmd.Flags().IntVar(&limit, "limit", 100, "list at most so many")
	addValues(cmd, &wanted)
	_ = cmd.MarkFlagRequired("user")
	return cmd
}

func (a *app) showCommand() *cobra.Command {
	var wanted fields
	cmd := &cobra.Command{
		Use:     "show HANDLE",
		GroupID: "look",
		Short:   "Show one live session",
		Long:    `show prints one live session: its user and its times, and with --values what it holds. It needs the keys.`,
		Args:    cobra.ExactArgs(1),
		RunE: a.runs(func(ctx context.Context, args []string) error {
			handle, err := parseHandle(args[0])
			if err != nil {
				return err
			}
			return a.with(ctx, keys, func(ctx context.Context, d *database) error {
				session, err := d.Find(ctx, handle)
				if err != nil {
					return explain(err)
				}
				s := shown(session, wanted)
				s.UserID = &session.UserID
				return a.print(s, func(w io.Writer) {
					line(w, "handle", s.Handle)
					user := plain(session.UserID)
					if user == "" {
						user = "none, a guest"
					}
					line(w, "user", user)
					line(w, "begun", moment(s.CreatedAt))
					line(w, "expires", moment(s.ExpiresAt)+", in "+duration(session.Remaining().Round(time.Second)))
					line(w, "ends", momentOr(s.EndsAt, "never"))
					line(w, "idle timeout", s.IdleTimeout)
					for _, name := range slices.Sorted(maps.Keys(s.Values)) {
						line(w, plain(name), plainJSON(s.Values[name]))
					}
				})
			})
		}),
	}
	addValues(cmd, &wanted)
	return cmd
}

func parseHandles(texts []string) (handles []pgsession.Handle, err error) {
	for _, text := range texts {
		handle, err := parseHandle(text)
		if err != nil {
			return nil, err
		}
		handles = append(handles, handle)
	}
	return handles, nil
}

// parseHandle does not repeat what it was given, which may be a token.
func parseHandle(text string) (pgsession.Handle, error) {
	handle, err := pgsession.ParseHandle(strings.TrimSpace(text))
	if err != nil {
		return handle, usage("that is no handle, which is 64 hex digits, as list shows it (a cookie's value is none, and belongs nowhere)")
	}
	return handle, nil
}
