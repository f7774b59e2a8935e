package pgtable

import (
	"context"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgsession/pgsession/internal/rows"
)

// This file has whatever names the table's columns one by one: what they are, how they become a
// Row, and how a Row becomes parameters, for one row and for many. To add a column, change it here
// and in package rows.

// tableColumns are the columns of the table.
var tableColumns = []struct{ name, kind, constraint, comment string }{
	{"key", "bytea", "PRIMARY KEY", "SHA-256 of the session id"},
	{"user_key", "bytea", "", "sealed store: HMAC of the user id; plaintext store: the user id"},
	{"data", "jsonb", "", "the values, in a plaintext store"},
	{"sealed", "bytea", "", "the user id and the values, in an encrypted store"},
	{"version", "bigint", "NOT NULL", "another at each write"},
	{"created_at", "timestamptz", "NOT NULL", "when this log-in began"},
	{"expires_at", "timestamptz", "NOT NULL", "never past ends_at"},
	{"ends_at", "timestamptz", "", "the absolute end; NULL: none"},
	{"idle_timeout", "interval", "NOT NULL", "the ttl of the last write that named one"},
	{"expires_hour", "timestamptz", generatedHour, "for the clean-up"},
}

const generatedHour = `GENERATED ALWAYS AS (date_bin('1 hour', expires_at, '2000-01-01 00:00+00')) STORED`

// namesOfColumns joins the columns' names by sep, each with the prefix and the suffix. It leaves
// generated columns out unless all is true.
func namesOfColumns(all bool, prefix, suffix, sep string) string {
	var names []string
	for _, column := range tableColumns {
		if all || column.constraint != generatedHour {
			names = append(names, prefix+column.name+suffix)
		}
	}
	return strings.Join(names, sep)
}

// Columns that are read.
const (
	// columns make a row, in the order in which a scanner reads them.
	columns       = `s.key, s.user_key, ` + sealedColumns + `, s.version, s.created_at, s.expires_at, s.ends_at, s.idle_timeout`
	sealedColumns = `s.sealed, s.data IS NOT NULL`
	plainColumns  = `s.data, s.sealed IS NOT NULL`
)

// A scanner reads columns. It keeps its plans for that, which [pgx.Rows] would make anew for each
// result.
type scanner struct {
	key, userKey, payload    pgtype.DriverBytes // the driver's, until the next row
	otherKind                bool               // the payload lies in the column of the other kind of store
	version                  int64
	created, expires, endsAt pgtype.Timestamptz // a time.Time would fail on infinity
	idle                     pgtype.Interval

	targets []any
	plans   []columnPlan
	types   *pgtype.Map // not the connection's, which the application may have changed
}

// A columnPlan is how to scan what comes as this type, in this format.
type columnPlan struct {
	pgtype.ScanPlan
	oid    uint32
	format int16
}

var scanners = sync.Pool{New: func() any {
	s := &scanner{types: pgtype.NewMap()}
	s.targets = []any{&s.key, &s.userKey, &s.payload, &s.otherKind, &s.version, &s.created, &s.expires, &s.endsAt, &s.idle}
	s.plans = make([]columnPlan, len(s.targets))
	return s
}}

// scan reads the current row. A row that holds what no store writes is no error, but Malformed, so
// that a hostile row does not hide the others. An error is the database's.
func (s *scanner) scan(result pgx.Rows) (rows.Row, error) {
	fields, values := result.FieldDescriptions(), result.RawValues()
	for i, target := range s.targets {
		plan, oid, format := &s.plans[i], fields[i].DataTypeOID, fields[i].Format
		if plan.ScanPlan == nil || plan.oid != oid || plan.format != format {
			*plan = columnPlan{s.types.PlanScan(oid, format, target), oid, format}
		}
		if err := plan.Scan(values[i], target); err != nil {
			return rows.Row{}, err
		}
	}
	row := rows.Row{State: rows.Stored, Version: s.version}
	row.CreatedAt = readTime(&row, s.created)
	row.ExpiresAt = readTime(&row, s.expires)
	if s.endsAt.Valid {
		row.EndsAt = readTime(&row, s.endsAt)
	}
	row.IdleTimeout = readDuration(&row, s.idle)
	if s.payload == nil && !s.otherKind {
		row.State, s.userKey = rows.Ended, nil // a tombstone's user_key names no user; see movedTo
	}
	key, ok := rows.ParseKey(s.key)
	row.Key, row.Malformed = key, row.Malformed || !ok

	// One allocation holds both.
	buffer := make([]byte, len(s.userKey)+len(s.payload))
	n := copy(buffer, s.userKey)
	copy(buffer[n:], s.payload)
	if s.userKey != nil {
		row.UserKey = buffer[:n:n]
	}
	if s.payload != nil {
		row.Payload = buffer[n:]
	}
	return row, nil
}

var (
	yearZero = time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)
	lastTime = time.Date(9999, 12, 31, 23, 59, 59, 999999000, time.UTC)
)

// readTime returns a column, within what a store of ours may have written.
func readTime(row *rows.Row, t pgtype.Timestamptz) time.Time {
	switch {
	case t.InfinityModifier == pgtype.Infinity || t.Time.After(lastTime):
		row.Malformed = true
		return lastTime
	case t.InfinityModifier == pgtype.NegativeInfinity || t.Time.Before(yearZero):
		row.Malformed = true
		return yearZero
	}
	return t.Time.UTC()
}

// readDuration returns the idle timeout, within what a store of ours may have written.
func readDuration(row *rows.Row, i pgtype.Interval) time.Duration {
	const day = 24 * time.Hour
	d := float64(i.Microseconds)*float64(time.Microsecond) + float64(i.Days)*float64(day) + float64(i.Months)*float64(30*day)
	if !(d > 0 && d <= float64(rows.MaxTTL)) || math.IsNaN(d) {
		row.Malformed = true
		return 0
	}
	return time.Duration(i.Microseconds)*time.Microsecond + time.Duration(i.Days)*day + time.Duration(i.Months)*30*day
}

// query runs a SELECT of columns and gives each row to found as soon as it has come. An error may
// follow.
func query(ctx context.Context, conn *pgx.Conn, found func(rows.Row), sql string, args ...any) error {
	result, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	defer result.Close()
	scanner := scanners.Get().(*scanner)
	defer scanners.Put(scanner)
	for result.Next() {
		row, err := scanner.scan(result)
		if err != nil {
			return err
		}
		found(row)
	}
	return result.Err()
}

// queryRow runs a SELECT of columns that finds one row at most. It returns the zero Row if there is
// none.
func queryRow(ctx context.Context, conn *pgx.Conn, sql string, args ...any) (row rows.Row, err error) {
	result, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return rows.Row{}, err
	}
	defer result.Close()
	if result.Next() {
		scanner := scanners.Get().(*scanner)
		defer scanners.Put(scanner)
		if row, err = scanner.scan(result); err != nil {
			return rows.Row{}, err
		}
	}
	result.Close()
	return row, result.Err()
}

// Columns that are written, in a statement for one row. The parameters are those of rowArgs.
const (
	rowColumns = `user_key, version, expires_at, ends_at, idle_timeout, sealed, data`
	rowValues  = `$3::bytea, $4::bigint, $5::timestamptz, $6::timestamptz, $7::interval, $8::bytea, convert_from($9::bytea, 'UTF8')::jsonb`

	excludedValues = `excluded.user_key, excluded.version, excluded.expires_at, excluded.ends_at, excluded.idle_timeout, excluded.sealed, excluded.data`

	insertRow = `
	INSERT INTO sessions AS s (key, created_at, ` + rowColumns + `)
	VALUES ($2, $1, ` + rowValues + `)`
)

// rowArgs returns the time, which is $1, and a row. What is large comes last, since pgx grows its
// buffer for that once. More may follow if it is small.
func (d *database) rowArgs(now time.Time, row *rows.Row, more ...any) []any {
	sealed, data := d.payload(row.Payload)
	return append([]any{now, row.Key.Bytes(), row.UserKey, row.Version, row.ExpiresAt, timestamp(row.EndsAt), interval(row.IdleTimeout),
		sealed, data}, more...)
}

// payload returns a payload as the values of the columns sealed and data.
func (d *database) payload(p []byte) (sealed, data []byte) {
	if d.config.Plaintext {
		return nil, p
	}
	return p, nil
}

// saved is what Save and Put set in the row that is there, from expressions for the new values.
func saved(userKey, expires, ttl, sealed, data string) string {
	return `user_key = ` + userKey + `, version = ` + nextVersion + `,
		expires_at = least(` + expires + `, s.ends_at), idle_timeout = ` + ttl + `,
		sealed = ` + sealed + `, data = ` + data
}

// Columns that are written, in a statement for several rows. The parameters are those of lists.
// What has a fixed size costs less as the n-th element of its list than as a column of listed. The
// payloads are pieces of one parameter: pgx would copy the elements of a large array several times.
const (
	// listed are the rows as a table.
	listed = `(SELECT * FROM unnest($2::bytea[], $3::bytea[]) WITH ORDINALITY ` + hideListLength + `) AS new (key, user_key, n)`

	listedTTL    = `($4::bigint[])[new.n] * interval '1 microsecond'`
	listedSealed = `substring($7::bytea FROM ($5::int[])[new.n] FOR ($6::int[])[new.n])`
	listedData   = `convert_from(substring($8::bytea FROM ($5::int[])[new.n] FOR ($6::int[])[new.n]), 'UTF8')::jsonb`

	// listedValues are those of rowColumns.
	listedValues = `new.user_key, ($9::bigint[])[new.n], ($10::timestamptz[])[new.n], ($11::timestamptz[])[new.n],
			` + listedTTL + `, ` + listedSealed + `, ` + listedData
)

var listedSaved = saved(`new.user_key`, `$1::timestamptz + `+listedTTL, listedTTL, listedSealed, listedData)

// lists are several rows as parameters: one list for each column.
type lists struct {
	keys, userKeys list[[]byte]
	ttls           list[int64]
	starts, sizes  list[int32] // of the pieces of payload
	payload        []byte

	versions      list[int64]
	expires, ends list[pgtype.Timestamptz]
	created       list[time.Time]
}

// A list is a parameter that pgx encodes without reflection.
type list[T any] = pgtype.FlatArray[T]

func newLists(made []*change) *lists {
	n, bytes := len(made), 0
	for _, c := range made {
		bytes += len(c.w.Payload)
	}
	return &lists{
		keys: make(list[[]byte], 0, n), userKeys: make(list[[]byte], 0, n), ttls: make(list[int64], 0, n),
		starts: make(list[int32], 0, n), sizes: make(list[int32], 0, n), payload: make([]byte, 0, bytes),
		versions: make(list[int64], 0, n), expires: make(list[pgtype.Timestamptz], 0, n), ends: make(list[pgtype.Timestamptz], 0, n),
		created: make(list[time.Time], 0, n),
	}
}

func (l *lists) add(row *rows.Row) {
	l.keys, l.userKeys = append(l.keys, row.Key.Bytes()), append(l.userKeys, row.UserKey)
	l.ttls = append(l.ttls, row.IdleTimeout.Microseconds())
	l.starts, l.sizes = append(l.starts, int32(1+len(l.payload))), append(l.sizes, int32(len(row.Payload))) // SQL counts from 1
	l.payload = append(l.payload, row.Payload...)
	l.versions, l.created = append(l.versions, row.Version), append(l.created, row.CreatedAt)
	l.expires, l.ends = append(l.expires, timestamp(row.ExpiresAt)), append(l.ends, timestamp(row.EndsAt))
}

// savedArgs returns the time, which is $1, and what listedSaved needs.
func (d *database) savedArgs(now time.Time, l *lists) []any {
	sealed, data := d.payload(l.payload)
	return []any{now, l.keys, l.userKeys, l.ttls, l.starts, l.sizes, sealed, data}
}

// listArgs returns the time, which is $1, and what listedValues needs.
func (d *database) listArgs(now time.Time, l *lists, more ...any) []any {
	return append(append(d.savedArgs(now, l), l.versions, l.expires, l.ends), more...)
}

func keyList(keys []rows.Key) list[[]byte] {
	list := make(list[[]byte], len(keys))
	for i := range keys {
		list[i] = keys[i].Bytes()
	}
	return list
}

// timestamp returns t as a parameter, NULL if it is zero.
func timestamp(t time.Time) pgtype.Timestamptz {
	return pgtype.Timestamptz{Time: t, Valid: !t.IsZero()}
}

// interval returns d as a parameter, NULL if it is 0.
func interval(d time.Duration) pgtype.Interval {
	return pgtype.Interval{Microseconds: d.Microseconds(), Valid: d != 0}
}
