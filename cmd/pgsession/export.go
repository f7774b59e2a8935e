package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pgsession/pgsession"
)

// exportedSession is a line of export.
type exportedSession struct {
	shownSession
	Values json.RawMessage `json:"values,omitempty"`
	Bytes  []byte          `json:"bytes,omitempty"`
}

func (a *app) exportCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "export",
		GroupID: "begin",
		Short:   "Print every live session with its user and values, for another system",
		Long: `export prints each live session as a line of JSON: its handle, user, times and values, in clear. Values
that the application gave as a []byte are in "bytes", in base64. Nothing can print the tokens, since
the table has only their hashes. It needs the keys. It reads in pages, beside the application.`,
		Example: `  pgsession export | gzip > sessions.jsonl.gz`,
		Args:    noArgs,
		RunE: a.runs(func(ctx context.Context, _ []string) error {
			return a.with(ctx, keys, func(ctx context.Context, d *database) error {
				out := bufio.NewWriter(a.out)
				defer out.Flush()
				var unreadable int64
				for session, err := range d.All(ctx) {
					if err != nil {
						return err
					}
					line := exportedSession{shownSession: shown(session, nil)}
					line.UserID = &session.UserID
					switch values := session.Data().Values.(type) {
					case json.RawMessage:
						line.Values = values
					case []byte:
						line.Bytes = values
					}
					if line.Unreadable != "" {
						line.UserID = nil
						unreadable++
					}
					if err := printJSON(out, line, ""); err != nil {
						return err
					}
				}
				if err := out.Flush(); err != nil {
					return err
				}
				if unreadable > 0 {
					return fmt.Errorf("%w: %s", pgsession.ErrUnreadable, plural(unreadable, "session"))
				}
				return nil
			})
		}),
	}
}
