package pgtable

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgsession/pgsession/internal/rows"
)

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

// queryRow runs a SELECT of columns that finds one row at most. It returns the zero Row if there is none.
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

// A scanner reads columns. It keeps its plans for that, which [pgx.Rows] would make anew for each result.
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

// scan reads the current row. What is wrong with the row is for the row to say, so that a hostile
// one does not hide the others; an error is the database's.
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
	row := s.row()
	if s.payload == nil && !s.otherKind {
		row.State, s.userKey = rows.Ended, nil // what a tombstone has there is no user; see movedTo
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

// row returns a session with the columns of fixed size.
func (s *scanner) row() rows.Row {
	row := rows.Row{State: rows.Stored, Version: s.version}
	row.CreatedAt = s.time(&row, s.created)
	row.ExpiresAt = s.time(&row, s.expires)
	if s.endsAt.Valid {
		row.EndsAt = s.time(&row, s.endsAt)
	}
	row.IdleTimeout = s.duration(&row)
	return row
}

var (
	yearZero = time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)
	lastTime = time.Date(9999, 12, 31, 23, 59, 59, 999999000, time.UTC)
)

// time returns a column, within what a store of ours may have written.
func (*scanner) time(row *rows.Row, t pgtype.Timestamptz) time.Time {
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

// duration returns the idle timeout, within what a store of ours may have written.
func (s *scanner) duration(row *rows.Row) time.Duration {
	const day = 24 * time.Hour
	d := float64(s.idle.Microseconds)*float64(time.Microsecond) + float64(s.idle.Days)*float64(day) + float64(s.idle.Months)*float64(30*day)
	if !(d > 0 && d <= float64(rows.MaxTTL)) || math.IsNaN(d) {
		row.Malformed = true
		return 0
	}
	return time.Duration(s.idle.Microseconds)*time.Microsecond + time.Duration(s.idle.Days)*day + time.Duration(s.idle.Months)*30*day
}
