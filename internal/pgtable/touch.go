package pgtable

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgsession/pgsession/internal/rows"
)

type touchRequest struct {
	key rows.Key
	ttl time.Duration // 0: the session's own
}

// A touchResult is zero if the statement does not tell: the row was held, or was written by somebody
// else between the statement's begin and its own write.
type touchResult struct {
	known     bool
	outcome   rows.Outcome
	expiresAt time.Time // if the outcome is OK
}

// Touch is part of [rows.Table].
func (t *Table) Touch(ctx context.Context, key rows.Key, ttl time.Duration) (time.Time, rows.Outcome, error) {
	request := touchRequest{key, ttl}
	deadline := t.deadline()
	if !t.isDistributed() {
		result, err := t.shared.touches.Do(ctx, deadline, request)
		if err != nil || result.known {
			return result.expiresAt, result.outcome, t.explain(ctx, err)
		}
	}
	bounded, cancel := t.deadlines.WithGrace(ctx, deadline)
	defer cancel()
	result, err := t.touchAlone(bounded, request)
	return result.expiresAt, result.outcome, t.explain(ctx, err)
}

func (t *Table) touchAlone(ctx context.Context, request touchRequest) (touchResult, error) {
	for range maxAttempts {
		var result touchResult
		known, err := t.takeTurn(ctx, request.key, func() (known bool, err error) {
			result, err = t.touch(ctx, request)
			return result.known, err
		})
		if err != nil || known {
			return result, err
		}
	}
	return touchResult{outcome: rows.Changed}, nil
}

func (t *Table) touch(ctx context.Context, request touchRequest) (result touchResult, err error) {
	err = t.run(ctx, leftNoTrace, func(ctx context.Context, conn *pgx.Conn) error {
		now := t.now()
		found := touchedRow{request: request, now: now}
		result, err = touchResult{known: true, outcome: rows.NotFound}, nil
		rows, err := conn.Query(ctx, t.sql.Load().touch, now, request.key.Bytes(), interval(request.ttl))
		if err != nil {
			return err
		}
		_, err = pgx.ForEachRow(rows, found.targets(), func() error {
			result = found.result()
			return nil
		})
		return err
	})
	return result, err
}

// What Row.Touch says, for a session s that is asked to live for asked.ttl, or its own.
const (
	touchTTL    = `coalesce(asked.ttl, s.idle_timeout)`
	touchExpiry = `least($1::timestamptz + ` + touchTTL + `, s.ends_at)`
	touchGains  = `s.expires_at < ` + touchExpiry + ` AND (` + touchExpiry + ` - s.expires_at) * 10 >= ` + touchTTL
	touchSet    = `version = ` + nextVersion + `, expires_at = ` + touchExpiry + `, idle_timeout = ` + touchTTL
	touchState  = `s.key, ` + stored + `, s.expires_at, s.ends_at, s.idle_timeout`
)

const touchSQL = `
	WITH pgsession_touched AS (
		UPDATE sessions AS s
		SET ` + touchSet + `
		FROM (SELECT $3::interval) AS asked (ttl)
		WHERE s.key = $2 AND ` + live + ` AND ` + touchGains + `
		RETURNING s.key
	)
	SELECT ` + touchState + `, EXISTS (SELECT FROM pgsession_touched)
	FROM sessions AS s
	WHERE s.key = $2`

// A touchedRow reads what a touch found, and whether it wrote.
type touchedRow struct {
	request touchRequest
	now     time.Time

	key             []byte
	stored, written bool
	expires, endsAt pgtype.Timestamptz
	idle            pgtype.Interval
}

func (r *touchedRow) targets() []any {
	return []any{&r.key, &r.stored, &r.expires, &r.endsAt, &r.idle, &r.written}
}

// result says what became of the touch. If it wrote nothing, the rule tells why.
func (r *touchedRow) result() touchResult {
	before := rows.Row{State: rows.Ended}
	if r.stored {
		scanned := scanner{expires: r.expires, endsAt: r.endsAt, idle: r.idle}
		before = scanned.row()
	}
	after, outcome := before.Touch(r.request.ttl, r.now)
	known := r.written || outcome != rows.OK || after.Version == before.Version
	return touchResult{known: known, outcome: outcome, expiresAt: after.ExpiresAt}
}

// touchMany answers for the first of several touches of one row, and for those that ask for the same
// ttl. The others are done alone.
func (t *Table) touchMany(ctx context.Context, requests []touchRequest, answer func(int, touchResult)) error {
	first := make(map[rows.Key]touchRequest, len(requests))
	var (
		keys list[[]byte]
		ttls list[int64]
	)
	for i, request := range requests {
		if _, ok := first[request.key]; !ok {
			first[request.key] = request
			keys, ttls = append(keys, requests[i].key.Bytes()), append(ttls, request.ttl.Microseconds())
		}
	}
	results := make(map[rows.Key]touchResult, len(first))
	err := t.run(ctx, leftNoTrace, func(ctx context.Context, conn *pgx.Conn) error {
		now := t.now()
		for key := range first {
			results[key] = touchResult{known: true, outcome: rows.NotFound}
		}
		result, err := conn.Query(ctx, t.sql.Load().touchMany, now, keys, ttls)
		if err != nil {
			return err
		}
		found := touchedRow{now: now}
		_, err = pgx.ForEachRow(result, found.targets(), func() error {
			key := turnOf(found.key)
			found.request = first[key]
			results[key] = found.result()
			return nil
		})
		return err
	})
	if err != nil {
		return err
	}
	for i, request := range requests {
		if request == first[request.key] {
			answer(i, results[request.key])
		} else {
			answer(i, touchResult{})
		}
	}
	return nil
}

const touchManySQL = `
	WITH pgsession_asked AS (
		SELECT asked.key, nullif(asked.ttl, 0) * interval '1 microsecond' AS ttl
		FROM unnest($2::bytea[], $3::bigint[]) AS asked (key, ttl)
		` + hideListLength + `
	), pgsession_held AS (
		SELECT s.key, asked.ttl
		FROM sessions AS s
		JOIN pgsession_asked AS asked ON asked.key = s.key
		WHERE ` + live + ` AND ` + touchGains + `
		` + skipLocked + `
	), pgsession_touched AS (
		UPDATE sessions AS s
		SET ` + touchSet + `
		FROM pgsession_held AS asked
		WHERE s.key = asked.key AND ` + live + ` AND ` + touchGains + `
		RETURNING s.key
	)
	SELECT ` + touchState + `, s.key IN (SELECT touched.key FROM pgsession_touched AS touched)
	FROM sessions AS s
	JOIN pgsession_asked AS asked ON asked.key = s.key`
