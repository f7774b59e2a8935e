// Package move moves live sessions from another library's table into a store of package pgsession,
// while the application runs. No visitor is logged out, and no change is lost.
//
// [Import] moves the rows. The application meanwhile needs an adapter that looks in both places:
// adapters/scs has one. An adapter follows four rules, which [Table] helps with:
//
//   - To load, look in the store, then in the table ([Table.Load]), then in the store again, since the
//     row may have moved in between. [pgsession.ErrRevoked] from the store is final.
//   - To save a session of the table, call [Table.Replace]. If it reports false, call [Table.Finish]
//     and save in the store.
//   - To end a session, call [Table.Delete]. If it reports false, call [Table.Finish] and delete in
//     the store.
//   - Never write a session to the table that is not there: it may have moved.
//
// # How a row moves
//
// One statement locks some rows and marks them, by a prefix of their token. From then on Replace and
// Delete do not reach them, and Load still does. So a marked row does not change, and copies of it
// are all the same. Then the row is created in the store, and removed from the table. Whoever needs
// a marked row in between finishes its move. If a process is killed at any point, the row is still
// in the table, marked, or in the store, or in both with the same content. The next Import goes on
// from there.
package move

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsession/pgsession"
)

// timeout bounds what is done for one session, as pgsession.WithTimeout does in the store.
const timeout = 10 * time.Second

// mark is the prefix of the token of a row that is being moved. Tokens of the libraries below hold
// no colon. The statements spell it out, and its 7 characters.
const mark = "moving:"

// A Row is a session in another library's table. However it is formatted, it shows nothing of it.
type Row struct {
	Token  string // scs: token; gorilla: key; connect-pg-simple: sid
	Data   []byte // as the library encoded it
	Expiry time.Time
}

// Format writes a redaction for every verb.
func (Row) Format(f fmt.State, _ rune) { io.WriteString(f, "Row(REDACTED)") }

// A Table is another library's table of sessions. Make it with [FromSCS], [FromGorilla] or
// [FromConnect]. It is safe for concurrent use. It needs the privileges SELECT, UPDATE and DELETE,
// and INSERT for Insert. Each method but All ends within 10 seconds, and Finish within that and the
// store's timeout.
type Table struct {
	pool    *pgxpool.Pool
	columns columns

	load, insert, replace, remove, all                 string
	count, markPage, markedPage, marked, unmark, clear string
}

// columns are what the columns of a table are called. The statements are written for scs's.
type columns struct {
	token, data, expiry string
	tokenIsBytes        bool
	dataIsJSON          bool
	others, otherValues string // that an INSERT sets too
}

// FromSCS returns the table of scs's pgxstore and postgresstore, usually "sessions". The name may
// have a schema.
func FromSCS(pool *pgxpool.Pool, name string) *Table {
	return newTable(pool, name, columns{token: "token", data: "data", expiry: "expiry"})
}

// FromGorilla returns the table of antonlindstrom/pgstore, usually "http_sessions". Token is its
// column key, which is what the cookie holds once securecookie has opened it.
func FromGorilla(pool *pgxpool.Pool, name string) *Table {
	return newTable(pool, name, columns{token: "key", data: "data", expiry: "expires_on", tokenIsBytes: true,
		others: ", created_on, modified_on", otherValues: ", now(), now()"})
}

// FromConnect returns the table of connect-pg-simple, usually "session". Token is its column sid. It
// keeps the expiry without a time zone, so the pool's TimeZone must be that of the application which
// wrote it.
func FromConnect(pool *pgxpool.Pool, name string) *Table {
	return newTable(pool, name, columns{token: "sid", data: "sess", expiry: "expire", dataIsJSON: true})
}

func newTable(pool *pgxpool.Pool, name string, c columns) *Table {
	dataAsRead := c.data
	if c.dataIsJSON {
		dataAsRead += "::text"
	}
	fill := strings.NewReplacer(
		"sessions", pgx.Identifier(strings.Split(name, ".")).Sanitize(),
		"token", c.token,
		"data", dataAsRead,
		"payload", c.data,
		"expiry", c.expiry,
		"/*, others*/", c.others,
		"/*, values*/", c.otherValues,
	).Replace
	return &Table{
		pool:       pool,
		columns:    c,
		load:       fill(loadSQL),
		insert:     fill(insertSQL),
		replace:    fill(replaceSQL),
		remove:     fill(removeSQL),
		all:        fill(allSQL),
		count:      fill(countSQL),
		markPage:   fill(markPageSQL),
		markedPage: fill(markedPageSQL),
		marked:     fill(markedSQL),
		unmark:     fill(unmarkSQL),
		clear:      fill(clearSQL),
	}
}

// names returns the tokens that a row may lie under.
func names(token string) []string { return []string{token, mark + token} }

// parameter, parameters and data return what a statement is given. The types fit the columns without
// the server's help, which some of pgx's query modes do not ask for.
func (t *Table) parameter(token string) any {
	if t.columns.tokenIsBytes {
		return []byte(token)
	}
	return token
}

func (t *Table) parameters(tokens []string) any {
	if !t.columns.tokenIsBytes {
		return tokens
	}
	list := make([][]byte, len(tokens))
	for i, token := range tokens {
		list[i] = []byte(token)
	}
	return list
}

func (t *Table) data(row Row) any {
	if t.columns.dataIsJSON {
		return string(row.Data)
	}
	return row.Data
}

const loadSQL = `
	SELECT data, expiry::timestamptz
	FROM sessions
	WHERE token = ANY($1) AND expiry > now()`

// Load returns a live session. It includes one that is being moved.
func (t *Table) Load(ctx context.Context, token string) (row Row, found bool, err error) {
	return t.one(ctx, token, t.load, t.parameters(names(token)))
}

func (t *Table) one(ctx context.Context, token, sql string, arg any) (row Row, found bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	row.Token = token
	err = t.pool.QueryRow(ctx, sql, arg).Scan(&row.Data, &row.Expiry)
	if errors.Is(err, pgx.ErrNoRows) {
		return Row{}, false, nil
	}
	return row, err == nil, wrapIfAny("load", err)
}

const insertSQL = `
	INSERT INTO sessions (token, payload, expiry /*, others*/)
	VALUES ($1, $2, $3::timestamptz /*, values*/)`

// Insert stores a new session. It fails if there is one under the token.
func (t *Table) Insert(ctx context.Context, row Row) error {
	_, err := t.change(ctx, "insert", t.insert, t.parameter(row.Token), t.data(row), row.Expiry)
	return err
}

const replaceSQL = `
	UPDATE sessions
	SET payload = $2, expiry = $3::timestamptz
	WHERE token = $1 AND expiry > now()`

// Replace changes a live session, and reports whether it is still in the table and not being moved.
func (t *Table) Replace(ctx context.Context, row Row) (bool, error) {
	return t.change(ctx, "replace", t.replace, t.parameter(row.Token), t.data(row), row.Expiry)
}

const removeSQL = `DELETE FROM sessions WHERE token = $1`

// Delete ends a session, and reports whether it was still in the table and not being moved.
func (t *Table) Delete(ctx context.Context, token string) (bool, error) {
	return t.change(ctx, "delete", t.remove, t.parameter(token))
}

const allSQL = `
	SELECT CASE WHEN substring(token FROM 1 FOR 7) = 'moving:' THEN substring(token FROM 8) ELSE token END, data, expiry::timestamptz
	FROM sessions
	WHERE expiry > now()`

// All returns every live session.
func (t *Table) All(ctx context.Context) ([]Row, error) {
	result, err := t.pool.Query(ctx, t.all)
	return collect(result, err)
}

func collect(result pgx.Rows, err error) ([]Row, error) {
	if err != nil {
		return nil, wrapIfAny("read", err)
	}
	rows, err := pgx.CollectRows(result, func(r pgx.CollectableRow) (Row, error) {
		var token []byte
		var row Row
		err := r.Scan(&token, &row.Data, &row.Expiry)
		row.Token = string(token)
		return row, err
	})
	return rows, wrapIfAny("read", err)
}

const (
	markedSQL = `
	SELECT data, expiry::timestamptz
	FROM sessions
	WHERE token = $1`

	clearSQL = `DELETE FROM sessions WHERE token = ANY($1)`
)

// Finish moves one session to the store if an import has begun to move it. Otherwise it does
// nothing. Errors: that of convert if the row cannot be converted, those of
// [pgsession.Store.CreateAs], and those of the database.
func (t *Table) Finish(ctx context.Context, store *pgsession.Store, token string, convert Convert) error {
	row, found, err := t.one(ctx, token, t.marked, t.parameter(mark+token))
	if err != nil || !found {
		return err
	}
	left, err := create(ctx, store, row, convert)
	if err = errors.Join(left, err); err != nil {
		return err
	}
	_, err = t.change(ctx, "finish", t.clear, t.parameters(names(token)))
	return err
}

// change runs a statement about one session, and reports whether it met the row.
func (t *Table) change(ctx context.Context, operation, sql string, args ...any) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tag, err := t.pool.Exec(ctx, sql, args...)
	return tag.RowsAffected() > 0, wrapIfAny(operation, err)
}

func wrapIfAny(operation string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("move: %s: %w", operation, err)
}
