package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgsession/pgsession"
	"github.com/pgsession/pgsession/move"
)

func (a *app) importCommand() *cobra.Command {
	var from, userField string
	cmd := &cobra.Command{
		Use:     "import --from TABLE",
		GroupID: "begin",
		Short:   "Move the sessions of connect-pg-simple (Node.js) here",
		Long: `import moves the live sessions of a table of connect-pg-simple into the store, sealed on the way,
while the application runs: see docs/moving.md for what that needs of the application. It may be
stopped and run again, and goes on. It needs the keys.

The sessions of scs and of gorilla/sessions are encoded by the application's own types, so that only
the application can move them: package move has the function for it.`,
		Example: `  pgsession import --from session --user-field passport.user`,
		Args:    noArgs,
		RunE: a.runs(func(ctx context.Context, _ []string) error {
			return a.with(ctx, keys, func(ctx context.Context, d *database) error {
				if err := d.Init(ctx); err != nil {
					return err
				}
				done, err := move.Import(ctx, d.Store, move.FromConnect(d.pool, from), converter(userField), move.Bar(a.err))
				if err != nil {
					return err
				}
				reason := ""
				if done.Reason != nil {
					reason = done.Reason.Error()
				}
				err = a.print(struct {
					Moved  int64  `json:"moved"`
					Left   int64  `json:"left"`
					Reason string `json:"reason,omitempty"`
				}{done.Moved, done.Left, reason}, func(w io.Writer) {
					line(w, fmt.Sprintf("moved %s, %d left", plural(done.Moved, "session"), done.Left))
				})
				if err == nil && done.Left > 0 {
					err = fmt.Errorf("%s cannot be moved, the last of them because: %w", plural(done.Left, "session"), done.Reason)
				}
				return err
			})
		}),
	}
	cmd.Flags().StringVar(&from, "from", "", "connect-pg-simple's `table`, usually session")
	cmd.Flags().StringVar(&userField, "user-field", "", "where the user's id stands in a session's JSON, with dots between `members`")
	_ = cmd.MarkFlagRequired("from")
	return cmd
}

// converter returns move.JSON, which also finds the user in the member that path names.
func converter(path string) move.Convert {
	if path == "" {
		return move.JSON
	}
	return func(row move.Row) (pgsession.ID, pgsession.Data, time.Time, error) {
		id, data, expiry, err := move.JSON(row)
		if err == nil {
			data.UserID, err = userIn(row.Data, strings.Split(path, "."))
		}
		return id, data, expiry, err
	}
}

// userIn returns the string or the integer at a path, and "" if there is none: a guest's.
func userIn(document []byte, path []string) (string, error) {
	for _, name := range path {
		var object map[string]json.RawMessage
		if json.Unmarshal(document, &object) != nil || object[name] == nil {
			return "", nil
		}
		document = object[name]
	}
	var user string
	if json.Unmarshal(document, &user) == nil {
		return user, nil
	}
	number, err := strconv.ParseInt(string(document), 10, 64)
	if err != nil {
		return "", fmt.Errorf("what --user-field names is neither a string nor an integer")
	}
	return strconv.FormatInt(number, 10), nil
}
