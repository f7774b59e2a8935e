package pgtable

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// textSettings change how values are written as text, or read (PostgreSQL manual, "Client
// Connection Defaults" and "Version and Platform Compatibility"). Most matter only in the query
// modes exec and simple_protocol: in the others, pgx reads and writes binary values.
var textSettings = map[string]string{
	"array_nulls":                 "on",
	"bytea_output":                "hex",
	"client_encoding":             "UTF8",
	"DateStyle":                   "ISO",
	"IntervalStyle":               "postgres",
	"standard_conforming_strings": "on",
}

// A settingsError tells how to mend the settings that checkSettings found.
type settingsError struct{ cures []string }

func (e *settingsError) Error() string {
	return "settings of the server, the database or the role change how values are written: " + strings.Join(e.cures, "; ")
}

// checkSettings sends values through the pool and compares what comes back.
func (d *database) checkSettings(ctx context.Context) error {
	return d.run(ctx, leftNoTraceOrReads, func(ctx context.Context, conn *pgx.Conn) error {
		wrong, err := areWrong(ctx, conn, d.config.Plaintext)
		if err != nil || !wrong {
			return err
		}
		return findSettings(ctx, conn)
	})
}

// findSettings returns an error that names the settings that may be to blame.
func findSettings(ctx context.Context, conn *pgx.Conn) error {
	var cures []string
	for name, want := range textSettings {
		var value string
		// In the simple protocol, pgx refuses to run anything under some of these settings.
		if err := conn.QueryRow(ctx, `SELECT current_setting($1)`, pgx.QueryExecModeExec, name).Scan(&value); err != nil {
			return err
		}
		// DateStyle also tells an order, which makes no difference with ISO.
		if style, _, _ := strings.Cut(value, ","); !strings.EqualFold(style, want) {
			cures = append(cures, fmt.Sprintf("%s is %s; set it to %s, for instance in the connection string (%s=%s), or use another query mode",
				name, value, want, strings.ToLower(name), want))
		}
	}
	if len(cures) == 0 {
		cures = []string{"none that is known; use another query mode"}
	}
	slices.Sort(cures)
	return &settingsError{cures}
}

// areWrong reports whether values of the types that the statements use come back changed.
func areWrong(ctx context.Context, conn *pgx.Conn, withJSON bool) (bool, error) {
	var (
		sample   = []byte("\x00'\\\xff")
		moment   = time.Date(2001, 2, 3, 4, 5, 6, 789012000, time.UTC)
		interval = pgtype.Interval{Microseconds: 100*3600e6 + 1, Valid: true}

		bytes    []byte
		at       pgtype.Timestamptz
		duration pgtype.Interval
		json     pgtype.Text
		nulls    int

		sampleJSON []byte
	)
	if withJSON { // text depends on encodings, which an encrypted store does not need
		sampleJSON = []byte(`"\u00e4\\"`)
	}
	err := conn.QueryRow(ctx, `SELECT $1::bytea, $2::timestamptz, $3::interval, convert_from($4::bytea, 'UTF8')::jsonb::text,
			(SELECT count(*) FROM unnest($5::bytea[]) AS list (element) WHERE element IS NULL)`,
		sample, moment, interval, sampleJSON, list[[]byte]{nil, sample}).Scan(&bytes, &at, &duration, &json, &nulls)
	var server *pgconn.PgError
	switch {
	case err == nil:
		return !slices.Equal(bytes, sample) || !at.Time.Equal(moment) || duration != interval || withJSON && json.String != `"ä\\"` || nulls != 1, nil
	case errors.As(err, &server) && !strings.HasPrefix(server.Code, "22") && !strings.HasPrefix(server.Code, "42"):
		return false, err
	case ctx.Err() != nil || tookNoEffect(err) && server == nil || isConnectionLost(err):
		return false, err
	}
	return true, nil // it could not be read, or was refused as data
}
